"""A procedural region that can be looked at from above and from the street, on any of several dates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from scipy.ndimage import distance_transform_edt
from shapely import Polygon

from geoview.errors import RenderError
from geoview.render.scene import Grid
from geoview.render.world.fabric import Plan
from geoview.render.world.landuse import make_plan
from geoview.render.world.layout import Field
from geoview.render.world.paint import window_of
from geoview.render.world.state import Ground, State, WorldObject, state_at
from geoview.render.world.styles import STYLE, STYLES, TRAINING_STYLES, UNSEEN_STYLE

__all__ = ["STYLES", "TRAINING_STYLES", "UNSEEN_STYLE", "State", "World", "WorldObject", "make_world"]

_LEAST_SIDE_M = 100.0
_PLACES_ASIDE = 25
_PLACE_STEP_M = 4000.0
_WATER_LEVEL_M = 20.0


@dataclass(frozen=True)
class World:
    """A procedural region.

    Attributes:
        style: One of `STYLES`.
        seed: What it was made from.
        grid: Where its arrays lie.
        plan: What stands where, whatever the date.
    """

    style: str
    seed: int
    grid: Grid
    plan: Plan = field(repr=False)

    @property
    def districts(self) -> list[tuple[str, Polygon]]:
        """Names and polygons (local metres) that cover the region."""
        return self.plan.districts

    def state(self, epoch: int) -> State:
        """Returns the region at an epoch: 0 when street photos were taken, 1 when it was imaged from above, and so on.

        From one epoch to the next the season changes, a share of the buildings and trees is replaced, and all vehicles
        are others. The same epoch is always the same.

        Raises:
            RenderError: The epoch is negative.
        """
        if epoch < 0:
            raise RenderError(f"epoch {epoch} of a world does not exist: epochs count from 0")
        return state_at(self._ground, epoch)

    @cached_property
    def terrain_m(self) -> NDArray[np.float32]:
        """(H, W) float32 height of the bare ground: hills that fall to one level at all open water."""
        plan, shape, gsd = self.plan, self.grid.shape, self.grid.gsd_m
        rng = np.random.default_rng([_key(self.style, self.seed), 2])
        low, high = plan.style.relief_m
        relief = rng.uniform(low, high)
        coarse_m = 8.0
        small = math.ceil(plan.size_m[1] / coarse_m) + 2, math.ceil(plan.size_m[0] / coarse_m) + 2
        hills = Field(rng, plan.size_m, 900.0, 3).raster(small, coarse_m)
        hills = relief * (hills - hills.min()) / max(2.6, float(np.ptp(hills)))
        wet = np.zeros(small, bool)
        for part in plan.water:
            rows, columns, inside = window_of(part, coarse_m, small)
            wet[rows, columns] |= inside
        if wet.any():
            away = distance_transform_edt(~wet) * coarse_m
            hills = hills * np.clip(away / 160.0, 0.0, 1.0) ** 1.2
        size = shape[1], shape[0]
        box = (0.0, 0.0, shape[1] * gsd / coarse_m, shape[0] * gsd / coarse_m)
        smooth = Image.fromarray(hills.astype(np.float32)).resize(size, Image.Resampling.BICUBIC, box=box)
        terrain = np.maximum(np.array(smooth, np.float32), 0.0) + np.float32(_WATER_LEVEL_M + 1.6)
        dry = shapely.union_all(plan.decks)
        for part in plan.water:
            for open_part in shapely.get_parts(part.difference(dry)).tolist():
                if open_part.geom_type == "Polygon":
                    rows, columns, inside = window_of(open_part, gsd, shape)
                    terrain[rows, columns][inside] = _WATER_LEVEL_M
        for pond in plan.ponds:
            rows, columns, inside = window_of(pond, gsd, shape)
            if inside.any():
                window = terrain[rows, columns]
                window[inside] = window[inside].min() - 0.3
        return terrain

    @cached_property
    def _ground(self) -> Ground:
        return Ground(self.plan, self.grid, _key(self.style, self.seed), self.terrain_m, self._noise)

    @cached_property
    def _noise(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Broad wear, fine grain and dryness of the ground, each (H, W)."""
        shape, gsd, size = self.grid.shape, self.grid.gsd_m, self.plan.size_m
        rng = np.random.default_rng([_key(self.style, self.seed), 3])
        broad = Field(rng, size, 60.0, 3).raster(shape, gsd)
        fine = Field(rng, size, 5.0, 2).raster(shape, gsd)
        fine = 0.6 * fine + 0.8 * rng.standard_normal(shape, np.float32)
        dry = Field(rng, size, 150.0, 4).raster(shape, gsd)
        return broad, fine, dry


def make_world(style: str, seed: int, *, size_m: tuple[float, float], gsd_m: float = 0.5) -> World:
    """Returns a procedural region; the same for the same arguments.

    It lies at a plausible place of its style; regions of up to 4 km with seeds below 7500 never overlap within a style.

    Args:
        style: One of `STYLES`.
        seed: From 0.
        size_m: (width, height), at least 100 m each.
        gsd_m: Edge of a pixel.

    Raises:
        RenderError: The style is unknown, the seed negative, a side shorter than 100 m or the pixel no usable size.
    """
    if style not in STYLE:
        raise RenderError(f"style {style!r} is unknown: choose one of {', '.join(STYLES)}")
    if seed < 0:
        raise RenderError(f"seed {seed} is negative: choose one from 0")
    if not (min(size_m) >= _LEAST_SIDE_M and math.isfinite(sum(size_m))):
        raise RenderError(f"a world of {size_m[0]:g} x {size_m[1]:g} m cannot be made: give at least 100 m a side")
    if not 0.05 <= gsd_m <= 5.0:
        raise RenderError(f"gsd_m {gsd_m:g} is no usable pixel size: give 0.05 to 5 m")
    shape = round(size_m[1] / gsd_m), round(size_m[0] / gsd_m)
    crs, left_m, top_m = _place(style, seed)
    grid = Grid(crs, left_m, top_m, gsd_m, shape)
    return World(style, seed, grid, make_plan(STYLE[style], _key(style, seed), grid.size_m))


def _place(style: str, seed: int) -> tuple[str, float, float]:
    """Returns CRS, easting and northing of the upper left corner, on whole metres."""
    anchors = STYLE[style].anchors_deg
    lat_deg, lon_deg = anchors[seed % len(anchors)]
    zone = int((lon_deg + 180.0) // 6.0) + 1
    crs = f"EPSG:{(32600 if lat_deg >= 0 else 32700) + zone}"
    east, north = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon_deg, lat_deg)
    row, column = divmod(seed // len(anchors) % _PLACES_ASIDE**2, _PLACES_ASIDE)
    middle = _PLACES_ASIDE // 2
    return (
        crs,
        float(round(east + (column - middle) * _PLACE_STEP_M)),
        float(round(north + (row - middle) * _PLACE_STEP_M)),
    )


def _key(style: str, seed: int) -> int:
    """The seed of everything drawn: styles share seeds but no streams of random numbers."""
    return seed * len(STYLES) + STYLES.index(style)
