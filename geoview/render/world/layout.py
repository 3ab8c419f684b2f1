"""Geometry of a region before anything is built: smooth fields, areas split in two, nets of streets, winding lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates, spline_filter
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

__all__ = [
    "Field",
    "Rect",
    "Street",
    "bend",
    "frame",
    "grid_net",
    "parts",
    "split",
    "split_net",
    "subdivide",
    "winding_line",
]

_FAR_M = 1e5


class Field:
    """A smooth random function of position, of zero mean and unit variance: octaves of interpolated random grids."""

    def __init__(
        self, rng: np.random.Generator, size_m: tuple[float, float], wavelength_m: float, octaves: int = 1
    ) -> None:
        self._cell_m = wavelength_m / 2**octaves
        columns, rows = (math.ceil(side / self._cell_m) + 7 for side in size_m)
        grid = np.zeros((rows, columns), np.float32)
        for octave in range(octaves):
            step = 2 ** (octaves - octave)
            coarse = rng.standard_normal((rows // step + 4, columns // step + 4), np.float32)
            fine = Image.fromarray(coarse).resize(
                (coarse.shape[1] * step, coarse.shape[0] * step), Image.Resampling.BICUBIC
            )
            grid += np.asarray(fine)[:rows, :columns] * 0.55**octave
        self.grid = (grid - grid.mean()) / (grid.std() + 1e-6)

    @cached_property
    def _spline(self) -> NDArray[np.float64]:
        return np.asarray(spline_filter(self.grid, order=3, mode="nearest"))

    def at(self, xy_m: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns values at local positions (..., 2)."""
        xy = np.asarray(xy_m, np.float64)
        where = xy.reshape(-1, 2).T[::-1] / self._cell_m + 3.0
        values = map_coordinates(self._spline, where, np.float64, order=3, mode="nearest", prefilter=False)
        return np.asarray(values.reshape(xy.shape[:-1]), np.float64)

    def raster(self, shape: tuple[int, int], gsd_m: float) -> NDArray[np.float32]:
        """Returns values at the pixel centres of a raster that begins at the local origin."""
        rows, columns = shape
        step = gsd_m / self._cell_m
        box = (3.5, 3.5, 3.5 + columns * step, 3.5 + rows * step)
        image = Image.fromarray(self.grid).resize((columns, rows), Image.Resampling.BICUBIC, box=box)
        return np.asarray(image, np.float32)


class Rect(NamedTuple):
    """A rectangle with its long axis turned by `angle` from x towards y (radians); metres."""

    x: float
    y: float
    angle: float
    length: float
    width: float

    def corners(self) -> NDArray[np.float64]:
        """Returns the four corners (4, 2)."""
        return self.points(np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]))

    def points(self, uv: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns local positions (..., 2) of (along, across) in shares of length and width from the middle."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u, v = uv[..., 0] * self.length, uv[..., 1] * self.width
        return np.stack([self.x + u * cos - v * sin, self.y + u * sin + v * cos], axis=-1)

    def polygon(self) -> Polygon:
        """Returns the rectangle as a polygon."""
        return Polygon(self.corners())

    def moved(self, along_m: float, across_m: float) -> Rect:
        """Returns the rectangle moved along its own axes."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self._replace(x=self.x + along_m * cos - across_m * sin, y=self.y + along_m * sin + across_m * cos)


def frame(shape: Polygon) -> Rect:
    """Returns the smallest rectangle around a polygon, its length never less than its width."""
    corners = shapely.get_coordinates(shapely.oriented_envelope(shape))
    if len(corners) < 5:
        x, y = shape.centroid.coords[0]
        return Rect(x, y, 0.0, 0.0, 0.0)
    centre, edges = corners[:4].mean(axis=0), np.diff(corners[:3], axis=0)
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    long = int(np.argmax(lengths))
    angle = math.atan2(edges[long, 1], edges[long, 0])
    return Rect(float(centre[0]), float(centre[1]), angle, float(lengths[long]), float(lengths[1 - long]))


def parts(shape: BaseGeometry, least_m2: float = 1.0) -> Iterator[Polygon]:
    """Yields the polygons of a geometry that are not slivers."""
    for part in shapely.get_parts(shape).tolist():
        if part.geom_type == "Polygon" and part.area >= least_m2:
            yield part


def split(shape: Polygon, x: float, y: float, angle: float) -> tuple[list[Polygon], list[Polygon]]:
    """Returns the pieces of a polygon left and right of the straight line through (x, y) at an angle (radians)."""
    along = np.array([math.cos(angle), math.sin(angle)]) * _FAR_M
    aside = np.array([-along[1], along[0]])
    start, stop = np.array([x, y]) - along, np.array([x, y]) + along
    sides = []
    for sign in (1, -1):
        half = Polygon([start, stop, stop + sign * aside, start + sign * aside])
        sides.append(list(parts(shape.intersection(half))))
    return sides[0], sides[1]


def subdivide(
    shape: Polygon, rng: np.random.Generator, area_m2: Callable[[Polygon], float] | float, skew_deg: float = 0.0
) -> list[Polygon]:
    """Returns a polygon cut again and again across its longer side, until no piece is much larger than `area_m2`."""
    done, todo = [], [shape]
    while todo:
        piece = todo.pop()
        limit = area_m2 if isinstance(area_m2, float | int) else area_m2(piece)
        if piece.area < limit * rng.uniform(1.0, 1.7):
            done.append(piece)
            continue
        box = frame(piece)
        x, y = box.moved(box.length * rng.uniform(-0.1, 0.1), 0.0)[:2]
        left, right = split(piece, x, y, box.angle + math.pi / 2 + math.radians(skew_deg) * rng.standard_normal())
        if left and right:
            todo += left + right
        else:
            done.append(piece)
    return done


@dataclass(frozen=True)
class Street:
    """A street: its centre line in local metres and its rank, 0 for main roads, 1 for streets, 2 for lanes."""

    line: LineString
    rank: int


def split_net(
    extent: Polygon, rng: np.random.Generator, area_m2: Callable[[Polygon], float], skew_deg: float, main_km2: float
) -> list[Street]:
    """Returns an irregular net: main roads between random points' nearest areas, streets where those are split.

    Args:
        extent: What to cover.
        rng: Source of randomness.
        area_m2: Area of the blocks wanted around a polygon.
        skew_deg: Standard deviation of the angle between streets and the right angle.
        main_km2: Area between main roads.
    """
    left, top, right, bottom = extent.bounds
    count = max(3, round(extent.area / (main_km2 * 1e6)))
    seeds = rng.uniform((left, top), (right, bottom), (count, 2))
    areas = shapely.voronoi_polygons(shapely.MultiPoint(seeds), extend_to=extent)
    streets = []
    todo = []
    for area in parts(shapely.intersection(areas, extent)):
        streets.append(Street(LineString(area.exterior.coords), 0))
        todo.append((area, 0))
    while todo:
        area, depth = todo.pop()
        if area.area < area_m2(area) * rng.uniform(0.8, 1.7):
            continue
        box = frame(area)
        x, y = box.moved(box.length * rng.uniform(-0.14, 0.14), 0.0)[:2]
        angle = box.angle + math.pi / 2 + math.radians(skew_deg) * rng.standard_normal()
        one, other = split(area, x, y, angle)
        reach = np.array([math.cos(angle), math.sin(angle)]) * _FAR_M
        cut = area.intersection(LineString([(x - reach[0], y - reach[1]), (x + reach[0], y + reach[1])]))
        for line in shapely.get_parts(cut).tolist():
            if line.geom_type == "LineString" and line.length > 5.0:
                streets.append(Street(line, 1 if depth < 3 else 2))
        todo += [(piece, depth + 1) for piece in one + other]
    return streets


def grid_net(
    extent: Polygon, rng: np.random.Generator, area_m2: Callable[[Polygon], float], turn_rad: float
) -> list[Street]:
    """Returns a right-angled net: main roads half a kilometre apart, between them blocks of one size and direction."""
    centre = extent.centroid
    reach = math.dist((0, 0), (extent.bounds[2] - extent.bounds[0], extent.bounds[3] - extent.bounds[1])) / 2
    cell = rng.uniform(330.0, 480.0, 2)
    offset = rng.uniform(0, 1, 2) * cell
    count = math.ceil(2 * reach / cell.min()) + 2
    streets = []
    turn = Rect(centre.x, centre.y, turn_rad, 1.0, 1.0)

    def add(u0: float, v0: float, u1: float, v1: float, rank: int) -> None:
        line = LineString(turn.points(np.array([(u0, v0), (u1, v1)])))
        if line.intersects(extent):
            streets.append(Street(line, rank))

    starts = [-reach - offset[axis] + cell[axis] * np.arange(count + 1) for axis in (0, 1)]
    for u in starts[0]:
        add(u, starts[1][0], u, starts[1][-1], 0)
    for v in starts[1]:
        add(starts[0][0], v, starts[0][-1], v, 0)
    for i in range(count):
        for j in range(count):
            u, v = starts[0][i], starts[1][j]
            square = Polygon(
                turn.points(np.array([(u, v), (u + cell[0], v), (u + cell[0], v + cell[1]), (u, v + cell[1])]))
            )
            if not square.intersects(extent):
                continue
            area = area_m2(square) * rng.uniform(0.8, 1.3)
            long_u = rng.random() < 0.6
            aspect = rng.uniform(1.6, 2.6)
            width, length = math.sqrt(area / aspect), math.sqrt(area * aspect)
            across = max(2, round((cell[1] if long_u else cell[0]) / width))
            along = max(1, round((cell[0] if long_u else cell[1]) / length))
            for k in range(1, across):
                share = k / across
                if long_u:
                    add(u, v + share * cell[1], u + cell[0], v + share * cell[1], 1)
                else:
                    add(u + share * cell[0], v, u + share * cell[0], v + cell[1], 1)
            shift = rng.uniform(-0.15, 0.15)
            for k in range(1, along):
                share = (k + shift) / along
                first, last = 0, across
                if rng.random() < 0.3:  # a cross street that ends early leaves a double block
                    first, last = int(rng.integers(0, 2)), across - int(rng.integers(0, 2))
                if long_u:
                    add(
                        u + share * cell[0],
                        v + first / across * cell[1],
                        u + share * cell[0],
                        v + last / across * cell[1],
                        2,
                    )
                else:
                    add(
                        u + first / across * cell[0],
                        v + share * cell[1],
                        u + last / across * cell[0],
                        v + share * cell[1],
                        2,
                    )
    return streets


def bend(shape: LineString, fields: tuple[Field, Field], amplitude_m: float) -> LineString:
    """Returns a line displaced smoothly by two fields; lines that met still meet."""

    def displace(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return xy + amplitude_m * np.stack([field.at(xy) for field in fields], axis=-1)

    return shapely.transform(shapely.segmentize(shape, 14.0), displace)


def winding_line(extent: Polygon, rng: np.random.Generator, swing_m: float, wavelength_m: float) -> LineString:
    """Returns a line from one side of the extent to the other, winding about a straight course."""
    left, top, right, bottom = extent.bounds
    reach = math.dist((left, top), (right, bottom)) / 2
    along = np.arange(-1.1 * reach, 1.1 * reach, 10.0)
    sideways = np.zeros_like(along)
    for share, weight in ((1.0, 1.0), (0.45, 0.32), (0.2, 0.07)):
        phase, stretch = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.25)
        sideways += swing_m * weight * np.sin(2 * math.pi * along / (wavelength_m * share * stretch) + phase)
    sideways += rng.uniform(-0.3, 0.3) * min(right - left, bottom - top)
    angle = rng.uniform(0, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = (left + right) / 2 + along * cos - sideways * sin, (top + bottom) / 2 + along * sin + sideways * cos
    return LineString(np.stack([x, y], axis=-1))
