"""The routes, and what holds them together."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

import tiles
from geoview.config import ServeConfig
from geoview.errors import GeoviewError, RegionError
from geoview.locate.localizer import Localization
from geoview.locate.why import Drawn
from geoview.serve.answers import (
    STREAM_EXAMPLE,
    About,
    Answer,
    Basemap,
    Fault,
    Health,
    Located,
    Reasons,
    about,
    answer_of,
    reasons_of,
    state_of,
)
from geoview.serve.generations import Generation, Generations
from geoview.serve.guard import Door, Guard, read_token, safe_headers
from geoview.serve.metrics import Counted, Metrics
from geoview.serve.pictures import NoPictureError, Pictures, jpeg, lost
from geoview.serve.requests import Asked, AskedWhy, Shown, claim_of, one_line, plain_text, read_photos, search_of
from geoview.serve.uploads import Uploads
from geoview.serve.worker import Job, QueueFullError, Worker

__all__ = ["STATIC", "make_app"]

log = logging.getLogger(__name__)

STATIC = Path(str(files("geoview.serve").joinpath("static")))
_STREAM = "application/x-ndjson"
# Cutting a chip holds Python's lock for most of its time.
_CUTTERS = 2
_PHOTOS_AT_ONCE = 16
_RETRY = {"Retry-After": "5"}
_GONE = 499  # nginx's: the client has left, and nobody reads this

_KEPT_S = 300
_REVALIDATED = {"Cache-Control": "no-cache"}
_BROKEN = "this could not be answered; the log of the service tells why"

_METRICS = 'geoview_requests_total{route="/locate",status="200"} 7.0'
_NOTHING: dict[int | str, dict[str, Any]] = {204: {"description": "There is no imagery here"}}
_SESSION: dict[int | str, dict[str, Any]] = {204: {"description": "The cookie is set, where a token is needed"}}
_REFUSED: dict[int | str, dict[str, Any]] = {status: {"model": Fault} for status in (408, 413, 415, 422, 503, 504)}
_LOCATED: dict[int | str, dict[str, Any]] = {
    200: {"model": Located, "content": {_STREAM: {"example": STREAM_EXAMPLE}}},
    **_REFUSED,
}


def make_app(config: ServeConfig, static: Path = STATIC) -> FastAPI:
    """Opens the index and makes the service.

    Args:
        config: What to serve, and how much.
        static: Folder of the page.

    Raises:
        ConfigError: The index is empty, others may ask and there is no token, or the base map has no address.
        GeoviewError: The index cannot be opened.
        TilesError: Imagery that was named cannot be opened.
    """
    door, headers = Door(config.host, read_token(config)), safe_headers(config.basemap)
    basemap = None
    if config.basemap is not None:
        basemap = Basemap(url=config.basemap, attribution=config.basemap_attribution or "")
    service = _Service(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        follower = asyncio.create_task(service.generations.follow())
        try:
            yield
        finally:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="geoview",
        version=version("geoview"),
        description="Tells where photos were taken. Photos are never stored.",
        lifespan=lifespan,
        # The pages that show the description fetch their scripts elsewhere.
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": Fault} for status in (400, 401, 403)},
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NoPictureError, _absent)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Guard, door=door, headers=headers)
    app.add_middleware(Counted, metrics=service.metrics)

    @app.post("/locate", openapi_extra={"requestBody": _FORM}, responses=_LOCATED, response_class=JSONResponse)
    async def locate(request: Request) -> Response:
        """Tell where photos were taken; with `Accept: application/x-ndjson`, as the answers come."""
        return await service.locate(request)

    @app.post("/why", openapi_extra={"requestBody": _WHY_FORM}, responses=_WHY, response_class=Response)
    async def why(request: Request) -> Response:
        """Show what in a photo and in the chip of a cell speaks for the photo being of it; red for, blue against it.

        All pictures side by side; or, with `Accept: application/json`, one by one.
        """
        return await service.why(request)

    @app.get("/chips/{token}.jpg", responses=_picture("image/jpeg"), response_class=Response)
    async def chip(
        token: Annotated[str, PathParameter(examples=["479e75f1"])],
        size_px: Annotated[int, Query(ge=16, le=768)] = 192,
        heading_deg: Annotated[float, Query(ge=-360, le=360)] = 0.0,
    ) -> Response:
        """Show a cell of the index as the encoder sees it, from above."""
        return await service.picture(
            lambda generation: service.pictures.chip(generation, token, size_px, heading_deg), "image/jpeg"
        )

    @app.get("/tiles/{z}/{x}/{y}.webp", responses=_picture("image/webp") | _NOTHING, response_class=Response)
    async def tile(
        z: Annotated[int, PathParameter(examples=[16])],
        x: Annotated[int, PathParameter(examples=[34874])],
        y: Annotated[int, PathParameter(examples=[22737])],
    ) -> Response:
        """Show the imagery of the index as a tile of a map in the web's Mercator projection."""
        return await service.picture(lambda generation: service.pictures.tile(generation, z, x, y), "image/webp")

    @app.get("/index", response_model=About)
    async def index() -> JSONResponse:
        """Tell what the index is."""
        with service.generations.held() as generation:
            return _json(await asyncio.to_thread(about, generation, basemap))

    @app.get("/health", response_model=Health)
    async def health() -> JSONResponse:
        """Tell that there are answers, and of which commit of the index."""
        return _json(Health(index=service.generations.current.number))

    @app.get("/metrics", responses={200: {"content": {"text/plain": {"example": _METRICS}}}}, response_class=Response)
    async def metrics() -> Response:
        """Tell what was done, as Prometheus reads it."""
        return Response(service.metrics.text(), media_type=service.metrics.media_type)

    @app.post("/session", status_code=204, responses=_SESSION, response_class=Response)
    async def session(request: Request) -> Response:
        """Turn the token into a cookie, for pictures, which browsers ask for without it."""
        answer = Response(status_code=204)
        if door.is_locked:
            if not door.has_token(request.headers):
                raise HTTPException(401, "this is not the token", {"WWW-Authenticate": "Bearer"})
            answer.set_cookie(*door.cookie, httponly=True, samesite="strict")
        return answer

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if not (static / "index.html").is_file():
            raise HTTPException(404, "this installation has no page")
        return FileResponse(static / "index.html", headers=_REVALIDATED)

    app.mount("/static", _Static(directory=static, check_dir=False))
    return app


class _Service:
    """What the routes share."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self.metrics, self.pictures, self.uploads = Metrics(), Pictures(), Uploads(config)
        self.generations = Generations(config)
        self.metrics.index_number.set_function(lambda: self.generations.current.number)
        self._worker = Worker(
            self.metrics,
            at_once=_PHOTOS_AT_ONCE,
            max_waiting=config.max_waiting,
            max_photo_px=int(config.max_photo_mpx * 1e6),
        )
        self._cutters = anyio.CapacityLimiter(_CUTTERS)

    async def locate(self, request: Request) -> Response:
        async with AsyncExitStack() as stack:
            form = await stack.enter_async_context(self.uploads.form(request, max_photos=self._config.max_photos))
            asked = Asked.of(form)
            photos = await read_photos(form, asked)
            generation = stack.enter_context(self.generations.held())
            search = await asyncio.to_thread(search_of, asked, generation)
            job: Job[Localization] = Job(photos, asked.photo_view, search, generation)
            stack.enter_context(self._queued(job))
            if _STREAM in request.headers.get("accept", ""):
                return _Stream(self._events(job, asked), stack.pop_all())
            return await _unless_gone(request, self._whole(job, asked))

    async def why(self, request: Request) -> Response:
        async with AsyncExitStack() as stack:
            form = await stack.enter_async_context(self.uploads.form(request, max_photos=1))
            asked = AskedWhy.of(form)
            photos = await read_photos(form, asked)
            generation = stack.enter_context(self.generations.held())
            job: Job[Drawn] = Job(photos, asked.photo_view, claim_of(asked, generation), generation)
            stack.enter_context(self._queued(job))
            as_json = "application/json" in request.headers.get("accept", "")
            return await _unless_gone(request, self._reasons(job, asked, as_json=as_json))

    async def picture(self, cut: Callable[[Generation], bytes | None], media_type: str) -> Response:
        """Returns what a function cuts, in a thread of few."""
        with self.generations.held() as generation:
            content = await anyio.to_thread.run_sync(cut, generation, limiter=self._cutters)
        headers = {"Cache-Control": f"private, max-age={_KEPT_S}"}
        if content is None:
            return Response(status_code=204, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    def close(self) -> None:
        self._worker.close(self._config.shutdown_s)
        self.generations.close()

    @contextmanager
    def _queued(self, job: Job[Any]) -> Iterator[None]:
        try:
            with self._worker.queued(job):
                yield
        except QueueFullError:
            raise HTTPException(503, "too many photos wait; try again", _RETRY) from None

    async def _reasons(self, job: Job[Drawn], asked: AskedWhy, *, as_json: bool) -> Response:
        name = job.photos[0].path
        try:
            (drawn,) = [each async for each in job.answers(self._config.answer_s)]
        except GeoviewError as error:  # about the photo, and names nothing else
            raise HTTPException(422, plain_text(str(error))) from None
        except tiles.TilesError as error:
            raise lost(error) from None
        except Exception as error:
            raise self._fault(error) from None
        if as_json:
            return _json(await asyncio.to_thread(reasons_of, drawn, name, asked.cell))
        sheet = await asyncio.to_thread(lambda: jpeg(np.asarray(drawn.sheet(f"{name}: cell {asked.cell}"))))
        return Response(sheet, media_type="image/jpeg")

    async def _whole(self, job: Job[Localization], asked: Asked) -> Response:
        try:
            answers = [answer_of(each, asked) async for each in job.answers(self._config.answer_s)]
        except Exception as error:
            raise self._fault(error) from None
        return _json(Located(index=state_of(job.generation, answers), answers=answers))

    async def _events(self, job: Job[Localization], asked: Asked) -> AsyncIterator[str]:
        answers: list[Answer] = []
        yield _line("received", photos=len(job.photos))
        try:
            async for each in job.answers(self._config.answer_s):
                answers.append(answer_of(each, asked))
                yield _line("progress", done=len(answers), of=len(job.photos))
                yield _line("answer", answer=answers[-1].model_dump())
        except Exception as error:
            yield _line("error", detail=self._fault(error).detail)
        else:
            yield _line("end", index=state_of(job.generation, answers).model_dump())

    def _fault(self, error: Exception) -> HTTPException:
        """Returns what is told of an error, which may name what is on this machine."""
        if isinstance(error, RegionError):
            return HTTPException(422, "region: no cell of the index lies in it; GET /index tells where it is")
        if isinstance(error, TimeoutError):
            return HTTPException(
                504, f"not answered within {self._config.answer_s:g} s; send fewer photos, or try again"
            )
        log.error("a request could not be answered", exc_info=error)
        return HTTPException(500, _BROKEN)


class _Stream(StreamingResponse):
    """Sends answers as they come, and lets go of what they need when all are sent or the client has left."""

    media_type = _STREAM

    def __init__(self, content: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(content)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


class _Static(StaticFiles):
    """Files of the page, which browsers keep and ask about: their names tell no version."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_REVALIDATED)
        return response


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, Response]) -> Response:
    """Waits for an answer as long as the client does."""
    work, left = asyncio.create_task(answering), asyncio.create_task(_leaving(request))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else Response(status_code=_GONE)
    finally:
        for task in (work, left):
            task.cancel()


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(content: BaseModel) -> JSONResponse:
    return JSONResponse(content.model_dump())


def _line(event: str, **said: Any) -> str:
    return json.dumps({"event": event, **said}, allow_nan=False) + "\n"


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": one_line(list(error.errors()))}, 422)


async def _absent(_: Request, reason: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(reason)}, 404)


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=_GONE)


async def _broken(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"detail": _BROKEN}, 500)


def _picture(media_type: str, or_else: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """Describes a route that answers with a picture, or with JSON where that is asked for."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {
        200: {"description": "The picture", "content": content, "model": or_else},
        404: {"model": Fault, "description": "There is none; the detail says why"},
        422: {"model": Fault},
    }


def _form(asked: type[Shown], example: dict[str, Any]) -> dict[str, Any]:
    """Describes a form: fields that may be left out are not null."""
    schema = asked.model_json_schema()
    for name, described in schema["properties"].items():
        either = described.pop("anyOf", [])
        schema["properties"][name] = {k: v for k, v in (either[0] | described if either else described).items()}
        if schema["properties"][name].get("default", 0) is None:
            del schema["properties"][name]["default"]
    photos = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    if asked is AskedWhy:
        photos["maxItems"] = 1
    schema["properties"] = {"photos": photos, **schema["properties"]}
    schema["required"] = ["photos", *schema.get("required", [])]
    example = {"photos": ["street.jpg"], **example}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "example": example}}}


_FORM = _form(Asked, {"near": "48.137,11.575", "radius_m": 5000, "top_k": 5})
_WHY_FORM = _form(AskedWhy, {"cell": "479e75f1", "heading_deg": 135})
_WHY = _REFUSED | _picture("image/jpeg", Reasons)
