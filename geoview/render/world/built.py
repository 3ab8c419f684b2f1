"""Blocks with buildings: houses, yards, gardens, halls, shops, schools, squares."""

from __future__ import annotations

import math

import numpy as np
import shapely
from shapely import LineString, Point, Polygon

from geoview.render.world.fabric import WHITE, Crop, LandUse, Mark, Movable, Patch, Plan, Site, Wall, shade
from geoview.render.world.layout import Rect, frame, parts, subdivide
from geoview.render.world.lots import (
    border,
    fit,
    hedge,
    largest,
    lattice,
    scatter,
    shed,
    sideways,
    street_front,
    street_ring,
)
from geoview.render.world.styles import Material, Rgb

__all__ = ["USES"]


def _perimeter(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Houses wall to wall along the streets, courtyards behind them."""
    ring, inner = street_ring(block, rng.uniform(0.0, 1.2), rng.uniform(10.5, 14.0))
    plan.patches.append(Patch(block, Material.PAVING, colour=shade(rng, (150, 144, 134), 0.07)))
    if ring is None:
        return
    base, flat = rng.uniform(10.0, 18.0), rng.random() < 0.12
    for lot in subdivide(block, rng, rng.uniform(240.0, 420.0)):
        for piece in parts(lot.intersection(ring), 40.0):
            if rng.random() < 0.05:
                plan.patches.append(Patch(piece, Material.GRAVEL, colour=shade(rng, (150, 142, 130), 0.06)))
                continue
            roofs = ("flat",) if flat or rng.random() < 0.15 else ("hip",)
            plan.sites.append(Site("apartments", (base - 2.5, base + 2.5), footprint=piece, shape=ring, roofs=roofs))
    for court in inner:
        for lot in subdivide(court, rng, 420.0):
            if rng.random() < 0.6:
                plan.patches.append(Patch(lot, Material.LAWN, tint=rng.normal(0, 0.06)))
            box = frame(lot)
            wing = box._replace(length=box.length * 0.6, width=box.width * 0.5)
            if rng.random() < 0.4 and box.width > 8 and court.contains(wing.polygon()):
                plan.sites.append(Site("annex", (3.0, 9.0), wings=(wing,), roofs=("flat", "gable", "flat")))
            else:
                scatter(plan, rng, lot, 6.0, (0.2, 0.7))


def _terrace(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Rows of narrow houses with gardens behind."""
    ring, inner = street_ring(block, rng.uniform(2.5, 6.0), rng.uniform(8.5, 10.5))
    plan.patches.append(Patch(block, Material.LAWN))
    if ring is None:
        return
    base = rng.uniform(5.0, 7.5)
    for lot in subdivide(block, rng, rng.uniform(170.0, 300.0)):
        _garden(plan, rng, lot)
        for piece in parts(lot.intersection(ring), 35.0):
            if rng.random() < 0.84:
                plan.sites.append(Site("house", (base - 0.6, base + 0.8), footprint=piece, shape=ring, roofs=("hip",)))
    for court in inner:
        for lot in subdivide(court, rng, 240.0):
            hedge(plan, rng, lot, 0.45)
            scatter(plan, rng, lot, plan.style.garden_trees * 1.2, (0.1, 0.6))
            if rng.random() < 0.4:
                shed(plan, rng, lot)


def _garden(plan: Plan, rng: np.random.Generator, lot: Polygon) -> None:
    plan.patches.append(Patch(lot, Material.LAWN, tint=rng.normal(0, 0.07)))
    if rng.random() < 0.35:
        bed = subdivide(lot, rng, lot.area / 6)[0].buffer(-0.8)
        if isinstance(bed, Polygon):
            plan.patches.append(Patch(bed, Material.SOIL if rng.random() < 0.5 else Material.PAVING))


def _house(plan: Plan, rng: np.random.Generator, box: Rect, sign: float, setback: float, wings: int) -> list[Rect]:
    """A house of one or two wings across the front of a lot; empty where the lot has no room."""
    widest = rng.uniform(12.0, 20.0) if plan.style.regular else rng.uniform(8.5, 14.0)
    across = min(box.width - (rng.uniform(2.5, 5.0) if wings > 1 else rng.uniform(0.8, 4.0)), widest)
    low, high = (9.0, 13.5) if plan.style.regular or wings < 2 else (8.0, 11.5)
    deep = min(rng.uniform(low, high), box.length - setback - 2.0)
    if across < 6.0 or deep < 5.5:
        return []
    aside = rng.uniform(-0.3, 0.3) * max(0.0, box.width - across - 3.0)
    house = box.moved(sign * (box.length / 2 - setback - deep / 2), aside)._replace(length=deep, width=across)
    if across >= deep and rng.random() > 0.12:
        house = sideways(house)
    if wings < 2 or rng.random() < 0.4 or house.length < 9.0:
        return [house]
    along = house.length * rng.uniform(0.18, 0.28) * rng.choice((-1, 1))
    wing = sideways(house.moved(along, rng.choice((-1, 1)) * house.width * 0.4))
    return [house, wing._replace(length=house.width * 0.5 + rng.uniform(4.0, 7.0), width=min(6.5, house.length * 0.45))]


def _detached(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Houses in gardens: drives, sheds, hedges, terraces, pools, trees."""
    style = plan.style
    plan.patches.append(Patch(block, Material.LAWN))
    lot_m2 = rng.uniform(520.0, 900.0) if style.regular else rng.uniform(430.0, 850.0)
    setback = rng.uniform(6.0, 9.0) if style.regular else rng.uniform(3.0, 6.5)
    pitched = ("gable", "hip") if style.regular else ("gable", "gable", "hip")
    for lot in subdivide(block, rng, lot_m2):
        _garden(plan, rng, lot)
        hedge(plan, rng, lot, 0.3 if style.regular else 0.6)
        front = street_front(block, lot)
        wings = _house(plan, rng, *front, setback + rng.uniform(-1, 1), 2) if front else []
        room = lot.buffer(0.5)
        wings = [wing for wing in wings if room.contains(wing.polygon())]
        if front is None or not wings:
            scatter(plan, rng, lot, 2.0 * style.garden_trees, (0.2, 0.8))
            continue
        roofs = ("flat",) if rng.random() < style.flat_share else pitched
        height = (2.8, 3.6) if style.regular and rng.random() < 0.6 else (3.4, 6.2)
        plan.sites.append(Site("house", height, wings=tuple(wings), roofs=roofs))
        _drive(plan, rng, *front, wings[0])
        _back_garden(plan, rng, lot, *front, wings)


def _back_garden(plan: Plan, rng: np.random.Generator, lot: Polygon, box: Rect, sign: float, wings: list[Rect]) -> None:
    house = shapely.union_all([wing.polygon() for wing in wings]).buffer(1.5)
    back = largest(lot.buffer(-1.0).difference(house), 15.0)
    if back is None:
        return
    scatter(plan, rng, back, plan.style.garden_trees, (0.05, 0.85))
    if rng.random() < 0.45:
        main = wings[0]
        terrace = main.moved(0, main.width * 0.62 * rng.choice((-1, 1)))._replace(width=3.5, length=main.length * 0.5)
        plan.patches.append(Patch(terrace.polygon(), Material.PAVING, colour=shade(rng, (168, 156, 142), 0.08)))
    rear = box.moved(-sign * box.length * rng.uniform(0.2, 0.32), box.width * rng.uniform(-0.2, 0.2))
    pool = rear._replace(length=rng.uniform(6.0, 10.0), width=rng.uniform(3.2, 5.0))
    if rng.random() < (0.22 if plan.style.regular else 0.07) and back.contains(pool.polygon()):
        rim = pool._replace(length=pool.length + 3.0, width=pool.width + 3.0).polygon()
        plan.patches.append(Patch(rim, Material.PAVING, colour=shade(rng, (196, 188, 174), 0.05)))
        shape = pool.polygon() if rng.random() < 0.6 else pool.polygon().buffer(-1.4).buffer(1.4)
        plan.patches.append(Patch(shape, Material.WATER, colour=shade(rng, (92, 172, 190), 0.07), kind="pool"))
    elif rng.random() < 0.5:
        shed(plan, rng, lot)


def _drive(plan: Plan, rng: np.random.Generator, box: Rect, sign: float, house: Rect) -> None:
    wide = rng.uniform(4.5, 6.0) if plan.style.regular else rng.uniform(2.8, 3.6)
    u = (house.x - box.x) * math.cos(box.angle) + (house.y - box.y) * math.sin(box.angle)
    length = sign * box.length / 2 - u + sign * 2.0
    side = rng.choice((-1, 1)) * max(0.0, box.width / 2 - wide / 2 - 0.6) * 0.9
    drive = box.moved(u + length / 2, side)._replace(length=abs(length), width=wide)
    colour = shade(rng, (168, 164, 156) if plan.style.regular else (150, 140, 130), 0.08)
    plan.patches.append(Patch(drive.polygon(), Material.CONCRETE, colour=colour))
    car = drive.moved(sign * rng.uniform(-1, 1), 0)._replace(length=4.5, width=1.85)
    plan.movables.append(Movable("car", car, 1.5, 0.5))


def _walled(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Flat-roofed houses in yards behind walls."""
    plan.patches.append(Patch(block, Material.SOIL, tint=rng.normal(0, 0.04)))
    for lot in subdivide(block, rng, rng.uniform(200.0, 480.0)):
        if rng.random() < 0.1:
            plan.patches.append(Patch(lot, Material.DIRT))
            continue
        material = (Material.SOIL, Material.DIRT, Material.CONCRETE)[int(rng.choice(3, p=(0.5, 0.3, 0.2)))]
        plan.patches.append(Patch(lot, material, tint=rng.normal(0, 0.07)))
        colour, height = shade(rng, (196, 180, 156), 0.06), rng.uniform(1.6, 2.3)
        plan.walls += [Wall(ring, 0.4, height, Material.WALL, colour) for ring in border(lot, 0.3)]
        box, sign = street_front(block, lot) or (frame(lot), 1.0)  # lots inside are reached by alleys
        room = lot.buffer(0.3)
        wings = _house(plan, rng, box, sign, rng.uniform(0.6, 4.0), 1)
        wings = [wing for wing in wings if room.contains(wing.polygon())]
        if wings:
            roofs = ("flat",) if rng.random() < plan.style.flat_share else ("gable",)
            plan.sites.append(Site("house", (3.2, 6.8), wings=tuple(wings), roofs=roofs))
            main = wings[0]
            side = main.moved(main.length * 0.3 * rng.choice((-1, 1)), main.width * rng.choice((-0.8, 0.8)))
            side = side._replace(length=main.length * 0.4, width=main.width * 0.75)
            if rng.random() < 0.6 and lot.contains(side.polygon()):
                plan.sites.append(Site("annex", (2.8, 3.6), wings=(side,), roofs=("flat",)))
        scatter(plan, rng, lot, plan.style.garden_trees, (0.05, 0.5))


def _slabs(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Long high houses in parallel, or towers, in open green."""
    plan.patches.append(Patch(block, Material.LAWN, tint=rng.normal(0, 0.04)))
    box = frame(block)
    if rng.random() < 0.5:
        box = sideways(box)
    height = rng.uniform(14.0, 44.0)
    tower = height > 34.0
    pitch = rng.uniform(34.0, 52.0)
    inside = block.buffer(-4.0)
    colour = shade(rng, (128, 126, 122), 0.06)
    for v in np.arange(-box.width / 2 + pitch / 2, box.width / 2, pitch):
        path = box.moved(0.0, v + 10.5)._replace(width=2.2, length=box.length * 0.96).polygon()
        plan.patches += [Patch(p, Material.PAVING, kind="path") for p in parts(path.intersection(inside))]
        strip = box.moved(0.0, v + pitch / 2)._replace(width=11.0, length=box.length * rng.uniform(0.4, 0.8))
        if rng.random() < 0.6 and inside.contains(strip.polygon()):
            plan.patches.append(Patch(strip.polygon(), Material.ASPHALT, colour=colour, kind="car_park"))
            _bays(plan, rng, strip, rng.uniform(0.3, 0.8))
        u = -box.length / 2 + 8.0
        while u < box.length / 2 - 20:
            long = rng.uniform(18.0, 24.0) if tower else rng.uniform(36.0, 72.0)
            wide = rng.uniform(17.0, 22.0) if tower else rng.uniform(11.0, 14.0)
            slab = fit(box.moved(u + long / 2, v)._replace(length=long, width=wide), inside)
            if slab is not None and slab.width > 10.0:
                use = "tower" if tower else "slab"
                plan.sites.append(Site(use, (height * 0.85, height * 1.1), wings=(slab,), roofs=("flat",)))
            u += long + rng.uniform(14.0, 30.0)
    scatter(plan, rng, inside, 3.4, (0.3, 0.9))


def _bays(plan: Plan, rng: np.random.Generator, lot: Rect, filled: float) -> None:
    """Marks parking bays along the length of a rectangle, in pairs of rows with aisles between."""
    aisles = max(1, int(lot.width // 16.5))
    pitch = lot.width / aisles
    rows = (0.17, 0.83) if pitch > 15.0 else (0.3,)
    for v in (-lot.width / 2 + (k + share) * pitch for k in range(aisles) for share in rows):
        for u in np.arange(-lot.length / 2 + 1.5, lot.length / 2 - 1.5, 2.6):
            bay = lot.moved(u, v)
            line = bay.moved(-1.3, 0)._replace(length=1.0, width=5.0).points(np.array([(0.0, -0.5), (0.0, 0.5)]))
            plan.marks.append(Mark(line, 0.15, (176, 175, 170)))
            place = Rect(bay.x, bay.y, bay.angle + math.pi / 2, rng.uniform(4.1, 4.9), 1.85)
            plan.movables.append(Movable("car", place, 1.5, filled))


def _retail(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Wide flat shops behind car parks."""
    colour = shade(rng, plan.style.asphalt[int(rng.integers(len(plan.style.asphalt)))], 0.05)
    plan.patches.append(Patch(block, Material.ASPHALT, colour=colour, kind="car_park", properties={"use": "retail"}))
    _green_strip(plan, rng, block, 4.0)
    inside = block.buffer(-5.0)
    for lot in subdivide(block, rng, rng.uniform(5000.0, 11000.0)):
        box = frame(lot)
        box = box._replace(length=box.length - 13.0, width=box.width - 13.0)
        share, sign = rng.uniform(0.32, 0.5), rng.choice((-1, 1))
        place = box.moved(0.0, sign * box.width * (0.5 - share / 2))
        shop = fit(place._replace(length=box.length * rng.uniform(0.65, 0.95), width=box.width * share), inside)
        if shop is not None:
            plan.sites.append(Site("shop", (5.0, 9.0), wings=(shop,), roofs=("flat",)))
        place = box.moved(0.0, -sign * box.width * (share / 2 + 0.03))
        park = fit(place._replace(width=box.width * (0.94 - share)), inside)
        if park is None:
            continue
        _bays(plan, rng, park, rng.uniform(0.25, 0.85))
        for u in np.arange(-park.length / 2, park.length / 2, rng.uniform(18.0, 30.0)):
            x, y = park.moved(u, 0.0)[:2]
            if inside.contains(Point(x, y)):
                plan.patches.append(Patch(Point(x, y).buffer(1.6, 3), Material.LAWN))
                plan.tree(rng, x, y, rng.uniform(0.1, 0.4), 0.3)


def _green_strip(plan: Plan, rng: np.random.Generator, block: Polygon, width: float) -> None:
    """A strip of grass along a block's edge, with some trees."""
    plan.patches += [Patch(piece, Material.LAWN) for piece in parts(block.difference(block.buffer(-width)))]
    if rng.random() < 0.6:
        for part in parts(block.buffer(-width / 2), 50.0):
            for s in np.arange(0.0, part.exterior.length, rng.uniform(11.0, 20.0)):
                x, y = part.exterior.interpolate(s).coords[0]
                plan.tree(rng, x, y, rng.uniform(0.15, 0.6), 0.3)


def _office(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Large flat-roofed buildings side by side, and lots for cars between them."""
    plan.patches.append(Patch(block, Material.PAVING, colour=shade(rng, (160, 154, 146), 0.05)))
    base = rng.uniform(6.0, 26.0)
    for lot in subdivide(block, rng, rng.uniform(700.0, 1800.0)):
        box = frame(lot)
        house = box._replace(length=box.length - rng.uniform(1.5, 8.0), width=box.width - rng.uniform(1.5, 6.0))
        if rng.random() < 0.3 or house.width < 8.0:
            for park in parts(lot.buffer(-1.0)):
                colour = shade(rng, (116, 115, 114), 0.05)
                plan.patches.append(Patch(park, Material.ASPHALT, kind="car_park", colour=colour))
            bays = fit(box._replace(length=box.length * 0.9, width=box.width * 0.9), lot)
            if bays is not None:
                _bays(plan, rng, bays, rng.uniform(0.2, 0.8))
        else:
            fitted = fit(house, block)
            if fitted is not None:
                plan.sites.append(Site("office", (base * 0.5, base * 1.4), wings=(fitted,), roofs=("flat",)))


def _industry(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Halls with long roofs in paved yards."""
    for lot in subdivide(block, rng, rng.uniform(2600.0, 7500.0)):
        material = (Material.ASPHALT, Material.CONCRETE, Material.GRAVEL)[int(rng.choice(3, p=(0.4, 0.4, 0.2)))]
        plan.patches.append(Patch(lot, material, colour=shade(rng, (138, 134, 128), 0.09)))
        if rng.random() < 0.5:
            _green_strip(plan, rng, lot, 3.0)
        box = frame(lot)
        hall = box.moved(rng.uniform(-0.1, 0.1) * box.length, rng.uniform(-0.12, 0.12) * box.width)
        wide = min(box.width * rng.uniform(0.4, 0.66), 60.0)
        found = fit(hall._replace(length=box.length * rng.uniform(0.55, 0.84), width=wide), lot)
        if found is None:
            bays = fit(box._replace(length=box.length * 0.8, width=box.width * 0.8), lot)
            if bays is not None:
                _bays(plan, rng, bays, 0.5)
            continue
        hall = found
        plan.sites.append(Site("warehouse", (6.0, 11.0), wings=(hall,), roofs=("metal", "metal", "flat")))
        for part in parts(lot.buffer(-4.0).difference(hall.polygon().buffer(5.0)), 60.0):
            for x, y in lattice(rng, part, 11.0).tolist():
                turn = box.angle + rng.choice((0, math.pi / 2))
                if rng.random() < 0.2:
                    plan.movables.append(Movable("truck", Rect(x, y, turn, 11.0, 2.6), 3.6, 0.7))
                elif rng.random() < 0.2:
                    plan.movables.append(Movable("container", Rect(x, y, turn, 6.1, 2.44), 2.6, 0.7))


def _containers(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """Stacks of containers in rows, lanes between."""
    colour = shade(rng, (150, 146, 140), 0.05)
    plan.patches.append(
        Patch(block, Material.CONCRETE, colour=colour, kind="container_yard", properties={"use": "port"})
    )
    box = frame(block)
    inside = block.buffer(-6.0)
    shapely.prepare(inside)
    for v in np.arange(-box.width / 2 + 8, box.width / 2, 30.0):
        for u in np.arange(-box.length / 2 + 8, box.length / 2, 12.8):
            filled = rng.uniform(0.55, 1.0) if rng.random() < 0.88 else 0.0
            for k in range(6):
                spot = box.moved(u, v + k * 2.7)._replace(length=12.2, width=2.44)
                if rng.random() < filled and inside.contains(Point(spot.x, spot.y)):
                    plan.movables.append(Movable("container", spot, 2.6 * float(rng.integers(1, 5)), 0.8))
        lane = LineString(box.moved(0.0, v - 6.0).points(np.array([(-0.5, 0.0), (0.5, 0.0)])))
        for part in shapely.get_parts(lane.intersection(inside)):
            plan.marks.append(Mark(shapely.get_coordinates(part), 0.3, (198, 176, 96)))


def _pitch(plan: Plan, rng: np.random.Generator, at: Rect) -> None:
    """A sports field or court with its lines."""
    field_ = at.length > 60.0
    sport = "football" if field_ else "court"
    courts: tuple[Rgb, ...] = ((146, 86, 66), (76, 108, 92), (92, 104, 132))
    colour = None if field_ else shade(rng, courts[int(rng.integers(3))], 0.05)
    mown = Crop(at.angle + math.pi / 2, 11.0, 0.06) if field_ else None
    material = Material.LAWN if field_ else Material.COURT
    plan.patches.append(Patch(at.polygon(), material, 0.04, colour, "pitch", {"sport": sport}, mown))

    def outline(box: Rect, along: float, across: float) -> None:
        corners = box._replace(length=at.length * along, width=at.width * across).corners()
        plan.marks.append(Mark(np.concatenate([corners, corners[:1]]), 0.3, WHITE))

    outline(at, 0.92, 0.88)
    plan.marks.append(Mark(at.points(np.array([(0.0, -0.44), (0.0, 0.44)])), 0.3, WHITE))
    if field_:
        plan.marks.append(Mark(shapely.get_coordinates(Point(at.x, at.y).buffer(9.15).exterior), 0.3, WHITE))
        for end in (-1, 1):
            outline(at.moved(end * at.length * 0.39, 0), 0.14, 0.5)


def _school(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """A school with its yard and sports field."""
    plan.patches.append(Patch(block, Material.LAWN, kind="school_ground", properties={"use": "school"}))
    inside = block.buffer(-5.0)
    box = frame(block)
    yard = box.moved(-box.length * 0.27, 0.0)._replace(length=box.length * 0.36, width=box.width * 0.8).polygon()
    plan.patches += [Patch(part, Material.ASPHALT) for part in parts(yard.intersection(inside))]
    main = box.moved(-box.length * 0.3, box.width * 0.14)
    main = main._replace(length=box.length * 0.28, width=rng.uniform(12.0, 18.0))
    wing = sideways(main.moved(main.length * 0.3, -0.15 * box.width))
    wing = wing._replace(length=min(box.width * 0.5, 50.0), width=rng.uniform(11.0, 15.0))
    wings = tuple(w for w in (fit(main, inside), fit(wing, inside)) if w is not None)
    if wings:
        plan.sites.append(Site("school", (6.0, 11.0), wings=wings, roofs=("flat", "hip")))
    pitch = box.moved(box.length * 0.22, 0.0)._replace(length=min(box.length * 0.44, 100.0))
    pitch = pitch._replace(width=min(box.width * 0.7, 64.0))
    if pitch.length < pitch.width:
        pitch = sideways(pitch)
    rest = block.difference(yard)
    if inside.contains(pitch.polygon()):
        _pitch(plan, rng, pitch)
        rest = rest.difference(pitch.polygon().buffer(4))
    scatter(plan, rng, rest, 3.5, (0.2, 0.8))


def _square(plan: Plan, block: Polygon, rng: np.random.Generator) -> None:
    """A paved square, perhaps with a church, trees and parked cars."""
    tones: tuple[Rgb, ...] = ((172, 162, 150), (152, 146, 140), (186, 172, 150))
    colour = shade(rng, tones[int(rng.integers(3))], 0.04)
    slabs = Crop(rng.uniform(0, math.pi), rng.uniform(5.0, 9.0), 0.05)
    about = {"area_m2": round(block.area)}
    plan.patches.append(Patch(block, Material.PAVING, 0.0, colour, "square", about, slabs))
    inside = block.buffer(-6.0)
    box = frame(block)
    nave = box.moved(rng.uniform(-0.12, 0.12) * box.length, 0.0)
    nave = nave._replace(length=min(42.0, box.length * 0.5), width=min(16.0, box.width * 0.36))
    if rng.random() < 0.5 and nave.width > 8 and inside.contains(nave.polygon()):
        transept = sideways(nave.moved(nave.length * 0.2, 0))
        transept = transept._replace(length=min(nave.width * 2.0, box.width * 0.7), width=nave.width * 0.7)
        plan.sites.append(Site("church", (9.0, 14.0), wings=(nave, transept)))
        spire = nave.moved(-nave.length / 2 - nave.width * 0.2, 0)
        spire = spire._replace(length=nave.width * 0.5, width=nave.width * 0.5)
        plan.sites.append(Site("spire", (24.0, 36.0), wings=(spire,), roofs=("hip",)))
    for part in parts(block.buffer(-rng.uniform(4.0, 9.0)), 60.0):
        for s in np.arange(0.0, part.exterior.length, rng.uniform(7.0, 12.0)):
            if rng.random() < 0.8:
                x, y = part.exterior.interpolate(s).coords[0]
                plan.tree(rng, x, y, 0.4, 0.2)
    lot = box._replace(length=box.length * 0.5, width=11.0).moved(0, box.width * 0.2)
    if rng.random() < 0.4 and inside.contains(lot.polygon()):
        _bays(plan, rng, lot, 0.6)


USES: dict[str, LandUse] = {
    "perimeter": LandUse(_perimeter, 700.0),
    "terrace": LandUse(_terrace, 0.0),
    "detached": LandUse(_detached, 900.0),
    "walled": LandUse(_walled, 0.0),
    "slabs": LandUse(_slabs, 3000.0),
    "retail": LandUse(_retail, 3500.0),
    "office": LandUse(_office, 0.0),
    "industry": LandUse(_industry, 2500.0),
    "containers": LandUse(_containers, 3000.0),
    "school": LandUse(_school, 4500.0),
    "square": LandUse(_square, 0.0),
}
