"""Frames, maps and labels put together into pictures; everything is uint8 RGB (height, width, 3)."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps, get_data_path
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fima.files.atomic import written_whole

Picture = NDArray[np.uint8]

COLOURS = np.asarray(colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255, dtype=np.float32)
"""Of maps, (256, 3) from dark to bright in [0, 255]; equal steps look equal, also printed in grey."""
OPACITY = 0.6
GREY_WEIGHTS = (0.299, 0.587, 0.114)
GAP_PX = 4
LABEL_PX = 22
LABEL_MARGIN_PX = 4
FONT_PX = 13
PAPER, INK = "#ffffff", "#16181d"


def resized(picture: Picture, height: int) -> Picture:
    """Scale a frame to a height in pixels; its aspect stays, up to the even width that video encoders need."""
    width = max(2, 2 * round(picture.shape[1] * height / picture.shape[0] / 2))
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def overlay(frame: Picture, heat: NDArray[np.float32], limits: tuple[float, float] | None = None) -> Picture:
    """Lay a map over the grey version of a frame, both uint8 (H, W, 3).

    The map (h, w) is upsampled without ringing; the limits, its own unless given, are shown darkest and brightest.
    """
    low, high = (float(heat.min()), float(heat.max())) if limits is None else limits
    shares = np.clip((heat - low) / (high - low), 0, 1) if high > low else np.full_like(heat, 0.5)
    size = (frame.shape[1], frame.shape[0])
    spread = Image.fromarray(np.asarray(shares, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    colours = COLOURS[np.asarray(np.asarray(spread) * 255, dtype=np.intp)]
    grey = frame.astype(np.float32) @ np.array(GREY_WEIGHTS, dtype=np.float32)
    return np.asarray(OPACITY * colours + (1 - OPACITY) * grey[..., None], dtype=np.uint8)


def outlined(picture: Picture, mask: NDArray[np.float32], colour: tuple[int, int, int]) -> Picture:
    """Draw the outline of where a mask (h, w), upsampled to the picture, is above one half."""
    size = (picture.shape[1], picture.shape[0])
    upsampled = Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(upsampled) > 0.5
    core = Image.fromarray(inside.astype(np.uint8)).filter(ImageFilter.MinFilter(5))
    return np.where((inside > np.asarray(core))[..., None], np.array(colour, dtype=np.uint8), picture)


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font lacks many scripts of file names.
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size_px)


def label_width(text: str) -> int:
    """The pixels that a line of text needs."""
    return math.ceil(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text, font=_font(FONT_PX))) + LABEL_MARGIN_PX


def label(text: str, width: int, *, height: int = LABEL_PX, font_px: int = FONT_PX) -> Picture:
    """A line of text, `width` and `height` pixels large, cut where it does not fit."""
    strip = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(strip)
    shown = "".join(letter if letter.isprintable() else "�" for letter in text)  # names of files may have any
    while shown and draw.textlength(shown, font=_font(font_px)) > width - LABEL_MARGIN_PX:
        shown = shown[:-2] + "…" if len(shown) > 2 else ""
    draw.text((2, height / 2), shown, fill=INK, font=_font(font_px), anchor="lm")
    return np.asarray(strip)


def labelled(picture: Picture, text: str, *, narrowest: int = 0) -> Picture:
    """A picture with a line of text above it, filled up on the right to at least `narrowest` pixels."""
    padded = widened(picture, narrowest)
    return np.concatenate([label(text, padded.shape[1]), padded])


def widened(picture: Picture, width: int) -> Picture:
    """A picture that is filled up on the right to at least a width."""
    return np.pad(picture, ((0, 0), (0, max(0, width - picture.shape[1])), (0, 0)), constant_values=255)


def in_a_row(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one height side by side, a gap between them."""
    gap = np.full((pictures[0].shape[0], GAP_PX, 3), 255, dtype=np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1)


def in_a_column(pictures: Sequence[Picture]) -> Picture:
    """Pictures one below the other, a gap between them; narrower ones are filled up on the right."""
    width = max(picture.shape[1] for picture in pictures)
    gap = np.full((GAP_PX, width, 3), 255, dtype=np.uint8)
    filled = [widened(picture, width) for picture in pictures]
    return np.concatenate([part for picture in filled for part in (gap, picture)][1:])


def is_picture_name(path: Path) -> bool:
    """Whether a suffix says in which format a picture can be written."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


def save_picture(picture: Picture, out: Path) -> None:
    """Write a picture in the format of its suffix, in one piece."""
    with written_whole(out) as temporary:
        Image.fromarray(picture).save(temporary)
