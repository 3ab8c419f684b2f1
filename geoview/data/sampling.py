"""Which pairs meet in a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

__all__ = ["ShuffledBatches"]


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
