"""Cell codes: aerial + kappa x prototype, summed when they are searched.

The two tables lie apart, so that kappa is a choice of each search. A cell's prototype is interpolated between the sums
of the four larger cells around its centre, so that many photos count more than one, then scaled to unit norm as its
aerial code is (Lindenberger et al., NeurIPS 2025; how they interpolate is not published, this is our reading). With
photos that speak by bilinear weights themselves, it is the mean of all photos around under a smooth kernel. Cells that
no photo speaks for have an offset in the place of what kappa adds to the others: without it they would be buried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoview.errors import ConfigError
from geoview.geo import cells
from geoview.index.prototypes import directions

__all__ = ["Fusion", "fused_codes", "fused_queries", "interpolated"]

# Below what any cell with a prototype can score.
_NEVER = -2.0


@dataclass(frozen=True)
class Fusion:
    """How much prototypes count.

    Attributes:
        kappa: Weight of prototypes; 0 is aerial codes alone, infinity prototypes alone.
        offset: Score that cells without a prototype have instead, for each unit of kappa.
    """

    kappa: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.kappa >= 0:
            raise ConfigError(f"kappa is {self.kappa}: give 0 (imagery alone) or more; inf is ground photos alone")
        if not math.isfinite(self.offset):
            raise ConfigError(f"the offset of cells without photos is {self.offset}; it must be a number")


def interpolated(
    ids: NDArray[np.uint64], level: int, sums_of: Callable[[NDArray[np.uint64]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Interpolates what larger cells say, such as prototypes, to the centres of cells.

    Args:
        ids: (n,) cells.
        level: Of the larger cells.
        sums_of: Returns the (m, dim) sums of cells in ascending order, zeros where there is none.

    Returns:
        (n, dim) unit vectors; zeros where none of the four around a cell is there.
    """
    around, weights = cells.surrounding(ids, level)
    found, at = np.unique(around, return_inverse=True)
    sums, at = sums_of(found), at.reshape(around.shape)
    total = np.zeros((len(ids), sums.shape[1]), np.float32)
    for corner in range(around.shape[1]):
        total += weights[:, corner, None].astype(np.float32) * sums[at[:, corner]]
    return directions(total)


def fused_codes(aerial: NDArray[np.floating], prototypes: NDArray[np.float32], fusion: Fusion) -> NDArray[np.float32]:
    """Returns (n, dim + 1) cell codes, whose inner products with `fused_queries` are the fused scores.

    Args:
        aerial: (n, dim) aerial codes.
        prototypes: (n, dim) prototypes, interpolated to the cells; zeros where there is none.
        fusion: How much prototypes count.
    """
    without = ~prototypes.any(axis=1)
    if math.isinf(fusion.kappa):
        codes, offset = prototypes, _NEVER
    else:
        codes, offset = aerial + np.float32(fusion.kappa) * prototypes, fusion.kappa * fusion.offset
    return np.concatenate([codes, np.where(without, np.float32(offset), np.float32(0))[:, None]], axis=1)


def fused_queries(queries: NDArray[np.floating]) -> NDArray[np.float32]:
    """Returns (Q, dim + 1) queries for `fused_codes`."""
    return np.concatenate([queries, np.ones((len(queries), 1))], axis=1).astype(np.float32)
