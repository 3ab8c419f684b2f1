"""An index scored on photos whose positions are known."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from tqdm import tqdm

from geoview.config import EvaluateConfig
from geoview.data.pairs import PairTable
from geoview.data.queries import find_queries
from geoview.errors import ConfigError
from geoview.evaluate.places import RANKS, errors_m, score_places
from geoview.evaluate.report import finite
from geoview.geo import cells
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localization, Localizer
from geoview.metrics import bootstrap_interval

__all__ = ["evaluate_photos"]

log = logging.getLogger(__name__)

# Least distance between two places of an answer, and the radius of what has an interval.
_APART_M, _WITHIN_M = 100.0, 100
_NAMED = 20


def evaluate_photos(index: CellIndex, config: EvaluateConfig) -> dict[str, Any]:
    """Locates photos, told all that is known of them but their position, and scores the answers.

    Args:
        index: Where to search.
        config: Photos, and how the encoder is run. True positions come from the table, or else from the photo itself;
            heading and field of view, where the table has them, are told.

    Returns:
        The content of `results.json`: finite numbers or None only. `views` has, under `photos`, what `score_places`
        returns, of ten places at least 100 m apart. Photos that cannot be read are misses; photos without a position
        are named, counted in `n_without_position` and not scored.

    Raises:
        ConfigError: No photo has a position.
        PhotoTableError: A table cannot be read.
    """
    queries = find_queries(config.photos)
    answers = Localizer(index, config).locate(queries, top_k=max(RANKS), dates=config.dates, apart_m=_APART_M)
    told = list(tqdm(answers, total=len(queries), desc="locate", unit="photo", disable=None, dynamic_ncols=True))
    failed = [answer for answer in told if answer.status == "failed"]
    for answer in failed:
        log.warning("%s", answer.error)
    without = [answer.query for answer in told if answer.status == "ok" and answer.latlon_deg is None]
    for path in without:
        log.warning("%s: has no position of its own, nor in a table; it is not scored", path)
    scored = [answer for answer in told if answer.status == "failed" or answer.latlon_deg is not None]
    if all(answer.latlon_deg is None for answer in scored):
        raise ConfigError(
            f"{', '.join(config.photos)}: no photo has a position to compare with; give a table with lat and lon"
        )
    results = {
        "index": config.index,
        "level": index.level,
        "encoder": dict(index.manifest.encoder),
        "photos": list(config.photos),
        "dates": config.dates,
        "seed": config.seed,
        "views": {"photos": _scores(scored, index, config.seed)},
        "protocol": f"Photos are located by their pixels, {max(RANKS)} places at least {_APART_M:g} m apart; their "
        "position is never told, heading and field of view where the table has them. A photo is found at k within a "
        "radius where one of its first k places is that near; photos that cannot be read are misses. chance_… is what "
        "one cell drawn by lot reaches on average, ceiling_… the share of photos with any cell that near.",
        "n_without_position": len(without),
        "n_unreadable": len(failed),
        "unreadable": [answer.query for answer in failed[:_NAMED]],
    }
    return dict(finite(results))


def _scores(answers: list[Localization], index: CellIndex, seed: int) -> dict[str, Any]:
    truth_deg = np.array([answer.latlon_deg or (np.nan, np.nan) for answer in answers], np.float64)
    right = errors_m(answers, truth_deg)[:, 0] <= _WITHIN_M
    names = [answer.query for answer in answers]
    blocks = PairTable.of(names, names, latlon_deg=truth_deg).blocks()
    interval = bootstrap_interval(right, seed, groups=blocks)
    return {
        **score_places(answers, truth_deg, cells.centers_deg(np.unique(index.cell_ids()))),
        "intervals": {f"recall_at_1_within_{_WITHIN_M}_m": interval},
    }
