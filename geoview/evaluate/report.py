"""Results as they are written: JSON of finite numbers, and a table for people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from geoview.errors import ConfigError, OutputExistsError

__all__ = ["SHARES", "check_output", "finite", "markdown", "percent"]

#: Titles of columns by the name of their figure; those that no row has are left out.
SHARES = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "recall_at_1_percent": "R@1 %",
    "hit_rate": "hit rate",
    "average_precision": "AP",
    "recall_at_1_within_5_m": "R@1 in 5 m",
    "recall_at_1_within_50_m": "R@1 in 50 m",
    "recall_at_1_within_100_m": "R@1 in 100 m",
    "recall_at_5_within_100_m": "R@5 in 100 m",
    "recall_at_10_within_100_m": "R@10 in 100 m",
    "chance_recall_at_1_within_100_m": "by lot in 100 m",
}


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses an output before any work is done for it.

    Raises:
        ConfigError: It is a folder, or not called `.json`.
        OutputExistsError: The file exists and `overwrite` is off.
    """
    if path.suffix.lower() != ".json":
        raise ConfigError(f"{path}: results are JSON; name a file that ends in .json")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path}: exists already; choose another --out or give --overwrite")


def finite(content: Any) -> Any:
    """Returns nested content with None for numbers that are not finite, which JSON does not know."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def markdown(results: dict[str, Any]) -> str:
    """Returns a table with a row for each view of the results, shares in percent.

    Args:
        results: Of `evaluate_dataset` or `evaluate_photos`.
    """
    kind = ("°, turned" if results["turned"] else "°") if "dataset" in results else ""
    rows: dict[str, dict[str, Any]] = {}
    for view, figures in results["views"].items():
        rows[view + kind] = figures
        if "distractors_removed" in figures:
            rows[f"{view}{kind}, distractors removed"] = figures["distractors_removed"]
    columns = [name for name in SHARES if any(name in figures for figures in rows.values())]
    metres = any("median_error_m" in figures for figures in rows.values())
    table = [["view", *(SHARES[name] for name in columns), *(["median error, m"] if metres else [])]]
    table.append(["---"] + ["---:"] * (len(table[0]) - 1))
    for label, figures in rows.items():
        cells = [percent(_hundredfold(figures.get(name))) for name in columns]
        error_m = figures.get("median_error_m")
        table.append([label, *cells, *(["-" if error_m is None else f"{error_m:.1f}"] if metres else [])])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def percent(value: float | None) -> str:
    """Returns percent as they are printed; - for None."""
    return "-" if value is None else f"{value:.2f}"


def _hundredfold(share: float | None) -> float | None:
    return None if share is None else 100 * share
