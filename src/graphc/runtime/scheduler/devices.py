"""Devices: sets of cores, or calls in flight on GPUs, each of which runs one batch at a time; who runs on which."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc.errors import OptionError
from graphc.runtime.cpu import thread_count


@dataclass(frozen=True)
class Device:
    """What runs one batch at a time.

    Args:
        threads: That a call uses.
        cores: Processors that its thread is bound to; None leaves that to the system.
        gpu: What its calls run on, as `Executable.device` names it; None for processors.
    """

    threads: int
    cores: tuple[int, ...] | None = None
    gpu: str | None = None

    def bind(self) -> None:
        """Binds the calling thread to the cores, where the system can."""
        if self.cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)


def core_sets(count: int, threads: int | None = None) -> tuple[Device, ...]:
    """This process's processors, dealt out to `count` devices; one device has them all and is not bound.

    Args:
        count: Devices; at most as many as there are processors.
        threads: Of a call; as many as its device has processors if None.

    Raises:
        OptionError: More devices than processors.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptionError(f"devices is {count!r}; expected a positive integer, or a list of sets of processors")
    if count == 1:
        return (Device(thread_count(threads)),)
    cores = _processors()
    if count > len(cores):
        raise OptionError(
            f"{count} devices, but this process may use {len(cores)} processors",
            hint="several devices on one processor would only slow each other down",
        )
    size, more = divmod(len(cores), count)
    sets = []
    for number in range(count):
        start = number * size + min(number, more)
        sets.append(cores[start : start + size + (number < more)])
    # Devices are alike: the cost of a batch must not depend on where it runs.
    return tuple(Device(min(threads or size, size), tuple(chosen)) for chosen in sets)


def given_devices(devices: Sequence[Sequence[int] | str], threads: int | None = None) -> tuple[Device, ...]:
    """Devices of the processors named, or calls in flight on the GPUs named: as many as a GPU is named times.

    Raises:
        OptionError: A set is empty, two share a processor, they differ in size, or one is not this process's; or
            processors and GPUs are mixed.
    """
    names = [device for device in devices if isinstance(device, str)]
    if not names:
        return _given_sets([device for device in devices if not isinstance(device, str)], threads)
    if len(names) != len(devices):
        raise OptionError(
            "devices are processors or GPUs, not both: a batch must cost the same wherever it runs",
            hint="use a scheduler for each",
        )
    for name in names:
        kind, _, number = name.partition(":")
        if kind != "cuda" or not (number or "0").isdecimal():
            raise OptionError(f"devices has {name!r}; expected GPUs such as 'cuda:0', or sets of processors")
    count = thread_count(threads)
    return tuple(Device(count, gpu=f"cuda:{int(name.partition(':')[2] or 0)}") for name in names)


def _given_sets(sets: Sequence[Sequence[int]], threads: int | None) -> tuple[Device, ...]:
    known, seen = set(_processors()), set()
    for chosen in sets:
        for core in chosen:
            if core not in known:
                raise OptionError(f"processor {core!r} is not one that this process may use: {sorted(known)}")
            if core in seen:
                raise OptionError(f"processor {core} is in two devices")
            seen.add(core)
    sizes = {len(chosen) for chosen in sets}
    if len(sizes) != 1 or 0 in sizes:
        raise OptionError(
            "devices must have as many processors each, and at least one",
            hint="for unlike devices use a scheduler each",
        )
    size = sizes.pop()
    return tuple(Device(min(threads or size, size), tuple(chosen)) for chosen in sets)


def place(
    needs: Mapping[str, tuple[int, int]], devices: int, limit: int | None, used: int = 0
) -> dict[str, tuple[int, ...]]:
    """Which devices run which model, so that memory suffices.

    Every model runs on one device; then, in turns, on further ones for as long as there is memory.

    Args:
        needs: For each model, bytes once (weights) and bytes for each device that runs it (intermediate values).
        devices: How many there are.
        limit: Bytes; None is no limit.
        used: Bytes that others take already.

    Raises:
        OptionError: The models do not fit even on one device each.
    """
    least = sum(once + each for once, each in needs.values())
    if limit is None:
        return {name: tuple(range(devices)) for name in needs}
    if least > limit - used:
        beside = f", of which {used / 1e6:,.1f} MB are taken: {(least + used - limit) / 1e6:,.1f} MB too much"
        raise OptionError(
            f"{', '.join(needs)} would need {least / 1e6:,.1f} MB at least, and memory_limit is "
            f"{limit / 1e6:,.1f} MB{beside if used else ''}",
            hint="raise it, serve fewer models, or compile smaller batches",
        )
    placed: dict[str, list[int]] = {name: [number % devices] for number, name in enumerate(needs)}
    left = limit - used - least
    for _ in range(1, devices):
        for name, (_, each) in needs.items():
            if each <= left and len(placed[name]) < devices:
                left -= each
                placed[name].append((placed[name][-1] + 1) % devices)
    return {name: tuple(sorted(chosen)) for name, chosen in placed.items()}


def place_on(
    needs: Mapping[str, tuple[int, int]], devices: Sequence[tuple[int, str | None]], limit: int | None, used: int = 0
) -> dict[str, tuple[int, ...]]:
    """As `place`, of the devices given, for each GPU by itself: every GPU holds every model.

    Args:
        needs: As of `place`.
        devices: Numbers, and the GPU of each; None for those that share the machine's memory.
        limit: Bytes of the machine, or of each GPU.
        used: Bytes that others take already, on all of them together.

    Raises:
        OptionError: The models do not fit.
    """
    by_memory: dict[str | None, list[int]] = {}
    for number, gpu in devices:
        by_memory.setdefault(gpu, []).append(number)
    placed: dict[str, list[int]] = {name: [] for name in needs}
    for numbers in by_memory.values():
        for name, chosen in place(needs, len(numbers), limit, used // len(by_memory)).items():
            placed[name] += [numbers[index] for index in chosen]
    return {name: tuple(sorted(chosen)) for name, chosen in placed.items()}


def _processors() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
