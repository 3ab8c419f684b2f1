"""The commit of the index that is asked, held open; a newer one takes its place while requests go on."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

import tiles
from geoview.config import ServeConfig
from geoview.errors import ConfigError, EncoderError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index.cell_index import CellIndex
from geoview.index.remote import place_of
from geoview.index.store import read_manifest
from geoview.locate.calibration import Calibration
from geoview.locate.localizer import Localizer
from geoview.locate.why import Explainer

__all__ = ["Generation", "Generations", "outlines_of"]

log = logging.getLogger(__name__)

_POLL_S = 2.0
_MAX_OUTLINED = 256
_SIMPLIFIED_DEG = 1e-4
# More than half a cell of level 16, the largest, at 80 degrees.
_MARGIN_DEG = 0.1
_FAR_DEG = 80.0


class Generation:
    """One commit, open, and what its answers need.

    Attributes:
        index: For the worker's thread alone; `has_cell` may be asked from any.
        localizer: With the index's encoder.
        imagery: Where chips and tiles are cut from; None where it is gone.
        explainer: Draws why a photo may be of a cell; None without imagery, or where the encoder tells no reasons.
        n_cells: With a code.
        bounds_deg: (west, south, east, north) around the centres of all cells, west above east across the date line.
        surroundings: Ground that all cells lie in.
        coverage: Of the imagery; where that is gone, of the cells or cells above them.
    """

    def __init__(self, config: ServeConfig) -> None:
        """Opens the latest commit.

        Raises:
            ConfigError: The index has no codes.
            GeoviewError: It cannot be opened.
            TilesError: Imagery that was named cannot be opened.
        """
        self.index = CellIndex.open(config.index)
        try:
            # Reads the cells of all shards, so that nothing is opened any more when threads ask `has_cell`.
            ids, extent = np.unique(self.index.cell_ids()), self.index.extent_deg()
            if extent is None:
                raise ConfigError(f"{config.index}: the index is empty; `geoview index add` fills it")
            self.imagery = _open_imagery(config.imagery, self.index.manifest.imagery)
            calibration = Calibration.of(self.index)
            again = calibration is not None and calibration.rerank > 0
            self.localizer = Localizer(self.index, config, imagery=self.imagery if again else None)
            self.explainer = None if self.imagery is None else _explainer(self.localizer, self.imagery)
        except BaseException:
            self.index.close()
            raise
        south, west, north, east = extent
        self.n_cells, self.bounds_deg = len(ids), (west, south, east, north)
        self.surroundings = _surroundings(self.bounds_deg)
        self.coverage = (
            _ground_of(ids, self.index.level)
            if self.imagery is None
            else self.imagery.coverage().simplify(_SIMPLIFIED_DEG)
        )

    @property
    def number(self) -> int:
        """Of the commit."""
        return self.index.manifest.number

    def has_cell(self, cell_id: int) -> bool:
        """Tells whether a cell has a code."""
        return bool(self.index.has_cells(np.array([cell_id], np.uint64))[0])


class Generations:
    """The commit that is asked, and those before it that are still being asked."""

    def __init__(self, config: ServeConfig) -> None:
        self._config, self._place = config, place_of(config.index)
        self._current = Generation(config)
        self._users: dict[Generation, int] = {}
        self._lock = threading.Lock()

    @property
    def current(self) -> Generation:
        """The newest; to ask it anything, hold it."""
        return self._current

    @contextmanager
    def held(self) -> Iterator[Generation]:
        """Yields the newest commit, and keeps it open meanwhile."""
        with self._lock:
            held = self._current
            self._users[held] = self._users.get(held, 0) + 1
        try:
            yield held
        finally:
            with self._lock:
                self._users[held] -= 1
            self._close_unused()

    async def follow(self) -> None:
        """Takes newer commits over as they come, until it is cancelled."""
        told = ""
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                await asyncio.to_thread(self.renew)
                told = ""
            except Exception as error:  # whatever it is, there is an index to ask
                # Once, not every other second.
                if str(error) != told:
                    told = str(error)
                    log.warning("the index stays as it was opened: %s", error)

    def renew(self) -> None:
        """Takes the newest commit over, if it is another one.

        Raises:
            GeoviewError: It cannot be opened, and the one before stays.
        """
        if read_manifest(self._place).number == self._current.number:
            return
        newer = Generation(self._config)
        with self._lock:
            before, self._current = self._current, newer
            self._users.setdefault(before, 0)
        self._close_unused()
        log.info("commit %d of the index is asked from now on", newer.number)

    def close(self) -> None:
        """Closes all of them."""
        for generation in {self._current, *self._users}:
            generation.index.close()

    def _close_unused(self) -> None:
        with self._lock:
            unused = [each for each, n in self._users.items() if not n and each is not self._current]
            for each in unused:
                del self._users[each]
        for each in unused:
            each.index.close()


def _open_imagery(given: Sequence[str], built_from: Sequence[str]) -> tiles.ImagerySource | None:
    if given:
        return tiles.open_source(given)
    try:
        return tiles.open_source(built_from)
    except tiles.TilesError as error:
        log.warning("there are no chips and no map, the index's imagery cannot be opened: %s", error)
        return None


def _explainer(localizer: Localizer, imagery: tiles.ImagerySource) -> Explainer | None:
    try:
        return Explainer(localizer, imagery)
    except EncoderError as error:
        log.warning("there are no reasons to show: %s", error)
        return None


def _surroundings(bounds_deg: tuple[float, float, float, float]) -> Region:
    west, south, east, north = bounds_deg
    south, north = max(-90.0, south - _MARGIN_DEG), min(90.0, north + _MARGIN_DEG)
    wide = (east - west) % 360.0 + 2 * _MARGIN_DEG
    if wide >= 360.0 or max(-south, north) > _FAR_DEG:
        west, wide = -180.0, 360.0
    else:
        west = (west - _MARGIN_DEG + 180.0) % 360.0 - 180.0
    # In halves: no edge is then wider than 180 degrees.
    halves = [shapely.box(west + i * wide / 2, south, west + (i + 1) * wide / 2, north) for i in range(2)]
    return Region.from_geometry(shapely.GeometryCollection(halves), "the index")


def outlines_of(ids: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Returns the (n, 5, 2) closed outlines of cells as lon, lat, counter-clockwise; none crosses the date line."""
    corners = cells.vertices_deg(ids)[:, [0, 1, 2, 3, 0], ::-1]
    lon = corners[..., 0]
    # A corner on the date line may have the sign of the other side.
    corners[..., 0] = np.where(np.abs(lon) == 180.0, np.copysign(lon, cells.centers_deg(ids)[:, 1:]), lon)
    return corners


def _ground_of(ids: NDArray[np.uint64], level: int) -> BaseGeometry:
    """Returns the ground of cells, or of so large cells above them that they are few."""
    while len(ids) > _MAX_OUTLINED:
        level -= 1
        ids = np.unique(cells.parents(ids, level))
    return shapely.union_all(shapely.polygons(outlines_of(ids)))
