"""What is done on lots again and again: fitting rectangles, finding the street, scattering trees, enclosing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import LineString, MultiPolygon, Point, Polygon
from shapely.geometry.base import BaseGeometry

from geoview.render.world.fabric import Plan, Site, Wall, shade
from geoview.render.world.layout import Rect, frame, parts
from geoview.render.world.styles import Material

__all__ = [
    "blob",
    "border",
    "bowed_line",
    "fit",
    "hedge",
    "largest",
    "lattice",
    "scatter",
    "shed",
    "sideways",
    "street_front",
    "street_ring",
]


def lattice(rng: np.random.Generator, shape: Polygon, spacing_m: float) -> NDArray[np.float64]:
    """Points (N, 2) inside a polygon, about `spacing_m` apart, none on a line with its neighbours."""
    left, top, right, bottom = shape.bounds
    x, y = np.meshgrid(np.arange(left, right, spacing_m), np.arange(top, bottom, spacing_m))
    xy = np.stack([x.ravel(), y.ravel()], axis=-1) + spacing_m * rng.uniform(0.05, 0.95, (x.size, 2))
    return xy[shapely.contains_xy(shape, xy)]


def scatter(
    plan: Plan, rng: np.random.Generator, shape: BaseGeometry, per_1000_m2: float, size: tuple[float, float]
) -> None:
    """Plants trees of random sizes (0..1) and species, so many on 1000 m²."""
    count = int(rng.poisson(shape.area / 1000.0 * per_1000_m2))
    if count == 0:
        return
    left, top, right, bottom = shape.bounds
    xy = rng.uniform((left, top), (right, bottom), (2 * count + 1, 2))
    for x, y in xy[shapely.contains_xy(shape, xy)][:count].tolist():
        plan.tree(rng, x, y, rng.uniform(*size), rng.random())


def border(shape: Polygon, inset_m: float) -> Iterable[NDArray[np.float64]]:
    """Yields the closed outlines (N, 2) of a polygon drawn in by `inset_m`."""
    for part in parts(shape.buffer(-inset_m, join_style="mitre"), 20.0):
        yield shapely.get_coordinates(part.exterior)


def largest(shape: BaseGeometry, least_m2: float) -> Polygon | None:
    """Returns the largest polygon of a geometry; None where all are smaller than `least_m2`."""
    return max(parts(shape, least_m2), key=lambda part: part.area, default=None)


def sideways(box: Rect) -> Rect:
    """The same rectangle seen along its other axis."""
    return box._replace(angle=box.angle + math.pi / 2, length=box.width, width=box.length)


def fit(box: Rect, room: BaseGeometry) -> Rect | None:
    """The rectangle, made smaller until it lies inside; None where it would become too small."""
    for scale in (1.0, 0.88, 0.76, 0.64, 0.5):
        small = box._replace(length=box.length * scale, width=box.width * scale)
        if room.contains(small.polygon()):
            return small if small.width > 6.0 else None
    return None


def street_ring(block: Polygon, setback: float, depth: float) -> tuple[Polygon | None, list[Polygon]]:
    """The strip along a block's edge where houses stand, and the inside."""
    outer = largest(block.buffer(-setback, join_style="mitre"), 150.0)
    if outer is None:
        return None, []
    inner = list(parts(outer.buffer(-depth, join_style="mitre"), 140.0))
    return largest(outer.difference(MultiPolygon(inner)), 40.0), inner


def street_front(block: Polygon, lot: Polygon) -> tuple[Rect, float] | None:
    """A lot's rectangle with its length running to the street, and the end (-1, 1) where the street is."""
    box = frame(lot)
    ends = []
    for turned, bonus in ((box, 0.8), (sideways(box), 0.0)):
        for sign in (-1.0, 1.0):
            x, y = turned.moved(sign * turned.length / 2, 0.0)[:2]
            ends.append((block.exterior.distance(Point(x, y)) - bonus, turned, sign))
    away, turned, sign = min(ends, key=lambda end: end[0])
    return (turned, sign) if away < 3.0 else None


def hedge(plan: Plan, rng: np.random.Generator, shape: Polygon, share: float) -> None:
    """Encloses a lot by hedges, fences or nothing, side by side."""
    green = rng.random() < 0.5
    fence = shade(rng, (142, 128, 110), 0.1)
    for ring in border(shape, 0.4):
        for one, other in itertools.pairwise(ring):
            if rng.random() > share or math.dist(one, other) < 3.0:
                continue
            pair = np.array([one, other])
            if green:
                plan.walls.append(
                    Wall(pair, rng.uniform(0.7, 1.3), rng.uniform(1.1, 2.0), Material.HEDGE, (70, 86, 52))
                )
            else:
                plan.walls.append(Wall(pair, 0.5, rng.uniform(1.0, 1.8), Material.WALL, fence))


def shed(plan: Plan, rng: np.random.Generator, lot: Polygon) -> None:
    """Puts a shed at the side of a lot where it fits."""
    box = frame(lot)
    hut = box.moved(box.length * rng.uniform(-0.35, 0.35), box.width * rng.choice((-0.36, 0.36)))
    hut = hut._replace(length=rng.uniform(2.5, 5.0), width=rng.uniform(2.0, 3.4))
    if lot.contains(hut.polygon()):
        plan.sites.append(Site("shed", (2.2, 2.6), wings=(hut,), roofs=("gable", "flat")))


def bowed_line(
    rng: np.random.Generator, one: NDArray[np.float64], other: NDArray[np.float64], bow: float
) -> LineString:
    """A line between two points that bows aside by about `bow` of their distance."""
    middle = (one + other) / 2 + rng.normal(0, bow, 2) * np.hypot(*(other - one))
    t = np.linspace(0, 1, 16)[:, None]
    return LineString((1 - t) ** 2 * one + 2 * t * (1 - t) * middle + t**2 * other)


def blob(rng: np.random.Generator, centre: NDArray[np.float64], radius_m: float) -> Polygon:
    """Returns a rounded shape of about a radius."""
    turn = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    radius = np.ones_like(turn)
    for k in (2, 3, 5):
        radius += rng.uniform(0.05, 0.42) / k * np.cos(k * turn + rng.uniform(0, 2 * math.pi))
    return Polygon(centre + radius_m * radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=-1))
