"""What may be sent: in memory alone, bounded in bytes, in number and in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from geoview.config import ServeConfig

__all__ = ["Uploads", "plain_name"]

# It warns of every malformed form, which is told to who sent it.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

# Of the largest size, at once: what is beyond is told to come again.
_AT_ONCE = 8
_MAX_TEXT_BYTES = 2**20
_MAX_TEXTS = 32
_MAX_NAME = 120


class _InMemory(MultiPartParser):
    """Starlette's parser, which else writes what is larger than a megabyte to disk."""

    spool_max_size = 0  # of SpooledTemporaryFile: none


class Uploads:
    """Forms that are being received or worked on.

    Attributes:
        held_bytes: Of all of them together.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._max_bytes = int(config.max_upload_mb * 1e6)
        self._upload_s = config.upload_s
        self.held_bytes = 0

    @asynccontextmanager
    async def form(self, request: Request, *, max_photos: int) -> AsyncIterator[FormData]:
        """Receives a form; its bytes count until this ends.

        Raises:
            HTTPException: It is too large (413), of another kind (415), malformed (400) or too slow (408), or too many
                others are being received (503).
        """
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(415, "send multipart/form-data, with the photos in the field `photos`")
        if int(request.headers.get("content-length", "0")) > self._max_bytes:
            raise self._too_large()
        received = 0

        async def chunks() -> AsyncGenerator[bytes]:
            nonlocal received
            async for chunk in request.stream():
                received += len(chunk)
                self.held_bytes += len(chunk)
                if received > self._max_bytes:
                    raise self._too_large()
                if self.held_bytes > _AT_ONCE * self._max_bytes:
                    raise HTTPException(503, "too many photos are being sent; try again", {"Retry-After": "5"})
                yield chunk

        try:
            yield await self._parsed(request, chunks(), max_photos)
        finally:
            self.held_bytes -= received

    async def _parsed(self, request: Request, chunks: AsyncGenerator[bytes], max_photos: int) -> FormData:
        limits = {"max_files": max_photos, "max_fields": _MAX_TEXTS, "max_part_size": _MAX_TEXT_BYTES}
        try:
            async with asyncio.timeout(self._upload_s):
                return await _InMemory(request.headers, chunks, **limits).parse()
        except TimeoutError:
            raise HTTPException(408, f"the form did not arrive within {self._upload_s:g} s") from None
        except UnicodeError:
            raise HTTPException(400, "the form cannot be read: its charset is not that of its text") from None
        except MultiPartException as error:
            # Only its words tell what is too much from what is malformed.
            if error.message.startswith("Too many files"):
                many = f"more than {max_photos} photo{'s' if max_photos > 1 else ''}"
                raise HTTPException(413, f"{many}; send several requests") from None
            too_much = error.message.startswith(("Too many", "Part exceeded"))
            raise HTTPException(413 if too_much else 400, f"the form cannot be read: {error.message}") from None

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"more than {self._max_bytes / 1e6:g} MB; send fewer or smaller photos")


def plain_name(name: str | None) -> str:
    """Returns the name of a file as it may be told back: without folders, and without what does not print."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c if c.isprintable() else "_" for c in last).strip()[:_MAX_NAME] or "photo"
