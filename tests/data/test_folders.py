"""Folders of photos as pairs: positions out of EXIF, or out of `photos.csv`."""

import logging

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD

from geoview.data import folders
from geoview.errors import PairTableError, PhotoTableError


def photo(path, latlon_deg=None, heading_deg=None, *, focal_35mm=None):
    """Writes a photo that tells so much about itself."""
    exif = Image.Exif()
    gps = {}
    if latlon_deg is not None:
        lat, lon = latlon_deg
        gps |= {GPS.GPSLatitudeRef: "N" if lat >= 0 else "S", GPS.GPSLongitudeRef: "E" if lon >= 0 else "W"}
        gps |= {GPS.GPSLatitude: (abs(lat), 0.0, 0.0), GPS.GPSLongitude: (abs(lon), 0.0, 0.0)}
    if heading_deg is not None:
        gps |= {GPS.GPSImgDirection: heading_deg, GPS.GPSImgDirectionRef: "T"}
    if gps:
        exif[IFD.GPSInfo] = gps
    if focal_35mm is not None:
        exif[IFD.Exif] = {0xA405: focal_35mm}
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 32)).save(path, exif=exif)


def test_photos_tell_where_which_way_and_how_wide(tmp_path):
    photo(tmp_path / "b.jpg", (-33.5, -70.25), 275.0, focal_35mm=18)
    photo(tmp_path / "a/deep.JPG", (51.5, 0.125))
    photo(tmp_path / ".hidden/x.jpg")
    (tmp_path / "notes.txt").touch()
    table = folders.load(tmp_path)
    assert table.query_path == (str(tmp_path / "a/deep.JPG"), str(tmp_path / "b.jpg"))
    assert table.reference_path == ("", "")
    np.testing.assert_allclose(table.latlon_deg, [[51.5, 0.125], [-33.5, -70.25]], atol=1e-6)
    np.testing.assert_array_equal(table.reference_latlon_deg, table.latlon_deg)
    np.testing.assert_allclose(table.heading_deg, [np.nan, 275.0])
    # A full frame is 36 mm wide: twice the arc tangent of 18 / 18.
    assert np.isnan(table.fov_deg[0])
    assert table.fov_deg[1] == pytest.approx(90, abs=2)
    assert table.name == str(tmp_path)


def test_the_folder_s_table_goes_before_what_photos_tell(tmp_path):
    for name in ("a", "b", "c"):
        photo(tmp_path / f"{name}.jpg", (10.0, 20.0), 30.0)
    (tmp_path / "photos.csv").write_text("path,lat,lon,heading_deg,fov_deg\nb.jpg,11,21,0,70\na.jpg,12,22,,\nc.jpg\n")
    table = folders.load(tmp_path)
    assert [path[-5:] for path in table.query_path] == ["b.jpg", "a.jpg", "c.jpg"]
    np.testing.assert_allclose(table.latlon_deg, [[11, 21], [12, 22], [10, 20]], atol=1e-6)
    np.testing.assert_array_equal(table.heading_deg, [0, 30, 30])
    np.testing.assert_array_equal(table.fov_deg, [70, np.nan, np.nan])
    photo(tmp_path / "d.jpg", (10.0, 20.0))
    assert len(folders.load(tmp_path)) == 3, "the table says what the folder's photos are"


def test_photos_taken_at_one_spot_are_one_place(tmp_path):
    for name, lat in (("a", 10.0), ("b", 10.000001), ("c", 10.1)):
        photo(tmp_path / f"{name}.jpg", (lat, 20.0))
    assert folders.load(tmp_path).place.tolist() == [0, 0, 2]


def test_a_few_photos_without_a_position_are_named_and_left_out(tmp_path, caplog):
    for i in range(8):
        photo(tmp_path / f"{i}.jpg", (i + 1.0, 2.0))
    photo(tmp_path / "x.jpg")
    (tmp_path / "y.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:4])
    with pytest.raises(
        PairTableError, match=r"2 of 10 photos cannot be paired .*x\.jpg: tells no pos.*y\.jpg: "
    ) as told:
        folders.load(tmp_path)
    assert "\n" not in str(told.value)
    assert f"lat and lon in {tmp_path}/photos.csv" in str(told.value)
    with caplog.at_level(logging.WARNING):
        table = folders.load(tmp_path, max_missing_share=0.2)
    assert [path[-5] for path in table.query_path] == list("01234567")
    assert "2 of 10 photos cannot be paired with the ground and are left out" in caplog.text


def test_photos_none_of_which_tells_where(tmp_path):
    photo(tmp_path / "x.jpg")
    with pytest.raises(PairTableError, match=r"1 of 1 photos cannot be paired"):
        folders.load(tmp_path, max_missing_share=0.99)


def test_a_folder_without_photos(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(PairTableError, match=rf"^{tmp_path}: holds no photo; .*pair table"):
        folders.load(tmp_path)
    (tmp_path / "photos.csv").write_text("path\n")
    with pytest.raises(PairTableError, match=r"photos\.csv: holds no photo"):
        folders.load(tmp_path)


def test_faults_of_the_table(tmp_path):
    photo(tmp_path / "a.jpg", (1.0, 2.0))
    (tmp_path / "photos.csv").write_text("path,lat,lon\na.jpg,95,2\n")
    with pytest.raises(PhotoTableError, match="line 2: column lat: '95'"):
        folders.load(tmp_path)
    (tmp_path / "photos.csv").write_text("path,lat,lon\na.jpg,5,2\n./a.jpg,6,2\n")
    with pytest.raises(PairTableError, match=r"photos\.csv: .*a\.jpg: the query .*a\.jpg is that of .*a\.jpg too"):
        folders.load(tmp_path)
