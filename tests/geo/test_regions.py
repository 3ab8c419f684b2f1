"""Regions: reading GeoJSON, discs, and covering by cells against brute force with shapely."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.errors import RegionError
from geoview.geo import cells
from geoview.geo.cells import ranges_of
from geoview.geo.regions import Region
from geoview.geo.sphere import EARTH_RADIUS_M, destination_deg, distance_m, latlon_deg, unit_vectors

EARTH_KM2 = 4 * np.pi * EARTH_RADIUS_M**2 / 1e6


def square(west, south, east, north):
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


# ------------------------------------------------------------------------------- cells as shapely draws them


def cell_polygons(ids, per_edge=128):
    """Cells (of level 1 or more) as polygons in lon/lat, their great-circle edges densified."""
    corners = unit_vectors(cells.vertices_deg(ids))
    part = np.linspace(0, 1, per_edge, endpoint=False)[:, None]
    edges = (1 - part) * corners[:, :, None] + part * np.roll(corners, -1, axis=1)[:, :, None]
    rings = latlon_deg(edges.reshape(len(ids), -1, 3))
    shapes = []
    for (center_lat, center_lon), (lat, lon) in zip(cells.centers_deg(ids), np.moveaxis(rings, -1, 1), strict=True):
        lon = np.where(np.abs(np.abs(lon) - 180.0) < 1e-9, np.copysign(180.0, center_lon), lon)
        at_pole = np.abs(lat) > 90.0 - 1e-9
        if at_pole.any():
            # In lon/lat the pole is a line, between the longitudes of the two edges that meet there.
            assert at_pole.sum() == 1
            lat, lon = np.roll(lat, -at_pole.argmax())[1:], np.roll(lon, -at_pole.argmax())[1:]
            pole = np.copysign(90.0, center_lat)
            lat, lon = np.append(lat, [pole, pole]), np.append(lon, [lon[-1], lon[0]])
        shapes.append(shapely.Polygon(np.column_stack([lon, lat])))
    return np.array(shapes)


@functools.cache
def whole_earth(level):
    ids = cells.ids_in_ranges([[1, (6 << 61) - 1]], level)
    return ids, cell_polygons(ids)


def assert_cells_are_exact(region, drawn, ids, shapes, tolerance_deg):
    """Cells that clearly meet the region are in; cells clearly apart from it are not.

    `drawn` is the region in continuous longitudes, as the test drew it: nothing of the code under test is in it.
    """
    covering = region.cells(int(cells.levels(ids[:1])[0]))
    taken = np.isin(ids, covering)
    assert np.isin(covering, ids).all()
    inner, outer = drawn.buffer(-tolerance_deg), drawn.buffer(tolerance_deg)
    must = np.zeros(len(ids), dtype=bool)
    may = np.zeros(len(ids), dtype=bool)
    for turn in (-360.0, 0.0, 360.0):
        moved_inner, moved_outer = (shapely.transform(g, lambda xy, t=turn: xy + [t, 0.0]) for g in (inner, outer))  # noqa: RUF005
        shapely.prepare([moved_inner, moved_outer])
        must |= shapely.intersects(moved_inner, shapes)
        may |= shapely.intersects(moved_outer, shapes)
    assert taken[must].all(), cells.tokens(ids[must & ~taken])
    assert may[taken].all(), cells.tokens(ids[taken & ~may])
    assert must.any()
    return taken


def star(lon, lat, radii_deg, stretch=1.0):
    """A star-shaped ring round (lon, lat)."""
    angles = np.linspace(0, 2 * np.pi, len(radii_deg), endpoint=False)
    ring = np.column_stack([lon + stretch * radii_deg * np.cos(angles), lat + radii_deg * np.sin(angles)])
    return np.vstack([ring, ring[:1]])


def region_of(drawn):
    return Region.from_geometry(drawn, "test")


radii = st.lists(st.floats(0.3, 1.0), min_size=3, max_size=12).map(np.array)


# -------------------------------------------------------------------------------------------- exact coverings


@settings(max_examples=40, deadline=None)
@given(lon=st.floats(-100, 300), lat=st.floats(-55, 55), size_deg=st.floats(1, 30), shell=radii, hole=st.none() | radii)
def test_large_polygons_cover_as_shapely_says(lon, lat, size_deg, shell, hole):
    holes = [] if hole is None else [star(lon, lat, 0.14 * size_deg * hole)]
    drawn = shapely.Polygon(star(lon, lat, size_deg * shell), holes)
    if not drawn.is_valid:
        return  # three spokes may leave the centre, and with it the hole, outside
    for level in (1, 3, 5):
        assert_cells_are_exact(region_of(drawn), drawn, *whole_earth(level), tolerance_deg=2e-3)


@settings(max_examples=25, deadline=None)
@given(
    center=st.tuples(st.floats(-84, 84), st.floats(-180, 180))
    | st.tuples(st.floats(-40, 40), st.sampled_from([-180.0, 180.0, 45.0, -135.0, 0.0]))
    | st.just((float(np.rad2deg(np.arctan(np.sqrt(0.5)))), 45.0)),
    level=st.sampled_from([13, 16, 19]),
    shell=radii,
    hole=st.none() | radii,
)
def test_small_polygons_cover_as_shapely_says(center, level, shell, hole):
    lat, lon = center
    lon = lon + 360.0 if lon < -90 else lon
    size_deg = 3 * 90 / 2**level
    stretch = 1 / np.cos(np.deg2rad(lat))
    holes = [] if hole is None else [star(lon, lat, 0.14 * size_deg * hole, stretch)]
    drawn = shapely.Polygon(star(lon, lat, size_deg * shell, stretch), holes)
    if not drawn.is_valid:
        return
    block = cells.cell_ids(center, level - 3)
    ids = cells.descendants(np.unique(np.append(cells.neighbors(block), block)), level)
    taken = assert_cells_are_exact(region_of(drawn), drawn, ids, cell_polygons(ids, 8), tolerance_deg=2e-9 * stretch)
    assert taken.sum() < len(ids)


@pytest.mark.parametrize("level", [1, 2, 4])
@pytest.mark.parametrize(
    "box",
    [
        (-180, 70, 180, 90),
        (-180, -90, 180, -52),
        (-180, -20, 180, 33),
        (20, 80, 100, 90),
        (-178, -90, -120, -60),
        (170, -33, 195, 90),
        (45, 10, 135, 20),
        (135, -50, 225, 50),
        (-70.7, -33.5, -70.6, -33.4),
    ],
)
def test_boxes_at_poles_date_line_and_face_edges(box, level):
    drawn = shapely.box(*box)
    assert_cells_are_exact(region_of(drawn), drawn, *whole_earth(level), tolerance_deg=2e-3)


def test_a_hole_leaves_its_cells_out():
    drawn = shapely.Polygon(square(-75, -45, -65, -25), [square(-73, -40, -67, -30)])
    level = 7
    region = region_of(drawn)
    middle = cells.cell_ids([[-35.0, -70.0]], level)
    assert not np.isin(middle, region.cells(level)).any()
    assert np.isin(middle, Region.from_geojson(polygon(square(-75, -45, -65, -25))).cells(level)).all()
    assert region.contains([[-35.0, -70.0], [-26.0, -70.0]]).tolist() == [False, True]


@pytest.mark.parametrize("level", [0, 1, 5])
def test_the_whole_earth_is_one_range(level):
    region = Region.from_geojson(polygon(square(-180, -90, 180, 90)))
    assert region.cell_ranges(level).tolist() == [[1, (6 << 61) - 1]]
    assert region.count(level) == 6 * 4**level
    assert region.area_km2 == pytest.approx(EARTH_KM2)
    assert region.contains([[90, 0], [-90, 12], [0, 180], [0, -180], [12, 34]]).all()


def test_level_0_across_the_date_line():
    face_3 = cells.cell_ids([[0.0, 180.0]], 0)
    np.testing.assert_array_equal(Region.from_geojson(polygon(square(170, -5, 190, 5))).cells(0), face_3)


@pytest.mark.parametrize("level", [0, 3, 8, 12])
def test_ranges_count_and_cells_agree(level):
    region = Region.disc((64.0, -179.9), 150_000)
    covering = region.cells(level)
    assert (covering[1:] > covering[:-1]).all()
    assert (cells.levels(covering) == level).all()
    assert region.count(level) == len(covering)
    ranges = region.cell_ranges(level)
    np.testing.assert_array_equal(ranges_of(covering), ranges)
    np.testing.assert_array_equal(cells.ids_in_ranges(ranges, level), covering)


@settings(max_examples=25, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(10, 3e6), st.integers(0, 2**32))
def test_every_point_of_a_region_lies_in_its_cells(lat, lon, radius_m, seed):
    level = int(np.clip(np.floor(np.log2(3e7 / radius_m)), 1, 16))
    region = Region.disc((lat, lon), radius_m)
    rng = np.random.default_rng(seed)
    points = destination_deg((lat, lon), rng.uniform(0, 360, 500), radius_m * rng.uniform(0, 1.5, 500))
    inside = region.contains(points)
    in_cells = np.isin(cells.cell_ids(points, level), region.cells(level))
    assert in_cells[inside].all()
    assert inside.any()


def test_coverings_nest():
    region = Region.disc((-33.45, -70.67), 5_000)
    for level in range(9, 17):
        np.testing.assert_array_equal(np.unique(cells.parents(region.cells(level + 1), level)), region.cells(level))


# ------------------------------------------------------------------------------------------------------ discs


@pytest.mark.parametrize(
    "center",
    [(0, 0), (52, 13), (-33.9, -70.6), (-16.8, 179.99), (65, -180), (89.99, 5), (90, 0), (-90, 77), (-89, -100)],
)
@pytest.mark.parametrize("radius_m", [1.0, 3_000.0, 400_000.0, 5_000_000.0, 12_000_000.0])
def test_discs_hold_what_is_near(center, radius_m):
    region = Region.disc(center, radius_m)
    rng = np.random.default_rng(1)
    half_turn_m = np.pi * EARTH_RADIUS_M
    points = destination_deg(center, rng.uniform(0, 360, 4000), rng.uniform(0, min(2 * radius_m, half_turn_m), 4000))
    length_m = distance_m(center, points)
    clear = np.abs(length_m / radius_m - 1) > 3e-5
    np.testing.assert_array_equal(region.contains(points)[clear], (length_m < radius_m)[clear])
    cap_km2 = EARTH_KM2 * np.sin(radius_m / EARTH_RADIUS_M / 2) ** 2
    assert region.area_km2 == pytest.approx(cap_km2, rel=1e-4)
    assert region.geometry.is_valid
    west, south, east, north = region.geometry.bounds
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90


def test_discs_as_large_as_the_earth():
    assert Region.disc((10, 20), 21e6).area_km2 == pytest.approx(EARTH_KM2)
    nearly = Region.disc((10, 20), np.pi * EARTH_RADIUS_M - 1e5)
    assert nearly.contains([[-10, -160], [-10, -150], [90, 0], [-90, 0]]).tolist() == [False, True, True, True]


def test_a_disc_whose_rim_runs_over_the_pole():
    radius_m = distance_m((80.0, 30.0), (90.0, 30.0))
    region = Region.disc((80.0, 30.0), radius_m)
    assert region.area_km2 == pytest.approx(EARTH_KM2 * np.sin(radius_m / EARTH_RADIUS_M / 2) ** 2, rel=1e-4)
    assert region.contains([[89.9, 30.0], [89.9, -150.0]]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("center", "radius_m", "message"),
    [
        ((91, 0), 10, "latitude 91"),
        ((0, np.nan), 10, "longitude nan"),
        ((0, 0), 0, "radius_m .* not 0"),
        ((0, 0), -5, "not -5"),
        ((0, 0), np.inf, "not inf"),
    ],
)
def test_impossible_discs(center, radius_m, message):
    with pytest.raises(RegionError, match=message):
        Region.disc(center, radius_m)


# ---------------------------------------------------------------------------------------------------- reading


def test_all_kinds_of_geojson(tmp_path):
    one, two = square(10, 50, 11, 51), square(20, 50, 21, 51)
    multi = {"type": "MultiPolygon", "coordinates": [[one], [two]]}
    collection = {"type": "GeometryCollection", "geometries": [polygon(one), polygon(two)]}
    features = [{"type": "Feature", "properties": None, "geometry": polygon(ring)} for ring in (one, two)]
    wanted = shapely.union_all([shapely.Polygon(one), shapely.Polygon(two)])
    for source in (
        multi,
        collection,
        {"type": "Feature", "properties": {}, "geometry": multi},
        {"type": "FeatureCollection", "features": features},
    ):
        assert Region.from_geojson(source).geometry.equals(wanted)
        path = tmp_path / "region.geojson"
        path.write_text(json.dumps(source), encoding="utf-8-sig")
        region = Region.from_geojson(path)
        assert region.geometry.equals(wanted)
        assert region.name == str(path)
        assert Region.from_geojson(str(path), name="two squares").name == "two squares"


def test_overlapping_features_count_once():
    double = {"type": "MultiPolygon", "coordinates": [[square(0, 0, 2, 1)], [square(1, 0, 3, 1)]]}
    assert Region.from_geojson(double).area_km2 == pytest.approx(
        Region.from_geojson(polygon(square(0, 0, 3, 1))).area_km2, rel=1e-12
    )


def test_heights_are_dropped_and_rings_may_turn_either_way():
    ring = [[*position, 500.0] for position in square(0, 0, 1, 1)]
    region = Region.from_geojson(polygon(ring[::-1]))
    assert not region.geometry.has_z
    assert region.area_km2 == pytest.approx(Region.from_geojson(polygon(square(0, 0, 1, 1))).area_km2)


def test_rounding_beyond_the_edge_of_the_map_is_forgiven():
    edge, top = np.nextafter(-180.0, -181.0), np.nextafter(90.0, 91.0)
    region = Region.from_geojson(polygon(square(edge, -top, -edge, top)))
    assert region.geometry.equals(shapely.box(-180, -90, 180, 90))


def test_a_region_cannot_be_changed():
    region = Region.disc((0, 0), 10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        region.name = "other"


FIJI = {
    "wrapped": square(177, -19, -178, -16),
    "continued": square(177, -19, 182, -16),
    "stepping over the line": [
        [177, -19], [180, -19], [-180, -19], [-178, -19], [-178, -16], [-180, -16], [180, -16], [177, -16], [177, -19],
    ],
    "written in the west": [[-178, -16], [177, -16], [177, -19], [-178, -19], [-178, -16]],
    "a turn further east": [[537, -19], [540, -19], [-178, -19], [-178, -16], [537, -16], [537, -19]],
}  # fmt: skip


@pytest.mark.parametrize("ring", FIJI.values(), ids=FIJI.keys())
def test_rings_across_the_antimeridian(ring):
    region = Region.from_geojson(polygon(ring))
    split = {"type": "MultiPolygon", "coordinates": [[square(177, -19, 180, -16)], [square(-180, -19, -178, -16)]]}
    assert region.geometry.equals(Region.from_geojson(split).geometry)
    assert region.geometry.bounds == (-180, -19, 180, -16)
    points = [[-17, 179], [-17, -179], [-17, 181], [-17, 180], [-17, -180], [-17, 176], [-17, -177], [-17, 0]]
    assert region.contains(points).tolist() == [True] * 5 + [False] * 3
    np.testing.assert_array_equal(region.cells(9), Region.from_geojson(split).cells(9))
    drawn = shapely.box(177, -19, 182, -16)
    assert_cells_are_exact(region, drawn, *whole_earth(5), tolerance_deg=2e-3)


def test_one_sided_seams_have_two_names():
    east = Region.from_geojson(polygon(square(170, 0, 180, 10)))
    assert east.contains([[5, 180], [5, -180], [5, 540]]).all()
    cap = Region.from_geojson(polygon(square(20, 80, 30, 90)))
    assert cap.contains([[90, 0], [90, 25], [89, 25]]).all()
    assert not cap.contains([[89, 0], [-90, 25]]).any()


def test_a_hole_written_on_the_other_side_of_the_antimeridian():
    region = Region.from_geojson(polygon(square(170, -10, 200, 10), square(-175, -5, -170, 5)))
    assert region.contains([[0, -172], [0, -177], [0, -165], [0, 175]]).tolist() == [False, True, True, True]


def test_a_band_round_the_earth():
    region = Region.from_geojson(polygon(square(-180, 60, 180, 70)))
    assert region.area_km2 == pytest.approx(EARTH_KM2 / 2 * (np.sin(np.deg2rad(70)) - np.sin(np.deg2rad(60))))


def test_intersections():
    fiji = Region.from_geojson(polygon(square(177, -19, 182, -16)), "fiji")
    disc = Region.disc((-17.5, 180.0), 50_000)
    common = fiji.intersection(disc)
    assert common.area_km2 == pytest.approx(disc.area_km2)
    assert common.name == "fiji within disc"
    np.testing.assert_array_equal(common.cells(12), disc.cells(12))
    with pytest.raises(RegionError, match="fiji and disc have no ground in common"):
        fiji.intersection(Region.disc((-17.5, 10.0), 50_000))
    with pytest.raises(RegionError, match="no ground in common"):
        fiji.intersection(Region.from_geojson(polygon(square(170, -19, 177, -16))))  # only an edge


def test_russia_like_ring():
    ring = [[30, 50], [90, 48], [130, 45], [179, 62], [-170, 66], [178, 71], [100, 77], [35, 69], [30, 50]]
    region = Region.from_geojson(polygon(ring))
    assert (
        region.contains([[60, 100], [66, 180], [66, -172], [60, 20], [60, -160]]).tolist() == [True] * 3 + [False] * 2
    )
    drawn = shapely.Polygon([[lon + 360 if lon < 0 else lon, lat] for lon, lat in ring])
    assert_cells_are_exact(region, drawn, *whole_earth(5), tolerance_deg=2e-3)


def test_area_of_edges_that_are_straight_in_longitude_and_latitude():
    ring = [[0, 0], [60, 60], [0, 60], [0, 0]]
    # Integral of cos(lat) lat dlat from 0 to 60 degrees.
    top = np.deg2rad(60)
    expected = (top * np.sin(top) + np.cos(top) - 1) * EARTH_RADIUS_M**2 / 1e6
    assert Region.from_geojson(polygon(ring)).area_km2 == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("drawn", [shapely.box(-180, -90, 180, 90), shapely.box(170, 50, 190, 60)])
def test_geojson_round_trip(drawn, tmp_path):
    region = Region.from_geometry(drawn, "somewhere")
    wide = Region.disc((10, 20), 15e6)
    for each in (region, wide):
        path = tmp_path / "out.geojson"
        path.write_text(json.dumps(each.to_geojson()))
        again = Region.from_geojson(path)
        assert again.geometry.equals(each.geometry)
        np.testing.assert_array_equal(again.cells(4), each.cells(4))
    assert region.to_geojson()["properties"]["name"] == "somewhere"
    for part in shapely.get_parts(shapely.geometry.shape(region.to_geojson()["geometry"])):
        assert shapely.is_ccw(part.exterior)


# ----------------------------------------------------------------------------------------------------- errors

SQUARE = square(0, 0, 1, 1)
BAD = {
    "array": ([1, 2], "no 'type'"),
    "no type": ({"coordinates": []}, "no 'type'"),
    "point": ({"type": "Point", "coordinates": [1, 2]}, "type is 'Point': .*Polygon and MultiPolygon"),
    "topology": ({"type": "Topology"}, "type is 'Topology'"),
    "line in a collection": (
        {"type": "GeometryCollection", "geometries": [polygon(SQUARE), {"type": "LineString", "coordinates": []}]},
        r"geometries\[1\]\.type is 'LineString'",
    ),
    "no features": ({"type": "FeatureCollection", "features": []}, "empty"),
    "features missing": ({"type": "FeatureCollection"}, "features is not a list"),
    "null geometry": (
        {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]},
        r"features\[0\]\.geometry is missing",
    ),
    "no rings": (polygon(), "coordinates is empty"),
    "flat ring": (polygon([1, 2, 3, 4]), r"coordinates\[0\] is not a list of positions"),
    "text": (polygon([["1", "2"]] * 4), r"coordinates\[0\] is not a list of positions"),
    "short position": (polygon([[0, 0], [1], [1, 1], [0, 0]]), "not a list of positions"),
    "few positions": (polygon([[0, 0], [1, 1], [0, 0]]), "has 3 positions"),
    "open": (polygon(SQUARE[:-1]), "not closed: repeat"),
    "projected": (polygon(square(486000, 5400000, 487000, 5401000)), r"\[0\]\[0\]: longitude 486000.0 .*WGS84"),
    "exchanged": (polygon([[35, 139], [36, 139], [36, 140], [35, 139]]), r"\[0\]\[0\]: latitude 139.0 .*exchanged"),
    "not a number": (polygon([[0, 0], [1, float("nan")], [1, 1], [0, 0]]), r"\[0\]\[1\]: latitude nan"),
    "infinite": (polygon([[0, 0], [float("inf"), 0], [1, 1], [0, 0]]), r"\[0\]\[1\]: longitude inf"),
    "bow tie": (polygon([[0, 0], [2, 2], [2, 0], [0, 2], [0, 0]]), r"Self-intersection\[1 1\].*make_valid"),
    "no area": (polygon([[0, 0], [1, 1], [2, 2], [0, 0]]), "not a valid polygon"),
    "hole outside": (polygon(SQUARE, square(5, 5, 6, 6)), "not a valid polygon: Hole lies outside shell"),
    "round the pole": (
        polygon([[-120, 70], [0, 70], [120, 70], [-120, 70]]), r"coordinates\[0\] runs round a pole .*antimeridian"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "message"), BAD.values(), ids=BAD.keys())
def test_errors_name_file_and_spot_in_one_line(source, message, tmp_path):
    path = tmp_path / "bad.geojson"
    path.write_text(json.dumps(source))
    with pytest.raises(RegionError, match=message) as caught:
        Region.from_geojson(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    if isinstance(source, dict):
        with pytest.raises(RegionError, match=message) as caught:
            Region.from_geojson(source, name="sketch")
        assert str(caught.value).startswith("sketch: ")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RegionError, match=r"none\.geojson: no such file"):
        Region.from_geojson(tmp_path / "none.geojson")
    with pytest.raises(RegionError, match="cannot be read"):
        Region.from_geojson(tmp_path)
    broken = tmp_path / "broken.geojson"
    broken.write_text('{"type": "Polygon",\n "coordinates": [')
    with pytest.raises(RegionError, match=r"broken\.geojson: not JSON: .* at line 2, column \d+"):
        Region.from_geojson(broken)
    broken.write_bytes(b'{"type": "\xff\xfe"}')
    with pytest.raises(RegionError, match="byte 10 is not UTF-8"):
        Region.from_geojson(broken)


def test_other_geometries_are_refused():
    with pytest.raises(RegionError, match=r"sketch: type is 'Point'"):
        Region.from_geometry(shapely.Point(1, 2), "sketch")
    with pytest.raises(RegionError, match="empty"):
        Region.from_geometry(shapely.Polygon(), "sketch")


# -------------------------------------------------------------------------------------------------- real data


@pytest.fixture
def real_region(real_data):
    return lambda country: Region.from_geojson(real_data / "admin1" / f"{country}.json")


@pytest.mark.parametrize(
    ("country", "known_km2"), [("lux", 2586), ("bel", 30_689), ("che", 41_285), ("deu", 357_022), ("jpn", 377_975)]
)
def test_areas_of_countries(country, known_km2, real_region):
    region = real_region(country)
    assert region.area_km2 == pytest.approx(known_km2, rel=0.015)
    covering = region.cells(12)
    inside = region.contains(cells.centers_deg(covering))
    assert cells.areas_m2(covering[inside]).sum() / 1e6 == pytest.approx(region.area_km2, rel=0.01)
    assert cells.areas_m2(covering).sum() / 1e6 > region.area_km2


def test_overseas_parts_belong_to_a_country(real_region):
    netherlands = real_region("nld")
    assert netherlands.contains([[52.37, 4.9], [12.2, -68.3], [50.85, 4.35]]).tolist() == [True, True, False]


def test_luxembourg_is_covered_exactly(real_region):
    region = real_region("lux")
    block = cells.cell_ids(region.geometry.centroid.coords[0][::-1], 7)
    ids = cells.descendants(np.unique(np.append(cells.neighbors(block), block)), 11)
    assert_cells_are_exact(region, region.geometry, ids, cell_polygons(ids, 16), tolerance_deg=1e-6)


def test_germany_at_street_level(real_region):
    region = real_region("deu")
    ranges = region.cell_ranges(16)
    assert 20_000_000 < region.count(16) < 21_000_000
    assert len(ranges) < 20_000
    berlin, paris = cells.cell_ids([[52.52, 13.405], [48.857, 2.352]], 16)
    row = np.searchsorted(ranges[:, 0], berlin, side="right") - 1
    assert ranges[row, 0] <= berlin <= ranges[row, 1]
    row = np.searchsorted(ranges[:, 0], paris, side="right") - 1
    assert not ranges[row, 0] <= paris <= ranges[row, 1]


def test_a_self_intersecting_state_is_named(real_region):
    with pytest.raises(RegionError, match=r"usa\.json: features\[\d+\]\.geometry.*Self-intersection\[-?\d"):
        real_region("usa")
