"""One georeferenced raster: GeoTIFF, COG, VRT and whatever else GDAL opens, in any CRS and with any kind of mask."""

from __future__ import annotations

import datetime
import math
import os
import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
import rasterio.errors
import shapely
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from tiles.bands import Bands, bands_of, sample_values
from tiles.chip import Chip, ChipFrame, ChipSource, SourceInfo
from tiles.errors import SourceNotFoundError, UnreadableRasterError, UnsupportedSourceError
from tiles.footprint import lonlat_polygon, ring_on_rectangle
from tiles.georeference import Georeference, georeference_of
from tiles.hints import SourceHints
from tiles.per_thread import PerThreadLRU
from tiles.warp import Level, resample

__all__ = ["RasterSource", "open_raster", "value_sample"]

# GDAL's own default, a twentieth of the memory, is taken by every worker process
os.environ.setdefault("GDAL_CACHEMAX", "512")
# look for masks, overviews and world files by name: listing a folder of thousands at each opening is quadratic
_GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
_handles = PerThreadLRU(max_items=48)
_DATE_TAGS = (
    *("ACQUISITIONDATETIME", "ACQUISITION_DATETIME", "ACQUISITIONDATE", "ACQUISITION_DATE", "DATE_ACQUIRED"),
    "TIFFTAG_DATETIME",
)
_OUTLINE_POINTS = 16


@dataclass(frozen=True)
class RasterSource(ChipSource):
    """A raster that was found usable; holds facts only, so that it can be pickled and shared by threads."""

    uri: str
    georeference: Georeference
    bands: Bands = field(compare=False)
    alpha_holds_imagery: bool
    width_px: int
    height_px: int
    native_gsd_m: float
    date: str | None
    licence: str | None
    attribution: str | None
    opened_ns: int  # tells a file from another that lay there before
    skipped: tuple[tuple[str, str], ...] = ()

    def cut(self, frame: ChipFrame) -> Chip | None:
        """Return the chip of a frame, or None where no pixel is valid."""
        found = resample(self, frame)
        return found and Chip(*found, self.date, self.licence, self.attribution, frame.gsd_m)

    def coverage(self) -> BaseGeometry:
        """Return the outline in longitude and latitude, split at the antimeridian."""
        return self._outline

    @cached_property
    def _outline(self) -> BaseGeometry:
        columns, rows = ring_on_rectangle(0, 0, self.width_px, self.height_px, _OUTLINE_POINTS)
        return lonlat_polygon(*self.georeference.to_lonlat(columns, rows))

    def parts(self) -> list[SourceInfo]:
        """Return this raster's own entry."""
        crs = self.georeference.crs_name
        return [SourceInfo(self.uri, self.date, self.licence, self.attribution, self.native_gsd_m, crs)]

    # what warp.PixelLattice asks for

    def to_pixels(
        self, lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return columns and rows in finest pixels."""
        return self.georeference.to_pixels(lon_deg, lat_deg)

    @property
    def period_px(self) -> tuple[float, float] | None:
        """How far one turn around the globe leads."""
        return self.georeference.period_px

    @property
    def frame_px(self) -> tuple[float, float, float, float]:
        """The whole raster."""
        return 0.0, 0.0, float(self.width_px), float(self.height_px)

    @property
    def levels(self) -> list[Level]:
        """The raster and its overviews, finest first."""
        return [level for _, level in self._levels]

    @cached_property
    def _levels(self) -> list[tuple[int | None, Level]]:
        """Numbers of the usable overviews (None: the raster itself) and their sizes, which only the files know."""
        full = self._handle(None)
        found: list[tuple[int | None, Level]] = [(None, Level(1.0, 1.0, self.width_px, self.height_px))]
        for index in range(len(full.overviews(self.bands.colour[0]))):
            overview = self._handle(index)
            factors = self.width_px / overview.width, self.height_px / overview.height
            found.append((index, Level(*factors, overview.width, overview.height)))
        return sorted(found, key=lambda item: item[1].factor_x)

    def read(self, level: int, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        """Return a window of a level, (h, w, 4): RGB and 1 where valid.

        Raises:
            UnreadableRasterError: the file fails.
        """
        try:
            number, _ = self._levels[level]
            mask = self._mask(level, left, top, right, bottom) if self.bands.has_mask_band else None
            return self.bands.read(self._handle(number), ((top, bottom), (left, right)), mask)
        except rasterio.errors.RasterioError as error:
            raise _unreadable(self.uri, error) from error

    def _mask(self, level: int, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
        # asked of an overview, GDAL calls all valid where the mask has no overviews of its own; asked of the raster,
        # it uses those there are
        factor_x, factor_y = self.levels[level].factor_x, self.levels[level].factor_y
        window = Window(left * factor_x, top * factor_y, (right - left) * factor_x, (bottom - top) * factor_y)
        mask: NDArray[np.uint8] = self._handle(None).read_masks(
            1, window=window, out_shape=(bottom - top, right - left)
        )
        return mask

    def _handle(self, overview: int | None) -> DatasetReader:
        try:
            return _handles.get((self.uri, self.opened_ns, overview), lambda: _open(self.uri, overview))
        except rasterio.errors.RasterioError as error:
            raise _unreadable(self.uri, error) from error


def open_raster(uri: str, hints: SourceHints) -> RasterSource:
    """Open one raster and find out all that is needed to cut chips from it.

    Raises:
        SourceNotFoundError: nothing lies there.
        UnreadableRasterError: GDAL cannot open it, or it is truncated.
        MissingCRSError: it does not say where it lies.
        NotOnEarthError: it shows another body.
        UnsupportedSourceError: its bands cannot be made into RGB, or its outline lies outside its CRS.
    """
    is_local = "://" not in uri and not uri.startswith("/vsi") and ":" not in uri.partition("/")[0]
    if is_local and not Path(uri).exists():
        raise SourceNotFoundError(f"{uri}: not found")
    try:
        # not through the store of handles: thousands are opened once each, and the file may be mended and opened again
        with _open(uri, None) as dataset:
            if dataset.count == 0:
                subset = ", such as " + dataset.subdatasets[0] if dataset.subdatasets else ""
                raise UnsupportedSourceError(f"{uri}: has no bands of its own; name one of its parts{subset}")
            _check_complete(dataset, uri)
            georeference = georeference_of(dataset, uri, hints.crs)
            bands, fake = bands_of(dataset, uri, hints.alpha, hints.value_range)
            date = hints.date or _date_in_tags(dataset)
            width, height = dataset.width, dataset.height
    except rasterio.errors.RasterioError as error:
        raise _unreadable(uri, error) from error
    gsd_m = hints.gsd_m or georeference.gsd_m(width / 2.0, height / 2.0)
    names = hints.licence, hints.attribution
    source = RasterSource(uri, georeference, bands, fake, width, height, gsd_m, date, *names, time.time_ns())
    if not math.isfinite(gsd_m) or shapely.is_empty(source.coverage()):
        raise UnsupportedSourceError(f"{uri}: its outline is not on the globe in its coordinate system; correct `crs:`")
    return source


def value_sample(source: RasterSource) -> NDArray[np.float32]:
    """Return valid values of a raster, from a decimated read, for the range that scales them to 8 bits.

    Raises:
        UnreadableRasterError: the file fails.
    """
    try:
        with _open(source.uri, None) as dataset:
            return sample_values(source.bands, dataset)
    except rasterio.errors.RasterioError as error:
        raise _unreadable(source.uri, error) from error


def _open(uri: str, overview: int | None) -> DatasetReader:
    options = {} if overview is None else {"overview_level": overview}
    with rasterio.Env(**_GDAL_OPTIONS):
        return rasterio.open(uri, **options)


def _unreadable(uri: str, error: Exception) -> UnreadableRasterError:
    reason = " ".join(str(error.__cause__ or error).replace(uri, "").split()) or type(error).__name__
    return UnreadableRasterError(f"{uri}: cannot be read ({reason}); fetch or convert it again, or leave it out")


def _check_complete(dataset: DatasetReader, uri: str) -> None:
    """Raise where the blocks of a TIFF end behind the end of its file: half a download opens like a whole one."""
    if dataset.driver != "GTiff" or not Path(uri).is_file():
        return
    size = Path(uri).stat().st_size
    for number in {1, dataset.count}:
        block_height, block_width = dataset.block_shapes[number - 1]
        last = (-(-dataset.width // block_width) - 1, -(-dataset.height // block_height) - 1)
        for x, y in {(0, 0), (0, last[1]), last}:
            offset = dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=number)
            length = dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=number)
            if offset and length and int(offset) + int(length) > size:  # a sparse block has neither
                end = int(offset) + int(length)
                raise UnreadableRasterError(
                    f"{uri}: is truncated at {size} bytes, a block ends at {end}; fetch it again"
                )


def _date_in_tags(dataset: DatasetReader) -> str | None:
    """Return the day the file says it was taken, ISO, or None."""
    tags = {key.upper(): value for key, value in {**dataset.tags(), **dataset.tags(ns="IMAGERY")}.items()}
    for key in _DATE_TAGS:
        match = re.match(r"\s*(\d{4})[:/-]?(\d{2})[:/-]?(\d{2})(?!\d)", tags.get(key, ""))
        if match:
            try:
                return datetime.date(*(int(part) for part in match.groups())).isoformat()
            except ValueError:  # zeros and the like, as some cameras write
                continue
    return None
