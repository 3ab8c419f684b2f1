"""The page: whole in itself, closed to what names of files hold, and there with or without imagery."""

import base64
import io
import json
import logging
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import tiles
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localization
from geoview.locate.page import open_imagery, write_html
from geoview.locate.posterior import Place

SVG = "http://www.w3.org/2000/svg"
HOSTILE = [
    "</script><script>alert(1)",
    "<!--<script>",
    "<img src=x onerror=alert(1)>.jpg",
    "]]>&lt;/script&gt;\u2028'\"`${alert(1)}",
    "{{PAGE}}",
    b"caf\xe9.jpg".decode("utf-8", "surrogateescape"),
]


class Elements(HTMLParser):
    """All elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._in_script = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self._in_script = True

    def handle_endtag(self, tag):
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def index(index_folder):
    return CellIndex.open(index_folder)


@pytest.fixture(scope="module")
def imagery(ortho):
    return tiles.open_source(ortho)


@pytest.fixture
def answers(tmp_path, index):
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.full((1500, 2000, 3), 90, np.uint8)).save(path)
    ids = index.cell_ids()[[0, 30, 60]]
    centres = cells.centers_deg(ids)
    found = [Place(int(c), (float(lat), float(lon)), 0.5) for c, (lat, lon) in zip(ids, centres, strict=True)]
    return [
        Localization(str(path), "ok", found, (34.0, -117.5)),
        Localization(str(tmp_path / "none.jpg"), "failed", [], None, "none.jpg: no such file"),
    ]


def written(answers, index, imagery):
    file = io.StringIO()
    write_html(answers, file, index=index, imagery=imagery)
    return file.getvalue()


def content(text):
    page = Elements(text)
    assert len(page.scripts) == 2
    return json.loads(page.scripts[0])


def decoded(uri):
    kind, data = uri.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


@pytest.mark.parametrize("with_imagery", [True, False])
def test_the_page_asks_nothing_of_any_network_or_file(answers, index, imagery, with_imagery):
    text = written(answers, index, imagery if with_imagery else None)
    assert set(re.findall(r"[a-z]+://[^\s\"'`<>)]*", text)) == {SVG}
    assert "@import" not in text
    assert "url(" not in text
    page = Elements(text)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"link", "iframe", "object", "embed", "base", "audio", "video", "source"})
    for _, attributes in page.elements:
        assert attributes.keys().isdisjoint({"src", "href", "srcset", "xlink:href", "action", "poster"})
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_the_page_holds_all_answers(answers, index, imagery):
    page = content(written(answers, index, imagery))
    assert page["level"] == 16
    assert page["chip_m"] == pytest.approx(index.chip.ground_size_m)
    assert page["coverage"]["type"] in ("Polygon", "MultiPolygon")
    located, failed = page["queries"]
    assert located["query"] == answers[0].query
    assert located["latlon"] == [34.0, -117.5]
    assert [c["rank"] for c in located["candidates"]] == [1, 2, 3]
    for candidate, place in zip(located["candidates"], answers[0].places, strict=True):
        assert (candidate["lat"], candidate["lon"]) == pytest.approx(place.latlon_deg, abs=1e-6)
    assert (failed["status"], failed["candidates"], failed["photo"]) == ("failed", [], None)
    assert failed["error"] == "none.jpg: no such file"


def test_the_page_tells_the_age_of_the_imagery(answers, index):
    located = answers[0]
    dated = [replace(place, imagery_date=date) for place, date in zip(located.places, ("2018", None), strict=False)]
    text = written([replace(located, places=dated)], index, None)
    assert [c["imagery_date"] for c in content(text)["queries"][0]["candidates"]] == ["2018", None]
    assert "`imagery of ${place.imagery_date}`" in text


def test_the_page_tells_how_sure_an_answer_is_and_what_that_rests_on(answers, index):
    located = answers[0]
    sure = [replace(place, radius_m=86.4, p_within_100m=0.61) for place in located.places]
    told = [
        located,
        replace(located, places=sure, calibration="rendered"),
        replace(located, status="rejected", places=sure, calibration="photos"),
    ]
    text = written(told, index, None)
    plain, rendered, rejected = content(text)["queries"]
    assert [(c["radius_m"], c["p_within_100m"]) for c in plain["candidates"]] == [(None, None)] * 3
    assert [(c["radius_m"], c["p_within_100m"]) for c in rendered["candidates"]] == [(86.4, 0.61)] * 3
    assert [query["calibration"] for query in (plain, rendered, rejected)] == ["none", "rendered", "photos"]
    assert [query["status"] for query in (plain, rendered, rejected)] == ["ok", "ok", "rejected"]
    assert "not a probability" in text and "calibrated on rendered photos" in text and "Not here." in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_shows_it(tmp_path, answers, index):
    located = answers[0]
    sure = [replace(located.places[0], radius_m=86.4, p_within_100m=0.61), *located.places[1:]]
    page = tmp_path / "page.html"
    page.write_text(written([replace(located, status="rejected", places=sure, calibration="rendered")], index, None))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True)
    shown = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert "<b>Not here.</b>" in shown
    assert "calibrated on rendered photos" in shown and "not a probability" not in shown
    assert re.findall(r'<circle class="radius"[^>]* r="([\d.]+)"', shown) == ["86.4"]
    cards = re.findall(r"<li><button.*?</li>", shown)
    assert ["61 % within 100 m" in card and "circle of 86 m" in card for card in cards] == [True, False, False]


def test_photos_and_chips_are_in_the_page(answers, index, imagery):
    located, _ = content(written(answers, index, imagery))["queries"]
    shown = decoded(located["photo"])
    assert max(shown.size) <= 720
    assert abs(shown.width / shown.height - 4 / 3) < 0.02
    for candidate, place in zip(located["candidates"], answers[0].places, strict=True):
        chip = np.asarray(decoded(candidate["chip"]), float)
        size = chip.shape[0]
        gsd_m = index.chip.ground_size_m / size
        wanted = imagery.chip(np.array(place.latlon_deg), size_px=size, gsd_m=gsd_m).pixels.astype(float)
        assert np.abs(chip - wanted).mean() < 12, "the ground around the candidate, as the encoder saw it"


def test_without_imagery_the_page_has_places_only(answers, index):
    page = content(written(answers, index, None))
    assert page["coverage"] is None
    assert [c["chip"] for c in page["queries"][0]["candidates"]] == [None] * 3
    assert page["queries"][0]["photo"] is not None


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_out_of_the_page(index, name):
    answer = Localization(name, "failed", [], None, f"{name}: truncated")
    text = written([answer], index, None)
    text.encode("utf-8")
    data = re.search(r'<script id="page" type="application/json">(.*?)</script>', text, re.DOTALL).group(1)
    assert "<" not in data, "neither a tag nor a comment can begin in it"
    (query,) = content(text)["queries"]
    assert (query["query"], query["error"]) == (name, f"{name}: truncated")
    assert len(Elements(text).elements) == len(Elements(written([], index, None)).elements)


def test_a_page_of_no_photos(index):
    assert content(written([], index, None))["queries"] == []


def test_a_place_outside_the_imagery_has_no_chip(answers, index, imagery, caplog):
    far = Localization(answers[0].query, "ok", [Place(answers[0].places[0].cell_id, (0.0, 0.0), 0.1)])
    with caplog.at_level(logging.WARNING):
        (query,) = content(written([far], index, imagery))["queries"]
    assert query["candidates"][0]["chip"] is None
    assert "no chip is shown" in caplog.text


def test_licences_are_shown(tmp_path, kit, encoder_folder, ortho, answers):
    manifest = tmp_path / "imagery.yaml"
    manifest.write_text(f"uri: {ortho}\ndate: 2020-06\nlicence: CC BY 4.0\nattribution: Survey of <Nowhere>\n")
    index = kit.build(encoder_folder, manifest, tmp_path / "index", Region.disc(kit.CENTRE_DEG, 50.0))
    text = written(answers, index, open_imagery(index, []))
    assert content(text)["licences"] == ["Survey of <Nowhere> · CC BY 4.0 · 2020-06"]


def test_the_imagery_is_that_of_the_index_or_the_one_given(index, ortho, tmp_path):
    assert open_imagery(index, []).uri == str(ortho)
    other = shutil.copy(ortho, tmp_path / "other.tif")
    assert open_imagery(index, [str(other)]).uri == str(other)
    with pytest.raises(tiles.SourceNotFoundError, match=r"none\.tif"):
        open_imagery(index, [str(tmp_path / "none.tif")])


def test_imagery_that_is_gone_is_told_and_the_page_goes_on(tmp_path, kit, encoder_folder, ortho, answers, caplog):
    moved = shutil.copy(ortho, tmp_path / "moved.tif")
    index = kit.build(encoder_folder, moved, tmp_path / "index", Region.disc(kit.CENTRE_DEG, 50.0))
    (tmp_path / "moved.tif").unlink()
    with caplog.at_level(logging.WARNING):
        imagery = open_imagery(index, [])
    assert imagery is None
    assert "moved.tif" in caplog.text
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    page = content(written(answers, index, imagery))
    assert len(page["queries"][0]["candidates"]) == 3
