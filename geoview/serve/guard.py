"""Who may ask: by the token, this host's name and the page that asks; and what browsers may do with what they get."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geoview.config import ServeConfig
from geoview.errors import ConfigError

__all__ = ["Door", "Guard", "read_token", "safe_headers"]

TOKEN_VARIABLE = "GEOVIEW_TOKEN"
_MIN_TOKEN = 16
# What shows nothing of the index: the page, which asks for the token, and whether there is an answer at all.
_OPEN = ("/", "/health", "/session")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def read_token(config: ServeConfig) -> str | None:
    """Returns what whoever asks must know; None where only this machine can ask.

    Raises:
        ConfigError: Others can ask, and there is no token; or it is too short, or its file cannot be read.
    """
    token, where = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    if config.token_file is not None:
        where = config.token_file
        try:
            token = Path(config.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config.token_file}: the token cannot be read: {error}") from error
    if token is None:
        if not _is_loopback(config.host):
            raise ConfigError(
                f"host {config.host}: others than this machine could ask; give token_file, or {TOKEN_VARIABLE} in the "
                "environment"
            )
        return None
    if len(token) < _MIN_TOKEN or not (token.isascii() and token.isprintable()):
        raise ConfigError(
            f"{where}: a token has {_MIN_TOKEN} or more printable ASCII characters; `openssl rand -hex 32` makes one"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Door:
    """What opens the service.

    Attributes:
        cookie: Name and value of what stands for the token where a browser cannot send it, in pictures. It is drawn for
            this process, and says nothing of the token.
    """

    def __init__(self, host: str, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        # Elsewhere the token keeps pages of other names out.
        self._hosts = {"localhost", "127.0.0.1", "::1", host} if _is_loopback(host) else None
        self.cookie = (f"geoview_{secrets.token_hex(4)}", secrets.token_urlsafe(32))

    @property
    def is_locked(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def knows_host(self, headers: Headers) -> bool:
        """Tells whether the service was asked by one of its names, and not by that of a page that points here."""
        if self._hosts is None:
            return True
        try:
            return urlsplit(f"//{headers.get('host', '')}").hostname in self._hosts
        except ValueError:
            return False

    def is_same_site(self, headers: Headers) -> bool:
        """Tells whether a request comes from our own page, or from no page at all."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            return site in ("same-origin", "none")
        return origin is None or origin.partition("://")[2] == headers.get("host")

    def has_token(self, headers: Headers) -> bool:
        """Compares the token in constant time."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token or b"")

    def has_cookie(self, headers: Headers) -> bool:
        """Compares the cookie in constant time."""
        name, value = self.cookie
        try:
            given = SimpleCookie(headers.get("cookie", "")).get(name)
        except CookieError:
            return False
        return given is not None and hmac.compare_digest(given.value.encode(), value.encode())

    def opens(self, path: str, headers: Headers) -> bool:
        """Tells whether a request may go in."""
        shown = path in _OPEN or path.startswith("/static/")
        return not self.is_locked or shown or self.has_token(headers) or self.has_cookie(headers)


class Guard:
    """Turns away who may not ask, and tells browsers what pages from here may do: nothing that leaves this host."""

    def __init__(self, app: ASGIApp, door: Door, headers: Mapping[str, str]) -> None:
        self._app, self._door, self._headers = app, door, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, safely)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if not self._door.knows_host(headers):
            detail = "this host has another name; ask localhost, 127.0.0.1 or the --host that the service was given"
            return JSONResponse({"detail": detail}, 400)
        if scope["method"] not in _SAFE_METHODS and not self._door.is_same_site(headers):
            return JSONResponse({"detail": "asked by a page of another site"}, 403)
        if not self._door.opens(scope["path"], headers):
            detail = "a token is needed: send `Authorization: Bearer TOKEN`"
            return JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})
        return None


def safe_headers(basemap: str | None) -> dict[str, str]:
    """Returns what browsers are told with every answer: pages may ask this host alone, and that of the base map.

    Args:
        basemap: Address of its tiles.

    Raises:
        ConfigError: It is not one.
    """
    elsewhere = "" if basemap is None else f" {_origin_of(basemap)}"
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": f"'self' blob: data:{elsewhere}",
        "connect-src": f"'self'{elsewhere}",
        "worker-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    # What else a host may be made of would end the directive, or open more than one host.
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", parts.netloc):
        raise ConfigError(f"basemap {url!r}: not an address as in https://tiles.example.org/{{z}}/{{x}}/{{y}}.png")
    return f"{parts.scheme}://{parts.netloc}"
