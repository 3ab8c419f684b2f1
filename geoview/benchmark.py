"""Benchmark jobs: trains by a job file, scores by the rules of the papers, and puts their figures beside ours."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import yaml

from geoview.config import (
    BenchmarkConfig,
    EvaluateConfig,
    JobConfig,
    PublishedConfig,
    ScoredConfig,
    TrainConfig,
    from_mapping,
    merged,
)
from geoview.data.datasets import DATASETS, recognise
from geoview.errors import ConfigError, DatasetError
from geoview.evaluate.dataset import evaluate_dataset
from geoview.evaluate.protocols import open_table
from geoview.evaluate.report import SHARES, percent
from geoview.files import full_disk_told, write_json, write_text
from geoview.models.encoder import CrossViewEncoder
from geoview.training.fit import fit, is_first_process

__all__ = ["read_job", "run_job", "table"]

log = logging.getLogger(__name__)


def read_job(path: Path) -> JobConfig:
    """Reads a job file.

    Args:
        path: YAML with the fields of `JobConfig`; `extends` names another job file beside it, whose fields it takes but
            for those of its own.

    Raises:
        ConfigError: It cannot be read, or a field cannot be; names the file.
    """
    try:
        return from_mapping(JobConfig, _read(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def run_job(path: Path, config: BenchmarkConfig) -> dict[str, Any]:
    """Trains and scores, or goes on with what was cut off.

    * `training/`: the run, as `geoview train` leaves it; jobs that train alike may share the folder.
    * `<job>_<test>.json`: what `geoview evaluate` writes of each test. `embeddings/`: for the next scoring.
    * `<job>.json`, `<job>.md`: all of it, and a table beside what is published.

    Args:
        path: The job file.
        config: Where data are and results go, and how the encoder is run.

    Returns:
        The content of `<job>.json`.

    Raises:
        ConfigError: The job file cannot be, or the weights it starts from are not given.
        DatasetError: A copy of a data set is not there, or lacks files.
        TrainingError: The training cannot go on.
    """
    job, out = read_job(path), Path(config.out)
    roots = {scored.dataset: _root(config.root, scored.dataset) for scored in job.tests}
    encoder = fit(_training(job, config))
    if not is_first_process():
        return {}
    results: dict[str, Any] = {"job": path.stem, "title": job.title, "tests": {}}
    for scored in job.tests:
        settings = _scoring(job, scored, config, roots[scored.dataset], out / f"{path.stem}_{scored.name}.json")
        results["tests"][scored.name] = _scored(encoder, settings)
    results["encoder"] = {"fingerprint": encoder.fingerprint(), **encoder.notes}
    results["published"] = [
        {"method": row.method, "source": row.source, "test": row.test, "fov_deg": row.fov_deg, **row.figures}
        for row in job.published
    ]
    with full_disk_told(out):
        write_json(out / f"{path.stem}.json", results)
        with write_text(out / f"{path.stem}.md") as file:
            file.write(table(job, results))
    return results


def table(job: JobConfig, results: dict[str, Any]) -> str:
    """Returns Markdown: a table for each test, ours and what is published for each field of view.

    Args:
        job: The job.
        results: Of `run_job`.
    """
    parts = [f"# {job.title}\n"]
    for scored in job.tests:
        found = results["tests"][scored.name]
        published = [row for row in job.published if row.test == scored.name]
        rows = []
        for view, figures in found["views"].items():
            kept = {name: 100 * value for name, value in figures.items() if name in SHARES and value is not None}
            rows.append((f"geoview, {view}°", kept, "this run"))
            rows += [_published(row, view) for row in published if f"{row.fov_deg:g}" == view]
        columns = [name for name in SHARES if any(name in figures for _, figures, _ in rows)]
        lines = [["", *(SHARES[name] for name in columns), "source"], ["---", *["---:"] * len(columns), "---"]]
        lines += [[label, *(percent(figures.get(name)) for name in columns), source] for label, figures, source in rows]
        parts.append(f"{scored.name}: {found['n_queries']} queries, {found['n_references']} references\n")
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n")
    return "\n".join(parts)


def _published(row: PublishedConfig, view: str) -> tuple[str, dict[str, float], str]:
    return f"{row.method}, {view}°", row.figures, row.source


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read as a job: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError("is no job: it holds no fields")
    base = content.pop("extends", None)
    return content if base is None else merged(_read(path.parent / str(base)), content)


def _root(root: str, dataset: str) -> Path:
    """Returns where a data set is: the folder itself, or the one of its name in it."""
    for folder in (Path(root), Path(root, dataset)):
        if folder.is_dir() and recognise(folder) == dataset:
            return folder
    raise DatasetError(
        f"{root}: is no copy of {dataset} and has none in {dataset}/; get it as {DATASETS[dataset].page} tells, or "
        "give another root"
    )


def _training(job: JobConfig, config: BenchmarkConfig) -> TrainConfig:
    if job.weights is not None and config.pretrained is None:
        raise ConfigError(
            f"the job starts from {job.weights}; name their file with --pretrained, or give --pretrained random"
        )
    dataset = str(job.train.get("data", {}).get("pairs", ""))
    if dataset not in DATASETS:
        raise ConfigError(f"train.data.pairs: {dataset!r} is no data set; known are {', '.join(DATASETS)}")
    given: dict[str, Any] = {
        "out": str(Path(config.out, "training")),
        "data": {"pairs": str(_root(config.root, dataset))},
        "device": config.device,
        "precision": config.precision,
        "processes": config.processes,
        "num_workers": config.num_workers,
    }
    if config.pretrained not in (None, "random"):
        given["encoder"] = {"pretrained": config.pretrained}
    return from_mapping(TrainConfig, merged(job.train, given))


def _scoring(job: JobConfig, scored: ScoredConfig, config: BenchmarkConfig, root: Path, out: Path) -> EvaluateConfig:
    return EvaluateConfig(
        out=str(out),
        dataset=scored.dataset,
        root=str(root),
        encoder=str(Path(config.out, "training", "encoder")),
        split=scored.split,
        labels=scored.labels,
        fov_deg=scored.fov_deg,
        turned=scored.turned,
        as_published=scored.as_published,
        batch_size=config.batch_size,
        device=config.device,
        precision=config.precision,
        num_workers=config.num_workers,
    )


def _scored(encoder: CrossViewEncoder, settings: EvaluateConfig) -> dict[str, Any]:
    """Scores, unless that has been done with this encoder."""
    out = Path(settings.out)
    if out.exists():
        known: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        if known["encoder"]["fingerprint"] == encoder.fingerprint():
            log.info("%s: scored already", out)
            return known
    results = evaluate_dataset(encoder, open_table(settings), settings)
    with full_disk_told(out):
        write_json(out, results)
    return results
