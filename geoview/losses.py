"""Contrastive losses between two views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["info_nce"]


def info_nce(
    query: Tensor,
    reference: Tensor,
    logit_scale: Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE with in-batch negatives.

    Half the cross entropy of finding each query's reference plus half of finding each reference's query, with logits
    exp(logit_scale) times the inner products (Radford et al., CLIP, 2021; as in Sample4Geo, Deuser et al., ICCV 2023).

    Args:
        query: (B, D) unit vectors; row i belongs to row i of `reference`.
        reference: (B, D) unit vectors.
        logit_scale: Scalar, logarithm of the inverse temperature.
        label_smoothing: Share of the target spread over all references.
        ignore: (B, B) bool, symmetric: pairs of rows that are no negatives of one another. The diagonal does not count.

    Returns:
        Scalar loss, float32 whatever autocast says: logits in half precision lose what tells hard negatives apart.
    """
    with torch.autocast(query.device.type, enabled=False):
        logits = logit_scale.float().exp() * query.float() @ reference.float().T
        if ignore is None:
            ignore = torch.zeros_like(logits, dtype=torch.bool)
        counted = ~ignore | torch.eye(len(query), dtype=torch.bool, device=query.device)
        there = _cross_entropy(logits, counted, label_smoothing)
        back = _cross_entropy(logits.T, counted.T, label_smoothing)
        return (there + back) / 2


def _cross_entropy(logits: Tensor, counted: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross entropy of (B, B) logits whose targets are on the diagonal, over the counted columns of each row."""
    log_p = F.log_softmax(logits.masked_fill(~counted, -torch.inf), dim=1)
    spread = log_p.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1)
    return -((1 - label_smoothing) * log_p.diagonal() + label_smoothing * spread).mean()
