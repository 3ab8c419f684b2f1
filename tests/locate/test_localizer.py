"""Photos in, ranked places out: in order, whatever is among them, and never led by the position a photo claims."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.warp import transform
from rasterio.windows import from_bounds

from geoview.cli import main
from geoview.config import InferenceConfig, PlanView
from geoview.data import photos
from geoview.data.queries import PhotoQuery, find_queries
from geoview.errors import ConfigError, RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.geo.sphere import distance_m
from geoview.index.cell_index import CellIndex
from geoview.locate.embedding import PhotoView
from geoview.locate.localizer import Localizer

AERIAL = PhotoView("aerial")


@pytest.fixture(scope="module")
def index(index_folder):
    return CellIndex.open(index_folder)


@pytest.fixture(scope="module")
def localizer(index):
    return Localizer(index, InferenceConfig(batch_size=4, device="cpu"))


def crop(ortho, path, centre_deg, half_m=100.0):
    """Writes the part of the orthophoto around a point, pixel for pixel, as a GeoTIFF of its own."""
    with rasterio.open(ortho) as source:
        (x,), (y,) = transform("OGC:CRS84", source.crs, [centre_deg[1]], [centre_deg[0]])
        window = from_bounds(x - half_m, y - half_m, x + half_m, y + half_m, source.transform)
        window = window.round_offsets().round_lengths()
        profile = source.profile | {
            "width": window.width,
            "height": window.height,
            "transform": source.window_transform(window),
        }
        profile |= {"tiled": False}
        for key in ("blockxsize", "blockysize"):
            profile.pop(key, None)
        with rasterio.open(path, "w", **profile) as target:
            target.write(source.read(window=window))
    return str(path)


def inner_cells(index, n):
    """Cells whose chips lie wholly in the imagery."""
    ids = index.cell_ids()
    centres = cells.centers_deg(ids)
    middle = np.argsort(distance_m(centres, centres.mean(axis=0)))[: 2 * n : 2]
    return ids[middle]


def ids_of(answer):
    return [place.cell_id for place in answer.places]


def test_imagery_cut_at_a_cell_finds_that_cell_first(tmp_path, index, localizer, ortho):
    wanted = inner_cells(index, 9)
    crops = [crop(ortho, tmp_path / f"{i}.tif", centre) for i, centre in enumerate(cells.centers_deg(wanted))]
    answers = list(localizer.locate(crops, top_k=3, view=AERIAL))
    assert [a.query for a in answers] == crops
    assert [ids_of(a)[0] for a in answers] == wanted.tolist()
    for answer in answers:
        assert answer.status == "ok"
        assert len(answer.places) == 3
        scores = [p.score for p in answer.places]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.9, "no other chip of this place comes near"
        assert answer.exif_distance_m(answer.places[0]) < 3, "the raster's own position, which has no say in the ranks"
        assert answer.places[0].latlon_deg == tuple(cells.centers_deg(np.array(ids_of(answer)[:1], np.uint64))[0])
        around = cells.neighbors(np.array(ids_of(answer), np.uint64))
        assert not any(cell in around[i] for i in range(3) for cell in ids_of(answer))


def test_a_plain_picture_from_above_needs_its_scale(tmp_path, index, localizer, ortho, kit):
    (cell,) = inner_cells(index, 1)
    with rasterio.open(crop(ortho, tmp_path / "crop.tif", cells.centers_deg(np.array([cell]))[0])) as source:
        Image.fromarray(np.moveaxis(source.read(), 0, -1)).save(tmp_path / "plain.png")
    plain = str(tmp_path / "plain.png")
    (answer,) = localizer.locate([plain], top_k=1, view=PhotoView("aerial", gsd_m=kit.GSD_M))
    assert ids_of(answer) == [cell]
    (answer,) = localizer.locate([plain], top_k=1, view=AERIAL)
    assert answer.status == "failed"
    assert "plain.png" in answer.error
    assert "--gsd_m" in answer.error
    (mistaken,) = localizer.locate([plain], top_k=1, view=PhotoView("aerial", gsd_m=0.3))
    assert mistaken.places[0].score < 0.9


def test_the_scale_is_that_of_the_file_whatever_size_it_is_decoded_at(
    tmp_path, index, localizer, ortho, monkeypatch, kit
):
    (cell,) = inner_cells(index, 1)
    with rasterio.open(crop(ortho, tmp_path / "crop.tif", cells.centers_deg(np.array([cell]))[0])) as source:
        Image.fromarray(np.moveaxis(source.read(), 0, -1)).resize((700, 700)).save(tmp_path / "large.png")
        gsd_m = kit.GSD_M * source.width / 700
    (whole,) = localizer.locate([str(tmp_path / "large.png")], top_k=1, view=PhotoView("aerial", gsd_m=gsd_m))
    monkeypatch.setattr(photos, "_LARGE_PX", 100_000)
    monkeypatch.setattr(photos, "_LARGE_MAX_SIDE_PX", 300)
    (small,) = localizer.locate([str(tmp_path / "large.png")], top_k=1, view=PhotoView("aerial", gsd_m=gsd_m))
    assert ids_of(small) == ids_of(whole) == [cell]
    assert small.places[0].score == pytest.approx(whole.places[0].score, abs=0.03)


@pytest.mark.parametrize("kind", ["uint16", "five bands"])
def test_a_geotiff_that_is_no_photo_is_an_aerial_query(tmp_path, index, localizer, ortho, kind):
    (cell,) = inner_cells(index, 1)
    path = tmp_path / "query.tif"
    with rasterio.open(crop(ortho, tmp_path / "crop.tif", cells.centers_deg(np.array([cell]))[0])) as source:
        data, profile = source.read(), source.profile
    data = data.astype(np.uint16) * 256 if kind == "uint16" else np.concatenate([data, data[:2]])
    profile |= {"count": len(data), "dtype": data.dtype, "photometric": "RGB"}
    profile.pop("interleave", None)
    with rasterio.open(path, "w", **profile) as target:
        target.write(data)
    with pytest.warns() if kind == "uint16" else pytest.MonkeyPatch.context():
        (answer,) = localizer.locate([str(path)], top_k=2, view=AERIAL)
    assert answer.error == ""
    assert answer.status == "ok"
    assert ids_of(answer)[0] == cell


def test_an_aerial_query_across_the_date_line(tmp_path, localizer, kit):
    path = kit.write_ortho(tmp_path / "fiji.tif", kit.texture(200), (-17.0, 180.0), crs="EPSG:3832")
    (answer,) = localizer.locate([str(path)], top_k=1, view=AERIAL)
    assert (answer.status, answer.error) == ("ok", "")
    assert distance_m(np.array(answer.latlon_deg), np.array([-17.0, 180.0])) < 1


def test_answers_keep_the_order_of_photos_of_all_shapes_and_broken_ones(tmp_path, localizer, kit):
    sizes = [(120, 90), (90, 120), (256, 128), (64, 64), (300, 80), (120, 90), (512, 256)]
    good = [kit.write_photo(tmp_path / f"{i}.jpg", size, seed=i) for i, size in enumerate(sizes)]
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    whole = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    kit.write_photo(tmp_path / "tiny.png", (3, 3))
    bad = [str(tmp_path / name) for name in ("text.jpg", "none.jpg", "empty.jpg", "half.jpg", "tiny.png")]
    mixed = [bad[0], good[0], good[1], bad[1], good[2], good[3], bad[2], bad[3], good[4], good[5], good[6], bad[4]]
    answers = list(localizer.locate([*mixed, str(tmp_path)], top_k=2))
    assert [a.query for a in answers] == [*mixed, str(tmp_path)]
    alone = {path: next(iter(localizer.locate([path], top_k=2))) for path in good}
    for answer in answers:
        if answer.query in good:
            assert (answer.status, answer.error, len(answer.places)) == ("ok", "", 2)
            assert ids_of(answer) == ids_of(alone[answer.query])
            np.testing.assert_allclose(
                [p.score for p in answer.places], [p.score for p in alone[answer.query].places], atol=1e-5
            )
        else:
            assert (answer.status, answer.places) == ("failed", [])
            assert answer.query in answer.error
            assert "\n" not in answer.error
    assert len({tuple(ids_of(a)) for a in answers if a.places}) > 1, "different photos have different answers"


def test_photos_in_memory_are_answered_as_their_files(tmp_path, index, localizer, ortho, kit):
    paths = [kit.write_photo(tmp_path / f"{i}.jpg", seed=i, latlon_deg=kit.CENTRE_DEG) for i in range(3)]
    given = [PhotoQuery(path, content=Path(path).read_bytes()) for path in paths]
    assert list(localizer.locate(given)) == list(localizer.locate(paths))
    named = PhotoQuery("b.tif", content=b"II*\0")
    (answer,) = localizer.locate([named])
    assert (answer.query, answer.status) == ("b.tif", "failed")
    assert answer.error.startswith("b.tif: ")
    (cell,) = inner_cells(index, 1)
    content = Path(crop(ortho, tmp_path / "crop.tif", cells.centers_deg(np.array([cell]))[0])).read_bytes()
    (answer,) = localizer.locate([PhotoQuery("c.tif", content=content)], view=AERIAL)
    assert answer.error == "c.tif: an aerial photo that is no file needs gsd_m, metres per pixel"
    (answer,) = localizer.locate([PhotoQuery("c.tif", content=content)], view=PhotoView("aerial", gsd_m=kit.GSD_M))
    assert ids_of(answer)[0] == cell


def test_bad_aerial_queries_are_marked(tmp_path, localizer, kit):
    kit.write_photo(tmp_path / "photo.jpg")
    (tmp_path / "text.tif").write_text("no image")
    dark = kit.write_ortho(tmp_path / "dark.tif", np.zeros((3, 100, 100), np.uint8), nodata=0)
    good = kit.write_ortho(tmp_path / "good.tif", kit.texture(160))
    given = [tmp_path / "none.tif", tmp_path / "photo.jpg", tmp_path / "text.tif", dark, good]
    answers = list(localizer.locate([str(path) for path in given], view=AERIAL))
    assert [a.status for a in answers] == ["failed"] * 4 + ["ok"]
    for answer, path in zip(answers[:-1], given, strict=False):
        assert str(path) in answer.error
        assert "\n" not in answer.error


def test_a_claimed_position_does_not_change_the_ranks(tmp_path, index, localizer, kit):
    claims = [None, tuple(kit.CENTRE_DEG), (-33.9, -70.6), (89.9, 179.9)]
    paths = [kit.write_photo(tmp_path / f"{i}.jpg", latlon_deg=claim) for i, claim in enumerate(claims)]
    answers = list(localizer.locate(paths, top_k=5))
    for answer, claim in zip(answers, claims, strict=True):
        assert answer.places == answers[0].places
        if claim is None:
            assert answer.latlon_deg is None
            assert answer.exif_distance_m(answer.places[0]) is None
        else:
            assert answer.latlon_deg == pytest.approx(claim, abs=1e-6)
            place = answer.places[0]
            own = distance_m(np.array(claim), np.array(place.latlon_deg))
            assert answer.exif_distance_m(place) == pytest.approx(own, abs=0.5)
    table = [PhotoQuery(path, latlon_deg=(0.0, 0.0)) for path in paths]
    assert all(a.places == answers[0].places for a in localizer.locate(table, top_k=5))


def test_a_photo_table_wins_over_exif(tmp_path, localizer, kit):
    kit.write_photo(tmp_path / "a.jpg", latlon_deg=(-33.9, -70.6))
    kit.write_photo(tmp_path / "b.jpg", latlon_deg=(-33.9, -70.6))
    (tmp_path / "photos.csv").write_text("path,lat,lon\na.jpg,34.0,-117.5\nb.jpg,,\n")
    a, b = localizer.locate(find_queries([tmp_path / "photos.csv"]))
    assert a.latlon_deg == (34.0, -117.5)
    assert b.latlon_deg == pytest.approx((-33.9, -70.6), abs=1e-6)


def test_a_search_around_the_own_position(tmp_path, index, localizer, kit):
    centre = tuple(kit.CENTRE_DEG)
    kit.write_photo(tmp_path / "here.jpg", latlon_deg=centre)
    kit.write_photo(tmp_path / "nowhere.jpg")
    kit.write_photo(tmp_path / "chile.jpg", latlon_deg=(-33.9, -70.6))
    (tmp_path / "broken.jpg").write_text("no image")
    names = ["nowhere.jpg", "here.jpg", "chile.jpg", "broken.jpg", "here.jpg"]
    queries = [PhotoQuery(str(tmp_path / name)) for name in names]
    queries.append(PhotoQuery(str(tmp_path / "broken.jpg"), latlon_deg=(0.0, 0.0)))
    elsewhere = Region.disc(kit.CENTRE_DEG, 5000.0, name="city.geojson")
    for region in (None, elsewhere):
        answers = list(localizer.locate(queries, around_own_position_m=200.0, region=region))
        assert [a.query for a in answers] == [q.path for q in queries]
        nowhere, here, chile, broken, again, broken_with_position = answers
        near = set(Region.disc(centre, 200.0).cells(16).tolist())
        assert here.status == "ok"
        assert set(ids_of(here)) <= near
        assert ids_of(again) == ids_of(here)
        assert "no position of its own" in nowhere.error
        assert "nowhere.jpg" in nowhere.error
        assert chile.status == "failed"
        assert chile.latlon_deg == pytest.approx((-33.9, -70.6), abs=1e-6)
        assert "\n" not in chile.error
        assert ("no cell of" if region is None else "no ground in common") in chile.error
        for answer in (broken, broken_with_position):
            assert "broken.jpg" in answer.error, "that it cannot be read matters more than where it claims to be"
    everywhere = next(iter(localizer.locate([queries[1]], top_k=1)))
    assert everywhere.places[0].score >= here.places[0].score


def test_a_region_limits_the_search(tmp_path, index, localizer, kit):
    path = kit.write_photo(tmp_path / "a.jpg")
    centre = cells.centers_deg(inner_cells(index, 1))[0]
    region = Region.disc(centre, 150.0)
    (answer,) = localizer.locate([path], top_k=50, region=region)
    assert answer.places
    assert set(ids_of(answer)) <= set(region.cells(16).tolist())
    empty = Region.from_geometry(shapely.box(0, 0, 0.01, 0.01), name="gulf.geojson")
    with pytest.raises(RegionError, match=r"gulf\.geojson"):
        list(localizer.locate([path], region=empty))


def test_as_many_places_as_there_are(tmp_path, index, localizer, kit):
    path = kit.write_photo(tmp_path / "a.jpg")
    for top_k in (1, 4, 7):
        (answer,) = localizer.locate([path], top_k=top_k)
        assert len(answer.places) == top_k
    (answer,) = localizer.locate([path], top_k=1000)
    ids = index.cell_ids()
    near = np.concatenate([np.array(ids_of(answer), np.uint64), cells.neighbors(ids_of(answer)).ravel()])
    assert np.isin(ids, near).all(), "every cell is a place or touches one"


def test_photos_are_read_a_batch_at_a_time(tmp_path, index, kit):
    paths = [kit.write_photo(tmp_path / f"{i}.jpg", seed=i) for i in range(7)]
    asked = []

    def given():
        for path in paths:
            asked.append(path)
            yield path

    answers = Localizer(index, InferenceConfig(batch_size=2, device="cpu")).locate(given(), top_k=1)
    assert asked == [], "nothing is read before an answer is wanted"
    for i, answer in enumerate(answers):
        assert answer.query == paths[i]
        assert len(asked) == min(7, 2 * (i // 2 + 1)), "at most a batch ahead"
    assert asked == paths


def test_a_device_that_is_not_there_is_told_before_any_photo(index):
    with pytest.raises(ConfigError, match="gpu9"):
        Localizer(index, InferenceConfig(device="gpu9"))


def test_no_photos_no_answers(localizer):
    assert list(localizer.locate([])) == []


# -- dates -------------------------------------------------------------------------------------------------------------


def test_a_place_tells_the_date_of_the_imagery_that_was_like_the_photo(tmp_path, dated, ortho):
    index = CellIndex.open(dated / "index")
    ids, n_dates = np.unique(index.cell_ids(), return_counts=True)
    centres = cells.centers_deg(ids[n_dates == 2])
    middle = centres[np.argmin(distance_m(centres, centres.mean(axis=0)))]
    (cell,) = cells.cell_ids(middle[None], index.level).tolist()
    localizer = Localizer(index, InferenceConfig(device="cpu"))
    for date, raster in (("2018-06", ortho), ("2021", dated / "new.tif")):
        query = crop(raster, tmp_path / f"{date}.tif", middle)
        best, mean, latest = (
            next(localizer.locate([query], top_k=500, dates=way, view=AERIAL)).places
            for way in ("max", "mean", "latest")
        )
        assert (best[0].cell_id, best[0].imagery_date) == (cell, date)
        assert best[0].score > 0.85
        assert (latest[0].cell_id == cell) == (date == "2021")
        for places in (best, mean, latest):
            assert {place.imagery_date for place in places} == {"2018-06", "2021"}
            assert len({place.cell_id for place in places}) == len(places)
        assert all(place.imagery_date == "2021" for place in (*mean, *latest) if place.cell_id == cell)


def test_the_command_counts_dates_as_it_is_told(tmp_path, dated, capsys, kit):
    query = kit.write_photo(tmp_path / "a.jpg")
    scores = {}
    for way in ([], ["--dates", "max"], ["--dates", "mean"], ["--dates", "latest"]):
        assert main(["locate", query, "--index", str(dated / "index"), "--device", "cpu", *way]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert {row["imagery_date"] for row in rows} <= {"2018-06", "2021"}
        scores[tuple(way)] = [row["score"] for row in rows]
    assert scores[()] == scores["--dates", "max"]
    assert len({tuple(each) for each in scores.values()}) == 3
    with pytest.raises(SystemExit):
        main(["locate", query, "--index", str(dated / "index"), "--dates", "oldest"])
    assert "oldest" in capsys.readouterr().err


# -- headings ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turning(tmp_path_factory, ortho, kit):
    """An index whose encoder tries eight headings."""
    encoder = kit.make_encoder(ground=PlanView(size_px=32, gsd_m=4.8, headings=8, eye_heights_m=(2.0, 1.0)))
    folder = tmp_path_factory.mktemp("turning")
    return kit.build(encoder.save(folder / "encoder"), ortho, folder / "index")


def test_all_headings_of_a_photo_are_tried_and_the_best_is_told(tmp_path, turning, kit):
    path = kit.write_photo(tmp_path / "photo.jpg")
    localizer = Localizer(turning)
    (answer,) = localizer.locate([path], top_k=3)
    known = [next(localizer.locate([PhotoQuery(path, heading_deg=45.0 * i)], top_k=3)) for i in range(8)]
    best = max(known, key=lambda a: a.places[0].score)
    assert answer.places[0].cell_id == best.places[0].cell_id
    assert answer.places[0].score == pytest.approx(best.places[0].score, abs=1e-5)
    assert answer.places[0].heading_deg == best.places[0].heading_deg
    assert len({a.places[0].score for a in known}) > 1, "headings make a difference"


def test_places_apart(tmp_path, turning, kit):
    (answer,) = Localizer(turning).locate([kit.write_photo(tmp_path / "photo.jpg")], top_k=3, apart_m=300.0)
    at = np.array([p.latlon_deg for p in answer.places])
    assert len(at) == 3
    assert distance_m(at[:, None], at[None])[~np.eye(3, dtype=bool)].min() >= 300.0
