"""Pair tables of one's own, line by line; what becomes of the lines is in test_pairs.py."""

import datetime
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.data.lines import csv_lines, parquet_lines
from geoview.errors import PairTableError

READERS = {"csv": csv_lines, "parquet": parquet_lines}


def write(path, columns):
    """Writes columns of text, or in Parquet of what they are."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        lines = [",".join(columns), *(",".join(f'"{v}"' for v in row) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines))


def read(path, columns):
    write(path, columns)
    return READERS[path.suffix[1:]](path)


def refused(path, columns, message):
    with pytest.raises(PairTableError, match=message) as caught:
        read(path, columns)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.fixture(params=READERS)
def path(request, tmp_path):
    return tmp_path / f"pairs.{request.param}"


@pytest.mark.parametrize("name", ["path", "query_path", " path "])
def test_either_name_of_the_query_and_columns_of_photo_tables(path, tmp_path, name):
    (line,) = read(path, {name: ["a, b.jpg"], "lat": ["1"], "lon": ["2"], "captured_at": ["2023-06-01"]})
    assert (line.query_path, line.reference_path) == (str(tmp_path / "a, b.jpg"), "")
    assert line.latlon_deg == (1.0, 2.0)
    assert math.isnan(line.heading_deg)
    assert math.isnan(line.fov_deg)


def test_both_names_of_the_query_are_one_too_many(path):
    refused(path, {"path": ["a"], "query_path": ["b"]}, r"column query_path \(of which path is another name\) is there")


def test_a_column_twice(tmp_path):
    (tmp_path / "pairs.csv").write_text("lat,lon,lat\n1,2,3\n")
    with pytest.raises(PairTableError, match=r"pairs\.csv: column lat is there twice; keep one"):
        csv_lines(tmp_path / "pairs.csv")
    pq.write_table(pa.Table.from_arrays([pa.array([1.0])] * 3, ["lat", "lon", "lat"]), tmp_path / "pairs.parquet")
    with pytest.raises(PairTableError, match=r"pairs\.parquet: column lat is there twice; keep one"):
        parquet_lines(tmp_path / "pairs.parquet")


def test_an_unknown_column_is_named(path):
    refused(path, {"lat": ["1"], "lon": ["2"], "heading": ["3"]}, "unknown column 'heading'; known are .*heading_deg")


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        ("nan", "0", "lat is 'nan', not a number within -90 to 90$"),
        ("0", "nan", "lon is 'nan', not a number within -180 to 180$"),
        ("inf", "0", "lat is 'inf', not a number within -90 to 90$"),
        ("0", "-inf", "lon is '-inf', not a number within -180 to 180$"),
        ("-117.4", "34.05", r"lat is '-117\.4', not a number within -90 to 90; are lat and lon swapped\?$"),
        ("90.5", "-90.0", r"lat is '90\.5', .*swapped\?$"),
        ("-117.4", "95.0", "lat is '-117.4', not a number within -90 to 90$"),
        ("4200000.0", "34.0", "lat is '4200000.0', not a number within -90 to 90$"),
        ("34.05", "-197.4", "lon is '-197.4', not a number within -180 to 180$"),
        ("", "34.05", "one of lat and lon is empty; give both or none$"),
        ("", "", "a side without a path is cut from imagery and needs lat and lon$"),
    ],
)
def test_coordinates_that_cannot_be_are_named_with_their_line(path, lat, lon, message):
    first = {"csv": 2, "parquet": 1}[path.suffix[1:]]
    refused(path, {"lat": ["1", "2", lat, "4"], "lon": ["1", "2", lon, "4"]}, rf":{first + 2}: {message}")
    if path.suffix == ".parquet":
        numbers = ([1.0, 2.0, float(v) if v else None, 4.0] for v in (lat, lon))
        refused(path, dict(zip(("lat", "lon"), numbers, strict=True)), rf":3: {message}")


@pytest.mark.parametrize(("column", "value"), [("heading_deg", "361"), ("fov_deg", "0"), ("fov_deg", "wide")])
def test_angles_that_cannot_be(path, column, value):
    refused(path, {"lat": ["1"], "lon": ["2"], column: [value]}, rf":\d: {column} is '{value}', not a number within")


# -- Parquet -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=20))
@settings(deadline=None)
def test_numbers_are_read_to_the_last_digit(tmp_path_factory, latlon_deg):
    path = tmp_path_factory.mktemp("lines") / "pairs.parquet"
    lat, lon = zip(*latlon_deg, strict=True)
    assert [line.latlon_deg for line in read(path, {"lat": lat, "lon": lon})] == latlon_deg


def test_types_that_occur(tmp_path):
    columns = {
        "path": pa.array(["a.jpg", None, "a.jpg"]).dictionary_encode(),
        "lat": pa.array([33.9, 1.5, -1], pa.float32()),
        "lon": pa.array([1, 2, 3], pa.uint8()),
        "heading_deg": pa.array(["7", "", None], pa.large_string()),
        "captured_at": pa.array([datetime.datetime(2023, 6, 1)] * 3, pa.timestamp("us")),
        "__index_level_0__": [5, 7, 9],
    }
    lines = read(tmp_path / "pairs.parquet", columns)
    assert [line.query_path for line in lines] == [str(tmp_path / "a.jpg"), "", str(tmp_path / "a.jpg")]
    assert [line.latlon_deg for line in lines] == [(float(np.float32(33.9)), 1.0), (1.5, 2.0), (-1.0, 3.0)]
    assert lines[0].heading_deg == 7.0
    assert math.isnan(lines[1].heading_deg)
    refused(tmp_path / "pairs.parquet", {"lat": [[1.0, 2.0]], "lon": [1.0]}, r":1: lat is '\[1\.0, 2\.0\]', not a num")


def test_rows_are_counted_across_groups_and_folders_are_no_partitions(tmp_path):
    (tmp_path / "lat=3").mkdir()
    path = tmp_path / "lat=3" / "pairs.parquet"
    table = pa.table({"lat": [*map(float, range(89)), 95.0], "lon": [0.0] * 90})
    pq.write_table(table, path, row_group_size=7)
    with pytest.raises(PairTableError, match=r":90: lat is '95\.0'"):
        parquet_lines(path)
    pq.write_table(table.slice(0, 89), path, row_group_size=7)
    assert [line.where for line in parquet_lines(path)] == [f"{path}:{i}" for i in range(1, 90)]


def test_what_is_no_parquet(tmp_path):
    path = tmp_path / "pairs.parquet"
    for content in (b"", b"lat,lon\n1,2\n", b"PAR1" * 10):
        path.write_bytes(content)
        with pytest.raises(PairTableError, match=r"pairs\.parquet: cannot be read as Parquet: .") as caught:
            parquet_lines(path)
        assert "\n" not in str(caught.value)
    for gone in (tmp_path, tmp_path / "none.parquet"):
        with pytest.raises(PairTableError, match=r"cannot be read as Parquet: .*(directory|No such)"):
            parquet_lines(gone)


def test_a_file_cut_off_or_damaged_is_never_read_as_something_else(tmp_path):
    path = tmp_path / "pairs.parquet"
    rng = np.random.default_rng(0)
    table = pa.table({"lat": rng.uniform(-90, 90, 300), "lon": rng.uniform(-180, 180, 300)})
    pq.write_table(table, path, write_page_checksum=True)
    whole, expected = path.read_bytes(), parquet_lines(path)
    damaged = [whole[:length] for length in rng.integers(len(whole), size=30)]
    for at in rng.integers(len(whole), size=300):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    told = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            # Bits of what is not used, such as statistics, may be wrong and do no harm.
            assert parquet_lines(path) == expected
        except PairTableError as error:
            told += 1
            assert "\n" not in str(error)
    assert told > 200
