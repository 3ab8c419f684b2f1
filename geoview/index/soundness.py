"""Whether an index is what was written, and what it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geoview.errors import IndexCorruptError
from geoview.geo import cells
from geoview.index import ann, store
from geoview.index.manifest import AnnTable, Manifest, PrototypeEntry, ShardEntry
from geoview.index.remote import Address, Place, fetched
from geoview.index.shards import Shard, file_checksum, folder_checksum

__all__ = ["damage_of_encoder", "damage_of_lists", "problems"]

# Rows taken at once.
_READ_ROWS = 16_384
# Codes are rounded to half precision: a unit vector's norm may be off by this much.
_NORM_TOLERANCE = 2e-3


def problems(path: Place, manifest: Manifest) -> list[str]:
    """Reads everything that a manifest names but the encoder.

    Args:
        path: Where the index lies.
        manifest: What to read.

    Returns:
        A line for each thing that is wrong, naming the file.
    """
    # Who reads at an address holds no commit.
    found = [] if isinstance(path, Address) else store.damage_of_commits(path)
    for entry in manifest.shards:
        try:
            shard = store.open_shard(path, entry)
            found += shard.damage() or _disorder(shard, entry, manifest.level)
        except IndexCorruptError as error:
            found.append(str(error))
    for table in manifest.prototypes.shards if manifest.prototypes else ():
        try:
            shard = store.open_prototypes(path, table)
            found += shard.damage() or _disorder_of_prototypes(shard, table)
        except IndexCorruptError as error:
            found.append(str(error))
    return found + ([] if manifest.ann is None else damage_of_lists(path, manifest.ann))


def damage_of_encoder(path: Place, manifest: Manifest) -> list[str]:
    """Returns a line if a file of the encoder is not what was written, be it one that changes no code."""
    folder, wanted = store.encoder_folder(path, manifest), manifest.encoder.get("checksum")
    if wanted is None or folder_checksum(folder) == wanted:
        return []
    return [f"{folder}: a file of the encoder is not what was written"]


def damage_of_lists(path: Place, table: AnnTable) -> list[str]:
    """Returns a line for each file of the short codes and lists that is not what was written."""
    files = {
        path / table.codec_folder / ann.CODEC_FILE: table.codec_checksum,
        path / table.lists_folder / ann.LISTS_FILE: table.lists_checksum,
    }
    found = [line for file, wanted in files.items() for line in _damage_of_file(file, wanted)]
    return found + [line for entry in table.shards for line in store.damage_of_codes(path, entry)]


def _damage_of_file(file: Place, wanted: str) -> list[str]:
    def is_sound(here: Path) -> bool:
        return file_checksum(here) == wanted

    try:
        sound = is_sound(fetched(file, is_sound))
    except IndexCorruptError as error:
        return [str(error)]
    return [] if sound else [f"{file}: is not what was written; {ann.WAY_OUT}"]


def _disorder(shard: Shard, entry: ShardEntry, level: int) -> list[str]:
    """Checks what checksums cannot: order, place and norms."""
    found = []
    parent = cells.from_tokens([entry.parent])
    low, high = cells.range_min(parent)[0], cells.range_max(parent)[0]
    ids, dates = shard.read("cell"), shard.read("date")
    if len(ids):
        if not np.array_equal(np.lexsort((dates, ids)), np.arange(len(ids))):
            found.append(f"{entry.folder}/cell: not in the order of (cell, date)")
        if ids.min() < low or ids.max() > high or (cells.levels(ids) != level).any():
            found.append(f"{entry.folder}/cell: holds cells of another level or another shard")
    for start in range(0, entry.rows, _READ_ROWS):
        block = shard.take("aerial", slice(start, start + _READ_ROWS)).astype(np.float32)
        wrong = np.flatnonzero(~(np.abs(np.linalg.norm(block, axis=1) - 1) <= _NORM_TOLERANCE))
        if len(wrong):
            found.append(f"{entry.folder}/aerial: row {start + wrong[0]} is not a unit vector")
    return found


def _disorder_of_prototypes(shard: Shard, entry: PrototypeEntry) -> list[str]:
    found = []
    parent = cells.from_tokens([entry.parent])
    ids = shard.read("cell")
    if (np.diff(ids) == 0).any() or not np.array_equal(ids, np.sort(ids)):
        found.append(f"{entry.folder}/cell: cells are not in order")
    if len(ids) and (ids[0] < cells.range_min(parent)[0] or ids[-1] > cells.range_max(parent)[0]):
        found.append(f"{entry.folder}/cell: holds cells of another shard")
    if not np.isfinite(shard.read("sum")).all() or not (shard.read("weight") > 0).all():
        found.append(f"{entry.folder}: a sum is not finite, or has no weight")
    return found
