"""Answers as rows: CSV and GeoJSON, by the suffix of the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from geoview.errors import ConfigError, OutputExistsError
from geoview.geo import cells
from geoview.locate.localizer import Localization

__all__ = ["FIELDS", "check_output", "rows", "write_csv", "write_geojson"]

FIELDS = (
    "query",
    "status",
    "rank",
    "lat",
    "lon",
    "radius_m",
    "score",
    "p_within_100m",
    "calibration",
    "cell",
    "heading_deg",
    "exif_lat",
    "exif_lon",
    "exif_distance_m",
    "error",
    "imagery_date",
)
SUFFIXES = (".csv", ".geojson", ".html")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses an output before any work is done for it.

    Raises:
        ConfigError: The suffix names no format, the folder is not there, or the path is a folder.
        OutputExistsError: The file exists and `overwrite` is off.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: unknown format {path.suffix or '(no suffix)'}; write to {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path}: exists already; choose another --out or give --overwrite")


def rows(answers: Iterable[Localization]) -> Iterator[dict[str, Any]]:
    """Turns answers to rows of `FIELDS`, one a candidate; a failed photo has one row without rank.

    Numbers are rounded to what they can mean: 1e-7 degrees are a centimetre. A score is a cosine, not a probability;
    `radius_m` and `p_within_100m` stay empty until the index is calibrated.
    """
    for answer in answers:
        lat, lon = answer.latlon_deg or (None, None)
        common = {
            "query": _printable(answer.query),
            "status": answer.status,
            "calibration": answer.calibration,
            "exif_lat": None if lat is None else round(lat, 7),
            "exif_lon": None if lon is None else round(lon, 7),
            "error": _printable(answer.error),
        }
        if not answer.places:
            yield {**dict.fromkeys(FIELDS), **common}
        for rank, place in enumerate(answer.places, start=1):
            distance = answer.exif_distance_m(place)
            yield {
                **dict.fromkeys(FIELDS),
                **common,
                "rank": rank,
                "lat": round(place.latlon_deg[0], 7),
                "lon": round(place.latlon_deg[1], 7),
                "radius_m": None if place.radius_m is None else round(place.radius_m, 1),
                "score": round(place.score, 4),
                "p_within_100m": None if place.p_within_100m is None else round(place.p_within_100m, 4),
                "heading_deg": None if place.heading_deg is None else round(place.heading_deg, 1),
                "cell": str(cells.tokens(np.array([place.cell_id], np.uint64))[0]),
                "exif_distance_m": None if distance is None else round(distance, 1),
                "imagery_date": place.imagery_date,
            }


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


def _printable(text: str) -> str:
    """Escapes what a file name may hold and a table cannot: bytes that are not UTF-8, and carriage returns.

    Before Python 3.13 `csv` leaves these without quotes.
    """
    return text.replace("\r", "\\r").encode("utf-8", "backslashreplace").decode("utf-8")
