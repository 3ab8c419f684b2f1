"""What may be sent: in memory alone, and bounded in bytes, in number and in time."""

import socket
import tempfile
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoview.serve import server
from geoview.serve.uploads import plain_name

HEAD = b"POST /locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n1\r\n'


@pytest.fixture(scope="module")
def strict(tools, index_folder):
    """A client of a service with little patience."""
    with tools.serving(index_folder, max_upload_mb=0.3, max_photos=10, upload_s=0.5) as client:
        yield client


def answered(address, *parts, pause_s=0.0):
    """Sends bytes as they are; returns the status that is answered, 0 where the connection is closed without one."""
    with socket.create_connection(address, timeout=20) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(pause_s)
        try:
            head = connection.recv(65536)
        except ConnectionResetError:
            return 0
    return int(head.split(b" ")[1]) if head else 0


def test_photos_never_touch_the_disk(client, tools, monkeypatch):
    def rollover(self):
        raise AssertionError("written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    large = tools.picture(size_px=(1600, 1200), kind="PNG", compress_level=0)
    assert len(large) > 2**20, "beyond which Starlette writes"
    (answer,) = client.post("/locate", **tools.form(large)).json()["answers"]
    assert answer["status"] == "ok"


def test_too_much_is_refused_whether_it_is_announced_or_not(strict, tools):
    photo = ("a.jpg", b"x" * 400_000)
    answer = strict.post("/locate", **tools.form(photo))
    assert (answer.status_code, answer.json()["detail"]) == (413, "more than 0.3 MB; send fewer or smaller photos")
    request = strict.build_request("POST", "/locate", **tools.form(photo))
    body = request.read()

    def chunks():
        yield from (body[i : i + 50_000] for i in range(0, len(body), 50_000))

    headers = {"Content-Type": request.headers["Content-Type"]}
    assert strict.post("/locate", content=chunks(), headers=headers).status_code == 413
    assert strict.post("/locate", **tools.form(tools.picture())).status_code == 200, "and nothing is left behind"


def test_what_was_received_makes_room_again_whatever_became_of_it(strict, tools):
    heavy = ("a.jpg", b"x" * 250_000)
    for fields in ({}, {"top_k": 0}) * 8:  # eight at once would be too many
        answer = strict.post("/locate", **tools.form(heavy, **fields))
        assert answer.status_code == (422 if fields else 200)


def test_a_hundred_photos_at_once_are_too_many_for_ten(strict, tools):
    answer = strict.post("/locate", **tools.form(*[b"x"] * 100))
    assert (answer.status_code, answer.json()["detail"]) == (413, "more than 10 photos; send several requests")


def test_fields_and_texts_without_end_are_refused(strict, tools):
    files, fields = tools.form(tools.picture())["files"], {f"field{i}": "1" for i in range(100)}
    assert strict.post("/locate", files=files, data=fields).status_code == 413


def test_one_byte_a_second_is_too_slow(strict):
    start = time.monotonic()
    head = HEAD + b"Content-Length: 1000\r\n\r\n"
    assert answered(strict.address, head, *[PART[i : i + 1] for i in range(8)], pause_s=0.1) == 408
    assert time.monotonic() - start < 5


def test_a_head_that_trickles_in_is_cut_off(strict, monkeypatch):
    monkeypatch.setattr(server, "_HEAD_S", 0.3)
    assert answered(strict.address, *[HEAD[i : i + 1] for i in range(12)], pause_s=0.1) == 0
    assert answered(strict.address, pause_s=0.0) == 0, "nor is silence waited for"
    assert strict.get("/health").status_code == 200


def test_slow_ones_do_not_hold_up_others(strict, tools):
    slow = [
        threading.Thread(
            target=answered, args=(strict.address, HEAD, b"Content-Length: 9\r\n\r\n", b"-"), kwargs={"pause_s": 0.3}
        )
        for _ in range(20)
    ]
    for thread in slow:
        thread.start()
    start = time.monotonic()
    assert strict.post("/locate", **tools.form(tools.picture())).status_code == 200
    assert time.monotonic() - start < 5
    for thread in slow:
        thread.join()


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("application/x-www-form-urlencoded", b"photos=1", 415),
        ("", b"", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"x", 400),
        ("multipart/form-data; boundary=" + "b" * 500, b"x", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: " + b"y" * 50_000, 400),
        ("multipart/form-data; boundary=b", b"", 422),
        ("multipart/form-data; boundary=b; charset=none", b"--b--\r\n", 422),
        ("multipart/form-data; boundary=b; charset=undefined", PART % b"heat" + b"--b--\r\n", 400),
    ],
)
def test_what_is_no_form_is_refused(client, kind, body, status):
    answer = client.post("/locate", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert "\n" not in answer.json()["detail"]


def test_a_client_that_leaves_in_the_middle_harms_nobody(client, tools):
    with socket.create_connection(client.address) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n--b")
    assert client.post("/locate", **tools.form(tools.picture())).status_code == 200


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("a.jpg", "a.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\Ä b.jpg", "Ä b.jpg"),
        ("a\r\nSet-Cookie: x", "a__Set-Cookie: x"),
        ("\u202egpj.exe", "_gpj.exe"),
        ("", "photo"),
        ("/", "photo"),
        (None, "photo"),
    ],
)
def test_names_are_told_back_without_folders_and_control_characters(given, told):
    assert plain_name(given) == told


@given(st.text())
def test_any_name_becomes_one_that_can_be_shown(name):
    plain = plain_name(name)
    assert 1 <= len(plain) <= 120
    assert plain.isprintable()
    assert "/" not in plain and "\\" not in plain
    plain.encode()
