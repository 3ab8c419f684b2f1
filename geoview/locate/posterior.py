"""From scores of cells to places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoview.geo import cells
from geoview.geo.sphere import distance_m

__all__ = ["Place", "Posterior", "cells_a_place", "distinct_places"]

# Edge of a cell at level 0, scaled to the smallest cells of a level: they have half of the mean area.
_SMALLEST_EDGE_M = math.sqrt(4 * math.pi * 6_371_010.0**2 / 6 / 2)


@dataclass(frozen=True)
class Place:
    """One place of an answer.

    Attributes:
        cell_id: The best cell of the place.
        latlon_deg: Its centre.
        score: Its inner product with the query; not a probability.
        heading_deg: The heading of the photo's middle column with which the score was reached; None where none was
            tried.
        row: The row of the index that it was found by; None where that does not matter.
        imagery_date: Of the imagery behind that row: an ISO date, month or year, as exact as it is known; None if it
            is not.
        radius_m: Within which the photo was taken with a probability of 0.9, if this is the right place; None before
            the index is calibrated.
        p_within_100m: Probability that the photo was taken within 100 m; None before the index is calibrated.
    """

    cell_id: int
    latlon_deg: tuple[float, float]
    score: float
    heading_deg: float | None = None
    row: int | None = None
    imagery_date: str | None = None
    radius_m: float | None = None
    p_within_100m: float | None = None


@dataclass(frozen=True)
class Posterior:
    """Where a photo may have been taken, over all cells that were searched.

    Attributes:
        cell_id: (n,) uint64, ascending: the cells that have more than a trace of it.
        probability: (n,) float64, given that the photo was taken in one of the cells that were searched; what is
            missing to 1 is spread over all other cells.
    """

    cell_id: NDArray[np.uint64]
    probability: NDArray[np.float64]


def cells_a_place(level: int, apart_m: float = 0.0) -> int:
    """Returns how many cells one place can use up: among the best k times as many cells are k distinct places.

    A cell and the eight around it, or what lies within `apart_m` of its centre.
    """
    return max(9, math.ceil(math.pi * (apart_m / (_SMALLEST_EDGE_M * 2.0**-level) + 1) ** 2))


def distinct_places(
    cell_id: NDArray[np.uint64],
    score: NDArray[np.float32],
    k: int,
    *,
    row: NDArray[np.int64] | None = None,
    heading_deg: NDArray[np.float64] | None = None,
    apart_m: float = 0.0,
) -> list[Place]:
    """Picks the best cells of which no two touch: neighbouring cells that agree are one place, not several answers.

    Args:
        cell_id: (n,) cells, best first; a cell may come several times. Entries with score -inf are no hits.
        score: (n,) scores.
        k: Places to pick.
        row: (n,) row of the index that reached each score.
        heading_deg: (n,) heading with which each score was reached.
        apart_m: Least distance between the centres of two places.

    Returns:
        At most k places, best first.
    """
    hit = np.flatnonzero(np.isfinite(score))
    # A cell counts where it comes first: with its best date and heading.
    hit = hit[np.sort(np.unique(cell_id[hit], return_index=True)[1])]
    ids = cell_id[hit]
    if not len(ids):
        return []
    centres = cells.centers_deg(ids)
    free = np.ones(len(ids), np.bool_)
    picked: list[int] = []
    while len(picked) < k and free.any():
        i = int(np.argmax(free))
        picked.append(i)
        free &= ~np.isin(ids, cells.neighbors(ids[i : i + 1])) & (distance_m(centres[i], centres) >= apart_m)
        free[i] = False
    return [
        Place(
            int(ids[i]),
            (float(centres[i, 0]), float(centres[i, 1])),
            float(score[hit[i]]),
            None if heading_deg is None else float(heading_deg[hit[i]]),
            None if row is None else int(row[hit[i]]),
        )
        for i in picked
    ]
