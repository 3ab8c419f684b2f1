"""Contrastive losses between two views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = [
    "decoupled_info_nce",
    "gathered",
    "info_nce",
    "multi_similarity",
    "prototype_info_nce",
    "prototype_multi_similarity",
]

# Prototypes whose logits are held at once; they are computed again for the gradient.
_PROTOTYPES = 65_536
# A logit that never counts; infinity would make gradients of empty sums undefined.
_NEVER = -1e9


def gathered(x: Tensor) -> Tensor:
    """Gathers a tensor from all processes, with gradient: in-batch negatives then come from everywhere.

    Every process computes the same loss of the whole batch. Its gradient by the own rows is summed over the processes,
    so that the mean of all processes' parameter gradients, which data-parallel training takes, is that of one process
    with the whole batch.

    Args:
        x: (B, ...), in every process; B may differ.

    Returns:
        (sum of all B, ...) in the order of the processes; `x` itself where there is one.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return x
    everywhere: Tensor = _Gathered.apply(x)
    return everywhere


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        here = torch.tensor(len(x), device=x.device)
        counts = [torch.empty_like(here) for _ in range(distributed.get_world_size())]
        distributed.all_gather(counts, here)
        ctx.counts = [int(count) for count in counts]
        # What is gathered has one shape everywhere: filled up, and cut again.
        padded = torch.cat([x, x.new_zeros(max(ctx.counts) - len(x), *x.shape[1:])])
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, ctx.counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        distributed.all_reduce(grad)
        return torch.split(grad, ctx.counts)[distributed.get_rank()]


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
        ignore: (B, B) bool: references (columns) that are no negatives of a query (row). The diagonal does not count.

    Returns:
        Scalar loss, float32 whatever autocast says: logits in half precision lose what tells hard negatives apart.
    """
    with torch.autocast(query.device.type, enabled=False):
        logits, counted = _logits(query, reference, logit_scale, ignore)
        there = _cross_entropy(logits, counted, label_smoothing)
        back = _cross_entropy(logits.T, counted.T, label_smoothing)
        return (there + back) / 2


def _logits(query: Tensor, reference: Tensor, logit_scale: Tensor, ignore: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns (B, B) float32 logits, and which references count for which query."""
    logits = logit_scale.float().exp() * query.float() @ reference.float().T
    own = torch.eye(len(query), dtype=torch.bool, device=query.device)
    return logits, torch.ones_like(own) if ignore is None else ~ignore | own


def _cross_entropy(logits: Tensor, counted: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross entropy of (B, B) logits whose targets are on the diagonal, over the counted columns of each row."""
    log_p = F.log_softmax(logits.masked_fill(~counted, -torch.inf), dim=1)
    spread = log_p.masked_fill(~counted, 0).sum(dim=1) / counted.sum(dim=1)
    return -((1 - label_smoothing) * log_p.diagonal() + label_smoothing * spread).mean()


def decoupled_info_nce(
    query: Tensor,
    reference: Tensor,
    logit_scale: Tensor,
    *,
    label_smoothing: float = 0.0,
    ignore: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE whose denominators hold the negatives only, so that an easy match does not still the rest.

    With logits s and the counted columns M_i of row i, l_ij = s_ij - log sum_{k in M_i, k != j} exp(s_ik), and a row's
    loss is -(1 - e) l_ii - e / (|M_i| - 1) sum_{j != i} l_ij (Fervers et al., Statewide Visual Geolocalization in the
    Wild, ECCV 2024; after Yeh et al., Decoupled Contrastive Learning, ECCV 2022).

    Args:
        query: (B, D) unit vectors; row i belongs to row i of `reference`. B is at least 2.
        reference: (B, D) unit vectors.
        logit_scale: Scalar, logarithm of the inverse temperature.
        label_smoothing: e above.
        ignore: As for `info_nce`; every row needs a negative that is not ignored.

    Returns:
        Scalar loss, float32. It may be below 0.
    """
    with torch.autocast(query.device.type, enabled=False):
        logits, counted = _logits(query, reference, logit_scale, ignore)
        there = _decoupled(logits, counted, label_smoothing)
        back = _decoupled(logits.T, counted.T, label_smoothing)
        return (there + back) / 2


def _decoupled(logits: Tensor, counted: Tensor, label_smoothing: float) -> Tensor:
    n = len(logits)
    own = torch.eye(n, dtype=torch.bool, device=logits.device)
    masked = logits.masked_fill(~counted, -torch.inf)
    match = logits.diagonal() - masked.masked_fill(own, -torch.inf).logsumexp(dim=1)
    if not label_smoothing:
        return -match.mean()
    # The denominator of l_ij leaves j out: log(sum - exp(s_ij)), in a form that does not overflow.
    total = masked.logsumexp(dim=1, keepdim=True)
    share = (masked - total).exp().clamp(max=1 - 1e-6)
    others = masked - (total + torch.log1p(-share))
    negatives = counted & ~own
    spread = others.masked_fill(~negatives, 0).sum(dim=1) / negatives.sum(dim=1)
    return -((1 - label_smoothing) * match + label_smoothing * spread).mean()


def multi_similarity(
    query: Tensor,
    reference: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 50.0,
    base: float = 0.0,
    margin: float = 0.1,
    ignore: Tensor | None = None,
) -> Tensor:
    """Multi-similarity loss with its miner, both ways (Wang et al., CVPR 2019).

    A row's loss is log(1 + sum_p exp(-alpha (s_ip - base))) / alpha + log(1 + sum_n exp(beta (s_in - base))) / beta,
    over its positive if that is less alike than its most alike negative plus `margin`, and over the negatives more
    alike than its positive minus `margin`. The defaults are those of SALAD (Izquierdo and Civera, CVPR 2024).

    Args:
        query: (B, D) unit vectors; row i belongs to row i of `reference`.
        reference: (B, D) unit vectors.
        alpha: Weight of the positive.
        beta: Weight of the negatives.
        base: Likeness at which both weigh the same.
        margin: Of the miner.
        ignore: As for `info_nce`.

    Returns:
        Scalar loss, float32.
    """
    with torch.autocast(query.device.type, enabled=False):
        likeness = query.float() @ reference.float().T
        own = torch.eye(len(query), dtype=torch.bool, device=query.device)
        negatives = ~own if ignore is None else ~ignore & ~own

        def half(s: Tensor, negative: Tensor) -> Tensor:
            match = s.diagonal()[:, None]
            hard = negative & (s > match - margin)
            hardest = s.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
            pull = (-alpha * (match - base)).masked_fill(match >= hardest + margin, -torch.inf)
            push = (beta * (s - base)).masked_fill(~hard, -torch.inf)
            zero = torch.zeros_like(match)
            pulled = torch.cat([zero, pull], dim=1).logsumexp(dim=1) / alpha
            pushed = torch.cat([zero, push], dim=1).logsumexp(dim=1) / beta
            return (pulled + pushed).mean()

        return (half(likeness, negatives) + half(likeness.T, negatives.T)) / 2


def prototype_info_nce(
    embedding: Tensor, own: Tensor, others: Tensor, logit_scale: Tensor, *, ignore: Tensor
) -> Tensor:
    """Cross entropy of finding each embedding's own prototype among those of a table, which processes share out.

    -log(e^(s x.p) / (e^(s x.p) + sum_n e^(s x.n))) with s = exp(logit_scale), the mean over the batch. Each process
    sums over the prototypes that it holds; the sums of all are added up, with gradient.

    Args:
        embedding: (B, D) unit vectors of all processes.
        own: (B, D) unit vectors: what the prototypes say where each embedding is of.
        others: (n, D) unit vectors: the prototypes that this process compares with.
        logit_scale: Scalar, logarithm of the inverse temperature.
        ignore: (B, n) bool: prototypes that are no negatives of an embedding.

    Returns:
        Scalar loss, float32.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        scale = logit_scale.float().exp()
        match = scale * (embedding.float() * own.float()).sum(dim=1)
        return F.softplus(_log_sum_exp(scale * embedding.float(), others.float(), ignore) - match).mean()


def prototype_multi_similarity(
    embedding: Tensor,
    own: Tensor,
    others: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 50.0,
    base: float = 0.0,
    ignore: Tensor,
) -> Tensor:
    """Multi-similarity loss of embeddings and the prototypes of a table, which processes share out.

    log(1 + e^(-alpha (x.p - base))) / alpha + log(1 + sum_n e^(beta (x.n - base))) / beta, without a miner: the sum is
    ruled by the hardest anyway (Wang et al., CVPR 2019; defaults as in `multi_similarity`).

    Args:
        embedding: As for `prototype_info_nce`.
        own: As for `prototype_info_nce`.
        others: As for `prototype_info_nce`.
        alpha: Weight of the own prototype.
        beta: Weight of the others.
        base: Likeness at which both weigh the same.
        ignore: As for `prototype_info_nce`.

    Returns:
        Scalar loss, float32.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        pull = F.softplus(-alpha * ((embedding.float() * own.float()).sum(dim=1) - base)) / alpha
        push = F.softplus(_log_sum_exp(beta * embedding.float(), others.float(), ignore) - beta * base) / beta
        return (pull + push).mean()


def _log_sum_exp(queries: Tensor, others: Tensor, ignore: Tensor) -> Tensor:
    """Returns (B,) log sum_n exp(q.n) over what all processes compare with, in memory that does not grow with it."""

    def part(vectors: Tensor, ignored: Tensor) -> Tensor:
        return (queries @ vectors.T).masked_fill(ignored, _NEVER).logsumexp(dim=1)

    parts = zip(torch.split(others, _PROTOTYPES), torch.split(ignore, _PROTOTYPES, dim=1), strict=True)
    sums = [queries.new_full((len(queries),), _NEVER)]
    sums += [checkpoint(part, *each, use_reentrant=False) for each in parts]
    return gathered(torch.stack(sums).logsumexp(dim=0)[None]).logsumexp(dim=0)
