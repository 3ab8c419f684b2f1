"""What a path is: an encoder, an index, a training run, a data set, a photo or imagery."""

from __future__ import annotations

import csv
import json
import platform
from dataclasses import asdict
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tiles
from geoview.data.datasets import DATASETS, Dataset, load, recognise
from geoview.data.photos import read_metadata
from geoview.embed import resolve_device
from geoview.errors import ConfigError, DatasetError
from geoview.index.cell_index import CellIndex
from geoview.index.dates import iso_date
from geoview.index.manifest import Manifest
from geoview.index.remote import Address, Place, place_of
from geoview.models.encoder import CrossViewEncoder
from geoview.models.prototypes import PROTOTYPES_FILE, LearntPrototypes

__all__ = ["describe", "describe_index", "environment"]


def environment() -> dict[str, Any]:
    """Returns what geoview runs on: versions, the device that `auto` means, and whose FAISS is installed."""
    device = resolve_device("auto")
    return {
        "kind": "installation",
        "geoview": version("geoview"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Two wheels own one folder: where both are named, the one that came last is active, and both should go.
        "faiss": [f"{wheel} {version(wheel)}" for wheel in sorted(set(packages_distributions().get("faiss", ())))],
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def describe(path: str | Path) -> dict[str, Any]:
    """Returns what a file or folder is, as JSON can hold it.

    Args:
        path: File or folder, or the address of an index.

    Raises:
        ConfigError: There is nothing.
        GeoviewError: It is broken.
        TilesError: It is no imagery, nor anything else.
    """
    place = place_of(path)
    if isinstance(place, Address):
        return describe_index(place)
    path = place
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    for marker, of in (("manifest.json", describe_index), ("geoview.json", _encoder), ("config.yaml", _run)):
        if (path / marker).exists():
            return of(path)
    name = recognise(path)
    if name is not None:
        return _dataset(path, DATASETS[name])
    return _photo(path) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp") else _imagery(path)


def describe_index(path: str | Place) -> dict[str, Any]:
    """Returns what an index holds.

    Args:
        path: Index folder, or its address.

    Raises:
        IndexNotFoundError: It is no index.
    """
    index = CellIndex.open(path)
    manifest = asdict(index.manifest)
    shards, sources = manifest.pop("shards"), manifest.pop("sources")
    table = index.manifest.prototypes
    manifest["prototypes"] = table and {
        "level": table.level,
        "border": table.border,
        "frustum": table.frustum,
        "learnt": table.learnt,
        "cells": table.n_rows,
        "photos": table.n_photos,
    }
    ann = index.manifest.ann
    if ann is not None:
        manifest["ann"]["shards"] = len(ann.shards)
        manifest["ann"]["rows"] = ann.n_rows
    extent = index.extent_deg()
    n_dates, n_cells = np.unique(np.unique(index.cell_ids(), return_counts=True)[1], return_counts=True)
    dates = index.dates()
    known = dates[dates > 0].tolist()
    return {
        "kind": "index",
        "codes": len(index),
        "cells_without_code": index.manifest.n_skipped,
        "cells_by_dates": dict(zip(map(str, n_dates.tolist()), n_cells.tolist(), strict=True)),
        "oldest_imagery": iso_date(min(known, default=0)),
        "newest_imagery": iso_date(max(known, default=0)),
        "shards": len(shards),
        # Plain HTTP has no way to list files.
        "size_bytes": None if isinstance(index.path, Address) else _size_bytes(index.path, index.manifest),
        "extent_deg": None if extent is None else dict(zip(("south", "west", "north", "east"), extent, strict=True)),
        **manifest,
        "sources": len(sources),
        **{f"{key}s": sorted({str(s[key]) for s in sources if s[key]}) for key in ("date", "licence", "attribution")},
    }


def _size_bytes(path: Path, manifest: Manifest) -> int:
    """Length of all files but the encoder's."""
    tables = (manifest, manifest.prototypes, manifest.ann)
    folders = [s.folder for table in tables if table for s in table.shards]
    folders += [manifest.ann.lists_folder] if manifest.ann else []
    return sum(f.stat().st_size for folder in folders for f in (path / folder).rglob("*") if f.is_file())


def _encoder(path: Path) -> dict[str, Any]:
    encoder = CrossViewEncoder.load(path)
    return {
        "kind": "encoder",
        "backbone": encoder.architecture,
        **encoder.form,
        "dim": encoder.dim,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "fingerprint": encoder.fingerprint(),
        "views": {"ground": asdict(encoder.ground), "aerial": asdict(encoder.aerial)},
        **encoder.notes,
    }


def _run(path: Path) -> dict[str, Any]:
    metrics = path / "metrics.csv"
    rows = list(csv.DictReader(metrics.open(encoding="utf-8"))) if metrics.exists() else []
    finished = (path / "encoder" / "geoview.json").exists()
    prototypes = len(LearntPrototypes.open(path).cell) if (path / PROTOTYPES_FILE).exists() else 0
    return {
        "kind": "training run",
        "finished": finished,
        "prototypes": prototypes,
        "last": rows[-1] if rows else None,
    }


def _dataset(path: Path, dataset: Dataset) -> dict[str, Any]:
    plan = path / "dataset.json"  # of `geoview render dataset`
    made_up = json.loads(plan.read_text(encoding="utf-8"))["about"] if plan.exists() else None
    return {
        "kind": "data set",
        "name": dataset.name,
        **({"page": dataset.page} if made_up is None else {"made_up": made_up}),
        "splits": [
            {
                "split": split,
                "labels": labels,
                **_split(path, dataset, split, labels),
                # Nobody has published how many pictures a made-up set has.
                **(_published(dataset, split) if made_up is None else {}),
            }
            for labels in dataset.loaders
            for split in dataset.splits
        ],
    }


def _split(path: Path, dataset: Dataset, split: str, labels: str) -> dict[str, Any]:
    """What is there of a split; what is not there is told, and no failure."""
    try:
        table = load(dataset.name, path, split, labels=labels)
    except DatasetError as error:
        return {"error": str(error)}
    return {"queries": len(table), "references": len(table.reference_path)}


def _published(dataset: Dataset, split: str) -> dict[str, int | None]:
    counts = dataset.splits[split]
    return {"published_queries": counts.queries, "published_references": counts.references}


def _photo(path: Path) -> dict[str, Any]:
    metadata = asdict(read_metadata(path))
    captured_at = metadata.pop("captured_at")
    return {"kind": "photo", "captured_at": captured_at and captured_at.isoformat(), **metadata}


def _imagery(path: Path) -> dict[str, Any]:
    source = tiles.open_source(str(path))
    west, south, east, north = source.coverage().bounds
    return {
        "kind": "imagery",
        "native_gsd_m": source.native_gsd_m,
        "extent_deg": {"south": south, "west": west, "north": north, "east": east},
        "parts": [asdict(part) for part in source.parts()],
        "skipped": [{"uri": str(uri), "reason": reason} for uri, reason in source.skipped],
    }
