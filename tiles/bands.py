"""From the bands of a raster, whatever they hold, to 8-bit RGB and a mask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from tiles.errors import UnsupportedSourceError

__all__ = ["Bands", "alpha_holds_imagery", "bands_of", "sample_values", "stretch_range", "with_range"]

_ALPHA_SAMPLE_PX = 128
_STRETCH_SAMPLE_PX = 256
_STRETCH_PERCENTILES = (1.0, 99.0)
_PRINT_COLOURS = {ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow}


@dataclass(frozen=True, eq=False)
class Bands:
    """How the bands of one raster are read.

    Attributes:
        colour: GDAL numbers (from 1) of the one or three bands that make RGB.
        alpha: number of the band that masks, or None.
        opaque: value of an opaque alpha; half of it and more is valid.
        has_mask_band: whether an internal or external mask decides on validity.
        nodata: value that marks invalid pixels where neither alpha nor mask does, or None.
        palette: (N, 4) uint8 RGBA of each index, or None.
        value_range: values that become 0 and 255, or None for 8-bit bands as they are.
        dtype: NumPy name of the colour bands' type.
    """

    colour: tuple[int, ...]
    alpha: int | None
    opaque: float
    has_mask_band: bool
    nodata: float | None
    palette: NDArray[np.uint8] | None
    value_range: tuple[float, float] | None
    dtype: str

    @property
    def needs_range(self) -> bool:
        """Whether values must be scaled and nobody has said how."""
        return self.dtype != "uint8" and self.palette is None and self.value_range is None

    @property
    def is_plain(self) -> bool:
        """Whether the values are 8-bit RGB as they are, masked by a mask band or not at all."""
        bare = self.alpha is None and self.nodata is None and self.palette is None and self.value_range is None
        return bare and len(self.colour) == 3 and self.dtype == "uint8"

    def read(
        self, dataset: DatasetReader, window: tuple[tuple[int, int], tuple[int, int]], mask: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """Return a window ((top, bottom), (left, right)) as (h, w, 4) uint8: RGB, and 1 where valid; 0 elsewhere.

        The mask (h, w) is that of the mask band; it is needed where there is one.
        """
        (top, bottom), (left, right) = window
        packed = np.ones((bottom - top, right - left, 4), dtype=np.uint8)
        if self.is_plain:
            # Straight into place: the usual case, and each step saved is one less at which threads meet.
            dataset.read(list(self.colour), window=window, out=np.moveaxis(packed[..., :3], -1, 0))
            if mask is not None and not mask.all():
                packed.view(np.uint32)[mask == 0] = 0
            return packed
        numbers = list(self.colour) if self.alpha is None else [*self.colour, self.alpha]
        data = dataset.read(numbers, window=window)
        colour = data[: len(self.colour)]
        valid = self._valid(data, mask)
        if self.palette is not None:
            looked_up = self.palette.take(np.minimum(colour[0], len(self.palette) - 1), axis=0)
            packed[..., :3] = looked_up[..., :3]
            opaque = looked_up[..., 3] >= 128
            valid = opaque if valid is None else valid & opaque
        else:
            scaled = colour if self.value_range is None else _scaled(colour, self.value_range)
            for channel in range(3):
                packed[..., channel] = scaled[min(channel, len(scaled) - 1)]
        if valid is not None and not valid.all():
            packed.view(np.uint32)[~valid] = 0
        return packed

    def values(self, dataset: DatasetReader, size_px: int) -> NDArray[np.float32]:
        """Return valid colour values of a decimated read, at most size_px a side, as one flat array."""
        shape = (min(dataset.height, size_px), min(dataset.width, size_px))
        numbers = list(self.colour) if self.alpha is None else [*self.colour, self.alpha]
        data = dataset.read(numbers, out_shape=(len(numbers), *shape))
        valid = self._valid(data, dataset.read_masks(1, out_shape=shape) if self.has_mask_band else None)
        colour = data[: len(self.colour)]
        values: NDArray[np.float32] = (colour if valid is None else colour[:, valid]).astype(np.float32)
        return values.ravel()

    def _valid(self, data: NDArray[Any], mask: NDArray[np.uint8] | None) -> NDArray[np.bool_] | None:
        """Return which pixels of `data` (colour, then alpha) are valid; None where all are."""
        colour = data[: len(self.colour)]
        valid = None
        if self.alpha is not None:
            valid = data[-1] >= self.opaque / 2.0
        elif mask is not None:
            valid = mask != 0
        elif self.nodata is not None and not np.isnan(self.nodata):
            valid = (colour != self.nodata).any(axis=0)
        if colour.dtype.kind == "f":
            numbers = np.isfinite(colour).all(axis=0)
            valid = numbers if valid is None else valid & numbers
        return valid


def bands_of(
    dataset: DatasetReader, uri: str, alpha: bool | None, value_range: tuple[float, float] | None
) -> tuple[Bands, bool]:
    """Decide how to read an open raster.

    Args:
        dataset: the raster at full resolution.
        uri: its name for messages.
        alpha: True or False to trust or to ignore the alpha band (the last, where none is tagged); None to look at it.
        value_range: values that become 0 and 255, or None.

    Returns:
        The bands, and whether a band tagged as alpha was found to hold imagery.

    Raises:
        UnsupportedSourceError: complex numbers, or printing inks.
    """
    roles = list(dataset.colorinterp)
    if any(name.startswith("complex") for name in dataset.dtypes):
        raise UnsupportedSourceError(f"{uri}: holds complex numbers; convert it to amplitudes first")
    if _PRINT_COLOURS & set(roles):
        raise UnsupportedSourceError(f"{uri}: is in CMYK; convert it to RGB first")
    tagged = roles.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in roles else None
    candidate = tagged or (dataset.count if alpha and dataset.count in (2, 4) else None)
    colour = _colour_bands(roles, candidate)
    dtype = dataset.dtypes[colour[0] - 1]
    fake, opaque = False, 255.0
    if candidate is not None and alpha is not False:
        samples = _alpha_samples(dataset, candidate, colour)
        opaque = _opaque_value(dataset.dtypes[candidate - 1], samples)
        fake = alpha is None and alpha_holds_imagery([(a * (255.0 / opaque), rgb) for a, rgb in samples])
    trusted = candidate if candidate is not None and alpha is not False and not fake else None
    flags = dataset.mask_flag_enums[colour[0] - 1]
    palette = _palette(dataset) if roles[0] is ColorInterp.palette else None
    bands = Bands(
        colour=colour,
        alpha=trusted,
        opaque=opaque,
        has_mask_band=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        nodata=dataset.nodatavals[colour[0] - 1],
        palette=palette,
        value_range=None if palette is not None else value_range,
        dtype=dtype,
    )
    return bands, fake


def sample_values(bands: Bands, dataset: DatasetReader) -> NDArray[np.float32]:
    """Return valid colour values of a raster from a decimated read, for `stretch_range`."""
    return bands.values(dataset, _STRETCH_SAMPLE_PX)


def stretch_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the values that become 0 and 255: the 1st and 99th percentile of `values`; (0, 1) for none."""
    if not len(values):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, _STRETCH_PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def with_range(bands: Bands, value_range: tuple[float, float]) -> Bands:
    """Return the same bands with the range of their values."""
    return replace(bands, value_range=value_range)


def alpha_holds_imagery(samples: list[tuple[NDArray[np.float32], NDArray[Any]]]) -> bool:
    """Tell whether a band tagged as alpha is a picture, near-infrared as a rule, rather than a mask.

    A mask is 0 or opaque, but for ramps (feathering) and rims (resampling). A picture has values in between that are
    rough, or, over smooth water, never gets opaque at all.

    Args:
        samples: windows at full resolution, each alpha (h, w) scaled to 0..255 and the colours (bands, h, w) under it.
    """
    total = sum(alpha.size for alpha, _ in samples)
    rough = sum(_rough_between(alpha) for alpha, _ in samples)
    if rough > 0.05 * total:
        return True
    highest = max(float(alpha.max()) for alpha, _ in samples)
    lowest = min(float(alpha.min()) for alpha, _ in samples)
    colourful = any((rgb[:, alpha > 0] > 0).any() for alpha, rgb in samples)
    return lowest < highest < 248.0 and colourful


def _rough_between(alpha: NDArray[np.float32]) -> int:
    """Count pixels between transparent and opaque, among equals, that depart from their neighbours' mean."""
    if min(alpha.shape) < 3:
        return 0
    between = (alpha > 8.0) & (alpha < 247.0)
    neighbours = [(slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1))]
    neighbours += [(slice(1, -1), slice(0, -2)), (slice(1, -1), slice(2, None))]
    among_equals = between[1:-1, 1:-1].copy()
    laplacian = 4.0 * alpha[1:-1, 1:-1]
    for place in neighbours:
        among_equals &= between[place]
        laplacian = laplacian - alpha[place]
    return int((among_equals & (np.abs(laplacian) > 8.0)).sum())


def _alpha_samples(
    dataset: DatasetReader, alpha: int, colour: tuple[int, ...]
) -> list[tuple[NDArray[np.float32], NDArray[Any]]]:
    """Read five windows at full resolution, in the middle and towards the corners."""
    samples = []
    height, width = min(dataset.height, _ALPHA_SAMPLE_PX), min(dataset.width, _ALPHA_SAMPLE_PX)
    places = {(0.5, 0.5), (0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8)}
    corners = {(int((dataset.height - height) * y), int((dataset.width - width) * x)) for y, x in places}
    for top, left in sorted(corners):
        data = dataset.read([*colour, alpha], window=((top, top + height), (left, left + width)))
        samples.append((data[-1].astype(np.float32), data[:-1]))
    return samples


def _opaque_value(dtype: str, samples: list[tuple[NDArray[np.float32], NDArray[Any]]]) -> float:
    """Return the opaque value of an alpha band: wide integers hold 255 about as often as their own maximum."""
    highest = max(float(alpha.max()) for alpha, _ in samples)
    if np.dtype(dtype).kind == "f":
        return 1.0 if highest <= 1.0 else 255.0
    return 255.0 if highest <= 255.0 else float(np.iinfo(dtype).max)


def _colour_bands(roles: list[ColorInterp], alpha: int | None) -> tuple[int, ...]:
    rgb = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(role in roles for role in rgb):
        return tuple(roles.index(role) + 1 for role in rgb)
    others = [number for number in range(1, len(roles) + 1) if number != alpha]
    return tuple(others[:3]) if len(others) >= 3 else (others[0],)


def _palette(dataset: DatasetReader) -> NDArray[np.uint8]:
    colours = dataset.colormap(1)
    palette = np.zeros((max(colours) + 1, 4), dtype=np.uint8)
    for index, rgba in colours.items():
        palette[index] = rgba
    return palette


def _scaled(values: NDArray[Any], value_range: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = value_range
    shifted = values.astype(np.float32)
    shifted -= np.float32(low)
    shifted *= np.float32(255.0 / (high - low))
    np.nan_to_num(shifted, copy=False)
    return (np.clip(shifted, 0.0, 255.0, out=shifted) + np.float32(0.5)).astype(np.uint8)
