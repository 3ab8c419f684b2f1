"""Whether the encoder waits for chips: chips a second of `index build`, beside the encoder alone on ready tensors.

python benchmarks/pipeline.py --work DIR [--precision fp32] [--device cuda --backbone convnext_base --size_px 384]

Both run in turns in one process, with the same number of threads for the encoder; building has one process more that
cuts chips from a GeoTIFF as imagery comes: tiled, compressed, of a made-up region.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import cpu_model, keep

import tiles
from geoview.config import AerialView, BuildConfig, GroundView
from geoview.embed import embed, resolve_precision
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index.build import build_index
from geoview.models.encoder import CrossViewEncoder
from geoview.render.region import write_region
from geoview.render.world import make_world

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--backbone", help="a network with weights drawn, in place of the shipped encoder")
    parser.add_argument("--size_px", type=int, default=384)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--level", type=int, default=19)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pipeline.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    place = args.work / "region_1600"
    if not (place / "region.json").exists():
        world = make_world("european_town", 1, size_m=(1600.0, 1600.0))
        write_region(world, place, n_panoramas=0, n_perspective=0, seed=1, num_workers=1)
    ortho = place / json.loads((place / "region.json").read_text())["reference"]
    if args.backbone:
        aerial = AerialView(size_px=args.size_px, gsd_m=57.6 / args.size_px)
        encoder = CrossViewEncoder(args.backbone, ground=GroundView(width_px=768, height_px=140), aerial=aerial).eval()
        folder = args.work / args.backbone
        encoder.save(folder, overwrite=True)
    else:
        folder = Path("geoview/encoders/demo")
        encoder = CrossViewEncoder.load(folder)
    source = tiles.open_source([str(ortho)])
    west, south, east, north = source.coverage().bounds
    middle_deg = ((south + north) / 2, (west + east) / 2)
    region = Region.disc(middle_deg, 150.0 if args.backbone else 650.0)
    ids = region.cells(args.level)
    config = BuildConfig(
        encoder=str(folder),
        imagery=[str(ortho)],
        out=str(args.work / "index"),
        level=args.level,
        device=args.device,
        precision=args.precision,
        batch_size=args.batch,
        num_workers=args.workers,
        overwrite=True,
    )
    view = encoder.aerial
    chips = [source.chip(at, size_px=view.size_px, gsd_m=view.gsd_m) for at in cells.centers_deg(ids)]
    took_s: dict[str, list[float]] = {"build": [], "encoder": []}
    for _ in range(REPEATS + 1):
        shutil.rmtree(args.work / "index", ignore_errors=True)
        start = time.perf_counter()
        index = build_index(encoder, source, region, config.out, config)
        took_s["build"].append(time.perf_counter() - start)
        assert len(index) == len(ids)
        start = time.perf_counter()
        for _ in embed(encoder, chips, config, seen="aerial"):
            pass
        took_s["encoder"].append(time.perf_counter() - start)
    median_s = {name: float(np.median(each[1:])) for name, each in took_s.items()}
    result: dict[str, Any] = {
        "what": "chips a second, building an index against the encoder alone on chips that are ready",
        "encoder": args.backbone or "demo",
        "size_px": view.size_px,
        "chips": len(ids),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(),
        "precision": str(resolve_precision(args.precision, torch.device(args.device))).removeprefix("torch."),
        "encoder_threads": args.threads,
        "chip_processes": args.workers,
        "build_chips_per_s": round(len(ids) / median_s["build"], 1),
        "encoder_chips_per_s": round(len(ids) / median_s["encoder"], 1),
        "ratio": round(median_s["encoder"] / median_s["build"], 3),
        "cpu": cpu_model(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    keep(result, args.out, alike=("encoder", "device", "precision", "cpu"))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
