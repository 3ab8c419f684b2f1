"""An index that is open: search it, look at it, check it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geoview.config import AerialView
from geoview.errors import EncoderMismatchError, IndexCorruptError, RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import store
from geoview.models.encoder import CrossViewEncoder
from geoview.topk import top_k

__all__ = ["CellIndex", "Hits"]

# Rows read at once: 16,384 x 1,024 in half precision are 32 MB.
_READ_ROWS = 16_384
_NO_CELLS = np.empty(0, np.uint64)
# Rows that are read and not used, where that saves a read.
_MAX_GAP_ROWS = 1024
# Codes are rounded to half precision: a unit vector's norm may be off by this much.
_NORM_TOLERANCE = 2e-3


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

    Attributes:
        path: Index folder.
        manifest: The generation that this object reads.
    """

    def __init__(self, path: Path, manifest: store.Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._first_row = np.cumsum([0, *(s.rows for s in manifest.shards)])

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens an index folder; reads the manifest and nothing else.

        Args:
            path: Index folder.

        Raises:
            IndexNotFoundError: It is no index, or its build is not finished.
            IndexVersionError: It was written in a newer format.
            IndexCorruptError: Its manifest cannot be read.
        """
        return cls(Path(path), store.read_manifest(Path(path)))

    def __len__(self) -> int:
        return self.manifest.n_rows

    @property
    def level(self) -> int:
        """S2 level of the cells."""
        return self.manifest.level

    @property
    def chip(self) -> AerialView:
        """Geometry of the chips behind the codes."""
        return AerialView(**self.manifest.chip)

    def encoder(self) -> CrossViewEncoder:
        """Opens the encoder that made the codes.

        Raises:
            EncoderMismatchError: The encoder in the folder is another one.
            EncoderError: It cannot be opened.
        """
        encoder = CrossViewEncoder.load(self.path / self.manifest.encoder["folder"])
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
        device: str = "cpu",
    ) -> Hits:
        """Finds the cells whose codes have the largest inner products with the queries, exactly.

        Args:
            queries: (Q, dim) embeddings of this index's encoder.
            k: Rows to find for each query.
            region: Search these cells only; reads only their rows.
            device: Where to compute.

        Returns:
            The best rows, best first; equal scores in S2 order.

        Raises:
            RegionError: No cell of the index lies in the region.
            EncoderMismatchError: The queries are not as long as the codes.
            IndexCorruptError: A file is missing or truncated.
        """
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise EncoderMismatchError(
                f"{self.path}: codes have {self.manifest.dim} elements, the queries' shape is {queries.shape}; "
                "embed them with the index's own encoder"
            )
        selection = list(self._selection(region))
        if region is not None and not selection:
            raise RegionError(
                f"{region.name}: no cell of {self.path} lies in it; `geoview info {self.path}` tells its extent"
            )
        rows, scores = top_k(queries, self._blocks(selection), k, device=device)
        return Hits(self._cell_ids(rows), rows, scores)

    def cell_ids(self) -> NDArray[np.uint64]:
        """Returns the cell of every row, (N,), ascending; a cell with several dates comes several times."""
        return np.concatenate([_NO_CELLS, *(store.read_cells(self.path, s) for s in self.manifest.shards)])

    def skipped_cell_ids(self) -> NDArray[np.uint64]:
        """Returns the cells that have no code because their chips had too little valid ground, (M,), ascending."""
        opened = (store.read_shard(self.path, s) for s in self.manifest.shards)
        return np.concatenate([_NO_CELLS, *(store.read_rows(s["skipped_cell"], 0, 2**62) for s in opened)])

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
        """Reads everything and compares it with what was written.

        Returns:
            A line for each thing that is wrong, naming the file; empty for a sound index.
        """
        problems: list[str] = []
        try:
            self.encoder()
        except (EncoderMismatchError, ValueError) as error:
            problems.append(str(error))
        for entry in self.manifest.shards:
            try:
                damaged = store.damaged_blocks(self.path, entry)
                problems += damaged or self._disorder(entry)
            except IndexCorruptError as error:
                problems.append(str(error))
        return problems

    def _disorder(self, entry: store.ShardEntry) -> list[str]:
        """Checks what checksums cannot: order, place and norms."""
        arrays = store.read_shard(self.path, entry)
        problems = []
        parent = cells.from_tokens([entry.parent])
        low, high = cells.range_min(parent)[0], cells.range_max(parent)[0]
        ids, dates = store.read_rows(arrays["cell"], 0, entry.rows), store.read_rows(arrays["date"], 0, entry.rows)
        if len(ids):
            if not np.array_equal(np.lexsort((dates, ids)), np.arange(len(ids))):
                problems.append(f"{entry.folder}/cell: not in the order of (cell, date)")
            if ids.min() < low or ids.max() > high or (cells.levels(ids) != self.level).any():
                problems.append(f"{entry.folder}/cell: holds cells of another level or another shard")
        for start in range(0, entry.rows, _READ_ROWS):
            block = store.read_rows(arrays["aerial"], start, min(start + _READ_ROWS, entry.rows)).astype(np.float32)
            wrong = np.flatnonzero(~(np.abs(np.linalg.norm(block, axis=1) - 1) <= _NORM_TOLERANCE))
            if len(wrong):
                problems.append(f"{entry.folder}/aerial: row {start + wrong[0]} is not a unit vector")
        return problems

    def _selection(self, region: Region | None) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yields (shard, its rows in the region, ascending); shards without any are left out, unread where possible."""
        if region is None:
            yield from ((i, np.arange(entry.rows)) for i, entry in enumerate(self.manifest.shards) if entry.rows)
            return
        ranges = region.cell_ranges(self.level)
        parents = cells.from_tokens([s.parent for s in self.manifest.shards])
        lows, highs = cells.range_min(parents), cells.range_max(parents)
        for i, entry in enumerate(self.manifest.shards):
            first, last = np.searchsorted(ranges[:, 1], lows[i]), np.searchsorted(ranges[:, 0], highs[i], "right")
            if first < last:
                ids = store.read_cells(self.path, entry)
                # Ranges are disjoint: a cell lies in the last one that begins before it, or in none.
                at = np.searchsorted(ranges[:, 0], ids, "right") - 1
                inside = np.flatnonzero((at >= 0) & (ids <= ranges[at, 1]))
                if len(inside):
                    yield i, inside

    def _blocks(
        self, selection: list[tuple[int, NDArray[np.int64]]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        for shard, rows in selection:
            aerial = store.read_shard(self.path, self.manifest.shards[shard])["aerial"]
            # Rows near one another are read in one go; what lies between them is dropped again.
            for run in np.split(rows, np.flatnonzero(np.diff(rows) > _MAX_GAP_ROWS) + 1):
                for part in np.split(run, np.flatnonzero(np.diff((run - run[0]) // _READ_ROWS)) + 1):
                    block = store.read_rows(aerial, int(part[0]), int(part[-1]) + 1)
                    yield self._first_row[shard] + part, block[part - part[0]]

    def _cell_ids(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        found = np.zeros(rows.shape, np.uint64)
        shards = np.searchsorted(self._first_row, rows, "right") - 1
        for shard in np.unique(shards[rows >= 0]):
            entry = self.manifest.shards[shard]
            ids = store.read_cells(self.path, entry)
            here = (shards == shard) & (rows >= 0)
            found[here] = ids[rows[here] - self._first_row[shard]]
        return found
