import json
import math

import numpy as np
import pytest

from geoview.errors import ConfigError, OutputExistsError
from geoview.evaluate.report import check_output, finite, markdown


def test_numbers_that_are_not_finite_become_none():
    content = {"a": [math.nan, 1.5, (math.inf, -math.inf)], "b": {"c": float(np.float64("nan"))}, "d": "nan", "e": 3}
    assert finite(content) == {"a": [None, 1.5, [None, None]], "b": {"c": None}, "d": "nan", "e": 3}
    json.dumps(finite(content), allow_nan=False)


def test_a_table_has_a_row_for_each_view_and_a_column_for_each_figure_that_any_has():
    views = {
        "360": {"recall_at_1": 0.98765, "hit_rate": 1.0, "median_error_m": 12.345},
        "90": {"recall_at_1": 0.5, "distractors_removed": {"recall_at_1": 0.75}, "median_error_m": None},
    }
    assert markdown({"dataset": "vigor", "turned": False, "views": views}).splitlines() == [
        "| view | R@1 | hit rate | median error, m |",
        "| --- | ---: | ---: | ---: |",
        "| 360° | 98.77 | 100.00 | 12.3 |",
        "| 90° | 50.00 | - | - |",
        "| 90°, distractors removed | 75.00 | - | - |",
    ]
    assert markdown({"views": {"photos": {"recall_at_1_within_50_m": 0.1}}}).splitlines()[-1] == "| photos | 10.00 |"


def test_outputs_are_refused_before_any_work(tmp_path):
    (tmp_path / "there.json").write_text("mine")
    (tmp_path / "folder.json").mkdir()
    check_output(tmp_path / "new" / "r.json", overwrite=False)
    check_output(tmp_path / "there.json", overwrite=True)
    with pytest.raises(OutputExistsError, match=r"there\.json: exists already"):
        check_output(tmp_path / "there.json", overwrite=False)
    for name in ("folder.json", "r.csv"):
        with pytest.raises(ConfigError, match=name):
            check_output(tmp_path / name, overwrite=True)
