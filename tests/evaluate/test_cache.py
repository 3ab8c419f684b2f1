"""Embeddings on disk: whole parts or none, whatever stops the run or damages a file."""

import errno
import json
import logging
import os
import threading

import numpy as np
import pytest

from geoview.config import InferenceConfig
from geoview.data.views import View
from geoview.errors import StorageFullError, UnreadableImageError
from geoview.evaluate import cache
from geoview.evaluate.cache import embeddings, file_stamp

N = 23
CONFIG = InferenceConfig(batch_size=3, device="cpu", precision="fp32")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(cache, "_PART_ROWS", 8)


def picture(row):
    return View(np.full((32, 32, 3), 10 * row, np.uint8), np.ones((32, 32), np.bool_))


@pytest.fixture
def embedded(tmp_path, stand_ins):
    def embed(encoder=None, read=picture, about=None, stamps=(1,), n=N):
        encoder = encoder or stand_ins["colours"]()
        about = about or {"side": "query"}
        return embeddings(encoder, read, n, tmp_path / "e", about, list(stamps), CONFIG, seen="aerial", progress="test")

    return embed


def files(tmp_path):
    return sorted((tmp_path / "e").rglob("*.npy"))


def test_parts_are_kept_as_float32_and_read_again(embedded, tmp_path, stand_ins):
    vectors = embedded()
    assert vectors.dtype == np.float32
    assert [np.load(file).shape for file in files(tmp_path)] == [(8, 12), (8, 12), (7, 12)]
    assert [file.name for file in files(tmp_path)] == ["000000.npy", "000001.npy", "000002.npy"]
    np.testing.assert_array_equal(np.concatenate([np.load(file) for file in files(tmp_path)]), vectors)
    np.testing.assert_array_equal(embedded(stand_ins["untouchable"]()), vectors)
    about = json.loads((files(tmp_path)[0].parent / "about.json").read_text())
    assert about == {
        "encoder": "colours",
        "format": 1,
        "n": N,
        "precision": "float32",
        "seen": "aerial",
        "side": "query",
    }


def test_what_differs_has_another_key(embedded, tmp_path, stand_ins):
    embedded()
    embedded(about={"side": "reference"})
    embedded(stamps=[2])
    embedded(n=N - 1)
    embedded(stand_ins["constant"]())
    assert len({file.parent for file in files(tmp_path)}) == 5


def test_a_killed_run_goes_on_at_the_first_part_that_is_missing(embedded, tmp_path, stand_ins):
    def killed(row):
        if row == 18:
            raise KeyboardInterrupt
        return picture(row)

    with pytest.raises(KeyboardInterrupt):
        embedded(read=killed)
    assert [file.name for file in files(tmp_path)] == ["000000.npy", "000001.npy"]
    assert not [path for path in (tmp_path / "e").rglob(".*")], "nothing half written stays"
    second = stand_ins["colours"]()
    vectors = embedded(second)
    assert second.shown == N - 16
    assert np.isfinite(vectors).all()
    third = embedded(stand_ins["untouchable"]())
    np.testing.assert_array_equal(vectors, third)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:200]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"not numpy at all"),
        lambda file: np.save(file, np.zeros((8, 12))),
        lambda file: np.save(file, np.zeros((8, 11), np.float32)),
        lambda file: np.save(file, np.array([{}]), allow_pickle=True),
    ],
)
def test_a_damaged_part_is_made_again_and_that_is_said(embedded, tmp_path, stand_ins, caplog, damage):
    vectors = embedded()
    damage(files(tmp_path)[1])
    second = stand_ins["colours"]()
    with caplog.at_level(logging.WARNING, "geoview"):
        np.testing.assert_array_equal(embedded(second), vectors)
    assert second.shown == 8
    assert [record.getMessage().count("000001.npy: is damaged") for record in caplog.records] == [1]
    np.testing.assert_array_equal(embedded(stand_ins["untouchable"]()), vectors)


def test_unreadable_pictures_are_nan_named_and_tried_again(embedded, stand_ins, caplog):
    def read(row):
        if row in (3, 4, 22):
            raise UnreadableImageError(f"{row}.jpg: is broken")
        return picture(row)

    with caplog.at_level(logging.WARNING, "geoview"):
        vectors = embedded(read=read)
    assert np.flatnonzero(np.isnan(vectors).all(axis=1)).tolist() == [3, 4, 22]
    assert [record.getMessage() for record in caplog.records] == [f"{row}.jpg: is broken" for row in (3, 4, 22)]
    again = stand_ins["colours"]()
    np.testing.assert_array_equal(embedded(again, read=read), vectors)
    assert again.shown == 0
    assert len(caplog.records) == 6, "named again"
    mended = stand_ins["colours"]()
    whole = embedded(mended)
    assert mended.shown == 3
    np.testing.assert_array_equal(
        whole[[i for i in range(N) if i not in (3, 4, 22)]], vectors[~np.isnan(vectors[:, 0])]
    )
    np.testing.assert_array_equal(embedded(stand_ins["untouchable"]()), whole)


def test_a_part_of_which_nothing_can_be_read(embedded, tmp_path):
    def read(row):
        raise UnreadableImageError(f"{row}.jpg: is broken")

    assert np.isnan(embedded(read=read)).all()
    assert len(files(tmp_path)) == 3


def test_a_full_disk_is_told_and_what_is_finished_stays(embedded, tmp_path, monkeypatch, stand_ins):
    save = np.save

    def full(file, part):
        if len(files(tmp_path)):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, part)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageFullError, match="free some space"):
        embedded()
    monkeypatch.undo()
    assert len(files(tmp_path)) == 1


def test_pictures_are_read_ahead_in_threads(embedded):
    threads = set()

    def read(row):
        threads.add(threading.current_thread().name)
        return picture(row)

    embedded(read=read)
    assert threading.main_thread().name not in threads


def test_a_stamp_changes_with_the_file(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"1")
    first = file_stamp(str(file))
    assert first[:2] == (str(file), 1)
    os.utime(file, ns=(first[2], first[2] + 1000))
    second = file_stamp(str(file))
    assert second != first, "of the same size, written later"
    file.write_bytes(b"12")
    os.utime(file, ns=(first[2], first[2] + 1000))
    assert file_stamp(str(file)) != second, "of another size, at the same time"
    assert file_stamp("s3://bucket/a.tif") == ("s3://bucket/a.tif", -1, -1)
