"""How fast hard negatives are found, in how much memory, and how hard the batches made of them are.

    python benchmarks/miners.py [--threads N]

* Neighbours on the ground: 100,000 points, 128 of each; and of 20,000 beside the published way, a dense matrix of
  haversine distances whose rows are parted (here with radians, as it is meant), answers compared.
* Mistakes by likeness: 50,000 queries among 50,000 references of 1,024 elements, beside the machine's own float32
  matrix product of the same blocks.
* Hardness: how many of its 128 nearest a pair meets in its batch of 128, for 35,532 points at random in a square, in
  the first and the last tenth of an epoch: by geoview's batches, by the published sampler's rule, and by chance.

Memory is the peak of a process of its own beyond what it held with its input.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import circumstances
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoview.data.sampling import HardBatches
from geoview.geo.sphere import distance_m
from geoview.mining import gps_neighbours, similar_neighbours

K, BATCH, WITH_SEED = 128, 128, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--dense", type=int, default=20_000)
    parser.add_argument("--similar", type=int, default=50_000)
    parser.add_argument("--square", type=int, default=35_532)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "miners.json")
    arguments = parser.parse_args()
    report = {
        "what": "hard negatives by position and by likeness, and the batches made of them",
        **circumstances(f"{arguments.threads} threads used"),
        **{
            name: apart(measure, size, arguments.threads)
            for name, measure, size in (
                ("on_the_ground", ground, arguments.points),
                ("on_the_ground_beside_a_matrix", ground_beside_a_matrix, arguments.dense),
                ("by_likeness", likeness, arguments.similar),
                ("hardness", hardness_of_batches, arguments.square),
            )
        },
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def apart(measure: Callable[[int, int], dict[str, Any]], size: int, threads: int) -> dict[str, Any]:
    """Runs a measurement in a process of its own, whose peak of memory is its alone."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (size, threads))


def ground(size: int, threads: int) -> dict[str, Any]:
    latlon_deg = in_the_states(size)
    before_mb = peak_mb()
    start = time.perf_counter()
    gps_neighbours(latlon_deg, K, workers=threads)
    return {"points": size, "k": K, "s": taken(start), "peak_beside_input_mb": round(peak_mb() - before_mb)}


def ground_beside_a_matrix(size: int, threads: int) -> dict[str, Any]:
    latlon_deg = in_the_states(size)
    start = time.perf_counter()
    ours = gps_neighbours(latlon_deg, K, workers=threads)
    middle = time.perf_counter()
    apart_m = np.empty((size, size))
    for i in range(size):
        apart_m[i] = distance_m(latlon_deg[i], latlon_deg)
    np.fill_diagonal(apart_m, np.inf)
    nearest = np.argpartition(apart_m, K, axis=1)[:, :K]
    theirs = np.take_along_axis(nearest, np.argsort(np.take_along_axis(apart_m, nearest, 1), axis=1), 1)
    end = time.perf_counter()
    return {
        "points": size,
        "k": K,
        "geoview_s": round(middle - start, 2),
        "matrix_s": round(end - middle, 2),
        "times_as_fast": round((end - middle) / (middle - start), 1),
        "rows_with_the_same_neighbours": int((np.sort(ours, 1) == np.sort(theirs, 1)).all(axis=1).sum()),
    }


def likeness(size: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    queries, references = (rng.standard_normal((size, 1_024), np.float32) for _ in range(2))
    for vectors in (queries, references):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    place = np.arange(size)
    machine = product_gflop_s()
    before_mb = peak_mb()
    start = time.perf_counter()
    similar_neighbours(queries, references, K, query_place=place, reference_place=place)
    seconds = time.perf_counter() - start
    peak = peak_mb() - before_mb
    machine = (machine + product_gflop_s()) / 2
    rate = 2 * size**2 * 1_024 / seconds / 1e9
    return {
        "queries": size,
        "references": size,
        "dim": 1_024,
        "k": K,
        "s": round(seconds, 1),
        "gflop_per_s": round(rate),
        "machine_gflop_per_s": round(machine),
        "share_of_machine_rate": round(rate / machine, 3),
        "peak_beside_embeddings_mb": round(peak),
    }


def hardness_of_batches(size: int, threads: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    points = rng.random((size, 2))
    near = cKDTree(points).query(points, K + 1, workers=threads)[1][:, 1:]
    start = time.perf_counter()
    ours = HardBatches(
        np.arange(size), near, BATCH, neighbours_a_seed=WITH_SEED, seed=0, first_step=0, last_step=0
    ).epoch(0)
    seconds = taken(start)
    order = rng.permutation(size)
    return {
        "points": size,
        "s_an_epoch": seconds,
        "geoview": met(ours, near),
        "published": met(published(near, rng), near),
        "by_chance": met(np.array_split(order, size // BATCH), near),
    }


def published(
    near: NDArray[np.int64], rng: np.random.Generator, *, batch_size: int = BATCH, with_seed: int = WITH_SEED
) -> list[NDArray[np.int64]]:
    """Batches by the rule of Sample4Geo's code: seeds at random, neighbours as long as they are free."""
    size, half = len(near), with_seed // 2
    free, pool, failed = np.ones(size, np.bool_), deque(rng.permutation(size).tolist()), 0
    batches: list[NDArray[np.int64]] = []
    batch: list[int] = []
    while pool and failed < 1_024:
        seed = pool.popleft()
        if not free[seed] or len(batch) == batch_size:
            failed += 1
            continue
        failed = 0
        chosen = np.concatenate([[seed], near[seed, :half], rng.choice(near[seed, half:], half, replace=False)])
        chosen = chosen[free[chosen]][: batch_size - len(batch)]
        free[chosen] = False
        batch += chosen.tolist()
        if len(batch) == batch_size:
            batches.append(np.array(batch))
            batch = []
    return batches


def met(batches: list[NDArray[np.int64]], near: NDArray[np.int64]) -> dict[str, float]:
    """Returns the mean number of its nearest that a pair meets, in the first tenth, the last, and all batches."""
    found = []
    for batch in batches:
        inside = np.zeros(len(near), np.bool_)
        inside[batch] = True
        found.append(float(inside[near[batch]].sum(axis=1).mean()))
    tenth = max(1, len(found) // 10)
    shares = {"first_tenth": found[:tenth], "last_tenth": found[-tenth:], "all": found}
    used = sum(map(len, batches)) / len(near)
    return {**{name: round(float(np.mean(values)), 1) for name, values in shares.items()}, "used": round(used, 4)}


def in_the_states(size: int) -> NDArray[np.float64]:
    """Points at random over the contiguous United States' box."""
    return np.random.default_rng(0).uniform((25.0, -124.0), (49.0, -67.0), (size, 2))


def product_gflop_s() -> float:
    """Rate of a float32 product of the size of the miner's blocks, the median of some."""
    one, other = torch.randn(1_024, 1_024), torch.randn(16_384, 1_024)
    rates = []
    for _ in range(9):
        start = time.perf_counter()
        one @ other.T
        rates.append(2 * 1_024 * 1_024 * 16_384 / (time.perf_counter() - start) / 1e9)
    return float(np.median(rates))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def taken(start: float) -> float:
    return round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    main()
