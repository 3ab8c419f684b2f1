"""Which rows of an index its lists propose: the lists keep the numbers of the rows that they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geoview.errors import IndexCorruptError
from geoview.index import ann
from geoview.index.manifest import Manifest
from geoview.index.remote import Place, fetched
from geoview.index.shards import file_checksum
from geoview.index.table import Selection, n_rows

__all__ = ["Proposals"]

# A part of the rows that is worth a copy of its codes: of more, there is less to overlook, and more to copy.
_SHARE = 1 / 4
# Room for codes that are looked up, however little memory was wished for: in less, each row is let go of by itself.
_LEAST_ROOM_BYTES = 2**24


@dataclass
class Proposals:
    """The lists of an index, and which rows of its shards theirs are today.

    Attributes:
        lists: Mapped.
        starts: (S + 1,) where each of the S shards that they were made of begins in them, and where the last ends.
        here: (S,) row of the index at which the same shard begins, -1 for one that is gone or was changed.
        listed: Where the shards of the index that they know begin in them.
        room_bytes: Memory for codes that are looked up, beside the lists; None where there is no limit to either.
    """

    lists: ann.Lists
    starts: NDArray[np.int64]
    here: NDArray[np.int64]
    listed: dict[int, int]
    room_bytes: int | None
    _of_selection: _OfSelection | None = None

    @classmethod
    def open(cls, path: Place, manifest: Manifest, *, checked: bool) -> Self:
        """Opens the lists that a manifest names.

        Raises:
            IndexCorruptError: They are missing, cannot be read or, if `checked`, are not what was written.
            IndexUnreachableError: Their address does not answer.
        """
        table = manifest.ann
        assert table is not None, "callers look"
        codec, file = (
            _fetched(path / of, wanted, checked=checked)
            for of, wanted in (
                (table.codec_folder / ann.CODEC_FILE, table.codec_checksum),
                (table.lists_folder / ann.LISTS_FILE, table.lists_checksum),
            )
        )
        lists = ann.Lists.open(codec, file)
        if len(lists) != table.n_rows:
            raise IndexCorruptError(f"{file}: has another number of rows; {ann.WAY_OUT}")
        starts = np.cumsum([0, *(entry.rows for entry in table.shards)])
        first_row = np.cumsum([0, *(shard.rows for shard in manifest.shards)])
        number_of = {manifest.coded(shard): i for i, shard in enumerate(manifest.shards)}
        numbers = [number_of.get(entry.of) for entry in table.shards]
        here = np.array([-1 if number is None else first_row[number] for number in numbers], np.int64)
        listed = {number: int(starts[i]) for i, number in enumerate(numbers) if number is not None}
        limit_gb, dim = table.wish["memory_gb"], manifest.dim + bool(table.kappa)
        of_lists = ann.memory_bytes(len(lists), dim, table.n_lists, table.dims_per_code)
        room_bytes = None if limit_gb is None else max(_LEAST_ROOM_BYTES, int(1e9 * limit_gb) - of_lists)
        return cls(lists, starts, here, listed, room_bytes)

    def unknown(self, selection: Selection) -> Selection:
        """Returns the part of a selection that is in no list yet."""
        return [(number, rows) for number, rows in selection if number not in self.listed]

    def of(self, selection: Selection, n_looked_through: int) -> ann.Lists:
        """Returns the lists, of whose rows only a selection counts.

        A part of the index is cut out of the lists once as many have been looked through for it as there are: until
        then, to overlook the other rows has taken no longer than to cut it out takes. Where memory is limited, none is.

        Args:
            selection: Asked for again and again, it should be the same object.
            n_looked_through: Lists that all queries of a search look through, together.
        """
        n_known = n_rows(selection) - n_rows(self.unknown(selection))
        if n_known == len(self.lists) and (self.here >= 0).all():
            return self.lists
        known = self._of_selection
        if known is None or known.selection is not selection:
            wanted = np.zeros(len(self.lists), np.bool_)
            for number, rows in selection:
                if number in self.listed:
                    wanted[self.listed[number] :][rows] = True
            known = self._of_selection = _OfSelection(selection, self.lists.only(wanted))
        known.n_looked_through += n_looked_through
        if (
            not known.is_cut_out
            and known.n_looked_through >= self.lists.n_lists
            and n_known <= _SHARE * len(self.lists)
        ):
            known.lists, known.is_cut_out = known.lists.cut_out(), True
        return known.lists

    def candidates(self, lists: ann.Lists, queries: NDArray[np.floating], n: int, n_probe: int) -> NDArray[np.int64]:
        """Returns the rows of the index that look best in what `of` returns, (Q, n); -1 where there are fewer."""
        found = lists.candidates(queries, n, n_probe)
        if np.array_equal(self.here, self.starts[:-1]):
            return found
        of = (np.searchsorted(self.starts, found, "right") - 1).clip(min=0)
        return np.where(found < 0, -1, found - self.starts[of] + self.here[of])


def _fetched(place: Place, wanted: str, *, checked: bool) -> Path:
    file = fetched(place, lambda copy: file_checksum(copy) == wanted)
    if checked and file_checksum(file) != wanted:
        raise IndexCorruptError(f"{file}: is not what was written; {ann.WAY_OUT}")
    return file


@dataclass
class _OfSelection:
    """The lists as a selection of rows sees them, and how many were looked through for it."""

    selection: Selection
    lists: ann.Lists
    is_cut_out: bool = False
    n_looked_through: int = 0
