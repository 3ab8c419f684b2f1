"""From ground photos, or from what a run has learnt of them, to the prototypes of an index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geoview.config import InferenceConfig
from geoview.files import write_json
from geoview.geo import cells
from geoview.index import store
from geoview.index.manifest import PrototypeEntry
from geoview.index.prototypes import Photo, Prototypes, Speech, embed_photos
from geoview.models.encoder import CrossViewEncoder
from geoview.models.prototypes import LearntPrototypes

__all__ = ["held_back", "learnt_shards", "photo_vectors", "prototype_shards"]

# Cells whose surroundings are looked at together.
_BLOCK_CELLS = 65_536
# Photos between two saves.
_BLOCK_PHOTOS = 1024
# Ground that is kept back together, about 280 m wide, and one part in how many: with larger ones, those of a town would
# be one or two, which need not be like the rest.
_BLOCK_LEVEL, _ONE_IN = 15, 10


def held_back(photos: Sequence[Photo]) -> NDArray[np.bool_]:
    """Chooses the photos that prototypes are fitted on, (N,) bool: all of some blocks of ground, about a tenth."""
    blocks = cells.cell_ids(np.array([photo.latlon_deg for photo in photos]).reshape(-1, 2), _BLOCK_LEVEL)
    # Multiplied by an odd number near 2^64 / phi, high bits are as good as drawn (Knuth, TAOCP 3, 6.4).
    mixed = blocks * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray((mixed >> np.uint64(40)) % np.uint64(_ONE_IN) == 0)


def photo_vectors(
    encoder: CrossViewEncoder, photos: Sequence[Photo], config: InferenceConfig, journal: Path
) -> tuple[NDArray[np.float32], dict[str, str]]:
    """Embeds photos, or reads what a run before that was killed has embedded.

    Args:
        encoder: Of the index.
        photos: N photos.
        config: How the encoder is run.
        journal: Folder to keep embeddings in.

    Returns:
        (N, dim) embeddings on disk, zeros for photos that cannot be decoded; and why these cannot, by path.
    """
    journal.mkdir(parents=True, exist_ok=True)
    path, state = journal / "photos.f32", journal / "photos.done"
    done, failed = 0, {}
    if state.exists():
        said = json.loads(state.read_text(encoding="utf-8"))
        done, failed = said["done"], said["failed"]
    vectors = np.memmap(path, np.float32, "r+" if path.exists() else "w+", shape=(max(1, len(photos)), encoder.dim))
    with tqdm(total=len(photos), initial=done, desc="photos", unit="img", disable=None, dynamic_ncols=True) as bar:
        for start in range(done, len(photos), _BLOCK_PHOTOS):
            block = photos[start : start + _BLOCK_PHOTOS]
            sound, found, unread = embed_photos(encoder, block, config)
            row_of = {photo.key: start + i for i, photo in enumerate(block)}
            vectors[[row_of[photo.key] for photo in sound]] = found
            vectors.flush()
            failed |= unread
            write_json(state, {"done": start + len(block), "failed": failed})
            bar.update(len(block))
    return vectors[: len(photos)], failed


def prototype_shards(
    index: Path,
    photos: Sequence[Photo],
    vectors: NDArray[np.float32],
    speech: Speech,
    base: Sequence[PrototypeEntry] = (),
) -> list[PrototypeEntry]:
    """Writes the shards that photos speak in, with what was there before.

    Args:
        index: Index folder.
        photos: Photos, none of which has spoken before.
        vectors: (N, dim) their embeddings; photos of zeros say nothing.
        speech: For which cells they speak.
        base: Shards to add to.

    Returns:
        All shards, in S2 order; those that no photo speaks in as they were.
    """
    said = np.flatnonzero(np.asarray(vectors).any(axis=1))
    saying = [photos[i] for i in said.tolist()]
    entries = {entry.parent: entry for entry in base}
    rows, ids, _ = speech.spoken(saying)
    standing = cells.cell_ids(np.array([photo.latlon_deg for photo in saying]).reshape(-1, 2), speech.level)
    # Where it stands, a photo is known, even if it looks elsewhere.
    rows, ids = np.concatenate([rows, np.arange(len(said))]), np.concatenate([ids, standing])
    above = cells.parents(ids, max(0, speech.level - store.SHARD_LEVELS))
    for parent in np.unique(above):
        here = said[np.unique(rows[above == parent])].tolist()
        prototypes = Prototypes.of([photos[i] for i in here], np.asarray(vectors[here]), speech, parent)
        token = str(cells.tokens(np.array([parent]))[0])
        if token in entries:
            prototypes = Prototypes.concatenate([store.read_prototypes(index, entries[token]), prototypes])
        entries[token] = store.write_prototypes(index, token, prototypes)
    return store.in_order(entries.values())


def learnt_shards(index: Path, learnt: LearntPrototypes, ids: NDArray[np.uint64]) -> list[PrototypeEntry]:
    """Writes the prototypes of a run that count for some cells.

    Args:
        index: Index folder.
        learnt: What the run has learnt.
        ids: (N,) cells of the index.

    Returns:
        The shards, in S2 order; none where the run has learnt nothing of this ground.
    """
    near = [cells.surrounding(ids[i : i + _BLOCK_CELLS], learnt.level)[0] for i in range(0, len(ids), _BLOCK_CELLS)]
    here = np.isin(learnt.cell, np.unique(np.concatenate([np.empty(0, np.uint64), *map(np.unique, near)])))
    found, vectors = learnt.cell[here], learnt.vector[here]
    above = cells.parents(found, max(0, learnt.level - store.SHARD_LEVELS))
    entries = []
    for parent in np.unique(above):
        rows = above == parent
        ones, nobody = np.ones(int(rows.sum()), np.float32), np.empty(0, np.uint64)
        prototypes = Prototypes(found[rows], vectors[rows], ones, nobody)
        entries.append(store.write_prototypes(index, str(cells.tokens(np.array([parent]))[0]), prototypes))
    return store.in_order(entries)
