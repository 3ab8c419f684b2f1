"""Pictures of where a photo may have been taken, placed on the map: a GeoTIFF of densities, or a PNG to look at."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from geoview.errors import ConfigError
from geoview.files import full_disk_told, write_binary, write_text
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import EARTH_RADIUS_M
from geoview.index.cell_index import CellIndex
from geoview.locate.candidates import printable
from geoview.locate.formats import check_output
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Posterior

__all__ = ["HeatGrid", "heat_map_files", "heat_maps"]

log = logging.getLogger(__name__)

SUFFIXES = (".tif", ".png")

_MOST_PX, _LEAST_PX, _PX_A_CELL = 4096, 512, 8
# Of a cell at level 0, scaled to smaller ones: the mean edge, and half of the longest diagonal (S2's kMaxDiag).
_EDGE_RAD, _HALF_DIAGONAL_RAD = math.sqrt(4 * math.pi / 6), 2.438654594434021 / 2
_ROWS_AT_A_TIME = 64
_DECADES = 4
_FAINTEST, _STRONGEST = 0.25, 0.9  # opacity


@dataclass(frozen=True)
class HeatGrid:
    """Pixels over cells: north up, in degrees of longitude and latitude, about square on the ground in the middle.

    An eighth of a cell wide, or wider, so that no side has more than 4,096; the same for all photos that were searched
    for in the same cells, so that their pictures can be laid over one another. Across the date line longitudes go on
    beyond 180 degrees; round a pole the picture has all of them.

    Attributes:
        cell_id: (n,) uint64, ascending: the cells.
        transform: From (column, row) to longitude and latitude, as rasterio has it.
        cell: (H, W) int32: in which of the cells the pixel's middle lies; -1 is none.
        n_pixels: (n,) int64: how many pixels are a cell's.
        at: Row and column of the pixel around the middle of each cell that has no pixels.
    """

    cell_id: NDArray[np.uint64]
    transform: Affine
    cell: NDArray[np.int32]
    n_pixels: NDArray[np.int64]
    at: tuple[NDArray[np.intp], NDArray[np.intp]]

    @classmethod
    def over(cls, cell_id: NDArray[np.uint64]) -> HeatGrid:
        """Lays pixels over cells.

        Args:
            cell_id: (n,) one or more cells of one level, ascending, each once.
        """
        level = int(cells.levels(cell_id[0]))
        south, west, north, east = cells.extent_deg(cell_id)
        margin_deg = math.degrees(_HALF_DIAGONAL_RAD * 2.0**-level)
        south, north = max(south - margin_deg, -90.0), min(north + margin_deg, 90.0)
        # Meridians come together: the margin is widest, in degrees, where the picture is nearest to a pole.
        aside_deg = margin_deg / max(_cos(max(-south, north)), 1e-9)
        west, height_deg, width_deg = west - aside_deg, north - south, (east - west) % 360.0 + 2.0 * aside_deg
        if width_deg >= 360.0:
            west, width_deg = -180.0, 360.0
        # Both as degrees of a great circle.
        across_deg, edge_deg = width_deg * _cos((south + north) / 2.0), math.degrees(_EDGE_RAD * 2.0**-level)
        long_deg = max(height_deg, across_deg)
        pixel_deg = long_deg / np.clip(math.ceil(_PX_A_CELL * long_deg / edge_deg), _LEAST_PX, _MOST_PX)
        rows, columns = (max(1, round(side_deg / pixel_deg)) for side_deg in (height_deg, across_deg))
        step_deg = height_deg / rows, width_deg / columns

        lat_deg = north - step_deg[0] * (np.arange(rows) + 0.5)
        lon_deg = (west + step_deg[1] * (np.arange(columns) + 0.5) + 180.0) % 360.0 - 180.0
        cell = np.empty((rows, columns), np.int32)
        for start in range(0, rows, _ROWS_AT_A_TIME):
            block = slice(start, start + _ROWS_AT_A_TIME)
            points = np.stack(np.broadcast_arrays(lat_deg[block, None], lon_deg), axis=-1)
            cell[block] = _places_in(cell_id, cells.cell_ids(points, level))
        n_pixels = np.bincount(cell[cell >= 0], minlength=len(cell_id))
        centres = cells.centers_deg(cell_id[n_pixels == 0])
        row = np.clip((north - centres[:, 0]) / step_deg[0], 0, rows - 1).astype(np.intp)
        column = np.clip((centres[:, 1] - west) % 360.0 / step_deg[1], 0, columns - 1).astype(np.intp)
        return cls(cell_id, Affine(step_deg[1], 0.0, west, 0.0, -step_deg[0], north), cell, n_pixels, (row, column))

    @property
    def areas_km2(self) -> NDArray[np.float64]:
        """Ground of one pixel of each row, (H,), on the sphere that cells are measured on."""
        edges = np.deg2rad(self.transform.f + self.transform.e * np.arange(len(self.cell) + 1))
        area_km2: NDArray[np.float64] = (
            -np.diff(np.sin(edges)) * math.radians(self.transform.a) * EARTH_RADIUS_M**2 / 1e6
        )
        return area_km2

    def density(self, posterior: Posterior) -> NDArray[np.float32]:
        """Spreads the probability of each cell over its pixels, or puts it into the one around its middle.

        So that densities times `areas_km2` add up to the probability of the cells, however large pixels are.

        Args:
            posterior: Of some or all of the cells; the others share the rest equally.

        Returns:
            (H, W) probability per km², NaN outside the cells.

        Raises:
            ValueError: The posterior has other cells.
        """
        at = _places_in(self.cell_id, posterior.cell_id)
        if (at < 0).any():
            raise ValueError("the posterior has cells that were not searched")
        others = len(self.cell_id) - len(at)
        mass = np.full(len(self.cell_id), max(0.0, 1.0 - posterior.probability.sum()) / max(1, others))
        mass[at] = posterior.probability
        picture = np.append(mass / np.maximum(self.n_pixels, 1), np.nan)[self.cell]
        picture[self.at] = np.nan_to_num(picture[self.at])
        np.add.at(picture, self.at, mass[self.n_pixels == 0])
        return (picture / self.areas_km2[:, None]).astype(np.float32)


def heat_map_files(out: Path, index: CellIndex, queries: Sequence[str], *, overwrite: bool) -> list[Path]:
    """Names a file for each photo, and refuses what cannot be done before any work is done for it.

    Args:
        out: `.tif` or `.png`. Of several photos each has its own, with its number and name: `heat_03_IMG_1234.tif`.
        index: That will be searched.
        queries: The photos.
        overwrite: Whether files may be there already.

    Raises:
        ConfigError: The index is not calibrated, the suffix is another, or the folder is not there.
        OutputExistsError: A file exists and `overwrite` is off.
    """
    if index.manifest.calibration is None:
        raise ConfigError(
            f"{index.path}: not calibrated, so there is nothing to draw; run geoview index calibrate {index.path}"
        )
    check_output(out, SUFFIXES, overwrite=True)
    if len(queries) == 1:
        files = [out]
    else:
        digits = len(str(len(queries)))
        files = [
            out.with_stem(f"{out.stem}_{n:0{digits}}_{_plain(Path(query).stem)}")
            for n, query in enumerate(queries, start=1)
        ]
    for file in files:
        check_output(file, SUFFIXES, overwrite=overwrite)
        if file.suffix.lower() == ".png":
            check_output(_world_file(file), (".pgw",), overwrite=overwrite)
    return files


def heat_maps(
    answers: Iterable[Localization],
    files: Iterable[Path],
    index: CellIndex,
    searched: Callable[[Localization], Region | None],
) -> Iterator[Localization]:
    """Writes a picture of each answer as it comes, and passes it on; photos that failed have none.

    Args:
        answers: Of a calibrated index.
        files: One for each.
        index: That was searched.
        searched: Where a photo was searched for; None is everywhere.

    Raises:
        StorageFullError: The disk is full.
    """
    grid: HeatGrid | None = None
    last: Region | None = None
    for answer, file in zip(answers, files, strict=True):
        if answer.posterior is not None:
            region = searched(answer)
            if grid is None or region is not last:
                grid, last = HeatGrid.over(_cells_within(index, region)), region
            with full_disk_told(file):
                write = _write_tif if file.suffix.lower() == ".tif" else _write_png
                write(file, grid, answer, grid.density(answer.posterior))
        elif answer.status != "failed":
            log.warning("%s: no heat map, since its answer has no probabilities", printable(answer.query))
        yield answer


def _cells_within(index: CellIndex, region: Region | None) -> NDArray[np.uint64]:
    ids = np.unique(index.cell_ids())
    return ids if region is None else ids[cells.rows_in_ranges(ids, region.cell_ranges(index.level))]


def _write_tif(path: Path, grid: HeatGrid, answer: Localization, density: NDArray[np.float32]) -> None:
    """Writes a cloud-optimised GeoTIFF."""
    height, width = density.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="COG",
            height=height,
            width=width,
            count=1,
            dtype="float32",
            nodata=np.nan,
            crs="EPSG:4326",
            transform=grid.transform,
            compress="DEFLATE",
            predictor="YES",
            overview_resampling="average",
        ) as dataset:
            dataset.write(density, 1)
            dataset.set_band_description(1, "probability per km2")
            dataset.units = ("km-2",)
            dataset.update_tags(TIFFTAG_IMAGEDESCRIPTION=_told(answer))
        with write_binary(path) as file:
            file.write(memory.getbuffer())


def _write_png(path: Path, grid: HeatGrid, answer: Localization, density: NDArray[np.float32]) -> None:
    """Writes a picture with a transparent background, of the logarithm of the density, and its world file."""
    peak = float(np.nanmax(density))
    with np.errstate(divide="ignore"):
        height = np.clip(1.0 + np.log10(density / peak) / _DECADES, 0.0, 1.0)
    steps = np.linspace(0.0, 1.0, 255)
    colours = np.zeros((256, 4), np.uint8)  # the first is that of no cell
    colours[1:] = matplotlib.colormaps["YlOrRd"](steps, alpha=_FAINTEST + (_STRONGEST - _FAINTEST) * steps, bytes=True)
    picture = Image.fromarray(colours[np.where(np.isnan(density), 0, 1 + np.nan_to_num(height) * 254).astype(np.uint8)])
    told = PngInfo()
    told.add_itxt("Description", f"{_told(answer)}; logarithmic, {peak * 10.0**-_DECADES:.3g} to {peak:.3g} per km2")
    (dx, _, west, _, dy, north, *_) = grid.transform
    with write_text(_world_file(path)) as text:
        text.write("".join(f"{value:.12f}\n" for value in (dx, 0.0, 0.0, dy, west + dx / 2.0, north + dy / 2.0)))
    with write_binary(path) as file:
        picture.save(file, "PNG", pnginfo=told)


def _told(answer: Localization) -> str:
    return (
        f"{printable(answer.query)}: where it may have been taken ({answer.status}, calibration {answer.calibration})"
    )


def _world_file(path: Path) -> Path:
    return path.with_suffix(".pgw")


def _places_in(ids: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Returns where in sorted ids the wanted ones stand; -1 for those that do not."""
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[at] == wanted, at, -1)


def _plain(name: str) -> str:
    """Returns a part of a file name that any system takes."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:40]


def _cos(lat_deg: float) -> float:
    return math.cos(math.radians(lat_deg))
