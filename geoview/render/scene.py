"""What a street camera looks at: colours from above, heights, and what stands where, on one metric grid."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Proj, Transformer
from rasterio.transform import Affine
from scipy import ndimage

__all__ = ["Buildings", "Cover", "Grid", "Scene"]


class Cover(IntEnum):
    """What the surface is at a pixel."""

    GROUND = 0
    BUILDING = 1
    CANOPY = 2
    WATER = 3


@dataclass(frozen=True)
class Grid:
    """Where a raster lies: north up, square pixels, in a metric CRS.

    The *local frame* counts metres from the outer corner of the first pixel: x east, y **south**, so that column and
    row are x / gsd and y / gsd.

    Attributes:
        crs: Projected CRS in metres, such as `EPSG:32633`.
        left_m: Easting of the left edge.
        top_m: Northing of the upper edge.
        gsd_m: Edge of a pixel.
        shape: (rows, columns).
    """

    crs: str
    left_m: float
    top_m: float
    gsd_m: float
    shape: tuple[int, int]

    @property
    def size_m(self) -> tuple[float, float]:
        """(width, height)."""
        return self.shape[1] * self.gsd_m, self.shape[0] * self.gsd_m

    @property
    def transform(self) -> Affine:
        """From (column, row) to CRS coordinates, as rasterio has it."""
        return Affine(self.gsd_m, 0.0, self.left_m, 0.0, -self.gsd_m, self.top_m)

    @cached_property
    def convergence_deg(self) -> float:
        """Clockwise turn of grid north from true north in the middle: true heading is grid heading plus this."""
        width, height = self.size_m
        lat, lon = self.latlon_deg(np.array([width / 2, height / 2]))
        return float(Proj(self.crs).get_factors(lon, lat).meridian_convergence)

    def latlon_deg(self, xy_m: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns WGS84 positions (..., 2), latitude first, of local positions (..., 2)."""
        xy_m = np.asarray(xy_m, np.float64)
        lon, lat = self._to_wgs84.transform(self.left_m + xy_m[..., 0], self.top_m - xy_m[..., 1])
        return np.stack([lat, lon], axis=-1)

    def xy_m(self, latlon_deg: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns local positions (..., 2) of WGS84 positions (..., 2), latitude first; may lie outside the raster."""
        latlon_deg = np.asarray(latlon_deg, np.float64)
        east, north = self._from_wgs84.transform(latlon_deg[..., 1], latlon_deg[..., 0])
        return np.stack([np.asarray(east) - self.left_m, self.top_m - np.asarray(north)], axis=-1)

    @cached_property
    def _to_wgs84(self) -> Transformer:
        return Transformer.from_crs(CRS(self.crs), "EPSG:4326", always_xy=True)

    @cached_property
    def _from_wgs84(self) -> Transformer:
        return Transformer.from_crs("EPSG:4326", CRS(self.crs), always_xy=True)


@dataclass(frozen=True)
class Scene:
    """The ground as a street camera meets it.

    Attributes:
        grid: Where the arrays lie.
        texture: (H, W, 3) uint8 colours from above, free of cast shadows where they can be had so.
        surface_m: (H, W) float32 height of what is on top: roofs, crowns, ground.
        terrain_m: (H, W) float32 height of the bare ground.
        cover: (H, W) uint8 of `Cover`.
        standing: (H, W) bool, where a photographer may stand.
        seed: Of what cannot be seen from above, the facades.
    """

    grid: Grid
    texture: NDArray[np.uint8]
    surface_m: NDArray[np.float32]
    terrain_m: NDArray[np.float32]
    cover: NDArray[np.uint8]
    standing: NDArray[np.bool_]
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("texture", "surface_m", "terrain_m", "cover", "standing"):
            if getattr(self, name).shape[:2] != self.grid.shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, the grid {self.grid.shape}")

    @cached_property
    def trunks(self) -> NDArray[np.bool_]:
        """(H, W): where a crown is highest, within 2 m, stands its trunk."""
        canopy = self.cover == Cover.CANOPY
        reach_px = 2 * max(1, round(2.0 / self.grid.gsd_m)) + 1
        # Crowns are flat on top in some maps; whose pixel is highest is then drawn.
        ties = np.random.default_rng([self.seed, 13]).random(self.grid.shape, np.float32) * np.float32(0.1)
        crowns = np.where(canopy, self.surface_m + ties, np.float32(-np.inf))
        highest = ndimage.maximum_filter(crowns, size=reach_px)
        return np.asarray(canopy & (crowns >= highest))

    @cached_property
    def buildings(self) -> Buildings:
        """The buildings apart."""
        return Buildings.found(self.cover == Cover.BUILDING, self.seed)


@dataclass(frozen=True)
class Buildings:
    """Which building stands at a pixel, and how its walls run.

    Attributes:
        label: (H, W) int32, 0 where none stands.
        axis_rad: (n + 1,) direction of each building's walls in the local frame, modulo a right angle.
        key: (n + 1,) uint64 that all invented properties of a building are drawn from.
    """

    label: NDArray[np.int32]
    axis_rad: NDArray[np.float32]
    key: NDArray[np.uint64]

    @classmethod
    def found(cls, mask: NDArray[np.bool_], seed: int) -> Buildings:
        """Parts connected buildings and finds the axis of each from the directions of its edges."""
        label, n = ndimage.label(mask)
        smooth = ndimage.uniform_filter(mask.astype(np.float32), size=5)
        across, down = ndimage.sobel(smooth, axis=1), ndimage.sobel(smooth, axis=0)
        edge = mask & (across**2 + down**2 > 1e-3)
        of, across, down = label[edge], across[edge], down[edge]
        # The four directions of a rectangle's edges are one in the fourth power.
        turned = (across + 1j * down) ** 4
        along = np.bincount(of, turned.real, n + 1) + 1j * np.bincount(of, turned.imag, n + 1)
        axis = (np.angle(along) / 4).astype(np.float32)
        key = np.random.default_rng([seed, 11]).integers(1, 2**63, n + 1, dtype=np.uint64)
        return cls(label.astype(np.int32, copy=False), axis, key)
