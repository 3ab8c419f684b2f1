"""Which street photos are taken of a scene: where photographers stand, what they carry, and what light they have.

All of it is drawn for each photo alone; light, sky and camera are independent of the place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geoview.errors import RenderError
from geoview.render.camera import Camera, Panorama, Perspective
from geoview.render.scene import Cover, Scene
from geoview.render.sky import Light

__all__ = ["PhotoKind", "Shot", "Stand", "draw_shots", "shots_at"]

_ROAD_SHARE = 0.75
_WALL_GAP_M = 1.2
_ASPECTS = (4 / 3, 3 / 2, 16 / 9, 3 / 4)
_ASPECT_WEIGHTS = (0.4, 0.25, 0.25, 0.1)


@dataclass(frozen=True)
class PhotoKind:
    """What kind of photo is taken.

    Attributes:
        kind: `panorama`, all round, or `perspective`.
        size_px: Width of a panorama, long side of a perspective photo.
        fov_deg: Least and largest horizontal field of view of perspective photos.
        vertical_fov_deg: Elevation that a panorama spans.
        range_m: How far a camera sees, at most.
        least_range_m: How far it must see before the map ends; nobody stands nearer to the edge.
    """

    kind: Literal["panorama", "perspective"] = "panorama"
    size_px: int = 1024
    fov_deg: tuple[float, float] = (60.0, 110.0)
    vertical_fov_deg: float = 90.0
    range_m: float = 100.0
    least_range_m: float = 100.0


@dataclass(frozen=True)
class Shot:
    """A photo to be taken: everything about it but the scene."""

    path: Path
    camera: Camera
    light: Light
    latlon_deg: tuple[float, float]
    captured_at: datetime | None
    seed: tuple[int, int]
    """Of the camera's electronics."""

    @property
    def fov_deg(self) -> float:
        """Horizontal field of view."""
        projection = self.camera.projection
        return projection.fov_deg if isinstance(projection, Perspective) else 360.0


@dataclass(frozen=True)
class Stand:
    """Where photographers may stand in a scene.

    Attributes:
        scene: The scene.
        margin_m: Distance from the edge of the map within which nobody stands.
        roads: (H, W) bool, where three quarters of them stand; None where it is not known.
        valid: (H, W) bool, where the map holds something; None for everywhere.
    """

    scene: Scene
    margin_m: float
    roads: NDArray[np.bool_] | None = None
    valid: NDArray[np.bool_] | None = None

    def drawn(self, rng: np.random.Generator) -> tuple[float, float]:
        """Draws a position in the scene's local frame.

        Raises:
            RenderError: There is no place to stand.
        """
        on_road = rng.random() < _ROAD_SHARE
        pixels = self._road_px if on_road and len(self._road_px) else self._open_px
        row, column = divmod(int(pixels[rng.integers(len(pixels))]), self.scene.grid.shape[1])
        right, down = rng.random(2)
        gsd_m = self.scene.grid.gsd_m
        return float(column + right) * gsd_m, float(row + down) * gsd_m

    def check(self, xy_m: tuple[float, float]) -> None:
        """Tells whether a photographer can stand at a position in the scene's local frame.

        Raises:
            RenderError: It is outside the map or too near to where it ends, or something stands there.
        """
        sight_m, gsd_m = self.sight_m(xy_m), self.scene.grid.gsd_m
        if sight_m <= 0:
            raise RenderError("outside the map; give a position on it")
        if sight_m < self.margin_m:
            raise RenderError(
                f"map ends in view: {sight_m:.0f} m from the camera, which must see {self.margin_m:.0f} m; "
                "give a position further inside"
            )
        row, column = int(xy_m[1] / gsd_m), int(xy_m[0] / gsd_m)
        if not self.scene.standing[row, column]:
            what = Cover(int(self.scene.cover[row, column])).name.lower()
            raise RenderError(f"nobody can stand there ({what}); give a position on open ground")

    def sight_m(self, xy_m: tuple[float, float]) -> float:
        """Returns how far the map reaches around a position, negative outside."""
        (x, y), (width, height), gsd_m = xy_m, self.scene.grid.size_m, self.scene.grid.gsd_m
        to_edge_m = min(x, y, width - x, height - y)
        if to_edge_m <= 0 or self._to_void_m is None:
            return to_edge_m
        return min(to_edge_m, float(self._to_void_m[int(y / gsd_m), int(x / gsd_m)]))

    @cached_property
    def _to_void_m(self) -> NDArray[np.float32] | None:
        """(H, W), at most the distance to where the map holds nothing; None where it holds something everywhere."""
        if self.valid is None or self.valid.all():
            return None
        # Between pixel centres; position and void may each be nearer by half a diagonal.
        distance_px = ndimage.distance_transform_edt(self.valid) - math.sqrt(2.0)
        return np.asarray(distance_px * self.scene.grid.gsd_m, np.float32)

    @cached_property
    def _open_px(self) -> NDArray[np.intp]:
        """Flat indices of the pixels to stand on: inside, and an arm away from whatever is higher than a step."""
        grid = self.scene.grid
        margin_px = math.ceil(self.margin_m / grid.gsd_m)
        rows, columns = (slice(margin_px, side - margin_px) for side in grid.shape)
        if 2 * margin_px >= min(grid.shape):
            width_m, height_m = grid.size_m
            raise RenderError(
                f"map ends in view: it is {width_m:.0f} x {height_m:.0f} m, and a camera must see "
                f"{self.margin_m:.0f} m each way; lower range_m or give a larger map"
            )
        tall = self.scene.surface_m - self.scene.terrain_m > 0.6
        tall |= self.scene.cover == Cover.BUILDING
        gap_px = 2 * math.ceil(_WALL_GAP_M / grid.gsd_m) + 1
        free = self.scene.standing & (ndimage.maximum_filter(tall.view(np.uint8), gap_px) == 0)
        if self._to_void_m is not None:
            free &= self._to_void_m >= self.margin_m
        inside = np.zeros_like(free)
        inside[rows, columns] = free[rows, columns]
        pixels = np.flatnonzero(inside)
        if not len(pixels):
            raise RenderError(
                f"no open ground or road {self.margin_m:.0f} m or more from the edge of the map to stand on; "
                "lower range_m or give a larger map"
            )
        return pixels

    @cached_property
    def _road_px(self) -> NDArray[np.intp]:
        if self.roads is None:
            return self._open_px[:0]
        return self._open_px[self.roads.ravel()[self._open_px]]


def draw_shots(stand: Stand, folder: Path, n: int, view: PhotoKind, *, seed: int, day: date | None) -> list[Shot]:
    """Draws photos to be taken. The first of many are the same as those of few.

    Args:
        stand: Where photographers may stand.
        folder: Where the files go.
        n: How many.
        view: Their kind.
        seed: Of everything drawn.
        day: When the scene looks as it does, and photos are taken within a week of it; None where it is not known, and
            photos do not tell when they were taken.

    Returns:
        n shots.

    Raises:
        RenderError: There is no place to stand.
    """
    shots = []
    for number in range(n):
        rng = np.random.default_rng([seed, number, 0])
        shots.append(_drawn_shot(rng, stand, stand.drawn(rng), folder, view, seed, number, day))
    return shots


def shots_at(
    stand: Stand, latlon_deg: NDArray[np.float64], folder: Path, view: PhotoKind, *, seed: int, day: date | None
) -> list[Shot | RenderError]:
    """Draws a photo for each of given positions.

    Args:
        stand: Where photographers may stand.
        latlon_deg: (n, 2) positions.
        folder: Where the files go.
        view: Their kind.
        seed: Of everything else.
        day: As for `draw_shots`.

    Returns:
        n shots, or what is wrong with the position.
    """
    found: list[Shot | RenderError] = []
    for number, (x, y) in enumerate(stand.scene.grid.xy_m(latlon_deg)):
        rng = np.random.default_rng([seed, number, 0])
        try:
            stand.check((float(x), float(y)))
            found.append(_drawn_shot(rng, stand, (float(x), float(y)), folder, view, seed, number, day))
        except RenderError as fault:
            found.append(fault)
    return found


def _drawn_shot(
    rng: np.random.Generator,
    stand: Stand,
    xy_m: tuple[float, float],
    folder: Path,
    view: PhotoKind,
    seed: int,
    number: int,
    day: date | None,
) -> Shot:
    lat, lon = (float(v) for v in stand.scene.grid.latlon_deg(np.array(xy_m)))
    captured_at = _drawn_time(rng, date(2000, 1, 1) if day is None else day, lon)
    return Shot(
        path=folder / f"{view.kind}_{number:05d}.jpg",
        # A rounding less than the map reaches.
        camera=_drawn_camera(rng, xy_m, view, min(view.range_m, stand.sight_m(xy_m) - 1e-3)),
        light=_drawn_light(rng, captured_at, lat),
        latlon_deg=(lat, lon),
        captured_at=None if day is None else captured_at,
        seed=(seed, number),
    )


def _drawn_camera(rng: np.random.Generator, xy_m: tuple[float, float], view: PhotoKind, range_m: float) -> Camera:
    heading_deg, eye_m = rng.uniform(0.0, 360.0), rng.uniform(1.4, 2.6)
    projection: Panorama | Perspective
    if view.kind == "panorama":
        height_px = max(1, round(view.size_px * view.vertical_fov_deg / 360.0))
        projection = Panorama(view.size_px, height_px, view.vertical_fov_deg)
        tilt_deg = 0.7  # stitched level
    else:
        aspect = float(rng.choice(_ASPECTS, p=_ASPECT_WEIGHTS))
        size_px = round(view.size_px * min(1.0, aspect)), round(view.size_px / max(1.0, aspect))
        projection = Perspective(*size_px, float(rng.uniform(*view.fov_deg)))
        tilt_deg = 3.0
    pitch_deg, roll_deg = np.clip(rng.normal(0.0, tilt_deg, 2), -3 * tilt_deg, 3 * tilt_deg)
    return Camera(
        xy_m=xy_m,
        heading_deg=round(float(heading_deg), 2) % 360.0,
        projection=projection,
        eye_m=float(eye_m),
        pitch_deg=float(pitch_deg),
        roll_deg=float(roll_deg),
        range_m=range_m,
    )


def _drawn_time(rng: np.random.Generator, day: date, lon_deg: float) -> datetime:
    """Draws a time between 8 and 17 o'clock within a week of the day, in the zone that the longitude suggests."""
    zone = timezone(timedelta(hours=round(lon_deg / 15.0)))
    start = datetime(day.year, day.month, day.day, 8, tzinfo=zone)
    return start + timedelta(days=int(rng.integers(-7, 8)), seconds=int(rng.integers(9 * 3600)))


def _drawn_light(rng: np.random.Generator, captured_at: datetime, lat_deg: float) -> Light:
    hours_from_noon = captured_at.hour + captured_at.minute / 60 - 12.0
    # The sun turns by 15 degrees an hour, sunwise in the north, the other way in the south; zones are not that exact.
    turn_deg = 15.0 * hours_from_noon + rng.normal(0.0, 15.0)
    azimuth_deg = 180.0 + turn_deg if lat_deg >= 0 else -turn_deg
    return Light(
        sun_azimuth_deg=float(azimuth_deg % 360.0),
        sun_elevation_deg=float(rng.uniform(10.0, 65.0)),
        overcast=float(rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.3, 1.0)])),
        haze_m=float(math.exp(rng.uniform(math.log(150.0), math.log(2500.0)))),
        sky_seed=int(rng.integers(2**31)),
    )
