"""What is asked for and what comes back: a square of ground, and its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from tiles.errors import InvalidChipError, OutsideCoverageError
from tiles.footprint import lonlat_polygon, ring_on_rectangle
from tiles.georeference import GEOD

__all__ = ["Chip", "ChipFrame", "ChipSource", "ImagerySource", "SourceInfo", "chip_frame"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chip:
    """A square of imagery.

    Attributes:
        pixels: (H, W, 3) uint8, RGB, 0 where not valid.
        valid: (H, W) bool.
        date: ISO date of the imagery, or None.
        licence: its licence, or None.
        attribution: whom to name, or None.
        gsd_m: ground size of a pixel of the chip in metres.
    """

    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    date: str | None
    licence: str | None
    attribution: str | None
    gsd_m: float

    @property
    def valid_fraction(self) -> float:
        """Share of the pixels that are valid."""
        return np.count_nonzero(self.valid) / self.valid.size  # in a tenth of the time of their mean


@dataclass(frozen=True)
class SourceInfo:
    """What a manifest says of one source: where it is, when and by whom it was taken, its resolution and CRS."""

    uri: str
    date: str | None
    licence: str | None
    attribution: str | None
    gsd_m: float
    crs: str


@runtime_checkable
class ImagerySource(Protocol):
    """The ground from above: anything that can cut chips."""

    @property
    def uri(self) -> str:
        """Path or address, as it was opened."""

    @property
    def date(self) -> str | None:
        """ISO date of the imagery where it has one and only one, else None."""

    @property
    def licence(self) -> str | None:
        """Licence, or licences separated by "; "."""

    @property
    def attribution(self) -> str | None:
        """Whom to name, separated by "; "."""

    @property
    def native_gsd_m(self) -> float:
        """Ground size in metres of the finest pixels."""

    @property
    def skipped(self) -> Sequence[tuple[str, str]]:
        """Rasters that could not be used: (path, reason)."""

    def chip(self, latlon_deg: ArrayLike, *, size_px: int, gsd_m: float, heading_deg: float = 0.0) -> Chip:
        """Cut a chip of size_px x size_px pixels around latlon_deg (2,), its top towards heading_deg."""

    def coverage(self) -> BaseGeometry:
        """Where there is imagery: polygons in longitude and latitude, split at the antimeridian."""

    def parts(self) -> list[SourceInfo]:
        """The single rasters and pyramids behind this source."""


@dataclass(frozen=True)
class ChipFrame:
    """A square of ground, `size_px * gsd_m` metres wide, centred on (lat_deg, lon_deg), top towards heading_deg.

    Chip coordinates run from 0 to size_px rightwards and downwards. The point at (right, down) is where the geodesic
    leads that leaves the centre with the azimuth and length of its offset: the azimuthal equidistant projection.
    """

    lat_deg: float
    lon_deg: float
    size_px: int
    gsd_m: float
    heading_deg: float

    def lonlat(self, right_px: Floats, down_px: Floats) -> tuple[Floats, Floats]:
        """Return longitudes and latitudes, each (len(down_px), len(right_px)), of a grid in chip coordinates."""
        x_m = ((right_px - self.size_px / 2.0) * self.gsd_m)[None, :]
        y_m = ((self.size_px / 2.0 - down_px) * self.gsd_m)[:, None]
        return self._along_geodesics(np.degrees(np.arctan2(x_m, y_m)), np.hypot(x_m, y_m))

    @cached_property
    def outline(self) -> BaseGeometry:
        """The square as (multi)polygon in longitude and latitude."""
        half_m = self.size_px * self.gsd_m / 2.0
        x_m, y_m = ring_on_rectangle(-half_m, half_m, half_m, -half_m, 4)
        lon, lat = self._along_geodesics(np.degrees(np.arctan2(x_m, y_m)), np.hypot(x_m, y_m))
        return lonlat_polygon(lon, lat)

    def _along_geodesics(self, bearing_deg: Floats, distance_m: Floats) -> tuple[Floats, Floats]:
        shape = bearing_deg.shape
        lon, lat, _ = GEOD.fwd(
            np.full(shape, self.lon_deg), np.full(shape, self.lat_deg), bearing_deg + self.heading_deg, distance_m
        )
        return lon, lat

    def __str__(self) -> str:
        return f"{self.lat_deg:.6f}, {self.lon_deg:.6f}"


def chip_frame(latlon_deg: ArrayLike, size_px: int, gsd_m: float, heading_deg: float) -> ChipFrame:
    """Return the frame of a chip after checking what was asked.

    Raises:
        InvalidChipError: a number is not finite or out of range.
    """
    position = np.asarray(latlon_deg, dtype=np.float64)
    if position.shape != (2,) or not np.isfinite(position).all():
        raise InvalidChipError(f"latlon_deg must be one finite (latitude, longitude), not {latlon_deg!r}")
    lat, lon = float(position[0]), float(position[1])
    if abs(lat) > 90.0 or abs(lon) > 360.0:
        raise InvalidChipError(f"latlon_deg {lat}, {lon} is out of range; latitude comes first, within -90 to 90")
    if int(size_px) != size_px or size_px < 1:
        raise InvalidChipError(f"size_px must be a whole number of at least 1, not {size_px}")
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise InvalidChipError(f"gsd_m must be a positive number of metres, not {gsd_m}")
    if not math.isfinite(heading_deg):
        raise InvalidChipError(f"heading_deg must be finite, not {heading_deg}")
    if size_px * gsd_m > 1e7:
        raise InvalidChipError(f"a chip of {size_px} px at {gsd_m} m is wider than a hemisphere; make it smaller")
    return ChipFrame(lat, lon, int(size_px), float(gsd_m), float(heading_deg))


class ChipSource:
    """Shared by all sources, which can be pickled: checks what is asked, and says where a chip misses the imagery."""

    uri: str
    skipped: Sequence[tuple[str, str]]

    def cut(self, frame: ChipFrame) -> Chip | None:
        """Return the chip of a frame, or None where no pixel is valid."""
        raise NotImplementedError

    def chip(self, latlon_deg: ArrayLike, *, size_px: int, gsd_m: float, heading_deg: float = 0.0) -> Chip:
        """Cut a square of true ground size, in one resampling.

        Args:
            latlon_deg: (2,) centre, WGS84, latitude first.
            size_px: width and height of the chip in pixels.
            gsd_m: metres on the ground per pixel, on the WGS84 ellipsoid, whatever the latitude and the CRS.
            heading_deg: where the top points, clockwise from north.

        Returns:
            The chip; pixels outside the imagery are 0 and not valid.

        Raises:
            OutsideCoverageError: not one pixel is valid.
            InvalidChipError: a number is out of range.
            UnreadableRasterError: the file fails while being read.
        """
        frame = chip_frame(latlon_deg, size_px, gsd_m, heading_deg)
        chip = self.cut(frame)
        if chip is None:
            raise OutsideCoverageError(f"{self.uri}: no imagery at {frame}; coverage() tells where there is")
        return chip
