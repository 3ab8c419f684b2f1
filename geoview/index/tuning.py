"""From a wish to a way of searching: makes short codes, measures what they find, and commits what was chosen."""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geoview.config import TuneConfig
from geoview.errors import BusyError, ConfigError, IndexCorruptError
from geoview.files import full_disk_told, write_json
from geoview.index import ann, store
from geoview.index.cell_index import ALWAYS_EXACT, CellIndex
from geoview.index.manifest import AnnEntry, AnnTable, Manifest, Point
from geoview.index.remote import local_folder
from geoview.index.shards import file_checksum
from geoview.index.soundness import damage_of_lists

__all__ = ["refresh", "repair", "tune"]

log = logging.getLogger(__name__)

# Dimensions for four bits, the finest first: twice as many are half the memory, and find less.
_DIMS_PER_CODE = (2, 4, 8)
# Share of memory that lists may fill; the rest is for rows that they propose.
_OF_LISTS = 0.8
# Rows that are looked for: few need more candidates for each, many more lists.
_KS = (10, 100)
_K_FACTORS = (1, 2, 4, 10, 20)
_QUERIES, _TIMED = 200, 20
# What finds this much finds no more for more lists.
_ALL = 0.9995
# How alike the queries that are made up are to a row of the index, as cosine: a photo and the chip of its place are
# further apart than two chips are.
_LIKENESS = 0.5
# In the codec's folder until it is committed: what it is made for, and the shards that are coded.
_PLAN = "plan.json"


def tune(path: str | Path, config: TuneConfig, photos: NDArray[np.floating] | None = None) -> tuple[Point, list[Point]]:
    """Makes an index fast, as far as a wish allows, or goes on with a tuning that was cut off.

    Args:
        path: Index folder.
        config: The wish.
        photos: (Q, dim) embeddings to measure with; without them, codes of the index with noise.

    Returns:
        What was chosen, and all that was measured. An index that is fast enough as it is has no need of codes and
        lists, and gets none.

    Raises:
        ConfigError: The wish cannot be met; names the nearest that can. The index stays as it was.
        IndexNotFoundError: It is no index.
        BusyError: It is being written.
        StorageFullError: The disk is full; running the same again goes on.
    """
    out = local_folder(path)
    with full_disk_told(out), store.writing(out) as manifest, _opened(out, manifest) as index:
        if not len(index):
            raise ConfigError(f"{out}: holds no code to search")
        rng = np.random.default_rng(config.seed)
        queries = _made_up(index, rng) if photos is None else rng.permutation(photos)[:_QUERIES]
        exact_gb, coarsest_gb = _needed_gb(index)
        exact_fits = config.memory_gb is None or exact_gb <= config.memory_gb
        points, table = [_exact(index, queries)] if exact_fits else [], None
        dims_per_code = _finest(index, config.memory_gb) if len(index) > ALWAYS_EXACT else None
        if not (points or dims_per_code):
            least_gb = 1.01 * min(exact_gb, coarsest_gb)  # enough, however it is rounded
            raise ConfigError(f"{out}: cannot be searched in {config.memory_gb:g} GB; {least_gb:.3g} GB are enough")
        if dims_per_code:
            table = _with_codec(index, dims_per_code, config, rng)
            points = _frontier([*points, *_measured(out, replace(manifest, ann=table), queries)])
        chosen = _chosen(out, points, config)
        if chosen.n_probe and table is not None:
            said = f"{len(queries)} {'codes with noise' if photos is None else 'photos'}"
            table = replace(table, points=points, chosen=chosen, queries=said)
            with _opened(out, replace(manifest, ann=table)) as tuned:
                table = replace(table, recall_of_rows=tuned.recall_of_rows())
            (out / table.codec_folder / _PLAN).unlink()
        else:
            table = None
        store.commit(out, replace(manifest, ann=table))
        store.sweep(out)
    return chosen, points


def refresh(path: str | Path) -> None:
    """Codes the shards that were changed since an index was tuned; trains and measures nothing.

    Until then they are searched row by row, so that no answer depends on it; if the index is being written, whoever
    writes it does it after that.

    Args:
        path: Index folder.
    """
    out = local_folder(path)
    with suppress(BusyError), full_disk_told(out), store.writing(out) as manifest, _opened(out, manifest) as index:
        table = manifest.ann
        if table is None or [entry.of for entry in table.shards] == list(map(manifest.coded, manifest.shards)):
            return
        if (table.kappa, table.offset) != (index.fusion.kappa, index.fusion.offset):
            log.warning(
                "%s: ground photos count otherwise than when it was tuned, and it is searched exactly until "
                "`geoview index tune` is run again",
                out,
            )
            return
        store.commit(out, replace(manifest, ann=_laid_out(index, table)))
        store.sweep(out)


def repair(path: str | Path) -> list[str]:
    """Makes what is damaged of an index's short codes and lists anew, from its rows.

    Args:
        path: Index folder.

    Returns:
        A line for each thing that was made anew.

    Raises:
        IndexCorruptError: The codec is damaged, and has to be trained again.
        BusyError: The index is being written.
    """
    out = local_folder(path)
    with full_disk_told(out), store.writing(out) as manifest, _opened(out, manifest) as index:
        table = manifest.ann
        if table is None:
            return []
        damage = damage_of_lists(out, table)
        if damage:
            if file_checksum(out / table.codec_folder / ann.CODEC_FILE) != table.codec_checksum:
                raise IndexCorruptError(
                    f"{out / table.codec_folder}: is damaged, and cannot be made anew without training; run "
                    "`geoview index tune` again"
                )
            sound = [entry for entry in table.shards if not store.damage_of_codes(out, entry)]
            store.commit(out, replace(manifest, ann=_laid_out(index, replace(table, shards=sound))))
            store.sweep(out)
    return damage


def _opened(path: Path, manifest: Manifest) -> CellIndex:
    return CellIndex(path, store.Commit(manifest, None), checked=False)


def _needed_gb(index: CellIndex) -> tuple[float, float]:
    """Returns the memory that all rows fill, and the least that lists and what they propose need, infinite for none."""
    exact_gb = np.dtype(np.float16).itemsize * len(index) * index.manifest.dim / 1e9
    if len(index) <= ALWAYS_EXACT:
        return exact_gb, math.inf
    of_lists = ann.memory_bytes(len(index), index.searched_dim, ann.lists_for(len(index)), _DIMS_PER_CODE[-1])
    return exact_gb, of_lists / _OF_LISTS / 1e9


def _finest(index: CellIndex, memory_gb: float | None) -> int | None:
    """Returns the fewest dimensions for four bits that memory allows; None where it allows none."""
    n_lists = ann.lists_for(len(index))
    for dims_per_code in _DIMS_PER_CODE:
        of_lists_gb = ann.memory_bytes(len(index), index.searched_dim, n_lists, dims_per_code) / 1e9
        if memory_gb is None or of_lists_gb <= _OF_LISTS * memory_gb:
            return dims_per_code
    return None


def _made_up(index: CellIndex, rng: np.random.Generator) -> NDArray[np.float32]:
    rows = np.sort(rng.choice(len(index), min(len(index), _QUERIES), replace=False))
    codes = index.codes_of(rows)[:, : index.manifest.dim].astype(np.float32)
    noise = rng.standard_normal(codes.shape, np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    queries = _LIKENESS * codes + math.sqrt(1 - _LIKENESS**2) * noise
    return np.asarray(queries / np.linalg.norm(queries, axis=1, keepdims=True))


def _with_codec(index: CellIndex, dims_per_code: int, config: TuneConfig, rng: np.random.Generator) -> AnnTable:
    """Trains a codec and codes all shards, or goes on where a run before has ended; nothing is measured yet."""
    n_lists = ann.lists_for(len(index))
    fusion = index.fusion
    plan = {
        "after": index.manifest.number,
        "n_lists": n_lists,
        "dims_per_code": dims_per_code,
        "seed": config.seed,
    }
    entries: list[AnnEntry] = []
    for path in index.folder.glob(f"ann/*/{_PLAN}"):
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["plan"] == plan:
            codec, entries = path.parent.name, [AnnEntry(**entry) for entry in said["shards"]]
            break
    else:
        codec = secrets.token_hex(8)
        n = min(len(index), n_lists * ann.TRAINING_ROWS_A_LIST)
        sample = index.codes_of(np.sort(rng.choice(len(index), n, replace=False)))
        ann.Codec.train(sample, n_lists, dims_per_code, config.seed).write(index.folder / "ann" / codec)
        write_json(index.folder / "ann" / codec / _PLAN, {"plan": plan, "shards": []})
    folder = index.folder / "ann" / codec
    table = AnnTable(
        codec=codec,
        codec_checksum=file_checksum(folder / ann.CODEC_FILE) or "",
        n_lists=n_lists,
        dims_per_code=dims_per_code,
        kappa=fusion.kappa,
        offset=fusion.offset,
        shards=entries,
        lists="",
        lists_checksum="",
        points=[],
        chosen=Point(1, 1, 0.0, 0.0),
        wish={"recall": config.recall, "latency_ms": config.latency_ms, "memory_gb": config.memory_gb},
        queries="",
        recall_of_rows=0.0,
    )
    return _laid_out(
        index, table, lambda made: write_json(folder / _PLAN, {"plan": plan, "shards": list(map(asdict, made))})
    )


def _laid_out(
    index: CellIndex, table: AnnTable, saved: Callable[[list[AnnEntry]], None] = lambda made: None
) -> AnnTable:
    """Codes the shards that the table does not know as they are, and lays all out in new lists."""
    codec = ann.Codec.read(index.folder / table.codec_folder, index.searched_dim)
    known = {entry.of: entry for entry in table.shards}
    entries: list[AnnEntry] = []
    with tqdm(total=len(index), desc="index tune", unit="row", disable=None, dynamic_ncols=True) as bar:
        for number, shard in enumerate(index.manifest.shards):
            of = index.manifest.coded(shard)
            if of not in known:
                parts = [codec.encode(block) for block in index.codes(number)]
                lists, codes = (np.concatenate(each) for each in zip(codec.nothing, *parts, strict=True))
                known[of] = store.write_codes(
                    index.folder, AnnEntry(shard.parent, of, table.codec, "", 0, ""), lists, codes
                )
                saved([*known.values()])
            entries.append(known[of])
            bar.update(shard.rows)
    opened = [store.open_codes(index.folder, entry) for entry in entries]
    for shard_codes in opened:
        for name in shard_codes.rows:
            shard_codes.check(name)
    generation = secrets.token_hex(8)
    made = replace(table, shards=entries, lists=generation)
    codec.lay_out([(s.read("list"), s.read("code")) for s in opened], index.folder / made.lists_folder)
    return replace(made, lists_checksum=file_checksum(index.folder / made.lists_folder / ann.LISTS_FILE) or "")


def _exact(index: CellIndex, queries: NDArray[np.floating]) -> Point:
    return Point(0, 1, 1.0, _latency_ms(partial(index.search, k=max(_KS), exact=True), queries))


def _measured(path: Path, manifest: Manifest, queries: NDArray[np.floating]) -> list[Point]:
    """Tries ways to search, until more would find no more."""
    assert manifest.ann is not None, "there is something to measure"
    points: list[Point] = []
    with _opened(path, manifest) as index:
        truth = index.search(queries, max(_KS), exact=True).row
        tried = [(2**i, k_factor) for i in range(int(math.log2(manifest.ann.n_lists)) + 1) for k_factor in _K_FACTORS]
        for n_probe, k_factor in tqdm(tried, desc="index tune: measuring", unit="way", disable=None):
            point = Point(n_probe, k_factor, 0.0, 0.0)
            found = min(_recall(truth[:, :k], index.search_at(point, queries, k).row) for k in _KS)
            took_ms = _latency_ms(partial(index.search_at, point, k=max(_KS)), queries)
            points.append(replace(point, recall=round(found, 4), latency_ms=took_ms))
            if found >= _ALL:
                break
    return points


def _frontier(points: Sequence[Point]) -> list[Point]:
    """Returns the points that no other is better than in both recall and time, fastest first."""
    ordered = sorted(points, key=lambda point: (point.latency_ms, -point.recall))
    best = np.maximum.accumulate([0.0, *(point.recall for point in ordered)])
    return [point for point, before in zip(ordered, best[:-1].tolist(), strict=True) if point.recall > before]


def _recall(truth: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(best, rows).mean() for best, rows in zip(truth, found, strict=True)]))


def _latency_ms(search: Callable[[NDArray[np.floating]], object], queries: NDArray[np.floating]) -> float:
    """Returns the median time of one query, after one that is not counted."""
    took: list[float] = []
    for i in range(min(_TIMED, len(queries)) + 1):
        start = time.perf_counter()
        search(queries[i % len(queries)][None])
        took.append(1000 * (time.perf_counter() - start))
    return round(float(np.median(took[1:])), 3)


def _chosen(path: Path, points: Sequence[Point], config: TuneConfig) -> Point:
    """Returns the fastest point that meets the wish."""
    enough = [point for point in points if point.recall >= config.recall]
    limit_ms = math.inf if config.latency_ms is None else config.latency_ms
    met = [point for point in enough if point.latency_ms <= limit_ms]
    if met:
        return min(met, key=lambda point: point.latency_ms)
    quick = [point for point in points if point.latency_ms <= limit_ms]
    nearest = [min(enough, key=lambda point: point.latency_ms)] if enough else []
    nearest += [max(quick or points, key=lambda point: point.recall)] if quick or not enough else []
    said = " or ".join(f"recall {point.recall:.4g} in {point.latency_ms:.2f} ms" for point in nearest)
    within = [] if config.latency_ms is None else [f"{config.latency_ms:g} ms"]
    within += [] if config.memory_gb is None else [f"{config.memory_gb:g} GB"]
    raise ConfigError(
        f"{path}: recall {config.recall:g} within {' and '.join(within)} cannot be had here; there is {said}"
    )
