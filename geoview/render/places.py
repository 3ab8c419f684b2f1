"""Real places: an orthophoto with heights, or with the trees that stand there, as a scene to be photographed in."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.warp import Resampling, calculate_default_transform, reproject
from scipy import ndimage

import tiles
from geoview.errors import RenderError
from geoview.geo.geojson import read_json
from geoview.render.scene import Cover, Grid, Scene
from tiles.raster import RasterSource

__all__ = ["HeightsUnit", "Place", "place_from_files", "scene_from_files"]

HeightsUnit = Literal["m", "ft"]

_MAX_PX = 100_000_000
_TRUE_SCALE = 0.01  # a CRS whose metre is off by more is no measure: Web Mercator, feet
_METRES = {"m": 1.0, "ft": 0.3048}
_FEET = ("ft", "feet", "foot", "us-ft", "us survey foot", "us survey feet", "ft_us", "us_ft", "ftus")
_HEIGHTS_M = (-500.0, 9000.0)
_TALL_M = 2.0
_OPENING_M, _COARSE_M = 40.0, 2.0  # houses are narrower than this; terrain is smoother than that
_EXCESS_GREEN = 0.04
_CROWN_RADIUS_M, _TREE_HEIGHT_M = (2.0, 5.0), (4.0, 14.0)

logger = logging.getLogger(__name__)

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """A real place.

    Attributes:
        name: The orthophoto's, without folder and suffix.
        scene: What stands there.
        valid: (H, W) bool, where all its files hold something.
        day: When the orthophoto was taken, if it says so.
    """

    name: str
    scene: Scene
    valid: NDArray[np.bool_]
    day: date | None


def scene_from_files(ortho: str | Path, heights: str | Path | None = None, trees: str | Path | None = None) -> Scene:
    """Returns the scene of `place_from_files`; see there."""
    return place_from_files(ortho, heights, trees).scene


def place_from_files(
    ortho: str | Path,
    heights: str | Path | None = None,
    trees: str | Path | None = None,
    *,
    heights_unit: HeightsUnit | None = None,
    seed: int = 0,
) -> Place:
    """Reads a place.

    The scene lies on the orthophoto's grid where that is north up in true metres, else on a UTM grid of the same
    resolution; heights are brought onto it once. Without a band named "terrain" the bare ground is guessed from the
    surface: what is narrower than 40 m and rises above it is taken off. What is 2 m tall is a tree if it is green, else
    a building.

    Args:
        ortho: Raster of colours.
        heights: Raster of the surface in metres; a band described as "terrain" is the bare ground.
        trees: GeoJSON points of trees, or a folder with one such file for each orthophoto, of the same name. The ground
            is taken to be level, and the trees' sizes are drawn.
        heights_unit: Unit of the heights; None is what the file says, metres where it says nothing.
        seed: Of facades, and of the sizes of trees.

    Returns:
        The place.

    Raises:
        RenderError: Not exactly one of heights and trees is given; they are not where the orthophoto is, or in feet;
            the orthophoto is too large, or has no plain grid.
        tiles.TilesError: The orthophoto cannot be read.
    """
    if (heights is None) == (trees is None):
        raise RenderError(
            f"{ortho}: what rises from the ground must be known, from one source: give heights (a raster of the "
            "surface) or trees (GeoJSON points)"
        )
    source = tiles.open_source(str(ortho))
    if not isinstance(source, RasterSource):
        raise RenderError(f"{ortho}: is not one raster; give its files one by one")
    grid, texture, valid = _picture(source)
    if heights is not None:
        surface_m, terrain_m = _heights(Path(heights), grid, heights_unit)
        valid &= np.isfinite(surface_m)
        if not valid.any():
            raise RenderError(f"{heights}: has no heights where {ortho} has imagery; give those of the same place")
        # Nobody looks there; a height there is needs to be, all the same.
        level_m = np.float32(np.nanmin(surface_m[valid]))
        surface_m = np.where(valid, surface_m, level_m)
        terrain_m = _bare_ground(surface_m, grid.gsd_m) if terrain_m is None else np.where(valid, terrain_m, level_m)
        terrain_m = np.minimum(terrain_m, surface_m)
        tall = surface_m - terrain_m > _TALL_M
        cover = np.where(tall, np.where(_green(texture), Cover.CANOPY, Cover.BUILDING), Cover.GROUND).astype(np.uint8)
    else:
        assert trees is not None
        file = Path(trees) / f"{Path(ortho).stem}.geojson" if Path(trees).is_dir() else Path(trees)
        surface_m = _planted(_tree_positions_m(file, grid), grid, np.random.default_rng([seed, 3]))
        terrain_m = np.zeros_like(surface_m)
        cover = np.where(surface_m > 0, Cover.CANOPY, Cover.GROUND).astype(np.uint8)
    scene = Scene(grid, texture, surface_m, terrain_m, cover, valid & (cover == Cover.GROUND), seed)
    return Place(Path(ortho).stem, scene, valid, None if source.date is None else date.fromisoformat(source.date))


# -- the orthophoto ----------------------------------------------------------------------------------------------------


def _picture(source: RasterSource) -> tuple[Grid, NDArray[np.uint8], NDArray[np.bool_]]:
    """Returns the colours (H, W, 3) of an orthophoto on a metric grid, and where there are any (H, W)."""
    width, height = source.width_px, source.height_px
    if width * height > _MAX_PX:
        raise RenderError(
            f"{source.uri}: {width} x {height} pixels are more than a scene can hold ({_MAX_PX // 10**6} megapixels): "
            "cut out a part, as gdal_translate -projwin does"
        )
    if source.georeference.affine is None:
        raise RenderError(f"{source.uri}: lies on ground control points; straighten it first, as gdalwarp does")
    packed = source.read(0, 0, 0, width, height)
    transform = Affine(*source.georeference.affine)
    gsd_m, crs = source.native_gsd_m, source.georeference.crs_name
    if _is_metric(source.georeference.crs_wkt, transform, gsd_m):
        grid = Grid(crs, transform.c, transform.f, transform.a, (height, width))
        return grid, np.ascontiguousarray(packed[..., :3]), packed[..., 3] > 0
    lon, lat = (float(v[0]) for v in source.georeference.to_lonlat(np.array([width / 2]), np.array([height / 2])))
    utm = _utm(lat, lon)
    logger.info("%s: %s has no north-up grid in true metres: reprojected to %s", source.uri, crs, utm)
    west, south, east, north = rasterio.transform.array_bounds(height, width, transform)
    to, columns, rows = calculate_default_transform(
        source.georeference.crs_wkt, utm, width, height, west, south, east, north, resolution=gsd_m
    )
    bands = [np.zeros((rows, columns), np.uint8) for _ in range(4)]
    for band, into in enumerate(bands):
        reproject(
            np.ascontiguousarray(packed[..., band]) * (255 if band == 3 else 1),
            into,
            src_transform=transform,
            src_crs=source.georeference.crs_wkt,
            dst_transform=to,
            dst_crs=utm,
            resampling=Resampling.bilinear,
        )
    # Where a part of what is mixed is void, the colour is too dark.
    valid = ndimage.minimum_filter(bands[3], 3) == 255
    return Grid(utm, to.c, to.f, gsd_m, (rows, columns)), np.stack(bands[:3], axis=-1), valid


def _is_metric(crs_wkt: str, transform: Affine, gsd_m: float) -> bool:
    """Tells whether columns and rows are metres to the east and south."""
    crs = CRS(crs_wkt)
    north_up = transform.b == 0 and transform.d == 0 and transform.a > 0 and transform.e < 0
    return (
        crs.is_projected
        and north_up
        and abs(transform.a / gsd_m - 1) < _TRUE_SCALE
        and abs(transform.a / -transform.e - 1) < 1e-6
    )


def _utm(lat_deg: float, lon_deg: float) -> str:
    zone = int((lon_deg + 180.0) // 6.0) % 60 + 1
    return f"EPSG:{(32600 if lat_deg >= 0 else 32700) + zone}"


def _green(texture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tells where leaves are, by the excess of green over red and blue as a share of the light (Woebbecke, 1995)."""
    smooth = np.stack([ndimage.uniform_filter(texture[..., c].astype(np.float32), 5) for c in range(3)])
    excess = (2 * smooth[1] - smooth[0] - smooth[2]) / np.maximum(smooth.sum(axis=0), 1.0)
    return np.asarray(excess > _EXCESS_GREEN)


# -- heights -----------------------------------------------------------------------------------------------------------


def _heights(path: Path, grid: Grid, unit: HeightsUnit | None) -> tuple[_Floats, _Floats | None]:
    """Returns surface and, where the file has it, terrain in metres on a grid, NaN where there are none."""
    if not path.exists():
        raise RenderError(f"{path}: no such file; give a raster of heights")
    try:
        with rasterio.open(path) as dataset:
            if dataset.crs is None:
                raise RenderError(f"{path}: has no CRS; assign one, as gdal_edit -a_srs does")
            if unit is None and (said := _feet(dataset)) is not None:
                raise RenderError(
                    f"{path}: its heights are in {said!r}, not in metres: say so with --heights_unit ft, or convert "
                    "them, as gdal_calc --calc='A*0.3048' does"
                )
            names = [(name or "").lower() for name in dataset.descriptions]
            bands = [1] if "terrain" not in names else [1, names.index("terrain") + 1]
            layers = [_on_grid(dataset, band, grid) * np.float32(_METRES[unit or "m"]) for band in bands]
    except RasterioError as fault:
        raise RenderError(
            f"{path}: cannot be read as a raster ({' '.join(str(fault).split())}); copy it anew"
        ) from fault
    for layer in layers:
        known = layer[np.isfinite(layer)]
        if known.size and not (_HEIGHTS_M[0] <= known.min() and known.max() <= _HEIGHTS_M[1]):
            raise RenderError(
                f"{path}: heights from {known.min():g} to {known.max():g} m cannot be: mark what means no data, as "
                "gdal_edit -a_nodata does, or give the unit with --heights_unit"
            )
    return layers[0], layers[1] if len(layers) == 2 else None


def _feet(dataset: DatasetReader) -> str | None:
    """Returns the unit of heights as the file names it, if that is a foot."""
    unit = dataset.units[0]
    if unit and unit.strip().lower() in _FEET:
        return str(unit)
    try:
        crs = CRS.from_wkt(dataset.crs.to_wkt())
    except CRSError:
        return None
    for part in crs.sub_crs_list:
        if part.is_vertical and "foot" in part.axis_info[0].unit_name.lower():
            return str(part.axis_info[0].unit_name)
    return None


def _on_grid(dataset: DatasetReader, band: int, grid: Grid) -> _Floats:
    values = dataset.read(band, masked=True).astype(np.float32).filled(np.nan)
    same = dataset.crs == rasterio.crs.CRS.from_user_input(grid.crs)
    if same and values.shape == grid.shape and dataset.transform.almost_equals(grid.transform, 1e-3):
        return np.asarray(values)
    if band == 1:
        logger.info("%s: not on the orthophoto's grid: resampled to %s, %g m", dataset.name, grid.crs, grid.gsd_m)
    aligned = np.full(grid.shape, np.nan, np.float32)
    reproject(
        values,
        aligned,
        src_transform=dataset.transform,
        src_crs=dataset.crs,
        src_nodata=np.nan,
        dst_transform=grid.transform,
        dst_crs=grid.crs,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    return aligned


def _bare_ground(surface_m: _Floats, gsd_m: float) -> _Floats:
    """Returns the surface without what stands on it: a grey opening, at 2 m, smoothed."""
    step = max(1, round(_COARSE_M / gsd_m))
    rows, columns = (-(-side // step) for side in surface_m.shape)
    padded = np.pad(surface_m, ((0, rows * step - len(surface_m)), (0, columns * step - surface_m.shape[1])), "edge")
    lowest = padded.reshape(rows, step, columns, step).min(axis=(1, 3))
    window = max(3, round(_OPENING_M / (step * gsd_m)))
    # At the edge, where it cannot look around, an opening cuts slopes off: it is shown the surface without its slope.
    plane = _plane(lowest)
    opened = ndimage.grey_opening(lowest - plane, size=(window, window), mode="nearest") + plane
    smooth = ndimage.gaussian_filter(opened, window / 6, mode="nearest")
    image = Image.fromarray(smooth.astype(np.float32)).resize((columns * step, rows * step), Image.Resampling.BILINEAR)
    return np.asarray(image)[: surface_m.shape[0], : surface_m.shape[1]]


def _plane(heights: _Floats) -> _Floats:
    """Returns the plane (H, W) nearest to heights."""
    y, x = (np.linspace(-1.0, 1.0, side, dtype=np.float32) for side in heights.shape)
    # On a grid the three terms are orthogonal, so that each has its own mean.
    down = (heights.mean(axis=1) * y).sum() / max(float((y * y).sum()), 1e-6)
    right = (heights.mean(axis=0) * x).sum() / max(float((x * x).sum()), 1e-6)
    return np.asarray(heights.mean() + down * y[:, None] + right * x, np.float32)


# -- trees -------------------------------------------------------------------------------------------------------------


def _tree_positions_m(path: Path, grid: Grid) -> NDArray[np.float64]:
    """Returns local positions (n, 2) of the trees of a file that stand on a grid."""
    content = read_json(path)
    try:
        points = [f["geometry"]["coordinates"][:2] for f in content["features"] if f["geometry"]["type"] == "Point"]
        xy = np.array(points, np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError) as fault:
        raise RenderError(f"{path}: not a GeoJSON collection of points; give the positions of trees") from fault
    if not len(xy):
        raise RenderError(f"{path}: holds no points; give the positions of trees")
    crs = _named_crs(content, path)
    if crs is None:
        if (np.abs(xy) > (180.0, 90.0)).any():
            raise RenderError(f"{path}: names no crs, and {xy[0].tolist()} is no longitude and latitude; add it")
        crs = "OGC:CRS84"
    east, north = Transformer.from_crs(crs, grid.crs, always_xy=True).transform(xy[:, 0], xy[:, 1])
    local = np.stack([np.asarray(east) - grid.left_m, grid.top_m - np.asarray(north)], axis=-1)
    inside = ((local >= 0) & (local < grid.size_m)).all(axis=1)
    if not inside.any():
        raise RenderError(
            f"{path}: none of its {len(xy)} trees stands where the imagery is; give those of the same place"
        )
    return local[inside]


def _named_crs(content: dict[str, Any], path: Path) -> str | None:
    """Returns the CRS that GeoJSON of before RFC 7946 could name."""
    named = content.get("crs")
    if named is None:
        return None
    try:
        return str(CRS.from_user_input(named["properties"]["name"]).to_wkt())
    except (KeyError, TypeError, CRSError) as fault:
        raise RenderError(
            f"{path}: its crs {named!r} is not known; write the points as longitude and latitude"
        ) from fault


def _planted(trees_m: NDArray[np.float64], grid: Grid, rng: np.random.Generator) -> _Floats:
    """Returns heights (H, W): each tree a dome with a rough top."""
    surface = np.zeros(grid.shape, np.float32)
    radius = rng.uniform(*_CROWN_RADIUS_M, len(trees_m))
    # Wide trees are the tall ones, by and large.
    share = (radius - _CROWN_RADIUS_M[0]) / (_CROWN_RADIUS_M[1] - _CROWN_RADIUS_M[0])
    share = np.clip(share + rng.normal(0, 0.2, len(trees_m)), 0, 1)
    height = _TREE_HEIGHT_M[0] + share * (_TREE_HEIGHT_M[1] - _TREE_HEIGHT_M[0])
    rough = rng.normal(1.0, 0.08, grid.shape).astype(np.float32)
    for (x, y), r, h in zip(trees_m, radius, height, strict=True):
        box = [
            slice(max(0, math.floor((v - r) / grid.gsd_m)), min(side, math.ceil((v + r) / grid.gsd_m) + 1))
            for v, side in ((y, grid.shape[0]), (x, grid.shape[1]))
        ]
        at_y, at_x = ((np.arange(s.start, s.stop) + 0.5) * grid.gsd_m for s in box)
        within = 1.0 - ((at_y[:, None] - y) ** 2 + (at_x - x) ** 2) / r**2
        rows, columns = box
        dome = np.where(within > 0, h * (0.4 + 0.6 * np.sqrt(np.maximum(within, 0))) * rough[rows, columns], 0)
        np.maximum(surface[rows, columns], dome.astype(np.float32), out=surface[rows, columns])
    return surface
