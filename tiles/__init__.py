"""Aerial imagery: the ground from above, at this place, at this scale.

`open_source` opens rasters, folders of them, tile pyramids and manifests; `ImagerySource.chip` cuts squares of true
ground size from them.
"""

from tiles.chip import Chip, ChipSource, ImagerySource, SourceInfo
from tiles.errors import (
    CutterEndedError,
    FakeAlphaWarning,
    InvalidChipError,
    InvalidManifestError,
    MissingCRSError,
    NotOnEarthError,
    OutsideCoverageError,
    SkippedRasterWarning,
    SourceNotFoundError,
    TilesError,
    TilesWarning,
    UnreadableRasterError,
    UnsupportedSourceError,
    ValueRangeWarning,
)
from tiles.processes import ChipProcesses
from tiles.source import open_source

__all__ = [
    "Chip",
    "ChipProcesses",
    "ChipSource",
    "CutterEndedError",
    "FakeAlphaWarning",
    "ImagerySource",
    "InvalidChipError",
    "InvalidManifestError",
    "MissingCRSError",
    "NotOnEarthError",
    "OutsideCoverageError",
    "SkippedRasterWarning",
    "SourceInfo",
    "SourceNotFoundError",
    "TilesError",
    "TilesWarning",
    "UnreadableRasterError",
    "UnsupportedSourceError",
    "ValueRangeWarning",
    "open_source",
]
