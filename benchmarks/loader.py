"""Whether the model waits for pictures: pairs a second of the loader alone, of the model alone, and of both.

    python benchmarks/loader.py --work DIR [--device cuda --backbone convnext_base --size_px 384]

Pictures have the pixels of VIGOR's (panoramas of 2,048 x 1,024 as JPEG, tiles of 640 x 640 as PNG), of made-up cities.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from ablation import ARMS, training
from cities import cities
from machine import circumstances

from geoview.config import AerialView, EncoderConfig, GroundView
from geoview.data.datasets import load
from geoview.embed import resolve_device, resolve_precision
from geoview.models.encoder import CrossViewEncoder
from geoview.training import fit as fitting
from geoview.training.task import ContrastiveTask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="convnext_atto")
    parser.add_argument("--size_px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 4))
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) * 3 // 4))
    parser.add_argument("--panoramas", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "loader.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    root = cities(
        arguments.work / "full_size", panoramas=arguments.panoramas, size_m=500.0, tile_px=640, panorama_px=2048
    )
    arguments.work.joinpath("loader").mkdir(exist_ok=True)
    config = training(root, "same_area", ARMS["random"], arguments.work / "loader", arguments.steps, 1e-3, 0, arguments)
    config = replace(
        config,
        encoder=EncoderConfig(
            arguments.backbone,
            ground=GroundView(2 * arguments.size_px, arguments.size_px, 360, 180),
            aerial=AerialView(arguments.size_px, 73.0 / arguments.size_px),
        ),
        optimiser=replace(config.optimiser, batch_size=arguments.batch),
        data=replace(config.data, validation_share=0.0),
        num_workers=arguments.workers,
    )
    task = ContrastiveTask(
        CrossViewEncoder.from_config(config.encoder),
        fitting.pictures_of(load("vigor", root, "same_train"), config, augmented=True),
        config,
    )
    device = resolve_device(arguments.device)
    alone = [loaded(task, config.optimiser.batch_size)]
    model = modelled(task, device, resolve_precision(config.precision, device), arguments)
    both = trained(task, config, device)
    alone.append(loaded(task, config.optimiser.batch_size))
    report = {
        "what": "pairs a second of the loader, of forward and backward on one batch in memory, and of training",
        **circumstances(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "backbone": arguments.backbone,
        "size_px": arguments.size_px,
        "batch": arguments.batch,
        "loader_processes": arguments.workers,
        "model_threads": arguments.threads,
        "loader_pairs_per_s": round(float(np.mean(alone)), 1),
        "model_pairs_per_s": round(model, 1),
        "training_pairs_per_s": round(both, 1),
        "loader_against_model": round(float(np.mean(alone)) / model, 2),
        "training_against_model": round(both / model, 2),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    known[f"{arguments.backbone}, {report['device']}, loader processes: {arguments.workers}"] = report
    arguments.out.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def loaded(task: ContrastiveTask, batch: int) -> float:
    """Rate of the loader with nobody else at work, its processes started before."""
    task.trainer = _trainer(task._config, torch.device("cpu"))
    batches = iter(task.train_dataloader())
    next(batches)
    start, n = time.perf_counter(), 0
    for each in batches:
        n += len(each[2])
    return n / (time.perf_counter() - start)


def modelled(task: ContrastiveTask, device: torch.device, dtype: torch.dtype, arguments: argparse.Namespace) -> float:
    """Rate of forward and backward of a batch that is in memory."""
    (pixels, valid), (chips, chips_valid), *_ = next(iter(task.train_dataloader()))
    encoder = task.encoder.to(device)
    batch = [(each.to(device), mask.to(device)) for each, mask in ((pixels, valid), (chips, chips_valid))]
    times = []
    for _ in range(arguments.steps // 2 + 3):
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            query, reference = (encoder(*each) for each in batch)
        (query @ reference.T).square().sum().backward()
        encoder.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return len(pixels) / float(np.median(times[3:]))


def trained(task: ContrastiveTask, config: Any, device: torch.device) -> float:
    """Rate of the whole training, after its first steps."""
    marks: list[float] = []

    class Marks(lightning.Callback):
        def on_train_batch_end(self, *given: Any) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())

    _trainer(config, device, Marks()).fit(task)
    return float(config.optimiser.batch_size * (len(marks) - 4) / (marks[-1] - marks[3]))


def _trainer(config: Any, device: torch.device, *callbacks: lightning.Callback) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=fitting._PRECISIONS[resolve_precision(config.precision, device)],
        max_steps=config.optimiser.steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )


if __name__ == "__main__":
    main()
