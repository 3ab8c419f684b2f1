"""What a data set is, and of which dates an index is; the other kinds of paths are tested with the command."""

import json

import numpy as np

from geoview.cli import main
from geoview.describe import describe, environment
from geoview.geo.regions import Region


def test_an_index_tells_how_many_cells_have_how_many_dates(tmp_path, kit):
    ids = np.sort(Region.disc(kit.CENTRE_DEG, 300.0).cells(16))
    codes, dates = np.ones((len(ids) + 3, 4)) / 2, [20180600] * (len(ids) - 1) + [0, 20160000, 20210613, 20210700]
    kit.write_index(tmp_path / "dated", [*ids, ids[0], ids[0], ids[3]], codes, dates)
    told = describe(tmp_path / "dated")
    json.dumps(told)
    assert (told["codes"], told["cells_by_dates"]) == (len(ids) + 3, {"1": len(ids) - 2, "2": 1, "3": 1})
    assert (told["oldest_imagery"], told["newest_imagery"]) == ("2016", "2021-07")
    kit.write_index(tmp_path / "undated", ids, codes[3:])
    told = describe(tmp_path / "undated")
    assert told["cells_by_dates"] == {"1": len(ids)}
    assert (told["oldest_imagery"], told["newest_imagery"]) == (None, None)
    kit.write_index(tmp_path / "empty", [], codes[:0], skipped=ids)
    assert describe(tmp_path / "empty")["cells_by_dates"] == {}


def test_a_data_set_is_told_with_what_is_there_beside_what_is_published(twins, tmp_path):
    twins.write_university1652(tmp_path, 2, 3, 2)
    (tmp_path / "test/query_satellite").rename(tmp_path / "elsewhere")
    told = describe(tmp_path)
    json.dumps(told)
    assert (told["kind"], told["name"]) == ("data set", "university1652")
    splits = {row["split"]: row for row in told["splits"]}
    assert splits["train"] == {
        "split": "train",
        "labels": "original",
        "queries": 6,
        "references": 2,
        "published_queries": 37_854,
        "published_references": 701,
    }
    assert (splits["drone_to_satellite"]["queries"], splits["drone_to_satellite"]["references"]) == (9, 5)
    lacking = splits["satellite_to_drone"]
    assert "queries" not in lacking
    assert f"{tmp_path}/test/query_satellite: not there" in lacking["error"]
    assert lacking["published_references"] == 51_355


def test_both_sets_of_labels_are_told(twins, tmp_path):
    twins.write_vigor(tmp_path)
    rows = {(row["labels"], row["split"]): row for row in describe(tmp_path)["splits"]}
    assert len(rows) == 8
    assert rows["original", "same_test"]["references"] == 64
    assert "SliceMatch" in rows["corrected", "same_test"]["error"]


def test_made_up_sets_are_not_held_against_what_is_published(twins, tmp_path):
    twins.write_vigor(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"about": "made-up cities"}))
    told = describe(tmp_path)
    assert told["made_up"] == "made-up cities"
    assert "page" not in told
    assert not any(key.startswith("published") for row in told["splits"] for key in row)
    assert next(row for row in told["splits"] if row["split"] == "same_test")["references"] == 64


def test_what_geoview_runs_on_names_whose_faiss_is_there(capsys):
    told = environment()
    assert len(told["faiss"]) == 1
    assert told["faiss"][0].startswith(("faiss-cpu ", "faiss-gpu"))
    assert told["torch"]
    assert main(["info"]) == 0
    assert json.loads(capsys.readouterr().out) == told
