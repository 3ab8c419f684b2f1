"""Searches in a region: row ranges in S2 order beside the filters of other libraries, each at the same recall.

python benchmarks/masks.py --work DIR [--shares 0.01 0.1]

Uses the rows and the indexes that `frontier.py --work DIR` has made. Regions are discs on the ground, which are a few
hundred runs of rows; peers get the same rows as a bit map. Queries are drawn around rows inside. CPU time of one
thread, 500 queries at once, k = 10.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from frontier import CENTRE_DEG, DIM, WIDTHS, drawn_around
from machine import cpu_model

from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index.cell_index import CellIndex
from geoview.index.manifest import Point
from geoview.topk import top_k

QUERIES, K = 500, 10
RECALLS = (0.9, 0.95, 0.99)


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
        queries = drawn_around(np.asarray(rows[inside]), QUERIES, seed=1)
        truth = top_k(queries, [(inside, np.asarray(rows[inside]))], K)[0]
        bits = np.packbits(wanted, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(wanted), faiss.swig_ptr(bits))

        def ours(at: Any, q: Any = queries, r: Any = region) -> Any:
            return (
                index.search(q, K, region=r).row
                if at is None
                else index.search_at(Point(*at, 0, 0), q, K, region=r).row
            )

        def inverted(at: tuple[int, int], q: Any = queries, sel: Any = selector) -> Any:
            base = faiss.IVFSearchParameters(nprobe=at[0], sel=sel)
            parameters = faiss.IndexRefineSearchParameters(k_factor=at[1], base_index_params=base)
            return refined.search(q, K, params=parameters)[1]

        def hnsw(at: int, q: Any = queries, sel: Any = selector) -> Any:
            return graph.search(q, K, params=faiss.SearchParametersHNSW(efSearch=at, sel=sel))[1]

        grid = [(n_probe, k_factor) for n_probe in (16, 32, 64, 128, 256, 512, 1024) for k_factor in (4, 10, 20)]
        arms: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
            "geoview as it answers": (ours, [None]),
            "geoview by lists": (ours, grid),
            "faiss IVF-PQ fast scan, refined": (inverted, grid),
            "faiss HNSW32-SQ8": (hnsw, WIDTHS),
        }
        said: dict[str, Any] = {}
        for name, (search, settings) in arms.items():
            runs = []
            for at in settings:
                search(at)
                took = []
                for _ in range(3):
                    start = time.process_time()
                    found = search(at)
                    took.append(time.process_time() - start)
                recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))
                runs.append({"at": at, "recall": round(recall, 4), "qps": round(QUERIES / min(took))})
                if recall > 0.999:
                    break
            best = {
                str(wanted): max(
                    (run for run in runs if run["recall"] >= wanted), key=lambda run: run["qps"], default=None
                )
                for wanted in RECALLS
            }
            said[name] = {"best": best, "runs": runs}
            print(share, name, {k: v and (v["qps"], v["recall"]) for k, v in best.items()}, flush=True)
        result["shares"][share] = {"cells": len(inside), "methods": said}
    result |= {"cpu": cpu_model(), "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "dim": DIM}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
