"""The one schema of training and evaluation data: pairs of pictures of the same ground."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geoview.errors import PairTableError
from geoview.geo import cells

__all__ = ["PairTable"]

# Pairs nearer than about this level's edge (1.1 km) see the same streets and must not be parted by a split.
_BLOCK_LEVEL = 13
_COLUMNS = {"query_path", "reference_path", "lat", "lon", "heading_deg", "fov_deg"}


@dataclass(frozen=True)
class PairTable:
    """N pairs of a query picture and a reference picture.

    Attributes:
        query_path: N files; an empty name means: cut from the query side's imagery at `latlon_deg`.
        reference_path: N files, or empty names likewise.
        latlon_deg: (N, 2) WGS84, NaN where unknown.
        heading_deg: (N,) heading of a query photo's middle column, NaN where unknown.
        fov_deg: (N,) horizontal field of view of a perspective query photo, NaN where unknown.
        name: For messages.
    """

    query_path: tuple[str, ...]
    reference_path: tuple[str, ...]
    latlon_deg: NDArray[np.float64]
    heading_deg: NDArray[np.float64]
    fov_deg: NDArray[np.float64]
    name: str = "pairs"

    def __len__(self) -> int:
        return len(self.query_path)

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Reads a pair table.

        Args:
            path: CSV with a header out of `query_path, reference_path, lat, lon, heading_deg, fov_deg`; each may be
                missing or empty, but a side without a path needs lat and lon. Paths are relative to the CSV.

        Raises:
            PairTableError: No such file, no pair in it, an unknown column, a picture that is not there, or a value that
                cannot be; names the line.
        """
        path = Path(path)
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                unknown = [c for c in reader.fieldnames or [] if c not in _COLUMNS]
                if unknown:
                    raise PairTableError(
                        f"{path}: unknown column {unknown[0]!r}; known are {', '.join(sorted(_COLUMNS))}"
                    )
                lines = [_Line(path, reader.line_num, row) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise PairTableError(f"{path}: cannot be read as a CSV: {error}") from error
        if not lines:
            raise PairTableError(f"{path}: holds no pair")
        latlon_deg = np.array([(line.number("lat", -90, 90), line.number("lon", -180, 180)) for line in lines])
        table = cls(
            tuple(line.file("query_path") for line in lines),
            tuple(line.file("reference_path") for line in lines),
            latlon_deg,
            np.array([line.number("heading_deg", -360, 360) for line in lines]),
            np.array([line.number("fov_deg", 1, 360) for line in lines]),
            str(path),
        )
        for line, query, reference, latlon in zip(
            lines, table.query_path, table.reference_path, latlon_deg, strict=True
        ):
            if None in line.row:
                raise PairTableError(f"{path}:{line.at}: more cells than columns; quote paths that hold commas")
            if np.isfinite(latlon).any() and not np.isfinite(latlon).all():
                raise PairTableError(f"{path}:{line.at}: one of lat and lon is empty; give both or none")
            if not (query and reference) and not np.isfinite(latlon).all():
                raise PairTableError(
                    f"{path}:{line.at}: a side without a path is cut from imagery and needs lat and lon"
                )
        return table

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Returns the table of some of its rows."""
        return type(self)(
            tuple(self.query_path[i] for i in rows),
            tuple(self.reference_path[i] for i in rows),
            self.latlon_deg[rows],
            self.heading_deg[rows],
            self.fov_deg[rows],
            self.name,
        )

    def blocks(self) -> NDArray[np.uint64]:
        """Returns the block of about 1 km that each pair lies in, (N,); one without coordinates is one of its own."""
        known = np.isfinite(self.latlon_deg).all(axis=1)
        block = np.arange(len(self), dtype=np.uint64)
        block[known] = cells.cell_ids(self.latlon_deg[known], _BLOCK_LEVEL)
        return block

    def split(self, share: float, seed: int) -> tuple[Self, Self]:
        """Parts a validation table off by blocks of about 1 km, so that near-duplicates stay on one side.

        Args:
            share: Share of the blocks to hold out. Pairs without coordinates are blocks of their own.
            seed: Of the draw.

        Returns:
            (training, validation) tables.
        """
        blocks, of_row = np.unique(self.blocks(), return_inverse=True)
        drawn = np.random.default_rng(seed).permutation(len(blocks)) < round(share * len(blocks))
        held_out = drawn[of_row]
        return self.take(np.flatnonzero(~held_out)), self.take(np.flatnonzero(held_out))


@dataclass(frozen=True)
class _Line:
    path: Path
    at: int
    row: dict[str, str | None]

    def number(self, column: str, low: float, high: float) -> float:
        text = (self.row.get(column) or "").strip()
        if not text:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise PairTableError(
                f"{self.path}:{self.at}: {column} is {text!r}, not a number within {low:g} to {high:g}"
            )
        return value

    def file(self, column: str) -> str:
        text = (self.row.get(column) or "").strip()
        if not text:
            return ""
        file = self.path.parent / text
        if not file.is_file():
            raise PairTableError(f"{self.path}:{self.at}: {column} {text!r} is not there (sought as {file})")
        return str(file)
