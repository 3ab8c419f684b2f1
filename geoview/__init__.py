"""geoview tells where a photo was taken by matching it against imagery seen from above."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geoview.embed import embed
    from geoview.index.build import build_index
    from geoview.index.cell_index import CellIndex, Hits
    from geoview.locate.localizer import Localization, Localizer
    from geoview.locate.sequence import locate_sequence
    from geoview.locate.together import locate_together
    from geoview.models.encoder import CrossViewEncoder

__version__ = version("geoview")

_HOMES = {
    "CellIndex": "geoview.index.cell_index",
    "CrossViewEncoder": "geoview.models.encoder",
    "Hits": "geoview.index.cell_index",
    "Localization": "geoview.locate.localizer",
    "Localizer": "geoview.locate.localizer",
    "build_index": "geoview.index.build",
    "embed": "geoview.embed",
    "locate_sequence": "geoview.locate.sequence",
    "locate_together": "geoview.locate.together",
}

__all__ = [
    "CellIndex",
    "CrossViewEncoder",
    "Hits",
    "Localization",
    "Localizer",
    "build_index",
    "embed",
    "locate_sequence",
    "locate_together",
]


def __getattr__(name: str) -> object:
    # Lazy, so that `import geoview` (and with it `geoview --help`) costs no torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'geoview' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
