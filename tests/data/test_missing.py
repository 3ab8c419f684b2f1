"""What is left out, and when there is too much of it."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoview.data.missing import few_missing
from geoview.errors import DatasetError, PairTableError

WORDS = {
    "where": "list.txt",
    "entries": "lines",
    "fault": "lack a picture",
    "way_out": "get them",
    "error": PairTableError,
}


@given(st.integers(1, 400), st.data())
def test_the_share_itself_is_still_allowed(n, data):
    gone = data.draw(st.integers(0, n))
    lacks = [["x"]] * gone + [[]] * (n - gone)
    kept = few_missing(lacks, gone / n, **WORDS)
    assert kept.tolist() == [False] * gone + [True] * (n - gone)
    if gone:
        with pytest.raises(PairTableError, match=f"{gone} of {n} lines lack a picture"):
            few_missing(lacks, (gone - 0.5) / n, **WORDS)


def test_shares_are_exact_where_their_products_are_not():
    assert 0.29 * 100 < 29
    assert few_missing([["x"]] * 29 + [[]] * 71, 0.29, **WORDS).sum() == 71


def test_messages_name_where_how_many_what_and_the_way_out(caplog):
    lacks = [[], ["a"], ["b", "c"], ["d"]]
    with caplog.at_level(logging.WARNING):
        few_missing(lacks, 0.75, **WORDS)
    assert caplog.messages == ["list.txt: 3 of 4 lines lack a picture and are left out: a, b, c and others"]
    with pytest.raises(DatasetError) as caught:
        few_missing(lacks[:3], 0.5, **(WORDS | {"error": DatasetError}))
    assert str(caught.value) == (
        "list.txt: 2 of 3 lines lack a picture, more than max_missing_share 0.5: a, b, c; get them"
    )


def test_nothing_missing_is_no_word_about(caplog):
    assert few_missing([[], []], 0.0, **WORDS).all()
    assert few_missing([], 0.0, **WORDS).tolist() == []
    assert not caplog.records
