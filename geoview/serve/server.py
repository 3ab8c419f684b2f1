"""Listening: on a socket of this machine, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from geoview.config import ServeConfig
from geoview.errors import ConfigError
from geoview.serve.app import STATIC, make_app

__all__ = ["listen", "make_server", "serve"]

log = logging.getLogger(__name__)

# For the head of a request to come, and for what was answered to be taken.
_HEAD_S = 10.0
_TAKEN_S = 120.0
_MAX_CONNECTIONS = 256


def serve(config: ServeConfig) -> None:
    """Serves until SIGTERM or SIGINT; requests that have been received are then still answered.

    Raises:
        ConfigError: The address cannot be listened on; or what `make_app` raises.
    """
    with listen(config) as listener:
        server = make_server(config)
        host, port = listener.getsockname()[:2]
        log.info("http://%s:%d", f"[{host}]" if ":" in host else host, port)
        # uvicorn raises a signal again when it has ended, for those who handled it before: it has done what it should.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(config: ServeConfig) -> socket.socket:
    """Returns a socket that listens; port 0 is a free one.

    Raises:
        ConfigError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise ConfigError(f"{config.host}, port {config.port}: cannot be listened on: {error.strerror}") from error


def make_server(config: ServeConfig, static: Path = STATIC) -> uvicorn.Server:
    """Returns a server for `listen`'s socket.

    Raises:
        What `make_app` raises.
    """
    settings = uvicorn.Config(
        make_app(config, static),
        http=_Prompt,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.ERROR,  # what is malformed is told to who sent it
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(config.shutdown_s)),
    )
    return uvicorn.Server(settings)


class _Prompt(H11Protocol):
    """Closes connections whose next request does not begin in time, or whose client does not take what was answered.

    However slow the trickle is at which a head comes: uvicorn's own patience begins anew with every byte.
    """

    _overdue: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._go_on()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(_TAKEN_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._go_on()
        super().resume_writing()

    def _go_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()

    def _wait(self) -> None:
        self._stop_waiting()
        self._overdue = self.loop.call_later(_HEAD_S, self._close)

    def _stop_waiting(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()

    def _close(self) -> None:
        self.transport.close()
        # What nobody takes stays in memory.
        self.loop.call_later(_TAKEN_S, self.transport.abort)
