"""Walls, invented: a height map shows where a wall stands and how high, never what is on it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoview.render.scene import Buildings

__all__ = ["facade_colours", "hashed"]

_Floats = NDArray[np.float32]

_WALLS = np.array(
    [
        (0.86, 0.83, 0.76), (0.80, 0.72, 0.58), (0.72, 0.48, 0.38), (0.58, 0.35, 0.28), (0.90, 0.90, 0.88),
        (0.66, 0.66, 0.65), (0.84, 0.78, 0.62), (0.62, 0.68, 0.72), (0.76, 0.60, 0.50), (0.48, 0.44, 0.42),
        (0.82, 0.70, 0.66), (0.70, 0.74, 0.66),
    ],
    np.float32,
)  # fmt: skip
_GLASS, _CURTAIN, _FRAME, _GATE = np.array(
    [(0.22, 0.26, 0.31), (0.75, 0.72, 0.66), (0.9, 0.9, 0.88), (0.6, 0.61, 0.62)], np.float32
)
_TALL_M = 7.5  # above this, houses stand wall to wall


def hashed(key: NDArray[np.uint64], salt: int) -> _Floats:
    """Returns uniform draws in [0, 1) that depend on the key and the salt alone (splitmix64, Steele et al., 2014)."""
    x = key + np.uint64((salt * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)


def facade_colours(
    buildings: Buildings,
    label: NDArray[np.int32],
    along_m: _Floats,
    up_m: _Floats,
    height_m: _Floats,
    side: NDArray[np.bool_],
) -> _Floats:
    """Returns the colours of points on walls.

    Args:
        buildings: The buildings of the scene.
        label: (n,) whose wall it is.
        along_m: (n,) position along the wall.
        up_m: (n,) height above the ground.
        height_m: (n,) height of the wall.
        side: (n,) which of the building's two axes the wall runs along.

    Returns:
        (n, 3) in [0, 1].
    """
    house = buildings.key[label]
    tall = height_m > _TALL_M
    # Long fronts are parted into houses: a closed block is many buildings with walls in common.
    part = np.where(tall, np.floor(along_m / (9 + 14 * hashed(house, 1))), 0)
    key = _mixed(house, part, side)
    floor_m, pitch_m = 2.8 + 0.9 * hashed(house, 2), 1.7 + 2.6 * hashed(key, 3)
    column, row = np.floor(along_m / pitch_m), np.floor(up_m / floor_m)
    u, v = along_m / pitch_m - column, up_m / floor_m - row
    pane = _mixed(key, column, row)
    shed = ~tall & (hashed(house, 9) < 0.14)
    bottom = (up_m < floor_m) & ~shed

    colour = _WALLS[(hashed(key, 4) * len(_WALLS)).astype(np.int32)] * (0.82 + 0.3 * hashed(key, 5))[:, None]
    colour[shed & (np.floor(along_m / 0.5) % 2 == 0)] *= np.float32(0.93)  # ribs
    half, low, high = 0.16 + 0.26 * hashed(key, 6), 0.22 + 0.15 * hashed(key, 7), 0.75 + 0.15 * hashed(key, 8)

    def within(rim: float) -> NDArray[np.bool_]:
        return (np.abs(u - 0.5) < half + rim) & (v > low - rim) & (v < high + rim) & ~shed

    colour[within(0.05) & (hashed(key, 10) < 0.6)] = _FRAME
    window = within(0.0) & (up_m < height_m - 0.5)
    colour[window] = _GLASS * (0.5 + 1.3 * hashed(pane[window], 11))[:, None]
    colour[window & (hashed(pane, 12) < 0.2)] = _CURTAIN
    # Ground floors: shops behind glass with an awning, doors, garages, or as above.
    accent = np.stack([hashed(key, 14 + i) for i in range(3)], axis=-1) * np.float32(0.7) + np.float32(0.1)
    shop = bottom & tall & (hashed(key, 13) < 0.35)
    awning = shop & (up_m >= 0.78 * floor_m)
    colour[shop & ~awning & (u > 0.06)] = _GLASS * np.float32(1.2)
    colour[awning] = accent[awning]
    door = bottom & ~shop & (hashed(pane, 17) < 0.22) & (np.abs(u - 0.5) < 0.26) & (up_m < 2.1)
    colour[door] = accent[door] * np.float32(0.7)
    gate = shed & (hashed(pane, 18) < 0.3) & (up_m < 3.2)
    gate |= bottom & ~tall & (hashed(pane, 19) < 0.08) & (up_m < 2.2)
    colour[gate] = _GATE
    colour[up_m < 0.45] *= np.float32(0.75)
    colour[up_m > height_m - 0.35] *= np.float32(0.8)
    return np.asarray(colour, np.float32)


def _mixed(key: NDArray[np.uint64], one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.uint64]:
    """Returns keys that differ wherever one of three things does."""
    a, b = (v.astype(np.int64).astype(np.uint64) for v in (one, other))
    with np.errstate(over="ignore"):
        return np.asarray(key + a * np.uint64(0xD1342543DE82EF95) + b * np.uint64(0xAF251AF3B0F025B5), np.uint64)
