"""Training runs: what they learn from, what they leave behind, and what a kill costs."""

import csv
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import tiles
from geoview.config import (
    AerialView,
    AugmentConfig,
    DataConfig,
    EncoderConfig,
    GroundView,
    OptimiserConfig,
    TrainConfig,
)
from geoview.data.pairs import PairTable
from geoview.errors import BusyError, ConfigError, OutputExistsError, PairTableError, TrainingError
from geoview.files import exclusive
from geoview.geo.sphere import destination_deg
from geoview.models import CrossViewEncoder
from geoview.training.fit import fit

TINY = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "drop_path_rate": 0.2}


@pytest.fixture
def config(tmp_path, ortho) -> TrainConfig:
    """Eight places of one orthophoto that is its own second date."""
    middle = tiles.open_source(ortho).coverage().centroid
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lat", "lon"])
        for bearing_deg in range(0, 360, 45):
            writer.writerow(destination_deg(np.array([middle.y, middle.x]), bearing_deg, 300.0).tolist())
    return TrainConfig(
        out=str(tmp_path / "run"),
        data=DataConfig(
            str(tmp_path / "pairs.csv"),
            query_view="aerial",
            query_imagery=[str(ortho)],
            reference_imagery=[str(ortho)],
        ),
        encoder=EncoderConfig(
            "convnext_atto", TINY, colour="picture", aerial=AerialView(32, 4.8), ground=GroundView(64, 32)
        ),
        augment=AugmentConfig(crop_min_share=0.7, reference_offset_m=10),
        optimiser=OptimiserConfig(steps=6, batch_size=8, warmup_steps=2, learning_rate=2e-3),
        device="cpu",
        num_workers=0,
        checkpoint_every_steps=2,
    )


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    files = sorted((Path(config.out) / "encoder").glob("*.safetensors"))
    return {key: tensor for file in files for key, tensor in load_file(file).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_learns_and_leaves_an_encoder_and_its_config(config):
    config = replace(config, optimiser=replace(config.optimiser, steps=60, label_smoothing=0.0))
    encoder = fit(config)
    out = Path(config.out)
    assert CrossViewEncoder.load(out / "encoder").fingerprint() == encoder.fingerprint()
    assert yaml.safe_load((out / "config.yaml").read_text())["optimiser"]["steps"] == 60
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["50", "60"]
    # Chance is ln 8 = 2.08: places of one orthophoto must be told apart.
    assert float(rows[-1]["loss"]) < 1.5
    assert float(rows[-1]["learning_rate"]) < config.optimiser.learning_rate / 100


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(config, tmp_path):
    other = replace(config, out=str(tmp_path / "again"), num_workers=2)
    third = replace(config, out=str(tmp_path / "third"), seed=1)
    for each in (config, other, third):
        fit(each)
    assert same(weights(config), weights(other))
    assert not same(weights(config), weights(third))


@pytest.mark.parametrize("mining", ["none", "similarity"])
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(config, tmp_path, mining):
    config = replace(config, data=replace(config.data, mining=mining, mine_every_epochs=1, neighbours=3))
    optimiser = replace(config.optimiser, steps=12, batch_size=4)
    whole = replace(config, out=str(tmp_path / "whole"), optimiser=optimiser)
    fit(whole)
    cut = replace(whole, out=str(tmp_path / "cut"))
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump(asdict(cut)))
    command = [sys.executable, "-m", "geoview", "train", "--config", str(tmp_path / "cut.yaml")]
    # As many threads as here: sums in another order differ in the last bit.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **threads}
    )
    checkpoint = Path(cut.out) / "last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (Path(cut.out) / "encoder").exists()
    fit(cut)
    assert same(weights(whole), weights(cut))


def test_a_finished_run_is_not_trained_again(config):
    fit(config)
    before = (Path(config.out) / "encoder" / "model.safetensors").stat().st_mtime_ns
    fit(config)
    assert (Path(config.out) / "encoder" / "model.safetensors").stat().st_mtime_ns == before


def test_a_run_of_another_config_is_refused_and_the_keys_are_named(config):
    fit(config)
    with pytest.raises(TrainingError, match=r"augment\.gamma.*optimiser\.learning_rate"):
        fit(
            replace(
                config,
                augment=replace(config.augment, gamma=0.9),
                optimiser=replace(config.optimiser, learning_rate=1e-5),
            )
        )
    fit(replace(config, num_workers=1))  # how fast, not what


def test_folders_and_runs_of_others_are_left_alone(config, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(OutputExistsError, match="other files"):
        fit(replace(config, out=str(tmp_path / "other")))
    with exclusive(Path(config.out)), pytest.raises(BusyError, match=str(os.getpid())):
        fit(config)


def test_a_batch_larger_than_the_data_is_refused(config):
    with pytest.raises(TrainingError, match=r"8 training pairs are fewer than optimiser\.batch_size 9"):
        fit(replace(config, optimiser=replace(config.optimiser, batch_size=9)))


def test_pairs_without_files_need_imagery(config):
    with pytest.raises(ConfigError, match=r"data\.reference_imagery"):
        fit(replace(config, data=replace(config.data, reference_imagery=[])))
    with pytest.raises(PairTableError, match="query_path"):
        fit(replace(config, data=replace(config.data, query_view="ground")))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(config, monkeypatch):
    from geoview.training import task

    losses = iter([task.info_nce] * 3)
    monkeypatch.setattr(
        task,
        "info_nce",
        lambda *a, **k: next(losses, lambda *_, **__: torch.tensor(torch.nan, requires_grad=True))(*a, **k),
    )
    with pytest.raises(TrainingError, match=r"step 3 \(a batch with pair 2, .*\) is not finite"):
        fit(config)
    assert (Path(config.out) / "last.ckpt").exists()
    assert not (Path(config.out) / "encoder").exists()


def test_no_steps_write_the_pretrained_weights_as_they_are(config, tmp_path):
    torch.manual_seed(3)
    published = CrossViewEncoder("convnext_atto", ground=GroundView(), aerial=AerialView(), backbone_args=TINY)
    state = {f"model.{k}": v for k, v in published.backbone.state_dict().items()}
    save_file({**state, "logit_scale": torch.tensor(3.5)}, tmp_path / "weights.safetensors")
    encoder = fit(
        replace(
            config,
            encoder=replace(config.encoder, pretrained=str(tmp_path / "weights.safetensors")),
            optimiser=replace(config.optimiser, steps=0),
        )
    )
    assert same(weights(config), dict(published.backbone.state_dict()))
    assert encoder.notes["logit_scale"] == pytest.approx(3.5)


def test_street_photos_against_tiles_with_validation(config, tmp_path):
    rng = np.random.default_rng(0)
    lines = [["query_path", "reference_path", "lat", "lon"]]
    for i in range(12):
        for kind, size in (("pano", (64, 256, 3)), ("tile", (40, 40, 3))):
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / f"{kind}{i}.png")
        lines.append([f"pano{i}.png", f"tile{i}.png", str(-33.9 + i / 50), "-70.6"])
    with (tmp_path / "street.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    street = replace(
        config,
        data=DataConfig(str(tmp_path / "street.csv"), validation_share=0.34),
        optimiser=replace(config.optimiser, batch_size=4),
    )
    with pytest.raises(ConfigError, match=r"crop_min_share.*street\.csv names picture files"):
        fit(street)
    encoder = fit(replace(street, augment=AugmentConfig()))
    assert encoder.notes["metrics"]["validation_pairs"] == 4
    assert encoder.notes["training"]["pairs"] == 8
    assert 0 <= encoder.notes["metrics"]["validation_recall_at_1"] <= 1


@pytest.fixture
def shared(config, tmp_path):
    """Twelve panoramas, four a kilometre, which share a tile each four, and the run on them."""
    rng = np.random.default_rng(0)
    lines = [["query_path", "reference_path", "lat", "lon"]]
    for i in range(12):
        tile = f"tile{i // 4}.png"
        for name, size in ((f"pano{i}.png", (64, 256, 3)), (tile, (40, 40, 3))):
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / name)
        lines.append([f"pano{i}.png", tile, str(-33.9 + i // 4 / 10 + i / 1e6), "-70.6"])
    with (tmp_path / "street.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return replace(
        config,
        data=DataConfig(str(tmp_path / "street.csv"), validation_share=0.34),
        augment=AugmentConfig(),
        optimiser=replace(config.optimiser, batch_size=4),
    )


def test_a_reference_that_queries_share_is_one_to_be_found(shared):
    encoder = fit(replace(shared, optimiser=replace(shared.optimiser, steps=0)))
    assert encoder.notes["metrics"] == {"validation_pairs": 4} | {f"validation_recall_at_{k}": 1.0 for k in (1, 5, 10)}


@pytest.mark.parametrize(("share", "told"), [(0.05, "4 of 12 pairs are held out"), (0.34, "")])
def test_blocks_too_large_for_the_share_are_told(shared, caplog, share, told):
    fit(
        replace(shared, data=replace(shared.data, validation_share=share), optimiser=replace(shared.optimiser, steps=0))
    )
    assert ("held out" in caplog.text) == bool(told)
    assert told in caplog.text


def test_queries_that_share_a_reference_are_not_pushed_apart(shared, tmp_path):
    lines = (tmp_path / "street.csv").read_text().splitlines()
    (tmp_path / "street.csv").write_text("\n".join(lines[:5]) + "\n")
    fit(replace(shared, data=replace(shared.data, validation_share=0.0)))
    rows = list(csv.DictReader((Path(shared.out) / "metrics.csv").open()))
    assert float(rows[-1]["loss"]) == 0.0, "a batch of one place has nothing to tell apart"


# -- mining ------------------------------------------------------------------------------------------------------------


def mined(config, **data):
    data = {"mine_every_epochs": 2, "neighbours": 3, "neighbours_a_seed": 2} | data
    optimiser = replace(config.optimiser, steps=9, batch_size=4)  # two batches an epoch
    return replace(config, data=replace(config.data, **data), optimiser=optimiser)


def test_neighbours_on_the_ground_are_mined_once(config):
    fit(mined(config, mining="gps"))
    folder = Path(config.out) / "neighbours"
    assert [path.name for path in folder.iterdir()] == ["0.npy"]
    # Eight places on a circle, by their number: the two beside each are its nearest.
    found = np.load(folder / "0.npy")
    assert [set(row[:2]) for row in found] == [{(i - 1) % 8, (i + 1) % 8} for i in range(8)]


def test_likeness_is_mined_anew_every_few_epochs(config):
    fit(mined(config, mining="similarity"))
    found = {path.stem: np.load(path) for path in (Path(config.out) / "neighbours").iterdir()}
    # Nine steps are four and a half epochs, mined before the first, the third and the fifth.
    assert set(found) == {"0", "1", "2"}
    for rows in found.values():
        assert rows.shape == (8, 3)
        assert not (rows == np.arange(8)[:, None]).any(), "nothing is its own hard negative"
    assert not np.array_equal(found["0"], found["1"])
    assert not np.array_equal(found["1"], found["2"])


def test_rounds_of_any_length_make_the_same_batches(config, tmp_path):
    config = mined(config, mining="similarity")
    long = replace(config, out=str(tmp_path / "long"), checkpoint_every_steps=7)
    fit(config)
    fit(long)
    assert same(weights(config), weights(long))


def test_pairs_that_tell_no_position_have_no_neighbours_on_the_ground(config, tmp_path):
    for i in range(8):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{i}.png" for i in range(8)]
    (tmp_path / "pairs.csv").write_text("\n".join(["query_path,reference_path", *rows]))
    plain = replace(mined(config, mining="gps"), augment=AugmentConfig())
    with pytest.raises(PairTableError, match=r"8 pairs tell no lat and lon .*data\.mining"):
        fit(plain)


@pytest.mark.parametrize("mining", ["gps", "similarity"])
def test_fewer_pairs_than_neighbours_are_asked_for(config, caplog, mining):
    config = mined(config, mining=mining, neighbours=10**9)
    with caplog.at_level(logging.INFO):
        fit(config)
    told = [message for message in caplog.messages if "data.neighbours is 1000000000" in message]
    assert len(told) == 1
    assert told[0].endswith("a pair has 7 others to be mined: all of them are taken")
    for path in (Path(config.out) / "neighbours").iterdir():
        # All others, once each, and room for no more.
        found = np.load(path)
        assert [sorted([i, *row]) for i, row in enumerate(found.tolist())] == [list(range(8))] * 8


def test_without_mining_nothing_is_said_of_neighbours(config, caplog):
    with caplog.at_level(logging.INFO):
        fit(replace(config, optimiser=replace(config.optimiser, steps=0)))
    assert "neighbours" not in caplog.text


# -- data of one's own -------------------------------------------------------------------------------------------------


def test_a_run_on_a_folder_of_photos_and_on_its_table_in_parquet(config, tmp_path, ortho):
    rng = np.random.default_rng(0)
    places = list(csv.DictReader((tmp_path / "pairs.csv").open()))
    (tmp_path / "photos").mkdir()
    with (tmp_path / "photos/photos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "lat", "lon", "captured_at"])
        for i, place in enumerate(places):
            Image.fromarray(rng.integers(0, 255, (64, 256, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i}.png")
            writer.writerow([f"{i}.png", place["lat"], place["lon"], ""])
    columns = {"path": [f"{i}.png" for i in range(8)]}
    columns |= {name: [float(place[name]) for place in places] for name in ("lat", "lon")}
    pq.write_table(pa.table(columns), tmp_path / "photos/pairs.parquet")
    found = []
    for name in ("photos", "photos/photos.csv", "photos/pairs.parquet"):
        data = DataConfig(str(tmp_path / name), reference_imagery=[str(ortho)])
        run = replace(config, out=str(tmp_path / "runs" / Path(name).name), data=data, augment=AugmentConfig())
        fit(replace(run, optimiser=replace(run.optimiser, steps=2)))
        found.append(weights(run))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_how_many_pictures_may_be_missing_is_a_setting(shared, tmp_path):
    (tmp_path / "pano11.png").unlink()
    with pytest.raises(PairTableError, match=r"1 of 12 pairs .*pano11\.png \(.*street\.csv:13\)"):
        fit(shared)
    shared = replace(shared, data=replace(shared.data, max_missing_share=0.1, validation_share=0.0))
    assert fit(replace(shared, optimiser=replace(shared.optimiser, steps=0))).notes["training"]["pairs"] == 11


# -- published data sets -----------------------------------------------------------------------------------------------


@pytest.fixture
def copies(twins, tmp_path):
    """Small twins of all data sets, by name."""
    root = {name: tmp_path / name for name in ("cvusa", "cvact", "vigor", "university1652")}
    twins.write_cvusa(root["cvusa"], 4, 2)
    twins.write_cvact(root["cvact"], 4, 2, 3)
    twins.write_vigor(root["vigor"], corrected=True)
    twins.write_university1652(root["university1652"], 4, 2)
    return root


@pytest.mark.parametrize(
    ("name", "split", "labels", "query_view"),
    [
        ("cvusa", "train", "original", "ground"),
        ("cvact", "train", "original", "ground"),
        ("vigor", "same_train", "original", "ground"),
        ("vigor", "cross_train", "corrected", "ground"),
        ("university1652", "train", "original", "aerial"),
    ],
)
def test_a_run_on_a_published_data_set(config, copies, name, split, labels, query_view):
    data = DataConfig(str(copies[name]), split, labels, query_view, mining="similarity", mine_every_epochs=1)
    optimiser = replace(config.optimiser, steps=3, batch_size=3)
    encoder = fit(replace(config, data=data, augment=AugmentConfig(), optimiser=optimiser))
    assert encoder.notes["training"]["pairs"] >= 3
    assert (Path(config.out) / "neighbours" / "0.npy").exists()


def test_a_folder_must_hold_photos_or_a_data_set_and_the_split_be_its_own(config, copies, tmp_path):
    def trained(pairs, split=None):
        return fit(replace(config, data=replace(config.data, pairs=str(pairs), split=split)))

    (tmp_path / "empty").mkdir()
    with pytest.raises(
        PairTableError, match=r"empty: holds no photo; .*the whole folder of a data set, or a pair table"
    ):
        trained(tmp_path / "empty")
    with pytest.raises(PairTableError, match=r"photos cannot be paired with the ground, .*: tells no position"):
        trained(copies["vigor"] / "Chicago")
    with pytest.raises(ConfigError, match=r"is vigor; say which data\.split: same_train, same_test, cross_train"):
        trained(copies["vigor"])
    with pytest.raises(ConfigError, match="'best' is no split of vigor"):
        trained(copies["vigor"], "best")
    for pairs in (config.data.pairs, tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(
            ConfigError, match=r"data\.split is of the folders of cvusa, .*and this is none; leave it out"
        ):
            trained(pairs, "train")


# -- the batch of several processes, in parts, and in the mean ---------------------------------------------------------


def plain(config, **optimiser):
    """As `config`, with nothing drawn, in full precision."""
    bare = AugmentConfig(turn=False, flip=False, **dict.fromkeys(LIGHT, 0.0))
    backbone = {**TINY, "drop_path_rate": 0.0}
    optimiser = replace(config.optimiser, **optimiser)
    return replace(
        config,
        augment=bare,
        encoder=replace(config.encoder, backbone_args=backbone),
        optimiser=optimiser,
        precision="fp32",
    )


LIGHT = (
    *("gamma", "channel_mix", "gain", "saturation", "contrast", "brightness"),
    *("greyscale_share", "blur_share", "noise", "erase_share"),
)


def close(a, b):
    """Whether all weights are equal up to sums in another order."""
    return all(torch.allclose(a[k], b[k], rtol=0, atol=2e-4) for k in a)


def task_of(config, drop_path_rate):
    from geoview.training.fit import pictures_of
    from geoview.training.task import ContrastiveTask

    torch.manual_seed(0)
    encoder = CrossViewEncoder.from_config(
        replace(config.encoder, backbone_args={**TINY, "drop_path_rate": drop_path_rate, "ls_init_value": 1.0})
    )
    table = PairTable.from_csv(config.data.pairs)
    return ContrastiveTask(encoder.train(), pictures_of(table, config, augmented=True), config)


def gradients_of(task, embeddings):
    (embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum().backward()
    return {name: p.grad for name, p in task.encoder.named_parameters()}


@pytest.mark.parametrize("size", [3, 1])
def test_micro_batches_have_the_gradient_of_the_whole(config, size):
    pixels, valid = torch.from_numpy(texture_batch(8, 32)), torch.ones(8, 32, 32, dtype=torch.bool)
    gradients = []
    for micro_batch_size in (None, size):
        task = task_of(plain(config, micro_batch_size=micro_batch_size), 0.0)
        gradients.append(gradients_of(task, task._embedded(pixels, valid, "aerial")))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_what_a_micro_batch_drops_it_drops_again_for_the_gradient(config):
    pixels, valid = torch.from_numpy(texture_batch(8, 32)), torch.ones(8, 32, 32, dtype=torch.bool)
    task, again, other = (task_of(plain(config, micro_batch_size=3), 0.5) for _ in range(3))
    torch.manual_seed(5)
    cached = gradients_of(task, task._embedded(pixels, valid, "aerial"))
    # The same parts with the same draws, all kept for the gradient.
    for seed, each in ((5, again), (6, other)):
        torch.manual_seed(seed)
        parts = zip(pixels.split(3), valid.split(3), strict=True)
        kept = gradients_of(each, torch.cat([each.encoder(*part) for part in parts]))
        close_to = [torch.allclose(kept[name], cached[name], rtol=1e-4, atol=1e-5) for name in cached]
        assert all(close_to) == (seed == 5)


def texture_batch(n, size_px):
    return np.random.default_rng(0).integers(0, 255, (n, 3, size_px, size_px)).astype(np.float32)


def test_a_run_in_micro_batches_ends_with_the_same_weights(config, tmp_path):
    whole, parts = plain(config), replace(plain(config, micro_batch_size=3), out=str(tmp_path / "parts"))
    kept = replace(plain(config, gradient_checkpointing=True), out=str(tmp_path / "kept"))
    for each in (whole, parts, kept):
        fit(each)
    assert close(weights(whole), weights(parts))
    assert close(weights(whole), weights(kept))


@pytest.mark.parametrize("head", ["mean", "grid"])
def test_two_processes_end_with_the_weights_of_one(config, head, tmp_path):
    one = plain(replace(config, encoder=replace(config.encoder, head=head, head_size=4)))
    two = replace(one, out=str(tmp_path / "two"), processes=2)
    fit(one)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(asdict(two)))
    command = [sys.executable, "-m", "geoview", "train", "--config", str(tmp_path / "two.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"encoder"') == 1, "one of the processes speaks"
    assert close(weights(one), weights(two))
    rows = [list(csv.DictReader((Path(each.out) / "metrics.csv").open())) for each in (one, two)]
    assert float(rows[0][-1]["loss"]) == pytest.approx(float(rows[1][-1]["loss"]), abs=1e-3)


def test_processes_share_the_threads_of_a_cpu(config, monkeypatch):
    asked, before = [], torch.get_num_threads()
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_, **__: asked.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(5)
        for processes in (1, 2, 4):
            fit(replace(config, out=f"{config.out}_{processes}", processes=processes))
        assert asked == [5, 2, 1]
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)


def test_processes_mine_and_validate_once(shared, tmp_path):
    # Twelve panoramas in three blocks, of which one is held out.
    data = replace(shared.data, mining="similarity", mine_every_epochs=1, neighbours=3, validation_share=0.1)
    whole = plain(replace(shared, data=data), steps=4)
    parted = replace(whole, out=str(tmp_path / "two"), processes=2)
    fit(whole)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(asdict(parted)))
    command = [sys.executable, "-m", "geoview", "train", "--config", str(tmp_path / "two.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("are held out") == 1, "what all of them see, one tells"
    assert close(weights(whole), weights(parted))
    runs = [Path(each.out) for each in (whole, parted)]
    names = [sorted(path.name for path in (run / "neighbours").iterdir()) for run in runs]
    assert names[0] == names[1]
    figures = [CrossViewEncoder.load(run / "encoder").notes["metrics"] for run in runs]
    assert figures[0] == figures[1]
    assert figures[0]["validation_pairs"] == 4


def test_the_running_mean_of_the_weights_is_kept(config, tmp_path):
    last = plain(config, steps=4)
    mean = replace(plain(config, steps=4, ema_decay=0.5), out=str(tmp_path / "mean"))
    fit(last)
    fit(mean)
    assert not same(weights(last), weights(mean))
    # The mean of four steps from the same start: found by training to each of them.
    torch.manual_seed(0)
    expected = None
    for steps in (1, 2, 3, 4):
        task_weights = weights_after(last, steps, tmp_path)
        expected = task_weights if expected is None else {k: (v + task_weights[k]) / 2 for k, v in expected.items()}
    assert close(expected, weights(mean))


def weights_after(config, steps, tmp_path):
    """Weights after so many steps of a run, by its checkpoints: the schedule is that of the whole run."""
    out = tmp_path / f"until_{steps}"
    kept = {}
    from lightning.pytorch.callbacks import ModelCheckpoint

    original = ModelCheckpoint.on_train_epoch_end

    def keep(self, trainer, task):
        kept[trainer.global_step] = {k: v.clone() for k, v in task.encoder.backbone.state_dict().items()}
        original(self, trainer, task)

    ModelCheckpoint.on_train_epoch_end = keep
    try:
        fit(replace(config, out=str(out), checkpoint_every_steps=1))
    finally:
        ModelCheckpoint.on_train_epoch_end = original
    return kept[steps]


@pytest.mark.parametrize("loss", ["decoupled", "multi_similarity"])
def test_other_losses_learn_too(config, loss):
    config = replace(config, optimiser=replace(config.optimiser, steps=60, loss=loss, label_smoothing=0.0))
    fit(config)
    rows = list(csv.DictReader((Path(config.out) / "metrics.csv").open()))
    assert float(rows[-1]["batch_recall_at_1"]) > 0.4  # chance is 0.125


def test_networks_without_gradient_checkpointing_are_refused(config):
    optimiser = replace(config.optimiser, gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="timm's dla34"):
        fit(replace(config, encoder=EncoderConfig("dla34"), optimiser=optimiser))


# -- what is kept, and what is told ------------------------------------------------------------------------------------


def test_the_encoder_that_finds_most_of_the_held_out_pairs_is_kept(shared, monkeypatch):
    from geoview.training import selection

    scores = iter([0.25, 0.75, 0.5])
    found = []

    def search(encoder, pictures, inference):
        found.append({k: v.clone() for k, v in encoder.backbone.state_dict().items()})
        score = next(scores)
        return {"validation_pairs": len(pictures), **{f"validation_recall_at_{k}": score for k in (1, 5, 10)}}

    monkeypatch.setattr(selection, "search_held_out", search)
    encoder = fit(shared)
    assert len(found) == 3, "six steps are three rounds"
    assert encoder.notes["metrics"]["step"] == 4
    assert encoder.notes["metrics"]["validation_recall_at_1"] == 0.75
    assert same(weights(shared), found[1])
    assert not same(weights(shared), found[2])
    rows = {int(row["step"]): row for row in csv.DictReader((Path(shared.out) / "metrics.csv").open())}
    assert [rows[step]["validation_recall_at_1"] for step in (2, 4, 6)] == ["0.25", "0.75", "0.5"]


def test_a_run_leaves_curves_and_what_tensorboard_reads(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(replace(config, optimiser=replace(config.optimiser, steps=100), checkpoint_every_steps=50))
    out = Path(config.out)
    with Image.open(out / "curves.png") as curves:
        assert curves.format == "PNG"
        assert min(curves.size) > 300
        assert len(curves.convert("RGB").getcolors(1 << 20)) > 10, "something is drawn"
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [50, 100]
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert float(rows[-1]["loss"]) == pytest.approx(board.Scalars("loss")[-1].value, rel=1e-3)
    assert float(rows[-1]["pairs_per_s"]) > 0


def test_pictures_that_cannot_be_read_are_named_and_replaced(shared, tmp_path, caplog):
    (tmp_path / "pano5.png").write_bytes(b"no picture")
    config = replace(shared, data=replace(shared.data, validation_share=0.0), num_workers=1)
    encoder = fit(replace(config, optimiser=replace(config.optimiser, steps=6)))
    told = (Path(config.out) / "unreadable.txt").read_text().splitlines()
    assert len(told) == 1
    assert "pano5.png" in told[0]
    assert encoder.notes["training"]["unreadable"] == 1
    assert "pano5.png" in caplog.text


def test_a_run_whose_pictures_are_gone_stops(shared, tmp_path):
    config = replace(shared, data=replace(shared.data, validation_share=0.0))
    for i in range(9):
        (tmp_path / f"pano{i}.png").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"pictures of the 4 pairs of step \d+ cannot be read .*pano"):
        fit(replace(config, optimiser=replace(config.optimiser, steps=12)))
