"""Walls, invented: a height map shows where a wall stands and how high, never what is on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoview.render.scene import Buildings

__all__ = ["facade_colours", "hashed"]

_Floats = NDArray[np.float32]

_WALLS = np.float32(
    [
        (0.86, 0.83, 0.76), (0.80, 0.72, 0.58), (0.72, 0.48, 0.38), (0.58, 0.35, 0.28), (0.90, 0.90, 0.88),
        (0.66, 0.66, 0.65), (0.84, 0.78, 0.62), (0.62, 0.68, 0.72), (0.76, 0.60, 0.50), (0.48, 0.44, 0.42),
        (0.82, 0.70, 0.66), (0.70, 0.74, 0.66),
    ]
)  # fmt: skip
_GLASS = np.float32([0.22, 0.26, 0.31])


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
    tall = height_m > 7.5
    # Long fronts are parted into houses: a closed block is many buildings with walls in common.
    width_m = 9 + 14 * hashed(house, 1)
    with np.errstate(over="ignore"):
        part = np.floor(along_m / width_m).astype(np.int64).astype(np.uint64)
        key = house + np.where(tall, part, np.uint64(0)) * np.uint64(0xD1342543DE82EF95) + side
    floor_m = 2.8 + 0.9 * hashed(house, 2)
    pitch_m = 1.7 + 2.6 * hashed(key, 3)
    wall = _WALLS[(hashed(key, 4) * len(_WALLS)).astype(np.int32)] * (0.82 + 0.3 * hashed(key, 5))[:, None]
    across, floor = along_m / pitch_m, up_m / floor_m
    col, row = np.floor(across), np.floor(floor)
    u, v = across - col, floor - row
    half = 0.16 + 0.26 * hashed(key, 6)
    low, high = 0.22 + 0.15 * hashed(key, 7), 0.75 + 0.15 * hashed(key, 8)
    window = (np.abs(u - 0.5) < half) & (v > low) & (v < high) & (up_m < height_m - 0.5)
    frame = (np.abs(u - 0.5) < half + 0.05) & (v > low - 0.05) & (v < high + 0.05) & ~window
    industrial = (hashed(house, 9) < 0.14) & ~tall
    window &= ~industrial
    frame &= ~industrial & (hashed(key, 10) < 0.6)
    with np.errstate(over="ignore"):
        pane = (
            key + col.astype(np.int64).astype(np.uint64) * np.uint64(7919) + row.astype(np.uint64) * np.uint64(104729)
        )
    glass = _GLASS * (0.5 + 1.3 * hashed(pane, 11))[:, None]
    curtain = hashed(pane, 12) < 0.2
    glass = np.where(curtain[:, None], np.float32([0.75, 0.72, 0.66]), glass)
    colour = np.where(frame[:, None], np.float32([0.9, 0.9, 0.88]), wall)
    colour = np.where(window[:, None], glass, colour)
    # Ground floors: shops behind glass with an awning, doors, garages, or as above.
    ground = (up_m < floor_m) & ~industrial
    kind = hashed(key, 13)
    shop = ground & (kind < 0.35) & tall
    accent = np.stack([hashed(key, 14 + i) for i in range(3)], axis=-1) * np.float32(0.7) + np.float32(0.1)
    colour = np.where((shop & (up_m < 0.78 * floor_m) & (u > 0.06))[:, None], _GLASS * 1.2, colour)
    colour = np.where((shop & (up_m >= 0.78 * floor_m))[:, None], accent, colour)
    door = ground & ~shop & (hashed(pane, 17) < 0.22) & (np.abs(u - 0.5) < 0.26) & (up_m < 2.1)
    colour = np.where(door[:, None], accent * np.float32(0.7), colour)
    garage = (industrial & (hashed(pane, 18) < 0.3) & (up_m < 3.2)) | (
        ground & ~tall & (hashed(pane, 19) < 0.08) & (up_m < 2.2)
    )
    colour = np.where(garage[:, None], np.float32([0.6, 0.61, 0.62]), colour)
    ribs = industrial & (np.floor(along_m / 0.5).astype(np.int32) % 2 == 0)
    colour = np.where(ribs[:, None] & ~garage[:, None], colour * np.float32(0.93), colour)
    colour = np.where((up_m < 0.45)[:, None], colour * np.float32(0.75), colour)
    colour = np.where((up_m > height_m - 0.35)[:, None], colour * np.float32(0.8), colour)
    return colour.astype(np.float32)
