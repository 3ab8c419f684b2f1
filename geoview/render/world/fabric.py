"""The things that a region is planned with: patches, lines, walls, sites, trees, places for vehicles; vectors only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapely import LineString, Polygon
from shapely.geometry.base import BaseGeometry

from geoview.render.world.layout import Rect
from geoview.render.world.styles import Material, Rgb, Style

__all__ = ["WHITE", "Crop", "LandUse", "Mark", "Movable", "Patch", "Plan", "Site", "Wall", "Way", "shade"]

WHITE: Rgb = (205, 204, 198)


@dataclass(frozen=True)
class Crop:
    """Rows on a field: direction (radians), distance, and how much darker the furrows are (0..1)."""

    angle: float
    spacing_m: float
    contrast: float


@dataclass(frozen=True)
class Patch:
    """An area of one ground material; with `kind` it is also an object that can be named."""

    shape: Polygon
    material: Material
    tint: float = 0.0
    colour: Rgb | None = None
    kind: str = ""
    properties: dict[str, Any] = field(default_factory=dict)
    crop: Crop | None = None


@dataclass(frozen=True)
class Mark:
    """A painted or laid line on the ground."""

    xy_m: NDArray[np.float64]
    width_m: float
    colour: Rgb


@dataclass(frozen=True)
class Wall:
    """A hedge, fence or wall."""

    xy_m: NDArray[np.float64]
    width_m: float
    height_m: float
    material: Material
    colour: Rgb


@dataclass(frozen=True)
class Site:
    """Where a building stands: rectangles, or one footprint whose roof rises from the edges of `shape`."""

    use: str
    eaves_m: tuple[float, float]
    wings: tuple[Rect, ...] = ()
    footprint: Polygon | None = None
    shape: Polygon | None = None
    roofs: tuple[str, ...] = ("gable",)


@dataclass(frozen=True)
class Movable:
    """A place for a car, truck, boat or container, and the share of the time that one is there."""

    kind: str
    place: Rect
    height_m: float
    share: float


@dataclass(frozen=True)
class Way:
    """A carriageway: centre line, width, surface, colour and rank (0 main road, 1 street, 2 lane)."""

    line: LineString
    width_m: float
    material: Material
    colour: Rgb
    rank: int


@dataclass
class Plan:
    """All that a region holds; `trees` rows are x, y, crown radius, height (metres) and species (0..1)."""

    style: Style
    size_m: tuple[float, float]
    streets: list[Way] = field(default_factory=list)
    pavements: list[tuple[Polygon, Rgb]] = field(default_factory=list)
    water: list[Polygon] = field(default_factory=list)
    ponds: list[Polygon] = field(default_factory=list)
    decks: list[Polygon] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    over: list[Patch] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    walls: list[Wall] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    movables: list[Movable] = field(default_factory=list)
    trees: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    named: list[tuple[str, BaseGeometry, dict[str, Any]]] = field(default_factory=list)
    districts: list[tuple[str, Polygon]] = field(default_factory=list)

    def tree(self, rng: np.random.Generator, x: float, y: float, size: float, species: float) -> None:
        """Plants a tree; `size` 0..1 goes from a bush to an old tree."""
        radius = 1.3 + 4.2 * size * rng.uniform(0.75, 1.2)
        self.trees.append((x, y, radius, max(3.0, radius * rng.uniform(2.0, 3.1) + 1.5), species))


@dataclass(frozen=True)
class LandUse:
    """How a block is filled, and the least area (m²) that this takes."""

    fill: Callable[[Plan, Polygon, np.random.Generator], None]
    least_m2: float


def shade(rng: np.random.Generator, colour: Rgb, amount: float) -> Rgb:
    """Returns a colour a little lighter or darker, and a trace of another hue."""
    factor = 1.0 + amount * rng.standard_normal()
    r, g, b = (round(float(np.clip(c * factor + rng.normal(0, 22 * amount), 8, 245))) for c in colour)
    return r, g, b
