"""edge. `gateway health`: asks a running gateway how it is."""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from gateway.cli.loading import load
from gateway.cli.options import config_option
from gateway.cli.terminal import fail

_TIMEOUT_S: Final = 3.0
_MAX_BYTES: Final = 64 * 1024
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104


@click.command()
@config_option
@click.option(
    "--ready",
    "path",
    flag_value="/readyz",
    help="Ask whether it is ready for new requests, not only whether it lives.",
)
@click.option(
    "--startup", "path", flag_value="/startupz", help="Ask whether it has started."
)
@click.option(
    "--url",
    metavar="URL",
    help="Where it answers probes, such as http://127.0.0.1:9902. Default:"
    " GATEWAY_PROBES_LISTEN, or gateway.probes.listen in the file.",
)
@click.option(
    "--probes-listen", envvar="GATEWAY_PROBES_LISTEN", hidden=True, default=None
)
def health(
    config_paths: tuple[Path, ...],
    path: str | None,
    url: str | None,
    probes_listen: str | None,
) -> None:
    """Ask a running gateway how it is, for images without curl.

    It prints one line: ok, degraded or failing, and why. It exits with 1 if the gateway
    is failing or doesn't answer, and with 0 otherwise.
    """
    address = url or f"http://{_local(probes_listen or _listen(config_paths))}"
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.netloc:
        fail(f"{address}: expected a URL such as http://127.0.0.1:9902")
    try:
        status, answer = _ask(parts.netloc, path or "/livez")
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        fail(f"{address} doesn't answer: {reason}")
    line = _line(answer)
    click.echo(line or f"failing (status {status}, and not the answer of a gateway)")
    sys.exit(status != http.client.OK or line is None)


def _listen(paths: tuple[Path, ...]) -> str:
    listen = load(paths).config.gateway.probes.listen
    if listen is None:
        fail("the file has no gateway.probes.listen: set it, or use --url")
    return listen


def _local(listen: str) -> str:
    """Return the address at which this machine reaches *listen*."""
    host, _, port = listen.rpartition(":")
    return f"{_ANY_ADDRESS.get(host, host)}:{port}"


def _ask(netloc: str, path: str) -> tuple[int, bytes]:
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
