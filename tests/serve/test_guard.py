"""Who may ask, and what a browser may do with what it gets."""

import pytest

from geoview.config import ServeConfig
from geoview.errors import ConfigError
from geoview.serve.guard import read_token

TOKEN = "0123456789abcdef0123"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def locked(tools, index_folder, tmp_path_factory):
    """A client of a service that asks for a token."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(TOKEN + "\n")
    with tools.serving(index_folder, host="0.0.0.0", token_file=str(file)) as client:
        yield client


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST"])
def test_this_machine_is_asked_by_its_names(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::1", "", "localhost@evil.example:80"])
def test_a_name_that_was_pointed_here_is_refused(client, host):
    answer = client.get("/index", headers={"Host": host})
    assert answer.status_code == 400
    assert "another name" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 204),
        ({"Sec-Fetch-Site": "same-origin"}, 204),
        ({"Sec-Fetch-Site": "none"}, 204),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[bad"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 204),
    ],
)
def test_pages_of_other_sites_cannot_send(client, headers, status):
    assert client.post("/session", headers=headers).status_code == status


def test_our_own_page_can_send(client):
    assert client.post("/session", headers={"Origin": str(client.base_url)}).status_code == 204


@pytest.mark.parametrize("path", ["/index", "/metrics", "/openapi.json", "/chips/80dccaab7.jpg", "/tiles/16/1/1.webp"])
def test_nothing_of_a_locked_index_is_shown_without_the_token(locked, path):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": "geoview_=1; a=\x22"}):
        answer = locked.get(path, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert locked.get(path, headers=BEARER).status_code in (200, 204, 404)
    assert locked.get(path, params={"token": TOKEN}).status_code == 401, "addresses end up in histories and logs"


def test_photos_are_not_even_received_without_the_token(locked, tools):
    assert locked.post("/locate", **tools.form(tools.picture())).status_code == 401
    answer = locked.post("/locate", **tools.form(tools.picture()), headers=BEARER)
    assert answer.status_code == 200
    why = tools.form(tools.picture(), cell=answer.json()["answers"][0]["candidates"][0]["cell"])
    assert locked.post("/why", **why).status_code == 401
    assert locked.post("/why", **why, headers=BEARER).status_code == 200


def test_the_page_is_shown_without_the_token_so_that_it_can_ask_for_it(locked):
    for path in ("/", "/static/page.js", "/health"):
        assert locked.get(path).status_code == 200
    assert locked.get("/static/../index").status_code in (401, 404)


def test_the_token_is_turned_into_a_cookie_for_pictures_that_does_not_tell_it(locked):
    assert locked.post("/session").status_code == 401
    answer = locked.post("/session", headers=BEARER)
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert TOKEN not in cookie
    locked.cookies.clear()
    headers = {"Cookie": cookie.partition(";")[0]}
    assert locked.get("/index", headers=headers).status_code == 200
    assert locked.get("/index", headers={"Cookie": headers["Cookie"] + "x"}).status_code == 401


def test_others_are_not_served_without_a_token(monkeypatch, tmp_path):
    monkeypatch.delenv("GEOVIEW_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(ConfigError, match="others than this machine could ask"):
            read_token(ServeConfig(index="i", host=host))
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert read_token(ServeConfig(index="i", host=host)) is None
    monkeypatch.setenv("GEOVIEW_TOKEN", TOKEN)
    assert read_token(ServeConfig(index="i", host="0.0.0.0")) == TOKEN
    monkeypatch.setenv("GEOVIEW_TOKEN", "short")
    with pytest.raises(ConfigError, match="GEOVIEW_TOKEN: a token has 16 or more"):
        read_token(ServeConfig(index="i"))
    with pytest.raises(ConfigError, match="absent: the token cannot be read"):
        read_token(ServeConfig(index="i", token_file=str(tmp_path / "absent")))


def test_every_answer_tells_browsers_that_nothing_leaves_this_host(client):
    for path in ("/", "/static/page.js", "/index", "/absent", "/chips/zz.jpg"):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["img-src"] == "'self' blob: data:"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "geolocation=()" in headers["Permissions-Policy"]
        assert "server" not in headers


def test_a_base_map_is_admitted_only_where_the_operator_names_it(client, tools, index_folder):
    assert client.get("/index").json()["basemap"] is None
    url = "https://tiles.example.org:8443/{z}/{x}/{y}.png"
    with tools.serving(index_folder, basemap=url, basemap_attribution="Somebody") as other:
        assert other.get("/index").json()["basemap"] == {"url": url, "attribution": "Somebody"}
        policy = other.get("/").headers["Content-Security-Policy"]
    assert "img-src 'self' blob: data: https://tiles.example.org:8443;" in policy
    assert "connect-src 'self' https://tiles.example.org:8443;" in policy
    assert "script-src 'self';" in policy


@pytest.mark.parametrize(
    "url",
    ["tiles", "ftp://a/b", "https://{s}.example.org/{z}", "https://a b/", "https://u@h/", "https://h;script-src/"],
)
def test_a_base_map_that_would_open_more_than_its_host_is_refused(tools, index_folder, url):
    with pytest.raises(ConfigError, match="basemap"), tools.serving(index_folder, basemap=url):
        pass
