import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import IFD, Base
from torch.nn import functional as F

from geoview.config import AerialView, GroundView, PlanView
from geoview.data.photos import read_metadata
from geoview.data.views import Pose, StreetPhoto, aerial_view, fit_view
from geoview.errors import ConfigError, UnreadableImageError

torch.set_num_threads(2)

SPEC = GroundView(width_px=192, height_px=48, fov_deg=360.0, vertical_fov_deg=90.0)
# Colours tell directions to half a degree, elevations as far as SPEC reaches; half a pixel of it is 0.94.
HALF_PX_DEG = 360 / 192 / 2


def colours_of(azimuth_deg, elevation_deg):
    """The sine and cosine of the azimuth in red and green, the elevation in blue."""
    a = np.radians(azimuth_deg)
    channels = np.broadcast_arrays(127 * np.sin(a), 127 * np.cos(a), 2.6 * np.clip(elevation_deg, -48, 48))
    return Image.fromarray(np.rint(127.5 + np.stack(channels, axis=-1)).astype(np.uint8))


def directions_in(pixels):
    red, green, blue = np.moveaxis(pixels.astype(float) - 127.5, -1, 0)
    return np.degrees(np.arctan2(red, green)), blue / 2.6


def panorama(width=1024, fov_deg=360.0, top_deg=90.0, bottom_deg=-90.0, heading_deg=0.0):
    """An equirectangular picture whose middle column looks at heading_deg and whose colours tell true directions."""
    across = fov_deg / width
    azimuth = (np.arange(width) + 0.5 - width / 2) * across + heading_deg
    elevation = top_deg - (np.arange(round((top_deg - bottom_deg) / across)) + 0.5) * across
    return colours_of(azimuth[None, :], elevation[:, None])


_WHOLE = StreetPhoto(panorama(192), 360.0, True)


def photo(width=800, height=600, fov_deg=70.0):
    """A picture of a rectilinear lens whose colours tell azimuth from its axis and elevation."""
    focal_px = width / 2 / math.tan(math.radians(fov_deg / 2))
    x = (np.arange(width) + 0.5 - width / 2)[None, :]
    y = (height / 2 - np.arange(height) - 0.5)[:, None]
    return colours_of(np.degrees(np.arctan2(x, focal_px)), np.degrees(np.arctan2(y, np.hypot(x, focal_px))))


def panorama_view(image, spec, *, fov_deg=360.0, top_deg=None, heading_deg=None):
    return StreetPhoto(image, fov_deg, True, top_deg).strip(spec, heading_deg)


def perspective_view(image, spec, *, fov_deg, heading_deg=None):
    return StreetPhoto(image, fov_deg, False).strip(spec, heading_deg)


def grid_deg(spec, width):
    """Azimuth and elevation of the centres of the view's pixels."""
    azimuth = (np.arange(width) + 0.5 - width / 2) * spec.fov_deg / spec.width_px
    elevation = (spec.height_px / 2 - np.arange(spec.height_px) - 0.5) * spec.vertical_fov_deg / spec.height_px
    return np.broadcast_arrays(azimuth[None, :], elevation[:, None])


def assert_shows_directions(view, spec, turned_deg=0.0, tolerance_deg=HALF_PX_DEG):
    azimuth, elevation = directions_in(view.pixels)
    expected_azimuth, expected_elevation = grid_deg(spec, view.pixels.shape[1])
    wrong_deg = np.abs((azimuth - expected_azimuth - turned_deg + 180) % 360 - 180)
    wrong_deg = np.maximum(wrong_deg, np.abs(elevation - expected_elevation))
    # At the rim of a photo there is nothing beyond to interpolate with.
    rim = F.max_pool2d(torch.from_numpy(~view.valid)[None].float(), 5, stride=1, padding=2)[0].numpy() > 0
    inner = ~rim
    assert wrong_deg[inner].max() < tolerance_deg
    assert wrong_deg[view.valid].max() < 2 * tolerance_deg
    assert (view.pixels[~view.valid] == 0).all()
    assert view.pixels.dtype == np.uint8
    assert view.valid.dtype == np.bool_


# -- panoramas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [128, 192, 1024, 3000])
def test_a_whole_panorama(width):
    view = panorama_view(panorama(width), SPEC)
    assert view.pixels.shape == (48, 192, 3)
    assert view.valid.all()
    # Half a pixel of the panorama where that is the coarser one.
    assert_shows_directions(view, SPEC, tolerance_deg=max(HALF_PX_DEG, 180 / width))


@pytest.mark.parametrize("heading_deg", [0.0, 10.3, 90.0, 180.0, 270.0, 359.9, -45.0, 725.0])
def test_a_known_heading_turns_it_north(heading_deg):
    view = panorama_view(panorama(heading_deg=heading_deg), SPEC, heading_deg=heading_deg)
    assert view.valid.all()
    assert_shows_directions(view, SPEC)


def test_an_unknown_heading_leaves_it():
    view = panorama_view(panorama(heading_deg=70.0), SPEC)
    assert_shows_directions(view, SPEC, turned_deg=70.0)


def test_a_window_of_a_panorama_is_turned_too():
    spec = GroundView(width_px=96, height_px=48, fov_deg=90.0, vertical_fov_deg=45.0)
    view = panorama_view(panorama(heading_deg=200.0), spec, heading_deg=200.0)
    assert view.pixels.shape == (48, 96, 3)
    assert view.valid.all()
    assert_shows_directions(view, spec, tolerance_deg=0.9)


@settings(deadline=None, max_examples=60)
@given(st.floats(1.0, 360.0), st.floats(-720.0, 720.0))
def test_a_part_shown_of_a_panorama_is_that_part_of_the_whole_strip(window_deg, heading_deg):
    whole = _WHOLE.strip(SPEC, heading_deg)
    part = replace(_WHOLE, pose=Pose(fov_deg=window_deg)).strip(SPEC, heading_deg)
    width, margin = part.valid.shape[1], (SPEC.width_px - part.valid.shape[1]) // 2
    assert width == min(192, 32 * math.ceil(window_deg / 60))
    inside = np.abs(grid_deg(SPEC, width)[0][0]) <= window_deg / 2
    np.testing.assert_array_equal(part.valid, np.broadcast_to(inside, part.valid.shape))
    np.testing.assert_array_equal(part.pixels[:, inside], whole.pixels[:, margin : margin + width][:, inside])
    assert not part.pixels[:, ~inside].any()


def test_rows_that_were_cropped_off_are_not_valid():
    view = panorama_view(panorama(top_deg=30.0, bottom_deg=-20.0), SPEC, top_deg=30.0)
    elevation = grid_deg(SPEC, 192)[1]
    np.testing.assert_array_equal(view.valid, (elevation < 30) & (elevation > -20))
    assert_shows_directions(view, SPEC)


def test_a_panorama_cut_at_both_ends_has_its_horizon_in_the_middle():
    view = panorama_view(panorama(top_deg=32.0, bottom_deg=-32.0), SPEC)
    np.testing.assert_array_equal(view.valid, np.abs(grid_deg(SPEC, 192)[1]) < 32)
    assert_shows_directions(view, SPEC)


@pytest.mark.parametrize(("fov_deg", "width"), [(30.0, 32), (60.0, 32), (61.0, 64), (120.0, 64), (240.0, 128)])
def test_a_part_of_a_panorama_is_a_narrower_view_about_its_own_middle(fov_deg, width):
    view = panorama_view(panorama(600, fov_deg, 50.0, -50.0, heading_deg=40.0), SPEC, fov_deg=fov_deg, heading_deg=40.0)
    assert view.pixels.shape == (48, width, 3)
    np.testing.assert_array_equal(view.valid, np.abs(grid_deg(SPEC, width)[0]) < fov_deg / 2)
    assert_shows_directions(view, SPEC, turned_deg=40.0)


def test_no_seam_where_a_panorama_is_sewn():
    view = panorama_view(panorama(), SPEC, heading_deg=180.0)
    steps = np.abs(np.diff(np.concatenate([view.pixels, view.pixels[:, :1]], axis=1).astype(int), axis=1))
    assert steps.max() <= 127 * math.radians(360 / 192) + 2


# -- perspective photos ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "fov_deg"),
    [(800, 600, 70.0), (600, 800, 40.0), (300, 200, 60.0), (4000, 3000, 100.0), (120, 90, 15.0), (800, 200, 150.0)],
)
def test_a_photo_shows_each_direction_where_it_belongs(width, height, fov_deg):
    view = perspective_view(photo(width, height, fov_deg), SPEC, fov_deg=fov_deg)
    assert_shows_directions(view, SPEC)
    azimuth, elevation = (np.radians(a) for a in grid_deg(SPEC, view.pixels.shape[1]))
    half_width = math.tan(math.radians(fov_deg / 2))
    beside = np.abs(np.tan(azimuth)) / half_width
    above = np.abs(np.tan(elevation) / np.cos(azimuth)) / (half_width * height / width)
    inside = (beside < 1) & (above < 1) & (np.cos(azimuth) > 0)
    on_the_edge = (np.abs(beside - 1) < 1e-6) | (np.abs(above - 1) < 1e-6)
    np.testing.assert_array_equal(view.valid[~on_the_edge], inside[~on_the_edge])
    assert inside.any()


@pytest.mark.parametrize(("azimuth_deg", "elevation_deg"), [(0, 0), (21.3, 10.7), (-28.8, -14.2), (30.1, 17.9)])
def test_a_spot_lands_within_half_a_pixel(azimuth_deg, elevation_deg):
    shown = np.asarray(photo(1600, 1200, 90.0)).astype(float)
    azimuth, elevation = directions_in(shown)
    spot = np.exp(-((azimuth - azimuth_deg) ** 2 + (elevation - elevation_deg) ** 2) / (2 * 2.5**2))
    image = Image.fromarray(np.rint(spot * 255).astype(np.uint8)).convert("RGB")
    view = perspective_view(image, SPEC, fov_deg=90.0)
    weight = view.pixels[..., 0].astype(float)
    centre_deg = [(grid * weight).sum() / weight.sum() for grid in grid_deg(SPEC, view.pixels.shape[1])]
    assert np.abs(np.array(centre_deg) - (azimuth_deg, elevation_deg)).max() < HALF_PX_DEG


@pytest.mark.parametrize(
    ("fov_deg", "width"), [(1, 32), (59.9, 32), (60, 32), (60.1, 64), (120, 64), (121, 96), (179, 96)]
)
def test_widths_come_in_steps(fov_deg, width):
    assert perspective_view(photo(), SPEC, fov_deg=fov_deg).valid.shape == (48, width)


def test_the_width_is_at_most_that_of_the_view():
    spec = GroundView(width_px=80, height_px=48, fov_deg=50.0, vertical_fov_deg=30.0)
    view = perspective_view(photo(fov_deg=90.0), spec, fov_deg=90.0)
    assert view.pixels.shape == (48, 80, 3)
    assert view.valid.all()
    assert_shows_directions(view, spec, tolerance_deg=0.9)


@pytest.mark.parametrize("fov_deg", [0, -10, 180, 200, float("nan")])
def test_an_impossible_field_of_view_is_refused(fov_deg):
    with pytest.raises(ConfigError, match=f"fov_deg is {fov_deg:g}: a perspective photo spans"):
        perspective_view(photo(), SPEC, fov_deg=fov_deg)


# -- pictures from above -----------------------------------------------------------------------------------------------


def ramp(width, height):
    """Red tells the column, green the row, as shares of the picture."""
    red = np.broadcast_to((np.arange(width) + 0.5)[None, :] / width * 250, (height, width))
    green = np.broadcast_to((np.arange(height) + 0.5)[:, None] / height * 250, (height, width))
    return Image.fromarray(np.rint(np.stack([red, green, np.full((height, width), 77)], axis=-1)).astype(np.uint8))


@pytest.mark.parametrize("gsd_m", [0.1, 0.25, 0.5, 1.0])
def test_an_aerial_picture_is_cut_to_true_size(gsd_m):
    spec = AerialView(size_px=64, gsd_m=0.5)
    width, height = 500, 400
    view = aerial_view(ramp(width, height), spec, gsd_m=gsd_m)
    offset_m = (np.arange(64) + 0.5 - 32) * 0.5
    x, y = np.meshgrid(offset_m / gsd_m + width / 2, offset_m / gsd_m + height / 2)
    np.testing.assert_array_equal(view.valid, (x > 0) & (x < width) & (y > 0) & (y < height))
    assert np.abs(view.pixels[..., 0] - x / width * 250).max(where=view.valid, initial=0) < 1.5
    assert np.abs(view.pixels[..., 1] - y / height * 250).max(where=view.valid, initial=0) < 1.5


def test_a_picture_smaller_than_the_view_has_a_border():
    view = aerial_view(ramp(40, 20), AerialView(size_px=64, gsd_m=0.5), gsd_m=0.5)
    expected = np.zeros((64, 64), bool)
    expected[22:42, 12:52] = True
    np.testing.assert_array_equal(view.valid, expected)
    assert (view.pixels[~expected] == 0).all()
    np.testing.assert_array_equal(view.pixels[expected].reshape(20, 40, 3), np.asarray(ramp(40, 20)))


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (750, 750), (100, 300), (20, 20), (40, 200)])
def test_fit_view_takes_the_whole_picture(size):
    view = fit_view(ramp(*size), AerialView(size_px=64))
    assert view.pixels.shape == (64, 64, 3)
    assert view.valid.all()
    expected = np.asarray(ramp(64, 64)).astype(int)
    assert np.abs(view.pixels - expected)[4:-4, 4:-4].max() <= 5


def test_fit_view_keeps_a_picture_that_fits():
    np.testing.assert_array_equal(fit_view(ramp(64, 64), AerialView(size_px=64)).pixels, np.asarray(ramp(64, 64)))


# -- aliasing ----------------------------------------------------------------------------------------------------------


def checkerboard(width, height):
    return Image.fromarray((np.indices((height, width)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")


def assert_grey(view, margin=2):
    inner = view.pixels[margin:-margin, margin:-margin][view.valid[margin:-margin, margin:-margin]]
    assert len(inner) > 100
    assert inner.mean() == pytest.approx(127.5, abs=2)
    assert inner.std() < 8


@pytest.mark.parametrize("ratio", [1.5, 1.95, 2, 2.5, 3, 3.3, 7.7])
def test_shrinking_a_checkerboard_gives_grey(ratio):
    size = math.ceil(64 * ratio)
    assert_grey(aerial_view(checkerboard(size, size), AerialView(size_px=64, gsd_m=ratio), gsd_m=1.0))
    assert_grey(fit_view(checkerboard(size, size), AerialView(size_px=64)))
    width = round(192 * ratio)
    assert_grey(panorama_view(checkerboard(width, width // 2), SPEC))
    across = math.degrees(2 * math.atan(1 / 2))
    in_the_middle = round(2 / math.radians(360 / 192) * ratio / 2)
    assert_grey(perspective_view(checkerboard(in_the_middle, in_the_middle), SPEC, fov_deg=across))


def test_rows_coarser_than_columns_do_not_alias():
    spec = GroundView(width_px=720, height_px=16, fov_deg=360.0, vertical_fov_deg=90.0)
    stripes = np.zeros((360, 720, 3), np.uint8)
    stripes[::2] = 255
    assert_grey(panorama_view(Image.fromarray(stripes), spec))
    columns = np.zeros((360, 720, 3), np.uint8)
    columns[:, ::2] = 255
    # Columns are shown at their own size and must stay.
    assert panorama_view(Image.fromarray(columns), spec).pixels.std() > 100


# -- files -------------------------------------------------------------------------------------------------------------

GPANO = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {}/></rdf:RDF></x:xmpmeta>"""


def saved(path, image, *, focal_mm=None, **gpano):
    exif = Image.Exif()
    if focal_mm:
        exif.get_ifd(IFD.Exif)[Base.FocalLengthIn35mmFilm] = focal_mm
    xmp = GPANO.format(" ".join(f'GPano:{k}="{v}"' for k, v in gpano.items())).encode() if gpano else b""
    image.save(path, quality=95, subsampling=0, exif=exif, **({"xmp": xmp} if xmp else {}))
    return str(path)


def opened(path, spec=SPEC, *, fov_deg=None, heading_deg=None):
    return StreetPhoto.open(path, read_metadata(path), fov_deg=fov_deg).strip(spec, heading_deg)


def test_the_field_of_view_comes_from_the_focal_length(tmp_path):
    # 4:3 pictures are 34.6 of the 43.3 mm of a film's diagonal wide.
    fov_deg = math.degrees(2 * math.atan(math.hypot(36, 24) * 0.8 / 2 / 28))
    assert fov_deg == pytest.approx(63.4, abs=0.1)
    view = opened(saved(tmp_path / "a.jpg", photo(fov_deg=fov_deg), focal_mm=28))
    assert_shows_directions(view, SPEC, tolerance_deg=2.5)
    np.testing.assert_array_equal(view.valid, perspective_view(photo(), SPEC, fov_deg=fov_deg).valid)


def test_a_field_of_view_that_is_given_goes_before_the_file(tmp_path):
    view = opened(saved(tmp_path / "a.jpg", photo(fov_deg=100.0), focal_mm=28), fov_deg=100.0)
    assert view.valid.shape[1] == 64
    assert_shows_directions(view, SPEC, tolerance_deg=2.5)


def test_a_photo_that_says_nothing_is_taken_for_that_of_a_telephone(tmp_path):
    view = opened(saved(tmp_path / "a.jpg", photo(fov_deg=65.0)))
    assert_shows_directions(view, SPEC, tolerance_deg=2.5)


def test_an_impossible_field_of_view_is_never_replaced_silently(tmp_path):
    path = saved(tmp_path / "a.jpg", photo(), focal_mm=28)
    with pytest.raises(ConfigError, match="fov_deg is 0"):
        opened(path, fov_deg=0.0)


def test_a_panorama_is_known_by_its_shape(tmp_path):
    path = saved(tmp_path / "a.jpg", panorama(heading_deg=30.0))
    assert_shows_directions(opened(path), SPEC, turned_deg=30.0, tolerance_deg=2.5)
    assert_shows_directions(opened(path, heading_deg=30.0), SPEC, tolerance_deg=2.5)


@pytest.mark.parametrize("scale", [1, 2])
def test_gpano_tells_the_crop_even_of_a_copy_that_was_scaled(tmp_path, scale):
    pano = {
        "ProjectionType": "equirectangular", "FullPanoWidthPixels": 1440 * scale, "FullPanoHeightPixels": 720 * scale,
        "CroppedAreaImageWidthPixels": 600 * scale, "CroppedAreaImageHeightPixels": 280 * scale,
        "CroppedAreaLeftPixels": 100 * scale, "CroppedAreaTopPixels": 200 * scale,
    }  # fmt: skip
    view = opened(saved(tmp_path / "a.jpg", panorama(600, 150.0, 40.0, -30.0), **pano))
    assert view.pixels.shape == (48, 96, 3)
    azimuth, elevation = grid_deg(SPEC, 96)
    np.testing.assert_array_equal(view.valid, (np.abs(azimuth) < 75) & (elevation < 40) & (elevation > -30))
    assert_shows_directions(view, SPEC, tolerance_deg=2.5)


def test_perspective_photos_know_no_north():
    for spec in (SPEC, GroundView(width_px=32, height_px=32, fov_deg=60.0, vertical_fov_deg=60.0)):
        plain, told = (perspective_view(photo(), spec, fov_deg=70.0, heading_deg=heading) for heading in (None, 90.0))
        np.testing.assert_array_equal(plain.pixels, told.pixels)
        np.testing.assert_array_equal(plain.valid, told.valid)


def test_a_file_that_is_no_photo_is_an_error(tmp_path):
    path = saved(tmp_path / "a.jpg", photo())
    metadata = read_metadata(path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg"):
        StreetPhoto.open(path, metadata)


# -- plans -------------------------------------------------------------------------------------------------------------

PLAN = PlanView(size_px=64, gsd_m=0.5, headings=8, eye_heights_m=(1.7, 1.2), pitches_deg=(0.0, 4.0))


def plan_grid(spec):
    """East and north of the centres of the plan's pixels, metres."""
    offset_m = (np.arange(spec.size_px) + 0.5 - spec.size_px / 2) * spec.gsd_m
    return np.meshgrid(offset_m, -offset_m)


def on_the_ground(shown, spec, heading_deg):
    """The photo that a camera over a coloured ground takes: the colour of each pixel is that of the ground it sees."""
    azimuth, elevation = shown
    away_m = spec.eye_heights_m[0] / np.tan(np.radians(np.clip(-elevation, 0.5, None)))
    east_m, north_m = (away_m * f(np.radians(azimuth + heading_deg)) for f in (np.sin, np.cos))
    channels = [127.5 + 120 * np.sin(east_m / 5), 127.5 + 120 * np.sin(north_m / 5), np.where(elevation < 0, 0, 255)]
    return Image.fromarray(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))


def directions(image_size, fov_deg):
    """Azimuth and elevation of the pixels: of a lens below 180 degrees, else of a panorama."""
    width, height = image_size
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
    if fov_deg >= 180:
        return x * fov_deg / width, y * fov_deg / width
    focal_px = width / 2 / math.tan(math.radians(fov_deg / 2))
    return np.degrees(np.arctan2(x, focal_px)), np.degrees(np.arctan2(y, np.hypot(x, focal_px)))


@pytest.mark.parametrize("heading_deg", [0.0, 33.3, 180.0, 271.0, -45.0])
@pytest.mark.parametrize(("size", "fov_deg"), [((2048, 1024), 360.0), ((2400, 900), 240.0), ((1600, 1200), 90.0)])
def test_a_plan_shows_the_ground_where_it_is(size, fov_deg, heading_deg):
    image = on_the_ground(directions(size, fov_deg), PLAN, heading_deg)
    view = StreetPhoto(image, fov_deg, fov_deg >= 180).plan(PLAN, heading_deg)
    east_m, north_m = plan_grid(PLAN)
    off_axis_deg = np.abs((np.degrees(np.arctan2(east_m, north_m)) - heading_deg + 180) % 360 - 180)
    away_m = np.hypot(east_m, north_m)
    assert view.valid[(off_axis_deg < fov_deg / 2 - 2) & (away_m > 5)].all()
    assert not view.valid[off_axis_deg > fov_deg / 2 + 1e-6].any()
    # Near the photographer a pixel spans many degrees; far away, many metres lie within a degree.
    clear = view.valid & (away_m > 4) & (away_m < 12)
    expected = np.stack([127.5 + 120 * np.sin(east_m / 5), 127.5 + 120 * np.sin(north_m / 5)], axis=-1)
    assert np.abs(view.pixels[..., :2] - expected)[clear].mean() < 6
    assert (view.pixels[..., 2][clear] == 0).all(), "nothing above the horizon is seen"
    assert (view.pixels[~view.valid] == 0).all()


def test_a_plan_is_blind_to_where_the_photo_does_not_look_down():
    image = panorama(1024, top_deg=30.0, bottom_deg=-20.0)
    view = StreetPhoto(image, 360.0, True, 30.0).plan(PLAN, 0.0)
    below_m = 1.7 / math.tan(math.radians(20.0))
    np.testing.assert_array_equal(view.valid, np.hypot(*plan_grid(PLAN)) > below_m)
    assert not StreetPhoto(image, 360.0, True, 70.0).plan(PLAN, 0.0).valid.any()


@pytest.mark.parametrize("fov_deg", [360.0, 80.0])
def test_headings_turn_a_plan(fov_deg):
    image = on_the_ground(directions((1200, 900), fov_deg), PLAN, 0.0)
    shot = StreetPhoto(image, fov_deg, fov_deg == 360.0)
    ahead = shot.plan(PLAN, 20.0)
    for quarters in (1, 2, 3):
        turned = shot.plan(PLAN, 20.0 + 90 * quarters)
        clear = np.rot90(ahead.valid, -quarters) & turned.valid
        assert (np.rot90(ahead.valid, -quarters) == turned.valid).mean() > 0.99
        assert np.abs(np.rot90(ahead.pixels, -quarters).astype(int) - turned.pixels)[clear].max() <= 3


@pytest.mark.parametrize("pitch_deg", [-6.0, 5.0])
def test_a_known_tilt_is_taken_out(pitch_deg):
    """A level panorama, and a photo through a tilted lens of the same ground, make the same plan."""
    azimuth, elevation = (np.radians(a) for a in directions((1600, 1200), 90.0))
    ahead, right, up = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)
    pitch = np.radians(pitch_deg)
    level, high = ahead * np.cos(pitch) - up * np.sin(pitch), ahead * np.sin(pitch) + up * np.cos(pitch)
    looks = np.degrees(np.arctan2(right, level)), np.degrees(np.arcsin(high))
    tilted = StreetPhoto(on_the_ground(looks, PLAN, 30.0), 90.0, False).plan(PLAN, 30.0, pitch_deg=pitch_deg)
    panorama_plan = StreetPhoto(on_the_ground(directions((2048, 1024), 360.0), PLAN, 30.0), 360.0, True).plan(
        PLAN, 30.0
    )
    away_m = np.hypot(*plan_grid(PLAN))
    clear = tilted.valid & (away_m > 5) & (away_m < 12)
    assert clear.sum() > 200
    right = np.abs(tilted.pixels.astype(int) - panorama_plan.pixels)[clear].mean()
    assert right < 4
    ignored = StreetPhoto(on_the_ground(looks, PLAN, 30.0), 90.0, False).plan(PLAN, 30.0)
    wrong = np.abs(ignored.pixels.astype(int) - panorama_plan.pixels)[clear & ignored.valid].mean()
    assert wrong > 2.5 * right


def test_from_twice_the_height_the_ground_is_twice_as_far():
    image = on_the_ground(directions((2048, 1024), 360.0), PLAN, 0.0)
    shot, twice = StreetPhoto(image, 360.0, True), PlanView(size_px=64, gsd_m=1.0, eye_heights_m=(3.4,))
    np.testing.assert_allclose(shot.plan(PLAN, 0.0).pixels, shot.plan(twice, 0.0).pixels, atol=1)


def test_what_is_tried_of_each_kind_of_photo():
    image = on_the_ground(directions((720, 360), 360.0), PLAN, 0.0)
    for is_panorama, tried in (
        (True, [{"eye_height_m": 1.7}, {"eye_height_m": 1.2}]),
        (False, [{}, {"pitch_deg": 4.0}]),
    ):
        shot = StreetPhoto(image, 360.0 if is_panorama else 80.0, is_panorama)
        plans = shot.plans(PLAN, [10.0, 200.0])
        assert [heading for _, heading in plans] == [10.0, 200.0] * 2
        expected = [shot.plan(PLAN, heading, **options) for options in tried for heading in (10.0, 200.0)]
        for (view, _), same in zip(plans, expected, strict=True):
            np.testing.assert_array_equal(view.pixels, same.pixels)


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_a_plan_of_a_fine_photo_does_not_alias(ratio):
    image = checkerboard(720 * ratio, 360 * ratio)
    view = StreetPhoto(image, 360.0, True).plan(PLAN, 0.0)
    assert view.pixels.std() < 40


# -- how the camera is held --------------------------------------------------------------------------------------------

WHOLE = StreetPhoto(panorama(), 360.0, True)


@settings(max_examples=25, deadline=None)
@given(look_deg=st.floats(-180, 180), fov_deg=st.floats(5, 359))
def test_a_window_shows_what_the_whole_shows_in_that_direction(look_deg, fov_deg):
    window = replace(WHOLE, pose=Pose(look_deg, fov_deg)).strip(SPEC)
    whole = WHOLE.strip(SPEC, -look_deg)
    width = window.pixels.shape[1]
    assert width == min(192, 32 * math.ceil(fov_deg / 60 - 1e-9))
    middle = slice((192 - width) // 2, (192 + width) // 2)
    np.testing.assert_array_equal(window.pixels[window.valid], whole.pixels[:, middle][window.valid])
    np.testing.assert_array_equal(window.valid, np.abs(grid_deg(SPEC, width)[0]) <= fov_deg / 2)
    assert (window.pixels[~window.valid] == 0).all()


def test_a_known_heading_turns_a_window_too():
    turned = StreetPhoto(panorama(heading_deg=200.0), 360.0, True, pose=Pose(50.0, 90.0)).strip(SPEC, 200.0)
    assert_shows_directions(turned, SPEC, turned_deg=50.0)


@settings(max_examples=25, deadline=None)
@given(look_deg=st.floats(-180, 180), fov_deg=st.floats(5, 359), heading_deg=st.floats(-360, 360))
def test_a_plan_is_valid_exactly_in_the_sector_of_its_window(look_deg, fov_deg, heading_deg):
    view = replace(WHOLE, pose=Pose(look_deg, fov_deg)).plan(PLAN, heading_deg)
    whole = WHOLE.plan(PLAN, heading_deg)
    east_m, north_m = plan_grid(PLAN)
    off_deg = np.abs((np.degrees(np.arctan2(east_m, north_m)) - heading_deg - look_deg + 180) % 360 - 180)
    clear = np.abs(off_deg - fov_deg / 2) > 1e-6
    np.testing.assert_array_equal(view.valid[clear], (whole.valid & (off_deg < fov_deg / 2))[clear])
    np.testing.assert_array_equal(view.pixels[view.valid], whole.pixels[view.valid])
    assert (view.pixels[~view.valid] == 0).all()


@settings(max_examples=30, deadline=None)
@given(pitch_deg=st.floats(-45, 45), roll_deg=st.floats(-45, 45), seed=st.integers(0, 100))
def test_tilting_is_a_rotation(pitch_deg, roll_deg, seed):
    rng = np.random.default_rng(seed)
    before = rng.uniform(-180, 180, 20), np.degrees(np.arcsin(rng.uniform(-1, 1, 20)))
    pose = Pose(pitch_deg=pitch_deg, roll_deg=roll_deg)

    def vectors(azimuth_deg, elevation_deg):
        a, e = np.radians(azimuth_deg), np.radians(elevation_deg)
        return np.stack([np.cos(e) * np.sin(a), np.cos(e) * np.cos(a), np.sin(e)])

    one, other = vectors(*before), vectors(*pose.tilted(*before))
    rotation = other @ np.linalg.pinv(one)
    np.testing.assert_allclose(rotation @ one, other, atol=1e-9)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    azimuth_deg, elevation_deg = pose.tilted(np.zeros(1), np.zeros(1))
    assert (azimuth_deg[0], elevation_deg[0]) == pytest.approx((0, pitch_deg), abs=1e-9)


@pytest.mark.parametrize("rows", [-4, 3, 8])
@pytest.mark.parametrize("shot", [WHOLE, StreetPhoto(photo(900, 900, 100.0), 100.0, False)])
def test_looking_up_moves_the_rows_of_the_middle_down(rows, shot):
    degrees_a_row = SPEC.vertical_fov_deg / SPEC.height_px
    level = shot.strip(SPEC)
    up = replace(shot, pose=Pose(pitch_deg=rows * degrees_a_row)).strip(SPEC)
    middle = slice(level.valid.shape[1] // 2 - 2, level.valid.shape[1] // 2 + 2)
    both = (np.roll(level.valid, rows, axis=0) & up.valid)[:, middle]
    both[: max(rows, 0)] = both[len(both) + min(rows, 0) :] = False
    assert both.sum() > 100
    shifted = np.roll(level.pixels, rows, axis=0)[:, middle]
    assert np.abs(shifted.astype(int) - up.pixels[:, middle])[both].max() <= 8


@pytest.mark.parametrize("roll_deg", [-12.0, 7.0])
def test_leaning_to_the_right_lifts_the_left_of_what_is_seen(roll_deg):
    view = replace(WHOLE, pose=Pose(roll_deg=roll_deg)).strip(SPEC)
    azimuth_deg, elevation_deg = grid_deg(SPEC, 192)
    shown_deg = directions_in(view.pixels)[1][23:25]
    # The right of the camera dips, so it shows there what is lower.
    expected_deg = -np.degrees(np.arcsin(np.sin(np.radians(azimuth_deg[0])) * np.sin(np.radians(roll_deg))))
    assert np.abs(shown_deg.mean(axis=0) - expected_deg).max() < HALF_PX_DEG
    pose = replace(WHOLE, pose=Pose(roll_deg=roll_deg, pitch_deg=5.0))
    told_deg = pose.strip_elevation_deg(SPEC)
    seen_deg = directions_in(pose.strip(SPEC).pixels)[1]
    inner = np.abs(told_deg) < 40
    assert np.abs(told_deg - seen_deg)[inner].max() < 2 * HALF_PX_DEG
    np.testing.assert_array_equal(WHOLE.strip_elevation_deg(SPEC), elevation_deg)


@pytest.mark.parametrize("pitch_deg", [-6.0, 5.0])
def test_a_tilt_that_is_told_undoes_the_tilt_of_the_camera(pitch_deg):
    shot = StreetPhoto(on_the_ground(directions((2048, 1024), 360.0), PLAN, 30.0), 360.0, True)
    tilted = replace(shot, pose=Pose(pitch_deg=pitch_deg))
    level = shot.plan(PLAN, 30.0)
    told = tilted.plan(PLAN, 30.0, pitch_deg=pitch_deg)
    np.testing.assert_allclose(told.pixels.astype(int), level.pixels, atol=1)
    untold = tilted.plan(PLAN, 30.0)
    assert np.abs(untold.pixels.astype(int) - level.pixels).mean() > 10


def test_a_tilted_sector_stays_a_sector_of_the_plan():
    view = replace(WHOLE, pose=Pose(70.0, 60.0, 8.0, -5.0)).plan(PLAN, 10.0)
    level = replace(WHOLE, pose=Pose(70.0, 60.0)).plan(PLAN, 10.0)
    np.testing.assert_array_equal(view.valid, level.valid)
    assert not np.array_equal(view.pixels, level.pixels)


@given(
    heading_deg=st.floats(0, 360),
    eye_height_m=st.floats(1.2, 3.0),
    pitch_deg=st.floats(-5, 5),
    fov_deg=st.sampled_from([80.0, 100.0, 360.0]),
)
@settings(deadline=None, max_examples=20)
def test_the_ground_of_each_pixel_is_where_the_plan_puts_it(heading_deg, eye_height_m, pitch_deg, fov_deg):
    """A photo painted by where its ground lies: its plan has the colours of its own pixels' places."""
    spec = PlanView(size_px=48, gsd_m=0.5)
    photo = StreetPhoto(Image.new("RGB", (2400, 1200)), fov_deg, fov_deg == 360.0)
    ground_m = photo.ground_m((2400, 1200), heading_deg, eye_height_m=eye_height_m, pitch_deg=pitch_deg)
    painted = np.zeros((1200, 2400, 3), np.uint8)
    painted[..., :2] = np.rint(127.5 + 8 * np.nan_to_num(np.clip(ground_m, -15, 15)))
    plan = replace(photo, image=Image.fromarray(painted)).plan(
        spec, heading_deg, eye_height_m=eye_height_m, pitch_deg=pitch_deg
    )
    offset_m = (np.arange(48) + 0.5 - 24) * 0.5
    east_m, north_m = np.meshgrid(offset_m, -offset_m)
    # Near the photographer and near the seam behind him, pixels of a plan are large on the photo.
    clear = plan.valid & (np.hypot(east_m, north_m) > 3) & (np.hypot(east_m, north_m) < 11)
    found_m = (plan.pixels[..., :2].astype(float) - 127.5) / 8
    error_m = np.abs(found_m - np.stack([east_m, north_m], axis=-1)).max(axis=-1)[clear]
    assert len(error_m) > 20
    # Colours tell an eighth of a metre, and what is far off is a few rows of the photo, sampled from a picture made
    # smaller: a wrong turn would be metres.
    assert np.median(error_m) < 0.2
    assert np.quantile(error_m, 0.9) < 0.75


def test_the_sky_is_of_no_ground():
    photo = StreetPhoto(Image.new("RGB", (400, 200)), 360.0, True)
    ground_m = photo.ground_m((40, 20), 30.0, eye_height_m=2.0)
    assert np.isnan(ground_m[:10]).all()
    assert np.isfinite(ground_m[10:]).all()
    assert np.hypot(*ground_m[-1].T).max() < 0.2, "at the photographer's feet"
