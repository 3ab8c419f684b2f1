"""The scores of one photo over the ground, from which probabilities are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from geoview.geo import cells
from geoview.geo.sphere import destination_deg, latlon_deg, unit_vectors
from geoview.locate.posterior import Posterior

__all__ = ["WITHIN_M", "Surface", "disc_deg"]

#: Radius of the ground that a probability is told of.
WITHIN_M = 100.0
# Cells of less are left out of a posterior.
_TRACE = 1e-6
# Points of a disc, each for as much ground: 31 square metres where cells of level 20 have 70.
_POINTS = 1_024
# Vogel's sunflower (Mathematical Biosciences 44, 1979): equal areas, and no direction comes first.
_TURN_DEG = 180.0 * (3.0 - math.sqrt(5.0))
_DISTANCE_M = WITHIN_M * np.sqrt((np.arange(_POINTS) + 0.5) / _POINTS)
_BEARING_DEG = np.arange(_POINTS) * _TURN_DEG % 360.0


def disc_deg(centre_deg: ArrayLike) -> NDArray[np.float64]:
    """Returns points that share the ground within `WITHIN_M` of a centre equally, nearest first.

    Args:
        centre_deg: (..., 2).

    Returns:
        (..., P, 2).
    """
    return destination_deg(np.asarray(centre_deg, np.float64)[..., None, :], _BEARING_DEG, _DISTANCE_M)


@dataclass(frozen=True)
class Surface:
    """What a photo scores at the cells that matter, and at a sample that stands for all others.

    The probability that it was taken somewhere is proportional to exp(score / temperature), for each square metre of
    the ground that is searched, and to what is known of the place beforehand. So it means the same at any level of
    cells, in a region, and in an index that grows.

    Attributes:
        level: Of the cells.
        cell_id: (n,) uint64, ascending.
        score: (n,) best score of the photo at each; -inf where a cell has no code, or is not searched.
        other: (m,) scores of cells drawn from all others.
        each: How many cells each of these stands for.
        log_prior: (n,) logarithm of how much likelier any photo is taken in each cell than on average.
        other_log_prior: (m,) the same of the others.
    """

    level: int
    cell_id: NDArray[np.uint64]
    score: NDArray[np.float64]
    other: NDArray[np.float64]
    each: float
    log_prior: NDArray[np.float64] | float = 0.0
    other_log_prior: NDArray[np.float64] | float = 0.0

    @cached_property
    def _totals(self) -> dict[float, float]:
        return {}

    @cached_property
    def area_m2(self) -> NDArray[np.float64]:
        """(n,) areas of the cells."""
        return cells.areas_m2(self.cell_id)

    def at(self, place_deg: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the scores at (..., 2) points, (...); -inf where no cell is known."""
        ids = cells.cell_ids(place_deg.reshape(-1, 2), self.level)
        return self.of(ids).reshape(place_deg.shape[:-1])

    def of(self, cell_id: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Returns the scores of (...) cells; -inf for those that are not known."""
        return self._of(self.score, cell_id)

    def logits(self, temperature: float) -> NDArray[np.float64]:
        """Returns logarithms of what the probability of a square metre of each cell is proportional to, (n,)."""
        return self.score / temperature + self.log_prior

    def log_total(self, temperature: float) -> float:
        """Returns the logarithm of exp(logit), summed over the square metres that are searched."""
        if temperature not in self._totals:
            known = logsumexp(self.logits(temperature), b=self.area_m2)
            if len(self.other):
                others = logsumexp(self.other / temperature + self.other_log_prior)
                others += math.log(self.each * self.area_m2.mean())
                known = np.logaddexp(known, others)
            self._totals[temperature] = float(known)
        return self._totals[temperature]

    def probability(self, temperature: float) -> NDArray[np.float64]:
        """Returns the (n,) probabilities of the cells that are known."""
        return np.asarray(np.exp(self.logits(temperature) - self.log_total(temperature)) * self.area_m2)

    def posterior(self, temperature: float) -> Posterior:
        """Returns the probabilities of the cells that are known, but for traces."""
        probability = self.probability(temperature)
        kept = probability > _TRACE
        return Posterior(self.cell_id[kept], probability[kept])

    def log_mass(self, centre_deg: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
        """Returns the logarithms of the probabilities that the photo was taken within 100 m of (..., 2) points, (...).

        The cells around must be known.
        """
        return self.log_mass_of(self._logits_around(centre_deg, temperature), temperature)

    def log_mass_of(self, logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
        """Returns the same for (..., P) logits at the points of discs."""
        total = logsumexp(logits, axis=-1) - self.log_total(temperature)
        return np.asarray(np.minimum(total + math.log(math.pi * WITHIN_M**2 / _POINTS), 0.0))

    def evidence(self, centre_deg: NDArray[np.float64], temperature: float) -> float:
        """Returns what the ground around a point scores, however much other ground is searched: a soft maximum."""
        scores = self.at(disc_deg(centre_deg))
        scores = scores[np.isfinite(scores)]
        if not len(scores):
            return -math.inf
        return temperature * float(logsumexp(scores / temperature) - math.log(len(scores)))

    def refined_deg(self, cell_id: int, temperature: float) -> NDArray[np.float64]:
        """Returns where around a cell the scores point, (2,): the mean of it and the eight cells that touch it."""
        # Unique, as a cell at a corner of the cube has seven neighbours.
        ids = np.unique(np.append(cells.neighbors(np.array([cell_id], np.uint64)), np.uint64(cell_id)))
        score = self.of(ids)
        weight = np.exp((score - score.max()) / temperature)
        return latlon_deg(weight @ unit_vectors(cells.centers_deg(ids)))

    def quantile_m(self, centre_deg: NDArray[np.float64], share: float, temperature: float) -> float:
        """Returns how far from a point a share of what is probable within 100 m of it lies."""
        logits = self._logits_around(centre_deg, temperature)
        weight = np.cumsum(np.exp(logits - logits.max()))
        return float(_DISTANCE_M[np.searchsorted(weight, share * weight[-1])])

    def _logits_around(self, centre_deg: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
        points = disc_deg(centre_deg)
        ids = cells.cell_ids(points.reshape(-1, 2), self.level)
        return self._of(self.logits(temperature), ids).reshape(points.shape[:-1])

    def _of(self, value: NDArray[np.float64], cell_id: NDArray[np.uint64]) -> NDArray[np.float64]:
        at = np.searchsorted(self.cell_id, cell_id).clip(max=len(self.cell_id) - 1)
        return np.where(self.cell_id[at] == cell_id, value[at], -np.inf)
