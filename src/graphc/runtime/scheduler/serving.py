"""From what a scheduler is told to the models that it serves: settings, instances, placement, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.errors import OptionError
from graphc.runtime.calibration import Calibration, Runnable, load_calibration
from graphc.runtime.executable import Executable
from graphc.runtime.scheduler.devices import place
from graphc.runtime.scheduler.model import ServedModel
from graphc.runtime.scheduler.settings import ModelSettings


def serve_models(
    models: Runnable | Mapping[str, Runnable],
    settings: ModelSettings | Mapping[str, ModelSettings] | None,
    options: Mapping[str, Any],
    *,
    count: int,
    threads: int | None,
    limit: int | None,
    known: Mapping[str, Calibration] | None,
    used: int = 0,
    devices: Sequence[int] | None = None,
) -> dict[str, ServedModel]:
    """The models by name.

    Args:
        models: An executable, or several by name.
        settings: For all, or by name.
        options: Fields of `ModelSettings`, in place of `settings`.
        count: Devices.
        threads: Of a call; the executables' own if None.
        limit: Bytes of weights and intermediate values.
        known: Latencies by model; what was kept beside the packages if None.
        used: Bytes that others take already.
        devices: Those that may run them; all if None.

    Raises:
        OptionError: A setting is unknown or out of range, or the memory does not suffice.
    """
    by_name = dict(models) if isinstance(models, Mapping) else {models.manifest.model: models}
    chosen = _settings(by_name, settings, options)
    runnables = {name: _instance(model, threads) for name, model in by_name.items()}
    needs = {name: _needs(model) for name, model in runnables.items()}
    chosen_devices = tuple(range(count)) if devices is None else tuple(devices)
    placed = {
        name: tuple(chosen_devices[number] for number in numbers)
        for name, numbers in place(needs, len(chosen_devices), limit, used).items()
    }
    everywhere = tuple(range(count))
    return {
        name: ServedModel(
            name,
            runnable,
            chosen[name],
            _calibration(runnable) if known is None else known.get(name, {}),
            None if placed[name] == everywhere else placed[name],
            needs[name][0] + needs[name][1] * len(placed[name]),
        )
        for name, runnable in runnables.items()
    }


def _settings(
    models: Mapping[str, Runnable],
    given: ModelSettings | Mapping[str, ModelSettings] | None,
    options: Mapping[str, Any],
) -> dict[str, ModelSettings]:
    if options:
        if given is not None:
            raise OptionError(f"{', '.join(options)} given beside settings; say it there")
        try:
            given = ModelSettings(**options)
        except TypeError as error:
            known = ", ".join(ModelSettings.__dataclass_fields__)
            raise OptionError(f"unknown among {', '.join(options)}: settings are {known}") from error
    if isinstance(given, Mapping):
        if unknown := sorted(given.keys() - models.keys()):
            raise OptionError(f"settings for {unknown[0]!r}, which is no model; there are: {', '.join(models)}")
        return {name: given.get(name, ModelSettings()) for name in models}
    return dict.fromkeys(models, given or ModelSettings())


def _instance(model: Runnable, threads: int | None) -> Runnable:
    if threads is None or not isinstance(model, Executable) or model.threads == threads:
        return model
    return model.with_threads(threads)


def _needs(model: Runnable) -> tuple[int, int]:
    """Bytes of weights, and of the arenas that each device comes to hold: one for each variant."""
    return model.manifest.weights_size, sum(variant.arena_size for variant in model.variants)


def _calibration(model: Runnable) -> Calibration:
    return load_calibration(model.path, model) if isinstance(model, Executable) else {}
