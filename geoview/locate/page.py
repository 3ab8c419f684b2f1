"""Answers as one HTML page: photos, the chips of their candidates, and a map; it asks nothing of any network."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, TextIO

import numpy as np
from PIL import Image
from shapely.geometry import mapping

import tiles
from geoview.config import AerialView
from geoview.data.photos import load_image
from geoview.errors import GeoviewError
from geoview.index.cell_index import CellIndex
from geoview.locate.candidates import record
from geoview.locate.localizer import Localization

__all__ = ["open_imagery", "write_html"]

log = logging.getLogger(__name__)

_PHOTO_PX = 720
_CHIP_PX = 192
_JPEG_QUALITY = 80
# Pale where there is no imagery: black would look like a picture of something.
_NO_IMAGERY = np.array([226, 232, 240], np.uint8)


def open_imagery(index: CellIndex, paths: Iterable[str]) -> tiles.ImagerySource | None:
    """Opens the imagery whose chips are shown beside the answers and looked at again.

    Args:
        index: Tells the imagery that it was built from.
        paths: Imagery to use instead; empty means the index's.

    Returns:
        The imagery, or None, with a warning, where the index's is gone: answers need the index alone.

    Raises:
        TilesError: Imagery that was asked for by name cannot be opened.
    """
    given = list(paths)
    if given:
        return tiles.open_source(given)
    try:
        return tiles.open_source(index.manifest.imagery)
    except tiles.TilesError as error:
        log.warning("no chips are shown or looked at again, the index's imagery cannot be opened: %s", error)
        return None


def write_html(
    answers: Iterable[Localization], file: TextIO, *, index: CellIndex, imagery: tiles.ImagerySource | None
) -> None:
    """Writes a self-contained page.

    Args:
        answers: Read one by one.
        file: Where to write.
        index: Tells the geometry of the chips and where the imagery comes from.
        imagery: Where chips are cut from; None shows none.
    """
    coverage = imagery.coverage().simplify(1e-4) if imagery is not None else None
    page = {
        "level": index.level,
        "chip_m": index.chip.ground_size_m,
        "coverage": None if coverage is None else mapping(coverage),
        "licences": sorted(
            {" · ".join(filter(None, (s["attribution"], s["licence"], s["date"]))) for s in index.manifest.sources}
            - {""}
        ),
        "queries": [_query(answer, imagery, index.chip) for answer in answers],
    }
    # `</script` inside a JSON string would end the script element, `<!--<script` would keep it from ending.
    content = json.dumps(page, allow_nan=False).replace("<", "\\u003c")
    template = files("geoview.locate").joinpath("page.html").read_text(encoding="utf-8")
    file.write(template.replace("{{PAGE}}", content))


def _query(answer: Localization, imagery: tiles.ImagerySource | None, chip: AerialView) -> dict[str, Any]:
    candidates = record(answer)["candidates"]
    for candidate in candidates:
        candidate["chip"] = _chip(imagery, (candidate["lat"], candidate["lon"]), chip) if imagery is not None else None
    return {
        "query": answer.query,
        "status": answer.status,
        "calibration": answer.calibration,
        "error": answer.error,
        "latlon": answer.latlon_deg,
        "photo": _photo(answer.query),
        "candidates": candidates,
    }


def _photo(path: str) -> str | None:
    try:
        image = load_image(path, max_side_px=_PHOTO_PX)
    except GeoviewError:
        return None  # the answer's own error says it already
    image.thumbnail((_PHOTO_PX, _PHOTO_PX))
    return _data_uri(image)


def _chip(imagery: tiles.ImagerySource, latlon_deg: tuple[float, float], view: AerialView) -> str | None:
    try:
        chip = imagery.chip(np.array(latlon_deg), size_px=_CHIP_PX, gsd_m=view.ground_size_m / _CHIP_PX)
    except tiles.TilesError as error:
        log.warning("no chip is shown: %s", error)
        return None
    return _data_uri(Image.fromarray(np.where(chip.valid[..., None], chip.pixels, _NO_IMAGERY)))


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
