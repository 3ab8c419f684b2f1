"""The one resampling: from the pixels of a source, in any projection, to a chip of true ground size.

Pixel coordinates are (column, row) with (0, 0) at the outer corner of the first pixel of the finest level.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tiles.chip import ChipFrame

__all__ = ["Level", "PixelLattice", "resample"]

Floats = NDArray[np.float64]
_Real = TypeVar("_Real", np.float32, np.float64)

_KNOTS = 9  # control points per side of a chip, doubled until they suffice
_TOLERANCE = 0.02  # chip pixels by which interpolated positions may be off (GDAL's approximation allows 0.125)
_SAME_SCALE = 1.01  # a level this much coarser than asked counts as equal: map scales differ from one by as much
_STRIP_POINTS = 1 << 15  # samples worked on at a time
_MAX_WINDOW_PX = 1 << 24  # larger reads are cut in four, so that memory stays bounded
_EDGE = 1e-3  # pixels by which neighbouring rasters may miss each other through rounding


@dataclass(frozen=True)
class Level:
    """A resolution at hand: how many finest pixels one of its pixels spans, and its size."""

    factor_x: float
    factor_y: float
    width_px: int
    height_px: int


class PixelLattice(Protocol):
    """What a raster or a pyramid offers to the resampling."""

    @property
    def levels(self) -> Sequence[Level]:
        """Resolutions, finest first."""

    @property
    def frame_px(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the imagery in finest pixels."""

    @property
    def period_px(self) -> tuple[float, float] | None:
        """How far in columns and rows one turn around the globe leads, if pixels repeat."""

    def to_pixels(self, lon_deg: Floats, lat_deg: Floats) -> tuple[Floats, Floats]:
        """Return columns and rows in finest pixels; not finite where there are none."""

    def read(self, level: int, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """Return (bottom - top, right - left, 4) uint8 of one level: RGB, and 1 where valid; all 0 elsewhere."""


@dataclass(frozen=True)
class _Plan:
    """Which level to read, in boxes of how many pixels to average it, and samples per chip pixel and side."""

    level: Level
    number: int
    box_x: int
    box_y: int
    samples: int


class _Scratch(threading.local):
    """Memory that a thread uses again for every chip: fresh pages cost more than the arithmetic done in them."""

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return the array of this name; its content is whatever was left there."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._buffers or self._buffers[name].size < size:
            self._buffers[name] = np.empty(size, dtype=np.uint8)
        return self._buffers[name][:size].view(dtype).reshape(shape)


_scratch = _Scratch()


def resample(lattice: PixelLattice, frame: ChipFrame) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
    """Return pixels (S, S, 3) and valid (S, S) of a chip, or None where no pixel is valid.

    Bilinear weights of invalid pixels are left out and the others renormalised; a pixel is valid when at least half
    of its weight is.
    """
    size = frame.size_px
    knots = np.linspace(0.0, size, _KNOTS)
    control = _project(lattice, frame, knots, knots, None)
    if not np.isfinite(control).any():
        return None
    plan = _plan(lattice.levels, control, size / (_KNOTS - 1))
    box = _quadrilateral(lattice, plan, control, size)
    whole = _draw(lattice, plan, box, size) if box is not None else None
    if whole is not None:
        return whole, np.ones((size, size), dtype=np.bool_)
    turns = _turns(lattice, control)
    locate = _locator(lattice, frame, control, size * plan.samples)
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    valid = np.zeros((size, size), dtype=np.bool_)
    rows_at_once = max(1, _STRIP_POINTS // (size * plan.samples**2))
    for top in range(0, size, rows_at_once):
        bottom = min(size, top + rows_at_once)
        columns, rows = locate(top * plan.samples, bottom * plan.samples)
        out = _scratch.array("out", (4, *columns.shape), np.float32)
        out.fill(0.0)
        for turn in turns:
            _gather(lattice, plan, turn, columns, rows, out)
        _finish(out, plan.samples, pixels[top:bottom], valid[top:bottom])
    return (pixels, valid) if valid.any() else None


@dataclass(frozen=True)
class _Quadrilateral:
    """A chip in a window of boxes of a level: its bounds, and the chip's corners from the window's upper left."""

    x0: int
    y0: int
    x1: int
    y1: int
    corners: list[float]  # x, y of upper left, lower left, lower right, upper right


def _quadrilateral(lattice: PixelLattice, plan: _Plan, control: Floats, size: int) -> _Quadrilateral | None:
    """Return where a chip lies that is a quadrilateral well inside the imagery, as most are; else None."""
    left, top, right, bottom = lattice.frame_px
    columns, rows = control
    if not (columns.min() >= left and columns.max() <= right and rows.min() >= top and rows.max() <= bottom):
        return None  # so too where a point is NaN
    share = np.linspace(0.0, 1.0, _KNOTS)
    upper = control[:, :1, :1] * (1.0 - share) + control[:, :1, -1:] * share
    lower = control[:, -1:, :1] * (1.0 - share) + control[:, -1:, -1:] * share
    straight = upper * (1.0 - share[:, None]) + lower * share[:, None]
    step_px = np.abs(np.diff(control, axis=2)).max() * (_KNOTS - 1) / size
    if np.abs(straight - control).max() > _TOLERANCE * step_px:
        return None
    level = plan.level
    x = columns / (level.factor_x * plan.box_x)
    y = rows / (level.factor_y * plan.box_y)
    x0, y0 = max(0, int(x.min() - 0.5)), max(0, int(y.min() - 0.5))
    x1 = min(int(x.max() + 0.5) + 1, -(-level.width_px // plan.box_x))
    y1 = min(int(y.max() + 0.5) + 1, -(-level.height_px // plan.box_y))
    if (x1 - x0) * plan.box_x * (y1 - y0) * plan.box_y > _MAX_WINDOW_PX:
        return None
    ends = [(0, 0), (-1, 0), (-1, -1), (0, -1)]
    return _Quadrilateral(x0, y0, x1, y1, [v for at in ends for v in (float(x[at]) - x0, float(y[at]) - y0)])


def _draw(lattice: PixelLattice, plan: _Plan, at: _Quadrilateral, size: int) -> NDArray[np.uint8] | None:
    """Return pixels (S, S, 3) of a quadrilateral, or None where some pixel in its window is not valid.

    One call interpolates everything without Python's lock. The steps of the general way are many and so short that
    threads would wait for each other more than they work. Fractions of a grey level are cut off, not rounded.
    """
    window = np.ascontiguousarray(_read_boxes(lattice, plan, at.x0, at.y0, at.x1, at.y1))
    if not window[..., 3].all():
        return None
    image = Image.frombuffer("RGBX", (at.x1 - at.x0, at.y1 - at.y0), window, "raw", "RGBX", 0, 1)
    side = size * plan.samples
    drawn = image.transform((side, side), Image.Transform.QUAD, at.corners, Image.Resampling.BILINEAR)
    if plan.samples > 1:
        drawn = drawn.reduce(plan.samples)
    return np.ascontiguousarray(np.asarray(drawn)[..., :3])


def _project(
    lattice: PixelLattice, frame: ChipFrame, right_px: Floats, down_px: Floats, origin: Floats | None
) -> Floats:
    """Return (2, n, m) columns and rows of a grid of chip coordinates, all on the branch of x around `origin` (2,).

    Without an origin it is the middle of the grid.
    """
    pixels = np.stack(lattice.to_pixels(*frame.lonlat(right_px, down_px)))
    pixels[~np.isfinite(pixels)] = np.nan
    if lattice.period_px is None:
        return pixels
    if origin is None:
        origin = pixels[:, len(down_px) // 2, len(right_px) // 2]
    period = np.array(lattice.period_px)
    turns = np.round(np.tensordot(period, pixels - origin[:, None, None], 1) / (period @ period))
    unrolled: Floats = pixels - period[:, None, None] * turns
    return unrolled


def _turns(lattice: PixelLattice, control: Floats) -> list[tuple[float, float]]:
    """Return the shifts, by whole turns around the globe, that may bring a chip onto the imagery."""
    if lattice.period_px is None:
        return [(0.0, 0.0)]
    left, top, right, bottom = lattice.frame_px
    period = np.array(lattice.period_px)
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) @ period / (period @ period)
    phase = np.tensordot(period, control, 1) / (period @ period)
    phase = phase[np.isfinite(phase)]
    if not len(phase):
        return []
    # around a pole the meridians between control points reach further than these: allow a tenth of a turn
    first = math.ceil(corners.min() - phase.max() - 0.1)
    last = math.floor(corners.max() - phase.min() + 0.1)
    return [(float(period[0]) * turn, float(period[1]) * turn) for turn in range(first, last + 1)]


def _plan(levels: Sequence[Level], control: Floats, spacing_px: float) -> _Plan:
    """Choose the coarsest level that is not coarser than the chip, and what remains to be averaged."""
    along, down = np.abs(control[:, :, 1:] - control[:, :, :-1]), np.abs(control[:, 1:] - control[:, :-1])
    steps = np.sort(np.concatenate([along.reshape(2, -1), down.reshape(2, -1)]))
    scale_x = math.hypot(_middle(steps[0]), _middle(steps[2])) / spacing_px
    scale_y = math.hypot(_middle(steps[1]), _middle(steps[3])) / spacing_px
    number = 0
    for index, candidate in enumerate(levels):
        if candidate.factor_x <= scale_x * _SAME_SCALE and candidate.factor_y <= scale_y * _SAME_SCALE:
            number = index
    level = levels[number]
    rest_x, rest_y = scale_x / level.factor_x, scale_y / level.factor_y
    box_x, box_y = max(1, int(rest_x * _SAME_SCALE)), max(1, int(rest_y * _SAME_SCALE))
    return _Plan(level, number, box_x, box_y, max(1, round(max(rest_x / box_x, rest_y / box_y))))


def _middle(steps: Floats) -> float:
    """Return the median of the finite among sorted steps: a jump at a seam or a pole must not decide on the scale."""
    count = int(np.searchsorted(steps, np.inf))  # infinities and NaN are sorted last
    return float(steps[count // 2]) if count else 0.0


def _locator(
    lattice: PixelLattice, frame: ChipFrame, control: Floats, samples_per_side: int
) -> Callable[[int, int], Floats]:
    """Return a function that gives pixel coordinates (2, n, m) of rows `top` to before `bottom` of a chip's samples.

    They are interpolated from as few exact points as the tolerance allows; where none do, every sample is exact.
    """
    origin = control[:, _KNOTS // 2, _KNOTS // 2]
    knots = _KNOTS
    while np.isfinite(control).all():
        along, down = np.abs(np.diff(control, 2, axis=2)).max(), np.abs(np.diff(control, 2, axis=1)).max()
        step_px = np.abs(np.diff(control, axis=2)).max() * (knots - 1) / frame.size_px
        if (along + down) / 8.0 <= _TOLERANCE * step_px:  # the error of linear interpolation is an eighth of f''
            at = (np.arange(samples_per_side) + 0.5) * (knots - 1) / samples_per_side
            halfway = _between("halfway", control, at, 2)
            return lambda top, bottom: _between("positions", halfway, at[top:bottom], 1)
        knots = 2 * knots - 1
        if knots >= samples_per_side:
            break
        grid = np.linspace(0.0, frame.size_px, knots)
        control = _project(lattice, frame, grid, grid, origin)
    centres = (np.arange(samples_per_side) + 0.5) * frame.size_px / samples_per_side
    return lambda top, bottom: _project(lattice, frame, centres, centres[top:bottom], origin)


def _between(name: str, values: Floats, at: Floats, axis: int) -> Floats:
    """Interpolate linearly along an axis at index positions, into scratch.

    A matrix product would say the same, and wait for threads of its own on every core.
    """
    first = np.minimum(at.astype(np.intp), values.shape[axis] - 2)
    share = np.expand_dims(at - first, tuple(range(1, values.ndim - axis)))
    shape = (*values.shape[:axis], len(at), *values.shape[axis + 1 :])
    below: Floats = _scratch.array("below", shape, np.float64)
    above: Floats = _scratch.array(name, shape, np.float64)
    values.take(first, axis=axis, out=below, mode="clip")
    values.take(first + 1, axis=axis, out=above, mode="clip")
    return _mix(below, above, share)


def _gather(
    lattice: PixelLattice,
    plan: _Plan,
    turn: tuple[float, float],
    columns: Floats,
    rows: Floats,
    out: NDArray[np.float32],
) -> None:
    """Fill `out` (4, h, w) with interpolated RGB and weight at those positions (h, w) that lie on the imagery."""
    left, top, right, bottom = lattice.frame_px
    left, right, top, bottom = left - turn[0], right - turn[0], top - turn[1], bottom - turn[1]
    inside: slice | NDArray[np.bool_] = slice(None)
    reach = columns.min(), columns.max(), rows.min(), rows.max()
    if not (reach[0] >= left and reach[1] <= right and reach[2] >= top and reach[3] <= bottom):
        inside = (columns >= left - _EDGE) & (columns <= right + _EDGE)
        inside &= (rows >= top - _EDGE) & (rows <= bottom + _EDGE)
        if not inside.any():
            return
    level = plan.level
    x = _to_level("x", columns[inside], turn[0], level.factor_x * plan.box_x, -(-level.width_px // plan.box_x))
    y = _to_level("y", rows[inside], turn[1], level.factor_y * plan.box_y, -(-level.height_px // plan.box_y))
    x0, y0, x1, y1 = int(x.min()), int(y.min()), int(x.max()) + 2, int(y.max()) + 2
    height, width = columns.shape
    if (x1 - x0) * plan.box_x * (y1 - y0) * plan.box_y > _MAX_WINDOW_PX and height * width > 1:
        for half_y in (slice(0, -(-height // 2)), slice(-(-height // 2), height)):
            for half_x in (slice(0, -(-width // 2)), slice(-(-width // 2), width)):
                if columns[half_y, half_x].size:
                    quarter = columns[half_y, half_x], rows[half_y, half_x], out[:, half_y, half_x]
                    _gather(lattice, plan, turn, *quarter)
        return
    x -= x0
    y -= y0
    out[:, inside] = _bilinear(_read_boxes(lattice, plan, x0, y0, x1, y1), x, y).reshape(4, *columns[inside].shape)


def _to_level(name: str, at: Floats, turn: float, factor: float, size_px: int) -> Floats:
    """Return positions, flat, counted from the first pixel's centre; in the outer half pixel the edge is repeated."""
    scaled: Floats = _scratch.array(name, (at.size,), np.float64)
    np.multiply(at.ravel(), 1.0 / factor, out=scaled)
    scaled += turn / factor - 0.5
    return np.clip(scaled, 0.0, size_px - 1.0, out=scaled)


def _read_boxes(lattice: PixelLattice, plan: _Plan, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
    """Return (y1 - y0, x1 - x0, 4) boxes of a level, averaged over their valid pixels, zeros beyond its edge."""
    level, box_x, box_y = plan.level, plan.box_x, plan.box_y
    right, bottom = min(x1 * box_x, level.width_px), min(y1 * box_y, level.height_px)
    window = lattice.read(plan.number, x0 * box_x, y0 * box_y, right, bottom)
    missing = (y1 * box_y - bottom, x1 * box_x - right)
    if any(missing):
        window = np.pad(window, ((0, missing[0]), (0, missing[1]), (0, 0)))
    if box_x == box_y == 1:
        return window
    tall = np.add.reduceat(window, np.arange(0, window.shape[0], box_y), axis=0, dtype=np.uint32)
    sums = tall.reshape(y1 - y0, x1 - x0, box_x, 4).sum(axis=2, dtype=np.uint32)
    count = sums[..., 3:]
    boxes = (sums + count // 2) // np.maximum(count, 1)
    # a box at the edge of the level holds fewer pixels than others, but is no less valid for it
    heights = np.minimum(box_y, level.height_px - np.arange(y0, y1) * box_y)
    widths = np.minimum(box_x, level.width_px - np.arange(x0, x1) * box_x)
    boxes[2 * count[..., 0] < np.maximum(heights[:, None] * widths[None, :], 1)] = 0
    averaged: NDArray[np.uint8] = boxes.astype(np.uint8)
    return averaged


def _bilinear(window: NDArray[np.uint8], x: Floats, y: Floats) -> NDArray[np.float32]:
    """Return (4, n) bilinear values, in scratch, of a window (h, w, 4) at positions (n,) from its first centre."""
    count, width = len(x), window.shape[1]
    index = _scratch.array("index", (count,), np.intp)
    column = _scratch.array("column", (count,), np.intp)
    part_x = _scratch.array("part_x", (count,), np.float32)
    part_y = _scratch.array("part_y", (count,), np.float32)
    np.copyto(index, y, casting="unsafe")  # truncation: nothing is negative
    np.copyto(column, x, casting="unsafe")
    np.subtract(y, index, out=part_y, casting="same_kind")
    np.subtract(x, column, out=part_x, casting="same_kind")
    index *= width
    index += column
    packed = np.ascontiguousarray(window).view(np.uint32).ravel()  # one look-up fetches all four channels
    upper = _mix(_corner("a", packed, index), _corner("b", packed[1:], index), part_x)
    lower = _mix(_corner("a", packed[width:], index), _corner("c", packed[width + 1 :], index), part_x)
    return _mix(upper, lower, part_y)


def _corner(name: str, packed: NDArray[np.uint32], index: NDArray[np.intp]) -> NDArray[np.float32]:
    looked_up = _scratch.array("looked_up", index.shape, np.uint32)
    packed.take(index, out=looked_up, mode="clip")  # in bounds anyway; another mode would buffer
    planes: NDArray[np.float32] = _scratch.array(name, (4, len(index)), np.float32)
    np.copyto(planes, looked_up.view(np.uint8).reshape(-1, 4).T)
    return planes


def _mix(first: NDArray[_Real], second: NDArray[_Real], share: NDArray[_Real]) -> NDArray[_Real]:
    """Return first + share * (second - first), in the memory of the second."""
    second -= first
    second *= share
    second += first
    return second


def _finish(out: NDArray[np.float32], samples: int, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
    """Average the samples (4, n, m) of each pixel, divide by the weight, and round into pixels and valid."""
    if samples > 1:
        height, width = valid.shape
        out = out.reshape(4, height, samples, width, samples).mean(axis=(2, 4))
    colour, weight = out[:3], out[3]
    if weight.min() < 1.0:
        np.greater_equal(weight, 0.5 - 1e-5, out=valid)
        colour /= np.maximum(weight, 0.25)
        colour *= valid
    else:
        valid.fill(True)
    colour += 0.5
    np.copyto(pixels, np.moveaxis(colour, 0, -1), casting="unsafe")
