"""Distances, bearings and destinations on the sphere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoview.geo.sphere import (
    EARTH_RADIUS_M,
    bearing_deg,
    check_latlon_deg,
    destination_deg,
    distance_m,
    latlon_deg,
    unit_vectors,
)

HALF_TURN_M = np.pi * EARTH_RADIUS_M
LONDON, PARIS, NEW_YORK = (51.5074, -0.1278), (48.8566, 2.3522), (40.7128, -74.0060)
SYDNEY, SANTIAGO, TOKYO = (-33.8688, 151.2093), (-33.4489, -70.6693), (35.6762, 139.6503)

points = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@pytest.mark.parametrize(
    ("a", "b", "expected_km"),
    [(LONDON, PARIS, 343.6), (LONDON, NEW_YORK, 5570.2), (SYDNEY, SANTIAGO, 11_340), (TOKYO, NEW_YORK, 10_849)],
)
def test_distances_between_cities(a, b, expected_km):
    assert distance_m(a, b) / 1000 == pytest.approx(expected_km, rel=2e-3)


@given(points, points)
def test_distance_is_the_angle_between_unit_vectors(a, b):
    u, v = unit_vectors(a), unit_vectors(b)
    angle = np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v)
    assert distance_m(a, b) == pytest.approx(angle * EARTH_RADIUS_M, abs=1e-7)
    assert distance_m(a, b) == distance_m(b, a)


def test_distance_of_micrometres():
    step_deg = 1e-11
    expected_m = np.deg2rad(step_deg) * EARTH_RADIUS_M
    assert distance_m((0.0, 0.0), (step_deg, 0.0)) == pytest.approx(expected_m, rel=1e-12)
    assert distance_m((0.0, 0.0), (0.0, step_deg)) == pytest.approx(expected_m, rel=1e-12)


def test_distance_near_the_antipode():
    # One metre short of the antipode: the plain haversine is wrong by centimetres here.
    short_deg = np.rad2deg(1.0 / EARTH_RADIUS_M)
    assert HALF_TURN_M - distance_m((0.0, 0.0), (short_deg, 180.0)) == pytest.approx(1.0, abs=1e-7)
    assert distance_m((30.0, 20.0), (-30.0, -160.0)) == pytest.approx(HALF_TURN_M, abs=1e-7)


def test_distance_broadcasts_and_crosses_the_date_line():
    others = np.array([[0.0, 179.5], [0.0, -179.5], [0.0, 180.5]])
    d = distance_m((0.0, 179.5), others)
    assert d.shape == (3,)
    assert d[0] == 0.0
    np.testing.assert_allclose(d[1:], np.deg2rad(1.0) * EARTH_RADIUS_M, rtol=1e-12)
    assert distance_m(others[:, None], others[None]).shape == (3, 3)


@pytest.mark.parametrize(
    ("to", "expected"), [((1, 0), 0.0), ((0, 1), 90.0), ((-1, 0), 180.0), ((0, -1), 270.0), ((0, 0), 0.0)]
)
def test_bearings_of_the_compass(to, expected):
    assert bearing_deg((0.0, 0.0), to) == expected


def test_bearing_between_cities_and_over_the_date_line():
    assert bearing_deg(LONDON, NEW_YORK) == pytest.approx(288.3, abs=0.1)
    assert bearing_deg((0.0, 179.0), (0.0, -179.0)) == pytest.approx(90.0)
    assert bearing_deg((0.0, -179.0), (0.0, 179.0)) == pytest.approx(270.0)


def test_bearing_never_reaches_360():
    assert 0.0 <= bearing_deg((0.0, 0.0), (1.0, -1e-300)) < 360.0
    assert 0.0 <= bearing_deg((0.0, 0.0), (1.0, -1e-17)) < 360.0


@given(
    st.tuples(st.floats(-89.9, 89.9), st.floats(-180, 180)),
    st.floats(0, 360, exclude_max=True),
    st.floats(0.01, 0.99 * HALF_TURN_M),
)
def test_destination_is_as_far_and_in_the_direction_asked_for(start, bearing, length_m):
    end = destination_deg(start, bearing, length_m)
    assert -180.0 <= end[1] < 180.0
    assert distance_m(start, end) == pytest.approx(length_m, abs=1e-6)
    off_deg = abs((bearing_deg(start, end) - bearing + 180.0) % 360.0 - 180.0)
    # Coordinates are rounded to a nanometre or so, which turns the direction of a near or almost antipodal point.
    across_m = np.deg2rad(off_deg) * np.sin(length_m / EARTH_RADIUS_M) * EARTH_RADIUS_M
    assert across_m < 1e-6


def test_destination_at_poles_and_date_line():
    quarter_m = HALF_TURN_M / 2
    assert destination_deg((0.0, 10.0), 0.0, quarter_m)[0] == pytest.approx(90.0, abs=1e-12)
    np.testing.assert_allclose(destination_deg((90.0, 10.0), 180.0, quarter_m), [0.0, 10.0], atol=1e-12)
    np.testing.assert_allclose(destination_deg((0.0, 179.0), 90.0, quarter_m / 45), [0.0, -179.0], atol=1e-12)
    assert destination_deg((0.0, 0.0), 90.0, HALF_TURN_M)[1] == -180.0


def test_destination_broadcasts():
    ring = destination_deg((-33.0, -70.0), np.arange(0, 360, 10), 1000.0)
    assert ring.shape == (36, 2)
    np.testing.assert_allclose(distance_m((-33.0, -70.0), ring), 1000.0, rtol=1e-9)


@given(points)
def test_unit_vectors_round_trip(point):
    vector = unit_vectors(point)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-15)
    back = latlon_deg(3.0 * vector)
    assert back[0] == pytest.approx(point[0], abs=1e-6)  # the sine is flat at the poles
    assert distance_m(back, point) < 1e-7
    assert -180.0 <= back[1] < 180.0


def test_unit_vectors_axes():
    axes = unit_vectors([[0.0, 0.0], [0.0, 90.0], [90.0, 0.0], [-90.0, 50.0]])
    np.testing.assert_allclose(axes, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]], atol=1e-16)


def test_check_wraps_longitudes_and_leaves_others_alone():
    np.testing.assert_array_equal(check_latlon_deg([[0, 181], [1, 540], [2, 180]]), [[0, -179], [1, 180], [2, 180]])
    same = np.array([[-33.0, -180.0]])
    assert check_latlon_deg(same) is same


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([91.0, 0.0], r"latitude 91.0 in row 2 .*latitude comes first"),
        ([-1e9, 0.0], r"latitude -1000000000.0 in row 2"),
        ([np.nan, 0.0], r"latitude nan in row 2"),
        ([0.0, np.nan], r"longitude nan in row 2"),
        ([0.0, np.inf], r"longitude inf in row 2"),
        ([0.0, -180.1], r"longitude -180.1 in row 2"),
        ([0.0, 541.0], r"longitude 541.0 in row 2"),
    ],
)
def test_check_names_the_bad_coordinate(bad, message):
    with pytest.raises(ValueError, match=message):
        check_latlon_deg([[0.0, 0.0], [1.0, 1.0], bad, [2.0, 2.0]])


def test_check_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        check_latlon_deg([1.0, 2.0, 3.0])
