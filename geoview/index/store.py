"""The index folder: shards of plain Zarr, a manifest, and the commit that moves readers to the next generation.

    manifest.json                          names every file that counts; replaced by rename
    encoder/<fingerprint>/                 the encoder that made the codes
    shards/<S2 parent token>/<generation>/ one Zarr group: rows ordered by (cell, date), and the cells without a code
    build/                                 journal of a build that is not finished

A reader sees what the manifest names and nothing else, so that a writer killed at any moment leaves the index whole.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from geoview.errors import IndexCorruptError, IndexNotFoundError, IndexVersionError
from geoview.files import remove_folder, sync, write_json

__all__ = [
    "FORMAT_VERSION",
    "SHARD_LEVELS",
    "Array",
    "Manifest",
    "Rows",
    "ShardEntry",
    "clear_journal",
    "commit",
    "damaged_blocks",
    "read_cells",
    "read_manifest",
    "read_rows",
    "read_shard",
    "remove_journal",
    "remove_unnamed",
    "write_shard",
]

FORMAT_VERSION = 1
# A shard is the part of an index under one S2 cell this many levels up: 4^8 = 65,536 cells.
SHARD_LEVELS = 8
# Rows of a Zarr chunk and of a checksum.
_BLOCK_ROWS = 4096
# What Zarr keeps beside every array and group, and the key of its checksum.
_METADATA = "zarr.json"
#: A Zarr array on disk, read by slicing.
Array = zarr.Array[Any]


@dataclass(frozen=True)
class Rows:
    """What a shard holds, N codes and M cells without one.

    Attributes:
        aerial: (N, dim) float16 unit vectors.
        cell: (N,) uint64 S2 cell ids, ascending.
        date: (N,) int32 date of the imagery as yyyymmdd; 00 for a day or month that is not known, 0 for none.
        coverage: (N,) float16 share of valid ground in the chip.
        skipped_cell: (M,) uint64 cells whose chip had too little valid ground, ascending.
        skipped_coverage: (M,) float16 share of valid ground in their chips.
    """

    aerial: NDArray[np.float16]
    cell: NDArray[np.uint64]
    date: NDArray[np.int32]
    coverage: NDArray[np.float16]
    skipped_cell: NDArray[np.uint64]
    skipped_coverage: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.cell)

    @classmethod
    def concatenate(cls, parts: list[Rows]) -> Rows:
        """Joins parts and puts the rows into the order of (cell, date)."""
        joined = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        order = np.lexsort((joined["date"], joined["cell"]))
        skipped = np.argsort(joined["skipped_cell"], kind="stable")
        return cls(**{k: v[skipped if k.startswith("skipped_") else order] for k, v in joined.items()})


@dataclass(frozen=True)
class ShardEntry:
    """One shard in the manifest.

    Attributes:
        parent: Token of the S2 cell that the shard covers.
        generation: Folder under `shards/<parent>/`.
        rows: Codes.
        skipped: Cells without a code.
        checksums: Array name to checksums of its blocks of 4,096 rows; `zarr.json` to that of all files of that name.
    """

    parent: str
    generation: str
    rows: int
    skipped: int
    checksums: dict[str, list[str]]

    @property
    def folder(self) -> Path:
        """Path below the index folder."""
        return Path("shards", self.parent, self.generation)


@dataclass(frozen=True)
class Manifest:
    """What an index is; see the fields of `manifest.json`.

    Attributes:
        level: S2 level of the cells.
        dim: Length of a code.
        chip: Geometry of the chips, as a view.
        encoder: Fingerprint and folder of the encoder.
        min_coverage: Least share of valid ground in a chip.
        imagery: What the imagery was opened from.
        sources: Imagery: uri, date, licence, attribution, gsd_m, crs of each part.
        skipped_sources: Imagery that could not be read: uri and reason.
        shards: In S2 order.
        kappa: Weight of prototypes in a cell code; None where there are none.
        calibration: None until the index is calibrated.
        created_at: UTC time of the commit.
        geoview: Version that wrote it.
        format_version: Of the folder.
    """

    level: int
    dim: int
    chip: dict[str, Any]
    encoder: dict[str, str]
    min_coverage: float
    imagery: list[str]
    sources: list[dict[str, Any]]
    skipped_sources: list[dict[str, str]]
    shards: list[ShardEntry]
    created_at: str
    geoview: str
    kappa: float | None = None
    calibration: dict[str, Any] | None = None
    format_version: int = field(default=FORMAT_VERSION, kw_only=True)

    @property
    def n_rows(self) -> int:
        """Codes in all shards."""
        return sum(s.rows for s in self.shards)

    @property
    def n_skipped(self) -> int:
        """Cells without a code in all shards."""
        return sum(s.skipped for s in self.shards)


def read_manifest(index: Path) -> Manifest:
    """Reads `manifest.json`.

    Raises:
        IndexNotFoundError: There is none; tells apart an unfinished build from a folder that is something else.
        IndexVersionError: A newer geoview wrote it.
        IndexCorruptError: It cannot be read.
    """
    path = index / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if (index / "build").is_dir():
            raise IndexNotFoundError(
                f"{index}: its build is not finished; run the same `geoview index build` again"
            ) from error
        raise IndexNotFoundError(
            f"{index}: not an index (no manifest.json); make one with `geoview index build`"
        ) from error
    except (ValueError, OSError) as error:
        raise IndexCorruptError(f"{path}: cannot be read: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise IndexCorruptError(f"{path}: has no format_version")
    if version > FORMAT_VERSION:
        raise IndexVersionError(
            f"{index}: format {version} is newer than this geoview reads ({FORMAT_VERSION}); update geoview"
        )
    try:
        content["shards"] = [ShardEntry(**entry) for entry in content["shards"]]
        return Manifest(**content)
    except (KeyError, TypeError) as error:
        raise IndexCorruptError(f"{path}: incomplete: {error}") from error


def commit(index: Path, manifest: Manifest) -> None:
    """Replaces the manifest by rename; everything that it names must be on disk already."""
    write_json(index / "manifest.json", asdict(manifest))


def write_shard(index: Path, parent: str, rows: Rows) -> ShardEntry:
    """Writes a new generation of a shard, whole and synced; nobody sees it before a manifest names it.

    Args:
        index: Index folder.
        parent: Token of the shard's S2 cell.
        rows: Content, in the order of (cell, date).

    Returns:
        The entry for the manifest.
    """
    generation = secrets.token_hex(8)
    checksums = {f.name: _checksums(getattr(rows, f.name)) for f in fields(Rows)}
    entry = ShardEntry(parent, generation, len(rows), len(rows.skipped_cell), checksums)
    folder = index / entry.folder
    part = folder.with_name(f".{generation}")
    try:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        for f in fields(Rows):
            _write_array(group, f.name, getattr(rows, f.name))
        checksums[_METADATA] = [_metadata_checksum(part)]
        for path in part.rglob("*"):
            sync(path)
        part.replace(folder)
    except BaseException:
        remove_folder(part)
        raise
    sync(folder.parent)
    return entry


def read_shard(index: Path, entry: ShardEntry) -> dict[str, Array]:
    """Opens the arrays of a shard; nothing is read before it is sliced.

    Raises:
        IndexCorruptError: An array is missing, is not described as it was written, or has not the length that the
            manifest says.
    """
    folder = index / entry.folder
    try:
        # Zarr reads past many a damage to its metadata, and fails at others with whatever exception comes up.
        if [_metadata_checksum(folder)] != entry.checksums.get(_METADATA):
            raise IndexCorruptError(
                f"{folder}: a {_METADATA} in it is not what was written; build the index anew, or restore it"
            )
        group = zarr.open_group(folder, mode="r", zarr_format=3)
        arrays = {f.name: group[f.name] for f in fields(Rows)}
    except (OSError, KeyError) as error:
        raise IndexCorruptError(
            f"{folder}: shard is missing or incomplete ({error}); build the index anew, or restore it"
        ) from error
    opened: dict[str, Array] = {}
    for name, array in arrays.items():
        wanted = entry.skipped if name.startswith("skipped_") else entry.rows
        if not isinstance(array, zarr.Array) or array.shape[0] != wanted:
            raise IndexCorruptError(f"{folder}/{name}: has not the {wanted} rows that the manifest says")
        opened[name] = array
    return opened


def read_rows(array: Array, start: int, stop: int) -> NDArray[Any]:
    """Reads rows [start, stop) of a shard's array.

    Raises:
        IndexCorruptError: The file is truncated or gone.
    """
    path = Path(str(array.store_path).removeprefix("file://"), "c", *["0"] * array.ndim)
    try:
        rows = np.asarray(array[start:stop])
        # Zarr takes a file that is not there, or is empty, for one full of zeros. Files never come back: what is there
        # after reading was there before.
        if array.nbytes and not path.stat().st_size:
            raise OSError("the file is empty")
    except (OSError, ValueError, RuntimeError) as error:
        raise IndexCorruptError(f"{path}: cannot be read ({error}); restore the file or build anew") from error
    return rows


def read_cells(index: Path, entry: ShardEntry) -> NDArray[np.uint64]:
    """Reads the cell of every row of a shard and checks them: a wrong id would be a wrong place.

    Raises:
        IndexCorruptError: The file is damaged or gone.
    """
    ids = read_rows(read_shard(index, entry)["cell"], 0, entry.rows)
    if _checksums(ids) != entry.checksums.get("cell"):
        raise IndexCorruptError(f"{index / entry.folder}/cell: is not what was written; restore it or build anew")
    return ids.astype(np.uint64, copy=False)


def damaged_blocks(index: Path, entry: ShardEntry) -> list[str]:
    """Returns a line for every block of rows whose checksum is not the manifest's."""
    lines: list[str] = []
    for name, array in read_shard(index, entry).items():
        wanted = entry.checksums.get(name, [])
        starts = range(0, max(1, array.shape[0]), _BLOCK_ROWS)
        if len(starts) != len(wanted):
            lines.append(f"{entry.folder}/{name}: {len(wanted)} checksums for {len(starts)} blocks")
            continue
        for start, checksum in zip(starts, wanted, strict=True):
            stop = min(start + _BLOCK_ROWS, array.shape[0])
            try:
                sound = _checksums(read_rows(array, start, stop)) == [checksum]
            except IndexCorruptError:
                sound = False
            if not sound:
                lines.append(f"{entry.folder}/{name}: rows {start} to {stop} are not what was written")
    return lines


def remove_unnamed(index: Path, manifest: Manifest) -> None:
    """Removes generations and encoders that the manifest does not name. A reader of those must open the index anew."""
    named = {index / s.folder for s in manifest.shards} | {index / manifest.encoder["folder"]}
    for folder in [*index.glob("shards/*/*"), *index.glob("encoder/*")]:
        if folder not in named:
            remove_folder(folder)
    for part in index.glob(".manifest.json.*"):  # of a commit that was killed
        part.unlink(missing_ok=True)


def remove_journal(index: Path) -> None:
    """Removes the journal of a build that has been committed."""
    remove_folder(index / "build")


def clear_journal(index: Path) -> None:
    """Empties the journal, its lock file excepted: the caller holds that."""
    for path in (index / "build").iterdir():
        if path.is_dir():
            remove_folder(path)
        elif path.name != "lock":
            path.unlink()


def _write_array(group: zarr.Group, name: str, values: NDArray[Any]) -> None:
    n, tail = len(values), values.shape[1:]
    chunk = max(1, min(n, _BLOCK_ROWS))
    shard = max(1, -(-n // chunk)) * chunk
    # One Zarr shard, uncompressed, empty chunks kept: then the file is the row-major matrix and an index behind it.
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *tail),
        shards=(shard, *tail),
        compressors=None,
        config={"write_empty_chunks": True},
    )
    array[:] = values


def _checksums(values: NDArray[Any]) -> list[str]:
    return [
        hashlib.blake2b(np.ascontiguousarray(values[i : i + _BLOCK_ROWS]).tobytes(), digest_size=8).hexdigest()
        for i in range(0, max(1, len(values)), _BLOCK_ROWS)
    ]


def _metadata_checksum(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in ("", *(f.name for f in fields(Rows))):
        digest.update((folder / name / _METADATA).read_bytes())
    return digest.hexdigest()
