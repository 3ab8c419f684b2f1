"""The mistakes a user can make, one class each; every message is one line that names the culprit and the way out."""

from __future__ import annotations

__all__ = [
    "BusyError",
    "ConfigError",
    "DatasetError",
    "EncoderError",
    "EncoderMismatchError",
    "GeoviewError",
    "ImageTooLargeError",
    "IndexCorruptError",
    "IndexNotFoundError",
    "IndexUnreachableError",
    "IndexVersionError",
    "OutputExistsError",
    "PairTableError",
    "PhotoTableError",
    "RegionError",
    "RenderError",
    "StorageFullError",
    "TrainingError",
    "UnreadableImageError",
    "UnsafeFileError",
]


class GeoviewError(Exception):
    """Base of all errors that a user can cause and can mend."""


class ConfigError(GeoviewError, ValueError):
    """A setting has an impossible value or contradicts another one."""


class RegionError(GeoviewError, ValueError):
    """A region is empty, malformed, self-intersecting, or has no ground in common with the imagery."""


class UnreadableImageError(GeoviewError, OSError):
    """A file is not there, is not an image, is truncated, or holds too little to look at."""


class ImageTooLargeError(GeoviewError, ValueError):
    """An image has more pixels than can be decoded in bounded memory."""


class PhotoTableError(GeoviewError, ValueError):
    """A photo table lacks a column or holds a value that cannot be."""


class PairTableError(GeoviewError, ValueError):
    """A pair table lacks a column, names a missing file or holds a coordinate that cannot be."""


class DatasetError(GeoviewError, ValueError):
    """A copy of a published data set lacks a file or too many images, or a list of it cannot be read."""


class EncoderError(GeoviewError, ValueError):
    """An encoder folder or a weights file is missing, incomplete or does not fit its architecture."""


class UnsafeFileError(EncoderError):
    """A file could run code when loaded (a pickle) and was refused."""


class EncoderMismatchError(GeoviewError, ValueError):
    """Embeddings of two different encoders were about to be compared."""


class IndexNotFoundError(GeoviewError, FileNotFoundError):
    """A folder is not an index, or holds one whose build has not been completed."""


class IndexVersionError(GeoviewError, ValueError):
    """An index was written in a format that this version cannot read."""


class IndexCorruptError(GeoviewError, ValueError):
    """A file of an index is missing, truncated or changed."""


class IndexUnreachableError(GeoviewError):
    """An index lies at an address that does not answer, or not to us."""


class BusyError(GeoviewError, RuntimeError):
    """Another process is writing the same index or run folder."""


class OutputExistsError(GeoviewError, FileExistsError):
    """An output exists already and overwriting it was not asked for."""


class StorageFullError(GeoviewError, OSError):
    """The disk is full; what was finished is kept, and the same command goes on from there."""


class TrainingError(GeoviewError, RuntimeError):
    """Training cannot go on: a loss not finite, a batch larger than the data, a run folder of another config."""


class RenderError(GeoviewError, ValueError):
    """A world cannot be rendered: heights without imagery, a place too small, nowhere to stand."""
