"""`gateway status`, `reload` and `stop`, of a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from faults import OK, FaultUpstream, Peer
from processes import Process, command, serving
from wire import ask

from gateway.cli import main
from gateway.dev.core import ThreadedCore

ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  drain_timeout: 20
  pidfile: "PIDFILE"
  probes: {listen: "PROBES"}
supertokens: {connection_uri: "CORE", recipes: {emailpassword: {}}}
services: {up: {targets: ["UPSTREAM"]}}
routes:
  - {path: /open, service: up, protected: false}
"""

Start = Callable[[], Awaitable[tuple[Process, int]]]


def run(*args: str | Path) -> Result:
    return CliRunner(env={"GATEWAY_PIDFILE": None}).invoke(main, [*map(str, args)])


@pytest.fixture
def file(tmp_path: Path, st_core: ThreadedCore) -> Path:
    text = ROUTES.replace("CORE", st_core.url).replace("UPSTREAM", "http://127.0.0.1:1")
    file = tmp_path / "routes.yaml"
    text = text.replace("PIDFILE", f"{tmp_path}/gateway.pid")
    file.write_text(text.replace("PROBES", "127.0.0.1:0"))
    return file


@pytest.fixture
async def start(file: Path) -> AsyncIterator[Start]:
    """Starts a gateway; returns it and the port of its probes."""
    async with AsyncExitStack() as stack:

        async def begin() -> tuple[Process, int]:
            process = await stack.enter_async_context(
                command("serve", "-c", file, cwd=file.parent)
            )
            await serving(process)
            match = await process.until_said(rb"probes on http://127\.0\.0\.1:(\d+)")
            return process, int(match[1])

        yield begin


async def test_status_and_stop_find_the_gateway(start: Start, file: Path) -> None:
    """By the file's pidfile; its health comes from its probes."""
    process, probes = await start()
    pid = process.child.pid
    url = f"http://127.0.0.1:{probes}"
    done = await asyncio.to_thread(run, "status", "-c", file, "--url", url)
    assert re.fullmatch(rf"ready: pid {pid}, up \d+ s; \w+( \(.*\))?\n", done.output)
    done = await asyncio.to_thread(run, "status", "--json", "-c", file, "--url", url)
    answer = json.loads(done.output)
    assert (answer["status"], answer["pid"]) == ("ready", pid)
    assert 0 <= answer["uptime_seconds"] < 3600

    # Without the file, by the pidfile alone, there are no probes to ask.
    pidfile = file.with_name("gateway.pid")
    done = run("status", "--pidfile", pidfile)
    assert (done.exit_code, done.output.split(",")[0]) == (0, f"running: pid {pid}")

    done = await asyncio.to_thread(run, "stop", "-c", file, "--wait", "20")
    assert (done.exit_code, done.output) == (0, f"stopped: pid {pid}\n")
    assert await process.ended() == 0
    assert not pidfile.exists()
    assert run("status", "-c", file).exit_code == 3
    done = run("stop", "-c", file)
    assert (done.exit_code, done.output[:11]) == (3, "not running")


async def test_a_reload_is_awaited(start: Start, file: Path) -> None:
    """The command prints what has changed, or why nothing has; a refused file leaves
    the old one in use."""
    process, _ = await start()
    pid, good = process.child.pid, file.read_text()  # noqa: ASYNC240
    reload = ("reload", "-c", file, "--wait", "20")

    done = await asyncio.to_thread(run, *reload)
    expected = f"reloaded: pid {pid}, generation 2\nnothing has changed\n"
    assert (done.exit_code, done.output) == (0, expected)

    more = "  - {name: more, path: /more, service: up, protected: false}\n"
    file.write_text(good + more)  # noqa: ASYNC240
    done = await asyncio.to_thread(run, "reload", "-c", file, "--dry-run")
    assert (done.exit_code, done.output) == (0, "route more added\n")
    done = await asyncio.to_thread(run, *reload)
    expected = f"reloaded: pid {pid}, generation 3\nroute more added\n"
    assert (done.exit_code, done.output) == (0, expected)
    done = await asyncio.to_thread(run, "reload", "-c", file, "--dry-run")
    assert (done.exit_code, done.output) == (0, "nothing has changed\n")

    file.write_text(good.replace("service: up", "service: none"))  # noqa: ASYNC240
    pidfile = file.with_name("gateway.pid")
    bad = ("reload", "--pidfile", pidfile, "--wait", "20")
    done = await asyncio.to_thread(run, *bad)
    assert done.exit_code == 1
    assert f"{file}:10:" in done.output
    assert "not reloaded: the old configuration stays in use" in done.output
    done = await asyncio.to_thread(run, "reload", "-c", file, "--dry-run")
    assert done.exit_code == 1

    file.write_text(good)  # noqa: ASYNC240
    done = await asyncio.to_thread(run, "reload", "-c", file)
    assert (done.exit_code, done.output) == (0, f"reloading: pid {pid}\n")
    await process.until_said(rb"reloaded .*route more removed")


TESTS = """\
tests:
  cases: [{GET /open: {none: 401}}]
"""


async def test_a_reload_runs_the_tests(start: Start, file: Path) -> None:
    """One that fails refuses it, or is a warning, as the file says; the reasons are
    where those of a bad file are."""
    process, _ = await start()
    good = file.read_text()  # noqa: ASYNC240
    reload = ("reload", "-c", file, "--wait", "120")
    reason = "GET /open as none: expected 401, got open (public)"
    named = good.replace("{path: /open", "{name: open, path: /open")

    file.write_text(named + TESTS)  # noqa: ASYNC240
    done = await asyncio.to_thread(run, *reload)
    assert done.exit_code == 1
    assert f"{file}:12:11: tests.cases[0].expect.none: {reason}" in done.output
    assert "not reloaded: the old configuration stays in use" in done.output
    await process.until_said(re.escape(reason.encode()))
    done = await asyncio.to_thread(run, "reload", "-c", file, "--dry-run")
    assert done.exit_code == 1
    assert reason in done.output

    for rule, number in (("warn", 2), ("off", 3)):
        process.err = b""
        file.write_text(named + TESTS + f"  on_reload: {rule}\n")  # noqa: ASYNC240
        done = await asyncio.to_thread(run, *reload)
        assert f"generation {number}" in done.output
        assert (reason.encode() in process.err) is (rule == "warn")

    file.write_text(named + TESTS.replace("401", "open"))  # noqa: ASYNC240
    done = await asyncio.to_thread(run, *reload)
    assert "generation 4" in done.output


def test_a_reload_needs_a_gateway(file: Path) -> None:
    for more in ((), ("--wait", "1"), ("--dry-run",)):
        done = run("reload", "-c", file, *more)
        assert (done.exit_code, done.output[:11]) == (3, "not running")


async def test_a_second_gateway_is_refused(start: Start, file: Path) -> None:
    """With a message that names the first one, which goes on."""
    process, _ = await start()
    async with command("serve", "-c", file, cwd=file.parent) as second:
        assert await second.ended() == 1
    assert b"process %d holds" % process.child.pid in second.err
    assert second.err.count(b"\n") == 1
    done = run("status", "--json", "--pidfile", file.with_name("gateway.pid"))
    assert json.loads(done.output)["pid"] == process.child.pid


async def test_a_killed_gateway_is_not_running(start: Start, file: Path) -> None:
    """Its workers end their requests, but they aren't the gateway any more."""
    process, _ = await start()
    process.signal(signal.SIGKILL)
    await process.ended()
    assert run("status", "-c", file).exit_code == 3
    again, _ = await start()
    pid = file.with_name("gateway.pid").read_text()
    assert pid == f"{again.child.pid}\n"


async def test_a_gateway_that_does_not_answer_is_not_ready(
    start: Start, file: Path
) -> None:
    process, _ = await start()
    done = await asyncio.to_thread(
        run, "status", "-c", file, "--url", "http://127.0.0.1:1"
    )
    assert done.exit_code == 1
    assert done.output.startswith(f"not ready: pid {process.child.pid}, up ")
    assert "doesn't answer" in done.output


async def test_a_drain_may_outlast_the_wait(tmp_path: Path, file: Path) -> None:
    """Then the code is 1, and the gateway still finishes its request."""
    released = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await released.wait()
        await peer.send(OK)

    async with FaultUpstream(slow) as upstream, AsyncExitStack() as stack:
        text = file.read_text().replace("http://127.0.0.1:1", upstream.url)  # noqa: ASYNC240
        file.write_text(text)  # noqa: ASYNC240
        process = await stack.enter_async_context(
            command("serve", "-c", file, cwd=tmp_path)
        )
        asked = asyncio.create_task(ask(await serving(process), "GET", "/open"))
        await upstream.got_request.wait()
        stopping = partial(run, "stop", "--pidfile", tmp_path / "gateway.pid")
        done = await asyncio.to_thread(stopping, "--wait", "0.1")
        assert done.exit_code == 1
        assert done.output == f"still stopping after 0.1 s: pid {process.child.pid}\n"
        released.set()
        assert (await asked).status == 200
        assert await process.ended() == 0


def test_a_file_without_a_pidfile_is_named(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\n")
    for name in ("stop", "status", "reload"):
        done = run(name, "-c", file)
        assert done.exit_code == 1
        assert (
            "the file has no gateway.pidfile: set it, or use --pidfile" in done.output
        )
