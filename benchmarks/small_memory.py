"""Large batches in small memory: 128 pairs at once, and in parts of 8, for time, memory and what is learnt.

    python benchmarks/small_memory.py --work DIR [--steps 300] [--seeds 3]

The cities of `ablation.py`, cross area (made in DIR where they are not there yet), from the shipped encoder. The
gradient is the same but for rounding, so that R@1 should be within the spread of the seeds; memory is the peak of a
process of its own beyond what it held before the first batch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import ARMS, small_cities, training
from machine import circumstances

from geoview.config import EvaluateConfig
from geoview.evaluate.dataset import evaluate_dataset
from geoview.evaluate.protocols import open_table
from geoview.training import task as tasks
from geoview.training.fit import fit

BATCH, PARTS = 128, (None, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--panoramas", type=int, default=1000)
    parser.add_argument("--size_m", type=float, default=1400.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "small_memory.json")
    arguments = parser.parse_args()
    root = small_cities(arguments)
    found: dict[str, Any] = {}
    for size in PARTS:
        runs = []
        for seed in range(arguments.seeds):
            # A process of its own for each peak of memory, which may have loaders of its own.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                runs.append(pool.submit(run, root, size, seed, arguments).result())
        recalls = [each["recall_at_1"] for each in runs]
        found["whole" if size is None else f"parts_of_{size}"] = {
            "recall_at_1": {"mean": round(float(np.mean(recalls)), 4), "spread": round(float(np.std(recalls)), 4)},
            "seeds": [round(recall, 4) for recall in recalls],
            "s_a_step": round(float(np.median([each["s_a_step"] for each in runs])), 3),
            "peak_beyond_start_mb": round(float(np.median([each["peak_mb"] for each in runs]))),
        }
    report = {
        "what": f"a batch of {BATCH} pairs at once and in parts: what is learnt in {arguments.steps} steps, and memory",
        **circumstances(f"{arguments.threads} threads, device {arguments.device}"),
        **found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def run(root: Path, size: int | None, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    folder = arguments.work / "small_memory"
    shutil.rmtree(folder, ignore_errors=True)
    config = training(root, "cross_area", ARMS["random"], folder, arguments.steps, 1e-3, seed, arguments)
    config = replace(config, optimiser=replace(config.optimiser, batch_size=BATCH, micro_batch_size=size))
    marks, before = [], [0.0]
    original = tasks.ContrastiveTask.on_train_batch_start

    def marked(self: Any, *given: Any) -> None:
        before[0] = before[0] or memory_mb()
        marks.append(time.perf_counter())
        original(self, *given)

    tasks.ContrastiveTask.on_train_batch_start = marked  # type: ignore[assignment,method-assign]
    encoder = fit(config)
    peak_mb = memory_mb() - before[0]
    settings = EvaluateConfig(
        out=str(folder / "results.json"),
        dataset="vigor",
        root=str(root),
        encoder=str(folder / "encoder"),
        split="cross_test",
        device=arguments.device,
        num_workers=os.cpu_count() or 1,
    )
    figures = evaluate_dataset(encoder.eval(), open_table(settings), settings)["views"]["360"]
    return {
        "recall_at_1": figures["recall_at_1"],
        "s_a_step": float(np.median(np.diff(marks[3:]))),
        "peak_mb": peak_mb,
    }


def memory_mb() -> float:
    """Peak of this process, or of the GPU's memory where it works there."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
