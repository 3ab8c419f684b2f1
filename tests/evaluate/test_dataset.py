"""Data sets in small, scored by encoders of which it is known how good they are."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from geoview.cli import main
from geoview.config import PlanView
from geoview.data.pairs import PairTable
from geoview.errors import ConfigError, EncoderError, PairTableError
from geoview.evaluate.dataset import evaluate_dataset
from geoview.evaluate.protocols import PROTOCOLS, open_table
from geoview.geo.sphere import destination_deg, distance_m

# Data set, split and labels, with what is in it.
SETS = [
    ("cvusa", "test", {"n_queries": 5, "n_references": 5}),
    ("cvact", "val", {"n_queries": 3, "n_references": 3}),
    ("cvact", "test", {"n_queries": 6, "n_references": 6}),
    ("vigor", "same_test", {"n_queries": 12, "n_references": 64}),
    ("vigor", "cross_test", {"n_queries": 12, "n_references": 32}),
    ("university1652", "drone_to_satellite", {"n_queries": 12, "n_references": 6}),
    ("university1652", "satellite_to_drone", {"n_queries": 4, "n_references": 18}),
]


@pytest.fixture
def written(twins, tmp_path):
    def write(dataset):
        root = tmp_path / "data"
        if dataset == "cvusa":
            twins.write_cvusa(root, 2, 5)
        elif dataset == "cvact":
            twins.write_cvact(root, 2, 3, 6)
        elif dataset == "vigor":
            twins.write_vigor(root)
        else:
            twins.write_university1652(root, 2, 4, 2)
        return root

    return write


def run(capsys, *words):
    code = main(["evaluate", *map(str, words), "--device", "cpu", "--batch_size", "8"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def shares(figures):
    return {name: value for name, value in figures.items() if isinstance(value, float) and name != "median_error_m"}


@pytest.mark.parametrize(("dataset", "split", "counts"), SETS)
def test_an_encoder_that_is_always_right_scores_all(written, stand_ins, settings, dataset, split, counts):
    written(dataset)
    config = settings(dataset, split=split)
    results = evaluate_dataset(stand_ins["colours"](), open_table(config), config)
    assert {name: results[name] for name in counts} == counts
    assert results["split"] == split
    figures = results["views"]["360"]
    assert set(shares(figures).values()) == {1.0} or dataset == "vigor"
    assert figures["recall_at_1"] == figures["recall_at_1_percent"] == 1.0
    assert ("hit_rate" in figures) == (dataset == "vigor")
    assert ("average_precision" in figures) == (dataset == "university1652")
    assert ("recall_at_1_within_5_m" in figures) == (dataset == "cvact")
    assert ("median_error_m" in figures) == (dataset != "university1652")
    assert figures["intervals"]["recall_at_1"] in ([1.0, 1.0], [None, None]), "None: all within one block"
    assert results["protocol"].startswith(PROTOCOLS[dataset].text)
    assert results["encoder"] == {"name": "e", "fingerprint": "colours", "metrics": {"loss": None}}
    json.dumps(results, allow_nan=False)


@pytest.mark.parametrize(("dataset", "split", "counts"), SETS)
def test_an_encoder_that_has_collapsed_scores_chance_or_worse(written, stand_ins, settings, dataset, split, counts):
    written(dataset)
    config = settings(dataset, split=split)
    results = evaluate_dataset(stand_ins["constant"](), open_table(config), config)
    figures = results["views"]["360"]
    assert figures["recall_at_1"] == figures["recall_at_1_percent"] == 0
    assert figures.get("hit_rate", 0) == 0
    # Places chosen without looking: no more than one of so many distinct places.
    assert figures.get("recall_at_1_within_5_m", 0) <= 1 / counts["n_queries"]
    # What true pictures behind all false ones would have: for the twins, at most this.
    if "average_precision" in figures:
        assert figures["average_precision"] < 0.25


@pytest.mark.parametrize(("dataset", "split", "counts"), SETS)
def test_the_command_from_end_to_end(written, capsys, tmp_path, encoder_folder, dataset, split, counts):
    root = written(dataset)
    out = tmp_path / "scores" / "results.json"
    words = ["--dataset", dataset, "--root", root, "--encoder", encoder_folder, "--split", split, "--out", out]
    code, told, talk = run(capsys, *words)
    assert code == 0, talk
    results = json.loads(out.read_text())
    assert {name: results[name] for name in counts} == counts
    header, rule, row = (line.strip("| ").split(" | ") for line in told.splitlines())
    assert len(header) == len(rule) == len(row)
    assert row[0] == "360°"
    for column, name in (("R@1", "recall_at_1"), ("R@10", "recall_at_10"), ("R@1 %", "recall_at_1_percent")):
        assert row[header.index(column)] == f"{100 * results['views']['360'][name]:.2f}"
    assert "exists already" in run(capsys, *words)[2]
    before = {path: path.stat().st_mtime_ns for path in (out.parent / "embeddings").rglob("*.npy")}
    assert len(before) == 2
    code, again, _ = run(capsys, *words, "--overwrite")
    assert (code, again) == (0, told)
    assert before == {path: path.stat().st_mtime_ns for path in (out.parent / "embeddings").rglob("*.npy")}


def test_the_split_that_papers_report_first_needs_no_name(written, stand_ins, settings):
    written("vigor")
    assert open_table(settings("vigor")).name == "VIGOR same_test"


def test_a_second_scoring_embeds_nothing_and_says_the_same(written, stand_ins, settings):
    written("vigor")
    config = settings("vigor", fov_deg=[360.0, 90.0])
    table = open_table(config)
    encoder = stand_ins["colours"]()
    first = evaluate_dataset(encoder, table, config)
    assert encoder.shown == 64 + 2 * 12, "each reference once, each query once for each field of view"
    assert evaluate_dataset(stand_ins["untouchable"](), table, config) == first
    more = stand_ins["colours"]()
    evaluate_dataset(more, table, replace(config, fov_deg=[70.0, 360.0]))
    assert more.shown == 12, "only the new field of view"
    for other in ({"turned": True}, {"precision": "fp16"}):
        with pytest.raises(AssertionError, match="anew"):
            evaluate_dataset(stand_ins["untouchable"](), table, replace(config, **other))


def test_a_picture_that_has_changed_is_embedded_anew(written, stand_ins, settings):
    written("cvusa")
    config = settings("cvusa")
    table = open_table(config)
    evaluate_dataset(stand_ins["colours"](), table, config)
    Image.new("RGB", (88, 16), (9, 9, 9)).save(table.query_path[2])
    changed = stand_ins["colours"]()
    results = evaluate_dataset(changed, table, config)
    assert changed.shown == 5
    assert results["views"]["360"]["recall_at_1"] == 0.8


# -- rules -------------------------------------------------------------------------------------------------------------


def test_hit_rate_leaves_semi_positives_out_of_the_competition(written, stand_ins, settings):
    written("vigor")
    config = settings("vigor")
    table = open_table(config)
    # One query's semi-positive tile looks like its positive, another's tile of elsewhere does.
    elsewhere = next(i for i in range(64) if i != table.positive[5] and i not in table.semi_positive[5])
    for query, rival in ((0, int(table.semi_positive[0, 1])), (5, elsewhere)):
        with Image.open(table.reference_path[table.positive[query]]) as tile:
            tile.save(table.reference_path[rival])
    figures = evaluate_dataset(stand_ins["colours"](), table, config)["views"]["360"]
    beaten = {i for i in range(12) if table.positive[i] in (table.positive[0], table.positive[5])}
    spoilt = {i for i in range(12) if table.positive[i] in (table.semi_positive[0, 1], elsewhere)}
    assert figures["recall_at_1"] == pytest.approx(1 - len(beaten | spoilt) / 12)
    assert figures["hit_rate"] > figures["recall_at_1"]
    assert figures["hit_rate"] < 1


def test_figures_of_cities_are_those_of_their_queries_in_the_whole_gallery(written, stand_ins, settings):
    written("vigor")
    config = settings("vigor")
    table = open_table(config)
    chicago = [i for i in range(12) if table.city[i] == "Chicago"]
    with Image.open(table.reference_path[table.positive[chicago[0]]]) as tile:
        tile.save(table.reference_path[-1])  # of Seattle
    figures = evaluate_dataset(stand_ins["colours"](), table, config)["views"]["360"]
    cities = figures["cities"]
    assert list(cities) == ["Chicago", "NewYork", "SanFrancisco", "Seattle"]
    assert all(city["n_queries"] == 3 for city in cities.values())
    assert cities["Chicago"]["recall_at_1"] < 1
    assert cities["NewYork"]["recall_at_1"] == 1
    assert np.mean([city["recall_at_1"] for city in cities.values()]) == pytest.approx(figures["recall_at_1"])


def test_distractors_compete_unless_scored_as_published(written, stand_ins, settings):
    root = written("university1652")
    for split, share in (("drone_to_satellite", 0.75), ("satellite_to_drone", 0.75)):
        config = settings("university1652", split=split, as_published=True)
        # A building that nobody asks for looks like one of the four that are asked for.
        for side in ("satellite", "drone"):
            source, rival = (root / f"test/gallery_{side}/{i:04d}" for i in (3, 8))
            for one, other in zip(sorted(source.iterdir()), sorted(rival.iterdir()), strict=True):
                other.write_bytes(one.read_bytes())
        figures = evaluate_dataset(stand_ins["colours"](), open_table(config), config)["views"]["360"]
        removed = figures["distractors_removed"]
        assert figures["recall_at_1"] == pytest.approx(share)
        assert figures["average_precision"] < 1
        assert removed["recall_at_1"] == removed["average_precision"] == 1
        assert removed["n_references"] == {"drone_to_satellite": 4, "satellite_to_drone": 12}[split]
        assert "Sample4Geo" in removed["what"]
    config = settings("university1652", split="drone_to_satellite")
    plain = evaluate_dataset(stand_ins["colours"](), open_table(config), config)["views"]["360"]
    assert "distractors_removed" not in plain


def test_cvact_counts_what_is_within_5_m_beside_the_pair_itself(written, stand_ins, settings):
    written("cvact")
    config = settings("cvact", split="test")
    table = open_table(config)
    # Two panoramas taken 4 m apart, whose satellite pictures have been exchanged; and two 6 m apart.
    latlon_deg = table.latlon_deg.copy()
    for one, other, apart_m in ((0, 1, 4.0), (2, 3, 6.0)):
        latlon_deg[other] = destination_deg(latlon_deg[one], 45.0, apart_m)
        with Image.open(table.reference_path[one]) as a, Image.open(table.reference_path[other]) as b:
            a.load(), b.load()
            a.save(table.reference_path[other])
            b.save(table.reference_path[one])
    table = replace(table, latlon_deg=latlon_deg, reference_latlon_deg=latlon_deg)
    figures = evaluate_dataset(stand_ins["colours"](), table, config)["views"]["360"]
    assert figures["recall_at_1"] == pytest.approx(2 / 6)
    assert figures["recall_at_1_within_5_m"] == pytest.approx(4 / 6)
    assert figures["recall_at_1_within_25_m"] == 1
    assert figures["median_error_m"] == pytest.approx(4.0, abs=1e-3)


def test_metres_are_those_of_the_first_answers(written, settings, kit, tmp_path):
    written("vigor")
    config = settings("vigor")
    table = open_table(config)
    encoder = kit.make_encoder()
    figures = evaluate_dataset(encoder, table, config)["views"]["360"]
    folders = [path.parent for path in (tmp_path / "embeddings").rglob("000000.npy")]
    of_side = {json.loads((f / "about.json").read_text())["side"]: np.load(f / "000000.npy") for f in folders}
    first = (of_side["query"] @ of_side["reference"].T).argsort(axis=1)[:, ::-1][:, :10]
    error_m = distance_m(table.latlon_deg[:, None], table.reference_latlon_deg[first])
    assert figures["median_error_m"] == pytest.approx(np.median(error_m[:, 0]), rel=1e-6)
    for k in (1, 5, 10):
        for radius_m in (25, 50, 100, 200):
            share = (error_m[:, :k] <= radius_m).any(axis=1).mean()
            assert figures[f"recall_at_{k}_within_{radius_m}_m"] == pytest.approx(share)


def test_unknown_positions_have_no_metres(twins, stand_ins, settings, tmp_path):
    twins.write_cvusa(tmp_path / "data", 2, 5, locations=None)
    config = settings("cvusa")
    figures = evaluate_dataset(stand_ins["colours"](), open_table(config), config)["views"]["360"]
    assert not [name for name in figures if name.endswith("_m")]
    assert figures["intervals"]["recall_at_1"] == [1.0, 1.0]


def test_one_percent_of_a_small_gallery_is_its_first_answer(stand_ins, settings, tmp_path, twins):
    def table(n):
        for i in range(n):
            twins.picture(tmp_path / f"q{i}.png", i, (128, 32))
            twins.picture(tmp_path / f"r{i}.png", i if i else 1, (32, 32))
        names = [[str(tmp_path / f"{side}{i}.png") for i in range(n)] for side in "qr"]
        return PairTable.of(*names)

    config = settings("pairs")
    for n, k in ((40, 1), (230, 2)):
        results = evaluate_dataset(stand_ins["colours"](), table(n), config)
        assert results["r1_percent_k"] == k
        figures = results["views"]["360"]
        assert figures["recall_at_1"] <= 1 - 2 / n, "the first looks like the second, which therefore ties"
        # The second query's picture ties with its rival for the first place: it is among the first two.
        assert (figures["recall_at_1_percent"] > figures["recall_at_1"]) == (k == 2)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_pictures_that_cannot_be_read_are_named_and_count_against_the_encoder(
    written, stand_ins, settings, spoilt, capsys, tmp_path, monkeypatch
):
    root = written("vigor")
    config = settings("vigor", split="cross_test")
    table = open_table(config)
    query, tile = table.query_path[4], table.reference_path[table.positive[9]]
    spoilt(query)
    spoilt(tile)
    results = evaluate_dataset(stand_ins["colours"](), table, config)
    misses = {4} | {i for i in range(12) if table.positive[i] == table.positive[9]}
    figures = results["views"]["360"]
    assert figures["recall_at_1"] == pytest.approx(1 - len(misses) / 12), "the others are found all the same"
    assert figures["recall_at_10"] == pytest.approx(1 - len(misses) / 12)
    assert results["unreadable"] == [tile, query]
    monkeypatch.setattr("geoview.models.encoder.CrossViewEncoder.load", lambda folder: stand_ins["untouchable"]())
    words = ["--dataset", "vigor", "--root", root, "--encoder", "e", "--split", "cross_test"]
    code, _, talk = run(capsys, *words, "--out", tmp_path / "again.json")
    assert code == 1
    lines = [line for line in talk.splitlines() if line.startswith("geoview: ")]
    assert [sum(name in line for line in lines) for name in (query, tile)] == [1, 1]
    assert json.loads((tmp_path / "again.json").read_text()) == results


def test_a_gallery_picture_that_cannot_be_read_is_the_last_of_several(written, stand_ins, settings, spoilt):
    written("university1652")
    config = settings("university1652", split="satellite_to_drone")
    table = open_table(config)
    mine = np.flatnonzero(table.reference_place == table.place[0])
    spoilt(table.reference_path[mine[0]])
    figures = evaluate_dataset(stand_ins["colours"](), table, config)["views"]["360"]
    # Two of three at ranks 1 and 2, the third behind all 18: (1 + 1 + (2/17 + 3/18) / 2) / 3.
    assert figures["average_precision"] == pytest.approx((3 + (2 + (2 / 17 + 3 / 18) / 2) / 3) / 4)
    assert figures["recall_at_1"] == 1


def test_what_is_not_finite_is_the_encoders_fault_and_told(written, stand_ins, settings):
    written("cvusa")
    config = settings("cvusa")
    broken = stand_ins["colours"]()
    broken.vectors = lambda pixels, valid: pixels.new_full((len(pixels), 12), np.nan)
    with pytest.raises(EncoderError, match="not finite"):
        evaluate_dataset(broken, open_table(config), config)


# -- fields of view ----------------------------------------------------------------------------------------------------


def test_fields_of_view_are_rows_of_their_own(written, capsys, tmp_path, encoder_folder):
    root = written("cvusa")
    out = tmp_path / "r.json"
    words = ["--dataset", "cvusa", "--root", root, "--encoder", encoder_folder, "--out", out]
    code, told, _ = run(capsys, *words, "--fov_deg", "360", "180", "90", "70", "--turned")
    assert code == 0
    assert [line.split("|")[1].strip() for line in told.splitlines()[2:]] == [
        f"{fov}°, turned" for fov in (360, 180, 90, 70)
    ]
    assert list(json.loads(out.read_text())["views"]) == ["360", "180", "90", "70"]


def test_a_window_looks_north_unless_the_queries_are_turned(stand_ins, settings, tmp_path):
    """Red ahead, green to the right, blue behind, grey to the left; the encoder tells how much it sees of each."""
    colours = [(0, 0, 255)] * 1 + [(90, 90, 90)] * 2 + [(255, 0, 0)] * 2 + [(0, 255, 0)] * 2 + [(0, 0, 255)] * 1
    pixels = np.repeat(np.array(colours, np.uint8)[None], 40, axis=0).repeat(16, axis=1)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    n = 40
    table = PairTable.of([str(tmp_path / "p.png")] * n, [str(tmp_path / "p.png")] * n, heading_deg=0.0)

    def watched(turned, fov_deg):
        encoder = stand_ins["colours"]()
        batches = []

        def vectors(pixels, valid):
            batches.append((pixels * valid, valid))
            return pixels.new_ones(len(pixels), 12)

        encoder.vectors = vectors
        config = settings("pairs", turned=turned, fov_deg=[fov_deg])
        evaluate_dataset(encoder, table, config)
        return [
            (view.sum(dim=(1, 2)) / valid.sum(), valid.any(dim=1).sum().item() / 64 * 360)
            for batch, valids in batches
            if batch.shape[2:] != (32, 32)
            for view, valid in zip(batch, valids, strict=True)
        ]

    for red, green, blue in (mean.tolist() for mean, _ in watched(False, 70.0)):
        assert red > 200
        assert green + blue < 60
    assert {width for _, width in watched(False, 90.0)} == {90.0}
    turned = watched(True, 70.0)
    assert len(turned) == n
    ahead = [mean.argmax().item() if mean.max() > 130 else 3 for mean, _ in turned]
    assert set(ahead) == {0, 1, 2, 3}, "angles are drawn for each query, all round"
    again = watched(True, 70.0)
    assert not again, "the same angles for the same seed, so nothing is embedded"


def test_plans_and_aerial_queries_have_no_windows(written, settings, kit):
    written("cvusa")
    encoder = kit.make_encoder(ground=PlanView(32, 4.8))
    config = settings("cvusa", turned=True)
    with pytest.raises(ConfigError, match=r"as plans .*--index"):
        evaluate_dataset(encoder, open_table(config), config)
    config = settings("cvusa", fov_deg=[360.0, 90.0])
    with pytest.raises(ConfigError, match="as plans"):
        evaluate_dataset(encoder, open_table(config), config)
    config = settings("cvusa")
    assert evaluate_dataset(encoder, open_table(config), config)["n_queries"] == 5


def test_drone_pictures_have_no_windows(written, settings, stand_ins):
    written("university1652")
    config = settings("university1652", turned=True)
    with pytest.raises(ConfigError, match="seen from above"):
        evaluate_dataset(stand_ins["colours"](), open_table(config), config)


def test_a_perspective_photo_has_no_windows(stand_ins, settings, tmp_path, twins):
    twins.picture(tmp_path / "q.png", 0, (64, 48))
    twins.picture(tmp_path / "r.png", 0, (32, 32))
    table = PairTable.of([str(tmp_path / "q.png")], [str(tmp_path / "r.png")])
    for values in ({"turned": True}, {"fov_deg": [90.0]}):
        with pytest.raises(ConfigError, match=r"q\.png: spans 65 degrees"):
            evaluate_dataset(stand_ins["colours"](), table, settings("pairs", **values))
    assert evaluate_dataset(stand_ins["colours"](), table, settings("pairs"))["views"]["360"]["recall_at_1"] == 1


# -- pairs of one's own ------------------------------------------------------------------------------------------------


def test_pairs_with_imagery_and_queries_from_above(capsys, tmp_path, kit, ortho, encoder_folder):
    lat, lon = kit.CENTRE_DEG
    table = tmp_path / "places.csv"
    places = [(lat + dlat, lon + dlon) for dlat in (-0.002, 0.002) for dlon in (-0.002, 0, 0.002)]
    table.write_text("lat,lon\n" + "".join(f"{a:.7f},{o:.7f}\n" for a, o in places))
    words = ["--dataset", "pairs", "--root", table, "--encoder", encoder_folder, "--query_view", "aerial"]
    words += ["--query_imagery", ortho, "--imagery", ortho, "--out", tmp_path / "r.json"]
    code, _, talk = run(capsys, *words)
    assert code == 0, talk
    figures = json.loads((tmp_path / "r.json").read_text())["views"]["360"]
    assert figures["recall_at_1"] == 1.0
    assert figures["median_error_m"] == 0


def test_several_true_references_count_as_one_place(stand_ins, settings, tmp_path, twins):
    for i in range(3):
        twins.picture(tmp_path / f"q{i}.png", i, (128, 32))
        twins.picture(tmp_path / f"r{i}.png", 2 - i, (32, 32))
    names = [[str(tmp_path / f"{side}{i}.png") for i in range(3)] for side in "qr"]
    # The first and the last reference are of one place, and look like each other's query.
    table = PairTable.of(*names, place=np.array([7, 8, 7]), reference_place=np.array([7, 8, 7]))
    figures = evaluate_dataset(stand_ins["colours"](), table, settings("pairs"))["views"]["360"]
    assert figures["recall_at_1"] == 1
    assert 0.5 < figures["average_precision"] <= 1


def test_what_cannot_be_scored_is_refused(stand_ins, settings, tmp_path, twins):
    with pytest.raises(PairTableError, match="holds no pair"):
        evaluate_dataset(stand_ins["colours"](), PairTable.of([], ["r.png"], np.empty(0, int)), settings("pairs"))
    here = np.array([[1.0, 2.0]])
    no_photo = PairTable.of([""], ["r.png"], latlon_deg=here)
    with pytest.raises(ConfigError, match=r"imagery in query_imagery"):
        evaluate_dataset(stand_ins["colours"](), no_photo, settings("pairs"))
    no_chip = PairTable.of(["q.png"], [""], latlon_deg=here, reference_latlon_deg=here)
    with pytest.raises(ConfigError, match=r"imagery in imagery"):
        evaluate_dataset(stand_ins["colours"](), no_chip, settings("pairs"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "either dataset"),
        (["--dataset", "cvusa", "--index", "i"], "either dataset"),
        (["--dataset", "cvusa", "--root", "r"], "needs encoder"),
        (["--dataset", "cvusa", "--encoder", "e"], "needs root"),
        (["--dataset", "imagenet", "--root", "r"], "imagenet"),
        (["--dataset", "cvusa", "--root", "r", "--encoder", "e", "--as_published"], "university1652"),
        (["--dataset", "cvusa", "--root", "r", "--encoder", "e", "--imagery", "o.tif"], "imagery is of dataset pairs"),
        (["--dataset", "cvusa", "--root", "r", "--encoder", "e", "--photos", "p.csv"], "photos are for an index"),
        (["--dataset", "cvusa", "--root", "r", "--encoder", "e", "--dates", "mean"], "dates are for an index"),
        (["--dataset", "cvusa", "--root", "r", "--encoder", "e", "--fov_deg", "0"], "fov_deg"),
        (["--dataset", "cvusa", "--root", "r", "--encoder", "e", "--fov_deg", "90", "90"], "twice"),
        (["--dataset", "pairs", "--root", "r", "--encoder", "e", "--split", "test"], "pairs have none"),
        (["--dataset", "cvusa", "--root", "{tmp}", "--encoder", "none"], "no such encoder"),
        (["--dataset", "cvusa", "--root", "{tmp}", "--encoder", "{encoder}"], "val-19zl.csv"),
        (["--dataset", "cvusa", "--root", "{tmp}", "--encoder", "{encoder}", "--split", "best"], "'best' is no split"),
        (["--dataset", "cvusa", "--root", "{tmp}", "--encoder", "{encoder}", "--labels", "corrected"], "labels"),
        (["--dataset", "pairs", "--root", "{tmp}/no.csv", "--encoder", "{encoder}"], "no.csv"),
        (["--index", "i"], "photos names no file"),
        (["--index", "i", "--photos", "p.csv", "--turned"], "turned"),
        (["--index", "{tmp}", "--photos", "p.csv"], "not an index"),
        (["--index", "i", "--photos", "p.csv", "--out", "{tmp}/r.txt"], ".json"),
    ],
)
def test_bad_usage_is_one_line_that_names_the_culprit(capsys, tmp_path, encoder_folder, words, named):
    words = [word.format(tmp=tmp_path, encoder=encoder_folder) for word in words]
    try:
        code, _, talk = run(capsys, *([] if "--out" in words else ["--out", tmp_path / "r.json"]), *words)
    except SystemExit as stop:
        code, talk = stop.code, capsys.readouterr().err
    assert code == 2
    assert len(talk.splitlines()) == 1
    assert named in talk
    assert not (tmp_path / "r.json").exists()
