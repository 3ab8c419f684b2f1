"""What tuned search loses on real codes: first places of photos in one index of several regions, beside exact search.

    python benchmarks/tuned.py --work DIR [--photos 150] [--ask 60]

The rendered regions of `rendered.py`, never seen by the encoder, are merged into one index. So few codes would be
searched exactly whatever they are tuned to; here they are searched by lists, as millions are. The same photos are
answered exactly and by the lists, tuned to several recalls on codes with noise, as `geoview index tune` does without
photos. What counts is the share of photos whose first place is within 100 m.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lists import always_search_by_lists
from machine import circumstances
from numpy.typing import NDArray
from rendered import index_folder, number, region_folder, rendered, running
from scipy.stats import binomtest

import tiles
from geoview.config import BuildConfig, TuneConfig
from geoview.data.queries import PhotoQuery
from geoview.demo import LEVEL, DemoSize
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.index.tuning import tune
from geoview.index.upkeep import merge
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.localizer import Localizer, Search
from geoview.metrics import wilson_interval
from geoview.models.encoder import CrossViewEncoder, find_encoder
from geoview.render.world import STYLES

RECALLS = (0.9, 0.95, 0.99)
WITHIN_M = 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="demo")
    parser.add_argument("--styles", nargs="+", default=list(STYLES))
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--level", type=int, default=LEVEL)
    parser.add_argument("--photos", type=int, default=150, help="of each kind and region, that are rendered")
    parser.add_argument("--ask", type=int, default=60, help="of each kind and region, that are asked")
    parser.add_argument("--side_m", type=float, default=DemoSize().side_m, help="of a region")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tuned.json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    always_search_by_lists()
    path, photos = merged(arguments)
    with CellIndex.open(path) as index:
        localizer = Localizer(index, running(arguments))
        embedded = localizer.embed([PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in photos])
        n_codes = len(index)
        exact, exact_s = answered(localizer, embedded, photos, exact=True)
    rows = [{"search": "exact", **share_of(exact), "search_s": number(exact_s)}]
    for recall in RECALLS:
        chosen, _ = tune(path, TuneConfig(recall=recall))
        with CellIndex.open(path) as index:
            found, found_s = answered(Localizer(index, running(arguments)), embedded, photos, exact=False)
        gained, lost = int((found & ~exact).sum()), int((exact & ~found).sum())
        rows.append(
            {
                "search": f"tuned to recall {recall:g}",
                "chosen": {"n_probe": chosen.n_probe, "k_factor": chosen.k_factor, "recall": number(chosen.recall)},
                **share_of(found),
                "gained": gained,
                "lost": lost,
                "p_value": number(binomtest(gained, gained + lost).pvalue if gained + lost else 1.0),
                "search_s": number(found_s),
            }
        )
    report = {
        "what": "photos whose first place is within 100 m, by exact and by tuned search of one index",
        "encoder": {"name": arguments.encoder, "fingerprint": localizer.encoder.fingerprint()},
        "codes": n_codes,
        "photos": len(photos),
        "rows": rows,
        **circumstances(f"{arguments.threads} threads used"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def merged(arguments: argparse.Namespace) -> tuple[Path, list[PhotoQuery]]:
    """Makes one index of all regions, and chooses the photos to ask."""
    encoder = find_encoder(arguments.encoder)
    paths, photos = [], []
    for style in arguments.styles:
        region = rendered(style, arguments.seed, arguments)
        folder = region_folder(style, arguments.seed, arguments)
        path = index_folder(folder, "encoder", encoder, arguments.level)
        if not (path / "manifest.json").exists():
            config = BuildConfig(
                encoder=str(encoder), imagery=[str(region.reference)], out=str(path), level=arguments.level,
                device="cpu", num_workers=arguments.threads,
            )  # fmt: skip
            source, outline = tiles.open_source(config.imagery), Region.from_geojson(region.outline)
            build_index(CrossViewEncoder.load(encoder), source, outline, path, config).close()
        paths.append(path)
        for panorama in (True, False):
            photos += [photo for photo in region.photos if (photo.fov_deg == 360) == panorama][: arguments.ask]
    for number_of, path in enumerate(paths[1:]):
        out = arguments.work / f"merged_{number_of}"
        shutil.rmtree(out, ignore_errors=True)
        merge(paths[0] if not number_of else arguments.work / f"merged_{number_of - 1}", path, out).close()
    return out, photos


def answered(
    localizer: Localizer, embedded: list[EmbeddedPhoto], photos: list[PhotoQuery], *, exact: bool
) -> tuple[NDArray[np.bool_], float]:
    """Returns which photos have their first place within 100 m, (N,), and what the search took in seconds."""
    start = time.perf_counter()
    answers = localizer.answer(embedded, Search(top_k=1, exact=exact))
    seconds = time.perf_counter() - start
    error_m = [
        float(distance_m(np.array(photo.latlon_deg), np.array(answer.places[0].latlon_deg)))
        for photo, answer in zip(photos, answers, strict=True)
    ]
    return np.array(error_m) <= WITHIN_M, seconds


def share_of(found: NDArray[np.bool_]) -> dict[str, Any]:
    share = float(found.mean())
    return {
        "recall_at_1_within_100_m": number(share),
        "interval": [number(v) for v in wilson_interval(share, len(found))],
    }


if __name__ == "__main__":
    main()
