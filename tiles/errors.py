"""The mistakes one can make with imagery, one class each.

Every message is one line that names the file and the way out.
"""

from __future__ import annotations

__all__ = [
    "CutterEndedError",
    "FakeAlphaWarning",
    "InvalidChipError",
    "InvalidManifestError",
    "MissingCRSError",
    "NotOnEarthError",
    "OutsideCoverageError",
    "SkippedRasterWarning",
    "SourceNotFoundError",
    "TilesError",
    "TilesWarning",
    "UnreadableRasterError",
    "UnsupportedSourceError",
    "ValueRangeWarning",
]


class TilesError(Exception):
    """Base of all errors of this package."""


class SourceNotFoundError(TilesError, FileNotFoundError):
    """Nothing lies at the path, or a glob or folder holds no imagery."""


class UnreadableRasterError(TilesError, OSError):
    """A raster cannot be opened, is truncated, or fails while being read."""


class MissingCRSError(TilesError):
    """A raster does not say where on Earth it lies."""


class NotOnEarthError(TilesError):
    """The coordinate system of a raster belongs to another body."""


class CutterEndedError(TilesError):
    """A process that cuts chips has ended before it was told to."""


class OutsideCoverageError(TilesError, LookupError):
    """A chip was asked for where the imagery has no valid pixel."""


class InvalidManifestError(TilesError, ValueError):
    """A manifest of sources is malformed."""


class UnsupportedSourceError(TilesError):
    """The source exists but is of a kind that cannot be turned into chips."""


class InvalidChipError(TilesError, ValueError):
    """The size, scale, heading or position asked of a chip is impossible."""


class TilesWarning(UserWarning):
    """Base of all warnings of this package."""


class FakeAlphaWarning(TilesWarning):
    """A band tagged as alpha holds imagery (near-infrared, as a rule) and is not used as a mask."""


class ValueRangeWarning(TilesWarning):
    """Pixel values were scaled to 8 bits by a range that was estimated, not given."""


class SkippedRasterWarning(TilesWarning):
    """A raster or tile could not be used and was left out."""
