"""`gateway doctor` as a process: its answer, its exit code, and what it never shows."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from faults import black_hole
from faults import closed_port as another_closed_port
from loopback import serving
from processes import command
from sdk_reset import reset
from tls_rig import DAY, Authority

from gateway.cli import main
from gateway.dev.core import CoreSettings, serve_in_thread

KEY = "a-secret-key-of-20-characters"


@pytest.fixture(scope="module")
def core() -> Iterator[str]:
    """Yield the address of a core that takes one API key."""
    with serve_in_thread(CoreSettings(database=":memory:", api_keys=(KEY,))) as running:
        yield running.url


@dataclass
class Answer:
    """What it found, by check, and all that it said."""

    code: int
    found: dict[str, list[dict[str, str]]]
    output: str

    def severities(self, check: str) -> list[str]:
        return [each["severity"] for each in self.found[check]]

    def texts(self, check: str) -> str:
        return "\n".join(each["text"] for each in self.found[check])


async def doctor(
    folder: Path, core: str, *services: str, key: str = KEY, more: str = "", **env: str
) -> Answer:
    """Run it with a route to a service with the targets *services*."""
    file = folder / "routes.yaml"
    file.write_text(
        "version: 1\n"
        "gateway: {listen: '127.0.0.1:0'}\n"
        "supertokens:\n"
        f"  connection_uri: {core}\n"
        "  api_key: ${CORE_KEY}\n"
        "  api_domain: http://localhost:8000\n"
        f"{more}"
        "services:\n"
        f"  orders: {{targets: {json.dumps(services)}}}\n"
        "routes: [{path: /, service: orders}]\n",
        "utf-8",
    )
    environ = {"CORE_KEY": key, "PYTHONPATH": str(folder), **env}
    args = ("doctor", "-c", file, "--json", "--timeout", "10")
    async with command(*args, cwd=folder, environ=environ) as process:
        code = await process.ended()
    output = (process.out + process.err).decode()
    assert process.out, output
    answer: dict[str, Any] = json.loads(process.out)
    found: dict[str, list[dict[str, str]]] = {}
    for each in answer["checks"]:
        found.setdefault(each["check"], []).append(each)
        assert bool(each["remedy"]) or each["severity"] == "ok", each
    return Answer(code, found, output)


async def test_nothing_fails(core: str, tmp_path: Path) -> None:
    """Each check has an answer, and the API key isn't in it."""
    async with serving() as port:
        answer = await doctor(tmp_path, core, f"http://127.0.0.1:{port}")
    assert set(answer.found) == {
        *("file", "cookies", "modules", "descriptors", "cpus", "memory", "stop", "log"),
        *("listen", "issuer", "trusted_proxies", "core", "core keys", "clock"),
        "service orders",
    }
    assert answer.code == 0
    assert answer.severities("core") == ["ok", "ok"]
    assert answer.severities("core keys") == answer.severities("clock") == ["ok"]
    assert answer.severities("service orders") == ["ok"]
    assert KEY not in answer.output


async def test_a_core_that_refuses_the_key(core: str, tmp_path: Path) -> None:
    """Its keys are fetched all the same, which is why the key must be asked about."""
    wrong = "another-key-of-20-characters"
    async with serving() as port:
        answer = await doctor(tmp_path, core, f"http://127.0.0.1:{port}", key=wrong)
    assert answer.code == 1
    assert answer.severities("core") == ["ok", "fail"]
    assert "it refuses the API key" in answer.texts("core")
    assert answer.severities("core keys") == ["ok"]
    assert wrong not in answer.output


async def test_what_cannot_be_reached(closed_port: int, tmp_path: Path) -> None:
    """No core, and a service with two dead targets: one is old, one is not there."""
    authority = Authority(tmp_path)
    pair = authority.issue("127.0.0.1", ends=-DAY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    core = f"http://127.0.0.1:{closed_port}"
    trust = str(authority.file)
    with another_closed_port() as dead_port:
        dead = f"http://127.0.0.1:{dead_port}"
        async with serving(context=context, is_reached=False) as port:
            old = f"https://127.0.0.1:{port}"
            answer = await doctor(tmp_path, core, dead, old, SSL_CERT_FILE=trust)
    assert answer.code == 1
    assert answer.severities("core") == ["fail"]
    assert "clock" not in answer.found
    assert answer.severities("service orders") == ["fail", "fail"]
    assert f"{dead}: can't connect: Connection refused" in answer.texts(
        "service orders"
    )
    assert "certificate has expired" in answer.texts("service orders")


async def test_a_target_of_several(core: str, closed_port: int, tmp_path: Path) -> None:
    """Another one can do the work: the dead one is a warning."""
    async with serving() as port:
        answer = await doctor(
            tmp_path,
            core,
            f"http://127.0.0.1:{closed_port}",
            f"http://127.0.0.1:{port}",
        )
    assert answer.code == 0
    assert answer.severities("service orders") == ["warn", "ok"]


async def test_what_hangs_is_left_behind(tmp_path: Path) -> None:
    """All peers are asked at the same time, and each for a limited time."""
    async with black_hole() as port, black_hole() as service_port:
        mail = (
            f"  email_delivery: {{host: 127.0.0.1, port: {port}, from_email: a@b.c}}\n"
        )
        file = tmp_path / "routes.yaml"
        file.write_text(
            f"version: 1\nsupertokens:\n  connection_uri: http://127.0.0.1:{port}\n"
            f"{mail}routes:\n- {{path: /, upstream: 'http://127.0.0.1:{service_port}'}}\n",
            "utf-8",
        )
        args = ("doctor", "-c", file, "--timeout", "0.3")
        async with command(*args, cwd=tmp_path) as process:
            assert await process.ended() == 1
    assert process.out.count(b"no answer within 0.3 s") >= 2
    assert b"FAIL  mail" in process.out


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (None, "No module named 'mine'"),
        ("raise RuntimeError('boom')", "boom"),
        ("", "mine has no app_info"),
    ],
)
async def test_a_config_module_that_cannot_be_used(
    source: str | None, text: str, core: str, tmp_path: Path
) -> None:
    """It is imported, as at the start of the gateway."""
    if source is not None:
        (tmp_path / "mine.py").write_text(source, "utf-8")
    more = "  config_module: mine\n"
    answer = await doctor(tmp_path, core, "http://127.0.0.1:1", more=more)
    assert answer.code == 1
    assert answer.severities("modules") == ["fail"]
    assert "core" not in answer.found


def invoke(folder: Path, text: str, *args: str, **environ: str) -> Any:
    file = folder / "routes.yaml"
    file.write_text(text, "utf-8")
    try:
        return CliRunner().invoke(main, ["doctor", "-c", str(file), *args], env=environ)
    finally:
        reset()


def test_a_file_with_mistakes(tmp_path: Path) -> None:
    """Every mistake is a failure, and nothing else is known."""
    done = invoke(tmp_path, "version: 1\nroutes: [{pth: /}]\nnope: ${NOT_SET}\n")
    assert done.exit_code == 1
    assert "FAIL  file" in done.output
    assert "routes.yaml:2:" in done.output
    assert "NOT_SET" in done.output
    assert "core" not in done.output


def test_cookies_that_no_browser_sends(tmp_path: Path) -> None:
    """The same truth as in `gateway check`."""
    text = (
        "version: 1\nsupertokens:\n  connection_uri: http://127.0.0.1:1\n"
        "  api_domain: http://api.one.com\n  website_domain: http://www.two.com\n"
        "  token_transfer_method: cookie\n"
    )
    done = invoke(tmp_path, text)
    assert done.exit_code == 1
    assert "FAIL  cookies" in done.output


def test_options_of_serve(tmp_path: Path) -> None:
    """They replace the file's values, and come from the same variables."""
    text = "version: 1\nsupertokens: {connection_uri: 'http://127.0.0.1:1'}\n"
    done = invoke(
        tmp_path,
        text,
        *("--workers", "400", "--stop-timeout", "10"),
        GATEWAY_LISTEN=f"unix:{tmp_path}/no/a.sock",
        GATEWAY_PROBES_LISTEN="127.0.0.1:0",
    )
    lines = done.output.splitlines()
    (unix,) = [line for line in lines if "/no/a.sock" in line]
    assert unix.startswith("FAIL  listen")
    assert any(line.startswith("OK    listen") for line in lines)
    assert any(line.startswith("WARN  cpus") for line in lines)
    (stop,) = [line for line in lines if "killed after 10 s" in line]
    assert stop.startswith("FAIL  stop")


def test_a_port_in_use(tmp_path: Path) -> None:
    """The gateway may run already, so it is no failure."""
    text = "version: 1\nsupertokens: {connection_uri: 'http://127.0.0.1:1'}\n"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = invoke(tmp_path, text, "--listen", f"127.0.0.1:{port}", container="")
    (line,) = [line for line in done.output.splitlines() if "  listen " in line]
    assert line.startswith("WARN  listen")


def test_a_wrong_command_line(tmp_path: Path) -> None:
    """It exits with 2, and examines nothing."""
    for args in (("--timeout", "0"), ("--workers", "0"), ("--nope",)):
        assert invoke(tmp_path, "version: 1\n", *args).exit_code == 2
