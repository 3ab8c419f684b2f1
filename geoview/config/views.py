"""The geometry of what an encoder sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geoview.config.checks import require

__all__ = ["AerialView", "GroundView", "PlanView", "Seen", "ViewSpec"]

#: What a picture is of: the street, or the ground from above.
Seen = Literal["ground", "aerial"]

_MIN_VIEW_PX = 16


@dataclass(frozen=True)
class GroundView:
    """What a street photo shows the encoder: a window of an equirectangular panorama.

    Columns are azimuth, rows are elevation, the horizon is in the middle. Perspective photos are laid on the same grid
    at the same pixels per degree, so that one set of weights sees a house at one size whatever the camera. The default
    is the geometry in which Sample4Geo sees CVUSA.

    Attributes:
        width_px: Width of the full view.
        height_px: Height of the view.
        fov_deg: Azimuth that `width_px` spans; 360 for panoramas.
        vertical_fov_deg: Elevation that `height_px` spans.
    """

    width_px: int = 768
    height_px: int = 140
    fov_deg: float = 360.0
    vertical_fov_deg: float = 65.6

    def __post_init__(self) -> None:
        require(self.width_px >= _MIN_VIEW_PX, f"width_px of a ground view must be at least {_MIN_VIEW_PX}")
        require(self.height_px >= _MIN_VIEW_PX, f"height_px of a ground view must be at least {_MIN_VIEW_PX}")
        require(0 < self.fov_deg <= 360, "fov_deg of a ground view must be in (0, 360]")
        require(0 < self.vertical_fov_deg <= 180, "vertical_fov_deg of a ground view must be in (0, 180]")


@dataclass(frozen=True)
class PlanView:
    """What a street photo shows the encoder: the level ground that it would be of, seen from above, north up.

    Streets then run in a photo as they do in a chip of the same size, whatever the camera; what stands on the ground is
    drawn out away from the photographer, and what is above the horizon is not seen. Of what nobody knows of a camera,
    headings are tried in turn; over what bends the plan most, the height of panoramas and the tilt of other photos,
    embeddings are averaged.

    Attributes:
        size_px: Edge of the picture, the photographer in the middle.
        gsd_m: Metres per pixel, best those of the aerial view.
        headings: How many headings, evenly spaced, are tried for a photo whose heading is not known.
        eye_heights_m: Heights of cameras above the ground; panoramas are laid out from all, street photos for
            training and for prototypes from the first.
        pitches_deg: How far cameras look up; likewise for perspective photos.
    """

    size_px: int = 96
    gsd_m: float = 0.6
    headings: int = 16
    eye_heights_m: tuple[float, ...] = (2.0, 1.6, 2.4)
    pitches_deg: tuple[float, ...] = (0.0, -3.0, 3.0)

    def __post_init__(self) -> None:
        for name in ("eye_heights_m", "pitches_deg"):  # JSON knows lists only
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        require(self.size_px >= _MIN_VIEW_PX, f"size_px of a plan view must be at least {_MIN_VIEW_PX}")
        require(self.gsd_m > 0, "gsd_m of a plan view, metres per pixel, must be above 0")
        require(self.headings >= 1, "headings of a plan view must be at least 1")
        require(
            len(self.eye_heights_m) > 0 and all(height_m > 0 for height_m in self.eye_heights_m),
            "eye_heights_m of a plan view must be heights above 0",
        )
        require(
            len(self.pitches_deg) > 0 and all(abs(pitch_deg) < 90 for pitch_deg in self.pitches_deg),
            "pitches_deg of a plan view must be angles between -90 and 90",
        )

    @property
    def reach_m(self) -> float:
        """How far it shows the ground, from the photographer to the middle of an edge."""
        return self.size_px * self.gsd_m / 2


@dataclass(frozen=True)
class AerialView:
    """What a chip shows the encoder: a square of known ground size. The default is about one level-16 cell.

    Attributes:
        size_px: Edge of the picture.
        gsd_m: Metres per pixel.
    """

    size_px: int = 384
    gsd_m: float = 0.4

    def __post_init__(self) -> None:
        require(self.size_px >= _MIN_VIEW_PX, f"size_px of an aerial view must be at least {_MIN_VIEW_PX}")
        require(self.gsd_m > 0, "gsd_m of an aerial view, metres per pixel, must be above 0")

    @property
    def ground_size_m(self) -> float:
        """Edge of the ground square."""
        return self.size_px * self.gsd_m


#: Geometry of a view.
ViewSpec = GroundView | PlanView | AerialView
