"""Blocks of open land: parks, fields, meadows, woods, orchards, farms, gardens."""

from __future__ import annotations

import itertools
import math

import numpy as np
import shapely
from shapely import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry

from geoview.render.world.fabric import Crop, LandUse, Mark, Patch, Plan, Site, shade
from geoview.render.world.layout import Field, Rect, frame, parts, subdivide
from geoview.render.world.lots import blob, bowed_line, hedge, lattice, scatter, shed
from geoview.render.world.styles import Material

__all__ = ["USES"]


def _park(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    about = {"area_m2": round(block.area)}
    plan.patches.append(Patch(block, Material.LAWN, tint=rng.normal(0, 0.04), kind="park", properties=about))
    gates = shapely.get_coordinates(shapely.line_interpolate_point(block.exterior, rng.random(4), normalized=True))
    centre = np.array(block.centroid.coords[0]) + rng.normal(0, 8.0, 2)
    colour = shade(rng, (186, 172, 146), 0.06)
    for gate in gates[: int(rng.integers(2, 5))]:
        path = bowed_line(rng, gate, centre, 0.15).buffer(1.4).intersection(block)
        plan.patches += [Patch(part, Material.GRAVEL, colour=colour, kind="path") for part in parts(path)]
    side = math.sqrt(block.area)
    if rng.random() < 0.35 and block.area > 5000:
        _pond(plan, blob(rng, centre, side * rng.uniform(0.1, 0.18)).intersection(block.buffer(-6)))
    for part in parts(block.buffer(-1.5)):
        for _ in range(int(rng.integers(1, 4))):
            edge = np.array(part.exterior.interpolate(rng.random(), normalized=True).coords[0])
            scatter(plan, rng, blob(rng, edge, side * rng.uniform(0.12, 0.25)).intersection(part), 16.0, (0.4, 1.0))
        scatter(plan, rng, part, 2.2, (0.3, 1.0))


def _pond(plan: Plan, shape: BaseGeometry) -> None:
    for part in parts(shape, 60.0):
        plan.ponds.append(part)
        plan.named.append(("water", part, {"use": "pond"}))


def _field(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Fields with their rows, some with hedgerows."""
    box = frame(block)
    angle = box.angle + (math.pi / 2 if rng.random() < 0.3 else 0.0)
    plan.patches.append(Patch(block, Material.GRASS))
    for part in subdivide(block, rng, rng.uniform(9000.0, 38000.0), 4.0):
        turn = angle + rng.normal(0, 0.06) if rng.random() < 0.7 else frame(part).angle
        crop = Crop(turn, rng.uniform(2.2, 12.0), rng.uniform(0.01, 0.09))
        for piece in parts(part.buffer(-rng.uniform(0.8, 2.5)), 200.0):
            about = {"area_m2": round(piece.area), "irrigated": False}
            plan.patches.append(Patch(piece, Material.CROP, rng.normal(0, 0.05), None, "field", about, crop))
        if rng.random() < 0.4:
            _hedgerow(plan, rng, part)


def _hedgerow(plan: Plan, rng: np.random.Generator, shape: Polygon) -> None:
    """Trees and bushes along parts of a field's edge."""
    outline = next(parts(shape.simplify(4.0)), shape)  # of a sliver nothing would be left
    for one, other in itertools.pairwise(shapely.get_coordinates(outline.exterior)):
        length = math.dist(one, other)
        if length < 25.0 or rng.random() < 0.45:
            continue
        bushy = rng.random() < 0.5
        step = 3.2 if bushy else rng.uniform(6.0, 12.0)
        for s in np.arange(0.0, length, step):
            if rng.random() < 0.86:
                x, y = one + (other - one) * s / length + rng.normal(0, 0.7, 2)
                plan.tree(rng, x, y, rng.uniform(0.05, 0.3) if bushy else rng.uniform(0.3, 0.9), rng.random() * 0.7)
        plan.named.append(("tree_row", LineString([one, other]), {"spacing_m": round(step, 1)}))


def _meadow(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    plan.patches.append(Patch(block, Material.GRASS, tint=rng.normal(0, 0.06), kind="meadow"))
    scatter(plan, rng, block, rng.uniform(0.2, 1.6), (0.2, 0.9))
    _hedgerow(plan, rng, block)
    if rng.random() < 0.25:
        centre = np.array(block.representative_point().coords[0])
        _pond(plan, blob(rng, centre, rng.uniform(8, 22)).intersection(block.buffer(-4)))


def _wood(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    plan.patches.append(Patch(block, Material.LITTER))
    plan.named.append(("wood", block, {"area_m2": round(block.area)}))
    conifers = rng.random() < 0.3
    kind = Field(rng, plan.size_m, 120.0)
    spacing = rng.uniform(4.6, 5.4) if conifers else rng.uniform(5.6, 7.2)
    for part in parts(block.buffer(-1.5)):
        xy = lattice(rng, part, spacing)
        species = np.clip(0.45 + 0.22 * kind.at(xy) + (0.4 if conifers else 0.0), 0, 1)
        for (x, y), which in zip(xy.tolist(), species.tolist(), strict=True):
            plan.tree(rng, x, y, rng.uniform(0.2, 0.5) if conifers else rng.uniform(0.45, 0.95), which)


def _orchard(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    plan.patches.append(Patch(block, plan.style.ground, tint=rng.normal(0, 0.04)))
    plan.named.append(("orchard", block, {"area_m2": round(block.area)}))
    box = frame(block)
    u = np.arange(-box.length / 2, box.length / 2, rng.uniform(5.0, 8.0))
    v = np.arange(-box.width / 2, box.width / 2, rng.uniform(5.0, 8.5))
    uv = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
    xy = box._replace(length=1.0, width=1.0).points(uv)
    size, species = rng.uniform(0.05, 0.35), rng.random()
    for x, y in xy[shapely.contains_xy(block.buffer(-4.0), xy)].tolist():
        if rng.random() < 0.93:
            plan.tree(rng, x + rng.normal(0, 0.3), y + rng.normal(0, 0.3), size * rng.uniform(0.7, 1.2), species)


def _pivot(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Circles watered by an arm that turns around the middle."""
    plan.patches.append(Patch(block, plan.style.ground))
    for part in subdivide(block, rng, 22000.0):
        radius_line = shapely.maximum_inscribed_circle(part, tolerance=2.0)
        radius = radius_line.length - 2.0
        if radius < 18.0:
            scatter(plan, rng, part, 2.0, (0.0, 0.2))
            continue
        x, y = radius_line.coords[0]
        disc, angle = Point(x, y).buffer(radius, 24), rng.uniform(0, math.pi)
        about = {"area_m2": round(disc.area), "irrigated": True}
        crop = Crop(angle, rng.uniform(5.0, 10.0), 0.08)
        plan.patches.append(Patch(disc, Material.CROP, rng.normal(0.02, 0.04), None, "field", about, crop))
        arm = Rect(x, y, angle, 2 * radius, 1.0).points(np.array([(0.0, 0.0), (0.5, 0.0)]))
        plan.marks.append(Mark(arm, 0.8, (190, 188, 180)))


def _scrub(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Open ground with tracks and clumps of bushes."""
    plan.patches.append(Patch(block, plan.style.ground, tint=rng.normal(0, 0.03)))
    for _ in range(int(rng.integers(0, 3))):
        ends = shapely.get_coordinates(shapely.line_interpolate_point(block.exterior, rng.random(2), normalized=True))
        track = bowed_line(rng, ends[0], ends[1], 0.15).buffer(1.6).intersection(block)
        plan.patches += [Patch(part, Material.DIRT, 0.06) for part in parts(track)]
    clumps = Field(rng, plan.size_m, 70.0)
    xy = lattice(rng, block, 8.0)
    for x, y in xy[clumps.at(xy) > rng.uniform(0.1, 1.0)].tolist():
        plan.tree(rng, x, y, rng.uniform(0.0, 0.2), 0.9)


def _farmstead(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """House, barns and silos around a yard, fields behind."""
    gate = block.exterior.interpolate(rng.random(), normalized=True)
    yard, *rest = sorted(subdivide(block, rng, 3800.0), key=lambda lot: lot.distance(gate))
    for part in parts(shapely.union_all(rest), 400.0):
        (_field if part.area > 2500 else _meadow)(plan, part, rng)
    plan.patches.append(Patch(yard, Material.GRASS))
    box = frame(yard)
    court = box._replace(length=box.length * 0.6, width=box.width * 0.55).polygon()
    colour = shade(rng, (160, 148, 130), 0.05)
    plan.patches += [Patch(p, Material.GRAVEL, colour=colour, kind="farmyard") for p in parts(court.intersection(yard))]
    built: BaseGeometry = Polygon()
    for use, side in (("barn", -1), ("house", 1), ("barn", 1), ("barn", -1)):
        barn = use == "barn"
        spot = box.moved(rng.uniform(-0.3, 0.3) * box.length, side * box.width * rng.uniform(0.2, 0.34))
        long, wide = (rng.uniform(18, 36), rng.uniform(9, 16)) if barn else (rng.uniform(11, 16), 9.0)
        spot = spot._replace(length=long, width=wide)
        shape = spot.polygon()
        if yard.contains(shape) and shape.buffer(3.0).disjoint(built):
            roofs = ("metal", "gable") if barn else ("gable",)
            plan.sites.append(Site(use, (4.5, 7.5) if barn else (3.5, 5.5), wings=(spot,), roofs=roofs))
            built = built.union(shape)
    for _ in range(int(rng.integers(0, 3))):
        x, y = box.moved(rng.uniform(-0.3, 0.3) * box.length, rng.uniform(-0.3, 0.3) * box.width)[:2]
        silo = Point(x, y).buffer(rng.uniform(2.5, 4.0), 6)
        if silo.disjoint(built):
            plan.sites.append(Site("silo", (8.0, 14.0), footprint=silo, shape=silo, roofs=("hip",)))
    scatter(plan, rng, yard.difference(court), 6.0, (0.3, 0.9))


def _allotments(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Small gardens with beds, huts and hedges."""
    plan.patches.append(Patch(block, Material.GRAVEL, kind="allotments"))
    for lot in subdivide(block, rng, 260.0):
        for plot in parts(lot.buffer(-0.7, join_style="mitre"), 20.0):
            plan.patches.append(Patch(plot, Material.LAWN, rng.normal(0, 0.08)))
            for bed in subdivide(plot, rng, 60.0)[:3]:
                rows = Crop(rng.uniform(0, 3), 1.6, 0.12)
                tint = rng.normal(0, 0.08)
                plan.patches += [Patch(p, Material.SOIL, tint, crop=rows) for p in parts(bed.buffer(-0.5))]
            hedge(plan, rng, plot, 0.5)
            shed(plan, rng, plot)
            scatter(plan, rng, plot, 7.0, (0.0, 0.3))


def _green(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """What is left over between streets."""
    plan.patches.append(Patch(block, Material.LAWN if plan.style.ground is Material.GRASS else plan.style.ground))
    scatter(plan, rng, block, 5.0, (0.1, 0.8))


USES: dict[str, LandUse] = {
    "park": LandUse(_park, 800.0),
    "field": LandUse(_field, 1500.0),
    "meadow": LandUse(_meadow, 0.0),
    "wood": LandUse(_wood, 0.0),
    "orchard": LandUse(_orchard, 0.0),
    "pivot": LandUse(_pivot, 6000.0),
    "scrub": LandUse(_scrub, 0.0),
    "farmstead": LandUse(_farmstead, 4000.0),
    "allotments": LandUse(_allotments, 0.0),
    "green": LandUse(_green, 0.0),
}
