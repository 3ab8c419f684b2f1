"""Prototypes that a run has learnt, in an index: searched as the mean of photos is, and bound to their encoder."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tiles
from geoview.cli import main
from geoview.config import BuildConfig
from geoview.errors import ConfigError, EncoderMismatchError
from geoview.geo import cells
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.index.upkeep import merge
from geoview.models import CrossViewEncoder
from geoview.models.prototypes import PROTOTYPES_FILE, LearntPrototypes


@pytest.fixture
def run(tmp_path, encoder_folder, index_folder):
    """The folder of a run that has learnt a prototype of every level-15 cell around the orthophoto and one far away."""
    encoder = CrossViewEncoder.load(encoder_folder)
    with CellIndex.open(index_folder) as index:
        ids = np.unique(cells.surrounding(index.cell_ids(), 15)[0])
    ids = np.sort(np.append(ids[1:], cells.cell_ids([-33.9, -70.6], 15)))
    vector = np.random.default_rng(0).normal(size=(len(ids), encoder.dim)).astype(np.float32)
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    learnt = LearntPrototypes(ids, vector, encoder.fingerprint(), 15, True, False)
    (tmp_path / "run").mkdir()
    learnt.save(tmp_path / "run" / PROTOTYPES_FILE)
    encoder.save(tmp_path / "run" / "encoder")
    return tmp_path / "run"


@pytest.fixture
def photos(tmp_path, kit):
    rng = np.random.default_rng(0)
    with (tmp_path / "photos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "lat", "lon"])
        for i in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
            writer.writerow([f"{i}.png", *(kit.CENTRE_DEG + rng.uniform(-0.004, 0.004, 2))])
    return tmp_path / "photos.csv"


def build(run, ortho, out, *more):
    given = {"--encoder": run / "encoder", "--imagery": ortho, "--prototypes": run, "--out": out, "--device": "cpu"}
    return main(["index", "build", *(str(each) for pair in given.items() for each in pair), *map(str, more)])


def test_an_index_has_the_prototypes_of_its_ground_and_scores_with_them(run, ortho, tmp_path, capsys):
    assert build(run, ortho, tmp_path / "index") == 0
    assert "kappa was not fitted" in capsys.readouterr().err
    learnt = LearntPrototypes.open(run)
    with CellIndex.open(tmp_path / "index") as index:
        assert index.verify() == []
        table = index.manifest.prototypes
        assert (table.learnt, table.level, table.border) == (True, 15, True)
        found = index.prototypes()
        assert np.array_equal(found.cell, learnt.cell[cells.cell_ids([-33.9, -70.6], 15) != learnt.cell])
        queries = np.eye(3, index.manifest.dim, dtype=np.float32)
        alone, both = index.search(queries, 5), index.search(queries, 5, kappa=1.0)
        assert np.array_equal(alone.row, index.search(queries, 5, kappa=0.0).row), "nothing until it is fitted"
        # By hand: the direction of the weighted sum of the four around each cell.
        vector_of = dict(zip(learnt.cell.tolist(), learnt.vector, strict=True))
        around, weights = cells.surrounding(index.cell_ids(), 15)
        nothing = np.zeros(index.manifest.dim)
        sums = np.array(
            [
                sum(w * vector_of.get(c, nothing) for c, w in zip(row, by, strict=True))
                for row, by in zip(around.tolist(), weights, strict=True)
            ]
        )
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        prototypes = np.where(norms > 1e-4, sums / np.maximum(norms, 1e-4), 0)
        aerial = np.concatenate([codes for _, codes in index._table.blocks(index._table.everything)]).astype(np.float32)
        scores = queries @ (aerial + prototypes).T
        np.testing.assert_allclose(np.take_along_axis(scores, both.row, 1), both.score, atol=1e-3)
        assert (both.score[:, 0] >= scores.max(axis=1) - 1e-3).all()


def test_photos_fit_how_much_learnt_prototypes_count(run, ortho, photos, tmp_path):
    assert build(run, ortho, tmp_path / "index", "--photos", photos) == 0
    with CellIndex.open(tmp_path / "index") as index:
        fusion = index.manifest.fusion
        assert fusion["fitted_on_photos"] == 4
        assert set(fusion["recall_at_1_within_100_m"]) == {"imagery", "ground_photos", "both"}
        assert index.manifest.prototypes.n_photos == 0, "they join nothing"
        assert index.fusion == Fusion(fusion["kappa"], fusion["offset"])


def test_another_encoder_and_another_ground_are_refused(run, ortho, kit, tmp_path):
    other = kit.make_encoder(seed=5)
    config = BuildConfig(
        encoder="x", imagery=[str(ortho)], out=str(tmp_path / "index"), prototypes=str(run), device="cpu"
    )
    source = tiles.open_source(config.imagery)
    learnt = LearntPrototypes.open(run)
    with pytest.raises(EncoderMismatchError, match=rf"learnt beside encoder {learnt.encoder}.*--encoder {run}/encoder"):
        build_index(other, source, None, config.out, config, prototypes=learnt)
    assert not (tmp_path / "index").exists()
    far = replace(learnt, cell=cells.cell_ids([[-33.9, -70.6]], 15), vector=learnt.vector[:1])
    encoder = CrossViewEncoder.load(run / "encoder")
    with pytest.raises(ConfigError, match="has learnt no prototype of the ground of this index"):
        build_index(encoder, source, None, config.out, config, prototypes=far)


def test_a_run_that_has_learnt_none_is_told_before_anything_is_built(run, ortho, tmp_path, capsys):
    (run / PROTOTYPES_FILE).unlink()
    assert build(run, ortho, tmp_path / "index") == 2
    assert f"{run}: has no prototypes.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_photos_neither_join_nor_leave_what_was_learnt(run, ortho, photos, tmp_path, capsys):
    index = tmp_path / "index"
    assert build(run, ortho, index) == 0
    before = (index / "manifest.json").read_text()
    capsys.readouterr()
    assert main(["index", "add", str(index), "--photos", str(photos), "--device", "cpu"]) == 2
    assert "its prototypes were learnt, and photos cannot be added to them" in capsys.readouterr().err
    assert main(["index", "remove", str(index), "--photos", str(photos), "--device", "cpu"]) == 2
    assert "were learnt of photos that cannot be taken out" in capsys.readouterr().err
    assert (index / "manifest.json").read_text() == before
    assert build(run, ortho, tmp_path / "second") == 0
    with pytest.raises(ConfigError, match="learnt ones do not add up"):
        merge(index, tmp_path / "second", tmp_path / "both")
    assert not (tmp_path / "both").exists()
