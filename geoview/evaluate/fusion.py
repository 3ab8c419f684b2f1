"""How much ground photos count against imagery, fitted on photos that the index has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from geoview.config import InferenceConfig
from geoview.data.queries import PhotoQuery
from geoview.evaluate.places import errors_m
from geoview.geo import cells
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.index.prototypes import Photo
from geoview.locate.embedding import EmbeddedPhoto
from geoview.locate.localizer import Localizer, Search

__all__ = ["KAPPAS", "chosen_of", "fit_fusion", "fusion_for"]

#: Weights that are tried.
KAPPAS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)

# What cells without photos are given instead, as quantiles of what kappa adds to the others.
_QUANTILES = (0.5, 0.9, 0.99)
_WITHIN_M = 100.0
# Photos that are enough: the share found is then known to three percent.
_MAX_PHOTOS = 300


def fit_fusion(index: CellIndex, photos: Sequence[Photo], config: InferenceConfig) -> tuple[Fusion, dict[str, Any]]:
    """Finds the weight with which most photos are found at the first place within 100 m.

    Photos are told their field of view, and not their heading. Of the weights that find as many as the best but for
    one standard error, the smallest is taken (the rule of Breiman et al., Classification and Regression Trees, 1984):
    a gain that may be chance is none. The offset of cells without photos is a quantile of the scores that others have
    from their prototypes.

    Args:
        index: With prototypes of other photos.
        photos: N photos of other ground.
        config: How the encoder is run.

    Returns:
        What to use; and for the manifest `fitted_on_photos` and `recall_at_1_within_100_m` of `imagery` (kappa 0),
        `ground_photos` (prototypes alone) and `both`.
    """
    rng = np.random.default_rng(0)
    chosen = [photos[i] for i in np.sort(rng.permutation(len(photos))[:_MAX_PHOTOS])]
    localizer = Localizer(index, config)
    queries = [PhotoQuery(photo.path, fov_deg=photo.fov_deg) for photo in chosen]
    embedded: list[EmbeddedPhoto] = []
    for start in tqdm(
        range(0, len(queries), config.batch_size), desc="photos to fit", disable=None, dynamic_ncols=True
    ):
        embedded += localizer.embed(queries[start : start + config.batch_size])
    return fusion_for(localizer, embedded, np.array([photo.latlon_deg for photo in chosen]))


def fusion_for(
    localizer: Localizer, embedded: Sequence[EmbeddedPhoto], truth_deg: NDArray[np.float64]
) -> tuple[Fusion, dict[str, Any]]:
    """Finds the weight for photos that are embedded already, as `fit_fusion` does.

    Args:
        localizer: Of the index.
        embedded: N photos.
        truth_deg: (N, 2) where they were taken.
    """
    index = localizer.index

    def found(kappa: float | Fusion) -> float:
        answers = localizer.answer(embedded, Search(top_k=1, kappa=kappa))
        return float((errors_m(answers, truth_deg)[:, 0] <= _WITHIN_M).mean())

    offsets = _offsets(index, embedded)
    tried = {Fusion(kappa, offset): 0.0 for kappa in KAPPAS for offset in (offsets if kappa else offsets[:1])}
    for fusion in tqdm(tried, desc="fit kappa", unit="try", disable=None, dynamic_ncols=True):
        tried[fusion] = found(fusion)
    best = chosen_of(tried, len(embedded))
    recall = {"imagery": tried[Fusion(0.0, offsets[0])], "ground_photos": found(np.inf), "both": tried[best]}
    return best, {"fitted_on_photos": len(embedded), "recall_at_1_within_100_m": recall}


def chosen_of(tried: Mapping[Fusion, float], n: int) -> Fusion:
    """Returns the smallest weight that finds as many of n photos as the best does, but for one standard error."""
    most = max(tried.values())
    enough = most - math.sqrt(most * (1 - most) / n)
    return min(tried, key=lambda fusion: (tried[fusion] < enough, fusion.kappa, -tried[fusion]))


def _offsets(index: CellIndex, photos: Sequence[EmbeddedPhoto]) -> list[float]:
    """Quantiles of the inner products of photos with prototypes; one that is not used where every cell has some."""
    table = index.manifest.prototypes
    assert table is not None, "there is nothing to fit without prototypes"
    prototypes = index.prototypes()
    around = cells.surrounding(index.cell_ids(), table.level)[0]
    vectors = np.concatenate(
        [np.empty((0, index.manifest.dim), np.float32), *(p.vectors for p in photos if len(p.vectors))]
    )
    if np.isin(around, prototypes.cell).any(axis=1).all() or not len(vectors):
        return [0.0]
    scores: NDArray[np.float32] = vectors @ prototypes.vectors.T
    return [float(value) for value in np.quantile(scores, _QUANTILES)]
