"""edge. How a running gateway answers its probes, for commands on the same machine."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_TIMEOUT_S: Final = 3.0
_MAX_BYTES: Final = 64 * 1024
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


class CannotAsk(Exception):
    """The gateway can't be asked, or doesn't answer. The text is the reason."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answer to a probe."""

    is_good: bool
    """It has the status 200 and is a gateway's."""
    line: str
    """What it says, in one line without control characters."""


def local(listen: str) -> str:
    """Return the URL at which this machine reaches *listen*, a `host:port`."""
    host, _, port = listen.rpartition(":")
    return f"http://{_ANY_ADDRESS.get(host, host)}:{port}"


def ask(url: str, path: str) -> ProbeAnswer:
    """Ask for the health at *path* below *url*.

    Raises:
        CannotAsk: *url* isn't the URL of a server, or nobody answers within 3 s.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.netloc:
        raise CannotAsk(f"{url}: expected a URL such as http://127.0.0.1:9902")
    try:
        status, answer = _get(parts.netloc, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CannotAsk(f"{url} doesn't answer: {reason}") from None
    line = _line(answer)
    if line is None:
        line = f"failing (status {status}, and not the answer of a gateway)"
        return ProbeAnswer(is_good=False, line=line)
    return ProbeAnswer(is_good=status == http.client.OK, line=line)


def _get(netloc: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(netloc, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read(_MAX_BYTES)
    finally:
        connection.close()


def _line(answer: bytes) -> str | None:
    """Return a gateway's answer in one line without control characters, or None."""
    match _parsed(answer):
        case {"status": str(level), "checks": dict() as checks}:
            reasons = [
                f"{name}: {check['reason']}"
                for name, check in checks.items()
                if isinstance(check, dict) and "reason" in check
            ]
            line = level if not reasons else f"{level} ({'; '.join(reasons)})"
            return "".join(char if char.isprintable() else "?" for char in line)
        case _:
            return None


def _parsed(answer: bytes) -> object:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None
