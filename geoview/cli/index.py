"""Verbs that make, change and check indexes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from geoview.cli.arguments import OK, SOME_FAILED, Namespace, config_of, region_of
from geoview.config import AddConfig, BuildConfig, CalibrateConfig, RemoveConfig, TuneConfig
from geoview.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geoview.index.manifest import Manifest

__all__ = ["add", "build", "calibrate", "info", "merge", "remove", "tune", "vacuum", "verify"]


def build(arguments: Namespace) -> int:
    """Covers a region with cells and tells what has become of them."""
    config = config_of(BuildConfig, arguments)
    import tiles
    from geoview.data.queries import find_queries
    from geoview.evaluate.fusion import fit_fusion
    from geoview.index.build import build_index
    from geoview.models.encoder import CrossViewEncoder
    from geoview.models.prototypes import LearntPrototypes

    source = tiles.open_source(config.imagery)
    region = region_of(config.region)
    index = build_index(
        CrossViewEncoder.load(config.encoder),
        source,
        region,
        config.out,
        config,
        photos=find_queries(config.photos),
        prototypes=None if config.prototypes is None else LearntPrototypes.open(config.prototypes),
        fit=partial(fit_fusion, config=config),
    )
    return _told(config.out, index.manifest, index.manifest.skipped_sources, index.manifest.skipped_photos)


def add(arguments: Namespace) -> int:
    """Adds imagery or photos to an index."""
    config = config_of(AddConfig, arguments)
    import tiles
    from geoview.data.queries import find_queries
    from geoview.index.build import add_to_index
    from geoview.index.remote import local_folder
    from geoview.index.store import read_manifest

    before = read_manifest(local_folder(arguments.index))
    source = tiles.open_source(config.imagery) if config.imagery else None
    photos = find_queries(config.photos)
    after = add_to_index(arguments.index, source, region_of(config.region), config, photos=photos).manifest
    rasters = [entry for entry in after.skipped_sources if entry not in before.skipped_sources]
    return _told(
        arguments.index, after, rasters, [entry for entry in after.skipped_photos if entry not in before.skipped_photos]
    )


def info(arguments: Namespace) -> int:
    """Tells what an index holds."""
    from geoview.describe import describe_index

    print(json.dumps(describe_index(arguments.index), indent=1))
    return OK


def verify(arguments: Namespace) -> int:
    """Tells what is wrong with an index; makes anew what can be, if asked."""
    from geoview.index.cell_index import CellIndex
    from geoview.index.tuning import repair

    if arguments.repair:
        for line in repair(arguments.index):
            print(f"geoview: {line}; made anew", file=sys.stderr)
    index = CellIndex.open(arguments.index)
    problems = index.verify()
    for problem in problems:
        print(problem)
    if problems:
        print(f"geoview: {arguments.index}: {len(problems)} problems", file=sys.stderr)
        return SOME_FAILED
    print(f"sound: {len(index)} codes in {len(index.manifest.shards)} shards")
    return OK


def tune(arguments: Namespace) -> int:
    """Makes an index fast to search, and tells what it measured."""
    config: TuneConfig = config_of(TuneConfig, arguments)
    from geoview.index.tuning import tune

    chosen, points = tune(arguments.index, config, _embedded(arguments.index, config))
    print(json.dumps({"index": arguments.index, "chosen": asdict(chosen), "measured": list(map(asdict, points))}))
    return OK


def calibrate(arguments: Namespace) -> int:
    """Makes scores probabilities, and tells how well that holds."""
    config: CalibrateConfig = config_of(CalibrateConfig, arguments)
    from geoview.evaluate.calibration import calibrate
    from geoview.index.cell_index import CellIndex

    with CellIndex.open(arguments.index) as index:
        told = calibrate(index, config)
    print(json.dumps({"index": arguments.index, "calibration": told}))
    return SOME_FAILED if told.get("unusable_photos") else OK


def remove(arguments: Namespace) -> int:
    """Takes cells or photos out of an index."""
    config = config_of(RemoveConfig, arguments)
    from geoview.data.queries import find_queries
    from geoview.index.upkeep import remove_photos, remove_region

    region = region_of(config.region)
    if region is not None:
        told = {"removed_codes": remove_region(arguments.index, region)}
    else:
        told = {"removed_photos": remove_photos(arguments.index, find_queries(config.photos), config)}
    print(json.dumps({"index": arguments.index, **told}))
    return OK


def merge(arguments: Namespace) -> int:
    """Makes one index of two."""
    from geoview.index.upkeep import merge

    manifest = merge(arguments.first, arguments.second, arguments.out).manifest
    return _told(arguments.out, manifest, [], [])


def vacuum(arguments: Namespace) -> int:
    """Removes what nobody reads any more."""
    from geoview.index.upkeep import vacuum

    folders, size_bytes = vacuum(arguments.index)
    print(json.dumps({"index": arguments.index, "removed_folders": folders, "removed_bytes": size_bytes}))
    return OK


def _told(
    index: str, manifest: Manifest, skipped_sources: list[dict[str, str]], skipped_photos: list[dict[str, str]]
) -> int:
    """Tells what an index has become, and what it lacks."""
    told: dict[str, Any] = {"index": index, "codes": manifest.n_rows, "cells_without_code": manifest.n_skipped}
    if manifest.prototypes is not None:
        told |= {"prototypes": manifest.prototypes.n_rows, "photos": manifest.prototypes.n_photos}
        told |= {"fusion": manifest.fusion}
    print(json.dumps(told))
    for what, skipped in (("rasters", skipped_sources), ("photos", skipped_photos)):
        if skipped:
            print(f"geoview: the index lacks {len(skipped)} {what}:", file=sys.stderr)
        for entry in skipped:
            print(f"geoview: {entry['reason']}", file=sys.stderr)
    return SOME_FAILED if skipped_sources or skipped_photos else OK


def _embedded(index: str, config: TuneConfig) -> NDArray[np.floating] | None:
    """Returns the embeddings of the photos to measure with."""
    if not config.photos:
        return None
    import numpy as np

    from geoview.data.queries import find_queries
    from geoview.index.cell_index import CellIndex
    from geoview.locate.localizer import Localizer

    with CellIndex.open(index) as opened:
        embedded = Localizer(opened, config).embed(find_queries(config.photos))
    for photo in embedded:
        if photo.error:
            raise ConfigError(photo.error)
    return np.concatenate([photo.vectors for photo in embedded])
