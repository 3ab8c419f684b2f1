"""Dates of imagery: how they are written, and what the several dates of a cell say together.

The rows of a cell lie side by side, oldest first. Taken as they are, a cell with several would win by having more
chances: the best of n scores with noise is larger than one, and the noise is how the dates of a cell differ to a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geoview.index.table import Selection, Table

__all__ = ["SHARE", "CellDates", "deviations", "expected_best", "first_of_each", "iso_date", "spaced", "yyyymmdd"]

#: How much of what the best of several dates gains at any cell it gains at those which compete for the first places:
#: one date alone was lucky there already. Measured by benchmarks/dates.py.
SHARE = 0.5
# Cells that tell how much dates differ, and shards that they are read from.
_CELLS, _SHARDS = 1_024, 16


class CellDates:
    """Which rows of an index are the dates of one cell; reads the cells of shards where some have several.

    Rows are numbers in S2 order, of any shape; -1 is none.

    Attributes:
        most: Dates of a cell, at most.
    """

    def __init__(self, table: Table) -> None:
        self._table, self._shards, self._first_row = table, table.shards, table.first_row
        self._runs: dict[int, _Runs] = {}
        self.most = max([1, *(entry.dates_a_cell for entry in table.shards)])

    def around(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the oldest and the newest row of the cells that rows are of."""
        oldest, newest = rows.copy(), rows.copy()
        shards = np.searchsorted(self._first_row, rows, "right") - 1
        for number in np.unique(shards[rows >= 0]).tolist():
            if self._shards[number].dates_a_cell > 1:
                here, start = shards == number, self._first_row[number]
                first, last = self._runs_of(number).around(rows[here] - start)
                oldest[here], newest[here] = first + start, last + start
        return oldest, newest

    def all_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns all rows of the cells that (Q, n) rows are of, (Q, m): each once a query, -1 elsewhere."""
        oldest, newest = self.around(rows)
        every = newest[:, None] - np.arange(self.most)[:, None]
        wanted = (every >= oldest[:, None]) & first_of_each(newest)[:, None]
        return np.where(wanted, every, -1).reshape(len(rows), -1)

    def newest(self, selection: Selection) -> Selection:
        """Returns the rows of a selection that are the newest of their cells."""
        found: Selection = []
        for number, rows in selection:
            if self._shards[number].dates_a_cell > 1:
                rows = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
                rows = rows[self._runs_of(number).around(rows)[1] == rows]
            found.append((number, rows))
        return found

    def some(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the rows of some cells with several dates, evenly spaced, and how many dates each cell has."""
        shards = [number for number, entry in enumerate(self._shards) if entry.dates_a_cell > 1]
        shards = [shards[i] for i in spaced(len(shards), _SHARDS)]
        oldest, newest = [], []
        for number in shards:
            runs, start = self._runs_of(number), self._first_row[number]
            chosen = spaced(len(runs.first), -(-_CELLS // len(shards)))
            oldest.append(start + runs.first[chosen])
            newest.append(start + runs.last[chosen])
        pairs = list(zip(np.concatenate(oldest), np.concatenate(newest), strict=True))
        rows = np.concatenate([np.arange(first, last + 1) for first, last in pairs])
        return rows, np.array([last - first + 1 for first, last in pairs])

    def _runs_of(self, number: int) -> _Runs:
        if number not in self._runs:
            self._runs[number] = _Runs.of(self._table.column("cell", number))
        return self._runs[number]


@dataclass(frozen=True)
class _Runs:
    """The cells of a shard that have several dates.

    Attributes:
        first: (R,) row of the oldest date of each, ascending.
        last: (R,) row of the newest.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, cell: NDArray[np.uint64]) -> Self:
        """Finds them in a column of cells, ascending, one at least."""
        last = np.append(np.flatnonzero(cell[1:] != cell[:-1]), len(cell) - 1)
        first = np.append(0, last[:-1] + 1)
        return cls(first[first < last], last[first < last])

    def around(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the oldest and the newest row of the cells that rows are of."""
        run = np.searchsorted(self.first, rows, "right") - 1
        inside = (run >= 0) & (rows <= self.last[run])
        return np.where(inside, self.first[run], rows), np.where(inside, self.last[run], rows)


def expected_best(n: int) -> float:
    """Returns the expected best of n draws, in standard deviations of one: 0 for one.

    Normal scores of Blom (Statistical Estimates and Transformed Beta-Variables, 1958), which are within five percent.
    """
    return NormalDist().inv_cdf((n - 0.375) / (n + 0.25))


def deviations(codes: NDArray[np.floating], n_dates: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns how the dates of cells differ, as vectors that tell it for any query.

    Args:
        codes: (N, dim), those of a cell one after another.
        n_dates: (S,) how many each of the S cells has, two at least.

    Returns:
        (N, dim). The length of their products with a query is the standard deviation of its scores within a cell: the
        root of the mean over the cells of the variance of a cell's scores. Cells with a code that is not finite count
        as if their dates were alike: one broken code must not spoil all scores.
    """
    codes = codes.astype(np.float32)
    mean = np.add.reduceat(codes, np.cumsum(n_dates) - n_dates) / n_dates[:, None]
    away = np.where(np.isfinite(mean).repeat(n_dates, axis=0), codes - mean.repeat(n_dates, axis=0), 0)
    weight = 1 / np.sqrt(len(n_dates) * (n_dates - 1))
    return np.asarray(away * weight.repeat(n_dates)[:, None], np.float32)


def first_of_each(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tells of each number in (Q, n) whether it is the first like it in its row; never of -1."""
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, 1)
    fresh = np.diff(ordered, axis=1, prepend=-1) > 0
    first = np.empty(numbers.shape, np.bool_)
    np.put_along_axis(first, order, fresh, 1)
    return first


def spaced(n: int, most: int) -> NDArray[np.int64]:
    """Returns as many of the numbers below n as are wanted, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def yyyymmdd(date: str | None) -> int:
    """Returns an ISO date, month or year as a number that sorts by time; what is not known is 00, and None is 0."""
    parts: Sequence[str] = (date or "").split("T")[0].split("-")
    year, month, day = [*(int(p) if p.isdigit() else 0 for p in parts), 0, 0, 0][:3]
    return year * 10_000 + month * 100 + day


def iso_date(number: int) -> str | None:
    """Returns the ISO date, month or year of a number that `yyyymmdd` has made; None for 0."""
    digits = f"{number:08d}"
    return "-".join(takewhile(int, (digits[:4], digits[4:6], digits[6:]))) or None
