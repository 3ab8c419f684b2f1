"""Chips are squares of true ground size, in any CRS, at any heading."""

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

import tiles
from tiles.chip import ChipFrame

PLACE = (34.0, -117.0)


def assert_shows(chip, world, latlon_deg, gsd_m, heading_deg, levels=4.0):
    """The pattern changes by 16 levels a source pixel: 4 levels are a quarter of a pixel."""
    expected = world.expected(latlon_deg, chip.pixels.shape[0], gsd_m, heading_deg)
    assert chip.valid.all()
    assert np.abs(chip.pixels - expected).max() <= levels


@pytest.mark.parametrize("heading_deg", [0.0, 37.0, 90.0, 222.5, -10.0])
@pytest.mark.parametrize(
    ("crs", "latlon_deg", "pixel"),
    [
        ("EPSG:26911", PLACE, 1.0),
        ("EPSG:32719", (-33.9, -70.6), 1.0),
        ("EPSG:4326", (60.0, 25.0), (1.8e-5, 0.9e-5)),
        ("EPSG:3857", (70.0, 20.0), 2.92),
        ("EPSG:3413", (89.99, 100.0), 1.0),
        ("EPSG:3413", (90.0, 0.0), 1.0),
        ("EPSG:3031", (-89.999, -170.0), 1.0),
        ("EPSG:32660", (52.0, 180.0), 1.0),
        ("EPSG:2263", (40.7, -74.0), 3.28),
    ],
)
def test_geometry_in_many_crs(tmp_path, make, crs, latlon_deg, pixel, heading_deg):
    path, world = make(tmp_path / "a.tif", crs, latlon_deg, pixel)
    chip = tiles.open_source(path).chip(latlon_deg, size_px=101, gsd_m=1.0, heading_deg=heading_deg)
    assert_shows(chip, world, latlon_deg, 1.0, heading_deg)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    north_m=st.floats(-100, 100),
    east_m=st.floats(-100, 100),
    heading_deg=st.floats(-360, 360),
    size_px=st.integers(1, 90),
    gsd_m=st.floats(0.2, 1.4),
)
def test_geometry_anywhere_in_a_raster(tmp_path, kit, make, north_m, east_m, heading_deg, size_px, gsd_m):
    path = tmp_path / "a.tif"
    if not path.exists():
        make(path)
    world = kit.World("EPSG:26911", kit.WAVE_PX)
    lon, lat, _ = pyproj.Geod(ellps="WGS84").fwd(
        PLACE[1], PLACE[0], np.degrees(np.arctan2(east_m, north_m)), np.hypot(east_m, north_m)
    )
    chip = tiles.open_source(path).chip((lat, lon), size_px=size_px, gsd_m=gsd_m, heading_deg=heading_deg)
    assert_shows(chip, world, (lat, lon), gsd_m, heading_deg, levels=5.0)


@pytest.mark.parametrize(
    ("crs", "left"), [("EPSG:4326", 179.998), ("EPSG:4326", -180.002), ("EPSG:3857", "plus"), ("EPSG:3857", "minus")]
)
@pytest.mark.parametrize("lon_deg", [179.9999, -179.9999, 180.0, -180.0])
def test_rasters_that_continue_beyond_the_date_line(tmp_path, kit, crs, left, lon_deg):

    period = 360.0 if crs == "EPSG:4326" else 2 * np.pi * 6378137.0
    pixel = 1e-5 if crs == "EPSG:4326" else 1.1
    if isinstance(left, str):
        left = period / 2 - 200 * pixel if left == "plus" else -period / 2 - 200 * pixel
    # a wave that repeats with the world, so that the pattern is the same on both branches
    wave = period / round(period / (kit.WAVE_PX * pixel))
    wave = period / (2 * round(period / (2 * wave)))
    world = kit.World(crs, wave)
    path = world.write(tmp_path / "a.tif", Affine(pixel, 0, left, 0, -pixel, 200 * pixel), 400, 400)
    source = tiles.open_source(path)
    chip = source.chip((0.0, lon_deg), size_px=80, gsd_m=1.1, heading_deg=20.0)
    assert_shows(chip, world, (0.0, lon_deg), 1.1, 20.0)
    assert source.coverage().geom_type == "MultiPolygon"
    west, _, east, _ = source.coverage().bounds
    assert (west, east) == (-180.0, 180.0)


def test_global_raster_is_seamless_at_the_date_line_and_the_pole(tmp_path, kit):

    world = kit.World("EPSG:4326", 60.0)
    path = world.write(tmp_path / "globe.tif", Affine(0.5, 0, -180, 0, -0.5, 90), 720, 360)
    source = tiles.open_source(path)
    assert source.coverage().area == pytest.approx(360 * 180)
    chip = source.chip((10.0, 180.0), size_px=60, gsd_m=50_000.0, heading_deg=15.0)
    assert_shows(chip, world, (10.0, 180.0), 50_000.0, 15.0)
    polar = source.chip((89.0, 45.0), size_px=40, gsd_m=50_000.0)
    assert polar.valid.all()
    # near the pole the mean over many meridians flattens the pattern; a seam would show by 100 levels
    expected = world.expected((89.0, 45.0), 40, 50_000.0, 0.0)
    distance = np.hypot(*(np.mgrid[:40, :40] - 19.5))
    assert np.abs(polar.pixels - expected).max(axis=2)[distance > 10].max() <= 15.0


def test_ground_control_points_alone(tmp_path, make):
    path, world = make(tmp_path / "a.tif")
    with rasterio.open(path) as dataset:
        data, transform = dataset.read(), dataset.transform
    corners = [(r, c) for r in (0, 200, 400) for c in (0, 200, 400)]
    gcps = [GroundControlPoint(row=r, col=c, x=(transform * (c, r))[0], y=(transform * (c, r))[1]) for r, c in corners]
    bare = tmp_path / "gcps.tif"
    with rasterio.open(bare, "w", driver="GTiff", width=400, height=400, count=3, dtype="uint8") as dataset:
        dataset.write(data)
        dataset.gcps = (gcps, rasterio.CRS.from_epsg(26911))
    source = tiles.open_source(bare)
    assert source.native_gsd_m == pytest.approx(1.0, rel=1e-3)
    assert_shows(source.chip(PLACE, size_px=80, gsd_m=1.0, heading_deg=50.0), world, PLACE, 1.0, 50.0)


def test_rotated_geotransform(tmp_path, kit):

    world = kit.World("EPSG:26911", 40.0)
    north_up = kit.centred("EPSG:26911", PLACE, (1.0, 1.0))
    x, y = north_up * (200, 200)
    rotated = Affine.translation(x, y) * Affine.rotation(30) * Affine.scale(1, -1) * Affine.translation(-200, -200)
    path = world.write(tmp_path / "a.tif", rotated, 400, 400)
    assert_shows(tiles.open_source(path).chip(PLACE, size_px=80, gsd_m=1.0), world, PLACE, 1.0, 0.0)


def test_sizes_are_true_at_high_latitude(tmp_path, make):
    """A Web Mercator pixel of 2.92 m at 70 degrees north spans one metre, and is reported so."""
    path, _ = make(tmp_path / "a.tif", "EPSG:3857", (70.0, 20.0), 2.92)
    assert tiles.open_source(path).native_gsd_m == pytest.approx(1.0, rel=0.01)


def test_partly_outside_is_black_and_not_valid(tmp_path, make):
    path, world = make(tmp_path / "a.tif")
    corner = rasterio.open(path).transform * (0, 200)  # middle of the western edge
    lon, lat = pyproj.Transformer.from_crs("EPSG:26911", "OGC:CRS84", always_xy=True).transform(*corner)
    chip = tiles.open_source(path).chip((lat, lon), size_px=64, gsd_m=1.0)
    assert chip.valid_fraction == pytest.approx(0.5, abs=0.02)
    assert not chip.pixels[~chip.valid].any()
    expected = world.expected((lat, lon), 64, 1.0, 0.0)
    inner = chip.valid & np.roll(chip.valid, 1, axis=1)
    assert np.abs(chip.pixels - expected).max(axis=2)[inner].max() <= 9.0  # the outer half pixel repeats the edge


def test_large_chips_follow_the_curvature(tmp_path, make):
    """Over 150 km a straight line between nine control points would be pixels off."""
    path, world = make(tmp_path / "a.tif", "EPSG:4326", (65.0, 25.0), (0.01, 0.01), 800)
    chip = tiles.open_source(path).chip((65.0, 25.0), size_px=150, gsd_m=1100.0, heading_deg=33.0)
    assert_shows(chip, world, (65.0, 25.0), 1100.0, 33.0, levels=6.0)


@given(
    lat=st.floats(-90, 90),
    lon=st.floats(-180, 180),
    heading_deg=st.floats(0, 360),
    x=st.floats(0, 64),
    y=st.floats(0, 64),
)
@settings(max_examples=50, deadline=None)
def test_frames_keep_distances_from_the_centre(lat, lon, heading_deg, x, y):
    frame = ChipFrame(lat, lon, 64, 2.0, heading_deg)
    found_lon, found_lat = frame.lonlat(np.array([x]), np.array([y]))
    _, _, distance_m = pyproj.Geod(ellps="WGS84").inv(lon, lat, found_lon.item(), found_lat.item())
    assert distance_m == pytest.approx(2.0 * np.hypot(x - 32, y - 32), abs=1e-6)


def test_coverage_is_the_outline(tmp_path, make):
    path, _ = make(tmp_path / "a.tif")
    area = tiles.open_source(path).coverage()
    m2, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(area)
    assert abs(m2) == pytest.approx(400 * 400, rel=2e-3)
    assert area.contains(shapely.Point(PLACE[1], PLACE[0]))


def test_coverage_around_the_pole(tmp_path, make):
    path, _ = make(tmp_path / "a.tif", "EPSG:3413", (90.0, 0.0), 100.0)
    area = tiles.open_source(path).coverage()
    assert area.contains(shapely.Point(12.0, 89.99)) and area.contains(shapely.Point(-170.0, 89.99))
    assert not area.contains(shapely.Point(12.0, 89.0))
    assert area.bounds[3] == 90.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_px": 0}, {"size_px": 1.5}, {"gsd_m": 0.0}, {"gsd_m": float("nan")}, {"heading_deg": float("inf")},
        {"latlon_deg": (91.0, 0.0)}, {"latlon_deg": (float("nan"), 0.0)}, {"latlon_deg": (1.0, 2.0, 3.0)},
        {"gsd_m": 1e6},
    ],
)  # fmt: skip
def test_impossible_chips(tmp_path, make, wrong):
    source = tiles.open_source(make(tmp_path / "a.tif", size_px=32)[0])
    asked = {"latlon_deg": PLACE, "size_px": 16, "gsd_m": 1.0} | wrong
    with pytest.raises(tiles.InvalidChipError):
        source.chip(asked.pop("latlon_deg"), **asked)


def test_outside_names_place_and_source(tmp_path, make):
    source = tiles.open_source(make(tmp_path / "a.tif", size_px=32)[0])
    for place in [(34.1, -117.0), (-34.0, 63.0), (90.0, 0.0)]:
        with pytest.raises(tiles.OutsideCoverageError, match=r"a\.tif.*-?\d+\.\d{6}"):
            source.chip(place, size_px=16, gsd_m=1.0)
