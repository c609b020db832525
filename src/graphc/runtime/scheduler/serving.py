"""From what a scheduler is told to the models that it serves: settings, instances, placement, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphc.errors import OptionError
from graphc.runtime.calibration import Calibration, Runnable, load_calibration
from graphc.runtime.executable import Executable
from graphc.runtime.scheduler.devices import place_on
from graphc.runtime.scheduler.model import ServedModel
from graphc.runtime.scheduler.settings import ModelSettings


def serve_models(
    models: Runnable | Mapping[str, Runnable],
    settings: ModelSettings | Mapping[str, ModelSettings] | None,
    options: Mapping[str, Any],
    *,
    gpus: Sequence[str | None],
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
        gpus: What each device's calls run on; None for processors.
        threads: Of a call; the executables' own if None.
        limit: Bytes of weights and intermediate values; of each GPU where GPUs run them.
        known: Latencies by model; what was kept beside the packages if None.
        used: Bytes that others take already.
        devices: Those that may run them; all if None.

    Raises:
        OptionError: A setting is unknown or out of range, or the memory does not suffice.
    """
    by_name = dict(models) if isinstance(models, Mapping) else {models.manifest.model: models}
    chosen = _settings(by_name, settings, options)
    everywhere = tuple(range(len(gpus)))
    chosen_devices = everywhere if devices is None else tuple(devices)
    kinds = dict.fromkeys(gpus[number] for number in chosen_devices)
    runnables = {name: {gpu: _instance(model, threads, gpu) for gpu in kinds} for name, model in by_name.items()}
    needs = {name: _needs(next(iter(instances.values()))) for name, instances in runnables.items()}
    placed = place_on(needs, [(number, gpus[number]) for number in chosen_devices], limit, used)
    return {
        name: ServedModel(
            name,
            {number: instances[gpus[number]] for number in placed[name]},
            chosen[name],
            _calibration(instances[gpus[placed[name][0]]]) if known is None else known.get(name, {}),
            None if placed[name] == everywhere else placed[name],
            needs[name][0] * len({gpus[number] for number in placed[name]}) + needs[name][1] * len(placed[name]),
        )
        for name, instances in runnables.items()
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


def _instance(model: Runnable, threads: int | None, gpu: str | None) -> Runnable:
    if not isinstance(model, Executable):
        return model
    if gpu is not None:
        return model if model.device == gpu else model.with_device(gpu)
    return model if threads is None or model.threads == threads else model.with_threads(threads)


def _needs(model: Runnable) -> tuple[int, int]:
    """Bytes of weights, and of the arenas that each device comes to hold: one for each variant."""
    return model.manifest.weights_size, sum(variant.arena_size for variant in model.variants)


def _calibration(model: Runnable) -> Calibration:
    return load_calibration(model.path, model) if isinstance(model, Executable) else {}
