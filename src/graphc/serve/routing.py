"""Which version a request goes to: what it names, else its model's traffic shares, else the latest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping


class Router:
    """Shares requests between versions by weights.

    Requests with a key stay with one version for as long as it is ready and its weight is not lowered: weighted
    rendezvous hashing (Schindelhauer and Schomaker, SPAA 2005). Others take turns, by smooth weighted round-robin: of
    any hundred in a row each version has its share, whatever comes before.

    Args:
        weights: By version; none shares nothing, and all goes to the latest.
    """

    def __init__(self, weights: Mapping[int, float]) -> None:
        self.weights = {version: weight for version, weight in weights.items() if weight > 0}
        self._credit = dict.fromkeys(self.weights, 0.0)

    @classmethod
    def of(cls, traffic: Mapping[str, float], labels: Mapping[str, int]) -> Router:
        """The router for shares by label or version; several names of one version add up."""
        weights: dict[int, float] = {}
        for name, weight in traffic.items():
            version = labels[name] if name in labels else int(name)
            weights[version] = weights.get(version, 0.0) + weight
        return cls(weights)

    def choose(self, ready: Collection[int], key: str | None = None) -> int | None:
        """The version for a request that names none; None where none is ready.

        Args:
            ready: Versions to choose from. Those with shares go first; where none of them is ready, the latest.
            key: What keeps requests together.
        """
        if not self.weights:
            return max(ready, default=None)
        shared = [version for version in self.weights if version in ready]
        if len(shared) < 2:
            return shared[0] if shared else max(ready, default=None)
        if key is not None:
            return max(shared, key=lambda version: self._affinity(version, key))
        total = 0.0
        for version in shared:
            self._credit[version] += self.weights[version]
            total += self.weights[version]
        chosen = max(shared, key=lambda version: (self._credit[version], version))
        self._credit[chosen] -= total
        return chosen

    def _affinity(self, version: int, key: str) -> float:
        digest = hashlib.blake2b(f"{version}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        place = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
        return -self.weights[version] / math.log(place)
