"""S2 cells, vectorised: the Earth as six faces of a cube, each a quadtree whose cells a Hilbert curve puts in order.

A cell id is a uint64: three bits of face, two bits of Hilbert position for each level, a one, and zeros. Ids of a level
sort along the curve, and the leaf ids (level 30) below a cell fill one interval, [range_min, range_max]. The
definitions (cube faces, quadratic projection, curve, tokens, orders of vertices and of edge neighbours) are those of
Google's S2 Geometry library (https://s2geometry.io, Apache-2.0), and ids are equal to its ids bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoview.geo.cube import (
    FACE_AXES,
    MAX_LEVEL,
    XYZ_SIGN,
    XYZ_SOURCE,
    Floats,
    Ids,
    Ints,
    Squares,
    are_ids,
    as_ids,
    as_uint64,
    check_level,
    face_xyz,
    id_levels,
    ids_of_squares,
    latlon_of_xyz,
    lsb,
    lsb_of_level,
    square_sizes,
    squares,
    st_to_uv,
)
from geoview.geo.sphere import EARTH_RADIUS_M, check_latlon_deg

__all__ = [
    "MAX_LEVEL",
    "areas_m2",
    "bounds_deg",
    "cell_ids",
    "centers_deg",
    "children",
    "descendants",
    "edge_lengths_m",
    "edge_neighbors",
    "extent_deg",
    "from_tokens",
    "ids_in_ranges",
    "in_ranges",
    "is_valid",
    "levels",
    "neighbors",
    "parents",
    "range_max",
    "range_min",
    "ranges_of",
    "rows_in_ranges",
    "surrounding",
    "tokens",
    "vertices_deg",
]

_BLOCK = 1 << 13  # points at a time, so that the dozen temporaries of a block stay in the L2 cache
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8).astype(np.uint32)


def cell_ids(latlon_deg: ArrayLike, level: int) -> Ids:
    """The cells of a level that contain points.

    Args:
        latlon_deg: (..., 2) degrees; longitudes in [-180, 540].
        level: 0 to 30.

    Returns:
        (...) cell ids.

    Raises:
        ValueError: A coordinate is not finite or out of range, or the level is.
    """
    check_level(level)
    points = check_latlon_deg(latlon_deg)
    flat = points.reshape(-1, 2)
    ids = np.empty(len(flat), dtype=np.uint64)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        ids[start : start + _BLOCK] = _ids_of_block(block[:, 0], block[:, 1], level)
    return ids.reshape(points.shape[:-1])


def centers_deg(ids: ArrayLike) -> Floats:
    """Centres of cells, in cell coordinates as S2 has them (not centres of mass).

    Within 1e-13 degrees of the reference: the formula is the same, but NumPy's arc tangent may differ in its last bit.

    Returns:
        (..., 2) degrees.
    """
    face, i, j, level = squares(ids)
    size = square_sizes(level)
    xyz = face_xyz(face, st_to_uv((i + 0.5) * size), st_to_uv((j + 0.5) * size))
    return latlon_of_xyz(xyz)


def vertices_deg(ids: ArrayLike) -> Floats:
    """Corners of cells, counter-clockwise seen from above; the edges between them are great circles.

    Returns:
        (..., 4, 2) degrees.
    """
    return latlon_of_xyz(_vertices_xyz(ids))


def bounds_deg(ids: ArrayLike) -> Floats:
    """Latitude and longitude bounds of cells, conservative by 1e-12 degrees.

    `lon_lo <= lon_hi` always. A cell of level 1 or more never crosses the date line, and lies in [-180, 180]; of the
    faces, the one that does spans [135, 225]. A cell that touches a pole without containing it has the longitudes of
    its quarter; the two polar faces have [-180, 180].

    Returns:
        (..., 4) lat_lo, lon_lo, lat_hi, lon_hi in degrees.
    """
    ids = as_ids(ids)
    corners, center = vertices_deg(ids), centers_deg(ids)
    lat, lon = corners[..., 0], corners[..., 1]
    # The longitude of a pole says nothing; that of a corner on the date line may have the other side's sign.
    lon = np.where(np.abs(lat) > 90.0 - 1e-12, center[..., 1:], lon)
    lon = np.where(np.abs(lon) == 180.0, np.copysign(lon, center[..., 1:]), lon)
    bounds = np.stack([lat.min(-1), lon.min(-1), lat.max(-1), lon.max(-1)], axis=-1)
    # Below the faces, a great-circle edge has its extreme latitude and longitudes at a corner: the faces' axes, where
    # an edge is highest, are edges of cells themselves.
    bounds += np.array([-1e-12, -1e-12, 1e-12, 1e-12])
    bounds = np.clip(bounds, [-90.0, -180.0, -90.0, -180.0], [90.0, 180.0, 90.0, 180.0])
    whole = levels(ids) == 0
    edge_deg = np.rad2deg(np.arctan(np.sqrt(0.5)))
    faces = np.array(
        [
            [-45.0, -45.0, 45.0, 45.0],
            [-45.0, 45.0, 45.0, 135.0],
            [edge_deg, -180.0, 90.0, 180.0],
            [-45.0, 135.0, 45.0, 225.0],
            [-45.0, -135.0, 45.0, -45.0],
            [-90.0, -180.0, -edge_deg, 180.0],
        ]
    ) + np.array([-1e-12, 0.0, 1e-12, 0.0])
    faces = np.clip(faces, [-90.0, -180.0, -90.0, -180.0], [90.0, 225.0, 90.0, 225.0])
    return np.asarray(np.where(whole[..., None], faces[squares(ids).face], bounds))


def extent_deg(ids: ArrayLike) -> tuple[float, float, float, float]:
    """(south, west, north, east) around the centres of cells; west is above east where they cross the date line.

    Raises:
        ValueError: There are none.
    """
    centres = centers_deg(ids).reshape(-1, 2)
    if not len(centres):
        raise ValueError("no cells have no extent")
    longitudes = np.sort(centres[:, 1])
    # The largest gap on the circle of longitudes is what the cells do not cover.
    gaps = np.diff(longitudes, append=longitudes[0] + 360)
    widest = int(np.argmax(gaps))
    west, east = longitudes[(widest + 1) % len(longitudes)], longitudes[widest]
    return float(centres[:, 0].min()), float(west), float(centres[:, 0].max()), float(east)


def areas_m2(ids: ArrayLike) -> Floats:
    """Spherical areas of cells, to rounding at every level.

    Each half of the cell is a triangle whose solid angle comes from the formula of Van Oosterom and Strackee (1983),
    its determinant taken on the cube face, where it is a product and nothing cancels.

    Returns:
        (...) square metres.
    """
    _, i, j, level = squares(ids)
    size = square_sizes(level)
    u = st_to_uv(i * size), st_to_uv((i + 1) * size)
    v = st_to_uv(j * size), st_to_uv((j + 1) * size)
    double_area = _uv_width(i, size) * _uv_width(j, size)
    corners = [(u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1])]

    def solid_angle(triangle: list[tuple[Floats, Floats]]) -> Floats:
        (au, av), (bu, bv), (cu, cv) = triangle
        a, b, c = np.sqrt(1 + au * au + av * av), np.sqrt(1 + bu * bu + bv * bv), np.sqrt(1 + cu * cu + cv * cv)
        ab, bc, ca = 1 + au * bu + av * bv, 1 + bu * cu + bv * cv, 1 + cu * au + cv * av
        return 2.0 * np.arctan2(double_area, a * b * c + ab * c + bc * a + ca * b)

    steradians = solid_angle(corners[:3]) + solid_angle([corners[0], *corners[2:]])
    return np.asarray(steradians * EARTH_RADIUS_M**2)


def edge_lengths_m(ids: ArrayLike) -> Floats:
    """Mean lengths of the four edges of cells.

    Returns:
        (...) metres.
    """
    xyz = _vertices_xyz(ids)
    xyz /= np.linalg.norm(xyz, axis=-1, keepdims=True)
    chords = np.linalg.norm(xyz - np.roll(xyz, -1, axis=-2), axis=-1)
    return np.asarray((2.0 * EARTH_RADIUS_M * np.arcsin(0.5 * chords)).mean(axis=-1))


def is_valid(ids: ArrayLike) -> NDArray[np.bool_]:
    """Which numbers are cell ids.

    Returns:
        (...) bool.
    """
    return are_ids(as_uint64(ids))


def levels(ids: ArrayLike) -> Ints:
    """Levels of cells, 0 (a face of the cube) to 30 (a leaf, about a square centimetre).

    Returns:
        (...) int64.
    """
    return id_levels(as_ids(ids))


def parents(ids: ArrayLike, level: int) -> Ids:
    """Ancestors of a level; a cell of that level is its own.

    Returns:
        (...) ids.

    Raises:
        ValueError: A cell is already larger than the level asked for.
    """
    ids = as_ids(ids)
    low = lsb_of_level(level)
    if ids.size and (lsb(ids) > low).any():
        row = int(np.argmax((lsb(ids) > low).ravel()))
        raise ValueError(f"cell {ids.ravel()[row]:#018x} in row {row} has no ancestor of level {level}: it is larger")
    return ids & ~(low - np.uint64(1)) | low


def children(ids: ArrayLike) -> Ids:
    """The four children of cells, in curve order.

    Returns:
        (..., 4) ids.

    Raises:
        ValueError: A cell is a leaf.
    """
    ids = as_ids(ids)
    low = lsb(ids)
    if (low == 1).any():
        row = int(np.argmax((low == 1).ravel()))
        raise ValueError(f"cell {ids.ravel()[row]:#018x} in row {row} is a leaf and has no children")
    quarter = (low >> np.uint64(2))[..., None]
    return (ids - low)[..., None] + quarter * np.array([1, 3, 5, 7], dtype=np.uint64)


def descendants(ids: ArrayLike, level: int) -> Ids:
    """All cells of a level below any of the given ones.

    Args:
        ids: (n,) cells of that level or larger, in any order.
        level: 0 to 30.

    Returns:
        (m,) sorted ids, each once.

    Raises:
        ValueError: A cell is smaller than the level asked for.
    """
    ids = as_ids(ids)
    if (lsb(ids) < lsb_of_level(level)).any():
        row = int(np.argmax((lsb(ids) < lsb_of_level(level)).ravel()))
        raise ValueError(f"cell {ids.ravel()[row]:#018x} in row {row} is smaller than level {level}")
    return ids_in_ranges(ranges_of(ids), level)


def range_min(ids: ArrayLike) -> Ids:
    """The first leaf below each cell.

    Returns:
        (...) ids.
    """
    ids = as_ids(ids)
    return ids - (lsb(ids) - np.uint64(1))


def range_max(ids: ArrayLike) -> Ids:
    """The last leaf below each cell (inclusive).

    Returns:
        (...) ids.
    """
    ids = as_ids(ids)
    return ids + (lsb(ids) - np.uint64(1))


def ranges_of(ids: ArrayLike) -> Ids:
    """Leaf ranges that cover exactly the given cells, adjacent and overlapping ones merged.

    Args:
        ids: (n,) ids of any levels, in any order.

    Returns:
        (m, 2) sorted, inclusive ranges [first leaf, last leaf].
    """
    ids = np.sort(as_ids(ids).ravel())
    if not ids.size:
        return np.empty((0, 2), dtype=np.uint64)
    # A cell and a smaller one within it may sort either way round, hence the order by first leaf.
    order = np.argsort(range_min(ids), kind="stable")
    first, last = range_min(ids)[order], np.maximum.accumulate(range_max(ids)[order])
    # Leaf ids are odd: the one after x is x + 2, over the border of two faces too.
    opens = np.append(True, first[1:] > last[:-1] + np.uint64(2))
    closes = np.append(opens[1:], True)
    return np.stack([first[opens], last[closes]], axis=1)


def ids_in_ranges(ranges: ArrayLike, level: int) -> Ids:
    """The cells of a level that make up leaf ranges; inverse of `ranges_of`.

    Args:
        ranges: (m, 2) sorted, disjoint, inclusive ranges made of whole cells of the level.
        level: 0 to 30.

    Returns:
        (n,) sorted ids.
    """
    spans = as_uint64(ranges).reshape(-1, 2)
    low = lsb_of_level(level)
    step = low << np.uint64(1)
    counts = ((spans[:, 1] - spans[:, 0] + np.uint64(2)) // step).astype(np.int64)
    if not counts.sum():
        return np.empty(0, dtype=np.uint64)
    first = spans[:, 0] - np.uint64(1) + low
    ids = np.full(int(counts.sum()), step, dtype=np.uint64)
    starts = np.cumsum(counts) - counts
    ids[starts[1:]] = first[1:] - (first[:-1] + step * (counts[:-1] - 1).astype(np.uint64))
    ids[0] = first[0]
    return np.cumsum(ids, out=ids)


def in_ranges(ids: ArrayLike, ranges: ArrayLike) -> NDArray[np.bool_]:
    """Which cells lie in leaf ranges.

    Args:
        ids: (...) cells, none of which is larger than a range that it touches.
        ranges: (m, 2) sorted, disjoint, inclusive.

    Returns:
        (...) bool.
    """
    ids, spans = as_uint64(ids), as_uint64(ranges).reshape(-1, 2)
    if not len(spans):
        return np.zeros(ids.shape, np.bool_)
    # Ranges are disjoint: a cell lies in the last one that begins before it, or in none.
    at = np.searchsorted(spans[:, 0], ids, "right") - 1
    return np.asarray((at >= 0) & (ids <= spans[at, 1]))


def rows_in_ranges(ids: ArrayLike, ranges: ArrayLike) -> Ints:
    """Where in ascending cells those lie that are in leaf ranges; its time grows with the ranges, not with the cells.

    Args:
        ids: (n,) cells in ascending order, none of which is larger than a range that it touches.
        ranges: (m, 2) sorted, disjoint, inclusive.

    Returns:
        (k,) int64 indices into `ids`, ascending.
    """
    ids, spans = as_uint64(ids), as_uint64(ranges).reshape(-1, 2)
    first, last = np.searchsorted(ids, spans[:, 0]), np.searchsorted(ids, spans[:, 1], "right")
    lengths = last - first
    # Each run counts up from its first row: what all runs before it have counted is taken off.
    rows: Ints = np.arange(int(lengths.sum())) + np.repeat(first - (np.cumsum(lengths) - lengths), lengths)
    return rows


def edge_neighbors(ids: ArrayLike) -> Ids:
    """Cells of the same level across the four edges, in S2's order: v lower, u higher, v higher, u lower.

    Returns:
        (..., 4) ids.
    """
    return _moved(squares(ids), np.array([0, 1, 0, -1]), np.array([-1, 0, 1, 0]))


def neighbors(ids: ArrayLike) -> Ids:
    """The eight cells of the same level around each: the four of `edge_neighbors`, then those at the corners.

    At the eight corners of the cube only three cells meet: a cell there has seven neighbours (a face has four), and
    in place of a missing one its edge neighbour in the direction of u is repeated, so that a set of them is right.

    Returns:
        (..., 8) ids.
    """
    return _moved(squares(ids), np.array([0, 1, 0, -1, -1, 1, 1, -1]), np.array([-1, 0, 1, 0, -1, -1, 1, 1]))


def surrounding(ids: ArrayLike, level: int) -> tuple[Ids, Floats]:
    """The four cells of a level whose centres lie around the centres of cells, and their bilinear weights.

    Weights are linear in the (s, t) coordinates of the face, where all cells of a level are squares of one size. For
    points, give their leaves: a leaf's centre is within a centimetre. A missing cell at a corner of the cube is stood
    in for as in `neighbors`.

    Args:
        ids: (...) cells of that level or smaller.
        level: Of the cells to find.

    Returns:
        (..., 4) ids, of which the first contains the centre, and (..., 4) weights, whose sum is 1.

    Raises:
        ValueError: A cell is larger than the level asked for.
    """
    face, i, j, own = squares(ids)
    parents(ids, level)
    up = own - level
    # Offsets of the centre from that of the cell around it, in sides of that cell: within a half.
    right = (i + 0.5) * square_sizes(up) - (i >> up) - 0.5
    above = (j + 0.5) * square_sizes(up) - (j >> up) - 0.5
    steps_i, steps_j = (np.where(offset < 0, -1, 1)[..., None] for offset in (right, above))
    start = Squares(face, i >> up, j >> up, np.full_like(face, level))
    around = _moved(start, steps_i * np.array([0, 1, 0, 1]), steps_j * np.array([0, 0, 1, 1]))
    a, b = np.abs(right), np.abs(above)
    return around, np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], axis=-1)


def tokens(ids: ArrayLike) -> NDArray[np.str_]:
    """Tokens: ids in hexadecimal without the zeros at their end.

    Returns:
        (...) strings of at most 16 characters.
    """
    ids = as_ids(ids)
    octets = ids.astype(">u8").reshape(-1, 1).view(np.uint8)
    digits = np.stack([octets >> 4, octets & 15], axis=-1).reshape(-1, 16)
    significant = np.logical_or.accumulate(digits[:, ::-1] != 0, axis=1)[:, ::-1]
    # NumPy's strings end at the first of their trailing zero code points.
    characters = np.where(significant, _HEX_DIGITS[digits], np.uint32(0))
    return np.ascontiguousarray(characters).view("=U16").reshape(ids.shape)


def from_tokens(tokens: Sequence[str] | NDArray[np.str_]) -> Ids:
    """Ids of tokens; inverse of `tokens`.

    Args:
        tokens: (...) strings, lower or upper case.

    Returns:
        (...) ids.

    Raises:
        ValueError: A string is not a token; it and its row are named.
    """
    texts = np.asarray(tokens, dtype=np.str_)
    flat = texts.ravel()
    characters = np.ascontiguousarray(flat.astype("=U17")).view(np.uint32).reshape(-1, 17)
    value_of = np.full(129, 255, dtype=np.uint8)
    value_of[_HEX_DIGITS] = value_of[np.frombuffer(b"0123456789ABCDEF", dtype=np.uint8)] = np.arange(16)
    value_of[0] = 0
    values = value_of[np.minimum(characters, 128)]
    octets = np.ascontiguousarray(values[:, 0:16:2] << 4 | values[:, 1:16:2] & 15)
    ids = octets.view(">u8").ravel().astype(np.uint64)
    good = (values != 255).all(axis=1) & (characters[:, 16] == 0) & are_ids(ids)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{str(flat[row])!r} in row {row} is not the token of an S2 cell")
    return ids.reshape(texts.shape)


def _ids_of_block(lat_deg: Floats, lon_deg: Floats, level: int) -> Ids:
    """Ids of one block of points. Every operation is rounded as in S2, so that ids agree to the last bit."""
    lat, lon = np.deg2rad(lat_deg), np.deg2rad(lon_deg)
    x = np.cos(lat)
    y = np.sin(lon)
    y *= x
    x *= np.cos(lon)
    z = np.sin(lat)
    abs_x, abs_y = np.abs(x), np.abs(y)
    on_x = abs_x > abs_y
    on_z = np.abs(z) >= np.maximum(abs_x, abs_y)

    # Opposite faces have the same two quotients, in exchanged order.
    w = np.where(on_z, z, np.where(on_x, x, y))
    behind = w < 0
    minus_x = -x
    first = np.where(on_x & ~on_z, y, minus_x)
    first /= w
    second = np.where(on_z, -y, z)
    second /= w
    face = np.where(on_z, 2, np.where(on_x, 0, 1))
    face += 3 * behind
    i, j = _grid(first, level), _grid(second, level)
    return ids_of_squares(face, np.where(behind, j, i), np.where(behind, i, j), level)


def _grid(u: Floats, level: int) -> Ints:
    """Index of u in the grid of a level, by the inverse of the quadratic projection."""
    s = np.abs(u)
    s *= 3.0
    s += 1.0
    np.sqrt(s, out=s)
    s *= 0.5
    s = np.where(u >= 0, s, 1.0 - s)
    s *= float(1 << level)
    return np.minimum(s.astype(np.int64), (1 << level) - 1)


def _moved(start: Squares, di: Ints, dj: Ints) -> Ids:
    """Ids of the squares (i + di, j + dj), where necessary over the edge of the face."""
    face, i, j, level = (part[..., None] for part in start)
    side = np.left_shift(1, level)
    # Twice the offsets of the centre from the axis of the face, on a cube whose half-width is `side`: integers, exact.
    u, v = 2 * (i + di) + 1 - side, 2 * (j + dj) + 1 - side
    out_u = np.abs(u) > side
    v = np.where(out_u, np.clip(v, 1 - side, side - 1), v)
    out_v = np.abs(v) > side
    w = np.where(out_u | out_v, side - 1, side)  # folded down by as much as the centre stood out
    uvw = np.stack([np.clip(u, -side, side), np.clip(v, -side, side), w], axis=-1)
    face = np.broadcast_to(face, w.shape)
    xyz = np.take_along_axis(uvw, XYZ_SOURCE[face], axis=-1) * XYZ_SIGN[face]
    axis = np.abs(xyz).argmax(axis=-1)  # the face's own offset alone reaches `side`
    height = np.take_along_axis(xyz, axis[..., None], axis=-1)[..., 0]
    landed = axis + 3 * (height < 0)
    axes = FACE_AXES[landed]
    new_u, new_v = (xyz * axes[..., 0, :]).sum(-1), (xyz * axes[..., 1, :]).sum(-1)
    new_i, new_j = (new_u + side - 1) >> 1, (new_v + side - 1) >> 1
    # As leaves, so that cells of several levels go through in one pass, and up again.
    up = MAX_LEVEL - level
    leaves = ids_of_squares(landed, new_i << up, new_j << up, MAX_LEVEL)
    low = np.left_shift(np.uint64(1), (2 * up).astype(np.uint64))
    return leaves & ~(low - np.uint64(1)) | low


def _vertices_xyz(ids: ArrayLike) -> Floats:
    """(..., 4, 3) corners on the cube, counter-clockwise."""
    face, i, j, level = (part[..., None] for part in squares(ids))
    size = square_sizes(level)
    u, v = st_to_uv((i + np.array([0, 1, 1, 0])) * size), st_to_uv((j + np.array([0, 0, 1, 1])) * size)
    return face_xyz(np.broadcast_to(face, u.shape), u, v)


def _uv_width(index: Ints, size: Floats) -> Floats:
    """Difference of u over one square, factored: subtracting one u from the other would cost leaves seven digits."""
    middle = (index + 0.5) * size
    return np.where(size == 1.0, 2.0, (8.0 / 3.0) * size * np.maximum(middle, 1.0 - middle))
