"""Ground views ray-cast over an orthophoto and a height map.

A height map has one surface above each point, so all rays of one azimuth share one vertical profile of the ground. The
profiles are sampled once, painted from far to near into a buffer of (azimuth, elevation), and each pixel, whatever the
projection, looks its hit up there. What it then shows is for `shading.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoview.errors import ConfigError, RenderError
from geoview.render.scene import Cover, Scene

__all__ = ["Camera", "Hits", "Panorama", "Perspective", "cast"]

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]

_NEAREST_M = 0.5
# Samples of a profile: this far apart near the camera, growing with the distance.
_STEP_M = 0.5
_STEP_GROWTH = 0.02
# A step of the surface steeper than the steepest roof is a wall.
_WALL_SLOPE = 1.4
_WALL_MIN_M = 0.8
# The crown of a tree begins at this share of its height; hedges reach the ground.
_CROWN_BASE = 0.3
_HEDGE_M = 3.0


@dataclass(frozen=True)
class Panorama:
    """An equirectangular strip all round: columns are azimuth, the middle one looks ahead; rows are elevation.

    Attributes:
        width_px: Columns for 360 degrees.
        height_px: Rows.
        vertical_fov_deg: Elevation that the rows span, the horizon in the middle.
    """

    width_px: int = 512
    height_px: int = 128
    vertical_fov_deg: float = 90.0

    def __post_init__(self) -> None:
        if not 0 < self.vertical_fov_deg <= 170:
            raise ConfigError(f"vertical_fov_deg is {self.vertical_fov_deg:g}: give degrees above 0, at most 170")

    def rays(self) -> tuple[_Floats, _Floats, _Floats]:
        """Returns the directions (right, up, ahead), each (H, W), of unit length."""
        azimuth = ((np.arange(self.width_px) + 0.5) / self.width_px - 0.5) * 2 * np.pi
        elevation = np.radians((0.5 - (np.arange(self.height_px) + 0.5) / self.height_px) * self.vertical_fov_deg)
        azimuth, elevation = azimuth[None].astype(np.float32), elevation[:, None].astype(np.float32)
        flat = np.cos(elevation)
        return (
            flat * np.sin(azimuth),
            np.broadcast_to(np.sin(elevation), (len(elevation), azimuth.size)),
            flat * np.cos(azimuth),
        )

    @property
    def deg_per_px(self) -> float:
        """Angle between neighbouring rays."""
        return min(360.0 / self.width_px, self.vertical_fov_deg / self.height_px)


@dataclass(frozen=True)
class Perspective:
    """A rectilinear lens.

    Attributes:
        width_px: Columns.
        height_px: Rows.
        fov_deg: Horizontal field of view.
    """

    width_px: int = 320
    height_px: int = 240
    fov_deg: float = 90.0

    def __post_init__(self) -> None:
        if not 1 <= self.fov_deg <= 150:
            raise ConfigError(
                f"fov_deg is {self.fov_deg:g}: a perspective photo spans 1 to 150 degrees; use a panorama for more"
            )

    def rays(self) -> tuple[_Floats, _Floats, _Floats]:
        """Returns the directions (right, up, ahead), each (H, W), of unit length."""
        focal_px = self.width_px / 2 / math.tan(math.radians(self.fov_deg) / 2)
        x = ((np.arange(self.width_px) + 0.5 - self.width_px / 2) / focal_px).astype(np.float32)
        y = ((self.height_px / 2 - np.arange(self.height_px) - 0.5) / focal_px).astype(np.float32)
        right, up = np.meshgrid(x, y)
        length = np.sqrt(1 + right**2 + up**2)
        return right / length, up / length, 1 / length

    @property
    def deg_per_px(self) -> float:
        """Angle between neighbouring rays, on average."""
        return self.fov_deg / self.width_px


@dataclass(frozen=True)
class Camera:
    """Where a camera stands and how it looks.

    Attributes:
        xy_m: Position in the scene's local frame.
        heading_deg: Of its axis, clockwise from true north.
        projection: What it projects to.
        eye_m: Height above what it stands on.
        pitch_deg: Upwards.
        roll_deg: Clockwise, as the photographer sees it.
        range_m: How far it sees; beyond is haze and an invented skyline. The map must reach this far.
    """

    xy_m: tuple[float, float]
    heading_deg: float
    projection: Panorama | Perspective
    eye_m: float = 1.7
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    range_m: float = 100.0


@dataclass(frozen=True)
class Hits:
    """Where the rays of a view end.

    Attributes:
        azimuth_rad: (H, W) of the ray, clockwise from grid north.
        rise: (H, W) tangent of its elevation.
        distance_m: (H, W) horizontal distance of the hit; inf where the ray meets nothing in range.
        xy_m: (H, W, 2) position of the hit in the local frame.
        z_m: (H, W) height of the hit.
        wall: (H, W) bool, where it is a wall.
        canopy: (H, W) bool, where it is leaves.
        trunk: (H, W) bool, where it is a trunk.
    """

    azimuth_rad: _Floats
    rise: _Floats
    distance_m: _Floats
    xy_m: _Floats
    z_m: _Floats
    wall: NDArray[np.bool_]
    canopy: NDArray[np.bool_]
    trunk: NDArray[np.bool_]


def cast(scene: Scene, camera: Camera) -> Hits:
    """Finds where the rays of a view end.

    Args:
        scene: The ground.
        camera: Where it stands and how it looks.

    Returns:
        The hits.

    Raises:
        RenderError: The scene ends within the camera's range.
    """
    (x0, y0), (width, height) = camera.xy_m, scene.grid.size_m
    if not (camera.range_m <= x0 <= width - camera.range_m and camera.range_m <= y0 <= height - camera.range_m):
        to_edge_m = min(x0, y0, width - x0, height - y0)
        raise RenderError(
            f"the map ends {to_edge_m:.0f} m from a camera that sees {camera.range_m:.0f} m: "
            "stand further inside, or see less far"
        )
    azimuth, elevation = _directions(scene, camera)
    profile = _Profiles.sampled(scene, camera, azimuth)
    bins = _Bins.around(elevation, camera.projection.deg_per_px)
    first = profile.first_hits(bins.rises())
    column, row = profile.columns_of(azimuth), bins.rows_of(elevation)
    k = first[row, column]
    seen = k < len(profile.distance_m)
    k = np.where(seen, k, 0)
    rise = np.tan(elevation)
    before = np.maximum(k - 1, 0)
    far, near = profile.distance_m[k], np.where(k > 0, profile.distance_m[before], np.float32(0.0))
    beyond = profile.eye_m + rise * far
    canopy = profile.canopy[k, column]
    below = canopy & (beyond < profile.crown_m[k, column])
    trunk = below & profile.trunk[k, column] & seen
    canopy &= seen & ~below
    top = np.where(canopy, profile.top_m[k, column], profile.ground_m[k, column])
    previous = np.where(k > 0, profile.ground_m[before, column], profile.stand_m)
    steep = (top - previous) > np.maximum(_WALL_MIN_M, _WALL_SLOPE * (far - near))
    wall = steep & seen & ~canopy & ~trunk
    # On slopes the ray meets the surface between two samples; the line between them is taken for it.
    above, under = profile.eye_m + rise * near - previous, top - beyond
    share = np.clip(above / np.maximum(above + under, 1e-3), 0, 1)
    distance = np.where(wall | canopy | trunk, far, near + share * (far - near))
    distance = np.where(seen, distance, np.inf).astype(np.float32)
    reach = np.where(seen, distance, 0)
    xy = np.stack([x0 + reach * np.sin(azimuth), y0 - reach * np.cos(azimuth)], axis=-1).astype(np.float32)
    z = (profile.eye_m + rise * reach).astype(np.float32)
    return Hits(azimuth, rise, distance, xy, z, wall, canopy, trunk)


def _directions(scene: Scene, camera: Camera) -> tuple[_Floats, _Floats]:
    """Azimuth from grid north and elevation, (H, W) in radians, of the rays."""
    right, up, ahead = camera.projection.rays()
    roll, pitch = math.radians(camera.roll_deg), math.radians(camera.pitch_deg)
    right, up = right * math.cos(roll) + up * math.sin(roll), up * math.cos(roll) - right * math.sin(roll)
    up, ahead = up * math.cos(pitch) + ahead * math.sin(pitch), ahead * math.cos(pitch) - up * math.sin(pitch)
    heading = math.radians(camera.heading_deg - scene.grid.convergence_deg)
    # Never quite up or down: the tangent of the elevation is what is compared.
    elevation = np.clip(np.arcsin(np.clip(up, -1, 1)), math.radians(-89), math.radians(89))
    return (np.arctan2(right, ahead) + heading).astype(np.float32), elevation.astype(np.float32)


@dataclass(frozen=True)
class _Bins:
    """Rows of elevation, evenly spaced, that cover a view."""

    lowest_rad: float
    step_rad: float
    n: int

    @classmethod
    def around(cls, elevation: _Floats, deg_per_px: float) -> _Bins:
        low, high = float(elevation.min()), float(elevation.max())
        n = max(1, round((high - low) / math.radians(deg_per_px))) + 1
        return cls(low, (high - low) / max(1, n - 1), n)

    def rises(self) -> _Floats:
        return np.asarray(np.tan(self.lowest_rad + self.step_rad * np.arange(self.n)), np.float32)

    def rows_of(self, elevation: _Floats) -> _Ints:
        return np.asarray(np.rint((elevation - self.lowest_rad) / max(self.step_rad, 1e-9)), np.int32)


@dataclass(frozen=True)
class _Profiles:
    """Vertical profiles of the ground along evenly spaced azimuths, A of them, sampled at K distances."""

    first_rad: float
    step_rad: float
    eye_m: float
    stand_m: np.float32
    distance_m: _Floats
    top_m: _Floats
    ground_m: _Floats
    crown_m: _Floats
    canopy: NDArray[np.bool_]
    trunk: NDArray[np.bool_]

    @classmethod
    def sampled(cls, scene: Scene, camera: Camera, azimuth: _Floats) -> _Profiles:
        step = math.radians(camera.projection.deg_per_px)
        first, last = float(azimuth.min()), float(azimuth.max())
        n = max(1, round((last - first) / step)) + 1
        step = (last - first) / max(1, n - 1)
        rays = first + step * np.arange(n)
        distance = _distances_m(camera.range_m)
        gsd, columns = scene.grid.gsd_m, scene.grid.shape[1]
        x = (camera.xy_m[0] + distance[:, None] * np.sin(rays, dtype=np.float32)) / np.float32(gsd)
        y = (camera.xy_m[1] - distance[:, None] * np.cos(rays, dtype=np.float32)) / np.float32(gsd)
        at = np.minimum(y.astype(np.int32), scene.grid.shape[0] - 1) * columns
        at += np.minimum(x.astype(np.int32), columns - 1)
        top, terrain = scene.surface_m.ravel()[at], scene.terrain_m.ravel()[at]
        canopy = scene.cover.ravel()[at] == Cover.CANOPY
        tall = top - terrain
        crown = np.where(canopy & (tall > _HEDGE_M), terrain + _CROWN_BASE * tall, -np.inf).astype(np.float32)
        trunk = canopy & scene.trunks.ravel()[at]
        own = int(camera.xy_m[1] / gsd), int(camera.xy_m[0] / gsd)
        on = scene.terrain_m if scene.cover[own] == Cover.CANOPY else scene.surface_m
        stand = on[own]
        ground = np.where(canopy, terrain, top)
        return cls(first, step, float(stand) + camera.eye_m, stand, distance, top, ground, crown, canopy, trunk)

    def columns_of(self, azimuth: _Floats) -> _Ints:
        return np.asarray(np.rint((azimuth - self.first_rad) / max(self.step_rad, 1e-9)), np.int32)

    def first_hits(self, rises: _Floats) -> NDArray[np.int16]:
        """Returns for each elevation and azimuth, (E, A), the first sample that stops the ray; K where none does."""
        distance = self.distance_m[:, None]
        high = (self.top_m - self.eye_m) / distance
        # A ray passes between the crown and the ground, unless the trunk is in its way.
        low = np.where(self.trunk, -np.inf, (self.crown_m - self.eye_m) / distance)
        ground = (self.ground_m - self.eye_m) / distance
        passes = np.asarray(np.isfinite(low).any(axis=1))
        first = np.full((len(rises), high.shape[1]), len(distance), np.int16)
        rising = rises[:, None]
        for k in range(len(distance) - 1, -1, -1):
            stops = rising < high[k]
            if passes[k]:
                stops &= (rising >= low[k]) | (rising < ground[k])
            np.copyto(first, k, where=stops)
        return first


def _distances_m(range_m: float) -> _Floats:
    distances = [_NEAREST_M]
    while distances[-1] < range_m - _STEP_M:
        distances.append(min(range_m, distances[-1] + max(_STEP_M, _STEP_GROWTH * distances[-1])))
    return np.array(distances, np.float32)
