"""Several photos of one spot: the place where all of them were taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from geoview.data.queries import PhotoQuery
from geoview.locate.calibration import Shown
from geoview.locate.embedding import PhotoView
from geoview.locate.evidence import STRAY, Evidence, answers_of, embed_all, evidence_of, places_of
from geoview.locate.localizer import WEIGHED, Localization, Localizer, Search

__all__ = ["ALIKE", "fused", "locate_together"]

#: How much what photos of one spot say correlates, by what they show. Of two, three and five photos of each of 120
#: spots in two rendered regions, 0.75 makes the probabilities of panoramas truest (Brier score), and 0.2 those of
#: photos through a lens, which see less and err apart. `alike` in benchmarks/results/walks.json tells what comes of it
#: in two regions that had no part in this choice. Photos from above were not tried; they are taken to be as much alike
#: as any.
ALIKE: Mapping[Shown, float] = {"panorama": 0.75, "perspective": 0.2, "aerial": 0.75}


def locate_together(
    localizer: Localizer,
    photos: Iterable[PhotoQuery | str],
    search: Search | None = None,
    *,
    view: PhotoView | None = None,
) -> list[Localization]:
    """Locates photos that all show one spot, whatever their headings, dates and cameras.

    Args:
        localizer: Where to search, and with what.
        photos: Files, or photos with what is known of them, in any order.
        search: What is asked for.
        view: What the photos show.

    Returns:
        One answer a photo, all with the same places in the same order: the best for all photos together, with radii and
        probabilities of all together, where the index is calibrated; scores and headings are the photo's own. A photo
        that more likely shows somewhere else is `rejected`, one that cannot be read has failed; neither keeps the
        others from being located.

    Raises:
        RegionError: No cell of the index lies in the region.
        ConfigError: There is a prior, and the index is not calibrated for this search.
    """
    search = search or Search()
    embedded = embed_all(localizer, photos, view)
    sound = [photo for photo in embedded if len(photo.vectors)]
    if not sound:
        return answers_of(embedded, [])
    evidence = evidence_of(localizer, sound, search)
    log_probability, stray = fused(evidence)
    order = np.argsort(-log_probability, kind="stable")
    weighed = replace(search, top_k=max(search.top_k, WEIGHED))
    places = (
        sorted(
            places_of(localizer.index, photo, evidence, i, order, log_probability, weighed),
            key=lambda place: -(place.p_within_100m or 0.0),
        )[: search.top_k]
        for i, photo in enumerate(sound)
    )
    posterior = repeat(evidence.posterior(localizer.index.level, log_probability), len(sound))
    return answers_of(embedded, zip(places, stray.tolist(), posterior, strict=True), evidence.calibration)


def fused(evidence: Evidence) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hears photos of one spot together.

    They err together, too: what makes another spot look like this one is in most of them. So P photos say as much as
    P / (1 + r (P - 1)) that stand for themselves, as of P numbers that correlate by r: by `ALIKE`, and where photos of
    several kinds come together, by the most of these.

    Returns:
        The logarithm of each cell's probability to be the spot, (n,), and the probability of each photo to be a stray,
        (P,), as if each stood for itself.
    """
    together = evidence.log_ratio.sum(axis=0)
    apart = together - logsumexp(together, b=evidence.stands_for)
    stray = STRAY * (np.exp(apart - evidence.log_ratio) * evidence.stands_for).sum(axis=1)
    alike = max(ALIKE[kind] for kind in evidence.shown)
    log_probability = together / (1 + alike * (len(evidence.log_ratio) - 1)) + evidence.log_prior
    return log_probability - logsumexp(log_probability, b=evidence.stands_for), stray
