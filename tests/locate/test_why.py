"""Reasons: they add up to the score, lie where the photo shows something, and are drawn whole or not at all."""

import numpy as np
import pytest
import torch
from PIL import Image

import tiles
from geoview.cli import main
from geoview.config import AerialView, InferenceConfig, PlanView
from geoview.data.queries import PhotoQuery
from geoview.data.views import View
from geoview.errors import ConfigError, OutputExistsError
from geoview.index.cell_index import CellIndex
from geoview.locate.embedding import PhotoView
from geoview.locate.localizer import Localizer
from geoview.locate.why import Explainer, check_folder, reasons
from geoview.models.encoder import CrossViewEncoder

CONFIG = InferenceConfig(batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def shipped():
    return CrossViewEncoder.load("demo")


def picture(seed, size_px=96, valid=None):
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), np.uint8)
    valid = np.ones((size_px, size_px), np.bool_) if valid is None else valid
    return View(pixels * valid[..., None], valid)


def embedded(encoder, view, seen):
    with torch.inference_mode():
        return encoder(
            torch.from_numpy(view.pixels).permute(2, 0, 1)[None], torch.from_numpy(view.valid)[None], seen=seen
        )[0].numpy()


def test_squares_add_up_to_the_score(shipped, kit):
    tiny = [kit.make_encoder(head=head, head_size=4, aerial=AerialView(96, 1.0)) for head in ("mean", "attention")]
    photo, chip = picture(0), picture(1)
    for encoder in (shipped, *tiny):
        why = reasons(encoder, photo, chip, seen="ground")
        score = float(embedded(encoder, photo, "ground") @ embedded(encoder, chip, "aerial"))
        for total in (why.score, why.photo.sum(), why.chip.sum()):
            assert total == pytest.approx(score, abs=1e-4)
        assert why.photo.shape == why.chip.shape == (3, 3)
        assert np.ptp(why.photo) > 1e-4


def test_with_squares_compared_one_by_one_what_is_not_seen_says_nothing(shipped):
    seen = np.ones((96, 96), np.bool_)
    seen[:, :32] = False
    why = reasons(shipped, picture(0, valid=seen), picture(1), seen="ground")
    np.testing.assert_allclose(why.photo, why.chip, atol=1e-6)
    np.testing.assert_allclose(why.photo[:, 0], 0, atol=1e-6)
    assert (np.abs(why.photo[:, 1:]) > 1e-4).any()


@pytest.fixture(scope="module")
def index(tmp_path_factory, ortho, kit):
    encoder = kit.make_encoder(
        ground=PlanView(size_px=96, gsd_m=0.6, headings=8), aerial=AerialView(96, 0.6), head="grid", head_size=8
    )
    folder = tmp_path_factory.mktemp("plans")
    return CellIndex.open(kit.build(encoder.save(folder / "encoder"), ortho, folder / "index").path)


def tinted(image, plain):
    return (np.abs(image.astype(int) - plain.astype(int)).max(axis=-1) > 8).mean(axis=1)


def test_the_ground_in_a_photo_is_tinted_and_the_sky_is_not(tmp_path, index, ortho):
    grey = tmp_path / "grey.png"
    Image.new("RGB", (640, 320), (128, 128, 128)).save(grey)
    localizer = Localizer(index, CONFIG)
    (answer,) = localizer.locate([str(grey)], top_k=1)
    (place,) = answer.places
    explainer = Explainer(localizer, tiles.open_source(ortho))
    drawn = explainer.drawn(PhotoQuery(str(grey), heading_deg=place.heading_deg), place.latlon_deg)
    share = tinted(np.array(drawn.photo), np.full((320, 640, 3), 128))
    assert share[:160].max() == 0, "above the horizon"
    assert share[-60:].min() > 0.9, "at the photographer's feet"


def test_without_a_heading_the_one_that_speaks_most_for_the_place_is_drawn(tmp_path, index, ortho, kit):
    localizer = Localizer(index, CONFIG)
    path = kit.write_photo(tmp_path / "a.jpg", (256, 128))
    (answer,) = localizer.locate([path], top_k=1)
    (place,) = answer.places
    explainer = Explainer(localizer, tiles.open_source(ortho))
    found = explainer.drawn(PhotoQuery(path), place.latlon_deg)
    known = explainer.drawn(PhotoQuery(path, heading_deg=place.heading_deg), place.latlon_deg)
    assert found.heading_deg == known.heading_deg == place.heading_deg
    assert found.cosine == known.cosine == pytest.approx(place.score, abs=0.01)
    assert found.sheet("a").tobytes() == known.sheet("a").tobytes()


def test_the_command_draws_three_places_of_each_photo_that_can_be_read(tmp_path, index, capsys, kit):
    folder = tmp_path / "photos"
    folder.mkdir()
    kit.write_photo(folder / "a; rm -rf <b>.jpg", (256, 128))
    (folder / "b.jpg").write_bytes(b"no photo")
    kit.write_photo(folder / "c.jpg", (160, 120))
    out = tmp_path / "deep" / "why"
    ask = ["locate", str(folder), "--index", str(index.path), "--device", "cpu", "--why", str(out), "--rerank", "3"]
    assert main(ask) == 1
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"why_000{i}_{rank}.jpg" for i in (1, 3) for rank in (1, 2, 3)]
    for name in names:
        with Image.open(out / name) as image:
            image.load()
            assert image.height == 408
    capsys.readouterr()
    assert main(ask) == 2
    assert "--overwrite" in capsys.readouterr().err
    before = (out / names[0]).read_bytes()
    (out / "why_0009_1.jpg").write_bytes(b"of another call")
    assert main([*ask, "--overwrite"]) == 1
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / names[0]).read_bytes() == before


def test_pictures_of_other_views(tmp_path, index_folder, ortho, kit):
    """Strips, and photos from above, are drawn as the encoder sees them."""
    index = CellIndex.open(index_folder)
    localizer, imagery = Localizer(index, CONFIG), tiles.open_source(ortho)
    path = kit.write_photo(tmp_path / "a.jpg", (256, 128))
    for view in (PhotoView(), PhotoView("aerial", gsd_m=1.0)):
        (answer,) = localizer.locate([path], top_k=1, view=view)
        drawn = Explainer(localizer, imagery).drawn(PhotoQuery(path), answer.places[0].latlon_deg, view)
        assert (drawn.photo is None, drawn.heading_deg) == (view.kind == "aerial", None)
        assert drawn.sheet("a").height == 408


def test_a_photo_or_chip_that_is_gone_stops_nothing(tmp_path, index, ortho, kit, caplog):
    localizer = Localizer(index, CONFIG)
    path = kit.write_photo(tmp_path / "a.jpg", (256, 128))
    (answer,) = localizer.locate([path], top_k=1)
    elsewhere = kit.write_ortho(tmp_path / "chile.tif", kit.texture(), centre_deg=(-33.9, -70.6), crs="EPSG:32719")
    Explainer(localizer, tiles.open_source(elsewhere)).write(tmp_path, 1, PhotoQuery(path), answer)
    Explainer(localizer, tiles.open_source(ortho)).write(tmp_path, 1, PhotoQuery(str(tmp_path / "gone.jpg")), answer)
    assert "chile.tif" in caplog.text
    assert "gone.jpg" in caplog.text
    assert not list(tmp_path.glob("why_*"))


def test_folders_are_not_written_over(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "file", overwrite=True)
    with pytest.raises(OutputExistsError, match="not empty"):
        check_folder(tmp_path, overwrite=False)
    check_folder(tmp_path, overwrite=True)
    assert (tmp_path / "file").exists(), "what is not ours stays"
