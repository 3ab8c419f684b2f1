"""What makes one vector of a map of features, where the mean over the map does not do."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoview.config import Seen
from geoview.errors import EncoderError

__all__ = ["AttentionHead", "GridHead", "make_head"]

_GRID = 3


def make_head(kind: Literal["grid", "attention"], channels: int, size: int) -> GridHead | AttentionHead:
    """Makes a head.

    Args:
        kind: Which.
        channels: Of the feature map.
        size: Channels kept of each square, or number of attention heads.

    Raises:
        EncoderError: The channels cannot be shared among so many attention heads.
    """
    if kind == "grid":
        return GridHead(channels, size)
    if channels % size:
        raise EncoderError(f"encoder.head_size: {channels} channels cannot be shared among {size} attention heads")
    return AttentionHead(channels, size)


class GridHead(nn.Module):
    """Features of three by three squares of the picture side by side, so that the vector tells what is where.

    Two views of one geometry (a plan and a chip) then agree square by square, and a turned view disagrees. A square
    counts by the share of it that shows something: what a perspective photo does not see says nothing. All squares of a
    chip have one length, since all of its ground is shown: of squares that share one, a quay would speak for all the
    water around it. Those of a street photo are as long as what they tell is worth.

    Attributes:
        dim: Length of the vector.
    """

    def __init__(self, channels: int, kept: int) -> None:
        """Makes a head with random weights.

        Args:
            channels: Of the feature map.
            kept: Channels kept of each square.
        """
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduce = nn.Linear(channels, kept)
        self.dim = _GRID * _GRID * kept

    def forward(self, features: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Makes vectors.

        Args:
            features: (B, channels, h, w).
            inside: (B, 1, H, W), 1 where the picture shows something.
            seen: What the pictures are of.

        Returns:
            (B, dim).
        """
        return self._kept(features, inside, seen).flatten(1)

    def parts(self, features: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Tells what each square gives to the vector: (B, 3, 3, dim), whose sum over the squares it is."""
        kept = self._kept(features, inside, seen).flatten(1, 2)
        return torch.diag_embed(kept.mT).permute(0, 2, 3, 1).reshape(len(kept), _GRID, _GRID, -1)

    def _kept(self, features: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        squares = F.adaptive_avg_pool2d(features, _GRID).permute(0, 2, 3, 1)
        share = F.adaptive_avg_pool2d(inside, _GRID).permute(0, 2, 3, 1)
        kept: Tensor = self.reduce(self.norm(squares))
        return (F.normalize(kept, dim=-1) if seen == "aerial" else kept) * share


class AttentionHead(nn.Module):
    """Several weighted means over the map, each with weights of its own: softmax of what a learnt query finds.

    The spatial softmax of Fervers et al. (Statewide Visual Geolocalization in the Wild, ECCV 2024). Where the picture
    shows nothing, nothing is looked at.

    Attributes:
        dim: Length of the vector.
    """

    def __init__(self, channels: int, heads: int) -> None:
        """Makes a head with random weights.

        Args:
            channels: Of the feature map, a multiple of the heads.
            heads: How many means.
        """
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.Linear(channels, heads)
        self.value = nn.Linear(channels, channels)
        self.dim = channels

    def forward(self, features: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Makes vectors.

        Args:
            features: (B, channels, h, w).
            inside: (B, 1, H, W), 1 where the picture shows something.
            seen: What the pictures are of; here, it does not matter.

        Returns:
            (B, dim).
        """
        return torch.einsum("bph,bphc->bhc", *self._weighed(features, inside)).flatten(1)

    def parts(self, features: Tensor, inside: Tensor, seen: Seen) -> Tensor:
        """Tells what each position of the map gives to the vector: (B, h, w, dim), whose sum over them it is."""
        weight, value = self._weighed(features, inside)
        return (weight.unsqueeze(-1) * value).reshape(len(features), *features.shape[-2:], -1)

    def _weighed(self, features: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weight of each position for each head, (B, h w, heads), and what it says, with channels last."""
        x = self.norm(features.flatten(2).mT)
        share = F.adaptive_avg_pool2d(inside, (features.shape[-2], features.shape[-1])).flatten(2).mT
        # A picture that shows nothing at all is looked at evenly.
        weight = (self.attention(x) + share.clamp(min=1e-6).log()).softmax(dim=1)
        return weight, self.value(x).unflatten(-1, (weight.shape[-1], -1))
