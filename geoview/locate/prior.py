"""Where photos are taken before one is looked at: more often where others were taken."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoview.data.queries import known_places
from geoview.errors import ConfigError
from geoview.geo import cells
from geoview.geo.sphere import EARTH_RADIUS_M, unit_vectors
from geoview.index.cell_index import CellIndex

__all__ = ["LEAST_PHOTOS", "Prior", "learn_prior", "no_probabilities"]

log = logging.getLogger(__name__)

#: Photos in an index, without which they say nothing of where others are taken.
LEAST_PHOTOS = 20

# Share of photos that are taken anywhere, whether somebody has been there before or not.
_ANYWHERE = 0.1
# How far a photo speaks for the ground around it, from the accuracy of a camera's position upwards.
_REACHES_M = tuple(50.0 * 2.0**i for i in range(8))
# Photos that choose among these; cells that tell how large the ground is.
_CHOOSING, _SOME_CELLS = 1_000, 4_096


@dataclass(frozen=True)
class Prior:
    """How much likelier photos are taken in some places of an index than in others.

    One photo in ten is taken anywhere; all others within a reach of one of known place, each of these alike. The reach
    is that under which photos of known place are likeliest to lie where they do, each told by the others.

    Attributes:
        photos: Unit vectors to the photos of known place.
        reach_m: How far each speaks for the ground around it.
        area_m2: Of the ground that the index covers.
    """

    photos: cKDTree
    reach_m: float
    area_m2: float

    @classmethod
    def of(cls, latlon_deg: NDArray[np.float64], index: CellIndex) -> Self:
        """Learns where photos are taken.

        Args:
            latlon_deg: (N, 2) where others were taken; those that the index does not cover are left out.
            index: Whose ground it is of.

        Raises:
            ConfigError: Too few of them are covered.
        """
        latlon_deg = np.asarray(latlon_deg, np.float64).reshape(-1, 2)
        covered = index.has_cells(cells.cell_ids(latlon_deg, index.level))
        if covered.sum() < LEAST_PHOTOS:
            raise ConfigError(
                f"{covered.sum()} photos of known place lie in {index.path}; of at least {LEAST_PHOTOS} can be learnt "
                "where photos are taken"
            )
        photos = cKDTree(unit_vectors(latlon_deg[covered]))
        some, n_cells = index.some_cells(_SOME_CELLS)
        area_m2 = float(cells.areas_m2(some).mean()) * n_cells
        asked = photos.data[np.linspace(0, photos.n - 1, min(photos.n, _CHOOSING)).astype(int)]

        def likely(reach_m: float) -> float:
            others = _within(photos, asked, reach_m) - 1
            return float(np.log(_ratio(others, photos.n - 1, reach_m, area_m2)).mean())

        return cls(photos, max(_REACHES_M, key=likely), area_m2)

    def log_ratio(self, cell_id: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Returns the logarithm of how many times as likely as on average a photo is taken in (n,) cells, (n,)."""
        n = _within(self.photos, unit_vectors(cells.centers_deg(cell_id).reshape(-1, 2)), self.reach_m)
        return np.asarray(np.log(_ratio(n, self.photos.n, self.reach_m, self.area_m2)))


def learn_prior(photos: Sequence[str | Path], index: CellIndex) -> Prior:
    """Learns where photos are taken from files and tables; those that tell no place are counted and left out.

    Args:
        photos: Whose pixels are not looked at: a table of `lat` and `lon` will do.
        index: Whose ground it is of.

    Raises:
        ConfigError: Too few of them are of ground that the index covers.
        PhotoTableError: A table cannot be read, or holds a value that cannot be.
    """
    known_deg, n_silent = known_places(photos)
    if n_silent:
        log.warning("prior: %d of %d photos tell no place, and are left out", n_silent, n_silent + len(known_deg))
    return Prior.of(known_deg, index)


def no_probabilities(index: CellIndex) -> ConfigError:
    """Returns what is raised where a prior has nothing to change."""
    return ConfigError(
        f"{index.path}: is not calibrated for this search, and without probabilities a prior says nothing; "
        "run `geoview index calibrate`"
    )


def _within(photos: cKDTree, at: NDArray[np.float64], reach_m: float) -> NDArray[np.int64]:
    """Returns how many photos lie within a reach of (n, 3) unit vectors, (n,)."""
    chord = 2.0 * math.sin(min(reach_m / EARTH_RADIUS_M, math.pi) / 2)
    return np.asarray(photos.query_ball_point(at, chord, return_length=True), np.int64)


def _ratio(n_within: NDArray[np.int64], n: int, reach_m: float, area_m2: float) -> NDArray[np.float64]:
    """Returns how many times as dense photos are as on average, of which n lie on the ground and so many in reach."""
    return np.asarray(_ANYWHERE + (1 - _ANYWHERE) * n_within / n * (area_m2 / (math.pi * reach_m**2)))
