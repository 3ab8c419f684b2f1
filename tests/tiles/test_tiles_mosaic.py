"""Folders, sequences and manifests: many rasters as one, and the broken among them."""

import multiprocessing
import operator
import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
import shapely

import tiles

PLACE = (34.0, -117.0)


@pytest.fixture
def quarters(tmp_path, kit):
    """Four rasters that adjoin at PLACE, as one folder."""
    folder = tmp_path / "quarters"
    (folder / "deep").mkdir(parents=True)
    world = kit.World("EPSG:26911", kit.WAVE_PX)
    whole = kit.centred("EPSG:26911", PLACE, (1.0, 1.0), 400)
    for number, (column, row) in enumerate([(0, 0), (200, 0), (0, 200), (200, 200)]):
        place = folder / "deep" if number == 3 else folder
        world.write(place / f"{number}.tif", whole * rasterio.Affine.translation(column, row), 200, 200)
    return folder, world


@pytest.fixture
def flat(write_array):
    """Write a raster of one grey value, 100 m wide, around PLACE or shifted."""

    def write(path, value, east_px=0, date=None, size_px=100, **options):
        data = np.full((3, size_px, size_px), value, options.pop("dtype", np.uint8))
        tags = {"ACQUISITIONDATE": date} if date else {}
        path.parent.mkdir(exist_ok=True)
        place = (PLACE[0], PLACE[1] + east_px / 92_400)
        return write_array(path, data, place, after=lambda dataset: dataset.update_tags(**tags), **options)

    return write


@pytest.mark.parametrize("heading_deg", [0.0, 45.0, 200.0])
@pytest.mark.parametrize("gsd_m", [1.0, 0.37])
def test_no_seams_and_no_gaps(quarters, heading_deg, gsd_m):
    folder, world = quarters
    source = tiles.open_source(folder)
    chip = source.chip(PLACE, size_px=120, gsd_m=gsd_m, heading_deg=heading_deg)
    assert chip.valid.all()
    expected = world.expected(PLACE, 120, gsd_m, heading_deg)
    assert np.abs(chip.pixels - expected).max() <= 10.0  # half a pixel at the edges of the parts
    assert len(source.parts()) == 4


def test_coverage_is_the_union(quarters):
    area = tiles.open_source(quarters[0]).coverage()
    assert area.contains(shapely.Point(PLACE[1] + 1e-4, PLACE[0] + 1e-4).buffer(1e-5))
    assert area.area == pytest.approx(
        sum(tiles.open_source(f).coverage().area for f in quarters[0].rglob("*.tif")), rel=1e-3
    )


def test_newest_first_and_undated_last(tmp_path, flat):
    flat(tmp_path / "m" / "a.tif", 10, date="2016-05-01")
    flat(tmp_path / "m" / "b.tif", 20, date="2020-05-01")
    flat(tmp_path / "m" / "c.tif", 30)
    source = tiles.open_source(tmp_path / "m")
    chip = source.chip(PLACE, size_px=20, gsd_m=1.0)
    assert (chip.pixels == 20).all() and chip.date == "2020-05-01"
    assert source.date is None


def test_best_covered_among_equals_and_gaps_filled(tmp_path, flat):
    flat(tmp_path / "m" / "a.tif", 10, east_px=-90, date="2020-05-01")
    flat(tmp_path / "m" / "b.tif", 20, east_px=-60, date="2020-05-01")
    flat(tmp_path / "m" / "c.tif", 30, date="2016-05-01")
    chip = tiles.open_source(tmp_path / "m").chip(PLACE, size_px=60, gsd_m=1.0)
    values, counts = np.unique(chip.pixels[..., 0], return_counts=True)
    assert values.tolist() == [20, 30] and counts[1] > counts[0] > 600
    assert chip.valid.all()
    assert chip.date == "2016-05-01"  # it gave most pixels
    (tmp_path / "m" / "c.tif").unlink()
    partly = tiles.open_source(tmp_path / "m").chip(PLACE, size_px=60, gsd_m=1.0)
    assert 0.2 < partly.valid_fraction < 0.6 and partly.date == "2020-05-01"


def test_one_range_of_values_for_the_whole_folder(tmp_path, flat):
    flat(tmp_path / "m" / "a.tif", 1000, east_px=-50, dtype=np.uint16)
    flat(tmp_path / "m" / "b.tif", 3000, east_px=50, dtype=np.uint16)
    with pytest.warns(tiles.ValueRangeWarning, match=r"a\.tif and 1 others.*\[1000, 3000\]") as caught:
        source = tiles.open_source(tmp_path / "m")
    assert len(caught) == 1
    assert np.unique(source.chip(PLACE, size_px=40, gsd_m=1.0).pixels).tolist() == [0, 255]


def test_one_warning_for_all_near_infrared(tmp_path, write_array):
    data = np.random.default_rng(0).integers(1, 250, (4, 64, 64), dtype=np.uint8)
    for name in ("a.tif", "b.tif"):
        write_array(tmp_path / name, data, photometric="RGB", alpha="YES")
    with pytest.warns(tiles.FakeAlphaWarning, match=r"a\.tif and 1 others") as caught:
        tiles.open_source(tmp_path)
    assert len(caught) == 1


def test_broken_rasters_are_named_and_left_out(tmp_path, flat, write_array):
    folder = tmp_path / "m"
    good = flat(folder / "good.tif", 10)
    (folder / "text.tif").write_text("hello")
    (folder / "empty.tif").write_bytes(b"")
    content = good.read_bytes()
    (folder / "truncated.tif").write_bytes(content[: len(content) // 2])
    write_array(folder / "nowhere.tif", np.zeros((3, 8, 8), np.uint8), crs=None, transform=rasterio.Affine.scale(2))
    mars = "+proj=longlat +a=3396190 +b=3376200 +no_defs"
    write_array(folder / "mars.tif", np.zeros((3, 8, 8), np.uint8), crs=mars, transform=rasterio.Affine.scale(0.1))
    (folder / "readme.txt").write_text("not imagery")
    (folder / "._good.tif").write_text("a resource fork")
    with pytest.warns(tiles.SkippedRasterWarning) as caught:
        source = tiles.open_source(folder)
    bad = {"text.tif", "empty.tif", "truncated.tif", "nowhere.tif", "mars.tif"}
    assert {path.rpartition("/")[2] for path, _ in source.skipped} == bad
    assert all(any(name in str(w.message) for w in caught) for name in bad)
    assert (source.chip(PLACE, size_px=20, gsd_m=1.0).pixels == 10).all()


def test_a_raster_that_breaks_later_is_left_out_once(tmp_path, flat):
    flat(tmp_path / "m" / "old.tif", 10, date="2016-01-01")
    new = flat(tmp_path / "m" / "new.tif", 20, date="2020-01-01")
    source = tiles.open_source(tmp_path / "m")
    new.unlink()
    with pytest.warns(tiles.SkippedRasterWarning, match=r"new\.tif"):
        assert (source.chip(PLACE, size_px=20, gsd_m=1.0).pixels == 10).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", ResourceWarning)  # of what other tests have left open
        assert (source.chip(PLACE, size_px=20, gsd_m=1.0).pixels == 10).all()
    assert [path for path, _ in source.skipped] == [str(new)]


def test_nothing_usable(tmp_path):
    (tmp_path / "a.tif").write_text("hello")
    with (
        pytest.warns(tiles.SkippedRasterWarning),
        pytest.raises(tiles.UnreadableRasterError, match=r"none of 1.*a\.tif"),
    ):
        tiles.open_source(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(tiles.SourceNotFoundError, match="empty"):
        tiles.open_source(tmp_path / "empty")
    with pytest.raises(tiles.SourceNotFoundError):
        tiles.open_source([])


def test_outside_a_mosaic(quarters):
    with pytest.raises(tiles.OutsideCoverageError, match=r"quarters.*35\.000000"):
        tiles.open_source(quarters[0]).chip((35.0, -117.0), size_px=8, gsd_m=1.0)


def test_a_sequence_is_a_mosaic(tmp_path, flat):
    paths = [flat(tmp_path / "a.tif", 10, date="2020-01-01"), flat(tmp_path / "b" / "b.tif", 20, east_px=100).parent]
    source = tiles.open_source(paths)
    assert [info.uri for info in source.parts()] == [str(paths[0]), str(paths[1] / "b.tif")]
    assert isinstance(source, tiles.ImagerySource)


# manifests


def test_manifest_adds_facts(tmp_path, flat):
    flat(tmp_path / "x" / "a.tif", 10)
    flat(tmp_path / "x" / "b.tif", 20, east_px=100)
    flat(tmp_path / "c.tif", 30, east_px=50, date="2011-01-01")
    (tmp_path / "m.yaml").write_text(
        """
sources:
  - uri: x/*.tif
    date: 2020-06-14
    licence: public domain
    attribution: USDA
    gsd_m: 0.9
  - {uri: c.tif, date: 2012, licence: CC BY 4.0}
"""
    )
    source = tiles.open_source(tmp_path / "m.yaml")
    assert [info.date for info in source.parts()] == ["2020-06-14", "2020-06-14", "2012"]
    assert (source.licence, source.attribution) == ("public domain; CC BY 4.0", "USDA")
    assert source.native_gsd_m == 0.9
    chip = source.chip(PLACE, size_px=20, gsd_m=1.0)
    assert (chip.date, chip.licence, chip.attribution) == ("2020-06-14", "public domain", "USDA")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{uri: a.tif, license: MIT}", r"'license'.*'licence'"),
        ("{uri: a.tif, date: 2020-13-01}", "date"),
        ("{uri: a.tif, date: last summer}", "date"),
        ("{uri: a.tif, alpha: maybe}", "alpha"),
        ("{uri: a.tif, gsd_m: -1}", "gsd_m"),
        ("{uri: a.tif, value_range: [5, 1]}", "value_range"),
        ("{uri: a.tif, min_zoom: 99}", "min_zoom"),
        ("{date: 2020-01-01}", "uri"),
        ("sources: []", "sources"),
        ("sources: [a.tif]", "uri"),
        ("{sources: [{uri: a.tif}], date: 2020}", "date"),
        ("just words", "sources"),
        ("{uri: [", "YAML"),
        ("{uri: n.yaml}", "another manifest"),
    ],
)
def test_malformed_manifests(tmp_path, text, named):
    (tmp_path / "n.yaml").write_text("{uri: a.tif}")
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(tiles.InvalidManifestError, match=rf"[mn]\.yaml.*{named}") as caught:
        tiles.open_source(tmp_path / "m.yaml")
    assert "\n" not in str(caught.value)


def test_manifest_that_names_nothing(tmp_path):
    for uri in ("gone.tif", "gone/*.tif"):
        (tmp_path / "m.yaml").write_text(f"{{uri: '{uri}'}}")
        with pytest.raises(tiles.SourceNotFoundError, match="gone"):
            tiles.open_source(tmp_path / "m.yaml")


def test_the_example_manifest_is_well_formed(request):
    from tiles.hints import read_manifest

    entries = read_manifest(request.config.rootpath / "configs" / "sources" / "example.yaml")
    assert len(entries) == 3 and entries[1][1].value_range == (0.0, 3000.0)


# threads and processes


def cut(number):
    """Return what cuts one of many chips from a source; spawned processes can import it, unlike this module."""
    place = PLACE[0] + number * 1e-5, PLACE[1]
    return operator.methodcaller("chip", place, size_px=48, gsd_m=1.3, heading_deg=number * 10.0)


def assert_same(chips, others):
    assert len(chips) == len(others)
    assert all((a.pixels == b.pixels).all() and (a.valid == b.valid).all() for a, b in zip(chips, others, strict=True))


def test_threads_give_the_same(quarters):
    source = tiles.open_source(quarters[0])
    alone = [cut(n)(source) for n in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert_same(alone, list(pool.map(lambda n: cut(n)(source), range(60))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_give_the_same(quarters, method):
    source = tiles.open_source(quarters[0])
    alone = [cut(n)(source) for n in range(20)]  # handles are open before the fork
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        futures = [pool.submit(cut(n), source) for n in range(20)]
        assert_same(alone, [future.result() for future in futures])
    assert_same(alone[3:4], [cut(3)(source)])


def test_pickling(quarters):
    source = tiles.open_source(quarters[0])
    copy = pickle.loads(pickle.dumps(source))
    assert_same([cut(2)(source)], [cut(2)(copy)])
    assert copy.parts() == source.parts()


def test_few_files_are_open_at_a_time(tmp_path, flat, monkeypatch):
    from tiles import raster

    for number in range(12):
        flat(tmp_path / "m" / f"{number}.tif", number, east_px=100 * number)
    monkeypatch.setattr(raster, "_handles", raster.PerThreadLRU(max_items=3))
    source = tiles.open_source(tmp_path / "m")
    for number in range(12):
        chip = source.chip((PLACE[0], PLACE[1] + 100 * number / 92_400), size_px=20, gsd_m=1.0)
        assert (chip.pixels == number).all()
    assert len(raster._handles._items) == 3


def test_real_folder_of_years(real_data):
    """The same squares of three years: the folder name is no date, so none is invented."""
    source = tiles.open_source([real_data / "naip" / "riverside" / year for year in ("2016", "2018", "2020")])
    assert source.date is None and {info.date for info in source.parts()} == {None}
    middle = shapely.get_geometry(source.coverage(), 0).centroid
    assert source.chip((middle.y, middle.x), size_px=64, gsd_m=1.2).valid.all()
