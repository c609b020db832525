"""Text made token by token, its cache growing: `python -m bench.decode [MODEL] [--tokens 128]`.

graphc keeps the cache with `bind_state`, ONNX Runtime as values bound to inputs and outputs (io-binding). Both get the
same tokens, in turns of a whole text each, in one process. What is printed: the pace of both, how far their answers
lie apart, and what the process grows by with each token: in the first text, where every length is new and the cache's
memory is touched for the first time, and in the last. The package is read from disk, as where it is deployed.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import graphc
from bench.zoo import Entry, load
from graphc.runtime.state import Stateful

Feeds = dict[str, Any]


class Text(NamedTuple):
    """What each step of a decoding is given.

    Attributes:
        state: Outputs by the inputs that they become.
        initial: The cache at the start.
        steps: The other inputs of each step.
    """

    state: Mapping[str, str]
    initial: Feeds
    steps: list[Feeds]


class Decoded(NamedTuple):
    """One text through one engine.

    Attributes:
        seconds: Of each step.
        answers: The output that is no state, of each step.
        growth: Resident bytes that each token of the second half added.
    """

    seconds: list[float]
    answers: Any
    growth: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.decode", description=__doc__)
    parser.add_argument("model", nargs="?", default="gpt2_kv", help="of the zoo (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--past", type=int, default=1, help="positions that the cache begins with (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="texts by each engine, in turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="for each engine (default: all processors)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if min(options.tokens, options.past, options.rounds) < 1:
        parser.error("--tokens, --past and --rounds count from 1")
    result = measure(options.model, options.tokens, options.past, options.rounds, options.threads)
    print(json.dumps(result) if options.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return 0


def measure(name: str, tokens: int, past: int, rounds: int, threads: int | None) -> dict[str, float | int | str]:
    """Times of one decoder of the zoo.

    Args:
        name: In the catalog; its states are the inputs `past_X` and the outputs `present_X`.
        tokens: Steps of a text.
        past: Positions in the cache before the first step, at least 1.
        rounds: Texts by each engine.
        threads: Of each engine.
    """
    entry = load(name)
    text = _text(entry, tokens, past)
    with tempfile.TemporaryDirectory() as folder:
        graphc.compile(entry.path, threads=threads, output=Path(folder, "model.graphc")).close()
        _forget(Path(folder, "model.graphc"))
        model = graphc.load(Path(folder, "model.graphc"), threads=threads)
        if not model.manifest.open:
            sys.exit(f"{name} has no open variant: {model.manifest.options.get('closed')}")
        session = _session(entry.path, threads)
        # A text each before those that count: arenas are made, pages of the weights read.
        step = model.bind_state(text.state, text.initial)
        own, peer = [_by_graphc(step, text)], [_by_onnxruntime(session, text)]
        for _ in range(rounds):
            own.append(_by_graphc(step, text))
            peer.append(_by_onnxruntime(session, text))
        blocks = step.memory
    ratios = [sum(b.seconds) / sum(a.seconds) for a, b in zip(own[1:], peer[1:], strict=True)]
    error = np.abs(own[0].answers - peer[0].answers).max() / np.abs(peer[0].answers).max()
    cache = sum(array.nbytes // past for array in text.initial.values())
    return {
        "model": name,
        "tokens": tokens,
        "graphc, tokens a second": round(tokens / min(sum(text.seconds) for text in own[1:]), 1),
        "ONNX Runtime, tokens a second": round(tokens / min(sum(text.seconds) for text in peer[1:]), 1),
        "over ONNX Runtime, median of texts": round(statistics.median(ratios), 3),
        "over ONNX Runtime, least": round(min(ratios), 3),
        "first text, median step ms": round(statistics.median(own[0].seconds) * 1e3, 2),
        "next texts, median step ms": round(statistics.median(own[-1].seconds) * 1e3, 2),
        "largest error over largest answer": float(error),
        "cache, bytes a token": cache,
        "first text, process grows by bytes a token": round(own[0].growth),
        "last text, process grows by bytes a token": round(own[-1].growth),
        "blocks for the cache, bytes": blocks,
    }


def _text(entry: Entry, tokens: int, past: int) -> Text:
    rng = np.random.default_rng(0)
    state = {name: name.replace("past", "present", 1) for name in entry.feeds if name.startswith("past_")}
    if not state:
        sys.exit(f"{entry.name} has no inputs past_...")
    lengths = {extent for name in state for extent in entry.feeds[name].shape if isinstance(extent, str)}
    longer = entry.dims.keys() - lengths

    def feeds(names: list[str], length: int) -> Feeds:
        dims = {**entry.dims, **dict.fromkeys(lengths, length), **dict.fromkeys(longer, length + 1)}
        return {name: entry.feeds[name].array(rng, dims) for name in names}

    others = [name for name in entry.feeds if name not in state]
    return Text(state, feeds(list(state), past), [feeds(others, past + step) for step in range(tokens)])


def _by_graphc(step: Stateful, text: Text) -> Decoded:
    step.reset(text.initial)
    seconds: list[float] = []
    answers: Any = None
    half, resident = len(text.steps) // 2, 0
    for number, feeds in enumerate(text.steps):
        start = time.perf_counter()
        (answer,) = step(feeds).values()
        seconds.append(time.perf_counter() - start)
        answers = np.ones((len(text.steps), *answer.shape), answer.dtype) if answers is None else answers
        answers[number] = answer
        resident = _resident() if number == half else resident
    return Decoded(seconds, answers, (_resident() - resident) / max(1, len(text.steps) - 1 - half))


def _by_onnxruntime(session: Any, text: Text) -> Decoded:
    import onnxruntime

    names = [output.name for output in session.get_outputs()]
    answer = next(i for i, name in enumerate(names) if name not in text.state.values())
    inputs = {names.index(output): name for name, output in text.state.items()}
    state = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in text.initial.items()}
    seconds: list[float] = []
    answers: list[Any] = []
    for feeds in text.steps:
        start = time.perf_counter()
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, value in state.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        state = {name: outputs[i] for i, name in inputs.items()}
        found = outputs[answer].numpy()
        seconds.append(time.perf_counter() - start)
        answers.append(found)
    return Decoded(seconds, np.array(answers), 0.0)


def _forget(path: Path) -> None:
    """Lets the system forget a file that was just written; what is read from disk comes in larger pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    if threads is not None:
        settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    sys.exit(main())
