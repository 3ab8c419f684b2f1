"""Ranks, recalls and their intervals. Ties and values that are not finite count against the model."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["ranks", "recall_at", "recall_within", "wilson_interval"]

_QUERIES = 256


def ranks(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    positive: NDArray[np.int64],
    *,
    device: str | torch.device = "cpu",
) -> NDArray[np.int64]:
    """Ranks the true reference of each query by inner product, in blocks of queries.

    Args:
        queries: (Q, D).
        references: (R, D).
        positive: (Q,) row of each query's true reference.
        device: Where to compute.

    Returns:
        (Q,) ranks from 1: one more than the number of other references that score at least as high. A query or a true
        reference that is not finite ranks last; a reference that is not finite beats every true one. So a constant or
        an overflowing encoder scores what chance scores, or worse.
    """
    q = torch.as_tensor(np.ascontiguousarray(queries, np.float32), device=device)
    r = torch.as_tensor(np.ascontiguousarray(references, np.float32), device=device)
    rows = torch.as_tensor(positive, device=device)
    found = []
    for start in range(0, len(q), _QUERIES):
        own = rows[start : start + _QUERIES]
        scores = q[start : start + _QUERIES] @ r.T
        scores.masked_fill_(~scores.isfinite(), torch.inf)
        true = scores.gather(1, own[:, None])
        better = (scores >= true) | true.isinf()
        better.scatter_(1, own[:, None], False)
        found.append(1 + better.sum(dim=1))
    return torch.cat(found).cpu().numpy() if found else np.empty(0, np.int64)


def recall_at(rank: NDArray[np.int64], k: int) -> float:
    """Returns the share of queries whose true reference ranks at most k; NaN without queries."""
    return float(np.mean(rank <= k)) if len(rank) else math.nan


def recall_within(distance_m: NDArray[np.float64], k: int, radius_m: float) -> float:
    """Returns the share of queries with one of the first k answers within a radius of the truth.

    Args:
        distance_m: (Q, n) distance of each answer, best first; NaN or inf where there is no answer.
        k: Answers that count.
        radius_m: Largest distance that counts.

    Returns:
        Share in [0, 1]; NaN without queries.
    """
    if not len(distance_m):
        return math.nan
    return float(np.mean((distance_m[:, :k] <= radius_m).any(axis=1)))


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Returns the Wilson score interval of a share of n trials (Wilson, JASA 22, 1927); 95 % for z = 1.96."""
    if n == 0:
        return 0.0, 1.0
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))
