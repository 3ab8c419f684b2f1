"""Which land is used for what: from water, tracks and streets to blocks, and what each block holds."""

from __future__ import annotations

import math

import numpy as np
import shapely
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from geoview.render.world import built, open_land
from geoview.render.world.fabric import LandUse, Plan
from geoview.render.world.layout import Field, Street, bend, grid_net, parts, split_net, subdivide
from geoview.render.world.styles import Style
from geoview.render.world.waters import lay_water, line_shore
from geoview.render.world.ways import lay_streets, lay_tracks

__all__ = ["make_plan"]

_MARGIN_M = 70.0
_BLOCK_GAP_M2 = 120.0
_SCATTERED: dict[str, float] = {"square": 4500.0, "school": 40_000.0, "park": 30_000.0}  # greatest area
_BLOCKS: dict[str, LandUse] = {**built.USES, **open_land.USES}


def make_plan(style: Style, seed: int, size_m: tuple[float, float]) -> Plan:
    """Returns the plan of a region of a style; the same for the same seed and size."""
    rng = np.random.default_rng([seed, 1])
    plan = Plan(style, size_m)
    width, height = size_m
    extent = shapely.box(-_MARGIN_M, -_MARGIN_M, width + _MARGIN_M, height + _MARGIN_M)
    urban = _Urbanity(rng, size_m)
    water = lay_water(plan, rng, extent)
    corridor = lay_tracks(plan, rng, extent, water)
    fields = (Field(rng, size_m, 330.0, 2), Field(rng, size_m, 330.0, 2))

    def block_m2(area: Polygon) -> float:
        share = float(np.clip(urban.at(area), 0.0, 1.0))
        dense, opened = style.block_m2
        return float(dense * (opened / dense) ** ((1.0 - share) ** 1.3))

    if style.regular:
        net = grid_net(extent, rng, block_m2, rng.uniform(-0.35, 0.35) if rng.random() < 0.7 else 0.0)
    else:
        net = split_net(extent, rng, block_m2, style.skew_deg, 0.16)
    net = [Street(bend(street.line, fields, style.bend_m), street.rank) for street in net]
    taken = lay_streets(plan, rng, net, water, corridor)
    free = extent.difference(shapely.union_all([taken, water, corridor]))
    blocks = list(parts(free, _BLOCK_GAP_M2))
    for block, use in zip(blocks, _uses(style, rng, blocks, urban), strict=True):
        _BLOCKS[use].fill(plan, next(parts(block.simplify(0.3)), block), rng)
    if style.river == "coast":
        line_shore(plan, rng, water)
    _districts(plan, rng)
    return plan


class _Urbanity:
    """From 1 in the densest centre to 0 in the open, and below."""

    def __init__(self, rng: np.random.Generator, size_m: tuple[float, float]) -> None:
        self._field = Field(rng, size_m, 620.0, 2)
        self._centres = rng.uniform(0.15, 0.85, (int(rng.integers(1, 3)), 2)) * size_m
        self._reach_m = 0.45 * math.sqrt(size_m[0] * size_m[1])

    def at(self, shape: BaseGeometry) -> float:
        x, y = shape.centroid.coords[0]
        away = min(math.dist((x, y), centre) for centre in self._centres.tolist()) / self._reach_m
        return 0.85 - 0.6 * away + 0.22 * float(self._field.at(np.array([x, y])))


def _uses(style: Style, rng: np.random.Generator, blocks: list[Polygon], urban: _Urbanity) -> list[str]:
    """Deals the style's mix out to the blocks, by area.

    Squares, schools and parks lie scattered; of the other uses the densest go to the most urban blocks.
    """
    areas = np.array([block.area for block in blocks])
    score = np.array([urban.at(block) for block in blocks]) + 0.11 * rng.standard_normal(len(blocks))
    shares = dict(style.mix)
    uses = ["green"] * len(blocks)
    left = areas >= 350.0  # smaller ones hold nothing but grass
    for use in _SCATTERED:
        wanted = shares.pop(use, 0.0) * areas.sum()
        fit = left & (areas >= _BLOCKS[use].least_m2) & (areas <= _SCATTERED[use])
        if use == "square":
            fit &= score >= np.quantile(score, 0.5)
        for index in rng.permutation(np.flatnonzero(fit)).tolist():
            if areas[index] < 1.6 * wanted:
                uses[index], left[index] = use, False
                wanted -= areas[index]
    order = np.flatnonzero(left)[np.argsort(-score[left])]
    position = np.cumsum(areas[order]) - areas[order] / 2
    limits = np.cumsum(list(shares.values())) / sum(shares.values()) * areas[order].sum()
    names = list(shares)
    chosen = np.minimum(np.searchsorted(limits, position), len(names) - 1)
    for index, choice in zip(order.tolist(), chosen.tolist(), strict=True):
        fitting = [name for name in (names[choice], names[0], names[1]) if areas[index] >= _BLOCKS[name].least_m2]
        uses[index] = fitting[0] if fitting else "green"
    return uses


def _districts(plan: Plan, rng: np.random.Generator) -> None:
    """Cuts the region into named districts."""
    width, height = plan.size_m
    pieces = subdivide(shapely.box(0.0, 0.0, width, height), rng, max(width * height / 5.0, 90_000.0), 12.0)
    pieces.sort(key=lambda piece: (round(piece.centroid.y / 50), piece.centroid.x))
    plan.districts = [(f"District {number}", piece) for number, piece in enumerate(pieces, 1)]
