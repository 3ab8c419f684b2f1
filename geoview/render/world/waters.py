"""Rivers, streams, dry beds and coasts of a region, and what lines them."""

from __future__ import annotations

import math

import numpy as np
import shapely
from shapely import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry

from geoview.render.world.fabric import Mark, Movable, Patch, Plan
from geoview.render.world.layout import Field, Rect, parts, subdivide, winding_line
from geoview.render.world.styles import Material, Rgb

__all__ = ["lay_water", "line_shore"]


def lay_water(plan: Plan, rng: np.random.Generator, extent: Polygon) -> BaseGeometry:
    """Lays the style's water or dry bed; returns the land it takes, banks included."""
    style = plan.style
    if not style.river or rng.random() >= style.river_share:
        return Polygon()
    size = min(plan.size_m)
    if style.river == "coast":
        return _coast(plan, rng, extent)
    low, high = {"river": (22.0, 46.0), "stream": (4.0, 9.0), "wadi": (18.0, 42.0)}[style.river]
    width = min(rng.uniform(low, high), size / 8)
    line = winding_line(extent, rng, rng.uniform(0.04, 0.1) * size, rng.uniform(380, 640))
    along = np.arange(0.0, line.length, max(3.0, width / 4))
    points = shapely.line_interpolate_point(line, along)
    swell = Field(rng, plan.size_m, 160.0).at(shapely.get_coordinates(points))
    pieces = shapely.buffer(points, width / 2 * (1 + 0.22 * np.clip(swell, -2, 2)), quad_segs=6)
    bed = shapely.union_all([line.buffer(width * 0.32), *pieces]).simplify(0.4).intersection(extent)
    if style.river == "wadi":
        for part in parts(bed):
            plan.patches.append(
                Patch(part, Material.SAND, colour=(196, 178, 148), kind="wadi", properties={"width_m": round(width)})
            )
        for s in np.arange(0.0, line.length, 7.0):
            x, y = np.array(line.interpolate(s).coords[0]) + rng.normal(0, width * 0.35, 2)
            plan.tree(rng, x, y, rng.uniform(0.0, 0.3), 0.95)
        return bed
    plan.water += parts(bed)
    plan.named.append((style.river, bed, {"width_m": round(width)}))
    bank = bed.buffer(9.0 if style.river == "river" else 5.0).intersection(extent)
    plan.patches += [Patch(part, Material.GRASS, tint=-0.05) for part in parts(bank)]
    for s in np.arange(0.0, line.length, 9.0 if style.river == "stream" else 16.0):
        if rng.random() < 0.6:
            x, y = line.interpolate(s).coords[0]
            away, angle = width * 0.62 + rng.uniform(1, 5), rng.uniform(0, 2 * math.pi)
            species = rng.random() * 0.6
            plan.tree(rng, x + away * math.cos(angle), y + away * math.sin(angle), rng.uniform(0.3, 0.9), species)
    return bank


def _coast(plan: Plan, rng: np.random.Generator, extent: Polygon) -> BaseGeometry:
    """The sea behind a quay that runs in straight reaches, with basins cut in and piers built out."""
    left, top, right, bottom = extent.bounds
    reach = math.dist((left, top), (right, bottom))
    size = min(plan.size_m)
    shore = Rect((left + right) / 2, (top + bottom) / 2, rng.uniform(0, 2 * math.pi), 1.0, 1.0)
    u = np.concatenate([[-reach], np.sort(rng.uniform(-reach / 2, reach / 2, 7)), [reach]])
    v = size * (0.17 + 0.07 * rng.standard_normal(len(u)))
    line = shore.points(np.stack([u, v], axis=-1))
    sea: BaseGeometry = Polygon([*line, *shore.points(np.array([(reach, 2 * reach), (-reach, 2 * reach)]))])
    for _ in range(int(rng.integers(2, 5))):
        basin = shore.moved(rng.uniform(-0.5, 0.5) * size, 0.17 * size)
        basin = basin._replace(length=rng.uniform(0.04, 0.1) * size, width=rng.uniform(0.2, 0.42) * size)
        sea = sea.union(basin.polygon())
    for _ in range(int(rng.integers(2, 5))):
        pier = shore.moved(rng.uniform(-0.6, 0.6) * size, 0.24 * size)
        pier = pier._replace(length=rng.uniform(0.02, 0.06) * size, width=rng.uniform(0.1, 0.25) * size)
        sea = sea.difference(pier.polygon())
    # no islands: nobody could get there
    sea = shapely.union_all([Polygon(part.exterior) for part in parts(sea.intersection(extent))])
    plan.water += parts(sea)
    plan.named.append(("water", sea, {"use": "harbour"}))
    return sea


_SHORES: dict[str, tuple[Material, Rgb, float]] = {
    "quay": (Material.CONCRETE, (158, 154, 146), 0.45),
    "promenade": (Material.PAVING, (178, 168, 152), 0.27),
    "beach": (Material.SAND, (212, 198, 164), 0.18),
    "rocks": (Material.ROCK, (128, 122, 114), 0.1),
}


def line_shore(plan: Plan, rng: np.random.Generator, sea: BaseGeometry) -> None:
    """What lines a coast: quays, promenades, beaches, rocks, and boats at their moorings."""
    names = list(_SHORES)
    for part in parts(sea.buffer(14.0).difference(sea), 40.0):
        for piece in subdivide(part, rng, 4200.0):
            kind = names[int(rng.choice(len(names), p=[share for *_, share in _SHORES.values()]))]
            material, colour, _ = _SHORES[kind]
            plan.patches.append(Patch(piece, material, colour=colour, kind=kind))
    shapely.prepare(sea)
    for ring in (ring for part in parts(sea) for ring in (part.exterior, *part.interiors)):
        s = rng.uniform(0.0, 60.0)
        while s < ring.length - 60.0:
            length = rng.uniform(50.0, 120.0)
            if rng.random() < 0.5:
                _moorings(plan, rng, sea, ring, s, length)
            s += length + rng.uniform(20.0, 90.0)


def _moorings(
    plan: Plan, rng: np.random.Generator, sea: BaseGeometry, ring: LineString, start_m: float, length_m: float
) -> None:
    """A row of ships along a quay, or of small boats beside jetties."""
    one, other = (np.array(ring.interpolate(s).coords[0]) for s in (start_m, start_m + length_m))
    along = (other - one) / (np.hypot(*(other - one)) + 1e-6)
    if math.dist(one, other) < 0.98 * length_m:
        return  # round a corner
    out = np.array([-along[1], along[0]])
    if not sea.contains(Point(one + 25 * out)):
        out = -out
    ships = rng.random() < 0.35
    step, reach = (42.0, 36.0) if ships else (4.6, 9.0)
    turn = math.atan2(out[1], out[0]) + (math.pi / 2 if ships else 0.0)
    for k, s in enumerate(np.arange(step / 2, length_m, step)):
        foot = one + s * along
        if not ships and k % 2:
            jetty = np.array([foot, foot + out * 14.0])
            if sea.contains(Point(jetty[1])):
                plan.marks.append(Mark(jetty, 1.2, (172, 164, 150)))
            continue
        size = reach * rng.uniform(0.7, 0.95)
        spot = foot + out * ((size * 0.16 if ships else size / 2) + 2.5)
        boat = Rect(float(spot[0]), float(spot[1]), turn, size, size * rng.uniform(0.24, 0.3))
        if sea.contains(boat.polygon()):
            plan.movables.append(Movable("boat", boat, 4.0 if ships else 1.6, 0.6))
