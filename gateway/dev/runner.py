"""edge. Development only: `make dev`, which starts and stops everything on loopback.

The embedded core and the demo services run in one child (`gateway.dev.services`), the
gateway in another one (`gateway.dev.gateway_process`).
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from gateway.dev.gateway_process import GatewayEnded, admin_socket
from gateway.dev.ports import (
    LOOPBACK,
    BadPort,
    PortInUse,
    Ports,
    check_free,
    variable,
    with_free_ports,
)

STATE = Path(".gateway")
"""The folder of the development core's users, sessions, keys and mails."""

_CHILD_START_S = 30.0
"""How long the child may take to be ready; it generates RSA keys on its first start."""
_CHILD_STOP_S = 5.0
"""How long the child may take to stop before it is killed."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_BANNER = """
supertokens-gateway for development, on this machine only

  gateway  http://localhost:{gateway:<5}  open this page to try the gateway
  core     http://{host}:{core:<5}  embedded, not for production, no API key
  catalog  http://{host}:{catalog:<5}  behind /catalog, public
  orders   http://{host}:{orders:<5}  behind /orders, protected
  whoami   http://{host}:{whoami:<5}  behind /whoami, protected, and /hello, optional
  page     http://{host}:{page:<5}  behind /
  users and keys are kept in {state}/, mails in {state}/outbox/
  a changed route table is loaded within 5 s{admin}

Paste into another terminal: a refused request, a sign-up, and an accepted request.

  curl -i http://localhost:{gateway}/whoami
  curl -c cookies.txt -H 'st-auth-mode: cookie' http://localhost:{gateway}/auth/signup \
-d '{{"formFields": [{{"id": "email", "value": "ann@example.com"}}, \
{{"id": "password", "value": "correct-horse-1"}}]}}'
  curl -b cookies.txt http://localhost:{gateway}/whoami

Ctrl-C stops all of it.
"""


_ADMIN = """, and the admin listener shows what the gateway does:
  curl --unix-socket {path} http://localhost/workers"""


class ServeGateway(Protocol):
    """Runs the gateway until it is cancelled; calls *ready* when it serves.

    It must not install signal handlers: Ctrl-C cancels it.
    """

    async def __call__(
        self,
        config: Sequence[Path],
        environ: Mapping[str, str],
        *,
        outbox: Path,
        admin: Path | None,
        ready: Callable[[], None],
    ) -> None: ...


class ChildFailed(Exception):
    """The process of the core and the demo services can't start, or has ended."""


def gateway_environ(environ: Mapping[str, str], ports: Ports) -> dict[str, str]:
    """Return *environ* with the variables of `config/routes.yaml` set to *ports*."""
    services = {
        f"{name.upper()}_URL": f"http://{LOOPBACK}:{port}"
        for name, port in ports
        if name not in {"gateway", "core"}
    }
    return {
        **environ,
        **services,
        "GATEWAY_LISTEN": f"{LOOPBACK}:{ports.gateway}",
        "GATEWAY_ORIGIN": f"http://localhost:{ports.gateway}",
        "SUPERTOKENS_URI": f"http://{LOOPBACK}:{ports.core}",
        "SUPERTOKENS_API_KEY": "",
    }


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _to_stdout(text: str) -> None:
    print(text, flush=True)


async def run(
    config: Sequence[Path],
    environ: Mapping[str, str],
    serve_gateway: ServeGateway,
    *,
    core_settings: Mapping[str, int | float | bool] | None = None,
    state: Path = STATE,
    say: Callable[[str], None] = _to_stdout,
    complain: Callable[[str], None] = _to_stderr,
) -> int:
    """Run everything until SIGINT or SIGTERM; return the exit code.

    A port in use, a bad port variable or a child that fails prints one line to
    standard error and returns 1. A gateway that ends by itself has said why; its exit
    code is returned. Any other exception of *serve_gateway* is raised after everything
    has stopped. *core_settings* are keyword arguments for `CoreSettings`,
    without the database. *say* prints to standard output, *complain* to standard
    error.
    """
    loop = asyncio.get_running_loop()
    work = loop.create_task(
        _run(config, environ, serve_gateway, core_settings or {}, state, say)
    )
    signalled = False

    def stop() -> None:
        nonlocal signalled
        signalled = True
        work.cancel()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        if not signalled:
            raise
        say("stopped")
    except (BadPort, PortInUse, ChildFailed) as exc:
        complain(f"error: {exc}")
        return 1
    except GatewayEnded as exc:
        if exc.code < 0:  # a signal: it has said nothing
            complain(f"error: {exc}")
        return exc.code if exc.code > 0 else 1
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
    return 0


async def _run(
    config: Sequence[Path],
    environ: Mapping[str, str],
    serve_gateway: ServeGateway,
    core_settings: Mapping[str, int | float | bool],
    state: Path,
    say: Callable[[str], None],
) -> None:
    """Run the child and the gateway until one of them ends or this is cancelled."""
    ports = with_free_ports(Ports.of(environ), environ)
    check_free(ports)
    admin = admin_socket(state, ports.gateway)
    ready = asyncio.Event()
    async with _child(environ, ports, core_settings, state) as child:
        gateway = asyncio.create_task(
            serve_gateway(
                config,
                gateway_environ(environ, ports),
                outbox=state / "outbox",
                admin=admin,
                ready=ready.set,
            )
        )
        listens = asyncio.create_task(ready.wait())
        exited = asyncio.create_task(child.wait())
        tasks = {gateway, listens, exited}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if listens.done():
                path = None if admin is None else state / admin.name
                more = "" if path is None else _ADMIN.format(path=path)
                facts = {"host": LOOPBACK, "state": state, "admin": more}
                say(_BANNER.format(**facts, **dict(ports)))
                await asyncio.wait(
                    {gateway, exited}, return_when=asyncio.FIRST_COMPLETED
                )
            child_failed = exited.done() and not gateway.done()
        finally:
            for task in tasks:
                task.cancel()
            # The gateway's own deadlines bound this (`gateway.drain_timeout`).
            await asyncio.gather(*tasks, return_exceptions=True)
        if child_failed:
            raise ChildFailed(
                "the process with the core and the demo services has ended "
                f"(exit code {child.returncode})"
            )
        gateway.result()


@asynccontextmanager
async def _child(
    environ: Mapping[str, str],
    ports: Ports,
    core_settings: Mapping[str, int | float | bool],
    state: Path,
) -> AsyncIterator[Process]:
    """Yield a child that runs the core and the demo services while the block runs.

    Raises:
        ChildFailed: it can't start. The text is the reason.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.dev.services",
        str(state / "core.sqlite"),
        json.dumps(dict(core_settings)),
        stdin=PIPE,
        stdout=PIPE,
        env={**environ, **{variable(name): str(port) for name, port in ports}},
        # A separate session: Ctrl-C goes to this process, which stops the child last.
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        try:
            async with asyncio.timeout(_CHILD_START_S):
                line = await child.stdout.readline()
        except TimeoutError as exc:
            raise ChildFailed(
                "the core and the demo services didn't start within "
                f"{_CHILD_START_S:g} s"
            ) from exc
        match json.loads(line or "{}"):
            case {"ready": True}:
                yield child
            case {"failed": str(reason)}:
                raise ChildFailed(reason)
            case _:
                raise ChildFailed(
                    "the core and the demo services ended while they were starting; "
                    "the reason is above"
                )
    finally:
        # The child stops when its stdin ends.
        child.stdin.close()
        try:
            async with asyncio.timeout(_CHILD_STOP_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
