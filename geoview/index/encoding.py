"""Cells to rows: a chip for each, cut ahead of the encoder, and a code for each chip, kept block by block."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import tiles
from geoview.config import BuildConfig
from geoview.embed import embed, read_ahead
from geoview.errors import EncoderError
from geoview.files import write_binary, write_json
from geoview.geo import cells
from geoview.index import store
from geoview.index.dates import yyyymmdd
from geoview.index.scales import around, level_of, pooled
from geoview.models.encoder import CrossViewEncoder

__all__ = ["Encoding", "progress"]

# Cells between two saves: what a kill costs at most, and what is kept in memory as float32.
_BLOCK_CELLS = 2048
# Chips that make it worth while to start processes that cut them, and how many are cut at a time.
_MANY_CHIPS, _STRETCH_CHIPS = 1024, 32


@dataclass
class Encoding:
    """Makes rows of cells, in which no block is lost when the process is killed; to be closed.

    Attributes:
        encoder: Embeds chips.
        source: Imagery that chips are cut from; None where there are no cells to encode.
        config: Level of the cells, scales, least coverage, and how the encoder is run.
        journal: Folder of the build, which notes imagery that could not be read.
    """

    encoder: CrossViewEncoder
    source: tiles.ImagerySource | None
    config: BuildConfig
    journal: Path
    _processes: tiles.ChipProcesses | None = field(default=None, init=False)

    def close(self) -> None:
        """Ends the processes that cut chips, if there are any."""
        if self._processes is not None:
            self._processes.close()
            self._processes = None

    def rows(self, ids: NDArray[np.uint64], journal: Path, bar: tqdm[Any]) -> store.Rows:
        """Returns the rows of cells.

        Args:
            ids: Cells, ascending.
            journal: Folder in which blocks are kept until all are there; what it has is not made again.
            bar: Counts cells.

        Raises:
            EncoderError: A code is not finite; the cell is named.
        """
        rows = self._of_scale(ids, 1, journal, bar)
        return self._pooled(rows, journal) if len(rows) and len(self.config.scales) > 1 else rows

    def skipped(self) -> dict[str, str]:
        """Returns imagery that could not be read, by this process or one before it: URI to reason."""
        path = self.journal / "skipped.json"
        earlier: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return earlier | {str(uri): reason for uri, reason in (self.source.skipped if self.source else ())}

    def _pooled(self, rows: store.Rows, journal: Path) -> store.Rows:
        """Adds what the larger scales see to the embeddings of the smallest chips."""
        wider: dict[int, store.Rows] = {}
        for scale in self.config.scales[1:]:
            level = level_of(scale, self.config.level)
            ids = around(rows.cell, level)
            with progress(f"scale {scale}", len(ids), leave=False) as bar:
                wider[level] = self._of_scale(ids, scale, journal, bar)
        return pooled(rows, wider)

    def _of_scale(self, ids: NDArray[np.uint64], scale: int, journal: Path, bar: tqdm[Any]) -> store.Rows:
        """Returns the embeddings of the chips of one scale around cells; what the journal has is not made again."""
        starts = range(0, len(ids), _BLOCK_CELLS)
        blocks = [(ids[start : start + _BLOCK_CELLS], journal / f"{scale}_{start:06d}.npz") for start in starts]
        finished = [_read_block(path, block) for block, path in blocks]
        left = [block for (block, _), part in zip(blocks, finished, strict=True) if part is None]
        parts: list[store.Rows] = []
        with closing(self._encoded(left, scale, bar)) as made:
            for (block, path), part in zip(blocks, finished, strict=True):
                if part is None:
                    parts.append(self._kept(next(made), path))
                else:
                    parts.append(part)
                    bar.update(len(block))
        return store.Rows.concatenate(parts)

    def _kept(self, rows: store.Rows, path: Path) -> store.Rows:
        """Keeps a block in the journal."""
        write_json(self.journal / "skipped.json", self.skipped())
        arrays: dict[str, Any] = {f.name: getattr(rows, f.name) for f in fields(rows)}
        # Not straight into the file: of a disk that is full, zipfile has more to say than one line.
        whole = BytesIO()
        np.savez(whole, **arrays)
        with write_binary(path) as file:
            file.write(whole.getbuffer())
        return rows

    def _encoded(self, blocks: Sequence[NDArray[np.uint64]], scale: int, bar: tqdm[Any]) -> Generator[store.Rows]:
        """Yields the rows of blocks of cells; from one to the next, the encoder does not wait."""
        if not blocks:
            return
        ids, ends = np.concatenate(blocks), np.cumsum([len(block) for block in blocks]).tolist()
        coverage, dates = np.zeros(len(ids), np.float16), np.zeros(len(ids), np.int32)
        n_cut, in_work = 0, deque[int]()
        stopped: BaseException | None = None

        def covered(chips: Iterator[tiles.Chip | None]) -> Iterator[tiles.Chip]:
            nonlocal n_cut, stopped
            try:
                for i, chip in enumerate(chips):
                    bar.update()
                    n_cut = i + 1
                    if chip is None:
                        continue
                    coverage[i] = share = chip.valid_fraction
                    if share >= self.config.min_coverage:
                        dates[i] = yyyymmdd(chip.date)
                        in_work.append(i)
                        yield chip
            except (Exception, KeyboardInterrupt) as error:
                stopped = error  # when what was cut before is encoded, and kept

        starts = [0, *ends[:-1]]
        vectors: dict[int, NDArray[np.float16]] = {}

        def finished() -> Iterator[store.Rows]:
            while ends and n_cut >= ends[0] and not (in_work and in_work[0] < ends[0]):
                where = range(starts.pop(0), ends.pop(0))
                mine = {cell: vectors.pop(cell) for cell in where if cell in vectors}
                yield self._block(where, ids, mine, coverage, dates)

        with closing(self._chips(ids, scale)) as chips:
            try:
                for vector in embed(self.encoder, covered(chips), self.config, seen="aerial"):
                    vectors[in_work.popleft()] = vector.astype(np.float16)
                    yield from finished()
            except EncoderError as error:
                raise EncoderError(f"cell {cells.tokens(ids[in_work[0] :][:1])[0]}: {error}") from error
        yield from finished()
        if stopped is not None:
            raise stopped

    def _block(
        self,
        where: range,
        ids: NDArray[np.uint64],
        vectors: dict[int, NDArray[np.float16]],
        coverage: NDArray[np.float16],
        dates: NDArray[np.int32],
    ) -> store.Rows:
        """Returns the rows of a block of cells, of which those with a vector have a code."""
        here = np.array(where)
        with_code, without = np.array([*vectors], np.intp), here[[cell not in vectors for cell in where]]
        aerial = np.stack([*vectors.values()]) if vectors else np.empty((0, self.encoder.dim), np.float16)
        return store.Rows(
            aerial, ids[with_code], dates[with_code], coverage[with_code], ids[without], coverage[without]
        )

    def _chips(self, ids: NDArray[np.uint64], scale: int) -> Generator[tiles.Chip | None]:
        """Yields the chips around cells, None where there is no imagery; ahead of the encoder."""
        assert self.source is not None, "without imagery there are no cells to encode"
        view, num_workers = self.encoder.aerial, self.config.num_workers
        size_px, gsd_m = view.size_px, scale * view.gsd_m
        centres_deg = cells.centers_deg(ids)
        if self._processes is None and len(centres_deg) >= _MANY_CHIPS and isinstance(self.source, tiles.ChipSource):
            self._processes = tiles.ChipProcesses(self.source, num_workers)
        if self._processes is None:
            yield from read_ahead(
                _Chips(self.source, size_px, gsd_m).cut,
                centres_deg,
                num_workers=num_workers,
                depth=2 * self.config.batch_size,
            )
            return
        processes = self._processes
        for chips in read_ahead(
            lambda stretch_deg: processes.chips(stretch_deg, size_px, gsd_m),
            np.array_split(centres_deg, math.ceil(len(centres_deg) / _STRETCH_CHIPS)),
            num_workers=num_workers,
            depth=2 * max(num_workers, math.ceil(self.config.batch_size / _STRETCH_CHIPS)),
        ):
            yield from chips


def progress(what: str, total: int, *, leave: bool = True) -> tqdm[Any]:
    """Returns a bar that counts cells."""
    return tqdm(total=total, desc=what, unit="cell", leave=leave, disable=None, dynamic_ncols=True)


@dataclass(frozen=True)
class _Chips:
    source: tiles.ImagerySource
    size_px: int
    gsd_m: float

    def cut(self, latlon_deg: NDArray[np.float64]) -> tiles.Chip | None:
        """Returns the chip around a point, None where there is no imagery at all."""
        try:
            return self.source.chip(latlon_deg, size_px=self.size_px, gsd_m=self.gsd_m)
        except tiles.OutsideCoverageError:
            return None


def _read_block(path: Path, ids: NDArray[np.uint64]) -> store.Rows | None:
    """Returns a finished block of the journal; None where there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = store.Rows(**arrays)
    except (OSError, BadZipFile, ValueError, EOFError, KeyError, TypeError, RuntimeError):
        return None
    held = np.sort(np.concatenate([rows.cell, rows.skipped_cell]))
    return rows if np.array_equal(held, ids) else None
