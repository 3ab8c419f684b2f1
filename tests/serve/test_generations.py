"""Commits of the index: the newest is asked, those in use stay open, and none that cannot be asked takes over."""

import json
import shutil
import threading

import numpy as np
import pytest
import shapely

import tiles
from geoview.config import AddConfig, ServeConfig
from geoview.errors import ConfigError, EncoderError, IndexNotFoundError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index.build import add_to_index
from geoview.index.cell_index import CellIndex
from geoview.index.upkeep import remove_region
from geoview.models.encoder import CrossViewEncoder
from geoview.serve import generations as module
from geoview.serve.generations import Generations, outlines_of


@pytest.fixture
def index(index_folder, tmp_path):
    """An index that may be written to."""
    return shutil.copytree(index_folder, tmp_path / "index")


@pytest.fixture
def more(kit, tmp_path):
    """Imagery north of that of the index."""
    return kit.write_ortho(
        tmp_path / "more.tif", kit.texture(500, seed=3), centre_deg=np.add(kit.CENTRE_DEG, [0.02, 0.0])
    )


def add(index, imagery):
    config = AddConfig(imagery=[str(imagery)], device="cpu")
    add_to_index(index, tiles.open_source(config.imagery), None, config)


def test_a_newer_commit_is_asked_and_the_one_before_stays_open_while_it_is_used(index, more):
    generations = Generations(ServeConfig(index=str(index), device="cpu"))
    with generations.held() as before:
        generations.renew()
        assert generations.current is before, "nothing is new"
        add(index, more)
        generations.renew()
        after = generations.current
        assert after.number > before.number
        assert after.n_cells > before.n_cells
        query = np.ones((1, before.index.manifest.dim), np.float32)
        assert before.index.search(query, 3).row.min() >= 0
        assert before.index._commit._file is not None and not before.index._commit._file.closed
    assert before.index._commit._file.closed, "nobody uses it any more"
    assert not after.index._commit._file.closed
    generations.close()
    assert after.index._commit._file.closed


def test_requests_go_on_while_the_index_grows(tools, index, more, monkeypatch):
    monkeypatch.setattr(module, "_POLL_S", 0.05)
    photos = tools.form(tools.picture(), top_k=1)
    with tools.serving(index) as client:
        statuses, numbers, ending = [], [], threading.Event()

        def ask():
            while not ending.is_set():
                answer = client.post("/locate", **photos)
                statuses.append(answer.status_code)
                numbers.append(answer.json()["index"]["number"])

        thread = threading.Thread(target=ask)
        thread.start()
        add(index, more)
        tools.until(lambda: numbers and numbers[-1] == 2)
        ending.set()
        thread.join()
        assert client.get("/health").json()["index"] == 2
        assert "geoview_index_number 2.0" in client.get("/metrics").text
    assert set(statuses) == {200}
    assert numbers == sorted(numbers)


def test_a_commit_that_cannot_be_asked_does_not_take_over(tools, index, monkeypatch, caplog):
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    with tools.serving(index) as client:
        assert client.post("/locate", **tools.form(tools.picture())).status_code == 200
        remove_region(index, Region.from_geometry(shapely.box(-118, 33, -117, 35)))
        tools.until(lambda: "the index is empty" in caplog.text)
        shutil.move(index, index.with_name("away"))
        tools.until(lambda: "not an index" in caplog.text)
        assert client.post("/locate", **tools.form(tools.picture())).status_code == 200
    assert caplog.text.count("the index is empty") == 1, "told once"


def test_an_empty_index_is_refused_at_the_start(index, tmp_path):
    remove_region(index, Region.from_geometry(shapely.box(-118, 33, -117, 35)))
    with pytest.raises(ConfigError, match="the index is empty"):
        Generations(ServeConfig(index=str(index)))
    with pytest.raises(IndexNotFoundError):
        Generations(ServeConfig(index=str(tmp_path / "absent")))


def test_an_index_whose_imagery_is_gone_is_still_asked(tools, encoder_folder, kit, tmp_path):
    imagery = kit.write_ortho(tmp_path / "ortho.tif", kit.texture(), tiled=True)
    kit.build(encoder_folder, imagery, tmp_path / "index")
    imagery.rename(tmp_path / "moved.tif")
    with tools.serving(tmp_path / "index") as client:
        about = client.get("/index").json()
        assert (about["imagery"], about["tiles"]) == ("gone", None)
        assert str(tmp_path) not in json.dumps(about)
        (answer,) = client.post("/locate", **tools.form(tools.picture(), top_k=1)).json()["answers"]
        assert answer["status"] == "ok"
        assert about["why"] is False
        asked = tools.form(tools.picture(), cell=answer["candidates"][0]["cell"])
        shown = [client.get(path) for path in (answer["candidates"][0]["chip"], "/tiles/16/11368/26172.webp")]
        for refusal in (*shown, client.post("/why", **asked)):
            assert (refusal.status_code, "not there any more" in refusal.json()["detail"]) == (404, True)
    with tools.serving(tmp_path / "index", imagery=[str(tmp_path / "moved.tif")]) as client:
        assert client.get(answer["candidates"][0]["chip"]).status_code == 200
        assert client.get("/index").json()["imagery"] == "there"
        assert client.post("/why", **asked).status_code == 200
    ids = CellIndex.open(tmp_path / "index").cell_ids()
    ground = shapely.geometry.shape(about["coverage"])
    assert shapely.contains_xy(ground.buffer(1e-9), *cells.centers_deg(ids)[:, ::-1].T).all()


def test_an_encoder_that_tells_no_reasons_is_asked_all_the_same(tools, index_folder, monkeypatch):
    def parts(*_):
        raise EncoderError("no sum over a map")

    monkeypatch.setattr(CrossViewEncoder, "parts", parts)
    with tools.serving(index_folder) as client:
        assert client.get("/index").json()["why"] is False
        (answer,) = client.post("/locate", **tools.form(tools.picture(), top_k=1)).json()["answers"]
        refusal = client.post("/why", **tools.form(tools.picture(), cell=answer["candidates"][0]["cell"]))
        assert (refusal.status_code, refusal.json()["detail"][:25]) == (404, "the encoder of this index")


def test_many_cells_are_outlined_by_larger_ones():
    ids = np.unique(cells.cell_ids(np.random.default_rng(0).uniform([47, 10], [47.3, 10.3], (3000, 2)), 16))
    ground = module._ground_of(ids, 16)
    assert shapely.contains_xy(ground, *cells.centers_deg(ids)[:, ::-1].T).all()
    assert ground.area < 0.3 * 0.3 * 2


def test_outlines_at_the_date_line_stay_on_their_side():
    for lon in (179.9999, -179.9999):
        (ring,) = outlines_of(cells.cell_ids(np.array([[10.0, lon]]), 12))
        assert np.ptp(ring[:, 0]) < 1 and np.sign(ring[:, 0]).mean() == np.sign(lon)
        assert shapely.LinearRing(ring).is_ccw


def test_what_surrounds_an_index_holds_its_cells_wherever_it_lies():
    for bounds, inside, outside in (
        ((10.0, 47.0, 11.0, 48.0), (47.5, 10.5), (47.5, 12.0)),
        ((179.5, -17.0, -179.5, -16.0), (-16.5, 180.0), (-16.5, 170.0)),
        ((-179.99, -17.0, -179.5, -16.0), (-16.5, 179.95), (-16.5, 170.0)),
        ((-180.0, -90.0, 180.0, 90.0), (0.0, 0.0), None),
        ((20.0, 84.0, 21.0, 85.0), (84.5, -100.0), (70.0, 20.5)),
    ):
        around = module._surroundings(bounds)
        assert around.contains(inside)
        assert outside is None or not around.contains(outside)
