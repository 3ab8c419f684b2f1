"""What a view looks like: the colours and the light of what its rays meet."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from geoview.render.camera import Camera, Hits, cast
from geoview.render.facade import facade_colours, hashed
from geoview.render.scene import Scene
from geoview.render.sky import Light

__all__ = ["render"]

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]

_SHADOW_REACH_M = (0.4, 0.8, 1.3, 2.0, 3.0, 4.0, 5.5, 7.0, 9.0, 11.5, 14.5, 18.0, 23.0, 30.0, 38.0, 48.0)
_BARK = np.array([0.3, 0.24, 0.19], np.float32)


def render(scene: Scene, camera: Camera, light: Light) -> NDArray[np.uint8]:
    """Renders what a camera sees.

    Args:
        scene: The ground.
        camera: Where it stands and how it looks.
        light: Sun, sky and haze.

    Returns:
        (H, W, 3) colours, before any electronics.

    Raises:
        RenderError: The scene ends within the camera's range: the void in view would tell where the map ends.
    """
    hits = cast(scene, camera)
    seen = np.isfinite(hits.distance_m)
    colour = np.empty((*seen.shape, 3), np.float32)
    colour[~seen] = light.far(hits.azimuth_rad[~seen], hits.rise[~seen])
    distance = hits.distance_m[seen]
    clear = np.exp(-distance / light.haze_m) * (1 - _smoothstep((distance / camera.range_m - 0.7) / 0.3))
    colour[seen] = light.far_ground + (_shade(scene, hits, seen, light) - light.far_ground) * clear[:, None]
    return np.asarray(np.clip(colour * 255, 0, 255), np.uint8)


def _shade(scene: Scene, hits: Hits, seen: NDArray[np.bool_], light: Light) -> _Floats:
    """Colours (n, 3) in [0, 1] of the n hits, before haze."""
    xy, z, distance = hits.xy_m[seen], hits.z_m[seen], hits.distance_m[seen]
    wall, canopy, trunk = hits.wall[seen], hits.canopy[seen], hits.trunk[seen]
    gsd, (rows, columns) = scene.grid.gsd_m, scene.grid.shape
    row = np.minimum((xy[:, 1] / gsd).astype(np.int32), rows - 1)
    column = np.minimum((xy[:, 0] / gsd).astype(np.int32), columns - 1)
    at = row * columns + column
    colour = _bilinear(scene.texture, xy / gsd) * np.float32(1 / 255)
    lit = np.full(len(xy), max(0.0, light.sun[2]), np.float32)
    # Grain that no map resolves, finer near the camera.
    grain_m = np.where(distance < 12, 0.08, np.where(distance < 35, 0.3, 1.0)).astype(np.float32)
    grain = hashed(_lattice(xy[:, 0] / grain_m, xy[:, 1] / grain_m, z / grain_m * (wall | canopy)), 21) - np.float32(
        0.5
    )
    colour = colour * (1 + np.where(canopy, 0.7, 0.16).astype(np.float32) * grain)[:, None]
    colour[trunk] = _BARK
    lit[trunk] = 0.6
    colour[canopy] *= _leaves(scene, at[canopy], z[canopy])[:, None]
    if wall.any():
        colour[wall], lit[wall] = _walls(scene, at[wall], xy[wall], z[wall], hits.azimuth_rad[seen][wall], light)
    if light.direct > 0.1:
        open_ = ~canopy
        lit[open_] *= 1 - _shadow(scene, xy[open_], z[open_] + np.float32(0.1), light)
    strength = 1 - light.direct + light.direct * lit / max(0.3, light.sun[2])
    return np.asarray(colour * strength[:, None], np.float32)


def _leaves(scene: Scene, at: _Ints, z: _Floats) -> _Floats:
    """Brightness (n,) of leaves: crowns are dark below."""
    terrain = scene.terrain_m.ravel()[at]
    tall = np.maximum(scene.surface_m.ravel()[at] - terrain, 1)
    return np.asarray(0.5 + 0.55 * np.clip((z - terrain) / tall, 0, 1), np.float32)


def _walls(scene: Scene, at: _Ints, xy: _Floats, z: _Floats, azimuth: _Floats, light: Light) -> tuple[_Floats, _Floats]:
    """Colours (n, 3) of walls, and how squarely the sun meets each, (n,)."""
    label = scene.buildings.label.ravel()[at]
    axis = scene.buildings.axis_rad[label]
    cosine, sine = np.cos(axis), np.sin(axis)
    # Of the building's two axes, the wall faces along the one on whose outer side no building stands.
    step_px = max(1.0, 1.5 / scene.grid.gsd_m)
    columns = scene.grid.shape[1]
    cover = scene.buildings.label.ravel()
    ahead_x, ahead_y = np.sin(azimuth), -np.cos(azimuth)
    out = []
    for nx, ny in ((cosine, sine), (-sine, cosine)):
        towards = -np.sign(nx * ahead_x + ny * ahead_y)
        move = np.rint(towards * ny * step_px).astype(np.int32) * columns + np.rint(towards * nx * step_px).astype(
            np.int32
        )
        open_ = cover[np.clip(at + move, 0, cover.size - 1)] == 0
        out.append((open_ * 2.0 + np.abs(nx * ahead_x + ny * ahead_y), towards * nx, towards * ny))
    first = out[0][0] >= out[1][0]
    normal_x, normal_y = (np.where(first, out[0][i], out[1][i]) for i in (1, 2))
    along = np.where(first, -sine * xy[:, 0] + cosine * xy[:, 1], cosine * xy[:, 0] + sine * xy[:, 1])
    terrain = scene.terrain_m.ravel()[at]
    height = scene.surface_m.ravel()[at] - terrain
    colour = facade_colours(scene.buildings, label, along.astype(np.float32), z - terrain, height, first)
    bare = label == 0  # a bank, a fence: as its top
    if bare.any():
        colour[bare] = scene.texture.reshape(-1, 3)[at[bare]] * np.float32(0.8 / 255)
    sun_x, sun_y, _ = light.sun
    return colour, np.maximum(0, normal_x * sun_x + normal_y * sun_y).astype(np.float32)


def _shadow(scene: Scene, xy: _Floats, z: _Floats, light: Light) -> _Floats:
    """Share (n,) of the sun that something hides from points."""
    x, y, up = light.sun
    flat = math.hypot(x, y)
    gsd, (rows, columns) = scene.grid.gsd_m, scene.grid.shape
    dark = np.zeros(len(z), np.bool_)
    surface = scene.surface_m.ravel()
    for reach in map(np.float32, _SHADOW_REACH_M):
        column = np.clip((xy[:, 0] + reach * (x / flat)) / gsd, 0, columns - 1).astype(np.int32)
        row = np.clip((xy[:, 1] + reach * (y / flat)) / gsd, 0, rows - 1).astype(np.int32)
        dark |= surface[row * columns + column] > z + reach * np.float32(up / flat) + np.float32(0.2)
    return dark.astype(np.float32)


def _bilinear(texture: NDArray[np.uint8], xy_px: _Floats) -> _Floats:
    rows, columns = texture.shape[:2]
    x = np.clip(xy_px[:, 0] - 0.5, 0, columns - 1.001)
    y = np.clip(xy_px[:, 1] - 0.5, 0, rows - 1.001)
    left, upper = x.astype(np.int32), y.astype(np.int32)
    u, v = (x - left)[:, None].astype(np.float32), (y - upper)[:, None].astype(np.float32)
    flat, at = texture.reshape(-1, 3), upper * columns + left
    top = flat[at] * (1 - u) + flat[at + 1] * u
    return np.asarray(top * (1 - v) + (flat[at + columns] * (1 - u) + flat[at + columns + 1] * u) * v, np.float32)


def _lattice(x: _Floats, y: _Floats, z: _Floats) -> NDArray[np.uint64]:
    """Keys of the cells of a cubic lattice."""
    a, b, c = (np.floor(v).astype(np.int64).astype(np.uint64) for v in (x, y, z))
    with np.errstate(over="ignore"):
        return np.asarray(a * np.uint64(73856093) ^ b * np.uint64(19349663) ^ c * np.uint64(83492791), np.uint64)


def _smoothstep(x: _Floats) -> _Floats:
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)
