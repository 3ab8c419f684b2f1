"""GeoPackage 1.3 (OGC 12-128r17): an SQLite file with tables of the standard's own beside those of features."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyproj
import shapely

__all__ = ["Layer", "geopackage"]

_APPLICATION_ID, _VERSION = int.from_bytes(b"GPKG"), 10300
_WGS84 = 4326
_TYPES = {str: "TEXT", int: "INTEGER", float: "DOUBLE"}
_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (
    srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (
    table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE, description TEXT DEFAULT '',
    last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (
    table_name TEXT NOT NULL UNIQUE REFERENCES gpkg_contents(table_name), column_name TEXT NOT NULL,
    geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL REFERENCES gpkg_spatial_ref_sys(srs_id),
    z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name));
"""


@dataclass(frozen=True)
class Layer:
    """Features of one kind.

    Attributes:
        name: Of its table.
        geometry_type: `POINT`, `POLYGON`, … or `GEOMETRY`, any of them.
        columns: Names and types of what is told of each feature.
        rows: Features, with those columns among their keys.
        geometries: Of each, in longitude and latitude; None for a feature without.
    """

    name: str
    geometry_type: str
    columns: Mapping[str, type[str] | type[int] | type[float]]
    rows: Sequence[Mapping[str, Any]]
    geometries: Sequence[shapely.Geometry | None]


def geopackage(layers: Sequence[Layer]) -> bytes:
    """Returns the content of a GeoPackage file.

    Args:
        layers: In WGS84, longitude first.
    """
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(
            f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION}; {_TABLES}"
        )
        wgs84 = pyproj.CRS.from_epsg(_WGS84).to_wkt("WKT1_GDAL")
        database.executemany(
            "INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)",
            [
                ("Undefined cartesian SRS", -1, "NONE", -1, "undefined"),
                ("Undefined geographic SRS", 0, "NONE", 0, "undefined"),
                ("WGS 84", _WGS84, "EPSG", _WGS84, wgs84),
            ],
        )
        for layer in layers:
            _add(database, layer)
        database.commit()
        return database.serialize()


def _add(database: sqlite3.Connection, layer: Layer) -> None:
    columns = ", ".join(f"{name} {_TYPES[kind]}" for name, kind in layer.columns.items())
    database.execute(
        f"CREATE TABLE {layer.name} "
        f"(fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom {layer.geometry_type}, {columns})"
    )
    # NaN, where there is nothing, becomes NULL.
    extent = shapely.GeometryCollection([geometry for geometry in layer.geometries if geometry is not None]).bounds
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, min_x, min_y, max_x, max_y, srs_id) "
        "VALUES (?, 'features', ?, ?, ?, ?, ?, ?)",
        (layer.name, layer.name, *extent, _WGS84),
    )
    database.execute(
        "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', ?, ?, 0, 0)", (layer.name, layer.geometry_type, _WGS84)
    )
    database.executemany(
        f"INSERT INTO {layer.name} VALUES (NULL, ?{', ?' * len(layer.columns)})",
        (
            (_blob(geometry), *(row[name] for name in layer.columns))
            for row, geometry in zip(layer.rows, layer.geometries, strict=True)
        ),
    )


def _blob(geometry: shapely.Geometry | None) -> bytes | None:
    """Encodes a geometry (section 2.1.3): a header, little-endian and without envelope, and WKB."""
    return None if geometry is None else b"GP" + struct.pack("<BBi", 0, 1, _WGS84) + shapely.to_wkb(geometry)
