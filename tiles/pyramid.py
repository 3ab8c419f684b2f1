"""Tile pyramids in Web Mercator: a folder of z/x/y images, or an MBTiles file."""

from __future__ import annotations

import io
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry.base import BaseGeometry

from tiles.chip import Chip, ChipFrame, ChipSource, SourceInfo
from tiles.errors import SkippedRasterWarning, UnsupportedSourceError
from tiles.georeference import GEOD
from tiles.hints import SourceHints
from tiles.per_thread import PerThreadLRU
from tiles.tile_store import FolderStore, MBTilesStore, TileStore
from tiles.warp import Level, resample

__all__ = ["PyramidSource", "open_mbtiles", "open_tile_folder"]

_tiles = PerThreadLRU(max_items=96)


@dataclass(frozen=True)
class PyramidSource(ChipSource):
    """A pyramid of tiles; the zoom is the coarsest that is not coarser than the chip, missing tiles are not valid."""

    store: TileStore
    zooms: tuple[int, ...]
    tile_px: int
    bounds_deg: tuple[float, float, float, float] | None
    native_gsd_m: float
    date: str | None
    licence: str | None
    attribution: str | None
    opened_ns: int  # tells tiles from others that lay there before
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def uri(self) -> str:  # type: ignore[override]
        """Path of the folder or file."""
        return self.store.uri

    def cut(self, frame: ChipFrame) -> Chip | None:
        """Return the chip of a frame, or None where no pixel is valid."""
        found = resample(self, frame)
        return found and Chip(*found, self.date, self.licence, self.attribution, frame.gsd_m)

    def coverage(self) -> BaseGeometry:
        """Return the union of the tiles of the finest zoom, within the bounds the provider states."""
        area = shapely.union_all(_boxes_of(self.store.addresses(self.zooms[-1]), self.zooms[-1]))
        return shapely.intersection(area, shapely.box(*self.bounds_deg)) if self.bounds_deg else area

    def parts(self) -> list[SourceInfo]:
        """Return this pyramid's own entry."""
        return [SourceInfo(self.uri, self.date, self.licence, self.attribution, self.native_gsd_m, "EPSG:3857")]

    # what warp.PixelLattice asks for

    @property
    def _world_px(self) -> int:
        return self.tile_px << self.zooms[-1]

    def to_pixels(
        self, lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return columns and rows in pixels of the finest zoom (spherical Mercator of geodetic latitudes)."""
        return (lon_deg + 180.0) / 360.0 * self._world_px, _mercator_row(lat_deg) * self._world_px

    @property
    def period_px(self) -> tuple[float, float]:
        """The world is `_world_px` columns wide."""
        return float(self._world_px), 0.0

    @cached_property
    def frame_px(self) -> tuple[float, float, float, float]:
        """The world, or the bounds the provider states: what tiles hold beyond is filling."""
        world = float(self._world_px)
        if self.bounds_deg is None:
            return 0.0, 0.0, world, world
        columns, rows = self.to_pixels(np.array(self.bounds_deg[::2]), np.array(self.bounds_deg[1::2]))
        return max(0.0, columns[0]), max(0.0, rows[1]), min(world, columns[1]), min(world, rows[0])

    @cached_property
    def levels(self) -> list[Level]:
        """The zooms, finest first."""
        sizes = [self.tile_px << zoom for zoom in reversed(self.zooms)]
        return [Level(self._world_px / size, self._world_px / size, size, size) for size in sizes]

    def read(self, level: int, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """Return a window of a zoom, (h, w, 4): RGB and 1 where valid."""
        zoom, size = self.zooms[-1 - level], self.tile_px
        window = np.zeros((bottom - top, right - left, 4), dtype=np.uint8)
        for row in range(top // size, -(-bottom // size)):
            for column in range(left // size, -(-right // size)):
                tile = _tiles.get((self.uri, self.opened_ns, zoom, column, row), partial(self._tile, zoom, column, row))
                if tile is None:
                    continue
                y0, y1 = max(top, row * size), min(bottom, (row + 1) * size)
                x0, x1 = max(left, column * size), min(right, (column + 1) * size)
                inner = tile[y0 - row * size : y1 - row * size, x0 - column * size : x1 - column * size]
                window[y0 - top : y1 - top, x0 - left : x1 - left] = inner
        return window

    def _tile(self, zoom: int, column: int, row: int) -> NDArray[np.uint8] | None:
        """Return a decoded tile, None where it is missing or, with a warning, broken."""
        encoded = self.store.encoded(zoom, column, row)
        if encoded is None:
            return None
        name = f"{self.uri}: tile {zoom}/{column}/{row}"
        try:
            rgba = _decode(encoded)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises all three for broken files
            warnings.warn(f"{name} cannot be decoded and is left out ({error})", SkippedRasterWarning, stacklevel=2)
            return None
        if rgba.shape[:2] != (self.tile_px, self.tile_px):
            size = f"{rgba.shape[1]} x {rgba.shape[0]}"
            warnings.warn(
                f"{name} is {size} px, others {self.tile_px}; it is left out", SkippedRasterWarning, stacklevel=2
            )
            return None
        valid = rgba[..., 3] >= 128
        rgba[..., 3] = 1
        rgba[~valid] = 0
        return rgba


def open_tile_folder(folder: Path, hints: SourceHints) -> PyramidSource:
    """Open a folder of z/x/y tiles.

    Raises:
        UnsupportedSourceError: no tile can be decoded, or no zoom is left.
    """
    store = FolderStore(str(folder))
    return _opened(store, store.zooms(), None, hints, hints.attribution, hints.licence)


def open_mbtiles(path: Path, hints: SourceHints) -> PyramidSource:
    """Open an MBTiles file; what the hints leave open is taken from its metadata.

    Raises:
        UnreadableRasterError: it is no SQLite file with the tables of MBTiles.
        UnsupportedSourceError: vector tiles, no tile can be decoded, or no zoom is left.
    """
    store = MBTilesStore(str(path))
    metadata = store.metadata()
    if metadata.get("format") in ("pbf", "mvt"):
        raise UnsupportedSourceError(f"{path}: holds vector tiles; imagery is needed")
    try:
        first, last = int(metadata.get("minzoom", 0)), int(metadata.get("maxzoom", 30))
        stated = [float(number) for number in metadata["bounds"].split(",")] if metadata.get("bounds") else None
        bounds = None if stated is None else (stated[0], stated[1], stated[2], stated[3])
    except (ValueError, IndexError) as error:
        raise UnsupportedSourceError(
            f"{path}: minzoom, maxzoom or bounds in its metadata are malformed; correct them"
        ) from error
    zooms = [zoom for zoom in store.zooms() if first <= zoom <= last]
    attribution = hints.attribution or metadata.get("attribution") or None
    return _opened(store, zooms, bounds, hints, attribution, hints.licence or metadata.get("license") or None)


def _opened(
    store: TileStore,
    zooms: list[int],
    bounds_deg: tuple[float, float, float, float] | None,
    hints: SourceHints,
    attribution: str | None,
    licence: str | None,
) -> PyramidSource:
    first = 0 if hints.min_zoom is None else hints.min_zoom
    last = 30 if hints.max_zoom is None else hints.max_zoom
    addresses = {zoom: next(iter(store.addresses(zoom)), None) for zoom in zooms if first <= zoom <= last}
    used = sorted(zoom for zoom, address in addresses.items() if address is not None)
    if not used:
        raise UnsupportedSourceError(
            f"{store.uri}: has no tiles within zooms {first} to {last}; correct min_zoom, max_zoom"
        )
    for column, row in store.addresses(used[-1]):
        encoded = store.encoded(used[-1], column, row)
        try:
            tile_px = _decode(encoded or b"").shape[0]
            break
        except (OSError, ValueError, SyntaxError):
            continue  # one broken tile says nothing about the others
    else:
        raise UnsupportedSourceError(
            f"{store.uri}: no tile of zoom {used[-1]} can be decoded; png, jpg or webp are needed"
        )
    west, south, east, north = _tile_box(used[-1], column, row, column + 1)
    lon, lat = (west + east) / 2.0, (south + north) / 2.0
    _, _, width_m = GEOD.inv(west, lat, east, lat) if used[-1] else (0, 0, 2 * math.pi * GEOD.a)
    _, _, height_m = GEOD.inv(lon, south, lon, north)
    gsd_m = hints.gsd_m or math.sqrt(width_m * height_m) / tile_px
    return PyramidSource(
        store, tuple(used), tile_px, bounds_deg, gsd_m, hints.date, licence, attribution, time.time_ns()
    )


def _decode(encoded: bytes) -> NDArray[np.uint8]:
    """Return (h, w, 4) RGBA; the format is told by the content, whatever the name says."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.array(image.convert("RGBA"))


def _mercator_row(lat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return spherical Mercator northing as share of the world, from the north down."""
    with np.errstate(divide="ignore"):
        return 0.5 - np.arctanh(np.sin(np.radians(lat_deg))) / (2.0 * math.pi)


def _tile_box(zoom: int, column: int, row: int, end: int) -> tuple[float, float, float, float]:
    """Return west, south, east, north of the tiles from `column` to before `end`."""
    south, north = (math.degrees(math.atan(math.sinh(math.pi - 2.0 * math.pi * r / 2**zoom))) for r in (row + 1, row))
    return column / 2**zoom * 360.0 - 180.0, south, end / 2**zoom * 360.0 - 180.0, north


def _boxes_of(addresses: Iterable[tuple[int, int]], zoom: int) -> list[BaseGeometry]:
    """Return one box for each run of neighbouring tiles in a row."""
    rows: dict[int, list[int]] = defaultdict(list)
    for column, row in addresses:
        rows[row].append(column)
    boxes: list[BaseGeometry] = []
    for row, columns in rows.items():
        ordered = np.unique(columns)
        for run in np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1):
            boxes.append(shapely.box(*_tile_box(zoom, int(run[0]), row, int(run[-1]) + 1)))
    return boxes
