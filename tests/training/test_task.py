"""Which references of a batch are no negatives of a query."""

import numpy as np
import torch

from geoview.data.pairs import PairTable
from geoview.training.task import no_negatives


def table():
    """Five queries, of which 0 and 3 share a place; reference 2 shows query 1 too."""
    latlon_deg = np.array([[10.0, 20.0], [10.0, 20.0003], [11.0, 20.0], [np.nan, np.nan], [12.0, 20.0]])
    semi_positive = np.array([[-1, -1], [-1, 2], [-1, -1], [-1, -1], [3, -1]])
    positive = np.array([0, 1, 2, 0, 4])
    return PairTable.of("abcde", "uvwxy", positive, latlon_deg=latlon_deg, semi_positive=semi_positive)


def apart(rows, within_m=0.0):
    """The (query, pair of the reference) that are no negatives, without each pair's own."""
    mask = no_negatives(table(), np.array(rows), within_m)
    assert mask.dtype == torch.bool
    assert mask.diagonal().all()
    return {(rows[i], rows[j]) for i, j in mask.nonzero().tolist() if i != j}


def test_a_place_and_what_else_shows_it_are_no_negatives():
    # Reference 2 shows query 1; whether reference 1 shows query 2 is another matter.
    assert apart([0, 1, 2, 3, 4]) == {(0, 3), (3, 0), (1, 2)}
    # Reference 3 is nobody's positive: that query 4 lies in it is no matter.
    assert apart([3, 4]) == set()
    assert apart([4, 2, 1]) == {(1, 2)}


def test_near_pairs_are_no_negatives_where_that_is_asked_for():
    # 32.8 m apart; one of unknown position is near to none.
    assert apart([0, 1, 2, 3, 4], 33.5) == {(0, 1), (1, 0), (0, 3), (3, 0), (1, 2)}
    assert apart([0, 1, 2, 3, 4], 32.0) == {(0, 3), (3, 0), (1, 2)}
