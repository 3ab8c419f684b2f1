"""How each data set is scored by the papers that report it, and where ours differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geoview.config import EvaluateConfig, Seen
from geoview.data.datasets import load, load_own
from geoview.data.pairs import PairTable

__all__ = ["PROTOCOLS", "Protocol", "open_table"]


@dataclass(frozen=True)
class Protocol:
    """How a data set is scored.

    Attributes:
        split: The split that papers report first; None where there are none.
        query_view: What the queries show; None where the user says it.
        average_precision: Whether it is reported.
        within_m: Radius of a recall at 1 that is the data set's own, None for none.
        text: What its figures are, and what is not as published.
    """

    split: str | None
    query_view: Seen | None
    average_precision: bool
    within_m: float | None
    text: str


PROTOCOLS: Mapping[str, Protocol] = {
    "cvusa": Protocol("test", "ground", False, None, "A query is right where its own satellite picture is found."),
    "cvact": Protocol(
        "val",
        "ground",
        False,
        5.0,
        "A query is right where its own satellite picture is found, as Sample4Geo and others report it. "
        "recall_at_1_within_5_m is the data set's own rule (OriCNN): right where the first picture is centred within "
        "5 m, here along the great circle.",
    ),
    "vigor": Protocol(
        "same_test",
        "ground",
        False,
        None,
        "Only the one positive tile of a query is right, among all tiles of the split's cities. hit_rate is the rule "
        "of VIGOR's own code: the same at 1, the three semi-positive tiles out of the competition; a query whose "
        "first tile merely shows its position is not always a hit by it.",
    ),
    "university1652": Protocol(
        "drone_to_satellite",
        "aerial",
        True,
        None,
        "Any picture of a query's building is right, and buildings that nobody asks for compete, as in the data set's "
        "own code. average_precision is by its trapezoid rule. distractors_removed, where it is asked for, is how the "
        "published code of Sample4Geo and its forks scores: without those buildings, which flatters.",
    ),
    "pairs": Protocol(None, None, False, None, "A query is right where a reference of its own place is found."),
}


def open_table(config: EvaluateConfig) -> PairTable:
    """Reads the pairs to score on.

    Raises:
        ConfigError: There is no such split or labels.
        DatasetError: The copy of a data set lacks files.
        PairTableError: The pair table cannot be used.
    """
    assert config.dataset is not None and config.root is not None, "EvaluateConfig checks this"
    if config.dataset == "pairs":
        return load_own(Path(config.root))
    split = config.split or PROTOCOLS[config.dataset].split
    assert split is not None, "every published data set has one"
    return load(config.dataset, config.root, split, labels=config.labels)
