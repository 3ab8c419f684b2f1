"""A plain folder of photos as pairs: each photo with the ground from above where it was taken."""

from __future__ import annotations

import math
from pathlib import Path

from tqdm import tqdm

from geoview.data.lines import Line
from geoview.data.missing import MAX_MISSING_SHARE, few_missing
from geoview.data.pairs import PairTable
from geoview.data.photos import read_metadata
from geoview.data.queries import PhotoQuery, find_queries
from geoview.errors import GeoviewError, PairTableError

__all__ = ["load"]

_TABLE = "photos.csv"


def load(root: Path, *, max_missing_share: float = MAX_MISSING_SHARE) -> PairTable:
    """Reads a folder of photos; their references are cut from imagery.

    Positions, headings and fields of view are those of the folder's `photos.csv`, which then says what its photos are,
    and where it is silent, or not there, those of each photo's EXIF and XMP.

    Args:
        root: The folder; without a `photos.csv`, all photos below it count.
        max_missing_share: Share of the photos that may be unreadable or without a position; they are left out.

    Raises:
        PairTableError: It holds no photo, or a greater share of them cannot be used.
        PhotoTableError: `photos.csv` cannot be read, or holds a value that cannot be.
    """
    table = root / _TABLE
    source = table if table.exists() else root
    # A folder without photos stands for itself.
    photos = [photo for photo in find_queries([source]) if photo.path != str(root)]
    if not photos:
        raise PairTableError(
            f"{source}: holds no photo; name a folder of JPEG, PNG, TIFF or WebP, the whole folder of a data set, "
            "or a pair table"
        )
    lines, lacks = [], []
    for photo in tqdm(photos, desc="read positions", unit="photo", disable=None, dynamic_ncols=True):
        try:
            line = _line(photo, f"{source}: {photo.path}" if source is table else photo.path)
        except GeoviewError as error:
            line, lack = None, str(error)
        else:
            lack = f"{photo.path}: tells no position"
        lines.append(line)
        lacks.append([lack] if line is None or math.isnan(line.latlon_deg[0]) else [])
    kept = few_missing(
        lacks,
        max_missing_share,
        where=str(source),
        entries="photos",
        fault="cannot be paired with the ground",
        way_out=f"give lat and lon in {table}, take the photos out, or allow more with max_missing_share",
        error=PairTableError,
    )
    usable = [line for line, is_kept in zip(lines, kept, strict=True) if is_kept and line is not None]
    return PairTable.from_lines(usable, name=str(root), max_missing_share=0.0)


def _line(photo: PhotoQuery, where: str) -> Line:
    """What the table says of a photo, and where it says nothing, the photo itself.

    Raises:
        UnreadableImageError: It cannot be read.
        ImageTooLargeError: It cannot be decoded.
    """
    metadata = read_metadata(photo.path)
    return Line(
        where,
        photo.path,
        "",
        photo.latlon_deg or metadata.latlon_deg or (math.nan, math.nan),
        _first(photo.heading_deg, metadata.heading_deg),
        _first(photo.fov_deg, metadata.fov_deg),
    )


def _first(*values: float | None) -> float:
    return next((value for value in values if value is not None), math.nan)
