"""What a copy of a published data set has, and what it lacks."""

import logging
from dataclasses import replace

import pytest

from geoview.data.published import Copy, numbered_lines
from geoview.errors import DatasetError


@pytest.fixture
def copy(tmp_path):
    for folder in ("a", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(300):
            (tmp_path / folder / f"{i}.jpg").touch()
    return Copy(tmp_path, "SET", "example.org/set")


def test_what_is_not_there_is_named_with_the_way_out(copy, tmp_path):
    assert copy.find("x", "b/c", "a") == "b/c"
    with pytest.raises(DatasetError) as caught:
        copy.find("x", "y/z")
    message = str(caught.value)
    for word in (f"{tmp_path}/x: not there", f"{tmp_path}/y/z", "SET", "example.org/set"):
        assert word in message
    assert "\n" not in message
    with pytest.raises(DatasetError, match=f"{tmp_path}/gone: not there"):
        copy.names("gone")
    with pytest.raises(DatasetError, match=r"a/0\.jpg: cannot be listed"):
        copy.names("a/0.jpg")


def test_hidden_files_do_not_count(copy, tmp_path):
    (tmp_path / "a/.DS_Store").touch()
    assert copy.names("a") == sorted(f"{i}.jpg" for i in range(300))


def test_all_there_is_no_word_about(copy, caplog):
    assert copy.complete([f"a/{i}.jpg" for i in range(300)], [f"b/c/{i}.jpg" for i in range(300)]).all()
    assert not caplog.records


def test_up_to_a_hundredth_is_left_out_and_three_are_named(copy, tmp_path, caplog):
    columns = [f"a/{i}.jpg" for i in range(300)], [f"b/c/{i}.jpg" for i in range(300)]
    for name in ("a/5.jpg", "b/c/5.jpg", "a/7.jpg", "b/c/9.jpg"):
        (tmp_path / name).unlink()
    with caplog.at_level(logging.WARNING):
        complete = copy.complete(*columns)
    assert [i for i in range(300) if not complete[i]] == [5, 7, 9]
    (record,) = caplog.records
    assert "3 of 300 entries of SET" in record.getMessage()
    assert record.getMessage().endswith(": a/5.jpg, b/c/5.jpg, a/7.jpg and others")
    assert str(tmp_path) in record.getMessage()
    (tmp_path / "a/8.jpg").unlink()
    with pytest.raises(DatasetError, match=r"4 of 300 entries of SET .*a/5\.jpg.*example\.org/set") as caught:
        copy.complete(*columns)
    assert "\n" not in str(caught.value)
    assert "max_missing_share 0.01" in str(caught.value)


def test_how_many_may_lack_is_the_copy_s(copy, tmp_path):
    columns = [[f"a/{i}.jpg" for i in range(300)]]
    strict, lenient = replace(copy, max_missing_share=0.0), replace(copy, max_missing_share=0.1)
    assert strict.complete(*columns).all()
    (tmp_path / "a/0.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 300 entries of SET name what is not there, more than .* 0: a/0"):
        strict.complete(*columns)
    for i in range(1, 30):
        (tmp_path / f"a/{i}.jpg").unlink()
    assert lenient.complete(*columns).sum() == 270
    (tmp_path / "a/30.jpg").unlink()
    with pytest.raises(DatasetError, match="31 of 300"):
        lenient.complete(*columns)


def test_a_list_is_read_whatever_ends_its_lines(tmp_path):
    path = tmp_path / "list.txt"
    for text in ("a b\n\nc\n", "a b\n\nc", "a b\r\n\r\nc\r\n", "\ufeffa b\n\nc"):
        path.write_bytes(text.encode())
        assert [(number, line.split()) for number, line in numbered_lines(path)] == [(1, ["a", "b"]), (3, ["c"])]


def test_a_list_that_is_none(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"empty\.txt: is empty"):
        numbered_lines(tmp_path / "empty.txt")
    with pytest.raises(DatasetError, match=r"bytes\.txt: cannot be read as text"):
        numbered_lines(tmp_path / "bytes.txt")
