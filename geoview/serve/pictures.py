"""Imagery as pictures: the chip of a cell, and tiles of the map."""

from __future__ import annotations

import io
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from PIL import Image

import tiles
from geoview.geo import cells
from geoview.serve.generations import Generation

__all__ = [
    "MAX_ZOOM",
    "MIN_ZOOM",
    "NoPictureError",
    "Pictures",
    "cell_of",
    "deepest_zoom",
    "imagery_of",
    "jpeg",
    "lost",
]

log = logging.getLogger(__name__)

MIN_ZOOM, MAX_ZOOM = 10, 22
_TILE_PX = 256
_CACHE_BYTES = 64 * 2**20
_JPEG_QUALITY = 80
_WEBP_QUALITY = 75
# Pale where there is no imagery: black would look like a picture of something.
_NO_IMAGERY = np.array([226, 232, 240], np.uint8)
# WGS 84.
_EQUATORIAL_RADIUS_M = 6_378_137.0
_ECCENTRICITY_SQUARED = 0.00669437999014


class NoPictureError(Exception):
    """There is no picture of this; the message says why."""


class Pictures:
    """Cuts pictures, and keeps the latest of them."""

    def __init__(self) -> None:
        self._kept = _Kept(_CACHE_BYTES)

    def chip(self, generation: Generation, token: str, size_px: int, heading_deg: float) -> bytes | None:
        """Returns the chip of a cell of the index as JPEG, its top towards heading_deg.

        Raises:
            NoPictureError: The index has no such cell, or its imagery is gone.
        """
        imagery, cell_id = imagery_of(generation), cell_of(generation, token)

        def cut() -> bytes:
            centre_deg = cells.centers_deg(np.array([cell_id], np.uint64))[0]
            gsd_m = generation.index.chip.ground_size_m / size_px
            try:
                chip = imagery.chip(centre_deg, size_px=size_px, gsd_m=gsd_m, heading_deg=heading_deg)
            except tiles.TilesError as error:
                raise lost(error) from None
            return jpeg(np.where(chip.valid[..., None], chip.pixels, _NO_IMAGERY))

        return self._kept.get((generation.number, cell_id, size_px, heading_deg), cut)

    def tile(self, generation: Generation, zoom: int, x: int, y: int) -> bytes | None:
        """Returns a tile of the imagery as WebP, transparent where there is none; None where there is none at all.

        A tile of the web's Mercator projection is, from zoom 10, a square of ground but for a fraction of a pixel.

        Raises:
            NoPictureError: There is no such tile, or the imagery is gone.
        """
        imagery, n = imagery_of(generation), 2 ** min(max(zoom, 0), MAX_ZOOM)
        if not (MIN_ZOOM <= zoom <= MAX_ZOOM and 0 <= x < n and 0 <= y < n):
            raise NoPictureError(f"tiles have zooms from {MIN_ZOOM} to {MAX_ZOOM}, and x and y below 2^zoom")

        def cut() -> bytes | None:
            lat = math.atan(math.sinh(math.pi * (1 - 2 * (y + 0.5) / n)))
            gsd_m = 2 * math.pi * _mean_radius_m(lat) * math.cos(lat) / (_TILE_PX * n)
            centre_deg = np.array([math.degrees(lat), (x + 0.5) / n * 360 - 180])
            try:
                chip = imagery.chip(centre_deg, size_px=_TILE_PX, gsd_m=gsd_m)
            except tiles.OutsideCoverageError:
                return None
            except tiles.TilesError as error:
                raise lost(error) from None
            seen = np.dstack([chip.pixels, np.uint8(255) * chip.valid])
            return _encoded(seen, "WEBP", quality=_WEBP_QUALITY, method=2)

        return self._kept.get((generation.number, zoom, x, y), cut)


def deepest_zoom(generation: Generation) -> int:
    """Returns the zoom whose tiles show all that the imagery does."""
    _, south, _, north = generation.bounds_deg
    wide_m = 2 * math.pi * _EQUATORIAL_RADIUS_M * math.cos(math.radians((south + north) / 2))
    zoom = math.ceil(math.log2(wide_m / (_TILE_PX * imagery_of(generation).native_gsd_m)))
    return min(max(zoom, MIN_ZOOM), MAX_ZOOM)


def _mean_radius_m(lat: float) -> float:
    """Returns the Gaussian radius of curvature of the ellipsoid, between those from north to south and west to east."""
    squeezed = math.sqrt(1 - _ECCENTRICITY_SQUARED) / (1 - _ECCENTRICITY_SQUARED * math.sin(lat) ** 2)
    return _EQUATORIAL_RADIUS_M * squeezed


def imagery_of(generation: Generation) -> tiles.ImagerySource:
    """Returns where pictures are cut from.

    Raises:
        NoPictureError: It is gone.
    """
    if generation.imagery is None:
        raise NoPictureError("the imagery that the index was built from is not there any more")
    return generation.imagery


def lost(error: tiles.TilesError) -> NoPictureError:
    """Returns what is told of imagery that shows nothing, whose error may name what is on this machine."""
    if isinstance(error, tiles.OutsideCoverageError):
        return NoPictureError("the imagery that is left shows nothing of this cell")
    log.warning("a picture could not be cut: %s", error)
    return NoPictureError("the imagery cannot be read any more")


def cell_of(generation: Generation, token: str) -> int:
    """Returns the cell of the index that a token names.

    Raises:
        NoPictureError: It names none.
    """
    try:
        cell_id = cells.from_tokens([token])[0]
    except ValueError:
        raise NoPictureError(f"{token[:20]!r} is not the token of a cell") from None
    level = generation.index.level
    if cells.levels(cell_id) != level:
        raise NoPictureError(f"the cells of this index are of level {level}")
    if not generation.has_cell(int(cell_id)):
        raise NoPictureError("this cell is not in the index")
    return int(cell_id)


def jpeg(pixels: np.ndarray) -> bytes:
    """Returns (H, W, 3) pixels as JPEG."""
    return _encoded(pixels, "JPEG", quality=_JPEG_QUALITY)


def _encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


class _Kept:
    """What was asked for last, in bounded memory."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._found: OrderedDict[Hashable, bytes | None] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes | None]) -> bytes | None:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
        made = make()
        with self._lock:
            if key not in self._found:
                self._found[key] = made
                self._bytes += _weight(made)
            while self._bytes > self._max_bytes:
                self._bytes -= _weight(self._found.popitem(last=False)[1])
        return made


def _weight(picture: bytes | None) -> int:
    return 200 + len(picture or b"")  # with what it takes to remember it
