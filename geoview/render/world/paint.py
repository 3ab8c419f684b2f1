"""Pixels of a region: polygons and lines on the ground, then roofs and crowns raised above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter
from shapely import Polygon

from geoview.render.scene import Cover
from geoview.render.world.layout import Rect
from geoview.render.world.styles import MATERIALS, Material, Rgb

__all__ = ["Canvas", "Crowns", "Raised", "Roof", "lift_roof", "textured", "window_of"]

_CHUNK_ROWS = 256


class Canvas:
    """The ground while it is drawn: colours, materials, heights of thin things above it, and which of it is road."""

    def __init__(self, shape: tuple[int, int], gsd_m: float, colour: Rgb, material: Material) -> None:
        size = shape[1], shape[0]
        self.gsd_m = gsd_m
        self._colour = Image.new("RGB", size, colour)
        self._material = Image.new("L", size, int(material))
        self._road = Image.new("L", size, 0)
        self._lift = Image.new("F", size, 0.0)
        self._draw_colour = ImageDraw.Draw(self._colour)
        self._draw_material = ImageDraw.Draw(self._material)
        self._draw_road = ImageDraw.Draw(self._road)
        self._draw_lift = ImageDraw.Draw(self._lift)

    def _pixels(self, xy_m: NDArray[np.floating]) -> list[float]:
        return (xy_m / self.gsd_m - 0.5).ravel().tolist()

    def area(self, shape: Polygon, colour: Rgb, material: Material, road: bool | None = None) -> None:
        """Fills a polygon, its holes left as they are; `road` overrides what is known of the way there."""
        if shape.is_empty:
            return
        if shape.interiors:
            self._pierced(shape, colour, material, road)
            return
        xy = self._pixels(shapely.get_coordinates(shape.exterior))
        self._draw_colour.polygon(xy, fill=colour)
        self._draw_material.polygon(xy, fill=int(material))
        if road is not None:
            self._draw_road.polygon(xy, fill=int(road))

    def _pierced(self, shape: Polygon, colour: Rgb, material: Material, road: bool | None) -> None:
        left, top, mask = mask_of(shape, self.gsd_m)
        stencil = Image.fromarray(mask)
        self._colour.paste(colour, (left, top), stencil)
        self._material.paste(int(material), (left, top), stencil)
        if road is not None:
            self._road.paste(int(road), (left, top), stencil)

    def line(self, xy_m: NDArray[np.floating], width_m: float, colour: Rgb, material: Material | None = None) -> None:
        """Draws a line, never thinner than a pixel; without a material the ground stays what it was."""
        width = max(1, round(width_m / self.gsd_m))
        self._draw_colour.line(self._pixels(xy_m), fill=colour, width=width)
        if material is not None:
            self._draw_material.line(self._pixels(xy_m), fill=int(material), width=width)

    def wall(
        self, xy_m: NDArray[np.floating], width_m: float, height_m: float, colour: Rgb, material: Material
    ) -> None:
        """Draws a line that stands up from the ground."""
        self.line(xy_m, width_m, colour, material)
        self._draw_lift.line(self._pixels(xy_m), fill=height_m, width=max(1, round(width_m / self.gsd_m)))

    def box(self, corners_m: NDArray[np.floating], height_m: float, colour: Rgb) -> None:
        """Draws a movable thing."""
        xy = self._pixels(corners_m)
        self._draw_colour.polygon(xy, fill=colour)
        self._draw_material.polygon(xy, fill=int(Material.MOVABLE))
        self._draw_lift.polygon(xy, fill=height_m)

    def detail(self, corners_m: NDArray[np.floating], colour: Rgb) -> None:
        """Draws a coloured area on top of something drawn before."""
        self._draw_colour.polygon(self._pixels(corners_m), fill=colour)

    @property
    def colour(self) -> NDArray[np.uint8]:
        """(H, W, 3) colours."""
        return np.array(self._colour)

    @property
    def material(self) -> NDArray[np.uint8]:
        """(H, W) of `Material`."""
        return np.array(self._material)

    @property
    def road(self) -> NDArray[np.bool_]:
        """(H, W) bool, roads, pavements, squares."""
        return np.array(self._road) > 0

    @property
    def lift_m(self) -> NDArray[np.float32]:
        """(H, W) height of walls, hedges and vehicles above the ground."""
        return np.array(self._lift, np.float32)


def mask_of(shape: Polygon, gsd_m: float) -> tuple[int, int, NDArray[np.uint8]]:
    """Returns first column, first row and a mask (0 or 255) of a polygon's own window."""
    x0, y0, x1, y1 = (bound / gsd_m for bound in shape.bounds)
    left, top = math.floor(x0), math.floor(y0)
    size = math.ceil(x1) - left + 1, math.ceil(y1) - top + 1
    return left, top, _clipped_mask(shape, gsd_m, left, top, (size[1], size[0]))


def window_of(of: Polygon, gsd_m: float, shape: tuple[int, int]) -> tuple[slice, slice, NDArray[np.bool_]]:
    """Returns the rows and columns of a raster around a polygon, and its mask there (empty if outside)."""
    left, top, mask = mask_of(of, gsd_m)
    r0, c0 = min(max(top, 0), shape[0]), min(max(left, 0), shape[1])
    r1, c1 = max(r0, min(top + mask.shape[0], shape[0])), max(c0, min(left + mask.shape[1], shape[1]))
    return slice(r0, r1), slice(c0, c1), mask[r0 - top : r1 - top, c0 - left : c1 - left] > 0


def textured(
    colour: NDArray[np.uint8],
    material: NDArray[np.uint8],
    broad: NDArray[np.float32],
    fine: NDArray[np.float32],
    dry: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Returns colours (H, W, 3) with each material's texture; noises (H, W) are of unit variance."""
    looks = [MATERIALS[Material(k)] for k in range(len(Material))]
    broad_of, fine_of, patchy_of = (
        np.array([getattr(look, name) for look in looks], np.float32) for name in ("broad", "fine", "patchy")
    )
    out = np.empty_like(colour)
    for row in range(0, len(colour), _CHUNK_ROWS):
        rows = slice(row, row + _CHUNK_ROWS)
        kind = material[rows]
        factor = 1.0 + broad_of[kind] * broad[rows] + fine_of[kind] * fine[rows]
        wilt = patchy_of[kind] * np.maximum(dry[rows], -1.0)
        values = colour[rows].astype(np.float32) * factor[..., None]
        for channel, amount in enumerate((13.0, 6.0, 3.0)):
            values[..., channel] += np.float32(amount) * wilt
        out[rows] = np.clip(values, 3, 252)
    return out


@dataclass
class Raised:
    """What stands above the ground, filled in by roofs and crowns."""

    gsd_m: float
    albedo: NDArray[np.uint8]
    surface_m: NDArray[np.float32]
    cover: NDArray[np.uint8]
    terrain_m: NDArray[np.float32]
    fine: NDArray[np.float32]

    def window(
        self, left: int, top: int, mask: NDArray[np.uint8]
    ) -> tuple[slice, slice, NDArray[np.bool_], int, int] | None:
        """Returns rows, columns, the part of a mask inside the raster, and where that part begins in the mask."""
        rows, columns = self.cover.shape
        r0, c0 = max(top, 0), max(left, 0)
        r1, c1 = min(top + mask.shape[0], rows), min(left + mask.shape[1], columns)
        if r0 >= r1 or c0 >= c1:
            return None
        inside = mask[r0 - top : r1 - top, c0 - left : c1 - left] > 0
        if not inside.any():
            return None
        return slice(r0, r1), slice(c0, c1), inside, r0 - top, c0 - left


@dataclass(frozen=True)
class Roof:
    """A roof to raise: its form ("flat", "gable", "hip", "metal"), colour, eaves height and pitch (rise over run)."""

    form: str
    colour: Rgb
    eaves_m: float
    pitch: float
    seed: int


def lift_roof(
    to: Raised, footprint: Polygon, wings: Sequence[Rect], slopes_from: Polygon | None, roof: Roof, sun_rad: float
) -> float:
    """Raises one building; returns the height of its ridge above the ground, 0 where it lies outside the raster.

    Args:
        to: Arrays to draw into.
        footprint: Its outline, local metres.
        wings: Rectangles under gables or hips; empty for an outline of any form.
        slopes_from: The polygon from whose edges the roof rises when there are no wings.
        roof: What to build.
        sun_rad: Direction (from x towards y) that the weathered sides turn away from.
    """
    gsd = to.gsd_m
    left, top, mask = mask_of(footprint, gsd)
    found = to.window(left, top, mask)
    if found is None:
        return 0.0
    rows, columns, inside, r0, c0 = found
    rng = np.random.default_rng(roof.seed)
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5)[:, None] * gsd
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5)[None, :] * gsd
    rise = np.zeros(inside.shape, np.float32)
    tone = np.ones(inside.shape, np.float32)
    if roof.form == "flat":
        if gsd <= 1.0:
            edge = inside & ~_eroded(inside)
            tone[edge] = 1.16 if rng.random() < 0.6 else 0.84
            rise[edge] = 0.4
        _plant(rng, inside, rise, tone, gsd)
    elif wings:
        for wing in wings:
            cos, sin = math.cos(wing.angle), math.sin(wing.angle)
            u = (x - wing.x) * cos + (y - wing.y) * sin
            v = (y - wing.y) * cos - (x - wing.x) * sin
            down = wing.width / 2 - np.abs(v)
            within = (down > -gsd) & (np.abs(u) < wing.length / 2 + gsd)
            facing = math.cos(wing.angle + math.pi / 2 - sun_rad)
            shade = np.where(v > 0, 1.0 + 0.13 * facing, 1.0 - 0.13 * facing)
            if roof.form == "hip":
                end = wing.length / 2 - np.abs(u)
                at_end = end < down
                down = np.minimum(down, end)
                shade = np.where(at_end, 1.0 + np.sign(u) * 0.13 * math.cos(wing.angle - sun_rad), shade)
            if roof.form == "metal":
                rib = rng.uniform(4.0, 7.5)
                bright = np.where((u / rib) % 1.0 < 0.18, rng.choice((0.84, 1.14)), 1.0)
                shade = shade * bright
            height = np.maximum(down, 0.0) * roof.pitch
            higher = within & (height >= rise)
            rise = np.where(higher, height, rise)
            tone = np.where(higher, shade, tone)
    elif slopes_from is not None:
        pad = math.ceil(9.0 / gsd)
        whole = _clipped_mask(
            slopes_from, gsd, left - pad, top - pad, (mask.shape[0] + 2 * pad, mask.shape[1] + 2 * pad)
        )
        away = distance_transform_edt(whole).astype(np.float32) * gsd
        away = gaussian_filter(away, 0.5 / gsd)[pad : pad + mask.shape[0], pad : pad + mask.shape[1]]
        dy, dx = np.gradient(away)
        facing = (dx * math.cos(sun_rad) + dy * math.sin(sun_rad)) / gsd
        part = slice(r0, r0 + inside.shape[0]), slice(c0, c0 + inside.shape[1])
        rise = np.minimum(away[part], 6.5) * roof.pitch
        tone = 1.0 - 0.13 * facing[part]
        if rng.random() < 0.5:
            _plant(rng, inside, rise, tone, gsd, small=True)
    base = float(to.terrain_m[rows, columns][inside].mean())
    height = np.maximum(base + roof.eaves_m + rise, to.terrain_m[rows, columns] + 2.2)
    surface = to.surface_m[rows, columns]
    wins = inside & ((height > surface) | (to.cover[rows, columns] != Cover.BUILDING))
    surface[wins] = height[wins]
    stain = rng.standard_normal((3, 3)).astype(np.float32)
    patch = np.asarray(Image.fromarray(stain).resize((inside.shape[1], inside.shape[0]), Image.Resampling.BICUBIC))
    shade = tone * (1.0 + 0.035 * patch + 0.035 * to.fine[rows, columns])
    colour = np.clip(shade[..., None] * np.array(roof.colour, np.float32), 3, 250).astype(np.uint8)
    to.albedo[rows, columns][wins] = colour[wins]
    to.cover[rows, columns][wins] = Cover.BUILDING
    return float(roof.eaves_m + rise[inside].max())


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    out = mask.copy()
    out[1:] &= mask[:-1]
    out[:-1] &= mask[1:]
    out[:, 1:] &= mask[:, :-1]
    out[:, :-1] &= mask[:, 1:]
    out[0], out[-1], out[:, 0], out[:, -1] = False, False, False, False
    return out


def _clipped_mask(shape: Polygon, gsd_m: float, left: int, top: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask (0 or 255) of a polygon in a window that begins at (left, top)."""
    image = Image.new("L", (size[1], size[0]), 0)
    draw = ImageDraw.Draw(image)
    for ring, fill in ((shape.exterior, 255), *((hole, 0) for hole in shape.interiors)):
        xy = shapely.get_coordinates(ring) / gsd_m - (left + 0.5, top + 0.5)
        draw.polygon(xy.ravel().tolist(), fill=fill)
    return np.asarray(image)


def _plant(
    rng: np.random.Generator,
    inside: NDArray[np.bool_],
    rise: NDArray[np.float32],
    tone: NDArray[np.float32],
    gsd_m: float,
    small: bool = False,
) -> None:
    """Puts ventilation, stair heads and skylights on a roof."""
    rows, columns = inside.shape
    area = float(inside.sum()) * gsd_m**2
    count = min(60, int(rng.poisson(area / (90.0 if small else 130.0))))
    for _ in range(count):
        side = rng.uniform(0.8, 1.6) if small else rng.uniform(1.2, 4.0)
        high, wide = max(1, round(side / gsd_m)), max(1, round(side * rng.uniform(0.7, 1.6) / gsd_m))
        r, c = int(rng.integers(rows)), int(rng.integers(columns))
        if r + high + 1 >= rows or c + wide + 1 >= columns or not inside[r : r + high + 1, c : c + wide + 1].all():
            continue
        rise[r : r + high, c : c + wide] += rng.uniform(0.3, 2.2 if not small else 0.9)
        tone[r : r + high, c : c + wide] *= rng.choice((0.72, 0.8, 1.18, 1.28))


class Crowns:
    """Stamps of tree crowns for one ground sampling distance."""

    FORMS = 7  # different stamps of one size
    _STEP_M = 0.5

    def __init__(self, gsd_m: float) -> None:
        self._gsd_m = gsd_m
        self._made: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def stamp(self, radius_m: float, form: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns height in shares of the tree's (negative outside the crown) and brightness, both (k, k)."""
        key = max(1, round(radius_m / self._STEP_M)), form % self.FORMS
        if key not in self._made:
            self._made[key] = self._make(key[0] * self._STEP_M, key)
        return self._made[key]

    def _make(self, radius_m: float, key: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rng = np.random.default_rng([key[0], key[1], 17])
        radius = radius_m / self._gsd_m
        half = math.ceil(radius) + 1
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        turn = np.arctan2(y, x)
        edge = np.ones_like(x)
        for k in (2, 3, 5, 7):
            edge += rng.uniform(0.0, 0.22) / math.sqrt(k) * np.cos(k * turn + rng.uniform(0, 6.3))
        away = np.hypot(x, y) / (radius * edge)
        rough = gaussian_filter(rng.standard_normal(x.shape), max(0.3, 0.55 / self._gsd_m))
        rough = (rough / (rough.std() + 1e-6)).astype(np.float32)
        dome = np.sqrt(np.clip(1.0 - away**2, 0.0, 1.0))
        profile = np.where(away <= 1.0, 0.5 + 0.5 * dome + 0.05 * rough, -1e6).astype(np.float32)
        tone = 0.78 + 0.3 * dome + 0.13 * rough
        return np.minimum(profile, 1.0), tone.astype(np.float32)

    def plant(
        self,
        to: Raised,
        x_m: float,
        y_m: float,
        radius_m: float,
        height_m: float,
        form: int,
        colour: NDArray[np.float32],
    ) -> None:
        """Raises one crown where it overtops what stands there."""
        profile, tone = self.stamp(radius_m, form)
        half = profile.shape[0] // 2
        row, column = int(y_m / self._gsd_m), int(x_m / self._gsd_m)
        rows, columns = to.cover.shape
        r0, r1, c0, c1 = (
            max(row - half, 0),
            min(row + half + 1, rows),
            max(column - half, 0),
            min(column + half + 1, columns),
        )
        if r0 >= r1 or c0 >= c1:
            return
        part = slice(r0 - row + half, r1 - row + half), slice(c0 - column + half, c1 - column + half)
        here = slice(r0, r1), slice(c0, c1)
        ground = to.terrain_m[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
        height = ground + height_m * profile[part]
        surface = to.surface_m[here]
        wins = height > surface
        np.copyto(surface, height, where=wins)
        painted = (tone[part][..., None] * colour).astype(np.uint8)
        np.copyto(to.albedo[here], painted, where=wins[..., None])
        np.copyto(to.cover[here], np.uint8(Cover.CANOPY), where=wins)
