"""What the time of the year does to plants, and how colours are mixed."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

from geoview.render.world.styles import Rgb

__all__ = ["Season", "mix", "scaled"]


@dataclass(frozen=True)
class Season:
    """How green, autumnal and bare the plants are, each 0 to 1."""

    green: float
    autumn: float
    bare: float

    @classmethod
    def of(cls, date: datetime.date, lat_deg: float, dry_summer: bool) -> Season:
        """Returns the season of a date at a latitude; grass fades in summer rather than in winter where that is dry."""
        year = (date.timetuple().tm_yday / 365.25 + (0.5 if lat_deg < 0 else 0.0)) % 1.0
        warm = 0.5 - 0.5 * math.cos(2 * math.pi * (year - 0.05))
        green = 1.0 - 0.75 * warm if dry_summer else 0.35 + 0.65 * math.exp(-(((year - 0.45) / 0.2) ** 2))
        if abs(lat_deg) < 28.0:
            return cls(green, 0.0, 0.0)
        autumn = math.exp(-(((year - 0.83) / 0.055) ** 2))
        bare = 1.0 if year > 0.9 or year < 0.22 else 0.0
        return cls(green, autumn, bare)


def mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    """Returns a colour on the way from one (share 0) to the other (share 1)."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(one, other, strict=True))
    return r, g, b


def scaled(colour: Rgb, factor: float) -> Rgb:
    """Returns a colour made darker or lighter, never quite black or white."""
    r, g, b = (round(min(245.0, max(6.0, c * factor))) for c in colour)
    return r, g, b
