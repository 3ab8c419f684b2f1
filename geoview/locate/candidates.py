"""Answers as rows: what is told of each photo and of each of its candidates, in whatever format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import shapely

from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import EARTH_RADIUS_M
from geoview.locate.localizer import Localization

__all__ = ["COLUMNS", "FIELDS", "circle", "printable", "record", "rows"]

#: Columns in their order, with the type of what they hold; any of them may be empty.
COLUMNS: dict[str, type[str] | type[int] | type[float]] = {
    "query": str,
    "status": str,
    "rank": int,
    "lat": float,
    "lon": float,
    "radius_m": float,
    "score": float,
    "p_within_100m": float,
    "calibration": str,
    "cell": str,
    "heading_deg": float,
    "exif_lat": float,
    "exif_lon": float,
    "exif_distance_m": float,
    "error": str,
    "imagery_date": str,
}
FIELDS = tuple(COLUMNS)

# What a file name may hold and XML or a table cannot: bytes that are not UTF-8, and control characters. Before Python
# 3.13 `csv` leaves carriage returns without quotes.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def rows(answers: Iterable[Localization]) -> Iterator[dict[str, Any]]:
    """Turns answers to rows of `FIELDS`, one a candidate; a failed photo has one row without rank.

    Numbers are rounded to what they can mean: 1e-7 degrees are a centimetre. A score is a cosine, not a probability;
    `radius_m` and `p_within_100m` stay empty until the index is calibrated.
    """
    for answer in answers:
        photo = _photo(answer)
        for place in _places(answer) or [{}]:
            yield {**dict.fromkeys(FIELDS), **photo, **place}


def record(answer: Localization) -> dict[str, Any]:
    """Turns an answer to one object: what is told of the photo, and `candidates`, a list of what is told of each."""
    return {**_photo(answer), "candidates": _places(answer)}


def _photo(answer: Localization) -> dict[str, Any]:
    lat, lon = answer.latlon_deg or (None, None)
    return {
        "query": printable(answer.query),
        "status": answer.status,
        "calibration": answer.calibration,
        "exif_lat": None if lat is None else round(lat, 7),
        "exif_lon": None if lon is None else round(lon, 7),
        "error": printable(answer.error),
    }


def _places(answer: Localization) -> list[dict[str, Any]]:
    told = []
    for rank, place in enumerate(answer.places, start=1):
        distance = answer.exif_distance_m(place)
        told.append(
            {
                "rank": rank,
                "lat": round(place.latlon_deg[0], 7),
                "lon": round(place.latlon_deg[1], 7),
                "radius_m": None if place.radius_m is None else round(place.radius_m, 1),
                "score": round(place.score, 4),
                "p_within_100m": None if place.p_within_100m is None else round(place.p_within_100m, 4),
                "cell": str(cells.tokens(np.array([place.cell_id], np.uint64))[0]),
                "heading_deg": None if place.heading_deg is None else round(place.heading_deg, 1),
                "exif_distance_m": None if distance is None else round(distance, 1),
                "imagery_date": place.imagery_date,
            }
        )
    return told


def circle(row: dict[str, Any]) -> shapely.MultiPolygon:
    """Returns the disc of a row's `radius_m`, to a thousandth of it; in two parts across the date line."""
    disc = Region.disc((row["lat"], row["lon"]), row["radius_m"]).geometry
    simple = shapely.simplify(disc, 1e-3 * np.rad2deg(row["radius_m"] / EARTH_RADIUS_M))
    return shapely.MultiPolygon(shapely.get_parts(simple).tolist())


def printable(text: str) -> str:
    """Escapes characters that not every format can hold, so that all tell the same."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
