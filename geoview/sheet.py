"""A picture that shows what was asked, what was answered and what is true: one row a photo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import tiles
from geoview.config import AerialView
from geoview.data.photos import load_image
from geoview.data.queries import PhotoQuery
from geoview.geo.sphere import bearing_deg, distance_m
from geoview.locate.localizer import Localization

__all__ = ["FOUND_M", "draw_sheet"]

#: A place this near to where the photo was taken is right.
FOUND_M = 100.0

_PLACES = ("1st", "2nd", "3rd")
_PHOTO_PX, _CHIP_PX = 480, 176
_GAP_PX, _CAPTION_PX, _HEAD_PX, _MARGIN_PX = 20, 42, 118, 28
_FRAME_PX = 5
_SCALE_BAR_M = 20.0

_PAPER, _INK, _SOFT, _PANEL = "#ffffff", "#1d2733", "#64748b", "#e2e8f0"
_RIGHT, _WRONG, _CAMERA = "#15803d", "#dc2626", "#0369a1"

_Xy = tuple[float, float]


def draw_sheet(
    rows: Sequence[tuple[PhotoQuery, Localization]],
    imagery: tiles.ImagerySource,
    view: AerialView,
    *,
    title: str,
    subtitle: str,
) -> Image.Image:
    """Draws a photo, its first three places and the true one in each row.

    Places within `FOUND_M` of the truth are framed green and ticked, others red and crossed. A blue camera marks the
    true position and heading wherever a chip shows it; an arrow, the heading that a place was found with.

    Args:
        rows: Photos with their true position, heading and field of view, and their answers.
        imagery: Where chips are cut from.
        view: Ground that a chip shows.
        title: First line.
        subtitle: Second line.

    Returns:
        RGB.

    Raises:
        ValueError: A photo comes without its true position.
        TilesError: The imagery cannot be read.
    """
    columns = 1 + len(_PLACES)
    width = 2 * _MARGIN_PX + _PHOTO_PX + columns * (_CHIP_PX + _GAP_PX)
    pitch = _CHIP_PX + _CAPTION_PX + _GAP_PX
    image = Image.new("RGB", (width, 2 * _MARGIN_PX + _HEAD_PX + len(rows) * pitch), _PAPER)
    sheet = _Sheet(image, ImageDraw.Draw(image), imagery, view)
    sheet.head(title, subtitle)
    for number, (photo, answer) in enumerate(rows):
        sheet.row(_MARGIN_PX + _HEAD_PX + number * pitch, photo, answer)
    return image


@dataclass(frozen=True)
class _Sheet:
    """The picture being drawn."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    imagery: tiles.ImagerySource
    view: AerialView

    def head(self, title: str, subtitle: str) -> None:
        y = _MARGIN_PX
        self.text((_MARGIN_PX, y), title, 24, _INK)
        self.text((_MARGIN_PX, y + 34), subtitle, 15, _SOFT)
        width_m = self.view.ground_size_m
        x = self.text((_MARGIN_PX, y + 58), f"Aerial chips: north up, {width_m:.0f} m wide.   ", 15, _SOFT)
        x = self.text((x, y + 58), f"green: within {FOUND_M:.0f} m of the truth   ", 15, _RIGHT)
        x = self.text((x, y + 58), "red: elsewhere   ", 15, _WRONG)
        x = self.text((x, y + 58), "blue: where the camera stood and looked   ", 15, _CAMERA)
        self.text((x, y + 58), "arrow: how it would have looked", 15, _SOFT)
        baseline = y + _HEAD_PX - 28
        self.text((_MARGIN_PX, baseline), "photo", 17, _INK)
        for column, name in enumerate((*_PLACES, "where it was")):
            self.text((_chip_left(column), baseline), name, 17, _INK)

    def row(self, top: int, photo: PhotoQuery, answer: Localization) -> None:
        if photo.latlon_deg is None:
            raise ValueError(f"{photo.path}: comes without its true position, which the sheet is to show")
        self.photo(top, photo, answer)
        for column, place in enumerate(answer.places[: len(_PLACES)]):
            away_m = float(distance_m(np.array(photo.latlon_deg), np.array(place.latlon_deg)))
            right = away_m <= FOUND_M
            colour = _RIGHT if right else _WRONG
            self.chip(column, top, place.latlon_deg, photo, colour)
            if place.heading_deg is not None:
                left = _chip_left(column)
                self.arrow((left + _CHIP_PX / 2, top + _CHIP_PX / 2), place.heading_deg, colour)
            self.verdict(column, top, right, colour)
            self.caption(column, top, f"{away_m:,.0f} m away", f"score {place.score:.3f}", colour)
        self.chip(len(_PLACES), top, photo.latlon_deg, photo, _CAMERA)
        heading = "" if photo.heading_deg is None else f"looking {photo.heading_deg:.0f}° {_wind(photo.heading_deg)}"
        lat, lon = photo.latlon_deg
        self.caption(len(_PLACES), top, heading, f"{lat:.5f}, {lon:.5f}", _CAMERA)

    def photo(self, top: int, photo: PhotoQuery, answer: Localization) -> None:
        all_round = photo.fov_deg == 360
        what = "panorama" if all_round else "photo" if photo.fov_deg is None else f"photo, {photo.fov_deg:.0f}° wide"
        if answer.status == "failed":
            self.draw.rectangle((_MARGIN_PX, top, _MARGIN_PX + _PHOTO_PX - 1, top + _CHIP_PX - 1), fill=_PANEL)
            self.text((_MARGIN_PX + 12, top + _CHIP_PX // 2 - 10), "cannot be read", 15, _WRONG)
        else:
            picture = load_image(photo.path, max_side_px=2 * _PHOTO_PX)
            scale = min(_PHOTO_PX / picture.width, _CHIP_PX / picture.height)
            size = round(picture.width * scale), round(picture.height * scale)
            at = _MARGIN_PX, top + (_CHIP_PX - size[1]) // 2
            self.image.paste(picture.resize(size, Image.Resampling.LANCZOS), at)
            if all_round:
                self.ticks(at[0], at[1] + size[1])
        self.text((_MARGIN_PX, top + _CHIP_PX + 8), f"{Path(photo.path).name}   {what}", 13, _SOFT)

    def ticks(self, left: int, bottom: int) -> None:
        """Marks the middle column of a panorama, which its heading is of."""
        middle = left + _PHOTO_PX / 2
        self.draw.polygon([(middle, bottom + 2), (middle - 6, bottom + 11), (middle + 6, bottom + 11)], _CAMERA)

    def chip(self, column: int, top: int, centre_deg: tuple[float, float], photo: PhotoQuery, frame: str) -> None:
        left = _chip_left(column)
        chip = self.imagery.chip(np.array(centre_deg), size_px=_CHIP_PX, gsd_m=self.view.ground_size_m / _CHIP_PX)
        # Pale where there is no imagery: black would look like a picture of something.
        pixels = np.where(chip.valid[..., None], chip.pixels, np.uint8(226))
        picture = Image.fromarray(pixels)
        self.camera(ImageDraw.Draw(picture), centre_deg, photo)
        self.image.paste(picture, (left, top))
        outer = left - _FRAME_PX, top - _FRAME_PX, left + _CHIP_PX + _FRAME_PX - 1, top + _CHIP_PX + _FRAME_PX - 1
        self.draw.rectangle(outer, outline=frame, width=_FRAME_PX)
        self.scale_bar(left + 8, top + _CHIP_PX - 10)

    def camera(self, draw: ImageDraw.ImageDraw, centre_deg: tuple[float, float], photo: PhotoQuery) -> None:
        """Draws the true position and field of view on a chip around another position, as far as it shows them."""
        assert photo.latlon_deg is not None, "checked for the row"
        away_px = float(distance_m(np.array(centre_deg), np.array(photo.latlon_deg))) * self._px_per_m
        at = _moved((_CHIP_PX / 2, _CHIP_PX / 2), float(bearing_deg(centre_deg, photo.latlon_deg)), away_px)
        if photo.heading_deg is not None:
            fov_deg = photo.fov_deg if photo.fov_deg is not None and photo.fov_deg < 180 else 30.0
            sides = [_moved(at, photo.heading_deg + side * fov_deg / 2, 30) for side in (-1, 1)]
            draw.polygon([at, *sides], outline="white", fill=_CAMERA, width=2)
        draw.ellipse((at[0] - 6, at[1] - 6, at[0] + 6, at[1] + 6), fill=_CAMERA, outline="white", width=2)

    def arrow(self, at: _Xy, heading_deg: float, colour: str) -> None:
        forward_right = [(-14, 3), (10, 3), (10, 9), (26, 0), (10, -9), (10, -3), (-14, -3)]
        outline = [_moved(_moved(at, heading_deg, f), heading_deg + 90, r) for f, r in forward_right]
        self.draw.polygon(outline, colour, "white", 2)

    def scale_bar(self, left: int, bottom: int) -> None:
        right = left + round(_SCALE_BAR_M * self._px_per_m)
        self.draw.rectangle((left - 3, bottom - 19, right + 3, bottom + 4), fill="white")
        self.draw.line([(left, bottom - 5), (left, bottom), (right, bottom), (right, bottom - 5)], _INK, 2)
        self.draw.text(
            ((left + right) / 2, bottom - 4), f"{_SCALE_BAR_M:.0f} m", fill=_INK, font=_font(11), anchor="mb"
        )

    def verdict(self, column: int, top: int, right: bool, colour: str) -> None:
        """Says right or wrong without colour as well."""
        x, y = _chip_left(column) + _CHIP_PX - 24, top
        self.draw.rectangle((x, y, x + 24, y + 24), fill=colour)
        strokes: list[list[_Xy]]
        if right:
            strokes = [[(x + 5, y + 12), (x + 10, y + 18), (x + 19, y + 6)]]
        else:
            strokes = [[(x + 6, y + 6), (x + 18, y + 18)], [(x + 18, y + 6), (x + 6, y + 18)]]
        for stroke in strokes:
            self.draw.line(stroke, "white", 3)

    def caption(self, column: int, top: int, first: str, second: str, colour: str) -> None:
        left, y = _chip_left(column), top + _CHIP_PX + 8
        self.text((left, y), first, 15, colour)
        self.text((left, y + 18), second, 13, _SOFT)

    def text(self, at: tuple[float, float], words: str, size: int, colour: str) -> float:
        """Writes words and returns where they end."""
        self.draw.text(at, words, fill=colour, font=_font(size))
        return at[0] + self.draw.textlength(words, font=_font(size))

    @property
    def _px_per_m(self) -> float:
        return _CHIP_PX / self.view.ground_size_m


def _chip_left(column: int) -> int:
    return _MARGIN_PX + _PHOTO_PX + _GAP_PX + column * (_CHIP_PX + _GAP_PX)


def _moved(at: _Xy, bearing_deg: float, by_px: float) -> _Xy:
    """Moves a point of a north-up picture."""
    angle = math.radians(bearing_deg)
    return at[0] + by_px * math.sin(angle), at[1] - by_px * math.cos(angle)


def _wind(heading_deg: float) -> str:
    return ("N", "NE", "E", "SE", "S", "SW", "W", "NW")[round(heading_deg / 45) % 8]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
