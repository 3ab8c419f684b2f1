"""First candidates looked at again: the ground that a photo is of wins, what cannot be looked at stays in its place."""

import csv
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiles
from geoview.cli import main
from geoview.config import InferenceConfig, PlanView
from geoview.data.queries import PhotoQuery
from geoview.errors import ConfigError
from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.index import store
from geoview.index.cell_index import CellIndex
from geoview.index.fusion import Fusion
from geoview.locate import rerank
from geoview.locate.calibration import Calibration, OfKind
from geoview.locate.embedding import PhotoView
from geoview.locate.localizer import Localizer, Search
from geoview.locate.rerank import TURNS, Candidates, Reranker

CONFIG = InferenceConfig(batch_size=32, device="cpu")
HEADINGS_DEG = np.arange(16) * 22.5


@pytest.fixture(scope="module")
def index(tmp_path_factory, ortho, kit):
    """An index whose encoder tries sixteen headings from two heights."""
    encoder = kit.make_encoder(ground=PlanView(size_px=32, gsd_m=4.8, headings=16, eye_heights_m=(2.0, 1.0)))
    folder = tmp_path_factory.mktemp("turning")
    return CellIndex.open(kit.build(encoder.save(folder / "encoder"), ortho, folder / "index").path)


class Counted:
    """Imagery that counts its chips."""

    def __init__(self, source):
        self.source, self.chips = source, 0

    def chip(self, *where, **how):
        self.chips += 1
        return self.source.chip(*where, **how)


@pytest.fixture
def imagery(ortho):
    return Counted(tiles.open_source(ortho))


@pytest.fixture
def candidates(index):
    """Nine cells around the middle, in an order that says nothing of the photo."""
    ids = index.cell_ids()
    centres = cells.centers_deg(ids)
    row = np.argsort(distance_m(centres, centres.mean(axis=0)))[:9]
    score = np.linspace(0.9, 0.5, 9).astype(np.float32)
    return Candidates(ids[row], row, score, np.zeros(9), centres[row], np.zeros(9, np.bool_))


def photo_of(index, imagery, latlon_deg, heading_deg):
    """The vectors of a photo that shows what imagery shows around a point: (TURNS, headings, dim).

    Laid out as if it looked elsewhere than it did, the ground around comes turned by the difference.
    """
    encoder, view = index.encoder(), index.chip
    angles = heading_deg - (HEADINGS_DEG - 360 / TURNS * np.arange(TURNS)[:, None])
    chips = [
        imagery.source.chip(latlon_deg, size_px=view.size_px, gsd_m=view.gsd_m, heading_deg=a) for a in angles.flat
    ]
    pixels = torch.from_numpy(np.stack([chip.pixels for chip in chips])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return encoder(pixels).numpy().reshape(*angles.shape, -1)


@pytest.mark.parametrize("heading_deg", [0.0, 90.0, 247.5])
def test_the_quarter_and_heading_that_a_photo_is_of_are_found(index, imagery, candidates, heading_deg):
    wanted = candidates.cell_id[6]
    at_deg = cells.centers_deg(cells.children(wanted))[2]
    photo = photo_of(index, imagery, at_deg, heading_deg)
    found = Reranker(index, index.encoder(), imagery, CONFIG).rerank(photo, HEADINGS_DEG, candidates, 9)
    assert found.cell_id[0] == wanted
    assert found.score[0] == pytest.approx(1, abs=0.01)
    assert distance_m(found.latlon_deg[0], at_deg) < 0.1
    assert abs((found.heading_deg[0] - heading_deg + 180) % 360 - 180) < 22.5 / 2
    assert sorted(found.cell_id) == sorted(candidates.cell_id)
    assert (np.diff(found.score) <= 0).all()
    for cell, at in zip(found.cell_id, found.latlon_deg, strict=True):
        assert cells.cell_ids(at[None], index.level)[0] == cell, "positions stay in their cells"
    assert (index.cell_ids()[found.row] == found.cell_id).all()


def test_candidates_further_down_stay_behind_each_other_and_comparable(index, imagery, candidates):
    photo = photo_of(index, imagery, candidates.latlon_deg[0], 0.0)
    found = Reranker(index, index.encoder(), imagery, CONFIG).rerank(photo, HEADINGS_DEG, candidates, 4)
    looked = np.isin(found.cell_id, candidates.cell_id[:4])
    lost = candidates.score[:4].mean() - found.score[looked].mean()
    np.testing.assert_array_equal(found.cell_id[~looked], candidates.cell_id[4:])
    np.testing.assert_allclose(found.score[~looked], candidates.score[4:] - lost, atol=1e-6)


def test_a_candidate_without_imagery_keeps_its_place_and_heading(index, imagery, candidates, ortho):
    far = cells.cell_ids(np.array([[10.0, 10.0]]), index.level)
    ids = np.concatenate([far, candidates.cell_id[1:]])
    some = replace(candidates, cell_id=ids, latlon_deg=cells.centers_deg(ids))
    photo = photo_of(index, imagery, candidates.latlon_deg[3], 0.0)
    reranker = Reranker(index, index.encoder(), imagery, CONFIG)
    found = reranker.rerank(photo, HEADINGS_DEG, some, 9)
    (i,) = np.flatnonzero(found.cell_id == far[0])
    assert distance_m(found.latlon_deg[i], cells.centers_deg(far)[0]) == 0
    assert found.heading_deg[i] == 0
    no = np.zeros(1, np.bool_)
    alone = Candidates(far, candidates.row[:1], candidates.score[:1], np.zeros(1), cells.centers_deg(far), no)
    assert reranker.rerank(photo, HEADINGS_DEG, alone, 9).score[0] == alone.score[0]
    none = Candidates(*(column[:0] for name, column in vars(alone).items() if name != "loss"))
    assert len(reranker.rerank(photo, HEADINGS_DEG, none, 9).cell_id) == 0


def test_chips_are_cut_once_and_kept_as_long_as_they_fit(index, imagery, candidates, monkeypatch):
    reranker = Reranker(index, index.encoder(), imagery, CONFIG)
    first = reranker.codes(candidates.cell_id, TURNS)
    assert imagery.chips == 9 * TURNS
    np.testing.assert_array_equal(reranker.codes(candidates.cell_id[::-1], TURNS), first[::-1])
    assert imagery.chips == 9 * TURNS
    assert reranker.codes(candidates.cell_id[:2], 1).shape == (2, 1, first.shape[2]), "other turns are other codes"
    monkeypatch.setattr(rerank, "_KEPT_ELEMENTS", 3 * first[0].size)
    small, imagery.chips = Reranker(index, index.encoder(), imagery, CONFIG), 0
    np.testing.assert_array_equal(small.codes(candidates.cell_id, TURNS), first)
    small.codes(candidates.cell_id[6:], TURNS)
    assert imagery.chips == 9 * TURNS, "those asked for last are there still"
    small.codes(candidates.cell_id[:6], TURNS)
    assert imagery.chips == 15 * TURNS


def test_a_known_heading_is_turned_as_an_unknown_one_is(tmp_path, index, imagery, kit):
    localizer = Localizer(index, CONFIG, imagery=imagery)
    path = kit.write_photo(tmp_path / "a.jpg", (256, 128))
    unknown, known = localizer.embed([PhotoQuery(path), PhotoQuery(path, heading_deg=45.0)])
    of_all = localizer._turned(unknown)
    assert np.array_equal(of_all[0], unknown.vectors)
    np.testing.assert_allclose(localizer._turned(known), of_all[:, 2:3], atol=1e-5)
    (from_above,) = localizer.embed([PhotoQuery(path)], PhotoView("aerial", gsd_m=1.0))
    assert localizer._turned(from_above).shape == (1, *from_above.vectors.shape), "no heading, nothing to turn"


def test_the_localizer_looks_again_when_asked_to(tmp_path, index, imagery, kit):
    localizer, query = Localizer(index, CONFIG, imagery=imagery), kit.write_photo(tmp_path / "a.jpg", (256, 128))
    plain = next(iter(Localizer(index, CONFIG).locate([query], top_k=3)))
    assert next(iter(localizer.locate([query], top_k=3))).places == plain.places
    assert imagery.chips == 0
    (again,) = localizer.locate([query], top_k=3, rerank=5)
    assert imagery.chips == 5 * 4 * TURNS
    assert again.places != plain.places
    scores = [place.score for place in again.places]
    assert scores == sorted(scores, reverse=True)
    assert again.places[0].latlon_deg != tuple(cells.centers_deg(np.array([again.places[0].cell_id], np.uint64))[0])
    assert all(0 <= place.heading_deg < 360 for place in again.places)
    (answer,) = localizer.locate([PhotoQuery(query)], top_k=1, rerank=3, view=PhotoView("aerial", gsd_m=4.8))
    assert answer.places[0].heading_deg is None


def test_what_chips_cannot_stand_for_is_refused(index, imagery, tmp_path, monkeypatch, kit):
    localizer = Localizer(index, CONFIG, imagery=imagery)
    (embedded,) = localizer.embed([PhotoQuery(kit.write_photo(tmp_path / "a.jpg", (256, 128)))])
    assert localizer.answer([embedded], Search(rerank=5, kappa=0))[0].status == "ok"
    with monkeypatch.context() as patch:
        patch.setattr(index, "fusion_at", lambda kappa: Fusion(0.5))
        with pytest.raises(ConfigError, match="--kappa 0"):
            localizer.answer([embedded], Search(rerank=5))


def test_scores_of_a_second_look_are_not_those_that_were_calibrated(index, imagery, tmp_path, kit):
    calibration = Calibration("photos", OfKind(0.1, 0.1, (1.0, 1.0), None, None), {}, kappa=0.0, offset=0.0, rerank=0)
    localizer = Localizer(index, CONFIG, imagery=imagery)
    localizer.calibration = calibration
    path = kit.write_photo(tmp_path / "a.jpg", (256, 128))
    (first,), (again,) = (list(localizer.locate([path], top_k=2, rerank=n)) for n in (0, 5))
    assert first.calibration == "photos"
    assert first.places[0].radius_m is not None
    assert again.calibration == "none"
    assert again.places[0].radius_m is None


def test_larger_chips_are_not_looked_at(index, imagery):
    pooled = CellIndex.open(index.path)
    pooled.manifest = replace(pooled.manifest, scales=[1, 2])
    with pytest.raises(ConfigError, match="--scales"):
        Localizer(pooled, CONFIG, imagery=imagery)


def test_where_the_imagery_is_gone_the_command_goes_on_without_and_says_so(tmp_path, index, ortho, kit, capsys):
    shutil.copy(ortho, tmp_path / "here.tif")
    encoder = store.encoder_folder(index.path, index.manifest)
    kit.build(encoder, tmp_path / "here.tif", tmp_path / "index")
    moved = (tmp_path / "here.tif").rename(tmp_path / "moved.tif")
    path = kit.write_photo(tmp_path / "a.jpg", (256, 128))
    ask = ["locate", path, "--index", str(tmp_path / "index"), "--device", "cpu", "--top_k", "2"]

    def answered(*more):
        assert main([*ask, *more]) == 0
        told = capsys.readouterr()
        return list(csv.DictReader(io.StringIO(told.out))), told.err

    plain, talk = answered()
    assert "imagery" not in talk
    without, talk = answered("--rerank", "5")
    assert without == plain
    assert talk.count("cannot be opened") == 1
    again, talk = answered("--rerank", "5", "--imagery", str(moved))
    assert again != plain
    assert "cannot be opened" not in talk
