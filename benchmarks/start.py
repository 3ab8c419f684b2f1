"""How long one photo takes from the start of the process to its answer, in an index of a million cells.

    python benchmarks/start.py --work DIR --photo PHOTO [--cells 1000000] [--runs 5]

`geoview locate` is run as an analyst runs it, once after the other, beside what Python needs to start and to import
torch and timm alone. Where the time goes is taken down inside one more such process. Cells are real ones around a
place, their codes are drawn; the encoder is the shipped one, with a temperature of its size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import circumstances

CENTRE_DEG, LEVEL = (50.9, 6.9), 16
CALIBRATION = {
    "on": "rendered",
    "general": {
        "temperature": 0.02,
        "sharpness": 0.06,
        "radius_m": [0.0, 1.0],
        "least_evidence": None,
        "least_turning": None,
    },
    "kinds": {},
    "kappa": 0.0,
    "offset": 0.0,
    "rerank": 0,
}
STAGES = """
import json, sys, time
marks = [("python", float(sys.argv[1]))]
def mark(name): marks.append((name, time.time()))
mark("python")
import torch, timm
mark("torch and timm")
import geoview.cli, geoview.locate.localizer, geoview.locate.formats
mark("geoview and the rest")
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localizer, Search
from geoview.data.queries import PhotoQuery
index = CellIndex.open(sys.argv[2])
mark("index")
localizer = Localizer(index)
mark("encoder")
photos = localizer.embed([PhotoQuery(sys.argv[3])])
mark("photo")
localizer.answer(photos, Search(10))
mark("search")
print(json.dumps({name: at - before for (_, before), (name, at) in zip(marks, marks[1:])}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "start.json")
    arguments = parser.parse_args()
    index = made(arguments)
    bare, whole, stages = [], [], []
    locate = [sys.executable, "-m", "geoview", "locate", str(arguments.photo), "--index", str(index)]
    for _ in range(arguments.runs):
        bare.append(seconds_of([sys.executable, "-c", "import torch, timm"]))
        whole.append(seconds_of(locate))
        said = subprocess.run(
            [sys.executable, "-c", STAGES, str(time.time()), str(index), str(arguments.photo)],
            check=True,
            capture_output=True,
            text=True,
        )
        stages.append(json.loads(said.stdout))
    report: dict[str, Any] = {
        "what": "one photo, from the start of the process to the answer",
        **circumstances(f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads"),
        "cells": arguments.cells,
        "runs": arguments.runs,
        "geoview_locate_s": median(whole),
        "import_torch_and_timm_s": median(bare),
        "stages_s": {name: median([each[name] for each in stages]) for name in stages[0]},
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))


def made(arguments: argparse.Namespace) -> Path:
    """Makes the index, unless it is there."""
    folder: Path = arguments.work / f"index_{arguments.cells}"
    if (folder / "manifest.json").exists():
        return folder
    from dataclasses import asdict

    from geoview.geo import cells
    from geoview.geo.regions import Region
    from geoview.index import store
    from geoview.index.manifest import Manifest
    from geoview.index.shards import folder_checksum
    from geoview.models.encoder import CrossViewEncoder, find_encoder

    encoder = CrossViewEncoder.load(find_encoder("demo"))
    radius_m = 1.02 * float(np.sqrt(arguments.cells * 130.0**2 / np.pi))
    ids = np.sort(Region.disc(CENTRE_DEG, radius_m).cells(LEVEL)[: arguments.cells])
    rng, entries, none = np.random.default_rng(0), [], np.empty(0)
    centres = rng.standard_normal((512, encoder.dim), np.float32)
    above = cells.parents(ids, LEVEL - store.SHARD_LEVELS)
    for parent in np.unique(above):
        here = ids[above == parent]
        codes = centres[rng.integers(0, 512, len(here))] + 0.8 * rng.standard_normal(
            (len(here), encoder.dim), np.float32
        )
        codes = (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float16)
        ones, dates = np.ones(len(here), np.float16), np.zeros(len(here), np.int32)
        rows = store.Rows(codes, here, dates, ones, none.astype(np.uint64), none.astype(np.float16))
        entries.append(store.write_rows(folder, str(cells.tokens(np.array([parent]))[0]), rows))
    own = Path("encoder", encoder.fingerprint())
    encoder.save(folder / own)
    manifest = Manifest(
        level=LEVEL,
        dim=encoder.dim,
        chip=asdict(encoder.aerial),
        encoder={
            "fingerprint": encoder.fingerprint(),
            "folder": str(own),
            "checksum": folder_checksum(folder / own),
        },
        min_coverage=0.5,
        imagery=[],
        sources=[],
        skipped_sources=[],
        shards=entries,
        created_at="",
        geoview="",
        calibration=CALIBRATION,
    )
    store.commit(folder, manifest)
    return folder


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def median(values: list[float]) -> float:
    return round(float(np.median(values)), 3)


if __name__ == "__main__":
    main()
