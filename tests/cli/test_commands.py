"""The command line as a user meets it: exit codes, one-line errors, nothing heavy before it is needed."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import torch
import yaml
from PIL import Image

from geoview.cli import main
from geoview.cli.arguments import make_parser
from geoview.index.cell_index import CellIndex
from geoview.locate.candidates import FIELDS

STEPS = ("build", "add", "remove", "merge", "calibrate", "tune", "info", "verify", "vacuum")
HEAVY = ("torch", "timm", "rasterio", "faiss", "zarr", "lightning", "tiles", "fastapi", "uvicorn")


@pytest.mark.parametrize(
    "words",
    [
        *([*verb, "--help"] for verb in ([], ["train"], ["index"], ["locate"], ["evaluate"], ["info"], ["serve"])),
        *(["index", step, "--help"] for step in STEPS),
        ["--version"],
    ],
)
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys\nfrom geoview.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "geoview" in done.stdout or "usage" in done.stdout


def test_help_tells_all_that_is_said_of_a_list(capsys):
    with pytest.raises(SystemExit):
        main(["index", "build", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "tables with `lat` and `lon`, photos that tell their position, or folders of such. A tenth" in said
    assert "and joins after that. (type" in said


def test_python_m_geoview():
    done = subprocess.run([sys.executable, "-m", "geoview", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("geoview ")


def ended(main: str) -> subprocess.CompletedProcess[str]:
    """Runs a process in which something else is in the place of `main`."""
    code = f"import atexit\nfrom geoview import cli\ndef main():\n    {main}\ncli.main = main\ncli.run()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_process_ends_in_order_but_takes_nothing_apart():
    done = ended(
        "class Kept:\n        def __del__(self): print('taken apart')\n"
        "    cli.kept = Kept()\n    atexit.register(print, 'others have ended')\n    print('told')\n    return 3"
    )
    assert (done.returncode, done.stdout.split("\n"), done.stderr) == (3, ["told", "others have ended", ""], "")


def test_what_nobody_has_foreseen_is_told_as_python_tells_it():
    done = ended("return 1 // 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "geoview", "info"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("geoview: info: disk full (No space left on device)")
    assert done.stderr.count("\n") == 1


def refused(capsys, *words: str) -> str:
    """Runs a command that must fail with 2 and one line on stderr; returns the line."""
    try:
        code = main(list(words))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    lines = [line for line in captured.err.splitlines() if not line.startswith("geoview: warning:")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


def answered(capsys, *words: str) -> tuple[int, list[dict[str, str]], str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, list(csv.DictReader(io.StringIO(captured.out))), captured.err


def test_a_misspelt_flag_or_key_is_named(capsys, tmp_path):
    assert "--top_kk" in refused(capsys, "locate", "a.jpg", "--index", "i", "--top_kk", "3")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"out": "x", "data": {"pairs": "p.csv"}, "augment": {"colr": 1}}))
    assert "colr" in refused(capsys, "train", "--config", str(config))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["locate", "a.jpg", "--index", "{tmp}/none"], "not an index"),
        (["locate", "a.jpg", "--index", "{index}", "--top_k", "0"], "top_k"),
        (["locate", "a.jpg", "--index", "{index}", "--near", "1,2"], "radius_m"),
        (["locate", "a.jpg", "--index", "{index}", "--near=south", "--radius_m", "9"], "south"),
        (["locate", "a.jpg", "--index", "{index}", "--near=-95,-70.6", "--radius_m", "9"], "-95"),
        (["locate", "a.jpg", "--index", "{index}", "--near=-33.9,-70.6", "--radius_m", "900"], "no cell"),
        (["locate", "a.jpg", "--index", "{index}", "--out", "{tmp}/a.docx"], ".docx"),
        (["locate", "a.jpg", "--index", "{index}", "--out", "{tmp}/no/a.csv"], "no folder"),
        (["locate", "a.jpg", "--index", "{index}", "--heatmap", "{tmp}/a.tif"], "not calibrated"),
        (["locate", "a.jpg", "--index", "{index}", "--region", "{tmp}/none.geojson"], "none.geojson"),
        (["locate", "a.jpg", "--index", "{index}", "--fov_deg", "400"], "fov_deg"),
        (["locate", "a.jpg", "--index", "{index}", "--device", "cuda:99"], "cuda:99"),
        (["index", "info", "{tmp}"], "not an index"),
        (["index", "build", "--encoder", "{tmp}/none", "--imagery", "{ortho}", "--out", "{tmp}/o"], "no such encoder"),
        (["index", "build", "--encoder", "{encoder}", "--imagery", "{tmp}/none.tif", "--out", "{tmp}/o"], "none.tif"),
        (["index", "build", "--encoder", "{encoder}", "--imagery", "{ortho}", "--out", "{index}"], "already"),
        (
            ["index", "build", "--encoder", "e", "--imagery", "i", "--out", "o", "--scales", "1", "3"],
            "scales must be 1",
        ),
        (["train", "--out", "{tmp}/run", "--data.pairs", "{tmp}/none.csv"], "none.csv"),
        (["info", "{tmp}/none"], "no such file"),
    ],
)
def test_bad_usage_is_one_line_that_names_the_culprit(
    capsys, tmp_path, monkeypatch, words, named, index_folder, encoder_folder, ortho
):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    places = {"tmp": tmp_path, "index": index_folder, "encoder": encoder_folder, "ortho": ortho}
    assert named in refused(capsys, *(word.format(**places) for word in words))


def polygon(*rings: list[list[float]]) -> str:
    return json.dumps({"type": "Polygon", "coordinates": rings})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (polygon([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]), "elf-intersection"),
        (json.dumps({"type": "FeatureCollection", "features": []}), "empty"),
        (
            polygon([[-70.7, -33.9], [-70.6, -33.9], [-70.6, -33.8], [-70.7, -33.8], [-70.7, -33.9]]),
            "no ground in common",
        ),
        ("{", "JSON"),
    ],
)
def test_regions_that_cannot_be_built(capsys, tmp_path, content, named, encoder_folder, ortho):
    region = tmp_path / "region.geojson"
    region.write_text(content)
    out = tmp_path / "index"
    build = ["index", "build", "--encoder", str(encoder_folder), "--imagery", str(ortho), "--out", str(out)]
    line = refused(capsys, *build, "--region", str(region))
    assert named in line and "region.geojson" in line
    assert not (out / "manifest.json").exists()


def test_an_encoder_folder_with_a_pickle_is_refused(capsys, tmp_path, encoder_folder, ortho):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in Path(encoder_folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    torch.save({"a": 1}, folder / "weights.pth")
    line = refused(capsys, "index", "build", "--encoder", str(folder), "--imagery", str(ortho), "--out", "x")
    assert "weights.pth" in line


def test_an_index_of_a_newer_format_is_refused(capsys, tmp_path, index_folder):
    manifest = json.loads((Path(index_folder) / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    assert "format 99 is newer" in refused(capsys, "index", "info", str(tmp_path))


def test_existing_output_stays_without_overwrite(capsys, tmp_path, index_folder):
    photo, out = tmp_path / "a.jpg", tmp_path / "a.csv"
    Image.new("RGB", (64, 64)).save(photo)
    out.write_text("mine")
    words = ["locate", str(photo), "--index", str(index_folder), "--out", str(out)]
    assert "exists already" in refused(capsys, *words)
    assert out.read_text() == "mine"
    assert main([*words, "--overwrite"]) == 0
    assert out.read_text().startswith("query,status,rank")


@pytest.fixture
def calibrated(index_folder, tmp_path):
    """An index with a temperature of its own, sharp enough for a peak."""
    shutil.copytree(index_folder, tmp_path / "calibrated")
    general = {"temperature": 0.01, "sharpness": 0.01, "radius_m": [0.0, 1.0]}
    general |= {"least_evidence": None, "least_turning": None}
    with CellIndex.open(tmp_path / "calibrated") as index:
        index.set_calibration(
            {"on": "rendered", "general": general, "kinds": {}, "kappa": 0.0, "offset": 0.0, "rerank": 0}
        )
    return str(tmp_path / "calibrated")


@pytest.fixture
def photos(tmp_path):
    for name, colour in (("a.jpg", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    return [str(tmp_path / name) for name in ("a.jpg", "none.jpg", "b.jpg")]


def test_json_is_one_object_a_photo_and_all_there_is_on_stdout(capsys, tmp_path, photos, index_folder):
    words = ["locate", *photos, "--index", str(index_folder), "--top_k", "2", "--json"]
    assert main(words) == 1, "one photo is not there"
    alone = capsys.readouterr().out
    told = [json.loads(line) for line in alone.splitlines()]
    assert [photo["query"] for photo in told] == photos
    assert [photo["status"] for photo in told] == ["ok", "failed", "ok"]
    assert [[place["rank"] for place in photo["candidates"]] for photo in told] == [[1, 2], [], [1, 2]]
    assert main([*words, "--out", str(tmp_path / "a.gpkg")]) == 1
    assert capsys.readouterr().out == alone
    assert pyogrio.read_info(tmp_path / "a.gpkg")["features"] == 5


@pytest.mark.parametrize("several", [[], ["--together"], ["--sequence", "--step_s", "5"]])
def test_heat_maps_are_drawn_beside_the_answers(capsys, tmp_path, photos, calibrated, several):
    words = [
        "locate",
        *photos,
        "--index",
        calibrated,
        "--top_k",
        "1",
        "--heatmap",
        str(tmp_path / "heat.tif"),
        *several,
    ]
    code, rows, _ = answered(capsys, *words)
    assert code == 1
    assert [row["status"] == "failed" for row in rows] == [False, True, False]
    for row, name in ((rows[0], "heat_1_a.tif"), (rows[2], "heat_3_b.tif")):
        with rasterio.open(tmp_path / name) as dataset:
            ((value,),) = dataset.sample([(float(row["lon"]), float(row["lat"]))])
            assert value > np.nanmedian(dataset.read())
            assert row["calibration"] == "rendered"
    assert not (tmp_path / "heat_2_none.tif").exists()
    assert "exists already" in refused(capsys, *words)
    assert main([*words, "--overwrite"]) == 1


def test_a_heat_map_shows_the_ground_around_the_photos_own_position(tmp_path, calibrated, kit):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    lat, lon = kit.CENTRE_DEG.tolist()
    (tmp_path / "a.csv").write_text(f"path,lat,lon\na.jpg,{lat},{lon}\n")
    words = ["locate", str(tmp_path / "a.csv"), "--index", calibrated, "--near", "exif", "--radius_m", "150"]
    assert main([*words, "--heatmap", str(tmp_path / "heat.png")]) == 0
    with rasterio.open(tmp_path / "heat.png") as dataset:
        west, south, east, north = dataset.bounds
        assert west < lon < east and south < lat < north
        assert north - south < 0.01, "the whole index is wider"


def test_a_batch_goes_on_past_bad_photos_and_reports_each(capsys, tmp_path, index_folder):
    rng = np.random.default_rng(0)
    good = Image.fromarray(rng.integers(0, 255, (200, 300, 3), dtype=np.uint8))
    good.save(tmp_path / "good.jpg")
    good.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65535, (64, 64), dtype=np.uint16)).save(tmp_path / "deep.png")
    good.save(tmp_path / "good.webp")
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:2000])
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    names = ["good.jpg", "text.jpg", "cut.jpg", "none.jpg", "dot.png", "cmyk.jpg", "deep.png", "good.webp"]
    words = ["locate", *(str(tmp_path / n) for n in names), "--index", str(index_folder), "--top_k", "2"]
    code, rows, talk = answered(capsys, *words)
    assert code == 1
    assert tuple(rows[0]) == FIELDS
    status = {Path(row["query"]).name: row["status"] for row in rows}
    bad = {"text.jpg", "cut.jpg", "none.jpg", "dot.png"}
    assert {name for name, s in status.items() if s == "failed"} == bad
    assert {name for name, s in status.items() if s == "ok"} == set(names) - bad
    assert [row["rank"] for row in rows if row["query"].endswith("good.jpg")] == ["1", "2"]
    for row in rows:
        if row["status"] == "failed":
            assert Path(row["query"]).name in row["error"] and "\n" not in row["error"]
            assert row["rank"] == "" and row["error"] in talk


def test_near_restricts_and_takes_a_sign(capsys, tmp_path, index_folder):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    words = ["locate", str(tmp_path / "a.jpg"), "--index", str(index_folder), "--top_k", "1"]
    _, everywhere, _ = answered(capsys, *words)
    lat, lon = float(everywhere[0]["lat"]), float(everywhere[0]["lon"])
    code, rows, _ = answered(capsys, *words, f"--near={lat},{lon}", "--radius_m", "30")
    assert code == 0
    assert rows[0]["cell"] == everywhere[0]["cell"]


def test_near_exif_fails_a_photo_without_position_only(capsys, tmp_path, index_folder):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    words = ["locate", str(tmp_path / "a.jpg"), "--index", str(index_folder), "--near", "exif", "--radius_m", "500"]
    code, rows, _ = answered(capsys, *words)
    assert code == 1
    assert "position" in rows[0]["error"]


def test_info_tells_what_a_path_is(capsys, tmp_path, index_folder, encoder_folder, ortho):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    for path, kind in (
        (index_folder, "index"),
        (encoder_folder, "encoder"),
        (tmp_path / "a.jpg", "photo"),
        (ortho, "imagery"),
    ):
        assert main(["info", str(path)]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == kind


def test_verify_tells_sound_from_damaged(capsys, tmp_path, index_folder):
    assert main(["index", "verify", str(index_folder)]) == 0
    assert "sound" in capsys.readouterr().out


def test_an_index_is_tuned_searched_damaged_and_repaired(capsys, tmp_path, index_folder, monkeypatch):
    from geoview.index import cell_index, tuning

    for module in (cell_index, tuning):
        monkeypatch.setattr(module, "ALWAYS_EXACT", 1)
    monkeypatch.setattr(tuning, "_exact", lambda index, queries: cell_index.Point(0, 1, 1.0, 1e6))
    folder = tmp_path / "index"
    shutil.copytree(index_folder, folder)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)).save(tmp_path / "a.png")
    assert main(["index", "tune", str(folder), "--recall", "0.999", "--photos", str(tmp_path / "a.png")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["chosen"]["n_probe"] > 0
    assert said["chosen"] in said["measured"]
    assert main(["index", "info", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ann"]["chosen"] == said["chosen"]
    assert told["ann"]["rows"] == told["codes"]
    words = ["locate", str(tmp_path / "a.png"), "--index", str(folder)]
    assert answered(capsys, *words)[1] == answered(capsys, *words, "--exact")[1]
    (lists,) = folder.glob("ann/*/lists/*/lists.bin")
    lists.write_bytes(lists.read_bytes()[:-50])
    assert main(["index", "verify", str(folder)]) == 1
    assert "lists.bin" in capsys.readouterr().out
    assert main(["index", "verify", str(folder), "--repair"]) == 0
    told = capsys.readouterr()
    assert "lists.bin" in told.err
    assert "sound" in told.out
    assert answered(capsys, *words)[0] == 0


def test_a_wish_that_makes_no_sense_is_refused(capsys, index_folder):
    assert main(["index", "tune", str(index_folder), "--recall", "95"]) == 2
    assert "recall must be in (0, 1]" in capsys.readouterr().err


def test_a_list_may_be_given_in_parts_and_takes_the_place_of_a_files(tmp_path):
    file = tmp_path / "add.yaml"
    file.write_text("photos: [of_the_file.csv]\nimagery: [ortho.tif]\n")
    parts = ["--photos", "a.csv", "b.csv", "--photos", "c.csv"]
    for before in ([], ["--config", str(file)]):
        said = make_parser().parse_args(["index", "add", "index", *before, *parts]).index.add
        assert said.photos == ["a.csv", "b.csv", "c.csv"]
    assert said.imagery == ["ortho.tif"]
