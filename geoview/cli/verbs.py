"""Verbs that train and score encoders, and those that answer and tell."""

from __future__ import annotations

import json
from pathlib import Path

from geoview.cli.arguments import OK, SOME_FAILED, Namespace, config_of
from geoview.config import BenchmarkConfig, EvaluateConfig, ServeConfig, TrainConfig
from geoview.errors import ConfigError
from geoview.files import full_disk_told, write_json

__all__ = ["benchmark", "evaluate", "info", "serve", "train"]


def train(arguments: Namespace) -> int:
    """Trains an encoder."""
    config = config_of(TrainConfig, arguments)
    from geoview.training.fit import fit, is_first_process

    encoder = fit(config)
    if is_first_process():
        print(json.dumps({"encoder": str(Path(config.out, "encoder")), **encoder.notes}, indent=1))
    return OK


def evaluate(arguments: Namespace) -> int:
    """Scores an encoder on a data set, or an index on photos."""
    config: EvaluateConfig = config_of(EvaluateConfig, arguments)
    from geoview.evaluate import report

    out = Path(config.out)
    report.check_output(out, overwrite=config.overwrite)
    if config.index is None:
        from geoview.evaluate.dataset import evaluate_dataset
        from geoview.evaluate.protocols import open_table
        from geoview.models.encoder import CrossViewEncoder

        assert config.encoder is not None, "EvaluateConfig checks this"
        results = evaluate_dataset(CrossViewEncoder.load(config.encoder), open_table(config), config)
    else:
        from geoview.evaluate.photos import evaluate_photos
        from geoview.index.cell_index import CellIndex

        results = evaluate_photos(CellIndex.open(config.index), config)
    with full_disk_told(out):
        write_json(out, results)
    print(report.markdown(results))
    return SOME_FAILED if results["n_unreadable"] or results.get("n_without_position") else OK


def benchmark(arguments: Namespace) -> int:
    """Trains and scores by a job file."""
    config: BenchmarkConfig = config_of(BenchmarkConfig, arguments)
    from geoview.benchmark import read_job, run_job, table

    job = Path(arguments.job)
    results = run_job(job, config)
    if results:
        print(table(read_job(job), results), end="")
    return SOME_FAILED if any(test["n_unreadable"] for test in results.get("tests", {}).values()) else OK


def serve(arguments: Namespace) -> int:
    """Answers over HTTP until it is stopped."""
    config: ServeConfig = config_of(ServeConfig, arguments)
    try:
        from geoview.serve.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("geoview", "tiles"):
            raise
        raise ConfigError(f"the service needs {error.name}: pip install 'geoview[serve]'") from error
    serve(config)
    return OK


def info(arguments: Namespace) -> int:
    """Tells what a path is, or what geoview runs on."""
    from geoview.describe import describe, environment

    print(json.dumps(environment() if arguments.path is None else describe(arguments.path), indent=1))
    return OK
