"""An index that is open: search it, look at it, check it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from geoview.config import AerialView
from geoview.errors import ConfigError, EncoderMismatchError, RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import store
from geoview.index.fusion import Fusion, fused_codes, fused_queries, interpolated
from geoview.index.manifest import Point
from geoview.index.proposals import Proposals, Selection, n_rows
from geoview.index.prototypes import Prototypes
from geoview.index.remote import Address, Place, local_folder, place_of
from geoview.index.scan import scan
from geoview.index.shards import Shard
from geoview.index.soundness import damage_of_encoder, problems
from geoview.models.encoder import CrossViewEncoder
from geoview.topk import merged_top_k, top_k, top_k_of

__all__ = ["ALWAYS_EXACT", "CellIndex", "Hits"]

# Rows taken at once: 16,384 x 1,024 in half precision are 32 MB.
_READ_ROWS = 16_384
# How many times the candidates the rows must be, or scoring all of them is less work.
_WORTH_IT = 8
# Codes that may stay mapped after they were looked up: to map a row again takes longer than to score it.
_GATHERED_BYTES = 2**30
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Queries at once, which share what is read of the lists: for a few hundred at a time it takes nearly twice as long.
_QUERIES = 1_024
# Candidates that are held at once, of all queries together.
_CANDIDATES = 2**19
# Rows that a check of the lists searches for, and how much less than before it may find.
_SAMPLE, _WORSE = 200, 0.05
#: (row numbers, codes)
Blocks = Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]
_NO_CELLS = np.empty(0, np.uint64)
# Shards that are read at once at an address, where time goes into waiting for answers.
_AT_ONCE = 16
S = TypeVar("S")
T = TypeVar("T")
#: Fewer rows are scored one and all: faster than any detour, and exact.
ALWAYS_EXACT = 50_000


@dataclass(frozen=True)
class Hits:
    """Best cells for Q queries.

    Attributes:
        cell_id: (Q, k) uint64, 0 where there are fewer than k.
        row: (Q, k) int64 row numbers in S2 order, -1 where there are fewer than k.
        score: (Q, k) float32 inner products, -inf where there are fewer than k.
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
        self.path, self.manifest = path, commit.manifest
        self._commit, self._checked = commit, checked
        self._first_row = np.cumsum([0, *(s.rows for s in self.manifest.shards)])
        self._shards: dict[int, Shard] = {}
        self._prototypes: dict[str, Shard] = {}
        self._proposals: Proposals | None = None
        self._selected: tuple[Region, Selection] | None = None
        self._floor_bytes = 0

    @classmethod
    def open(cls, path: str | Place, *, checked: bool = False) -> Self:
        """Opens an index; reads the manifest and nothing else.

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
        return cls(place, store.Commit.open(place), checked=checked)

    def close(self) -> None:
        """Lets go of the commit and of all files: what has been replaced since may be swept away."""
        self._shards.clear()
        self._prototypes.clear()
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
        return max([1, *(entry.dates_a_cell for entry in self.manifest.shards)])

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
        exact: bool = False,
        device: str = "cpu",
    ) -> Hits:
        """Finds the cells whose codes have the largest inner products with the queries.

        An index that was tuned looks through a part of its codes, and finds what it was tuned to find; one that was
        not, small regions, large k and another kappa are searched exactly.

        Args:
            queries: (Q, dim) embeddings of this index's encoder.
            k: Rows to find for each query.
            region: Search these cells only; reads only their rows.
            kappa: Weight of ground photos against imagery; None is what the index was fitted to.
            exact: Score all codes, whatever the index was tuned to.
            device: Where all rows are scored; the few that lists propose are scored on the CPU.

        Returns:
            The best rows, best first, with their exact scores; equal scores in S2 order.

        Raises:
            RegionError: No cell of the index lies in the region.
            EncoderMismatchError: The queries are not as long as the codes.
            ConfigError: `kappa` is out of range, or asks for ground photos where the index has none.
            IndexCorruptError: A file is missing or truncated.
            IndexUnreachableError: The address of the index does not answer.
        """
        fusion = self._fusion(kappa)
        queries = self._fitting(queries, fusion)
        table, selection = self.manifest.ann, self._selection(region)
        tuned = table is not None and table.chosen.n_probe > 0 and (table.kappa, table.offset) == tuple(astuple(fusion))
        few = ALWAYS_EXACT if table is None else max(ALWAYS_EXACT, _WORTH_IT * k * table.chosen.k_factor)
        if exact or table is None or not tuned or n_rows(selection) <= few:
            rows, scores = self._compared(queries, k, selection, fusion, device)
        else:
            # Of as many lists, a region's rows fill a part: as many of its rows are looked through as of all.
            lists = math.ceil(table.chosen.n_probe * len(self) / n_rows(selection))
            point = replace(table.chosen, n_probe=lists)
            rows, scores = self._proposed(queries, k, selection, fusion, point, device)
        return Hits(self._cell_ids(rows), rows, scores)

    def search_at(
        self, point: Point, queries: NDArray[np.floating], k: int, *, region: Region | None = None, device: str = "cpu"
    ) -> Hits:
        """Searches in a given way, which need not be the one that was chosen: for measuring."""
        fusion = self._fusion(None)
        queries, selection = self._fitting(queries, fusion), self._selection(region)
        rows, scores = self._proposed(queries, k, selection, fusion, point, device)
        return Hits(self._cell_ids(rows), rows, scores)

    @property
    def searched_dim(self) -> int:
        """Length of the codes as they are searched."""
        return self.manifest.dim + bool(self.fusion.kappa)

    def codes_of(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Returns the codes of ascending rows, (n, searched_dim), as they are searched."""
        return self._fused(rows, self._gathered(rows), self.fusion)

    def codes(self, number: int) -> Iterator[NDArray[np.floating]]:
        """Yields the codes of a shard in blocks, as they are searched: fused where prototypes count."""
        for _, block in self._blocks([(number, slice(0, self.manifest.shards[number].rows))], self.fusion):
            yield block

    @property
    def fusion(self) -> Fusion:
        """How much prototypes count in a search that does not say."""
        fitted = self.manifest.fusion
        return Fusion(0.0) if fitted is None else Fusion(fitted["kappa"], fitted["offset"])

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
            store.commit(folder, replace(latest, fusion={**asdict(fusion), **notes}))
            store.sweep(folder)
        self._commit.close()
        self._commit = store.Commit.open(self.path)
        self.manifest = self._commit.manifest
        self._proposals = None

    def count(self, region: Region) -> int:
        """Returns how many codes lie in a region.

        Raises:
            RegionError: None does.
        """
        return n_rows(self._selection(region))

    def cell_ids(self) -> NDArray[np.uint64]:
        """Returns the cell of every row, (N,), ascending; a cell with several dates comes several times."""
        return np.concatenate([_NO_CELLS, *self._of_each(range(self._n_shards), lambda i: self._sound("cell", i))])

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
        skipped = self._of_each(range(self._n_shards), lambda i: self._sound("skipped_cell", i))
        return np.concatenate([_NO_CELLS, *skipped])

    def extent_deg(self) -> tuple[float, float, float, float] | None:
        """Returns (south, west, north, east) around the centres of all cells; None for an empty index.

        West is above east where the index crosses the date line.
        """
        ids = self.cell_ids()
        if not len(ids):
            return None
        centres = cells.centers_deg(ids)
        longitudes = np.sort(centres[:, 1])
        # The largest gap on the circle of longitudes is what the index does not cover.
        gaps = np.diff(longitudes, append=longitudes[0] + 360)
        widest = int(np.argmax(gaps))
        west, east = longitudes[(widest + 1) % len(longitudes)], longitudes[widest]
        return float(centres[:, 0].min()), float(west), float(centres[:, 0].max()), float(east)

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
        rows = np.unique(np.linspace(0, len(self) - 1, _SAMPLE).astype(np.int64))
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

    @property
    def _n_shards(self) -> int:
        return len(self.manifest.shards)

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = store.open_shard(self.path, self.manifest.shards[number])
        return self._shards[number]

    def _of_each(self, shards: Iterable[S], read: Callable[[S], T]) -> list[T]:
        """Reads something of each of some shards; at an address, of several at once."""
        if isinstance(self.path, Path):
            return list(map(read, shards))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(read, shards))

    def _sound(self, name: str, number: int) -> NDArray[Any]:
        """Returns a shard's column after comparing it with its checksums: a wrong cell would be a wrong place."""
        self._shard(number).check(name)
        return self._shard(number).read(name)

    def _fusion(self, kappa: float | Fusion | None) -> Fusion:
        fusion = self.fusion if kappa is None else kappa
        if not isinstance(fusion, Fusion):
            fusion = Fusion(fusion, self.fusion.offset)
        if fusion.kappa and self.manifest.prototypes is None:
            raise ConfigError(
                f"{self.path}: kappa is {fusion.kappa:g}, and the index has no ground photos; leave it out, or give "
                "photos with `geoview index build --photos`"
            )
        return fusion

    def _fitting(self, queries: NDArray[np.floating], fusion: Fusion) -> NDArray[np.floating]:
        """Returns queries as long as the codes that are searched."""
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise EncoderMismatchError(
                f"{self.path}: codes have {self.manifest.dim} elements, the queries' shape is {queries.shape}; "
                "embed them with the index's own encoder"
            )
        return fused_queries(queries) if fusion.kappa else queries

    def _fused(self, rows: NDArray[np.int64], aerial: NDArray[np.floating], fusion: Fusion) -> NDArray[np.floating]:
        if not fusion.kappa:
            return aerial
        table = self.manifest.prototypes
        assert table is not None, "_fusion asks for prototypes"
        return fused_codes(aerial, interpolated(self._cell_ids(rows), table.level, self._sums_of), fusion)

    def _sums_of(self, ids: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Returns the (n, dim) sums of prototypes' cells in ascending order, zeros where there is none."""
        assert self.manifest.prototypes is not None
        found = np.zeros((len(ids), self.manifest.dim), np.float32)
        for entry in self.manifest.prototypes.shards:
            parent = cells.from_tokens([entry.parent])
            first = int(np.searchsorted(ids, cells.range_min(parent)[0]))
            last = int(np.searchsorted(ids, cells.range_max(parent)[0], "right"))
            if first == last or not entry.rows:
                continue
            if entry.parent not in self._prototypes:
                self._prototypes[entry.parent] = store.open_prototypes(self.path, entry)
            shard = self._prototypes[entry.parent]
            shard.check("cell")
            known = shard.read("cell")
            at = np.searchsorted(known, ids[first:last]).clip(max=len(known) - 1)
            here = np.flatnonzero(known[at] == ids[first:last])
            if self._checked:
                shard.check("sum", at[here])
            found[first + here] = shard.take("sum", at[here])
        return found

    def _selection(self, region: Region | None) -> Selection:
        """Returns the rows in the region, ascending; shards without any are left out, unread where possible.

        Raises:
            RegionError: There is no such row.
        """
        if region is None:
            return [(i, slice(0, entry.rows)) for i, entry in enumerate(self.manifest.shards) if entry.rows]
        # Photos come in batches, and ask for the same region again and again.
        if self._selected is None or self._selected[0] is not region:
            self._selected = region, self._inside(region)
        return self._selected[1]

    def _inside(self, region: Region) -> Selection:
        ranges = region.cell_ranges(self.level)
        parents = cells.from_tokens([s.parent for s in self.manifest.shards])
        lows, highs = cells.range_min(parents), cells.range_max(parents)
        firsts, lasts = np.searchsorted(ranges[:, 1], lows), np.searchsorted(ranges[:, 0], highs, "right")
        touched = np.flatnonzero(firsts < lasts).tolist()
        inside = self._of_each(
            touched, lambda i: cells.rows_in_ranges(self._sound("cell", i), ranges[firsts[i] : lasts[i]])
        )
        selection: Selection = [(i, rows) for i, rows in zip(touched, inside, strict=True) if len(rows)]
        if not selection:
            raise RegionError(
                f"{region.name}: no cell of {self.path} lies in it; `geoview info {self.path}` tells its extent"
            )
        return selection

    def _blocks(self, selection: Selection, fusion: Fusion) -> Blocks:
        for number, selected in selection:
            rows = np.arange(selected.start, selected.stop) if isinstance(selected, slice) else selected
            for start in range(0, len(rows), _READ_ROWS):
                part = rows[start : start + _READ_ROWS]
                everywhere = self._first_row[number] + part
                yield everywhere, self._fused(everywhere, self._aerial(number, part), fusion)

    def _aerial(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        shard = self._shard(number)
        if self._checked:
            shard.check("aerial", rows)
        return shard.take("aerial", rows)

    def _compared(
        self, queries: NDArray[np.floating], k: int, selection: Selection, fusion: Fusion, device: str
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scores all rows of a selection."""
        if len(queries) == 1 and not fusion.kappa and device == "cpu" and n_rows(selection) == len(self):
            found = self._scanned(queries[0], k)
            if found is not None:
                return found[0][None], found[1][None]
        return top_k(queries, self._blocks(selection, fusion), k, device=device)

    def _scanned(self, query: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Scores all rows for one query; None where that takes a closer look, or shards are not plain."""
        blocks = []
        for number, entry in enumerate(self.manifest.shards):
            shard = self._shard(number)
            if not shard.is_plain("aerial"):
                return None
            if self._checked:
                shard.check("aerial")
            blocks += [shard.take("aerial", slice(0, entry.rows))] if entry.rows else []
        return scan(query, blocks, k, num_workers=torch.get_num_threads()) if blocks else None

    def _proposed(
        self,
        queries: NDArray[np.floating],
        k: int,
        selection: Selection,
        fusion: Fusion,
        point: Point,
        device: str,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Scores what the lists propose, and all rows of shards that the lists do not know yet."""
        if self._proposals is None:
            self._proposals = Proposals.open(self.path, self.manifest, checked=self._checked)
        mask = self._proposals.mask(selection)
        n = k * point.k_factor
        best = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        step = min(_QUERIES, max(1, _CANDIDATES // n))
        for part in (slice(i, i + step) for i in range(0, len(queries), step)):
            candidates = self._proposals.candidates(queries[part], n, point.n_probe, mask)
            best[0][part], best[1][part] = top_k_of(queries[part], candidates, self.codes_of, k)
            self._trim()
        rest = self._proposals.unknown(selection)
        if rest:
            best = merged_top_k(best, top_k(queries, self._blocks(rest, fusion), k, device=device))
        return best

    def _trim(self) -> None:
        """Lets go of codes that were read here and there, which would fill memory with all of them in the end.

        The kernel keeps them as long as it has no better use for the memory.
        """
        held = _file_bytes()
        if held > self._floor_bytes + _GATHERED_BYTES:
            for shard in self._shards.values():
                shard.release("aerial")
            self._floor_bytes = _file_bytes()

    def _gathered(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Returns the aerial codes of ascending rows, (n, dim)."""
        gathered = np.empty((len(rows), self.manifest.dim), np.float16)

        def gather(part: tuple[int, slice, NDArray[np.int64]]) -> None:
            number, here, inside = part
            gathered[here] = self._aerial(number, inside)

        self._of_each(self._by_shard(rows), gather)
        return gathered

    def _cell_ids(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        found, order = np.zeros(rows.size, np.uint64), np.argsort(rows, axis=None)

        def find(part: tuple[int, slice, NDArray[np.int64]]) -> None:
            number, here, inside = part
            self._shard(number).check("cell", inside)
            found[order[here]] = self._shard(number).read("cell")[inside]

        self._of_each(self._by_shard(rows.ravel()[order]), find)
        return found.reshape(rows.shape)

    def _by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, slice, NDArray[np.int64]]]:
        """Yields the shards of ascending rows: which of the rows lie in one, and their numbers in there."""
        ends = np.searchsorted(rows, self._first_row)
        for number in np.flatnonzero(np.diff(ends)).tolist():
            here = slice(ends[number], ends[number + 1])
            yield number, here, rows[here] - self._first_row[number]


def _file_bytes() -> int:
    """Returns how much of mapped files this process holds in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * _PAGE_BYTES
