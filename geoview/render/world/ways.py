"""Railways, freeways and streets of a region, with markings, trees and parked cars."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from geoview.render.world.fabric import WHITE, Mark, Movable, Patch, Plan, Way, shade
from geoview.render.world.layout import Rect, Street, parts, winding_line
from geoview.render.world.styles import Material, Rgb

__all__ = ["lay_streets", "lay_tracks"]


def lay_tracks(plan: Plan, rng: np.random.Generator, extent: Polygon, water: BaseGeometry) -> BaseGeometry:
    """Lays railways and freeways; returns the land they take."""
    style, size = plan.style, min(plan.size_m)
    taken = []
    if rng.random() < style.rail_share:
        line = winding_line(extent, rng, rng.uniform(0.02, 0.06) * size, 1500.0).intersection(extent)
        tracks = int(rng.choice((1, 2, 2, 4)))
        wide = 4.6 * tracks + 3.0
        if style.river == "coast":
            line = line.difference(water.buffer(wide))
        for part in shapely.get_parts(line).tolist():
            land = part.buffer(wide / 2, cap_style="flat")
            for piece in parts(land):
                plan.over.append(
                    Patch(piece, Material.GRAVEL, colour=(122, 112, 104), kind="rail", properties={"tracks": tracks})
                )
            for k in range(tracks):
                for side in (-0.75, 0.75):
                    rail = part.offset_curve((k - (tracks - 1) / 2) * 4.6 + side)
                    plan.marks += [Mark(shapely.get_coordinates(r), 0.3, (96, 84, 78)) for r in shapely.get_parts(rail)]
            plan.decks += parts(land.intersection(water))
            taken.append(part.buffer(wide / 2 + 4.0, cap_style="flat"))
    if rng.random() < style.freeway_share:
        line = winding_line(extent, rng, rng.uniform(0.03, 0.08) * size, 1800.0).intersection(extent)
        for part in shapely.get_parts(line).tolist():
            _freeway(plan, rng, part, water)
            taken.append(part.buffer(24.0, cap_style="flat"))
    return shapely.union_all(taken) if taken else Polygon()


def _freeway(plan: Plan, rng: np.random.Generator, line: LineString, water: BaseGeometry) -> None:
    land = line.buffer(15.0, cap_style="flat")
    about = {"class": "freeway", "width_m": 30.0, "surface": "concrete"}
    colour = (150, 147, 141)
    plan.over += [Patch(p, Material.CONCRETE, colour=colour, kind="road", properties=about) for p in parts(land)]
    plan.over += [Patch(p, Material.GRASS) for p in parts(line.buffer(1.6, cap_style="flat"))]
    for offset in (-5.2, -8.8, 5.2, 8.8):
        plan.marks += _dashes(line.offset_curve(offset), 4.0, 10.0, 0.4, (196, 195, 190))
    for offset in (-12.6, -1.9, 1.9, 12.6):
        for curve in shapely.get_parts(line.offset_curve(offset)):
            plan.marks.append(Mark(shapely.get_coordinates(curve), 0.3, WHITE))
    plan.decks += parts(land.intersection(water))
    for offset in (-10.6, -7.0, -3.5, 3.5, 7.0, 10.6):
        _traffic(plan, rng, line.offset_curve(offset), 22.0, 0.35)


def lay_streets(
    plan: Plan, rng: np.random.Generator, net: list[Street], water: BaseGeometry, corridor: BaseGeometry
) -> BaseGeometry:
    """Lays the streets with pavements, markings, crossings, trees and parked cars; returns the land they take.

    Nothing is put where they cross the corridor of a railway or freeway.
    """
    style = plan.style
    open_water = shapely.union_all(plan.water)
    banks = water.buffer(3.0)
    bridged = (2 if style.regular else 1) if style.river == "stream" else 0
    lines: list[tuple[LineString, int]] = []
    for street in net:
        line: BaseGeometry = street.line
        if not water.is_empty and (style.river == "coast" or street.rank > bridged):
            line = line.difference(banks)
        lines += [(part, street.rank) for part in shapely.get_parts(line).tolist() if part.length > 12.0]
    lines.sort(key=lambda item: -item[1])
    tree = shapely.STRtree([line for line, _ in lines])
    taken = []
    for i, (line, rank) in enumerate(lines):
        width = style.street_m[rank] * rng.uniform(0.88, 1.12)
        material = style.lane if rank == 2 else Material.ASPHALT
        loose: dict[Material, Rgb] = {Material.DIRT: (200, 181, 152), Material.GRAVEL: (170, 158, 138)}
        colour = shade(rng, loose.get(material) or style.asphalt[int(rng.integers(len(style.asphalt)))], 0.04)
        paved = material is Material.ASPHALT
        pavement = style.pavement_m * rng.uniform(0.7, 1.3) if paved else 0.0
        verge = 1.8 if style.regular else 0.0
        plan.streets.append(Way(line, width, material, colour, rank))
        body = line.buffer(width / 2 + pavement + verge, 4)
        taken.append(body)
        if pavement > 0.5:
            plan.pavements.append((body, shade(rng, (166, 160, 150), 0.06)))
        for piece in parts(body.intersection(open_water), 20.0):
            plan.decks.append(piece)
            plan.named.append(("bridge", piece, {"width_m": round(width)}))
        about = {
            "class": ("main", "street", "lane")[rank],
            "width_m": round(width, 1),
            "surface": material.name.lower(),
        }
        plan.named.append(("road", line.buffer(width / 2, 2), about))
        if not paved:
            continue
        crossing = [lines[j] for j in tree.query(line).tolist() if j != i]
        near = [other.buffer(style.street_m[r] / 2 + pavement + 2.5, 2) for other, r in crossing]
        clear = line.difference(shapely.union_all([corridor, *near]))
        for part in shapely.get_parts(clear).tolist():
            if part.length >= 14.0:
                _furnish(plan, rng, part, width, pavement + verge, rank)
    return shapely.union_all(taken)


def _furnish(plan: Plan, rng: np.random.Generator, line: LineString, width: float, side_m: float, rank: int) -> None:
    """What lies on and along a street between two crossings."""
    style = plan.style
    if rank == 0 or rng.random() < 0.35:
        plan.marks += _dashes(line, 3.0, 7.0, 0.25, (190, 168, 90) if style.regular and rank == 0 else WHITE)
    if rank == 0 and width > 11.0:
        for offset in (-width / 2 + 0.4, width / 2 - 0.4):
            for curve in shapely.get_parts(line.offset_curve(offset)):
                plan.marks.append(Mark(shapely.get_coordinates(curve), 0.2, (178, 177, 172)))
    if style.pavement_m > 1.5 and rank < 2:
        for s in (1.5, line.length - 1.5):
            if rng.random() < 0.45:
                _zebra(plan, line, s, width)
    if rng.random() < style.street_trees:
        spacing, species, size = rng.uniform(8.0, 15.0), rng.random(), rng.uniform(0.25, 0.8)
        for side in (-1, 1):
            curve = line.offset_curve(side * (width / 2 + side_m * 0.55))
            for s in np.arange(rng.uniform(0, spacing), curve.length, spacing):
                if rng.random() < 0.82:
                    x, y = curve.interpolate(s).coords[0]
                    plan.tree(rng, x, y, size * rng.uniform(0.7, 1.1), species)
        plan.named.append(("tree_row", line, {"spacing_m": round(spacing, 1)}))
    if width > 6.0 and (rank > 0 or not style.regular):
        parked = rng.uniform(0.15, 0.65)
        for side in (-1, 1):
            if rng.random() < 0.75:
                _traffic(plan, rng, line.offset_curve(side * (width / 2 - 1.1)), 6.2, parked, jitter_m=0.4)
    _traffic(plan, rng, line.offset_curve(width / 4 * rng.choice((-1, 1))), 28.0, 0.28 if rank == 0 else 0.1)


def _traffic(
    plan: Plan, rng: np.random.Generator, curve: BaseGeometry, spacing_m: float, share: float, jitter_m: float = 8.0
) -> None:
    """Places for cars along a line."""
    for line in shapely.get_parts(curve).tolist():
        at = np.arange(4.0, line.length - 3.0, spacing_m)
        at = at + rng.uniform(-jitter_m, jitter_m, len(at))
        here = shapely.get_coordinates(shapely.line_interpolate_point(line, at))
        ahead = shapely.get_coordinates(shapely.line_interpolate_point(line, at + 2.0))
        angles = np.arctan2(ahead[:, 1] - here[:, 1], ahead[:, 0] - here[:, 0])
        for (x, y), angle in zip(here.tolist(), angles.tolist(), strict=True):
            plan.movables.append(Movable("car", Rect(x, y, angle, 4.4, 1.85), 1.5, share))


def _dashes(curve: BaseGeometry, dash_m: float, period_m: float, width_m: float, colour: Rgb) -> list[Mark]:
    marks = []
    for line in shapely.get_parts(curve).tolist():
        starts = np.arange(period_m / 2, line.length - dash_m, period_m)
        ends = shapely.line_interpolate_point(line, np.stack([starts, starts + dash_m], axis=1))
        marks += [Mark(pair, width_m, colour) for pair in shapely.get_coordinates(ends).reshape(-1, 2, 2)]
    return marks


def _zebra(plan: Plan, line: LineString, at_m: float, width_m: float) -> None:
    middle = np.array(line.interpolate(at_m).coords[0])
    ahead = np.array(line.interpolate(at_m + (1.0 if at_m < line.length / 2 else -1.0)).coords[0]) - middle
    along = ahead / (np.hypot(*ahead) + 1e-9)
    across = np.array([-along[1], along[0]])
    for v in np.arange(-width_m / 2 + 0.6, width_m / 2 - 0.3, 1.2):
        start = middle + across * v
        plan.marks.append(Mark(np.array([start - along * 1.4, start + along * 1.4]), 0.6, WHITE))
