"""What the service has done, in numbers that name no photo."""

from __future__ import annotations

import time

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Counted", "Metrics"]

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Counters of one service.

    Attributes:
        media_type: Of `text`.
        requests: By route and status.
        photos: By what became of them: `ok`, `rejected`, `failed`.
        seconds: By stage, a batch each: `embed` (decoding included) and `search`; and a photo each: `why`.
        request_seconds: By route, from the first byte of the head to the last of the answer.
        waiting: Photos that nobody works on yet.
        index_number: Of the commit that is asked.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter("geoview_requests", "Requests answered", ["route", "status"], registry=registry)
        self.photos = Counter("geoview_photos", "Photos answered", ["status"], registry=registry)
        self.seconds = Histogram(
            "geoview_stage_seconds", "Time of a batch in a stage", ["stage"], registry=registry, buckets=_SECONDS
        )
        self.request_seconds = Histogram(
            "geoview_request_seconds", "Time of a request", ["route"], registry=registry, buckets=_SECONDS
        )
        self.waiting = Gauge("geoview_photos_waiting", "Photos that nobody works on yet", registry=registry)
        self.index_number = Gauge("geoview_index_number", "Commit of the index that is asked", registry=registry)

    def text(self) -> bytes:
        """Returns all of it in Prometheus's text format."""
        return generate_latest(self._registry)


class Counted:
    """Counts requests by the route that they took, never by the path that was asked."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            # Routing writes the route into the scope.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - start)
