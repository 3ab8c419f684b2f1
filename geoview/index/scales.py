"""Several ground sizes in one code: larger chips are cut around larger cells, and the cells between share them.

The chip of scale 2^j shows 2^j times as much ground each way, and is cut around the centres of cells j levels up. What
it says of a cell is interpolated between the four of these around the cell's centre. So scale 2 costs a quarter of the
chips again and scale 4 a sixteenth, where Fervers et al. (ECCV 2024), who cut every size around every cell, encode each
point of the ground some 420 times. All scales count alike; where one has too little imagery, the others speak alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geoview.geo import cells
from geoview.index.fusion import interpolated
from geoview.index.prototypes import directions
from geoview.index.store import Rows

__all__ = ["around", "level_of", "pooled"]

# Codes in float32 at once.
_BLOCK_CELLS = 2048


def level_of(scale: int, level: int) -> int:
    """Returns the level of the cells around which chips of a scale, a power of two, are cut for cells of a level."""
    return level - (scale.bit_length() - 1)


def around(ids: NDArray[np.uint64], level: int) -> NDArray[np.uint64]:
    """Returns the (m,) cells of a level that are around any of the (n,) given ones, each once, ascending."""
    return np.unique(cells.surrounding(ids, level)[0])


def pooled(rows: Rows, wider: Mapping[int, Rows]) -> Rows:
    """Makes one code of the embeddings of all scales, the direction of their sum.

    Args:
        rows: Embeddings of the smallest chips, one a cell.
        wider: Those of the larger ones, by the level of their cells; cells that are missing say nothing.

    Returns:
        The rows with the codes of all scales; dates and coverage stay those of the smallest chips.
    """
    aerial = np.empty_like(rows.aerial)
    for start in range(0, len(rows), _BLOCK_CELLS):
        block = slice(start, start + _BLOCK_CELLS)
        total = rows.aerial[block].astype(np.float32)
        for level, large in wider.items():
            total += interpolated(rows.cell[block], level, partial(_embeddings, large))
        aerial[block] = directions(total)
    return replace(rows, aerial=aerial)


def _embeddings(rows: Rows, ids: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Returns the (n, dim) embeddings of cells, zeros for those that have none."""
    found = np.zeros((len(ids), rows.aerial.shape[1]), np.float32)
    there = np.isin(ids, rows.cell)
    found[there] = rows.aerial[np.searchsorted(rows.cell, ids[there])]
    return found
