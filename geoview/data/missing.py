"""What labels name and a copy lacks: a few entries are left out and told, more are an error."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoview.config import DataConfig
from geoview.errors import GeoviewError

__all__ = ["MAX_MISSING_SHARE", "few_missing"]

logger = logging.getLogger(__name__)

MAX_MISSING_SHARE = DataConfig.max_missing_share
"""Real copies lack a few images; one that lacks more has not been unpacked whole."""

_NAMED = 3


def few_missing(
    lacks: Sequence[Sequence[str]],
    max_share: float,
    *,
    where: str,
    entries: str,
    fault: str,
    way_out: str,
    error: type[GeoviewError],
) -> NDArray[np.bool_]:
    """Leaves entries out that lack something, and logs them, as long as they are few.

    Args:
        lacks: What each entry of a list lacks, as it is to be named.
        max_share: Share of the entries that may lack something; 0 for none.
        where: File or folder, for the messages.
        entries: What the entries are, such as `pairs`.
        fault: What they do, such as `name what is not there`.
        way_out: What to do about it.
        error: What to raise.

    Returns:
        (entries,) False for those to leave out.

    Raises:
        GeoviewError: The given `error`: they are a greater share.
    """
    kept = np.array([not names for names in lacks], np.bool_)
    n_gone = int(len(kept) - kept.sum())
    if not n_gone:
        return kept
    gone = [name for names in lacks for name in names]
    examples = ", ".join(gone[:_NAMED]) + (" and others" if len(gone) > _NAMED else "")
    count = f"{n_gone} of {len(kept)} {entries}"
    if n_gone / len(kept) > max_share:
        raise error(f"{where}: {count} {fault}, more than max_missing_share {max_share:g}: {examples}; {way_out}")
    logger.warning("%s: %s %s and are left out: %s", where, count, fault, examples)
    return kept
