"""The `gateway` command: output, exit codes and signals."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from faults import FaultUpstream, Peer, free_ports, until
from processes import (
    DEADLINE_S,
    GATEWAY,
    children,
    command,
    has_ended,
    serving,
    until_refused,
)
from wire import ask, connect, request

from gateway import __version__, settings
from gateway.cli import main
from gateway.cli.admin_client import AdminAddress, post
from gateway.cli.options import chosen_listen
from gateway.dev.core import ThreadedCore

SAMPLE = Path(__file__).parents[2] / "config" / "routes.yaml"
COMMANDS = (
    *("serve", "check", "doctor", "health", "status", "stop", "reload", "upgrade"),
    *("routes", "explain", "diff", "test", "schema", "core", "dev", "sessions"),
    *("keygen", "openapi", "audit", "front", "access"),
    "aws",
)

GOOD = """\
version: 1
gateway: {listen: "${LISTEN:-127.0.0.1:8000}"}
supertokens: {connection_uri: "${CORE:-http://127.0.0.1:3567}"}
services:
  slow: {targets: ["${UPSTREAM:-http://127.0.0.1:9001}"]}
routes:
  - {path: /slow, service: slow, protected: false}
  - {path: /a/path/that/goes/on/and/on/and/is/not/to/be/cut/anywhere, service: slow}
"""


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "routes.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


# --- help ------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help_has_a_text_within_80_columns(command: tuple[str, ...], flag: str) -> None:
    """Each command's help begins with a sentence, in lines of up to 80 columns."""
    done = invoke(*command, flag)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith("Usage: ")
    assert re.fullmatch(r"  [A-Z].*\.", lines[2]), lines[2]
    assert all(len(line) <= 80 for line in lines)
    assert "Traceback" not in done.output


def test_help_lists_every_command_with_its_text() -> None:
    """`gateway --help` lists each command with a text."""
    lines = invoke("--help").output.splitlines()
    listed = dict(
        re.fullmatch(r"  (\S+) +(.*)", line).group(1, 2)  # type: ignore[union-attr, misc] # fails unless it matches; two groups
        for line in lines[lines.index("Commands:") + 1 :]
    )
    assert sorted(listed) == sorted(COMMANDS)
    assert all(listed.values())


def test_development_commands_say_so() -> None:
    """`dev` and `core` state that they are not for production."""
    for name in ("core", "dev"):
        text = " ".join(invoke(name, "--help").output.split())
        assert "for development" in text.lower()


def test_version() -> None:
    """`--version` prints one line with name and version."""
    done = invoke("--version")
    assert (done.exit_code, done.output) == (0, f"gateway, version {__version__}\n")


@pytest.mark.parametrize("args", [("nothing",), ("serve", "--no"), ("check", "x")])
def test_wrong_command_line_is_2(args: tuple[str, ...]) -> None:
    """A wrong command line is exit code 2, with the usage on standard error."""
    done = invoke(*args)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr


# --- check, routes, schema -------------------------------------------------------


def test_check_of_a_good_file(good: Path) -> None:
    """`check` of a good file prints the number of routes: exit code 0."""
    done = invoke("check", "-c", str(good))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{good}: 2 routes, no problem\n"


ROUTE = 'version: 1\nroutes:\n  - {path: /a, upstream: "http://x:1"'
BAD = {
    "not YAML": (
        "version: 1\nroutes: [\n",
        "3:1: this isn't YAML",
        "Check the indentation, the brackets",
    ),
    "tab": ("version: 1\ngateway:\n\tlisten: x\n", "3:1: tabs", "Use spaces"),
    "same key twice": (
        "version: 1\nroutes: []\nroutes: []\n",
        "3:1: routes: the key 'routes' is on line 2",
        "Remove one",
    ),
    "misspelt key": (
        "version: 1\ngateway:\n  lisen: x\n",
        "3:3: gateway.lisen: unknown key",
        "Did you mean 'listen'?",
    ),
    "missing key": (
        "routes: []\n",
        "1:1: the key 'version' is missing",
        "Write version: 1",
    ),
    "wrong type": (
        f"{ROUTE}, protected: maybe}}\n",
        "3:51: routes[0].protected: expected",
        "true, false or optional",
    ),
    "unset variable": (
        "version: 1\nsupertokens:\n  api_key: ${NOT_SET_ANYWHERE}\n",
        "3:12: supertokens.api_key: the environment variable",
        "Set it, or write ${NOT_SET_ANYWHERE:-default}",
    ),
    "unknown service": (
        """\
version: 1
services: {orders: {targets: ["http://x:1"]}}
routes:
  - {path: /a, service: order}
""",
        "4:25: routes[0].service: there is no service",
        "Did you mean 'orders'?",
    ),
    "route that never matches": (
        f'{ROUTE}}}\n  - {{path: /a, upstream: "http://y:1"}}\n',
        "4:5: routes[1]: this route can never match",
        "(see routes[0], line 3)",
    ),
    "bad path": (
        'version: 1\nroutes:\n  - {path: a/b, upstream: "http://x:1"}\n',
        "3:12: routes[0].path: a path begins with /",
        "Write / before it",
    ),
    "bad URL": (
        'version: 1\nroutes:\n  - {path: /a, upstream: "ftp://x"}\n',
        "3:26: routes[0].upstream: expected http://host:port",
        "Services are reached over http:// or https://",
    ),
    "port for an address": (
        'version: 1\ngateway: {listen: "8000"}\n',
        "2:19: gateway.listen: expected host:port, such as 127.0.0.1:8000",
        "Write 127.0.0.1: before the port, or 0.0.0.0: for all",
    ),
    "bad network": (
        "version: 1\ngateway: {trusted_proxies: [10.0.0.1/8]}\n",
        "2:29: gateway.trusted_proxies[0]: ",
        "Write 10.0.0.0/8",
    ),
    "role on a public route": (
        f"{ROUTE}, protected: false, require: {{roles: {{any: [a]}}}}}}\n",
        "3:67: routes[0].require: nothing can be required",
        "Set protected: true",
    ),
    "the core as an upstream": (
        'version: 1\nroutes:\n  - {path: /a, upstream: "http://localhost:3567"}\n',
        "3:26: routes[0].upstream: this is the SuperTokens core",
        "clients could create sessions",
    ),
}


@pytest.mark.parametrize("command", ["check", "routes", "serve"])
@pytest.mark.parametrize(("text", "problem", "remedy"), BAD.values(), ids=BAD)
def test_bad_file_is_reported_in_one_line(
    tmp_path: Path, command: str, text: str, problem: str, remedy: str
) -> None:
    """A problem is `file:line:column: path: problem` with a remedy: exit code 1."""
    path = tmp_path / "routes.yaml"
    path.write_text(text, encoding="utf-8")
    done = invoke(command, "-c", str(path))
    assert (done.exit_code, done.stdout) == (1, "")
    line, count = done.stderr.splitlines()
    assert line.startswith(f"{path}:{problem}")
    assert remedy in line
    assert count == f"1 problem in {path}"


def test_every_problem_is_reported(tmp_path: Path) -> None:
    """All problems are reported together, in the order of the file."""
    path = tmp_path / "routes.yaml"
    path.write_text("version: 3\ngateway: {lisen: x}\nroutes: [{path: a}]\n")
    done = invoke("check", "-c", str(path))
    *lines, count = done.stderr.splitlines()
    places = [tuple(map(int, line.split(":")[1:3])) for line in lines]
    assert len(places) >= 3
    assert places == sorted(places)
    assert count == f"{len(places)} problems in {path}"


def test_file_that_isnt_there(tmp_path: Path) -> None:
    """A missing file is reported as a problem at 1:1: exit code 1."""
    done = invoke("check", "-c", str(tmp_path / "none.yaml"))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0].endswith(
        "none.yaml:1:1: the file can't be read: No such file or directory"
    )


def test_warning_is_no_problem(tmp_path: Path) -> None:
    """A warning is printed, and the exit code is 0."""
    path = tmp_path / "routes.yaml"
    path.write_text(
        'version: 1\nservices: {unused: {targets: ["http://x:1"]}}\nroutes: []\n'
    )
    done = invoke("check", "-c", str(path))
    assert done.exit_code == 0
    assert done.stderr.startswith(f"warning: {path}:2:")


def test_secret_of_a_bad_file_isnt_repeated(tmp_path: Path) -> None:
    """A value isn't repeated in messages, because more people read logs than files."""
    path = tmp_path / "routes.yaml"
    path.write_text(
        "version: 1\nsupertokens:\n  api_key: [s3cret]\n  anti_csrf: s3cret\n"
        "  connection_uri: 'http://s3cret@x'\n  s3cret: {\n"
    )
    done = invoke("check", "-c", str(path))
    assert done.exit_code == 1
    assert "s3cret" not in done.output.replace("'s3cret'", "")


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "pipe"])
def test_colours_are_for_terminals(tmp_path: Path, is_terminal: bool) -> None:
    """Messages have colours on a terminal, and none in a pipe."""
    path = tmp_path / "routes.yaml"
    path.write_text("version: 2\n")
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    with closing(os.fdopen(ours, "rb", buffering=0)) as reader:
        done = subprocess.run(
            [GATEWAY, "check", "-c", path],
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            check=False,
        )
        output = reader.read(65536)
        os.close(theirs)
    assert done.returncode == 1
    assert b"version: expected 1" in output
    assert (b"\x1b[" in output) is is_terminal


def test_routes_prints_the_table_in_matching_order(good: Path) -> None:
    """`routes` prints the longest path first, and cuts nothing without a terminal."""
    done = invoke("routes", "-c", str(good))
    assert done.exit_code == 0
    rows = [line for line in done.stdout.splitlines() if "http://" in line]
    assert len(rows) == 2
    assert "/a/path/that/goes/on/and/on/and/is/not/to/be/cut/anywhere" in rows[0]
    assert "required" in rows[0]
    assert "public" in rows[1]
    assert "…" not in done.stdout


def test_routes_wraps_at_the_terminal_s_width(good: Path) -> None:
    """On a terminal, long paths are wrapped instead of being cut."""
    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "rb", buffering=0)) as reader:
        subprocess.run(
            [GATEWAY, "routes", "-c", good],
            stdout=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
            check=True,
        )
        output = reader.read(65536).decode()
        os.close(theirs)
    assert "…" not in output
    assert all(len(line) <= 81 for line in re.sub("\x1b.*?m", "", output).split("\n"))


def test_schema_is_a_json_schema() -> None:
    """`schema` prints JSON with all sections, which refuses other keys."""
    done = invoke("schema")
    assert done.exit_code == 0
    schema = json.loads(done.stdout)
    sections = {"gateway", "supertokens", "cors", "defaults", "services", "routes"}
    assert {"version", *sections} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


# --- processes ---------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port that something else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class HeldUpstream:
    """An upstream's behaviour: answers a request when `release` is set."""

    def __init__(self) -> None:
        self.received = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        self.received.set()
        await self.release.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
async def test_serve_lets_requests_finish(
    good: Path,
    st_core: ThreadedCore,
    upstream: FaultUpstream,
    number: signal.Signals,
) -> None:
    """A signal stops new connections; requests under way finish; exit code 0."""
    upstream.behaviour = held = HeldUpstream()
    environ = {
        "LISTEN": "127.0.0.1:0",
        "CORE": st_core.url,
        "UPSTREAM": upstream.url,
    }
    arguments = ("serve", "-c", good, "--log-format", "json")
    async with command(*arguments, cwd=good.parent, environ=environ) as gateway:
        port = await serving(gateway)
        async with connect(port) as wire:
            await wire.send(request("GET", "/slow?secret"))
            await held.received.wait()
            gateway.signal(number)
            await until_refused(port)
            held.release.set()
            reply = await wire.reply()
            assert (reply.status, reply.body) == (200, b"ok")
        assert await gateway.ended() == 0
    (line,) = gateway.out.splitlines()
    assert (json.loads(line)["path"], json.loads(line)["status"]) == ("/slow", 200)
    assert b"Traceback" not in gateway.err
    events = [json.loads(line)["event"] for line in gateway.err.splitlines()]
    assert events == ["ready", "shutdown"]


async def test_serve_ends_at_once_at_the_second_signal(
    good: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """A second signal ends the process without waiting for requests."""
    upstream.behaviour = held = HeldUpstream()
    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url}
    arguments = ("serve", "-c", good, "--listen", "127.0.0.1:0")
    async with command(*arguments, cwd=good.parent, environ=environ) as gateway:
        port = await serving(gateway)
        async with connect(port) as wire:
            await wire.send(request("GET", "/slow"))
            await held.received.wait()
            gateway.signal(signal.SIGINT)
            await until_refused(port)
            gateway.signal(signal.SIGINT)
            assert await gateway.ended() == 130
    assert b"Traceback" not in gateway.err


@pytest.mark.parametrize(
    "arguments",
    [("serve", "--listen"), ("core", "--database", ":memory:", "--port")],
    ids=["serve", "core"],
)
async def test_port_in_use_is_one_line(
    good: Path, taken: int, arguments: tuple[str, ...]
) -> None:
    """A port in use is one line with the port on standard error: exit code 1."""
    where = f"127.0.0.1:{taken}" if arguments[0] == "serve" else str(taken)
    environ = {"GATEWAY_CONFIG": str(good)}
    async with command(*arguments, where, cwd=good.parent, environ=environ) as failed:
        assert await failed.ended() == 1
    (line,) = failed.err.decode().splitlines()
    assert line.startswith(f"port {taken} is in use on 127.0.0.1: stop what listens")
    assert failed.out == b""


async def test_core_with_an_address_that_is_not_ours(tmp_path: Path) -> None:
    """An address that isn't this machine's is one line with the reason: exit code 1."""
    arguments = ("core", "--database", ":memory:", "--unsafe-bind", "--host", "1.2.3.4")
    async with command(*arguments, cwd=tmp_path) as failed:
        assert await failed.ended() == 1
    (line,) = failed.err.decode().splitlines()
    assert line == "can't listen on 1.2.3.4:3567: Cannot assign requested address"


async def test_serve_with_an_invalid_address(good: Path) -> None:
    """A mistake in `--listen` is one line with the expected form: exit code 1."""
    arguments = ("serve", "-c", good, "--listen", "8000")
    async with command(*arguments, cwd=good.parent) as failed:
        assert await failed.ended() == 1
    (line,) = failed.err.decode().splitlines()
    assert line.startswith("can't listen on 8000: expected host:port, such as ")


@pytest.mark.parametrize(
    ("variable", "option", "used"),
    [("8000", (), "8000"), ("8000", ("--listen", "9000"), "9000")],
)
async def test_serve_listens_where_the_environment_says(
    good: Path, variable: str, option: tuple[str, ...], used: str
) -> None:
    """GATEWAY_LISTEN overrides the file, and `--listen` overrides both."""
    environ = {"GATEWAY_LISTEN": variable}
    arguments = ("serve", "-c", good)
    async with command(*arguments, *option, cwd=good.parent, environ=environ) as failed:
        assert await failed.ended() == 1
    assert failed.err.decode().startswith(f"can't listen on {used}: expected host:port")


def test_the_environment_does_not_replace_tls(good: Path) -> None:
    """GATEWAY_LISTEN, which the image sets, doesn't serve in clear what has TLS."""
    listen = "{address: '127.0.0.1:0', tls: {certificates: [{cert: a, key: b}]}}"
    good.write_text(
        good.read_text().replace('"${LISTEN:-127.0.0.1:8000}"', f"[{listen}]")
    )
    listens: list[str | None] = []

    @click.command()
    @click.option("--listen", envvar="GATEWAY_LISTEN")
    def choose(listen: str | None) -> None:
        config = settings.load(good, {}).config.gateway
        listens.append(chosen_listen(listen, config))

    for arguments in ([], ["--listen", "127.0.0.1:1"]):
        CliRunner().invoke(
            choose,
            arguments,
            env={"GATEWAY_LISTEN": "0.0.0.0:8000"},
            catch_exceptions=False,
        )
    assert listens == [None, "127.0.0.1:1"]


async def test_core_runs_alone(tmp_path: Path) -> None:
    """`core` states that it is for development, answers, and stops on SIGTERM.

    The directory of its file is private. Options change the core's settings.
    """
    arguments = ("core", "--port", "0", "--database", "kept/core.sqlite")
    life = ("--access-token-validity", "77", "--access-token-validity-jitter", "0")
    async with command(*arguments, *life, cwd=tmp_path) as core:
        url = await core.until_said(rb"core on http://127\.0\.0\.1:(\d+)")
        assert b"for development and tests only" in core.err
        hello = await ask(int(url[1]), "GET", "/hello")
        assert hello.status == 200
        body = (
            b'{"userId":"u","userDataInJWT":{},"userDataInDatabase":{},'
            b'"enableAntiCsrf":false}'
        )
        made = await ask(int(url[1]), "POST", "/recipe/session", body=body)
        token = made.json()["accessToken"]
        assert token["expiry"] - token["createdTime"] == 77_000
        assert (tmp_path / "kept").stat().st_mode & 0o077 == 0
        core.signal(signal.SIGTERM)
        assert await core.ended() == 0
    assert b"Traceback" not in core.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com"])
async def test_core_stays_on_loopback(tmp_path: Path, host: str) -> None:
    """`core` trusts its callers, so it leaves loopback only with `--unsafe-bind`."""
    arguments = ("core", "--port", "0", "--database", ":memory:", "--host", host)
    async with command(*arguments, cwd=tmp_path) as core:
        assert await core.ended() == 1
    (line,) = core.err.decode().splitlines()
    assert "--unsafe-bind" in line
    if host == "0.0.0.0":
        async with command(*arguments, "--unsafe-bind", cwd=tmp_path) as core:
            await core.until_said(rb"core on http://0\.0\.0\.0:\d+")
            core.signal(signal.SIGINT)
            assert await core.ended() == 0


PORTS = ("GATEWAY", "CORE", "CATALOG", "ORDERS", "WHOAMI", "PAGE")


@pytest.fixture
def ports() -> dict[str, str]:
    """Return six free ports for `gateway dev`."""
    names = [f"{name}_PORT" for name in PORTS]
    return dict(zip(names, map(str, free_ports(len(names))), strict=True))


async def test_dev_runs_all_services(tmp_path: Path, ports: dict[str, str]) -> None:
    """`dev` prints the gateway's URL, serves, and SIGINT leaves nothing listening."""
    async with command("dev", "-c", SAMPLE, cwd=tmp_path, environ=ports) as dev:
        await dev.until_said(rb"Ctrl-C stops all of it")
        gateway = int(ports["GATEWAY_PORT"])
        assert f"http://localhost:{gateway}".encode() in dev.out
        host = f"localhost:{gateway}"
        assert (await ask(gateway, "GET", "/whoami", host=host)).status == 401
        assert (await ask(gateway, "GET", "/catalog", host=host)).status == 200
        page = await ask(gateway, "GET", "/", host=host)
        assert (page.status, b"<html" in page.body) == (200, True)
        dev.signal(signal.SIGINT)
        assert await dev.ended() == 0
    assert dev.out.splitlines()[-1] == b"stopped"
    assert b"Traceback" not in dev.err
    for port in ports.values():
        with pytest.raises(ConnectionRefusedError):
            await ask(int(port), "GET", "/")


@pytest.mark.parametrize("name", ["GATEWAY_PORT", "CORE_PORT", "WHOAMI_PORT"])
async def test_dev_names_the_port_in_use(
    tmp_path: Path, ports: dict[str, str], taken: int, name: str
) -> None:
    """A port in use is one line with the port and its variable: exit code 1."""
    environ = {**ports, name: str(taken)}
    async with command("dev", "-c", SAMPLE, cwd=tmp_path, environ=environ) as dev:
        assert await dev.ended() == 1
    (line,) = dev.err.decode().splitlines()
    assert str(taken) in line
    assert name in line


async def test_dev_runs_the_gateway_of_production(
    tmp_path: Path, ports: dict[str, str]
) -> None:
    """A changed file is loaded, and the admin listener answers; both end with `dev`."""
    path = tmp_path / "routes.yaml"
    path.write_text(SAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    port = int(ports["GATEWAY_PORT"])
    # A short path, as that of a socket must be.
    with tempfile.TemporaryDirectory() as folder:
        admin = Path(folder) / ".gateway" / f"admin-{port}.sock"
        async with command("dev", "-c", path, cwd=Path(folder), environ=ports) as dev:
            await dev.until_said(rb"curl --unix-socket [^\n]*sock")
            assert stat.S_IMODE(admin.stat().st_mode) == 0o600
            text = path.read_text(encoding="utf-8")
            new = "routes:\n  - {path: /new, respond: {status: 204}, protected: false}"
            path.write_text(text.replace("\nroutes:", f"\n{new}"), encoding="utf-8")
            status, _ = await asyncio.to_thread(
                post, AdminAddress(f"unix:{admin}", None), "/reload", {}
            )
            assert status == 200
            async with asyncio.timeout(DEADLINE_S):
                # The old worker accepts for another moment.
                while (await ask(port, "GET", "/new")).status != 204:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            dev.signal(signal.SIGTERM)
            assert await dev.ended() == 0
        assert not admin.exists()


async def test_nothing_outlives_a_killed_dev(
    tmp_path: Path, ports: dict[str, str]
) -> None:
    """The gateway and the services end, though nobody has told them to."""
    async with command("dev", "-c", SAMPLE, cwd=tmp_path, environ=ports) as dev:
        await dev.until_said(rb"Ctrl-C stops all of it")
        family = children(dev.child.pid)
        assert len(family) == 2
        dev.signal(signal.SIGKILL)
        await dev.child.wait()
        await until(lambda: all(map(has_ended, family)))
        await dev.ended()
    for port in ports.values():
        with pytest.raises(ConnectionRefusedError):
            await ask(int(port), "GET", "/")


async def test_dev_with_a_bad_file(tmp_path: Path, ports: dict[str, str]) -> None:
    """`dev` reports problems as `check` does, and leaves no process running."""
    path = tmp_path / "routes.yaml"
    path.write_text("version: 2\n")
    async with command("dev", "-c", path, cwd=tmp_path, environ=ports) as dev:
        assert await dev.ended() == 1
    assert dev.err.decode().splitlines() == [
        f"{path}:1:10: version: expected 1",
        f"1 problem in {path}",
    ]
    for port in ports.values():
        with pytest.raises(ConnectionRefusedError):
            await ask(int(port), "GET", "/")


# --- check: formats -----------------------------------------------------------------

DOUBTFUL = """\
version: 1
supertokens: {}
services:
  lonely: {targets: ["http://l"]}
"""


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        (GOOD, (), 0),
        (GOOD, ("--strict",), 0),
        (DOUBTFUL, (), 0),
        (DOUBTFUL, ("--strict",), 1),
        (GOOD + "  - {path: x, service: slow}\n", (), 1),
    ],
)
def test_check_exits_with_1_for_errors_and_if_asked_for_warnings(
    tmp_path: Path, text: str, options: tuple[str, ...], code: int
) -> None:
    """`--strict` makes warnings count; without it they are printed only."""
    path = tmp_path / "routes.yaml"
    path.write_text(text, encoding="utf-8")
    assert invoke("check", "-c", str(path), *options).exit_code == code


def test_check_for_programs(tmp_path: Path) -> None:
    """`--format json` prints an object a line, `github` a command; both to stdout."""
    path = tmp_path / "a,b.yaml"
    path.write_text(DOUBTFUL, encoding="utf-8")
    done = invoke("check", "-c", str(path), "--format", "json")
    assert json.loads(done.stdout) == {
        "severity": "warning",
        "file": str(path),
        "line": 4,
        "column": 11,
        "path": "services.lonely",
        "message": "no route uses this service",
        "hint": "Remove it, or add a route",
        "see": "",
    }
    path.write_text("version: 1\nroutes: [{path: '%'}]\n", encoding="utf-8")
    done = invoke("check", "-c", str(path), "--format", "github")
    place = str(path).replace(",", "%2C")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"::error file={place},line=2,col=17::routes[0].path: ")
    assert (done.exit_code, done.stderr) == (1, "")


def test_all_mistakes_in_one_pass(tmp_path: Path) -> None:
    """A mistake that only a whole file shows isn't hidden by one in another value."""
    path = tmp_path / "routes.yaml"
    path.write_text(
        "version: 1\n"
        "gateway: {trusted_proxies: [x], drain_timeout: x}\n"
        "supertokens: {recipes: {passwordless: {}}}\n"
        "routes:\n"
        "  - {path: b, upstream: 'http://b'}\n"
        "  - {path: /c, upstream: 'http://b', require: {mfa: true}}\n"
        "  - {path: /d, upstream: 'http://b', protected: false, require: {mfa: true}}\n"
        "  - {path: /auth/x, upstream: 'http://b'}\n",
        encoding="utf-8",
    )
    done = invoke("check", "-c", str(path), "--format", "json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["path"] for one in found] == [
        "gateway.trusted_proxies[0]",
        "gateway.drain_timeout",
        "supertokens.recipes.passwordless",
        "supertokens.recipes.passwordless",
        "routes[0].path",
        "routes[1].require.mfa",
        "routes[2].require",
        "routes[3]",
    ]
