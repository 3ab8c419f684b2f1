"""How fast queries are ranked, beside the machine's own float32 matrix products and the published way.

python benchmarks/scoring.py [--queries 52605] [--references 90618] [--dim 1024] [--threads N]

The vectors are random, and so are the true references: they lie amid the others, where the most scores come within
rounding of the true one and are computed again. The rate of the machine is that of the fastest of several shapes,
measured before and after the ranking. The published way holds all scores at once, so it ranks a part of the queries
among the first references only, and geoview beside it does the same.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from machine import circumstances
from numpy.typing import NDArray

from geoview.metrics import ranks

# Rows of both factors: blocks as geoview uses them, and larger ones.
SHAPES = ((512, 2_048), (2_048, 2_048), (4_096, 4_096))
REPEATS = 5
PEER_QUERIES, PEER_REFERENCES = 8_884, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=52_605, help="the default sizes are those of VIGOR, same area")
    parser.add_argument("--references", type=int, default=90_618)
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    rng = np.random.default_rng(0)
    queries, references = unit_vectors(rng, args.queries, args.dim), unit_vectors(rng, args.references, args.dim)
    positive = rng.integers(0, args.references, args.queries)

    before = machine_rates(args.dim)
    held_mb, _ = memory_mb()
    forget_peak()
    start = time.perf_counter()
    rank = ranks(queries, references, positive)
    ours_s = time.perf_counter() - start
    _, peak_mb = memory_mb()
    after = machine_rates(args.dim)

    machine = max((before[shape] + after[shape]) / 2 for shape in before)
    rate = 2 * args.queries * args.references * args.dim / ours_s / 1e9
    result = {
        "what": "ranks of random queries among random references, unit vectors of float32",
        "queries": args.queries,
        "references": args.references,
        "dim": args.dim,
        "geoview_s": round(ours_s, 2),
        "geoview_gflop_per_s": round(rate, 1),
        "machine_gflop_per_s": {"before": rounded(before), "after": rounded(after)},
        "share_of_machine_rate": round(rate / machine, 3),
        "embeddings_mb": round((queries.nbytes + references.nbytes) / 1e6),
        "peak_beside_embeddings_mb": round(peak_mb - held_mb),
        "mean_rank_over_chance": round(float(rank.mean() / ((args.references + 1) / 2)), 4),
        "published_way": published_way(queries, references, positive),
        **circumstances(f"{args.threads} threads used"),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{args.queries:,} x {args.references:,} x {args.dim:,} in {ours_s:.1f} s: {rate:.0f} of the machine's"
        f" {machine:.0f} GFLOP/s ({rate / machine:.0%}), {peak_mb - held_mb:,.0f} MB beside the embeddings"
    )


def unit_vectors(rng: np.random.Generator, n: int, dim: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((n, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def machine_rates(dim: int) -> dict[str, float]:
    """Returns GFLOP/s of plain float32 products, the median of some, by shape."""
    return {f"{n} x {m}": float(np.median([product_rate(n, m, dim) for _ in range(REPEATS)])) for n, m in SHAPES}


def product_rate(n_queries: int, n_references: int, dim: int) -> float:
    q, r, out = torch.randn(n_queries, dim), torch.randn(n_references, dim), torch.empty(n_queries, n_references)
    torch.mm(q, r.T, out=out)
    # As much work for each shape, so that each lasts long enough for the clock.
    products = 2 * SHAPES[-1][0] * SHAPES[-1][1] // (n_queries * n_references)
    start = time.perf_counter()
    for _ in range(products):
        torch.mm(q, r.T, out=out)
    return 2 * n_queries * n_references * dim * products / (time.perf_counter() - start) / 1e9


def rounded(rates: dict[str, float]) -> dict[str, float]:
    return {shape: round(rate, 1) for shape, rate in rates.items()}


def published_way(
    queries: NDArray[np.float32], references: NDArray[np.float32], positive: NDArray[np.int64]
) -> dict[str, float | int]:
    """Ranks by one dense matrix of scores and a loop over queries, counting what is strictly greater."""
    references = references[:PEER_REFERENCES]
    chosen = np.flatnonzero(positive < len(references))[:PEER_QUERIES]
    queries, positive = queries[chosen], positive[chosen]

    start = time.perf_counter()
    similarity = torch.from_numpy(queries) @ torch.from_numpy(references).T
    theirs = [1 + int((row > row[true]).sum()) for row, true in zip(similarity, positive, strict=True)]
    middle = time.perf_counter()
    ours = ranks(queries, references, positive)
    end = time.perf_counter()
    difference = np.abs(ours - np.array(theirs, np.int64))
    return {
        "queries": len(queries),
        "references": len(references),
        "published_s": round(middle - start, 2),
        "published_scores_mb": round(similarity.nbytes / 1e6),
        "geoview_s": round(end - middle, 2),
        "ranks_that_differ": int(np.count_nonzero(difference)),
        "largest_difference": int(difference.max(initial=0)),
    }


def memory_mb() -> tuple[float, float]:
    """Returns what the process holds now, and the most it held."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held, peak = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return held, peak


def forget_peak() -> None:
    """Sets the most this process held to what it holds now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
