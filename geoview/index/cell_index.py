"""An index that is open: search it, look at it, check it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from geoview.config import AerialView, Dates
from geoview.errors import ConfigError, EncoderMismatchError, RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import store
from geoview.index.dates import first_of_each, spaced
from geoview.index.fusion import Fusion
from geoview.index.manifest import Point
from geoview.index.proposals import Proposals
from geoview.index.prototypes import Prototypes
from geoview.index.remote import Address, Place, local_folder, place_of
from geoview.index.scan import scan
from geoview.index.scoring import Scorer, Scoring
from geoview.index.soundness import damage_of_encoder, problems
from geoview.index.table import Selection, Table, n_rows
from geoview.models.encoder import CrossViewEncoder
from geoview.topk import merged_top_k, top_k, top_k_of

__all__ = ["ALWAYS_EXACT", "CellIndex", "Hits"]

# How many times the candidates the rows must be, or scoring all of them is less work.
_WORTH_IT = 8
# Rows that are scanned for each of the best, where something is taken off those of cells with several dates.
_ROWS_A_BEST = 4
# Queries at once, which share what is read of the lists: for a few hundred at a time it takes nearly twice as long.
_QUERIES = 1_024
# Candidates that are held at once, of all queries together.
_CANDIDATES = 2**19
# Rows that a check of the lists searches for, and how much less than before it may find.
_SAMPLE, _WORSE = 200, 0.05
_NO_CELLS = np.empty(0, np.uint64)
#: Fewer rows are scored one and all: faster than any detour, and exact.
ALWAYS_EXACT = 50_000


@dataclass(frozen=True)
class Hits:
    """Best cells for Q queries, each once.

    Attributes:
        cell_id: (Q, k) uint64, 0 where there are fewer than k.
        row: (Q, k) int64 row numbers in S2 order, -1 where there are fewer than k: of several dates of a cell the one
            that counted, the newest where their mean did.
        score: (Q, k) float32 inner products, of several dates what was asked for; -inf where there are fewer than k.
    """

    cell_id: NDArray[np.uint64]
    row: NDArray[np.int64]
    score: NDArray[np.float32]


class CellIndex:
    """Codes of S2 cells, in S2 order over all shards.

    It reads the commit that it was opened with, whatever is committed later, and holds it until it is closed.

    Attributes:
        path: Index folder, or its address.
        manifest: What it reads.
    """

    def __init__(self, path: Place, commit: store.Commit, *, checked: bool) -> None:
        self.path, self._checked = path, checked
        self._attach(commit)

    def _attach(self, commit: store.Commit) -> None:
        self._commit, self.manifest = commit, commit.manifest
        self._table = Table(self.path, self.manifest, checked=self._checked)
        self._scorer = Scorer(self.path, self.manifest, self._table, checked=self._checked)
        self._proposals: Proposals | None = None
        self._selected: tuple[Region | None, dict[bool, Selection]] = (None, {})

    @classmethod
    def open(cls, path: str | Place, *, checked: bool = False) -> Self:
        """Opens an index; reads the manifest and nothing else.

        Of an index at an address, copies that it does not name any more are removed after a day.

        Args:
            path: Index folder, or the address of one: s3://bucket/index, gs://bucket/index, https://host/index.
            checked: Compare codes with their checksums, too, when they are first read; cells always are.

        Raises:
            IndexNotFoundError: It is no index, or its build is not finished.
            IndexVersionError: It was written in another format.
            IndexCorruptError: Its manifest cannot be read.
            IndexUnreachableError: The address does not answer.
            ConfigError: It is an address, and obstore is not installed.
        """
        place = place_of(path)
        commit = store.Commit.open(place)
        if isinstance(place, Address):
            store.sweep_copies(place, commit.manifest)
        return cls(place, commit, checked=checked)

    def close(self) -> None:
        """Lets go of the commit and of all files: what has been replaced since may be swept away."""
        self._table.close()
        self._scorer.close()
        self._proposals = None
        self._commit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.manifest.n_rows

    @property
    def folder(self) -> Path:
        """Index folder, for who writes it.

        Raises:
            ConfigError: It is at an address.
        """
        return local_folder(self.path)

    @property
    def level(self) -> int:
        """S2 level of the cells."""
        return self.manifest.level

    @property
    def dates_a_cell(self) -> int:
        """Most codes of a cell, of imagery of so many dates."""
        return self._scorer.cell_dates.most

    @property
    def chip(self) -> AerialView:
        """Geometry of the chips behind the codes."""
        return AerialView(**self.manifest.chip)

    def encoder(self) -> CrossViewEncoder:
        """Opens the encoder that made the codes.

        Raises:
            EncoderMismatchError: The encoder in the folder is another one.
            EncoderError: It cannot be opened.
            IndexCorruptError: It cannot be fetched whole from its address.
        """
        encoder = CrossViewEncoder.load(store.encoder_folder(self.path, self.manifest))
        if encoder.fingerprint() != self.manifest.encoder["fingerprint"]:
            raise EncoderMismatchError(
                f"{self.path}: its codes were made by encoder {self.manifest.encoder['fingerprint']}, "
                f"its encoder folder holds {encoder.fingerprint()}; restore it or build the index anew"
            )
        return encoder

    def search(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        region: Region | None = None,
        kappa: float | Fusion | None = None,
        dates: Dates = "max",
        exact: bool = False,
        device: str = "cpu",
    ) -> Hits:
        """Finds the cells whose codes have the largest inner products with the queries.

        A cell with several dates has the score of its best, less what the best of so many gains by chance; the mean of
        their scores; or that of the newest. What `max` takes off is `SHARE` of the expected best of n draws with the
        standard deviation of the query's scores within cells, known from cells of the index that have several dates.

        An index that was tuned looks through a part of its codes, and finds what it was tuned to find; one that was
        not, small regions, large k and another kappa are searched exactly.

        Args:
            queries: (Q, dim) embeddings of this index's encoder.
            k: Cells to find for each query.
            region: Search these cells only; of others, only some are read that tell how dates differ.
            kappa: Weight of ground photos against imagery; None is what the index was fitted to.
            dates: What counts of several dates of a cell.
            exact: Score all codes, whatever the index was tuned to.
            device: Where all rows are scored; the few that lists propose are scored on the CPU.

        Returns:
            The best cells, best first, with their exact scores; equal scores in S2 order.

        Raises:
            RegionError: No cell of the index lies in the region.
            EncoderMismatchError: The queries are not as long as the codes.
            ConfigError: `kappa` is out of range, or asks for ground photos where the index has none.
            IndexCorruptError: A file is missing or truncated.
            IndexUnreachableError: The address of the index does not answer.
        """
        scoring = self._scoring(self.fusion_at(kappa), dates)
        queries, selection = self._scorer.queries(queries, scoring), self._selection(region, scoring)
        # So many rows are of k cells at least; and however dates count, as many candidates are looked at.
        table, n = self.manifest.ann, k * self.dates_a_cell
        fitted = table is not None and (table.kappa, table.offset) == tuple(astuple(scoring.fusion))
        tuned = table is not None and table.chosen.n_probe > 0 and fitted
        few = ALWAYS_EXACT if table is None else max(ALWAYS_EXACT, _WORTH_IT * n * table.chosen.k_factor)
        if exact or table is None or not tuned or n_rows(selection) <= few:
            rows, scores = self._compared(queries, n, selection, scoring, device)
        else:
            # Of as many lists, a region's rows fill a part: as many of its rows are looked through as of all.
            lists = math.ceil(table.chosen.n_probe * len(self) / n_rows(selection))
            point = replace(table.chosen, n_probe=lists)
            rows, scores = self._proposed(queries, n, selection, scoring, point, device)
        return self._hits(rows, scores, k, scoring)

    def search_at(
        self, point: Point, queries: NDArray[np.floating], k: int, *, region: Region | None = None, device: str = "cpu"
    ) -> Hits:
        """Searches in a given way, which need not be the one that was chosen: for measuring."""
        scoring = self._scoring(self.fusion_at(None), "max")
        queries, selection = self._scorer.queries(queries, scoring), self._selection(region, scoring)
        rows, scores = self._proposed(queries, k * self.dates_a_cell, selection, scoring, point, device)
        return self._hits(rows, scores, k, scoring)

    def scores_of(
        self,
        queries: NDArray[np.floating],
        cell_ids: NDArray[np.uint64],
        *,
        kappa: float | Fusion | None = None,
        dates: Dates = "max",
    ) -> NDArray[np.float32]:
        """Returns what `search` would score given cells, (Q, n); -inf for cells without a code.

        Args:
            queries: (Q, dim) embeddings of this index's encoder.
            cell_ids: (n,) cells in any order, of the index's level.
            kappa: As for `search`.
            dates: As for `search`.
        """
        wanted, back = np.unique(cell_ids, return_inverse=True)
        best = np.full((len(queries), len(wanted)), -np.inf, np.float32)
        for _, at, scores in self._scored(queries, wanted, kappa, dates):
            first = np.flatnonzero(np.diff(at, prepend=-1))
            # Dates of a cell lie side by side, and may be cut apart by a block's end.
            best[:, at[first]] = np.maximum(best[:, at[first]], np.maximum.reduceat(scores, first, axis=1))
        return best[:, back]

    def rows_of(
        self,
        queries: NDArray[np.floating],
        cell_ids: NDArray[np.uint64],
        *,
        kappa: float | Fusion | None = None,
        dates: Dates = "max",
    ) -> NDArray[np.int64]:
        """Returns the row, (n,), that given cells score best by with any of the queries; -1 for cells without a code.

        Args:
            queries: As for `scores_of`.
            cell_ids: As for `scores_of`.
            kappa: As for `search`.
            dates: As for `search`.
        """
        wanted, back = np.unique(cell_ids, return_inverse=True)
        best, row = np.full(len(wanted), -np.inf, np.float32), np.full(len(wanted), -1, np.int64)
        for rows, at, scores in self._scored(queries, wanted, kappa, dates):
            most = scores.max(axis=0)
            rising = np.lexsort((most, at))
            here = rising[np.flatnonzero(np.diff(at, append=-1))]
            here = here[most[here] > best[at[here]]]
            best[at[here]], row[at[here]] = most[here], rows[here]
        return row[back]

    def some_cells(self, n: int, region: Region | None = None) -> tuple[NDArray[np.uint64], int]:
        """Returns n cells, evenly spaced among those with a code, and how many these are.

        Raises:
            RegionError: No cell of the index lies in the region.
        """
        selection = self._selection(region, self._scoring(self.fusion, "latest"))
        counts = [n_rows([part]) for part in selection]
        ends = np.cumsum(counts)
        chosen = spaced(int(ends[-1]), n)
        numbers = np.searchsorted(ends, chosen, "right")
        rows = np.empty(len(chosen), np.int64)
        for i in np.unique(numbers).tolist():
            number, selected = selection[i]
            inside, here = chosen[numbers == i] - (ends[i] - counts[i]), numbers == i
            rows[here] = self._table.first_row[number] + (
                selected.start + inside if isinstance(selected, slice) else selected[inside]
            )
        return self._table.cell_ids(rows), int(ends[-1])

    @property
    def searched_dim(self) -> int:
        """Length of the codes as they are searched."""
        return self.manifest.dim + bool(self.fusion.kappa)

    def codes_of(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Returns the codes of ascending rows, (n, searched_dim), as they are searched."""
        return self._scorer.codes(rows, Scoring(self.fusion))

    def codes(self, number: int) -> Iterator[NDArray[np.floating]]:
        """Yields the codes of a shard in blocks, as they are searched: fused where prototypes count."""
        rows = slice(0, self.manifest.shards[number].rows)
        for _, block in self._scorer.blocks([(number, rows)], Scoring(self.fusion)):
            yield block

    @property
    def fusion(self) -> Fusion:
        """How much prototypes count in a search that does not say."""
        fitted = self.manifest.fusion
        return Fusion(0.0) if fitted is None else Fusion(fitted["kappa"], fitted["offset"])

    def fusion_at(self, kappa: float | Fusion | None) -> Fusion:
        """Returns how much prototypes count in a search with this `kappa`.

        Raises:
            ConfigError: It asks for ground photos where the index has none.
        """
        fusion = self.fusion if kappa is None else kappa
        if not isinstance(fusion, Fusion):
            fusion = Fusion(fusion, self.fusion.offset)
        if fusion.kappa and self.manifest.prototypes is None:
            raise ConfigError(
                f"{self.path}: kappa is {fusion.kappa:g}, and the index has no ground photos; leave it out, or give "
                "photos with `geoview index build --photos`"
            )
        return fusion

    def set_fusion(self, fusion: Fusion, notes: dict[str, Any]) -> None:
        """Commits how much prototypes count from now on; who has opened the index before goes on as he did.

        Args:
            fusion: What to commit.
            notes: What it was fitted on, and what it reaches.

        Raises:
            ConfigError: The index has no prototypes, or is at an address.
            BusyError: The index is being written.
        """
        folder = self.folder
        if self.manifest.prototypes is None:
            raise ConfigError(
                f"{self.path}: has no ground photos to weigh; give some with `geoview index build --photos`"
            )
        with store.writing(folder) as latest:
            # Scores of another fusion are others: what was calibrated says nothing of them.
            store.commit(folder, replace(latest, fusion={**asdict(fusion), **notes}, calibration=None))
            store.sweep(folder)
        self._reopen()

    def set_calibration(self, calibration: dict[str, Any]) -> None:
        """Commits what makes scores probabilities from now on; who has opened the index before goes on as he did.

        Args:
            calibration: What to commit, and what it was fitted on and reaches.

        Raises:
            ConfigError: The index is at an address.
            BusyError: The index is being written.
        """
        folder = self.folder
        with store.writing(folder) as latest:
            store.commit(folder, replace(latest, calibration=calibration))
            store.sweep(folder)
        self._reopen()

    def _reopen(self) -> None:
        self.close()
        self._attach(store.Commit.open(self.path))

    def count(self, region: Region) -> int:
        """Returns how many codes lie in a region.

        Raises:
            RegionError: None does.
        """
        return n_rows(self._selection(region, Scoring(self.fusion)))

    def cell_ids(self) -> NDArray[np.uint64]:
        """Returns the cell of every row, (N,), ascending; a cell with several dates comes several times."""
        return np.concatenate([_NO_CELLS, *self._table.columns("cell")])

    def has_cells(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Tells which of some cells have a code."""
        above = cells.parents(ids, max(0, self.level - store.SHARD_LEVELS))
        found = np.zeros(len(ids), np.bool_)
        parents = cells.from_tokens([s.parent for s in self.manifest.shards])
        for number in np.flatnonzero(np.isin(parents, above)).tolist():
            found |= np.isin(ids, self._table.column("cell", number))
        return found

    def dates(self) -> NDArray[np.int32]:
        """Returns the date of the imagery of every row, (N,), as `yyyymmdd` writes it; 0 where it is not known."""
        none = np.empty(0, np.int32)
        return np.concatenate([none, *self._table.columns("date")])

    def dates_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Returns the dates of some rows, of their shape; 0 for -1, too."""
        return self._table.dates(rows)

    def prototypes(self) -> Prototypes:
        """Returns all prototypes, in S2 order.

        Raises:
            ConfigError: The index has none.
        """
        if self.manifest.prototypes is None:
            raise ConfigError(f"{self.path}: has no ground photos")
        read = [store.read_prototypes(self.path, entry) for entry in self.manifest.prototypes.shards]
        return Prototypes.concatenate([Prototypes.none(self.manifest.dim), *read])

    def skipped_cell_ids(self) -> NDArray[np.uint64]:
        """Returns the cells that have no code because their chips had too little valid ground, (M,), ascending."""
        return np.concatenate([_NO_CELLS, *self._table.columns("skipped_cell")])

    def extent_deg(self) -> tuple[float, float, float, float] | None:
        """Returns (south, west, north, east) around the centres of all cells; None for an empty index.

        West is above east where the index crosses the date line.
        """
        ids = self.cell_ids()
        return cells.extent_deg(ids) if len(ids) else None

    def verify(self) -> list[str]:
        """Reads everything and compares it with what was written; at an address, without any copies of before.

        Returns:
            A line for each thing that is wrong, naming the file; empty for a sound index.

        Raises:
            IndexUnreachableError: The address does not answer.
        """
        if isinstance(self.path, Address):
            with self.path.anew() as anew:
                return CellIndex(anew, self._commit, checked=self._checked)._problems()
        return self._problems()

    def _problems(self) -> list[str]:
        found = problems(self.path, self.manifest)
        try:
            self.encoder()
            found += damage_of_encoder(self.path, self.manifest)
        except (EncoderMismatchError, ValueError) as error:
            found.append(str(error))
        return found or self._worse()

    def recall_of_rows(self) -> float:
        """Returns the share of the 10 rows most like each of some rows that the search finds which was chosen."""
        rows = spaced(len(self), _SAMPLE)
        queries = self.codes_of(rows)[:, : self.manifest.dim].astype(np.float32)
        best = self.search(queries, 10, exact=True).row
        assert self.manifest.ann is not None, "there is something to compare"
        found = self.search_at(self.manifest.ann.chosen, queries, 10).row
        return float(np.mean([np.isin(one, other).mean() for one, other in zip(best, found, strict=True)]))

    def _worse(self) -> list[str]:
        """Tells if the lists find less than when they were tuned."""
        table = self.manifest.ann
        if table is None or (found := self.recall_of_rows()) >= table.recall_of_rows - _WORSE:
            return []
        return [
            f"{self.path / table.lists_folder}: finds {found:.0%} of the rows most like some of its rows, and found "
            f"{table.recall_of_rows:.0%} when it was tuned; run `geoview index tune` again"
        ]

    def _scoring(self, fusion: Fusion, dates: Dates) -> Scoring:
        return Scoring(fusion, dates if self.dates_a_cell > 1 else None)

    def _scored(
        self,
        queries: NDArray[np.floating],
        wanted: NDArray[np.uint64],
        kappa: float | Fusion | None,
        dates: Dates,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """Yields rows of some cells, ascending, which of the cells each is of, and what it scores, (Q, rows)."""
        scoring = self._scoring(self.fusion_at(kappa), dates)
        queries = self._scorer.queries(queries, scoring).astype(np.float32)
        selection = self._table.rows_in(np.stack([wanted, wanted], axis=1))
        if scoring.dates in ("mean", "latest"):
            selection = self._scorer.cell_dates.newest(selection)
        for rows, codes in self._scorer.blocks(selection, scoring):
            yield rows, np.searchsorted(wanted, self._table.cell_ids(rows)), queries @ codes.T.astype(np.float32)

    def _hits(self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int, scoring: Scoring) -> Hits:
        """Returns the best cells of rows that are sorted by their scores."""
        if scoring.dates == "max":
            again = (rows >= 0) & ~first_of_each(self._scorer.cell_dates.around(rows)[1])
            order = np.argsort(again, axis=1, kind="stable")
            rows = np.take_along_axis(np.where(again, -1, rows), order, 1)
            scores = np.take_along_axis(np.where(again, np.float32(-np.inf), scores), order, 1)
        rows, scores = rows[:, :k], scores[:, :k]
        return Hits(self._table.cell_ids(rows), rows, scores)

    def _selection(self, region: Region | None, scoring: Scoring) -> Selection:
        """Returns the rows in the region, ascending; shards without any are left out, unread where possible.

        Where one row stands for all dates of a cell, it is the newest.

        Raises:
            RegionError: There is no such row.
        """
        newest = scoring.dates in ("mean", "latest")
        if region is None and not newest:
            return self._table.everything
        # Photos come in batches, and ask for the same region again and again.
        if self._selected[0] is not region:
            self._selected = region, {}
        known = self._selected[1]
        if newest not in known:
            selection = self._table.everything if region is None else known.get(False) or self._inside(region)
            known[newest] = self._scorer.cell_dates.newest(selection) if newest else selection
        return known[newest]

    def _inside(self, region: Region) -> Selection:
        selection = self._table.rows_in(region.cell_ranges(self.level))
        if not selection:
            raise RegionError(
                f"{region.name}: no cell of {self.path} lies in it; `geoview info {self.path}` tells its extent"
            )
        return selection

    def _compared(
        self, queries: NDArray[np.floating], k: int, selection: Selection, scoring: Scoring, device: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scores all rows of a selection."""
        plain = scoring.dates in (None, "max") and not scoring.fusion.kappa
        if len(queries) == 1 and plain and device == "cpu" and n_rows(selection) == len(self):
            scanned = self._scanned if scoring.dates is None else self._scanned_by_dates
            found = scanned(queries[0], k)
            if found is not None:
                return found[0][None], found[1][None]
        return top_k(queries, self._scorer.blocks(selection, scoring), k, device=device)

    def _scanned(self, query: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Scores all rows for one query; None where that takes a closer look, or shards are not plain."""
        blocks = self._table.mapped()
        return scan(query, blocks, k, num_workers=torch.get_num_threads()) if blocks else None

    def _scanned_by_dates(
        self, query: NDArray[np.floating], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Does the same where something is taken off the rows of cells with several dates."""
        n = _ROWS_A_BEST * k
        found = None if n > len(self) else self._scanned(query[:-1], n)
        if found is None:
            return None
        rows, scores = found
        last, scores = scores[-1], scores - np.float32(query[-1]) * self._scorer.gains(rows).astype(np.float16)
        best = np.lexsort((rows, -scores))[:k]
        # Of all other rows none scores more than the last of these before anything is taken off.
        return (rows[best], scores[best]) if scores[best[-1]] > last else None

    def _proposed(
        self,
        queries: NDArray[np.floating],
        k: int,
        selection: Selection,
        scoring: Scoring,
        point: Point,
        device: str,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scores what the lists propose, and all rows of shards that the lists do not know yet."""
        if self._proposals is None:
            self._proposals = Proposals.open(self.path, self.manifest, checked=self._checked)
            if self._proposals.room_bytes is not None:
                self._table.room_bytes = self._proposals.room_bytes
        lists = self._proposals.of(selection, len(queries) * point.n_probe)
        n = k * point.k_factor
        scored = partial(self._scorer.codes, scoring=scoring)
        best = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        step = min(_QUERIES, max(1, _CANDIDATES // n))
        for part in (slice(i, i + step) for i in range(0, len(queries), step)):
            candidates = self._proposals.candidates(lists, queries[part, : self.searched_dim], n, point.n_probe)
            if scoring.dates == "max":
                candidates = self._scorer.cell_dates.all_of(candidates)
            best[0][part], best[1][part] = top_k_of(queries[part], candidates, scored, k)
        rest = self._proposals.unknown(selection)
        if rest:
            best = merged_top_k(best, top_k(queries, self._scorer.blocks(rest, scoring), k, device=device))
        return best
