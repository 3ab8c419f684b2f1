"""Benchmark jobs: what a job file says, and what is said of one run of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from geoview.config.checks import require
from geoview.config.inference import InferenceConfig

__all__ = ["BenchmarkConfig", "JobConfig", "PublishedConfig", "ScoredConfig"]


@dataclass(frozen=True)
class BenchmarkConfig(InferenceConfig):
    """Trains and scores by a job file, unattended; the same call goes on with what was cut off.

    Attributes:
        root: Folder of the data set; or of several, each in a folder of its name (cvusa, cvact, vigor, university1652).
        out: Folder to write to: the training run, embeddings, results as JSON and as a table.
        pretrained: Weights that the job starts from, as it names them; or `random`.
        processes: How many share each batch, a GPU each where there are.
    """

    root: str = field(kw_only=True)
    out: str = field(kw_only=True)
    pretrained: str | None = None
    processes: int = 1


@dataclass(frozen=True)
class ScoredConfig:
    """What a job scores.

    Attributes:
        name: In results and tables.
        dataset: Of which data set.
        split: Which part of it.
        labels: Whose labels of it.
        fov_deg: As for `EvaluateConfig`.
        turned: As for `EvaluateConfig`.
        as_published: As for `EvaluateConfig`.
    """

    name: str
    dataset: Literal["cvusa", "cvact", "vigor", "university1652"]
    split: str
    labels: Literal["original", "corrected"] = "original"
    fov_deg: list[float] = field(default_factory=lambda: [360.0])
    turned: bool = False
    as_published: bool = False


@dataclass(frozen=True)
class PublishedConfig:
    """Figures that a job is to be compared with.

    Attributes:
        method: Whose.
        source: Where they are from.
        test: Name of the test that they are of.
        fov_deg: Field of view that they are of.
        figures: Percent, by the names that `geoview evaluate` gives them.
    """

    method: str
    source: str
    test: str
    figures: dict[str, float]
    fov_deg: float = 360.0


@dataclass(frozen=True)
class JobConfig:
    """A job file: what is trained, what it is scored on, and what others have published.

    Attributes:
        title: What it is, in a line.
        train: A training's config but for `out`; `data.pairs` is the name of a data set.
        weights: Which weights it starts from, and where they are to be had; None for random ones.
        tests: What is scored.
        published: What to compare with.
    """

    title: str
    train: dict[str, Any]
    tests: list[ScoredConfig]
    weights: str | None = None
    published: list[PublishedConfig] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [test.name for test in self.tests]
        require(len(names) > 0, "tests: a job scores something")
        require(len(set(names)) == len(names), f"tests: names differ, are {', '.join(names)}")
        for row in self.published:
            require(row.test in names, f"published: {row.test!r} is the name of no test; known are {', '.join(names)}")
