"""An index scored on photos: the figures are those of the answers, and the answers know no position."""

import json

import numpy as np
import pytest
from PIL import Image

from geoview.cli import main
from geoview.config import EvaluateConfig
from geoview.data.queries import PhotoQuery, find_queries
from geoview.errors import ConfigError
from geoview.evaluate import score_places
from geoview.evaluate.photos import evaluate_photos
from geoview.geo import cells
from geoview.index.cell_index import CellIndex
from geoview.locate.localizer import Localizer


@pytest.fixture
def photos(tmp_path, kit):
    """Writes photos and their table; returns the table's path and the positions."""

    def write(n=6, move_deg=0.0, extra=()):
        rng = np.random.default_rng(0)
        at_deg = np.array(kit.CENTRE_DEG) + rng.uniform(-0.003, 0.003, (n, 2)) + move_deg
        lines = []
        for i, (lat, lon) in enumerate(at_deg.tolist()):
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
            lines.append(f"{i}.png,{lat!r},{lon!r},60")
        table = tmp_path / "photos.csv"
        table.write_text("\n".join(["path,lat,lon,fov_deg", *lines, *extra]) + "\n")
        return table, at_deg

    return write


def run(capsys, index, table, out, *words):
    code = main(
        ["evaluate", "--index", str(index), "--photos", str(table), "--out", str(out), "--device", "cpu", *words]
    )
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_figures_are_those_of_the_answers(capsys, tmp_path, photos, index_folder):
    table, at_deg = photos()
    out = tmp_path / "results.json"
    code, told, talk = run(capsys, index_folder, table, out)
    assert code == 0, talk
    results = json.loads(out.read_text())
    index = CellIndex.open(index_folder)
    told_fov = [PhotoQuery(str(tmp_path / f"{i}.png"), fov_deg=60.0) for i in range(6)]
    answers = list(Localizer(index).locate(told_fov, top_k=10, apart_m=100.0))
    wanted = score_places(answers, at_deg, cells.centers_deg(index.cell_ids()))
    figures = results["views"]["photos"]
    assert {name: figures[name] for name in wanted} == pytest.approx(wanted)
    assert results["level"] == index.level
    assert results["encoder"]["fingerprint"] == index.manifest.encoder["fingerprint"]
    header, _, row = (line.strip("| ").split(" | ") for line in told.splitlines())
    assert row[0] == "photos"
    assert row[header.index("R@10 in 100 m")] == f"{100 * wanted['recall_at_10_within_100_m']:.2f}"
    assert "exists already" in run(capsys, index_folder, table, out)[2]
    assert run(capsys, index_folder, table, out, "--overwrite")[0] == 0


def test_the_position_in_the_table_is_no_hint(photos, index_folder):
    index = CellIndex.open(index_folder)
    recalls = []
    for move_deg in (0.0, 40.0):
        table, _ = photos(move_deg=move_deg)
        config = EvaluateConfig(out="r.json", index=str(index_folder), photos=[str(table)], device="cpu")
        figures = evaluate_photos(index, config)["views"]["photos"]
        recalls.append(figures["recall_at_10_within_200_m"])
        assert figures["ceiling_recall_within_50_m"] <= 1 - (move_deg > 0)
    assert recalls[0] > 0
    assert recalls[1] == 0


def test_dates_of_a_cell_count_as_was_asked(photos, dated):
    table, at_deg = photos(n=20)
    index, queries = CellIndex.open(dated / "index"), find_queries([table])
    centres_deg = cells.centers_deg(np.unique(index.cell_ids()))
    told = []
    for way in ("max", "mean", "latest"):
        config = EvaluateConfig(out="r.json", index=str(dated / "index"), photos=[str(table)], dates=way, device="cpu")
        results = evaluate_photos(index, config)
        answers = list(Localizer(index, config).locate(queries, top_k=10, dates=way, apart_m=100.0))
        wanted = score_places(answers, at_deg, centres_deg)
        assert {name: results["views"]["photos"][name] for name in wanted} == pytest.approx(wanted)
        assert results["dates"] == way
        told.append(wanted)
    assert told[0] != told[2]


def test_bad_photos_are_misses_and_photos_without_position_are_left_out(capsys, tmp_path, photos, index_folder):
    table, at_deg = photos()
    alone = run(capsys, index_folder, table, tmp_path / "alone.json")
    assert alone[0] == 0
    Image.new("RGB", (64, 64), (9, 99, 9)).save(tmp_path / "lost.png")
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "worse.jpg").write_text("no picture, and nobody knows where")
    photos(extra=["lost.png,,,60", "worse.jpg,,,", f"bad.jpg,{at_deg[0, 0]},{at_deg[0, 1]},60"])
    code, _, talk = run(capsys, index_folder, table, tmp_path / "r.json")
    assert code == 1
    assert talk.count("lost.png") == talk.count("bad.jpg") == 1
    results, before = (json.loads((tmp_path / name).read_text()) for name in ("r.json", "alone.json"))
    assert results["unreadable"] == [str(tmp_path / name) for name in ("worse.jpg", "bad.jpg")]
    assert (results["n_unreadable"], results["n_without_position"]) == (2, 1)
    figures, before = results["views"]["photos"], before["views"]["photos"]
    assert figures["n_photos"] == 8
    assert figures["recall_at_10_within_200_m"] == pytest.approx(before["recall_at_10_within_200_m"] * 6 / 8)


def test_photos_without_any_position_are_refused(tmp_path, index_folder):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    config = EvaluateConfig(out="r.json", index=str(index_folder), photos=[str(tmp_path / "a.png")], device="cpu")
    with pytest.raises(ConfigError, match=r"a\.png: no photo has a position"):
        evaluate_photos(CellIndex.open(index_folder), config)
