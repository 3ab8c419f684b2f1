"""Which photos are asked about: files, folders and tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geoview.data.photos import PhotoBytes, read_metadata
from geoview.errors import GeoviewError, PhotoTableError

__all__ = ["PhotoQuery", "find_queries", "known_places"]

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class PhotoQuery:
    """A photo to be located, with what the user says about it; None where he says nothing.

    A photo in memory has its `content`, and its `path` is only a name.
    """

    path: str
    latlon_deg: tuple[float, float] | None = None
    heading_deg: float | None = None
    fov_deg: float | None = None
    captured_at: datetime | None = None
    content: bytes | None = field(default=None, repr=False)

    @property
    def photo(self) -> str | PhotoBytes:
        """Where its pixels are: in a file or in memory."""
        return self.path if self.content is None else PhotoBytes(self.path, self.content)


def find_queries(inputs: Sequence[str | Path]) -> list[PhotoQuery]:
    """List the photos that files, folders and photo tables stand for.

    A folder stands for all photos below it (by suffix, whatever its case; hidden files and folders are passed over),
    sorted by path. A `.csv` file has the columns `path,lat,lon,heading_deg,fov_deg,captured_at`, all but `path`
    optional, and paths relative to itself; other columns are ignored, empty cells say nothing, `captured_at`
    is ISO 8601. Anything else stands for itself. Whether photos exist and can be read shows when they are read, so
    that one bad photo does not stop the others: a missing file, and a folder without photos, stay in the list.

    Args:
        inputs: Paths, as the user gave them.

    Returns:
        The photos, in the order of `inputs`.

    Raises:
        PhotoTableError: A table cannot be read, lacks the column `path`, or holds a value that cannot be.
    """
    queries: list[PhotoQuery] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            queries += [PhotoQuery(photo) for photo in _photos_below(path)] or [PhotoQuery(str(given))]
        elif path.suffix.lower() == ".csv":
            queries += [row.query() for row in _rows(path, [("path",)])]
        else:
            queries.append(PhotoQuery(str(given)))
    return queries


def known_places(inputs: Sequence[str | Path]) -> tuple[NDArray[np.float64], int]:
    """Finds out where photos were taken whose pixels are of no interest: those of tables need not be there.

    Args:
        inputs: As for `find_queries`, but that a table with `lat` and `lon` needs no `path`.

    Returns:
        Positions (N, 2) of the photos that tell one, and how many do not.

    Raises:
        PhotoTableError: A table cannot be read, lacks both, or holds a value that cannot be.
    """
    places: list[tuple[float, float] | None] = []
    for given in inputs:
        path = Path(given)
        if path.suffix.lower() == ".csv" and not path.is_dir():
            places += [
                row.latlon_deg() or _own_place_deg(path.parent / row.cells.get("path", ""))
                for row in _rows(path, [("lat", "lon"), ("path",)])
            ]
        else:
            places += [_own_place_deg(Path(photo.path)) for photo in find_queries([given])]
    known = [place for place in places if place is not None]
    return np.array(known, np.float64).reshape(-1, 2), len(places) - len(known)


def _own_place_deg(photo: Path) -> tuple[float, float] | None:
    try:
        return read_metadata(str(photo)).latlon_deg
    except GeoviewError:
        return None


def _photos_below(folder: Path) -> list[str]:
    photos = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return [str(path) for path in sorted(photos) if not any(p[0] == "." for p in path.relative_to(folder).parts)]


def _rows(table: Path, either: Sequence[tuple[str, ...]]) -> Iterator[_Row]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            _check_columns(columns, either, table)
            for cells in reader:
                if any(cells):
                    yield _Row(table, reader.line_num, columns, cells)
    except OSError as fault:
        raise PhotoTableError(f"{table}: {fault.strerror}; check the path") from fault
    except UnicodeDecodeError as fault:
        raise PhotoTableError(f"{table}: not UTF-8 text at byte {fault.start}; save it as UTF-8") from fault
    except csv.Error as fault:
        raise PhotoTableError(f"{table}: line {reader.line_num}: not valid CSV ({fault})") from fault


def _check_columns(columns: list[str], either: Sequence[tuple[str, ...]], table: Path) -> None:
    if not any(set(names) <= set(columns) for names in either):
        wanted, found = " or ".join(" and ".join(names) for names in either), ", ".join(columns)
        raise PhotoTableError(f"{table}: line 1: no column {wanted} in '{found}'; name it there, separated by commas")
    for name in ("path", "lat", "lon", "heading_deg", "fov_deg", "captured_at"):
        if columns.count(name) > 1:
            raise PhotoTableError(f"{table}: line 1: column {name} occurs twice; keep one")


_Value = TypeVar("_Value")


class _Row:
    """One line of a photo table."""

    def __init__(self, table: Path, line: int, columns: list[str], cells: list[str]) -> None:
        self.table, self.line = table, line
        if len(cells) > len(columns):
            raise PhotoTableError(
                f"{table}: line {line}: {len(cells)} cells for {len(columns)} columns; quote cells that hold commas"
            )
        self.cells = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}

    def query(self) -> PhotoQuery:
        path = self._parsed("path", str)
        if path is None:
            raise self._error("path", "empty; name the photo")
        heading_deg = self._number("heading_deg", -360.0, 360.0)
        fov_deg = self._number("fov_deg", 0.0, 360.0)
        if fov_deg == 0:
            raise self._error("fov_deg", "0 sees nothing; give degrees above 0, or leave it empty")
        return PhotoQuery(
            path=str(self.table.parent / path),
            latlon_deg=self.latlon_deg(),
            heading_deg=None if heading_deg is None else heading_deg % 360.0,
            fov_deg=fov_deg,
            captured_at=self._parsed("captured_at", datetime.fromisoformat),
        )

    def latlon_deg(self) -> tuple[float, float] | None:
        lat_deg, lon_deg = self._number("lat", -90.0, 90.0), self._number("lon", -180.0, 180.0)
        if lat_deg is None and lon_deg is None:
            return None
        if lat_deg is None:
            raise self._error("lat", "empty, but lon is given; give both or none")
        if lon_deg is None:
            raise self._error("lon", "empty, but lat is given; give both or none")
        return lat_deg, lon_deg

    def _number(self, column: str, low: float, high: float) -> float | None:
        value = self._parsed(column, float)
        if value is not None and not low <= value <= high:
            raise self._error(column, f"{self.cells[column]!r} is not within {low:g} to {high:g}")
        return value

    def _parsed(self, column: str, parse: Callable[[str], _Value]) -> _Value | None:
        cell = self.cells.get(column)
        if not cell:
            return None
        try:
            return parse(cell)
        except ValueError:
            wanted = "a number" if parse is float else "an ISO 8601 time"
            raise self._error(column, f"{cell!r} is not {wanted}; mend it or leave it empty") from None

    def _error(self, column: str, problem: str) -> PhotoTableError:
        return PhotoTableError(f"{self.table}: line {self.line}: column {column}: {problem}")
