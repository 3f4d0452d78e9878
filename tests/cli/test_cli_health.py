"""`gateway health`: what it prints, its exit code, and whom it asks.

process/test_workers_probes.py asks a real gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result
from faults import free_ports

from gateway.cli import main

ANSWER = (
    b'{"status": "degraded", "checks":'
    b' {"keys": {"reason": "none"}, "core": {"reason": "away"}}}'
)


class Probes(BaseHTTPRequestHandler):
    """Answers every GET with the server's `status` and `answer`."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.paths.append(self.path)
        self.send_response(server.status)
        self.end_headers()
        self.wfile.write(server.answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


class Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Probes)
        self.paths: list[str] = []
        self.status = 200
        self.answer = ANSWER


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def health(*args: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["health", *args], env=environ)


@pytest.mark.parametrize(
    ("status", "answer", "code", "line"),
    [
        (200, b'{"status": "ok", "checks": {}}', 0, "ok"),
        (200, ANSWER, 0, "degraded (keys: none; core: away)"),
        (503, ANSWER.replace(b"degraded", b"failing"), 1, "failing (keys: none;"),
        (503, b"<html>", 1, "failing (status 503, and not the answer of a gateway)"),
        (200, b"[" * 99999, 1, "failing (status 200, and not the answer of"),
        (503, b'{"status": "\\u001b[2J", "checks": {}}', 1, "?[2J"),
    ],
)
def test_it_prints_one_line(
    server: Server, status: int, answer: bytes, code: int, line: str
) -> None:
    """With the reasons, and without control characters."""
    server.status, server.answer = status, answer
    done = health("--url", f"http://127.0.0.1:{server.server_port}")
    assert done.output.startswith(line)
    assert done.output.count("\n") == 1
    assert done.exit_code == code


def test_options_choose_the_probe(server: Server) -> None:
    """The default is the probe that says whether to restart it."""
    url = f"http://127.0.0.1:{server.server_port}"
    for args in ((), ("--ready",), ("--startup",)):
        health("--url", url, *args)
    assert server.paths == ["/livez", "/readyz", "/startupz"]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_address_is_that_of_the_gateway(
    server: Server, host: str, tmp_path: Path
) -> None:
    """It comes from the environment or from the file; all addresses means loopback."""
    listen = f"{host}:{server.server_port}"
    assert health(GATEWAY_PROBES_LISTEN=listen).exit_code == 0
    path = tmp_path / "routes.yaml"
    path.write_text(
        f"version: 1\ngateway: {{probes: {{listen: '{listen}'}}}}\n", encoding="utf-8"
    )
    assert health("-c", str(path)).exit_code == 0
    assert len(server.paths) == 2


def test_without_an_answer_it_fails(tmp_path: Path) -> None:
    """It names the address, or the key that isn't set."""
    (port,) = free_ports(1)
    done = health("--url", f"http://127.0.0.1:{port}")
    assert done.exit_code == 1
    assert f"http://127.0.0.1:{port} doesn't answer: Connection refused" in done.output
    path = tmp_path / "routes.yaml"
    path.write_text("version: 1\n", encoding="utf-8")
    done = health("-c", str(path))
    assert done.exit_code == 1
    assert "the file has no gateway.probes.listen" in done.output
    for url in ("https://a", "127.0.0.1:1", "http://"):
        done = health("--url", url)
        assert done.exit_code == 1
        assert "expected a URL such as" in done.output
