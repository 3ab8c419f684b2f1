"""The first candidates looked at again: on finer ground, photo and chips turned together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

import tiles
from geoview.config import InferenceConfig
from geoview.embed import embed, read_ahead
from geoview.errors import ConfigError
from geoview.geo import cells
from geoview.index.cell_index import CellIndex, Hits
from geoview.locate.posterior import Place, distinct_places
from geoview.models.encoder import CrossViewEncoder

__all__ = ["TURNS", "Candidates", "Reranker"]

#: In how many ways photo and chip are turned together, evenly around the circle.
TURNS = 8
# Elements of embeddings that are kept: 256 MB in half precision.
_KEPT_ELEMENTS = 2**27


@dataclass(frozen=True)
class Candidates:
    """Cells that a photo may have been taken in, best first, each once.

    Attributes:
        cell_id: (m,) uint64.
        row: (m,) row of the index that each was found by.
        score: (m,) float32.
        heading_deg: (m,) heading with which the score was reached, NaN where it does not matter.
        latlon_deg: (m, 2) where in the cell.
        looked_at: (m,) whether the score is that of a closer look.
        loss: What a closer look takes off a score on average, and was taken off those of cells not looked at.
    """

    cell_id: NDArray[np.uint64]
    row: NDArray[np.int64]
    score: NDArray[np.float32]
    heading_deg: NDArray[np.float64]
    latlon_deg: NDArray[np.float64]
    looked_at: NDArray[np.bool_]
    loss: float = 0.0

    @classmethod
    def of(cls, hits: Hits, headings_deg: NDArray[np.float64]) -> Self:
        """Takes the best of what a search has found for each way in which one photo may have been taken.

        Args:
            hits: Of the (V,) ways.
            headings_deg: (V,) heading of each.
        """
        score = hits.score.ravel()
        best = np.argsort(-score, kind="stable")
        best = best[np.isfinite(score[best])]
        # A cell counts where it comes first: with its best date and heading.
        best = best[np.sort(np.unique(hits.cell_id.ravel()[best], return_index=True)[1])]
        ids = hits.cell_id.ravel()[best]
        heading = np.broadcast_to(headings_deg[:, None], hits.score.shape).ravel()[best]
        no = np.zeros(len(ids), np.bool_)
        return cls(ids, hits.row.ravel()[best], score[best], heading, cells.centers_deg(ids), no)

    def places(self, k: int, apart_m: float = 0.0) -> list[Place]:
        """Returns at most k distinct places, best first, as `distinct_places` picks them."""
        heading = None if np.isnan(self.heading_deg).all() else self.heading_deg
        found = distinct_places(self.cell_id, self.score, k, row=self.row, heading_deg=heading, apart_m=apart_m)
        where = dict(zip(self.cell_id.tolist(), self.latlon_deg.tolist(), strict=True))
        return [replace(place, latlon_deg=(where[place.cell_id][0], where[place.cell_id][1])) for place in found]


class Reranker:
    """Compares a photo with the chips around the four quarters of each candidate, both in several turns.

    A photo that was taken at heading h and a chip, north up, are as alike as the photo at h less an angle and the chip
    turned by that angle. To the encoder, they are other pictures, with other mistakes, of which the mean over all turns
    has less. A candidate's score is that of its best quarter, heading, height and tilt.

    Chips are encoded once and kept, since the photos of a batch share candidates.
    """

    def __init__(
        self, index: CellIndex, encoder: CrossViewEncoder, imagery: tiles.ImagerySource, config: InferenceConfig
    ) -> None:
        """Checks that chips can stand for the codes of the index.

        Args:
            index: Tells which chips its codes are of.
            encoder: The index's.
            imagery: Where chips are cut from.
            config: How the encoder is run.

        Raises:
            ConfigError: A code holds more than one chip.
        """
        if index.manifest.scales != [1]:
            raise ConfigError(
                f"{index.path}: its codes hold chips of scales {index.manifest.scales}, of which re-ranking would see "
                "the smallest alone; leave --rerank out, or build the index without --scales"
            )
        self._index, self._encoder, self._imagery, self._config = index, encoder, imagery, config
        self._kept: OrderedDict[tuple[int, int], NDArray[np.float16]] = OrderedDict()

    def rerank(
        self, turned: NDArray[np.float32], headings_deg: NDArray[np.float64], candidates: Candidates, n: int
    ) -> Candidates:
        """Orders candidates anew by a closer look at the first of them.

        Those that are not looked at, or have no imagery, keep their first score less what the others lose on average,
        and so stay comparable with them: a mean over turns is lower than the best of many.

        Args:
            turned: (turns, V, dim) unit vectors: the photo in each of its V ways, turned t times by the same angle
                against its heading.
            headings_deg: (V,) heading of each way. Where several are tried, they go round the circle in even steps.
            candidates: Best first.
            n: How many are looked at.

        Returns:
            The candidates, best first, with new scores, headings and positions.

        Raises:
            TilesError: The imagery is there and cannot be read.
        """
        if not len(candidates.cell_id):
            return candidates
        quarters = cells.children(candidates.cell_id[:n])
        chips = self.codes(quarters.ravel(), len(turned)).astype(np.float32)
        ways = turned.transpose(1, 0, 2).reshape(len(headings_deg), -1)
        # One product of all turns side by side is the sum over them.
        score = (chips.reshape(len(chips), -1) @ ways.T / len(turned)).reshape(len(quarters), 4, -1)
        score[np.isnan(score)] = -np.inf
        quarter, way = np.divmod(score.reshape(len(quarters), -1).argmax(axis=1), len(headings_deg))
        fine = score.max(axis=(1, 2))
        seen = np.flatnonzero(np.isfinite(fine))
        new, heading, latlon = candidates.score.copy(), candidates.heading_deg.copy(), candidates.latlon_deg.copy()
        looked_at, loss = np.zeros(len(new), np.bool_), 0.0
        if len(seen):
            loss, looked_at[seen] = float(np.mean(new[seen] - fine[seen])), True
            new -= np.float32(loss)
            new[seen] = fine[seen]
            heading[seen] = _between(score[seen, quarter[seen]], way[seen], headings_deg)
            latlon[seen] = cells.centers_deg(quarters[seen, quarter[seen]])
        order = np.argsort(-new, kind="stable")
        return Candidates(
            candidates.cell_id[order],
            candidates.row[order],
            new[order],
            heading[order],
            latlon[order],
            looked_at[order],
            loss,
        )

    def codes(self, ids: NDArray[np.uint64], turns: int) -> NDArray[np.float16]:
        """Embeds the chips around cells, those that were not asked for lately.

        Args:
            ids: (n,) cells of any level.
            turns: Of each chip, evenly around the circle, the first north up.

        Returns:
            (n, turns, dim), NaN where there is too little imagery for a code.
        """
        asked = [(cell, turns) for cell in ids.tolist()]
        self._encode([key for key in asked if key not in self._kept], turns)
        for key in asked:
            self._kept.move_to_end(key)
        found = np.array([self._kept[key] for key in asked])
        while len(self._kept) > max(1, _KEPT_ELEMENTS // found[0].size):
            self._kept.popitem(last=False)
        return found

    def _encode(self, keys: list[tuple[int, int]], turns: int) -> None:
        angles_deg = [360.0 * turn / turns for turn in range(turns)]
        shown: list[tuple[int, int]] = []

        def pictures() -> Iterator[tiles.Chip]:
            centres = cells.centers_deg(np.array([cell for cell, _ in keys], np.uint64))
            cut = ((centre, angle_deg) for centre in centres for angle_deg in angles_deg)
            config = self._config
            chips = read_ahead(self._chip, cut, num_workers=config.num_workers, depth=2 * config.batch_size)
            for key in keys:
                of_all_turns = [next(chips) for _ in angles_deg]
                whole = [chip for chip in of_all_turns if chip is not None and self._shows_enough(chip)]
                if len(whole) == turns:
                    shown.append(key)
                    yield from whole

        vectors = np.array(list(embed(self._encoder, pictures(), self._config, seen="aerial")), np.float16)
        self._kept |= dict.fromkeys(keys, np.full((turns, self._encoder.dim), np.nan, np.float16))
        self._kept |= zip(shown, vectors.reshape(len(shown), turns, self._encoder.dim), strict=True)

    def _chip(self, cut: tuple[NDArray[np.float64], float]) -> tiles.Chip | None:
        (centre_deg, heading_deg), view = cut, self._index.chip
        try:
            return self._imagery.chip(centre_deg, size_px=view.size_px, gsd_m=view.gsd_m, heading_deg=heading_deg)
        except tiles.OutsideCoverageError:
            return None

    def _shows_enough(self, chip: tiles.Chip) -> bool:
        return chip.valid_fraction >= self._index.manifest.min_coverage


def _between(
    score: NDArray[np.float32], way: NDArray[np.intp], headings_deg: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Refines the best of headings tried in even steps: the top of the parabola through it and its neighbours.

    Args:
        score: (m, V) at all headings.
        way: (m,) the best of each.
        headings_deg: (V,).
    """
    tried = len(headings_deg)
    if tried < 3:
        return headings_deg[way]
    left, top, right = (score[np.arange(len(way)), (way + step) % tried] for step in (-1, 0, 1))
    steps = 0.5 * (left - right) / np.minimum(left - 2 * top + right, -1e-9)
    refined: NDArray[np.float64] = (headings_deg[way] + 360.0 / tried * steps) % 360.0
    return refined
