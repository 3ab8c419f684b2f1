"""The one schema of training and evaluation data: pairs of pictures of the same ground."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from geoview.data.lines import Line, csv_lines, parquet_lines
from geoview.data.missing import MAX_MISSING_SHARE, few_missing
from geoview.errors import PairTableError
from geoview.geo import cells
from geoview.geo.sphere import EARTH_RADIUS_M, unit_vectors

__all__ = ["PairTable"]

logger = logging.getLogger(__name__)

# Pairs nearer than about this level's edge (1.1 km) see the same streets and must not be parted by a split.
_BLOCK_LEVEL = 13
# Chips from imagery this near to each other show the same ground: neither may be the other's negative.
_SAME_PLACE_M = 1.0


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
    def from_csv(cls, path: str | Path, *, max_missing_share: float = MAX_MISSING_SHARE) -> Self:
        """Reads a pair table.

        Args:
            path: CSV with a header out of `query_path` (or `path`), `reference_path, lat, lon, heading_deg, fov_deg`;
                each may be missing or empty, but a side without a path needs lat and lon. Paths are relative to the
                file. `captured_at`, which photo tables have, is not used.
            max_missing_share: Share of the lines that may name pictures that are not there; they are left out.

        Returns:
            The pairs. Lines that name the same reference share it, its position being that of the first, and are one
            place; so are lines whose references are cut from imagery within a metre of each other.

        Raises:
            PairTableError: No such file, no pair in it, an unknown column, a query twice, a value that cannot be, each
                with its line; or too many pictures that are not there.
        """
        return cls.from_lines(csv_lines(Path(path)), name=str(path), max_missing_share=max_missing_share)

    @classmethod
    def from_parquet(cls, path: str | Path, *, max_missing_share: float = MAX_MISSING_SHARE) -> Self:
        """Reads a pair table in Parquet, all else being as `from_csv` says; its lines are its rows, from 1.

        Args:
            path: The file.
            max_missing_share: As for `from_csv`.

        Raises:
            PairTableError: As for `from_csv`.
        """
        return cls.from_lines(parquet_lines(Path(path)), name=str(path), max_missing_share=max_missing_share)

    @classmethod
    def from_lines(cls, lines: Sequence[Line], *, name: str, max_missing_share: float = MAX_MISSING_SHARE) -> Self:
        """Makes the table of pairs that are told one by one.

        Args:
            lines: The pairs.
            name: Of the table.
            max_missing_share: As for `from_csv`.

        Returns:
            The pairs, as for `from_csv`.

        Raises:
            PairTableError: There is none, a query is there twice, or too many pictures are not there.
        """
        if not lines:
            raise PairTableError(f"{name}: holds no pair")
        _refuse_queries_twice(lines)
        kept = few_missing(
            _missing(lines),
            max_missing_share,
            where=name,
            entries="pairs",
            fault="name pictures that are not there",
            way_out="put them there, or allow more with max_missing_share",
            error=PairTableError,
        )
        lines = [line for line, is_kept in zip(lines, kept, strict=True) if is_kept]
        # A file is one reference, however many lines name it; a chip from imagery is its line's own.
        row_of: dict[str | int, int] = {}
        keys = (_identity(line.reference_path) or number for number, line in enumerate(lines))
        positive = np.array([row_of.setdefault(key, len(row_of)) for key in keys])
        first = np.unique(positive, return_index=True)[1]
        references = [lines[i].reference_path for i in first]
        latlon_deg = np.array([line.latlon_deg for line in lines])
        reference_place = _places(latlon_deg[first], np.array([not path for path in references]), name)
        return cls.of(
            [line.query_path for line in lines],
            references,
            positive,
            latlon_deg=latlon_deg,
            reference_latlon_deg=latlon_deg[first],
            heading_deg=np.array([line.heading_deg for line in lines]),
            fov_deg=np.array([line.fov_deg for line in lines]),
            reference_place=reference_place,
            name=name,
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
            share: Share of the pairs to hold out. Blocks are drawn one by one, and those that would bring what is held
                out further from it are left. Above 0, it is one block at least, if there are two. Places without
                coordinates are blocks of their own.
            seed: Of the draw.

        Returns:
            (training, validation) tables; both keep all references.
        """
        _, of_row, pairs = np.unique(self.blocks(), return_inverse=True, return_counts=True)
        drawn = np.zeros(len(pairs), np.bool_)
        if share and len(pairs) > 1:
            wanted = share * len(self)
            # One is left in any case, to learn from.
            for block in np.random.default_rng(seed).permutation(len(pairs))[1:]:
                if pairs[block] <= 2 * wanted:
                    drawn[block] = True
                    wanted -= pairs[block]
            if not drawn.any():
                drawn[pairs.argmin()] = True
        held_out = drawn[of_row]
        return self.take(np.flatnonzero(~held_out)), self.take(np.flatnonzero(held_out))


def _identity(path: str) -> str:
    """The same for `a.jpg`, `./a.jpg` and its absolute path; empty for an empty name."""
    return os.path.abspath(path) if path else ""  # noqa: PTH100 - pathlib would keep `..`, or follow every link


def _refuse_queries_twice(lines: Sequence[Line]) -> None:
    """A query has one positive: a second would be its negative."""
    seen: dict[str, Line] = {}
    for line in lines:
        first = seen.setdefault(_identity(line.query_path), line) if line.query_path else line
        if first is not line:
            raise PairTableError(f"{line.where}: the query {line.query_path} is that of {first.where} too; keep one")


def _missing(lines: Sequence[Line]) -> list[list[str]]:
    """Returns which files of each line are not there, each looked for once."""
    is_there: dict[str, bool] = {"": True}
    missing = []
    for line in lines:
        files = (line.query_path, line.reference_path)
        for file in files:
            if file not in is_there:
                is_there[file] = Path(file).is_file()
        missing.append([f"{file} ({line.where})" for file in files if not is_there[file]])
    return missing


def _places(latlon_deg: NDArray[np.float64], is_cut: NDArray[np.bool_], name: str) -> NDArray[np.int64]:
    """Numbers the places of references: those cut from imagery within a metre, and what lies between, are one.

    Args:
        latlon_deg: (R, 2), finite where cut.
        is_cut: (R,) from imagery rather than a file.
        name: Of the table.

    Returns:
        (R,) the row of each place's first reference.
    """
    place = np.arange(len(latlon_deg))
    rows = np.flatnonzero(is_cut)
    if not len(rows):
        return place
    # Equal positions first: n of them would be n^2 pairs.
    points, of_row = np.unique(unit_vectors(latlon_deg[rows]), axis=0, return_inverse=True)
    chord = 2.0 * math.sin(0.5 * _SAME_PLACE_M / EARTH_RADIUS_M)
    near = cKDTree(points).query_pairs(chord, output_type="ndarray")
    links = coo_array((np.ones(len(near)), tuple(near.T)), shape=(len(points), len(points)))
    label = connected_components(links, directed=False)[1][of_row.ravel()]
    _, first, of_row, sizes = np.unique(label, return_index=True, return_inverse=True, return_counts=True)
    place[rows] = rows[first[of_row]]
    if len(sizes) < len(rows):
        logger.info(
            "%s: %d pairs from imagery lie within %g m of another and are %d places, the largest of %d pairs",
            name,
            sizes[sizes > 1].sum(),
            _SAME_PLACE_M,
            (sizes > 1).sum(),
            sizes.max(),
        )
    return place
