"""Changes to an index that is there: readers keep what they have opened, and a kill leaves the old index whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoview.config import InferenceConfig, PlanView
from geoview.data.queries import PhotoQuery
from geoview.errors import ConfigError, EncoderMismatchError, OutputExistsError, RegionError
from geoview.files import exclusive, full_disk_told, remove_folder, sync, write_json
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import store
from geoview.index.cell_index import CellIndex
from geoview.index.manifest import Manifest, PrototypeEntry, PrototypeTable, ShardEntry
from geoview.index.prototypes import Prototypes, Speech, embed_photos, known_photos
from geoview.index.remote import local_folder
from geoview.index.tuning import refresh

__all__ = ["merge", "remove_photos", "remove_region", "vacuum"]


def vacuum(path: str | Path) -> tuple[int, int]:
    """Removes what no manifest names and no reader holds; shards that a cut-off build has finished stay for it.

    Args:
        path: Index folder.

    Returns:
        Folders removed, and their bytes.

    Raises:
        IndexNotFoundError: It is no index.
        BusyError: It is being written.
    """
    index = local_folder(path)
    with store.writing(index):
        gone = store.sweep(index)
    return len(gone), sum(gone.values())


def remove_region(path: str | Path, region: Region) -> int:
    """Removes the cells of a region; ground photos go on speaking for the cells that are left.

    Args:
        path: Index folder.
        region: Cells that touch it go.

    Returns:
        How many codes were removed.

    Raises:
        RegionError: No cell of the index lies in the region.
        IndexNotFoundError: It is no index.
        BusyError: It is being written.
    """
    index = local_folder(path)
    with full_disk_told(index), store.writing(index) as before:
        ranges = region.cell_ranges(before.level)
        entries = [_without(index, entry, ranges) for entry in before.shards]
        if entries == before.shards:
            raise RegionError(f"{region.name}: no cell of {index} lies in it; `geoview info {index}` tells its extent")
        shards = [entry for entry in entries if entry is not None]
        after = _committed(index, replace(before, shards=shards))
    refresh(index)
    return before.n_rows - after.n_rows


def remove_photos(path: str | Path, photos: Sequence[PhotoQuery], config: InferenceConfig) -> int:
    """Takes ground photos out again; what they said is computed anew, so the files have to be there, unchanged.

    Args:
        path: Index folder.
        photos: With the places and headings that they were added with.
        config: How the encoder is run.

    Returns:
        How many photos were removed.

    Raises:
        ConfigError: A photo cannot be read, is not in the index, or was added with another place: nothing is removed
            then.
        IndexNotFoundError: It is no index.
        BusyError: It is being written.
    """
    index = local_folder(path)
    with full_disk_told(index), store.writing(index) as before:
        table = before.prototypes
        if table is None:
            raise ConfigError(f"{index}: has no ground photos to remove")
        if table.learnt:
            raise ConfigError(f"{index}: its prototypes were learnt of photos that cannot be taken out; train again")
        with CellIndex.open(index) as opened:
            encoder, keys = opened.encoder(), opened.prototypes().photo_key
        known, left_out = known_photos(photos, needs_heading=isinstance(encoder.ground, PlanView))
        for photo in known:
            if photo.key not in keys:
                left_out[photo.path] = f"{photo.path}: is not in the index, or was another file then"
        sound, vectors, failed = embed_photos(encoder, known, config)
        for reason in (left_out | failed).values():
            raise ConfigError(f"{reason}; nothing was removed")
        speech = Speech(table.level, table.border, table.frustum)
        entries = []
        found = 0
        for entry in table.shards:
            parent = cells.from_tokens([entry.parent])[0]
            gone = Prototypes.of(sound, vectors, speech, parent)
            if len(gone) or len(gone.photo_key):
                there = store.read_prototypes(index, entry)
                if not there.holds(gone):
                    raise ConfigError(
                        f"{index}: some of these photos were added with another place, and what they said cannot be "
                        "taken out; give the table that they were added with; nothing was removed"
                    )
                left = there.minus(gone)
                found += len(gone.photo_key)
                entries += [store.write_prototypes(index, entry.parent, left)] if len(left) else []
            else:
                entries.append(entry)
        if found != len(sound):
            raise ConfigError(
                f"{index}: {len(sound) - found} of these photos were added with another place; nothing was removed"
            )
        _committed(index, replace(before, prototypes=replace(table, shards=entries)))
    refresh(index)
    return len(sound)


def merge(first: str | Path, second: str | Path, out: str | Path) -> CellIndex:
    """Makes one index of two: of a cell and a date that both have, the second's code counts; to be tuned anew.

    Args:
        first: Index folder.
        second: Index folder, of the same encoder, level and scales.
        out: Index folder to write.

    Returns:
        The merged index.

    Raises:
        OutputExistsError: There is something at `out`, other than what a killed merge of the same has left.
        EncoderMismatchError: The indexes are of two encoders.
        ConfigError: They differ in what cannot be merged, or have photos in common.
        StorageFullError: The disk is full.
    """
    out = local_folder(out)
    plan = out / "build" / "plan.json"
    if out.exists() and any(out.iterdir()) and ((out / "manifest.json").exists() or not plan.exists()):
        raise OutputExistsError(f"{out}: is there already; merge into a new folder")
    with CellIndex.open(local_folder(first)) as one, CellIndex.open(local_folder(second)) as other:
        table = _table_of_both(one, other)
        with full_disk_told(out), exclusive(out / "build"):
            _begun_anew(plan, {"merges": [str(index.folder.resolve()) for index in (one, other)]})
            fingerprint = Path(one.manifest.encoder["folder"])
            shutil.copytree(one.folder / fingerprint, out / fingerprint)
            for file in (out / fingerprint).iterdir():
                sync(file)
            shards = {entry.parent: _copied(one, entry, out) for entry in one.manifest.shards}
            for entry in other.manifest.shards:
                rows = store.read_rows(other.folder, entry)
                if entry.parent in shards:
                    rows = store.read_rows(out, shards[entry.parent]).updated(rows)
                shards[entry.parent] = store.write_rows(out, entry.parent, rows)
            if table is not None:
                table = replace(table, shards=_prototypes_of_both(one, other, out))
            a, b = one.manifest, other.manifest
            _committed(
                out,
                replace(
                    a,
                    imagery=[*a.imagery, *(uri for uri in b.imagery if uri not in a.imagery)],
                    sources=[*a.sources, *(part for part in b.sources if part not in a.sources)],
                    skipped_sources=[*a.skipped_sources, *b.skipped_sources],
                    skipped_photos=[*a.skipped_photos, *b.skipped_photos],
                    shards=store.in_order(shards.values()),
                    prototypes=table,
                    fusion=a.fusion or b.fusion,
                    ann=None,
                    calibration=None,
                ),
            )
            store.remove_journal(out)
    return CellIndex.open(out)


def _begun_anew(plan: Path, content: dict[str, list[str]]) -> None:
    """Takes a folder for a merge, and clears it of what one before that was killed has left."""
    if plan.exists() and json.loads(plan.read_text(encoding="utf-8")) != content:
        raise ConfigError(f"{plan.parents[1]}: holds something else that is not finished; merge into a new folder")
    for name in ("shards", "prototypes", "encoder"):
        remove_folder(plan.parents[1] / name)
    write_json(plan, content)


def _committed(index: Path, manifest: Manifest) -> Manifest:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    after = store.commit(index, replace(manifest, created_at=now, geoview=version("geoview")))
    store.sweep(index)
    return after


def _without(index: Path, entry: ShardEntry, ranges: NDArray[np.uint64]) -> ShardEntry | None:
    """Returns a shard without the cells of leaf ranges: as it was, written anew, or None where nothing is left."""
    parent = cells.from_tokens([entry.parent])
    low, high = cells.range_min(parent)[0], cells.range_max(parent)[0]
    if not ((ranges[:, 1] >= low) & (ranges[:, 0] <= high)).any():
        return entry
    rows = store.read_rows(index, entry)
    gone, skipped = cells.in_ranges(rows.cell, ranges), cells.in_ranges(rows.skipped_cell, ranges)
    if not gone.any() and not skipped.any():
        return entry
    left = rows.without(gone)
    left = replace(left, skipped_cell=rows.skipped_cell[~skipped], skipped_coverage=rows.skipped_coverage[~skipped])
    return store.write_rows(index, entry.parent, left) if len(left) or len(left.skipped_cell) else None


def _table_of_both(one: CellIndex, other: CellIndex) -> PrototypeTable | None:
    """Returns how prototypes of both indexes are made, without shards, after making sure that they can be merged."""
    a, b = one.manifest, other.manifest
    if a.encoder["fingerprint"] != b.encoder["fingerprint"]:
        raise EncoderMismatchError(
            f"{one.path} is of encoder {a.encoder['fingerprint']}, {other.path} of {b.encoder['fingerprint']}; "
            "build one of them anew with the other's encoder"
        )
    for what in ("level", "chip", "scales"):
        if getattr(a, what) != getattr(b, what):
            raise ConfigError(f"{one.path} and {other.path} differ in their {what}; only indexes alike can be merged")
    tables = [replace(m.prototypes, shards=[]) for m in (a, b) if m.prototypes is not None]
    if len(tables) == 2:
        if tables[0].learnt or tables[1].learnt:
            raise ConfigError(
                f"{one.path} and {other.path} both have prototypes, and learnt ones do not add up; train over the "
                "ground of both, and build one index with --prototypes of that run"
            )
        if tables[0] != tables[1]:
            raise ConfigError(f"{one.path} and {other.path}: photos speak by other rules (border, frustum) in each")
        common = np.intersect1d(one.prototypes().photo_key, other.prototypes().photo_key)
        if len(common):
            raise ConfigError(
                f"{one.path} and {other.path} have {len(common)} photos in common, which would count twice; take them "
                "out of one with `geoview index remove --photos`"
            )
    return tables[0] if tables else None


def _copied(index: CellIndex, entry: ShardEntry, out: Path) -> ShardEntry:
    return store.write_rows(out, entry.parent, store.read_rows(index.folder, entry))


def _prototypes_of_both(one: CellIndex, other: CellIndex, out: Path) -> list[PrototypeEntry]:
    parts: dict[str, list[Prototypes]] = {}
    for index in (one, other):
        for entry in index.manifest.prototypes.shards if index.manifest.prototypes else ():
            parts.setdefault(entry.parent, []).append(store.read_prototypes(index.folder, entry))
    return store.in_order(
        store.write_prototypes(out, token, Prototypes.concatenate(each)) for token, each in parts.items()
    )
