"""A service that runs, on a port of this machine, and photos to send to it."""

import io
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from geoview.config import ServeConfig
from geoview.serve.server import listen, make_server


def picture(seed=0, size_px=(120, 90), kind="JPEG", **options):
    """Returns the bytes of a photo of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize(size_px, Image.Resampling.BICUBIC).save(buffer, kind, **options)
    return buffer.getvalue()


def form(*photos, **fields):
    """Returns what httpx sends: photos are bytes, or (name, bytes)."""
    named = [each if isinstance(each, tuple) else (f"{i}.jpg", each) for i, each in enumerate(photos)]
    return {"files": [("photos", each) for each in named], "data": {k: str(v) for k, v in fields.items()}}


@contextmanager
def running(index, static, **settings):
    """Yields a client of a service that runs in a thread; `client.server` is uvicorn's."""
    config = ServeConfig(index=str(index), port=0, **{"device": "cpu", "num_workers": 1} | settings)
    listener = listen(config)
    server = make_server(config, static)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started
    port = listener.getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.server, client.address = server, ("127.0.0.1", port)
            yield client
    finally:
        server.should_exit = True
        thread.join()


def until(condition, within_s=30):
    """Waits for what another thread does."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def static(tmp_path_factory):
    """The folder of a page."""
    folder = tmp_path_factory.mktemp("page") / "static"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>geoview</title>")
    (folder / "page.js").write_text("export {};")
    (folder.parent / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="session")
def tools(static):
    """The names above, for tests."""
    return SimpleNamespace(
        form=form, picture=picture, serving=lambda index, **settings: running(index, static, **settings), until=until
    )


@pytest.fixture(scope="module")
def client(tools, index_folder):
    """A client of a service of the small index, with all settings as they come."""
    with tools.serving(index_folder) as client:
        yield client
