from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyproj
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine

import tiles
from geoview.config import AerialView, AugmentConfig, ConditionsConfig, GroundView, PlanView
from geoview.data.pairs import PairTable
from geoview.data.pictures import PairPictures, Side, open_sides, stack_pairs
from geoview.data.views import StreetPhoto, View
from geoview.errors import ConfigError, PairTableError, UnreadableImageError

torch.set_num_threads(2)

HERE_DEG = (-33.9, -70.6)
AERIAL = AerialView(size_px=48, gsd_m=1.0)
GROUND = GroundView(width_px=96, height_px=32, fov_deg=360.0, vertical_fov_deg=90.0)
PLAN = PlanView(size_px=48, gsd_m=1.0)
STILL = {"turn": False, "flip": False}


def compass(bearing_deg):
    """Red and green are the sine and cosine of the bearing."""
    a = np.radians(bearing_deg)
    return np.stack([127.5 + 127 * np.sin(a), 127.5 + 127 * np.cos(a), np.full(np.shape(a), 90.0)], axis=-1)


def bearings_in(pixels):
    red, green = np.moveaxis(pixels.astype(float) - 127.5, -1, 0)[:2]
    return np.degrees(np.arctan2(red, green))


def between(a_deg, b_deg):
    return np.abs((a_deg - b_deg + 180) % 360 - 180)


def write_raster(path, colours):
    """A GeoTIFF of 1 m pixels whose colours are a function of metres (east, north) of HERE_DEG."""
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", "EPSG:32719", always_xy=True).transform(*HERE_DEG[::-1])
    half_px = 120
    # True north and the grid's differ by a degree or so; the colours follow true north.
    converged = np.radians(pyproj.Proj("EPSG:32719").get_factors(*HERE_DEG[::-1]).meridian_convergence)
    right, up = np.meshgrid(np.arange(240) + 0.5 - half_px, half_px - np.arange(240) - 0.5)
    east = right * np.cos(converged) + up * np.sin(converged)
    north = up * np.cos(converged) - right * np.sin(converged)
    data = np.rint(np.moveaxis(colours(east, north), -1, 0)).clip(0, 255).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=240, height=240, count=3, dtype="uint8", crs="EPSG:32719",
        transform=Affine(1, 0, x - half_px, 0, -1, y + half_px),
    ) as dataset:  # fmt: skip
        dataset.write(data)
    return tiles.open_source(path)


@pytest.fixture(scope="module")
def rose(tmp_path_factory):
    """The same compass in every kind of picture: colours tell true bearings from the middle."""
    folder = tmp_path_factory.mktemp("rose")

    def round_the_middle(east, north):
        return compass(np.degrees(np.arctan2(east, north)))

    offset = np.arange(480) + 0.5 - 240
    chip = round_the_middle(*np.meshgrid(offset, -offset))
    Image.fromarray(np.rint(chip).astype(np.uint8)).save(folder / "chip.png")
    for heading_deg in (0, 250):
        row = compass((np.arange(720) + 0.5) / 2 - 180 + heading_deg)
        pano = np.broadcast_to(np.rint(row).astype(np.uint8), (360, 720, 3))
        Image.fromarray(pano).save(folder / f"pano_{heading_deg}.png")
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    return SimpleNamespace(folder=folder, imagery=write_raster(folder / "rose.tif", round_the_middle))


@pytest.fixture(scope="module")
def ramp(tmp_path_factory):
    """Imagery whose red grows two grey levels a metre eastwards and whose green does northwards."""

    def colours(east, north):
        return np.stack([128 + 2 * east, 128 + 2 * north, np.full(east.shape, 50.0)], axis=-1)

    return write_raster(tmp_path_factory.mktemp("ramp") / "ramp.tif", colours)


def square_in(view):
    """What a chip of the ramp shows: centre (east, north) in metres, gsd_m and heading_deg."""
    red, green = (view.pixels[..., i] / 2 for i in (0, 1))
    middle = slice(23, 25)
    centre_m = np.array([red[middle, middle].mean(), green[middle, middle].mean()]) - 64
    up = np.array([np.mean(channel[:8] - channel[-8:]) for channel in (red, green)]) / 40
    return SimpleNamespace(
        centre_m=centre_m, gsd_m=np.hypot(*up), heading_deg=float(np.degrees(np.arctan2(up[0], up[1])))
    )


def table(n, heading_deg=np.nan, fov_deg=np.nan):
    return at(np.tile(HERE_DEG, (n, 1)), heading_deg=heading_deg, fov_deg=fov_deg)


def at(latlon_deg, **known):
    """Pairs of which both sides are at the same places."""
    names = ("",) * len(latlon_deg)
    return PairTable.of(names, names, latlon_deg=latlon_deg, reference_latlon_deg=latlon_deg, **known)


def chips(imagery, augment, n=3, seed=0):
    """Pairs of which both sides are cut from imagery."""
    side = Side(("",) * n, imagery, AERIAL)
    return PairPictures(table(n), side, side, augment, seed=seed)


def squares(pictures, steps=60):
    drawn = [pictures[step, step % len(pictures)][:2] for step in range(steps)]
    return [square_in(query) for query, _ in drawn], [square_in(reference) for _, reference in drawn]


# -- both sides alike --------------------------------------------------------------------------------------------------


def around_chip(view):
    """Bearings on the ground along a circle of the chip, from its bottom clockwise round to its bottom."""
    size = view.pixels.shape[0]
    t = np.radians((np.arange(96) + 0.5) * 360 / 96 - 180)
    x, y = (size / 2 + 0.4 * size * np.sin(t)).astype(int), (size / 2 - 0.4 * size * np.cos(t)).astype(int)
    return bearings_in(view.pixels[y, x])


def around_panorama(view):
    return bearings_in(view.pixels[view.pixels.shape[0] // 2])


def sides(rose, query, reference):
    made = []
    for kind in (query, reference):
        if kind == "imagery":
            made.append(Side(("",), rose.imagery, AERIAL))
        elif kind == "chip.png":
            made.append(Side((str(rose.folder / kind),), None, AERIAL))
        else:
            file = rose.folder / kind.replace("plan", "pano")
            made.append(Side((str(file),), None, PLAN if kind.startswith("plan") else GROUND))
    return made


PAIRS = [
    ("pano_0.png", "imagery", np.nan),
    ("pano_0.png", "chip.png", np.nan),
    ("pano_250.png", "imagery", 250.0),
    ("plan_0.png", "imagery", 0.0),
    ("plan_250.png", "chip.png", 250.0),
    ("chip.png", "imagery", np.nan),
    ("imagery", "imagery", np.nan),
]


@pytest.mark.parametrize(("query", "reference", "heading_deg"), PAIRS)
def test_turned_and_mirrored_alike(rose, query, reference, heading_deg):
    pictures = PairPictures(table(1, heading_deg), *sides(rose, query, reference), AugmentConfig())
    seen = set()
    for step in range(60):
        pair = pictures[step, 0][:2]
        around = [
            (around_panorama if kind.startswith("pano") else around_chip)(view)
            for kind, view in zip((query, reference), pair, strict=True)
        ]
        # Whatever was drawn: at the same place relative to the top or the middle, the same bearing.
        assert between(*around).max() < 8
        ahead = round(around[0][48] / 90) % 4
        mirrored = ((around[0][50] - around[0][46] + 180) % 360 - 180) < 0
        seen.add((ahead, mirrored))
        assert between(around[0][48], 90 * ahead) < 8
    assert len(seen) == 8


@pytest.mark.parametrize(("query", "reference", "heading_deg"), PAIRS)
@pytest.mark.parametrize("augment", [None, AugmentConfig(turn=False, flip=False)])
def test_north_is_ahead_where_nothing_turns(rose, query, reference, heading_deg, augment):
    pictures = PairPictures(table(1, heading_deg), *sides(rose, query, reference), augment)
    for step in range(6):
        for kind, view in zip((query, reference), pictures[step, 0][:2], strict=True):
            around = (around_panorama if kind.startswith("pano") else around_chip)(view)
            assert between(around, (np.arange(96) + 0.5) * 360 / 96 - 180).max() < 8


@pytest.mark.parametrize(("option", "count"), [({"flip": False}, 4), ({"turn": False}, 2)])
def test_turning_and_mirroring_apart(rose, option, count):
    pictures = PairPictures(table(1), *sides(rose, "pano_0.png", "imagery"), AugmentConfig(**option))
    seen = [tuple(np.rint(around_chip(pictures[step, 0][1])[[48, 72]] / 90).astype(int) % 4) for step in range(60)]
    assert len(set(seen)) == count
    # Each about equally often.
    assert min(seen.count(s) for s in set(seen)) > 60 / count / 3


def test_mirroring_is_left_to_right(rose):
    pictures = PairPictures(table(1), *sides(rose, "pano_0.png", "chip.png"), AugmentConfig(turn=False))
    mirrored = [pictures[step, 0] for step in range(30)]
    mirrored = [pair for pair in mirrored if between(around_chip(pair[1])[72], -90) < 8]
    assert 5 < len(mirrored) < 25
    for query, reference, _ in mirrored:
        assert between(around_panorama(query)[72], -90) < 8
        assert between(around_panorama(query)[48], 0) < 8
        assert between(around_chip(reference)[48], 0) < 8


@pytest.mark.parametrize("ground", [GROUND, GroundView(width_px=32, height_px=32, fov_deg=60.0, vertical_fov_deg=60.0)])
def test_a_perspective_photo_is_mirrored_and_never_turned(rose, ground):
    path = str(rose.folder / "photo.png")
    side = Side((path,), None, ground)
    reference = Side(("",), rose.imagery, AERIAL)
    plain = PairPictures(table(1, fov_deg=60.0), side, reference, None)[0, 0][0]
    assert plain.pixels.shape == (32, 32, 3)
    pictures = PairPictures(table(1, fov_deg=60.0), side, reference, AugmentConfig())
    shown = [pictures[step, 0][0].pixels for step in range(20)]
    as_it_is = [np.array_equal(s, plain.pixels) for s in shown]
    mirrored = [np.array_equal(s, plain.pixels[:, ::-1]) for s in shown]
    assert any(as_it_is)
    assert any(mirrored)
    assert all(a != b for a, b in zip(as_it_is, mirrored, strict=True))


@pytest.mark.parametrize(("file", "heading_deg"), [("pano_0.png", 0.0), ("pano_250.png", 250.0)])
@pytest.mark.parametrize("turn_deg", [0.0, 77.0, 300.0])
def test_a_window_looks_where_it_is_told(rose, file, heading_deg, turn_deg):
    query, reference = sides(rose, file, "imagery")
    pictures = PairPictures(table(1, heading_deg), query, reference, None)
    view = pictures.window(0, turn_deg=turn_deg, window_deg=110.0)
    columns = np.flatnonzero(view.valid.any(axis=0))
    assert view.valid.shape == (32, 32), "29 columns of 96"
    bearings = bearings_in(view.pixels[16])[columns]
    assert between(bearings, (columns + 0.5 - 16) * 360 / 96 + turn_deg).max() < 4
    assert 100 < len(columns) * 360 / 96 <= 113
    whole = pictures.window(0, turn_deg=0.0, window_deg=360.0)
    np.testing.assert_array_equal(whole.pixels, pictures.query(0).pixels)


def test_a_perspective_photo_has_no_window(rose):
    query, reference = sides(rose, "photo.png", "imagery")
    with pytest.raises(ConfigError, match=r"photo\.png: spans 60 degrees"):
        PairPictures(table(1, fov_deg=60.0), query, reference, None).window(0, turn_deg=0.0, window_deg=60.0)


def test_references_are_read_by_their_own_rows_too(rose, ramp):
    files = tuple(str(rose.folder / name) for name in ("pano_0.png", "pano_250.png"))
    here = np.array([HERE_DEG])
    where = PairTable.of(
        files[:1], ("", ""), np.array([1]), latlon_deg=here, reference_latlon_deg=np.repeat(here, 2, 0)
    )
    where.reference_latlon_deg[0, 0] += 30 / 110_922
    pictures = PairPictures(where, Side(files[:1], None, GROUND), Side(("", ""), ramp, AERIAL), None)
    np.testing.assert_allclose(square_in(pictures.gallery(0)).centre_m, [0, 30], atol=1)
    np.testing.assert_array_equal(pictures.gallery(1).pixels, pictures.reference(0).pixels)


def test_a_table_s_sides_are_opened_or_what_they_lack_is_named(rose):
    photo, imagery = str(rose.folder / "photo.png"), [str(rose.folder / "rose.tif")]
    here = {"latlon_deg": np.array([HERE_DEG]), "reference_latlon_deg": np.array([HERE_DEG])}

    def opened(view, path, heading_deg=np.nan, query_imagery=(), reference_imagery=()):
        return open_sides(
            PairTable.of([path], [""], heading_deg=heading_deg, **here),
            view,
            AERIAL,
            query_imagery=query_imagery,
            reference_imagery=reference_imagery,
            keys=("theirs", "ours"),
        )

    query, reference = opened(GROUND, photo, reference_imagery=imagery)
    assert (query.imagery, query.view, reference.view) == (None, GROUND, AERIAL)
    assert reference.imagery.native_gsd_m == pytest.approx(1.0, rel=0.01)
    with pytest.raises(ConfigError, match="name their imagery in ours"):
        opened(GROUND, photo)
    with pytest.raises(ConfigError, match="name their imagery in theirs"):
        opened(AERIAL, "", reference_imagery=imagery)
    with pytest.raises(PairTableError, match="street photos are files"):
        opened(GROUND, "", query_imagery=imagery, reference_imagery=imagery)
    with pytest.raises(PairTableError, match="heading_deg"):
        opened(PLAN, photo, reference_imagery=imagery)
    assert opened(PLAN, photo, 20.0, reference_imagery=imagery)[0].view is PLAN


@pytest.mark.parametrize("told", [np.nan, 180.0])
def test_a_strip_is_turned_north_by_its_file_unless_the_table_knows_better(rose, tmp_path, told):
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" '
        'GPano:ProjectionType="equirectangular" GPano:PoseHeadingDegrees="250"/></rdf:RDF></x:xmpmeta>'
    )
    path = tmp_path / "pano.jpg"
    Image.open(rose.folder / "pano_250.png").save(path, quality=95, xmp=xmp.encode())
    query, reference = Side((str(path),), None, GROUND), Side(("",), rose.imagery, AERIAL)
    view = PairPictures(table(1, told), query, reference, None)[0, 0][0]
    assert between(around_panorama(view)[48], 0.0 if np.isnan(told) else 70.0) < 8


def test_the_table_tells_the_field_of_view(rose):
    side, reference = sides(rose, "photo.png", "imagery")
    widths = [PairPictures(table(1, fov_deg=f), side, reference, None)[0, 0][0].pixels.shape[1] for f in (60.0, 170.0)]
    assert widths == [32, 64]


# -- chips from imagery ------------------------------------------------------------------------------------------------


def test_without_augmentation_a_chip_is_the_ground_at_the_pair(ramp):
    for side in squares(chips(ramp, None), 3):
        for square in side:
            assert np.abs(square.centre_m).max() < 1
            assert square.gsd_m == pytest.approx(1.0, abs=0.03)
            assert square.heading_deg == pytest.approx(0, abs=1)


def test_offsets_are_bounded_and_drawn_for_each_side(ramp):
    augment = AugmentConfig(query_offset_m=6.0, reference_offset_m=20.0, **STILL)
    query, reference = squares(chips(ramp, augment))
    for side, limit_m in ((query, 6.0), (reference, 20.0)):
        centres_m = np.array([square.centre_m for square in side])
        assert np.abs(centres_m).max() < limit_m + 1
        assert centres_m.max(axis=0).min() > 0.7 * limit_m
        assert centres_m.min(axis=0).max() < -0.7 * limit_m
        assert {round(square.gsd_m, 1) for square in side} == {1.0}
    assert abs(np.corrcoef(*([s.centre_m[0] for s in side] for side in (query, reference)))[0, 1]) < 0.5


def test_scale_jitter_is_bounded_and_drawn_for_each_side(ramp):
    query, reference = squares(chips(ramp, AugmentConfig(scale_jitter=0.3, **STILL)))
    for side in (query, reference):
        gsd_m = np.array([square.gsd_m for square in side])
        assert 0.68 < gsd_m.min() < 0.8
        assert 1.2 < gsd_m.max() < 1.32
        assert max(np.abs(square.centre_m).max() for square in side) < 1
    assert abs(np.corrcoef([s.gsd_m for s in query], [s.gsd_m for s in reference])[0, 1]) < 0.5


def test_rotation_jitter_is_bounded_and_drawn_for_each_side(ramp):
    query, reference = squares(chips(ramp, AugmentConfig(rotation_jitter_deg=20.0, **STILL)))
    for side in (query, reference):
        headings_deg = np.array([square.heading_deg for square in side])
        assert -21 < headings_deg.min() < -12
        assert 12 < headings_deg.max() < 21
    assert abs(np.corrcoef([s.heading_deg for s in query], [s.heading_deg for s in reference])[0, 1]) < 0.5


def test_crops_are_the_same_ground_on_both_sides_and_stay_within_it(ramp):
    augment = AugmentConfig(crop_min_share=0.5, crop_rotation_deg=30.0, **STILL)
    query, reference = squares(chips(ramp, augment))
    for one, other in zip(query, reference, strict=True):
        np.testing.assert_array_equal(one.centre_m, other.centre_m)
        assert (one.gsd_m, one.heading_deg) == (other.gsd_m, other.heading_deg)
        half_m, a = one.gsd_m * 24, np.radians(one.heading_deg)
        reach_m = np.abs(one.centre_m).max() + half_m * (abs(np.cos(a)) + abs(np.sin(a)))
        assert reach_m < 24 + 1.5
    assert min(s.gsd_m for s in query) < 0.6
    assert max(s.gsd_m for s in query) > 0.8
    assert max(abs(s.heading_deg) for s in query) > 20
    assert max(np.abs(s.centre_m).max() for s in query) > 6


def test_a_side_with_a_file_for_some_pairs_is_cut_from_imagery_for_the_others(rose):
    query = Side((str(rose.folder / "chip.png"), ""), rose.imagery, AERIAL)
    pictures = PairPictures(table(2), query, Side(("",) * 2, rose.imagery, AERIAL), None)
    from_file, from_imagery = pictures[0, 0][0], pictures[0, 1][0]
    assert not np.array_equal(from_file.pixels, from_imagery.pixels)
    np.testing.assert_array_equal(from_imagery.pixels, pictures[0, 1][1].pixels)
    assert len(pictures) == 2


def test_a_query_is_read_with_the_reference_that_it_is_paired_with(rose, ramp):
    files = tuple(str(rose.folder / name) for name in ("pano_0.png", "photo.png"))
    two = np.array([[0.0, 0.0], [HERE_DEG[0] + 30 / 110_922, HERE_DEG[1]]])
    where = PairTable.of(
        files, ("", "", ""), np.array([2, 1]), latlon_deg=two, reference_latlon_deg=np.array([two[0], two[1], HERE_DEG])
    )
    pictures = PairPictures(where, Side(files, None, GROUND), Side(("", "", ""), ramp, AERIAL), None)
    panorama, first, row = pictures[0, 0]
    assert (row, len(pictures)) == (0, 2)
    np.testing.assert_allclose(square_in(first).centre_m, 0, atol=1)
    photo, second, row = pictures[0, 1]
    assert row == 1
    np.testing.assert_allclose(square_in(second).centre_m, [0, 30], atol=1)
    assert panorama.pixels.shape == (32, 96, 3)
    assert photo.pixels.shape == (32, 32, 3)


def test_the_edge_of_the_imagery_is_not_valid(ramp):
    where = at(np.array([[HERE_DEG[0] + 110 / 110_922, HERE_DEG[1]]]))
    side = Side(("",), ramp, AERIAL)
    view = PairPictures(where, side, side, None)[0, 0][0]
    assert not view.valid[:12].any()
    assert view.valid[16:].all()


def test_what_cannot_be_read_is_an_error_of_its_own(ramp, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    for view in (AERIAL, GROUND):
        broken = PairPictures(table(1), Side((str(tmp_path / "a.jpg"),), None, view), Side(("",), ramp, AERIAL), None)
        with pytest.raises(UnreadableImageError, match=r"a\.jpg"):
            broken[0, 0]
    far = at(np.array([[50.0, 8.0]]))
    side = Side(("",), ramp, AERIAL)
    with pytest.raises(tiles.TilesError, match="50"):
        PairPictures(far, side, side, None)[0, 0]


# -- what is drawn -----------------------------------------------------------------------------------------------------

ALL = AugmentConfig(
    crop_min_share=0.7, query_offset_m=5.0, reference_offset_m=5.0, scale_jitter=0.1, rotation_jitter_deg=5.0
)


def test_what_is_drawn_depends_on_seed_step_and_row_alone(ramp):
    def pixels(pictures, key):
        return np.stack([view.pixels for view in pictures[key][:2]])

    first = chips(ramp, ALL)
    expected = pixels(first, (4, 1))
    first[9, 2]
    np.random.seed(3)  # noqa: NPY002
    np.testing.assert_array_equal(pixels(first, (4, 1)), expected)
    np.testing.assert_array_equal(pixels(chips(ramp, ALL), (4, 1)), expected)
    others = [pixels(first, (5, 1)), pixels(first, (4, 2)), pixels(chips(ramp, ALL, seed=1), (4, 1))]
    assert all(not np.array_equal(other, expected) for other in others)


# -- conditions --------------------------------------------------------------------------------------------------------

CONDITIONS = ConditionsConfig(
    fov_min_deg=90.0, pitch_deg=10.0, roll_deg=5.0, focal_jitter=0.1, night_share=0.5, snow_share=0.5, jpeg_share=0.5
)
STREETS = [("pano_250.png", 250.0), ("plan_250.png", 250.0), ("photo.png", np.nan)]


def assert_equal(one, other):
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.valid, other.valid)


@pytest.mark.parametrize(("query", "heading_deg"), STREETS)
def test_without_conditions_a_street_photo_is_as_it_always_was(rose, query, heading_deg):
    """The right angle and the mirroring are drawn first from the seed, the step and the row, and are all there is."""
    side, reference = sides(rose, query, "imagery")
    pictures = PairPictures(table(1, heading_deg), side, reference, AugmentConfig(), seed=7)
    image = Image.open(rose.folder / query.replace("plan", "pano")).convert("RGB")
    photo = StreetPhoto(image, 360.0, True) if heading_deg == 250 else StreetPhoto(image, 65.0, False)
    for step in range(12):
        rng = np.random.default_rng([7, step, 0])
        quarter = rng.integers(4)
        rng.uniform(size=2)
        heading = (0.0 if np.isnan(heading_deg) else heading_deg) - 90.0 * quarter
        expected = photo.plan(PLAN, heading) if query.startswith("plan") else photo.strip(GROUND, heading)
        shown = pictures[step, 0][0]
        mirrored = View(expected.pixels[:, ::-1], expected.valid[:, ::-1])
        assert np.array_equal(shown.pixels, expected.pixels) or np.array_equal(shown.pixels, mirrored.pixels)
        assert np.array_equal(shown.valid, expected.valid) or np.array_equal(shown.valid, mirrored.valid)


@pytest.mark.parametrize(("query", "heading_deg"), STREETS)
def test_conditions_change_queries_and_never_chips(rose, query, heading_deg):
    side, reference = sides(rose, query, "imagery")
    augment = AugmentConfig(reference_offset_m=5.0, rotation_jitter_deg=5.0)
    plain = PairPictures(table(1, heading_deg), side, reference, augment)
    other = PairPictures(table(1, heading_deg), side, reference, replace(augment, conditions=CONDITIONS))
    changed = 0
    for step in range(8):
        assert_equal(plain[step, 0][1], other[step, 0][1])
        one, two = plain[step, 0][0], other[step, 0][0]
        changed += one.pixels.shape != two.pixels.shape or not np.array_equal(one.pixels, two.pixels)
    assert changed == 8
    # What is validated and mined is not what is trained on.
    assert_equal(plain.query(0), other.query(0))


@pytest.mark.parametrize(("query", "heading_deg"), STREETS)
def test_conditions_depend_on_seed_step_and_row_alone(rose, query, heading_deg):
    def made(seed=0):
        side, reference = sides(rose, query, "imagery")
        augment = AugmentConfig(conditions=CONDITIONS)
        return PairPictures(table(1, heading_deg), side, reference, augment, seed=seed)

    first = made()
    expected = first[4, 0][0]
    first[9, 0]
    assert_equal(first[4, 0][0], expected)
    assert_equal(made()[4, 0][0], expected)
    for view in (first[5, 0][0], made(seed=1)[4, 0][0]):
        assert view.pixels.shape != expected.pixels.shape or not np.array_equal(view.pixels, expected.pixels)


def test_an_unknown_heading_turns_the_panorama_and_not_the_chip(rose):
    augment = AugmentConfig(**STILL, conditions=ConditionsConfig(unknown_heading=True))
    pictures = PairPictures(table(1, 250.0), *sides(rose, "pano_250.png", "imagery"), augment)
    ahead = []
    for step in range(40):
        query, reference, _ = pictures[step, 0]
        around = around_panorama(query)
        assert between(around - around[48], (np.arange(96) - 48) * 360 / 96).max() < 8
        assert between(around_chip(reference)[48], 0) < 8
        ahead.append(around[48])
    assert len({round(a / 10) for a in ahead}) > 20


def test_what_has_no_conditions_refuses_them(rose):
    unknown, foggy = ConditionsConfig(unknown_heading=True), ConditionsConfig(night_share=0.1)
    plan, reference = sides(rose, "plan_0.png", "imagery")
    with pytest.raises(ConfigError, match=r"augment\.conditions\.unknown_heading .*encoder\.plan") as error:
        PairPictures(table(1, 0.0), plan, reference, AugmentConfig(conditions=unknown))
    assert "\n" not in str(error.value)
    PairPictures(table(1, 0.0), plan, reference, AugmentConfig(conditions=foggy))
    with pytest.raises(ConfigError, match=r"augment\.conditions .* data\.query_view is aerial"):
        PairPictures(table(1), reference, reference, AugmentConfig(conditions=foggy))


# -- batches -----------------------------------------------------------------------------------------------------------


def view(width, value, height=16):
    return View(np.full((height, width, 3), value, np.uint8), np.ones((height, width), bool))


def test_pairs_are_stacked_and_narrower_views_padded_as_not_valid():
    pairs = [(view(32, 1), view(16, 5), 9), (view(64, 2), view(16, 6), 0), (view(33, 3), view(16, 7), 4)]
    (pixels, valid), (reference, reference_valid), rows = stack_pairs(pairs)
    assert rows.tolist() == [9, 0, 4]
    assert (pixels.shape, pixels.dtype) == ((3, 3, 16, 64), torch.uint8)
    assert (valid.shape, valid.dtype) == ((3, 16, 64), torch.bool)
    for i, (start, stop) in enumerate([(16, 48), (0, 64), (15, 48)]):
        expected = torch.zeros(16, 64, dtype=torch.bool)
        expected[:, start:stop] = True
        assert valid[i].equal(expected)
        assert pixels[i].equal((expected * (i + 1)).to(torch.uint8).expand(3, -1, -1))
    assert reference_valid.all()
    assert reference.shape == (3, 3, 16, 16)
    assert reference[:, 0, 0, 0].tolist() == [5, 6, 7]


def test_mirrored_and_turned_views_are_stacked_as_they_look():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    valid = np.arange(256).reshape(16, 16) % 3 > 0
    turned = View(np.rot90(pixels)[:, ::-1], np.rot90(valid)[:, ::-1])
    (stacked, stacked_valid), *_ = stack_pairs([(turned, turned, 0)])
    np.testing.assert_array_equal(stacked[0].permute(1, 2, 0).numpy(), turned.pixels)
    np.testing.assert_array_equal(stacked_valid[0].numpy(), turned.valid)
