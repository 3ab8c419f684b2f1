"""Which rows of an index its lists propose: the lists keep the numbers of the rows that they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geoview.errors import IndexCorruptError
from geoview.index import ann
from geoview.index.manifest import Manifest
from geoview.index.remote import Place, fetched
from geoview.index.shards import file_checksum

__all__ = ["Proposals", "Selection", "n_rows"]

#: (shard, its rows) each, rows ascending.
Selection = list[tuple[int, slice | NDArray[np.int64]]]


def n_rows(selection: Selection) -> int:
    """Returns how many rows are selected."""
    return sum(rows.stop - rows.start if isinstance(rows, slice) else len(rows) for _, rows in selection)


@dataclass
class Proposals:
    """The lists of an index, and which rows of its shards theirs are today.

    Attributes:
        lists: Mapped.
        starts: (S + 1,) where each of the S shards that they were made of begins in them, and where the last ends.
        here: (S,) row of the index at which the same shard begins, -1 for one that is gone or was changed.
        listed: Where the shards of the index that they know begin in them.
    """

    lists: ann.Lists
    starts: NDArray[np.int64]
    here: NDArray[np.int64]
    listed: dict[int, int]
    _masked: tuple[Selection, NDArray[np.bool_] | None] | None = None

    @classmethod
    def open(cls, path: Place, manifest: Manifest, *, checked: bool) -> Self:
        """Opens the lists that a manifest names.

        Raises:
            IndexCorruptError: They are missing, cannot be read or, if `checked`, are not what was written.
            IndexUnreachableError: Their address does not answer.
        """
        table = manifest.ann
        assert table is not None, "callers look"
        wanted = table.lists_checksum
        file = fetched(path / table.lists_folder / ann.LISTS_FILE, lambda copy: file_checksum(copy) == wanted)
        if checked and file_checksum(file) != wanted:
            raise IndexCorruptError(f"{file}: is not what was written; {ann.WAY_OUT}")
        lists = ann.Lists.open(file.parent)
        if len(lists) != table.n_rows:
            raise IndexCorruptError(f"{file}: has another number of rows; {ann.WAY_OUT}")
        starts = np.cumsum([0, *(entry.rows for entry in table.shards)])
        first_row = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
        number_of = {manifest.coded(shard): i for i, shard in enumerate(manifest.shards)}
        numbers = [number_of.get(entry.of) for entry in table.shards]
        here = np.array([-1 if number is None else first_row[number] for number in numbers], np.int64)
        listed = {number: int(starts[i]) for i, number in enumerate(numbers) if number is not None}
        return cls(lists, starts, here, listed)

    def unknown(self, selection: Selection) -> Selection:
        """Returns the part of a selection that is in no list yet."""
        return [(number, rows) for number, rows in selection if number not in self.listed]

    def mask(self, selection: Selection) -> NDArray[np.bool_] | None:
        """Returns which rows of the lists are selected, (rows,) bool; None if all are."""
        if (self.here >= 0).all() and n_rows(selection) - n_rows(self.unknown(selection)) == len(self.lists):
            return None
        if self._masked is None or self._masked[0] is not selection:
            wanted = np.zeros(len(self.lists), np.bool_)
            for number, rows in selection:
                if number in self.listed:
                    wanted[self.listed[number] :][rows] = True
            self._masked = selection, wanted
        return self._masked[1]

    def candidates(
        self, queries: NDArray[np.floating], n: int, n_probe: int, mask: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Returns the rows of the index that look best, (Q, n); -1 where there are fewer."""
        found = self.lists.candidates(queries, n, n_probe, mask)
        of = (np.searchsorted(self.starts, found, "right") - 1).clip(min=0)
        return np.where(found < 0, -1, found - self.starts[of] + self.here[of])
