"""What an index is: the content of `manifest.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geoview.errors import IndexCorruptError, IndexVersionError
from geoview.index.remote import Place
from geoview.index.shards import checksum

__all__ = [
    "FORMAT_VERSION",
    "AnnEntry",
    "AnnTable",
    "Manifest",
    "Point",
    "PrototypeEntry",
    "PrototypeTable",
    "ShardEntry",
    "content_of",
    "parsed",
]

# A new key makes a new version: an older geoview then says that it is too old, and adds no codes of another kind.
FORMAT_VERSION = 4
# What was written since this one can still be read; it only lacks what came later.
_OLDEST = 2


@dataclass(frozen=True)
class ShardEntry:
    """One shard in the manifest.

    Attributes:
        parent: Token of the S2 cell that the shard covers.
        generation: Folder under `shards/<parent>/`.
        rows: Codes.
        skipped: Cells without a code.
        dates_a_cell: Most codes of a cell.
        checksum: Of the shard's `zarr.json`, which holds those of its other files.
    """

    parent: str
    generation: str
    rows: int
    skipped: int
    dates_a_cell: int
    checksum: str

    @property
    def folder(self) -> Path:
        """Path below the index folder."""
        return Path("shards", self.parent, self.generation)


@dataclass(frozen=True)
class PrototypeEntry:
    """One shard of prototypes in the manifest.

    Attributes:
        parent: Token of the S2 cell that the shard covers.
        generation: Folder under `prototypes/<parent>/`.
        rows: Cells with a prototype.
        photos: Photos that were taken here.
        checksum: Of the shard's `zarr.json`, which holds those of its other files.
    """

    parent: str
    generation: str
    rows: int
    photos: int
    checksum: str

    @property
    def folder(self) -> Path:
        """Path below the index folder."""
        return Path("prototypes", self.parent, self.generation)


@dataclass(frozen=True)
class PrototypeTable:
    """The prototypes of an index.

    Attributes:
        level: S2 level of their cells.
        border: Whether photos speak for the four cells around them.
        frustum: Whether photos speak for the ground in front of them.
        shards: In S2 order.
        learnt: Whether they were learnt with an encoder, and are no sums that photos can be added to.
    """

    level: int
    border: bool
    frustum: bool
    shards: list[PrototypeEntry]
    learnt: bool = False

    @property
    def n_rows(self) -> int:
        """Cells with a prototype."""
        return sum(s.rows for s in self.shards)

    @property
    def n_photos(self) -> int:
        """Photos that speak."""
        return sum(s.photos for s in self.shards)


@dataclass(frozen=True)
class Point:
    """A way to search, and what was measured of it.

    Attributes:
        n_probe: Lists that are looked through; 0 is an exact search of all rows.
        k_factor: Candidates that are scored exactly, for each row that is wanted.
        recall: Share that it finds of the 10 best rows, or of the 100 best, whichever is less.
        latency_ms: Median time of one query for the 100 best.
    """

    n_probe: int
    k_factor: int
    recall: float
    latency_ms: float


@dataclass(frozen=True)
class AnnEntry:
    """The short codes of one shard.

    Attributes:
        parent: Token of the S2 cell that the shard covers.
        of: What the codes were made of; another value in the shard, and they say nothing of it.
        codec: Folder under `ann/`.
        generation: Folder under `ann/<codec>/<parent>/`.
        rows: Codes.
        checksum: Of the `zarr.json`, which holds those of the other files.
    """

    parent: str
    of: str
    codec: str
    generation: str
    rows: int
    checksum: str

    @property
    def folder(self) -> Path:
        """Path below the index folder."""
        return Path("ann", self.codec, self.parent, self.generation)


@dataclass(frozen=True)
class AnnTable:
    """How an index is searched without reading all its codes.

    Attributes:
        codec: Folder under `ann/` of the coarse quantiser and the code book.
        codec_checksum: Of its file.
        n_lists: Lists of the coarse quantiser.
        dims_per_code: Dimensions that four bits stand for.
        kappa: Weight of prototypes in what was coded.
        offset: Of cells without a prototype in what was coded.
        shards: In S2 order; the lists hold their rows in this order.
        lists: Folder under `ann/<codec>/lists/`.
        lists_checksum: Of its file.
        points: What was measured, fastest first.
        chosen: Which of them a search uses that does not say.
        wish: What was asked for: `recall`, `latency_ms` and `memory_gb`, the last two None where nothing was.
        queries: What the points were measured on.
        recall_of_rows: What `CellIndex.recall_of_rows` was then, for comparison.
    """

    codec: str
    codec_checksum: str
    n_lists: int
    dims_per_code: int
    kappa: float
    offset: float
    shards: list[AnnEntry]
    lists: str
    lists_checksum: str
    points: list[Point]
    chosen: Point
    wish: dict[str, float | None]
    queries: str
    recall_of_rows: float

    @property
    def codec_folder(self) -> Path:
        """Path below the index folder."""
        return Path("ann", self.codec)

    @property
    def lists_folder(self) -> Path:
        """Path below the index folder."""
        return Path("ann", self.codec, "lists", self.lists)

    @property
    def n_rows(self) -> int:
        """Rows in the lists."""
        return sum(entry.rows for entry in self.shards)


@dataclass(frozen=True)
class Manifest:
    """What an index is; see the fields of `manifest.json`.

    Attributes:
        level: S2 level of the cells.
        dim: Length of a code.
        chip: Geometry of the chips, as a view; of the smallest, where there are several scales.
        encoder: Fingerprint and folder of the encoder, and a checksum of its files.
        min_coverage: Least share of valid ground in a chip.
        imagery: What the imagery was opened from.
        sources: Imagery: uri, date, licence, attribution, gsd_m, crs of each part.
        skipped_sources: Imagery that could not be read: uri and reason.
        skipped_photos: Ground photos that could not be used: path and reason.
        shards: In S2 order.
        created_at: UTC time of the commit.
        geoview: Version that wrote it.
        prototypes: What ground photos say; None where there were none.
        fusion: `kappa` and `offset` that searches use, and what they were fitted on; None without prototypes.
        ann: How it is searched without reading all codes; None until it is tuned.
        calibration: None until the index is calibrated.
        scales: Ground sizes of the chips that make up a code, as multiples of that of `chip`.
        number: Of the commit, counted from 1.
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
    prototypes: PrototypeTable | None = None
    fusion: dict[str, Any] | None = None
    skipped_photos: list[dict[str, str]] = field(default_factory=list)
    ann: AnnTable | None = None
    calibration: dict[str, Any] | None = None
    scales: list[int] = field(default_factory=lambda: [1])
    number: int = 0
    format_version: int = field(default=FORMAT_VERSION, kw_only=True)

    @property
    def n_rows(self) -> int:
        """Codes in all shards."""
        return sum(s.rows for s in self.shards)

    def coded(self, shard: ShardEntry) -> str:
        """Returns what a shard's short codes are made of: its rows and, where prototypes count, these."""
        fusion = self.fusion or {"kappa": 0.0}
        if not fusion["kappa"]:
            return shard.generation
        prototypes = [entry.checksum for entry in self.prototypes.shards] if self.prototypes else []
        said = [shard.generation, fusion["kappa"], fusion["offset"], *prototypes]
        return checksum(json.dumps(said).encode())

    @property
    def n_skipped(self) -> int:
        """Cells without a code in all shards."""
        return sum(s.skipped for s in self.shards)


def parsed(path: Place) -> Manifest:
    """Reads a manifest.

    Raises:
        FileNotFoundError: There is none.
        IndexVersionError: It is of a format that is not read.
        IndexCorruptError: It cannot be read, or is not what was written.
        IndexUnreachableError: Its address does not answer.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (ValueError, OSError) as error:
        raise IndexCorruptError(f"{path}: cannot be read: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise IndexCorruptError(f"{path}: has no format_version")
    if version > FORMAT_VERSION:
        raise IndexVersionError(
            f"{path.parent}: format {version} is newer than this geoview reads ({FORMAT_VERSION}); update geoview"
        )
    if version < _OLDEST:
        raise IndexVersionError(
            f"{path.parent}: format {version} is older than this geoview reads ({_OLDEST}); build the index anew"
        )
    if content.pop("checksum", None) != _checksum_of(content):
        raise IndexCorruptError(f"{path}: is not what was written; restore it from {path.parent / 'commits'}")
    try:
        content["shards"] = [ShardEntry(**entry) for entry in content["shards"]]
        if content["prototypes"] is not None:
            table = content["prototypes"]
            entries = [PrototypeEntry(**entry) for entry in table["shards"]]
            content["prototypes"] = PrototypeTable(**{**table, "shards": entries})
        if content.get("ann") is not None:
            ann = content["ann"]
            said = {"shards": [AnnEntry(**entry) for entry in ann["shards"]], "chosen": Point(**ann["chosen"])}
            content["ann"] = AnnTable(**{**ann, **said, "points": [Point(**point) for point in ann["points"]]})
        return Manifest(**content)
    except (KeyError, TypeError) as error:
        raise IndexCorruptError(f"{path}: incomplete: {error}") from error


def content_of(manifest: Manifest) -> dict[str, Any]:
    """Returns what is written of a manifest, its checksum included."""
    content = asdict(manifest)
    content["checksum"] = _checksum_of(content)
    return content


def _checksum_of(content: dict[str, Any]) -> str:
    return checksum(json.dumps(content, sort_keys=True, allow_nan=False).encode())
