"""What a person adds to what the files say, and the manifests that hold it."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from tiles.errors import InvalidManifestError

__all__ = ["NO_HINTS", "SourceHints", "read_manifest"]

_DATE = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


@dataclass(frozen=True)
class SourceHints:
    """Facts that complete or override those in the files; None leaves them to the files.

    Attributes:
        crs: coordinate system of the raster, such as EPSG:26911.
        gsd_m: metres per pixel of the finest level, where the file's own is wrong: shown, not used for geometry.
        date: ISO date (year, month or day) of the imagery.
        attribution: whom to name.
        licence: licence of the imagery.
        alpha: whether the alpha band is a mask; None to look at it.
        value_range: values that become 0 and 255.
        min_zoom: coarsest zoom of a pyramid to use.
        max_zoom: finest zoom of a pyramid to use.
    """

    crs: str | None = None
    gsd_m: float | None = None
    date: str | None = None
    attribution: str | None = None
    licence: str | None = None
    alpha: bool | None = None
    value_range: tuple[float, float] | None = None
    min_zoom: int | None = None
    max_zoom: int | None = None


NO_HINTS = SourceHints()
_KEYS = ("uri", *(field.name for field in fields(SourceHints)))


class _Loader(yaml.SafeLoader):
    """YAML without dates: they are checked here, where their key is known."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own declaration)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_manifest(path: Path) -> list[tuple[str, SourceHints]]:
    """Return the entries of a YAML manifest: (uri, hints), the uri absolute and still a glob where it was one.

    Raises:
        InvalidManifestError: not YAML, an unknown key, a missing uri, or a value of the wrong kind.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidManifestError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    entries = [content]
    if isinstance(content, Mapping) and "sources" in content:
        if len(content) > 1:
            other = next(key for key in content if key != "sources")
            raise InvalidManifestError(f"{path}: key {other!r} beside `sources:`; move it into the entries of the list")
        entries = content["sources"]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise InvalidManifestError(f"{path}: must be one mapping with a `uri:`, or a list of such under `sources:`")
    return [_entry(path, entry) for entry in entries]


def _entry(path: Path, entry: Mapping[Any, Any]) -> tuple[str, SourceHints]:
    for key in entry:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1, cutoff=0.0)[0]
            raise InvalidManifestError(f"{path}: unknown key {key!r}; did you mean {near!r}?")
    uri = entry.get("uri")
    if not isinstance(uri, str) or not uri:
        raise InvalidManifestError(
            f"{path}: an entry has no `uri:`; give a path relative to the manifest or an address"
        )
    given = {key: _checked(path, key, value) for key, value in entry.items() if key != "uri" and value is not None}
    remote = "://" in uri or uri.startswith("/vsi")
    return uri if remote else str(path.parent.absolute() / uri), SourceHints(**given)


def _checked(path: Path, key: str, value: Any) -> Any:
    """Return the value of a key in its own type."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match key:
        case "date":
            text = str(value)
            if _DATE.fullmatch(text) and _is_date(text):
                return text
            expected = "a date such as 2020-06-30, 2020-06 or 2020"
        case "alpha":
            if isinstance(value, bool):
                return value
            expected = "true or false"
        case "gsd_m":
            if is_number and value > 0:
                return float(value)
            expected = "a positive number of metres"
        case "min_zoom" | "max_zoom":
            if is_number and isinstance(value, int) and 0 <= value <= 30:
                return value
            expected = "a zoom from 0 to 30"
        case "value_range":
            numbers = isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
            if numbers and value[0] < value[1]:
                return float(value[0]), float(value[1])
            expected = "two numbers, the lower first, such as [0, 3000]"
        case "crs":
            if isinstance(value, str) or (is_number and isinstance(value, int)):
                return value if isinstance(value, str) else f"EPSG:{value}"
            expected = "a code such as EPSG:26911"
        case _:
            if isinstance(value, str):
                return value
            expected = "text"
    raise InvalidManifestError(f"{path}: `{key}: {value}` must be {expected}")


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text + "-01-01"[len(text) - 4 :])
    except ValueError:
        return False
    return True
