"""The speedups as a picture: a bar for each model and peer, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import agrees

_COLORS = ("#3465a4", "#c4a000", "#4e9a06", "#75507b")


def write_plot(results: Sequence[dict[str, Any]], against: Sequence[str], path: Path) -> None:
    """Draws the median speedup over each peer with whiskers from the 10th to the 90th percentile.

    Args:
        results: As `bench` writes them.
        against: The peers, each with a color of its own.
        path: What to write; its ending says as what.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [result for result in results if "failure" not in result][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.9 + 0.17 * len(shown) * (1 + len(against))), layout="constrained")
    height = 0.8 / len(against)
    for index, peer in enumerate(against):
        places, medians, low, high = [], [], [], []
        for row, result in enumerate(shown):
            if not agrees(result, peer):
                continue
            ratio = result["speedup"][peer]
            places.append(row + (len(against) - 1) * height / 2 - index * height)
            medians.append(ratio["median"])
            low.append(ratio["median"] - ratio["p10"])
            high.append(ratio["p90"] - ratio["median"])
        # Bars start at 1, where both are as fast: they point right where graphc is ahead.
        widths = [median - 1 for median in medians]
        color = _COLORS[index % len(_COLORS)]
        axes.barh(places, widths, height, left=1, color=color, label=f"over {peer}")
        axes.errorbar(medians, places, xerr=[low, high], fmt="none", ecolor="#555753", elinewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [result["model"] for result in shown])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("graphc is so many times as fast")
    axes.grid(axis="x", linewidth=0.3)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a date, the same results draw the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "graphc"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
