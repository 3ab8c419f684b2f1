"""The cube under the S2 cells: ids as bits, cells as squares on its faces, and the Hilbert curve that numbers them.

The definitions are those of Google's S2 Geometry library (https://s2geometry.io, Apache-2.0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FACE_AXES",
    "MAX_LEVEL",
    "XYZ_SIGN",
    "XYZ_SOURCE",
    "Floats",
    "Ids",
    "Ints",
    "Squares",
    "are_ids",
    "as_ids",
    "as_uint64",
    "check_level",
    "face_uvw",
    "face_xyz",
    "id_levels",
    "ids_of_squares",
    "latlon_of_xyz",
    "lsb",
    "lsb_of_level",
    "square_sizes",
    "squares",
    "st_to_uv",
]

MAX_LEVEL = 30

Ids = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_STEP = 4  # levels of the curve that one table look-up walks
_SWAP, _INVERT = 1, 2  # how the curve lies within a cell: axes exchanged, both axes reversed
_LEVEL_BITS = np.uint64(0x1555555555555555)  # where the lowest one of a valid id may stand

# Rows: the axes u, v and w (outward) of each face in x, y, z.
FACE_AXES = np.array(
    [
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[-1, 0, 0], [0, 0, 1], [0, 1, 0]],
        [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[0, 0, -1], [0, -1, 0], [-1, 0, 0]],
        [[0, 0, -1], [1, 0, 0], [0, -1, 0]],
        [[0, 1, 0], [1, 0, 0], [0, 0, -1]],
    ],
    dtype=np.int64,
)
# The same read the other way: which of (u, v, w) is x, y, z, and with which sign.
XYZ_SOURCE = np.abs(FACE_AXES).argmax(axis=1)
XYZ_SIGN = FACE_AXES.sum(axis=1)


def _curve_tables() -> tuple[Ints, Ints]:
    """Look-up tables of `_STEP` levels: (i, j, orientation) -> (position, orientation) and back.

    Keys and values are packed as i | j | orientation and position | orientation, with two bits of orientation.
    """
    quadrants = []  # [orientation][position] -> quadrant 2 i + j
    for lie in range(4):
        order = [0b00, 0b01, 0b11, 0b10]
        if lie & _SWAP:
            order = [quadrant >> 1 | (quadrant & 1) << 1 for quadrant in order]
        if lie & _INVERT:
            order = [quadrant ^ 0b11 for quadrant in order]
        quadrants.append(order)
    quadrant_of = np.array(quadrants)
    position_of = quadrant_of.argsort(axis=1)
    turn = np.array([_SWAP, 0, 0, _SWAP | _INVERT])  # of the curve in the four children, in curve order

    keys = np.arange(1 << (2 * _STEP + 2))
    i, j, start = keys >> (_STEP + 2), keys >> 2 & ((1 << _STEP) - 1), keys & 3
    position, orientation = np.zeros_like(keys), start
    for bit in reversed(range(_STEP)):
        digit = position_of[orientation, (i >> bit & 1) << 1 | j >> bit & 1]
        position, orientation = position << 2 | digit, orientation ^ turn[digit]
    to_position = position << 2 | orientation
    to_ij = np.empty_like(keys)
    to_ij[position << 2 | start] = (i << _STEP | j) << 2 | orientation
    return to_position, to_ij


_TO_POSITION, _TO_IJ = _curve_tables()


class Squares(NamedTuple):
    """Cells as squares (face, i, j) of the grid of 2^level by 2^level squares on a cube face; all int64."""

    face: Ints
    i: Ints
    j: Ints
    level: Ints


def squares(ids: ArrayLike) -> Squares:
    """Place of cells in the grids of their faces and levels.

    Returns:
        Face, i, j and level, each (...) int64 with 0 <= i, j < 2^level.
    """
    ids = as_ids(ids)
    level = id_levels(ids)
    face = (ids >> np.uint64(61)).astype(np.int64)
    position = (ids - (lsb(ids) - np.uint64(1)) >> np.uint64(1)).astype(
        np.int64
    )  # of the first leaf; the face's bits are shed below
    steps = -(-MAX_LEVEL // _STEP)
    i, j, packed = np.zeros_like(face), np.zeros_like(face), face & _SWAP
    for step in reversed(range(steps)):
        width = min(_STEP, MAX_LEVEL - step * _STEP)
        digits = position >> (2 * _STEP * step) & ((1 << (2 * width)) - 1)
        packed = _TO_IJ[digits << 2 | packed & 3]
        i = i << _STEP | packed >> (_STEP + 2)
        j = j << _STEP | packed >> 2 & ((1 << _STEP) - 1)
    return Squares(face, i >> (MAX_LEVEL - level), j >> (MAX_LEVEL - level), level)


def ids_of_squares(face: Ints, i: Ints, j: Ints, level: int) -> Ids:
    """Ids of squares of one level; inverse of `squares`.

    Args:
        face: (...) 0 to 5.
        i: (...) 0 to 2^level - 1.
        j: (...) likewise.
        level: 0 to 30.

    Returns:
        (...) ids.
    """
    steps = -(-level // _STEP)
    mask = (1 << _STEP) - 1
    # The first look-up begins above the face with levels of zeros, each of which exchanges the axes.
    packed = face & _SWAP if (steps * _STEP - level) % 2 == 0 else face & _SWAP ^ _SWAP
    position = np.array(face, dtype=np.int64)
    for shift in range((steps - 1) * _STEP, -1, -_STEP):
        key = i >> shift
        key &= mask
        key <<= _STEP
        key |= j >> shift & mask
        key <<= 2
        key |= packed
        packed = _TO_POSITION[key]
        width = 2 * min(_STEP, level - shift)
        position <<= width
        position |= packed >> 2
        packed &= 3
    position <<= 1
    position |= 1
    return position.view(np.uint64) << np.uint64(60 - 2 * level)


def st_to_uv(s: Floats) -> Floats:
    """S2's quadratic projection, from the square grid [0, 1] of a face to its plane [-1, 1].

    Returns:
        (...) u or v, the tangents of angles at the Earth's centre.
    """
    return np.where(s >= 0.5, (1.0 / 3.0) * (4.0 * s * s - 1.0), (1.0 / 3.0) * (1.0 - 4.0 * (1.0 - s) * (1.0 - s)))


def face_uvw(face: Ints, xyz: Floats) -> Floats:
    """Vectors in the axes of faces: u and v on the face, w outward; w > 0 above the face's horizon.

    Args:
        face: (...) 0 to 5.
        xyz: (..., 3) vectors.

    Returns:
        (..., 3).
    """
    axes = FACE_AXES[face]
    return np.asarray(np.take_along_axis(xyz, np.abs(axes).argmax(-1), axis=-1) * axes.sum(-1))


def face_xyz(face: Ints, u: Floats, v: Floats) -> Floats:
    """(..., 3) points of the cube."""
    uvw = np.stack([u, v, np.ones_like(u)], axis=-1)
    return np.asarray(np.take_along_axis(uvw, XYZ_SOURCE[face], axis=-1) * XYZ_SIGN[face])


def latlon_of_xyz(xyz: Floats) -> Floats:
    """(..., 2) degrees with the reference's rounding; it leaves the date line the sign that y has."""
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    return np.asarray(np.rad2deg(np.stack([np.arctan2(z, np.sqrt(x * x + y * y)), np.arctan2(y, x)], axis=-1)))


def square_sizes(level: Ints) -> Floats:
    """Side of a square, where the face has side 1."""
    return np.asarray(np.ldexp(1.0, -level), dtype=np.float64)


def as_uint64(ids: ArrayLike) -> Ids:
    """Numbers as uint64; ValueError for what is no integer."""
    if isinstance(ids, np.ndarray | np.generic) and ids.size and ids.dtype.kind not in "ui":
        raise ValueError(f"cell ids must be unsigned integers, not {ids.dtype}")
    return np.asarray(ids, dtype=np.uint64)


def as_ids(ids: ArrayLike) -> Ids:
    """Numbers as cell ids; ValueError naming the first that is none, and its row."""
    array = as_uint64(ids)
    good = are_ids(array)
    if not good.all():
        row = int(np.argmin(good.ravel()))
        raise ValueError(f"{array.ravel()[row]:#018x} in row {row} is not the id of an S2 cell")
    return array


def are_ids(ids: Ids) -> NDArray[np.bool_]:
    """Which numbers are cell ids, (...) bool."""
    return np.asarray((ids < np.uint64(6 << 61)) & (lsb(ids) & _LEVEL_BITS != 0))


def lsb(ids: Ids) -> Ids:
    """The lowest one of each id, which marks its level."""
    with np.errstate(over="ignore"):  # a lone 0 wraps round, and NumPy warns of that for scalars
        return ids & (~ids + np.uint64(1))


def lsb_of_level(level: int) -> np.uint64:
    """The lowest one of all ids of a level; ValueError for a level that is none."""
    check_level(level)
    return np.uint64(1 << (2 * (MAX_LEVEL - level)))


def id_levels(ids: Ids) -> Ints:
    """Levels of ids, (...) int64."""
    # A power of two is exact in float64, and frexp reads its exponent.
    return (61 - np.frexp(lsb(ids).astype(np.float64))[1].astype(np.int64)) // 2


def check_level(level: int) -> None:
    """ValueError unless the level is 0 to 30."""
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"level {level} is not within 0 to {MAX_LEVEL}")
