"""S2 cells against s2sphere, the pure Python port of Google's library."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import s2sphere
from hypothesis import given
from hypothesis import strategies as st

from geoview.geo import cells, cube
from geoview.geo.sphere import EARTH_RADIUS_M, distance_m, latlon_deg, unit_vectors

CUBE_EDGE_LAT = float(np.rad2deg(np.arctan(np.sqrt(0.5))))
EVERY_LEVEL = range(31)


def reference_id(lat, lon, level):
    return s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(lat, lon)).parent(level)


def random_points(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([np.rad2deg(np.arcsin(rng.uniform(-1, 1, count))), rng.uniform(-180, 180, count)])


def special_points():
    """Poles, the date line, axes, edges and corners of the cube, and their nearest neighbours in floating point."""
    lats = [-90.0, -60.0, -45.0, -CUBE_EDGE_LAT, -1e-9, -0.0, 0.0, 1e-300, CUBE_EDGE_LAT, 45.0, 89.9999999, 90.0]
    lons = [-180.0, -135.0, -90.0, -45.0, -0.0, 0.0, 1e-12, 45.0, 90.0, 135.0, 180.0]
    exact = np.array(list(itertools.product(lats, lons)))
    up = np.column_stack([np.minimum(np.nextafter(exact[:, 0], 91), 90.0), exact[:, 1]])
    east = np.column_stack([exact[:, 0], np.minimum(np.nextafter(exact[:, 1], 181), 180.0)])
    # The upper and lower edges of the equatorial faces run through all these latitudes: tan(lat) = cos(lon).
    lon = np.linspace(-45, 45, 31)
    edge = np.column_stack([np.rad2deg(np.arctan(np.cos(np.deg2rad(lon)))), lon])
    around = [np.add(edge, [0.0, turn]) for turn in (0.0, 90.0, -90.0)]
    return np.concatenate([exact, up, east, *around, -edge])


SPECIAL = special_points()
MIXED = np.concatenate([cells.cell_ids(random_points(12, level), level) for level in EVERY_LEVEL])


@pytest.mark.parametrize("level", EVERY_LEVEL)
def test_ids_equal_the_reference(level):
    points = np.concatenate([random_points(200, seed=level), SPECIAL])
    expected = [reference_id(lat, lon, level).id() for lat, lon in points.tolist()]
    assert cells.cell_ids(points, level).tolist() == expected


def test_ids_equal_the_reference_over_several_blocks():
    points = random_points(3 * cells._BLOCK // 2, seed=99)
    expected = [reference_id(lat, lon, 16).id() for lat, lon in points.tolist()]
    assert cells.cell_ids(points, 16).tolist() == expected


@given(st.floats(-90, 90), st.floats(-180, 180), st.integers(0, 30))
def test_id_of_any_point_equals_the_reference(lat, lon, level):
    cell = cells.cell_ids((lat, lon), level)
    assert int(cell) == reference_id(lat, lon, level).id()


def test_shapes_and_wrapped_longitudes():
    points = random_points(24).reshape(4, 3, 2, 2)
    ids = cells.cell_ids(points, 12)
    assert ids.shape == (4, 3, 2)
    assert ids.dtype == np.uint64
    east = np.array([[10.0, 190.0], [10.0, 540.0]])
    np.testing.assert_array_equal(cells.cell_ids(east, 16), cells.cell_ids([[10.0, -170.0], [10.0, 180.0]], 16))
    assert cells.cell_ids(np.empty((0, 2)), 16).shape == (0,)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ([91, 0], "latitude 91.0"),
        ([np.nan, 0], "latitude nan"),
        ([0, np.inf], "longitude inf"),
        ([0, -181], "longitude -181.0"),
    ],
)
def test_bad_coordinates_are_named_with_their_row(bad, named):
    with pytest.raises(ValueError, match=f"{named} in row 1"):
        cells.cell_ids([[0.0, 0.0], bad], 16)


@pytest.mark.parametrize("level", [-1, 31])
def test_bad_levels(level):
    with pytest.raises(ValueError, match=f"level {level}"):
        cells.cell_ids([[0.0, 0.0]], level)


def test_levels_and_places_of_mixed_cells():
    np.testing.assert_array_equal(cells.levels(MIXED), [s2sphere.CellId(c).level() for c in MIXED.tolist()])
    face, i, j, level = cube.squares(MIXED)
    for row, cell in enumerate(MIXED.tolist()):
        expected_face, leaf_i, leaf_j, _ = s2sphere.CellId(cell).to_face_ij_orientation()
        up = 30 - level[row]
        assert (face[row], i[row], j[row]) == (expected_face, leaf_i >> up, leaf_j >> up)
    for each in np.unique(level):
        at = level == each
        np.testing.assert_array_equal(cube.ids_of_squares(face[at], i[at], j[at], int(each)), MIXED[at])


def test_centers_equal_the_reference():
    centers = cells.centers_deg(MIXED)
    reference = [s2sphere.CellId(cell).to_lat_lng() for cell in MIXED.tolist()]
    expected = np.array([[point.lat().degrees, point.lng().degrees] for point in reference])
    np.testing.assert_allclose(centers, expected, rtol=0, atol=1e-13)
    for level in EVERY_LEVEL:
        at = cells.levels(MIXED) == level
        np.testing.assert_array_equal(cells.cell_ids(centers[at], level), MIXED[at])


def test_vertices_equal_the_reference():
    vertices = cells.vertices_deg(MIXED)
    assert vertices.shape == (len(MIXED), 4, 2)
    for row, cell in enumerate(MIXED.tolist()):
        shape = s2sphere.Cell(s2sphere.CellId(cell))
        expected = [s2sphere.LatLng.from_point(shape.get_vertex(k)) for k in range(4)]
        expected = np.array([[point.lat().degrees, point.lng().degrees] for point in expected])
        assert distance_m(vertices[row], expected).max() < 1e-7


def test_ancestry_equals_the_reference():
    leaves = cells.cell_ids(random_points(50), 30)
    for level in EVERY_LEVEL:
        expected = [s2sphere.CellId(cell).parent(level).id() for cell in leaves.tolist()]
        np.testing.assert_array_equal(cells.parents(leaves, level), np.array(expected, dtype=np.uint64))
    below = MIXED[cells.levels(MIXED) < 30]
    expected = [[child.id() for child in s2sphere.CellId(cell).children()] for cell in below.tolist()]
    assert cells.children(below).tolist() == expected
    assert cells.range_min(MIXED).tolist() == [s2sphere.CellId(c).range_min().id() for c in MIXED.tolist()]
    assert cells.range_max(MIXED).tolist() == [s2sphere.CellId(c).range_max().id() for c in MIXED.tolist()]


def test_ancestry_errors():
    with pytest.raises(ValueError, match=r"row 1 .*level 10"):
        cells.parents(MIXED[[-1, 0]], 10)
    with pytest.raises(ValueError, match="row 0 is a leaf"):
        cells.children(MIXED[-1:])
    with pytest.raises(ValueError, match="row 0 is smaller than level 3"):
        cells.descendants(MIXED[-1:], 3)


def test_descendants():
    cell = cells.cell_ids([[48.0, 11.0]], 7)
    expected = [child.id() for child in s2sphere.CellId(int(cell[0])).children(10)]
    assert cells.descendants(cell, 10).tolist() == expected
    np.testing.assert_array_equal(cells.descendants(cell, 7), cell)
    # A parent and its own child, out of order, count once; distant cells come sorted.
    other = cells.cell_ids([[-33.0, -70.0]], 8)
    mixed = np.concatenate([other, cells.children(cell)[0, 2:3], cell])
    both = cells.descendants(mixed, 9)
    expected = np.unique(np.concatenate([cells.descendants(cell, 9), cells.descendants(other, 9)]))
    np.testing.assert_array_equal(both, expected)


def test_whole_levels_tile_the_earth():
    faces = cells.cell_ids([[0, 0], [0, 90], [90, 0], [0, 180], [0, -90], [-90, 0]], 0)
    assert [int(face) >> 61 for face in faces] == [0, 1, 2, 3, 4, 5]
    everything = cells.descendants(faces, 5)
    assert len(everything) == 6 * 4**5
    sphere_m2 = 4 * np.pi * EARTH_RADIUS_M**2
    assert cells.areas_m2(everything).sum() == pytest.approx(sphere_m2, rel=1e-13)
    np.testing.assert_allclose(cells.areas_m2(faces), sphere_m2 / 6, rtol=1e-14)
    assert cells.ranges_of(everything).tolist() == [[1, (6 << 61) - 1]]


def test_ranges():
    sample = np.unique(cells.cell_ids(np.random.default_rng(5).normal([48, 11], 0.03, (3000, 2)), 14))
    ranges = cells.ranges_of(np.random.default_rng(6).permutation(sample))
    assert 1 < len(ranges) < len(sample)
    np.testing.assert_array_equal(cells.ids_in_ranges(ranges, 14), sample)
    # Merged: between two ranges there is at least one missing leaf.
    assert (ranges[1:, 0] > ranges[:-1, 1] + np.uint64(2)).all()
    assert cells.ranges_of(cells.children(sample).ravel()).tolist() == ranges.tolist()
    assert cells.ranges_of(np.append(sample, cells.parents(sample[:1], 9))).shape[1] == 2
    assert cells.ranges_of(np.empty(0, dtype=np.uint64)).shape == (0, 2)
    assert cells.ids_in_ranges(np.empty((0, 2), dtype=np.uint64), 9).shape == (0,)


@given(st.lists(st.integers(0, 60), max_size=20, unique=True), st.lists(st.integers(0, 60), max_size=30))
def test_rows_in_ranges_are_those_that_a_filter_over_all_finds(wanted, held):
    block = cells.descendants(cells.cell_ids([(48.0, 11.0)], 10), 13).ravel()
    ranges = cells.ranges_of(np.array([block[i] for i in wanted], np.uint64))
    ids = np.sort(np.array([block[i] for i in held], np.uint64))
    rows = cells.rows_in_ranges(ids, ranges)
    assert rows.tolist() == np.flatnonzero(cells.in_ranges(ids, ranges)).tolist()
    assert rows.tolist() == [i for i, cell in enumerate(sorted(held)) if cell in wanted]


@pytest.mark.parametrize("level", [0, 1, 2, 5, 16, 24])
def test_neighbors_equal_the_reference(level):
    ids = np.unique(cells.cell_ids(np.concatenate([random_points(50), SPECIAL]), level))
    expected = [[n.id() for n in s2sphere.CellId(cell).get_edge_neighbors()] for cell in ids.tolist()]
    assert cells.edge_neighbors(ids).tolist() == expected
    around = cells.neighbors(ids)
    assert around.shape == (len(ids), 8)
    for row, cell in zip(around.tolist(), ids.tolist(), strict=True):
        assert set(row) == {n.id() for n in s2sphere.CellId(cell).get_all_neighbors(level)}


def test_cells_at_cube_corners_have_seven_neighbors():
    corners = cells.cell_ids(list(itertools.product([-CUBE_EDGE_LAT, CUBE_EDGE_LAT], [-135, -45, 45, 135])), 10)
    assert [len(set(row)) for row in cells.neighbors(corners).tolist()] == [7] * 8
    assert [len(set(row)) for row in cells.neighbors(cells.cell_ids(random_points(9), 10)).tolist()] == [8] * 9


@pytest.mark.parametrize("level", [1, 16, 29, 30])
def test_neighborhood_is_mutual(level):
    ids = np.unique(cells.cell_ids(np.concatenate([random_points(20), SPECIAL]), level))
    around = cells.neighbors(ids)
    back = cells.neighbors(around.ravel()).reshape(len(ids), 8, 8)
    assert (back == ids[:, None, None]).any(axis=2).all()
    assert (around != ids[:, None]).all()


def test_neighbors_of_mixed_levels_keep_their_levels():
    around = cells.neighbors(MIXED)
    np.testing.assert_array_equal(cells.levels(around), np.repeat(cells.levels(MIXED)[:, None], 8, axis=1))


def test_tokens_equal_the_reference():
    texts = cells.tokens(MIXED)
    assert texts.tolist() == [s2sphere.CellId(cell).to_token() for cell in MIXED.tolist()]
    np.testing.assert_array_equal(cells.from_tokens(texts), MIXED)
    np.testing.assert_array_equal(cells.from_tokens([text.upper() for text in texts.tolist()]), MIXED)
    np.testing.assert_array_equal(cells.from_tokens(texts.reshape(-1, 4)), MIXED.reshape(-1, 4))
    assert cells.tokens(MIXED[:0]).shape == cells.from_tokens([]).shape == (0,)


@pytest.mark.parametrize(
    "bad", ["", "x", "0", "X", "f", "47a1cbd595522b39f", "47 a1c", "-7a1c", "47a1c\u0664", "c4", "0x47"]
)
def test_bad_tokens_are_named(bad):
    with pytest.raises(ValueError, match=r"row 1 is not the token"):
        cells.from_tokens(["47a1cbd59", bad])


def test_validity():
    numbers = np.array(
        [0, 1, 2, 4, 8, 6 << 61, (6 << 61) - 1, 7 << 61, (1 << 64) - 1, 1 << 60, 1 << 61], dtype=np.uint64
    )
    expected = [s2sphere.CellId(n).is_valid() for n in numbers[:-3].tolist()]
    assert cells.is_valid(numbers)[:-3].tolist() == expected
    assert cells.is_valid(numbers)[-3:].tolist() == [False, True, False]
    assert not cells.is_valid(0)
    with pytest.raises(ValueError, match="0x0000000000000002 in row 1 is not the id"):
        cells.levels(np.array([1, 2], dtype=np.uint64))
    with pytest.raises(ValueError, match="unsigned integers, not float64"):
        cells.levels(MIXED.astype(np.float64))


@pytest.mark.parametrize("level", [0, 1, 2, 3, 8, 16, 24, 30])
def test_bounds_hold_their_cells_tightly(level):
    ids = np.unique(cells.cell_ids(np.concatenate([random_points(40), SPECIAL]), level))
    bounds = cells.bounds_deg(ids)
    assert (bounds[:, 1] <= bounds[:, 3]).all()
    assert (np.abs(bounds[:, [0, 2]]) <= 90.0).all()
    lat, lon = boundary_points(ids)
    lat_lo, lon_lo, lat_hi, lon_hi = (bounds[:, [k]] for k in range(4))
    assert ((lat >= lat_lo) & (lat <= lat_hi)).all()
    # The points tested are themselves rounded, by more degrees of longitude the nearer they are to a pole.
    slack = 1e-13 / np.maximum(np.cos(np.deg2rad(lat)), 1e-16)
    inside = [(lon + turn >= lon_lo - slack) & (lon + turn <= lon_hi + slack) for turn in (-360, 0, 360)]
    assert np.any(inside, axis=0).all()
    if 0 < level < 24:
        np.testing.assert_allclose(np.column_stack([lat.min(1), lat.max(1)]), bounds[:, [0, 2]], rtol=0, atol=1e-11)
        area = np.deg2rad(lon_hi - lon_lo) * (np.sin(np.deg2rad(lat_hi)) - np.sin(np.deg2rad(lat_lo)))
        ratio = area[:, 0] * EARTH_RADIUS_M**2 / cells.areas_m2(ids)
        assert ((ratio > 0.999999) & (ratio < 3.5)).all()


def boundary_points(ids, per_edge=64):
    """Points on the edges, by interpolation between unit vectors; edges are great circles."""
    corners = unit_vectors(cells.vertices_deg(ids))
    part = np.linspace(0, 1, per_edge, endpoint=False)[:, None]
    edges = (1 - part) * corners[:, :, None] + part * np.roll(corners, -1, axis=1)[:, :, None]
    points = latlon_deg(edges.reshape(len(ids), -1, 3))
    return points[..., 0], points[..., 1]


def test_areas_equal_the_reference():
    areas = cells.areas_m2(MIXED) / EARTH_RADIUS_M**2
    expected = np.array([s2sphere.Cell(s2sphere.CellId(cell)).exact_area() for cell in MIXED.tolist()])
    np.testing.assert_allclose(areas, expected, rtol=1e-6)  # what the reference promises for leaves
    parents = MIXED[cells.levels(MIXED) < 30]
    np.testing.assert_allclose(cells.areas_m2(cells.children(parents)).sum(1), cells.areas_m2(parents), rtol=1e-12)


def test_edge_lengths():
    berlin = cells.cell_ids([[52.52, 13.405]], 16)
    assert 120 < cells.edge_lengths_m(berlin)[0] < 140
    vertices = cells.vertices_deg(MIXED)
    expected = distance_m(vertices, np.roll(vertices, -1, axis=1)).mean(1)
    np.testing.assert_allclose(cells.edge_lengths_m(MIXED), expected, rtol=1e-6)


def test_a_lone_id_is_as_good_as_many():
    cell = MIXED[300]
    for function in (
        cells.centers_deg, cells.vertices_deg, cells.bounds_deg, cells.areas_m2, cells.edge_lengths_m, cells.levels,
        cells.children, cells.neighbors, cells.edge_neighbors, cells.tokens, cells.range_min, cells.range_max,
    ):  # fmt: skip
        np.testing.assert_array_equal(function(cell), function(MIXED[300:301])[0])
        np.testing.assert_array_equal(function(int(cell)), function(MIXED[300:301])[0])
    assert cells.from_tokens(str(cells.tokens(cell))) == cell


@pytest.mark.parametrize("function", [cells.centers_deg, cells.vertices_deg, cells.bounds_deg, cells.areas_m2,
                                      cells.edge_lengths_m, cells.levels, cells.children, cells.neighbors])  # fmt: skip
def test_no_ids_give_no_results(function):
    nothing = np.empty(0, dtype=np.uint64)
    assert function(nothing).shape == (0, *function(MIXED[:1]).shape[1:])


# -- surrounding -------------------------------------------------------------------------------------------------------


@given(st.floats(-89.9, 89.9), st.floats(-180, 180), st.integers(1, 28))
def test_the_cell_of_a_point_comes_first_and_its_neighbours_after(lat, lon, level):
    leaf = cells.cell_ids([lat, lon], 30)
    around, weights = cells.surrounding(leaf, level)
    assert around.shape == weights.shape == (4,)
    assert around[0] == cells.parents(leaf, level)
    assert set(around[1:].tolist()) <= set(cells.neighbors(around[0]).tolist())
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert weights[0] == weights.max()


@pytest.mark.parametrize("level", [3, 10, 15])
def test_weights_are_bilinear_between_centres(level):
    """Where a point stands is the weighted mean of where the four centres stand, on the plane of the face."""
    points = random_points(500, seed=level)
    leaves = cells.cell_ids(points, 30)
    around, weights = cells.surrounding(leaves, level)
    face, i, j, own = cube.squares(around)
    within = (face == face[:, :1]).all(axis=1)
    assert within.sum() > 300
    mean = [((index + 0.5) / 2.0**own * weights).sum(axis=1) for index in (i, j)]
    leaf = cube.squares(leaves)
    for found, index in zip(mean, (leaf.i, leaf.j), strict=True):
        np.testing.assert_allclose(found[within], ((index + 0.5) / 2.0**30)[within], atol=1e-12)


def test_children_weigh_nine_three_three_one():
    parent = cells.cell_ids(random_points(50, seed=3), 15)
    around, weights = cells.surrounding(cells.children(parent), 15)
    np.testing.assert_allclose(weights, np.broadcast_to([9 / 16, 3 / 16, 3 / 16, 1 / 16], weights.shape))
    assert (around[..., 0] == parent[:, None]).all()
    same, alone = cells.surrounding(parent, 15)
    assert (same[:, 0] == parent).all()
    np.testing.assert_array_equal(alone, np.broadcast_to([1.0, 0.0, 0.0, 0.0], alone.shape))


def test_interpolation_is_continuous_over_the_edges_of_cells_and_faces():
    """A function of cells that is smooth on the Earth stays so when it is interpolated, across faces as well."""
    lon = np.linspace(44.9, 45.1, 2001)
    points = np.column_stack([np.full_like(lon, 12.0), lon])  # over the edge of two faces
    around, weights = cells.surrounding(cells.cell_ids(points, 30), 12)
    values = (np.sin(np.deg2rad(cells.centers_deg(around)[..., 1]) * 40) * weights).sum(axis=1)
    assert np.abs(np.diff(values)).max() < 3 * np.abs(np.diff(values)).mean()
    np.testing.assert_allclose(values, np.sin(np.deg2rad(lon) * 40), atol=2e-4)


def test_cells_larger_than_the_level_have_no_surroundings():
    with pytest.raises(ValueError, match="it is larger"):
        cells.surrounding(cells.cell_ids([1.0, 2.0], 10), 12)


@pytest.mark.parametrize(
    ("latlon_deg", "west_and_east"),
    [
        ([[-33.0, -70.0], [-34.0, -71.0]], (-71.0, -70.0)),
        ([[-17.0, 179.0], [-18.0, -179.0]], (179.0, -179.0)),
        ([[10.0, 5.0]], (5.0, 5.0)),
    ],
)
def test_the_extent_of_cells_is_the_narrow_one(latlon_deg, west_and_east):
    south, west, north, east = cells.extent_deg(cells.cell_ids(latlon_deg, 20))
    lat = [point[0] for point in latlon_deg]
    assert (south, north) == pytest.approx((min(lat), max(lat)), abs=1e-4)
    assert (west, east) == pytest.approx(west_and_east, abs=1e-4)
    with pytest.raises(ValueError, match="no cells"):
        cells.extent_deg(np.empty(0, np.uint64))
