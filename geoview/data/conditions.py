"""What an analyst's photo may be that the training photos are not: another camera, another hour, weather, a screenshot.

All of it is drawn for street photos only. How a camera is held and what is drawn around a photo change how the photo
is laid out; light, weather, blur and compression change the pixels of the view, where there are few. The models are
ours and simple: each keeps what an encoder could lean on (what darkness hides, what snow covers) and leaves out what
only beauty needs. Strengths are in [0, 1], and 0 changes nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from geoview.config import ConditionsConfig, GroundView, PlanView
from geoview.data.views import Pose, StreetPhoto, View

__all__ = [
    "at_night",
    "defocused",
    "in_snow",
    "recompressed",
    "screenshot",
    "shaken",
    "taken_otherwise",
    "with_another_camera",
]

Pixels = NDArray[np.uint8]

# -- night: stops below day; colours of the sky's light and of lamps; how far lamps reach, in heights of the view
_NIGHT_STOPS = 4.5
_MOONLIGHT_RGB = np.array([0.55, 0.75, 1.25], np.float32)
_LAMP_RGB = np.array([1.0, 0.72, 0.38], np.float32)
_LAMPS = 7
_LAMP_REACH, _LAMP_CORE = (0.15, 0.4), (0.012, 0.03)
_LAMPS_LIGHT_TO_DEG, _EDGE_FALLOFF = 30.0, 1.2
_NIGHT_NOISE = 14.0
# -- snow: its colour; below the horizon it lies whole from here; flakes a pixel
_SNOW_RGB = np.array([0.95, 0.975, 1.0], np.float32)
_SNOW_WHOLE_DEG = 12.0
_FLAKES = 0.012
# -- blur, as shares of the view's height
_DEFOCUS_RADIUS, _SHAKE_LENGTH = 0.02, 0.09
# -- media
_BAR_SHARE = (0.06, 0.22)
_JPEG_QUALITY = (60, 20)
# Where bars are need not be known more finely than views show it.
_MASK_WIDTH_PX = 768


def taken_otherwise(
    photo: StreetPhoto,
    spec: GroundView | PlanView,
    heading_deg: float,
    config: ConditionsConfig,
    rng: np.random.Generator,
) -> View:
    """Lays out a photo as if it had been taken by another camera, at another time, and passed on.

    Args:
        photo: As it is.
        spec: Geometry of the view.
        heading_deg: Heading of the photo's middle column.
        config: What may be drawn.
        rng: Source of what is drawn.

    Returns:
        As `StreetPhoto.laid_out`; nothing but the camera and the bars of a screenshot changes what is valid.
    """
    photo = with_another_camera(photo, spec, config, rng)
    strengths = {
        name: rng.uniform() if rng.random() < getattr(config, f"{name}_share") else 0.0
        for name in ("snow", "night", "defocus", "shake", "screenshot", "jpeg")
    }
    by_elevation = strengths["snow"] or strengths["night"]
    elevation_deg = _elevation_deg(photo, spec) if by_elevation else np.zeros((1, 1))
    bars = None
    if strengths["screenshot"]:
        photo, mask = screenshot(photo, strengths["screenshot"], rng)
        bars = mask.laid_out(spec, heading_deg).pixels[..., 0] > 127
    view = photo.laid_out(spec, heading_deg)
    pixels = view.pixels
    if strengths["snow"]:
        pixels = in_snow(pixels, elevation_deg, strengths["snow"], rng)
    if strengths["night"]:
        pixels = at_night(pixels, elevation_deg, strengths["night"], rng)
    if strengths["defocus"]:
        pixels = defocused(pixels, view.valid, strengths["defocus"])
    if strengths["shake"]:
        # A camera that pans smears a strip sideways; one that moves smears the ground along its way.
        direction_deg = rng.uniform(0.0, 180.0) if isinstance(spec, PlanView) else rng.uniform(-20.0, 20.0)
        pixels = shaken(pixels, view.valid, strengths["shake"], direction_deg)
    if bars is not None:
        pixels = np.where(bars[..., None], view.pixels, pixels)
    if strengths["jpeg"]:
        pixels = recompressed(pixels, round(np.interp(strengths["jpeg"], (0, 1), _JPEG_QUALITY)))
    return View(np.where(view.valid[..., None], pixels, np.uint8(0)), view.valid)


def with_another_camera(
    photo: StreetPhoto, spec: GroundView | PlanView, config: ConditionsConfig, rng: np.random.Generator
) -> StreetPhoto:
    """Draws field of view, direction, tilt and, of a perspective photo, the focal length that it is taken to have.

    Args:
        photo: As it is.
        spec: Geometry of the view; what shows the north where it belongs is turned only if the heading is unknown.
        config: What may be drawn.
        rng: Source of what is drawn.
    """
    fov_deg = rng.uniform(config.fov_min_deg, config.fov_max_deg)
    aside, pitch, roll = rng.uniform(-1.0, 1.0, 3).tolist()
    focal = math.exp(config.focal_jitter * rng.standard_normal())
    if not photo.is_panorama:
        fov_deg, aside = 360.0, 0.0
        believed_deg = 2 * math.degrees(math.atan(math.tan(math.radians(photo.fov_deg) / 2) / focal))
        photo = photo if focal == 1.0 else replace(photo, fov_deg=min(believed_deg, 179.0))
    elif not photo.goes_round:
        aside *= max(0.0, photo.fov_deg - fov_deg) / 2
    else:
        aside *= 180.0 if isinstance(spec, PlanView) or config.unknown_heading else 0.0
    pose = Pose(aside, fov_deg, pitch * config.pitch_deg, roll * config.roll_deg)
    return replace(photo, pose=pose)


def screenshot(photo: StreetPhoto, strength: float, rng: np.random.Generator) -> tuple[StreetPhoto, StreetPhoto]:
    """Puts bars around a photo, which is then believed to fill their outer edge.

    Three layouts are drawn: a telephone's screen (bars of unlike height above and below, with signs in the upper one),
    black bars of a film or of an upright video, and a page that the photo lies on.

    Args:
        photo: As it is; what it tells of its upper edge is lost, as a screenshot tells nothing.
        strength: How wide the bars are.
        rng: Source of what is drawn.

    Returns:
        The photo with bars, and a picture of the same geometry, white where the bars are and else black.
    """
    width, height = photo.image.size
    kind = rng.choice(["telephone", "film", "upright", "page"])
    share = _BAR_SHARE[0] + strength * (_BAR_SHARE[1] - _BAR_SHARE[0])
    shares = {  # left, upper, right, lower
        "telephone": (0.0, 0.6 * share, 0.0, share),
        "film": (0.0, share, 0.0, share),
        "upright": (share, 0.0, share, 0.0),
        "page": (share, share * rng.uniform(0.3, 1.0), share * rng.uniform(0.2, 1.0), share),
    }[str(kind)]
    left, upper, right, lower = (
        round(s * edge) for s, edge in zip(shares, (width, height, width, height), strict=True)
    )
    size = width + left + right, height + upper + lower
    black_or_white = (0, 0, 0) if kind in ("film", "upright") or rng.random() < 0.5 else (255, 255, 255)
    colour = tuple(int(c) for c in rng.integers(200, 256, 3)) if kind == "page" else black_or_white
    framed = Image.new("RGB", size, colour)
    if kind == "telephone":
        _draw_signs(framed, upper, colour[0] < 128)
    framed.paste(photo.image, (left, upper))
    scale = min(1.0, _MASK_WIDTH_PX / size[0])
    mask = Image.new("L", (round(size[0] * scale), round(size[1] * scale)), 255)
    left, upper, right, lower = (round(edge * scale) for edge in (left, upper, left + width, upper + height))
    mask.paste(0, (left, upper, right, lower))
    framed_photo = replace(photo, image=framed, top_deg=None)
    return framed_photo, replace(framed_photo, image=mask)


def _draw_signs(image: Image.Image, bar_px: int, is_dark: bool) -> None:
    """Draws the hour at the left of an upper bar and the battery at its right, as blocks."""
    ink, draw = (235, 235, 235) if is_dark else (25, 25, 25), ImageDraw.Draw(image)
    top, bottom = 0.3 * bar_px, 0.7 * bar_px
    for i in (0, 1, 3, 4):
        draw.rectangle((bar_px * (0.7 + 0.32 * i), top, bar_px * (0.92 + 0.32 * i), bottom), fill=ink)
    for i in (1, 2, 3):
        right = image.width - bar_px * 0.9 * i
        draw.rectangle((right - 0.6 * bar_px, top, right, bottom), fill=ink)


def at_night(pixels: Pixels, elevation_deg: NDArray[np.floating], strength: float, rng: np.random.Generator) -> Pixels:
    """Shows the scene by moonlight and the light of some lamps.

    The day's picture squared stands for what the scene reflects. It is lit by a dim blue light that falls off to the
    edges of the view, and by warm lamps, each of which lights what is around and below it and shines itself. Small
    highlights of the day (signs, panes) stay bright; the sky, told by being high and bright, gives no light. Sensor
    noise is added.

    Args:
        pixels: (H, W, 3).
        elevation_deg: (H, W), how far above the horizon lies what each pixel shows.
        strength: How much darker than day, up to four and a half stops.
        rng: Source of lamps and noise.

    Returns:
        (H, W, 3).
    """
    height, width = pixels.shape[:2]
    day = np.square(pixels.astype(np.float32) / 255)
    grey = day.mean(axis=2, keepdims=True)
    sky = _sky(pixels, elevation_deg)[..., None]
    day *= 1 - 0.85 * strength * sky
    rows, columns = _frame(height, width)
    falloff = _hill(rows, height / 2 * _EDGE_FALLOFF) * _hill(columns, width / 2 * _EDGE_FALLOFF)
    moon = (1 + strength * (_MOONLIGHT_RGB - 1)) * 2.0 ** (-strength * _NIGHT_STOPS)
    # Rods see no colour.
    night = day + 0.6 * strength * (day.mean(axis=2, keepdims=True) - day)
    night *= moon * (1 + strength * (falloff[..., None] - 1))
    lit, shine = np.zeros((2, height, width), np.float32)
    for _ in range(round(_LAMPS * strength * rng.uniform(0.3, 1.0))):
        # Low above the horizon of a strip; in a plan, anywhere across its middle.
        row, column = height * rng.normal(-0.08, 0.12), width * rng.uniform(-0.5, 0.5)
        reach_px, core_px = height * rng.uniform(*_LAMP_REACH), height * rng.uniform(*_LAMP_CORE)
        lit += _hill(rows - row, reach_px) * _hill(columns - column, reach_px)
        shine += _hill(rows - row, core_px) * _hill(columns - column, core_px)
    lit *= 1 - np.clip(elevation_deg / _LAMPS_LIGHT_TO_DEG, 0, 1)
    night += strength * _LAMP_RGB * (0.35 * lit[..., None] * day + 1.4 * shine[..., None])
    soft = np.asarray(Image.fromarray(pixels).convert("L").filter(ImageFilter.BoxBlur(max(2, height // 16))))
    highlights = np.clip(grey - 0.25 - np.square(soft.astype(np.float32) / 255)[..., None], 0, None)
    night += strength * highlights * (1 - sky) * _LAMP_RGB
    noise = rng.standard_normal((height, width, 3), np.float32)
    return _bytes(np.sqrt(night) * 255 + strength * _NIGHT_NOISE * noise)


def in_snow(pixels: Pixels, elevation_deg: NDArray[np.floating], strength: float, rng: np.random.Generator) -> Pixels:
    """Lays snow on the ground, in patches at first, and on what faces upward; dulls the light; lets flakes fall.

    What faces upward is told by being brighter than what is right below it: light comes from above.

    Args:
        pixels: (H, W, 3).
        elevation_deg: (H, W), how far above the horizon lies what each pixel shows.
        strength: How much snow.
        rng: Source of patches and flakes.

    Returns:
        (H, W, 3).
    """
    height, width = pixels.shape[:2]
    x = pixels.astype(np.float32)
    grey = x.mean(axis=2)
    ground = np.clip(elevation_deg.astype(np.float32) / -_SNOW_WHOLE_DEG, 0, 1)
    ground *= ground * (3 - 2 * ground)
    bare = 0.6 * _patches(height, width, 0.3, rng) + 0.4 * _patches(height, width, 0.06, rng)
    below = np.concatenate([grey[2:], grey[-1:], grey[-1:]])
    facing_up = np.clip((grey - below) / 30, 0, 1) * (1 - ground)
    cover = np.maximum(ground * np.clip(6 * (strength - bare), 0, 0.9), 0.7 * strength * facing_up)[..., None]
    # An overcast sky has no colour, and its light little.
    sky = _sky(pixels, elevation_deg)
    x += strength * (0.5 * (grey[..., None] - x) + 0.4 * sky[..., None] * (205 - x))
    # Snow keeps some of the shading of what it lies on.
    x += cover * (_SNOW_RGB * (200 + 0.3 * (grey - grey.mean()))[..., None] - x)
    flakes = np.clip(_flakes(height, width, strength, rng), 0, 1)[..., None]
    return _bytes(x + flakes * (250 - x))


def _flakes(height: int, width: int, strength: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws flakes, many small and faint, few large: (H, W) how much of a pixel they hide."""
    hidden = np.zeros((height, width), np.float32)
    for size_px, opacity in ((1, 0.55), (2, 0.8), (4, 0.95)):
        rows, columns = -(-height // size_px), -(-width // size_px)
        one = np.zeros((rows, columns), np.float32)
        n = round(strength * _FLAKES * height * width / size_px**2)
        one[rng.integers(rows, size=n), rng.integers(columns, size=n)] = opacity
        # Half again as wide, and round.
        flakes = _resized(one, columns * size_px, rows * size_px)[:height, :width] if size_px > 1 else one
        hidden = np.maximum(hidden, flakes)
    return hidden


def defocused(pixels: Pixels, valid: NDArray[np.bool_], strength: float) -> Pixels:
    """Blurs a picture evenly, by up to a fiftieth of its height; (H, W, 3)."""
    blur = ImageFilter.GaussianBlur(strength * _DEFOCUS_RADIUS * pixels.shape[0])
    return _within(valid, pixels, lambda x: np.asarray(Image.fromarray(x).filter(blur)))


def shaken(pixels: Pixels, valid: NDArray[np.bool_], strength: float, direction_deg: float) -> Pixels:
    """Smears a picture along a line, up to a tenth of its height long; the angle is from its rows; (H, W, 3)."""
    length_px = strength * _SHAKE_LENGTH * pixels.shape[0]
    steps = np.linspace(-0.5, 0.5, 1 + math.ceil(length_px)) * length_px if length_px else np.zeros(1)
    across = np.rint(steps * math.cos(math.radians(direction_deg))).astype(int)
    down = np.rint(steps * math.sin(math.radians(direction_deg))).astype(int)
    return _within(valid, pixels, lambda x: _mean_of_shifted(x, across, down))


def _mean_of_shifted(x: Pixels, across: NDArray[np.int_], down: NDArray[np.int_]) -> Pixels:
    """Averages copies of (H, W, ...), shifted by whole pixels; what is at the edges goes on beyond them."""
    height, width = x.shape[:2]
    reach = int(max(np.abs(across).max(), np.abs(down).max()))
    padded = np.pad(x, ((reach, reach), (reach, reach)) + ((0, 0),) * (x.ndim - 2), mode="edge")
    total = np.zeros(x.shape, np.uint16)
    for right, low in zip(reach + across, reach + down, strict=True):
        total += padded[low : low + height, right : right + width]
    mean: Pixels = ((total + len(across) // 2) // len(across)).astype(np.uint8)
    return mean


def recompressed(pixels: Pixels, quality: int) -> Pixels:
    """Returns the picture as JPEG of that quality keeps it; (H, W, 3)."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))


def _elevation_deg(photo: StreetPhoto, spec: GroundView | PlanView) -> NDArray[np.floating]:
    """Returns (H, W) elevations of what a view shows; a plan shows the ground at its feet everywhere."""
    if isinstance(spec, PlanView):
        return np.full((spec.size_px, spec.size_px), -90.0)
    return photo.strip_elevation_deg(spec)


def _sky(pixels: Pixels, elevation_deg: NDArray[np.floating]) -> NDArray[np.float32]:
    """Guesses how surely a pixel shows the day's sky, (H, W) in [0, 1]: what is high and bright, or blue."""
    x = pixels.astype(np.float32)
    looks = (x.min(axis=2) - 120) / 60 + (x[..., 2] - x[..., 0]) / 40
    sky: NDArray[np.float32] = np.clip(looks, 0, 1) * np.clip(elevation_deg / 8, 0, 1).astype(np.float32)
    return sky


def _within(valid: NDArray[np.bool_], pixels: Pixels, blur: Callable[[Pixels], Pixels]) -> Pixels:
    """Blurs a picture without mixing into it what is beyond the photo, which is black and has no share."""
    blurred = blur(pixels)
    if valid.all():
        return blurred
    share = blur(valid.astype(np.uint8) * np.uint8(255)).astype(np.float32)
    return np.where(valid[..., None], _bytes(blurred * (255 / np.maximum(share, 1))[..., None]), np.uint8(0))


def _hill(away_px: NDArray[np.float32], width_px: float) -> NDArray[np.float32]:
    """Returns a normal curve of height 1; a product of two, over rows and columns, is round."""
    hill: NDArray[np.float32] = np.exp(np.square(away_px / np.float32(width_px)) / -2)
    return hill


def _frame(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns (H, 1) rows and (1, W) columns, in pixels from the middle."""
    rows, columns = (np.arange(n, dtype=np.float32) + 0.5 - n / 2 for n in (height, width))
    return rows[:, None], columns[None, :]


def _patches(height: int, width: int, share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draws (H, W) soft patches in [0, 1], each a share of the height across."""
    cells = rng.random((round(1 / share) + 1, round(width / height / share) + 1), np.float32)
    return _resized(cells, width, height)


def _resized(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def _bytes(values: NDArray[np.floating]) -> Pixels:
    rounded: Pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return rounded
