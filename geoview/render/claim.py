"""A folder belongs to the settings that it was written with: the same go on there, others are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geoview.config import differing_keys
from geoview.errors import OutputExistsError
from geoview.files import write_json

__all__ = ["claim"]


def claim(path: Path, plan: dict[str, Any], *, made: Sequence[str], overwrite: bool) -> dict[str, Any]:
    """Takes the folder of a plan's file for what the plan describes.

    The plan is written before what it describes, so that a run that was cut off is known again.

    Args:
        path: File of the plan.
        plan: Settings.
        made: Patterns of the files that such plans make, relative to the folder.
        overwrite: Remove what was made there with other settings; nothing else is touched.

    Returns:
        The plan as it reads back from JSON.

    Raises:
        OutputExistsError: The folder was taken for other settings, or holds something else.
    """
    plan = json.loads(json.dumps(plan))
    folder = path.parent
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if found == plan:
        return plan
    if not overwrite:
        if found is not None:
            key = differing_keys(found, plan)[0]
            raise OutputExistsError(f"{path}: written with another {key}; give another folder, or --overwrite")
        if folder.exists() and any(folder.iterdir()):
            raise OutputExistsError(f"{folder}: is not empty; give another folder, or --overwrite")
    for pattern in made:
        for old in folder.glob(pattern):
            old.unlink()
    write_json(path, plan)
    return plan
