"""From scores of cells to places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoview.geo import cells

__all__ = ["CELLS_A_PLACE", "Place", "distinct_places"]

# A cell and the eight around it: among the best 9 k cells are k places that do not touch.
CELLS_A_PLACE = 9


@dataclass(frozen=True)
class Place:
    """One place of an answer.

    Attributes:
        cell_id: The best cell of the place.
        latlon_deg: Its centre.
        score: Its inner product with the query; not a probability.
    """

    cell_id: int
    latlon_deg: tuple[float, float]
    score: float


def distinct_places(cell_id: NDArray[np.uint64], score: NDArray[np.float32], k: int) -> list[Place]:
    """Picks the best cells of which no two touch: neighbouring cells that agree are one place, not several answers.

    Args:
        cell_id: (n,) cells, best first; a cell may come several times. Entries with score -inf are no hits.
        score: (n,) scores.
        k: Places to pick.

    Returns:
        At most k places, best first.
    """
    hit = np.isfinite(score)
    ids, scores = cell_id[hit], score[hit]
    if not len(ids):
        return []
    around = cells.neighbors(ids)
    taken: set[int] = set()
    picked: list[int] = []
    for i, cell in enumerate(ids.tolist()):
        if cell not in taken:
            picked.append(i)
            taken.update(around[i].tolist(), [cell])
            if len(picked) == k:
                break
    centres = cells.centers_deg(ids[picked])
    return [
        Place(int(ids[i]), (float(lat), float(lon)), float(scores[i]))
        for i, (lat, lon) in zip(picked, centres, strict=True)
    ]
