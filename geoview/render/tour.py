"""From one real place to the next, taking street photos."""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tiles
from geoview.config import RenderPhotosConfig
from geoview.errors import ConfigError, RegionError, RenderError
from geoview.render.claim import claim
from geoview.render.photos import write_shots, write_table
from geoview.render.places import Place, place_from_files
from geoview.render.shots import PhotoKind, Shot, Stand, draw_shots, shots_at

__all__ = ["photograph"]

_LEAST_RANGE_M = 50.0
_DEFAULT_N, _DEFAULT_FOV_DEG, _DEFAULT_SIZE_PX = 100, [60.0, 110.0], {"panorama": 1024, "perspective": 320}
_MADE = ("photos.csv", "photos/*/*_[0-9]*.jpg")


def photograph(config: RenderPhotosConfig) -> tuple[int, list[str]]:
    """Takes street photos of real places: `photos/<orthophoto>/<kind>_<number>.jpg` and `photos.csv`.

    Photos that are there already are kept, so that a run that was cut off goes on.

    Args:
        config: Which places, and which photos of them.

    Returns:
        How many photos there are, and what is wrong with each place or position that has none.

    Raises:
        ConfigError: A position cannot be read, or two orthophotos have the same name.
        OutputExistsError: The folder holds something else.
        RenderError: The only place cannot be photographed.
        tiles.TilesError: The only place cannot be read.
    """
    twice = [name for name, count in Counter(Path(ortho).stem for ortho in config.ortho).items() if count > 1]
    if twice:
        raise ConfigError(f"ortho: {twice[0]} names two files, and photos are filed by that name; rename one")
    out, view = Path(config.out), _view(config)
    labels, latlon_deg = _positions(config.at)
    wrong: dict[int, str] = dict.fromkeys(range(len(labels)), "no place was read")
    shots: list[Shot] = []
    failures: list[str] = []
    for number, ortho in enumerate(config.ortho):
        try:
            place = _place(config, number)
            seed = (config.seed << 32) + zlib.crc32(place.name.encode())
            stand = Stand(place.scene, _LEAST_RANGE_M, valid=place.valid)
            folder = out / "photos" / place.name
            if labels:
                found = _of_positions(shots_at(stand, latlon_deg, folder, view, seed=seed, day=place.day), wrong)
            else:
                found = draw_shots(stand, folder, config.n or _DEFAULT_N, view, seed=seed, day=place.day)
        except (RegionError, RenderError, tiles.TilesError) as fault:
            named = str(fault) if str(fault).startswith(ortho) else f"{ortho}: {fault}"
            if len(config.ortho) == 1:
                raise type(fault)(named) from fault
            failures.append(named)
            continue
        if found:
            # Not before there is something to write: a place that cannot be photographed takes no folder.
            claim(out / "photos.json", _plan(config, view), made=_MADE, overwrite=config.overwrite)
            write_shots(place.scene, found, num_workers=config.num_workers)
            shots += found
    if shots:
        write_table(out / "photos.csv", shots)
    return len(shots), failures + [f"{labels[number]}: {fault}" for number, fault in wrong.items()]


def _view(config: RenderPhotosConfig) -> PhotoKind:
    fov_deg = config.fov_deg or _DEFAULT_FOV_DEG
    return PhotoKind(
        kind=config.kind,
        size_px=config.size_px or _DEFAULT_SIZE_PX[config.kind],
        fov_deg=(fov_deg[0], fov_deg[-1]),
        range_m=config.range_m,
        least_range_m=_LEAST_RANGE_M,
    )


def _place(config: RenderPhotosConfig, number: int) -> Place:
    heights = config.heights[number % len(config.heights)] if config.heights else None
    return place_from_files(
        config.ortho[number], heights, config.trees, heights_unit=config.heights_unit, seed=config.seed
    )


def _of_positions(results: list[Shot | RenderError], wrong: dict[int, str]) -> list[Shot]:
    """Returns the shots of positions that have none yet, and keeps account of those in `wrong`."""
    found = []
    for number, result in enumerate(results):
        if number not in wrong:
            continue
        if isinstance(result, Shot):
            found.append(result)
            del wrong[number]
        # What is wrong on a map tells more than being outside another one.
        elif "outside" not in str(result) or wrong[number].startswith("no place"):
            wrong[number] = str(result)
    return found


def _plan(config: RenderPhotosConfig, view: PhotoKind) -> dict[str, object]:
    """Returns what the photos depend on; of files, size and time."""
    files = [*config.ortho, *config.heights, *([config.trees] if config.trees else [])]
    stats = [(file, Path(file).stat()) for file in files if Path(file).exists()]
    return {
        "files": {file: [stat.st_size, stat.st_mtime_ns] for file, stat in stats},
        "heights_unit": config.heights_unit,
        "at": config.at,
        "n": config.n or _DEFAULT_N,
        "kind": view.kind,
        "size_px": view.size_px,
        "fov_deg": view.fov_deg,
        "range_m": view.range_m,
        "seed": config.seed,
    }


def _positions(given: list[str]) -> tuple[list[str], NDArray[np.float64]]:
    """Returns names (n) and positions (n, 2) of what `at` lists."""
    labels: list[str] = []
    positions: list[tuple[float, float]] = []
    for item in given:
        if item.lower().endswith(".csv"):
            rows = [(f"{item}: line {line}: {lat},{lon}", lat, lon) for line, lat, lon in _table(Path(item))]
        else:
            lat, _, lon = item.partition(",")
            rows = [(item, lat, lon)]
        for label, lat, lon in rows:
            labels.append(label)
            positions.append(_latlon_deg(label, lat, lon))
    return labels, np.array(positions, np.float64).reshape(-1, 2)


def _latlon_deg(label: str, lat: str, lon: str) -> tuple[float, float]:
    try:
        lat_deg, lon_deg = float(lat), float(lon)
    except ValueError as fault:
        raise ConfigError(f"at: {label}: write LAT,LON in degrees, as in --at=-33.9,-70.6") from fault
    if not (-90 <= lat_deg <= 90 and -180 <= lon_deg <= 180):
        raise ConfigError(f"at: {label}: latitudes are within -90 and 90, longitudes within -180 and 180")
    return lat_deg, lon_deg


def _table(path: Path) -> list[tuple[int, str, str]]:
    """Returns line number, lat and lon of each row of a CSV table."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"lat", "lon"} <= set(reader.fieldnames or ()):
                raise ConfigError(f"at: {path}: line 1 names no columns lat and lon; name them there")
            return [(reader.line_num, row["lat"] or "", row["lon"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise ConfigError(f"at: {path}: cannot be read ({fault}); give a CSV table in UTF-8") from fault
