"""`make dev`: ports, the outbox, and everything started and stopped as one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession
from faults import free_ports

from gateway.dev import runner
from gateway.dev.outbox import Outbox
from gateway.dev.ports import BadPort, PortInUse, Ports, check_free, variable
from gateway.dev.runner import gateway_environ, run
from gateway.settings import load

ROOT = Path(__file__).parents[2]
NAMES = ("gateway", "core", "catalog", "orders", "whoami", "page")


@contextmanager
def listener(port: int = 0) -> Iterator[int]:
    """Listen on loopback for the block; gives the port."""
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def environ() -> dict[str, str]:
    """Name six ports that are free, so that no other run is in the way."""
    ports = map(str, free_ports(len(NAMES)))
    return dict(zip(map(variable, NAMES), ports, strict=True))


# --- ports ------------------------------------------------------------------


def test_ports_have_defaults_and_can_be_moved() -> None:
    """What isn't named, or is empty, stays where the documents say."""
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
def test_bad_port_is_told(text: str) -> None:
    """No number, out of range, or another's: the text names the variable."""
    with pytest.raises(BadPort, match=r"(?i)whoami"):
        Ports.of({"WHOAMI_PORT": text})


def test_port_in_use_names_who_wanted_it(environ: dict[str, str]) -> None:
    """The one line has the port, its purpose and the way round it."""
    ports = Ports.of(environ)
    check_free(ports)
    with (
        listener(ports.orders),
        pytest.raises(PortInUse, match=rf"{ports.orders} \(orders\).*ORDERS_PORT="),
    ):
        check_free(ports)


# --- the route table's variables -----------------------------------------------


def test_sample_reads_what_the_runner_sets() -> None:
    """Moved ports reach the sample; its defaults are where `make dev` starts things."""
    text = (ROOT / "config" / "routes.yaml").read_text(encoding="utf-8")
    assert dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text)) == gateway_environ(
        {}, Ports()
    )


def test_sample_is_valid() -> None:
    """The file that newcomers read and copy has no problem, and listens as told."""
    environ = gateway_environ({}, Ports(gateway=8123))
    config = load(ROOT / "config" / "routes.yaml", environ).config
    assert config.gateway.listen == "127.0.0.1:8123"
    assert config.supertokens.api_key is None


# --- the outbox -------------------------------------------------------------


async def test_mail_is_for_its_owner_only(tmp_path: Path) -> None:
    """The link opens an account: folder 0700, file 0600, whatever umask says."""
    said: list[str] = []
    folder = tmp_path / "outbox"
    folder.mkdir(mode=0o755)
    outbox = Outbox(folder, said.append)
    before = os.umask(0)
    try:
        for link in ("http://localhost/1", "http://localhost/2"):
            await outbox.send("password_reset", "ann@example.com", link)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    mails = sorted(folder.iterdir())
    assert [stat.S_IMODE(mail.stat().st_mode) for mail in mails] == [0o600, 0o600]
    for number, (mail, line) in enumerate(zip(mails, said, strict=True), 1):
        text = mail.read_text(encoding="utf-8")
        assert "To: ann@example.com\n" in text
        assert text.endswith(f"\n\nhttp://localhost/{number}\n")
        assert f"http://localhost/{number}" in line
        assert "ann" not in mail.name


# --- the runner -------------------------------------------------------------


class FakeGateway:
    """Stands in for the gateway: listens at once, and remembers how it went."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.environ: Mapping[str, str] = {}
        self.started = asyncio.Event()
        self.stopped = False

    async def __call__(
        self,
        config: Path,
        environ: Mapping[str, str],
        *,
        outbox: Outbox,
        ready: asyncio.Event,
    ) -> None:
        self.environ = environ
        if self.fails:
            raise self.fails
        ready.set()
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped = True


async def test_everything_runs_until_ctrl_c(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Core and demos answer, the banner says where; SIGINT leaves nothing behind."""
    said: list[str] = []
    gateway = FakeGateway()
    state = tmp_path / "state"
    running = asyncio.create_task(
        run(Path("routes.yaml"), environ, gateway, state=state, say=said.append)
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
    assert all(str(port) in said[0] for _, port in ports)
    assert said[0].count("\n  curl ") == 3
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    check_free(ports)


async def test_port_in_use_is_one_line_and_1(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Nothing is started when something else has a port."""
    complaints: list[str] = []
    gateway = FakeGateway()
    with listener(int(environ["PAGE_PORT"])) as port:
        code = await run(
            Path("routes.yaml"),
            environ,
            gateway,
            state=tmp_path / "state",
            complain=complaints.append,
        )
    assert code == 1
    (line,) = complaints
    assert line.startswith(f"error: port {port} (page) is in use")
    assert "\n" not in line
    assert not gateway.started.is_set()
    assert not (tmp_path / "state").exists()


async def test_failure_of_the_gateway_stops_the_rest(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """The caller gets the gateway's own error, and every port is free again."""
    failing = FakeGateway(fails=ValueError("bad route table"))
    with pytest.raises(ValueError, match="bad route table"):
        await run(Path("routes.yaml"), environ, failing, state=tmp_path)
    check_free(Ports.of(environ))


async def test_unusable_database_is_one_line_and_1(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """What keeps the child from starting is told, and the gateway isn't started."""
    complaints: list[str] = []
    (tmp_path / "core.sqlite").write_bytes(b"this is no database at all" * 100)
    gateway = FakeGateway()
    code = await run(
        Path("routes.yaml"),
        environ,
        gateway,
        state=tmp_path,
        complain=complaints.append,
    )
    assert code == 1
    (line,) = complaints
    assert "core.sqlite" in line
    assert not gateway.started.is_set()


@pytest.mark.parametrize(
    ("script", "start_s", "said"),
    [
        ("exit 3", 30.0, "ended while they were starting"),
        ("echo '[]'; exit 3", 30.0, "ended while they were starting"),
        ("exec sleep 60", 0.1, "didn't start within 0.1 s"),
    ],
    ids=["ends", "says something else", "hangs"],
)
async def test_child_that_never_gets_ready(
    environ: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    start_s: float,
    said: str,
) -> None:
    """It is given up after its time, killed when it must be, and told in one line."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(runner, "_CHILD_START_S", start_s)
    monkeypatch.setattr(runner, "_CHILD_STOP_S", 0.1)
    complaints: list[str] = []
    gateway = FakeGateway()
    code = await run(
        Path("routes.yaml"),
        environ,
        gateway,
        state=tmp_path,
        complain=complaints.append,
    )
    assert code == 1
    (line,) = complaints
    assert said in line
    assert not gateway.started.is_set()


async def test_cancelling_the_runner_stops_everything(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Who embeds it and cancels it sees the cancellation, not an exit code."""
    gateway = FakeGateway()
    running = asyncio.create_task(
        run(Path("routes.yaml"), environ, gateway, state=tmp_path)
    )
    async with asyncio.timeout(30):
        await gateway.started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert gateway.stopped
    check_free(Ports.of(environ))


async def test_gateway_stops_when_the_services_are_gone(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it isn't left running: exit code 1 and a line that says why."""
    children: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def remember(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        child = await start(*args, **kwargs)
        children.append(child)
        return child

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remember)
    complaints: list[str] = []
    gateway = FakeGateway()
    running = asyncio.create_task(
        run(
            Path("routes.yaml"),
            environ,
            gateway,
            state=tmp_path,
            complain=complaints.append,
        )
    )
    async with asyncio.timeout(30):
        await gateway.started.wait()
        children[0].kill()
        assert await running == 1
    assert gateway.stopped
    (line,) = complaints
    assert "exit code -9" in line


# --- compose.yaml -----------------------------------------------------------


def test_compose_takes_secrets_from_the_environment_only() -> None:
    """Each variable without a default stands in .env.example, without a value."""
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    required = set(re.findall(r"\$\{([A-Z_]+):\?", compose))
    assert {"POSTGRES_PASSWORD", "SUPERTOKENS_API_KEY"} <= required
    for name in required:
        assert re.search(rf"^{name}=", example, re.MULTILINE), name
    for name in ("POSTGRES_PASSWORD", "SUPERTOKENS_API_KEY"):
        assert re.search(rf"^{name}=$", example, re.MULTILINE), name


def test_compose_publishes_the_gateway_alone_on_loopback() -> None:
    """Core, database and services are reached by nobody but the gateway."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {
        name: service["ports"]
        for name, service in services.items()
        if "ports" in service
    } == {"gateway": ["127.0.0.1:${GATEWAY_PORT:-8000}:8000"]}
