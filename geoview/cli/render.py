"""Verbs that make regions, photos and data sets up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from geoview.cli.arguments import OK, SOME_FAILED, Namespace, config_of
from geoview.config import DemoConfig, RenderDatasetConfig, RenderPhotosConfig, RenderRegionConfig

__all__ = ["dataset", "demo", "photos", "region"]


def demo(arguments: Namespace) -> int:
    """Runs the whole story on a region that is made up."""
    config: DemoConfig = config_of(DemoConfig, arguments)
    from geoview.demo import demo, summary

    report = demo(config)
    print(summary(report))
    for name, what in (
        ("sheet.jpg", "some photos, their first places, and the truth"),
        ("map.html", "answers on a map; opens in any browser"),
        ("candidates.geojson", "all answers"),
        ("report.json", "the figures above, and more"),
    ):
        print(f"geoview: {Path(config.out, name)}: {what}", file=sys.stderr)
    return SOME_FAILED if any(report[kind]["n_failed"] for kind in ("panoramas", "perspective")) else OK


def region(arguments: Namespace) -> int:
    """Makes a region up."""
    config: RenderRegionConfig = config_of(RenderRegionConfig, arguments)
    from geoview.render.region import write_region
    from geoview.render.world import make_world

    world = make_world(config.style, config.seed, size_m=(config.width_m, config.height_m), gsd_m=config.gsd_m)
    plan = write_region(
        world,
        Path(config.out),
        n_panoramas=config.n_panoramas,
        n_perspective=config.n_perspective,
        seed=config.seed,
        range_m=config.range_m,
        overwrite=config.overwrite,
        num_workers=config.num_workers,
    )
    photos = config.n_panoramas + config.n_perspective
    print(json.dumps({"region": config.out, "reference": plan["reference"], "photos": photos}))
    return OK


def photos(arguments: Namespace) -> int:
    """Takes photos of real places."""
    config: RenderPhotosConfig = config_of(RenderPhotosConfig, arguments)
    from geoview.render.tour import photograph

    n_photos, failures = photograph(config)
    for failure in failures:
        print(f"geoview: {' '.join(failure.split())}", file=sys.stderr)
    print(json.dumps({"out": config.out, "photos": n_photos, "failed": len(failures)}))
    return SOME_FAILED if failures else OK


def dataset(arguments: Namespace) -> int:
    """Makes a benchmark set up."""
    config: RenderDatasetConfig = config_of(RenderDatasetConfig, arguments)
    from geoview.render.datasets import write_dataset

    print(json.dumps(write_dataset(config)))
    return OK
