"""Bands, masks, overviews, dates and defects of single rasters."""

import shutil
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.shutil import copy as rasterio_copy

import tiles
from tiles.bands import alpha_holds_imagery, stretch_range

PLACE = (34.0, -117.0)
SIZE = 64


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """A warning that no test expects is a defect."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", tiles.TilesWarning)
        yield


@pytest.fixture
def half():
    """Colours, and a mask that leaves out the western half."""
    data = np.random.default_rng(0).integers(1, 255, (3, SIZE, SIZE), dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, SIZE // 2 :] = 255
    return data, mask


def chip_of(path, **options):
    return tiles.open_source(path).chip(PLACE, **({"size_px": 40, "gsd_m": 1.0, "heading_deg": -1.03} | options))


def assert_eastern_half(chip):
    """Convergence at this place turns the grid by a degree and a half: leave the middle columns out."""
    assert chip.valid[:, 23:].all()
    assert not chip.valid[:, :17].any()
    assert not chip.pixels[~chip.valid].any()
    assert (chip.pixels[chip.valid] > 0).all()  # no dark seam: the smallest value is 1


def test_alpha(tmp_path, write_array, half):
    data, mask = half
    path = write_array(tmp_path / "a.tif", np.concatenate([data, mask[None]]), photometric="RGB", alpha="YES")
    assert_eastern_half(chip_of(path))


def test_colours_do_not_bleed_over_masks(tmp_path, write_array, half):
    """What lies under the mask, here white, has no weight in the pixels beside it."""
    _, mask = half
    data = np.where(mask[None] > 0, 50, 255).astype(np.uint8).repeat(3, 0)
    path = write_array(tmp_path / "a.tif", np.concatenate([data, mask[None]]), photometric="RGB", alpha="YES")
    chip = chip_of(path, heading_deg=20.0)
    assert (chip.pixels[chip.valid] == 50).all()
    assert 0.3 < chip.valid_fraction < 0.7


@pytest.mark.parametrize("internal", [True, False])
def test_mask_band(tmp_path, write_array, half, internal):
    data, mask = half
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_array(tmp_path / "a.tif", data, after=lambda dataset: dataset.write_mask(mask))
    assert (tmp_path / "a.tif.msk").exists() is not internal
    assert_eastern_half(chip_of(path))


def test_external_mask_without_overviews_is_not_lost(tmp_path, write_array):
    """Overviews that know nothing of the mask must not be used."""
    data = np.full((3, 256, 256), 90, np.uint8)
    mask = np.zeros((256, 256), np.uint8)
    mask[:, 128:] = 255
    path = write_array(tmp_path / "a.tif", data, after=lambda d: d.build_overviews([2, 4], Resampling.nearest))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    assert_eastern_half(chip_of(path, gsd_m=4.0))


def test_nodata(tmp_path, write_array, half):
    data, mask = half
    data = np.where(mask[None] > 0, data, 0).astype(np.uint8)
    assert_eastern_half(chip_of(write_array(tmp_path / "a.tif", data, nodata=0)))


def test_nodata_in_one_band_only_is_a_colour(tmp_path, write_array):
    data = np.full((3, SIZE, SIZE), 200, np.uint8)
    data[2] = 0
    chip = chip_of(write_array(tmp_path / "a.tif", data, nodata=0))
    assert chip.valid.all() and (chip.pixels == [200, 200, 0]).all()


def test_nan_is_never_valid(tmp_path, write_array, half):
    data, mask = half
    with pytest.warns(tiles.ValueRangeWarning, match=r"a\.tif.*float32.*value_range"):
        path = write_array(tmp_path / "a.tif", np.where(mask[None] > 0, data / np.float32(10) + 9, np.float32(np.nan)))
        chip = chip_of(path)
    assert chip.valid[:, 23:].all() and not chip.valid[:, :17].any()


def test_palette_is_expanded_before_it_is_resampled(tmp_path, write_array):
    """Between the colours of entries 1 and 3 lies their mixture, never entry 2; entry 0 is transparent."""
    index = np.ones((1, SIZE, SIZE), np.uint8)
    index[0, :, 32:] = 3
    index[0, :20] = 0
    colours = {0: (9, 9, 9, 0), 1: (200, 0, 0, 255), 2: (0, 255, 0, 255), 3: (0, 0, 200, 255)}
    path = write_array(tmp_path / "a.png", index, driver="PNG", after=lambda d: d.write_colormap(1, colours))
    chip = chip_of(path, heading_deg=10.0)
    red, green, blue = np.moveaxis(chip.pixels[chip.valid].astype(int), -1, 0)
    assert not green.any()
    assert (np.abs(red + blue - 200) <= 1).all()
    assert ((red > 20) & (red < 180)).any()
    assert 0.6 < chip.valid_fraction < 0.9


def test_grey_and_grey_with_alpha(tmp_path, write_array, half):
    data, mask = half
    grey = chip_of(write_array(tmp_path / "a.tif", data[:1]))
    assert (grey.pixels == grey.pixels[..., :1]).all() and grey.valid.all()
    path = write_array(tmp_path / "b.tif", np.stack([data[0], mask]), photometric="MINISBLACK", alpha="YES")
    assert_eastern_half(chip_of(path))


def test_bands_are_chosen_by_their_tags(tmp_path, write_array):
    data = np.full((5, SIZE, SIZE), 0, np.uint8) + np.arange(10, 60, 10, dtype=np.uint8)[:, None, None]
    assert (chip_of(write_array(tmp_path / "untagged.tif", data)).pixels == [10, 20, 30]).all()

    def tag(dataset):
        dataset.colorinterp = [ColorInterp[name] for name in ("blue", "green", "red", "undefined", "undefined")]

    assert (chip_of(write_array(tmp_path / "bgr.tif", data, after=tag)).pixels == [30, 20, 10]).all()


def test_wide_values_are_stretched_by_one_range(tmp_path, write_array):
    data = np.linspace(1000, 3000, SIZE * SIZE).reshape(1, SIZE, SIZE).astype(np.uint16)
    with pytest.warns(tiles.ValueRangeWarning, match=r"a\.tif: uint16.*\[1019\.\d+, 2979\.\d+\]"):
        chip = chip_of(write_array(tmp_path / "a.tif", data))
    assert chip.pixels.min() < 60 and chip.pixels.max() > 195
    manifest = tmp_path / "m.yaml"
    manifest.write_text("{uri: a.tif, value_range: [0, 4000]}")
    expected = np.rint(data[0, 32, 32] / 4000 * 255)
    assert abs(int(chip_of(manifest, size_px=1).pixels[0, 0, 0]) - expected) <= 2


def test_signed_values_with_nodata(tmp_path, write_array, half):
    _, mask = half
    data = np.where(mask[None] > 0, -500, -32768).astype(np.int16)
    data[0, :, 48:] = 500
    with pytest.warns(tiles.ValueRangeWarning, match=r"\[-500, 500\]"):
        chip = chip_of(write_array(tmp_path / "a.tif", data, nodata=-32768))
    assert chip.valid[:, 23:].all() and not chip.valid[:, :17].any()
    assert set(np.unique(chip.pixels[:, 24:30])) == {0} and chip.pixels[:, -1].min() == 255


def test_wide_alpha(tmp_path, write_array, half):
    data, mask = half
    wide = np.concatenate([data, mask[None]]).astype(np.uint16) * 257
    path = write_array(tmp_path / "a.tif", wide, photometric="RGB", alpha="YES")
    with pytest.warns(tiles.ValueRangeWarning):
        chip = chip_of(path)
    assert chip.valid[:, 23:].all() and not chip.valid[:, :17].any()


def test_stretch_of_nothing_and_of_one_value():
    assert stretch_range(np.zeros(0, np.float32)) == (0.0, 1.0)
    assert stretch_range(np.full(9, 7.0, np.float32)) == (7.0, 8.0)


# near-infrared tagged as alpha


def near_infrared(shape, low=10, high=240, seed=1):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


def test_near_infrared_tagged_as_alpha_does_not_mask(tmp_path, write_array, half):
    data, _ = half
    path = write_array(
        tmp_path / "nir.tif", np.concatenate([data, near_infrared((1, SIZE, SIZE))]), photometric="RGB", alpha="YES"
    )
    with pytest.warns(tiles.FakeAlphaWarning, match=r"nir\.tif.*alpha: true"):
        assert chip_of(path).valid.all()
    for said, expected in [("true", False), ("false", True)]:
        (tmp_path / "m.yaml").write_text(f"{{uri: nir.tif, alpha: {said}}}")
        assert chip_of(tmp_path / "m.yaml").valid.all() == expected


def test_smooth_dark_near_infrared_over_water(tmp_path, write_array, half):
    data, _ = half
    path = write_array(
        tmp_path / "w.tif", np.concatenate([data, near_infrared((1, SIZE, SIZE), 2, 5)]), photometric="RGB", alpha="YES"
    )
    with pytest.warns(tiles.FakeAlphaWarning):
        assert chip_of(path).valid.all()


@pytest.mark.parametrize("kind", ["binary", "feathered", "antialiased", "empty", "half transparent", "lossy"])
def test_real_alpha_is_believed(kind):
    distance = np.hypot(*(np.mgrid[:128, :128] - 63.5))
    alpha = {
        "binary": np.where(distance < 50, 255.0, 0.0),
        "feathered": np.clip((60 - distance) * 8, 0, 255),
        "antialiased": np.clip((50 - distance) * 255, 0, 255),
        "empty": np.zeros((128, 128)),
        "half transparent": np.full((128, 128), 120.0),
        "lossy": np.clip(255 - near_infrared((128, 128), 0, 6).astype(float), 0, 255),
    }[kind].astype(np.float32)
    rgb = near_infrared((3, 128, 128))
    assert not alpha_holds_imagery([(np.floor(alpha), rgb)])


# levels


def test_overviews_are_read_and_agree(tmp_path, make):
    """Overviews filled with a mark are what a coarse chip shows, and what a fine one does not."""
    path, _ = make(tmp_path / "a.tif", overviews=[2, 4])
    for number, mark in [(0, 20), (1, 40)]:
        with rasterio.open(path, "r+", overview_level=number) as level:
            level.write(np.full((3, level.height, level.width), mark, np.uint8))
    marks = {gsd_m: np.unique(chip_of(path, gsd_m=gsd_m).pixels).tolist() for gsd_m in (2.0, 3.0, 3.99, 4.0, 7.0)}
    assert marks == {2.0: [20], 3.0: [20], 3.99: [40], 4.0: [40], 7.0: [40]}
    assert len(np.unique(chip_of(path, gsd_m=1.9).pixels)) > 10


@pytest.mark.parametrize("gsd_m", [2.0, 3.3, 7.0])
def test_no_aliasing_without_overviews(tmp_path, write_array, gsd_m):
    """The finest checkerboard, seen from afar, is grey."""
    board = np.indices((400, 400)).sum(0) % 2 * np.uint8(255)
    chip = chip_of(write_array(tmp_path / "a.tif", board[None].astype(np.uint8)), gsd_m=gsd_m, heading_deg=30.0)
    assert abs(chip.pixels.mean() - 127.5) < 3
    assert chip.pixels.std() < 30


def test_huge_windows_are_read_in_parts(tmp_path, make, monkeypatch):
    path, _ = make(tmp_path / "a.tif")
    whole = chip_of(path, gsd_m=8.0, heading_deg=40.0)
    monkeypatch.setattr("tiles.warp._MAX_WINDOW_PX", 2000)
    monkeypatch.setattr("tiles.warp._STRIP_POINTS", 200)
    parts = chip_of(path, gsd_m=8.0, heading_deg=40.0)
    assert (whole.pixels == parts.pixels).all() and (whole.valid == parts.valid).all()
    assert whole.valid.any()


# facts about files


@pytest.mark.parametrize(
    ("tags", "date"),
    [
        ({"TIFFTAG_DATETIME": "2018:07:16 06:06:23"}, "2018-07-16"),
        ({"TIFFTAG_DATETIME": "2019:01:01 00:00:00", "ACQUISITION_DATE": "2018-07-16"}, "2018-07-16"),
        ({"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None),
        ({"TIFFTAG_DATETIME": "yesterday"}, None),
        ({}, None),
    ],
)
def test_dates_come_from_tags_or_not_at_all(tmp_path, write_array, half, tags, date):
    path = write_array(tmp_path / "a.tif", half[0], after=lambda dataset: dataset.update_tags(**tags))
    source = tiles.open_source(path)
    assert source.date == date
    assert source.chip(PLACE, size_px=8, gsd_m=1.0).date == date
    assert source.licence is None and source.attribution is None and list(source.skipped) == []


def test_parts_describe_the_raster(tmp_path, make):
    path, _ = make(tmp_path / "a.tif")
    (info,) = tiles.open_source(path).parts()
    assert (info.uri, info.crs, info.date) == (str(path), "EPSG:26911", None)
    assert info.gsd_m == pytest.approx(1.0, rel=1e-3)


def test_missing_file(tmp_path):
    with pytest.raises(tiles.SourceNotFoundError, match=r"nowhere\.tif"):
        tiles.open_source(tmp_path / "nowhere.tif")


def test_not_a_raster(tmp_path):
    (tmp_path / "a.tif").write_text("hello")
    with pytest.raises(tiles.UnreadableRasterError, match=r"a\.tif") as caught:
        tiles.open_source(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


def test_truncated_files_are_found_when_opened(tmp_path, make):
    path, _ = make(tmp_path / "a.tif")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(tiles.UnreadableRasterError, match=r"a\.tif.*truncated|a\.tif.*cannot be read"):
        tiles.open_source(path)


def test_damage_inside_is_found_when_read(tmp_path, make):
    path, _ = make(tmp_path / "a.tif")
    source = tiles.open_source(path)
    content = bytearray(path.read_bytes())
    content[2000:-2000] = bytes(len(content) - 4000)
    path.write_bytes(content)
    with pytest.raises(tiles.UnreadableRasterError, match=r"a\.tif"):
        source.chip(PLACE, size_px=200, gsd_m=1.0)


def test_no_crs(tmp_path, make):
    path, _ = make(tmp_path / "a.tif")
    bare = tmp_path / "bare.tif"
    with rasterio.open(path) as dataset:
        profile = dataset.profile | {"crs": None}
        with rasterio.open(bare, "w", **profile) as copy:
            copy.write(dataset.read())
    with pytest.raises(tiles.MissingCRSError, match=r"bare\.tif.*crs:"):
        tiles.open_source(bare)
    (tmp_path / "m.yaml").write_text("{uri: bare.tif, crs: 'EPSG:26911'}")
    assert (chip_of(tmp_path / "m.yaml").pixels == chip_of(path).pixels).all()


def test_no_geotransform_and_local_crs(tmp_path, write_array, half):
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        plain = write_array(tmp_path / "a.tif", half[0], transform=rasterio.Affine.identity())
        with pytest.raises(tiles.MissingCRSError, match=r"a\.tif.*geotransform"):
            tiles.open_source(plain)
    local = write_array(tmp_path / "b.tif", half[0])
    with rasterio.open(local, "r+") as dataset:
        dataset.crs = 'LOCAL_CS["site",UNIT["metre",1]]'
    with pytest.raises(tiles.MissingCRSError, match=r"b\.tif"):
        tiles.open_source(local)


def test_complex_numbers_are_refused(tmp_path, write_array):
    path = write_array(tmp_path / "a.tif", np.ones((1, 8, 8), np.complex64))
    with pytest.raises(tiles.UnsupportedSourceError, match=r"a\.tif.*complex"):
        tiles.open_source(path)


def test_vrt(tmp_path, make):
    path, _ = make(tmp_path / "a.tif")
    shutil.copy(path, tmp_path / "copy.tif")
    rasterio_copy(path, tmp_path / "a.vrt", driver="VRT")
    assert (chip_of(tmp_path / "a.vrt").pixels == chip_of(path).pixels).all()


# real files


@pytest.mark.parametrize("name", ["cog_hirise_mars.tif", "cog_nonearth.tif"])
def test_real_other_bodies(real_data, name):
    with pytest.raises(tiles.NotOnEarthError, match=name):
        tiles.open_source(real_data / "rasters" / name)


@pytest.mark.parametrize(
    ("name", "dtype_warns", "full"),
    [
        ("clp.tif", False, False), ("cog_cmap.tif", False, False), ("cog_dateline.tif", True, True),
        ("cog_gcps.tif", True, True), ("cog_int16.tif", True, False), ("cog_nodata.tif", True, False),
        ("cog_rgb.tif", False, True), ("cog_rgb_mask.tif", False, False), ("cog_rgba.tif", False, False),
        ("noweb.tif", True, True), ("pix4d_alpha_nodata.tif", False, False),
        ("hro_sources/colorado/201404_13SED190110_201404_0x1500m_CL_1_alpha.tif", False, False),
        ("hro_sources/colorado/201404_13SED190110_201404_0x1500m_CL_1_mask.tif", False, False),
        ("hro_sources/colorado/201404_13SED190110_201404_0x1500m_CL_1_nodata.tif", False, False),
    ],
)  # fmt: skip
def test_real_edge_cases(real_data, name, dtype_warns, full):
    """Valid pixels of a chip over the whole raster are as many as GDAL's own mask says; only wide values warn."""
    path = real_data / "rasters" / name
    if dtype_warns:
        with pytest.warns(tiles.ValueRangeWarning, match=name):
            source = tiles.open_source(path)
    else:
        source = tiles.open_source(path)
    with rasterio.open(path) as dataset:
        share = (dataset.dataset_mask() > 0).mean()
        width, height = dataset.width, dataset.height
    assert (share == 1.0) == full
    gsd_m = source.native_gsd_m * max(width, height) * 1.6 / 512
    west, south, east, north = source.coverage().bounds
    lon = 180.0 if name == "cog_dateline.tif" else (west + east) / 2
    chip = source.chip(((south + north) / 2, lon), size_px=512, gsd_m=gsd_m)
    area_px = width * height * source.native_gsd_m**2 / gsd_m**2
    assert chip.valid.sum() == pytest.approx(share * area_px, rel=0.04)


@pytest.mark.parametrize("name", ["riverside_2016_3", "santa_monica_2018_0"])
def test_real_near_infrared_shows_the_same_as_its_rgb_crop(real_data, name):
    city, year, _ = name.rsplit("_", 2)
    with pytest.warns(tiles.FakeAlphaWarning, match=name):
        four = tiles.open_source(real_data / "naip" / "original_4band" / f"{name}.tif")
    three = tiles.open_source(real_data / "naip" / city / year / f"{name}.tif")
    middle = four.coverage().centroid
    chips = [s.chip((middle.y, middle.x), size_px=100, gsd_m=0.6, heading_deg=45.0) for s in (four, three)]
    assert all(chip.valid.all() for chip in chips)
    assert np.abs(chips[0].pixels.astype(int) - chips[1].pixels).mean() < 4.0  # one is JPEG


def test_real_fourth_band_without_a_tag(real_data):
    source = tiles.open_source(real_data / "naip" / "original_4band" / "santa_monica_2020_5.tif")
    middle = source.coverage().centroid
    assert source.chip((middle.y, middle.x), size_px=100, gsd_m=0.6).valid.all()
