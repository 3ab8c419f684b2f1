import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoview.config import AugmentConfig, ConditionsConfig, GroundView, PlanView, from_mapping
from geoview.data.conditions import (
    at_night,
    defocused,
    in_snow,
    recompressed,
    screenshot,
    shaken,
    taken_otherwise,
    with_another_camera,
)
from geoview.data.views import StreetPhoto
from geoview.errors import ConfigError

torch.set_num_threads(1)

STRIP = GroundView(width_px=192, height_px=48, fov_deg=360.0, vertical_fov_deg=90.0)
PLAN = PlanView(size_px=48, gsd_m=1.0)
SHARES = [f"{name}_share" for name in ("night", "snow", "defocus", "shake", "screenshot", "jpeg")]
EVERYTHING = ConditionsConfig(
    fov_min_deg=60.0,
    unknown_heading=True,
    pitch_deg=10.0,
    roll_deg=10.0,
    focal_jitter=0.2,
    **dict.fromkeys(SHARES, 1.0),
)


def scene(height=48, width=96, seed=0):
    """Blue above, textured and brown below, with soft shapes: what looks a little like a street."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 80, (height // 4, width // 4, 3), dtype=np.uint8))
    texture = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC))
    base = np.where(np.arange(height)[:, None, None] < height / 2, (70, 110, 170), (110, 95, 80))
    return np.clip(base + texture.astype(int), 1, 255).astype(np.uint8)


def elevations(height=48, width=96):
    return np.broadcast_to(((height / 2 - np.arange(height) - 0.5) * 90 / height)[:, None], (height, width))


def street(kind="panorama"):
    if kind == "panorama":
        return StreetPhoto(Image.fromarray(scene(180, 360)), 360.0, True)
    if kind == "part":
        return StreetPhoto(Image.fromarray(scene(180, 240)), 240.0, True)
    return StreetPhoto(Image.fromarray(scene(120, 160)), 70.0, False)


def night(pixels, strength, seed=0):
    return at_night(pixels, elevations(*pixels.shape[:2]), strength, np.random.default_rng(seed))


def snow(pixels, strength, seed=0):
    return in_snow(pixels, elevations(*pixels.shape[:2]), strength, np.random.default_rng(seed))


def defocus(pixels, strength, seed=0):
    return defocused(pixels, np.ones(pixels.shape[:2], bool), strength)


def shake(pixels, strength, seed=0):
    return shaken(pixels, np.ones(pixels.shape[:2], bool), strength, 10.0 * seed)


def jpeg(pixels, strength, seed=0):
    return recompressed(pixels, round(60 - 40 * strength))


# -- each condition of the pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [night, snow, defocus, shake, jpeg])
@settings(max_examples=15, deadline=None)
@given(
    strength=st.floats(0, 1),
    seed=st.integers(0, 5),
    size=st.sampled_from([(16, 16), (16, 97), (33, 20), (48, 96)]),
    fill=st.sampled_from([None, 0, 255]),
)
def test_a_condition_keeps_shape_and_input_and_draws_by_its_seed_alone(change, strength, seed, size, fill):
    pixels = scene(*size) if fill is None else np.full((*size, 3), fill, np.uint8)
    before = pixels.copy()
    changed = change(pixels, strength, seed)
    assert (changed.shape, changed.dtype) == (pixels.shape, np.uint8)
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(change(pixels, strength, seed), changed)


@pytest.mark.parametrize("change", [night, snow, defocus, shake])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_strength_changes_nothing(change, seed):
    every = np.random.default_rng(seed).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    for pixels in (scene(), every):
        np.testing.assert_array_equal(change(pixels, 0.0, seed), pixels)


@pytest.mark.parametrize("change", [night, snow, defocus, shake, jpeg])
def test_more_strength_changes_more(change):
    pixels = scene(96, 192)
    weak, middle, strong = (
        np.mean([np.abs(change(pixels, s, seed).astype(int) - pixels).mean() for seed in range(5)])
        for s in (0.25, 0.5, 1.0)
    )
    assert 0 < weak < middle < strong


@pytest.mark.parametrize("seed", range(5))
def test_night_is_dark_and_blue_and_has_lamps_and_no_sky(seed):
    pixels = scene(96, 192)
    dark = night(pixels, 1.0, seed).astype(float)
    assert dark.mean() < 0.45 * pixels.mean()
    assert dark[:16].mean() < 45, "the sky of the day is gone"
    assert dark.max() > 200, "lamps shine"
    assert night(pixels, 0.3, seed)[60:].mean() < pixels[60:].mean()
    grey = np.full((96, 192, 3), 120, np.uint8)
    moonlit = np.median(night(grey, 0.5, seed).astype(float), axis=(0, 1))
    assert moonlit[2] > moonlit[0] + 3


def test_night_keeps_small_highlights_and_adds_noise():
    grey = np.full((96, 192, 3), 90, np.uint8)
    signs = grey.copy()
    signs[60:62, ::24] = 255
    dark = night(signs, 0.8).astype(float)
    assert dark[60:62, ::24].mean() > 4 * np.median(dark)
    assert np.diff(night(grey, 0.8).astype(float)[:, :20], axis=1).std() > 3


@pytest.mark.parametrize("seed", range(3))
def test_snow_lies_on_the_ground_and_not_on_walls(seed):
    pixels = scene(96, 192)
    white = snow(pixels, 1.0, seed).astype(float)
    ground = slice(80, None)
    assert white[ground].mean() > 170
    assert np.ptp(white[ground].mean(axis=(0, 1))) < 15, "snow is white"
    walls = np.full((96, 192, 3), 90, np.uint8)
    assert np.median(snow(walls, 1.0, seed)[:40]) < 110


def test_snow_covers_plans_wholly_and_begins_in_patches():
    pixels, below = np.full((48, 48, 3), 80, np.uint8), np.full((48, 48), -90.0)
    covered = [np.mean(in_snow(pixels, below, s, np.random.default_rng(0)) > 150) for s in (0.2, 0.5, 1.0)]
    assert covered[0] < 0.2
    assert 0.2 < covered[1] < 0.8
    assert covered[2] > 0.95


@pytest.mark.parametrize("change", [defocused, lambda *of: shaken(*of, 30.0)])
def test_blur_mixes_nothing_in_from_beyond_the_photo(change):
    valid = np.zeros((40, 60), bool)
    valid[7:30, 11:43] = True
    pixels = np.where(valid[..., None], np.array([200, 100, 50]), 0).astype(np.uint8)
    blurred = change(pixels, valid, 1.0)
    assert np.abs(blurred[valid].astype(int) - (200, 100, 50)).max() <= 2
    assert (blurred[~valid] == 0).all()


@pytest.mark.parametrize(("direction_deg", "along"), [(0.0, 0), (90.0, 1)])
def test_shaking_smears_along_its_line_only(direction_deg, along):
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[(np.arange(60) % 6 < 3)] = 255
    valid = np.ones((60, 60), bool)
    along_it, across_it = (
        shaken(x, valid, 1.0, direction_deg) for x in (stripes, stripes.transpose(1, 0, 2))[:: 1 - 2 * along]
    )
    assert np.isin(along_it, (0, 255)).all()
    assert across_it.std() < 60


def test_a_lower_quality_keeps_less():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    errors = [np.abs(recompressed(pixels, q).astype(int) - pixels).mean() for q in (60, 40, 20)]
    assert errors == sorted(errors)


# -- screenshots -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(strength=st.floats(0, 1), seed=st.integers(0, 1000), kind=st.sampled_from(["panorama", "part", "lens"]))
def test_a_screenshot_holds_the_whole_photo_and_tells_where_its_bars_are(strength, seed, kind):
    photo = street(kind)
    framed, bars = screenshot(photo, strength, np.random.default_rng(seed))
    assert framed.image.mode == "RGB"
    assert (framed.fov_deg, framed.is_panorama, framed.top_deg) == (photo.fov_deg, photo.is_panorama, None)
    (width, height), (wide, high) = photo.image.size, framed.image.size
    assert wide + high > width + height
    assert wide <= 1.5 * width
    assert high <= 1.5 * height
    assert bars.image.size == framed.image.size
    inside = np.asarray(bars.image) == 0
    assert inside.sum() == width * height
    np.testing.assert_array_equal(np.asarray(framed.image)[inside].reshape(height, width, 3), np.asarray(photo.image))


def test_the_bars_of_a_large_screenshot_are_known_coarsely():
    photo = StreetPhoto(Image.fromarray(scene(1000, 2000)), 360.0, True)
    framed, bars = screenshot(photo, 1.0, np.random.default_rng(3))
    assert bars.image.width < framed.image.width
    assert np.mean(np.asarray(bars.image)) / 255 == pytest.approx(1 - 2e6 / np.prod(framed.image.size), abs=0.01)


def test_bars_stay_bright_at_night():
    config = ConditionsConfig(screenshot_share=1.0, night_share=1.0)
    photo = StreetPhoto(Image.fromarray(np.full((120, 160, 3), 100, np.uint8)), 70.0, False)
    spec = GroundView(width_px=64, height_px=48, fov_deg=70.0, vertical_fov_deg=52.0)
    white = 0
    for seed in range(40):
        view = taken_otherwise(photo, spec, 0.0, config, np.random.default_rng(seed))
        # Lamps are yellow: only bars are white or a light grey.
        white += np.mean(view.pixels.min(axis=2) > 195) > 0.04
    assert white > 5


# -- another camera ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["panorama", "part", "lens"])
@pytest.mark.parametrize("spec", [STRIP, PLAN])
def test_what_another_camera_may_be(kind, spec):
    config = ConditionsConfig(fov_min_deg=70.0, fov_max_deg=200.0, pitch_deg=8.0, roll_deg=4.0, focal_jitter=0.2)
    photo = street(kind)
    drawn = [with_another_camera(photo, spec, config, np.random.default_rng(seed)) for seed in range(150)]
    poses = np.array([dataclasses.astuple(shot.pose) for shot in drawn])
    look, fov, pitch, roll = poses.T
    for angle, most in ((pitch, 8.0), (roll, 4.0)):
        assert -most <= angle.min() < -0.8 * most
        assert 0.8 * most < angle.max() <= most
    if kind == "lens":
        assert (look == 0).all()
        assert (fov == 360).all()
        focal = np.log(np.tan(np.radians(35)) / np.tan(np.radians([shot.fov_deg for shot in drawn]) / 2))
        assert focal.std() == pytest.approx(0.2, abs=0.05)
        return
    assert all(shot.fov_deg == photo.fov_deg for shot in drawn)
    assert 70 <= fov.min() < 80
    assert 190 < fov.max() <= 200
    if kind == "part":
        assert (np.abs(look) + fov / 2 <= 120 + 1e-9).all(), "the window lies within the photo"
        assert look.std() > 10
    else:
        assert (np.abs(look).max() > 170) == (spec is PLAN)


def test_an_unknown_heading_is_any():
    config = ConditionsConfig(unknown_heading=True)
    look = [with_another_camera(street(), STRIP, config, np.random.default_rng(s)).pose.look_deg for s in range(200)]
    assert np.histogram(look, bins=8, range=(-180, 180))[0].min() > 10
    assert with_another_camera(street("lens"), STRIP, config, np.random.default_rng(0)) == street("lens")


def test_nothing_drawn_is_the_same_photo_and_view():
    for kind in ("panorama", "part", "lens"):
        for spec in (STRIP, PLAN):
            photo = street(kind)
            view = taken_otherwise(photo, spec, 20.0, ConditionsConfig(), np.random.default_rng(0))
            plain = photo.laid_out(spec, 20.0)
            np.testing.assert_array_equal(view.pixels, plain.pixels)
            np.testing.assert_array_equal(view.valid, plain.valid)


# -- all together ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["panorama", "part", "lens"]),
    spec=st.sampled_from([STRIP, PLAN]),
)
def test_everything_at_once_is_a_view_and_depends_on_the_seed_alone(seed, kind, spec):
    photo = street(kind)
    config = dataclasses.replace(EVERYTHING, unknown_heading=spec is STRIP)
    one, same = (taken_otherwise(photo, spec, 30.0, config, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, same.pixels)
    np.testing.assert_array_equal(one.valid, same.valid)
    assert (one.pixels.dtype, one.valid.dtype) == (np.uint8, np.bool_)
    assert one.pixels.shape == (*one.valid.shape, 3)
    assert one.valid.shape[0] == 48
    assert (one.pixels[~one.valid] == 0).all()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("spec", [STRIP, PLAN])
def test_a_share_of_the_pictures(share, spec):
    photo = street()
    plain = photo.laid_out(spec, 0.0)
    config = ConditionsConfig(**{share: 0.3})
    views = [taken_otherwise(photo, spec, 0.0, config, np.random.default_rng(seed)) for seed in range(80)]
    changed = np.mean([not np.array_equal(view.pixels, plain.pixels) for view in views])
    assert 0.13 < changed < 0.47
    if share != "screenshot_share":
        assert all(np.array_equal(view.valid, plain.valid) for view in views)


# -- configs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("fov_min_deg", [0, -1, 361, float("nan")]),
        ("fov_max_deg", [0, -1, 361, float("nan")]),
        ("pitch_deg", [-1, 46, float("nan")]),
        ("roll_deg", [-1, 46, float("nan")]),
        ("focal_jitter", [-0.1, float("nan"), float("inf")]),
        *((share, [-0.1, 1.1, float("nan")]) for share in SHARES),
    ],
)
def test_an_impossible_value_is_refused_by_the_name_of_its_key(key, values):
    for value in values:
        with pytest.raises(ConfigError, match=rf"augment\.conditions\.{key}\b"):
            ConditionsConfig(**{key: value})


def test_a_window_is_not_narrower_at_most_than_at_least():
    with pytest.raises(ConfigError, match="fov_min_deg must be above 0 and at most fov_max_deg, 90"):
        ConditionsConfig(fov_min_deg=100.0, fov_max_deg=90.0)


def test_conditions_are_off_unless_asked_for_and_come_nested():
    assert AugmentConfig().conditions.is_off
    asked = from_mapping(AugmentConfig, {"conditions": {"fov_min_deg": 70, "snow_share": 0.1}}).conditions
    assert asked == ConditionsConfig(fov_min_deg=70.0, snow_share=0.1)
    assert not asked.is_off
