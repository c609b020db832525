"""The demo as one picture: four pages with their answers, and how fast they came."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from PIL import Image

from examples.page import turned
from graphc.testing.compare import Comparison, format_seconds

ACCENT, GREY, DARK = "#2f6db5", "#b6bcc6", "#22252b"


def write_picture(path: Path, page: Image.Image, answers: list[tuple[int, int, float]], times: Comparison) -> None:
    """Write a PNG.

    Args:
        path: Where to.
        page: The upright page.
        answers: For each picture: degrees it was turned by, the answer, its confidence.
        times: Of the engines "graphc" and "onnxruntime".
    """
    figure = pyplot.figure(figsize=(11, 4.6), dpi=110, facecolor="white")
    grid = figure.add_gridspec(1, len(answers), left=0.03, right=0.97, top=0.9, bottom=0.34)
    for column, (degrees, said, confidence) in enumerate(answers):
        axes = figure.add_subplot(grid[column])
        axes.imshow(turned(page, degrees))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(GREY)
        mark = "\N{CHECK MARK}" if said == degrees else "\N{BALLOT X}"
        axes.set_title(f"{said}° {mark}", fontsize=15, color=DARK, pad=8)
        axes.set_xlabel(f"confidence {confidence:.2f}", fontsize=9, color=DARK)
    bars = figure.add_axes((0.13, 0.06, 0.84, 0.13))
    engines = {"graphc": "graphc", "onnxruntime": "ONNX Runtime"}
    medians = [times.time(name).median for name in engines]
    bars.barh(list(engines.values()), medians, color=[ACCENT, GREY], height=0.62)
    for row, seconds in enumerate(medians):
        bars.text(seconds, row, f" {format_seconds(seconds)}", va="center", fontsize=10, color=DARK)
    ratio = times.speedup("graphc", over="onnxruntime")
    bars.set_title(f"one page, CPU: {ratio.median:.2f}x as fast", loc="left", fontsize=11, color=DARK)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.12 * max(medians))
    bars.set_xticks([])
    for spine in bars.spines.values():
        spine.set_visible(False)
    bars.tick_params(length=0, labelsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
