"""A region on one date: what was built, what grows, what is parked there, and its colours in that season."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from geoview.render.scene import Cover, Grid, Scene
from geoview.render.world.fabric import Movable, Patch, Plan, Site
from geoview.render.world.layout import Rect
from geoview.render.world.lots import largest
from geoview.render.world.paint import Canvas, Crowns, Raised, Roof, lift_roof, textured, window_of
from geoview.render.world.seasons import Season, mix, scaled
from geoview.render.world.styles import Material, Rgb

__all__ = ["Ground", "State", "WorldObject", "state_at"]

_REBUILT_SHARE = 0.08
_TREES_CHANGED_SHARE = 0.06
_STRIPED = np.array(
    [m in (Material.CROP, Material.LAWN, Material.PAVING, Material.SOIL, Material.GRASS) for m in Material]
)
_TREELESS = np.array(
    [m in (Material.ASPHALT, Material.WATER, Material.MOVABLE, Material.COURT, Material.PAINT) for m in Material]
)
_CAR_COLOURS: tuple[Rgb, ...] = (
    (212, 212, 210), (226, 226, 224), (44, 44, 48), (58, 60, 64), (128, 130, 134), (160, 162, 166),
    (98, 100, 104), (122, 38, 36), (48, 66, 104), (68, 84, 72), (150, 138, 116), (30, 30, 32),
)  # fmt: skip
_CONTAINER_COLOURS: tuple[Rgb, ...] = (
    (142, 66, 52), (58, 86, 118), (84, 108, 92), (168, 160, 146), (150, 104, 60), (106, 62, 58), (88, 96, 104),
    (176, 140, 78),
)  # fmt: skip


@dataclass(frozen=True)
class WorldObject:
    """Something that can be named: its kind, where it is (local metres, inside the region) and what is known of it."""

    kind: str
    geometry: BaseGeometry
    properties: dict[str, Any]


@dataclass(frozen=True)
class State:
    """A region on one date.

    Attributes:
        grid: Where the arrays lie.
        albedo: (H, W, 3) uint8 colours from above, without shadows or traces of a sensor.
        surface_m: (H, W) float32 height of what is on top.
        terrain_m: (H, W) float32 height of the bare ground.
        cover: (H, W) uint8 of `Cover`.
        standing: (H, W) bool, where a photographer may stand: ways, squares, car parks and open ground.
        roads: (H, W) bool, the part of `standing` that is street, pavement or square.
        date: When.
        objects: Everything that can be named.
        seed: Of what cannot be seen from above.
    """

    grid: Grid
    albedo: NDArray[np.uint8]
    surface_m: NDArray[np.float32]
    terrain_m: NDArray[np.float32]
    cover: NDArray[np.uint8]
    standing: NDArray[np.bool_]
    roads: NDArray[np.bool_]
    date: datetime.date
    objects: list[WorldObject] = field(repr=False)
    seed: int = 0

    def scene(self) -> Scene:
        """Returns the region as a street camera meets it."""
        return Scene(self.grid, self.albedo, self.surface_m, self.terrain_m, self.cover, self.standing, self.seed)


@dataclass(frozen=True)
class Ground:
    """What all states of a region have in common.

    Attributes:
        plan: What stands where.
        grid: Where the arrays lie.
        key: Seed of all that is drawn.
        terrain_m: (H, W) float32 height of the bare ground.
        noise: Broad wear, fine grain and dryness of the ground, each (H, W) float32 of unit variance.
    """

    plan: Plan
    grid: Grid
    key: int
    terrain_m: NDArray[np.float32] = field(repr=False)
    noise: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]] = field(repr=False)


def state_at(ground: Ground, epoch: int) -> State:
    """Returns a region at an epoch, counted from 0."""
    return _Painter(ground, epoch).state()


class _Painter:
    """Draws one epoch of a world."""

    def __init__(self, ground: Ground, epoch: int) -> None:
        self._land, self._plan, self._grid, self._key, self._epoch = ground, ground.plan, ground.grid, ground.key, epoch
        grid = self._grid
        first = np.random.default_rng([self._key, 4])
        days = int(first.integers(120, 215))
        days += sum(
            int(np.random.default_rng([self._key, 4, e]).integers(365 + 50, 365 + 190)) for e in range(1, epoch + 1)
        )
        self._lat_deg = float(grid.latlon_deg(np.array([0.0, 0.0]))[0])
        if self._lat_deg < 0:
            days += 182
        self._date = datetime.date(2015 + int(first.integers(0, 5)), 1, 1) + datetime.timedelta(days=days)
        self._season = Season.of(self._date, self._lat_deg, self._plan.style.dry_summer)
        self._objects: list[WorldObject] = []
        self._box = shapely.box(0.0, 0.0, *grid.size_m)
        shapely.prepare(self._box)

    def state(self) -> State:
        plan, gsd = self._plan, self._grid.gsd_m
        rng = np.random.default_rng([self._key, 5, self._epoch])
        canvas = self._ground(rng)
        material = canvas.material
        colour = canvas.colour
        self._rows(colour, material)
        broad, fine, dry = self._land.noise
        shift = self._epoch * 37
        albedo = textured(colour, material, broad, np.roll(fine, shift, (0, 1)), dry)
        del colour
        terrain = self._land.terrain_m
        surface = terrain + canvas.lift_m
        cover = np.full(material.shape, int(Cover.GROUND), np.uint8)
        cover[material == Material.WATER] = Cover.WATER
        cover[material == Material.HEDGE] = Cover.CANOPY
        to = Raised(gsd, albedo, surface, cover, terrain, fine)
        self._buildings(to, rng)
        self._trees(to, material, rng)
        standing = (cover == Cover.GROUND) & (surface - terrain < 0.3)
        roads = canvas.road & standing
        for kind, shape, properties in plan.named:
            self._name(kind, shape, properties)
        return State(self._grid, albedo, surface, terrain, cover, standing, roads, self._date, self._objects, self._key)

    def _name(self, kind: str, shape: BaseGeometry, properties: dict[str, Any]) -> None:
        if not self._box.contains_properly(shape):
            shape = shape.intersection(self._box)
        if not shape.is_empty and (shape.area > 0.5 or shape.length > 5.0):
            self._objects.append(WorldObject(kind, shape, dict(properties)))

    # ---- the ground ----

    @cached_property
    def _palette(self) -> dict[Material, Rgb]:
        season, arid = self._season, self._plan.style.ground is Material.SOIL
        lush, faded = ((122, 120, 82), (168, 150, 114)) if arid else ((90, 106, 64), (148, 138, 98))
        grass = mix(faded, lush, season.green)
        base: dict[Material, Rgb] = {
            Material.GRASS: mix(grass, (112, 112, 70), 0.35),
            Material.LAWN: mix(grass, (138, 130, 94) if arid else (94, 112, 68), 0.5),
            Material.SOIL: (174, 147, 113) if arid else (128, 104, 80),
            Material.CROP: grass,
            Material.ASPHALT: (112, 112, 112),
            Material.PAVING: (164, 156, 144),
            Material.CONCRETE: (166, 160, 150),
            Material.GRAVEL: (164, 152, 132),
            Material.DIRT: (190, 167, 134) if arid else (150, 126, 98),
            Material.SAND: (208, 190, 156),
            Material.WATER: (52, 74, 76),
            Material.PAINT: (205, 204, 198),
            Material.ROCK: (128, 122, 114),
            Material.HEDGE: (64, 84, 48),
            Material.WALL: (160, 148, 130),
            Material.MOVABLE: (120, 120, 120),
            Material.LITTER: (92, 84, 60),
            Material.COURT: (130, 90, 72),
        }
        return base

    def _ground(self, rng: np.random.Generator) -> Canvas:
        plan, grid = self._plan, self._grid
        wear = rng.normal(0.0, 0.03)
        canvas = Canvas(grid.shape, grid.gsd_m, self._palette[plan.style.ground], plan.style.ground)
        for index, patch in enumerate(plan.patches):
            self._patch(canvas, patch, index, wear)
        for water in plan.water:
            canvas.area(water, self._palette[Material.WATER], Material.WATER, False)
        for pond in plan.ponds:
            canvas.area(pond, scaled(self._palette[Material.WATER], 0.92), Material.WATER, False)
        for body, colour in plan.pavements:
            canvas.area(body, scaled(colour, 1 + wear), Material.PAVING, True)
        for way in plan.streets:
            canvas.area(way.line.buffer(way.width_m / 2, 4), scaled(way.colour, 1 + wear), way.material, True)
        for way in plan.streets:
            if way.material is not Material.ASPHALT:  # what grows between the wheel tracks
                middle = mix(way.colour, self._palette[plan.style.ground], 0.35)
                canvas.line(shapely.get_coordinates(way.line), 0.6, middle)
        self._repairs(canvas, rng)
        for index, patch in enumerate(plan.over):
            self._patch(canvas, patch, len(plan.patches) + index, wear)
        for mark in plan.marks:
            canvas.line(
                mark.xy_m, mark.width_m, mix((120, 120, 118), mark.colour, min(1.0, 0.25 + mark.width_m / grid.gsd_m))
            )
        for wall in plan.walls:
            colour = (
                mix(wall.colour, (128, 104, 62), 0.5 * self._season.autumn)
                if wall.material is Material.HEDGE
                else wall.colour
            )
            canvas.wall(wall.xy_m, wall.width_m, wall.height_m, colour, wall.material)
        self._vehicles(canvas, rng)
        return canvas

    def _patch(self, canvas: Canvas, patch: Patch, index: int, wear: float) -> None:
        colour = patch.colour or self._palette[patch.material]
        if patch.kind == "field":
            colour = self._crop(index, bool(patch.properties.get("irrigated")))
        canvas.area(
            patch.shape,
            scaled(colour, 1.0 + patch.tint + wear),
            patch.material,
            True if patch.kind == "square" else None,
        )
        if patch.kind:
            self._name(patch.kind, patch.shape, patch.properties)

    def _crop(self, index: int, irrigated: bool) -> Rgb:
        """The colour of a field, another crop in every epoch."""
        rng = np.random.default_rng([self._key, 6, index, self._epoch])
        green, ripe, bare, young = (74, 104, 48), (178, 158, 104), (136, 110, 84), (112, 132, 66)
        if irrigated:
            return mix(green, young, rng.uniform(0.0, 0.9)) if rng.random() < 0.75 else mix(ripe, bare, rng.random())
        summer = self._season.green
        choice = rng.choice(4, p=np.array([0.2 + 0.3 * summer, 0.3, 0.55 - 0.4 * summer, 0.2]) / (1.25 - 0.1 * summer))
        pick = (green, ripe, bare, young)[int(choice)]
        return scaled(mix(pick, self._palette[Material.GRASS], rng.uniform(0.0, 0.35)), rng.uniform(0.88, 1.12))

    def _repairs(self, canvas: Canvas, rng: np.random.Generator) -> None:
        """Patches of newer and older asphalt."""
        lasting = np.random.default_rng([self._key, 7])
        for source, per_m in ((lasting, 1 / 70.0), (rng, 1 / 260.0)):
            for way in self._plan.streets:
                if way.material is not Material.ASPHALT:
                    continue
                line, width, colour = way.line, way.width_m, way.colour
                for s in source.uniform(0.0, line.length, int(source.poisson(line.length * per_m))):
                    here, ahead = (np.array(line.interpolate(t).coords[0]) for t in (s, s + 1.0))
                    angle = math.atan2(ahead[1] - here[1], ahead[0] - here[0])
                    spot = Rect(here[0], here[1], angle, source.uniform(3.0, 26.0), width * source.uniform(0.2, 0.5))
                    spot = spot.moved(0.0, (width - spot.width) / 2 * source.choice((-1.0, 1.0)))
                    canvas.detail(spot.corners(), scaled(colour, source.uniform(0.78, 1.14)))

    def _vehicles(self, canvas: Canvas, rng: np.random.Generator) -> None:
        movables = self._plan.movables
        if not movables:
            return
        present = rng.random(len(movables)) < [m.share for m in movables]
        shifts = rng.normal(0.0, 0.25, (len(movables), 2))
        pick = rng.integers(0, 1 << 16, len(movables))
        for index in np.flatnonzero(present).tolist():
            movable = movables[index]
            place = movable.place.moved(*shifts[index].tolist()) if movable.kind == "car" else movable.place
            colour = self._paint_of(movable, int(pick[index]))
            canvas.box(place.corners(), movable.height_m, colour)
            if movable.kind in ("car", "truck"):
                share = 0.12 if movable.kind == "car" else 0.34
                glass = place.moved(place.length * share, 0.0)._replace(
                    length=place.length * 0.14, width=place.width * 0.85
                )
                canvas.detail(glass.corners(), scaled(colour, 0.45))
            elif movable.kind == "boat":
                deck = place._replace(length=place.length * 0.5, width=place.width * 0.55)
                canvas.detail(deck.corners(), (150, 134, 112) if pick[index] % 3 else (96, 104, 116))

    @staticmethod
    def _paint_of(movable: Movable, pick: int) -> Rgb:
        if movable.kind == "boat":
            return scaled((212, 212, 208), 0.85 + pick % 7 / 40)
        palette = _CONTAINER_COLOURS if movable.kind == "container" else _CAR_COLOURS
        if movable.kind == "truck":
            palette = _CAR_COLOURS[:5]
        return scaled(palette[pick % len(palette)], 0.9 + pick // 16 % 9 / 40)

    def _rows(self, colour: NDArray[np.uint8], material: NDArray[np.uint8]) -> None:
        """Draws crop rows and mowing stripes."""
        gsd, shape = self._grid.gsd_m, self._grid.shape
        wander, _, _ = self._land.noise
        for patch in self._plan.patches:
            crop = patch.crop
            if crop is None:
                continue
            rows, columns, inside = window_of(patch.shape, gsd, shape)
            if not inside.any():
                continue
            y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] * gsd
            x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] * gsd
            across = y * math.cos(crop.angle) - x * math.sin(crop.angle)
            spacing = max(crop.spacing_m, 2.5 * gsd)
            wave = np.sin((2 * math.pi / spacing) * across + 0.25 * wander[rows, columns])
            if patch.kind == "field":  # tramlines of the sprayer
                wave = wave - 1.6 * (np.mod(across, 24.0) < 1.2)
            inside &= _STRIPED[material[rows, columns]]
            window = colour[rows, columns]
            factor = 1.0 + crop.contrast * wave[inside]
            window[inside] = np.clip(window[inside] * factor[:, None], 3, 250)

    # ---- what stands up ----

    def _generations(self, count: int, share: float, stream: int) -> NDArray[np.int64]:
        """How often each of `count` things has been replaced up to this epoch."""
        times = np.zeros(count, np.int64)
        for epoch in range(1, self._epoch + 1):
            times += np.random.default_rng([self._key, stream, epoch]).random(count) < share
        return times

    def _buildings(self, to: Raised, rng: np.random.Generator) -> None:
        sites = self._plan.sites
        times = self._generations(len(sites), _REBUILT_SHARE, 8)
        drift = 1.0 + 0.035 * rng.standard_normal((len(sites), 1)) + 0.007 * rng.standard_normal((len(sites), 3))
        sun = math.radians(np.random.default_rng([self._key, 9]).uniform(0, 360))
        built = []
        for index, (site, generation) in enumerate(zip(sites, times.tolist(), strict=True)):
            draw = np.random.default_rng([self._key, 10, index, generation])
            if generation and draw.random() < 0.25:
                continue
            wings, footprint, slopes_from = _outline(site, draw, generation)
            built.append((footprint.area, index, site, wings, footprint, slopes_from, draw))
        for _, index, site, wings, footprint, slopes_from, draw in built:
            roof = self._roof(site, draw, drift[index], index)
            height = lift_roof(to, footprint, wings, slopes_from, roof, sun)
            if height > 0:
                self._name(
                    "building",
                    footprint,
                    {
                        "use": site.use,
                        "roof": "gable" if roof.form == "metal" else roof.form,
                        "height_m": round(height, 1),
                    },
                )

    def _roof(self, site: Site, draw: np.random.Generator, drift: NDArray[np.float64], index: int) -> Roof:
        style = self._plan.style
        form = str(draw.choice(site.roofs))
        if form == "metal":
            palette: tuple[Rgb, ...] = (
                (172, 174, 174),
                (150, 152, 152),
                (196, 196, 194),
                (128, 134, 138),
                (140, 118, 104),
                (116, 128, 120),
            )
        else:
            palette = style.flats if form == "flat" else style.roofs
        colour = np.array(palette[int(draw.integers(len(palette)))]) * draw.normal(1.0, 0.09) + draw.normal(0, 2.0, 3)
        r, g, b = (round(float(np.clip(c, 12, 240))) for c in colour * drift)
        pitch = {"flat": 0.0, "metal": 0.16}.get(form, draw.uniform(0.35, 0.8))
        if site.use in ("church", "spire") and form != "flat":
            pitch = 1.3
        return Roof(
            form, (r, g, b), float(draw.uniform(*site.eaves_m)), float(pitch), (self._key * 100_003 + index) % 2**31
        )

    def _trees(self, to: Raised, material: NDArray[np.uint8], rng: np.random.Generator) -> None:
        if not self._plan.trees:
            return
        trees = np.array(self._plan.trees)
        times = self._generations(len(trees), _TREES_CHANGED_SHARE, 12)
        lasting = np.random.default_rng([self._key, 13])
        jitter, form = lasting.normal(0, 1, (len(trees), 3)), lasting.integers(0, Crowns.FORMS, len(trees))
        rows, columns = self._grid.shape
        gsd = self._grid.gsd_m
        row, column = (trees[:, 1] // gsd).astype(int), (trees[:, 0] // gsd).astype(int)
        reach = 8.0 / gsd
        near = (row > -reach) & (row < rows + reach) & (column > -reach) & (column < columns + reach)
        at = np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)
        fits = ~_TREELESS[material[at]] & (to.cover[at] != Cover.BUILDING)
        grown = 1.0 + 0.02 * self._epoch
        changed = np.random.default_rng([self._key, 14, self._epoch]).random(len(trees))
        keep = near & fits & ~((times > 0) & (changed < 0.5))
        size = np.where(times > 0, 0.55, min(grown, 1.3))
        colours = self._leaves(trees[:, 4], jitter)
        crowns = Crowns(gsd)
        order = np.flatnonzero(keep)
        for index in order.tolist():
            x, y, radius, height, _ = trees[index]
            crowns.plant(to, x, y, radius * size[index], height * size[index], int(form[index]), colours[index])

    def _leaves(self, species: NDArray[np.float64], jitter: NDArray[np.float64]) -> NDArray[np.float32]:
        """Colours (N, 3) of crowns in this season."""
        season, style = self._season, self._plan.style
        evergreen = species > 1.0 - style.evergreen
        summer = np.array([74.0, 94.0, 52.0]) + 14.0 * (species[:, None] - 0.4) * np.array([1.0, 0.8, 0.5])
        dark = np.array([84.0, 92.0, 62.0]) if style.ground is Material.SOIL else np.array([50.0, 68.0, 46.0])
        turning = np.where((species * 7 % 1 < 0.5)[:, None], [136.0, 110.0, 60.0], [126.0, 116.0, 58.0])
        early = np.clip(season.autumn * 1.4 - (species[:, None] * 13 % 1) * 0.6, 0, 1)
        leaves = summer + (turning - summer) * early
        leaves = leaves + (np.array([116.0, 106.0, 92.0]) - leaves) * (0.75 * season.bare)
        leaves[evergreen] = dark
        leaves = leaves * (1 + 0.11 * jitter[:, :1]) + 4.0 * jitter
        return np.asarray(np.clip(leaves, 18, 190), np.float32)


def _outline(
    site: Site, draw: np.random.Generator, generation: int
) -> tuple[tuple[Rect, ...], Polygon, Polygon | None]:
    """Returns wings, footprint and the polygon the roof rises from, of a site's present building."""
    if site.footprint is not None:
        if generation == 0 or site.footprint.area < 120.0:
            return (), site.footprint, site.shape
        whole = largest(site.footprint.buffer(-draw.uniform(0.8, 2.0)), 40.0) or site.footprint
        return (), whole, whole
    wings = site.wings
    if generation:
        main = wings[0]
        main = main._replace(length=main.length * draw.uniform(0.7, 1.0), width=main.width * draw.uniform(0.75, 1.0))
        wings = (main,)
    shape = shapely.union_all([wing.polygon() for wing in wings])
    return (wings, shape, None) if isinstance(shape, Polygon) else (wings[:1], wings[0].polygon(), None)
