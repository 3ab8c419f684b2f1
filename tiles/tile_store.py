"""Where the encoded tiles of a pyramid lie: a folder z/x/y, or an MBTiles file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tiles.errors import UnreadableRasterError
from tiles.per_thread import PerThreadLRU

__all__ = ["FolderStore", "MBTilesStore", "TileStore", "is_tile_folder"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_connections = PerThreadLRU(max_items=8)


class TileStore(Protocol):
    """Encoded tiles, addressed by zoom, column from the west and row from the north."""

    @property
    def uri(self) -> str:
        """Path of the folder or file."""

    def zooms(self) -> list[int]:
        """Return the zooms there are, ascending."""

    def addresses(self, zoom: int) -> Iterable[tuple[int, int]]:
        """Yield (column, row) of all tiles of a zoom."""

    def encoded(self, zoom: int, column: int, row: int) -> bytes | None:
        """Return the bytes of a tile, None where there is none."""


@dataclass(frozen=True)
class FolderStore:
    """A folder z/x/y.png (or jpg, webp), rows counted from the north (XYZ)."""

    uri: str

    def zooms(self) -> list[int]:
        """Return the zooms there are, ascending."""
        folders = (place for place in Path(self.uri).iterdir() if place.name.isdecimal() and place.is_dir())
        return sorted(int(folder.name) for folder in folders)

    def addresses(self, zoom: int) -> Iterable[tuple[int, int]]:
        """Yield (column, row) of all tiles of a zoom."""
        for column in (Path(self.uri) / str(zoom)).iterdir():
            if column.name.isdecimal():
                for tile in column.iterdir():
                    if tile.stem.isdecimal() and tile.suffix.lower() in _SUFFIXES:
                        yield int(column.name), int(tile.stem)

    def encoded(self, zoom: int, column: int, row: int) -> bytes | None:
        """Return the bytes of a tile, None where there is none."""
        folder = Path(self.uri) / str(zoom) / str(column)
        for suffix in self._suffixes:
            try:
                return (folder / f"{row}{suffix}").read_bytes()
            except FileNotFoundError:
                continue
        return None

    @cached_property
    def _suffixes(self) -> list[str]:
        """Suffixes in use, in either case, the ones of the first tiles found first."""
        found: dict[str, None] = {}
        for zoom in reversed(self.zooms()):
            for column in (Path(self.uri) / str(zoom)).iterdir():
                found.update(dict.fromkeys(t.suffix for t in column.iterdir() if t.suffix.lower() in _SUFFIXES))
                break
        return list(dict.fromkeys([*found, *sorted(_SUFFIXES), *sorted(s.upper() for s in _SUFFIXES)]))


@dataclass(frozen=True)
class MBTilesStore:
    """An MBTiles file (SQLite), whose rows count from the south (TMS); https://github.com/mapbox/mbtiles-spec."""

    uri: str
    opened_ns: int = field(default_factory=time.time_ns)  # tells a file from another that lay there before

    def zooms(self) -> list[int]:
        """Return the zooms there are, ascending."""
        return [zoom for (zoom,) in self._query("SELECT DISTINCT zoom_level FROM tiles ORDER BY zoom_level")]

    def addresses(self, zoom: int) -> Iterable[tuple[int, int]]:
        """Yield (column, row) of all tiles of a zoom."""
        for column, row in self._query("SELECT tile_column, tile_row FROM tiles WHERE zoom_level = ?", zoom):
            yield column, 2**zoom - 1 - row

    def encoded(self, zoom: int, column: int, row: int) -> bytes | None:
        """Return the bytes of a tile, None where there is none."""
        found = self._query(
            "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            *(zoom, column, 2**zoom - 1 - row),
        )
        return found[0][0] if found else None

    def metadata(self) -> dict[str, str]:
        """Return the table of metadata."""
        return {str(name): str(value) for name, value in self._query("SELECT name, value FROM metadata")}

    def _query(self, statement: str, *values: int) -> list[tuple[Any, ...]]:
        def connect() -> sqlite3.Connection:
            return sqlite3.connect(f"{Path(self.uri).absolute().as_uri()}?mode=ro", uri=True)

        try:
            connection: sqlite3.Connection = _connections.get((self.uri, self.opened_ns), connect)
            return connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise UnreadableRasterError(f"{self.uri}: is no readable MBTiles file ({error}); fetch it again") from error


def is_tile_folder(folder: Path) -> bool:
    """Tell whether a folder holds tiles as z/x/y.suffix."""
    for zoom in folder.iterdir():
        if zoom.name.isdecimal() and zoom.is_dir():
            for column in zoom.iterdir():
                if column.name.isdecimal() and column.is_dir():
                    return any(t.stem.isdecimal() and t.suffix.lower() in _SUFFIXES for t in column.iterdir())
    return False
