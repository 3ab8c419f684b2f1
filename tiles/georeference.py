"""Where a raster's pixels lie on Earth: longitude and latitude to pixel coordinates and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyproj
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError
from rasterio.control import GroundControlPoint
from rasterio.io import DatasetReader
from rasterio.transform import Affine, GCPTransformer

from tiles.errors import MissingCRSError, NotOnEarthError
from tiles.per_thread import PerThreadLRU

__all__ = ["GEOD", "Georeference", "georeference_of"]

GEOD = pyproj.Geod(ellps="WGS84")
_EARTH_RADIUS_M = (6.33e6, 6.42e6)  # semi-major axes of all terrestrial ellipsoids and spheres in use
_CYLINDRICAL = ("Mercator", "Popular Visualisation Pseudo", "Equidistant Cylindrical", "Lambert Cylindrical")
_transformers = PerThreadLRU(max_items=64)  # a pyproj.Transformer must not be used by two threads at once

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Georeference:
    """The relation between pixel coordinates (column, row; 0, 0 is the outer corner of the first pixel) and WGS84.

    Attributes:
        crs_wkt: coordinate system of the raster, horizontal part.
        affine: GDAL-style coefficients (a, b, c, d, e, f) from pixels to the CRS; None with ground control points.
        gcps: ground control points as (row, column, x, y); empty with an affine.
    """

    crs_wkt: str
    affine: tuple[float, float, float, float, float, float] | None
    gcps: tuple[tuple[float, float, float, float], ...] = ()

    def to_pixels(self, lon_deg: Floats, lat_deg: Floats) -> tuple[Floats, Floats]:
        """Return columns and rows of positions; not finite where the CRS is not defined."""
        x, y = self._from_wgs84.transform(lon_deg, lat_deg)
        if self.affine is None:
            return self._gcps_to_pixels(np.asarray(x), np.asarray(y))
        a, b, c, d, e, f = tuple(self._inverse)[:6]
        return a * x + b * y + c, d * x + e * y + f

    def to_lonlat(self, columns: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Return longitudes and latitudes of pixel coordinates; not finite where the CRS is not defined."""
        if self.affine is None:
            x, y = self._gcp_transformer.xy(rows, columns, offset="ul")
        else:
            a, b, c, d, e, f = self.affine
            x, y = a * columns + b * rows + c, d * columns + e * rows + f
        lon, lat = self._from_wgs84.transform(np.asarray(x), np.asarray(y), direction="INVERSE")
        return np.asarray(lon), np.asarray(lat)

    def gsd_m(self, column: float, row: float) -> float:
        """Return the true ground size of the pixel around (column, row): square root of width times height."""
        lon, lat = self.to_lonlat(
            np.array([column - 0.5, column + 0.5, column, column]), np.array([row, row, row - 0.5, row + 0.5])
        )
        if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
            return math.nan
        _, _, sizes_m = GEOD.inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
        return float(np.sqrt(np.prod(sizes_m)))

    @property
    def crs_name(self) -> str:
        """Authority and code of the CRS where it has one, else its name."""
        crs = _crs(self.crs_wkt)
        authority = crs.to_authority()
        return ":".join(authority) if authority else str(crs.name)

    @cached_property
    def period_px(self) -> tuple[float, float] | None:
        """How far, in columns and rows, one turn around the globe leads; None where x does not repeat."""
        if self.affine is None:
            return None
        crs = _crs(self.crs_wkt)
        if crs.is_geographic:
            period = 2.0 * math.pi / crs.axis_info[0].unit_conversion_factor
        elif _is_cylindrical(crs):
            # x is linear in longitude, so its slope between neighbouring meridians, away from the cut, tells the period
            meridians = np.array([-135.0, -45.0, 45.0, 135.0])
            left, _ = self._from_wgs84.transform(meridians, np.zeros(4))
            right, _ = self._from_wgs84.transform(meridians + 1.0, np.zeros(4))
            period = 360.0 * float(np.median(np.asarray(right) - np.asarray(left)))
        else:
            return None
        return self._inverse.a * period, self._inverse.d * period

    @cached_property
    def _inverse(self) -> Affine:
        assert self.affine is not None
        return ~Affine(*self.affine)

    @property
    def _from_wgs84(self) -> pyproj.Transformer:
        return _transformer(self.crs_wkt)

    @property
    def _gcp_transformer(self) -> GCPTransformer:
        def make() -> GCPTransformer:
            return GCPTransformer([GroundControlPoint(row=r, col=c, x=x, y=y) for r, c, x, y in self.gcps])

        return _transformers.get(self.gcps, make)

    def _gcps_to_pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        columns, rows = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        if _crs(self.crs_wkt).is_geographic:  # control points near the date line were made continuous
            x = x - 360.0 * np.round((x - self.gcps[0][2]) / 360.0)
        finite = np.isfinite(x) & np.isfinite(y)
        if finite.any():
            found = self._gcp_transformer.rowcol(x[finite], y[finite], op=np.asarray)
            rows[finite], columns[finite] = found
        return columns, rows


@lru_cache(maxsize=256)
def _crs(definition: str) -> pyproj.CRS:
    return pyproj.CRS.from_user_input(definition)


def _transformer(crs_wkt: str) -> pyproj.Transformer:
    def make() -> pyproj.Transformer:
        return pyproj.Transformer.from_crs("OGC:CRS84", _crs(crs_wkt), always_xy=True)

    transformer: pyproj.Transformer = _transformers.get(crs_wkt, make)
    return transformer


def georeference_of(dataset: DatasetReader, uri: str, crs: str | None) -> Georeference:
    """Return the georeference of an open raster; `crs`, where given, replaces the one in the file.

    Raises:
        MissingCRSError: neither file nor caller name a usable CRS, or the file has no geotransform.
        NotOnEarthError: the CRS belongs to another body.
    """
    control_points, gcp_crs = dataset.gcps
    has_affine = not dataset.transform.is_identity
    found = dataset.crs if has_affine or not control_points else gcp_crs or dataset.crs
    definition = crs or (found.to_wkt() if found else None)
    if definition is None:
        raise MissingCRSError(f"{uri}: has no coordinate system; name it with `crs:` in a manifest")
    if not has_affine and not control_points:
        raise MissingCRSError(f"{uri}: has no geotransform; set one (gdal_translate -a_ullr) or add a world file")
    wkt = _horizontal_wkt(definition, uri)
    if has_affine:
        a, b, c, d, e, f = tuple(dataset.transform)[:6]
        return Georeference(wkt, (a, b, c, d, e, f))
    x0 = control_points[0].x
    geographic = _crs(wkt).is_geographic
    gcps = tuple((p.row, p.col, p.x - 360.0 * round((p.x - x0) / 360.0) * geographic, p.y) for p in control_points)
    return Georeference(wkt, None, gcps)


def _horizontal_wkt(definition: str, uri: str) -> str:
    try:
        crs = _crs(definition)
    except CRSError as error:
        raise MissingCRSError(f"{uri}: coordinate system not understood; name a valid one with `crs:`") from error
    horizontal = (crs.sub_crs_list[0] if crs.is_compound else crs).to_2d()
    if horizontal.ellipsoid is None:
        raise MissingCRSError(f"{uri}: its coordinate system is local; name the true one with `crs:`")
    if not _EARTH_RADIUS_M[0] < horizontal.ellipsoid.semi_major_metre < _EARTH_RADIUS_M[1]:
        raise NotOnEarthError(f"{uri}: lies on another body ({horizontal.name}); leave it out, or correct `crs:`")
    wkt = horizontal.to_wkt()
    try:
        _transformer(wkt)
    except ProjError as error:
        raise MissingCRSError(f"{uri}: no way from WGS84 to {horizontal.name}; name another one with `crs:`") from error
    return wkt


def _is_cylindrical(crs: pyproj.CRS) -> bool:
    method = crs.coordinate_operation.method_name if crs.coordinate_operation else ""
    return method.startswith(_CYLINDRICAL)
