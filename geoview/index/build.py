"""Region to index: cells, a chip for each, a code for each chip, shard by shard, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import tiles
from geoview.config import AddConfig, BuildConfig, InferenceConfig, PlanView, differing_keys
from geoview.data.queries import PhotoQuery
from geoview.errors import (
    BusyError,
    ConfigError,
    EncoderError,
    EncoderMismatchError,
    OutputExistsError,
    RegionError,
)
from geoview.files import (
    claimed,
    exclusive,
    full_disk_told,
    in_turn,
    remove_folder,
    shared,
    sync,
    write_json,
)
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import store
from geoview.index.cell_index import CellIndex
from geoview.index.encoding import Encoding, progress
from geoview.index.fusion import Fusion
from geoview.index.ground import held_back, learnt_shards, photo_vectors, prototype_shards
from geoview.index.manifest import Manifest, PrototypeEntry, PrototypeTable, ShardEntry
from geoview.index.prototypes import PROTOTYPE_LEVEL, Photo, Speech, known_photos
from geoview.index.remote import local_folder
from geoview.index.shards import folder_checksum
from geoview.index.tuning import refresh
from geoview.models.encoder import CrossViewEncoder
from geoview.models.prototypes import LearntPrototypes

__all__ = ["Fit", "add_to_index", "build_index"]

log = logging.getLogger(__name__)

T = TypeVar("T")

#: (index without the photos that are kept back, these) -> how much prototypes count, and what to note about it.
Fit = Callable[[CellIndex, Sequence[Photo]], tuple[Fusion, dict[str, Any]]]

# Between two looks at what other builders have finished.
_POLL_S = 0.5


def build_index(
    encoder: CrossViewEncoder,
    source: tiles.ImagerySource,
    region: Region | None,
    out: str | Path,
    config: BuildConfig,
    *,
    photos: Sequence[PhotoQuery] = (),
    prototypes: LearntPrototypes | None = None,
    fit: Fit | None = None,
) -> CellIndex:
    """Builds an index of every cell of a region, or goes on with a build that was cut off.

    Args:
        encoder: Makes the codes; a copy goes into the index.
        source: Imagery to cut chips from.
        region: Ground to cover; None is what the imagery covers.
        out: Index folder.
        config: Level, scales, least coverage, batch size, device and precision, and for which cells photos speak.
        photos: Ground photos to make prototypes of; those of unknown place are named in the manifest and left out.
        prototypes: What a run has learnt of this ground, to be taken instead; photos then only fit how much they count.
        fit: Finds how much prototypes count, from an index that lacks the photos kept back for it; without it, nothing
            until a search says otherwise.

    Returns:
        The finished index.

    Raises:
        OutputExistsError: There is an index and `config.overwrite` is off.
        ConfigError: `out` holds an unfinished build with other settings; names them. Or none of the learnt prototypes
            is of this ground.
        EncoderMismatchError: The prototypes were learnt beside another encoder.
        RegionError: The region and the imagery have no ground in common.
        BusyError: Another process builds the same index.
        StorageFullError: The disk is full; running the same again goes on.
        TilesError: The imagery cannot be read.
    """
    out = local_folder(out)
    if (out / "manifest.json").exists() and not config.overwrite:
        raise OutputExistsError(f"{out}: an index is there already; choose another --out or give --overwrite")
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out}: is a file; an index is a folder")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in ("manifest.json", "build")):
        raise OutputExistsError(f"{out}: holds other files; choose an empty or a new folder")
    if prototypes is not None and prototypes.encoder != encoder.fingerprint():
        raise EncoderMismatchError(
            f"{config.prototypes}: its prototypes were learnt beside encoder {prototypes.encoder}, the one given is "
            f"{encoder.fingerprint()}; give the run's own, --encoder {config.prototypes}/encoder"
        )
    ranges = _ranges(source, region, config.level)
    build = _Build(encoder, source, out, config, ranges, *_known(photos, encoder), prototypes, fit, None)
    with full_disk_told(out):
        return build.run()


def add_to_index(
    path: str | Path,
    source: tiles.ImagerySource | None,
    region: Region | None,
    config: AddConfig,
    *,
    photos: Sequence[PhotoQuery] = (),
) -> CellIndex:
    """Adds imagery or ground photos to an index, or goes on with an addition that was cut off.

    Codes of imagery of another date are put beside those that are there, of the same date in their place; only shards
    that the imagery or the photos touch are written anew. Chips of all scales are cut from what is added, so codes at
    its edge know less of the ground around them than if all imagery had come at once.

    Args:
        path: Index folder.
        source: Imagery to cut chips from; None adds photos alone.
        region: Ground to cover; None is what the imagery covers.
        config: How the encoder is run.
        photos: Ground photos; those that the index has already are named and left out.

    Returns:
        The index with the additions.

    Raises:
        IndexNotFoundError: It is no index.
        ConfigError: There is nothing to add, or an unfinished addition of something else; says which.
        RegionError: The region and the imagery have no ground in common.
        BusyError: Another process is writing the index.
        StorageFullError: The disk is full; running the same again goes on.
        TilesError: The imagery cannot be read.
    """
    out = local_folder(path)
    with CellIndex.open(out) as index:
        encoder, level = index.encoder(), index.level
    ranges = np.empty((0, 2), np.uint64) if source is None else _ranges(source, region, level)
    base = store.read_manifest(out)
    table = base.prototypes
    settings = BuildConfig(
        **{f.name: getattr(config, f.name) for f in fields(InferenceConfig)},
        encoder=base.encoder["folder"],
        imagery=config.imagery or base.imagery,
        out=str(out),
        level=level,
        scales=base.scales,
        min_coverage=base.min_coverage,
        border=table.border if table else True,
        frustum=table.frustum if table else False,
        overwrite=config.overwrite,
    )
    if photos and table is not None and table.learnt:
        raise ConfigError(
            f"{out}: its prototypes were learnt, and photos cannot be added to them; train again with these photos, "
            "and build the index with --prototypes of that run"
        )
    with full_disk_told(out):
        _Build(encoder, source, out, settings, ranges, *_known(photos, encoder), None, None, base).run().close()
    refresh(out)
    return CellIndex.open(out)


def _ranges(source: tiles.ImagerySource, region: Region | None, level: int) -> NDArray[np.uint64]:
    """Returns leaf ranges of the cells of a region, or of what the imagery covers."""
    coverage = Region.from_geometry(source.coverage(), name=source.uri)
    if region is not None and not region.geometry.intersects(coverage.geometry):
        raise RegionError(f"{region.name}: has no ground in common with the imagery {source.uri}")
    return (region or coverage).cell_ranges(level)


def _known(photos: Sequence[PhotoQuery], encoder: CrossViewEncoder) -> tuple[list[Photo], dict[str, str]]:
    known, left_out = known_photos(photos, needs_heading=isinstance(encoder.ground, PlanView))
    if photos and not known:
        raise ConfigError(f"{len(photos)} photos, and none can be used: {next(iter(left_out.values()))}")
    return known, left_out


@dataclass
class _Build:
    """One build: the settings, and the journal under `build/` that a later process reads."""

    encoder: CrossViewEncoder
    source: tiles.ImagerySource | None
    out: Path
    config: BuildConfig
    ranges: NDArray[np.uint64]
    photos: Sequence[Photo]
    left_out: dict[str, str]
    learnt: LearntPrototypes | None
    fit: Fit | None
    base: Manifest | None

    def __post_init__(self) -> None:
        self._encoding = Encoding(self.encoder, self.source, self.config, self.out / "build")

    def run(self) -> CellIndex:
        """Does what is left to do; several processes may do so at once, and the last to finish commits for all."""
        journal, fingerprint = self.out / "build", self.encoder.fingerprint()
        plan = self._plan(fingerprint)
        with suppress(BusyError), exclusive(journal):
            if self.base is not None:  # something may have been committed since it was read
                self.base = store.read_manifest(self.out)
                plan = self._plan(fingerprint)
            self._claim(plan)
            if self.base is None:
                self._save_encoder(self.out / "encoder" / fingerprint, fingerprint)
        with shared(journal):
            if differing := self._differing(plan):
                others = ", ".join(differing)
                raise BusyError(f"{self.out}: another process is writing there, with another {others}; wait for it")
            entries = self._entries(plan)
            with in_turn(self.out / "commits" / "build.lock"):
                if not self._differing(plan) and store.number(self.out) == plan["after"]:
                    self._commit(entries, fingerprint)
        return CellIndex.open(self.out)

    def _entries(self, plan: dict[str, Any]) -> dict[str, ShardEntry]:
        """Makes the shards that nobody has made yet and nobody is making, and waits for the others."""
        waiting = dict(_shards(self.ranges, self.config.level))
        entries: dict[str, ShardEntry] = {}
        total = sum(waiting.values())
        with progress("index build", total) as bar, closing(self._encoding):
            # Once another has committed, what all have made is in the index, and no longer in the journal.
            while waiting and not self._differing(plan):
                for parent, n_cells in list(waiting.items()):
                    token = str(cells.tokens(np.array([parent]))[0])
                    with claimed(self.out / "build" / f"{token}.lock") as mine:
                        entry = self._finished(token)
                        if entry is not None:
                            bar.update(n_cells)
                        elif mine:
                            entry = self._shard(parent, token, bar)
                    if entry is not None:
                        entries[token] = entry
                        del waiting[parent]
                if waiting:
                    time.sleep(_POLL_S)
        return entries

    def _finished(self, token: str) -> ShardEntry | None:
        try:
            return ShardEntry(**json.loads((self.out / "build" / f"{token}.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def _commit(self, entries: dict[str, ShardEntry], fingerprint: str) -> None:
        manifest = self.base or Manifest(
            level=self.config.level,
            dim=self.encoder.dim,
            chip=asdict(self.encoder.aerial),
            encoder={
                "fingerprint": fingerprint,
                "folder": str(Path("encoder", fingerprint)),
                "checksum": folder_checksum(self.out / "encoder" / fingerprint),
            },
            min_coverage=self.config.min_coverage,
            imagery=[],
            sources=[],
            skipped_sources=[],
            shards=[],
            created_at="",
            geoview="",
            scales=self.config.scales,
        )
        entries = {entry.parent: entry for entry in manifest.shards} | entries
        parts = [] if self.source is None else [asdict(part) for part in self.source.parts()]
        skipped = [{"uri": uri, "reason": reason} for uri, reason in self._encoding.skipped().items()]
        manifest = replace(
            manifest,
            imagery=_each_once([*manifest.imagery, *map(_absolute, self.config.imagery)]),
            sources=_each_once([*manifest.sources, *parts]),
            skipped_sources=_each_once([*manifest.skipped_sources, *skipped]),
            shards=store.in_order(entries.values()),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            geoview=version("geoview"),
        )
        if self.learnt is not None:
            manifest = self._with_learnt(manifest, self.learnt)
        elif self.photos:
            manifest = self._with_photos(manifest)
        store.commit(self.out, manifest)
        store.sweep(self.out)
        store.remove_journal(self.out)

    def _with_photos(self, manifest: Manifest) -> Manifest:
        """Adds prototypes: first without the photos that are kept back to fit their weight, then with these."""
        vectors, failed = photo_vectors(self.encoder, self.photos, self.config, self.out / "build" / "photos")
        speech = Speech(PROTOTYPE_LEVEL, self.config.border, self.config.frustum)
        shards = [] if manifest.prototypes is None else manifest.prototypes.shards
        sound = np.asarray(vectors).any(axis=1) & ~self._known_before(shards)
        back = held_back(self.photos) & sound if manifest.fusion is None else np.zeros(len(self.photos), np.bool_)
        fusion: dict[str, Any] = manifest.fusion or {**asdict(Fusion(0.0)), "fitted_on_photos": 0}
        for which in (sound & ~back, back):
            chosen = [photo for photo, here in zip(self.photos, which, strict=True) if here]
            shards = prototype_shards(self.out, chosen, np.asarray(vectors)[which], speech, shards)
            table = PrototypeTable(speech.level, speech.border, speech.frustum, shards)
            manifest = replace(manifest, prototypes=table, fusion=fusion)
            if which is not back and self.fit is not None and shards and back.any():
                before = CellIndex(self.out, store.Commit(manifest, None), checked=False)
                kept = [photo for photo, here in zip(self.photos, back, strict=True) if here]
                fitted, notes = self.fit(before, kept)
                fusion = {**asdict(fitted), **notes}
        if not fusion["fitted_on_photos"]:
            log.warning("kappa was not fitted, for no photos could be kept back: imagery answers alone without --kappa")
        return self._with_skipped(manifest, failed)

    def _with_learnt(self, manifest: Manifest, learnt: LearntPrototypes) -> Manifest:
        """Adds the prototypes of a run, and fits their weight on all photos."""
        shards = learnt_shards(self.out, learnt, self._held(manifest))
        if not shards:
            raise ConfigError(f"{self.config.prototypes}: has learnt no prototype of the ground of this index")
        table = PrototypeTable(learnt.level, learnt.border, learnt.frustum, shards, learnt=True)
        fusion: dict[str, Any] = {**asdict(Fusion(0.0)), "fitted_on_photos": 0}
        manifest = replace(manifest, prototypes=table, fusion=fusion)
        if self.fit is not None and self.photos:
            fitted, notes = self.fit(CellIndex(self.out, store.Commit(manifest, None), checked=False), self.photos)
            manifest = replace(manifest, fusion={**asdict(fitted), **notes})
        else:
            log.warning("kappa was not fitted, for no photos were given: imagery answers alone without --kappa")
        return self._with_skipped(manifest, {})

    def _held(self, manifest: Manifest) -> NDArray[np.uint64]:
        """Returns the cells of all rows."""
        held = [store.open_shard(self.out, entry).read("cell") for entry in manifest.shards]
        return np.concatenate([np.empty(0, np.uint64), *held])

    def _with_skipped(self, manifest: Manifest, failed: dict[str, str]) -> Manifest:
        """Notes photos that could not be used, and tells how many stand outside."""
        inside = self._held(manifest)
        places_deg = np.array([photo.latlon_deg for photo in self.photos]).reshape(-1, 2)
        outside = ~np.isin(cells.cell_ids(places_deg, manifest.level), inside)
        if outside.any():
            log.warning("%d of %d photos stand outside every cell of the index", outside.sum(), len(self.photos))
        reasons = self.left_out | failed
        skipped = [{"path": path, "reason": why} for path, why in reasons.items()]
        return replace(manifest, skipped_photos=_each_once([*manifest.skipped_photos, *skipped]))

    def _known_before(self, shards: Sequence[PrototypeEntry]) -> NDArray[np.bool_]:
        """Tells which photos the index has already: they do not speak twice."""
        known = [store.open_prototypes(self.out, entry).read("photo_key") for entry in shards]
        keys = np.array([photo.key for photo in self.photos], np.uint64)
        twice = np.isin(keys, np.concatenate([np.empty(0, np.uint64), *known]))
        if twice.any():
            log.warning("%d of %d photos are in the index already", twice.sum(), len(self.photos))
        return np.asarray(twice)

    def _plan(self, fingerprint: str) -> dict[str, Any]:
        """What is being built."""
        photos = repr([(photo.key, photo.latlon_deg, photo.heading_deg) for photo in self.photos])
        return {
            "after": self.base.number if self.base else store.number(self.out),
            "adds": self.base is not None,
            "encoder": fingerprint,
            "level": self.config.level,
            "scales": self.config.scales,
            "min_coverage": self.config.min_coverage,
            "imagery": [] if self.source is None else [part.uri for part in self.source.parts()],
            "region": hashlib.sha256(self.ranges.tobytes()).hexdigest()[:16],
            "photos": hashlib.sha256(photos.encode()).hexdigest()[:16],
            "border": self.config.border,
            "frustum": self.config.frustum,
            "prototypes": "" if self.learnt is None else hashlib.sha256(self.learnt.vector.tobytes()).hexdigest()[:16],
        }

    def _differing(self, plan: dict[str, Any]) -> list[str]:
        """Returns in what the journal's plan differs; a journal that is gone differs, too."""
        try:
            return differing_keys(json.loads((self.out / "build" / "plan.json").read_text(encoding="utf-8")), plan)
        except FileNotFoundError:
            return ["plan"]

    def _claim(self, plan: dict[str, Any]) -> None:
        """Writes what is being built, or checks that the unfinished build there is the same."""
        path = self.out / "build" / "plan.json"
        if store.journal_is_stale(self.out):
            store.clear_journal(self.out)
        if path.exists():
            differing = self._differing(plan)
            if differing and not self.config.overwrite:
                raise ConfigError(
                    f"{self.out}: holds an unfinished build with another {', '.join(differing)}; "
                    "finish it with its own settings, or give --overwrite to start anew"
                )
            if not differing:
                return
            store.clear_journal(self.out)
        write_json(path, plan)

    def _save_encoder(self, folder: Path, fingerprint: str) -> None:
        """Puts the encoder into the index, whole. A sound one stays: readers of the index that is replaced use it."""
        try:
            sound = CrossViewEncoder.load(folder).fingerprint() == fingerprint
        except EncoderError:
            sound = False
        if sound:
            return
        part = folder.with_name(f".{folder.name}")
        self.encoder.save(part, overwrite=True)
        for path in part.iterdir():
            sync(path)
        remove_folder(folder)
        part.replace(folder)
        sync(folder.parent)

    def _shard(self, parent: np.uint64, token: str, bar: tqdm[Any]) -> ShardEntry:
        journal = self.out / "build" / token
        rows = self._encoding.rows(_cells_under(parent, self.ranges, self.config.level), journal, bar)
        for before in self.base.shards if self.base else ():
            if before.parent == token:
                rows = store.read_rows(self.out, before).updated(rows)
        entry = store.write_rows(self.out, token, rows)
        write_json(self.out / "build" / f"{token}.json", asdict(entry))
        remove_folder(journal)
        return entry


def _shards(ranges: NDArray[np.uint64], level: int) -> Iterator[tuple[np.uint64, int]]:
    """Yields (parent, number of cells) of the shards that leaf ranges touch, in S2 order."""
    parent_level = max(0, level - store.SHARD_LEVELS)
    parents: list[NDArray[np.uint64]] = []
    for low, high in ranges:
        first, last = cells.parents(np.array([low, high]), parent_level)
        step = 2 * (int(first) & -int(first))
        parents.append(np.arange(int(first), int(last) + 1, step, dtype=np.uint64))
    for parent in np.unique(np.concatenate(parents)) if parents else ():
        yield parent, len(_cells_under(parent, ranges, level))


def _cells_under(parent: np.uint64, ranges: NDArray[np.uint64], level: int) -> NDArray[np.uint64]:
    """Returns the cells of a level that lie in leaf ranges and under a parent, ascending."""
    low, high = cells.range_min(np.array([parent]))[0], cells.range_max(np.array([parent]))[0]
    first, last = np.searchsorted(ranges[:, 1], low), np.searchsorted(ranges[:, 0], high, "right")
    return cells.ids_in_ranges(ranges[first:last].clip(low, high), level)


def _each_once(entries: list[T]) -> list[T]:
    """Returns entries of a manifest in their order, those that are equal to an earlier one left out."""
    return list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())


def _absolute(uri: str) -> str:
    """Returns a path that is right from any folder; addresses are left as they are."""
    return str(Path(uri).resolve()) if Path(uri).exists() else uri
