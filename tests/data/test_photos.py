import io
import json
import logging
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from geoview.data.exif import PhotoMetadata, parse_metadata
from geoview.data.photos import PhotoBytes, is_panorama, load_image, read_metadata, read_size_px
from geoview.data.queries import PhotoQuery, find_queries
from geoview.errors import GeoviewError, ImageTooLargeError, PhotoTableError, UnreadableImageError

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 180, 30), (30, 30, 220), (220, 220, 30)
LUND = (55.69816666, 13.19538888)
XMP_TAG = 700
FORMATS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP"}


@pytest.fixture(scope="module")
def real_photos(real_data) -> list[Path]:
    return sorted((real_data / "photos").rglob("*.jpg"))


@pytest.fixture(scope="module")
def exiftool() -> str:
    tool = shutil.which("exiftool")
    if tool is None:
        pytest.skip("exiftool is not installed")
    return tool


def quarters(size_px=(64, 48)) -> Image.Image:
    """A picture with a colour in each corner: red top left, green top right, blue bottom left, yellow bottom right."""
    width, height = size_px
    picture = Image.new("RGB", size_px, RED)
    picture.paste(GREEN, (width // 2, 0, width, height))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(YELLOW, (width // 2, height // 2, width, height))
    return picture


def corners(image: Image.Image) -> list[tuple[int, int, int]]:
    width, height = image.size
    at = [(3, 3), (width - 4, 3), (3, height - 4), (width - 4, height - 4)]
    return [image.getpixel(xy) for xy in at]


def near(pixel, colour, tolerance=12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, colour, strict=True))


def noise(size_px=(48, 32), seed=0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size_px[1], size_px[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def exif_with(main=(), photo=(), gps=()) -> Image.Exif:
    exif = Image.Exif()
    for tag, value in dict(main).items():
        exif[tag] = value
    if photo:
        exif.get_ifd(IFD.Exif).update(dict(photo))
    if gps:
        exif.get_ifd(IFD.GPSInfo).update(dict(gps))
    return exif


def meta(main=(), photo=(), gps=(), xmp=None, size_px=(4000, 3000)) -> PhotoMetadata:
    """Metadata of a block that went through bytes, as it does in a file."""
    return parse_metadata(exif_with(main, photo, gps).tobytes(), xmp, size_px)


def dms(angle_deg: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    units = round(abs(angle_deg) * 3600 * 10_000)
    degrees, rest = divmod(units, 3600 * 10_000)
    minutes, seconds = divmod(rest, 60 * 10_000)
    return IFDRational(degrees), IFDRational(minutes), IFDRational(seconds, 10_000)


def fix(lat=LUND[0], lon=LUND[1], **changes):
    """GPS tags of a position; `changes` replace or, as None, remove some."""
    tags = {
        GPS.GPSLatitude: dms(lat),
        GPS.GPSLatitudeRef: "S" if lat < 0 else "N",
        GPS.GPSLongitude: dms(lon),
        GPS.GPSLongitudeRef: "W" if lon < 0 else "E",
    }
    tags.update({getattr(GPS, name): value for name, value in changes.items()})
    return {tag: value for tag, value in tags.items() if value is not None}


def gpano(form="attributes", **values) -> bytes:
    if form == "attributes":
        body = "<rdf:Description " + " ".join(f'GPano:{n}="{v}"' for n, v in values.items())
        body += ' xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"/>'
    else:
        body = '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/">'
        body += "".join(f"<GPano:{n}>{v}</GPano:{n}>" for n, v in values.items()) + "</rdf:Description>"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{body}</rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


WHOLE_SPHERE = {
    "ProjectionType": "equirectangular",
    "FullPanoWidthPixels": 8192,
    "FullPanoHeightPixels": 4096,
    "CroppedAreaLeftPixels": 0,
    "CroppedAreaTopPixels": 0,
    "CroppedAreaImageWidthPixels": 8192,
    "CroppedAreaImageHeightPixels": 4096,
    "PoseHeadingDegrees": 123.5,
}


# -- position ----------------------------------------------------------------------------------------------------------


@given(st.floats(-90, 90), st.floats(-180, 180))
@settings(deadline=None)
def test_position_of_all_hemispheres(lat, lon):
    found = meta(gps=fix(lat, lon)).latlon_deg
    step = 1 / 3600 / 10_000
    if abs(lat) < step and abs(lon) < step:
        return
    assert found == pytest.approx((lat, lon), abs=step)


@pytest.mark.parametrize(("lat", "lon"), [(-33.9, -70.6), (-33.9, 151.2), (40.7, -74.0), (55.7, 13.2)])
def test_refs_give_the_signs(lat, lon):
    assert meta(gps=fix(lat, lon)).latlon_deg == pytest.approx((lat, lon), abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"GPSLatitudeRef": "s", "GPSLongitudeRef": "w"}, (-LUND[0], -LUND[1])),
        ({"GPSLatitudeRef": "South", "GPSLongitudeRef": " W"}, (-LUND[0], -LUND[1])),
        ({"GPSLatitude": (55.0, 41.0, 60.0)}, (55.7, LUND[1])),
        ({"GPSLatitude": (55.5, 0.0, 0.0)}, (55.5, LUND[1])),
        ({"GPSLatitude": (55.0, 41.5)}, (55 + 41.5 / 60, LUND[1])),
        ({"GPSLatitude": 55.25}, (55.25, LUND[1])),
        ({"GPSLatitude": (IFDRational(55), IFDRational(83, 2), IFDRational(0, 0))}, (55 + 41.5 / 60, LUND[1])),
    ],
)
def test_odd_but_clear_positions(changes, expected):
    found = meta(gps=fix(**changes))
    assert found.latlon_deg == pytest.approx(expected, abs=1e-7)
    assert found.warnings == ()


class Tree(dict):
    """EXIF already parsed, for values that no writer of ours would write."""

    def __init__(self, gps):
        super().__init__()
        self.gps = gps

    def get_ifd(self, tag):
        return self.gps if tag == IFD.GPSInfo else {}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"GPSLatitudeRef": b"S\0", "GPSLongitudeRef": b"w"}, (-LUND[0], -LUND[1])),
        ({"GPSLatitude": (-33, 30, 0), "GPSLatitudeRef": "S"}, (-33.5, LUND[1])),
        ({"GPSLatitude": (-33, 30, 0), "GPSLatitudeRef": None}, (-33.5, LUND[1])),
    ],
)
def test_odd_values_after_parsing(changes, expected):
    found = parse_metadata(Tree(fix(**changes)), None, (40, 30))
    assert found.latlon_deg == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"GPSLatitude": (IFDRational(55, 0), 41, 0)}, "GPSLatitude is not a number"),
        ({"GPSLatitude": (55, IFDRational(0, 0), 0)}, "GPSLatitude is not a number"),
        ({"GPSLatitude": (55, 41, IFDRational(0, 0))}, "GPSLatitude is not a number"),
        ({"GPSLongitude": (math.nan, 0.0, 0.0)}, "GPSLongitude is not a number"),
        ({"GPSLongitude": (math.inf, 0.0, 0.0)}, "GPSLongitude is not a number"),
        ({"GPSLatitude": (55, 60, 0)}, "60 minutes"),
        ({"GPSLatitude": (55, 59, 61)}, "61 seconds"),
        ({"GPSLatitude": (91.2, 0, 0)}, "91.2 is beyond 90"),
        ({"GPSLongitude": (180, 0, 1)}, "is beyond 180"),
        ({"GPSLatitude": (1, 2, 3, 4)}, "4 parts"),
        ({"GPSLatitude": ()}, "0 parts"),
        ({"GPSLatitude": b"55.7"}, "parts"),
        ({"GPSLatitude": "55"}, "not a number"),
        ({"GPSLatitude": None}, "GPSLatitude is not a number"),
        ({"GPSLongitude": None}, "GPSLongitude is not a number"),
        ({"GPSLatitudeRef": None}, "GPSLatitudeRef '' does not name a hemisphere"),
        ({"GPSLongitudeRef": "X"}, "GPSLongitudeRef 'X' does not name a hemisphere"),
        ({"GPSLatitude": (-33, 30, 0), "GPSLatitudeRef": "N"}, "negative"),
        ({"GPSLatitude": (0, 0, 0), "GPSLongitude": (0, 0, 0)}, "no fix"),
    ],
)
def test_impossible_positions_are_ignored_with_a_warning(changes, word):
    found = parse_metadata(Tree(fix(**changes)), None, (40, 30))
    assert found.latlon_deg is None
    assert len(found.warnings) == 1
    assert word in found.warnings[0]
    assert "\n" not in found.warnings[0]


def test_equator_and_prime_meridian_are_places():
    assert meta(gps=fix(0.0, 13.0)).latlon_deg == (0.0, 13.0)
    assert meta(gps=fix(51.5, 0.0)).latlon_deg == (51.5, 0.0)


@pytest.mark.parametrize(
    ("value", "ref", "expected"),
    [(38.5, None, 38.5), (38.5, b"\0", 38.5), (12.0, b"\1", -12.0), (IFDRational(3, 0), b"\0", None)],
)
def test_altitude(value, ref, expected):
    assert meta(gps=fix(GPSAltitude=value, GPSAltitudeRef=ref)).altitude_m == expected


@pytest.mark.parametrize(
    ("value", "ref", "expected"),
    [
        (271.25, "T", (271.25, "T")),
        (10.0, "m", (10.0, "M")),
        (360.0, "T", (0.0, "T")),
        (90.0, None, (90.0, None)),
        (361.0, "T", (None, None)),
        (IFDRational(0, 0), "T", (None, None)),
    ],
)
def test_heading(value, ref, expected):
    found = meta(gps={GPS.GPSImgDirection: value} | ({GPS.GPSImgDirectionRef: ref} if ref else {}))
    assert (found.heading_deg, found.heading_ref) == expected
    assert bool(found.warnings) == (expected[0] is None)


# -- time, camera, lens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "subseconds", "offset", "expected"),
    [
        ("2008:10:22 16:28:39", None, None, datetime(2008, 10, 22, 16, 28, 39)),
        ("2008:10:22 16:28:39", "05", None, datetime(2008, 10, 22, 16, 28, 39, 50_000)),
        ("2008:10:22 16:28:39", "1234567", None, datetime(2008, 10, 22, 16, 28, 39, 123_456)),
        (
            "2023:06:01 08:00:00",
            None,
            "-03:30",
            datetime(2023, 6, 1, 8, tzinfo=timezone(-timedelta(hours=3, minutes=30))),
        ),
        ("2023:06:01 08:00:00", None, "Z", datetime(2023, 6, 1, 8, tzinfo=UTC)),
        ("2023-06-01T08:00:00", None, None, datetime(2023, 6, 1, 8)),
        ("2023:06:01 08:00:00", None, "   :  ", datetime(2023, 6, 1, 8)),
    ],
)
def test_capture_time(text, subseconds, offset, expected):
    tags = {Base.DateTimeOriginal: text, Base.SubsecTimeOriginal: subseconds, Base.OffsetTimeOriginal: offset}
    found = meta(photo={tag: value for tag, value in tags.items() if value is not None})
    assert found.captured_at == expected
    assert found.captured_at.tzinfo == expected.tzinfo
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("0000:00:00 00:00:00", False),
        ("    :  :     :  :  ", False),
        ("2023:13:01 08:00:00", True),
        ("2023:02:30 08:00:00", True),
        ("yesterday at 5", True),
    ],
)
def test_capture_time_that_is_none(text, warned):
    found = meta(photo={Base.DateTimeOriginal: text})
    assert found.captured_at is None
    assert bool(found.warnings) == warned


def test_broken_offset_leaves_local_time():
    found = meta(photo={Base.DateTimeOriginal: "2023:06:01 08:00:00", Base.OffsetTimeOriginal: "+99:00"})
    assert found.captured_at == datetime(2023, 6, 1, 8)
    assert "+99:00" in found.warnings[0]


def test_field_of_view_from_equivalent_focal_length():
    """At 3:2 the frame is 36 mm wide; turned upright it is 24 mm wide."""
    photo = {Base.FocalLengthIn35mmFilm: 18}
    assert meta(photo=photo, size_px=(3000, 2000)).fov_deg == pytest.approx(90.0)
    upright = meta(main={Base.Orientation: 6}, photo=photo, size_px=(3000, 2000))
    assert upright.fov_deg == pytest.approx(math.degrees(2 * math.atan(24 / 36)))


def test_field_of_view_from_focal_plane():
    """4000 pixels at 1000 a centimetre are 40 mm; at a focal length of 20 mm that is 90 degrees."""
    photo = {
        Base.FocalLength: 20.0,
        Base.FocalPlaneXResolution: 1000.0,
        Base.FocalPlaneYResolution: 1000.0,
        Base.FocalPlaneResolutionUnit: 3,
        Base.ExifImageWidth: 4000,
        Base.ExifImageHeight: 3000,
    }
    assert meta(photo=photo).fov_deg == pytest.approx(90.0)
    assert meta(photo=photo, size_px=(400, 300)).fov_deg == pytest.approx(90.0), "a scaled copy looks as wide"
    upright = meta(main={Base.Orientation: 8}, photo=photo)
    assert upright.fov_deg == pytest.approx(math.degrees(2 * math.atan(15 / 20)))
    inches = photo | {Base.FocalPlaneResolutionUnit: 2, Base.FocalPlaneXResolution: 2540.0}
    assert meta(photo=inches).fov_deg == pytest.approx(90.0)
    absurd = meta(photo=photo | {Base.FocalPlaneXResolution: 1.0})
    assert absurd.fov_deg is None
    assert "sensor" in absurd.warnings[0]


def test_field_of_view_unknown():
    assert meta(photo={Base.FocalLength: 4.3}).fov_deg is None
    assert meta(photo={Base.FocalLengthIn35mmFilm: 0}).fov_deg is None


def test_camera():
    assert meta(main={Base.Make: "NIKON", Base.Model: "COOLPIX P6000"}).camera == "NIKON COOLPIX P6000"
    assert meta(main={Base.Make: "Canon", Base.Model: "Canon EOS R5"}).camera == "Canon EOS R5"
    assert meta(main={Base.Model: "Pixel 8"}).camera == "Pixel 8"
    assert meta().camera is None


def test_impossible_orientation():
    found = meta(main={Base.Orientation: 9})
    assert found.orientation == 1
    assert "Orientation '9'" in found.warnings[0]


# -- panoramas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["attributes", "elements"])
def test_gpano_forms(form):
    found = meta(xmp=gpano(form, **WHOLE_SPHERE))
    assert found.panorama.projection == "equirectangular"
    assert (found.panorama.full_width_px, found.panorama.full_height_px) == (8192, 4096)
    assert (found.panorama.crop_width_px, found.panorama.crop_height_px) == (8192, 4096)
    assert (found.heading_deg, found.heading_ref, found.fov_deg) == (123.5, "T", 360.0)


def test_cropped_panorama():
    crop = {"CroppedAreaImageWidthPixels": "2048.0", "CroppedAreaLeftPixels": 100, "CroppedAreaTopPixels": 7}
    found = meta(xmp=gpano(**WHOLE_SPHERE | crop), photo={Base.FocalLengthIn35mmFilm: 26})
    assert found.fov_deg == 90.0
    assert (found.panorama.crop_left_px, found.panorama.crop_top_px) == (100, 7)


def test_compass_of_the_camera_comes_before_the_pose():
    found = meta(xmp=gpano(**WHOLE_SPHERE), gps={GPS.GPSImgDirection: 10.0, GPS.GPSImgDirectionRef: "M"})
    assert (found.heading_deg, found.heading_ref) == (10.0, "M")


def test_projection_alone_means_the_whole_sphere():
    found = meta(xmp=gpano(ProjectionType="Equirectangular"), size_px=(2000, 1000))
    assert found.fov_deg == 360.0
    assert found.panorama.full_width_px == 2000


@pytest.mark.parametrize(
    ("xmp", "word"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b"<x:xmpmeta", "XMP cannot be read"),
        (b"\xff\xfe<\x00a\x00", "XMP cannot be read"),
        (gpano(**WHOLE_SPHERE | {"FullPanoWidthPixels": "many"}), "FullPanoWidthPixels 'many'"),
        (gpano(**WHOLE_SPHERE | {"FullPanoWidthPixels": "inf"}), "FullPanoWidthPixels 'inf'"),
        (gpano(**WHOLE_SPHERE | {"CroppedAreaImageWidthPixels": 9000}), "does not lie within"),
        (gpano(**WHOLE_SPHERE | {"CroppedAreaImageHeightPixels": 0}), "does not lie within"),
    ],
)
def test_broken_xmp_is_ignored_with_a_warning(xmp, word):
    found = meta(xmp=xmp)
    assert found.panorama is None
    assert len(found.warnings) == 1
    assert word in found.warnings[0]


def test_broken_pose_leaves_the_panorama():
    found = meta(xmp=gpano(**WHOLE_SPHERE | {"PoseHeadingDegrees": "nan"}))
    assert found.panorama.pose_heading_deg is None
    assert found.heading_deg is None
    assert "PoseHeadingDegrees" in found.warnings[0]


def test_xmp_without_panorama():
    assert meta(xmp=gpano()).panorama is None
    assert meta(xmp=gpano()).warnings == ()


def test_is_panorama():
    plain = meta()
    assert is_panorama((4000, 2000), plain)
    assert is_panorama((4070, 2000), plain)
    assert not is_panorama((4100, 2000), plain)
    assert not is_panorama((4000, 3000), plain)
    assert not is_panorama((3000, 1000), plain)
    assert is_panorama((3010, 1000), plain)
    assert is_panorama((600, 500), meta(xmp=gpano(**WHOLE_SPHERE)))
    assert not is_panorama((4000, 2000), meta(xmp=gpano(**WHOLE_SPHERE | {"ProjectionType": "cylindrical"})))
    telephone = meta(photo={Base.FocalLengthIn35mmFilm: 26})
    assert not is_panorama((4000, 2000), telephone)
    assert is_panorama((9000, 2000), telephone)


# -- files: metadata ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_metadata_of_every_format(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    main = {Base.Orientation: 6} | ({XMP_TAG: gpano(**WHOLE_SPHERE)} if suffix == "tif" else {})
    exif = exif_with(main, {Base.DateTimeOriginal: "2020:01:02 03:04:05"}, fix(-33.9, -70.6)).tobytes()
    quarters().save(path, exif=exif, **({"xmp": gpano(**WHOLE_SPHERE)} if suffix in ("jpg", "webp") else {}))
    found = read_metadata(path)
    assert found.latlon_deg == pytest.approx((-33.9, -70.6), abs=1e-7)
    assert found.captured_at == datetime(2020, 1, 2, 3, 4, 5)
    assert found.orientation == 6
    assert found.warnings == ()
    if suffix != "png":
        assert found.fov_deg == 360.0
    assert corners(load_image(path))[0] == pytest.approx(BLUE, abs=12)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("compressed", [False, True])
def test_png_metadata_behind_the_pixels(tmp_path, compressed):
    plain = io.BytesIO()
    quarters().save(plain, "PNG")
    head, end = plain.getvalue()[:-12], plain.getvalue()[-12:]
    text = gpano(**WHOLE_SPHERE)
    body = b"XML:com.adobe.xmp\0" + bytes([compressed, 0]) + b"\0\0" + (zlib.compress(text) if compressed else text)
    exif = exif_with({Base.Orientation: 3}).tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "late.png"
    path.write_bytes(head + png_chunk(b"iTXt", body) + png_chunk(b"eXIf", exif) + end)
    found = read_metadata(path)
    assert (found.orientation, found.fov_deg) == (3, 360.0)
    assert near(corners(load_image(path))[0], YELLOW)


def test_metadata_without_decoding(tmp_path):
    """A photo cut off after its head still says where it was taken."""
    path = tmp_path / "cut.jpg"
    noise((400, 300)).save(path, exif=exif_with(gps=fix()))
    path.write_bytes(path.read_bytes()[:4000])
    assert read_metadata(path).latlon_deg == pytest.approx(LUND, abs=1e-7)
    with pytest.raises(UnreadableImageError, match="truncated"):
        load_image(path)


def test_damaged_exif_does_not_hide_the_picture(tmp_path):
    path = tmp_path / "photo.jpg"
    quarters().save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01\x02garbage")
    assert read_metadata(path).latlon_deg is None
    assert near(corners(load_image(path))[0], RED)
    quarters().save(path, exif=b"Exif\0\0neither II nor MM")
    assert "EXIF cannot be read" in read_metadata(path).warnings[0]
    assert near(corners(load_image(path))[0], RED)


def test_photo_without_metadata(tmp_path):
    quarters().save(tmp_path / "bare.jpg")
    assert read_metadata(tmp_path / "bare.jpg") == PhotoMetadata(
        latlon_deg=None,
        altitude_m=None,
        heading_deg=None,
        heading_ref=None,
        captured_at=None,
        fov_deg=None,
        orientation=1,
        panorama=None,
        camera=None,
        warnings=(),
    )


def reported(exiftool: str, paths: list[Path]) -> list[dict]:
    tags = "Composite:GPSLatitude Composite:GPSLongitude GPS:GPSImgDirection IFD0:Orientation ExifIFD:DateTimeOriginal"
    command = [exiftool, "-n", "-json", *(f"-{tag}" for tag in tags.split()), *map(str, paths)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_real_photos_as_exiftool_reads_them(real_photos, exiftool):
    reports = reported(exiftool, real_photos)
    assert len(reports) == len(real_photos) > 0
    for path, report in zip(real_photos, reports, strict=True):
        found = read_metadata(path)
        assert found.latlon_deg == pytest.approx((report["GPSLatitude"], report["GPSLongitude"]), abs=1e-10), path
        assert found.orientation == report.get("Orientation", 1)
        assert found.heading_deg == report.get("GPSImgDirection")
        taken = found.captured_at and found.captured_at.strftime("%Y:%m:%d %H:%M:%S")
        assert taken == report.get("DateTimeOriginal")
        assert found.warnings == ()


def test_real_photos_load(real_photos):
    for path in real_photos[:3] + real_photos[-3:]:
        image = load_image(path, max_side_px=512)
        assert (image.mode, max(image.size)) == ("RGB", 512)
        assert np.asarray(image).std() > 20
    assert {read_metadata(path).latlon_deg is not None for path in real_photos} == {True}


@pytest.mark.parametrize("suffix", FORMATS)
def test_tags_as_exiftool_writes_them(tmp_path, exiftool, suffix):
    path = tmp_path / f"photo.{suffix}"
    quarters().save(path)
    tags = [
        "-GPSLatitude=33.912345",
        "-GPSLatitudeRef=S",
        "-GPSLongitude=70.654321",
        "-GPSLongitudeRef=W",
        "-GPSAltitude=12.5",
        "-GPSAltitudeRef=1",
        "-GPSImgDirection=271.25",
        "-GPSImgDirectionRef=M",
        "-Orientation=8",
        "-DateTimeOriginal=2023:06:01 08:00:00",
        "-SubSecTimeOriginal=25",
        "-OffsetTimeOriginal=-04:00",
        "-FocalLengthIn35mmFormat=26",
        "-XMP-GPano:ProjectionType=equirectangular",
        "-XMP-GPano:FullPanoWidthPixels=8000",
        "-XMP-GPano:FullPanoHeightPixels=4000",
        "-XMP-GPano:CroppedAreaLeftPixels=0",
        "-XMP-GPano:CroppedAreaTopPixels=0",
        "-XMP-GPano:CroppedAreaImageWidthPixels=2000",
        "-XMP-GPano:CroppedAreaImageHeightPixels=4000",
        "-XMP-GPano:PoseHeadingDegrees=5",
    ]
    subprocess.run([exiftool, "-n", "-q", "-overwrite_original", *tags, str(path)], check=True)
    found = read_metadata(path)
    (report,) = reported(exiftool, [path])
    assert found.latlon_deg == pytest.approx((report["GPSLatitude"], report["GPSLongitude"]), abs=1e-10)
    assert found.latlon_deg == pytest.approx((-33.912345, -70.654321), abs=1e-7)
    assert (found.altitude_m, found.heading_deg, found.heading_ref) == (-12.5, 271.25, "M")
    assert found.captured_at == datetime(2023, 6, 1, 8, 0, 0, 250_000, timezone(timedelta(hours=-4)))
    assert (found.orientation, found.fov_deg, found.panorama.pose_heading_deg) == (8, 90.0, 5.0)
    assert found.warnings == ()
    assert near(corners(load_image(path))[0], GREEN)


# -- files: pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, suffix, orientation):
    """The stored picture is the upright one turned back, by the tag's definition: where row 0 and column 0 belong."""
    upright = np.asarray(quarters())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif_with({Base.Orientation: orientation}))
    image = load_image(path)
    assert image.size == (64, 48)
    for pixel, colour in zip(corners(image), (RED, GREEN, BLUE, YELLOW), strict=True):
        assert near(pixel, colour)
    assert image.getexif().get(Base.Orientation, 1) == 1, "whoever turns it once more must not turn it"


@pytest.mark.parametrize(("suffix", "content"), [("jpg", "PNG"), ("png", "JPEG"), ("txt", "TIFF"), ("tif", "WEBP")])
def test_format_by_content(tmp_path, suffix, content):
    quarters().save(tmp_path / f"photo.{suffix}", content)
    assert near(corners(load_image(tmp_path / f"photo.{suffix}"))[3], YELLOW)


GREY_RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("YCbCr", "tif"),
        ("P", "png"),
        ("RGBA", "png"),
        ("RGBA", "webp"),
        ("RGBA", "tif"),
    ],
)
def test_colour_modes(tmp_path, mode, suffix):
    path = tmp_path / f"photo.{suffix}"
    (quarters().quantize(8) if mode == "P" else quarters().convert(mode)).save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    for pixel, colour in zip(corners(image), (RED, GREEN, BLUE, YELLOW), strict=True):
        assert near(pixel, colour, 16)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "jpg"), ("L", "png"), ("LA", "png"), ("LA", "tif")])
def test_grey_modes(tmp_path, mode, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(GREY_RAMP).convert(mode).save(path)
    assert np.abs(np.asarray(load_image(path)).astype(int) - GREY_RAMP[..., None]).max() <= 6


def test_one_bit(tmp_path):
    Image.fromarray(GREY_RAMP > 127).save(tmp_path / "bits.png")
    assert set(np.asarray(load_image(tmp_path / "bits.png")).ravel()) == {0, 255}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(GREY_RAMP.astype(np.uint16) * 257).save(path)
    assert np.array_equal(np.asarray(load_image(path))[..., 0], GREY_RAMP)
    Image.fromarray(GREY_RAMP.astype(np.uint16)).save(path)
    assert np.array_equal(np.asarray(load_image(path))[..., 0], GREY_RAMP), "8 bits in a 16-bit file"


def test_16_bit_colour(tmp_path):
    rows = np.tile(np.array([[220 * 257, 30 * 257, 5 * 257]], dtype=">u2"), (20, 20)).reshape(20, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    assert load_image(tmp_path / "deep.png").getpixel((5, 5)) == (220, 30, 5)


def test_pixels_without_a_white(tmp_path):
    Image.fromarray(np.ones((32, 32), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UnreadableImageError, match=r"float\.tif: pixels of type F .* convert"):
        load_image(tmp_path / "float.tif")
    Image.fromarray(np.full((32, 32), 70_000, np.int32)).save(tmp_path / "int.tif")
    with pytest.raises(UnreadableImageError, match=r"int\.tif: grey values 70000 to 70000 exceed 16 bits"):
        load_image(tmp_path / "int.tif")


def test_transparency_over_mid_grey(tmp_path):
    for alpha, expected in [(0, 128), (255, 255), (128, 192)]:
        Image.new("RGBA", (32, 32), (255, 255, 255, alpha)).save(tmp_path / "veil.png")
        assert near(load_image(tmp_path / "veil.png").getpixel((9, 9)), (expected,) * 3, 1)
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert load_image(tmp_path / "palette.png").getpixel((9, 9)) == (128, 128, 128)
    Image.new("L", (32, 32), 7).save(tmp_path / "grey.png", transparency=7)
    assert load_image(tmp_path / "grey.png").getpixel((9, 9)) == (128, 128, 128)
    assert load_image(tmp_path / "grey.png", max_side_px=16).getpixel((9, 9)) == (128, 128, 128)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_first_of_several_frames(tmp_path, suffix):
    path = tmp_path / f"many.{suffix}"
    frames = [Image.new("RGB", (32, 32), BLUE)]
    Image.new("RGB", (32, 32), RED).save(path, save_all=True, append_images=frames)
    assert near(load_image(path).getpixel((9, 9)), RED, 4)


def swapped_profile() -> bytes:
    """An sRGB profile whose red and blue primaries are exchanged, under another name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * struct.unpack_from(">I", profile, 128)[0], 12):
        name = bytes(profile[at : at + 4])
        profile[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_colour_profile_is_applied(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    quarters().save(path, icc_profile=swapped_profile())
    red, _, blue, _ = corners(load_image(path))
    assert near(red, RED[::-1], 16)
    assert near(blue, BLUE[::-1], 16)


def test_srgb_and_broken_profiles(tmp_path, caplog):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in [("srgb", srgb), ("broken", b"not a profile")]:
        quarters().save(tmp_path / f"{name}.png", icc_profile=profile)
        with caplog.at_level(logging.WARNING):
            image = load_image(tmp_path / f"{name}.png")
        assert np.array_equal(np.asarray(image), np.asarray(quarters()))
    (record,) = caplog.records
    assert "broken.png: ICC profile cannot be used" in record.getMessage()


@pytest.mark.parametrize("suffix", FORMATS)
def test_max_side(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    quarters((640, 480)).save(path, exif=exif_with({Base.Orientation: 6}))
    image = load_image(path, max_side_px=100)
    assert image.size == (75, 100)
    assert near(corners(image)[0], BLUE)
    assert load_image(path, max_side_px=2000).size == (480, 640)


# -- files: bounded memory ---------------------------------------------------------------------------------------------


def tall_jpeg(path: Path, width_px: int, repeats: int) -> int:
    """A JPEG of 128 x repeats rows, made of one strip repeated between restart markers; returns its height."""
    strip = io.BytesIO()
    rng = np.random.default_rng(1)
    blocks = Image.fromarray(rng.integers(0, 256, (8, width_px // 50, 3), dtype=np.uint8))
    blocks.resize((width_px, 128)).save(strip, "JPEG", quality=60, restart_marker_rows=1, subsampling="4:2:0")
    data = bytearray(strip.getvalue())
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    height_px = 128 * repeats
    data[frame + 5 : frame + 7] = struct.pack(">H", height_px)
    start = scan + 2 + struct.unpack_from(">H", data, scan + 2)[0]
    # 128 rows are eight rows of blocks: RST0 to RST6 lie between them, RST7 joins two strips.
    path.write_bytes(data[:start] + b"\xff\xd7".join([bytes(data[start:-2])] * repeats) + b"\xff\xd9")
    return height_px


def test_huge_jpeg_in_bounded_memory(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc/self/status, which this system lacks")
    height_px = tall_jpeg(tmp_path / "huge.jpg", 20_000, 157)
    assert height_px > 20_000
    script = (
        "import sys; from geoview.data.photos import load_image; image = load_image(sys.argv[1]); "
        "from pathlib import Path; status = Path('/proc/self/status').read_text(); "
        "print(*image.size, status.split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "huge.jpg")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    width, height, peak_kb = map(int, done.stdout.split())
    assert (width, height) == (4076, 4096)
    assert peak_kb < 600 * 1024
    assert done.stderr == ""
    with pytest.raises(ImageTooLargeError, match=r"huge\.jpg: 20000 x 20096 pixels.*scale it down"):
        load_image(tmp_path / "huge.jpg", max_side_px=20_000)


def test_huge_png_is_refused(tmp_path):
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(b"\0")) + png_chunk(b"IEND", b""))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageTooLargeError, match=r"huge\.png: 20000 x 20000 pixels.*scale it down"):
        load_image(path)
    assert read_metadata(path).latlon_deg is None
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", ["tif", "webp", "jpg"])
def test_other_huge_files_are_refused(tmp_path, suffix):
    """Small files whose heads were changed to claim 16000 x 16000 pixels, progressive JPEG among them."""
    path = tmp_path / f"huge.{suffix}"
    if suffix == "jpg":
        quarters().save(path, progressive=True)
        data = bytearray(path.read_bytes())
        struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, 16_000, 16_000)
    elif suffix == "webp":
        quarters().save(path, lossless=True, exif=exif_with({Base.Model: "x"}))
        data = bytearray(path.read_bytes())
        data[24:30] = (15_999).to_bytes(3, "little") * 2
    else:
        quarters().save(path)
        data = bytearray(path.read_bytes())
        first = struct.unpack_from("<I", data, 4)[0]
        for at in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], 12):
            if struct.unpack_from("<H", data, at)[0] in (256, 257):
                struct.pack_into("<HII", data, at + 2, 4, 1, 16_000)
    path.write_bytes(data)
    with pytest.raises(ImageTooLargeError, match=rf"huge\.{suffix}: .*scale it down"):
        load_image(path)


def test_large_images_are_scaled_unless_asked_otherwise(tmp_path):
    path = tmp_path / "large.png"
    Image.new("L", (8000, 7000), 90).save(path, compress_level=1)
    assert load_image(path).size == (4096, 3584)
    assert load_image(path, max_side_px=7999).size == (7999, 6999)


# -- files: what is no photo -------------------------------------------------------------------------------------------


def one_line(path: Path) -> str:
    messages = []
    for read in (load_image, read_metadata):
        with pytest.raises(UnreadableImageError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{path}: ")
    assert "\n" not in messages[0]
    return messages[0]


def test_files_that_are_no_photos(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("This is no photo, whatever it is called.")
    quarters().save(tmp_path / "photo.gif")
    assert "no such file" in one_line(tmp_path / "absent.jpg")
    assert "a folder" in one_line(tmp_path)
    assert "empty" in one_line(tmp_path / "empty.jpg")
    assert "not a JPEG, PNG, TIFF or WebP" in one_line(tmp_path / "text.jpg")
    assert "convert it" in one_line(tmp_path / "photo.gif")
    assert "null byte" in one_line("a\0b.jpg")


def test_forbidden_file(tmp_path):
    path = tmp_path / "secret.jpg"
    quarters().save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "no permission" in one_line(path)


@pytest.mark.parametrize("size_px", [(1, 1), (15, 400), (400, 15)])
def test_too_small(tmp_path, size_px):
    quarters(size_px).save(tmp_path / "small.png")
    with pytest.raises(UnreadableImageError, match=f"{size_px[0]} x {size_px[1]} pixels are too small"):
        load_image(tmp_path / "small.png")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    main, photo, gps = {Base.Orientation: 6, Base.Make: "Maker"}, {Base.DateTimeOriginal: "2020:01:02 03:04:05"}, fix()
    exif, xmp = exif_with(main, photo, gps).tobytes(), gpano(**WHOLE_SPHERE)
    variants = {
        "jpg": {"exif": exif, "xmp": xmp},
        "progressive.jpg": {"exif": exif, "xmp": xmp, "progressive": True},
        "png": {"exif": exif},
        "tif": {"exif": exif_with(main | {XMP_TAG: xmp}, photo, gps).tobytes()},
        "lzw.tif": {"exif": exif_with(main), "compression": "tiff_lzw"},
        "webp": {"exif": exif, "xmp": xmp},
    }
    made = {}
    for name, options in variants.items():
        path = folder / f"sample.{name}"
        noise().save(path, **({} if name == "lzw.tif" else {"icc_profile": swapped_profile()}), **options)
        made[name] = path.read_bytes()
    return made


@pytest.mark.parametrize("name", ["jpg", "progressive.jpg", "png", "tif", "lzw.tif", "webp"])
def test_truncated_image_is_an_error_wherever_it_ends(samples, tmp_path, name):
    path = tmp_path / f"whole.{name}"
    path.write_bytes(samples[name])
    expected = np.asarray(load_image(path))
    path = tmp_path / f"cut.{name}"
    refused = 0
    for length in range(1, len(samples[name])):
        path.write_bytes(samples[name][:length])
        try:
            image = load_image(path)
        except UnreadableImageError:
            refused += 1
        else:
            assert image.size == expected.shape[1::-1] or image.size == expected.shape[:2]
            assert np.array_equal(np.asarray(image), expected), f"other pixels after {length} bytes"
    assert refused > 1000


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_damage_never_raises_anything_but_our_errors(samples, tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(samples)))
    damaged = bytearray(samples[name])
    for _ in range(data.draw(st.integers(0, 6))):
        # Heads hold the structure: aim at them as often as at the rest.
        reach = data.draw(st.sampled_from([300, len(damaged)]))
        at = data.draw(st.integers(0, min(reach, len(damaged)) - 1))
        damaged[at] ^= data.draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 255]))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(damaged)
    for read in (read_metadata, load_image):
        try:
            read(path)
        except GeoviewError as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)


# -- which photos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(FORMATS))
def test_a_photo_in_memory_is_as_its_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = exif_with(main={Base.Orientation: 6}, gps={GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (55.0, 41.0, 53.0)})
    quarters().save(path, exif=exif)
    photo = PhotoBytes("upload", path.read_bytes())
    assert read_metadata(photo) == read_metadata(path)
    assert read_size_px(photo) == read_size_px(path)
    assert np.array_equal(load_image(photo), load_image(path))
    assert "content" not in repr(photo), "bytes are not for logs"


def test_a_bad_photo_in_memory_is_told_by_its_name():
    for read in (read_metadata, read_size_px, load_image):
        with pytest.raises(UnreadableImageError, match=r"^a b\.jpg: not a JPEG, PNG, TIFF or WebP"):
            read(PhotoBytes("a b.jpg", b"<svg/>"))
        with pytest.raises(UnreadableImageError, match=r"^empty\.jpg: the file is empty"):
            read(PhotoBytes("empty.jpg", b""))


def test_find_files_and_folders(tmp_path):
    below = tmp_path / "b" / "deep"
    below.mkdir(parents=True)
    (tmp_path / ".thumbnails").mkdir()
    for name in ["z.JPG", "a.webp", "b/deep/m.tiff", "notes.txt", "._z.jpg", ".thumbnails/t.jpg", "b/photos.csv"]:
        (tmp_path / name).write_text("x")
    (tmp_path / "folder.jpg").mkdir()
    found = [query.path for query in find_queries([tmp_path, str(tmp_path / "absent.jpg"), "any name"])]
    inside = [str(tmp_path / name) for name in ["a.webp", "b/deep/m.tiff", "z.JPG"]]
    assert found == [*inside, str(tmp_path / "absent.jpg"), "any name"]
    assert find_queries([tmp_path / "folder.jpg"]) == [PhotoQuery(str(tmp_path / "folder.jpg"))]
    assert find_queries([]) == []


def test_read_table(tmp_path):
    table = tmp_path / "photos.csv"
    table.write_text(
        "\ufeffpath, lat,lon,note,heading_deg,fov_deg,captured_at\n"
        'a.jpg,-33.9,-70.6,"x, y",-90,66.5,2023-06-01T08:00:00+02:00\n'
        "\n"
        ",,,,,,\n"
        "sub/b.jpg\n"
        f"{tmp_path}/c.jpg,,,,,,2023-06-01\n",
        encoding="utf-8",
    )
    first, second, third = find_queries([table])
    taken = datetime(2023, 6, 1, 8, tzinfo=timezone(timedelta(hours=2)))
    assert first == PhotoQuery(str(tmp_path / "a.jpg"), (-33.9, -70.6), 270.0, 66.5, taken)
    assert second == PhotoQuery(str(tmp_path / "sub" / "b.jpg"))
    assert third == PhotoQuery(str(tmp_path / "c.jpg"), captured_at=datetime(2023, 6, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column path"),
        ("file,lat\na.jpg,1\n", "line 1: no column path in 'file, lat'"),
        ("path;lat\na.jpg;1\n", "line 1: no column path"),
        ("path,lat,lat,lon\n", "line 1: column lat occurs twice"),
        ("path,lat,lon\na.jpg,1,2\nb.jpg,north,2\n", "line 3: column lat: 'north' is not a number"),
        ("path,lat,lon\na.jpg,nan,2\n", "line 2: column lat: 'nan' is not within -90 to 90"),
        ("path,lat,lon\na.jpg,90.01,2\n", "line 2: column lat: '90.01' is not within -90 to 90"),
        ("path,lat,lon\na.jpg,1,-181\n", "line 2: column lon: '-181' is not within -180 to 180"),
        ("path,lat,lon\na.jpg,1,\n", "line 2: column lon: empty, but lat is given"),
        ("path,lon\na.jpg,1\n", "line 2: column lat: empty, but lon is given"),
        ("path,heading_deg\na.jpg,361\n", "line 2: column heading_deg: '361'"),
        ("path,fov_deg\na.jpg,0\n", "line 2: column fov_deg: 0 sees nothing"),
        ("path,fov_deg\na.jpg,400\n", "line 2: column fov_deg: '400'"),
        ("path,captured_at\na.jpg,yesterday\n", "line 2: column captured_at: 'yesterday' is not an ISO 8601 time"),
        ("lat,lon,path\n1,2,\n", "line 2: column path: empty"),
        ("path,lat,lon\na.jpg,1,5,2,5\n", "line 2: 5 cells for 3 columns"),
        ('path\n"a.jpg\n', "not valid CSV"),
    ],
)
def test_impossible_tables(tmp_path, text, message):
    table = tmp_path / "photos.csv"
    table.write_text(text)
    with pytest.raises(PhotoTableError) as caught:
        find_queries([table])
    assert str(caught.value).startswith(f"{table}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(PhotoTableError, match=r"absent\.csv: No such file"):
        find_queries([tmp_path / "absent.csv"])
    (tmp_path / "latin.csv").write_bytes("path\nMalmö.jpg\n".encode("latin-1"))
    with pytest.raises(PhotoTableError, match=r"latin\.csv: not UTF-8 text at byte 9"):
        find_queries([tmp_path / "latin.csv"])
