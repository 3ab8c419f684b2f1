"""Outlines on the globe: rings of longitude and latitude turned into valid polygons, date line and poles included."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

__all__ = ["lonlat_polygon", "ring_on_rectangle"]


def ring_on_rectangle(
    left: float, top: float, right: float, bottom: float, points_per_edge: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y, each (4 * points_per_edge,), of an open ring along a rectangle, corners included."""
    step = np.arange(points_per_edge) / points_per_edge
    x = np.concatenate([left + (right - left) * step, np.full_like(step, right)])
    y = np.concatenate([np.full_like(step, top), top + (bottom - top) * step])
    return np.concatenate([x, right + left - x]), np.concatenate([y, bottom + top - y])


def lonlat_polygon(lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64]) -> BaseGeometry:
    """Return the area inside a ring as (multi)polygon within [-180, 180] x [-90, 90].

    The ring may cross the date line or go around a pole; neighbouring vertices must be less than 180 degrees of
    longitude apart. Vertices that are not finite are left out; fewer than three others give an empty geometry.
    """
    finite = np.isfinite(lon_deg) & np.isfinite(lat_deg)
    lon, lat = lon_deg[finite], lat_deg[finite]
    if len(lon) < 3:
        return shapely.Polygon()
    closed = np.append(lon, lon[0])
    steps = (np.diff(closed) + 180.0) % 360.0 - 180.0
    unrolled = lon[0] + np.concatenate([[0.0], np.cumsum(steps)])
    lat = np.append(lat, lat[0])
    if abs(unrolled[-1] - unrolled[0]) > 180.0:  # the ring goes around a pole: close it along that pole
        pole = 90.0 if lat.mean() > 0 else -90.0
        unrolled = np.concatenate([unrolled, [unrolled[-1], unrolled[0]]])
        lat = np.concatenate([lat, [pole, pole]])
    else:
        unrolled[-1] = unrolled[0]  # the steps' rounding would leave a gap, and make_valid a line across it
    polygon = shapely.make_valid(shapely.Polygon(np.column_stack([unrolled, lat])))
    first = int(np.floor((unrolled.min() + 180.0) / 360.0))
    last = int(np.floor((unrolled.max() + 180.0) / 360.0))
    if first == last:
        return shapely.transform(polygon, lambda xy: xy - [360.0 * first, 0.0]) if first else polygon
    parts = []
    for turn in range(first, last + 1):
        strip = shapely.intersection(polygon, shapely.box(360.0 * turn - 180.0, -90.0, 360.0 * turn + 180.0, 90.0))
        if strip.area > 0:
            parts.append(shapely.transform(strip, lambda xy, turn=turn: xy - [360.0 * turn, 0.0]))  # type: ignore[misc]
    return shapely.union_all(parts)
