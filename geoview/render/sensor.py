"""What an aerial camera makes of the ground: light and shadows, colour response, optics, errors of position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["Sensor", "aerial_picture", "cast_shadow"]

_MESH_M = 120.0  # quads of the warp: much smaller than the warp's waves
_SOFT_EDGE_M = 0.4  # depth in shadow at which the sun's disc is wholly hidden
_DISPLAY_GAMMA = 2.2

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sensor:
    """One flight: sun, film and geometry. No two flights see a place alike.

    Attributes:
        sun_azimuth_deg: Clockwise from grid north.
        sun_elevation_deg: Above the horizon.
        ambient: Share of the light on open level ground that comes from the sky.
        sky_rgb: Colour of that light, mean 1.
        mix: 3 x 3 response of the channels to red, green and blue.
        gains: Exposure of each channel.
        gamma: Exponent of the tone curve on top of the display's own.
        haze: Share of the picture that is airlight.
        haze_rgb: Colour of the airlight, linear.
        falloff: Loss of light in the corners.
        unevenness: Deviation of the slow changes of light over the mosaic.
        blur_px: Deviation of the point spread.
        noise: Deviation of the noise, in grey levels.
        shift_m: Error of the position, east and south.
        warp_m: Largest local error on top of it.
        seed: Of noise, unevenness and warp.
    """

    sun_azimuth_deg: float
    sun_elevation_deg: float
    ambient: float
    sky_rgb: tuple[float, float, float]
    mix: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
    gains: tuple[float, float, float]
    gamma: float
    haze: float
    haze_rgb: tuple[float, float, float]
    falloff: float
    unevenness: float
    blur_px: float
    noise: float
    shift_m: tuple[float, float]
    warp_m: float
    seed: int

    @classmethod
    def drawn(cls, rng: np.random.Generator, *, lat_deg: float = 45.0) -> Sensor:
        """Draws a flight.

        Args:
            rng: Source of what is drawn.
            lat_deg: Latitude of the place: around noon the sun stands in the south north of the tropics, in the north
                south of them, and flights are made around noon.
        """
        noon_deg = 180.0 if lat_deg >= 0 else 0.0
        mix = np.eye(3) + rng.normal(0.0, 0.06, (3, 3))
        mix /= mix.sum(axis=1, keepdims=True)
        gains = math.exp(rng.normal(0.1, 0.18)) * np.exp(rng.normal(0.0, 0.07, 3))
        blue = rng.uniform(0.0, 0.25)
        direction_rad = rng.uniform(0.0, 2 * math.pi)
        shift_m = rng.uniform(1.0, 3.0)
        red, green, azure = ((float(row[0]), float(row[1]), float(row[2])) for row in mix)
        return cls(
            sun_azimuth_deg=float((noon_deg + rng.uniform(-65.0, 65.0)) % 360.0),
            sun_elevation_deg=float(rng.uniform(28.0, 68.0)),
            ambient=float(rng.uniform(0.2, 0.5)),
            sky_rgb=(1.0 - blue, 1.0, 1.0 + blue),
            mix=(red, green, azure),
            gains=(float(gains[0]), float(gains[1]), float(gains[2])),
            gamma=float(math.exp(rng.normal(0.0, 0.15))),
            haze=float(rng.uniform(0.0, 0.12)),
            haze_rgb=(0.55, 0.6, 0.68),
            falloff=float(rng.uniform(0.0, 0.2)),
            unevenness=float(rng.uniform(0.0, 0.08)),
            blur_px=float(rng.uniform(0.3, 0.9)),
            noise=float(rng.uniform(0.5, 4.0)),
            shift_m=(shift_m * math.cos(direction_rad), shift_m * math.sin(direction_rad)),
            warp_m=float(rng.uniform(0.2, 0.9)),
            seed=int(rng.integers(2**32)),
        )


def aerial_picture(albedo: NDArray[np.uint8], surface_m: _Floats, gsd_m: float, sensor: Sensor) -> NDArray[np.uint8]:
    """Makes the orthophoto that a flight brings home.

    Args:
        albedo: (H, W, 3) colours of the ground under even light, sRGB.
        surface_m: (H, W) height of what is on top.
        gsd_m: Metres per pixel.
        sensor: The flight.

    Returns:
        (H, W, 3), as the sensor's orthophoto shows it, on the same grid as far as the sensor knows.
    """
    rng = np.random.default_rng([sensor.seed, 1])
    picture = _exposed(albedo, _sunlight(surface_m, gsd_m, sensor), sensor, rng)
    image = Image.fromarray(_misplaced(picture, gsd_m, sensor, rng))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(sensor.blur_px)))
    # In strips: the noise of a whole region in floats would be the largest array of all.
    out = np.empty_like(blurred)
    for top in range(0, len(out), 256):
        strip = blurred[top : top + 256]
        grain = rng.standard_normal(strip.shape, np.float32) * np.float32(sensor.noise)
        out[top : top + 256] = np.clip(strip + grain + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
    return out


def cast_shadow(surface_m: _Floats, gsd_m: float, sun_azimuth_deg: float, sun_elevation_deg: float) -> _Floats:
    """Tells where the sun does not reach.

    The surface seen along the sun's direction is the running maximum of heights, each lowered by the ray's fall on the
    way. Maxima over 2, 4, 8 ... pixels follow from one another, so that a shadow of any length takes its logarithm of
    passes over the raster.

    Args:
        surface_m: (H, W) heights, north up.
        gsd_m: Metres per pixel.
        sun_azimuth_deg: Clockwise from grid north.
        sun_elevation_deg: Above the horizon.

    Returns:
        (H, W) share of the sun's disc that is hidden, 0 to 1. Nothing beyond the raster casts a shadow.
    """
    azimuth_rad, fall = math.radians(sun_azimuth_deg), math.tan(math.radians(sun_elevation_deg))
    down, right = -math.cos(azimuth_rad), math.sin(azimuth_rad)
    longest_px = float(np.ptp(surface_m)) / fall / gsd_m
    top_m = surface_m.astype(np.float32, copy=True)
    reach_px = 1
    while reach_px <= min(2 * longest_px, *surface_m.shape):
        rows, columns = round(down * reach_px), round(right * reach_px)
        here, there = _overlap(rows, columns)
        lowered = top_m[there] - np.float32(math.hypot(rows, columns) * gsd_m * fall)
        np.maximum(top_m[here], lowered, out=top_m[here])
        reach_px *= 2
    top_m -= surface_m
    top_m /= np.float32(_SOFT_EDGE_M)
    return np.minimum(top_m, np.float32(1.0), out=top_m)


def _overlap(rows: int, columns: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Returns the slices of pixels, and of the pixels so many rows and columns from them, that both exist."""

    def pair(step: int) -> tuple[slice, slice]:
        return (slice(0, -step or None), slice(step, None)) if step >= 0 else (slice(-step, None), slice(0, step))

    (row_here, row_there), (column_here, column_there) = pair(rows), pair(columns)
    return (row_here, column_here), (row_there, column_there)


def _sunlight(surface_m: _Floats, gsd_m: float, sensor: Sensor) -> _Floats:
    """Returns (H, W) direct light, 1 on open level ground."""
    azimuth_rad, elevation_rad = math.radians(sensor.sun_azimuth_deg), math.radians(sensor.sun_elevation_deg)
    east, south = _slope(surface_m, 1, gsd_m), _slope(surface_m, 0, gsd_m)
    # cos(incidence) / sin(elevation) for the normal (-east, -south, 1) / norm; azimuth turns from north, y goes south
    light = 1.0 - (east * math.sin(azimuth_rad) - south * math.cos(azimuth_rad)) / math.tan(elevation_rad)
    light /= np.sqrt(1.0 + east * east + south * south)
    np.clip(light, 0.0, 1.6, out=light)
    light *= 1.0 - cast_shadow(surface_m, gsd_m, sensor.sun_azimuth_deg, sensor.sun_elevation_deg)
    return light.astype(np.float32, copy=False)


def _slope(surface_m: _Floats, axis: int, gsd_m: float) -> _Floats:
    """Returns the slope along an axis, the flatter of both sides of a pixel: a wall's foot and edge are no slopes."""
    ends = [(0, 0), (0, 0)]
    ends[axis] = (1, 1)
    step = np.diff(np.pad(surface_m, ends, mode="edge"), axis=axis)
    step /= np.float32(gsd_m)
    before, after = (step[:-1], step[1:]) if axis == 0 else (step[:, :-1], step[:, 1:])
    flatter = np.copysign(np.minimum(np.abs(before), np.abs(after)), before)
    flatter[before * after <= 0] = 0.0
    return np.clip(flatter, -2.0, 2.0)


def _exposed(
    albedo: NDArray[np.uint8], sunlight: _Floats, sensor: Sensor, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Returns (H, W, 3): the ground in this light, through air and lens, on this film."""
    height, width = sunlight.shape
    linear = ((np.arange(256) / 255.0) ** _DISPLAY_GAMMA).astype(np.float32)
    response = (np.array(sensor.mix) * np.array(sensor.gains)[:, None] * (1.0 - sensor.haze)).T.astype(np.float32)
    airlight = np.array(sensor.haze_rgb, np.float32) * np.float32(sensor.haze)
    sky = np.array(sensor.sky_rgb, np.float32) * np.float32(sensor.ambient)
    illumination = _illumination((height, width), sensor, rng)
    tone = (255.0 * (np.arange(4097) / 4096.0) ** (sensor.gamma / _DISPLAY_GAMMA) + 0.5).astype(np.uint8)
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 256):
        rows = slice(top, top + 256)
        light = sunlight[rows, :, None] * np.float32(1.0 - sensor.ambient) + sky
        light *= illumination[rows, :, None]
        light *= linear[albedo[rows]]
        seen = light.reshape(-1, 3) @ response + airlight
        np.clip(seen, 0.0, 1.0, out=seen)
        seen *= 4096.0
        picture[rows] = tone[seen.astype(np.int32)].reshape(light.shape)
    return picture


def _illumination(shape: tuple[int, int], sensor: Sensor, rng: np.random.Generator) -> _Floats:
    """Returns (H, W) slow changes of brightness, about 1."""
    coarse = np.exp(rng.normal(0.0, sensor.unevenness, (7, 7)))
    across = np.linspace(-1.0, 1.0, 7)
    coarse *= 1.0 - sensor.falloff * (across[:, None] ** 2 + across**2) / 2
    image = Image.fromarray(coarse.astype(np.float32)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image)


def _misplaced(picture: NDArray[np.uint8], gsd_m: float, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns (H, W, 3): the picture shifted by the sensor's error and bent by its warp."""
    height, width = picture.shape[:2]
    margin = math.ceil((math.hypot(*sensor.shift_m) + sensor.warp_m) / gsd_m) + 1
    padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    rows, columns = (max(1, round(side * gsd_m / _MESH_M)) for side in (height, width))
    x, y = (np.linspace(0, side, count + 1).round() for side, count in ((width, columns), (height, rows)))
    waves = rng.uniform(-1.0, 1.0, (2, 4, 4)) * sensor.warp_m / math.sqrt(2.0)
    bend_m = [
        np.asarray(Image.fromarray(wave.astype(np.float32)).resize((columns + 1, rows + 1), Image.Resampling.BILINEAR))
        for wave in waves
    ]
    from_x = x[None, :] + margin - (sensor.shift_m[0] + bend_m[0]) / gsd_m
    from_y = y[:, None] + margin - (sensor.shift_m[1] + bend_m[1]) / gsd_m
    mesh = []
    for row in range(rows):
        for column in range(columns):
            corners = ((row, column), (row + 1, column), (row + 1, column + 1), (row, column + 1))
            quad = tuple(float(v) for at in corners for v in (from_x[at], from_y[at]))
            box = (int(x[column]), int(y[row]), int(x[column + 1]), int(y[row + 1]))
            mesh.append((box, quad))
    image = Image.fromarray(padded).transform((width, height), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return np.asarray(image)
