"""GeoJSON (RFC 7946) as polygons: what a file may hold, what is wrong and where, rings across the date line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from geoview.errors import RegionError
from geoview.geo.cube import Floats

__all__ = ["polygons_of", "read_json"]

_ROUNDING_DEG = 1e-9  # what a coordinate may exceed its range by: reprojected footprints of the whole Earth do


def read_json(path: Path) -> Any:
    """The content of a JSON file; RegionError naming the file and the spot where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise RegionError(f"{path}: no such file; give the path of a GeoJSON file") from error
    except OSError as error:
        raise RegionError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise RegionError(f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise RegionError(f"{path}: not JSON: byte {error.start} is not UTF-8") from error


def polygons_of(node: Any, spot: str) -> Iterator[shapely.Polygon]:
    """The polygons of a GeoJSON object, their longitudes made continuous; `spot` says where in the file it stands."""
    if not isinstance(node, Mapping) or "type" not in node:
        raise RegionError(f"{spot or 'region'} is not a GeoJSON object: it has no 'type'")
    match node["type"]:
        case "FeatureCollection":
            for index, feature in enumerate(_list(node, "features", spot)):
                yield from polygons_of(feature, f"{spot}features[{index}].")
        case "Feature":
            if node.get("geometry") is None:
                raise RegionError(f"{spot}geometry is missing; remove the feature or draw it")
            yield from polygons_of(node["geometry"], f"{spot}geometry.")
        case "GeometryCollection":
            for index, part in enumerate(_list(node, "geometries", spot)):
                yield from polygons_of(part, f"{spot}geometries[{index}].")
        case "MultiPolygon":
            for index, rings in enumerate(_list(node, "coordinates", spot)):
                yield _polygon(rings, f"{spot}coordinates[{index}]")
        case "Polygon":
            yield _polygon(_list(node, "coordinates", spot), f"{spot}coordinates")
        case other:
            raise RegionError(f"{spot}type is {other!r}: a region is made of Polygon and MultiPolygon only")


def _list(node: Mapping[str, Any], key: str, spot: str) -> Sequence[Any]:
    value = node.get(key)
    if not isinstance(value, list | tuple):
        raise RegionError(f"{spot}{key} is not a list")
    return value


def _polygon(rings: Any, spot: str) -> shapely.Polygon:
    if not isinstance(rings, list | tuple) or not rings:
        raise RegionError(f"{spot} is empty: a polygon is a list of rings")
    shell, *holes = [_ring(ring, f"{spot}[{index}]") for index, ring in enumerate(rings)]
    middle = _middle(shell)
    # A hole may have been written with longitudes a whole turn away from its shell's.
    holes = [np.add(hole, [360.0 * round((middle - _middle(hole)) / 360.0), 0.0]) for hole in holes]
    polygon = shapely.Polygon(shell, holes)
    if not polygon.is_valid:
        raise RegionError(
            f"{spot} is not a valid polygon: {shapely.is_valid_reason(polygon)} (lon lat); "
            "repair it, with shapely.make_valid or 'Fix geometries' in QGIS"
        )
    return polygon


def _middle(ring: Floats) -> float:
    return float(ring[:, 0].min() + ring[:, 0].max()) / 2.0


def _ring(positions: Any, spot: str) -> Floats:
    """(n, 2) lon, lat of a closed ring, checked, with longitudes that do not jump at the antimeridian."""
    try:
        ring = np.array([position[:2] for position in positions])
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise RegionError(f"{spot} is not a list of positions [lon, lat]") from error
    if ring.ndim != 2 or ring.shape[1] != 2 or ring.dtype.kind not in "iuf":
        raise RegionError(f"{spot} is not a list of positions [lon, lat]")
    ring = ring.astype(np.float64)
    lon, lat = ring.T
    for what, values, low, high in (("longitude", lon, -180.0, 540.0), ("latitude", lat, -90.0, 90.0)):
        good = (values >= low - _ROUNDING_DEG) & (values <= high + _ROUNDING_DEG)
        if not good.all():
            row = int(np.argmin(good))
            swapped = what == "latitude" and abs(lat[row]) <= 180.0 and np.abs(lon).max() <= 90.0
            way_out = (
                "GeoJSON has longitude first: are latitude and longitude exchanged?"
                if swapped
                else "coordinates are WGS84 degrees, (lon, lat)"
            )
            raise RegionError(f"{spot}[{row}]: {what} {values[row]} is not within [{low:g}, {high:g}]; {way_out}")
        values.clip(low, high, out=values)
    if len(ring) < 4:
        raise RegionError(f"{spot} has {len(ring)} positions: a ring has four or more, the last equal to the first")
    if (ring[0] != ring[-1]).any():
        raise RegionError(f"{spot} is not closed: repeat its first position at the end")

    jumps = np.diff(lon)
    turns = np.where((np.abs(jumps) > 180.0) & (np.abs(jumps) != 360.0), np.round(jumps / 360.0), 0.0)
    unwrapped = _unwrapped(ring, turns)
    if (np.abs(jumps) == 360.0).any() and not shapely.LinearRing(unwrapped).is_simple:
        # An edge from 180 to -180 that runs over the ring's other edges steps across the antimeridian instead.
        unwrapped = _unwrapped(ring, np.where(np.abs(jumps) > 180.0, np.round(jumps / 360.0), 0.0))
    if unwrapped[-1, 0] != unwrapped[0, 0]:
        raise RegionError(
            f"{spot} runs round a pole without enclosing it; lead it along the antimeridian to the pole and back, "
            "as in ... [180, 80], [180, 90], [-180, 90], [-180, 80] ..."
        )
    return unwrapped


def _unwrapped(ring: Floats, turns: Floats) -> Floats:
    """The ring with whole turns taken out of its jumps."""
    return np.column_stack([ring[:, 0] - 360.0 * np.append(0.0, np.cumsum(turns)), ring[:, 1]])
