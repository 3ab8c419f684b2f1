"""What a cell scores: its code as it is searched, made of imagery, ground photos and dates when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoview.config import Dates
from geoview.errors import EncoderMismatchError
from geoview.geo import cells
from geoview.index import store
from geoview.index.dates import SHARE, CellDates, deviations, expected_best
from geoview.index.fusion import Fusion, fused_codes, fused_queries, interpolated
from geoview.index.manifest import Manifest
from geoview.index.remote import Place
from geoview.index.shards import Shard
from geoview.index.table import Blocks, Selection, Table

__all__ = ["Scorer", "Scoring"]


@dataclass(frozen=True)
class Scoring:
    """How rows are scored.

    Attributes:
        fusion: How much prototypes count.
        dates: What counts of several dates of a cell; None scores each row for itself.
    """

    fusion: Fusion
    dates: Dates | None = None


class Scorer:
    """Makes the vectors whose inner products are the scores, of queries and of rows.

    Attributes:
        cell_dates: Which rows are the dates of one cell.
    """

    def __init__(self, path: Place, manifest: Manifest, table: Table, *, checked: bool) -> None:
        """Reads nothing yet.

        Args:
            path: Where the index lies.
            manifest: Says where its prototypes are.
            table: Its rows.
            checked: Compare prototypes with their checksums.
        """
        self.cell_dates = CellDates(table)
        self._path, self._manifest, self._table, self._checked = path, manifest, table, checked
        self._prototypes: dict[str, Shard] = {}
        self._differing: tuple[Fusion, NDArray[np.float32]] | None = None

    def close(self) -> None:
        """Lets go of all files."""
        self._prototypes.clear()

    def queries(self, queries: NDArray[np.floating], scoring: Scoring) -> NDArray[np.floating]:
        """Returns queries as long as the codes that are searched.

        Raises:
            EncoderMismatchError: They are not as long as the index's codes.
        """
        dim = self._manifest.dim
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise EncoderMismatchError(
                f"{self._path}: codes have {dim} elements, the queries' shape is {queries.shape}; "
                "embed them with the index's own encoder"
            )
        if scoring.fusion.kappa:
            queries = fused_queries(queries)
        if scoring.dates == "max":
            spread = np.linalg.norm(queries @ self._differences(scoring.fusion).T, axis=1, keepdims=True)
            queries = np.concatenate([queries, SHARE * spread], axis=1)
        return queries

    def codes(self, rows: NDArray[np.int64], scoring: Scoring) -> NDArray[np.floating]:
        """Returns the codes of ascending rows, whose inner products with `queries` are the scores."""
        return self._codes(rows, self._table.aerial(rows), scoring)

    def blocks(self, selection: Selection, scoring: Scoring) -> Blocks:
        """Yields the same of all rows of a selection."""
        for rows, aerial in self._table.blocks(selection):
            yield rows, self._codes(rows, aerial, scoring)

    def gains(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns what the best of all dates of each row's cell gains by chance, in standard deviations."""
        first, last = self.cell_dates.around(rows)
        gains = np.array([expected_best(n + 1) for n in range(self.cell_dates.most)])
        return np.asarray(gains[last - first], np.float64)

    def _codes(self, rows: NDArray[np.int64], aerial: NDArray[np.floating], scoring: Scoring) -> NDArray[np.floating]:
        if scoring.dates == "mean":
            aerial = self._mean(rows, aerial)
        codes = self._fused(rows, aerial, scoring.fusion)
        if scoring.dates == "max":
            codes = np.concatenate([codes, -self.gains(rows).astype(codes.dtype)[:, None]], axis=1)
        return codes

    def _fused(self, rows: NDArray[np.int64], aerial: NDArray[np.floating], fusion: Fusion) -> NDArray[np.floating]:
        if not fusion.kappa:
            return aerial
        prototypes = self._manifest.prototypes
        assert prototypes is not None, "who asks for kappa looks"
        return fused_codes(aerial, interpolated(self._table.cell_ids(rows), prototypes.level, self._sums_of), fusion)

    def _mean(self, rows: NDArray[np.int64], aerial: NDArray[np.floating]) -> NDArray[np.float32]:
        """Returns the means of all dates of the cells whose newest rows these are."""
        n_dates = rows - self.cell_dates.around(rows)[0] + 1
        total = aerial.astype(np.float32)
        for before in range(1, n_dates.max(initial=1)):
            at = np.flatnonzero(n_dates > before)
            total[at] += self._table.aerial(rows[at] - before)
        total /= n_dates[:, None]
        return total

    def _differences(self, fusion: Fusion) -> NDArray[np.float32]:
        """Returns the `deviations` of some cells all over the index."""
        if self._differing is None or self._differing[0] != fusion:
            rows, n_dates = self.cell_dates.some()
            self._differing = fusion, deviations(self._fused(rows, self._table.aerial(rows), fusion), n_dates)
        return self._differing[1]

    def _sums_of(self, ids: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Returns the (n, dim) sums of prototypes' cells in ascending order, zeros where there is none."""
        assert self._manifest.prototypes is not None
        found = np.zeros((len(ids), self._manifest.dim), np.float32)
        for entry in self._manifest.prototypes.shards:
            parent = cells.from_tokens([entry.parent])
            first = int(np.searchsorted(ids, cells.range_min(parent)[0]))
            last = int(np.searchsorted(ids, cells.range_max(parent)[0], "right"))
            if first == last or not entry.rows:
                continue
            if entry.parent not in self._prototypes:
                self._prototypes[entry.parent] = store.open_prototypes(self._path, entry)
            shard = self._prototypes[entry.parent]
            shard.check("cell")
            known = shard.read("cell")
            at = np.searchsorted(known, ids[first:last]).clip(max=len(known) - 1)
            here = np.flatnonzero(known[at] == ids[first:last])
            if self._checked:
                shard.check("sum", at[here])
            found[first + here] = shard.take("sum", at[here])
        return found
