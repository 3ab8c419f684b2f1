"""Searches in a region: row ranges in S2 order beside the filters of other libraries, each at the same recall.

python benchmarks/masks.py --work DIR [--shares 0.01 0.1]

Uses the rows and the indexes that `frontier.py --work DIR` has made. Regions are discs on the ground, which are a few
hundred runs of rows; peers get the same rows as a bit map. Queries are drawn around rows inside, whose likes are then
mostly in the region, and around rows anywhere, as photos are whose likeness to other ground has to be overlooked. CPU
time of one thread, 500 queries at once, k = 10.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from frontier import CENTRE_DEG, DIM, WIDTHS, at_recall, drawn_around
from machine import cpu_model

from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index.cell_index import CellIndex
from geoview.index.manifest import Point
from geoview.topk import top_k

# What takes keywords that its types do not know.
library: Any = faiss
# After some tries the allocator has memory at hand for what each asks for.
QUERIES, K, TRIES = 500, 10, 8
RECALLS = (0.9, 0.95, 0.99)
GRID = [(n_probe, k_factor) for n_probe in (16, 32, 64, 128, 256, 512, 1024) for k_factor in (4, 5, 10, 20)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/masks.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows = np.load(args.work / "rows.npy", mmap_mode="r")
    index = CellIndex.open(args.work / "geoview")
    ids = index.cell_ids()
    refined: Any = faiss.read_index(str(args.work / "faiss-ivfpqfs-refine" / "index.faiss"))
    graph: Any = faiss.read_index(str(args.work / "faiss-hnsw-sq8" / "index.faiss"))
    result: dict[str, Any] = {
        "what": "QPS of one core at the recall that was reached",
        "rows": len(rows),
        "k": K,
        "shares": {},
    }
    radius_m = np.sqrt(float(cells.areas_m2(ids[::1000]).mean()) * len(ids) / np.pi)
    for share in args.shares:
        region = Region.disc(CENTRE_DEG, radius_m * np.sqrt(share))
        wanted = cells.in_ranges(ids, region.cell_ranges(index.level))
        inside = np.flatnonzero(wanted)
        bits = np.packbits(wanted, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(wanted), faiss.swig_ptr(bits))

        result["shares"][share] = {"cells": len(inside)}
        for around in ("inside", "anywhere"):
            queries = drawn_around(np.asarray(rows[inside] if around == "inside" else rows), QUERIES, seed=1)
            truth = top_k(queries, [(inside, np.asarray(rows[inside]))], K)[0]
            arms: dict[str, tuple[Callable[..., Any], list[Any]]] = {
                "geoview, all rows of the region": (
                    lambda q, at, region=region: index.search(q, K, region=region, exact=True).row,
                    [None],
                ),
                "geoview by lists": (
                    lambda q, at, region=region: (
                        index.search_at(Point(at[0], at[1], 0.0, 0.0), q, K, region=region).row
                    ),
                    GRID,
                ),
                "faiss IVF-PQ fast scan, refined": (partial(inverted, refined, selector), GRID),
                "faiss HNSW32-SQ8": (partial(hnsw, graph, selector), WIDTHS),
            }
            said = {name: best_of(search, settings, queries, truth) for name, (search, settings) in arms.items()}
            result["shares"][share][around] = said
            for name, each in said.items():
                reached = {recall: run and (run["qps"], run["recall"]) for recall, run in each["best"].items()}
                print(share, around, name, reached, flush=True)
    result |= {"cpu": cpu_model(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "dim": DIM}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def inverted(index: Any, selector: Any, queries: Any, at: tuple[int, int]) -> Any:
    base = library.IVFSearchParameters(nprobe=at[0], sel=selector)
    parameters = library.IndexRefineSearchParameters(k_factor=at[1], base_index_params=base)
    return index.search(queries, K, params=parameters)[1]


def hnsw(index: Any, selector: Any, queries: Any, at: int) -> Any:
    return index.search(queries, K, params=library.SearchParametersHNSW(efSearch=at, sel=selector))[1]


def best_of(search: Callable[..., Any], settings: list[Any], queries: Any, truth: Any) -> dict[str, Any]:
    """Returns all runs, and the quickest at each recall."""
    runs = []
    for at in settings:
        took = []
        for _ in range(TRIES):
            start = time.process_time()
            found = search(queries, at)
            took.append(time.process_time() - start)
        recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))
        runs.append({"at": at, "recall": round(recall, 4), "qps": round(QUERIES / min(took))})
        if recall > 0.999:
            break
    return {"best": {str(recall): at_recall(runs, recall) for recall in RECALLS}, "runs": runs}


if __name__ == "__main__":
    main()
