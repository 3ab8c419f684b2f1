"""An index of many millions of cells on one machine: written, opened, tuned, searched, grown, verified.

python benchmarks/scale.py --work DIR --admin DIR [--cells 20000000] [--dim 256]

Cells are real, those of Luxembourg, Belgium, the Netherlands and as much of Germany as is asked for; codes are drawn.
Each step runs in a process of its own, whose time, largest memory and disk are taken down. Polygons are GeoJSON of
geoBoundaries: `lux.json`, `bel.json`, `nld.json` and `deu.json` in --admin.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import cpu_model

COUNTRIES = ("lux", "bel", "nld", "deu")
K, QUERIES = 100, 100


def codes_of(cell_ids: Any, dim: int) -> Any:
    """Returns drawn codes of cells: neighbours on the ground are of the same few clusters, as real ones are alike."""
    centres = np.random.default_rng(0).standard_normal((2048, dim), np.float32)
    group = (np.asarray(cell_ids, np.uint64) >> np.uint64(41)).astype(np.int64)
    rng = np.random.default_rng(int(cell_ids[0] % np.uint64(2**32)))
    own = centres[(group * 2654435761 + rng.integers(0, 3, len(group)) * 97) % len(centres)]
    vectors = own + 0.8 * rng.standard_normal((len(group), dim), np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def write(args: argparse.Namespace) -> dict[str, Any]:
    from geoview.geo import cells
    from geoview.geo.regions import Region
    from geoview.index import store
    from geoview.index.manifest import Manifest

    ranges = [Region.from_geojson(args.admin / f"{name}.json").cell_ranges(16) for name in COUNTRIES]
    # Cells of a border belong to whoever comes first.
    _, first = np.unique(every := np.concatenate([cells.ids_in_ranges(each, 16) for each in ranges]), return_index=True)
    ids = np.sort(every[np.sort(first)[: args.cells]])
    covered_s = time.perf_counter()
    above = cells.parents(ids, 16 - store.SHARD_LEVELS)
    parents, first = np.unique(above, return_index=True)
    entries, none = [], np.empty(0)
    for parent, begin, end in zip(parents, first, [*first[1:], len(ids)], strict=True):
        here = ids[begin:end]
        ones = np.ones(len(here), np.float16)
        dates = np.full(len(here), 20200600, np.int32)
        rows = store.Rows(codes_of(here, args.dim), here, dates, ones, none.astype(np.uint64), none.astype(np.float16))
        entries.append(store.write_rows(args.work, str(cells.tokens(np.array([parent]))[0]), rows))
    made: dict[str, Any] = {"created_at": "", "geoview": "", "imagery": [], "sources": [], "skipped_sources": []}
    encoder = {"fingerprint": "0" * 16, "folder": "encoder/none"}
    chip = {"size_px": 96, "gsd_m": 0.6}
    manifest = Manifest(level=16, dim=args.dim, chip=chip, encoder=encoder, min_coverage=0.5, shards=entries, **made)
    store.commit(args.work, manifest)
    return {"cells": len(ids), "shards": len(entries), "writing_s": time.perf_counter() - covered_s}


def open_it(args: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    from geoview.index.cell_index import CellIndex

    imported = time.perf_counter()
    index = CellIndex.open(args.work)
    opened = time.perf_counter()
    before_mb = held_mb()
    return {"imports_s": imported - start, "opening_s": opened - imported, "held_mb": before_mb, "codes": len(index)}


def tune(args: argparse.Namespace) -> dict[str, Any]:
    from geoview.config import TuneConfig
    from geoview.index import tuning
    from geoview.index.cell_index import CellIndex

    chosen, points = tuning.tune(args.work, TuneConfig(recall=0.95))
    table = CellIndex.open(args.work).manifest.ann
    said = {"chosen": vars(chosen), "points": [vars(point) for point in points]}
    return said if table is None else said | {"n_lists": table.n_lists, "dims_per_code": table.dims_per_code}


def asked(index: Any) -> Any:
    """Returns queries: codes of some rows with noise."""
    rng = np.random.default_rng(5)
    rows = index.codes_of(np.sort(rng.choice(len(index), QUERIES, replace=False))).astype(np.float32)
    noise = rng.standard_normal(rows.shape, np.float32)
    queries = rows + noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def timed(search: Any, queries: Any) -> tuple[Any, float, float]:
    """Returns what all queries find at once, and milliseconds of the first and of the median of single ones."""
    took = []
    for query in queries[:20, None]:
        start = time.perf_counter()
        search(query)
        took.append(1e3 * (time.perf_counter() - start))
    return search(queries), took[0], float(np.median(took[1:]))


def search(args: argparse.Namespace) -> dict[str, Any]:
    from geoview.index.cell_index import CellIndex

    index = CellIndex.open(args.work)
    queries = asked(index)
    held = held_mb()
    found, first_ms, median_ms = timed(lambda q: index.search(q, K), queries)
    after = held_mb()
    start = time.perf_counter()
    exact = index.search(queries, K, exact=True)
    exact_s = time.perf_counter() - start
    start = time.perf_counter()
    index.search(queries[:1], K, exact=True)
    exact_one_s = time.perf_counter() - start
    recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(exact.row, found.row, strict=True)]))
    return {
        "first_query_ms": first_ms,
        "query_ms": median_ms,
        "recall_at_100": recall,
        "held_before_mb": held,
        "held_after_mb": after,
        "exact_100_queries_s": exact_s,
        "exact_one_query_s": exact_one_s,
    }


def country(args: argparse.Namespace) -> dict[str, Any]:
    from geoview.errors import RegionError
    from geoview.geo.regions import Region
    from geoview.index.cell_index import CellIndex

    index = CellIndex.open(args.work)
    queries = asked(index)
    said = {}
    for name in COUNTRIES[:-1]:
        region = Region.from_geojson(args.admin / f"{name}.json")
        start = time.perf_counter()
        try:
            n_cells = index.count(region)
        except RegionError:  # fewer cells were asked for
            continue
        covered_s = time.perf_counter() - start
        found, first_ms, median_ms = timed(lambda q, r=region: index.search(q, K, region=r), queries)
        start = time.perf_counter()
        exact = index.search(queries, K, region=region, exact=True)
        exact_s = time.perf_counter() - start
        recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(exact.row, found.row, strict=True)]))
        said[name] = {
            "cells": n_cells,
            "first_cover_s": covered_s,
            "first_query_ms": first_ms,
            "query_ms": median_ms,
            "recall_at_100": recall,
            "exact_100_queries_s": exact_s,
        }
    return said


def grow(args: argparse.Namespace) -> dict[str, Any]:
    """Puts codes of another date beside those of about 1 % of the cells, all in a few shards."""
    from geoview.index import store
    from geoview.index.tuning import refresh

    before = store.read_manifest(args.work)
    entries, added, touched = {entry.parent: entry for entry in before.shards}, 0, 0
    start = time.perf_counter()
    for entry in before.shards[len(before.shards) // 2 :]:
        if added >= before.n_rows // 100:
            break
        rows = store.read_rows(args.work, entry)
        newer = replace(rows, aerial=codes_of(rows.cell, args.dim)[::-1], date=rows.date + 10_000)
        entries[entry.parent] = store.write_rows(args.work, entry.parent, rows.updated(newer))
        added, touched = added + len(newer), touched + 1
    with store.writing(args.work) as latest:
        store.commit(args.work, replace(latest, shards=store.in_order(entries.values())))
        store.sweep(args.work)
    rows_s = time.perf_counter() - start
    start = time.perf_counter()
    refresh(args.work)
    return {
        "added": added,
        "shards_touched": touched,
        "rows_s": rows_s,
        "short_codes_and_lists_s": time.perf_counter() - start,
    }


def verify(args: argparse.Namespace) -> dict[str, Any]:
    from geoview.index.cell_index import CellIndex

    # There is no encoder here: what it says of that is not counted.
    problems = [line for line in CellIndex.open(args.work).verify() if "encoder" not in line]
    if problems:
        raise SystemExit("\n".join(problems))
    return {"problems": 0}


def held_mb() -> float:
    fields = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return next(int(field[1]) / 1024 for field in fields if field[0] == "Rss:")


def folder_gb(folder: Path) -> dict[str, float]:
    parts = {part.name: part for part in folder.iterdir() if part.is_dir()}
    return {
        name: round(sum(p.stat().st_size for p in part.rglob("*") if p.is_file()) / 1e9, 3)
        for name, part in parts.items()
    }


RUNS = {
    "write": write,
    "open": open_it,
    "tune": tune,
    "search": search,
    "country": country,
    "grow": grow,
    "verify": verify,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="index folder to write; 14 GB for 20 million cells")
    parser.add_argument("--admin", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=20_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--one", choices=[*RUNS], help="do one step, in this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    args = parser.parse_args()
    if args.one:
        start = time.perf_counter()
        said = RUNS[args.one](args)
        said = {"s": time.perf_counter() - start, **said}
        said["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(said))
        return
    result: dict[str, Any] = {
        "what": "one index on one machine, each step in a process of its own; peak_mb counts pages of mapped files",
        "dim": args.dim,
        "threads": len(os.sched_getaffinity(0)),
        "cpu": cpu_model(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "steps": {},
    }
    if args.out.exists() and (args.work / "manifest.json").exists():
        result["steps"] = json.loads(args.out.read_text())["steps"]  # goes on after the last step that was done
    for step in RUNS:
        if step in result["steps"]:
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--one", step]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result["steps"][step] = json.loads(done.stdout.splitlines()[-1]) | {"gb_on_disk": folder_gb(args.work)}
        print(step, json.dumps(result["steps"][step]), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
