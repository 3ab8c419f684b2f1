"""Contrastive losses between two views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["info_nce"]


def info_nce(query: Tensor, reference: Tensor, logit_scale: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Symmetric InfoNCE with in-batch negatives.

    Half the cross entropy of finding each query's reference plus half of finding each reference's query, with logits
    exp(logit_scale) times the inner products (Radford et al., CLIP, 2021; as in Sample4Geo, Deuser et al., ICCV 2023).

    Args:
        query: (B, D) unit vectors; row i belongs to row i of `reference`.
        reference: (B, D) unit vectors.
        logit_scale: Scalar, logarithm of the inverse temperature.
        label_smoothing: Share of the target spread over all references.

    Returns:
        Scalar loss, float32 whatever autocast says: logits in half precision lose what tells hard negatives apart.
    """
    with torch.autocast(query.device.type, enabled=False):
        logits = logit_scale.float().exp() * query.float() @ reference.float().T
        target = torch.arange(len(query), device=query.device)
        there = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
        back = F.cross_entropy(logits.T, target, label_smoothing=label_smoothing)
        return (there + back) / 2
