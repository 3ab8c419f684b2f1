"""Many rasters and pyramids as one source: the newest on top, gaps filled from those below."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from tiles.chip import Chip, ChipFrame, ChipSource, SourceInfo
from tiles.errors import SkippedRasterWarning, UnreadableRasterError
from tiles.pyramid import PyramidSource
from tiles.raster import RasterSource

__all__ = ["MosaicSource"]


class MosaicSource(ChipSource):
    """Rasters and pyramids that overlap or adjoin.

    A chip takes its pixels from the newest part first, those without date last; among equals from the one that
    covers most of it. Invalid pixels are filled from the next. Its date and licence are those of the part that gave
    most pixels.
    """

    def __init__(
        self, uri: str, sources: Sequence[RasterSource | PyramidSource], skipped: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.uri = uri
        self.skipped: list[tuple[str, str]] = list(skipped)
        self._sources = list(sources)
        self._footprints = [source.coverage() for source in self._sources]
        self._tree = shapely.STRtree(self._footprints)

    def cut(self, frame: ChipFrame) -> Chip | None:
        """Return the chip of a frame, or None where no part has a valid pixel."""
        merged: Chip | None = None
        most = 0
        for source in self._candidates(frame):
            chip = self._cut_part(source, frame)
            if chip is None:
                continue
            if merged is None:
                merged, most = chip, int(chip.valid.sum())
            else:
                new = chip.valid & ~merged.valid
                given = int(new.sum())
                pixels = np.where(new[..., None], chip.pixels, merged.pixels)
                main = chip if given > most else merged
                most = max(most, given)
                valid = merged.valid | new
                merged = Chip(pixels, valid, main.date, main.licence, main.attribution, frame.gsd_m)
            if merged.valid.all():
                break
        return merged

    def coverage(self) -> BaseGeometry:
        """Return the union of the parts' footprints in longitude and latitude."""
        return shapely.union_all(self._footprints)

    def parts(self) -> list[SourceInfo]:
        """Return the entries of all parts."""
        return [info for source in self._sources for info in source.parts()]

    @cached_property
    def native_gsd_m(self) -> float:
        """Ground size in metres of the finest part's pixels."""
        return min(source.native_gsd_m for source in self._sources)

    @cached_property
    def date(self) -> str | None:
        """The date all parts share, or None."""
        dates = {source.date for source in self._sources}
        return dates.pop() if len(dates) == 1 else None

    @cached_property
    def licence(self) -> str | None:
        """The parts' licences, separated by "; "."""
        return "; ".join(dict.fromkeys(s.licence for s in self._sources if s.licence)) or None

    @cached_property
    def attribution(self) -> str | None:
        """Whom to name, separated by "; "."""
        return "; ".join(dict.fromkeys(s.attribution for s in self._sources if s.attribution)) or None

    def _candidates(self, frame: ChipFrame) -> list[RasterSource | PyramidSource]:
        """Return the parts that touch a frame, in the order in which they are laid."""
        touching = sorted(self._tree.query(frame.outline, predicate="intersects"))
        if len(touching) > 1:
            shared = {i: shapely.area(shapely.intersection(self._footprints[i], frame.outline)) for i in touching}
            touching.sort(key=lambda i: -shared[i])
            touching.sort(key=lambda i: self._sources[i].date or "", reverse=True)
        return [self._sources[i] for i in touching]

    def _cut_part(self, source: RasterSource | PyramidSource, frame: ChipFrame) -> Chip | None:
        """Cut from one part; one that fails is left out from then on, and named once."""
        if any(path == source.uri for path, _ in self.skipped):
            return None
        try:
            return source.cut(frame)
        except UnreadableRasterError as error:
            self.skipped.append((source.uri, str(error)))
            warnings.warn(f"left out: {error}", SkippedRasterWarning, stacklevel=2)
            return None
