"""Distances, bearings and unit vectors on a spherical Earth; exact to rounding from micrometres to antipodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "EARTH_RADIUS_M",
    "bearing_deg",
    "check_latlon_deg",
    "destination_deg",
    "distance_m",
    "latlon_deg",
    "unit_vectors",
]

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius R1 = (2a + b) / 3 of the WGS84 ellipsoid (Moritz, Geodetic Reference System 1980)."""


def distance_m(a_deg: ArrayLike, b_deg: ArrayLike) -> NDArray[np.float64]:
    """Great-circle distance by the haversine formula (Sinnott, 1984).

    The haversine loses digits near antipodes; there its complement, the haversine to b's antipode, keeps them, and the
    arc tangent of the two is accurate everywhere.

    Args:
        a_deg: (..., 2) latitude and longitude, degrees.
        b_deg: (..., 2), broadcast against `a_deg`.

    Returns:
        (...) metres.
    """
    lat_a, lat_b, dlon = _angles(a_deg, b_deg)
    cosines = np.cos(np.deg2rad(lat_a)) * np.cos(np.deg2rad(lat_b))
    half_dlon = np.deg2rad(0.5 * dlon)
    near = np.sin(np.deg2rad(0.5 * (lat_b - lat_a))) ** 2 + cosines * np.sin(half_dlon) ** 2
    far = np.sin(np.deg2rad(0.5 * (lat_b + lat_a))) ** 2 + cosines * np.cos(half_dlon) ** 2
    return np.asarray(2.0 * EARTH_RADIUS_M * np.arctan2(np.sqrt(near), np.sqrt(far)))


def bearing_deg(from_deg: ArrayLike, to_deg: ArrayLike) -> NDArray[np.float64]:
    """Initial bearing of the great circle from one point to another.

    At a pole the bearing is counted from the meridian of the point's longitude; between equal points it is 0.

    Args:
        from_deg: (..., 2) latitude and longitude, degrees.
        to_deg: (..., 2), broadcast against `from_deg`.

    Returns:
        (...) degrees clockwise from north, in [0, 360).
    """
    lat_a, lat_b, dlon = _angles(from_deg, to_deg)
    sin_a, cos_b = np.sin(np.deg2rad(lat_a)), np.cos(np.deg2rad(lat_b))
    east = np.sin(np.deg2rad(dlon)) * cos_b
    # The textbook's cos a sin b - sin a cos b cos dlon cancels for near points; this is the same without the loss.
    north = np.sin(np.deg2rad(lat_b - lat_a)) + 2.0 * sin_a * cos_b * np.sin(np.deg2rad(0.5 * dlon)) ** 2
    return _wrapped(np.rad2deg(np.arctan2(east, north)), 0.0)


def destination_deg(latlon_deg: ArrayLike, bearing_deg: ArrayLike, distance_m: ArrayLike) -> NDArray[np.float64]:
    """Where a great circle leads.

    Args:
        latlon_deg: (..., 2) start, degrees.
        bearing_deg: (...) initial bearing, degrees clockwise from north.
        distance_m: (...) metres along the great circle.

    Returns:
        (..., 2) degrees, longitude in [-180, 180).
    """
    start = np.asarray(latlon_deg, dtype=np.float64)
    lat, lon = np.deg2rad(start[..., 0]), np.deg2rad(start[..., 1])
    bearing = np.deg2rad(np.asarray(bearing_deg, dtype=np.float64))[..., None]
    arc = (np.asarray(distance_m, dtype=np.float64) / EARTH_RADIUS_M)[..., None]
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=-1)
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=-1)
    ahead = np.cos(bearing) * north + np.sin(bearing) * east
    return _latlon_deg(np.cos(arc) * unit_vectors(start) + np.sin(arc) * ahead)


def unit_vectors(latlon_deg: ArrayLike) -> NDArray[np.float64]:
    """Points of the unit sphere: x towards (0, 0), y towards (0, 90 E), z towards the north pole.

    Args:
        latlon_deg: (..., 2) degrees.

    Returns:
        (..., 3) unit vectors.
    """
    points = np.asarray(latlon_deg, dtype=np.float64)
    lat, lon = np.deg2rad(points[..., 0]), np.deg2rad(points[..., 1])
    cos_lat = np.cos(lat)
    return np.stack([np.cos(lon) * cos_lat, np.sin(lon) * cos_lat, np.sin(lat)], axis=-1)


def latlon_deg(xyz: ArrayLike) -> NDArray[np.float64]:
    """Inverse of `unit_vectors`; the vectors need not have unit length.

    Args:
        xyz: (..., 3) vectors.

    Returns:
        (..., 2) degrees, longitude in [-180, 180).
    """
    return _latlon_deg(xyz)


def check_latlon_deg(latlon_deg: ArrayLike) -> NDArray[np.float64]:
    """Checked coordinates with longitudes in [-180, 180].

    Args:
        latlon_deg: (..., 2) degrees; longitudes in [-180, 540], as rings that cross the date line have them.

    Returns:
        (..., 2) float64; the input itself where nothing had to be wrapped.

    Raises:
        ValueError: A coordinate is not finite or out of range; its row is named.
    """
    points = np.asarray(latlon_deg, dtype=np.float64)
    if points.ndim == 0 or points.shape[-1] != 2:
        raise ValueError(f"coordinates must have the shape (..., 2), latitude first, not {points.shape}")
    if points.size == 0:
        return points
    lat, lon = points[..., 0], points[..., 1]
    # Minimum and maximum carry NaN along, and a comparison with NaN fails: two cheap passes find every fault.
    if not (lat.min() >= -90.0 and lat.max() <= 90.0):
        raise ValueError(_fault("latitude", lat, -90.0, 90.0))
    if not (lon.min() >= -180.0 and lon.max() <= 540.0):
        raise ValueError(_fault("longitude", lon, -180.0, 540.0))
    if lon.max() > 180.0:
        points = np.stack([lat, np.where(lon > 180.0, lon - 360.0, lon)], axis=-1)
    return points


def _fault(what: str, values: NDArray[np.float64], low: float, high: float) -> str:
    flat = values.ravel()
    row = int(np.argmin((flat >= low) & (flat <= high)))
    hint = "; latitude comes first" if what == "latitude" and 90.0 < abs(flat[row]) <= 180.0 else ""
    where = f" in row {row}" if len(flat) > 1 else ""
    return f"{what} {flat[row]}{where} is not within [{low:g}, {high:g}] degrees{hint}"


def _angles(a_deg: ArrayLike, b_deg: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(a_deg, dtype=np.float64), np.asarray(b_deg, dtype=np.float64)
    return a[..., 0], b[..., 0], b[..., 1] - a[..., 1]


def _latlon_deg(xyz: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(xyz, dtype=np.float64)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    lat, lon = np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)
    return np.stack([np.rad2deg(lat), _wrapped(np.rad2deg(lon), -180.0)], axis=-1)


def _wrapped(angle_deg: NDArray[np.float64], low: float) -> NDArray[np.float64]:
    """The angle in [low, low + 360), untouched where it lies there already."""
    turned = np.where(angle_deg < low, angle_deg + 360.0, angle_deg)
    # A tiny negative angle plus 360 rounds to 360 itself.
    return np.where(turned >= low + 360.0, turned - 360.0, turned)
