"""Light over a scene: sun, sky, clouds, and the far country beyond what a map shows.

Drawn for each photo and independent of the place: nothing here may tell where a photo was taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Light"]

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """Sun, sky and haze of one photo.

    Attributes:
        sun_azimuth_deg: Clockwise from grid north.
        sun_elevation_deg: Above the horizon.
        overcast: 0 for a clear sky, 1 for one without shadows.
        haze_m: Distance at which haze has taken all but 1/e of the contrast.
        sky_seed: Of clouds and skyline.
    """

    sun_azimuth_deg: float = 160.0
    sun_elevation_deg: float = 45.0
    overcast: float = 0.2
    haze_m: float = 600.0
    sky_seed: int = 0

    @property
    def sun(self) -> tuple[float, float, float]:
        """Unit vector towards the sun: (x east, y south, up)."""
        azimuth, elevation = np.radians([self.sun_azimuth_deg, self.sun_elevation_deg])
        flat = float(np.cos(elevation))
        return flat * float(np.sin(azimuth)), -flat * float(np.cos(azimuth)), float(np.sin(elevation))

    @property
    def direct(self) -> float:
        """Share of the light that comes straight from the sun."""
        return 0.62 * (1.0 - self.overcast)

    @property
    def far_ground(self) -> _Floats:
        """Colour (3,) of the ground beyond the map, and what things fade to in the distance."""
        return self._tones[1]

    def far(self, azimuth_rad: _Floats, rise: _Floats) -> _Floats:
        """Returns the colours of sky, skyline and far ground.

        Args:
            azimuth_rad: (...) azimuth of the rays.
            rise: (...) tangent of their elevation.

        Returns:
            (..., 3) in [0, 1].
        """
        colour = np.broadcast_to(self.far_ground, (*rise.shape, 3)).copy()
        above = rise >= self._skyline(azimuth_rad)
        colour[above] = self._sky(azimuth_rad[above], rise[above])
        return np.clip(colour, 0, 1)

    @cached_property
    def _tones(self) -> tuple[_Floats, _Floats, _Floats]:
        """Colours (3,) of haze, far ground and zenith."""
        rng = self._rng(5)
        haze = rng.uniform(0.72, 0.95) + rng.normal(0, 0.02, 3)
        blue = np.array([0.25, 0.45, 0.8]) * rng.uniform(0.7, 1.2) + rng.normal(0, 0.03, 3)
        zenith = (1 - self.overcast) * blue + self.overcast * haze * rng.uniform(0.6, 0.9)
        country = np.array([0.42, 0.46, 0.4]) + rng.normal(0, 0.05, 3)
        ground = haze + (country - haze) * rng.uniform(0.2, 0.6)
        return haze.astype(np.float32), ground.astype(np.float32), zenith.astype(np.float32)

    def _sky(self, azimuth_rad: _Floats, rise: _Floats) -> _Floats:
        rng = self._rng(6)
        haze, _, zenith = self._tones
        height = rise / np.sqrt(1 + rise * rise)
        sky = haze + (zenith - haze) * np.clip(height, 0, 1)[:, None] ** np.float32(rng.uniform(0.35, 0.8))
        white, thick = np.float32(rng.uniform(0.75, 1.0)), np.float32(rng.uniform(0.2, 0.9))
        sky += (white - sky) * (thick * np.clip(self._clouds(rng, azimuth_rad, rise), 0, 1))[:, None]
        x, y, z = self.sun
        flat = np.sqrt(1 - height * height)
        towards = np.clip((x * np.sin(azimuth_rad) - y * np.cos(azimuth_rad)) * flat + z * height, 0, 1)
        return np.asarray(sky + (np.float32(0.5 * (1 - self.overcast)) * towards**24)[:, None], np.float32)

    def _skyline(self, azimuth_rad: _Floats) -> _Floats:
        """Tangent of the elevation of what stands beyond the map: up to a few degrees."""
        rng = self._rng(7)
        n = int(rng.choice([24, 60, 180]))
        knots = np.clip(rng.normal(0.02, 0.02, n), 0, 0.1).astype(np.float32)
        at = (azimuth_rad / (2 * np.pi) % 1.0) * n
        low = at.astype(np.int32) % n
        part = at - np.floor(at)
        if n == 180:  # roofs rather than hills
            part = np.zeros_like(part)
        return np.asarray(knots[low] * (1 - part) + knots[(low + 1) % n] * part, np.float32)

    def _rng(self, salt: int) -> np.random.Generator:
        return np.random.default_rng([self.sky_seed, salt])

    @staticmethod
    def _clouds(rng: np.random.Generator, azimuth_rad: _Floats, rise: _Floats) -> _Floats:
        """Layered waves over a flat ceiling: enough to look like clouds at street-photo resolution."""
        far = 1.0 / (np.clip(rise, 0, None) + 0.12)
        x, y = far * np.sin(azimuth_rad), far * np.cos(azimuth_rad)
        total = np.zeros_like(x)
        for octave in range(5):
            kx, ky = rng.normal(0, 1.1 * 1.8**octave, 2)
            wobble = rng.uniform(0, 2 * np.pi, 2)
            total += np.float32(0.7**octave) * np.sin(kx * x + ky * y + wobble[0] + np.sin(ky * x - kx * y + wobble[1]))
        return np.asarray(0.5 * total + np.float32(rng.uniform(-0.8, 0.5)), np.float32)
