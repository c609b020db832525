"""Traffic shares, as properties: exact in turns, steady by key, moved as little as can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from graphc.serve.facts import VersionPolicy
from graphc.serve.routing import Router

weights = st.dictionaries(st.integers(1, 9), st.integers(1, 20), min_size=1, max_size=5)


@given(weights, st.integers(1, 3))
def test_of_as_many_requests_as_the_weights_add_up_to_each_version_has_its_weight(
    shares: dict[int, int], rounds: int
) -> None:
    router = Router({version: float(weight) for version, weight in shares.items()})
    for _ in range(rounds):
        found = Counter(router.choose(shares) for _ in range(sum(shares.values())))
        assert found == shares


@given(weights, st.sets(st.integers(1, 9)))
def test_only_what_is_ready_is_chosen_and_what_has_shares_goes_first(shares: dict[int, int], ready: set[int]) -> None:
    router = Router({version: float(weight) for version, weight in shares.items()})
    for key in (None, "alice", ""):
        chosen = router.choose(ready, key)
        if not ready:
            assert chosen is None
        elif ready & shares.keys():
            assert chosen in ready & shares.keys()
        else:
            assert chosen == max(ready)


@given(weights, st.lists(st.text(), unique=True, min_size=1, max_size=30))
def test_who_has_a_key_moves_only_if_its_own_version_goes(shares: dict[int, int], keys: list[str]) -> None:
    router = Router({version: float(weight) for version, weight in shares.items()})
    before = {key: router.choose(shares, key) for key in keys}
    assert before == {key: router.choose(shares, key) for key in keys}
    gone = max(shares)
    after = {key: router.choose(shares.keys() - {gone}, key) for key in keys}
    assert all(after[key] == version for key, version in before.items() if version != gone)


def test_keys_are_shared_by_weight() -> None:
    router = Router.of({"stable": 90, "canary": 5, "2": 5}, {"stable": 1, "canary": 2})
    assert router.weights == {1: 90.0, 2: 10.0}
    found = Counter(router.choose({1, 2}, f"user {n}") for n in range(4000))
    assert 0.07 < found[2] / 4000 < 0.13


@given(st.sets(st.integers(1, 50)), st.integers(1, 5), st.sets(st.integers(1, 50), min_size=1))
def test_policies(present: set[int], count: int, chosen: set[int]) -> None:
    versions = list(present)
    assert VersionPolicy("all").choose(versions) == sorted(present)
    assert VersionPolicy(count=count).choose(versions) == sorted(present)[-count:]
    assert VersionPolicy("specific", versions=tuple(chosen)).choose(versions) == sorted(present & chosen)
