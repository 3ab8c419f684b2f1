"""Pictures that cannot be read in the middle of an epoch: named and replaced, for no run to stop at its tenth hour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from geoview.data.pictures import Batch, Pair, PairPictures, stack_pairs
from geoview.errors import ImageTooLargeError, UnreadableImageError
from tiles import TilesError

__all__ = ["TolerantPictures", "stack_tolerantly"]

_FAULTS = (UnreadableImageError, ImageTooLargeError, TilesError)
# So many pairs in a row that cannot be read are no accident.
_TRIES = 8


class TolerantPictures(Dataset[tuple[Pair, tuple[str, ...]]]):
    """Pairs of pictures, with another pair in the place of one that cannot be read."""

    def __init__(self, pictures: PairPictures) -> None:
        """Makes the data set.

        Args:
            pictures: Where pairs are read.
        """
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Pair, tuple[str, ...]]:
        """Reads one pair, or another, which depends on step and row alone.

        Args:
            key: (step, row), as for `PairPictures`.

        Returns:
            The pair, and what was wrong with those it stands for.

        Raises:
            UnreadableImageError: Neither it nor several others can be read.
            ImageTooLargeError: The same.
            TilesError: The same.
        """
        step, row = key
        others = np.random.default_rng([step, row]).integers(len(self), size=_TRIES)
        faults: list[str] = []
        for other in others:
            try:
                return self._pictures[step, row], tuple(faults)
            except _FAULTS as error:
                faults.append(str(error))
                row = int(other)
        return self._pictures[step, row], tuple(faults)


def stack_tolerantly(items: Sequence[tuple[Pair, tuple[str, ...]]]) -> tuple[Batch, Batch, Tensor, tuple[str, ...]]:
    """Stacks pairs as `stack_pairs` does, and puts together what was wrong."""
    pairs, faults = zip(*items, strict=True)
    return *stack_pairs(pairs), sum(faults, ())
