"""The door: whatever holds imagery, opened as one ImagerySource."""

from __future__ import annotations

import dataclasses
import glob
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tiles.bands import stretch_range, with_range
from tiles.chip import Chip, ImagerySource, SourceInfo
from tiles.errors import (
    FakeAlphaWarning,
    InvalidManifestError,
    SkippedRasterWarning,
    SourceNotFoundError,
    TilesError,
    UnreadableRasterError,
    ValueRangeWarning,
)
from tiles.hints import NO_HINTS, SourceHints, read_manifest
from tiles.mosaic import MosaicSource
from tiles.pyramid import PyramidSource, open_mbtiles, open_tile_folder
from tiles.raster import RasterSource, open_raster, value_sample
from tiles.tile_store import is_tile_folder

__all__ = ["Chip", "ImagerySource", "SourceInfo", "open_source"]

_RASTER_SUFFIXES = {".tif", ".tiff", ".gtiff", ".vrt", ".jp2", ".j2k", ".img", ".ecw", ".sid", ".ntf"}
_MANIFEST_SUFFIXES = {".yaml", ".yml"}
_STRETCH_SAMPLE_RASTERS = 64

PathLike = str | os.PathLike[str]
_Leaf = tuple[str, SourceHints]


def open_source(path: PathLike | Sequence[PathLike]) -> ImagerySource:
    """Open imagery.

    Args:
        path: a raster (anything GDAL opens, also an address), a folder of rasters (searched recursively), a folder of
            z/x/y tiles, an .mbtiles file, a .yaml manifest, or a sequence of these. A folder, a manifest of several
            rasters and a sequence become one mosaic, from which unusable rasters are left out with a warning.

    Raises:
        SourceNotFoundError: nothing lies at the path, or no imagery in it.
        InvalidManifestError: a manifest is malformed.
        TilesError: one of the others in `tiles.errors`, where a single raster, or every raster, is unusable.
    """
    if isinstance(path, str | os.PathLike):
        name, paths = os.fspath(path), [os.fspath(path)]
    else:
        paths = [os.fspath(p) for p in path]
        name = ", ".join(paths)
        if not paths:
            raise SourceNotFoundError("no path of imagery was given; name at least one")
    leaves = [leaf for p in paths for leaf in _leaves(p)]
    if len(leaves) == 1 and (leaves[0][0] == name or Path(name).suffix.lower() in _MANIFEST_SUFFIXES):
        return _settled([_opened(*leaves[0])])[0]
    return _mosaic(name, leaves)


def _leaves(path: str, hints: SourceHints = NO_HINTS) -> list[_Leaf]:
    """Return the single rasters and pyramids a path stands for."""
    if "://" in path or path.startswith("/vsi"):
        return [(path, hints)]
    place = Path(path)
    if place.suffix.lower() in _MANIFEST_SUFFIXES and place.is_file():
        if hints is not NO_HINTS:
            raise InvalidManifestError(f"{path}: a manifest cannot name another manifest; list its sources instead")
        return [leaf for uri, entry in read_manifest(place) for leaf in _entry_leaves(place, uri, entry)]
    if not place.exists():
        raise SourceNotFoundError(f"{path}: not found; name a raster, folder, .mbtiles or .yaml manifest")
    if place.is_dir() and not is_tile_folder(place):
        rasters = [
            os.path.join(folder, file)  # noqa: PTH118 (pathlib takes seconds for a hundred thousand files)
            for folder, _, files in os.walk(place)
            for file in files
            if os.path.splitext(file)[1].lower() in _RASTER_SUFFIXES and not file.startswith(".")  # noqa: PTH122
        ]
        if not rasters:
            raise SourceNotFoundError(f"{path}: no rasters and no z/x/y tiles in this folder; name one that has")
        return [(raster, hints) for raster in sorted(rasters)]
    return [(path, hints)]


def _entry_leaves(manifest: Path, uri: str, hints: SourceHints) -> Iterable[_Leaf]:
    if not glob.has_magic(uri) or "://" in uri or Path(uri).exists():
        return _leaves(uri, hints)
    matches = sorted(glob.glob(uri, recursive=True))  # noqa: PTH207 (the pattern is absolute)
    if not matches:
        raise SourceNotFoundError(f"{uri}: no file matches; correct this `uri:` in {manifest}")
    return [leaf for match in matches for leaf in _leaves(match, hints)]


def _opened(uri: str, hints: SourceHints) -> RasterSource | PyramidSource:
    if uri.lower().endswith(".mbtiles"):
        return open_mbtiles(Path(uri), hints)
    if "://" not in uri and Path(uri).is_dir():
        return open_tile_folder(Path(uri), hints)
    return open_raster(uri, hints)


def _mosaic(name: str, leaves: list[_Leaf]) -> MosaicSource:
    sources: list[RasterSource | PyramidSource] = []
    skipped: list[tuple[str, str]] = []
    for uri, hints in leaves:
        try:
            sources.append(_opened(uri, hints))
        except TilesError as error:
            skipped.append((uri, str(error)))
            warnings.warn(f"left out: {error}", SkippedRasterWarning, stacklevel=3)
    if not sources:
        raise UnreadableRasterError(f"{name}: none of {len(skipped)} rasters is usable; the first: {skipped[0][1]}")
    return MosaicSource(name, _settled(sources), skipped)


def _settled(sources: list[RasterSource | PyramidSource]) -> list[RasterSource | PyramidSource]:
    """Give rasters without a range of values a common one per type, so that no seams show; warn of what was guessed."""
    fakes = [s.uri for s in sources if isinstance(s, RasterSource) and s.alpha_holds_imagery]
    if fakes:
        others = f" and {len(fakes) - 1} others" if len(fakes) > 1 else ""
        warnings.warn(
            f"{fakes[0]}{others}: the band tagged as alpha holds imagery (near-infrared?) and does not mask pixels; "
            "say `alpha: true` or `alpha: false` in a manifest to decide",
            FakeAlphaWarning,
            stacklevel=4,
        )
    settled = list(sources)
    waiting = [i for i, s in enumerate(sources) if isinstance(s, RasterSource) and s.bands.needs_range]
    for dtype in sorted({settled[i].bands.dtype for i in waiting}):  # type: ignore[union-attr]
        group = [i for i in waiting if settled[i].bands.dtype == dtype]  # type: ignore[union-attr]
        sampled = group[:: -(-len(group) // _STRETCH_SAMPLE_RASTERS)]
        low, high = stretch_range(np.concatenate([value_sample(settled[i]) for i in sampled]))  # type: ignore[arg-type]
        for i in group:
            raster = settled[i]
            assert isinstance(raster, RasterSource)
            settled[i] = dataclasses.replace(raster, bands=with_range(raster.bands, (low, high)))
        others = f" and {len(group) - 1} others" if len(group) > 1 else ""
        warnings.warn(
            f"{settled[group[0]].uri}{others}: {dtype} values are scaled to 8 bits by [{low:g}, {high:g}]; "
            "set `value_range:` in a manifest to fix it",
            ValueRangeWarning,
            stacklevel=4,
        )
    return settled
