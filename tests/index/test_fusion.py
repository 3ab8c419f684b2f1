"""Fused scores are those of the two tables, whatever kappa; and what photos say reaches the cells around them."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoview.cli import main
from geoview.errors import ConfigError, IndexCorruptError
from geoview.evaluate.fusion import KAPPAS
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import build, store
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion, fused_codes, fused_queries, interpolated
from geoview.index.ground import prototype_shards
from geoview.index.manifest import PrototypeTable
from geoview.index.prototypes import Photo, Speech

DIM = 16
UNFITTED = {"kappa": 1.0, "offset": 0.25, "fitted_on_photos": 0}


def unit(rng, n):
    vectors = rng.normal(size=(n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory, kit):
    """2.5 km around a corner of four shards; photos in the western half only."""
    rng = np.random.default_rng(0)
    ids = Region.disc(kit.CENTRE_DEG, 2500.0).cells(16)
    folder = tmp_path_factory.mktemp("hybrid")
    plain = kit.write_index(folder, ids, unit(rng, len(ids)))
    centres = cells.centers_deg(rng.choice(ids, 80))
    west = centres[centres[:, 1] < kit.CENTRE_DEG[1] - 0.005]
    photos = [Photo(str(i), tuple(place), None, None, i + 1) for i, place in enumerate(west.tolist())]
    shards = prototype_shards(folder, photos, unit(rng, len(photos)), Speech())
    table = PrototypeTable(15, True, False, shards)
    store.commit(folder, replace(plain.manifest, prototypes=table, fusion=UNFITTED))
    return CellIndex.open(folder)


def brute_force(index, queries, fusion):
    """(Q, N) scores, by the definition, a cell at a time."""
    table = index.prototypes()
    prototype = dict(zip(table.cell.tolist(), table.sum, strict=True))
    aerial = np.concatenate([store.open_shard(index.path, e).read("aerial") for e in index.manifest.shards])
    scores = np.zeros((len(queries), len(aerial)), np.float32)
    for row, cell in enumerate(index.cell_ids().tolist()):
        around, weights = cells.surrounding(np.uint64(cell), 15)
        mixed = sum(
            weight * prototype.get(c, np.zeros(DIM)) for c, weight in zip(around.tolist(), weights, strict=True)
        )
        length = np.linalg.norm(mixed)
        said = queries @ (mixed / length) if length else np.full(len(queries), fusion.offset)
        scores[:, row] = queries @ aerial[row].astype(np.float32) + fusion.kappa * said
    return scores


@pytest.mark.parametrize("kappa", [0.3, 1.0, 4.0])
def test_search_is_the_sum_of_both_scores(hybrid, kappa):
    queries = unit(np.random.default_rng(1), 5)
    hits = hybrid.search(queries, len(hybrid), kappa=kappa)
    scores = brute_force(hybrid, queries, Fusion(kappa, 0.25))
    np.testing.assert_allclose(hits.score, np.take_along_axis(scores, hits.row, axis=1), atol=1e-4)
    assert (np.sort(hits.row, axis=1) == np.arange(len(hybrid))).all()
    assert np.array_equal(hits.cell_id, hybrid.cell_ids()[hits.row])


def test_without_a_word_a_search_uses_what_was_fitted(hybrid):
    queries = unit(np.random.default_rng(2), 3)
    np.testing.assert_array_equal(hybrid.search(queries, 7).row, hybrid.search(queries, 7, kappa=1.0).row)
    assert hybrid.fusion == Fusion(1.0, 0.25)


def test_no_kappa_is_imagery_alone_and_an_infinite_one_photos_alone(hybrid):
    queries = unit(np.random.default_rng(3), 4)
    aerial = hybrid.search(queries, 9, kappa=0.0)
    np.testing.assert_allclose(
        aerial.score, np.sort(brute_force(hybrid, queries, Fusion(0.0)), axis=1)[:, ::-1][:, :9], atol=1e-5
    )
    everything = hybrid.search(queries, len(hybrid), kappa=math.inf)
    around = cells.surrounding(everything.cell_id, 15)[0]
    known = np.isin(around, hybrid.prototypes().cell).any(axis=2)
    assert 0 < known[0].sum() < len(hybrid)
    assert (np.diff(known.astype(int), axis=1) <= 0).all(), "cells that no photo speaks for come last"
    np.testing.assert_allclose(everything.score[~known], -2.0)


def test_cells_without_photos_are_found_where_their_offset_says(hybrid):
    queries = unit(np.random.default_rng(4), 6)
    buried, level, raised = (
        hybrid.search(queries, 50, kappa=Fusion(0.7, offset)).cell_id for offset in (-1.0, 0.0, 1.0)
    )
    known = hybrid.prototypes().cell

    def share(ids):
        return (~np.isin(cells.surrounding(ids, 15)[0], known).any(axis=2)).mean()

    assert share(buried) < share(level) < share(raised)


@given(st.floats(0.01, 5.0), st.floats(-1.0, 1.0), st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_inner_products_of_fused_codes_are_fused_scores(kappa, offset, seed):
    rng = np.random.default_rng(seed)
    aerial, prototypes, queries = unit(rng, 8).astype(np.float16), unit(rng, 8), unit(rng, 3)
    prototypes[::3] = 0
    codes = fused_codes(aerial, prototypes, Fusion(kappa, offset))
    wanted = queries @ aerial.T.astype(np.float32) + kappa * np.where(
        prototypes.any(axis=1), queries @ prototypes.T, offset
    )
    np.testing.assert_allclose(fused_queries(queries) @ codes.T, wanted, atol=1e-4)


def test_prototypes_blend_from_cell_to_cell():
    """Two prototypes side by side: cells between their centres turn from the one to the other, never away from both.

    Where one is of ten times as many photos, it is heard further.
    """
    pair = cells.cell_ids([40.0, 3.0], 15)
    pair = np.sort(np.array([pair, cells.edge_neighbors(pair)[1]]))
    basis = dict(zip(pair.tolist(), np.eye(2, dtype=np.float32), strict=True))

    def vectors_of(ids):
        return np.array([basis.get(i, np.zeros(2, np.float32)) for i in ids.tolist()])

    def lopsided(ids):
        return vectors_of(ids) * [10, 1]

    near = np.sort(cells.descendants(pair, 18))
    blend = interpolated(near, 15, vectors_of)
    np.testing.assert_allclose(np.linalg.norm(blend, axis=1), 1.0, atol=1e-6)
    own = cells.parents(near, 15)
    for i, cell in enumerate(pair.tolist()):
        assert (blend[own == cell, i] >= blend[own == cell, 1 - i]).all()
    assert ((blend > 0.2).all(axis=1)).any()
    first_heard = (interpolated(near, 15, lopsided)[:, 0] > 0.5).sum()
    assert first_heard > (blend[:, 0] > 0.5).sum()
    far = cells.descendants(cells.cell_ids([41.0, 3.0], 15), 16)
    assert not interpolated(far, 15, vectors_of).any()


@pytest.mark.parametrize("kappa", [-0.1, math.nan])
def test_kappa_out_of_range_is_refused(hybrid, kappa):
    with pytest.raises(ConfigError, match="kappa is"):
        hybrid.search(unit(np.random.default_rng(5), 1), 1, kappa=kappa)


def test_kappa_needs_photos(index_folder):
    index = CellIndex.open(index_folder)
    query = np.ones((1, 32), np.float32)
    with pytest.raises(ConfigError, match="no ground photos"):
        index.search(query, 1, kappa=0.5)
    with pytest.raises(ConfigError, match="no ground photos"):
        index.set_fusion(Fusion(1.0), {})
    assert index.search(query, 1, kappa=0.0).row.shape == (1, 1)


def test_damaged_prototypes_are_told_and_never_answered_from(tmp_path, hybrid, monkeypatch):
    monkeypatch.setattr(CellIndex, "encoder", lambda self: None)
    assert hybrid.verify() == []
    shutil.copytree(hybrid.path, tmp_path / "index")
    entry = hybrid.manifest.prototypes.shards[0]
    path = tmp_path / "index" / entry.folder / "sum" / "c" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[7] ^= 64
    path.write_bytes(content)
    (problem,) = CellIndex.open(tmp_path / "index").verify()
    assert f"{entry.folder}/sum: rows 0 to" in problem
    with pytest.raises(IndexCorruptError, match="sum"):
        CellIndex.open(tmp_path / "index", checked=True).search(unit(np.random.default_rng(6), 1), 1)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo_table(tmp_path_factory, kit):
    """300 photos over the ground of the orthophoto, one broken, one without a place, one of them twice."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    lines = [["path", "lat", "lon", "heading_deg"]]
    for i in range(300):
        lat, lon = kit.CENTRE_DEG + rng.uniform(-1, 1, 2) * [0.005, 0.006]
        Image.fromarray(rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append([f"{i}.png", lat, lon, 0])
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "twice.png").write_bytes((folder / "1.png").read_bytes())
    lat, lon = kit.CENTRE_DEG
    lines[4][1] = lat + 1  # outside every cell
    Image.new("RGB", (64, 32)).save(folder / "nowhere.png")
    lines += [["broken.png", lat, lon, 0], ["nowhere.png", "", "", ""], ["twice.png", lat, lon, 0]]
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder / "photos.csv"


def test_photos_become_part_of_an_index(tmp_path, capsys, monkeypatch, kit, encoder_folder, ortho, photo_table):
    out = tmp_path / "index"
    # On ground this small a tenth of the blocks may be none: here those in the east.
    monkeypatch.setattr(
        build, "held_back", lambda photos: np.array([p.latlon_deg[1] > kit.CENTRE_DEG[1] for p in photos])
    )
    words = ["index", "build", "--encoder", str(encoder_folder), "--imagery", str(ortho), "--photos", str(photo_table)]
    assert main([*words, "--out", str(out), "--device", "cpu", "--border", "false"]) == 1, "some photos are left out"
    told = capsys.readouterr()
    said = json.loads(told.out)
    assert said["photos"] == 300
    assert said["fusion"]["kappa"] >= 0
    for name, why in (("broken.png", "damaged"), ("nowhere.png", "no position"), ("twice.png", "same file")):
        assert any(name in line and why in line for line in told.err.splitlines()), name
    outside = re.search(r"(\d+) of 301 photos stand outside every cell", told.err)
    assert outside is not None
    assert 1 <= int(outside[1]) < 30
    index = CellIndex.open(out)
    assert index.verify() == []
    table = index.manifest.prototypes
    assert (table.level, table.border, table.frustum) == (15, False, False)
    assert index.prototypes().weight.sum() == pytest.approx(300)
    assert len(index.manifest.skipped_photos) == 3
    recall = index.manifest.fusion["recall_at_1_within_100_m"]
    assert set(recall) == {"imagery", "ground_photos", "both"}
    kappa = index.manifest.fusion["kappa"]
    assert kappa in KAPPAS
    assert kappa > 0 or recall["both"] == recall["imagery"]
    assert index.manifest.fusion["fitted_on_photos"] > 10

    photo = str(photo_table.parent / "5.png")
    answers = {}
    for kappa in ("0", "3", None):
        flags = [] if kappa is None else ["--kappa", kappa]
        assert main(["locate", photo, "--index", str(out), "--device", "cpu", *flags]) == 0
        answers[kappa] = capsys.readouterr().out
    assert answers["0"] != answers["3"]
    assert main(["locate", photo, "--index", str(out), "--kappa", "-1"]) == 2
    assert "kappa must be 0 or more" in capsys.readouterr().err


def test_no_photo_of_use_is_told(tmp_path, capsys, encoder_folder, ortho):
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    words = ["index", "build", "--encoder", str(encoder_folder), "--imagery", str(ortho), "--out", str(tmp_path / "i")]
    assert main([*words, "--photos", str(tmp_path / "a.png"), "--device", "cpu"]) == 2
    assert "1 photos, and none can be used" in capsys.readouterr().err
    assert main([*words, "--photos", str(tmp_path / "a.png"), "--level", "14"]) == 2
    assert "level 15 or smaller" in capsys.readouterr().err
