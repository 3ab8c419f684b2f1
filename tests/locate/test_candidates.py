"""Answers as rows: the columns are a promise, and whatever a file is called, every format can hold it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.locate.candidates import COLUMNS, FIELDS, printable, record, rows
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Place

HEADER = (
    "query,status,rank,lat,lon,radius_m,score,p_within_100m,calibration,cell,heading_deg,"
    "exif_lat,exif_lon,exif_distance_m,error,imagery_date"
)
SANTIAGO = (-33.4489, -70.6693)


def place(latlon_deg, **known):
    cell = cells.cell_ids(np.array(latlon_deg), 16)
    lat, lon = cells.centers_deg(cell).tolist()
    return Place(int(cell), (lat, lon), 0.91239, **known)


def test_the_columns_are_those_promised():
    assert ",".join(FIELDS) == HEADER
    answer = Localization("a.jpg", "ok", [place(SANTIAGO)])
    (row,) = rows([answer])
    assert tuple(row) == FIELDS
    for name, value in row.items():
        assert value is None or type(value) is COLUMNS[name], name


def test_one_row_a_candidate_and_one_a_failed_photo():
    far = (SANTIAGO[0] + 0.01, SANTIAGO[1])
    answers = [
        Localization("a.jpg", "ok", [place(SANTIAGO), place(far)], SANTIAGO),
        Localization("b.jpg", "failed", [], None, "b.jpg: no such file"),
        Localization("c.jpg", "rejected", [place((-17.0, 179.999))], None),
        Localization("d.jpg", "failed", [], SANTIAGO, "d.jpg: truncated"),
    ]
    first, second, b, c, d = rows(answers)
    assert [(r["query"], r["status"], r["rank"]) for r in (first, second, b, c, d)] == [
        ("a.jpg", "ok", 1),
        ("a.jpg", "ok", 2),
        ("b.jpg", "failed", None),
        ("c.jpg", "rejected", 1),
        ("d.jpg", "failed", None),
    ]
    assert {k for k, v in b.items() if v} == {"query", "status", "calibration", "error"}
    assert b["error"] == "b.jpg: no such file"
    assert (d["exif_lat"], d["exif_lon"], d["exif_distance_m"]) == (*SANTIAGO, None)
    assert (c["exif_lat"], c["exif_lon"], c["exif_distance_m"]) == (None, None, None)
    assert first["cell"] == cells.tokens(np.array([answers[0].places[0].cell_id], np.uint64))[0]
    assert int(cells.from_tokens([first["cell"]])[0]) == answers[0].places[0].cell_id > 2**63
    assert (first["lat"], first["lon"]) == pytest.approx(answers[0].places[0].latlon_deg, abs=5e-8)
    assert first["score"] == 0.9124
    for row in (first, second):
        own = distance_m(np.array(SANTIAGO), np.array([row["lat"], row["lon"]]))
        assert row["exif_distance_m"] == pytest.approx(own, abs=0.1)
    assert second["exif_distance_m"] > 900 > 200 > first["exif_distance_m"]


def test_what_only_a_calibrated_index_knows_is_empty_before():
    told = place(SANTIAGO, radius_m=86.417, p_within_100m=0.61234)
    before, after = rows(
        [
            Localization("a.jpg", "ok", [replace(told, radius_m=None, p_within_100m=None)]),
            Localization("a.jpg", "ok", [told], calibration="rendered"),
        ]
    )
    assert (before["radius_m"], before["p_within_100m"], before["calibration"]) == (None, None, "none")
    assert (after["radius_m"], after["p_within_100m"], after["calibration"]) == (86.4, 0.6123, "rendered")


def test_the_age_of_the_imagery_is_told_as_exactly_as_it_is_known():
    answer = Localization("a.jpg", "ok", [place(SANTIAGO, imagery_date="2018-06"), place((0.0, 0.0))])
    assert [row["imagery_date"] for row in rows([answer])] == ["2018-06", None]


def test_a_record_tells_what_the_rows_tell():
    located = Localization("a.jpg", "ok", [place(SANTIAGO), place((0.0, 0.0))], SANTIAGO)
    failed = Localization("b.jpg", "failed", [], None, "b.jpg: no such file")
    for answer in (located, failed):
        told = record(answer)
        candidates = told.pop("candidates")
        assert [{**dict.fromkeys(FIELDS), **told, **c} for c in candidates or [{}]] == list(rows([answer]))
    assert record(failed)["candidates"] == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('a,b "c"\n\t<é&😀>.jpg', 'a,b "c"\n\t<é&😀>.jpg'),
        ("a\rb.jpg", "a\\rb.jpg"),
        ("a\x00\x1b[31mb\uffff.jpg", "a\\x00\\x1b[31mb\\uffff.jpg"),
        # What Python makes of a name in Latin-1.
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "caf\\udce9.jpg"),
    ],
)
def test_what_not_every_format_can_hold_is_escaped(name, shown):
    (row,) = rows([Localization(name, "failed", [], None, f"{name}: truncated")])
    assert printable(name) == row["query"] == shown
    assert row["error"] == f"{shown}: truncated"


def test_numbers_stay_numbers():
    (row,) = rows([Localization("a.jpg", "ok", [replace(place(SANTIAGO), score=math.nan)])])
    assert math.isnan(row["score"]), "formats refuse it; nobody makes a place of it up"
