"""What an aerial camera makes of the ground."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.render.sensor import Sensor, aerial_picture, cast_shadow

GSD_M = 0.5


def tower(size_px=200, height_m=10.0):
    """Returns heights (S, S) of level ground with a block of 20 x 20 pixels in the middle."""
    surface = np.zeros((size_px, size_px), np.float32)
    block = slice(size_px // 2 - 10, size_px // 2 + 10)
    surface[block, block] = height_m
    return surface


def textured(size_px=200, seed=0):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(40, 220, (size_px // 4, size_px // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)


def plain(**changes):
    """Returns a sensor that changes nothing but what is asked for."""
    neutral = Sensor(
        sun_azimuth_deg=180.0,
        sun_elevation_deg=45.0,
        ambient=0.3,
        sky_rgb=(1.0, 1.0, 1.0),
        mix=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        gains=(1.0, 1.0, 1.0),
        gamma=1.0,
        haze=0.0,
        haze_rgb=(0.5, 0.5, 0.5),
        falloff=0.0,
        unevenness=0.0,
        blur_px=0.0,
        noise=0.0,
        shift_m=(0.0, 0.0),
        warp_m=0.0,
        seed=0,
    )
    return replace(neutral, **changes)


@pytest.mark.parametrize(
    ("azimuth_deg", "away"), [(0, (1, 0)), (90, (0, -1)), (180, (-1, 0)), (270, (0, 1)), (135, (-1, -1))]
)
def test_a_shadow_falls_away_from_the_sun(azimuth_deg, away):
    dark = cast_shadow(tower(), GSD_M, azimuth_deg, 45.0) > 0.5
    rows, columns = np.nonzero(dark)
    middle = np.array([rows.mean() - 99.5, columns.mean() - 99.5])
    assert np.allclose(middle / np.abs(middle).max(), away, atol=0.05)


@given(st.floats(0, 360), st.floats(25, 75), st.floats(4, 25))
@settings(max_examples=30, deadline=None)
def test_a_shadow_is_as_long_as_the_sun_is_low(azimuth_deg, elevation_deg, height_m):
    dark = cast_shadow(tower(300, height_m), GSD_M, azimuth_deg, elevation_deg)
    assert dark.min() >= 0 and dark.max() <= 1
    assert not dark[140:160, 140:160].any(), "a flat roof has the sun"
    y, x = np.nonzero(dark > 0.5)
    # Along the sun's direction, beyond the far side of the block.
    along = -(x - 149.5) * math.sin(math.radians(azimuth_deg)) + (y - 149.5) * math.cos(math.radians(azimuth_deg))
    half_px = 10 * (abs(math.sin(math.radians(azimuth_deg))) + abs(math.cos(math.radians(azimuth_deg))))
    expected_px = height_m / math.tan(math.radians(elevation_deg)) / GSD_M
    assert abs(along.max() - half_px - expected_px) < 4, "rounded directions of eight doublings"


def test_a_shadow_ends_at_the_edge_of_the_raster():
    surface = np.zeros((40, 60), np.float32)
    surface[:, :2] = 30.0
    dark = cast_shadow(surface, 1.0, 270.0, 30.0)
    assert (dark[:, 2:50] == 1).all()
    assert not dark[:, 56:].any()


def test_level_ground_in_the_sun_keeps_its_colours():
    albedo = textured()
    assert (
        np.abs(aerial_picture(albedo, np.zeros((200, 200), np.float32), GSD_M, plain()).astype(int) - albedo).max() <= 1
    )


def test_slopes_towards_the_sun_are_brighter():
    ramp = np.repeat(np.arange(100, dtype=np.float32)[:, None] * 0.1, 100, axis=1)  # falls to the north
    albedo = np.full((100, 100, 3), 120, np.uint8)
    south = aerial_picture(albedo, ramp, GSD_M, plain(sun_azimuth_deg=180.0))[50, 50, 0]
    north = aerial_picture(albedo, ramp, GSD_M, plain(sun_azimuth_deg=0.0))[50, 50, 0]
    assert north > 120 > south


def test_shadows_are_lit_by_the_sky_alone():
    albedo = np.full((200, 200, 3), 150, np.uint8)
    picture = aerial_picture(albedo, tower(), GSD_M, plain(ambient=0.3))
    north_of_it, open_ground = picture[85, 100, 0] / 255, picture[30, 30, 0] / 255
    assert (north_of_it / open_ground) ** 2.2 == pytest.approx(0.3, abs=0.03)


def test_the_shift_moves_the_picture_east_and_south():
    albedo = np.zeros((200, 200, 3), np.uint8)
    albedo[100:104, 60:64] = 255
    picture = aerial_picture(albedo, np.zeros((200, 200), np.float32), GSD_M, plain(shift_m=(2.0, 1.0)))
    rows, columns = np.nonzero(picture[..., 0] > 128)
    assert (rows.min(), columns.min()) == (102, 64)


def test_the_warp_is_less_than_it_says():
    albedo = np.zeros((600, 600, 3), np.uint8)
    albedo[::40, ::40] = 255
    albedo[1::40, ::40] = albedo[::40, 1::40] = albedo[1::40, 1::40] = 255
    picture = aerial_picture(albedo, np.zeros((600, 600), np.float32), GSD_M, plain(warp_m=0.9, seed=3))
    offsets = []
    for row in range(40, 560, 40):
        for column in range(40, 560, 40):
            window = picture[row - 6 : row + 8, column - 6 : column + 8, 0].astype(float)
            y, x = np.mgrid[-6:8, -6:8]
            offsets.append([(window * y).sum() / window.sum() - 0.5, (window * x).sum() / window.sum() - 0.5])
    length_m = np.hypot(*np.array(offsets).T) * GSD_M
    assert 0.1 < length_m.max() < 1.0


def test_the_same_flight_takes_the_same_picture_and_another_another():
    albedo, surface = textured(), tower()
    one = Sensor.drawn(np.random.default_rng(1))
    assert one == Sensor.drawn(np.random.default_rng(1))
    other = Sensor.drawn(np.random.default_rng(2))
    picture = aerial_picture(albedo, surface, GSD_M, one)
    assert picture.shape == albedo.shape and picture.dtype == np.uint8
    assert (picture == aerial_picture(albedo, surface, GSD_M, one)).all()
    assert np.abs(picture.astype(int) - aerial_picture(albedo, surface, GSD_M, other)).mean() > 5


@given(st.integers(0, 10_000), st.floats(-70, 70))
@settings(max_examples=100, deadline=None)
def test_drawn_flights_are_plausible(seed, lat_deg):
    sensor = Sensor.drawn(np.random.default_rng(seed), lat_deg=lat_deg)
    from_noon_deg = (sensor.sun_azimuth_deg - (180 if lat_deg >= 0 else 0) + 180) % 360 - 180
    assert abs(from_noon_deg) <= 65
    assert 1 <= math.hypot(*sensor.shift_m) <= 3 and sensor.warp_m < 1
    assert np.allclose(np.array(sensor.mix).sum(axis=1), 1)
    assert all(isinstance(v, float | int | tuple) for v in asdict(sensor).values()), "it goes into JSON"


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (129, 64)])
def test_any_shape(shape):
    albedo = np.full((*shape, 3), 90, np.uint8)
    sensor = Sensor.drawn(np.random.default_rng(5))
    assert aerial_picture(albedo, np.zeros(shape, np.float32), GSD_M, sensor).shape == albedo.shape
