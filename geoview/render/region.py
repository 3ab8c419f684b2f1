"""A procedural region as real files: what a mapping team has of a place, and photos of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from geoview.errors import RenderError
from geoview.files import full_disk_told, write_binary, write_text
from geoview.render.claim import claim
from geoview.render.photos import write_shots, write_table
from geoview.render.scene import Grid
from geoview.render.sensor import Sensor, aerial_picture
from geoview.render.shots import PhotoKind, Shot, Stand, draw_shots

if TYPE_CHECKING:
    from geoview.render.world import State, World

__all__ = ["PHOTO_EPOCH", "REFERENCE_EPOCH", "write_region"]

#: Street photos show the world as it was then; chips are cut from the orthophoto of the other date.
PHOTO_EPOCH, REFERENCE_EPOCH = 0, 1

_MADE = ("ortho_*.tif", "heights.tif", "districts.geojson", "objects.geojson", "photos.csv", "photos/*_[0-9]*.jpg")


def write_region(
    world: World,
    out: Path,
    *,
    n_panoramas: int,
    n_perspective: int,
    seed: int = 0,
    epochs: Sequence[int] = (PHOTO_EPOCH, REFERENCE_EPOCH),
    range_m: float = 100.0,
    fov_deg: tuple[float, float] = (60.0, 110.0),
    overwrite: bool = False,
    num_workers: int = 2,
) -> dict[str, Any]:
    """Writes a region: orthophotos, heights, outlines and photos.

    * `ortho_<date>.tif`: cloud-optimised GeoTIFF of each epoch, each from a flight of its own.
    * `heights.tif`: bands "surface" and "terrain" in metres, of the photos' epoch.
    * `districts.geojson`, `objects.geojson`: administrative outlines, and what stands there at the reference's epoch.
    * `photos/*.jpg` and `photos.csv`: street photos of the photos' epoch.
    * `region.json`: what all this is. `reference` names the orthophoto that chips are cut from.

    Each file is there whole or not at all, and kept where it is: the same call goes on with what was cut off.

    Args:
        world: The region.
        out: Folder to write to.
        n_panoramas: Photos all round.
        n_perspective: Photos through a lens.
        seed: Of flights, photographers and light.
        epochs: Whose orthophotos are wanted; the last is the reference.
        range_m: How far street cameras see.
        fov_deg: Least and largest field of view of the photos through a lens.
        overwrite: Replace a region of other settings.
        num_workers: Processes that render photos.

    Returns:
        The content of `region.json`.

    Raises:
        OutputExistsError: The folder holds something else.
        RenderError: The region is too small for photos of this range, or has no place to stand.
        StorageFullError: The disk is full.
    """
    n_photos = n_panoramas + n_perspective
    if n_photos and min(world.grid.size_m) <= 2 * range_m:
        width_m, height_m = world.grid.size_m
        raise RenderError(
            f"a region of {width_m:.0f} x {height_m:.0f} m is too small for photos that see {range_m:.0f} m: "
            "give more ground or a smaller range_m"
        )
    needed = sorted({*epochs, REFERENCE_EPOCH, *([PHOTO_EPOCH] if n_photos else [])})
    states = {epoch: world.state(epoch) for epoch in needed}
    lat_deg = float(world.grid.latlon_deg(np.array(world.grid.size_m) / 2)[0])
    sensors = {e: Sensor.drawn(np.random.default_rng([seed, 7, e]), lat_deg=lat_deg) for e in epochs}
    orthos = {epoch: f"ortho_{states[epoch].date.isoformat()}.tif" for epoch in epochs}
    plan = {
        "style": world.style,
        "world_seed": world.seed,
        "seed": seed,
        "crs": world.grid.crs,
        "size_m": list(world.grid.size_m),
        "gsd_m": world.grid.gsd_m,
        "epochs": [
            {"epoch": e, "date": states[e].date.isoformat(), "ortho": orthos[e], "sensor": asdict(sensors[e])}
            for e in epochs
        ],
        "reference": orthos[max(epochs)],
        "photos": {
            "epoch": PHOTO_EPOCH,
            "panoramas": n_panoramas,
            "perspective": n_perspective,
            "range_m": range_m,
            "fov_deg": list(fov_deg),
        },
    }
    plan = claim(out / "region.json", plan, made=_MADE, overwrite=overwrite)

    for epoch in epochs:
        if not (path := out / orthos[epoch]).exists():
            state = states[epoch]
            pixels = aerial_picture(state.albedo, state.surface_m, world.grid.gsd_m, sensors[epoch])
            write_ortho(path, pixels, world.grid, state.date)
    if not (path := out / "heights.tif").exists():
        write_heights(path, states[needed[0]], world.grid)
    if not (path := out / "districts.geojson").exists():
        write_features(path, world.grid, [(outline, {"name": name}) for name, outline in world.districts])
    if not (path := out / "objects.geojson").exists():
        objects = states[REFERENCE_EPOCH].objects
        write_features(path, world.grid, [(o.geometry, {"kind": o.kind, **o.properties}) for o in objects])
    if n_photos:
        state = states[PHOTO_EPOCH]
        counts = n_panoramas, n_perspective
        shots = _shots(state, out / "photos", *counts, range_m=range_m, fov_deg=fov_deg, seed=seed)
        write_shots(state.scene(), shots, num_workers=num_workers)
        write_table(out / "photos.csv", shots)
    return plan


def write_ortho(path: Path, pixels: NDArray[np.uint8], grid: Grid, day: date) -> None:
    """Writes a cloud-optimised GeoTIFF of colours, as JPEG inside, with overviews.

    Args:
        path: The file.
        pixels: (H, W, 3).
        grid: Where they lie.
        day: When they were taken.
    """
    with MemoryFile() as memory:
        profile = _profile(grid, 3, "uint8") | {"compress": "JPEG", "quality": 90}
        with memory.open(**profile) as dataset:
            dataset.write(np.moveaxis(pixels, -1, 0))
            dataset.update_tags(TIFFTAG_DATETIME=f"{day:%Y:%m:%d} 12:00:00")
        _write_whole(path, memory)


def write_heights(path: Path, state: State, grid: Grid) -> None:
    """Writes a cloud-optimised GeoTIFF of heights to the centimetre: band 1 the surface, band 2 the bare ground.

    Args:
        path: The file.
        state: Whose heights.
        grid: Where they lie.
    """
    with MemoryFile() as memory:
        profile = _profile(grid, 2, "float32") | {"compress": "DEFLATE", "predictor": "YES", "level": 1}
        with memory.open(**profile) as dataset:
            for band, (name, height_m) in enumerate((("surface", state.surface_m), ("terrain", state.terrain_m)), 1):
                # Whole 1/128 m: few mantissa bits, which compress.
                dataset.write(np.round(height_m * 128) / np.float32(128), band)
                dataset.set_band_description(band, name)
            dataset.units = ("metre", "metre")
        _write_whole(path, memory)


def _profile(grid: Grid, count: int, dtype: str) -> dict[str, Any]:
    return {
        "driver": "COG",
        "height": grid.shape[0],
        "width": grid.shape[1],
        "count": count,
        "dtype": dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "blocksize": 512,
        "overview_resampling": "average",
    }


def _write_whole(path: Path, memory: MemoryFile) -> None:
    with full_disk_told(path), write_binary(path) as file:
        file.write(memory.getbuffer())


def _shots(
    state: State,
    folder: Path,
    n_panoramas: int,
    n_perspective: int,
    *,
    range_m: float,
    fov_deg: tuple[float, float],
    seed: int,
) -> list[Shot]:
    stand = Stand(state.scene(), range_m, state.roads)
    shots: list[Shot] = []
    for salt, n, view in (
        (0, n_panoramas, PhotoKind("panorama", 1024, range_m=range_m, least_range_m=range_m)),
        (1, n_perspective, PhotoKind("perspective", 320, fov_deg, range_m=range_m, least_range_m=range_m)),
    ):
        if n:
            shots += draw_shots(stand, folder, n, view, seed=2 * seed + salt, day=state.date)
    return shots


def write_features(path: Path, grid: Grid, features: Sequence[tuple[BaseGeometry, dict[str, Any]]]) -> None:
    """Writes geometries as GeoJSON, longitude first, to a centimetre.

    Args:
        path: The file.
        grid: In whose local frame they are.
        features: Geometries and their properties.
    """

    def lonlat(xy_m: NDArray[np.float64]) -> NDArray[np.float64]:
        return grid.latlon_deg(xy_m)[..., ::-1].round(7)

    content = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": properties, "geometry": mapping(shapely.transform(geometry, lonlat))}
            for geometry, properties in features
        ],
    }
    with full_disk_told(path), write_text(path) as file:
        json.dump(content, file, allow_nan=False)
        file.write("\n")
