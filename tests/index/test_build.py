"""From a region to an index: every cell once, each code that of the chip at its centre, nothing overwritten unasked."""

import shutil
import warnings

import numpy as np
import pytest
import shapely

import tiles
from geoview.config import AerialView, BuildConfig
from geoview.embed import embed
from geoview.errors import ConfigError, EncoderError, IndexNotFoundError, OutputExistsError, RegionError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import encoding, store
from geoview.index.build import build_index
from geoview.index.cell_index import CellIndex
from geoview.models.encoder import CrossViewEncoder


class Watched:
    """An imagery source that counts its chips, and stops at one of them as Ctrl-C does."""

    def __init__(self, source, stop_at=None):
        self._source, self._stop_at, self.chips = source, stop_at, 0

    def __getattr__(self, name):
        return getattr(self._source, name)

    def chip(self, latlon_deg, **geometry):
        self.chips += 1
        if self.chips == self._stop_at:
            raise KeyboardInterrupt
        return self._source.chip(latlon_deg, **geometry)


def columns(index):
    """Returns all rows of an index, one array a column."""
    opened = [store.open_shard(index.path, entry) for entry in index.manifest.shards]
    return {
        name: np.concatenate([shard.read(name) for shard in opened])
        for name in ("aerial", "cell", "date", "coverage", "skipped_cell", "skipped_coverage")
    }


def settings_for(encoder_folder, imagery, out, **changes):
    given = {"encoder": str(encoder_folder), "imagery": [str(imagery)], "out": str(out), "device": "cpu"}
    return BuildConfig(**(given | {"batch_size": 16, "num_workers": 1} | changes))


@pytest.fixture(scope="module")
def disc(kit):
    """Ground in all four shards."""
    return Region.disc(kit.CENTRE_DEG, 250.0, name="disc.geojson")


def test_every_cell_of_the_region_is_a_row_or_skipped_once(tmp_path, kit, encoder_folder, ortho):
    # Reaches beyond the imagery in the east.
    south, west = kit.CENTRE_DEG - [0.002, 0.002]
    region = Region.from_geometry(shapely.box(west, south, west + 0.015, south + 0.004))
    index = kit.build(encoder_folder, ortho, tmp_path / "index", region)
    rows = columns(index)
    wanted = region.cells(16)
    assert np.array_equal(np.sort(np.concatenate([rows["cell"], rows["skipped_cell"]])), wanted)
    assert len(index) == len(rows["cell"]) > 10
    assert index.manifest.n_skipped == len(rows["skipped_cell"]) > 5
    assert np.array_equal(index.cell_ids(), rows["cell"])
    assert np.array_equal(index.skipped_cell_ids(), rows["skipped_cell"])
    assert (np.diff(rows["cell"].astype(object)) > 0).all()
    assert 0.0 in rows["skipped_coverage"], "some cells have no imagery at all"
    assert index.verify() == []


def test_without_a_region_the_index_covers_the_imagery(index_folder, ortho):
    index = CellIndex.open(index_folder)
    coverage = Region.from_geometry(tiles.open_source(ortho).coverage())
    held = np.concatenate([index.cell_ids(), index.skipped_cell_ids()])
    assert np.array_equal(np.sort(held), coverage.cells(16))


def test_a_region_over_the_corner_of_four_parents_has_four_shards(index_folder):
    index = CellIndex.open(index_folder)
    parents = cells.from_tokens([entry.parent for entry in index.manifest.shards])
    assert len(parents) == 4
    assert (cells.levels(parents) == 8).all()
    assert (np.diff(parents.astype(object)) > 0).all()
    for entry, parent in zip(index.manifest.shards, parents, strict=True):
        assert (cells.parents(store.open_shard(index.path, entry).read("cell"), 8) == parent).all()
        assert entry.rows > 0


@pytest.mark.parametrize("level", [15, 18, 20])
def test_other_levels(tmp_path, kit, encoder_folder, ortho, level):
    region = Region.disc(kit.CENTRE_DEG, {15: 400.0, 18: 60.0, 20: 20.0}[level])
    index = kit.build(encoder_folder, ortho, tmp_path / "index", region, level=level)
    assert index.level == level
    assert np.array_equal(index.cell_ids(), region.cells(level))
    assert {cells.levels(cells.from_tokens([s.parent]))[0] for s in index.manifest.shards} == {level - 8}


def test_a_code_is_the_embedding_of_the_chip_at_the_cells_centre(index_folder, encoder_folder, ortho, kit):
    rows = columns(CellIndex.open(index_folder))
    encoder, source = CrossViewEncoder.load(encoder_folder), tiles.open_source(ortho)
    view = encoder.aerial
    chips = [source.chip(centre, size_px=view.size_px, gsd_m=view.gsd_m) for centre in cells.centers_deg(rows["cell"])]
    vectors = np.stack(list(embed(encoder, chips, settings_for(encoder_folder, ortho, "unused"), seen="aerial")))
    assert rows["aerial"].dtype == np.float16
    # Half a unit in the last place of numbers up to 1, and what the batches of a convolution may differ by.
    np.testing.assert_allclose(rows["aerial"].astype(np.float32), vectors, atol=2.5e-4 + 1e-5)
    np.testing.assert_allclose(rows["coverage"], [c.valid_fraction for c in chips], atol=5e-4)
    others = np.roll(vectors, 1, axis=0)
    assert (np.abs(rows["aerial"] - others).max(axis=1) > 0.01).all(), "the encoder tells no two chips apart"


@pytest.mark.parametrize("min_coverage", [0.05, 0.7, 1.0])
def test_min_coverage_is_respected(tmp_path, kit, encoder_folder, ortho, min_coverage):
    south, west = kit.CENTRE_DEG - [0.001, 0.008]
    strip = Region.from_geometry(shapely.box(west, south, west + 0.005, south + 0.002))
    index = kit.build(encoder_folder, ortho, tmp_path / "index", strip, min_coverage=min_coverage)
    rows = columns(index)
    source, view = tiles.open_source(ortho), index.chip

    def coverage(cell):
        try:
            centre = cells.centers_deg(np.array([cell]))[0]
            return source.chip(centre, size_px=view.size_px, gsd_m=view.gsd_m).valid_fraction
        except tiles.OutsideCoverageError:
            return 0.0

    shares = {cell: coverage(cell) for cell in strip.cells(16).tolist()}
    assert set(rows["cell"].tolist()) == {cell for cell, share in shares.items() if share >= min_coverage}
    assert 0 < len(rows["cell"]) < len(shares)
    told = dict(zip(rows["skipped_cell"].tolist(), rows["skipped_coverage"].tolist(), strict=True))
    assert all(abs(shares[cell] - share) < 1e-3 for cell, share in told.items())


def test_the_manifest_says_what_was_built(index_folder, encoder_folder, ortho):
    manifest = CellIndex.open(index_folder).manifest
    encoder = CrossViewEncoder.load(encoder_folder)
    assert (manifest.level, manifest.dim, manifest.min_coverage) == (16, encoder.dim, 0.5)
    assert AerialView(**manifest.chip) == encoder.aerial
    assert manifest.encoder["fingerprint"] == encoder.fingerprint()
    assert manifest.imagery == [str(ortho)]
    assert [s["uri"] for s in manifest.sources] == [str(ortho)]
    assert (manifest.prototypes, manifest.fusion, manifest.calibration) == (None, None, None)
    assert manifest.skipped_sources == manifest.skipped_photos == []
    assert CellIndex.open(index_folder).encoder().fingerprint() == encoder.fingerprint()
    names = {p.name for p in index_folder.iterdir()}
    assert names == {"manifest.json", "commits", "encoder", "shards"}, "a finished build leaves no journal"


def test_imagery_given_by_a_relative_path_is_found_from_anywhere(tmp_path, kit, encoder_folder, ortho, monkeypatch):
    monkeypatch.chdir(ortho.parent)
    index = kit.build(encoder_folder, ortho.name, tmp_path / "index", Region.disc(kit.CENTRE_DEG, 50.0))
    assert index.manifest.imagery == [str(ortho)]


def test_a_region_without_imagery_is_refused(tmp_path, kit, encoder_folder, ortho):
    elsewhere = Region.disc([48.85, 2.35], 500.0, name="paris.geojson")
    with pytest.raises(RegionError, match=r"paris\.geojson.*ortho\.tif"):
        kit.build(encoder_folder, ortho, tmp_path / "index", elsewhere)
    assert not (tmp_path / "index").exists()


def test_nothing_is_overwritten_unasked(tmp_path, kit, encoder_folder, ortho, index_folder, disc):
    before = {p: p.read_bytes() for p in index_folder.rglob("*") if p.is_file()}
    with pytest.raises(OutputExistsError, match="--overwrite"):
        kit.build(encoder_folder, ortho, index_folder, disc)
    assert {p: p.read_bytes() for p in index_folder.rglob("*") if p.is_file()} == before

    for overwrite in (False, True):
        file = tmp_path / "file"
        file.write_text("mine")
        with pytest.raises(OutputExistsError, match="is a file"):
            kit.build(encoder_folder, ortho, file, disc, overwrite=overwrite)
        assert file.read_text() == "mine"
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / "thesis.tex").write_text("mine")
        with pytest.raises(OutputExistsError, match="other files"):
            kit.build(encoder_folder, ortho, folder, disc, overwrite=overwrite)
        assert [p.name for p in folder.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert len(kit.build(encoder_folder, ortho, tmp_path / "empty", disc)) > 0


def test_overwriting_replaces_shards_and_encoder(tmp_path, kit, encoder_folder, ortho, index_folder, disc):
    out = tmp_path / "index"
    shutil.copytree(index_folder, out)
    old = CellIndex.open(out).manifest
    other = kit.make_encoder(seed=1).save(tmp_path / "other")
    index = kit.build(other, ortho, out, disc, overwrite=True)
    new = index.manifest
    assert new.encoder["fingerprint"] != old.encoder["fingerprint"]
    assert [p.name for p in (out / "encoder").iterdir()] == [new.encoder["fingerprint"]]
    folders = {p.relative_to(out) for p in out.glob("shards/*/*")}
    assert folders == {entry.folder for entry in new.shards}
    assert folders.isdisjoint(entry.folder for entry in old.shards)
    assert np.array_equal(index.cell_ids(), disc.cells(16))
    assert CellIndex.open(out).verify() == []


def test_overwriting_with_the_same_encoder_does_not_touch_it(tmp_path, kit, encoder_folder, ortho, index_folder, disc):
    """A kill while weights are written over would leave the index without an encoder."""
    out = tmp_path / "index"
    shutil.copytree(index_folder, out)
    (folder,) = (out / "encoder").iterdir()
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}
    index = kit.build(encoder_folder, ortho, out, disc, overwrite=True)
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()} == before
    assert index.verify() == []


@pytest.mark.parametrize("damage", ["truncated", "another"])
def test_a_damaged_encoder_is_replaced(tmp_path, kit, encoder_folder, ortho, index_folder, disc, damage):
    out = tmp_path / "index"
    shutil.copytree(index_folder, out)
    (folder,) = (out / "encoder").iterdir()
    if damage == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(EncoderError):
            CellIndex.open(out).encoder()
    else:
        kit.make_encoder(seed=1).save(folder, overwrite=True)
    assert kit.build(encoder_folder, ortho, out, disc, overwrite=True).verify() == []


def cut_off(encoder_folder, ortho, out, region, monkeypatch, *, after, **changes):
    """Stops a build at a chip, in blocks of 8 cells."""
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", 8)
    source = Watched(tiles.open_source(ortho), stop_at=after)
    config = settings_for(encoder_folder, ortho, out, **changes)
    with pytest.raises(KeyboardInterrupt):
        build_index(CrossViewEncoder.load(encoder_folder), source, region, out, config)
    with pytest.raises(IndexNotFoundError, match="not finished"):
        CellIndex.open(out)


def test_an_unfinished_build_goes_on_where_it_stopped(tmp_path, encoder_folder, ortho, index_folder, monkeypatch):
    out = tmp_path / "index"
    cut_off(encoder_folder, ortho, out, None, monkeypatch, after=50)
    source = Watched(tiles.open_source(ortho))
    config = settings_for(encoder_folder, ortho, out)
    index = build_index(CrossViewEncoder.load(encoder_folder), source, None, out, config)
    whole = CellIndex.open(index_folder)
    total = len(whole) + whole.manifest.n_skipped
    # Of the 49 chips before the stop, the blocks that were finished are not cut again. In each of the four shards the
    # last block is shorter than eight.
    assert total - 49 <= source.chips <= total - 49 + 8
    found, wanted = columns(index), columns(whole)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted if name != "aerial")
    np.testing.assert_allclose(found["aerial"].astype(np.float32), wanted["aerial"].astype(np.float32), atol=6e-4)
    assert not (out / "build").exists()


@pytest.mark.parametrize("many", [1, 20])
def test_processes_cut_the_chips_of_many_cells(tmp_path, kit, encoder_folder, ortho, index_folder, monkeypatch, many):
    monkeypatch.setattr(encoding, "_MANY_CHIPS", many)
    monkeypatch.setattr(encoding, "_STRETCH_CHIPS", 5)
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", 8)
    start, started = tiles.ChipProcesses.__init__, []

    def counted(self, *args):
        start(self, *args)
        started.extend(self._processes)

    monkeypatch.setattr(tiles.ChipProcesses, "__init__", counted)
    index = kit.build(encoder_folder, ortho, tmp_path / "index", num_workers=2)
    assert len(started) == 2, "they go on from shard to shard"
    assert all(process.poll() is not None for process in started), "and end with the build"
    found, wanted = columns(index), columns(CellIndex.open(index_folder))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted if name != "aerial")
    np.testing.assert_allclose(found["aerial"].astype(np.float32), wanted["aerial"].astype(np.float32), atol=6e-4)


def test_a_build_goes_on_after_a_process_of_its_has_died(
    tmp_path, kit, encoder_folder, ortho, index_folder, monkeypatch
):
    monkeypatch.setattr(encoding, "_MANY_CHIPS", 1)
    monkeypatch.setattr(encoding, "_STRETCH_CHIPS", 5)
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", 8)
    cut, asked = tiles.ChipProcesses.chips, []

    def counted(self, latlon_deg, *args):
        asked.append(len(latlon_deg))
        if len(asked) == 16:
            self._processes[0].kill()
        return cut(self, latlon_deg, *args)

    monkeypatch.setattr(tiles.ChipProcesses, "chips", counted)
    with pytest.raises(tiles.CutterEndedError, match="SIGKILL"):
        kit.build(encoder_folder, ortho, tmp_path / "index", num_workers=1, batch_size=4)
    before, whole = sum(asked[:15]), CellIndex.open(index_folder)
    index = kit.build(encoder_folder, ortho, tmp_path / "index", num_workers=1, batch_size=4)
    assert np.array_equal(index.cell_ids(), whole.cell_ids())
    again = sum(asked[16:])
    assert again < len(whole) + whole.manifest.n_skipped, "what was finished is not cut again"
    assert again + before >= len(whole) + whole.manifest.n_skipped


@pytest.mark.parametrize("key", ["level", "min_coverage", "region", "encoder", "imagery"])
def test_an_unfinished_build_with_other_settings_is_refused(tmp_path, kit, encoder_folder, ortho, monkeypatch, key):
    out, place = tmp_path / "index", kit.CENTRE_DEG + np.full(2, 0.003)
    region, settings = Region.disc(place, 150.0), {}
    cut_off(encoder_folder, ortho, out, region, monkeypatch, after=len(region.cells(16)))
    if key == "region":
        region = Region.disc(place, 180.0)
    elif key == "encoder":
        encoder_folder = kit.make_encoder(seed=1).save(tmp_path / "other")
    elif key == "imagery":
        ortho = shutil.copy(ortho, tmp_path / "copy.tif")
    else:
        settings = {"level": 17} if key == "level" else {"min_coverage": 0.9}
    with pytest.raises(ConfigError, match=f"unfinished build with another .*{key}.*--overwrite"):
        kit.build(encoder_folder, ortho, out, region, **settings)
    assert (out / "build" / "plan.json").exists()

    source, encoder = Watched(tiles.open_source(ortho)), CrossViewEncoder.load(encoder_folder)
    config = settings_for(encoder_folder, ortho, out, overwrite=True, **settings)
    index = build_index(encoder, source, region, out, config)
    assert source.chips == len(region.cells(config.level)), "nothing of the old build is used"
    assert np.array_equal(index.cell_ids(), region.cells(config.level))
    assert index.manifest.min_coverage == config.min_coverage
    assert index.manifest.encoder["fingerprint"] == encoder.fingerprint()
    assert index.verify() == []


def test_a_damaged_block_is_made_again(tmp_path, kit, encoder_folder, ortho, disc, monkeypatch):
    """Whatever a bit of the journal turns into: the block is read as it was, or not at all."""
    out = tmp_path / "index"
    # Four cells of the first shard: a block of three is finished, the second stops.
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", 3)
    source = Watched(tiles.open_source(ortho), stop_at=4)
    config = settings_for(encoder_folder, ortho, out)
    with pytest.raises(KeyboardInterrupt):
        build_index(CrossViewEncoder.load(encoder_folder), source, disc, out, config)
    (block,) = out.glob("build/*/*.npz")
    ids = disc.cells(16)[:3]
    sound = block.read_bytes()
    wanted = encoding._read_block(block, ids)
    assert len(wanted) == 3
    assert encoding._read_block(block, ids[:2]) is None
    unread = 0
    for at in range(0, len(sound), 3):
        block.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :])
        rows = encoding._read_block(block, ids)
        unread += rows is None
        assert rows is None or np.array_equal(rows.aerial, wanted.aerial)
    assert unread > 50
    for length in range(0, len(sound), 31):
        block.write_bytes(sound[:length])
        assert encoding._read_block(block, ids) is None
    index = kit.build(encoder_folder, ortho, out, disc)
    assert np.array_equal(index.cell_ids(), disc.cells(16))
    assert index.verify() == []


def test_a_broken_raster_is_named_and_skipped(tmp_path, kit, encoder_folder, ortho, disc):
    folder = tmp_path / "imagery"
    folder.mkdir()
    shutil.copy(ortho, folder / "sound.tif")
    (folder / "broken.tif").write_bytes(b"II*\0 this is no raster")
    with pytest.warns(tiles.SkippedRasterWarning, match=r"broken\.tif"):
        index = kit.build(encoder_folder, folder, tmp_path / "index", disc)
    (skipped,) = index.manifest.skipped_sources
    assert skipped["uri"] == str(folder / "broken.tif")
    assert "broken.tif" in skipped["reason"]
    assert [s["uri"] for s in index.manifest.sources] == [str(folder / "sound.tif")]
    assert np.array_equal(index.cell_ids(), disc.cells(16))


def test_a_raster_that_fails_half_way_stays_named_after_a_restart(
    tmp_path, kit, encoder_folder, ortho, disc, monkeypatch
):
    first = cells.centers_deg(disc.cells(16)[:1])[0]
    late = kit.write_ortho(tmp_path / "late.tif", kit.texture(100, seed=3), first, 1.0, compress="deflate")
    content = late.read_bytes()
    late.write_bytes(content[:2000] + b"\xff" * (len(content) - 2000))
    # The newest lies on top.
    imagery = tmp_path / "imagery.yaml"
    imagery.write_text(f"sources:\n- uri: {ortho}\n- uri: {late}\n  date: 2020\n")
    out = tmp_path / "index"
    monkeypatch.setattr(encoding, "_BLOCK_CELLS", 3)
    config = settings_for(encoder_folder, imagery, out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tiles.SkippedRasterWarning)
        source = Watched(tiles.open_source(imagery), stop_at=len(disc.cells(16)))
        assert source.skipped == [], "it can be opened, and fails when it is read"
        with pytest.raises(KeyboardInterrupt):
            build_index(CrossViewEncoder.load(encoder_folder), source, disc, out, config)
        again = tiles.open_source(imagery)
        index = build_index(CrossViewEncoder.load(encoder_folder), again, disc, out, config)
    assert again.skipped == [], "the block that met it is not cut again"
    assert [s["uri"] for s in index.manifest.skipped_sources] == [str(late)]


def test_rows_tell_the_date_of_their_imagery(tmp_path, kit, encoder_folder, ortho):
    newer = kit.write_ortho(tmp_path / "newer.tif", kit.texture(500, seed=2))
    manifest = tmp_path / "imagery.yaml"
    manifest.write_text(f"sources:\n- uri: {ortho}\n  date: 2018\n- uri: {newer}\n  date: 2020-06\n  licence: CC0\n")
    index = kit.build(encoder_folder, manifest, tmp_path / "index")
    rows = columns(index)
    assert {s["date"] for s in index.manifest.sources} == {"2018", "2020-06"}
    assert {s["licence"] for s in index.manifest.sources} == {None, "CC0"}
    footprint, half_m = tiles.open_source(newer).coverage(), index.chip.ground_size_m / 2
    seen = set()
    for cell, date in zip(rows["cell"], rows["date"], strict=True):
        chip = Region.disc(cells.centers_deg(np.array([cell]))[0], half_m * 2**0.5).geometry
        if footprint.contains(chip):
            assert date == 20200600
        elif not footprint.intersects(chip):
            assert date == 20180000
        else:
            continue
        seen.add(int(date))
    assert seen == {20200600, 20180000}


def test_memory_does_not_grow_with_the_region(tmp_path, encoder_folder, ortho, kit, monkeypatch):
    """Chips are cut at most two batches ahead of the encoder."""
    config = settings_for(encoder_folder, ortho, tmp_path / "index", batch_size=4)
    encoder = CrossViewEncoder.load(encoder_folder)
    source = Watched(tiles.open_source(ortho))
    ahead, embedded = [], 0
    forward = encoder.forward

    def counted(pixels, valid, *, seen):
        nonlocal embedded
        ahead.append(source.chips - embedded)
        embedded += len(pixels)
        return forward(pixels, valid, seen=seen)

    monkeypatch.setattr(encoder, "forward", counted)
    index = build_index(encoder, source, Region.disc(kit.CENTRE_DEG, 350.0), tmp_path / "index", config)
    assert embedded == len(index) > 30
    assert max(ahead) <= 4 + 2 * 4 + 1


def test_real_imagery(tmp_path, kit, encoder_folder, real_data):
    """Squares of 154 m, scattered over a city: few chips are whole, and every code finds its own row."""
    squares = sorted((real_data / "naip" / "riverside" / "2016").glob("*.tif"))[:8]
    if not squares:
        pytest.skip(f"no orthophotos of Riverside in {real_data}")
    folder = tmp_path / "imagery"
    folder.mkdir()
    for square in squares:
        (folder / square.name).symlink_to(square)
    index = kit.build(encoder_folder, folder, tmp_path / "index", min_coverage=0.3)
    rows = columns(index)
    source = tiles.open_source(folder)
    held = np.sort(np.concatenate([rows["cell"], rows["skipped_cell"]]))
    assert np.array_equal(held, Region.from_geometry(source.coverage()).cells(16))
    assert len(source.parts()) == len(squares) <= len(index)
    encoder, view = index.encoder(), index.chip
    chips = [source.chip(c, size_px=view.size_px, gsd_m=view.gsd_m) for c in cells.centers_deg(rows["cell"])]
    vectors = np.stack(list(embed(encoder, chips, settings_for(encoder_folder, folder, "unused"), seen="aerial")))
    hits = index.search(vectors, 1)
    assert np.array_equal(hits.cell_id[:, 0], rows["cell"])
    assert index.verify() == []
