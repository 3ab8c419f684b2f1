"""The grid under a scene against geodesy, and what a scene tells apart: trunks, buildings and their walls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from geoview.render.scene import Buildings, Cover, Grid, Scene

WGS84 = Geod(ellps="WGS84")
ZONES = st.tuples(st.integers(1, 60), st.booleans())
EASTINGS_M = st.floats(200_000, 800_000)
NORTHINGS_M = st.floats(500_000, 9_000_000)


def utm(zone, north):
    return f"EPSG:{(32600 if north else 32700) + zone}"


@settings(deadline=None, max_examples=50)
@given(ZONES, EASTINGS_M, NORTHINGS_M, st.floats(-500, 1500), st.floats(-500, 1500))
def test_positions_survive_the_way_to_latitude_and_longitude_and_back(zone, left_m, top_m, x_m, y_m):
    grid = Grid(utm(*zone), left_m, top_m, 0.5, (2000, 2000))
    back = grid.xy_m(grid.latlon_deg(np.array([[x_m, y_m]])))
    assert np.allclose(back, [[x_m, y_m]], atol=1e-3)


@settings(deadline=None, max_examples=50)
@given(ZONES, EASTINGS_M, NORTHINGS_M)
def test_x_runs_east_and_y_south_in_true_metres(zone, left_m, top_m):
    grid = Grid(utm(*zone), left_m, top_m, 0.5, (200, 200))
    start, right, down = grid.latlon_deg(np.array([[50.0, 50], [150, 50], [50, 150]]))
    to_right, _, right_m = WGS84.inv(start[1], start[0], right[1], right[0])
    to_down, _, down_m = WGS84.inv(start[1], start[0], down[1], down[0])
    # Grid north strays from true north by a few degrees near the edge of a zone, more near the pole.
    assert abs((to_right - grid.convergence_deg - 90 + 180) % 360 - 180) < 0.01
    assert abs((to_down - grid.convergence_deg - 180 + 180) % 360 - 180) < 0.01
    assert abs(right_m - 100) < 0.2 and abs(down_m - 100) < 0.2


def test_latitude_comes_first_in_both_hemispheres():
    # Zone 33 has its central meridian at 15 degrees east; the equator is 0 m in the north, 10,000 km in the south.
    north = Grid("EPSG:32633", 500_000, 5_300_000, 0.5, (10, 10)).latlon_deg(np.zeros(2))
    south = Grid("EPSG:32733", 500_000, 10_000_000 - 5_300_000, 0.5, (10, 10)).latlon_deg(np.zeros(2))
    assert north[1] == pytest.approx(15) and 47 < north[0] < 48
    assert south == pytest.approx([-north[0], 15])


@pytest.mark.parametrize(("crs", "sign"), [("EPSG:32633", 1), ("EPSG:32733", -1)])
def test_grid_north_is_turned_clockwise_east_of_the_meridian_in_the_north(crs, sign):
    east = Grid(crs, 700_000, 5_000_000, 0.5, (10, 10)).convergence_deg
    west = Grid(crs, 300_000 - 5, 5_000_000, 0.5, (10, 10)).convergence_deg
    middle = Grid(crs, 500_000 - 2.5, 5_000_000, 0.5, (10, 10)).convergence_deg
    assert sign * east > 1.5 and sign * west < -1.5 and abs(middle) < 1e-6


def test_the_transform_is_rasterios():
    grid = Grid("EPSG:32633", 500_000, 5_300_000, 0.25, (40, 80))
    assert grid.transform @ (3, 7) == (500_000 + 3 * 0.25, 5_300_000 - 7 * 0.25)
    assert grid.size_m == (20, 10)


def scene_of(cover, surface_m, seed=0, gsd_m=0.5):
    cover, surface_m = np.asarray(cover, np.uint8), np.asarray(surface_m, np.float32)
    grid = Grid("EPSG:32633", 500_000, 5_300_000, gsd_m, cover.shape)
    texture = np.zeros((*cover.shape, 3), np.uint8)
    return Scene(grid, texture, surface_m, np.zeros_like(surface_m), cover, cover == 0, seed)


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"surface_m has shape \(3, 4\), the grid \(4, 4\)"):
        scene_of(np.zeros((4, 4)), np.zeros((3, 4)))


def test_a_tree_has_its_trunk_where_it_is_highest():
    y, x = np.mgrid[:60, :60]
    surface = np.zeros((60, 60))
    for row, column in ((15, 15), (40, 44)):
        dome = 8 - 0.2 * ((y - row) ** 2 + (x - column) ** 2)
        surface = np.maximum(surface, np.where(dome > 3, dome, 0))
    trunks = scene_of(np.where(surface > 0, Cover.CANOPY, Cover.GROUND), surface).trunks
    assert np.argwhere(trunks).tolist() == [[15, 15], [40, 44]]


def test_a_crown_that_is_flat_on_top_has_few_trunks_and_at_least_one():
    cover, surface = np.zeros((40, 40)), np.zeros((40, 40))
    cover[10:20, 10:20], surface[10:20, 10:20] = Cover.CANOPY, 6
    trunks = scene_of(cover, surface).trunks
    assert 1 <= trunks.sum() <= 6
    assert not trunks[cover == 0].any()


def test_a_higher_roof_beside_a_tree_takes_no_trunk_and_has_none():
    surface, cover = np.zeros((30, 30)), np.zeros((30, 30))
    cover[10:20, 10:15], surface[10:20, 10:15] = Cover.BUILDING, 20
    cover[15, 16], surface[15, 16] = Cover.CANOPY, 5
    assert np.argwhere(scene_of(cover, surface).trunks).tolist() == [[15, 16]]


@settings(deadline=None, max_examples=50)
@given(st.floats(-40, 40), st.integers(30, 60), st.integers(30, 60))
def test_walls_run_along_a_buildings_edges(turn_deg, length_px, width_px):
    turn = np.radians(turn_deg)
    y, x = np.mgrid[:100, :100] - 49.5
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    found = Buildings.found((np.abs(along) < length_px / 2) & (np.abs(across) < width_px / 2), seed=0)
    error_rad = (found.axis_rad[1] - turn + np.pi / 4) % (np.pi / 2) - np.pi / 4
    assert abs(np.degrees(error_rad)) < 3


def test_buildings_are_told_apart_and_keep_their_keys():
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:15] = mask[20:30, 20:35] = True
    one, same, other = (Buildings.found(mask, seed) for seed in (1, 1, 2))
    assert one.label[10, 10] != one.label[25, 25] and one.label.max() == 2
    assert (one.label > 0).tolist() == mask.tolist()
    assert len(set(one.key.tolist())) == 3
    assert one.key.tolist() == same.key.tolist() != other.key.tolist()
