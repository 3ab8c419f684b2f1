"""Prototypes that are learnt beside an encoder: by one process or several, and through a kill."""

import csv
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from geoview.config import (
    AerialView,
    AugmentConfig,
    DataConfig,
    EncoderConfig,
    GroundView,
    OptimiserConfig,
    PrototypesConfig,
    TrainConfig,
)
from geoview.data.pairs import PairTable
from geoview.errors import ConfigError, PairTableError
from geoview.geo import cells
from geoview.models import CrossViewEncoder
from geoview.models.prototypes import LearntPrototypes
from geoview.training.fit import fit
from geoview.training.prototypes import PrototypeLearning

DIM = 8
DRAWN = (
    *("gamma", "channel_mix", "gain", "saturation", "contrast", "brightness"),
    *("greyscale_share", "blur_share", "noise", "erase_share"),
)
SCALE = torch.tensor(2.0)


def places(n=12, step_deg=0.001):
    """Photos about 110 m apart from south to north, so that some share a prototype's cell and others do not."""
    return np.stack([-33.9 + step_deg * np.arange(n), np.full(n, -70.6)], axis=1)


def table(latlon_deg):
    n = len(latlon_deg)
    return PairTable.of(
        [f"{i}.jpg" for i in range(n)], [f"{i}.png" for i in range(n)], np.arange(n), latlon_deg=latlon_deg
    )


def unit(n, seed):
    return F.normalize(torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)))


def learnt_together(config, steps=1, rank=0, processes=1):
    """Loss of each step, gradients by the embeddings, and the table after, of one of several processes."""
    learning = PrototypeLearning(table(places()), DIM, config, seed=3, rank=rank, processes=processes)
    pairs = np.array([0, 3, 4, 9])
    losses, gradients = [], []
    for step in range(steps):
        query, reference = (unit(4, seed).requires_grad_() for seed in (1, 2))
        loss = learning.loss(pairs, query, reference, SCALE, step)
        loss.backward()
        learning.move(1.0)
        losses.append(loss.detach())
        gradients += [query.grad, reference.grad]
    return losses, gradients, learning


@pytest.mark.parametrize("border", [False, True])
def test_the_loss_is_that_of_finding_the_own_prototype(border):
    config = PrototypesConfig(border=border, negatives=0, aerial_weight=0.5)
    losses, _, learning = learnt_together(config)
    vectors = PrototypeLearning(table(places()), DIM, config, seed=3).rows.vectors
    expected = 0.0
    for weight, embeddings in ((1.0, unit(4, 1)), (0.5, unit(4, 2))):
        for i, pair in enumerate([0, 3, 4, 9]):
            leaf = cells.cell_ids(places()[pair], cells.MAX_LEVEL)
            if border:
                ids, share = cells.surrounding(leaf, 15)
            else:
                ids, share = cells.parents(leaf, 15)[None], np.ones(1)
            rows = np.searchsorted(learning.cell, ids)
            own = F.normalize((torch.from_numpy(share).float()[:, None] * vectors[rows]).sum(dim=0), dim=0)
            others = [row for row in range(len(vectors)) if row not in rows]
            logits = SCALE.exp() * torch.cat([own[None], vectors[others]]) @ embeddings[i]
            expected += weight * F.cross_entropy(logits[None], torch.tensor([0])) / 4
    torch.testing.assert_close(losses[0], expected)


def test_prototypes_come_to_say_what_photos_show():
    *_, learning = learnt_together(PrototypesConfig(border=False, learning_rate=0.05), steps=60)
    rows = np.searchsorted(learning.cell, cells.cell_ids(places()[[0, 9]], 15))
    alike = learning.rows.vectors[rows] @ (unit(4, 1) + unit(4, 2))[[0, 3]].T
    assert alike[0, 0] > alike[0, 1] + 0.3
    assert alike[1, 1] > alike[1, 0] + 0.3


def in_process(rank, processes, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/m", rank=rank, world_size=processes)
    losses, gradients, learning = learnt_together(PrototypesConfig(negatives=0), 3, rank, processes)
    torch.save((losses, gradients, learning.whole()), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_that_share_a_table_learn_what_one_does(processes, tmp_path):
    losses, gradients, learning = learnt_together(PrototypesConfig(negatives=0), 3)
    torch.multiprocessing.start_processes(in_process, (processes, tmp_path), nprocs=processes, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    for part in parts:
        torch.testing.assert_close(part[0], losses, rtol=0, atol=1e-5)
        torch.testing.assert_close(part[2], learning.rows.state(), rtol=0, atol=1e-5)
    # Each has the whole batch here, so that the mean of its gradients over the processes is that of one.
    for i, gradient in enumerate(gradients):
        torch.testing.assert_close(sum(part[1][i] for part in parts) / processes, gradient, rtol=0, atol=1e-5)


def test_sampled_negatives_are_drawn_by_the_step_and_hold_the_batch():
    learning = PrototypeLearning(table(places(60, 0.01)), DIM, PrototypesConfig(negatives=10, border=False), seed=0)
    own = torch.arange(3, 7)
    drawn = [learning._candidates(own, step) for step in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for each in drawn:
        assert set(own.tolist()) <= set(each.tolist())
        assert 10 <= len(each) <= 14
        assert (each.diff() > 0).all()


def test_a_pair_without_a_place_is_named():
    latlon_deg = places()
    latlon_deg[4] = np.nan
    with pytest.raises(PairTableError, match=r"1 pairs tell no lat and lon \(the first is pair 5\)"):
        PrototypeLearning(table(latlon_deg), DIM, PrototypesConfig(), seed=0)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    """Twelve street photos and tiles of one walk."""
    rng = np.random.default_rng(0)
    lines = [["query_path", "reference_path", "lat", "lon", "heading_deg", "fov_deg"]]
    for i, (lat, lon) in enumerate(places().tolist()):
        for kind, size in (("pano", (64, 256, 3)), ("tile", (40, 40, 3))):
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(tmp_path / f"{kind}{i}.png")
        lines.append([f"pano{i}.png", f"tile{i}.png", str(lat), str(lon), "0", "360"])
    with (tmp_path / "street.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    tiny = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "drop_path_rate": 0.0}
    return TrainConfig(
        out=str(tmp_path / "run"),
        data=DataConfig(str(tmp_path / "street.csv")),
        encoder=EncoderConfig("convnext_atto", tiny, aerial=AerialView(32, 1.2), ground=GroundView(64, 32)),
        augment=AugmentConfig(turn=False, flip=False, **dict.fromkeys(DRAWN, 0.0)),
        optimiser=OptimiserConfig(steps=6, batch_size=6, warmup_steps=2, learning_rate=1e-3),
        prototypes=PrototypesConfig(negatives=0),
        device="cpu",
        precision="fp32",
        num_workers=0,
        checkpoint_every_steps=2,
    )


def test_a_run_leaves_prototypes_of_its_encoder(config):
    encoder = fit(config)
    found = LearntPrototypes.open(config.out)
    assert found.encoder == encoder.fingerprint()
    expected = np.unique(cells.surrounding(cells.cell_ids(places(), cells.MAX_LEVEL), 15)[0])
    assert np.array_equal(found.cell, expected)
    np.testing.assert_allclose(np.linalg.norm(found.vector, axis=1), 1.0, atol=1e-5)
    without = fit(replace(config, out=config.out + "_without", prototypes=None))
    assert without.fingerprint() != encoder.fingerprint(), "the encoder learns from prototypes, too"


def test_a_run_that_was_cut_off_learns_the_same_prototypes(config, monkeypatch):
    fit(config)
    cut = replace(config, out=config.out + "_cut")
    from geoview.training import task

    whole = task.ContrastiveTask.on_train_batch_start

    def stops(self, batch, batch_idx):
        if self.global_step == 5:
            raise KeyboardInterrupt
        whole(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(task.ContrastiveTask, "on_train_batch_start", stops)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(cut)
    assert not (Path(cut.out) / "prototypes.safetensors").exists()
    fit(cut)
    a, b = (LearntPrototypes.open(each.out) for each in (config, cut))
    assert a.encoder == b.encoder
    assert np.array_equal(a.vector, b.vector)


def test_prototypes_are_those_of_the_encoder_that_is_kept(config, tmp_path):
    # Two blocks of a kilometre, one of which is held out.
    lines = (tmp_path / "street.csv").read_text().splitlines()
    moved = [line.replace("-70.6", "-70.7") if i > 6 else line for i, line in enumerate(lines)]
    (tmp_path / "street.csv").write_text("\n".join(moved) + "\n")
    encoder = fit(
        replace(
            config,
            data=replace(config.data, validation_share=0.5),
            optimiser=replace(config.optimiser, batch_size=3),
        )
    )
    assert encoder.notes["metrics"]["validation_pairs"]
    assert LearntPrototypes.open(config.out).encoder == encoder.fingerprint()


def test_two_processes_learn_the_prototypes_of_one(config, tmp_path):
    two = replace(config, out=str(tmp_path / "two"), processes=2)
    fit(config)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(asdict(two)))
    command = [sys.executable, "-m", "geoview", "train", "--config", str(tmp_path / "two.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    a, b = (LearntPrototypes.open(each.out) for each in (config, two))
    assert b.encoder == CrossViewEncoder.load(Path(two.out) / "encoder").fingerprint()
    np.testing.assert_allclose(a.vector, b.vector, atol=2e-3)


def test_what_prototypes_cannot_be_learnt_of_is_refused(config):
    with pytest.raises(ConfigError, match=r"a place that is turned or mirrored is another: set augment\.turn"):
        replace(config, augment=AugmentConfig())
    with pytest.raises(ConfigError, match=r"prototypes are learnt of street photos: set data\.query_view"):
        replace(config, data=replace(config.data, query_view="aerial"))
    with pytest.raises(ConfigError, match=r"prototypes\.level must be between 10 and 20"):
        PrototypesConfig(level=21)
