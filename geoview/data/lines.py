"""Lines of a pair table of one's own, CSV or Parquet: read and checked alike, none of their pictures opened."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from geoview.errors import PairTableError

__all__ = ["Line", "csv_lines", "parquet_lines"]

# Photo tables say `path`, and when a photo was taken, which no pair needs.
_OTHER_NAMES = {"path": "query_path"}
_COLUMNS = {"query_path", "reference_path", "lat", "lon", "heading_deg", "fov_deg"}
_NOT_USED = {"captured_at"}
# How pandas stores the numbers of the rows of a filtered frame.
_ROW_NUMBERS = "__index_level_"


@dataclass(frozen=True)
class Line:
    """One pair of a table.

    Attributes:
        where: For messages: the table and its line, `pairs.csv:3`.
        query_path: File; an empty name means: cut from imagery.
        reference_path: As `query_path`.
        latlon_deg: WGS84, NaN where unknown.
        heading_deg: Of the query's middle column, NaN where unknown.
        fov_deg: Horizontal field of view of the query, NaN where unknown.
    """

    where: str
    query_path: str
    reference_path: str
    latlon_deg: tuple[float, float]
    heading_deg: float
    fov_deg: float


def csv_lines(path: Path) -> list[Line]:
    """Reads the pairs of a CSV file with a header; blank lines do not count.

    Args:
        path: The file, UTF-8. Its columns are those of `PairTable.from_csv`.

    Raises:
        PairTableError: It cannot be read, has an unknown column, or holds a value that cannot be; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = _columns(path, next(reader, []))
            return [_parsed(path, reader.line_num, columns, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PairTableError(f"{path}: cannot be read as a CSV: {error}") from error


def parquet_lines(path: Path) -> list[Line]:
    """Reads the pairs of a Parquet file; their lines are its rows, counted from 1.

    Args:
        path: The file. Its columns are those of `PairTable.from_csv`; numbers may be numbers or text.

    Raises:
        PairTableError: It cannot be read, has an unknown column, or holds a value that cannot be; names the row.
    """
    try:
        # A file rather than its name, in which pyarrow would look for partitions; no threads, which forks outlive.
        with path.open("rb") as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            names = [name for name in parquet.schema_arrow.names if not name.startswith(_ROW_NUMBERS)]
            columns = _columns(path, names)
            table = parquet.read(columns=names, use_threads=False)
            rows = list(_rows(table.select(names)))
    except PairTableError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise PairTableError(f"{path}: cannot be read as Parquet: {(str(error).splitlines() or [''])[0]}") from error
    return [_parsed(path, number, columns, cells) for number, cells in enumerate(rows, 1)]


def _rows(table: pa.Table) -> Iterator[list[str]]:
    """Yields the cells of each row as text; Python writes floats so that they are read back to the last digit."""
    for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield ["" if value is None else str(value) for value in values]


def _columns(path: Path, names: Sequence[str]) -> list[str]:
    """Returns the columns by the names that they have here.

    Raises:
        PairTableError: One is not known, or there twice.
    """
    columns = [_OTHER_NAMES.get(name.strip(), name.strip()) for name in names]
    unknown = [name for name in columns if name not in _COLUMNS | _NOT_USED]
    if unknown:
        known = ", ".join(sorted(_COLUMNS | _NOT_USED | _OTHER_NAMES.keys()))
        raise PairTableError(f"{path}: unknown column {unknown[0]!r}; known are {known}")
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        also = "".join(f" (of which {other} is another name)" for other, name in _OTHER_NAMES.items() if name in twice)
        raise PairTableError(f"{path}: column {twice[0]}{also} is there twice; keep one")
    return columns


def _parsed(path: Path, number: int, columns: Sequence[str], cells: Sequence[str]) -> Line:
    where = f"{path}:{number}"
    if len(cells) > len(columns):
        raise PairTableError(f"{where}: more cells than columns; quote paths that hold commas")
    row = _Row(where, {name: cell.strip() for name, cell in zip(columns, cells, strict=False)})
    query, reference = (row.file(path.parent, column) for column in ("query_path", "reference_path"))
    latlon_deg = row.latlon_deg()
    if not (query and reference) and math.isnan(latlon_deg[0]):
        raise PairTableError(f"{where}: a side without a path is cut from imagery and needs lat and lon")
    return Line(
        where,
        query,
        reference,
        latlon_deg,
        row.number("heading_deg", -360, 360),
        row.number("fov_deg", 1, 360),
    )


@dataclass(frozen=True)
class _Row:
    where: str
    cells: Mapping[str, str]

    def number(self, column: str, low: float, high: float, hint: str = "") -> float:
        """Returns a cell's number, NaN where the cell is empty."""
        text = self.cells.get(column, "")
        if not text:
            return math.nan
        value = _number(text)
        if not low <= value <= high:
            raise PairTableError(f"{self.where}: {column} is {text!r}, not a number within {low:g} to {high:g}{hint}")
        return value

    def latlon_deg(self) -> tuple[float, float]:
        lat, lon = (_number(self.cells.get(column, "")) for column in ("lat", "lon"))
        hint = "; are lat and lon swapped?" if 90 < abs(lat) <= 180 and abs(lon) <= 90 else ""
        latlon_deg = self.number("lat", -90, 90, hint), self.number("lon", -180, 180)
        if math.isnan(latlon_deg[0]) != math.isnan(latlon_deg[1]):
            raise PairTableError(f"{self.where}: one of lat and lon is empty; give both or none")
        return latlon_deg

    def file(self, folder: Path, column: str) -> str:
        text = self.cells.get(column, "")
        return str(folder / text) if text else ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
