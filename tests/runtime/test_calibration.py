"""Latencies are measured per variant, and kept beside the package for this machine and these threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphc.errors import PackageError
from graphc.runtime import Latency, calibrate
from graphc.runtime.calibration import costs_path, load_calibration, sample_inputs, save
from tests.runtime.scheduler.fakes import Fake


def test_every_variant_is_measured() -> None:
    fake = Fake(batches=(1, 4), seconds=lambda rows: 0.001 * rows)
    seen: list[tuple[int, int]] = []
    found = calibrate(fake, progress=lambda done, total: seen.append((done, total)))
    assert set(found) == {((1, 3),), ((4, 3),)}
    assert found[((1, 3),)].median >= 0.001
    assert found[((4, 3),)].median >= 0.004
    assert all(cost.high >= cost.median for cost in found.values())
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_figures_are_found_again_by_package_and_threads(tmp_path: Path) -> None:
    package, fake = tmp_path / "m.graphc", Fake(batches=(1,))
    figures = {((1, 3),): Latency(0.001, 0.002)}
    assert load_calibration(package, fake) == {}
    assert save(package, fake, figures) == costs_path(package)
    assert load_calibration(package, fake) == figures
    fake.threads = 2
    assert load_calibration(package, fake) == {}
    save(package, fake, {})
    fake.threads = 1
    assert load_calibration(package, fake) == figures
    assert load_calibration(package, Fake(batches=(1, 2))) == {}
    assert load_calibration(None, fake) == {}


def test_measuring_again_replaces(tmp_path: Path) -> None:
    package, fake = tmp_path / "m.graphc", Fake(batches=(1,))
    for seconds in (0.1, 0.2):
        save(package, fake, {((1, 3),): Latency(seconds, seconds)})
    assert load_calibration(package, fake) == {((1, 3),): Latency(0.2, 0.2)}
    assert costs_path(package).read_text().count('"median"') == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"entries": 3}', '{"entries": [3]}', "[" * 100_000])
def test_damaged_figures_are_an_error(tmp_path: Path, text: str) -> None:
    package = tmp_path / "m.graphc"
    costs_path(package).write_text(text)
    with pytest.raises(PackageError, match="damaged"):
        load_calibration(package, Fake())


def test_damaged_rows_are_an_error(tmp_path: Path) -> None:
    package, fake = tmp_path / "m.graphc", Fake(batches=(1,))
    path = save(package, fake, {((1, 3),): Latency(0.1, 0.1)})
    path.write_text(path.read_text().replace('"median": 0.1', '"median": null'))
    with pytest.raises(PackageError, match="damaged"):
        load_calibration(package, fake)


def test_samples_have_the_types_that_the_model_takes() -> None:
    fake = Fake(batches=(4,))
    (x,) = sample_inputs(fake.manifest, fake.variants[0])
    assert x.dtype == np.float32
    assert x.shape == (4, 3)
    assert x.std() > 0
