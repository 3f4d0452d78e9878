"""`make dev`: its ports, its outbox, and how it starts and stops all processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession
from faults import free_ports

from gateway.dev import runner
from gateway.dev.gateway_process import GatewayEnded
from gateway.dev.outbox import Outbox
from gateway.dev.ports import (
    BadPort,
    PortInUse,
    Ports,
    check_free,
    variable,
    with_free_ports,
)
from gateway.dev.runner import gateway_environ, run
from gateway.settings import load

ROOT = Path(__file__).parents[2]
NAMES = ("gateway", "core", "catalog", "orders", "whoami", "page")


@contextmanager
def listener(port: int = 0) -> Iterator[int]:
    """Listen on loopback for the block; yields the port."""
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def environ() -> dict[str, str]:
    """Set the six port variables to free ports, so that runs do not collide."""
    ports = map(str, free_ports(len(NAMES)))
    return dict(zip(map(variable, NAMES), ports, strict=True))


# --- ports ------------------------------------------------------------------


def test_ports_have_defaults_and_can_be_changed() -> None:
    """A port whose variable is unset or empty has its default."""
    ports = Ports.of({"GATEWAY_PORT": "8080", "CORE_PORT": "", "PORT": "1"})
    assert dict(ports) == {
        "gateway": 8080,
        "core": 3567,
        "catalog": 9001,
        "orders": 9002,
        "whoami": 9003,
        "page": 9004,
    }


@pytest.mark.parametrize("text", ["0", "65536", "-1", "80a", "²", " 80", "9002"])
def test_bad_port_is_an_error(text: str) -> None:
    """Not a number, out of range or used twice: the error names the variable."""
    with pytest.raises(BadPort, match=r"(?i)whoami"):
        Ports.of({"WHOAMI_PORT": text})


def test_port_in_use_names_its_purpose(environ: dict[str, str]) -> None:
    """The error has the port, its purpose, and the variable that changes it."""
    ports = Ports.of(environ)
    check_free(ports)
    with (
        listener(ports.orders),
        pytest.raises(PortInUse, match=rf"{ports.orders} \(orders\).*ORDERS_PORT="),
    ):
        check_free(ports)


def test_defaults_in_use_are_replaced() -> None:
    """A second run needs `GATEWAY_PORT` only; ports that are set are kept."""
    with listener() as busy, listener() as other:
        ports = Ports(catalog=busy, orders=other, core=free_ports(1)[0])
        found = with_free_ports(ports, {"ORDERS_PORT": str(other)})
        assert found.catalog not in {busy, other}
        assert (found.orders, found.core) == (other, ports.core)
        taken = with_free_ports(Ports(gateway=busy), {})
        assert taken.gateway == busy


# --- the route table's variables -----------------------------------------------


def test_sample_reads_what_the_runner_sets() -> None:
    """The sample's variables and defaults are those that `make dev` sets."""
    text = (ROOT / "config" / "routes.yaml").read_text(encoding="utf-8")
    assert dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text)) == gateway_environ(
        {}, Ports()
    )


def test_sample_is_valid() -> None:
    """config/routes.yaml loads, and listens on the configured gateway port."""
    environ = gateway_environ({}, Ports(gateway=8123))
    config = load(ROOT / "config" / "routes.yaml", environ).config
    assert [listen.address for listen in config.gateway.listen] == ["127.0.0.1:8123"]
    assert config.supertokens.api_key is None


# --- the outbox -------------------------------------------------------------


async def test_only_the_owner_can_read_mail(tmp_path: Path) -> None:
    """A link opens an account: the folder is 0700 and files 0600, whatever the umask.

    One line for each mail is printed; file names don't contain the address.
    """
    lines: list[str] = []
    folder = tmp_path / "outbox"
    folder.mkdir(mode=0o755)
    outbox = Outbox(folder, lines.append)
    before = os.umask(0)
    try:
        for link in ("http://localhost/1", "http://localhost/2"):
            await outbox.send("password_reset", "ann@example.com", link)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    mails = sorted(folder.iterdir())
    assert [stat.S_IMODE(mail.stat().st_mode) for mail in mails] == [0o600, 0o600]
    for number, (mail, line) in enumerate(zip(mails, lines, strict=True), 1):
        text = mail.read_text(encoding="utf-8")
        assert "To: ann@example.com\n" in text
        assert text.endswith(f"\n\nhttp://localhost/{number}\n")
        assert f"http://localhost/{number}" in line
        assert "ann" not in mail.name


# --- the runner -------------------------------------------------------------


class FakeGateway:
    """Replaces the gateway: is ready at once, and records its environment and end."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.environ: Mapping[str, str] = {}
        self.admin: Path | None = None
        self.started = asyncio.Event()
        self.stopped = False

    async def __call__(
        self,
        config: Sequence[Path],
        environ: Mapping[str, str],
        *,
        outbox: Path,
        admin: Path | None,
        ready: Callable[[], None],
    ) -> None:
        self.environ, self.admin = environ, admin
        if self.fails:
            raise self.fails
        ready()
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped = True


async def test_everything_runs_until_ctrl_c(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Core and demo services answer, and the banner lists their ports.

    After SIGINT the exit code is 0, the gateway has stopped, and all ports are free.
    """
    output: list[str] = []
    gateway = FakeGateway()
    state = tmp_path / "state"
    running = asyncio.create_task(
        run([Path("routes.yaml")], environ, gateway, state=state, say=output.append)
    )
    async with asyncio.timeout(30):
        await gateway.started.wait()
        ports = Ports.of(environ)
        async with ClientSession() as client:
            for url in (
                gateway.environ["SUPERTOKENS_URI"] + "/hello",
                gateway.environ["CATALOG_URL"] + "/catalog",
                gateway.environ["ORDERS_URL"] + "/orders/all",
                gateway.environ["WHOAMI_URL"] + "/",
                gateway.environ["PAGE_URL"] + "/",
            ):
                async with client.get(url) as reply:
                    assert reply.status == 200, url
        os.kill(os.getpid(), signal.SIGINT)
        assert await running == 0
    assert gateway.stopped
    assert all(str(port) in output[0] for _, port in ports)
    assert output[0].count("\n  curl ") == 3 + (gateway.admin is not None)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    check_free(ports)


async def test_port_in_use_is_one_line_and_1(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """If a port is in use, nothing is started: one error line and exit code 1."""
    errors: list[str] = []
    gateway = FakeGateway()
    with listener(int(environ["PAGE_PORT"])) as port:
        code = await run(
            [Path("routes.yaml")],
            environ,
            gateway,
            state=tmp_path / "state",
            complain=errors.append,
        )
    assert code == 1
    (line,) = errors
    assert line.startswith(f"error: port {port} (page) is in use")
    assert "\n" not in line
    assert not gateway.started.is_set()
    assert not (tmp_path / "state").exists()


async def test_failure_of_the_gateway_stops_the_rest(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """The caller gets the gateway's error, and every port is free again."""
    failing = FakeGateway(fails=ValueError("bad route table"))
    with pytest.raises(ValueError, match="bad route table"):
        await run([Path("routes.yaml")], environ, failing, state=tmp_path)
    check_free(Ports.of(environ))


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (1, 1, []),
        (70, 70, []),
        (-9, 1, ["error: the gateway has ended (exit code -9)"]),
    ],
)
async def test_a_gateway_that_ends_by_itself(
    environ: dict[str, str], tmp_path: Path, ended: int, code: int, said: list[str]
) -> None:
    """Its code is that of `gateway dev`; it has said why, unless it was killed."""
    errors: list[str] = []
    failing = FakeGateway(fails=GatewayEnded(ended))
    found = await run(
        [Path("routes.yaml")], environ, failing, state=tmp_path, complain=errors.append
    )
    assert (found, errors) == (code, said)
    check_free(Ports.of(environ))


async def test_the_core_gets_its_settings(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Settings reach the core in the child process."""
    gateway = FakeGateway()
    running = asyncio.create_task(
        run(
            [Path("routes.yaml")],
            environ,
            gateway,
            core_settings={"access_token_validity_s": 77, "access_token_jitter": 0.0},
            state=tmp_path,
        )
    )
    body = {
        "userId": "u",
        "userDataInJWT": {},
        "userDataInDatabase": {},
        "enableAntiCsrf": False,
    }
    async with asyncio.timeout(30), ClientSession() as client:
        await gateway.started.wait()
        url = f"http://127.0.0.1:{environ['CORE_PORT']}/recipe/session"
        async with client.post(url, json=body) as reply:
            token = (await reply.json())["accessToken"]
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert token["expiry"] - token["createdTime"] == 77_000


async def test_core_with_bad_settings_is_one_line_and_1(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Settings that the core refuses end everything before the gateway is started."""
    errors: list[str] = []
    gateway = FakeGateway()
    code = await run(
        [Path("routes.yaml")],
        environ,
        gateway,
        core_settings={"access_token_validity_s": 0},
        state=tmp_path,
        complain=errors.append,
    )
    assert code == 1
    assert errors == ["error: access_token_validity_s must be at least 1, not 0"]
    assert not gateway.started.is_set()


async def test_unusable_database_is_one_line_and_1(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """The error line names the database file, and the gateway isn't started."""
    errors: list[str] = []
    (tmp_path / "core.sqlite").write_bytes(b"this is not a database" * 100)
    gateway = FakeGateway()
    code = await run(
        [Path("routes.yaml")],
        environ,
        gateway,
        state=tmp_path,
        complain=errors.append,
    )
    assert code == 1
    (line,) = errors
    assert "core.sqlite" in line
    assert not gateway.started.is_set()


@pytest.mark.parametrize(
    ("script", "start_s", "message"),
    [
        ("exit 3", 30.0, "ended while they were starting"),
        ("echo '[]'; exit 3", 30.0, "ended while they were starting"),
        ("exec sleep 60", 0.1, "didn't start within 0.1 s"),
    ],
    ids=["ends", "prints something else", "hangs"],
)
async def test_child_that_never_gets_ready(
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    start_s: float,
    message: str,
) -> None:
    """One error line and exit code 1; a child that hangs is killed after a timeout."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(runner, "_CHILD_START_S", start_s)
    monkeypatch.setattr(runner, "_CHILD_STOP_S", 0.1)
    errors: list[str] = []
    gateway = FakeGateway()
    code = await run(
        [Path("routes.yaml")],
        environ,
        gateway,
        state=tmp_path,
        complain=errors.append,
    )
    assert code == 1
    (line,) = errors
    assert message in line
    assert not gateway.started.is_set()


async def test_cancelling_the_runner_stops_everything(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """A caller that cancels it gets CancelledError; gateway and services stop."""
    gateway = FakeGateway()
    running = asyncio.create_task(
        run([Path("routes.yaml")], environ, gateway, state=tmp_path)
    )
    async with asyncio.timeout(30):
        await gateway.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert gateway.stopped
    check_free(Ports.of(environ))


async def test_gateway_stops_when_the_services_die(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is 1, and one line has the exit code of the services."""
    children: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def record(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        child = await start(*args, **kwargs)
        children.append(child)
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", record)
    errors: list[str] = []
    gateway = FakeGateway()
    running = asyncio.create_task(
        run(
            [Path("routes.yaml")],
            environ,
            gateway,
            state=tmp_path,
            complain=errors.append,
        )
    )
    async with asyncio.timeout(30):
        await gateway.started.wait()
        children[0].kill()
        assert await running == 1
    assert gateway.stopped
    (line,) = errors
    assert "exit code -9" in line


# --- compose.yaml -----------------------------------------------------------


def test_compose_takes_secrets_from_the_environment_only() -> None:
    """.env.example lists each required variable, and the secrets without a value."""
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    required = set(re.findall(r"\$\{([A-Z_]+):\?", compose))
    assert {"POSTGRES_PASSWORD", "SUPERTOKENS_API_KEY"} <= required
    for name in required:
        assert re.search(rf"^{name}=", example, re.MULTILINE), name
    for name in ("POSTGRES_PASSWORD", "SUPERTOKENS_API_KEY", "REDIS_PASSWORD"):
        assert re.search(rf"^{name}=$", example, re.MULTILINE), name


def test_compose_publishes_only_the_gateway_on_loopback() -> None:
    """Core, database and services publish no port."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {
        name: service["ports"]
        for name, service in services.items()
        if "ports" in service
    } == {"gateway": ["127.0.0.1:${GATEWAY_PORT:-8000}:8000"]}
