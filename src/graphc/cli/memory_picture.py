"""The arena over time as a picture: each buffer a rectangle from its first step to its last, at its offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphc.cli.memory_plan import memory_line
from graphc.cli.table import shorten, size
from graphc.errors import OptionError, ToolchainError
from graphc.memory import timeline
from graphc.package import ALIGNMENT, BufferPlan, atomic_file

_FORMATS = (".svg", ".png")
_COLORS = ("#729fcf", "#8ae234", "#fcaf3e", "#ad7fa8", "#e9b96e", "#ef8a8a")
_PANEL_INCHES = 4.0
_LABELLED_SHARE = 0.02
"""Part of a panel's area from which on a buffer is big enough to bear its name."""


@dataclass(frozen=True)
class ArenaView:
    """One variant's arena.

    Args:
        title: Which variant.
        buffers: What lies in it.
        steps: How many there are.
        peak: Bytes of the arena.
        bound: The largest sum of live bytes.
    """

    title: str
    buffers: Sequence[BufferPlan]
    steps: int
    peak: int
    bound: int


def draw_arenas(arenas: Sequence[ArenaView], path: Path) -> None:
    """Draws arenas, one below the other, with the live bytes as a line; the file appears whole or not at all.

    Raises:
        OptionError: The file's ending is neither `.svg` nor `.png`, or no arena is planned yet.
        ToolchainError: matplotlib is not installed.
    """
    if path.suffix not in _FORMATS:
        raise OptionError(f"--draw-memory {str(path)!r}: expected a name that ends in .svg or .png")
    if not arenas:
        raise OptionError("no arena is planned as long as dimensions are open", hint="bind them with --dim")
    try:
        import matplotlib
    except ImportError as error:
        raise ToolchainError("pictures need matplotlib", hint="pip install matplotlib") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without a date and with fixed ids, the same plan draws the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "graphc", "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, _PANEL_INCHES * len(arenas)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(arenas), squeeze=False)[:, 0]
        for axes, arena in zip(panels, arenas, strict=True):
            _draw(axes, arena)
        with atomic_file(path) as file:
            figure.savefig(
                file, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150
            )


def _draw(axes: object, arena: ArenaView) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

    assert isinstance(axes, Axes), axes
    room = max(arena.peak * arena.steps, 1)
    for index, buffer in enumerate(arena.buffers):
        width = buffer.end - buffer.start
        corner, color = (buffer.start, buffer.offset), _COLORS[index % len(_COLORS)]
        patch = Rectangle(corner, width, buffer.size, facecolor=color, edgecolor="white", linewidth=0.4)
        patch.set_gid(f"buffer {buffer.name}")
        axes.add_patch(patch)
        if width * buffer.size >= _LABELLED_SHARE * room:
            middle = (buffer.start + width / 2, buffer.offset + buffer.size / 2)
            label = shorten(buffer.name, max(3, int(110 * width / max(arena.steps, 1))))
            axes.text(*middle, label, ha="center", va="center", fontsize=6, clip_on=True)
    segments = timeline([(b.start, b.end, b.size) for b in arena.buffers], alignment=ALIGNMENT)
    edges = [segment.start for segment in segments] + [segments[-1].end if segments else 0]
    axes.stairs([segment.live_bytes for segment in segments], edges, color="#204a87", linewidth=1, label="live bytes")
    axes.axhline(arena.bound, color="#a40000", linewidth=0.8, linestyle="--", label="lower bound")
    axes.set_xlim(0, max(arena.steps, 1))
    axes.set_ylim(0, max(arena.peak, 1) * 1.05)
    axes.yaxis.set_major_formatter(lambda value, _: size(int(value)))
    axes.set_xlabel("step")
    axes.set_title(f"{arena.title}: {memory_line(arena.peak, arena.bound)}", fontsize=9)
    axes.legend(loc="upper right", fontsize=7)
