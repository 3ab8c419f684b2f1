"""Changes to an index that is there: readers keep what they have opened, and a kill leaves the old index whole."""

from __future__ import annotations

from pathlib import Path

from geoview.files import exclusive
from geoview.index import store

__all__ = ["vacuum"]


def vacuum(path: str | Path) -> tuple[int, int]:
    """Removes what no manifest names and no reader holds; shards that a cut-off build has finished stay for it.

    Args:
        path: Index folder.

    Returns:
        Folders removed, and their bytes.

    Raises:
        IndexNotFoundError: It is no index.
        BusyError: It is being written.
    """
    index = Path(path)
    store.read_manifest(index)
    with exclusive(index / "build"):
        gone = store.sweep(index)
        if not (index / "build" / "plan.json").exists():
            store.remove_journal(index)
    return len(gone), sum(gone.values())
