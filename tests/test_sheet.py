"""The picture sheet says in colour and in place what is right, wrong and true."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image, ImageColor

import tiles
from geoview.config import AerialView
from geoview.data.queries import PhotoQuery
from geoview.geo.sphere import destination_deg
from geoview.locate.localizer import Localization
from geoview.locate.posterior import Place
from geoview.sheet import draw_sheet

VIEW = AerialView(32, 2.7)
RIGHT, WRONG, CAMERA = (ImageColor.getrgb(name) for name in ("#15803d", "#dc2626", "#0369a1"))


@pytest.fixture(scope="module")
def imagery(ortho):
    return tiles.open_source(str(ortho))


@pytest.fixture(scope="module")
def home_deg(ortho):
    with rasterio.open(ortho) as source:
        from pyproj import Transformer

        x, y = source.xy(source.height // 2, source.width // 2)
        lon, lat = Transformer.from_crs(source.crs, "EPSG:4326", always_xy=True).transform(x, y)
    return lat, lon


@pytest.fixture
def photo_path(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (320, 240), (250, 120, 10)).save(path)
    return str(path)


def away(home_deg, metres):
    return tuple(destination_deg(np.array(home_deg), 90.0, metres).tolist())


def frames(image):
    """Counts the pixels of each frame colour in a row of chips: the four columns from the right."""
    pixels = np.asarray(image)
    # Below the header, whose legend has these colours as well.
    pixels = pixels[140 : 140 + 190]
    columns = np.array_split(pixels[:, -16 - 4 * 196 : -16], 4, axis=1)
    return [[int((part == colour).all(-1).sum()) for colour in (RIGHT, WRONG, CAMERA)] for part in columns]


def test_right_places_are_green_wrong_ones_red_and_the_truth_blue(imagery, home_deg, photo_path):
    photo = PhotoQuery(photo_path, home_deg, heading_deg=90.0, fov_deg=70.0)
    places = [Place(1, away(home_deg, m), 0.9, 45.0) for m in (99.0, 101.0, 20.0)]
    image = draw_sheet([(photo, Localization(photo_path, "ok", places))], imagery, VIEW, title="t", subtitle="s")
    first, second, third, truth = frames(image)
    assert first[0] > 3000 > 10 > first[1]
    assert second[1] > 3000 > 10 > second[0]
    assert third[0] > 3000 > 10 > third[1]
    assert truth[2] > 3000
    assert first[2] == second[2] == 0, "these chips do not show where the camera stood"
    assert third[2] > 100, "this one does"
    shown = np.asarray(image)[140 : 140 + 190, :500].reshape(-1, 3)
    assert (np.abs(shown.astype(int) - (250, 120, 10)).max(axis=1) < 3).sum() > 10_000, "the photo itself"


def test_the_camera_looks_where_it_looked(imagery, home_deg, photo_path):
    blue = {}
    for heading_deg in (0.0, 90.0, 180.0, 270.0):
        photo = PhotoQuery(photo_path, home_deg, heading_deg=heading_deg, fov_deg=60.0)
        answer = Localization(photo_path, "ok", [])
        pixels = np.asarray(draw_sheet([(photo, answer)], imagery, VIEW, title="", subtitle=""))
        rows, columns = np.nonzero((pixels[155:315, -28 - 185 : -28 - 20] == CAMERA).all(-1))
        blue[heading_deg] = rows.mean(), columns.mean()
    assert blue[0.0][0] < blue[90.0][0] < blue[180.0][0]
    assert blue[270.0][1] < blue[0.0][1] < blue[90.0][1]


def test_a_photo_that_failed_has_a_row_that_says_so(imagery, home_deg):
    photo = PhotoQuery("gone.jpg", home_deg, heading_deg=10.0, fov_deg=360.0)
    answer = Localization("gone.jpg", "failed", [], error="gone.jpg: no such file")
    image = draw_sheet([(photo, answer)] * 2, imagery, VIEW, title="t", subtitle="s")
    assert [sum(part[:2]) for part in frames(image)] == [0, 0, 0, 0]
    assert frames(image)[3][2] > 3000
    assert image.height > draw_sheet([(photo, answer)], imagery, VIEW, title="t", subtitle="s").height


def test_a_photo_without_truth_is_refused(imagery, photo_path):
    with pytest.raises(ValueError, match=Path(photo_path).name):
        draw_sheet([(PhotoQuery(photo_path), Localization(photo_path, "ok", []))], imagery, VIEW, title="", subtitle="")
