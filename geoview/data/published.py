"""A copy of a published data set on disk: the files it must have, and the images that its lists name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geoview.data.missing import MAX_MISSING_SHARE, few_missing
from geoview.errors import DatasetError

__all__ = ["Copy", "numbered_lines"]


@dataclass(frozen=True)
class Copy:
    """A copy of a data set; files are named by their path from its root, with slashes.

    Attributes:
        root: Its folder.
        name: Of the data set.
        page: Where to get it.
        max_missing_share: Share of the entries of a list that may name what is not there; 0 for none.
    """

    root: Path
    name: str
    page: str
    max_missing_share: float = MAX_MISSING_SHARE

    def find(self, *candidates: str) -> str:
        """Returns the first of some files or folders that is there.

        Raises:
            DatasetError: None is.
        """
        for candidate in candidates:
            if (self.root / candidate).exists():
                return candidate
        first, *others = (str(self.root / candidate) for candidate in candidates)
        also = f" (sought as {' and '.join(others)} too)" if others else ""
        raise DatasetError(f"{first}: not there{also}; get {self.name} as {self.page} tells, or give another root")

    def names(self, folder: str) -> list[str]:
        """Returns the names in a folder, sorted; hidden ones do not count.

        Raises:
            DatasetError: It is not there, or no folder.
        """
        try:
            with os.scandir(self.root / self.find(folder)) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise DatasetError(f"{self.root / folder}: cannot be listed: {error}") from error

    def complete(self, *columns: Sequence[str]) -> NDArray[np.bool_]:
        """Tells of which rows all files are there, listing each folder once.

        Args:
            columns: The files of each row, in columns of equal length.

        Returns:
            (rows,) False for the rows to leave out, as `kept` says.

        Raises:
            DatasetError: A folder is missing, or of more than `max_missing_share` of the rows a file.
        """
        folders = {path.rpartition("/")[0] for column in columns for path in column}
        there = {f"{folder}/{name}" for folder in folders for name in self.names(folder)}
        return self.kept([[path for path in row if path not in there] for row in zip(*columns, strict=True)])

    def kept(self, missing: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
        """Leaves entries out, and logs them, as long as they are few.

        Args:
            missing: What each entry of a list lacks.

        Returns:
            (entries,) False for those to leave out.

        Raises:
            DatasetError: They are more than `max_missing_share`.
        """
        return few_missing(
            missing,
            self.max_missing_share,
            where=str(self.root),
            entries=f"entries of {self.name}",
            fault="name what is not there",
            way_out=f"complete it as {self.page} tells, or allow more with max_missing_share",
            error=DatasetError,
        )

    def path(self, name: str) -> str:
        """Returns a file of it as the path to open."""
        return str(self.root / name)


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Reads a list: (number from 1, text) of the lines that are not blank; the last may lack its newline.

    Raises:
        DatasetError: It cannot be read as text, or holds nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text: {error}") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DatasetError(f"{path}: is empty; get it again")
    return lines
