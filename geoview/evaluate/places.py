"""How good answers are: the share of photos found, beside what guessing finds and what the cells allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoview.errors import ConfigError
from geoview.geo.sphere import EARTH_RADIUS_M, distance_m, unit_vectors
from geoview.locate.localizer import Localization

__all__ = ["RADII_M", "RANKS", "errors_m", "score_places"]

#: A photo counts as found when one of so many first places lies within so many metres.
RANKS = (1, 5, 10)
RADII_M = (50, 100, 200)

_CHANCE_M, _CEILING_M = 100, 50
# Inner products computed at once: 32 MB.
_BLOCK = 1 << 22


def score_places(
    answers: Sequence[Localization], truth_deg: NDArray[np.floating], cell_centres_deg: NDArray[np.floating]
) -> dict[str, float]:
    """Scores answers against where the photos were taken.

    Places count as they come: that no two are near each other is up to whoever asked for them. A photo that failed, has
    no place or no true position (NaN) is a miss, its error infinite.

    Args:
        answers: One a photo.
        truth_deg: (N, 2) true positions, in the same order.
        cell_centres_deg: (C, 2) centres of all cells of the index.

    Returns:
        Shares in 0..1 and metres: `n_photos`, `n_cells`, `recall_at_{1,5,10}_within_{50,100,200}_m`, `median_error_m`
        of the first places, `chance_recall_at_1_within_100_m`, what one cell drawn at random reaches on average, and
        `ceiling_recall_within_50_m`, the share of photos with any cell that near.

    Raises:
        ConfigError: There is no photo or no cell.
        ValueError: There are not as many answers as true positions.
    """
    if not len(answers) or not len(cell_centres_deg):
        raise ConfigError(f"{len(answers)} photos, {len(cell_centres_deg)} cells: nothing to score; give some of both")
    error_m = errors_m(answers, truth_deg)
    best_m = np.minimum.accumulate(error_m, axis=1)
    recalls = {
        f"recall_at_{k}_within_{radius_m}_m": float((best_m[:, min(k, best_m.shape[1]) - 1] <= radius_m).mean())
        for k in RANKS
        for radius_m in RADII_M
    }
    near, any_near = _cells_near(truth_deg, cell_centres_deg)
    return {
        "n_photos": len(answers),
        "n_cells": len(cell_centres_deg),
        **recalls,
        "median_error_m": float(np.median(error_m[:, 0])),
        f"chance_recall_at_1_within_{_CHANCE_M}_m": float(near.mean() / len(cell_centres_deg)),
        f"ceiling_recall_within_{_CEILING_M}_m": float(any_near.mean()),
    }


def errors_m(answers: Sequence[Localization], truth_deg: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns (N, K) distances of the places from the truth, K the most places of an answer, at least 1.

    Args:
        answers: One a photo.
        truth_deg: (N, 2) true positions, in the same order.

    Returns:
        Metres; infinite where an answer has fewer places, and where the truth is not known.

    Raises:
        ValueError: There are not as many answers as true positions.
    """
    truth_deg = np.asarray(truth_deg, np.float64)
    if truth_deg.shape != (len(answers), 2):
        raise ValueError(f"{len(answers)} answers for true positions of shape {truth_deg.shape}")
    n_places = max([1, *(len(answer.places) for answer in answers)])
    places_deg = np.full((len(answers), n_places, 2), np.nan)
    for row, answer in zip(places_deg, answers, strict=True):
        for rank, place in enumerate(answer.places):
            row[rank] = place.latlon_deg
    found_m = distance_m(places_deg, truth_deg[:, None])
    return np.where(np.isfinite(found_m), found_m, np.inf)


def _cells_near(
    truth_deg: NDArray[np.floating], cell_centres_deg: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns how many cells lie near each photo, (N,), and whether any lies so near that it can be right, (N,)."""
    # Inner products of unit vectors round at 1e-16: a tenth of a millimetre at these distances.
    chance, ceiling = (np.cos(radius_m / EARTH_RADIUS_M) for radius_m in (_CHANCE_M, _CEILING_M))
    photos, centres = unit_vectors(truth_deg), unit_vectors(cell_centres_deg).T
    near, any_near = np.zeros(len(photos), np.int64), np.zeros(len(photos), np.bool_)
    step = max(1, _BLOCK // centres.shape[1])
    for start in range(0, len(photos), step):
        cosine = photos[start : start + step] @ centres
        near[start : start + step] = (cosine >= chance).sum(axis=1)
        any_near[start : start + step] = (cosine >= ceiling).any(axis=1)
    return near, any_near
