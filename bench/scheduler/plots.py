"""Plots of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scheduler.policies import UNTUNED
from bench.scheduler.sweep import PROMISE, TUNED

_SHOWN = (PROMISE, TUNED, *UNTUNED)
_COLORS = ("#0b6e4f", "#555555", "#c8553d", "#e09f3e", "#7b6d8d", "#588b8b", "#b5838d")


def policies_plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Goodput over load: a panel for each process, a line for each policy, and the bound."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    processes = list(dict.fromkeys(row["process"] for row in rows))
    figure, panels = plt.subplots(1, len(processes), figsize=(3.6 * len(processes), 3.6), sharey=True, squeeze=False)
    for panel, process in zip(panels[0], processes, strict=True):
        own = [row for row in rows if row["process"] == process]
        bound = sorted({(row["load"], row["bound"]) for row in own if row["policy"] == PROMISE})
        panel.plot(*zip(*bound, strict=True), color="black", linestyle=":", label="bound, one shape")
        for policy, color in zip(_SHOWN, _COLORS, strict=True):
            line = sorted((row["load"], row["goodput"], row["interval"]) for row in own if row["policy"] == policy)
            loads, goodputs, intervals = zip(*line, strict=True)
            panel.errorbar(
                loads, goodputs, intervals, color=color, label=policy, linewidth=2.4 if policy == PROMISE else 1.2
            )
        panel.set_title(process, fontsize=10)
        panel.set_xlabel("load, over capacity")
        # The interval of a policy that collapses in one run of three is wider than the plot.
        panel.set_ylim(0, 1.15 * max(row["bound"] for row in rows))
        panel.grid(alpha=0.25)
    panels[0][0].set_ylabel("answered on time, a second")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def gains_plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Answers a second with batches over those without, for each model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6, 0.8 + 0.6 * len(results)))
    names = [result["model"] for result in results]
    gains = [result["batching"]["gain"] for result in results]
    bars = panel.barh(names, gains, color=_COLORS[0])
    panel.bar_label(bars, [f"{gain:.2f}×" for gain in gains], padding=3)
    panel.axvline(1.0, color="black", linewidth=0.8)
    panel.set_xlabel("answers a second with batches, over those without")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
