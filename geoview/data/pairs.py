"""The one schema of training and evaluation data: pairs of pictures of the same ground."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """Q query pictures, each paired with one of R reference pictures.

    Attributes:
        query_path: Q files; an empty name means: cut from the query side's imagery at `latlon_deg`.
        reference_path: R files; an empty name means: cut from the reference side's imagery at `reference_latlon_deg`.
        positive: (Q,) row of the reference that each query is paired with.
        latlon_deg: (Q, 2) WGS84, NaN where unknown.
        reference_latlon_deg: (R, 2) WGS84, NaN where unknown.
        heading_deg: (Q,) heading of a query photo's middle column, NaN where unknown.
        fov_deg: (Q,) horizontal field of view of a query photo, NaN where unknown.
        place: (Q,) equal numbers are the same place. Every reference of a query's place is a true match of it.
        reference_place: (R,) references of no query's place are distractors.
        semi_positive: (Q, S) rows of references that show the query's position as well, -1 for none; S may be 0.
        offset_px: (Q, 1 + S, 2) float32, where the query lies in its positive and its semi-positives: pixels right and
            down of the picture's centre, NaN where unknown.
        city: Q names, empty where unknown.
        name: For messages.
    """

    query_path: tuple[str, ...]
    reference_path: tuple[str, ...]
    positive: NDArray[np.int64]
    latlon_deg: NDArray[np.float64]
    reference_latlon_deg: NDArray[np.float64]
    heading_deg: NDArray[np.float64]
    fov_deg: NDArray[np.float64]
    place: NDArray[np.int64]
    reference_place: NDArray[np.int64]
    semi_positive: NDArray[np.int64]
    offset_px: NDArray[np.float32]
    city: tuple[str, ...]
    name: str = "pairs"

    def __len__(self) -> int:
        return len(self.query_path)

    @classmethod
    def of(
        cls,
        query_path: Sequence[str],
        reference_path: Sequence[str],
        positive: NDArray[np.int64] | None = None,
        *,
        latlon_deg: NDArray[np.float64] | None = None,
        reference_latlon_deg: NDArray[np.float64] | None = None,
        heading_deg: NDArray[np.float64] | float = math.nan,
        fov_deg: NDArray[np.float64] | float = math.nan,
        place: NDArray[np.int64] | None = None,
        reference_place: NDArray[np.int64] | None = None,
        semi_positive: NDArray[np.int64] | None = None,
        offset_px: NDArray[np.float32] | None = None,
        city: Sequence[str] | None = None,
        name: str = "pairs",
    ) -> Self:
        """Makes a table; what is left out is unknown.

        Args:
            query_path: As the attribute.
            reference_path: As the attribute.
            positive: Without it, row i of the queries is paired with row i of the references.
            latlon_deg: As the attribute.
            reference_latlon_deg: As the attribute.
            heading_deg: As the attribute, or one for all.
            fov_deg: As the attribute, or one for all.
            place: Without it, that of the positive.
            reference_place: Without it, each reference is a place of its own.
            semi_positive: As the attribute; without it, there are none.
            offset_px: As the attribute.
            city: As the attribute.
            name: As the attribute.
        """
        n, m = len(query_path), len(reference_path)
        positive = np.arange(n) if positive is None else positive
        reference_place = np.arange(m) if reference_place is None else reference_place
        semi_positive = np.empty((n, 0), np.int64) if semi_positive is None else semi_positive
        offsets = (n, 1 + semi_positive.shape[1], 2)
        return cls(
            tuple(query_path),
            tuple(reference_path),
            positive,
            np.full((n, 2), np.nan) if latlon_deg is None else latlon_deg,
            np.full((m, 2), np.nan) if reference_latlon_deg is None else reference_latlon_deg,
            np.broadcast_to(np.asarray(heading_deg, np.float64), n).copy(),
            np.broadcast_to(np.asarray(fov_deg, np.float64), n).copy(),
            reference_place[positive] if place is None else place,
            reference_place,
            semi_positive,
            np.full(offsets, np.nan, np.float32) if offset_px is None else offset_px,
            ("",) * n if city is None else tuple(city),
            name,
        )

    @classmethod
    def from_csv(cls, path: str | Path) -> Self:
        """Reads a pair table.

        Args:
            path: CSV with a header out of `query_path, reference_path, lat, lon, heading_deg, fov_deg`; each may be
                missing or empty, but a side without a path needs lat and lon. Paths are relative to the CSV. Lines that
                name the same reference share it, its position being that of the first, and are one place.

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
        query_path = [line.file("query_path") for line in lines]
        named = [line.file("reference_path") for line in lines]
        heading_deg = np.array([line.number("heading_deg", -360, 360) for line in lines])
        fov_deg = np.array([line.number("fov_deg", 1, 360) for line in lines])
        for line, query, reference, latlon in zip(lines, query_path, named, latlon_deg, strict=True):
            if None in line.row:
                raise PairTableError(f"{path}:{line.at}: more cells than columns; quote paths that hold commas")
            if np.isfinite(latlon).any() and not np.isfinite(latlon).all():
                raise PairTableError(f"{path}:{line.at}: one of lat and lon is empty; give both or none")
            if not (query and reference) and not np.isfinite(latlon).all():
                raise PairTableError(
                    f"{path}:{line.at}: a side without a path is cut from imagery and needs lat and lon"
                )
        # A file is one reference, however many lines name it; a chip from imagery is its line's own.
        row_of: dict[str | int, int] = {}
        positive = np.array([row_of.setdefault(file or line, len(row_of)) for line, file in enumerate(named)])
        first = np.unique(positive, return_index=True)[1]
        return cls.of(
            query_path,
            [named[line] for line in first],
            positive,
            latlon_deg=latlon_deg,
            reference_latlon_deg=latlon_deg[first],
            heading_deg=heading_deg,
            fov_deg=fov_deg,
            name=str(path),
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Returns the table of some of its queries; the references stay, so that a gallery keeps its distractors."""
        return replace(
            self,
            query_path=tuple(self.query_path[i] for i in rows),
            positive=self.positive[rows],
            latlon_deg=self.latlon_deg[rows],
            heading_deg=self.heading_deg[rows],
            fov_deg=self.fov_deg[rows],
            place=self.place[rows],
            semi_positive=self.semi_positive[rows],
            offset_px=self.offset_px[rows],
            city=tuple(self.city[i] for i in rows),
        )

    def blocks(self) -> NDArray[np.uint64]:
        """Returns the block of about 1 km that each query lies in, (Q,).

        Queries of one place share the block of the first of them; a place without coordinates is a block of its own.
        """
        _, first, of_query = np.unique(self.place, return_index=True, return_inverse=True)
        known = np.isfinite(self.latlon_deg[first]).all(axis=1)
        # Numbers of places stay below the ids of cells of this level, whose lowest bits are 1 and 34 zeros.
        block = np.arange(len(first), dtype=np.uint64)
        block[known] = cells.cell_ids(self.latlon_deg[first][known], _BLOCK_LEVEL)
        return block[of_query]

    def split(self, share: float, seed: int) -> tuple[Self, Self]:
        """Parts a validation table off by blocks of about 1 km, so that near-duplicates stay on one side.

        Args:
            share: Share of the blocks to hold out. Places without coordinates are blocks of their own.
            seed: Of the draw.

        Returns:
            (training, validation) tables; both keep all references.
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
