import logging
import os
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoview.data.pairs import PairTable
from geoview.errors import PairTableError
from geoview.geo import cells
from geoview.geo.sphere import destination_deg, distance_m


@pytest.fixture
def table(tmp_path):
    """Write a CSV beside two pictures; returns its path."""
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.jpg", "photos/b, c.jpg", "photos/c.jpg", "chip.png"):
        (tmp_path / name).touch()

    def write(text, encoding="utf-8"):
        path = tmp_path / "pairs.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def refused(path, message):
    with pytest.raises(PairTableError, match=message) as caught:
        PairTable.from_csv(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reads_every_column(table, tmp_path, encoding, end):
    rows = [
        "lat,lon,query_path,reference_path,fov_deg,heading_deg",
        "-33.9,-70.6,photos/a.jpg,chip.png,65.5,-90",
        f'51.5,179.5,"photos/b, c.jpg",{tmp_path}/chip.png,,',
        ", ,photos/c.jpg, chip.png ,360,360",
        "10,20,,,,",
    ]
    path = table(end.join(rows) + end, encoding)
    read = PairTable.from_csv(str(path))
    names = ("photos/a.jpg", "photos/b, c.jpg", "photos/c.jpg", "chip.png")
    photo, other, third, chip = (str(tmp_path / name) for name in names)
    assert read.query_path == (photo, other, third, "")
    assert read.reference_path == (chip, "")
    assert read.positive.tolist() == read.place.tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(read.latlon_deg, [[-33.9, -70.6], [51.5, 179.5], [np.nan, np.nan], [10, 20]])
    np.testing.assert_array_equal(read.reference_latlon_deg, [[-33.9, -70.6], [10, 20]])
    np.testing.assert_array_equal(read.heading_deg, [-90, np.nan, 360, np.nan])
    np.testing.assert_array_equal(read.fov_deg, [65.5, np.nan, 360, np.nan])
    assert (len(read), read.name) == (4, str(path))
    assert read.latlon_deg.dtype == np.float64


def test_columns_may_be_missing(table, tmp_path):
    read = PairTable.from_csv(table("query_path,reference_path\nphotos/a.jpg,chip.png\n"))
    assert read.reference_path == (str(tmp_path / "chip.png"),)
    assert np.isnan(read.latlon_deg).all()
    assert read.latlon_deg.shape == (1, 2)
    read = PairTable.from_csv(table("lat,lon\n1,2\n"))
    assert (read.query_path, read.reference_path) == (("",), ("",))


def test_lines_that_name_one_file_share_a_reference(table, tmp_path):
    lines = ["reference_path,lat,lon", "photos/a.jpg,1,2", "chip.png,3,4", ",5,6", "photos/a.jpg,7,8", ",5,6"]
    read = PairTable.from_csv(table("\n".join(lines)))
    assert read.reference_path == (str(tmp_path / "photos/a.jpg"), str(tmp_path / "chip.png"), "", "")
    assert read.positive.tolist() == [0, 1, 2, 0, 3]
    # Chips of one position are one place, and each other's negative is neither.
    assert read.place.tolist() == [0, 1, 2, 0, 2]
    assert read.reference_place.tolist() == [0, 1, 2, 2]
    np.testing.assert_array_equal(read.reference_latlon_deg, [[1, 2], [3, 4], [5, 6], [5, 6]])
    assert (read.semi_positive.shape, read.offset_px.shape, read.offset_px.dtype) == ((5, 0), (5, 1, 2), np.float32)
    assert np.isnan(read.offset_px).all()


def test_no_such_file(tmp_path):
    refused(tmp_path / "pairs.csv", "cannot be read as a CSV: .*No such file")
    refused(tmp_path, "cannot be read as a CSV: .*directory")


def test_no_text(table):
    refused(table("lat,lon\n1,2\né,3\n", "latin-1"), "cannot be read as a CSV: .*utf-8")


@pytest.mark.parametrize("text", ["", "\n", "lat,lon\n", "lat,lon\n\n\n"])
def test_no_pair(table, text):
    refused(table(text), "holds no pair")


def test_an_unknown_column_is_named(table):
    refused(table("lat,lon,heading\n1,2,3\n"), "unknown column 'heading'; known are .*heading_deg")
    refused(table("1,2\n3,4\n"), "unknown column '1'")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("91,0,,", "lat is '91', not a number within -90 to 90"),
        ("-90.1,0,,", "lat is '-90.1', not a number within -90 to 90"),
        ("0,180.5,,", "lon is '180.5', not a number within -180 to 180"),
        ("0,x,,", "lon is 'x', not a number"),
        ("nan,0,,", "lat is 'nan', not a number"),
        ("inf,0,,", "lat is 'inf', not a number"),
        ('"1,5",0,,', "lat is '1,5', not a number"),
        ("0,0,361,", "heading_deg is '361', not a number within -360 to 360"),
        ("0,0,,361", "fov_deg is '361', not a number within 1 to 360"),
        ("0,0,,0", "fov_deg is '0', not a number within 1 to 360"),
        ("0,0,,-65", "fov_deg is '-65', not a number within 1 to 360"),
        ("0,,,", "one of lat and lon is empty"),
        (",0,,", "one of lat and lon is empty"),
        (",,,", "a side without a path is cut from imagery and needs lat and lon"),
        ("1,2,3,4,5", "more cells than columns"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_line(table, line, message):
    # Line 5: neither the blank line nor the line break in the quotes may shift the count.
    path = table(f'lat,lon,heading_deg,fov_deg\n\n1,2,"\n3",\n{line}\n4,5,,\n')
    refused(path, rf"pairs.csv:5: {message}")


def test_one_side_without_a_path_needs_coordinates(table):
    refused(
        table("query_path,reference_path,lat,lon\nphotos/a.jpg,chip.png,,\nphotos/c.jpg,,,\n"), "pairs.csv:3: a side"
    )


# -- pictures that are not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["query_path", "reference_path"])
@pytest.mark.parametrize("name", ["gone.jpg", "photos"])
def test_a_picture_that_is_not_there_is_named_with_its_line(table, tmp_path, column, name):
    refused(
        table(f"lat,lon,{column}\n1,2,chip.png\n1,2,{name}\n"),
        rf"1 of 2 pairs name pictures that are not there, more than max_missing_share 0\.01: {tmp_path}/{name} "
        rf"\({tmp_path}/pairs\.csv:3\); put them there",
    )


def many(tmp_path, table, n=200):
    """A table of as many photos, two of which share a tile each."""
    for i in range(n):
        (tmp_path / f"photos/{i}.jpg").touch()
        (tmp_path / f"{i // 2}.png").touch()
    return table(
        "path,reference_path,lat,lon\n" + "".join(f"photos/{i}.jpg,{i // 2}.png,{i / 9},2\n" for i in range(n))
    )


def test_a_few_missing_pictures_are_named_and_left_out_with_their_lines(table, tmp_path, caplog):
    path = many(tmp_path, table)
    (tmp_path / "7.png").unlink()
    read = PairTable.from_csv(path)
    assert len(read) == 198
    assert len(read.reference_path) == 99
    kept = [i for i in range(200) if i not in (14, 15)]
    assert read.query_path == tuple(str(tmp_path / f"photos/{i}.jpg") for i in kept)
    assert [read.reference_path[row] for row in read.positive] == [str(tmp_path / f"{i // 2}.png") for i in kept]
    np.testing.assert_array_equal(read.latlon_deg[:, 0], [i / 9 for i in kept])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 of 200 pairs name pictures that are not there and are left out" in record.getMessage()
    assert f"{tmp_path}/7.png ({path}:16), {tmp_path}/7.png ({path}:17)" in record.getMessage()


def test_how_many_may_be_missing_is_said_by_the_caller(table, tmp_path):
    path = many(tmp_path, table)
    (tmp_path / "photos/3.jpg").unlink()
    with pytest.raises(PairTableError, match=r"1 of 200 pairs .* max_missing_share 0: .*photos/3\.jpg .*csv:5"):
        PairTable.from_csv(path, max_missing_share=0)
    for i in range(10, 18):
        (tmp_path / f"photos/{i}.jpg").unlink()
    with pytest.raises(PairTableError, match=r"9 of 200 pairs .*photos/11\.jpg \([^)]*:13\) and others; put them"):
        PairTable.from_csv(path, max_missing_share=0.0449)
    assert len(PairTable.from_csv(path, max_missing_share=0.045)) == 191


# -- duplicates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["photos/a.jpg", "./photos/a.jpg", "photos/../photos/a.jpg", "{}/photos/a.jpg"])
def test_a_query_on_two_lines_is_named_with_both(table, tmp_path, monkeypatch, again):
    lines = ["query_path,lat,lon", "photos/a.jpg,1,2", "photos/c.jpg,3,4", f"{again.format(tmp_path)},5,6", ",1,2"]
    refused(table("\n".join(lines)), r"pairs\.csv:4: the query .*photos/a\.jpg is that of .*pairs\.csv:2 too; keep one")
    monkeypatch.chdir(tmp_path)
    refused("pairs.csv", r"pairs\.csv:4: the query .*a\.jpg is that of pairs\.csv:2 too")


def test_a_reference_is_one_however_it_is_written(table, tmp_path):
    lines = ["path,reference_path", "photos/a.jpg,chip.png", f"photos/c.jpg,{tmp_path}/photos/../chip.png"]
    read = PairTable.from_csv(table("\n".join(lines)))
    assert read.positive.tolist() == [0, 0]
    assert len(read.reference_path) == 1


def chips(table, latlon_deg):
    return table("lat,lon\n" + "".join(f"{lat!r},{lon!r}\n" for lat, lon in np.asarray(latlon_deg).tolist()))


@pytest.mark.parametrize("start_deg", [(-33.9, -70.6), (0.0, 180.0), (89.9999999, 12.0), (60.0, 0.0)])
def test_chips_within_a_metre_are_one_place(table, start_deg, caplog):
    start_deg = np.array(start_deg)
    beside = [destination_deg(start_deg, 90.0, m) for m in (0.0, 0.99, 1.98, 3.0, 5.0)]
    read = PairTable.from_csv(chips(table, [*beside, beside[0]]))
    # The first three are a chain; the last stands where the first does.
    assert read.place.tolist() == read.reference_place.tolist() == [0, 0, 0, 3, 4, 0]
    assert read.positive.tolist() == list(range(6)), "each keeps a chip of its own"
    caplog.set_level(logging.INFO)
    PairTable.from_csv(chips(table, [*beside, beside[0]]))
    assert "4 pairs from imagery lie within 1 m of another and are 1 places, the largest of 4 pairs" in caplog.text


@given(st.integers(1, 60), st.floats(0.5, 20), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_places_are_what_steps_of_a_metre_connect(tmp_path_factory, n, extent_m, seed):
    rng = np.random.default_rng(seed)
    latlon_deg = destination_deg(np.array([51.5, 179.99999]), rng.uniform(0, 360, n), rng.uniform(0, extent_m, n))
    latlon_deg = latlon_deg[rng.integers(n, size=n)]
    path = tmp_path_factory.mktemp("chips") / "pairs.csv"
    path.write_text("lat,lon\n" + "".join(f"{lat!r},{lon!r}\n" for lat, lon in latlon_deg.tolist()))
    place = PairTable.from_csv(path).place
    # By the powers of the matrix of steps: who reaches whom.
    reach = distance_m(latlon_deg[:, None], latlon_deg) <= 1.0
    for _ in range(7):
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    np.testing.assert_array_equal(place[:, None] == place, reach)


def test_many_chips_of_one_position_cost_no_square(table):
    """20,000 lines of one position would be 200 million pairs."""
    read = PairTable.from_csv(chips(table, [(1.0, 2.0)] * 20_000 + [(1.0, 3.0)]))
    assert np.unique(read.place).tolist() == [0, 20_000]


def test_files_of_one_position_are_places_of_their_own(table):
    read = PairTable.from_csv(
        table("path,reference_path,lat,lon\nphotos/a.jpg,chip.png,1,2\nphotos/c.jpg,photos/a.jpg,1,2\n,,1,2\n")
    )
    assert read.place.tolist() == [0, 1, 2]


# -- Parquet -----------------------------------------------------------------------------------------------------------


def test_parquet_and_csv_are_the_same_pairs(table, tmp_path):
    text = (
        "path,reference_path,lat,lon,heading_deg,fov_deg\n"
        "photos/a.jpg,chip.png,-33.9000001,-70.6,-90,65.5\n"
        f"photos/c.jpg,{tmp_path}/chip.png,,,,\n"
        ",,0.1,179.30000000000001,,360\n"
    )
    content = {
        "path": ["photos/a.jpg", "photos/c.jpg", None],
        "reference_path": ["chip.png", f"{tmp_path}/chip.png", None],
        "lat": [-33.9000001, None, 0.1],
        "lon": [-70.6, None, 179.30000000000001],
        "heading_deg": pa.array([-90, None, None], pa.int16()),
        "fov_deg": [65.5, None, 360.0],
    }
    pq.write_table(pa.table(content), tmp_path / "pairs.parquet")
    expected, read = PairTable.from_csv(table(text)), PairTable.from_parquet(tmp_path / "pairs.parquet")
    for field in fields(PairTable):
        if field.name == "name":
            assert read.name == os.fspath(tmp_path / "pairs.parquet")
        else:
            np.testing.assert_array_equal(getattr(read, field.name), getattr(expected, field.name))


def test_parquet_has_the_checks_of_csv(tmp_path):
    path = tmp_path / "pairs.parquet"
    (tmp_path / "a.jpg").touch()
    for content, message in (
        (
            {"path": ["a.jpg", "gone.jpg"], "lat": [1.0, 2.0], "lon": [1.0, 2.0]},
            r"1 of 2 pairs .*gone\.jpg \(.*uet:2\)",
        ),
        (
            {"path": ["a.jpg", "a.jpg"], "lat": [1.0, 2.0], "lon": [1.0, 2.0]},
            r"pairs\.parquet:2: the query .*uet:1 too",
        ),
        ({"lat": pa.array([], pa.float64()), "lon": pa.array([], pa.float64())}, "holds no pair"),
    ):
        pq.write_table(pa.table(content), path)
        with pytest.raises(PairTableError, match=message) as caught:
            PairTable.from_parquet(path)
        assert "\n" not in str(caught.value)


# -- parting -----------------------------------------------------------------------------------------------------------


def spread(n, extent_deg, seed=0):
    """Pairs around Santiago and, every tenth, without coordinates; paths name the row."""
    rng = np.random.default_rng(seed)
    latlon_deg = np.array([-33.9, -70.6]) + rng.uniform(-extent_deg, extent_deg, (n, 2))
    latlon_deg[::10] = np.nan
    names = tuple(str(i) for i in range(n))
    return PairTable.of(
        names, names, latlon_deg=latlon_deg, reference_latlon_deg=latlon_deg, heading_deg=np.arange(n) % 360.0
    )


def test_take_takes_whole_queries_and_keeps_the_references():
    table = spread(30, 0.1)
    rng = np.random.default_rng(1)
    table = replace(
        table,
        positive=rng.permutation(30),
        place=rng.permutation(30),
        fov_deg=np.arange(30.0),
        semi_positive=rng.integers(-1, 30, (30, 3)),
        offset_px=rng.normal(size=(30, 4, 2)).astype(np.float32),
        city=tuple("ab"[i % 2] for i in range(30)),
    )
    taken = table.take(np.array([7, 3]))
    of_queries = {"positive", "latlon_deg", "heading_deg", "fov_deg", "place", "semi_positive", "offset_px"}
    for field in fields(PairTable):
        before, after = getattr(table, field.name), getattr(taken, field.name)
        if field.name in of_queries:
            np.testing.assert_array_equal(after, before[[7, 3]])
        elif field.name not in ("query_path", "city"):
            assert after is before
    assert taken.city == ("b", "b")
    assert (len(taken), taken.query_path, len(taken.reference_path)) == (2, ("7", "3"), 30)


def test_what_is_left_out_is_unknown():
    table = PairTable.of(["a", "b", "c"], ["x", "y"], np.array([1, 0, 1]), fov_deg=90.0)
    assert table.place.tolist() == [1, 0, 1]
    assert table.fov_deg.tolist() == [90.0] * 3
    assert table.city == ("", "", "")
    assert np.isnan(table.heading_deg).all()
    assert np.isnan(table.latlon_deg).all()
    assert np.isnan(table.reference_latlon_deg).all()
    assert (table.latlon_deg.shape, table.reference_latlon_deg.shape) == ((3, 2), (2, 2))
    named = PairTable.of(["a"], ["x", "y"], np.array([1]), reference_place=np.array([7, 8]))
    assert named.place.tolist() == [8]
    assert PairTable.of(["a", "b"], ["x", "y"]).positive.tolist() == [0, 1]


@given(st.integers(1, 300), st.floats(0, 0.99), st.sampled_from([0.005, 0.05, 0.5]), st.integers(0, 2**31))
@settings(deadline=None)
def test_no_block_is_on_both_sides(n, share, extent_deg, seed):
    table = spread(n, extent_deg, seed)
    training, validation = table.split(share, seed)
    assert sorted((training.query_path + validation.query_path), key=int) == list(table.query_path)
    blocks = []
    for side in (training, validation):
        known = np.isfinite(side.latlon_deg).all(axis=1)
        blocks.append(set(cells.cell_ids(side.latlon_deg[known], 13).tolist()))
        np.testing.assert_array_equal(side.heading_deg, [int(name) % 360 for name in side.query_path])
    assert not blocks[0] & blocks[1]
    again = table.split(share, seed)
    assert [side.query_path for side in again] == [training.query_path, validation.query_path]


def test_the_share_is_that_of_the_pairs():
    table = spread(2_000, 1.0)
    for share in (0.0, 0.1, 0.5):
        training, validation = table.split(share, 3)
        assert len(validation) == pytest.approx(2_000 * share, abs=60)
        assert len(training) + len(validation) == 2_000
    assert table.split(0.0, 3)[0].query_path == table.query_path


@given(share=st.floats(0.05, 0.9), sizes=st.lists(st.integers(1, 40), min_size=2, max_size=30), seed=st.integers(0, 99))
def test_large_blocks_do_not_break_the_share(share, sizes, seed):
    """What is held out is off by half of a block at most, but for the least that has to be held out or left."""
    latlon_deg = np.repeat(np.stack([np.zeros(len(sizes)), np.arange(len(sizes)) / 10.0], axis=-1), sizes, axis=0)
    names = [f"{i}.jpg" for i in range(len(latlon_deg))]
    _, held_out = PairTable.of(names, names, latlon_deg=latlon_deg).split(share, seed)
    wanted = share * len(names)
    assert len(held_out) <= max(min(sizes), wanted + max(sizes) / 2)
    assert len(held_out) >= min(wanted - max(sizes) / 2, len(names) - max(sizes))


def test_pairs_without_coordinates_are_drawn_one_by_one():
    table = PairTable.of(("q",) * 500, ("r",) * 500)
    assert len(table.split(0.2, 0)[1]) == 100


def test_queries_of_one_place_stay_together():
    # Every third place without coordinates, the others further apart than a block: 40 places of 5 queries each.
    place = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 5))
    latlon_deg = np.random.default_rng(1).uniform(-60, 60, (200, 2))
    latlon_deg[place % 3 == 0] = np.nan
    table = PairTable.of(("q",) * 200, ("r",) * 40, place, latlon_deg=latlon_deg)
    training, validation = table.split(0.25, 0)
    assert len(validation) == 50
    assert not set(training.place.tolist()) & set(validation.place.tolist())
    assert len(np.unique(table.blocks())) == 40


def test_near_duplicates_stay_together():
    latlon_deg = np.repeat([[10.0, 20.0], [10.0, 21.0], [11.0, 20.0]], 20, axis=0)
    latlon_deg += np.random.default_rng(0).normal(scale=1e-5, size=latlon_deg.shape)
    table = PairTable.of(("q",) * 60, ("r",) * 60, latlon_deg=latlon_deg, heading_deg=np.arange(60.0))
    for seed in range(10):
        validation = table.split(1 / 3, seed)[1]
        assert set(np.bincount((validation.heading_deg // 20).astype(int), minlength=3)) == {0, 20}


def test_another_seed_holds_out_others():
    table = spread(300, 1.0)
    assert len({table.split(0.3, seed)[1].query_path for seed in range(5)}) == 5


@given(share=st.floats(0.01, 0.99), n_blocks=st.integers(1, 9), seed=st.integers(0, 9))
def test_what_is_held_out_is_a_block_at_least_and_never_all(share, n_blocks, seed):
    latlon_deg = np.stack([np.zeros(2 * n_blocks), np.repeat(np.arange(n_blocks), 2) / 10.0], axis=-1)
    names = [f"{i}.jpg" for i in range(2 * n_blocks)]
    training, held_out = PairTable.of(names, names, latlon_deg=latlon_deg).split(share, seed)
    assert len(training) + len(held_out) == 2 * n_blocks
    assert len(training) >= 2
    assert (len(held_out) > 0) == (n_blocks > 1)
    assert not set(training.blocks().tolist()) & set(held_out.blocks().tolist())
