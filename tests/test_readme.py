"""Every command and every line of Python in the README runs, in its order, on a small region made here."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import tiles
from geoview.cli import main
from geoview.evaluate import calibration
from geoview.geo.sphere import destination_deg

ROOT = Path(__file__).parents[1]
# Where the README's own coordinates lie.
PLACE_DEG = (33.98, -117.35)
# What makes a training run short enough for a test.
TINY = ["--optimiser.steps", "2", "--optimiser.batch_size", "2", "--num_workers", "0", "--device", "cpu"]
TINY += [
    "--encoder.backbone",
    "convnext_atto",
    "--encoder.backbone_args",
    '{"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}',
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, kit, twins):
    """The files that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    for year, seed in ((2016, 0), (2018, 0)):
        (folder / f"ortho_{year}").mkdir()
        kit.write_ortho(folder / f"ortho_{year}" / "a.tif", kit.texture(seed=seed), centre_deg=PLACE_DEG, tiled=True)
    houses = np.kron(np.random.default_rng(1).random((20, 20)) < 0.2, np.ones((50, 50)))
    kit.write_ortho(folder / "heights.tif", (6 * houses[None]).astype(np.float32), centre_deg=PLACE_DEG)
    kit.write_ortho(folder / "query.tif", kit.texture()[:, 372:628, 372:628], centre_deg=PLACE_DEG)
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photos" / "a.jpg")
    Image.fromarray(pixels).resize((160, 120)).save(folder / "photos" / "b.png")
    (folder / "street").mkdir()
    places = [destination_deg(np.array(PLACE_DEG), bearing, 250.0).tolist() for bearing in (0.0, 90.0, 180.0, 270.0)]
    with (folder / "places.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("lat", "lon"), *places])
    for i in range(len(places)):
        Image.fromarray(pixels).save(folder / "street" / f"{i}.jpg")
    for table, prefix in (("pairs.csv", "street/"), ("street/photos.csv", "")):
        with (folder / table).open("w", newline="") as file:
            rows = ((f"{prefix}{i}.jpg", *place) for i, place in enumerate(places))
            csv.writer(file).writerows([("path", "lat", "lon"), *rows])
    known = "".join(f"{33.98 + 2e-5 * i:.5f},-117.35\n" for i in range(30))
    (folder / "known.csv").write_text("lat,lon\n" + known)
    (folder / "photos.csv").write_text("path,lat,lon\nphotos/a.jpg,33.98,-117.35\nphotos/b.png,33.981,-117.351\n")
    west, south, east, north = (PLACE_DEG[1] - 0.003, PLACE_DEG[0] - 0.003, PLACE_DEG[1] + 0.003, PLACE_DEG[0] + 0.003)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    (folder / "region.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    twins.write_vigor(folder / "VIGOR")
    for name in ("configs", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def in_small(words):
    """A job with a network and a run short enough for a test; the weights it starts from are not at hand."""
    tiny = {TINY[i].removeprefix("--"): yaml.safe_load(TINY[i + 1]) for i in range(0, len(TINY), 2)}
    train = {}
    for name in ("optimiser.steps", "optimiser.batch_size", "encoder.backbone", "encoder.backbone_args"):
        part, key = name.split(".")
        train.setdefault(part, {})[key] = tiny[name]
    train["encoder"]["aerial"] = {"size_px": 32}
    Path("job.yaml").write_text(yaml.safe_dump({"extends": words[1], "train": train}))
    words[words.index("--pretrained") + 1] = "random"
    return ["benchmark", "job.yaml", *words[2:], "--device", "cpu"]


def served(words):
    """Runs the service, asks it what the README asks, and ends it as an operator does."""
    asked = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("curl ")]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = []

    def ask():
        until_up = ["--retry", "60", "--retry-delay", "1", "--retry-connrefused"]
        try:
            for line in asked:
                words = [*shlex.split(line.replace(":8000", f":{port}")), "--silent", "--fail", *until_up]
                found.append(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=ask)
    thread.start()
    code = main([*words, "--port", str(port), "--device", "cpu"])
    thread.join()
    located, _ = found
    assert [answer["status"] for answer in json.loads(located)["answers"]] == ["ok", "ok"]
    assert Path("why.jpg").read_bytes().startswith(b"\xff\xd8"), "a JPEG"
    return code


def test_all_commands_and_the_python_run(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    # One small world to calibrate on, and an encoder that has learnt nothing.
    small = {"_WORLDS": (("rural", 700_003),), "_WORLD_M": 360.0, "_N_PHOTOS": 8, "_LEAST_FOUND": 1}
    for name, value in small.items():
        monkeypatch.setattr(calibration, name, value)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("geoview ")]
    verbs = {shlex.split(c)[1] for c in commands}
    assert verbs == {"train", "index", "locate", "evaluate", "benchmark", "info", "render", "serve"}
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "benchmark":
            words = in_small(words)
        run = served if words[0] == "serve" else main
        code = run(words + TINY if words[0] == "train" else words)
        captured = capsys.readouterr()
        assert code == 0, f"{command}\n{captured.err}"
        if "--out" in words:
            assert Path(words[words.index("--out") + 1]).exists(), command
    features = json.loads(Path("answers.geojson").read_text())["features"]
    assert {f["properties"]["query"] for f in features} == {"photos/a.jpg", "photos/b.png"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "photos/a.jpg" in capsys.readouterr().out


def test_every_shipped_config_is_valid_and_every_path_in_the_readme_is_there(tmp_path):
    for config in (ROOT / "configs" / "train").glob("*.yaml"):
        words = [
            "train",
            "--config",
            str(config),
            "--out",
            str(tmp_path / "run"),
            "--data.pairs",
            str(tmp_path / "none.csv"),
        ]
        assert main(words) == 2, "the pairs are missing, and nothing else is wrong"
    for link in re.findall(r"\]\(([^)h][^)]*)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / link).exists(), link


def test_the_tables_of_the_benchmarks_tell_what_their_results_tell(tmp_path):
    command = [sys.executable, "benchmarks/tables.py", "--check"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "all agree\n"), told.stderr
    for folder in ("benchmarks", "geoview/encoders"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    page = tmp_path / "benchmarks" / "RESULTS.md"
    page.write_text(re.sub(r"(\d) \|$", r"\g<1>9 |", page.read_text(), flags=re.M))
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (1, "RESULTS.md: differs\n"), told.stderr


def test_the_imported_tiles_is_ours():
    # A package of this name exists elsewhere; a collision would otherwise be a confusing error.
    assert hasattr(tiles, "open_source")
    assert Path(tiles.__file__).with_name("warp.py").exists()
