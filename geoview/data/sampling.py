"""Which pairs meet in a batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

__all__ = ["Batches", "BlockBatches", "HardBatches", "Share", "ShuffledBatches"]


class Batches(Sampler[list[tuple[int, int]]]):
    """The batches of some steps of a training run: every pair once an epoch, none twice in a batch, none dropped.

    The batch of a step depends on the seed and the number of the step alone, so that a run that was cut off goes on
    with the batches it would have had.
    """

    def __init__(self, *, seed: int, first_step: int, last_step: int) -> None:
        """Makes the batches of the steps [first_step, last_step).

        Args:
            seed: Of the shuffling.
            first_step: Steps done already.
            last_step: Steps of the whole run.
        """
        self._seed, self._steps = seed, range(first_step, last_step)

    @abstractmethod
    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Returns the batches of an epoch, as rows of the table; their number is that of every epoch."""

    def _rng(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch])

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yields batches of (step, row of the table): the step seeds what is drawn for the row."""
        batches_an_epoch, epoch = len(self.epoch(0)), -1
        batches: list[NDArray[np.int64]] = []
        for step in self._steps:
            if step // batches_an_epoch != epoch:
                epoch = step // batches_an_epoch
                batches = self.epoch(epoch)
            yield [(step, int(row)) for row in batches[step % batches_an_epoch]]


class Share(Sampler[list[tuple[int, int]]]):
    """What one of several processes reads of each batch; together they read what one alone would."""

    def __init__(self, batches: Batches, rank: int, processes: int) -> None:
        """Makes a share.

        Args:
            batches: Of all processes.
            rank: Number of this process, from 0.
            processes: How many there are.
        """
        self._batches, self._rank, self._processes = batches, rank, processes

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yields every so many-th pair of each batch."""
        for batch in self._batches:
            yield batch[self._rank :: self._processes]


class ShuffledBatches(Batches):
    """Random batches of nearly equal size."""

    def __init__(self, n_pairs: int, batch_size: int, *, seed: int, first_step: int, last_step: int) -> None:
        """Makes the batches.

        Args:
            n_pairs: Size of the table.
            batch_size: Pairs a batch, at most.
            seed: As for `Batches`.
            first_step: As for `Batches`.
            last_step: As for `Batches`.
        """
        super().__init__(seed=seed, first_step=first_step, last_step=last_step)
        self._n_pairs, self._batch_size = n_pairs, batch_size

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Returns all pairs in random order, parted."""
        order = self._rng(number).permutation(self._n_pairs)
        return np.array_split(order, math.ceil(self._n_pairs / self._batch_size))


class HardBatches(Batches):
    """Batches of pairs that are alike, as hard at the end of an epoch as at its beginning.

    The mixture is that of Sample4Geo (Deuser et al., ICCV 2023): a seed comes with a number of its neighbours, half of
    them the nearest, half drawn from the others. There, seeds are drawn at random and use neighbours up here and there,
    so that what is left is scattered and the last batches are easy. Here, the next seed is the one with the fewest
    neighbours left, near the batch's others where there is one: the epoch is eaten from its edges, and what is left
    stays whole. The batches are then shuffled.
    """

    def __init__(
        self,
        place: NDArray[np.int64],
        neighbours: NDArray[np.int64],
        batch_size: int,
        *,
        neighbours_a_seed: int = 64,
        seed: int,
        first_step: int,
        last_step: int,
    ) -> None:
        """Makes the batches.

        Args:
            place: (N,) place of each pair, any numbers; no two pairs of a batch are of one place.
            neighbours: (N, K) places like that of each pair, most alike first; -1 for none.
            batch_size: Pairs a batch, at most.
            neighbours_a_seed: How many come with a seed.
            seed: As for `Batches`.
            first_step: As for `Batches`.
            last_step: As for `Batches`.
        """
        super().__init__(seed=seed, first_step=first_step, last_step=last_step)
        known, self._place = np.unique(place, return_inverse=True)
        at = np.searchsorted(known, neighbours).clip(max=len(known) - 1)
        listed = known[at] == neighbours  # a place without a pair is nobody's neighbour
        # Padded with the number after the last: a place that is always used up.
        self._neighbours = np.where(listed, at, len(known))
        self._n_places, self._with_seed = len(known), neighbours_a_seed
        self._n_batches = self.batches_an_epoch(place, batch_size)
        # Who lists a place: (entries by place, their pairs).
        flat = self._neighbours.ravel()
        self._listing = np.argsort(flat, kind="stable") // max(1, self._neighbours.shape[1])
        self._listing_at = np.searchsorted(np.sort(flat), np.arange(len(known) + 1))

    @staticmethod
    def batches_an_epoch(place: NDArray[np.int64], batch_size: int) -> int:
        """Returns how many batches an epoch has: no fewer than the pairs of any place, of which each needs its own."""
        return max(math.ceil(len(place) / batch_size), int(np.unique(place, return_counts=True)[1].max(initial=0)))

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Returns batches whose sizes differ by at most one."""
        rng, n = self._rng(number), len(self._place)
        # The pairs of a place are used in random order: `queue[head[p]]` is the next one of place p.
        queue = rng.permutation(n)
        queue = queue[np.argsort(self._place[queue], kind="stable")]
        head = np.searchsorted(self._place[queue], np.arange(self._n_places + 1))
        count = np.append(np.bincount(self._place, minlength=self._n_places), 0)
        # How many neighbours each pair has left, with some noise so that epochs differ; the used have no claim.
        k = self._neighbours.shape[1]
        left = (self._neighbours < self._n_places).sum(axis=1) + max(1, k) * _NOISE * rng.random(n)
        batches = []
        for remaining, size in zip(range(self._n_batches, 0, -1), _sizes(n, self._n_batches), strict=True):
            batch: list[int] = []
            taken = np.zeros(self._n_places + 1, np.bool_)

            def take(places: NDArray[np.int64], batch: list[int] = batch, taken: NDArray[np.bool_] = taken) -> None:
                pairs = queue[head[places]]
                batch.extend(pairs.tolist())
                taken[places] = True
                left[pairs] = np.inf
                head[places] += 1
                count[places] -= 1
                gone = places[count[places] == 0]
                listing = [self._listing[self._listing_at[p] : self._listing_at[p + 1]] for p in gone.tolist()]
                if listing:
                    np.subtract.at(left, np.concatenate(listing), 1.0)

            # A place with as many pairs as there are batches left has to be in every one of them.
            take(np.flatnonzero(count >= remaining))
            while len(batch) < size:
                free = (count > 0) & ~taken
                near = np.unique(self._neighbours[batch])
                near = near[free[near]]
                candidates = near if len(near) else np.flatnonzero(free)
                first = candidates[np.argmin(left[queue[head[candidates]]])]
                pair = queue[head[first]]
                take(np.array([first]))
                pool = self._neighbours[pair]
                pool = pool[np.sort(np.unique(pool, return_index=True)[1])]
                pool = pool[(count[pool] > 0) & ~taken[pool]]
                n_with = min(self._with_seed, size - len(batch), len(pool))
                nearest, others = pool[: n_with // 2], pool[n_with // 2 :]
                take(np.concatenate([nearest, rng.choice(others, n_with - len(nearest), replace=False)]))
            batches.append(np.array(batch))
        return [batches[i] for i in rng.permutation(len(batches))]


# Of a pair's number of neighbours: enough that epochs differ, too little to leave scattered pairs behind.
_NOISE = 0.5


class BlockBatches(Batches):
    """Batches of neighbours: each meets pairs of a few blocks only.

    Each block is shuffled and parted into pieces of nearly equal size; batches are cut from the pieces in random order.
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
        """Makes the batches.

        Args:
            block: (N,) the block that each pair of the table lies in.
            batch_size: Pairs a batch, at most.
            blocks_per_batch: Pieces that a batch is made of.
            seed: As for `Batches`.
            first_step: As for `Batches`.
            last_step: As for `Batches`.
        """
        super().__init__(seed=seed, first_step=first_step, last_step=last_step)
        _, of_row = np.unique(block, return_inverse=True)
        self._rows = np.split(np.argsort(of_row, kind="stable"), np.cumsum(np.bincount(of_row))[:-1])
        self._piece, self._batch_size = max(1, batch_size // blocks_per_batch), batch_size

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Returns pieces put together, batches of nearly equal size."""
        rng = self._rng(number)
        pieces = [
            piece
            for rows in self._rows
            for piece in np.array_split(rng.permutation(rows), math.ceil(len(rows) / self._piece))
        ]
        order = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
        return np.array_split(order, math.ceil(len(order) / self._batch_size))


def _sizes(n: int, parts: int) -> list[int]:
    """Parts n into nearly equal sizes, the larger ones first."""
    return [n // parts + (i < n % parts) for i in range(parts)]
