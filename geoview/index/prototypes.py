"""Prototypes: what the ground photos of a cell say together, kept as sums so that photos can come and go.

The prototype of a level-15 cell is the mean direction of the embeddings of the photos in it; nothing is trained. A
photo near an edge may speak for the cells around it too, by bilinear weights (border interpolation), and a photo of
known heading and field of view for the ground that it looks at (frustum interpolation). Both are our reading of what
is told of Lindenberger et al. (NeurIPS 2025); their own forms are not published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geoview.config import GroundView, InferenceConfig
from geoview.data.photos import read_metadata
from geoview.data.queries import PhotoQuery
from geoview.data.views import StreetPhoto, View, seen_nothing
from geoview.embed import embed, read_ahead
from geoview.errors import GeoviewError
from geoview.geo import cells
from geoview.geo.sphere import destination_deg
from geoview.models.encoder import CrossViewEncoder

__all__ = ["PROTOTYPE_LEVEL", "Photo", "Prototypes", "Speech", "directions", "embed_photos", "known_photos"]

PROTOTYPE_LEVEL = 15

# A perspective photo speaks for the ground in front of it at these distances, across this many directions.
_AHEAD_M = (5.0, 20.0, 35.0, 50.0)
_DIRECTIONS = 5
# A sum this short says nothing: what has been taken out again leaves rounding behind.
_NOTHING = 1e-4


@dataclass(frozen=True)
class Speech:
    """For which cells a photo speaks.

    Attributes:
        level: Of the prototypes.
        border: For the four whose centres lie around it, by bilinear weights; else for its own alone.
        frustum: From where it looks to, if its heading and field of view are known; else from where it stands.
    """

    level: int = PROTOTYPE_LEVEL
    border: bool = True
    frustum: bool = False

    def spoken(self, photos: Sequence[Photo]) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float64]]:
        """Returns who speaks for what: rows of photos, cells and weights, (M,) each; a photo's weights sum to 1."""
        standing = np.array([photo.latlon_deg for photo in photos]).reshape(-1, 2)
        looking = np.array([self.frustum and photo.is_aimed for photo in photos], np.bool_)
        rows, ids, weights = [], [], []
        for which, points in (
            (np.flatnonzero(~looking), standing[~looking][:, None]),
            (np.flatnonzero(looking), _frustums([photo for photo, aims in zip(photos, looking, strict=True) if aims])),
        ):
            leaves = cells.cell_ids(points, cells.MAX_LEVEL)
            if self.border:
                around, share = cells.surrounding(leaves, self.level)
            else:
                around = cells.parents(leaves, self.level)[..., None]
                share = np.ones(around.shape)
            rows.append(np.broadcast_to(which[:, None, None], around.shape).ravel())
            ids.append(around.ravel())
            weights.append(share.ravel() / points.shape[1])
        heard = np.concatenate(weights) > 0
        return np.concatenate(rows)[heard], np.concatenate(ids)[heard], np.concatenate(weights)[heard]


@dataclass(frozen=True)
class Photo:
    """A ground photo whose place is known.

    Attributes:
        path: The file.
        latlon_deg: Where it was taken.
        heading_deg: Of its middle column; None where that is not known.
        fov_deg: Azimuth that it spans; 360 for panoramas that go all round.
        key: Of its bytes: the same photo under another name is the same.
    """

    path: str
    latlon_deg: tuple[float, float]
    heading_deg: float | None
    fov_deg: float | None
    key: int

    @property
    def is_aimed(self) -> bool:
        """Whether it is known to look at one side."""
        return self.heading_deg is not None and self.fov_deg is not None and self.fov_deg < 360


def _frustums(photos: Sequence[Photo]) -> NDArray[np.float64]:
    """Returns (N, n, 2) points of the ground that aimed photos look at."""
    heading_deg = np.array([photo.heading_deg for photo in photos], np.float64)[:, None, None]
    fov_deg = np.array([photo.fov_deg for photo in photos], np.float64)[:, None, None]
    across = (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS - 0.5
    bearing_deg = heading_deg + fov_deg * across[:, None] + np.zeros(len(_AHEAD_M))
    standing = np.array([photo.latlon_deg for photo in photos]).reshape(-1, 1, 1, 2)
    return destination_deg(standing, bearing_deg, np.array(_AHEAD_M)).reshape(
        len(photos), len(_AHEAD_M) * _DIRECTIONS, 2
    )


@dataclass(frozen=True)
class Prototypes:
    """Sums over photos, P cells and K photos.

    Attributes:
        cell: (P,) uint64 cells, ascending.
        sum: (P, dim) float32 sums of the embeddings of the photos that speak for a cell, each with its weight.
        weight: (P,) float32 sums of these weights.
        photo_key: (K,) uint64 keys of the photos whose own cells lie here, ascending.
    """

    cell: NDArray[np.uint64]
    sum: NDArray[np.float32]
    weight: NDArray[np.float32]
    photo_key: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.cell)

    @classmethod
    def none(cls, dim: int) -> Self:
        """What no photo says."""
        keys, weight = np.empty(0, np.uint64), np.empty(0, np.float32)
        return cls(keys, np.empty((0, dim), np.float32), weight, keys)

    @classmethod
    def of(
        cls, photos: Sequence[Photo], vectors: NDArray[np.float32], speech: Speech, parent: np.uint64 | None = None
    ) -> Self:
        """Sums the embeddings of photos.

        Args:
            photos: N photos.
            vectors: (N, dim) their embeddings.
            speech: For which cells they speak.
            parent: Only cells below this one, and the keys of photos in it.
        """
        rows, ids, weights = speech.spoken(photos)
        points = np.array([photo.latlon_deg for photo in photos]).reshape(-1, 2)
        keys = np.array([photo.key for photo in photos], np.uint64)
        if parent is not None:
            low, high = cells.range_min(parent), cells.range_max(parent)
            here = (ids >= low) & (ids <= high)
            ids, weights, rows = ids[here], weights[here], rows[here]
            leaves = cells.cell_ids(points, cells.MAX_LEVEL)
            keys = keys[(leaves >= low) & (leaves <= high)]
        cell, at = np.unique(ids, return_inverse=True)
        sums = np.zeros((len(cell), vectors.shape[1]), np.float32)
        np.add.at(sums, at, (weights[:, None] * vectors[rows]).astype(np.float32))
        return cls(cell, sums, np.bincount(at, weights, len(cell)).astype(np.float32), np.unique(keys))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Returns the (P, dim) prototypes: the directions of the sums; zeros where photos cancel out."""
        return directions(self.sum)

    @classmethod
    def concatenate(cls, parts: Sequence[Prototypes]) -> Self:
        """Adds up parts; photos that are in several of them are the caller's mistake."""
        cell, at = np.unique(np.concatenate([part.cell for part in parts]), return_inverse=True)
        sums = np.zeros((len(cell), parts[0].sum.shape[1]), np.float32)
        np.add.at(sums, at, np.concatenate([part.sum for part in parts]))
        weight = np.bincount(at, np.concatenate([part.weight for part in parts]), len(cell)).astype(np.float32)
        return cls(cell, sums, weight, np.unique(np.concatenate([part.photo_key for part in parts])))

    def holds(self, gone: Prototypes) -> bool:
        """Tells whether these photos can be taken out: whether they are in here, and have spoken as they do now."""
        if not np.isin(gone.cell, self.cell).all() or not np.isin(gone.photo_key, self.photo_key).all():
            return False
        left = self.weight[np.searchsorted(self.cell, gone.cell)] - gone.weight
        return bool((left > -_NOTHING * (1 + gone.weight)).all())

    def minus(self, gone: Prototypes) -> Prototypes:
        """Returns what is left when photos are taken out; cells that nobody speaks for any more go."""
        sums, weight = self.sum.copy(), self.weight.copy()
        at = np.searchsorted(self.cell, gone.cell)
        sums[at] -= gone.sum
        weight[at] -= gone.weight
        left = weight > _NOTHING
        return Prototypes(self.cell[left], sums[left], weight[left], np.setdiff1d(self.photo_key, gone.photo_key))

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Returns the arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns (..., dim) vectors scaled to unit norm; those next to zero become zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(norms > _NOTHING, vectors / np.maximum(norms, _NOTHING), np.float32(0)).astype(np.float32)


def known_photos(queries: Iterable[PhotoQuery], *, needs_heading: bool) -> tuple[list[Photo], dict[str, str]]:
    """Reads what is known of photos: from their table, or else from themselves.

    Args:
        queries: Photos.
        needs_heading: Leave out photos whose heading nobody knows.

    Returns:
        The photos of known place, each once, in S2 order; and the others: why, by path.
    """
    photos: dict[int, Photo] = {}
    left_out: dict[str, str] = {}
    for query in queries:
        try:
            metadata = read_metadata(query.path)
            key = int.from_bytes(hashlib.blake2b(Path(query.path).read_bytes(), digest_size=8).digest(), "little")
        except (GeoviewError, OSError) as error:
            left_out[query.path] = str(error)
            continue
        latlon_deg = query.latlon_deg or metadata.latlon_deg
        heading_deg = metadata.heading_deg if query.heading_deg is None else query.heading_deg
        fov_deg = metadata.fov_deg if query.fov_deg is None else query.fov_deg
        if latlon_deg is None:
            left_out[query.path] = f"{query.path}: has no position of its own, nor in a table"
        elif needs_heading and heading_deg is None:
            left_out[query.path] = f"{query.path}: has no heading, and plans of photos are laid out by one"
        elif key in photos:
            left_out[query.path] = f"{query.path}: is the same file as {photos[key].path}"
        else:
            photos[key] = Photo(query.path, latlon_deg, heading_deg, fov_deg, key)
    found = list(photos.values())
    leaves = cells.cell_ids(np.array([photo.latlon_deg for photo in found]).reshape(-1, 2), cells.MAX_LEVEL)
    return [found[i] for i in np.argsort(leaves, kind="stable")], left_out


def embed_photos(
    encoder: CrossViewEncoder, photos: Sequence[Photo], config: InferenceConfig
) -> tuple[list[Photo], NDArray[np.float32], dict[str, str]]:
    """Embeds photos as they were taken.

    Returns:
        The photos that have one, (N, dim) their embeddings, and why the others have none, by path.
    """
    spec = encoder.ground
    failed: dict[str, str] = {}
    sound: list[Photo] = []

    def seen(photo: Photo) -> tuple[Photo, View | str]:
        try:
            shot = StreetPhoto.open(photo.path, read_metadata(photo.path), fov_deg=photo.fov_deg)
        except GeoviewError as error:
            return photo, str(error)
        if isinstance(spec, GroundView):
            view = shot.strip(spec, photo.heading_deg)
        else:
            assert photo.heading_deg is not None, "known_photos leaves photos without a heading out"
            view = shot.plan(spec, photo.heading_deg)
        return photo, view if view.valid.any() else seen_nothing(photo.path, spec)

    def views() -> Iterator[View]:
        for photo, view in read_ahead(seen, photos, num_workers=config.num_workers, depth=2 * config.batch_size):
            if isinstance(view, str):
                failed[photo.path] = view
            else:
                sound.append(photo)
                yield view

    vectors = list(embed(encoder, views(), config, seen="ground"))
    return sound, np.array(vectors, np.float32).reshape(-1, encoder.dim), failed
