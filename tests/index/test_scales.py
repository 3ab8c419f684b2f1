"""Codes of several ground sizes: larger chips are shared by cells, and a code is the same however an index is made."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

import tiles
from geoview.cli import main
from geoview.config import BuildConfig
from geoview.embed import embed
from geoview.errors import ConfigError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import encoding, store
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.index.scales import around, level_of, pooled
from geoview.models.encoder import CrossViewEncoder

# Of rounding to half precision, once for each scale and once for their sum.
ATOL = 1e-3


class Counted:
    """An imagery source that counts its chips by scale, and stops at one of them as Ctrl-C does."""

    def __init__(self, source, gsd_m, stop_at=None):
        self._source, self._gsd_m, self._stop_at, self.chips = source, gsd_m, stop_at, Counter()

    def __getattr__(self, name):
        return getattr(self._source, name)

    def chip(self, latlon_deg, *, size_px, gsd_m):
        self.chips[round(gsd_m / self._gsd_m)] += 1
        if self.chips.total() == self._stop_at:
            raise KeyboardInterrupt
        return self._source.chip(latlon_deg, size_px=size_px, gsd_m=gsd_m)


def columns(index):
    shards = [store.open_shard(index.path, entry) for entry in index.manifest.shards]
    return {name: np.concatenate([shard.read(name) for shard in shards]) for name in shards[0].rows}


def assert_same(found, wanted):
    found, wanted = columns(found), columns(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted if name != "aerial")
    np.testing.assert_allclose(found["aerial"].astype(np.float32), wanted["aerial"].astype(np.float32), atol=ATOL)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory, kit, encoder_folder, ortho):
    """An index of the orthophoto with three scales, in four shards; not to be written to."""
    return kit.build(encoder_folder, ortho, tmp_path_factory.mktemp("scaled") / "index", scales=[1, 2, 4])


@pytest.fixture
def index(tmp_path, scaled):
    shutil.copytree(scaled.path, tmp_path / "index")
    return tmp_path / "index"


def settings_for(encoder_folder, imagery, out, **changes):
    given_ = {"encoder": str(encoder_folder), "imagery": [str(imagery)], "out": str(out), "device": "cpu"}
    return BuildConfig(**(given_ | {"batch_size": 16, "num_workers": 1} | changes))


# -- what a code is ----------------------------------------------------------------------------------------------------


def test_a_code_is_the_direction_of_the_sum_of_what_all_scales_see(tmp_path, kit, encoder_folder, ortho):
    """Recomputed one cell at a time: at the edge of the imagery some larger chips show too little to count."""
    index = kit.build(encoder_folder, ortho, tmp_path / "index", scales=[1, 2, 4], min_coverage=0.9)
    encoder, source, rows = CrossViewEncoder.load(encoder_folder), tiles.open_source(ortho), columns(index)

    def embedded(cell, scale):
        view = encoder.aerial
        try:
            chip = source.chip(cells.centers_deg(cell), size_px=view.size_px, gsd_m=scale * view.gsd_m)
        except tiles.OutsideCoverageError:
            return None
        if chip.valid_fraction < 0.9:
            return None
        return next(embed(encoder, [chip], settings_for(encoder_folder, ortho, "unused"), seen="aerial"))

    silent = Counter()
    for row in range(len(index)):
        cell = rows["cell"][row]
        own = embedded(cell, 1)
        code = own.copy()
        for scale, level in ((2, 15), (4, 14)):
            seen = [
                weight * vector
                for large, weight in zip(*cells.surrounding(cell, level), strict=True)
                if (vector := embedded(large, scale)) is not None
            ]
            silent[scale, 4 - len(seen)] += 1
            if seen:
                code += sum(seen) / np.linalg.norm(sum(seen))
        code /= np.linalg.norm(code)
        np.testing.assert_allclose(rows["aerial"][row].astype(np.float32), code, atol=ATOL)
        assert np.abs(code - own).max() > 10 * ATOL, "another code than that of one scale"
    assert silent[2, 0] > 5, "some cells have all four larger chips"
    assert any(silent[scale, missing] for scale in (2, 4) for missing in (1, 2, 3)), "some lack a few"
    assert silent[4, 4], "some lack all, and go by their other scales"


def test_dates_and_coverage_are_those_of_the_smallest_chip(tmp_path, kit, encoder_folder, ortho):
    newer = kit.write_ortho(tmp_path / "newer.tif", kit.texture(500, seed=2))
    manifest = tmp_path / "imagery.yaml"
    manifest.write_text(f"sources:\n- uri: {ortho}\n  date: 2018\n- uri: {newer}\n  date: 2020-06\n")
    one, two = (
        columns(kit.build(encoder_folder, manifest, tmp_path / str(len(scales)), scales=scales))
        for scales in ([1], [1, 2])
    )
    assert set(one["date"].tolist()) == {20180000, 20200600}
    for name in ("cell", "date", "coverage", "skipped_cell", "skipped_coverage"):
        assert np.array_equal(one[name], two[name])
    assert not np.allclose(one["aerial"], two["aerial"], atol=ATOL)


def test_one_scale_is_what_it_was(tmp_path, kit, encoder_folder, ortho, index_folder):
    one = kit.build(encoder_folder, ortho, tmp_path / "index", scales=[1])
    assert np.array_equal(columns(one)["aerial"], columns(CellIndex.open(index_folder))["aerial"])


def rows_of(ids, aerial):
    n = len(ids)
    ones, none = np.ones(n, np.float16), np.empty(0, np.uint64)
    return store.Rows(aerial.astype(np.float16), ids, np.zeros(n, np.int32), ones, none, np.empty(0, np.float16))


@given(st.integers(0, 2**32), st.sampled_from([8, 16, 20]), st.sets(st.sampled_from([2, 4, 8]), min_size=1))
@settings(max_examples=50, deadline=None)
def test_scales_that_see_the_same_change_nothing(seed, level, scales):
    """Where all chips of all scales look alike, the code is what each of them is, whichever larger ones are missing."""
    rng = np.random.default_rng(seed)
    # Cells anywhere on the Earth, at the edges and corners of the cube's faces too.
    lat_deg = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 30)))
    ids = np.unique(cells.cell_ids(np.stack([lat_deg, rng.uniform(-180, 180, 30)], axis=1), level))
    vector = rng.normal(size=8)
    vector /= np.linalg.norm(vector)
    wider = {}
    for scale in scales:
        large = around(ids, level_of(scale, level))
        large = large[rng.random(len(large)) < 0.7]
        wider[level_of(scale, level)] = rows_of(large, np.tile(vector, (len(large), 1)))
    codes = pooled(rows_of(ids, np.tile(vector, (len(ids), 1))), wider).aerial
    np.testing.assert_allclose(codes, np.tile(vector, (len(ids), 1)), atol=ATOL)


@pytest.mark.parametrize(("scale", "level"), [(1, 16), (2, 15), (4, 14), (8, 13)])
def test_larger_chips_are_cut_as_densely_as_small_ones(scale, level):
    assert level_of(scale, 16) == level


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_scale_2_costs_a_quarter_of_the_chips_again_and_scale_4_a_sixteenth(tmp_path, kit, encoder_folder, ortho):
    """Of a square of 16 cells a side: 8 and 4, and a rim around them."""
    square = cells.cell_ids(np.add(kit.CENTRE_DEG, [0.0025, 0.003]), 15)
    inside = shapely.Polygon(cells.vertices_deg(square)[:, ::-1]).buffer(-1e-5)
    region = Region.from_geometry(inside)
    source = Counted(tiles.open_source(ortho), CrossViewEncoder.load(encoder_folder).aerial.gsd_m)
    config = settings_for(encoder_folder, ortho, tmp_path / "index", level=19, scales=[1, 2, 4])
    index = build_index(CrossViewEncoder.load(encoder_folder), source, region, tmp_path / "index", config)
    assert len(index) == 16**2
    assert source.chips == {1: 16**2, 2: (8 + 2) ** 2, 4: (4 + 2) ** 2}


def test_cells_without_a_code_need_no_larger_chips(tmp_path, kit, encoder_folder, ortho):
    beyond = Region.disc(np.add(kit.CENTRE_DEG, [0.0, 0.02]), 300.0).geometry
    region = Region.from_geometry(beyond.union(Region.disc(kit.CENTRE_DEG, 60.0).geometry))
    source = Counted(tiles.open_source(ortho), CrossViewEncoder.load(encoder_folder).aerial.gsd_m)
    config = settings_for(encoder_folder, ortho, tmp_path / "index", scales=[1, 8])
    index = build_index(CrossViewEncoder.load(encoder_folder), source, region, tmp_path / "index", config)
    assert index.manifest.n_skipped > 20
    ids = index.cell_ids()
    shards = [ids[cells.parents(ids, 8) == parent] for parent in np.unique(cells.parents(ids, 8))]
    assert source.chips[8] == sum(len(around(shard, 13)) for shard in shards)


# -- however it is made ------------------------------------------------------------------------------------------------


def test_codes_at_the_borders_of_shards_are_those_of_one_piece(
    tmp_path, kit, encoder_folder, ortho, scaled, monkeypatch
):
    monkeypatch.setattr(store, "SHARD_LEVELS", 16)
    whole = kit.build(encoder_folder, ortho, tmp_path / "index", scales=[1, 2, 4])
    assert (len(scaled.manifest.shards), len(whole.manifest.shards)) == (4, 1)
    assert_same(scaled, whole)


def test_codes_do_not_depend_on_the_region(tmp_path, kit, encoder_folder, ortho, scaled):
    part = columns(
        kit.build(encoder_folder, ortho, tmp_path / "index", Region.disc(kit.CENTRE_DEG, 150.0), scales=[1, 2, 4])
    )
    whole = columns(scaled)
    codes = whole["aerial"][np.isin(whole["cell"], part["cell"])]
    np.testing.assert_allclose(part["aerial"].astype(np.float32), codes.astype(np.float32), atol=ATOL)


def test_a_build_that_was_cut_off_among_larger_chips_goes_on_there(
    tmp_path, encoder_folder, ortho, scaled, monkeypatch
):
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", 4)
    encoder, out = CrossViewEncoder.load(encoder_folder), tmp_path / "index"
    config = settings_for(encoder_folder, ortho, out, scales=[1, 2, 4])
    first = scaled.manifest.shards[0]
    source = Counted(tiles.open_source(ortho), encoder.aerial.gsd_m, stop_at=first.rows + first.skipped + 6)
    with pytest.raises(KeyboardInterrupt):
        build_index(encoder, source, None, out, config)
    before = source.chips
    assert before[2] >= 6
    assert before[4] == 0
    other = settings_for(encoder_folder, ortho, out, scales=[1, 2])
    with pytest.raises(ConfigError, match="unfinished build with another scales"):
        build_index(encoder, source, None, out, other)
    source = Counted(tiles.open_source(ortho), encoder.aerial.gsd_m)
    index = build_index(encoder, source, None, out, config)
    assert_same(index, scaled)
    rim = [around(store.open_shard(index.path, entry).read("cell"), 15) for entry in index.manifest.shards]
    assert source.chips[1] + before[1] == len(scaled) + scaled.manifest.n_skipped, "no small chip is cut twice"
    assert source.chips[2] == sum(map(len, rim)) - 4, "nor is the block that was finished"
    assert not (out / "build").exists()


# -- indexes that know their scales ------------------------------------------------------------------------------------


def test_what_is_added_has_the_scales_of_the_index(tmp_path, kit, encoder_folder, index, scaled, capsys):
    newer = kit.write_ortho(tmp_path / "newer.tif", kit.texture(500, seed=4))
    later = tmp_path / "later.yaml"
    later.write_text(f"sources:\n- uri: {newer}\n  date: 2021\n")
    assert main(["index", "add", str(index), "--imagery", str(later), "--device", "cpu"]) == 0
    alone, both = kit.build(encoder_folder, later, tmp_path / "alone", scales=[1, 2, 4]), CellIndex.open(index)
    rows, new = columns(both), columns(alone)
    fresh = rows["date"] == 20210000
    assert np.array_equal(rows["cell"][fresh], new["cell"])
    np.testing.assert_allclose(rows["aerial"][fresh].astype(np.float32), new["aerial"].astype(np.float32), atol=ATOL)
    assert np.array_equal(rows["aerial"][~fresh], columns(scaled)["aerial"])
    assert both.manifest.scales == [1, 2, 4]
    assert both.verify() == []
    capsys.readouterr()
    assert main(["index", "info", str(index)]) == 0
    assert json.loads(capsys.readouterr().out)["scales"] == [1, 2, 4]


def test_indexes_of_other_scales_are_not_merged(tmp_path, index, index_folder, capsys):
    assert main(["index", "merge", str(index), str(index_folder), "--out", str(tmp_path / "out")]) == 2
    assert "differ in their scales; only indexes alike can be merged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    shutil.copytree(index, tmp_path / "copy")
    assert main(["index", "merge", str(index), str(tmp_path / "copy"), "--out", str(tmp_path / "out")]) == 0
    assert CellIndex.open(tmp_path / "out").manifest.scales == [1, 2, 4]


def test_scales_are_a_flag(tmp_path, encoder_folder, ortho, kit, capsys):
    region = tmp_path / "region.geojson"
    region.write_text(json.dumps(Region.disc(kit.CENTRE_DEG, 50.0).to_geojson()))
    words = ["index", "build", "--encoder", str(encoder_folder), "--imagery", str(ortho), "--region", str(region)]
    assert main([*words, "--scales", "1", "2", "--device", "cpu", "--out", str(tmp_path / "index")]) == 0
    assert CellIndex.open(tmp_path / "index").manifest.scales == [1, 2]
