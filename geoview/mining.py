"""Hard negatives: which pairs of a training set are alike, by where they are or by what the encoder makes of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoview.geo.sphere import unit_vectors
from geoview.topk import top_k

__all__ = ["gps_neighbours", "similar_neighbours"]

# Queries of the tree at once: their answers are a few tens of megabytes.
_POINTS = 1 << 14


def gps_neighbours(
    latlon_deg: NDArray[np.floating], k: int, *, place: NDArray[np.int64] | None = None, workers: int = 1
) -> NDArray[np.int64]:
    """Finds the pairs nearest to each pair on the ground, through a tree on the unit sphere.

    Chords of the sphere grow as its arcs do, so that the order is that of great-circle distances at any latitude and
    across the date line. Memory grows with N k, never with N x N.

    Args:
        latlon_deg: (N, 2) WGS84; a pair that is not finite has no neighbours and is nobody's.
        k: Neighbours of each.
        place: (N,) pairs of one place are no neighbours of one another; None where each is a place of its own.
        workers: Threads.

    Returns:
        (N, k) rows, nearest first; -1 where there are fewer.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, is {k}")
    place = np.arange(len(latlon_deg)) if place is None else np.asarray(place)
    found = np.full((len(latlon_deg), k), -1, np.int64)
    known = np.flatnonzero(np.isfinite(latlon_deg).all(axis=1))
    if not len(known):
        return found
    points = unit_vectors(np.asarray(latlon_deg)[known])
    tree = cKDTree(points)
    # Of its own place are as many as that has pairs, itself among them.
    crowd = int(np.unique(place[known], return_counts=True)[1].max())
    wanted = min(len(known), k + crowd)
    for start in range(0, len(known), _POINTS):
        part = slice(start, start + _POINTS)
        _, near = tree.query(points[part], k=np.arange(1, wanted + 1), workers=workers)
        rows = known[near]
        found[known[part]] = _first(rows, place[rows] != place[known[part], None], k)
    return found


def similar_neighbours(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    k: int,
    *,
    query_place: NDArray[np.int64],
    reference_place: NDArray[np.int64],
    semi_positive: NDArray[np.int64] | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[np.int64]:
    """Finds the references that the encoder takes for each query's own, although they are not.

    The dynamic similarity sampling of Sample4Geo (Deuser et al., ICCV 2023), for each query apart, in memory that does
    not grow with the number of references. References that show the query's position, its positives and semi-positives,
    are left out: they are right answers.

    Args:
        queries: (Q, D) embeddings.
        references: (R, D) embeddings.
        k: Neighbours of each query.
        query_place: (Q,) place of each query.
        reference_place: (R,) place of each reference.
        semi_positive: (Q, S) rows of references, -1 for none.
        device: Where to compute.

    Returns:
        (Q, k) rows of references, most alike first; -1 where there are fewer.

    Raises:
        ValueError: k is below 1.
    """
    semi = np.full((len(queries), 0), -1, np.int64) if semi_positive is None else np.asarray(semi_positive, np.int64)
    crowd = int(np.unique(reference_place, return_counts=True)[1].max(initial=0))
    wanted = min(len(references), k + crowd + semi.shape[1])
    if k < 1 or not wanted:
        raise ValueError(f"k must be at least 1 and there must be references, are {k} and {len(references)}")
    rows, _ = top_k(queries, [(np.arange(len(references)), references)], wanted, device=device)
    other = (rows >= 0) & (np.asarray(reference_place)[rows] != np.asarray(query_place)[:, None])
    for column in semi.T:
        other &= rows != column[:, None]
    return _first(rows, other, k)


def _first(rows: NDArray[np.int64], kept: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """Returns the first k kept entries of each row of (N, M), -1 where there are fewer."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    first = np.where(np.take_along_axis(kept, order, axis=1), np.take_along_axis(rows, order, axis=1), -1)
    return np.pad(first, ((0, 0), (0, max(0, k - first.shape[1]))), constant_values=-1)
