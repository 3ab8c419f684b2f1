"""Lessons in small: what the shipped encoder learns from, and that it is learnt."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from geoview import lessons
from geoview.config import AerialView, PlanView
from geoview.data.pairs import PairTable
from geoview.errors import PairTableError
from geoview.lessons import (
    FIRST_LESSON_SEED,
    Lessons,
    aerial_recipe,
    last_recipe,
    render_lessons,
    street_recipe,
    train_encoder,
    write_pairs,
)
from geoview.models.encoder import CrossViewEncoder
from geoview.render.world import TRAINING_STYLES, UNSEEN_STYLE
from geoview.training.fit import fit

SMALL = Lessons(regions_a_style=1, size_m=260.0, panoramas=2, perspective=1)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("lessons")
    return out, render_lessons(out, SMALL, num_workers=2)


def small(config):
    """The recipe with a network, views and a number of steps that a test can afford."""
    encoder = replace(
        config.encoder,
        backbone="convnext_atto",
        backbone_args={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
        plan=PlanView(32, 2.7, headings=4, eye_heights_m=(2.0, 1.6), pitches_deg=(0.0,)),
        aerial=AerialView(32, 2.7),
    )
    optimiser = replace(config.optimiser, steps=2, batch_size=4)
    return replace(config, encoder=encoder, optimiser=optimiser, num_workers=0, device="cpu", precision="fp32")


def test_lessons_are_of_the_training_styles_and_of_seeds_of_their_own(rendered):
    _, folders = rendered
    plans = [json.loads((folder / "region.json").read_text()) for folder in folders]
    assert {plan["style"] for plan in plans} == set(TRAINING_STYLES)
    assert UNSEEN_STYLE not in TRAINING_STYLES
    assert all(plan["world_seed"] >= FIRST_LESSON_SEED for plan in plans)


def test_lessons_that_are_there_are_kept(rendered):
    out, folders = rendered
    before = {p: p.stat().st_mtime_ns for folder in folders for p in folder.rglob("*") if p.is_file()}
    assert render_lessons(out, SMALL, num_workers=1) == folders
    assert {p: p.stat().st_mtime_ns for folder in folders for p in folder.rglob("*") if p.is_file()} == before


def test_pairs_tell_of_each_photo_where_and_which_way(rendered, tmp_path):
    _, folders = rendered
    write_pairs(tmp_path / "pairs.csv", folders)
    table = PairTable.from_csv(tmp_path / "pairs.csv")
    assert len(table) == len(folders) * 3
    assert np.isfinite(table.latlon_deg).all()
    assert np.isfinite(table.heading_deg).all()
    assert sorted(set((table.fov_deg == 360).tolist())) == [False, True]
    assert set(table.reference_path) == {""}


def test_an_encoder_is_trained_and_halved(rendered, tmp_path, monkeypatch):
    _, folders = rendered
    monkeypatch.setattr(lessons, "render_lessons", lambda *_, **__: folders)
    monkeypatch.setattr(lessons, "aerial_recipe", lambda *a: small(aerial_recipe(*a)))
    monkeypatch.setattr(lessons, "street_recipe", lambda *a: small(street_recipe(*a)))
    monkeypatch.setattr(lessons, "last_recipe", lambda *a: small(last_recipe(*a)))
    folder = train_encoder(tmp_path, SMALL)
    aerial, street, last = (CrossViewEncoder.load(tmp_path / run / "encoder") for run in ("aerial", "street", "last"))
    assert aerial.notes["training"]["data"]["query_view"] == "aerial"
    assert len(aerial.notes["training"]["data"]["query_imagery"]) == len(folders)
    assert len({encoder.fingerprint() for encoder in (aerial, street, last)}) == 3
    assert lessons.street_recipe(tmp_path, [], tmp_path).encoder.pretrained == str(tmp_path / "model.safetensors")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118
    encoder = CrossViewEncoder.load(folder)
    assert encoder.ground.headings == 4
    assert encoder.notes["training"]["steps"] == 4
    assert encoder.notes["training"]["pairs"] == len(folders) * 3
    assert str(tmp_path) not in (folder / "geoview.json").read_text(), "an encoder travels without its maker's paths"
    picture = torch.randint(0, 255, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(picture), last(picture), atol=2e-3, rtol=0)


def test_photos_are_laid_out_by_their_heading_or_not_at_all(rendered, tmp_path):
    _, folders = rendered
    write_pairs(tmp_path / "pairs.csv", folders)
    text = (tmp_path / "pairs.csv").read_text().splitlines()
    row = text[1].split(",")
    (tmp_path / "pairs.csv").write_text("\n".join([text[0], ",".join([*row[:3], "", row[4]]), *text[2:]]) + "\n")
    config = small(street_recipe(tmp_path, [folders[0] / "heights.tif"], tmp_path))
    config = replace(config, encoder=replace(config.encoder, pretrained=None))
    with pytest.raises(PairTableError, match="heading_deg"):
        fit(config)


def test_the_recipes_ship_with_the_package_and_are_valid(rendered, tmp_path):
    street, aerial = street_recipe(tmp_path, [tmp_path], tmp_path), aerial_recipe(tmp_path, rendered[1])
    assert street.encoder.plan == PlanView(96, 0.6)
    assert (street.data.query_view, aerial.data.query_view) == ("ground", "aerial")
    assert street.encoder.backbone == aerial.encoder.backbone
    assert street.optimiser.steps > aerial.optimiser.steps > 100
    last = last_recipe(tmp_path, [tmp_path])
    assert last.encoder == replace(
        street.encoder, pretrained=str(tmp_path / "street" / "encoder" / "model.safetensors")
    )
    assert last.augment == street.augment
    assert 1 <= last.data.blocks_per_batch < street.data.blocks_per_batch, "each part is harder than that before"
    assert last.optimiser.batch_size == street.optimiser.batch_size
