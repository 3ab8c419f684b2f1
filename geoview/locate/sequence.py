"""Photos of one walk or drive: the way on which they were most likely taken.

A hidden Markov model whose states are cells: all ways on which nobody is faster than a bound are equally likely before
the photos are looked at, and what a photo says of each cell is its `Evidence`. The most likely way is found as Viterbi
does it, the probability of each cell at each photo by the forward-backward algorithm (Rabiner, Proceedings of the IEEE
77, 1989).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from geoview.data.photos import read_metadata
from geoview.data.queries import PhotoQuery
from geoview.errors import GeoviewError
from geoview.geo import cells
from geoview.geo.sphere import EARTH_RADIUS_M, distance_m, unit_vectors
from geoview.locate.embedding import PhotoView
from geoview.locate.evidence import STRAY, Evidence, answers_of, embed_all, evidence_of, places_of
from geoview.locate.localizer import Localization, Localizer, Search

__all__ = ["Links", "locate_sequence", "marginals", "most_likely_way"]

# How much what photos of one walk say correlates, and of how many, one after another. Chosen with ten panoramas of each
# of 30 walks in two rendered regions, where 0.05 takes the Brier score of probabilities from 0.041 to 0.033, and from
# 0.154 to 0.125; in others, benchmarks/results/walks.json tells what comes of it.
_ALIKE, _ALIKE_PHOTOS = 0.05, 10
# Links that are held, 12 bytes each, and the cells that are left where there would be more; all of these can be linked.
_LINKS, _FEW = 2**24, 2**12
# Share of the most likely cell that every cell has at least: nothing, but it has a logarithm.
_TRACE = 1e-300


@dataclass(frozen=True)
class Links:
    """Which of n cells lie within reach of which, each of itself too.

    Attributes:
        distance_m: (n, n) sparse: great-circle distances; what is not stored is out of reach.
    """

    distance_m: csr_array

    @classmethod
    def within(cls, reach_m: float, latlon_deg: NDArray[np.float64]) -> Self:
        """Links points, (n, 2), that lie no further than `reach_m` from each other."""
        tree = cKDTree(unit_vectors(latlon_deg))
        pairs = tree.query_pairs(_chord(reach_m), output_type="ndarray")
        distances_m = distance_m(*(latlon_deg[pairs[:, end]] for end in (0, 1)))
        itself = np.arange(len(latlon_deg))
        start, end = np.concatenate([pairs, pairs[:, ::-1], np.stack([itself, itself], axis=1)]).T
        values = np.concatenate([distances_m, distances_m, np.zeros(len(itself))])
        return cls(csr_array((values, (start, end)), shape=(len(itself), len(itself))))

    def of(self, cell: int, reach_m: float) -> NDArray[np.intp]:
        """Returns the cells within a reach of one."""
        mine = slice(*self.distance_m.indptr[cell : cell + 2])
        return np.asarray(self.distance_m.indices[mine][self.distance_m.data[mine] <= reach_m], np.intp)

    def best(self, value: NDArray[np.float64], reach_m: float) -> NDArray[np.float64]:
        """Returns the largest value, of (n,), within a reach of each cell."""
        values = np.where(self.distance_m.data <= reach_m, value[self.distance_m.indices], -np.inf)
        return np.asarray(np.maximum.reduceat(values, self.distance_m.indptr[:-1]))

    def total(self, log_value: NDArray[np.float64], reach_m: float) -> NDArray[np.float64]:
        """Returns the logarithm of the sum of the values within a reach of each cell, of logarithms (n,)."""
        links = self.distance_m
        open_ = csr_array(((links.data <= reach_m).astype(np.float64), links.indices, links.indptr), shape=links.shape)
        most = log_value.max()
        return np.asarray(most + np.log(np.maximum(open_ @ np.exp(log_value - most), _TRACE)))


def locate_sequence(
    localizer: Localizer,
    photos: Iterable[PhotoQuery | str],
    search: Search | None = None,
    *,
    max_speed_kmh: float = 20.0,
    step_s: float | None = None,
    view: PhotoView | None = None,
) -> list[Localization]:
    """Locates photos of one walk or drive, each where it lies on the most likely way.

    Between two photos nobody gets further than the time between them allows, and across a cell, since cells are all
    that is known of where he is.

    Args:
        localizer: Where to search, and with what.
        photos: Files, or photos with what is known of them.
        search: What is asked for.
        max_speed_kmh: Bound on the speed, as the crow flies; 20 is for who walks or cycles.
        step_s: Seconds from one photo to the next, at most, of photos in the order in which they were taken. Without
            it, photos tell their times, in any order: `captured_at`, or else their EXIF. Where one of them does not
            tell the offset from UTC, all are compared by the clock. Clocks of several cameras must agree.
        view: What the photos show.

    Returns:
        One answer a photo, in the order given: first the place on the most likely way of all, then others by their
        probability over all ways, which is told where the index is calibrated; scores and headings are the photo's
        own. A photo that more likely shows somewhere else is `rejected`, with the places that the others leave for it.
        One that cannot be read, or tells no time where times count, has failed, and the others are located without it.

    Raises:
        RegionError: No cell of the index lies in the region.
        ConfigError: There is a prior, and the index is not calibrated for this search.
    """
    search = search or Search()
    queries = [photo if isinstance(photo, PhotoQuery) else PhotoQuery(photo) for photo in photos]
    times_s = _times_s(queries) if step_s is None else step_s * np.arange(len(queries), dtype=np.float64)
    embedded = [
        replace(photo, vectors=photo.vectors[:0], error=_no_time(photo.query))
        if np.isnan(time_s) and len(photo.vectors)
        else photo
        for photo, time_s in zip(embed_all(localizer, queries, view), times_s.tolist(), strict=True)
    ]
    sound = [photo for photo in embedded if len(photo.vectors)]
    if not sound:
        return answers_of(embedded, [])
    evidence = evidence_of(localizer, sound, search)
    located = np.array([len(photo.vectors) > 0 for photo in embedded])
    way, log_probability, apart = _located(evidence, times_s[located], max_speed_kmh)
    stray = STRAY * np.exp(apart - evidence.log_ratio).sum(axis=1)
    orders = np.argsort(-log_probability, axis=1, kind="stable")
    places = (
        places_of(localizer.index, photo, evidence, i, np.append(way[i], orders[i]), log_probability[i], search)
        for i, photo in enumerate(sound)
    )
    posteriors = (evidence.posterior(localizer.index.level, mine) for mine in log_probability)
    return answers_of(embedded, zip(places, stray.tolist(), posteriors, strict=True), evidence.calibration)


def most_likely_way(log_ratio: NDArray[np.float64], links: Links, reach_m: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns the cell of each photo, (P,), on the way for which the sum of what photos say is largest.

    Args:
        log_ratio: (P, n) what each photo says of each cell, in the order of the way.
        links: Between the cells, as far as the longest reach.
        reach_m: (P - 1,) how far one gets from each photo to the next.
    """
    values = [log_ratio[0]]
    for mine, reach in zip(log_ratio[1:], reach_m.tolist(), strict=True):
        values.append(mine + links.best(values[-1], reach))
    way = [int(np.argmax(values[-1]))]
    for value, reach in zip(values[-2::-1], reach_m[::-1].tolist(), strict=True):
        near = links.of(way[-1], reach)
        way.append(int(near[np.argmax(value[near])]))
    return np.array(way[::-1])


def marginals(log_ratio: NDArray[np.float64], links: Links, reach_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the logarithm of each cell's probability to be where each photo was taken, (P, n), over all ways.

    Args:
        log_ratio: As for `most_likely_way`.
        links: The same.
        reach_m: The same.
    """
    before, after = [np.zeros_like(log_ratio[0])], [np.zeros_like(log_ratio[0])]
    for mine, reach in zip(log_ratio[:-1], reach_m.tolist(), strict=True):
        before.append(links.total(before[-1] + mine, reach))
    for mine, reach in zip(log_ratio[:0:-1], reach_m[::-1].tolist(), strict=True):
        after.append(links.total(after[-1] + mine, reach))
    value = np.array(before) + log_ratio + np.array(after[::-1])
    return np.asarray(value - logsumexp(value, axis=1, keepdims=True))


def _located(
    evidence: Evidence, times_s: NDArray[np.float64], max_speed_kmh: float
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Finds the way, and where each photo was taken.

    Photos of a walk err together, if not as much as those of one spot: the most likely way stays the same, but is less
    probable than if each photo stood for itself.

    Returns:
        The cell of each photo on the most likely way, (P,); the logarithm of each cell's probability, (P, n), and what
        it is if each photo stands for itself; in the order of photos.
    """
    order = np.argsort(times_s, kind="stable")
    centres_deg = cells.centers_deg(evidence.cell_id)
    half_m = distance_m(centres_deg[:, None], cells.vertices_deg(evidence.cell_id)).max()
    reach_m = max_speed_kmh / 3.6 * np.diff(times_s[order]) + 2 * half_m
    widest_m = float(reach_m.max(initial=0.0))
    states = _states(evidence, centres_deg, widest_m)
    links = Links.within(widest_m, centres_deg[states])
    n_alike = min(len(order), _ALIKE_PHOTOS)

    def log_ratio(alike: float) -> NDArray[np.float64]:
        said = evidence.log_ratio[order][:, states] / (1 + alike * (n_alike - 1))
        said[0] += evidence.log_prior[states]  # a way begins where photos are taken, and goes where it likes
        return said

    way, together, apart = np.empty(len(order), np.intp), *np.full((2, *evidence.log_ratio.shape), -np.inf)
    way[order] = states[most_likely_way(log_ratio(_ALIKE), links, reach_m)]
    together[np.ix_(order, states)] = marginals(log_ratio(_ALIKE), links, reach_m)
    apart[np.ix_(order, states)] = marginals(log_ratio(0.0), links, reach_m)
    return way, together, apart


def _states(evidence: Evidence, centres_deg: NDArray[np.float64], reach_m: float) -> NDArray[np.intp]:
    """Returns the cells that ways lead through; where they had too many links, those that any photo speaks for most."""
    states = np.flatnonzero(evidence.stands_for == 1)
    tree = cKDTree(unit_vectors(centres_deg[states]))
    if len(states) > _FEW and tree.count_neighbors(tree, _chord(reach_m)) > _LINKS:
        states = states[np.argsort(-evidence.log_ratio[:, states].max(axis=0), kind="stable")[:_FEW]]
    return np.sort(states)


def _chord(arc_m: float) -> float:
    """Returns the distance between unit vectors, a hair more than that of points so far from each other."""
    return float(2.0 * np.sin(min(arc_m / EARTH_RADIUS_M, np.pi) / 2) + 1e-12)


def _times_s(queries: Sequence[PhotoQuery]) -> NDArray[np.float64]:
    """Returns seconds from the first photo, NaN for photos that tell no time."""
    times = [query.captured_at or _told_by_photo(query) for query in queries]
    if any(time is not None and time.tzinfo is None for time in times):
        times = [None if time is None else time.replace(tzinfo=None) for time in times]
    first = min((time for time in times if time is not None), default=None)
    return np.array([np.nan if time is None or first is None else (time - first).total_seconds() for time in times])


def _told_by_photo(query: PhotoQuery) -> datetime | None:
    try:
        return read_metadata(query.photo).captured_at
    except GeoviewError:
        return None  # the answer's own error says it already


def _no_time(query: PhotoQuery) -> str:
    return f"{query.path}: tells no time; give captured_at in a photo table, or --step_s for photos in their order"
