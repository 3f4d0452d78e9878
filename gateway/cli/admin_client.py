"""edge. Requests of commands to the admin listener of a running gateway."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.cli.loading import load
from gateway.cli.terminal import fail

_TIMEOUT_S: Final = 300.0
"""The listener bounds its answers itself."""
_CONNECT_S: Final = 5.0
_MAX_BYTES: Final = 64 * 1024 * 1024
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where the admin listener is, and what it is shown."""

    url: str
    """`http://host:port` or `unix:/path`."""
    token: str | None


def address(
    paths: Sequence[Path],
    url: str | None,
    token_file: str | None,
    *,
    listen: str | None = None,
) -> AdminAddress:
    """Return *url*, or what the files at *paths* say; exit with 1 if they say nothing.

    *listen* is what the gateway listens on in place of the files' address. The token is
    that of *token_file*, or of the files unless *url* is given.
    """
    if url is None:
        admin = load(paths).config.gateway.admin
        listen = listen or admin.listen
        if listen is None:
            fail("the file has no gateway.admin.listen: set it, or use --admin")
        token_file = token_file or admin.token_file
        host, colon, port = listen.rpartition(":")
        if listen.startswith("unix:"):
            url = listen
        else:
            url = f"http://{_ANY_ADDRESS.get(host, host)}{colon}{port}"
    return AdminAddress(url, None if token_file is None else _token(token_file))


def _token(path: str) -> str:
    from gateway.admin.tokens import BadTokenFile, read_token

    try:
        return read_token(path).decode("ascii")
    except BadTokenFile as error:
        fail(f"{path}: {error}. {error.hint}")


def post(where: AdminAddress, path: str, body: Mapping[str, str]) -> tuple[int, Any]:
    """Return the status and the JSON of the answer; exit with 1 if there is none."""
    connection = _connection(where.url)
    fields = {"Content-Type": "application/json"}
    if where.token is not None:
        fields["Authorization"] = f"Bearer {where.token}"
    try:
        connection.connect()
        connection.sock.settimeout(_TIMEOUT_S)
        connection.request("POST", path, json.dumps(body), fields)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read(_MAX_BYTES))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        fail(f"{where.url} doesn't answer: {reason}")
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_CONNECT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_S)
        self.sock.connect(self._path)


def _connection(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"))
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.netloc or parts.path not in ("", "/"):
        fail(f"{url}: expected a URL such as http://127.0.0.1:9901 or unix:/path")
    return http.client.HTTPConnection(parts.netloc, timeout=_CONNECT_S)
