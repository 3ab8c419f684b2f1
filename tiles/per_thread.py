"""Things that must not be shared: open handles belong to one thread of one process."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["PerThreadLRU"]


class PerThreadLRU(threading.local):
    """A bounded store of what the current thread opened; empty in a new thread and after a fork.

    What falls out is closed by losing its last reference, so whoever is still using it keeps it open.
    """

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._pid = os.getpid()
        self._items: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the item of this thread under `key`, made by `make()` if it is not there."""
        if self._pid != os.getpid():  # a forked child shares file offsets and locks with its parent: start anew
            self._pid = os.getpid()
            self._items = OrderedDict()
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        item = make()
        self._items[key] = item
        if len(self._items) > self._max_items:
            self._items.popitem(last=False)
        return item
