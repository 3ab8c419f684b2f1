"""What a config checks of itself."""

from __future__ import annotations

from geoview.errors import ConfigError

__all__ = ["require"]


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
