"""The service as who asks it meets it: answers, streams, pages, counters, and an end that cuts nobody off."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
from PIL import Image

import tiles
from geoview.cli import main
from geoview.config import InferenceConfig
from geoview.data.queries import PhotoQuery
from geoview.geo import cells
from geoview.index.cell_index import CellIndex
from geoview.locate.embedding import PhotoView
from geoview.locate.localizer import Localizer
from geoview.locate.posterior import Posterior
from geoview.locate.why import Explainer
from geoview.serve import server
from geoview.serve.answers import Answer, Reasons

STREAM = {"Accept": "application/x-ndjson"}


def located(client, sent, **headers):
    answer = client.post("/locate", **sent, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["answers"]


def test_answers_are_those_of_the_command(client, tools, index_folder, tmp_path):
    photos = [tools.picture(seed, size_px) for seed, size_px in enumerate([(120, 90), (90, 120), (400, 100)])]
    for i, photo in enumerate(photos):
        (tmp_path / f"{i}.jpg").write_bytes(photo)
    localizer = Localizer(CellIndex.open(index_folder), InferenceConfig(device="cpu"))
    wanted = localizer.locate([str(tmp_path / f"{i}.jpg") for i in range(3)], top_k=3)
    for answer, other in zip(located(client, tools.form(*photos, top_k=3)), wanted, strict=True):
        assert (answer["status"], answer["error"], answer["calibration"]) == ("ok", "", "none")
        assert [c["rank"] for c in answer["candidates"]] == [1, 2, 3]
        ids = cells.from_tokens([c["cell"] for c in answer["candidates"]])
        assert ids.tolist() == [place.cell_id for place in other.places]
        scores = [c["score"] for c in answer["candidates"]]
        assert np.allclose(scores, [place.score for place in other.places], atol=1e-3)
        assert client.get(answer["candidates"][0]["chip"]).headers["Content-Type"] == "image/jpeg"


def test_ten_photos_of_which_three_are_broken(client, tools):
    sound = [tools.picture(seed) for seed in range(7)]
    broken = [b"<svg onload=alert(1)>", tools.picture()[:300], b""]
    photos = [*sound[:3], broken[0], *sound[3:5], broken[1], *sound[5:], broken[2]]
    answers = located(client, tools.form(*photos))
    assert [a["query"] for a in answers] == [f"{i}.jpg" for i in range(10)]
    assert [i for i, a in enumerate(answers) if a["status"] == "failed"] == [3, 6, 9]
    assert "not a JPEG, PNG, TIFF or WebP" in answers[3]["error"]
    assert all(a["error"].startswith(a["query"]) and not a["candidates"] for a in answers if a["status"] == "failed")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html><script>1</script></html>", "not a JPEG"),
        (b"%!PS-Adobe-3.0", "not a JPEG"),
        (b"II*\0" + b"\xff" * 64, "damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "damaged or truncated"),
    ],
)
def test_what_only_seems_to_be_a_photo_fails_and_the_request_does_not(client, tools, content, told):
    (answer,) = located(client, tools.form(("../../x.jpg", content)))
    assert (answer["query"], answer["status"]) == ("x.jpg", "failed")
    assert told in answer["error"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_ten_thousand_by_ten_thousand_pixels_are_refused_unread(client, tools, kind):
    buffer = io.BytesIO()
    Image.new("1" if kind != "JPEG" else "L", (10_000, 10_000)).save(
        buffer, kind, **({"compression": "group4"} if kind == "TIFF" else {})
    )
    start = time.monotonic()
    (answer,) = located(client, tools.form(buffer.getvalue()))
    assert "10000 x 10000 pixels are more than 64 megapixels" in answer["error"]
    assert time.monotonic() - start < 5


def test_where_a_photo_says_it_was_taken_is_told_back_only_when_asked(client, tools, kit):
    here = tools.picture(exif=kit.exif_at(*kit.CENTRE_DEG))
    answer = client.post("/locate", **tools.form(here))
    (plain,) = answer.json()["answers"]
    assert (plain["exif_lat"], plain["exif_lon"]) == (None, None)
    assert plain["candidates"][0]["exif_distance_m"] is None
    assert f"{kit.CENTRE_DEG[0]:.4f}" not in answer.text.replace(str(plain["candidates"]), "")
    (told,) = located(client, tools.form(here, exif=True))
    assert np.allclose([told["exif_lat"], told["exif_lon"]], kit.CENTRE_DEG, atol=1e-4)
    assert told["candidates"][0]["exif_distance_m"] > 0
    assert [c["cell"] for c in told["candidates"]] == [c["cell"] for c in plain["candidates"]], "and never a hint"


def test_photos_without_a_position_or_with_a_false_one_are_answered_alike(client, tools, kit):
    photos = [tools.picture(), tools.picture(exif=kit.exif_at(0, 0)), tools.picture(exif=kit.exif_at(55.7, 13.2))]
    photos.append(tools.picture(exif=b"Exif\0\0II*\0" + b"\xff" * 40))
    answers = located(client, tools.form(*photos, exif=True))
    assert all(a["status"] == "ok" for a in answers)
    assert len({json.dumps([c["cell"] for c in a["candidates"]]) for a in answers}) == 1


def test_more_places_than_there_are(client, tools):
    (answer,) = located(client, tools.form(tools.picture(), top_k=100))
    assert 1 < len(answer["candidates"]) <= client.get("/index").json()["cells"]


def test_a_search_around_a_point_and_outside_the_index(client, tools, kit):
    near = {"near": "{},{}".format(*kit.CENTRE_DEG), "radius_m": 200}
    (answer,) = located(client, tools.form(tools.picture(), **near))
    assert all(abs(c["lat"] - kit.CENTRE_DEG[0]) < 0.004 for c in answer["candidates"])
    for other in ({"near": "0,0", "radius_m": 10}, {"near": "34.12,-117.55", "radius_m": 10}):
        refusal = client.post("/locate", **tools.form(tools.picture(), **other))
        assert refusal.status_code == 422
        assert "/" not in refusal.json()["detail"].replace("GET /index", ""), "no path of this machine"


def test_requests_without_photos_are_refused(client):
    assert client.post("/locate", files={"top_k": (None, "1")}).json()["detail"].startswith("photos: none is given")
    refusal = client.post("/locate", files={"photos": (None, "text")})
    assert (refusal.status_code, refusal.json()["detail"][:26]) == (422, "photos: one of them is no ")


def test_a_photo_from_above_is_found_by_its_scale(client, tools, index_folder, ortho):
    index = CellIndex.open(index_folder)
    cell_id = index.cell_ids()[30]
    seen = tiles.open_source(str(ortho)).chip(cells.centers_deg(cell_id), size_px=64, gsd_m=2.4)
    buffer = io.BytesIO()
    Image.fromarray(seen.pixels).save(buffer, "PNG")
    (answer,) = located(client, tools.form(buffer.getvalue(), view="aerial", gsd_m=2.4, top_k=1))
    assert answer["candidates"][0]["cell"] == cells.tokens(np.array([cell_id]))[0]


def test_answers_come_as_a_stream_when_asked(client, tools):
    photos = [tools.picture(0), b"broken", tools.picture(2)]
    with client.stream("POST", "/locate", **tools.form(*photos, top_k=2), headers=STREAM) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert answer.headers["Cache-Control"] == "no-store"
        events = [json.loads(line) for line in answer.iter_lines()]
    assert [e["event"] for e in events] == ["received", *["progress", "answer"] * 3, "end"]
    assert [(e["done"], e["of"]) for e in events if e["event"] == "progress"] == [(1, 3), (2, 3), (3, 3)]
    assert [e["answer"] for e in events if e["event"] == "answer"] == located(client, tools.form(*photos, top_k=2))
    assert events[-1]["index"] == client.post("/locate", **tools.form(*photos)).json()["index"]


def test_a_stream_tells_its_error(client, tools):
    # Near enough that only the search finds out.
    sent = tools.form(tools.picture(), near="34.12,-117.55", radius_m=10)
    with client.stream("POST", "/locate", **sent, headers=STREAM) as answer:
        events = [json.loads(line) for line in answer.iter_lines()]
    assert [e["event"] for e in events] == ["received", "error"]
    assert events[-1]["detail"].startswith("region: no cell of the index lies in it")


def best(client, tools, photo, **fields):
    """Returns the cell of the first candidate."""
    return located(client, tools.form(photo, top_k=1, **fields))[0]["candidates"][0]["cell"]


def decoded(picture):
    """Returns the pixels of a JPEG."""
    return np.asarray(Image.open(io.BytesIO(picture))).astype(int)


def test_reasons_are_those_of_the_command(client, tools, index_folder, ortho):
    content = tools.picture(size_px=(400, 100))
    for fields in ({"heading_deg": -30}, {"view": "aerial", "gsd_m": 1.0}):
        cell = best(client, tools, content, **fields)
        sent = tools.form(content, cell=cell, **fields)
        told = client.post("/why", **sent, headers={"Accept": "application/json"})
        assert (told.status_code, told.headers["Cache-Control"]) == (200, "no-store")
        reasons = Reasons.model_validate(told.json())
        assert (reasons.query, reasons.cell, reasons.heading_deg) == ("0.jpg", cell, None)
        sheet = client.post("/why", **sent)
        assert sheet.headers["Content-Type"] == "image/jpeg"

        localizer = Localizer(CellIndex.open(index_folder), InferenceConfig(device="cpu"))
        view = PhotoView(fields.get("view", "ground"), gsd_m=fields.get("gsd_m"))
        query = PhotoQuery("0.jpg", heading_deg=330 if "heading_deg" in fields else None, content=content)
        centre_deg = tuple(cells.centers_deg(cells.from_tokens([cell]))[0].tolist())
        wanted = Explainer(localizer, tiles.open_source(ortho)).drawn(query, centre_deg, view)
        assert reasons.cosine == pytest.approx(wanted.cosine, abs=1e-3)
        for name in ("photo", "seen", "chip"):
            url, picture = getattr(reasons, name), getattr(wanted, name)
            assert (url is None) == (picture is None), name
            if url is not None:
                kind, _, data = url.partition(",")
                assert kind == "data:image/jpeg;base64"
                assert np.abs(decoded(base64.b64decode(data)) - np.asarray(picture)).mean() < 12, "but for JPEG"
        assert np.abs(decoded(sheet.content) - np.asarray(wanted.sheet(f"0.jpg: cell {cell}"))).mean() < 8


def test_a_cell_that_is_none_of_the_index_has_no_reasons(client, tools):
    for cell, told in (
        ("nowhere", "cell: 'nowhere' is not the token of a cell"),
        ("1", "cell: the cells of this index are of level 16"),
        ("479e75f1d", "cell: this cell is not in the index"),
        (" ", "cell: Field required"),
        ("\n\0", "cell: '"),
    ):
        refusal = client.post("/why", **tools.form(tools.picture(), cell=cell))
        assert refusal.status_code == 422, cell
        assert refusal.json()["detail"].startswith(told)
        assert "\n" not in refusal.json()["detail"]


def test_reasons_are_of_one_photo_that_can_be_read(client, tools):
    photo = tools.picture()
    cell = best(client, tools, photo)
    for sent, status, told in (
        (tools.form(photo, photo, cell=cell), 413, "more than 1 photo; send several requests"),
        ({"files": {"cell": (None, cell)}}, 422, "photos: none is given"),
        (tools.form(("../../a.jpg", b"<svg>"), cell=cell), 422, "a.jpg: "),
        (tools.form(photo[:300], cell=cell), 422, "0.jpg: "),
        (tools.form(tools.picture(size_px=(9000, 9000), kind="PNG"), cell=cell), 422, "0.jpg: 9000 x 9000 pixels"),
        (tools.form(photo, cell=cell, top_k=1), 422, "top_k: Extra inputs are not permitted"),
        (tools.form(photo, cell=cell, view="aerial"), 422, "gsd_m, metres per pixel"),
        ({"content": b"x", "headers": {"Content-Type": "image/jpeg"}}, 415, "send multipart/form-data"),
    ):
        refusal = client.post("/why", **sent)
        assert (refusal.status_code, refusal.json()["detail"][: len(told)]) == (status, told)


def test_what_goes_wrong_in_drawing_is_told_without_what_is_left_to_the_log(client, tools, monkeypatch, caplog):
    photo = tools.picture()
    sent = tools.form(photo, cell=best(client, tools, photo))
    for fault, status, told in (
        (tiles.UnreadableRasterError("/home/machine/ortho.tif: gone"), 404, "the imagery cannot be read any more"),
        (
            tiles.OutsideCoverageError("/home/machine/ortho.tif: not here"),
            404,
            "the imagery that is left shows nothing",
        ),
        (ZeroDivisionError("a fault of ours"), 422, "0.jpg: cannot be worked on (ZeroDivisionError)"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(Explainer, "drawn", Mock(side_effect=fault))
            refusal = client.post("/why", **sent)
        assert (refusal.status_code, refusal.json()["detail"][: len(told)]) == (status, told)
        assert "machine" not in refusal.text
    assert "a fault of ours" in caplog.text
    assert client.post("/why", **sent).status_code == 200


@pytest.fixture
def probability(index_folder, monkeypatch):
    """What a calibrated index answers, put in here; returns the probabilities of its cells."""
    ids = np.unique(CellIndex.open(index_folder).cell_ids())
    many = np.sort(np.concatenate([ids, cells.neighbors(ids).ravel(), cells.descendants(ids, 19).ravel()]))
    probability = np.linspace(1, 2, len(many)) / len(many) / 2
    answer = Localizer.answer

    def calibrated(self, photos, search):
        return [
            replace(
                each,
                status="rejected",
                calibration="rendered",
                posterior=Posterior(many, probability),
                places=[replace(place, radius_m=123.456, p_within_100m=0.43218) for place in each.places],
            )
            for each in answer(self, photos, search)
        ]

    monkeypatch.setattr(Localizer, "answer", calibrated)
    return probability


def test_a_calibrated_answer_tells_its_probabilities_and_its_heat(client, tools, probability):
    reply = client.post("/locate", **tools.form(tools.picture(), heat=True, top_k=1)).json()
    (told,) = reply["answers"]
    assert reply["index"]["calibration"] == told["calibration"] == "rendered"
    assert told["status"] == "rejected"
    assert (told["candidates"][0]["radius_m"], told["candidates"][0]["p_within_100m"]) == (123.5, 0.4322)
    features = told["heat"]["features"]
    assert len(features) == 2000
    p = [f["properties"]["p"] for f in features]
    assert p == sorted(p, reverse=True)
    assert p[0] == pytest.approx(probability.max(), rel=1e-3)
    (ring,) = features[0]["geometry"]["coordinates"]
    assert ring[0] == ring[-1] and len(ring) == 5 and ring[0][0] < -117, "longitude first"
    (plain,) = located(client, tools.form(tools.picture(), top_k=1))
    assert plain["heat"] is None


def test_the_index_is_described_without_a_path_of_this_machine(client, index_folder, kit):
    answer = client.get("/index")
    about = answer.json()
    assert about["name"] == "index"
    assert str(index_folder.parent) not in answer.text
    west, south, east, north = about["bounds"]
    assert west < kit.CENTRE_DEG[1] < east and south < kit.CENTRE_DEG[0] < north
    assert (about["level"], about["cells"], about["calibration"]) == (16, len(CellIndex.open(index_folder)), None)
    assert about["tiles"]["url"] == "/tiles/{z}/{x}/{y}.webp?v=1"
    assert about["coverage"]["type"] == "Polygon"


def test_pictures_are_kept_by_browsers_and_answers_are_not(client, tools, kit):
    (answer,) = located(client, tools.form(tools.picture(), top_k=1))
    chip = client.get(answer["candidates"][0]["chip"], params={"size_px": 64, "heading_deg": 45})
    assert (chip.status_code, chip.headers["Cache-Control"]) == (200, "private, max-age=300")
    for query in ({"size_px": 8}, {"size_px": 10_000}, {"heading_deg": "nan"}, {"size_px": "large"}):
        refusal = client.get(answer["candidates"][0]["chip"], params=query)
        assert refusal.status_code == 422
        assert refusal.json()["detail"].startswith(next(iter(query)))
    assert client.get("/tiles/16/1/1.webp").status_code == 204
    assert client.get("/tiles/16/x/1.webp").status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static/%2fetc/passwd",
        "/static/",
        "/static",
        "/chips/..%2f..%2fsecret.txt.jpg",
        "/static/%00",
    ],
)
def test_only_the_files_of_the_page_are_served(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 307), answer.text
    assert "secret" not in answer.text and "root:" not in answer.text


def test_the_page_is_kept_and_asked_about(client):
    page = client.get("/")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    script = client.get("/static/page.js")
    assert script.headers["Content-Type"].startswith("text/javascript")
    assert script.headers["Cache-Control"] == "no-cache"
    again = client.get("/static/page.js", headers={"If-None-Match": script.headers["ETag"]})
    assert again.status_code == 304


def test_the_description_has_examples_that_hold_and_sends_nobody_elsewhere(client):
    text = client.get("/openapi.json").text
    assert "http://" not in text and set(re.findall(r"https://([^/]*)", text)) == {"tiles.example.org"}
    described = json.loads(text)
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
    example = described["components"]["schemas"]["Located"]["examples"][0]
    assert Answer.model_validate(example["answers"][0]).status == "ok"
    form = described["paths"]["/locate"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["required"] == ["photos"]
    assert form["example"]
    why = described["paths"]["/why"]["post"]
    form = why["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["required"] == ["photos", "cell"]
    assert form["example"]["cell"]
    assert set(why["responses"]["200"]["content"]) == {"image/jpeg", "application/json"}
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


def test_counters_name_no_photo_and_no_path(client, tools):
    located(client, tools.form(("my secret street.jpg", tools.picture()), ("other.jpg", b"")))
    client.get("/my-own-path")
    text = client.get("/metrics").text
    assert 'geoview_requests_total{route="/locate",status="200"}' in text
    assert 'geoview_requests_total{route="other",status="404"}' in text
    assert 'geoview_photos_total{status="failed"}' in text
    assert 'geoview_stage_seconds_count{stage="embed"}' in text
    assert "geoview_photos_waiting 0.0" in text
    assert "secret" not in text and "my-own" not in text


@pytest.fixture
def gate(monkeypatch):
    """Holds photos up before they are embedded, until it is opened."""
    opened, embed = threading.Event(), Localizer.embed
    monkeypatch.setattr(Localizer, "embed", lambda self, *a, **k: (opened.wait(30), embed(self, *a, **k))[1])
    yield opened
    opened.set()


def waiting(client):
    text = client.get("/metrics").text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("geoview_photos_waiting ")))


def test_what_nobody_waits_for_any_more_is_dropped(client, tools, gate):
    for headers in ({}, STREAM):
        request = client.build_request("POST", "/locate", **tools.form(*[tools.picture()] * 40), headers=headers)
        body = request.read()
        head = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
        with socket.create_connection(client.address) as connection:
            connection.sendall(f"POST /locate HTTP/1.1\r\n{head}\r\n".encode() + body)
            tools.until(lambda: waiting(client) > 0)
        tools.until(lambda: waiting(client) == 0)
    gate.set()
    assert located(client, tools.form(tools.picture()))[0]["status"] == "ok"


def test_a_client_that_takes_nothing_is_cut_off(client, tools, probability, monkeypatch):
    monkeypatch.setattr(server, "_TAKEN_S", 0.2)
    sent = tools.form(*[tools.picture(size_px=(16, 16))] * 50, heat=True, top_k=1)
    request = client.build_request("POST", "/locate", **sent, headers=STREAM)
    body = request.read()
    head = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(client.address)
        connection.sendall(f"POST /locate HTTP/1.1\r\n{head}\r\n".encode() + body)
        tools.until(lambda: len(client.server.server_state.connections) == 1)
        received = b""
        with suppress(ConnectionResetError):
            while part := connection.recv(2**20):
                received += part
    assert b'"event": "received"' in received and b'"event": "end"' not in received


def test_more_than_can_wait_is_told_to_come_again(tools, index_folder, gate):
    with tools.serving(index_folder, max_waiting=20, max_photos=20) as client:
        held = threading.Thread(target=located, args=(client, tools.form(*[tools.picture()] * 20)))
        held.start()
        tools.until(lambda: waiting(client) > 0)
        refusal = client.post("/locate", **tools.form(*[tools.picture()] * 17))
        assert (refusal.status_code, refusal.headers["Retry-After"]) == (503, "5")
        gate.set()
        held.join()
        assert client.post("/locate", **tools.form(tools.picture())).status_code == 200


def test_what_takes_too_long_is_told(tools, index_folder, gate):
    with tools.serving(index_folder, answer_s=0.3) as client:
        late = client.post("/locate", **tools.form(tools.picture()))
        assert (late.status_code, late.json()["detail"][:20]) == (504, "not answered within ")
        gate.set()


def test_thirty_two_clients_at_once_have_the_answers_of_one(client, tools):
    async def ask(other, seed):
        answer = await other.post("/locate", **tools.form(tools.picture(seed % 8), top_k=2))
        return [c["cell"] for c in answer.json()["answers"][0]["candidates"]]

    async def all_at_once():
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as other:
            return await asyncio.gather(*(ask(other, seed) for seed in range(32)))

    found = asyncio.run(all_at_once())
    alone = [
        [c["cell"] for c in located(client, tools.form(tools.picture(i), top_k=2))[0]["candidates"]] for i in range(8)
    ]
    assert found == alone * 4


def test_the_command_serves_until_it_is_told_to_end_and_answers_what_it_has_received(index_folder, tools):
    words = ["serve", "--index", str(index_folder), "--port", "0", "--device", "cpu", "--num_workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "geoview", *words],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    url = process.stderr.readline().split()[-1]
    tools.until(lambda: reached(url))
    found = []
    thread = threading.Thread(
        target=lambda: found.append(httpx.post(f"{url}/locate", **tools.form(*[tools.picture()] * 50), timeout=60))
    )
    thread.start()
    tools.until(lambda: "geoview_photos_waiting 0.0" not in httpx.get(f"{url}/metrics").text or found)
    process.send_signal(signal.SIGTERM)
    thread.join()
    assert found[0].status_code == 200
    assert len(found[0].json()["answers"]) == 50
    _, talk = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in talk and "jpg" not in talk
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def reached(url):
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.ConnectError:
        return False


def test_what_keeps_it_from_starting_is_one_line(index_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GEOVIEW_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, told in (
            (["--index", str(tmp_path / "absent")], "not an index"),
            (["--index", str(index_folder), "--host", "0.0.0.0"], "others than this machine could ask"),
            (["--index", str(index_folder), "--port", port], f"127.0.0.1, port {port}: cannot be listened on"),
            (["--index", str(index_folder), "--port", "70000"], "port must be within 0 and 65535"),
            (["--index", str(index_folder), "--imagery", str(tmp_path / "none.tif")], "none.tif: not found"),
        ):
            assert main(["serve", *words]) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 1 and told in lines[0], lines


def test_without_fastapi_it_says_what_to_install(index_folder, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("geoview.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", "--index", str(index_folder), "--port", "0"]) == 2
    assert "pip install 'geoview[serve]'" in capsys.readouterr().err
