"""A score is an inner product, of whatever a cell's code is made of."""

import numpy as np
import pytest

from geoview.errors import EncoderMismatchError
from geoview.geo.regions import Region
from geoview.index.dates import expected_best
from geoview.index.fusion import Fusion
from geoview.index.scoring import Scorer, Scoring
from geoview.index.table import Table

DIM, IMAGERY = 8, Fusion(0.0)


@pytest.fixture
def index(tmp_path, kit):
    """Cells of one, two and three dates, side by side."""
    ids = Region.disc(kit.CENTRE_DEG, 700.0).cells(16)
    n_dates = np.arange(len(ids)) % 3 + 1
    cell = ids.repeat(n_dates)
    dates = np.concatenate([2_000_0101 + np.arange(n) for n in n_dates])
    with kit.write_index(tmp_path, cell, np.random.default_rng(0).normal(size=(len(cell), DIM)), dates) as index:
        yield index


@pytest.fixture
def scorer(index):
    return Scorer(index.path, index.manifest, Table(index.path, index.manifest, checked=True), checked=True)


def test_rows_for_themselves_are_their_aerial_codes(index, scorer):
    table, rows = Table(index.path, index.manifest, checked=False), np.arange(0, len(index), 2)
    assert np.array_equal(scorer.codes(rows, Scoring(IMAGERY)), table.aerial(rows))
    queries = np.random.default_rng(1).normal(size=(4, DIM))
    assert scorer.queries(queries, Scoring(IMAGERY)) is queries


def test_blocks_are_the_codes_of_their_rows(index, scorer):
    scoring, table = Scoring(IMAGERY, "max"), Table(index.path, index.manifest, checked=False)
    numbers, blocks = zip(*scorer.blocks(table.everything, scoring), strict=True)
    rows = np.arange(len(index))
    assert np.array_equal(np.concatenate(numbers), rows)
    assert np.array_equal(np.concatenate(blocks), scorer.codes(rows, scoring))


def test_the_best_of_more_dates_is_taken_off_more(index, scorer):
    rows = np.arange(len(index))
    counts = np.unique(index.cell_ids(), return_counts=True)[1]
    np.testing.assert_allclose(scorer.gains(rows), [expected_best(n) for n in counts for _ in range(n)])
    codes = scorer.codes(rows, Scoring(IMAGERY, "max"))
    np.testing.assert_allclose(codes[:, -1], -scorer.gains(rows), atol=1e-3)
    # As much as the query's scores differ within cells.
    queries = scorer.queries(np.eye(DIM), Scoring(IMAGERY, "max"))
    assert queries.shape == (DIM, DIM + 1)
    assert (queries[:, -1] > 0).all()


def test_the_mean_of_dates_stands_at_the_newest(index, scorer):
    cell = index.cell_ids()
    newest = np.append(np.flatnonzero(cell[1:] != cell[:-1]), len(cell) - 1)
    aerial = Table(index.path, index.manifest, checked=False).aerial(np.arange(len(index))).astype(np.float32)
    means = [aerial[cell == one].mean(axis=0) for one in cell[newest]]
    np.testing.assert_allclose(scorer.codes(newest, Scoring(IMAGERY, "mean")), means, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(DIM,), (2, DIM - 1), (2, DIM + 1)])
def test_queries_of_another_length_are_refused(scorer, shape):
    with pytest.raises(EncoderMismatchError, match=f"codes have {DIM} elements"):
        scorer.queries(np.zeros(shape), Scoring(IMAGERY))
