"""Answers as files, by their suffix: tables, and features that a GIS opens."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow as pa
import shapely
from pyarrow import parquet

from geoview.errors import ConfigError, OutputExistsError
from geoview.files import full_disk_told, write_binary, write_text
from geoview.locate.candidates import COLUMNS, FIELDS, circle, record, rows
from geoview.locate.geopackage import Layer, geopackage
from geoview.locate.kml import write_kml
from geoview.locate.localizer import Localization

__all__ = [
    "SUFFIXES",
    "check_output",
    "json_lines",
    "write_answers",
    "write_csv",
    "write_geojson",
    "write_geopackage",
    "write_parquet",
]

_ARROW_TYPES = {str: pa.string(), int: pa.int32(), float: pa.float64()}


def check_output(path: Path, suffixes: Collection[str], *, overwrite: bool) -> None:
    """Refuses an output before any work is done for it.

    Raises:
        ConfigError: The suffix names no format, the folder is not there, or the path is a folder.
        OutputExistsError: The file exists and `overwrite` is off.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{path}: unknown format {path.suffix or '(no suffix)'}; write to {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path}: exists already; choose another name or give --overwrite")


def json_lines(answers: Iterable[Localization], file: TextIO) -> Iterator[Localization]:
    """Writes one JSON object a photo and line (https://jsonlines.org) as they come, and passes each answer on."""
    for answer in answers:
        file.write(json.dumps(record(answer), allow_nan=False) + "\n")
        file.flush()
        yield answer


def write_csv(answers: Iterable[Localization], file: TextIO) -> None:
    """Writes rows as they come, so that a long batch can be followed."""
    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in rows(answers):
        writer.writerow(row)
        file.flush()


def write_geojson(answers: Iterable[Localization], file: TextIO) -> None:
    """Writes a FeatureCollection (RFC 7946): a point a candidate, a feature without geometry for a failed photo."""
    features = [
        {
            "type": "Feature",
            "geometry": None if row["lat"] is None else {"type": "Point", "coordinates": [row["lon"], row["lat"]]},
            "properties": row,
        }
        for row in rows(answers)
    ]
    json.dump({"type": "FeatureCollection", "features": features}, file, indent=1, allow_nan=False)
    file.write("\n")


def write_geopackage(answers: Iterable[Localization], file: IO[bytes]) -> None:
    """Writes a GeoPackage: the layer `candidates`, and `circles` with the disc of each candidate that has a radius."""
    table = list(rows(answers))
    circled = [row for row in table if row["radius_m"] is not None]
    layers = [Layer("candidates", "POINT", COLUMNS, table, [_point(row) for row in table])]
    if circled:
        columns = {name: COLUMNS[name] for name in ("query", "status", "rank", "radius_m", "p_within_100m")}
        layers.append(Layer("circles", "MULTIPOLYGON", columns, circled, [circle(row) for row in circled]))
    file.write(geopackage(layers))


def write_parquet(answers: Iterable[Localization], file: IO[bytes]) -> None:
    """Writes GeoParquet 1.1: the columns, and `geometry` as WKB in longitude and latitude (OGC:CRS84, its default).

    See https://geoparquet.org/releases/v1.1.0.
    """
    table = list(rows(answers))
    columns = {name: pa.array([row[name] for row in table], _ARROW_TYPES[kind]) for name, kind in COLUMNS.items()} | {
        "geometry": pa.array(shapely.to_wkb([_point(row) for row in table]).tolist(), pa.binary())
    }
    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"]}},
    }
    parquet.write_table(pa.table(columns).replace_schema_metadata({"geo": json.dumps(geo)}), file)


_Text = Callable[[Iterable[Localization], TextIO], None]
_TEXT: dict[str, _Text] = {".csv": write_csv, ".geojson": write_geojson, ".kml": write_kml}
_BINARY: dict[str, Callable[[Iterable[Localization], IO[bytes]], None]] = {
    ".gpkg": write_geopackage,
    ".parquet": write_parquet,
}
#: All that answers can be written to.
SUFFIXES = (*sorted(_TEXT | _BINARY), ".html")


def write_answers(answers: Iterable[Localization], out: Path, page: _Text) -> None:
    """Writes answers in the format that the suffix names; the file is there whole or not at all.

    Args:
        answers: Read one by one.
        out: A file with one of `SUFFIXES`.
        page: Writes `.html`, for which answers alone are not enough (see `geoview.locate.page`).

    Raises:
        StorageFullError: The disk is full.
    """
    suffix = out.suffix.lower()
    with full_disk_told(out):
        if suffix in _BINARY:
            with write_binary(out) as binary:
                _BINARY[suffix](answers, binary)
        else:
            with write_text(out) as text:
                (_TEXT | {".html": page})[suffix](answers, text)


def _point(row: dict[str, Any]) -> shapely.Point | None:
    return None if row["lat"] is None else shapely.Point(row["lon"], row["lat"])
