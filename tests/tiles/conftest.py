"""Rasters whose every pixel is a known smooth function of its place, and an independent idea of what a chip shows."""

from types import SimpleNamespace

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.transform import Affine

WAVE_PX = 40.0


class World:
    """A smooth pattern over the plane of a CRS: `wave` CRS units long in x and y."""

    def __init__(self, crs, wave_x, wave_y=None):
        self.crs, self.wave_x, self.wave_y = crs, wave_x, wave_y or wave_x

    def colour(self, x, y):
        """Return (3, ...) values within 28..228."""
        u, v = 2 * np.pi * x / self.wave_x, 2 * np.pi * y / self.wave_y
        return 128 + 100 * np.stack([np.sin(u), np.sin(v), np.sin(0.5 * (u + v))])

    def write(self, path, transform, width, height, overviews=(), **profile):
        """Write a GeoTIFF of the pattern, sampled at the centres of its pixels."""
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        x, y = transform * (columns, rows)
        data = np.rint(self.colour(x, y)).astype(np.uint8)
        options = {"driver": "GTiff", "tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
        options |= {"width": width, "height": height, "count": 3, "dtype": "uint8", "crs": self.crs} | profile
        with rasterio.open(path, "w", transform=transform, **options) as dataset:
            dataset.write(data)
            if overviews:
                dataset.build_overviews(overviews, rasterio.enums.Resampling.average)
        return path

    def expected(self, latlon_deg, size_px, gsd_m, heading_deg):
        """Return (H, W, 3) float: the pattern where an azimuthal equidistant projection puts each pixel."""
        j, i = np.meshgrid(np.arange(size_px), np.arange(size_px))
        right, up = (j + 0.5 - size_px / 2) * gsd_m, (size_px / 2 - i - 0.5) * gsd_m
        h = np.radians(heading_deg)
        east, north = right * np.cos(h) + up * np.sin(h), -right * np.sin(h) + up * np.cos(h)
        aeqd = f"+proj=aeqd +lat_0={latlon_deg[0]!r} +lon_0={latlon_deg[1]!r} +datum=WGS84 +units=m"
        lon, lat = pyproj.Transformer.from_crs(aeqd, "OGC:CRS84", always_xy=True).transform(east, north)
        x, y = pyproj.Transformer.from_crs("OGC:CRS84", self.crs, always_xy=True).transform(lon, lat)
        return np.moveaxis(self.colour(np.asarray(x), np.asarray(y)), 0, -1)


def centred(crs, latlon_deg, pixel, size_px=400):
    """Return the north-up transform of a raster of size_px pixels around a place; `pixel` is (width, height)."""
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(latlon_deg[1], latlon_deg[0])
    return Affine(pixel[0], 0, x - pixel[0] * size_px / 2, 0, -pixel[1], y + pixel[1] * size_px / 2)


@pytest.fixture(scope="session")
def kit():
    """The names above, for tests that need more than `make`."""
    return SimpleNamespace(World=World, WAVE_PX=WAVE_PX, centred=centred)


@pytest.fixture
def make():
    """Write a raster around a place; returns (path, World)."""

    def write(path, crs="EPSG:26911", latlon_deg=(34.0, -117.0), pixel_m=1.0, size_px=400, **options):
        pixel = (pixel_m, pixel_m) if np.isscalar(pixel_m) else pixel_m
        world = World(crs, WAVE_PX * pixel[0], WAVE_PX * pixel[1])
        world.write(path, centred(crs, latlon_deg, pixel, size_px), size_px, size_px, **options)
        return path, world

    return write


@pytest.fixture
def write_array():
    """Write an array (bands, h, w) as GeoTIFF of 1 m pixels around a place."""

    def write(path, data, latlon_deg=(34.0, -117.0), crs="EPSG:26911", **profile):
        bands, height, width = data.shape
        transform = profile.pop("transform", None) or centred(crs, latlon_deg, (1.0, 1.0), width)
        after = profile.pop("after", None)
        options = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": data.dtype} | profile
        with rasterio.open(path, "w", crs=crs, transform=transform, **options) as dataset:
            dataset.write(data)
            if after:
                after(dataset)
        return path

    return write
