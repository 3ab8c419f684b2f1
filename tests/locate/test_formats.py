"""Answers as files: the columns are a promise, and no file name breaks a table."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.errors import ConfigError, OutputExistsError
from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.locate import candidates
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Place

HEADER = (
    "query,status,rank,lat,lon,radius_m,score,p_within_100m,calibration,cell,heading_deg,"
    "exif_lat,exif_lon,exif_distance_m,error,imagery_date"
)
SANTIAGO = (-33.4489, -70.6693)


def places(*latlon_deg, scores=(0.91239, 0.5, -0.25)):
    ids = cells.cell_ids(np.array(latlon_deg), 16)
    centres = cells.centers_deg(ids)
    return [
        Place(int(cell), (float(lat), float(lon)), score)
        for cell, (lat, lon), score in zip(ids, centres, scores, strict=False)
    ]


@pytest.fixture
def answers():
    far = (SANTIAGO[0] + 0.01, SANTIAGO[1])
    return [
        Localization("a.jpg", "ok", places(SANTIAGO, far), SANTIAGO),
        Localization("b.jpg", "failed", [], None, "b.jpg: no such file"),
        Localization("c.jpg", "ok", places((-17.0, 179.999)), None),
        Localization("d.jpg", "failed", [], SANTIAGO, "d.jpg: truncated"),
    ]


def as_csv(answers):
    file = io.StringIO(newline="")
    candidates.write_csv(answers, file)
    return file.getvalue()


def as_geojson(answers):
    file = io.StringIO()
    candidates.write_geojson(answers, file)
    return file.getvalue()


def test_the_columns_are_those_promised(answers):
    text = as_csv(answers)
    assert text.splitlines()[0] == HEADER
    assert ",".join(candidates.FIELDS) == HEADER
    assert "\r" not in text
    assert as_csv([]) == HEADER + "\n"


def test_one_row_a_candidate_and_one_a_failed_photo(answers):
    rows = list(csv.DictReader(io.StringIO(as_csv(answers))))
    assert [(r["query"], r["status"], r["rank"]) for r in rows] == [
        ("a.jpg", "ok", "1"),
        ("a.jpg", "ok", "2"),
        ("b.jpg", "failed", ""),
        ("c.jpg", "ok", "1"),
        ("d.jpg", "failed", ""),
    ]
    assert all(r["radius_m"] == r["p_within_100m"] == r["heading_deg"] == "" for r in rows)
    assert all(r["calibration"] == "none" for r in rows)
    first, second, b, c, d = rows
    assert {k for k, v in b.items() if v} == {"query", "status", "calibration", "error"}
    assert b["error"] == "b.jpg: no such file"
    assert (d["exif_lat"], d["exif_lon"], d["exif_distance_m"]) == ("-33.4489", "-70.6693", "")
    assert (c["exif_lat"], c["exif_lon"], c["exif_distance_m"]) == ("", "", "")

    place = answers[0].places[0]
    assert first["cell"] == cells.tokens(np.array([place.cell_id], np.uint64))[0]
    assert int(cells.from_tokens([first["cell"]])[0]) == place.cell_id > 2**63
    assert (float(first["lat"]), float(first["lon"])) == pytest.approx(place.latlon_deg, abs=5e-8)
    assert first["score"] == "0.9124"
    for row in (first, second):
        own = distance_m(np.array(SANTIAGO), np.array([float(row["lat"]), float(row["lon"])]))
        assert float(row["exif_distance_m"]) == pytest.approx(own, abs=0.1)
    assert float(second["exif_distance_m"]) > 900 > 200 > float(first["exif_distance_m"])


def test_the_age_of_the_imagery_is_told_as_exactly_as_it_is_known():
    known, unknown = places(SANTIAGO, (0.0, 0.0))
    answer = Localization("a.jpg", "ok", [replace(known, imagery_date="2018-06"), unknown])
    rows = list(csv.DictReader(io.StringIO(as_csv([answer]))))
    assert [row["imagery_date"] for row in rows] == ["2018-06", ""]
    features = json.loads(as_geojson([answer]))["features"]
    assert [feature["properties"]["imagery_date"] for feature in features] == ["2018-06", None]


def test_rows_come_as_answers_come(answers):
    file = io.StringIO()

    def watched():
        yield answers[0]
        assert file.getvalue().count("\n") == 3, "header and both candidates are there before the next photo is read"
        yield answers[1]

    candidates.write_csv(watched(), file)
    assert file.getvalue().count("\n") == 4


@given(
    names=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1), min_size=1, max_size=4)
)
@settings(max_examples=60, deadline=None)
def test_any_name_survives_csv_and_geojson(names):
    answers = [Localization(name, "failed", [], None, f"{name}: truncated") for name in names]
    rows = list(csv.DictReader(io.StringIO(as_csv(answers), newline="")))
    assert [(r["query"], r["error"]) for r in rows] == [(name, f"{name}: truncated") for name in names]
    features = json.loads(as_geojson(answers))["features"]
    assert [f["properties"]["query"] for f in features] == names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('a,b "c"\n.jpg', 'a,b "c"\n.jpg'),
        ("a\rb.jpg", "a\\rb.jpg"),
        # What Python makes of a name in Latin-1.
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "caf\\udce9.jpg"),
    ],
)
def test_odd_names_stay_one_row_of_utf8(tmp_path, name, shown):
    answer = Localization(name, "ok", places(SANTIAGO))
    failed = Localization(name, "failed", [], None, f"{name}: truncated")
    out = tmp_path / "out.csv"
    with out.open("w", encoding="utf-8", newline="") as file:
        candidates.write_csv([answer, failed], file)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["query"] for r in rows] == [shown, shown]
    assert rows[1]["error"] == f"{shown}: truncated"
    features = json.loads(as_geojson([answer]).encode("utf-8"))["features"]
    assert features[0]["properties"]["query"] == shown


def test_geojson_is_rfc_7946(answers):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    collection = json.loads(as_geojson(answers), parse_constant=refuse)
    assert set(collection) == {"type", "features"}, "no crs member, which RFC 7946 removed"
    assert collection["type"] == "FeatureCollection"
    rows = list(candidates.rows(answers))
    assert [f["properties"] for f in collection["features"]] == rows
    for feature, row in zip(collection["features"], rows, strict=True):
        assert set(feature) == {"type", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert tuple(feature["properties"]) == candidates.FIELDS
        if row["status"] == "failed":
            assert feature["geometry"] is None
        else:
            assert feature["geometry"] == {"type": "Point", "coordinates": [row["lon"], row["lat"]]}
    longitude, latitude = collection["features"][0]["geometry"]["coordinates"]
    assert (longitude, latitude) == pytest.approx((SANTIAGO[1], SANTIAGO[0]), abs=0.002)
    assert json.loads(as_geojson([])) == {"type": "FeatureCollection", "features": []}


def test_a_score_that_is_no_number_is_never_written():
    broken = Localization("a.jpg", "ok", places(SANTIAGO, scores=(math.nan,)))
    with pytest.raises(ValueError, match="JSON"):
        as_geojson([broken])


def test_outputs_are_refused_before_any_work(tmp_path):
    for good in ("a.csv", "a.geojson", "a.html", "A.CSV"):
        candidates.check_output(tmp_path / good, overwrite=False)
    for bad in ("a.kmz", "a", "a.csv.gz"):
        with pytest.raises(ConfigError, match=r"unknown format .*\.csv, \.geojson, \.html"):
            candidates.check_output(tmp_path / bad, overwrite=True)
    with pytest.raises(ConfigError, match="there is no folder"):
        candidates.check_output(tmp_path / "none" / "a.csv", overwrite=True)
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"there\.csv.*--overwrite"):
        candidates.check_output(tmp_path / "there.csv", overwrite=False)
    candidates.check_output(tmp_path / "there.csv", overwrite=True)
    (tmp_path / "folder.csv").mkdir()
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is a folder"):
            candidates.check_output(tmp_path / "folder.csv", overwrite=overwrite)
    assert (tmp_path / "there.csv").read_text() == "mine"
