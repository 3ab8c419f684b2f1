"""A folder belongs to the settings that it was written with."""

import pytest

from geoview.errors import OutputExistsError
from geoview.render.claim import claim

MADE = ("*.tif", "photos/*_[0-9]*.jpg")


def test_the_same_settings_go_on(tmp_path):
    path = tmp_path / "out" / "plan.json"
    plan = claim(path, {"seed": 1, "size": (2, 3)}, made=MADE, overwrite=False)
    assert plan == {"seed": 1, "size": [2, 3]}, "as JSON has it"
    (tmp_path / "out" / "a.tif").touch()
    for overwrite in (False, True):
        assert claim(path, {"seed": 1, "size": (2, 3)}, made=MADE, overwrite=overwrite) == plan
        assert (tmp_path / "out" / "a.tif").exists(), "what is finished is kept"


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "plan.json"
    claim(path, {"a": {"seed": 1}, "b": 2}, made=MADE, overwrite=False)
    with pytest.raises(OutputExistsError, match=r"plan\.json: written with another a\.seed; .*--overwrite"):
        claim(path, {"a": {"seed": 2}, "b": 2}, made=MADE, overwrite=False)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(OutputExistsError, match="is not empty"):
        claim(tmp_path / "plan.json", {}, made=MADE, overwrite=False)


def test_overwriting_removes_what_was_made_and_nothing_else(tmp_path):
    path = tmp_path / "plan.json"
    claim(path, {"seed": 1}, made=MADE, overwrite=False)
    (tmp_path / "photos").mkdir()
    for name in ("a.tif", "photos/panorama_00001.jpg", "photos/holiday.jpg", "thesis.doc"):
        (tmp_path / name).touch()
    claim(path, {"seed": 2}, made=MADE, overwrite=True)
    left = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["photos/holiday.jpg", "plan.json", "thesis.doc"]
