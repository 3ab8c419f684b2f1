"""Photos in, ranked places out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import tiles
from geoview.config import Dates, InferenceConfig
from geoview.data.queries import PhotoQuery
from geoview.embed import resolve_device
from geoview.errors import ConfigError, RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.cell_index import CellIndex, Hits
from geoview.index.dates import iso_date, spaced
from geoview.index.fusion import Fusion
from geoview.locate.calibration import Calibration, shown_by, turning
from geoview.locate.embedding import EmbeddedPhoto, PhotoView, embedded_photos
from geoview.locate.posterior import Place, Posterior, cells_a_place
from geoview.locate.prior import Prior, no_probabilities
from geoview.locate.rerank import TURNS, Candidates, Reranker
from geoview.locate.surface import WITHIN_M, Surface, disc_deg

__all__ = ["WEIGHED", "Found", "Localization", "Localizer", "Search"]

log = logging.getLogger(__name__)

#: Places that are weighed against each other, of which the most probable may not be the one of the best cell.
WEIGHED = 10
# The same where photos are known to be taken in some places more than in others.
_WEIGHED_BY_PRIOR = 50
# So many cells are scored one and all for each photo's surface; of more, those that matter, and some for all others.
_EVERY, _OTHERS = 16_384, 4_096


@dataclass(frozen=True)
class Localization:
    """The answer for one photo.

    Attributes:
        query: The photo, as it was given.
        status: `ok`; `rejected`, "not here", whose places are the best there are; or `failed` with `error` set.
        places: Best first; no two touch.
        latlon_deg: Position that came with the photo, from its EXIF, its georeference or the photo table; reported,
            never used as a hint unless a search around it was asked for.
        error: One line, for a photo that could not be read.
        calibration: What `radius_m` and `p_within_100m` of the places, and the rejection, were fitted on.
        posterior: Where the photo may have been taken; None before the index is calibrated.
    """

    query: str
    status: Literal["ok", "rejected", "failed"]
    places: list[Place]
    latlon_deg: tuple[float, float] | None = None
    error: str = ""
    calibration: Literal["photos", "rendered", "none"] = "none"
    posterior: Posterior | None = None

    def exif_distance_m(self, place: Place) -> float | None:
        """Returns the distance of a place from the position that came with the photo."""
        if self.latlon_deg is None:
            return None
        return float(distance_m(np.array(self.latlon_deg), np.array(place.latlon_deg)))


@dataclass(frozen=True)
class Search:
    """What is asked for.

    Attributes:
        top_k: Places for each photo.
        region: Search there only.
        kappa: Weight of ground photos against imagery; None is what the index was fitted to.
        dates: What counts of several dates of a cell.
        exact: Score every code, whatever the index was tuned to.
        apart_m: Least distance between two places of an answer; they never touch in any case.
        rerank: So many cells are looked at again, where the localizer has imagery; None is as many as the index is
            calibrated with.
        prior: Where photos are taken more often than elsewhere.
    """

    top_k: int = 10
    region: Region | None = None
    kappa: float | Fusion | None = None
    dates: Dates = "max"
    exact: bool = False
    apart_m: float = 0.0
    rerank: int | None = None
    prior: Prior | None = None


@dataclass(frozen=True)
class Found:
    """The best cells for a photo.

    Attributes:
        places: Distinct ones, best first.
        candidates: All that was looked at.
    """

    places: list[Place]
    candidates: Candidates


class Localizer:
    """Locates photos in an index, with the index's own encoder.

    Attributes:
        index: Where it searches.
        config: How the encoder is run.
        encoder: The index's.
        calibration: Of the index, if it has one.
        reranker: Looks at first candidates again; None without imagery.
    """

    def __init__(
        self,
        index: CellIndex,
        config: InferenceConfig | None = None,
        *,
        imagery: tiles.ImagerySource | None = None,
    ) -> None:
        """Opens the encoder.

        Args:
            index: Where to search.
            config: Batch size, device, precision and threads.
            imagery: Where first candidates can be looked at again.

        Raises:
            ConfigError: A code of the index holds more than one chip of the imagery.
            EncoderMismatchError: The index's encoder folder holds another encoder.
            EncoderError: It cannot be opened.
        """
        self.index = index
        self.config = config or InferenceConfig()
        self.encoder = index.encoder()
        self.calibration = Calibration.of(index)
        self.reranker = None if imagery is None else Reranker(index, self.encoder, imagery, self.config)
        self._device = resolve_device(self.config.device)

    def locate(
        self,
        photos: Iterable[PhotoQuery | str],
        *,
        top_k: int = 10,
        region: Region | None = None,
        around_own_position_m: float | None = None,
        kappa: float | None = None,
        dates: Dates = "max",
        exact: bool = False,
        view: PhotoView | None = None,
        apart_m: float = 0.0,
        rerank: int | None = None,
        prior: Prior | None = None,
    ) -> Iterator[Localization]:
        """Answers photos in their order; a photo that cannot be read is answered as failed and stops nothing.

        Args:
            photos: Files, or photos with what is known of them.
            top_k: Places for each photo.
            region: Search there only.
            around_own_position_m: Search within this distance of each photo's own position only; a photo without one
                fails.
            kappa: Weight of ground photos against imagery; None is what the index was fitted to.
            dates: What counts of several dates of a cell.
            exact: Score every code, whatever the index was tuned to.
            view: What the photos show.
            apart_m: Least distance between two places of an answer; they never touch in any case.
            rerank: So many cells are looked at again, where the localizer has imagery; None is as many as the index is
                calibrated with.
            prior: Where photos are taken more often than elsewhere.

        Yields:
            One answer a photo.

        Raises:
            RegionError: No cell of the index lies in `region`.
            ConfigError: Cells are to be looked at again, and ground photos count in the first search. Or there is a
                prior, and the index is not calibrated for this search.
        """
        search = Search(top_k, region, kappa, dates, exact, apart_m, rerank, prior)
        queries = iter(p if isinstance(p, PhotoQuery) else PhotoQuery(p) for p in photos)
        while batch := list(islice(queries, self.config.batch_size)):
            embedded = self.embed(batch, view)
            if around_own_position_m is None:
                yield from self.answer(embedded, search)
            else:
                for photo in embedded:
                    yield self._answer_around(photo, search, around_own_position_m)

    def embed(self, photos: Sequence[PhotoQuery], view: PhotoView | None = None) -> list[EmbeddedPhoto]:
        """Embeds photos at each heading that they may have been taken with, one entry a photo.

        Args:
            photos: Photos, all of which are held in memory as the encoder sees them.
            view: What they show.
        """
        return embedded_photos(self.encoder, photos, view or PhotoView(), self.config)

    def answer(self, photos: Sequence[EmbeddedPhoto], search: Search) -> list[Localization]:
        """Finds the places of photos that are embedded, one answer a photo.

        In an index that is calibrated for such scores (the same fusion, and as many cells looked at again), places are
        refined, at least 100 m apart, and ranked by how probable it is that the photo was taken within 100 m of them; a
        photo may be refused.

        Raises:
            RegionError: No cell of the index lies in the region.
            ConfigError: Cells are to be looked at again, and ground photos count in the first search. Or there is a
                prior, and the index is not calibrated for this search.
        """
        sound = [photo for photo in photos if len(photo.vectors)]
        calibration = self._calibration_for(search)
        if calibration is None:
            if search.prior is not None:
                raise no_probabilities(self.index)
            answers = [
                Localization(photo.query.path, "ok", found.places, photo.latlon_deg)
                for photo, found in zip(sound, self.find(sound, search), strict=True)
            ]
        else:
            weighed = WEIGHED if search.prior is None else _WEIGHED_BY_PRIOR
            apart = replace(search, top_k=max(search.top_k, weighed), apart_m=max(search.apart_m, WITHIN_M))
            found = self.find(sound, apart)
            answers = [
                _calibrated(photo, mine.places, surface, calibration, search.top_k)
                for photo, mine, surface in zip(sound, found, self.surfaces(sound, found, search), strict=True)
            ]
        dated = iter(self._dated(answers))
        return [next(dated) if len(photo.vectors) else _failed(photo, photo.error) for photo in photos]

    def find(self, photos: Sequence[EmbeddedPhoto], search: Search) -> list[Found]:
        """Finds the cells that photos score best at, one by one and as distinct places.

        Raises:
            RegionError: No cell of the index lies in the region.
            ConfigError: Cells are to be looked at again, and ground photos count in the first search.
        """
        if not photos:
            return []
        again, n_again = self._reranker_for(search), self._n_again(search)
        turned = [] if again is None else [self._turned(photo) for photo in photos]
        vectors = np.concatenate([photo.vectors for photo in photos])
        ends = np.cumsum([len(photo.vectors) for photo in photos]).tolist()
        # So many cells are enough for so many places, and mostly far fewer are.
        k, enough = (cells_a_place(self.index.level, apart_m) * search.top_k for apart_m in (0.0, search.apart_m))
        k = max(k, n_again)
        while True:
            hits = self.index.search(
                vectors,
                k,
                region=search.region,
                kappa=search.kappa,
                dates=search.dates,
                exact=search.exact,
                device=str(self._device),
            )
            found: list[Found] = []
            for i, (photo, end) in enumerate(zip(photos, ends, strict=True)):
                mine = slice(end - len(photo.vectors), end)
                score = hits.score[mine]
                # What one heading has among its best k may be worth less than what another leaves out.
                known = np.where(score >= score[:, -1].max(), score, -np.inf)
                candidates = Candidates.of(Hits(hits.cell_id[mine], hits.row[mine], known), photo.headings_deg)
                if again is not None:
                    candidates = again.rerank(turned[i], photo.headings_deg, candidates, n_again)
                found.append(Found(candidates.places(search.top_k, search.apart_m), candidates))
            if k >= enough or all(len(mine.places) == search.top_k for mine in found):
                return found
            k = min(4 * k, enough)

    def surfaces(
        self,
        photos: Sequence[EmbeddedPhoto],
        found: Sequence[Found],
        search: Search,
        also_deg: NDArray[np.float64] | None = None,
    ) -> Iterator[Surface]:
        """Scores the ground that is searched: one surface a photo.

        Where that is small, all of it; else the best cells, the ground around the places, and a sample of the rest.

        Args:
            photos: N photos that are embedded.
            found: What was found for each.
            search: What was asked for.
            also_deg: (N, 2) a point of each photo to score the ground around, too.

        Raises:
            RegionError: No cell of the index lies in the region.
        """
        if not photos:
            return
        index, level = self.index, self.index.level
        asked: dict[str, Any] = {"kappa": search.kappa, "dates": search.dates}
        every, n_cells = index.some_cells(_EVERY, search.region)
        sample = every[spaced(len(every), _OTHERS)] if n_cells > len(every) else every
        log_prior = _even if search.prior is None else search.prior.log_ratio
        ranges = None if search.region is None else search.region.cell_ranges(level)
        for i, (photo, mine) in enumerate(zip(photos, found, strict=True)):
            own = np.array([place.cell_id for place in mine.places], np.uint64)
            centres = [cells.centers_deg(own).reshape(-1, 2), *([] if also_deg is None else [also_deg[i : i + 1]])]
            around = np.unique(cells.cell_ids(disc_deg(np.concatenate(centres)).reshape(-1, 2), level))
            # A position may be refined by up to a cell.
            near = np.union1d(cells.neighbors(around), mine.candidates.cell_id)
            near = near if n_cells > len(every) else np.union1d(near, every)
            score = index.scores_of(photo.vectors, near, **asked).max(axis=0).astype(np.float64)
            if ranges is not None:
                score[~cells.in_ranges(near, ranges)] = -np.inf
            other = sample[~np.isin(sample, near)]
            rest = index.scores_of(photo.vectors, other, **asked).max(axis=0).astype(np.float64)
            each = (n_cells - np.isfinite(score).sum()) / max(1, len(other))
            score -= mine.candidates.loss
            closely = mine.candidates.looked_at
            score[np.searchsorted(near, mine.candidates.cell_id[closely])] = mine.candidates.score[closely]
            rest -= mine.candidates.loss
            yield Surface(level, near, score, rest, float(each), log_prior(near), log_prior(other))

    def _calibration_for(self, search: Search) -> Calibration | None:
        """Returns the calibration of the scores that are asked for."""
        calibration, rerank = self.calibration, self._n_again(search) if self._reranker_for(search) else 0
        if calibration is None:
            return None
        fits = calibration.is_of(self.index, kappa=search.kappa, dates=search.dates, rerank=rerank)
        return calibration if fits else None

    def _reranker_for(self, search: Search) -> Reranker | None:
        """Returns what looks again at cells, if that is asked for and can be done."""
        if self.reranker is None or not self._n_again(search):
            return None
        if self.index.fusion_at(search.kappa).kappa:
            raise ConfigError(
                f"{self.index.path}: ground photos count in it, which a closer look at imagery would undo; "
                "give --kappa 0 or leave --rerank out"
            )
        return self.reranker

    def _n_again(self, search: Search) -> int:
        """Returns how many cells are to be looked at again."""
        if search.rerank is not None:
            return search.rerank
        return 0 if self.calibration is None else self.calibration.rerank

    def _turned(self, photo: EmbeddedPhoto) -> NDArray[np.float32]:
        """Embeds a photo as taken at each of its headings less each angle that chips are turned by: (turns, V, dim).

        Where no heading matters nothing can be turned with a chip, and there is one turn only.
        """
        if np.isnan(photo.headings_deg).any():
            return photo.vectors[None]
        tried_deg = photo.headings_deg
        if len(tried_deg) % TURNS == 0:
            # It is embedded at all of these headings already.
            return np.stack([np.roll(photo.vectors, turn * len(tried_deg) // TURNS, axis=0) for turn in range(TURNS)])
        less_deg = (tried_deg - 360.0 / TURNS * np.arange(TURNS)[:, None]) % 360.0
        known = replace(photo.query, fov_deg=photo.fov_deg)
        others = self.embed([replace(known, heading_deg=float(heading_deg)) for heading_deg in less_deg.flat])
        if lost := next((other.error for other in others if other.error), ""):
            log.warning("looked at again in one turn only: %s", lost)
            return photo.vectors[None]
        return np.concatenate([other.vectors for other in others]).reshape(TURNS, *photo.vectors.shape)

    def _dated(self, answers: Sequence[Localization]) -> list[Localization]:
        rows = [place.row for answer in answers for place in answer.places]
        dates = iter(self.index.dates_of(np.array(rows, np.int64)).tolist())
        return [
            replace(answer, places=[replace(place, imagery_date=iso_date(next(dates))) for place in answer.places])
            for answer in answers
        ]

    def _answer_around(self, photo: EmbeddedPhoto, search: Search, radius_m: float) -> Localization:
        if not len(photo.vectors):
            return _failed(photo, photo.error)
        if photo.latlon_deg is None:
            return _failed(photo, f"{photo.query.path}: has no position of its own to search around")
        try:
            disc = Region.disc(photo.latlon_deg, radius_m)
            region = disc if search.region is None else disc.intersection(search.region)
            (answer,) = self.answer([photo], replace(search, region=region))
        except RegionError as error:
            return _failed(photo, str(error))
        return answer


def _calibrated(
    photo: EmbeddedPhoto, places: Sequence[Place], surface: Surface, calibration: Calibration, top_k: int
) -> Localization:
    shown = shown_by(photo.fov_deg)
    placed = [calibration.of_kind(shown).placed(surface, place) for place in places]
    placed.sort(key=lambda place: -(place.p_within_100m or 0.0))
    turned = turning(photo.vectors, photo.headings_deg)
    refused = calibration.refuses(surface, placed, turned, shown)
    return Localization(
        photo.query.path,
        "rejected" if refused else "ok",
        placed[:top_k],
        photo.latlon_deg,
        calibration=calibration.on,
        posterior=calibration.posterior(surface, shown),
    )


def _even(cell_id: NDArray[np.uint64]) -> NDArray[np.float64]:
    return np.zeros(len(cell_id))


def _failed(photo: EmbeddedPhoto, error: str) -> Localization:
    return Localization(photo.query.path, "failed", [], photo.latlon_deg, error)
