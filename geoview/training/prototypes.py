"""Prototypes that are learnt beside the encoder: what they cost a batch, and how they move."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from geoview.config import PrototypesConfig
from geoview.data.pairs import PairTable
from geoview.errors import PairTableError
from geoview.index.prototypes import Photo, Speech
from geoview.losses import gathered, prototype_info_nce, prototype_multi_similarity
from geoview.models.prototypes import LearntPrototypes, PrototypeRows

__all__ = ["PrototypeLearning"]


class PrototypeLearning:
    """A table of prototypes of the cells that training photos speak for, and its part of the loss.

    A photo and its chip are both to find the prototype of where they are among others of the table: interpolated
    between the cells that the photo speaks for, as it is in the index. Cells that it speaks for are no negatives of it.
    """

    def __init__(
        self, table: PairTable, dim: int, config: PrototypesConfig, *, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        """Draws a table at random.

        Args:
            table: The training pairs.
            dim: Length of an embedding.
            config: Which cells, and how they are learnt.
            seed: Of the table and of the negatives.
            rank: Number of this process, from 0.
            processes: How many share the table out.

        Raises:
            PairTableError: A position is not known.
        """
        unknown = np.flatnonzero(~np.isfinite(table.latlon_deg).all(axis=1))
        if len(unknown):
            raise PairTableError(
                f"{table.name}: {len(unknown)} pairs tell no lat and lon (the first is pair {unknown[0] + 1}), and "
                "prototypes are of places; fill them in, or train without prototypes"
            )
        self._config, self._seed, self._rank, self._processes = config, seed, rank, processes
        photos = [
            Photo(path, (lat, lon), _known(heading_deg), _known(fov_deg), 0)
            for path, (lat, lon), heading_deg, fov_deg in zip(
                table.query_path,
                table.latlon_deg.tolist(),
                table.heading_deg.tolist(),
                table.fov_deg.tolist(),
                strict=True,
            )
        ]
        pair, ids, weights = Speech(config.level, config.border, config.frustum).spoken(photos)
        order = np.argsort(pair, kind="stable")
        self.cell, row = np.unique(ids, return_inverse=True)
        # What pair i speaks for is at [start[i], start[i + 1]).
        self._start = np.searchsorted(pair[order], np.arange(len(table) + 1))
        self._row, self._weight = torch.from_numpy(row[order]), torch.from_numpy(weights[order].astype(np.float32))
        self.rows = PrototypeRows(len(self.cell), dim, seed=seed, rank=rank, processes=processes)
        self._taken: tuple[Tensor, Tensor] | None = None

    def loss(
        self, pairs: NDArray[np.int64], query: Tensor, reference: Tensor, logit_scale: Tensor | None, step: int
    ) -> Tensor:
        """Returns what a batch costs; `move` is to follow once the gradient is there.

        Args:
            pairs: (B,) rows of the pairs of all processes.
            query: (B, D) embeddings of their photos.
            reference: (B, D) embeddings of their chips.
            logit_scale: Logarithm of the inverse temperature; None for the multi-similarity form.
            step: Seeds the negatives.
        """
        spoken = [np.arange(self._start[pair], self._start[pair + 1]) for pair in pairs]
        at = torch.from_numpy(np.concatenate(spoken))
        of = torch.from_numpy(np.repeat(np.arange(len(pairs)), [len(each) for each in spoken]))
        rows, weights = self._row[at], self._weight[at]
        here = self.rows.holds(rows)
        candidates = self._candidates(rows[here], step)
        leaf = self.rows.taken(candidates, query.device)
        self._taken = candidates, leaf
        others = F.normalize(leaf)
        position = torch.searchsorted(candidates, rows[here])
        said = weights[here, None].to(leaf.device) * others[position.to(leaf.device)]
        part = torch.zeros_like(query, dtype=torch.float32).index_add(0, of[here].to(leaf.device), said)
        own = F.normalize(gathered(part[None]).sum(dim=0))
        ignore = torch.zeros((len(pairs), len(candidates)), dtype=torch.bool)
        ignore[of[here], position] = True
        form: Callable[..., Tensor] = (
            prototype_multi_similarity if logit_scale is None else partial(prototype_info_nce, logit_scale=logit_scale)
        )
        cost = partial(form, own=own, others=others, ignore=ignore.to(leaf.device))
        return self._config.ground_weight * cost(query) + self._config.aerial_weight * cost(reference)

    def move(self, share: float, loss_scale: float = 1.0) -> None:
        """Moves the prototypes of the last batch against their gradient.

        Args:
            share: Of the learning rate, by the schedule.
            loss_scale: What the loss was multiplied by before its gradient was taken.
        """
        assert self._taken is not None, "there has been a loss"
        (rows, leaf), self._taken = self._taken, None
        assert leaf.grad is not None, "its gradient has been taken"
        # Every process takes the gradient of the same loss, and sums over all have been added up.
        self.rows.move(rows, leaf.grad / (self._processes * loss_scale), share * self._config.learning_rate)

    def _candidates(self, own: Tensor, step: int) -> Tensor:
        """Returns rows to compare with, ascending: those of the batch that are here, and some or all others."""
        n = len(self.rows)
        wanted = -(-self._config.negatives // self._processes)
        if not self._config.negatives or wanted >= n:
            return torch.arange(self.rows.first, self.rows.first + n)
        rng = np.random.default_rng([self._seed, step, self._rank])
        drawn = self.rows.first + rng.choice(n, wanted, replace=False)
        return torch.from_numpy(np.unique(np.concatenate([own.numpy(), drawn])))

    def whole(self) -> tuple[Tensor, Tensor]:
        """Returns the state of the whole table; all processes call this together."""
        vectors, squares = (gathered(share) for share in self.rows.state())
        return vectors, squares

    def learnt(self, encoder: str, vectors: Tensor) -> LearntPrototypes:
        """Returns what is kept of a run.

        Args:
            encoder: Fingerprint of the encoder.
            vectors: Of the whole table.
        """
        config = self._config
        return LearntPrototypes(self.cell, vectors.numpy(), encoder, config.level, config.border, config.frustum)


def _known(degrees: float) -> float | None:
    return None if np.isnan(degrees) else degrees
