"""Which pairs meet in a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

__all__ = ["BlockBatches", "ShuffledBatches"]


class ShuffledBatches(Sampler[list[tuple[int, int]]]):
    """Random batches: every pair once an epoch, none twice in a batch, no remainder dropped.

    An epoch is parted into batches of nearly equal size, at most `batch_size`. The batch of a step depends on the seed
    and the number of the step alone, so that a run that was cut off goes on with the batches it would have had.
    """

    def __init__(self, n_pairs: int, batch_size: int, *, seed: int, first_step: int, last_step: int) -> None:
        """Makes the batches of the steps [first_step, last_step).

        Args:
            n_pairs: Size of the table.
            batch_size: Pairs a batch, at most.
            seed: Of the shuffling.
            first_step: Steps done already.
            last_step: Steps of the whole run.
        """
        self._n_pairs, self._seed = n_pairs, seed
        self._batches_an_epoch = math.ceil(n_pairs / batch_size)
        self._steps = range(first_step, last_step)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yields batches of (step, row of the table): the step seeds what is drawn for the row."""
        epoch, batches = -1, list[np.ndarray]()
        for step in self._steps:
            if step // self._batches_an_epoch != epoch:
                epoch = step // self._batches_an_epoch
                order = np.random.default_rng([self._seed, epoch]).permutation(self._n_pairs)
                batches = np.array_split(order, self._batches_an_epoch)
            yield [(step, int(row)) for row in batches[step % self._batches_an_epoch]]


class BlockBatches(Sampler[list[tuple[int, int]]]):
    """Batches of neighbours: each meets pairs of a few blocks only, every pair once an epoch, none twice in a batch.

    Each block is shuffled and parted into pieces of nearly equal size; a batch is a few pieces drawn at random, mostly
    of different blocks. As with `ShuffledBatches`, the batch of a step depends on the seed and the step alone.
    """

    def __init__(
        self,
        block: NDArray[np.uint64],
        batch_size: int,
        blocks_per_batch: int,
        *,
        seed: int,
        first_step: int,
        last_step: int,
    ) -> None:
        """Makes the batches of the steps [first_step, last_step).

        Args:
            block: (N,) the block that each pair of the table lies in.
            batch_size: Pairs a batch, at most.
            blocks_per_batch: Pieces that a batch is made of.
            seed: Of the shuffling.
            first_step: Steps done already.
            last_step: Steps of the whole run.
        """
        _, of_row = np.unique(block, return_inverse=True)
        self._rows = np.split(np.argsort(of_row, kind="stable"), np.cumsum(np.bincount(of_row))[:-1])
        self._piece, self._batch_size = max(1, batch_size // blocks_per_batch), batch_size
        self._seed, self._steps = seed, range(first_step, last_step)
        self._batches_an_epoch = len(self._epoch(0))

    def __len__(self) -> int:
        return len(self._steps)

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self._seed, epoch])
        pieces = [
            piece
            for rows in self._rows
            for piece in np.array_split(rng.permutation(rows), math.ceil(len(rows) / self._piece))
        ]
        batches: list[list[NDArray[np.int64]]] = [[]]
        for i in rng.permutation(len(pieces)):
            if sum(map(len, batches[-1])) + len(pieces[i]) > self._batch_size:
                batches.append([])
            batches[-1].append(pieces[i])
        return [np.concatenate(batch) for batch in batches]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yields batches of (step, row of the table): the step seeds what is drawn for the row."""
        epoch, batches = -1, list[NDArray[np.int64]]()
        for step in self._steps:
            if step // self._batches_an_epoch != epoch:
                epoch = step // self._batches_an_epoch
                batches = self._epoch(epoch)
            yield [(step, int(row)) for row in batches[step % len(batches)]]
