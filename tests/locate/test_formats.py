"""Answers as files: the same rows in every format, no file name breaks any, and GDAL opens them without complaint."""

import csv
import errno
import io
import json
import math
import sqlite3
import warnings
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from geoview.errors import ConfigError, OutputExistsError, StorageFullError
from geoview.geo import cells
from geoview.geo.sphere import distance_m
from geoview.locate import formats
from geoview.locate.candidates import FIELDS, record, rows
from geoview.locate.kml import write_kml
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Place

SANTIAGO, FIJI = (-33.4489, -70.6693), (-17.0, 179.9995)
KML = {"": "http://www.opengis.net/kml/2.2"}
HOSTILE = [
    'a,b "c"\n<d>&amp;]]>\'.jpg',
    "</name><Placemark>",
    "; DROP TABLE candidates; --",
    " é😀 ",
    b"caf\xe9.jpg".decode("utf-8", "surrogateescape"),
    "a\rb\x00\x1b.jpg",
]


def place(latlon_deg, score=0.5, **known):
    cell = cells.cell_ids(np.array(latlon_deg), 16)
    lat, lon = cells.centers_deg(cell).tolist()
    return Place(int(cell), (lat, lon), score, **known)


@pytest.fixture
def answers():
    """With and without a position of their own, with and without circles, at the date line, failed."""
    calibrated = {"radius_m": 86.4, "p_within_100m": 0.61, "imagery_date": "2018-06"}
    return [
        Localization(HOSTILE[0], "ok", [place(SANTIAGO, **calibrated), place((-33.44, -70.66))], SANTIAGO),
        Localization("b.jpg", "failed", [], None, "b.jpg: no such <file> & none like it"),
        Localization("c.jpg", "rejected", [place(FIJI, **calibrated)], None, calibration="rendered"),
        Localization("d.jpg", "failed", [], SANTIAGO, "d.jpg: truncated"),
    ]


@pytest.fixture(autouse=True)
def complaints():
    """Whatever GDAL warns of fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Of files that another test has left open, and that are collected now.
        warnings.simplefilter("default", ResourceWarning)
        yield


def as_text(write, answers):
    file = io.StringIO(newline="")
    write(answers, file)
    return file.getvalue()


def no_page(answers, file):
    raise AssertionError("no page was asked for")


def written(folder, suffix, answers):
    path = folder / f"answers{suffix}"
    formats.write_answers(answers, path, no_page)
    return path


def in_csv(answers):
    table = csv.DictReader(io.StringIO(as_text(formats.write_csv, answers), newline=""))
    return [{name: value or None for name, value in row.items()} for row in table]


def in_json_lines(answers):
    file = io.StringIO()
    assert list(formats.json_lines(answers, file)) == answers
    for line in file.getvalue().splitlines():
        photo = json.loads(line)
        for candidate in photo.pop("candidates") or [{}]:
            yield {**dict.fromkeys(FIELDS), **photo, **candidate}


def in_geojson(answers):
    return [f["properties"] for f in json.loads(as_text(formats.write_geojson, answers))["features"]]


def in_kml(answers):
    # Of bytes, as a reader has them: a line may end in more ways than one.
    root = ElementTree.fromstring(as_text(write_kml, answers).encode())
    for data in root.iterfind(".//SchemaData", KML):
        yield dict.fromkeys(FIELDS) | {value.get("name"): value.text for value in data}


def in_geopackage(answers):
    file = io.BytesIO()
    formats.write_geopackage(answers, file)
    database = sqlite3.connect(":memory:")
    database.deserialize(file.getvalue())
    table = database.execute(f"SELECT {', '.join(FIELDS)} FROM candidates ORDER BY fid").fetchall()
    database.close()
    return [dict(zip(FIELDS, values, strict=True)) for values in table]


def in_parquet(answers):
    file = io.BytesIO()
    formats.write_parquet(answers, file)
    return parquet.read_table(file, columns=list(FIELDS)).to_pylist()


@st.composite
def localizations(draw):
    name = draw(st.one_of(st.text(min_size=1), st.sampled_from(HOSTILE)))
    own = draw(st.none() | st.tuples(st.floats(-90, 90), st.floats(-180, 180)))
    known = st.builds(
        place,
        st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
        st.floats(-2, 2, width=32),
        radius_m=st.none() | st.floats(1.0, 1e6),
        p_within_100m=st.none() | st.floats(0, 1),
        heading_deg=st.none() | st.floats(0, 360),
        imagery_date=st.sampled_from([None, "2018", "2018-06-30"]),
    )
    places = draw(st.lists(known, max_size=3))
    status = draw(st.sampled_from(["ok", "rejected"])) if places else "failed"
    return Localization(name, status, places, own, "" if places else f"{name}: truncated")


@given(answers=st.lists(localizations(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_all_formats_tell_the_same(answers):
    wanted = list(rows(answers))
    assert in_geojson(answers) == wanted
    assert list(in_json_lines(answers)) == wanted
    assert in_geopackage(answers) == wanted
    assert in_parquet(answers) == wanted
    words = [{name: None if value in (None, "") else str(value) for name, value in row.items()} for row in wanted]
    assert in_csv(answers) == words
    assert list(in_kml(answers)) == words


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".gpkg", ".kml"])
def test_gdal_reads_the_rows_and_where_they_are(tmp_path, suffix, answers):
    path = written(tmp_path, suffix, answers)
    layers = [str(name) for name, _ in pyogrio.list_layers(path)]
    wanted = list(rows(answers))
    if suffix == ".kml":
        assert len(layers) == 6, "a folder for each photo, and one for the circles of each that has some"
    read = []
    for layer in layers:
        meta, table = pyogrio.raw.read_arrow(path, layer=layer)
        if "rank" not in table.column_names or layer == "circles":
            continue
        read += [(meta, row) for row in table.to_pylist()]
    assert len(read) == len(wanted)
    for (meta, row), told in zip(read, wanted, strict=True):
        for name in FIELDS:
            if suffix == ".csv":
                assert row[name] == ("" if told[name] is None else str(told[name]))
            elif suffix == ".kml":
                assert row[name] == (told[name] or None)
            else:
                assert row[name] == told[name]
        if suffix != ".csv":
            assert meta["crs"] == "EPSG:4326"
            geometry = row[meta["geometry_name"] or "wkb_geometry"]
            point = None if told["lat"] is None else shapely.Point(told["lon"], told["lat"])
            assert (None if geometry is None else shapely.from_wkb(geometry)) == point


def test_circles_have_their_radius_even_across_the_date_line(tmp_path, answers):
    meta, table = pyogrio.raw.read_arrow(written(tmp_path, ".gpkg", answers), layer="circles")
    assert meta["geometry_type"] == "MultiPolygon"
    circles = table.to_pylist()
    assert [(c["query"], c["status"], c["rank"], c["radius_m"]) for c in circles] == [
        (HOSTILE[0], "ok", 1, 86.4),
        ("c.jpg", "rejected", 1, 86.4),
    ]
    kml = ElementTree.parse(written(tmp_path, ".kml", answers))
    in_kml = [
        [
            np.array([pair.split(",") for pair in ring.text.split()], float)
            for ring in shape.iterfind(".//coordinates", KML)
        ]
        for shape in kml.iterfind(".//MultiGeometry", KML)
    ]
    for circle, rings, answer in zip(circles, in_kml, (answers[0], answers[2]), strict=True):
        shape = shapely.from_wkb(circle[meta["geometry_name"]])
        assert len(shape.geoms) == len(rings) == (2 if answer.query == "c.jpg" else 1)
        for corners in (shapely.get_coordinates(shape), np.concatenate(rings)):
            assert np.abs(corners[:, 0]).max() <= 180
            rim = corners[np.abs(corners[:, 0]) != 180]
            away_m = distance_m(np.array(answer.places[0].latlon_deg), rim[:, ::-1])
            assert away_m == pytest.approx(np.full(len(rim), 86.4), rel=3e-3)


def test_without_a_radius_there_are_no_circles(tmp_path):
    answer = Localization("a.jpg", "ok", [place(SANTIAGO)])
    assert [name for name, _ in pyogrio.list_layers(written(tmp_path, ".gpkg", [answer]))] == ["candidates"]
    assert [name for name, _ in pyogrio.list_layers(written(tmp_path, ".kml", [answer]))] == ["a.jpg"]


def test_a_geopackage_is_what_the_standard_says(tmp_path, answers):
    path = written(tmp_path, ".gpkg", answers)
    head = path.read_bytes()[:100]
    assert head[:16] == b"SQLite format 3\x00"
    assert (head[68:72], int.from_bytes(head[60:64])) == (b"GPKG", 10300)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    systems = database.execute("SELECT srs_id FROM gpkg_spatial_ref_sys ORDER BY srs_id").fetchall()
    assert systems == [(-1,), (0,), (4326,)]
    assert database.execute("SELECT table_name, data_type, srs_id FROM gpkg_contents").fetchall() == [
        ("candidates", "features", 4326),
        ("circles", "features", 4326),
    ]
    (blob,) = database.execute("SELECT geom FROM candidates").fetchone()
    # Little-endian, without envelope, in WGS84; GDAL reads on where this is wrong.
    assert blob[:8] == b"GP\x00\x01" + (4326).to_bytes(4, "little")
    bounds = database.execute("SELECT min_x, min_y, max_x, max_y FROM gpkg_contents").fetchone()
    table = [row for row in rows(answers) if row["lat"] is not None]
    lons, lats = [row["lon"] for row in table], [row["lat"] for row in table]
    assert bounds == (min(lons), min(lats), max(lons), max(lats))
    database.close()


def test_a_geopackage_of_nothing_opens(tmp_path):
    meta, table = pyogrio.raw.read_arrow(written(tmp_path, ".gpkg", []))
    assert (meta["geometry_type"], table.num_rows) == ("Point", 0)


def test_parquet_is_geoparquet(tmp_path, answers):
    table = parquet.read_table(written(tmp_path, ".parquet", answers))
    assert table.column_names == [*FIELDS, "geometry"]
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"][geo["primary_column"]] == {"encoding": "WKB", "geometry_types": ["Point"]}
    for row in table.to_pylist():
        if row["status"] == "failed":
            assert row["geometry"] is None
        else:
            assert shapely.from_wkb(row["geometry"]) == shapely.Point(row["lon"], row["lat"])


def test_kml_has_a_folder_a_photo_and_marks_the_first_places(answers):
    document = ElementTree.fromstring(as_text(write_kml, answers).encode()).find("Document", KML)
    folders = document.findall("Folder", KML)
    assert [f.findtext("name", None, KML) for f in folders] == [HOSTILE[0], "b.jpg", "c.jpg", "d.jpg"]
    styles = {style.get("id"): style for style in document.iterfind("Style", KML)}
    marks = [place.findtext("styleUrl", None, KML) for place in folders[0].iterfind("Placemark", KML)]
    assert marks == ["#rank1", "#rank2"]
    assert {mark[1:] for mark in marks} < set(styles)
    scales = [float(style.findtext(".//scale", None, KML)) for style in styles.values()]
    assert scales == sorted(scales, reverse=True)
    first, failed = folders[0].find("Placemark", KML), folders[1].find("Placemark", KML)
    assert "&lt;d&gt;&amp;amp;" in first.findtext("description", None, KML), "descriptions are HTML"
    assert (failed.findtext("name", None, KML), failed.find("Point", KML)) == ("failed", None)
    assert "b.jpg: no such &lt;file&gt; &amp; none" in failed.findtext("description", None, KML)
    many = Localization("a.jpg", "ok", [place((lat, 0.0)) for lat in range(9)])
    root = ElementTree.fromstring(as_text(write_kml, [many]))
    assert [url.text for url in root.iterfind(".//styleUrl", KML)][3:] == ["#rank4"] * 6


def test_kml_asks_nothing_of_any_network(answers):
    text = as_text(write_kml, answers)
    assert text.count("://") == 1, "the name of the format"
    assert not any(tag in text for tag in ("<href", "<Icon>", "NetworkLink"))


def test_rows_and_lines_come_as_answers_come(answers):
    table, lines = io.StringIO(), io.StringIO()

    def watched(file, lines_before):
        yield answers[0]
        assert file.getvalue().count("\n") == lines_before, "told before the next photo is read"
        yield answers[1]

    # A header and two candidates, with a line break in each of their names.
    formats.write_csv(watched(table, 5), table)
    assert table.getvalue().count("\n") == 6
    for _ in formats.json_lines(watched(lines, 1), lines):
        pass
    assert [json.loads(line) for line in lines.getvalue().splitlines()] == [record(a) for a in answers[:2]]


def test_csv_of_nothing_is_its_header():
    assert as_text(formats.write_csv, []) == ",".join(FIELDS) + "\n"


def test_geojson_is_rfc_7946(answers):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    collection = json.loads(as_text(formats.write_geojson, answers), parse_constant=refuse)
    assert set(collection) == {"type", "features"}, "no crs member, which RFC 7946 removed"
    assert collection["type"] == "FeatureCollection"
    for feature, row in zip(collection["features"], rows(answers), strict=True):
        assert set(feature) == {"type", "geometry", "properties"}
        assert feature["type"] == "Feature"
        assert tuple(feature["properties"]) == FIELDS
        if row["status"] == "failed":
            assert feature["geometry"] is None
        else:
            assert feature["geometry"] == {"type": "Point", "coordinates": [row["lon"], row["lat"]]}
    longitude, latitude = collection["features"][0]["geometry"]["coordinates"]
    assert (longitude, latitude) == pytest.approx((SANTIAGO[1], SANTIAGO[0]), abs=0.002)
    assert json.loads(as_text(formats.write_geojson, [])) == {"type": "FeatureCollection", "features": []}


def test_a_score_that_is_no_number_is_never_written_as_json():
    broken = Localization("a.jpg", "ok", [place(SANTIAGO, math.nan)])
    for write in (formats.write_geojson, lambda answers, file: list(formats.json_lines(answers, file))):
        with pytest.raises(ValueError, match="JSON"):
            as_text(write, [broken])


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
@pytest.mark.parametrize("fault", [RuntimeError("cut off"), OSError(errno.ENOSPC, "No space left on device")])
def test_a_file_is_there_whole_or_not_at_all(tmp_path, answers, suffix, fault):
    def cut_off():
        yield answers[0]
        raise fault

    out = tmp_path / f"answers{suffix}"
    out.write_text("of before")
    page = formats.write_csv  # any writer of text
    with pytest.raises(StorageFullError if isinstance(fault, OSError) else RuntimeError, match=r"disk full|cut off"):
        formats.write_answers(cut_off(), out, page)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "of before"
    formats.write_answers(answers, out, page)
    assert out.read_bytes() != b"of before"


def test_outputs_are_refused_before_any_work(tmp_path):
    suffixes = formats.SUFFIXES
    assert suffixes == (".csv", ".geojson", ".gpkg", ".kml", ".parquet", ".html")
    for good in ("a.csv", "a.geojson", "a.gpkg", "a.kml", "a.parquet", "a.html", "A.CSV"):
        formats.check_output(tmp_path / good, suffixes, overwrite=False)
    for bad in ("a.kmz", "a", "a.csv.gz"):
        with pytest.raises(ConfigError, match=r"unknown format .*\.csv, \.geojson, \.gpkg, \.kml, \.parquet, \.html"):
            formats.check_output(tmp_path / bad, suffixes, overwrite=True)
    with pytest.raises(ConfigError, match="there is no folder"):
        formats.check_output(tmp_path / "none" / "a.csv", suffixes, overwrite=True)
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"there\.csv.*--overwrite"):
        formats.check_output(tmp_path / "there.csv", suffixes, overwrite=False)
    formats.check_output(tmp_path / "there.csv", suffixes, overwrite=True)
    (tmp_path / "folder.csv").mkdir()
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is a folder"):
            formats.check_output(tmp_path / "folder.csv", suffixes, overwrite=overwrite)
    assert (tmp_path / "there.csv").read_text() == "mine"
