"""What EXIF and XMP say about a photo: where, when, which way and how wide the camera looked.

Nothing here trusts the file. A tag that cannot be right is left out, and `PhotoMetadata.warnings` says which and why:
a wrong position does more harm than none.

Standards: Exif 3.0 (CIPA DC-008-2023) and Google's Photo Sphere XMP
(https://developers.google.com/streetview/spherical-metadata), namespace GPano.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from numbers import Real
from typing import Any, Literal
from xml.etree import ElementTree

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

__all__ = ["Panorama", "PhotoMetadata", "parse_metadata"]

_GPANO = "{http://ns.google.com/photos/1.0/panorama/}"
_FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
_FOCAL_PLANE_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_SENSOR_WIDTH_MM = (1.0, 100.0)  # from the smallest phone sensor to beyond digital medium format
# What Pillow's reader of image file directories raises on damaged bytes.
_IFD_FAULTS = (SyntaxError, struct.error, OSError, ValueError, TypeError, LookupError, EOFError, OverflowError)

_Tags = Mapping[int, Any]


@dataclass(frozen=True)
class Panorama:
    """The part of the sphere (or cylinder) that an image covers, from XMP GPano.

    The sizes are those of the image when it was stitched; only their ratios matter for a copy scaled since then.
    """

    projection: str
    """As written, in lower case: `equirectangular` or `cylindrical`."""
    full_width_px: int
    full_height_px: int
    crop_left_px: int
    crop_top_px: int
    crop_width_px: int
    crop_height_px: int
    pose_heading_deg: float | None
    """Heading of the centre of the full panorama, clockwise from true north."""

    @property
    def fov_deg(self) -> float:
        """Horizontal angle covered by the image: 360 times the cropped share of the full width."""
        return 360.0 * self.crop_width_px / self.full_width_px


@dataclass(frozen=True)
class PhotoMetadata:
    """What a photo file says about itself; None where it says nothing that can be believed."""

    latlon_deg: tuple[float, float] | None
    """WGS84, latitude first. (0, 0) is how cameras write "no fix" and counts as absent."""
    altitude_m: float | None
    """Above sea level, negative below."""
    heading_deg: float | None
    """Of the optical axis, clockwise from north, in [0, 360): GPSImgDirection, else the heading of the panorama."""
    heading_ref: Literal["T", "M"] | None
    """True or magnetic north; None where there is no heading or the file does not say."""
    captured_at: datetime | None
    """DateTimeOriginal with its fraction of a second; naive (local time) unless the file holds the offset from UTC."""
    fov_deg: float | None
    """Horizontal field of view of the uncropped image as displayed."""
    orientation: int
    """EXIF orientation, 1 to 8: how the stored pixels are turned for display."""
    panorama: Panorama | None
    camera: str | None
    """Make and model."""
    warnings: tuple[str, ...]
    """One line for each thing in the file that was not believed."""


def parse_metadata(exif: bytes | Image.Exif, xmp: bytes | None, stored_size_px: tuple[int, int]) -> PhotoMetadata:
    """Interpret the metadata blocks of a photo.

    Args:
        exif: The EXIF block, empty if the file has none; of a TIFF, which is such a block itself, Pillow's view of it.
        xmp: The XMP packet, UTF-8, if the file has one.
        stored_size_px: (width, height) of the pixels as stored, before the orientation is applied.

    Returns:
        What can be believed, with a warning for each thing that was not. Damaged metadata is no error.
    """
    notes: list[str] = []
    tree = _tree(exif, notes) if isinstance(exif, bytes) else exif
    main = _directory("EXIF", lambda: tree, notes)
    photo = _directory("Exif IFD", lambda: tree.get_ifd(IFD.Exif), notes)
    gps = _directory("GPS IFD", lambda: tree.get_ifd(IFD.GPSInfo), notes)
    panorama = _panorama(xmp, stored_size_px, notes) if xmp else None
    orientation = _orientation(main, notes)
    heading_deg, heading_ref = _heading(gps, notes)
    if heading_deg is None and panorama is not None and panorama.pose_heading_deg is not None:
        heading_deg, heading_ref = panorama.pose_heading_deg, "T"
    fov_deg = panorama.fov_deg if panorama is not None else _lens_fov_deg(photo, orientation, stored_size_px, notes)
    return PhotoMetadata(
        latlon_deg=_latlon_deg(gps, notes),
        altitude_m=_altitude_m(gps, notes),
        heading_deg=heading_deg,
        heading_ref=heading_ref,
        captured_at=_captured_at(photo, notes),
        fov_deg=fov_deg,
        orientation=orientation,
        panorama=panorama,
        camera=_camera(main),
        warnings=tuple(notes),
    )


def _tree(block: bytes, notes: list[str]) -> Image.Exif:
    tree = Image.Exif()
    try:
        tree.load(block)
    except _IFD_FAULTS as fault:
        notes.append(f"EXIF cannot be read and was ignored ({fault})")
        return Image.Exif()
    return tree


def _directory(name: str, read: Callable[[], Any], notes: list[str]) -> dict[int, Any]:
    try:
        return dict(read())
    except _IFD_FAULTS as fault:
        notes.append(f"{name} is damaged and was ignored ({fault})")
        return {}


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value.replace("\0", " ").strip() if isinstance(value, str) else ""


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _number(value: object) -> float:
    """Value as float; nan for anything else and for a rational whose denominator is zero."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _positive(tags: _Tags, tag: int) -> float | None:
    """A physical quantity for which the standard writes 0, or a zero denominator, when it is unknown."""
    value = _number(tags.get(tag))
    return value if 0 < value < math.inf else None


# -- position ----------------------------------------------------------------------------------------------------------


def _latlon_deg(gps: _Tags, notes: list[str]) -> tuple[float, float] | None:
    if GPS.GPSLatitude not in gps and GPS.GPSLongitude not in gps:
        return None
    try:
        lat_deg = _angle_deg(gps, GPS.GPSLatitude, GPS.GPSLatitudeRef, ("N", "S"), 90.0)
        lon_deg = _angle_deg(gps, GPS.GPSLongitude, GPS.GPSLongitudeRef, ("E", "W"), 180.0)
    except ValueError as reason:
        notes.append(f"{reason}: position ignored")
        return None
    if lat_deg == 0 and lon_deg == 0:
        notes.append("GPS position is 0, 0, which means no fix: position ignored")
        return None
    return lat_deg, lon_deg


def _angle_deg(gps: _Tags, tag: GPS, ref_tag: GPS, signs: tuple[str, str], limit_deg: float) -> float:
    """Degrees, minutes and seconds as signed decimal degrees; ValueError says what is wrong with them."""
    value = gps.get(tag)
    parts = [_number(part) for part in value] if isinstance(value, Sequence) else [_number(value)]
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"{tag.name} has {len(parts)} parts, not degrees, minutes and seconds")
    if len(parts) == 3 and math.isnan(parts[2]) and parts[1] % 1:
        parts.pop()  # 0/0 seconds after fractional minutes: the writer keeps them in the minutes
    if not all(math.isfinite(part) for part in parts):
        raise ValueError(f"{tag.name} is not a number")
    degrees, minutes, seconds = (abs(part) for part in (*parts, 0.0, 0.0)[:3])
    # Seconds may be 60: 59.9999 rounded by the writer.
    if minutes >= 60 or seconds > 60:
        raise ValueError(f"{tag.name} has {minutes:g} minutes and {seconds:g} seconds")
    angle_deg = degrees + (minutes + seconds / 60) / 60
    if angle_deg > limit_deg:
        raise ValueError(f"{tag.name} {angle_deg:g} is beyond {limit_deg:g} degrees")

    # The standard's rationals are unsigned; a negative part comes from a writer that put the hemisphere there as well.
    negative = any(part < 0 for part in parts)
    ref = _text(gps.get(ref_tag)).upper()[:1]
    if ref not in signs:
        if not negative:
            raise ValueError(f"{ref_tag.name} {_quoted(ref)} does not name a hemisphere")
    elif negative and ref == signs[0]:
        raise ValueError(f"{tag.name} is negative and {ref_tag.name} is {ref}")
    return -angle_deg if negative or ref == signs[1] else angle_deg


def _altitude_m(gps: _Tags, notes: list[str]) -> float | None:
    if GPS.GPSAltitude not in gps:
        return None
    altitude_m = _number(gps[GPS.GPSAltitude])
    if not math.isfinite(altitude_m):
        notes.append("GPSAltitude is not a number: altitude ignored")
        return None
    ref = gps.get(GPS.GPSAltitudeRef, 0)
    below = ref[:1] in (b"\1", b"\3", "1", "3") if isinstance(ref, bytes | str) else ref in (1, 3)
    return -abs(altitude_m) if below else altitude_m


def _heading(gps: _Tags, notes: list[str]) -> tuple[float | None, Literal["T", "M"] | None]:
    if GPS.GPSImgDirection not in gps:
        return None, None
    heading_deg = _number(gps[GPS.GPSImgDirection])
    if not 0 <= heading_deg <= 360:
        notes.append(f"GPSImgDirection {heading_deg:g} is not within 0 to 360 degrees: heading ignored")
        return None, None
    match _text(gps.get(GPS.GPSImgDirectionRef)).upper()[:1]:
        case "T":
            return heading_deg % 360.0, "T"
        case "M":
            return heading_deg % 360.0, "M"
        case _:
            return heading_deg % 360.0, None


# -- time, camera, lens ------------------------------------------------------------------------------------------------


def _captured_at(photo: _Tags, notes: list[str]) -> datetime | None:
    text = _text(photo.get(Base.DateTimeOriginal))
    if not re.search("[1-9]", text):
        return None  # blanks and zeros are the standard's "unknown"
    parts = re.fullmatch(r"(\d{4})[:/.-](\d\d?)[:/.-](\d\d?)[ T](\d\d?):(\d\d?):(\d\d?)(?:\.\d*)?", text, re.ASCII)
    if parts is None:
        notes.append(f"DateTimeOriginal {_quoted(text)} is not a date: time ignored")
        return None
    subseconds = re.match(r"\d+", _text(photo.get(Base.SubsecTimeOriginal)), re.ASCII)
    microsecond = int(subseconds.group()[:6].ljust(6, "0")) if subseconds else 0
    year, month, day, hour, minute, second = (int(part) for part in parts.groups())
    try:
        return datetime(year, month, day, hour, minute, second, microsecond, _offset(photo, notes))
    except ValueError as fault:
        notes.append(f"DateTimeOriginal {_quoted(text)} cannot be ({fault}): time ignored")
        return None


def _offset(photo: _Tags, notes: list[str]) -> timezone | None:
    text = _text(photo.get(Base.OffsetTimeOriginal))
    if not re.search(r"\d|Z", text):
        return None
    if text == "Z":
        return UTC
    parts = re.fullmatch(r"([+-])(\d\d):?([0-5]\d)", text, re.ASCII)
    if parts is None or int(parts[2]) > 15:
        notes.append(f"OffsetTimeOriginal {_quoted(text)} is not an offset from UTC: time taken as local")
        return None
    offset = timedelta(hours=int(parts[2]), minutes=int(parts[3]))
    return timezone(-offset if parts[1] == "-" else offset)


def _orientation(main: _Tags, notes: list[str]) -> int:
    value = main.get(Base.Orientation, 1)
    if isinstance(value, int) and 1 <= value <= 8:
        return value
    notes.append(f"Orientation {_quoted(str(value))} is not 1 to 8: shown as stored")
    return 1


def _camera(main: _Tags) -> str | None:
    make, model = _text(main.get(Base.Make)), _text(main.get(Base.Model))
    return (model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()) or None


def _lens_fov_deg(photo: _Tags, orientation: int, stored_size_px: tuple[int, int], notes: list[str]) -> float | None:
    """Horizontal field of view of the displayed image through a rectilinear lens: 2 atan(width / 2 f).

    The 35 mm equivalent focal length keeps the *diagonal* angle of a 36 x 24 mm frame (CIPA DCG-001), so the width
    that goes with it depends on the shape of the image: 36 mm at 3:2, 34.6 mm at 4:3.
    """
    turned = orientation >= 5
    width_px, height_px = reversed(stored_size_px) if turned else stored_size_px
    film_focal_mm = _positive(photo, Base.FocalLengthIn35mmFilm)
    if film_focal_mm is not None:
        film_width_mm = _FILM_DIAGONAL_MM * width_px / math.hypot(width_px, height_px)
        return _angle_of_view_deg(film_width_mm, film_focal_mm)

    focal_mm = _positive(photo, Base.FocalLength)
    resolution = _positive(photo, Base.FocalPlaneYResolution if turned else Base.FocalPlaneXResolution)
    unit_mm = _FOCAL_PLANE_UNIT_MM.get(photo.get(Base.FocalPlaneResolutionUnit, 2))
    if focal_mm is None or resolution is None or unit_mm is None:
        return None
    # The resolution counts the camera's own pixels, which a copy scaled since then no longer has.
    taken_px = _positive(photo, Base.ExifImageHeight if turned else Base.ExifImageWidth) or width_px
    sensor_mm = taken_px / resolution * unit_mm
    if not _SENSOR_WIDTH_MM[0] <= sensor_mm <= _SENSOR_WIDTH_MM[1]:
        notes.append(f"FocalPlaneXResolution makes the sensor {sensor_mm:g} mm wide: field of view ignored")
        return None
    return _angle_of_view_deg(sensor_mm, focal_mm)


def _angle_of_view_deg(width_mm: float, focal_mm: float) -> float:
    return math.degrees(2 * math.atan2(width_mm, 2 * focal_mm))


# -- panoramas ---------------------------------------------------------------------------------------------------------


def _panorama(xmp: bytes, stored_size_px: tuple[int, int], notes: list[str]) -> Panorama | None:
    values = _gpano_values(xmp, notes)
    projection = values.get("ProjectionType", "").lower()
    if not projection:
        return None
    width_px, height_px = stored_size_px
    try:
        # A file that gives the projection alone holds the whole of it.
        crop_width_px = _pixels(values, "CroppedAreaImageWidthPixels", width_px)
        crop_height_px = _pixels(values, "CroppedAreaImageHeightPixels", height_px)
        panorama = Panorama(
            projection=projection,
            full_width_px=_pixels(values, "FullPanoWidthPixels", crop_width_px),
            full_height_px=_pixels(values, "FullPanoHeightPixels", crop_height_px),
            crop_left_px=_pixels(values, "CroppedAreaLeftPixels", 0),
            crop_top_px=_pixels(values, "CroppedAreaTopPixels", 0),
            crop_width_px=crop_width_px,
            crop_height_px=crop_height_px,
            pose_heading_deg=_pose_heading_deg(values, notes),
        )
    except ValueError as reason:
        notes.append(f"{reason}: GPano ignored")
        return None
    if not (
        0 < panorama.crop_width_px <= panorama.full_width_px and 0 < panorama.crop_height_px <= panorama.full_height_px
    ):
        notes.append("GPano crop does not lie within the full panorama: GPano ignored")
        return None
    return panorama


def _gpano_values(xmp: bytes, notes: list[str]) -> dict[str, str]:
    """The GPano properties of an XMP packet, which may be written as attributes or as elements."""
    try:
        text = xmp.decode("utf-8-sig").strip("\0 \r\n\t")
        # Entities can be made to expand without bound; no XMP writer needs them.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("it declares a document type")
        root = ElementTree.fromstring(text)
    except (ValueError, ElementTree.ParseError) as fault:
        notes.append(f"XMP cannot be read and was ignored ({fault})")
        return {}
    values: dict[str, str] = {}
    for element in root.iter():
        properties = {**element.attrib, element.tag: element.text or ""}
        values.update({n.removeprefix(_GPANO): v.strip() for n, v in properties.items() if n.startswith(_GPANO)})
    return values


def _pixels(values: Mapping[str, str], name: str, default: int) -> int:
    if name not in values:
        return default
    try:
        return round(float(values[name]))
    except (ValueError, OverflowError):
        raise ValueError(f"GPano {name} {_quoted(values[name])} is not a number of pixels") from None


def _pose_heading_deg(values: Mapping[str, str], notes: list[str]) -> float | None:
    if "PoseHeadingDegrees" not in values:
        return None
    try:
        heading_deg = float(values["PoseHeadingDegrees"])
    except ValueError:
        heading_deg = math.nan
    if not math.isfinite(heading_deg):
        notes.append(
            f"GPano PoseHeadingDegrees {_quoted(values['PoseHeadingDegrees'])} is not a number: heading ignored"
        )
        return None
    return heading_deg % 360.0
