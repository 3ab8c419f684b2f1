"""The index folder: shards, a manifest, and the commit that moves readers to the next generation.

    manifest.json                          names every file that counts; replaced by rename
    commits/<number>.json                  the same, one for each commit that a reader may still hold
    encoder/<fingerprint>/                 the encoder that made the codes
    shards/<S2 parent token>/<generation>/ rows ordered by (cell, date), and the cells without a code
    prototypes/<S2 parent token>/<generation>/ sums over the ground photos of larger cells, in the order of these
    ann/<codec>/codec.faiss                coarse quantiser and code book
    ann/<codec>/<S2 parent token>/<generation>/ list and short code of each row of a shard
    ann/<codec>/lists/<generation>/lists.bin  the same of all shards, list by list, as they are searched
    build/                                 journal of a build that is not finished

A reader sees what its manifest names and nothing else, so that a writer killed at any moment leaves the index whole.
It holds its commit by a lock that the kernel lets go of with the process; what nobody holds is swept away.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from geoview.errors import EncoderError, IndexCorruptError, IndexNotFoundError, IndexVersionError
from geoview.files import exclusive, in_turn, remove_folder, write_json
from geoview.geo import cells
from geoview.index.manifest import (
    FORMAT_VERSION,
    AnnEntry,
    Manifest,
    PrototypeEntry,
    ShardEntry,
    content_of,
    parsed,
)
from geoview.index.prototypes import Prototypes
from geoview.index.remote import Address, Place
from geoview.index.shards import Shard, folder_checksum, write_shard
from geoview.models.encoder import NOTES_FILE, files_beside

__all__ = [
    "SHARD_LEVELS",
    "Commit",
    "Rows",
    "clear_journal",
    "commit",
    "damage_of_codes",
    "damage_of_commits",
    "encoder_folder",
    "in_order",
    "journal_is_stale",
    "number",
    "open_codes",
    "open_prototypes",
    "open_shard",
    "read_manifest",
    "read_prototypes",
    "read_rows",
    "remove_journal",
    "sweep",
    "sweep_copies",
    "write_codes",
    "write_prototypes",
    "write_rows",
    "writing",
]

# A shard is the part of an index under one S2 cell this many levels up: 4^8 = 65,536 cells.
SHARD_LEVELS = 8
# How long copies from an address stay that their index does not name any more.
_A_DAY_S = 86_400
# Where folders lie that are only there as long as somebody names them.
_SWEPT = ("shards/*/*", "prototypes/*/*", "encoder/*", "ann/*", "ann/*/*/*")


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

    def updated(self, new: Rows) -> Rows:
        """Returns these rows and newer ones: of a cell and a date the newer code counts, other dates stay beside it."""
        both = Rows.concatenate([self.without(np.isin(_cell_dates(self), _cell_dates(new))), new])
        skipped, first = np.unique(both.skipped_cell[::-1], return_index=True)
        still = ~np.isin(skipped, both.cell)
        return replace(both, skipped_cell=skipped[still], skipped_coverage=both.skipped_coverage[::-1][first][still])

    def without(self, rows: NDArray[np.bool_]) -> Rows:
        """Returns the rows but for some, (N,) bool; cells without a code stay."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return Rows(**{k: v if k.startswith("skipped_") else v[~rows] for k, v in columns.items()})

    @property
    def dates_a_cell(self) -> int:
        """Most rows of a cell."""
        return int(np.unique(self.cell, return_counts=True)[1].max(initial=1))


def _cell_dates(rows: Rows) -> NDArray[np.void]:
    pairs = np.empty(len(rows), [("cell", np.uint64), ("date", np.int32)])
    pairs["cell"], pairs["date"] = rows.cell, rows.date
    return pairs


Entry = TypeVar("Entry", ShardEntry, PrototypeEntry, AnnEntry)


def number(index: Path) -> int | None:
    """Returns the number of the commit that `manifest.json` is; None where there is none that can be read."""
    try:
        return read_manifest(index).number
    except (IndexNotFoundError, IndexCorruptError, IndexVersionError):
        return None


def read_manifest(index: Place) -> Manifest:
    """Reads `manifest.json`, and does not hold it.

    Raises:
        IndexNotFoundError: There is none; tells apart an unfinished build from a folder that is something else.
        IndexVersionError: Another format.
        IndexCorruptError: It cannot be read, or is not what was written.
        IndexUnreachableError: Its address does not answer.
    """
    try:
        return parsed(index / "manifest.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(index, Address):
            raise IndexNotFoundError(
                f"{index}: no index at this address (no manifest.json, or no such bucket)"
            ) from error
        if (index / "build").is_dir():
            raise IndexNotFoundError(f"{index}: its build is not finished; run the same command again") from error
        raise IndexNotFoundError(
            f"{index}: not an index (no manifest.json); make one with `geoview index build`"
        ) from error


class Commit:
    """A manifest that a reader holds: what it names stays on disk until the reader closes it, or ends.

    Attributes:
        manifest: What the index is.
    """

    def __init__(self, manifest: Manifest, file: IO[bytes] | None) -> None:
        self.manifest, self._file = manifest, file

    @classmethod
    def open(cls, index: Place) -> Self:
        """Reads `manifest.json` and holds it, but at an address; raises what `read_manifest` raises."""
        if isinstance(index, Address):
            return cls(read_manifest(index), None)
        while True:
            manifest = read_manifest(index)
            try:
                file = _commit_file(index, manifest.number).open("rb")
            except OSError:
                # A copy without its commits needs no holding. But another may have been committed just now.
                if read_manifest(index).number == manifest.number:
                    return cls(manifest, None)
                continue
            with suppress(OSError):  # a file system without locks: nobody sweeps there either
                fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file.fileno()).st_nlink:
                return cls(manifest, file)
            file.close()  # it was swept away before we held it

    def close(self) -> None:
        """Lets go of the commit."""
        if self._file is not None:
            self._file.close()


def commit(index: Path, manifest: Manifest) -> Manifest:
    """Replaces the manifest by rename; everything that it names must be on disk already.

    Returns:
        The manifest with its number, and of the format that is written today.
    """
    with _committing(index):
        manifest = replace(manifest, number=1 + max(_numbers(index), default=0), format_version=FORMAT_VERSION)
        content = content_of(manifest)
        write_json(_commit_file(index, manifest.number), content)
        write_json(index / "manifest.json", content)
    return manifest


def sweep(index: Path) -> dict[Path, int]:
    """Removes commits that no reader holds, and shards and encoders that neither those left nor the journal name.

    The caller holds the journal: nobody else is writing shards.

    Returns:
        The folders that were removed, and their sizes in bytes.
    """
    with _committing(index):
        current = read_manifest(index)
        held = [current]
        for number in _numbers(index) - {current.number}:
            path = _commit_file(index, number)
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held.append(parsed(path))
                    continue
                path.unlink()
        named = {index / folder for each in held for folder in _folders(each)}
        named |= {index / entry.folder for entry in _journal(index)}
        gone = [folder for folder in _swept(index) if folder not in named]
        sizes = {folder: sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) for folder in gone}
        for folder in gone:
            remove_folder(folder)
        # What killed commits leave behind.
        for part in (*index.glob(".manifest.json.*"), *index.glob("commits/.*.json.*")):
            part.unlink(missing_ok=True)
        for journal in index.glob(".build.*"):
            remove_folder(journal)
    return sizes


def sweep_copies(index: Address, manifest: Manifest) -> None:
    """Removes copies, fetched from an address, of what the index does not name any more.

    Those of the last day stay: somebody may be reading an earlier commit.
    """
    named = {index.cache / folder for folder in _folders(manifest)}
    with suppress(OSError):  # what cannot be removed does not keep anybody from searching
        for folder in _swept(index.cache):
            if folder not in named and time.time() - folder.stat().st_mtime > _A_DAY_S:
                remove_folder(folder)


def _folders(manifest: Manifest) -> set[Path]:
    """Returns the folders that a commit is made of; copies of encoders are called by their checksums."""
    named = {shard.folder for shard in manifest.shards}
    if manifest.prototypes is not None:
        named |= {shard.folder for shard in manifest.prototypes.shards}
    if manifest.ann is not None:
        named |= {manifest.ann.codec_folder, manifest.ann.lists_folder, *(s.folder for s in manifest.ann.shards)}
    encoder = Path(manifest.encoder["folder"])
    return named | {encoder, encoder.with_name(manifest.encoder.get("checksum") or encoder.name)}


def _swept(folder: Path) -> list[Path]:
    return [found for pattern in _SWEPT for found in folder.glob(pattern)]


@contextmanager
def writing(index: Path) -> Iterator[Manifest]:
    """Holds an index for one writer, as a build does, and yields what it is now.

    Raises:
        IndexNotFoundError: It is no index.
        BusyError: Another process is writing it.
    """
    read_manifest(index)
    with exclusive(index / "build"):
        try:
            yield read_manifest(index)
        finally:
            if journal_is_stale(index) or not (index / "build" / "plan.json").exists():
                remove_journal(index)


def write_rows(index: Path, parent: str, rows: Rows) -> ShardEntry:
    """Writes a new generation of a shard, whole and synced; nobody sees it before a manifest names it.

    Args:
        index: Index folder.
        parent: Token of the shard's S2 cell.
        rows: Content, in the order of (cell, date).

    Returns:
        The entry for the manifest.
    """
    generation, skipped = secrets.token_hex(8), len(rows.skipped_cell)
    entry = ShardEntry(parent, generation, len(rows), skipped, rows.dates_a_cell, "")
    columns = {f.name: getattr(rows, f.name) for f in fields(Rows)}
    return replace(entry, checksum=write_shard(index / entry.folder, columns))


def open_shard(index: Place, entry: ShardEntry) -> Shard:
    """Opens a shard that a manifest names; codes at an address stay there, and are read as they are taken.

    Raises:
        IndexCorruptError: A file of it is missing, or is not what was written.
        IndexUnreachableError: Its address does not answer.
    """
    lengths = {f.name: entry.skipped if f.name.startswith("skipped_") else entry.rows for f in fields(Rows)}
    return Shard.open(index / entry.folder, lengths, entry.checksum, stays="aerial")


def write_prototypes(index: Path, parent: str, prototypes: Prototypes) -> PrototypeEntry:
    """Writes a new generation of a shard of prototypes, as `write_rows` does one of rows."""
    generation, photos = secrets.token_hex(8), len(prototypes.photo_key)
    entry = PrototypeEntry(parent, generation, len(prototypes), photos, "")
    return replace(entry, checksum=write_shard(index / entry.folder, prototypes.columns()))


def write_codes(index: Path, shard: AnnEntry, lists: NDArray[np.int32], codes: NDArray[np.uint8]) -> AnnEntry:
    """Writes the short codes of a shard, as `write_rows` does its rows.

    Args:
        index: Index folder.
        shard: What they are of.
        lists: (N,) list of each row.
        codes: (N, bytes) code of each row.

    Returns:
        The entry for the manifest.
    """
    entry = replace(shard, generation=secrets.token_hex(8), rows=len(lists))
    return replace(entry, checksum=write_shard(index / entry.folder, {"list": lists, "code": codes}))


def open_codes(index: Place, entry: AnnEntry) -> Shard:
    """Opens the short codes of a shard.

    Raises:
        IndexCorruptError: A file of them is missing, or is not what was written.
    """
    return Shard.open(index / entry.folder, {"list": entry.rows, "code": entry.rows}, entry.checksum)


def damage_of_commits(index: Path) -> list[str]:
    """Returns a line for each commit that is there and cannot be read."""
    problems = []
    for number in sorted(_numbers(index)):
        try:
            parsed(_commit_file(index, number))
        except FileNotFoundError:  # swept away meanwhile
            continue
        except (IndexCorruptError, IndexVersionError) as error:
            problems.append(str(error))
    return problems


def damage_of_codes(index: Place, entry: AnnEntry) -> list[str]:
    """Returns a line for every block of a shard's short codes that is not what was written."""
    try:
        return open_codes(index, entry).damage()
    except IndexCorruptError as error:
        return [str(error)]


def read_rows(index: Path, entry: ShardEntry) -> Rows:
    """Reads a whole shard, compared with its checksums.

    Raises:
        IndexCorruptError: As `open_shard`, or rows are not what was written.
    """
    shard = open_shard(index, entry)
    for name in shard.rows:
        shard.check(name)
    return Rows(**{name: shard.read(name) for name in shard.rows})


def open_prototypes(index: Place, entry: PrototypeEntry) -> Shard:
    """Opens a shard of prototypes that a manifest names.

    Raises:
        IndexCorruptError: A file of it is missing, or is not what was written.
    """
    lengths = {f.name: entry.photos if f.name == "photo_key" else entry.rows for f in fields(Prototypes)}
    return Shard.open(index / entry.folder, lengths, entry.checksum)


def read_prototypes(index: Place, entry: PrototypeEntry) -> Prototypes:
    """Reads a whole shard of prototypes, compared with its checksums, as `read_rows` does one of rows."""
    shard = open_prototypes(index, entry)
    for name in shard.rows:
        shard.check(name)
    return Prototypes(**{name: shard.read(name) for name in shard.rows})


def encoder_folder(index: Place, manifest: Manifest) -> Path:
    """Returns the folder of an index's encoder on this machine: that in the index, or a copy fetched from its address.

    Raises:
        IndexCorruptError: A file is missing at the address, or the folder is not what was written.
        IndexUnreachableError: The address does not answer.
    """
    folder, wanted = index / manifest.encoder["folder"], manifest.encoder.get("checksum")
    if isinstance(folder, Path):
        return folder
    # What it tells besides its weights may change, and the folder keeps its name.
    copy = folder.copy.with_name(wanted or folder.copy.name)
    if not copy.is_dir():
        part = copy.with_name(f".{copy.name}.{secrets.token_hex(4)}")
        try:
            _fetch_encoder(folder, part, wanted)
            try:
                part.rename(copy)
            except OSError:
                if not copy.is_dir():  # or another was faster
                    raise
        finally:
            remove_folder(part)
    return copy


def _fetch_encoder(folder: Address, to: Path, wanted: str | None) -> None:
    changed = f"{folder}: a file of the encoder is not what was written; restore it, or build the index anew"
    # Files have no checksums of their own: they are compared together.
    (folder / NOTES_FILE).fetch(to / NOTES_FILE, Path.exists)
    try:
        others = files_beside(to / NOTES_FILE)
    except EncoderError as error:
        raise IndexCorruptError(changed) from error
    for name in others:
        (folder / name).fetch(to / name, Path.exists)
    # Old indexes have none: loading compares a fingerprint.
    if wanted is not None and folder_checksum(to) != wanted:
        raise IndexCorruptError(changed)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Returns shards of a manifest in S2 order."""
    return sorted(entries, key=lambda entry: int(cells.from_tokens([entry.parent])[0]))


def remove_journal(index: Path) -> None:
    """Removes the journal of a build that has been committed, out of the way of others who look into it first."""
    gone = index / f".build.{secrets.token_hex(4)}"
    (index / "build").rename(gone)
    remove_folder(gone)


def journal_is_stale(index: Path) -> bool:
    """Tells whether something was committed since the journal was begun, by its own build or by others."""
    plan = index / "build" / "plan.json"
    return plan.exists() and json.loads(plan.read_text(encoding="utf-8")).get("after") != number(index)


def clear_journal(index: Path) -> None:
    """Empties the journal, its lock file excepted: the caller holds that."""
    for path in (index / "build").iterdir():
        if path.is_dir():
            remove_folder(path)
        elif path.name != "lock":
            path.unlink()


def _journal(index: Path) -> Iterator[ShardEntry | PrototypeEntry]:
    """Yields the shards that a build has finished and not committed yet."""
    for path in index.glob("build/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "generation" in content:
            yield (PrototypeEntry if "photos" in content else ShardEntry)(**content)


@contextmanager
def _committing(index: Path) -> Iterator[None]:
    """Waits for its turn: commits are short, and one after the other."""
    with in_turn(index / "commits" / "lock"):
        yield


def _commit_file(index: Path, number: int) -> Path:
    return index / "commits" / f"{number:06d}.json"


def _numbers(index: Path) -> set[int]:
    return {int(path.stem) for path in index.glob("commits/[0-9]*.json")}
