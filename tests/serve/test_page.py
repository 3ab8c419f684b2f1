"""The map page in a browser, before the real service: what an analyst does with it, and what goes wrong.

What a tiny index cannot answer, such as a calibrated "not here", is put in the service's mouth.
"""

import base64
import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from geoview.geo.sphere import distance_m
from geoview.index.cell_index import CellIndex
from geoview.locate.candidates import FIELDS
from geoview.locate.localizer import Localizer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium to open the page with", allow_module_level=True)

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
LEVEL_16_CELL_M = 150
HOSTILE = "<img src=x onerror=\"document.body.id='hacked'\">.jpg"
# What a form holds beside photos; browsers do not tell the bodies of requests with files.
REMEMBER_FIELDS = """
const append = FormData.prototype.append;
window.asked = {};
FormData.prototype.append = function (name, value, ...rest) {
  if (name !== "photos") window.asked[name] = value;
  return append.call(this, name, value, ...rest);
};
"""
NO_WEBGL = """
const open = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return kind.startsWith("webgl") ? null : open.call(this, kind, ...rest);
};
"""
NO_REASONS = (
    NO_WEBGL
    + """
const ask = window.fetch;
window.fetch = async (path, ...rest) => {
  const answer = await ask(path, ...rest);
  return path === "/index" ? Response.json({ ...(await answer.json()), why: false }) : answer;
};
"""
)


@contextmanager
def serving(index_folder, **environment):
    """The address of a running service."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "geoview", "serve", "--index", str(index_folder), "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        assert process.poll() is None, "the service has ended"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def service(index_folder):
    with serving(index_folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, service):
    """Opens the page; at the end, nothing has left the host and nothing was complained about but what is expected."""
    contexts, requests, complaints, expected = [], [], [], []
    allowed = ["blob:", "data:"]

    def opened(viewport=DESK, script=None, address=service, ready="#visible", **settings):
        context = browser.new_context(viewport=viewport, **settings)
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.expected = expected
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        if script is not None:
            page.add_init_script(script)
        page.goto(address)
        allowed.append(address)
        page.locator(ready).wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert {url for url in requests if not url.startswith(tuple(allowed))} == set()
    assert [text for text in complaints if not any(words in text for words in expected)] == []


def jpeg(seed=0, size=(160, 120)):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def photo(name="a.jpg", seed=0):
    return {"name": name, "mimeType": "image/jpeg", "buffer": jpeg(seed)}


def give(page, *photos):
    page.set_input_files("#files", list(photos))


def places(page):
    """What the list shows, once there is an answer: (lat, lon) of each place."""
    page.locator("#candidates li").first.wait_for()
    return [tuple(map(float, text.split(","))) for text in page.locator("#candidates b").all_inner_texts()]


def answer(query="a.jpg", **changes):
    """An answer as POST /locate gives it."""
    candidate = {
        "rank": 1,
        "lat": 34.05,
        "lon": -117.4,
        "radius_m": 45.0,
        "score": 0.5,
        "p_within_100m": 0.74,
        "cell": "80c2c5",
        "heading_deg": None,
        "exif_distance_m": None,
        "imagery_date": "2018-06",
        "chip": None,
    }
    here = [[-117.401, 34.05], [-117.4, 34.05], [-117.4, 34.051], [-117.401, 34.05]]
    cell = {"type": "Feature", "properties": {"p": 0.4}, "geometry": {"type": "Polygon", "coordinates": [here]}}
    return {
        "query": query,
        "status": "ok",
        "error": "",
        "calibration": "photos",
        "exif_lat": None,
        "exif_lon": None,
        "candidates": [candidate],
        "heat": {"type": "FeatureCollection", "features": [cell]},
    } | changes


def say(page, *answers):
    """Has the service answer so, once."""
    events = [{"event": "received", "photos": len(answers)}, *({"event": "answer", "answer": a} for a in answers)]
    events.append({"event": "end", "index": {"number": 1, "level": 16, "calibration": "photos"}})
    body = "".join(json.dumps(event) + "\n" for event in events)
    page.route("**/locate", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"), times=1)


def test_a_dropped_photo_is_answered_as_from_python(opened, index_folder, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    page = opened()
    files = page.evaluate_handle(
        """(content) => {
            const files = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            files.items.add(new File([bytes], "a.jpg", {type: "image/jpeg"}));
            return files;
        }""",
        base64.b64encode(jpeg()).decode(),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": files})
    (told,) = Localizer(CellIndex.open(index_folder)).locate([str(tmp_path / "a.jpg")], top_k=10)
    assert places(page) == [tuple(round(deg, 5) for deg in place.latlon_deg) for place in told.places]
    assert page.inner_text("#verdict-note") == "This index is not calibrated: a score is no probability."
    score = page.locator("#place-facts dt", has_text="Score").locator("xpath=following-sibling::dd[1]").inner_text()
    assert float(score) == pytest.approx(told.places[0].score, abs=1e-3)
    assert page.locator(".pin").count() == len(told.places)
    # The picture beside the photo is there, and not merely asked for.
    page.locator("#chip").wait_for()
    assert page.evaluate("document.getElementById('chip').decode().then(() => true)")


def test_a_rectangle_drawn_with_the_mouse_restricts_the_search(opened):
    page = opened()
    give(page, photo())
    everywhere = places(page)
    middle_lon = np.median([lon for _, lon in everywhere])
    page.keyboard.press("f")
    page.wait_for_timeout(600)  # the map moves
    box = page.locator("#map").bounding_box()
    west = min(page.locator(".pin").all(), key=lambda pin: pin.bounding_box()["x"]).bounding_box()
    page.click("[data-draw=rectangle]")
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(west["x"] + 60, box["y"] + box["height"] - 5, steps=4)
    page.mouse.up()
    page.locator("#everywhere", has_text="Only in the outlined area").wait_for()
    restricted = places(page)
    assert restricted != everywhere
    assert max(lon for _, lon in restricted) < middle_lon
    page.click("#everywhere")
    page.locator("#everywhere").wait_for(state="hidden")
    assert places(page) == everywhere


def test_drawing_is_left_off_with_escape_and_a_polygon_closes_at_its_first_corner(opened):
    page = opened(script=REMEMBER_FIELDS)
    box = page.locator("#map").bounding_box()
    corners = [(300, 200), (700, 200), (500, 500)]
    page.click("[data-draw=polygon]")
    page.mouse.click(box["x"] + 300, box["y"] + 200)
    page.keyboard.press("Escape")
    page.locator("#draw").wait_for(state="hidden")
    assert page.locator("#everywhere").is_hidden()
    page.click("[data-draw=polygon]")
    for x, y in [*corners, corners[0]]:
        page.mouse.click(box["x"] + x, box["y"] + y)
    page.locator("#everywhere", has_text="Only in the outlined area").wait_for()
    give(page, photo())
    places(page)
    region = json.loads(page.evaluate("window.asked.region"))
    (ring,) = region["coordinates"]
    assert region["type"] == "Polygon"
    assert len(ring) == 4
    assert ring[0] == ring[-1]


def test_the_keyboard_alone_is_enough(opened):
    page = opened(reduced_motion="reduce")
    # Choosers are caught from the first listener on, which takes effect a moment later.
    page.on("filechooser", lambda chooser: None)

    def tab_to(selector):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} is not reached with Tab")

    tab_to("#files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([photo()])
    everywhere = places(page)
    tab_to("#candidates li")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#place-title") == f"Place 2 of {len(everywhere)}"
    page.keyboard.press("End")
    assert page.inner_text("#place-title") == f"Place {len(everywhere)} of {len(everywhere)}"
    assert page.evaluate("document.activeElement.ariaSelected") == "true"
    tab_to("#near > summary")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("north of here")
    page.keyboard.press("Enter")
    assert "latitude, longitude" in page.inner_text("#near-error")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("{}, {}".format(*everywhere[-1]))
    page.keyboard.press("Tab")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("150")
    page.keyboard.press("Enter")
    page.locator("#everywhere", has_text="Only within 150 m").wait_for()
    assert max(distance_m(everywhere[-1], place) for place in places(page)) < 150 + LEVEL_16_CELL_M
    page.keyboard.press("?")
    page.locator("#help-dialog").wait_for()
    page.keyboard.press("Escape")
    page.locator("#help-dialog").wait_for(state="hidden")


def test_what_is_shown_is_saved_as_the_command_saves_it(opened):
    page = opened()
    say(
        page, answer("=cmd|' /C calc'!A0.jpg"), answer("b.jpg", status="failed", error="b.jpg: no image", candidates=[])
    )
    give(page, photo("a.jpg"), photo("b.jpg"))
    places(page)
    files = {}
    for kind in ("geojson", "csv"):
        with page.expect_download() as download:
            page.click(f"#export-{kind}")
        assert download.value.suggested_filename == f"geoview.{kind}"
        files[kind] = Path(download.value.path()).read_bytes().decode()
    collection = json.loads(files["geojson"])
    assert collection["type"] == "FeatureCollection"
    located, failed = collection["features"]
    assert located["geometry"] == {"type": "Point", "coordinates": [-117.4, 34.05]}
    assert tuple(located["properties"]) == FIELDS
    assert failed["geometry"] is None
    assert failed["properties"]["error"] == "b.jpg: no image"
    header, first, second = csv.reader(io.StringIO(files["csv"]))
    assert tuple(header) == FIELDS
    assert first[:5] == ["'=cmd|' /C calc'!A0.jpg", "ok", "1", "34.05", "-117.4"]
    assert second[:3] == ["b.jpg", "failed", ""]


def test_names_and_errors_are_text_and_never_run(opened):
    page = opened()
    say(
        page,
        answer(HOSTILE, status="failed", error=f"{HOSTILE}: <script>document.body.id='hacked'</script>", candidates=[]),
    )
    give(page, photo(HOSTILE))
    page.get_by_role("heading", name="This photo could not be searched").wait_for()
    assert HOSTILE in page.inner_text("#photo-list")
    assert HOSTILE in page.inner_text("#photo-name")
    assert "<script>" in page.inner_text("#verdict-note")
    assert page.evaluate("document.body.id") == ""


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (413, {}, "too large"),
        (415, {}, "does not read this kind"),
        (422, {}, "cannot do this search. It says: the reason"),
        (429, {"Retry-After": "7"}, "Too many requests. Try again in 7 seconds."),
        (500, {}, "has failed (500)"),
        (503, {"Retry-After": "2"}, "busy. Try again in 2 seconds."),
        (504, {}, "too long"),
        (None, {}, "does not answer"),
    ],
)
def test_a_service_that_refuses_or_is_gone_is_told_in_words_and_asked_again(opened, status, headers, words):
    page = opened(script=NO_WEBGL, ready="#no-map")
    page.expected.append("Failed to load resource")
    if status is None:
        page.route("**/locate", lambda route: route.abort("connectionrefused"), times=1)
    else:
        body = json.dumps({"detail": "the reason"})
        page.route("**/locate", lambda route: route.fulfill(status=status, body=body, headers=headers), times=1)
    give(page, photo())
    page.locator("#trouble").wait_for()
    assert words in page.inner_text("#trouble-text")
    assert page.locator("#candidates li").count() == 0
    page.click("#retry")
    assert places(page)
    assert page.locator("#trouble").is_hidden()


def test_an_answer_that_breaks_off_is_no_answer(opened):
    page = opened(script=NO_WEBGL, ready="#no-map")
    body = json.dumps({"event": "received", "photos": 1}) + "\n"
    page.route("**/locate", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"), times=1)
    give(page, photo())
    page.get_by_text("broke off before the answer was complete").wait_for()


def test_a_search_is_cancelled_and_done_after_all(opened):
    page = opened(script=NO_WEBGL, ready="#no-map")
    page.route("**/locate", lambda route: None, times=1)
    give(page, photo())
    page.click("#cancel")
    assert page.inner_text("#trouble-text") == "Cancelled."
    page.click("#retry")
    assert places(page)


def test_without_webgl_places_are_there_and_a_line_for_the_map(opened):
    page = opened(script=NO_WEBGL, ready="#no-map")
    page.get_by_text("There is no map").wait_for()
    give(page, photo())
    everywhere = places(page)
    page.locator("#chip").wait_for()
    page.click("#near > summary")
    page.fill("[name=latlon]", "{}, {}".format(*everywhere[0]))
    page.fill("#near [name=radius_m]", "150")
    page.click("#near-form button")
    page.locator("#everywhere", has_text="Only within 150 m").wait_for()
    assert places(page)[0] == everywhere[0]
    assert len(places(page)) < len(everywhere)


def test_photos_are_answered_by_themselves_a_few_in_a_request(opened):
    page = opened(script=NO_WEBGL, ready="#no-map")
    asked = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("/locate") else None)
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"no image"}
    give(page, photo("0.jpg"), broken, *(photo(f"{i}.jpg", i) for i in range(1, 9)))
    page.locator(".state.ok").nth(8).wait_for()
    assert len(asked) == 2
    assert page.locator(".state.failed").count() == 1
    page.locator("#photo-list li").nth(1).click()
    assert "broken.jpg" in page.inner_text("#verdict-note")
    page.keyboard.press("Delete")
    assert page.locator("#photo-list li").count() == 9


def test_answers_to_other_photos_do_not_disturb(opened):
    page = opened(script=NO_WEBGL, ready="#no-map")
    give(page, photo())
    places(page)
    page.keyboard.press("j")
    assert page.inner_text("#place-title").startswith("Place 2 ")
    give(page, photo("b.jpg", seed=1))
    page.locator(".state.ok").nth(1).wait_for()
    assert page.inner_text("#place-title").startswith("Place 2 ")


def test_a_calibrated_answer_speaks_of_chances(opened):
    page = opened()
    say(page, answer())
    give(page, photo())
    assert places(page) == [(34.05, -117.4)]
    assert page.inner_text("#verdict-note") == "Calibrated on photos of known place."
    assert "About 3 in 4 (74 %) that it was taken within 100 m" in page.inner_text("#place-words")
    assert "within 45 m (9 in 10)" in page.inner_text("#place-words")
    assert "2018-06" in page.inner_text("#place-facts")


def test_not_here_is_said_plainly_and_guesses_only_when_asked_for(opened):
    page = opened()
    say(page, answer(status="rejected", calibration="rendered"))
    give(page, photo())
    page.get_by_role("heading", name="Not here").wait_for()
    assert "rendered photos only" in page.inner_text("#verdict-note")
    assert page.locator("#candidates li").count() == page.locator(".pin").count() == 0
    page.click("#guesses")
    assert places(page) == [(34.05, -117.4)]
    assert page.locator(".pin").count() == 1
    assert "74 %" not in page.inner_text("#answer") + page.inner_text("#place")


def test_why_a_place_is_shown_with_one_key_and_hidden_with_it(opened):
    page = opened(script=REMEMBER_FIELDS)
    page.click("#options summary")
    page.fill("[name=heading_deg]", "30")
    give(page, photo("a name.jpg"))
    everywhere = places(page)
    asked = []
    page.on("request", lambda request: asked.append(request) if request.url.endswith("/why") else None)
    page.focus("#candidates li")
    page.keyboard.press("w")
    page.locator("#why-view").wait_for()
    pictures = page.locator("#why-pictures img")
    assert pictures.count() == 3, "the photo, as it is compared, the chip"
    assert pictures.nth(0).get_attribute("alt") == "The photo a name.jpg: red speaks for the place, blue against it"
    assert page.evaluate("Math.min(...[...document.querySelectorAll('#why-pictures img')].map((i) => i.naturalHeight))")
    told = page.locator("#place-facts dt", has_text="Cell").locator("xpath=following-sibling::dd[1]").inner_text()
    assert page.evaluate("[window.asked.cell, window.asked.view, window.asked.heading_deg]") == [told, "ground", "30"]
    score = page.locator("#place-facts dt", has_text="Score").locator("xpath=following-sibling::dd[1]").inner_text()
    assert float(page.inner_text("#why-cosine")) == pytest.approx(float(score), abs=0.01)
    assert page.locator("#photo-figure").is_hidden() and page.locator("#chip-figure").is_hidden()
    assert page.get_attribute("#why", "aria-pressed") == "true"
    page.keyboard.press("w")
    page.locator("#why-view").wait_for(state="hidden")
    page.locator("#chip").wait_for()
    page.locator("#why").focus()
    page.keyboard.press("Enter")
    page.locator("#why-view").wait_for()
    assert len(asked) == 1, "what was told once is not asked again"
    page.keyboard.press("j")
    assert page.inner_text("#place-title") == f"Place 2 of {len(everywhere)}"
    assert page.locator("#why-view").is_hidden() and page.locator("#photo").is_visible()


def test_reasons_that_are_not_waited_for_do_not_come(opened):
    page = opened(script=NO_WEBGL, ready="#no-map")
    page.expected.append("net::ERR_ABORTED")
    give(page, photo())
    places(page)
    page.route("**/why", lambda route: None, times=1)
    page.click("#why")
    page.locator("#why-progress").wait_for()
    page.keyboard.press("j")
    page.locator("#why-progress").wait_for(state="hidden")
    assert page.get_attribute("#why", "aria-pressed") == "false"
    page.keyboard.press("w")
    page.locator("#why-view").wait_for()
    assert page.locator("#why-pictures img").nth(2).get_attribute("alt").startswith("Imagery at place 2:")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "There is nothing to show. It says: the reason"),
        (422, "It says: the reason"),
        (503, "The service is busy."),
        (None, "does not answer"),
    ],
)
def test_what_keeps_reasons_from_being_shown_is_told_beside_the_place(opened, status, words):
    page = opened(script=NO_WEBGL, ready="#no-map")
    page.expected.append("Failed to load resource")
    give(page, photo())
    places(page)
    if status is None:
        page.route("**/why", lambda route: route.abort("connectionrefused"), times=1)
    else:
        body = json.dumps({"detail": "the reason"})
        page.route("**/why", lambda route: route.fulfill(status=status, body=body), times=1)
    page.click("#why")
    page.locator("#why-trouble", has_text=words).wait_for()
    assert page.locator("#photo").is_visible() and page.get_attribute("#why", "aria-pressed") == "false"
    page.click("#why")
    page.locator("#why-view").wait_for()
    assert page.locator("#why-trouble").is_hidden()


def test_there_is_no_asking_why_where_the_index_has_no_reasons(opened):
    page = opened(script=NO_REASONS, ready="#no-map")
    give(page, photo())
    places(page)
    page.keyboard.press("w")
    assert page.locator("#why").is_hidden()
    assert page.locator("#why-progress").is_hidden()


def test_chips_turn_with_the_heading_of_the_photo(opened):
    page = opened()
    candidate = answer()["candidates"][0] | {"heading_deg": 225.0, "chip": "/chips/80c2c5.jpg"}
    page.route("**/chips/**", lambda route: route.fulfill(body=jpeg(), content_type="image/jpeg"))
    say(page, answer(candidates=[candidate]))
    give(page, photo())
    places(page)
    assert "heading_deg=225" in page.get_attribute("#chip", "src")
    assert "south-west (225°)" in page.inner_text("#place-facts")
    page.click("#north-up")
    assert "heading_deg=0" in page.get_attribute("#chip", "src")
    assert page.inner_text("#chip-caption") == "North is up"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(opened, scheme):
    page = opened(PHONE, color_scheme=scheme, has_touch=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    give(page, photo("a name without any space to break it at which is far too long for a phone" + "x" * 80 + ".jpg"))
    places(page)
    page.click("#options summary")
    assert page.evaluate(fits)
    page.click("#why")
    page.locator("#why-view").wait_for()
    assert page.evaluate(fits)
    page.click("#open-index")
    assert page.evaluate(fits)


def test_a_locked_service_asks_for_its_token_once(opened, index_folder):
    token = "open sesame, open sesame"
    with serving(index_folder, GEOVIEW_TOKEN=token) as address:
        page = opened(address=address, ready="#token-dialog")
        page.expected.append("401")
        page.fill("[name=token]", "friend")
        page.keyboard.press("Enter")
        page.get_by_text("That is not its token.").wait_for()
        page.fill("[name=token]", token)
        page.keyboard.press("Enter")
        page.locator("#visible").wait_for()
        give(page, photo())
        assert places(page)
        # Pictures are let in by the cookie.
        page.locator("#chip").wait_for()
        page.reload()
        page.locator("#visible").wait_for()
        assert page.locator("#token-dialog").is_hidden()
        assert token not in json.dumps(page.context.cookies())
