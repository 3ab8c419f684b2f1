"""Every job of benchmarks/jobs in small, on data in the published layouts, through the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from geoview.benchmark import read_job, run_job
from geoview.cli import main
from geoview.config import BenchmarkConfig, TrainConfig, from_mapping
from geoview.errors import ConfigError, DatasetError

JOBS = sorted((Path(__file__).parents[1] / "benchmarks" / "jobs").glob("*.yaml"))
# A network of a few thousand weights, and four batches.
SMALL = {
    "data": {"validation_share": 0.2, "neighbours": 4, "neighbours_a_seed": 2},
    "encoder": {
        "backbone": "convnext_atto",
        "backbone_args": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
        "ground": {"width_px": 64, "height_px": 32},
        "aerial": {"size_px": 32},
    },
    "optimiser": {"steps": 4, "batch_size": 3, "warmup_steps": 1},
    "checkpoint_every_steps": 2,
}


@pytest.fixture
def root(twins, tmp_path):
    """Small twins of all data sets, each in a folder of its name."""
    twins.write_cvusa(tmp_path / "data/cvusa", 8, 3)
    twins.write_cvact(tmp_path / "data/cvact", 8, 2, 4)
    twins.write_vigor(tmp_path / "data/vigor")
    twins.write_university1652(tmp_path / "data/university1652", 8, 3, 1)
    return tmp_path / "data"


def small(job: Path, folder: Path, **over) -> Path:
    """Writes a job of the same name that is another one in small."""
    path = folder / job.name
    path.write_text(yaml.safe_dump({"extends": str(job), "train": SMALL, **over}))
    return path


def run(job, root, out, *flags):
    return main(["benchmark", str(job), "--root", str(root), "--out", str(out), "--device", "cpu", *flags])


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_every_job_runs_in_small(job, root, tmp_path, capsys):
    assert run(small(job, tmp_path), root, tmp_path / "out", "--pretrained", "random") == 0
    results = json.loads((tmp_path / f"out/{job.stem}.json").read_text())
    wanted = read_job(job)
    assert list(results["tests"]) == [scored.name for scored in wanted.tests]
    for scored in wanted.tests:
        found = results["tests"][scored.name]
        assert (found["dataset"], found["split"]) == (scored.dataset, scored.split)
        assert found["n_queries"] > 0
        assert list(found["views"]) == [f"{fov_deg:g}" for fov_deg in scored.fov_deg]
        for figures in found["views"].values():
            assert 0 <= figures["recall_at_1"] <= 1
            assert figures["recall_at_1_percent"] > 0 or figures["recall_at_1"] == 0
        if scored.as_published:
            assert figures["distractors_removed"]["n_references"] < found["n_references"]
    shown = capsys.readouterr().out
    assert shown == (tmp_path / f"out/{job.stem}.md").read_text()
    for row in wanted.published:
        assert row.method in shown
        assert f"{row.figures['recall_at_1']:.2f}" in shown
    # What is kept was chosen on the training pairs that were held out.
    assert results["encoder"]["metrics"]["validation_pairs"] > 0


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_every_job_is_a_training_that_can_be(job):
    content = read_job(job)
    config = from_mapping(TrainConfig, {**content.train, "out": "unused"})
    assert 0 < config.data.validation_share < 0.5, "the best is never chosen on the test split"
    assert config.data.split.endswith("train")
    assert config.optimiser.steps % config.checkpoint_every_steps == 0
    for row in content.published:
        assert all(1 <= figure <= 100 for figure in row.figures.values()), "percent"
        assert row.source


def test_a_job_goes_on_and_a_finished_one_is_only_told(root, tmp_path, capsys, monkeypatch):
    from geoview import benchmark

    job, out = small(JOBS[0], tmp_path), tmp_path / "out"
    flags = ("--pretrained", "random")

    def cut_off(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(benchmark, "evaluate_dataset", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_job(job, BenchmarkConfig(root=str(root), out=str(out), pretrained="random", device="cpu"))
    weights = out / "training/encoder/model.safetensors"
    trained = weights.stat().st_mtime_ns
    assert run(job, root, out, *flags) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(benchmark, "evaluate_dataset", cut_off)
    assert run(job, root, out, *flags) == 0
    assert capsys.readouterr().out == first
    assert weights.stat().st_mtime_ns == trained


def test_jobs_that_train_alike_share_a_folder(root, tmp_path):
    names = {job.stem: job for job in JOBS}
    out = tmp_path / "out"
    for name in ("cvusa", "cvusa_to_cvact"):
        assert run(small(names[name], tmp_path), root, out, "--pretrained", "random") == 0
    both = [json.loads((out / f"{name}.json").read_text()) for name in ("cvusa", "cvusa_to_cvact")]
    assert both[0]["encoder"] == both[1]["encoder"]
    assert both[0]["tests"].keys() != both[1]["tests"].keys()


def test_the_root_may_be_the_data_set_itself(root, tmp_path):
    job = next(job for job in JOBS if job.stem == "vigor_cross")
    assert run(small(job, tmp_path), root / "vigor", tmp_path / "out", "--pretrained", "random") == 0


def test_what_is_not_there_ends_the_job_with_a_reason(root, tmp_path, capsys):
    job = next(job for job in JOBS if job.stem == "cvusa")
    assert run(small(job, tmp_path), root, tmp_path / "out") == 2
    assert "--pretrained" in capsys.readouterr().err
    assert run(small(job, tmp_path), root, tmp_path / "out", "--pretrained", str(tmp_path / "none")) == 2
    (root / "cvusa").rename(tmp_path / "elsewhere")
    assert run(small(job, tmp_path), root, tmp_path / "out", "--pretrained", "random") == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is no copy of cvusa and has none in cvusa/; get it as" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1, 2]", "is no job"),
        ("title: x\ntests: []\ntrain: {}", "a job scores something"),
        ("title: x\ntrain: {}\ntests: [{name: a, dataset: cvusa, split: test}]\npublished: "
         "[{method: m, source: s, test: b, figures: {}}]", "'b' is the name of no test"),
        ("title: [", "cannot be read as a job"),
        ("extends: none.yaml", "cannot be read as a job"),
    ],
)  # fmt: skip
def test_job_files_that_cannot_be_are_told_apart(content, reason, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=reason) as raised:
        read_job(path)
    assert str(path) in str(raised.value)


def test_a_job_trains_on_a_data_set(root, tmp_path):
    job = small(JOBS[0], tmp_path, train={**SMALL, "data": {"pairs": "mine.csv"}})
    with pytest.raises(ConfigError, match=r"train\.data\.pairs: 'mine.csv' is no data set"):
        run_job(job, BenchmarkConfig(root=str(root), out=str(tmp_path / "out"), pretrained="random"))
    config = BenchmarkConfig(root=str(tmp_path / "nowhere"), out=str(tmp_path / "out"), pretrained="random")
    with pytest.raises(DatasetError, match="nowhere: is no copy"):
        run_job(small(JOBS[0], tmp_path), replace(config))
