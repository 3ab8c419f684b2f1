"""Small indexes that are tuned and searched as those of millions are."""

from __future__ import annotations

from geoview.index import cell_index, tuning
from geoview.index.manifest import Point


def always_search_by_lists() -> None:
    """Lets no index of this process be too small for lists, and no exact search be quick enough to be chosen."""
    cell_index.ALWAYS_EXACT = tuning.ALWAYS_EXACT = 100  # type: ignore[attr-defined]
    tuning._exact = lambda index, queries: Point(0, 1, 1.0, 1e6)
