"""`gateway sessions revoke`: its command line, and what it makes of answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

TOKEN = "0123456789abcdef" * 2


class Listener(HTTPServer):
    """Answers every POST with the same, and notes what it got."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"{}")
        self.received: list[tuple[str, str | None, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(
            (self.path, self.headers["Authorization"], json.loads(body))
        )
        status, text = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def revoke(*args: str) -> Result:
    return CliRunner().invoke(main, ["sessions", "revoke", *args])


DONE = b'{"gateway": {"ended": true}, "core": {"ended": true, "sessions": 2}}'
HALF = b'{"gateway": {"ended": true}, "core": {"ended": false, "error": "away\\u001b"}}'


@pytest.mark.parametrize(
    ("answer", "code", "output"),
    [
        (
            (200, DONE),
            0,
            "gateway: all workers refuse it\ncore: 2 session(s) ended\n",
        ),
        ((502, HALF), 1, "gateway: all workers refuse it\ncore: failed: away?\n"),
        ((401, b'{"error": "send it"}'), 1, "refused with 401: send it\n"),
        ((200, b"[]"), 1, "status 200, and not the answer of a gateway\n"),
    ],
)
def test_an_answer_in_words(
    listener: Listener, answer: tuple[int, bytes], code: int, output: str
) -> None:
    """Two lines, and 0 only if both parts worked; control characters are left out."""
    listener.answer = answer
    done = revoke("--admin", listener.url, "--user", "u", "--tenant", "t")
    assert (done.exit_code, done.output) == (code, output)
    assert listener.received == [
        ("/sessions/revoke", None, {"user": "u", "tenant": "t"})
    ]


def test_the_token_is_that_of_the_file(listener: Listener, tmp_path: Path) -> None:
    """Of the option, or of the configuration if the address is, too.

    It isn't sent to another address than the one it is for.
    """
    listener.answer = (200, DONE)
    token, file = tmp_path / "token", tmp_path / "routes.yaml"
    token.write_text(TOKEN)
    token.chmod(0o600)
    file.write_text(
        "version: 1\n"
        f"gateway: {{admin: {{listen: '127.0.0.1:{listener.server_port}',"
        f" token_file: '{token}'}}}}\n"
    )
    configured = ("-c", str(file), "--session", "h")
    assert revoke(*configured).exit_code == 0
    assert revoke(*configured, "--admin", listener.url).exit_code == 0
    assert revoke("--session", "h", "--admin", listener.url, "--token-file", str(token))
    assert [received[1] for received in listener.received] == [
        f"Bearer {TOKEN}",
        None,
        f"Bearer {TOKEN}",
    ]
    token.chmod(0o644)
    refused = revoke("--session", "h", "--admin", "x", "--token-file", str(token))
    assert refused.exit_code == 1
    assert "chmod" in refused.output
    checked = CliRunner().invoke(main, ["check", "-c", str(file)])
    assert checked.exit_code == 1
    assert "gateway.admin.token_file" in checked.output


@pytest.mark.parametrize("file_has_one", [False, True])
def test_the_variable_of_serve_replaces_the_address(
    listener: Listener, tmp_path: Path, file_has_one: bool
) -> None:
    """The gateway listens there, with the token of the file. `--admin` counts more."""
    listener.answer = (200, DONE)
    token, file = tmp_path / "token", tmp_path / "routes.yaml"
    token.write_text(TOKEN)
    token.chmod(0o600)
    listen = "listen: '127.0.0.1:1', " if file_has_one else ""
    file.write_text(
        f"version: 1\ngateway: {{admin: {{{listen}token_file: '{token}'}}}}\n"
    )
    environ = {"GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{listener.server_port}"}
    words = ["sessions", "revoke", "-c", str(file), "--session", "h"]
    done = CliRunner().invoke(main, words, env=environ)
    assert done.exit_code == 0, done.output
    assert [received[1] for received in listener.received] == [f"Bearer {TOKEN}"]
    other = CliRunner().invoke(main, [*words, "--admin", "x"], env=environ)
    assert other.exit_code == 1
    assert len(listener.received) == 1


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ((), 2),
        (("--session", "h", "--user", "u"), 2),
        (("--session", "h", "--tenant", "t"), 2),
        (("--session", "h", "--admin", "ftp://x"), 1),
        (("--session", "h", "--admin", "http://127.0.0.1:1"), 1),
        (("--session", "h", "--admin", "unix:/nowhere/a.sock"), 1),
    ],
)
def test_a_wrong_command_line(args: tuple[str, ...], code: int) -> None:
    """2 if it can't be understood, 1 if nobody answers."""
    assert revoke(*args).exit_code == code
