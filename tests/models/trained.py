"""Trained models inside PyPI wheels, by whatever exporter they came, and shapes to call each of them with.

Those of the zoo, which is timed, are in `bench.zoo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.zoo.entry import cache_dir
from bench.zoo.sources import Wheel

Shape = tuple[int, ...]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Trained:
    """A model and calls of it.

    Attributes:
        name: Of the test.
        made_by: What wrote the file.
        wheel: Where it is.
        calls: For each call, the shape of each input, or what it is given.
        tolerance: Largest error over the output's largest magnitude, or over 1 where that is less.
    """

    name: str
    made_by: str
    wheel: Wheel
    calls: Sequence[dict[str, Shape | Array]]
    tolerance: float = 1e-4

    def path(self) -> Path:
        """The file, fetched where the cache does not hold it.

        Raises:
            subprocess.CalledProcessError: The network is away.
        """
        path = cache_dir() / "trained" / f"{self.name}.onnx"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            content = self.wheel.read(cache_dir() / "wheels" / self.wheel.requirement)
            path.write_bytes(content)
        return path

    def feeds(self, call: int) -> dict[str, Array]:
        """The inputs of one call."""
        rng = np.random.default_rng(call)
        return {
            name: given if isinstance(given, np.ndarray) else rng.uniform(-1, 1, given).astype(np.float32)
            for name, given in self.calls[call].items()
        }


def _recurrent(batch: int, samples: int = 576, rate: int | None = 16000) -> dict[str, Shape | Array]:
    feeds: dict[str, Shape | Array] = {"input": (batch, samples), "state": (2, batch, 128)}
    return feeds if rate is None else {**feeds, "sr": np.array(rate)}


def _sequence(steps: int) -> dict[str, Shape | Array]:
    return {"input": (steps, 576), "h": (1, 1, 128), "c": (1, 1, 128)}


def _echo(frames: int, hidden: int) -> dict[str, Shape | Array]:
    return {"input": (1, 3, frames, 160), "h0": (4, 1, hidden)}


TRAINED = [
    Trained(
        "basic_pitch",
        "tf2onnx 1.15",
        Wheel(
            "basic-pitch==0.4.0",
            "basic_pitch/saved_models/icassp_2022/nmp.onnx",
            "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        ),
        [{"serving_default_input_2:0": (batch, 43844, 1)} for batch in (1, 2)],
        # Logarithms of what is nearly 0: ONNX Runtime itself is 1.4e-3 from what it is without its optimizations.
        tolerance=5e-3,
    ),
    Trained(
        "smart_turn",
        "torch, then ONNX Runtime's quantizer (QDQ)",
        Wheel(
            "pipecat-ai==1.14.0",
            "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
            "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
        ),
        [{"input_features": (batch, 80, 800)} for batch in (1, 2)],
        # A value that falls on the other side of a half is a whole step away.
        tolerance=1e-2,
    ),
    Trained(
        "ddddocr_old",
        "torch 1.9, then ONNX Runtime's dynamic quantizer",
        Wheel(
            "ddddocr==1.6.1",
            "ddddocr/common_old.onnx",
            "b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68",
        ),
        [{"input1": (1, 1, 64, width)} for width in (120, 192)],
        # ONNX Runtime rounds the input and every state of DynamicQuantizeLSTM to 8 bits.
        tolerance=2e-2,
    ),
    Trained(
        "ddddocr_det",
        "torch 1.9",
        Wheel(
            "ddddocr==1.6.1",
            "ddddocr/common_det.onnx",
            "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
        ),
        [{"images": (1, 3, 416, 416)}],
    ),
    Trained(
        "ppocrv6_det",
        "Paddle's exporter, opset 11",
        Wheel(
            "rapidocr==3.10.0",
            "rapidocr/models/PP-OCRv6_det_small.onnx",
            "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        ),
        [{"x": (1, 3, 64, 96)}, {"x": (1, 3, 96, 160)}],
    ),
    Trained(
        "ppocrv6_rec",
        "Paddle's exporter, opset 11",
        Wheel(
            "rapidocr==3.10.0",
            "rapidocr/models/PP-OCRv6_rec_small.onnx",
            "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        ),
        [{"x": (1, 3, 48, 160)}, {"x": (2, 3, 48, 96)}],
    ),
    Trained(
        "silero_vad_any",
        "spox around two exports of torch",
        Wheel(
            "silero-vad==6.2.3",
            "silero_vad/data/silero_vad.onnx",
            "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        ),
        [_recurrent(1), _recurrent(3), _recurrent(2, 288, 8000)],
    ),
    Trained(
        "silero_vad_op15",
        "torch 2.3",
        Wheel(
            "silero-vad==6.2.3",
            "silero_vad/data/silero_vad_16k_op15.onnx",
            "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        ),
        [_recurrent(1), _recurrent(3)],
    ),
    Trained(
        "silero_vad_half",
        "torch 2.3",
        Wheel(
            "silero-vad==6.2.3",
            "silero_vad/data/silero_vad_half.onnx",
            "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        ),
        [_recurrent(1, rate=None), _recurrent(3, rate=None)],
    ),
    Trained(
        "silero_vad_v6",
        "torch 2.8",
        Wheel(
            "faster-whisper==1.2.1",
            "faster_whisper/assets/silero_vad_v6.onnx",
            "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2",
        ),
        [_sequence(1), _sequence(7), _sequence(30)],
    ),
    *(
        Trained(
            name,
            "torch 1.9, opset 9",
            Wheel("speechmos==0.0.1.1", f"speechmos/aecmos_models/{file}_Stage_0.onnx", sha256),
            [_echo(120, hidden), _echo(300, hidden)],
        )
        for name, file, hidden, sha256 in (
            (
                "aecmos_gated",
                "Run_1663829550",
                64,
                "b517d8d9ca2f91ea55d15f605a15917c19be5d832868fe115c7c5bc48986dae1",
            ),
            (
                "aecmos_48k",
                "Run_1668423760",
                96,
                "b57bc007046d7230008ad2b802cb378f998ff3d96be074389a4d07533b7d4aaf",
            ),
        )
    ),
    Trained(
        "plcmos",
        "torch 1.11",
        Wheel(
            "speechmos==0.0.1.1",
            "speechmos/plcmos_models/plcmos_v2.onnx",
            "c0ad3fc64ef9682b4749c0e96636b41c73b4b30bd123b9348feea06a96895286",
        ),
        [{"degraded_audio": (1, 1, frames, 257), "rater_embed": (1, 64)} for frames in (100, 161)],
    ),
    *(
        Trained(
            f"dnsmos_{file}",
            "keras2onnx",
            Wheel("speechmos==0.0.1.1", f"speechmos/dnsmos_models/{file}.onnx", sha256),
            [{"input_1": (batch, *shape)} for batch in (1, 2)],
        )
        for file, shape, sha256 in (
            ("bak_ovr", (901, 161), "5f335c90994618150192a656a474bcf8a9cbcedbc47965494ba8da79605d1308"),
            ("model_v8", (900, 120), "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91"),
            ("sig", (901, 161), "d2fbdb293bc2366dfbae2b7477c490f981d24a8b4405efd3c11787569c6549d7"),
            ("sig_bak_ovr", (144160,), "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd"),
        )
    ),
]
