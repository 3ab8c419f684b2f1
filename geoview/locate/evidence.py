"""What each of several photos says of every cell, so that they can be heard together.

A photo's scores become a probability of each cell, as a softmax does it. One photo in ten is taken to be a stray, of
elsewhere or of nothing that can be recognised: so whatever it shows, a photo speaks only so loudly against a cell that
the others agree on. Beyond that, photos speak for themselves, each with the heading that suits the cell best.

In an index that is calibrated for such scores, the temperatures are those that were fitted, and places are answered as
those of photos alone: refined, with a radius and a probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from geoview.data.queries import PhotoQuery
from geoview.embed import resolve_device
from geoview.geo import cells
from geoview.index.cell_index import CellIndex
from geoview.index.dates import iso_date, spaced
from geoview.locate.calibration import Calibration, Shown, shown_by
from geoview.locate.embedding import EmbeddedPhoto, PhotoView
from geoview.locate.localizer import Localization, Localizer, Search
from geoview.locate.posterior import Place, Posterior, distinct_places
from geoview.locate.prior import no_probabilities
from geoview.locate.surface import WITHIN_M, Surface, disc_deg

__all__ = ["STRAY", "Evidence", "answers_of", "embed_all", "evidence_of", "places_of"]

#: Share of photos that are taken to be strays.
STRAY = 0.1

# Logarithm of the inverse temperature of an encoder that does not tell its own: where training starts.
_LOGIT_SCALE = math.log(1 / 0.07)
# Cells that are found for all photos together, whose neighbours are candidates too; the first of a photo, around which
# all are; cells that are looked at one and all where there are no more; and those that speak for all others.
_FOUND, _FIRST, _EVERY, _OTHERS = 4_096, 64, 16_384, 4_096
# Scores that are held at once: 256 MB.
_SCORES = 2**26


@dataclass(frozen=True)
class Evidence:
    """What each of P photos says of n cells.

    Attributes:
        cell_id: (n,) uint64, ascending: cells that were looked at, and some that speak for all others.
        stands_for: (n,) how many cells each speaks for; 1 for those that were looked at for their own sake.
        score: (P, n) float32 score, with the best heading.
        heading_deg: (P, n) that heading; NaN where none was tried.
        log_ratio: (P, n) logarithm of how many times as likely the photo is there as anywhere; at least log(STRAY).
        log_prior: (n,) logarithm of how many times as likely any photo is there as on average.
        shown: What the photos show, each once.
        calibration: Of these scores, if the index has it.
    """

    cell_id: NDArray[np.uint64]
    stands_for: NDArray[np.float64]
    score: NDArray[np.float32]
    heading_deg: NDArray[np.float64]
    log_ratio: NDArray[np.float64]
    log_prior: NDArray[np.float64]
    shown: frozenset[Shown]
    calibration: Calibration | None = None

    def surface(self, level: int, log_probability: NDArray[np.float64]) -> Surface:
        """Returns the logarithms of the cells' probabilities, (n,), as scores for each square metre."""
        own = self.stands_for == 1
        density = log_probability - np.log(cells.areas_m2(self.cell_id))
        each = float(self.stands_for[~own].mean()) if not own.all() else 0.0
        return Surface(level, self.cell_id[own], density[own], density[~own], each)

    def posterior(self, level: int, log_probability: NDArray[np.float64]) -> Posterior | None:
        """Returns the same as a posterior; None where scores are not calibrated."""
        return None if self.calibration is None else self.surface(level, log_probability).posterior(1.0)


def embed_all(localizer: Localizer, photos: Iterable[PhotoQuery | str], view: PhotoView | None) -> list[EmbeddedPhoto]:
    """Embeds photos, of which no more than a batch are in memory at once."""
    queries = [photo if isinstance(photo, PhotoQuery) else PhotoQuery(photo) for photo in photos]
    step = localizer.config.batch_size
    return [photo for at in range(0, len(queries), step) for photo in localizer.embed(queries[at : at + step], view)]


def evidence_of(localizer: Localizer, photos: Sequence[EmbeddedPhoto], search: Search) -> Evidence:
    """Scores all photos on the best cells of each and their neighbours.

    Args:
        localizer: Where to search.
        photos: One or more, each with a vector at least.
        search: What is asked for.

    Raises:
        RegionError: No cell of the index lies in the region.
        ConfigError: There is a prior, and the index is not calibrated for this search.
    """
    index, calibration = localizer.index, localizer.calibration
    if calibration is not None and not calibration.is_of(index, kappa=search.kappa, dates=search.dates, rerank=0):
        calibration = None
    if calibration is None and search.prior is not None:
        raise no_probabilities(index)
    found = _found(index, photos, search, str(resolve_device(localizer.config.device)))
    best = np.unique(np.concatenate(found))
    # What is probable within 100 m is told of places: those that are answered are among the first of some photo.
    first = np.unique(np.concatenate([ids[:_FIRST] for ids in found]))
    around = cells.cell_ids(disc_deg(cells.centers_deg(first)).reshape(-1, 2), index.level)
    closely = np.unique(np.concatenate([best, cells.neighbors(best).ravel(), around]))
    if search.region is not None:
        closely = closely[cells.in_ranges(closely, search.region.cell_ranges(index.level))]
    every, n_cells = index.some_cells(_EVERY, search.region)
    if n_cells == len(every):
        closely, some = every, every
    else:
        some = every[spaced(len(every), _OTHERS)]
    cell_id = np.union1d(closely, some)
    score, heading_deg = _scored(index, photos, cell_id, search)
    known = np.isfinite(score[0])  # a neighbour may have no code
    cell_id, score, heading_deg = cell_id[known], score[:, known], heading_deg[:, known]

    is_other = ~np.isin(cell_id, closely)
    stands_for = np.where(is_other, (n_cells - (~is_other).sum()) / max(1, is_other.sum()), 1.0)
    logit = score / _temperatures(localizer, photos, calibration)[:, None]
    log_ratio = logit - logsumexp(logit, axis=1, b=stands_for, keepdims=True) + np.log(n_cells)
    log_ratio = np.logaddexp(np.log1p(-STRAY) + log_ratio, np.log(STRAY))
    log_prior = np.zeros(len(cell_id)) if search.prior is None else search.prior.log_ratio(cell_id)
    shown = frozenset(shown_by(photo.fov_deg) for photo in photos)
    return Evidence(cell_id, stands_for, score, heading_deg, log_ratio, log_prior, shown, calibration)


def places_of(
    index: CellIndex,
    photo: EmbeddedPhoto,
    evidence: Evidence,
    i: int,
    order: NDArray[np.intp],
    log_probability: NDArray[np.float64],
    search: Search,
) -> list[Place]:
    """Returns the places of a photo.

    Args:
        index: Where they are.
        photo: Its scores, headings and dates of imagery are told.
        evidence: Of all photos.
        i: Its number among these.
        order: Cells, best first.
        log_probability: (n,) logarithms of the probabilities of the cells to be where it was taken.
        search: What is asked for.

    Returns:
        The first `search.top_k` cells of which no two touch, and in a calibrated index none lie within 100 m.
    """
    heading_deg, calibration = evidence.heading_deg[i], evidence.calibration
    found = distinct_places(
        evidence.cell_id[order],
        evidence.score[i, order],
        search.top_k,
        heading_deg=None if np.isnan(heading_deg).all() else heading_deg[order],
        apart_m=search.apart_m if calibration is None else max(search.apart_m, WITHIN_M),
    )
    if calibration is not None:
        # Photos that do not show the same are told where they were taken alike.
        kind = calibration.of_kind(next(iter(evidence.shown))) if len(evidence.shown) == 1 else calibration.general
        surface, told = evidence.surface(index.level, log_probability), kind.of_logarithms()
        found = [told.placed(surface, place) for place in found]
    ids = np.array([place.cell_id for place in found], np.uint64)
    rows = index.rows_of(photo.vectors, ids, kappa=search.kappa, dates=search.dates)
    return [
        replace(place, row=row, imagery_date=iso_date(date))
        for place, row, date in zip(found, rows.tolist(), index.dates_of(rows).tolist(), strict=True)
    ]


def answers_of(
    photos: Sequence[EmbeddedPhoto],
    found: Iterable[tuple[list[Place], float, Posterior | None]],
    calibration: Calibration | None = None,
) -> list[Localization]:
    """Returns one answer a photo.

    Args:
        photos: All photos; those without vectors have failed.
        found: For each of the others, its places, the probability that it is a stray, and where it may have been taken.
        calibration: Of the places.
    """
    on: Literal["photos", "rendered", "none"] = "none" if calibration is None else calibration.on
    located = iter(found)
    answers = []
    for photo in photos:
        if len(photo.vectors):
            places, stray, posterior = next(located)
            status: Literal["ok", "rejected"] = "rejected" if stray > 0.5 else "ok"
            answers.append(
                Localization(photo.query.path, status, places, photo.latlon_deg, calibration=on, posterior=posterior)
            )
        else:
            answers.append(Localization(photo.query.path, "failed", [], photo.latlon_deg, photo.error))
    return answers


def _temperatures(
    localizer: Localizer, photos: Sequence[EmbeddedPhoto], calibration: Calibration | None
) -> NDArray[np.float64]:
    """Returns what each photo's scores are divided by to be logarithms of probabilities, (P,).

    What was calibrated, or else what the encoder has learnt with. The shipped encoder's, 0.024, makes the true cells of
    rendered photos about as likely as any does (`nats` in benchmarks/walks.py).
    """
    if calibration is not None:
        return np.array([calibration.of_kind(shown_by(photo.fov_deg)).temperature for photo in photos])
    return np.full(len(photos), math.exp(-localizer.encoder.notes.get("logit_scale", _LOGIT_SCALE)))


def _found(index: CellIndex, photos: Sequence[EmbeddedPhoto], search: Search, device: str) -> list[NDArray[np.uint64]]:
    """Returns the best cells of each photo, of its vectors all together, best first."""
    k = max(search.top_k, _FOUND // len(photos))
    hits = index.search(
        np.concatenate([photo.vectors for photo in photos]),
        k,
        region=search.region,
        kappa=search.kappa,
        dates=search.dates,
        exact=search.exact,
        device=device,
    )
    ends = np.cumsum([len(photo.vectors) for photo in photos])
    found = []
    for mine in (slice(end - len(photo.vectors), end) for photo, end in zip(photos, ends.tolist(), strict=True)):
        ids, score = hits.cell_id[mine].ravel(), hits.score[mine].ravel()
        order = np.argsort(-score, kind="stable")[: np.isfinite(score).sum()]
        first = order[np.sort(np.unique(ids[order], return_index=True)[1])[:k]]
        found.append(ids[first])
    return found


def _scored(
    index: CellIndex, photos: Sequence[EmbeddedPhoto], cell_ids: NDArray[np.uint64], search: Search
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Returns the best score of each photo in each cell, (P, n), and the heading with which it was reached."""
    score = np.empty((len(photos), len(cell_ids)), np.float32)
    heading_deg = np.empty(score.shape)
    step = max(1, _SCORES // (len(cell_ids) * max(len(photo.vectors) for photo in photos)))
    for at in range(0, len(photos), step):
        part = photos[at : at + step]
        vectors = np.concatenate([photo.vectors for photo in part])
        scores = index.scores_of(vectors, cell_ids, kappa=search.kappa, dates=search.dates)
        ends = np.cumsum([len(photo.vectors) for photo in part])
        for i, (photo, mine) in enumerate(zip(part, np.split(scores, ends[:-1]), strict=True), start=at):
            score[i] = mine.max(axis=0)
            heading_deg[i] = photo.headings_deg[mine.argmax(axis=0)]
    return score, heading_deg
