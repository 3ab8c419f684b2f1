"""Several dates of a cell are one answer: each way of counting them is its definition, however an index is searched."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoview.config import TuneConfig
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import cell_index, dates, store, table, tuning
from geoview.index.cell_index import CellIndex
from geoview.index.dates import CellDates, deviations, expected_best, first_of_each, iso_date, yyyymmdd
from geoview.index.fusion import Fusion, fused_codes, interpolated
from geoview.index.ground import prototype_shards
from geoview.index.manifest import Point, PrototypeTable
from geoview.index.prototypes import Photo, Speech
from geoview.index.upkeep import remove_region

DIM = 24
WAYS = ("max", "mean", "latest")
IMAGERY = Fusion(0.0)
# What is taken off is in half precision where codes are.
CLOSE = 5e-5


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def dated(rng, ids, n_dates):
    """Rows of cells, shuffled: codes of a cell are alike, and one of its dates may be unknown."""
    base = unit(rng.normal(size=(len(ids), DIM)))
    cell, aerial = np.repeat(ids, n_dates), np.repeat(base, n_dates, axis=0)
    aerial = unit(aerial + 0.1 * rng.normal(size=aerial.shape))
    date = np.concatenate([rng.permutation([0, 20180000, 20200600, 20210613])[:n] for n in n_dates])
    order = rng.permutation(len(cell))
    return cell[order], aerial[order], date[order]


@pytest.fixture(scope="module")
def several(tmp_path_factory, kit):
    """Cells of one to four dates around a corner of four shards, each of which begins and ends with several."""
    rng = np.random.default_rng(0)
    ids = Region.disc(kit.CENTRE_DEG, 2300.0).cells(16)
    n_dates = rng.choice([1, 1, 1, 2, 3, 4], len(ids))
    above = cells.parents(ids, 8)
    border = np.flatnonzero(above[1:] != above[:-1])
    n_dates[[0, -1, *border, *(border + 1)]] = [2, 3, *[3, 2, 2], *[2, 4, 2]]
    folder = tmp_path_factory.mktemp("several")
    index = kit.write_index(folder, *dated(rng, ids, n_dates))
    photos = [
        Photo(str(i), tuple(place), None, None, i + 1)
        for i, place in enumerate((kit.CENTRE_DEG + rng.uniform(-0.02, 0.01, (80, 2))).tolist())
    ]
    table = PrototypeTable(
        15, True, False, prototype_shards(folder, photos, unit(rng.normal(size=(80, DIM))), Speech())
    )
    store.commit(folder, replace(index.manifest, prototypes=table))
    index = CellIndex.open(folder)
    assert [entry.dates_a_cell for entry in index.manifest.shards] == [4] * 4
    return index


def asked(n=12):
    return unit(np.random.default_rng(1).normal(size=(n, DIM)))


def by_hand(index, queries, way, fusion=IMAGERY, inside=None):
    """Cells, best first, with the row and the score of each: by the definitions, a cell at a time."""
    shards = [store.open_shard(index.path, entry) for entry in index.manifest.shards]
    cell, date, aerial = (np.concatenate([shard.read(name) for shard in shards]) for name in ("cell", "date", "aerial"))
    assert (np.diff(cell.astype(object) * 10**9 + date) > 0).all(), "an unknown date is the oldest"
    codes = aerial.astype(np.float32)
    if fusion.kappa:
        codes = fused_codes(codes, interpolated(cell, 15, index._scorer._sums_of), fusion)
        queries = np.concatenate([queries, np.ones((len(queries), 1), np.float32)], axis=1)
    scores = queries @ codes.T
    rows_of = [np.flatnonzero(cell == one) for one in np.unique(cell)]
    variance = np.mean([scores[:, rows].var(axis=1, ddof=1) for rows in rows_of if len(rows) > 1], axis=0)
    found = []
    for rows in rows_of:
        mine = scores[:, rows]
        if way == "max":
            row, score = rows[mine.argmax(axis=1)], mine.max(axis=1)
            score = score - dates.SHARE * np.sqrt(variance) * expected_best(len(rows))
        else:
            row = np.full(len(queries), rows[-1])
            score = mine[:, -1] if way == "latest" else mine.mean(axis=1)
        found.append((row, score))
    row, score = (np.stack(each, axis=1) for each in zip(*found, strict=True))
    ids = np.unique(cell)
    if inside is not None:
        ids, row, score = ids[inside], row[:, inside], score[:, inside]
    order = np.argsort(-score, axis=1, kind="stable")
    return ids[order], np.take_along_axis(row, order, 1), np.take_along_axis(score, order, 1)


def assert_found(hits, wanted, k):
    ids, rows, scores = (each[:, :k] for each in wanted)
    assert hits.row.shape == (len(ids), k)
    np.testing.assert_allclose(hits.score, scores, atol=CLOSE)
    # Rounding may swap cells whose scores agree to the last digit.
    assert (hits.cell_id == ids).mean() > 0.99
    assert (hits.row == rows).mean() > 0.99


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kappa", [0.0, 0.5, np.inf])
@pytest.mark.parametrize("read_rows", [16_384, 100])
def test_each_way_is_its_definition(several, monkeypatch, way, kappa, read_rows):
    monkeypatch.setattr(table, "_READ_ROWS", read_rows)
    hits = several.search(asked(), 40, kappa=Fusion(kappa, 0.1), dates=way)
    wanted = by_hand(several, asked(), way, Fusion(kappa, 0.1))
    if np.isinf(kappa):  # all dates of a cell score alike, and so do cells around the same photos
        np.testing.assert_allclose(hits.score, wanted[2][:, :40], atol=1e-5)
    else:
        assert_found(hits, wanted, 40)
    assert np.array_equal(hits.cell_id, several.cell_ids()[hits.row])


@pytest.mark.parametrize("k", [1, 10, 60])
def test_one_query_is_scanned_with_what_its_dates_take_off(several, monkeypatch, k):
    scanned, scan = [], CellIndex._scanned_by_dates
    monkeypatch.setattr(CellIndex, "_scanned_by_dates", lambda *args: scanned.append(scan(*args)) or scanned[-1])
    queries = asked(20)
    every = several.search(queries, k)
    for i, query in enumerate(queries):
        alone = several.search(query[None], k)
        assert alone.row[0].tolist() == every.row[i].tolist()
        np.testing.assert_allclose(alone.score[0], every.score[i], atol=CLOSE)
    assert sum(found is not None for found in scanned) >= 18, "a scan mostly tells"


def test_where_a_scan_cannot_tell_all_rows_are_looked_at(several, monkeypatch):
    monkeypatch.setattr(cell_index, "_ROWS_A_BEST", 1)
    queries = asked(20)
    every = several.search(queries, 5)
    for i, query in enumerate(queries):
        assert several.search(query[None], 5).row[0].tolist() == every.row[i].tolist()


@pytest.mark.parametrize("way", WAYS)
def test_a_region_is_its_cells_with_all_their_dates(several, kit, way):
    region = Region.disc(np.add(kit.CENTRE_DEG, [0.002, 0.001]), 600.0)
    inside = np.isin(np.unique(several.cell_ids()), region.cells(16))
    assert 50 < inside.sum() < len(inside) / 3
    for other in (*WAYS, way):  # one after another: none is answered with another's rows
        hits = several.search(asked(), 10, region=region, dates=other)
        assert_found(hits, by_hand(several, asked(), other, inside=inside), 10)


@pytest.mark.parametrize("way", WAYS)
def test_a_cell_comes_once_and_the_rest_is_empty(several, way):
    n_cells = len(np.unique(several.cell_ids()))
    hits = several.search(asked(3), n_cells + 5, dates=way)
    assert hits.row.shape == (3, n_cells + 5)
    assert (np.sort(hits.cell_id[:, :-5], axis=1) == np.unique(several.cell_ids())).all()
    assert (hits.row[:, -5:] == -1).all()
    assert (hits.cell_id[:, -5:] == 0).all()
    assert np.isneginf(hits.score[:, -5:]).all()
    assert several.search(asked(0), 3, dates=way).row.shape == (0, 3)


def test_the_newest_row_is_of_the_newest_date_and_an_unknown_date_is_the_oldest(several):
    rows = several.search(asked(), 200, dates="latest").row
    date, cell = several.dates(), several.cell_ids()
    assert np.array_equal(several.dates_of(rows), date[rows])
    for row in np.unique(rows).tolist():
        assert date[row] == date[cell == cell[row]].max()
    assert several.dates_of(np.array([-1, 0])).tolist() == [0, date[0]]


@pytest.mark.parametrize("way", WAYS)
def test_one_date_a_cell_is_searched_as_if_there_were_no_ways(tmp_path, kit, monkeypatch, way):
    rng = np.random.default_rng(2)
    ids = Region.disc(kit.CENTRE_DEG, 900.0).cells(16)
    index = kit.write_index(tmp_path, *dated(rng, ids, np.ones(len(ids), int)))
    for name in ("around", "all_of", "newest", "some"):
        monkeypatch.setattr(CellDates, name, lambda *_: pytest.fail("dates were looked at"))
    hits = index.search(asked(), 20, dates=way)
    one = index.search(asked(1), 20, dates=way)
    codes = np.concatenate([store.open_shard(index.path, e).read("aerial") for e in index.manifest.shards])
    scores = -np.sort(-(asked() @ codes.astype(np.float32).T), axis=1)[:, :20]
    np.testing.assert_allclose(hits.score, scores, atol=1e-5)
    np.testing.assert_allclose(one.score, scores[:1], atol=1e-5)


def test_the_best_of_several_dates_has_no_advantage_that_chance_gives():
    """Of cells that differ by noise alone, those with several dates win as often as their number says, about."""
    rng = np.random.default_rng(3)
    n, trials = 400, 600
    common, noise = rng.normal(size=(trials, n)), 0.4 * rng.normal(size=(trials, n, 3))
    n_dates = np.repeat([1, 3], n // 2)
    noise[:, n_dates == 1, 1:] = -np.inf
    best = common + noise.max(axis=2)
    shares = []
    for share in (0.0, dates.SHARE):
        score = best - share * 0.4 * np.array([expected_best(m) for m in n_dates])
        shares.append((n_dates[score.argmax(axis=1)] == 3).mean())
    assert shares[0] > 0.65
    assert 0.4 < shares[1] < 0.6


# -- tuned -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[IMAGERY, Fusion(0.5, 0.1)], ids=["imagery", "fused"])
def tuned(several, tmp_path_factory, request):
    """The same index with lists, for fused codes too; nothing is searched exactly that need not be."""
    folder = tmp_path_factory.mktemp("tuned") / "index"
    shutil.copytree(several.path, folder)
    store.commit(folder, replace(several.manifest, fusion=asdict(request.param)))
    with pytest.MonkeyPatch.context() as patch:
        for module in (cell_index, tuning):
            patch.setattr(module, "ALWAYS_EXACT", 50)
        patch.setattr(cell_index, "_WORTH_IT", 0)
        patch.setattr(tuning, "_exact", lambda index, queries: Point(0, 1, 1.0, 1e6))
        patch.setattr(tuning, "_measured", lambda *_: [Point(32, 4, 0.95, 1.0)])
        tuning.tune(folder, TuneConfig(recall=0.9))
        yield folder


def looking_everywhere(folder):
    """Opens a tuned index that looks through all lists and misses nothing."""
    index = CellIndex.open(folder)
    everything = Point(index.manifest.ann.n_lists, 200, 1.0, 0.0)
    store.commit(folder, replace(index.manifest, ann=replace(index.manifest.ann, chosen=everything)))
    return CellIndex.open(folder)


@pytest.fixture
def searched_by_lists(monkeypatch):
    monkeypatch.setattr(CellIndex, "_compared", lambda *_: pytest.fail("all rows were scored"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("searched_by_lists")
def test_lists_find_cells_and_score_them_exactly(tuned, way):
    with CellIndex.open(tuned) as index:
        hits = index.search(asked(60), 10, dates=way)
        ids, rows, scores = by_hand(index, asked(60), way, index.fusion)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(ids[:, :10], hits.cell_id, strict=True)]) > 0.8
    for query in range(60):
        assert len(np.unique(hits.cell_id[query])) == 10
        at = [np.flatnonzero(ids[query] == cell)[0] for cell in hits.cell_id[query]]
        np.testing.assert_allclose(hits.score[query], scores[query][at], atol=CLOSE)
        assert (hits.row[query] == rows[query][at]).mean() >= 0.9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("searched_by_lists")
def test_where_lists_miss_nothing_each_way_is_its_definition(tuned, tmp_path, kit, way):
    shutil.copytree(tuned, tmp_path / "index")
    region = Region.disc(np.add(kit.CENTRE_DEG, [0.002, 0.001]), 900.0)
    with looking_everywhere(tmp_path / "index") as index:
        assert_found(index.search(asked(), 10, dates=way), by_hand(index, asked(), way, index.fusion), 10)
        inside = np.isin(np.unique(index.cell_ids()), region.cells(16))
        wanted = by_hand(index, asked(), way, index.fusion, inside)
        assert_found(index.search(asked(), 10, region=region, dates=way), wanted, 10)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("searched_by_lists")
def test_shards_that_the_lists_do_not_know_are_searched_the_same_way(tuned, tmp_path, kit, monkeypatch, way):
    folder = tmp_path / "index"
    shutil.copytree(tuned, folder)
    monkeypatch.setattr("geoview.index.upkeep.refresh", lambda path: None)
    remove_region(folder, Region.disc(np.add(kit.CENTRE_DEG, [0.01, -0.01]), 500.0))
    with looking_everywhere(folder) as index:
        known = {entry.of for entry in index.manifest.ann.shards}
        assert 0 < len(known & {index.manifest.coded(shard) for shard in index.manifest.shards}) < 4
        assert_found(index.search(asked(), 10, dates=way), by_hand(index, asked(), way, index.fusion), 10)


# -- the parts ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_rows_of_a_cell_are_found_around_any_of_them(n_dates):
    cell = np.repeat(np.arange(len(n_dates), dtype=np.uint64) * 3 + 1, n_dates)
    runs = dates._Runs.of(cell)
    first, last = runs.around(np.arange(len(cell))) if len(runs.first) else (np.arange(len(cell)),) * 2
    ends = np.cumsum(n_dates)
    assert first.tolist() == np.repeat(ends - n_dates, n_dates).tolist()
    assert last.tolist() == np.repeat(ends - 1, n_dates).tolist()


@given(st.lists(st.lists(st.integers(-1, 5), min_size=6, max_size=6), min_size=1, max_size=5))
def test_the_first_of_each_number(numbers):
    wanted = [[n >= 0 and n not in row[:i] for i, n in enumerate(row)] for row in numbers]
    assert first_of_each(np.array(numbers, np.int64)).tolist() == wanted


@pytest.mark.parametrize("n", [1, 2, 3, 5, 12])
def test_the_expected_best_of_n_draws(n):
    drawn = np.random.default_rng(4).normal(size=(200_000, n)).max(axis=1).mean()
    assert expected_best(n) == pytest.approx(drawn, rel=0.05, abs=0.01)
    assert expected_best(1) == 0


def test_deviations_tell_the_spread_of_any_query_within_cells():
    rng = np.random.default_rng(5)
    n_dates = np.array([2, 4, 3])
    codes = rng.normal(size=(9, DIM)).astype(np.float16)
    parts = np.split(asked() @ codes.astype(np.float32).T, [2, 6], axis=1)
    wanted = np.sqrt(np.mean([part.var(axis=1, ddof=1) for part in parts], axis=0))
    np.testing.assert_allclose(np.linalg.norm(asked() @ deviations(codes, n_dates).T, axis=1), wanted, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_code_that_is_not_finite_spoils_its_own_cell_alone(tmp_path, kit):
    rng = np.random.default_rng(6)
    ids = Region.disc(kit.CENTRE_DEG, 300.0).cells(16)
    cell, aerial, date = dated(rng, ids, np.full(len(ids), 2))
    aerial[3, 4], aerial[7] = np.nan, np.inf
    index = kit.write_index(tmp_path, cell, aerial, date)
    for way in WAYS:
        hits = index.search(asked(), len(ids), dates=way)
        assert np.isin(np.setdiff1d(ids, cell[[3, 7]]), hits.cell_id[0][np.isfinite(hits.score[0])]).all()
        sound = index.search(asked(), 5, dates=way)
        assert np.isfinite(sound.score).all()


def test_the_cells_that_are_compared_are_spread_over_the_index(several, monkeypatch):
    monkeypatch.setattr(dates, "_CELLS", 12)
    rows, n_dates = CellDates(several._table).some()
    cell = several.cell_ids()
    assert len(n_dates) == 12
    assert n_dates.sum() == len(rows)
    chosen, times = np.unique(cell[rows], return_counts=True)
    assert np.array_equal(times, n_dates)
    assert np.array_equal(np.isin(cell, chosen).nonzero()[0], rows), "all dates of each"
    assert np.unique(cells.parents(chosen, 8), return_counts=True)[1].tolist() == [3] * 4


@pytest.mark.parametrize(
    ("date", "number", "told"),
    [
        (None, 0, None),
        ("", 0, None),
        ("2020", 20200000, "2020"),
        ("2020-06", 20200600, "2020-06"),
        ("2020-06-30", 20200630, "2020-06-30"),
        ("2020-06-30T23:59:59Z", 20200630, "2020-06-30"),
    ],
)
def test_dates_become_numbers_that_sort_by_time_and_are_told_as_exactly_as_known(date, number, told):
    assert yyyymmdd(date) == number
    assert iso_date(number) == told


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read_rows", [16_384, 7])
def test_given_cells_have_the_scores_and_rows_of_a_search(several, monkeypatch, way, read_rows):
    """Cells in any order, twice, and some that have no code; and blocks that cut a cell's dates apart."""
    monkeypatch.setattr(table, "_READ_ROWS", read_rows)
    n_cells = len(np.unique(several.cell_ids()))
    hits = several.search(asked(3), n_cells, dates=way)
    rng = np.random.default_rng(3)
    chosen = rng.permutation(hits.cell_id[0])[:200]
    wanted = np.concatenate([chosen, chosen[:5], cells.cell_ids([[0.0, 0.0], [51.0, 4.0]], 16)])
    scores = several.scores_of(asked(3), wanted, dates=way)
    assert np.isneginf(scores[:, -2:]).all()
    for i in range(3):
        known = dict(zip(hits.cell_id[i].tolist(), hits.score[i].tolist(), strict=True))
        np.testing.assert_allclose(scores[i, :-2], [known[cell] for cell in wanted[:-2].tolist()], atol=1e-5)
    rows = several.rows_of(asked(3), wanted, dates=way)
    assert (rows[-2:] == -1).all()
    found = [dict(zip(*pair, strict=True)) for pair in zip(hits.cell_id.tolist(), hits.row.tolist(), strict=True)]
    best = scores[:, :-2].argmax(axis=0)
    assert rows[:-2].tolist() == [found[i][cell] for i, cell in zip(best, wanted[:-2].tolist(), strict=True)]


def test_some_cells_are_spread_over_all_each_once(several, kit):
    ids = np.unique(several.cell_ids())
    some, n_cells = several.some_cells(50)
    assert n_cells == len(ids)
    places = np.searchsorted(ids, some)
    assert (ids[places] == some).all()
    assert np.diff(places).max() <= len(ids) / 49 + 1
    every, n_cells = several.some_cells(10**6)
    assert (every == ids).all()
    region = Region.disc(np.add(kit.CENTRE_DEG, [0.002, 0.001]), 600.0)
    inside, n_inside = several.some_cells(20, region)
    assert len(inside) == 20
    assert np.isin(inside, region.cells(16)).all()
    assert n_inside == np.isin(ids, region.cells(16)).sum()
