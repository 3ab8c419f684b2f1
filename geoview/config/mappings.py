"""From nested mappings, as YAML holds them, to configs."""

from __future__ import annotations

from typing import Any, TypeVar

import jsonargparse

from geoview.errors import ConfigError

__all__ = ["differing_keys", "from_mapping", "merged"]

Config = TypeVar("Config")


def from_mapping(kind: type[Config], values: dict[str, Any]) -> Config:
    """Makes a config from nested mappings, as YAML holds them.

    Args:
        kind: One of the dataclasses of this package.
        values: Its fields; those left out keep their defaults.

    Raises:
        ConfigError: A value that cannot be.
        jsonargparse.ArgumentError: A key that is none of the fields, or a value of the wrong type.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "config")
    try:
        config: Config = parser.instantiate(parser.parse_object({"config": values})).config
    except ValueError as error:
        # What a part that may be left out refuses comes wrapped in many lines.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None
    return config


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Returns nested mappings put together: what `over` says goes before what `base` says, key by key."""
    both = {key: base[key] for key in base}
    for key, value in over.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def differing_keys(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns the dotted keys in which two resolved configs differ, sorted."""
    found: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found
