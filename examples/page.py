"""A page of text to turn around, and what the orientation model wants to see of it."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (32, 32, 38), (252, 251, 247)
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
SECTIONS = {
    "The graph": """A compiler for neural networks reads a graph and writes machine code. The graph says what is to
        be computed, one operator at a time; it says nothing about where a tensor lies, or how many of its elements
        a processor can hold in its registers.""",
    "The passes": """Each pass changes the graph and keeps its meaning. Constants are folded, what cancels is taken
        out, and what was taken apart by an exporter is put together again: a norm, an activation, an attention.""",
    "The kernels": """What remains is cut into regions. A region is one loop nest: the heavy operator in the middle,
        the light ones around it, so that no intermediate result goes to memory and comes back.""",
    "The package": """Kernels, weights and the table of steps are written into one file. To run it takes no compiler
        and no framework, only a thread pool that sleeps when there is nothing to do.""",
}


MOST_PIXELS = 40_000_000


class NotAPageError(ValueError):
    """Bytes that are no image, or not one that is read here."""


def read_page(data: bytes) -> npt.NDArray[np.float32]:
    """The model's input from a file's bytes: JPEG, PNG or WebP.

    What the header claims is held against `MOST_PIXELS` before anything is decompressed.

    Raises:
        NotAPageError: It is none of these, damaged, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > MOST_PIXELS:
                raise NotAPageError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS}")
            # A JPEG much larger than that is decoded at a fraction of its size.
            image.draft("RGB", (512, 512))
            return prepare(image.convert("RGB"))
    except NotAPageError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise NotAPageError(f"this is no JPEG, PNG or WebP image, or a damaged one: {error}") from error


def draw_page(width: int = 620, height: int = 800) -> Image.Image:
    """An upright page: a title and four sections of text."""
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"

    def font(name: str, size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(fonts / name), size)

    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    left, top = 56, 48
    draw.text((left, top), "Notes on a Graph Compiler", INK, font("DejaVuSerif-Bold.ttf", 32))
    top += 64
    for number, (heading, text) in enumerate(SECTIONS.items(), 1):
        draw.text((left, top), f"{number}. {heading}", INK, font("DejaVuSerif-Bold.ttf", 21))
        top += 34
        for line in textwrap.wrap(" ".join(text.split()), 54):
            draw.text((left, top), line, INK, font("DejaVuSerif.ttf", 17))
            top += 25
        top += 14
    return page


def turned(page: Image.Image, degrees: int) -> Image.Image:
    """The page turned clockwise, as the model's labels count."""
    return page.rotate(-degrees, expand=True)


def prepare(page: Image.Image) -> npt.NDArray[np.float32]:
    """The model's input, `[1, 3, 224, 224]`: shorter side to 256, centre cropped, ImageNet's mean and deviation out."""
    half = min(page.size) * 224 / 256 / 2
    x, y = page.width / 2, page.height / 2
    middle = page.resize((224, 224), Image.Resampling.BILINEAR, box=(x - half, y - half, x + half, y + half))
    pixels = np.asarray(middle, np.float32).transpose(2, 0, 1)[np.newaxis]
    return np.ascontiguousarray((pixels / np.float32(255) - MEAN) / DEVIATION)
