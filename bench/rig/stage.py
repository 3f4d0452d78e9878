"""The common set-up of all parts of the comparison: tools, core, tokens, upstreams.

`opened` sets it up once per run. `started` runs one rival; before the measurement it
checks that a verifying rival refuses a forged and an expired token.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import aiohttp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from bench.rig import builds, client, interpreter
from bench.rig.processes import LOAD_CORE, PROXY_CORE, DidNotStart, PortInUse, running
from bench.rig.rivals import PORTS, Rival, Stage, upstream
from gateway.dev.core import Core, CoreSettings, ThreadedCore, serve_in_thread

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".gateway" / "bench"
_HOUR_S = 3600.0
_READY_S = 10.0
"""How long a rival may take from listening to its first answer of 200."""
_ORIGIN = "http://localhost:8000"
_CDI = {"cdi-version": "5.4"}


class NotVerified(Exception):
    """A rival that verifies accepted a bad token, or refused a valid one."""


def say(text: str) -> None:
    """Report progress on standard error, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def install() -> None:
    """Install the rivals' programs; missing ones are reported later."""
    if not (TOOLS / "bin" / "pip").exists():
        venv.create(TOOLS, with_pip=True)
    builds.install(TOOLS, say)


# --- the set-up of a whole run ----------------------------------------------


@contextlib.contextmanager
def opened(folder: Path, python: interpreter.Interpreter) -> Iterator[Stage]:
    """Yield a stage whose core and small upstream run.

    Raises:
        PortInUse: the port of the core or the upstream is in use.
        SystemExit: nginx, the upstream, can't be installed.
    """
    with with_core(folder, python) as stage:
        nginx = stage.tool("nginx")
        if nginx is None:
            raise SystemExit(
                "nginx, the upstream, isn't available: apt install nginx-light"
            )
        with running(
            upstream(stage, nginx),
            core=LOAD_CORE,
            port=PORTS["upstream"],
            log=folder / "upstream.log",
        ):
            yield stage


@contextlib.contextmanager
def with_core(folder: Path, python: interpreter.Interpreter) -> Iterator[Stage]:
    """Yield a stage whose core runs, but no upstream.

    Raises:
        PortInUse: the core's port is in use.
    """
    home = interpreter.environment(TOOLS / "python", python, ROOT)
    with contextlib.ExitStack() as stack:
        clock = _Clock()
        made = Core(CoreSettings(), clock=clock.now)
        stack.callback(made.close)
        try:
            core = stack.enter_context(serve_in_thread(made, port=PORTS["core"]))
        except OSError as exc:
            raise PortInUse(f"port {PORTS['core']} is in use: {exc}") from exc
        yield asyncio.run(_stage(folder, core, clock, home))


@dataclass
class _Clock:
    """The core's, which can be put back to make a token that has expired."""

    back_s: float = 0.0

    def now(self) -> float:
        return time.time() - self.back_s


async def _stage(folder: Path, core: ThreadedCore, clock: _Clock, home: Path) -> Stage:
    async with aiohttp.ClientSession(headers=_CDI) as http:
        async with http.get(f"{core.url}/.well-known/jwks.json") as reply:
            jwks = await reply.json()
        account = {"email": "bench@example.com", "password": "correct-horse-1"}
        async with http.post(f"{core.url}/recipe/signup", json=account) as reply:
            user = (await reply.json())["user"]["id"]
    (good,) = await tokens(user, 1)
    clock.back_s = 2 * _HOUR_S
    (expired,) = await tokens(user, 1)
    clock.back_s = 0.0
    public_key = folder / "key.pem"
    public_key.write_bytes(_pem(jwks["keys"]))
    return Stage(
        folder=folder,
        tools=TOOLS,
        python=home,
        jwks=jwks,
        public_key=public_key,
        user=user,
        token=good,
        refused={"forged": forged(good), "expired": expired},
    )


async def tokens(user: str, count: int) -> list[str]:
    """Return access tokens of the running core, each of another session of *user*."""
    session: dict[str, object] = {
        "userId": user,
        "userDataInJWT": {
            "iss": f"{_ORIGIN}/auth",
            "st-role": {"v": ["member"], "t": 1},
            "st-perm": {"v": [], "t": 1},
        },
        "userDataInDatabase": {},
        "enableAntiCsrf": False,
    }
    url = f"http://127.0.0.1:{PORTS['core']}/recipe/session"
    made = []
    async with aiohttp.ClientSession(headers=_CDI) as http:
        for _ in range(count):
            async with http.post(url, json=session) as reply:
                made.append(str((await reply.json())["accessToken"]["token"]))
    return made


def forged(token: str) -> str:
    """Return the token with another user in it, under the old signature."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["sub"] = "somebody-else"
    other = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return f"{header}.{other.decode()}.{signature}"


def _pem(keys: Sequence[dict[str, str]]) -> bytes:
    first = next(key for key in keys if key["kid"].startswith("d-"))

    def number(text: str) -> int:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")

    key = RSAPublicNumbers(number(first["e"]), number(first["n"])).public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# --- one rival, one upstream ------------------------------------------------


@contextlib.contextmanager
def started(
    rival: Rival,
    stage: Stage,
    *,
    cores: Sequence[int] = (PROXY_CORE,),
) -> Iterator[tuple[int, ...]]:
    """Start a rival; yield the ids of its processes, without their children.

    Raises:
        FileNotFoundError: its program can't be installed here.
        DidNotStart, PortInUse: as `running`.
        NotVerified: it accepts a bad token, or refuses a valid one.
    """
    program = stage.tool(rival.program)
    if program is None:
        raise FileNotFoundError(f"{rival.program} can't be installed here")
    with contextlib.ExitStack() as stack:
        pids: tuple[int, ...] = (
            stack.enter_context(
                running(
                    rival.command(stage, program),
                    core=cores,
                    port=rival.port,
                    log=stage.folder / f"{rival.name}.log",
                    environ=dict(rival.environ),
                )
            ),
        )
        if rival.name == "auth_request":
            service = stack.enter_context(
                running(
                    [
                        str(stage.tool("uvicorn")),
                        "bench.rig.auth_service:app",
                        f"--port={PORTS['auth_service']}",
                        "--log-level=error",
                    ],
                    core=cores,
                    port=PORTS["auth_service"],
                    log=stage.folder / "auth_service.log",
                    environ={"CORE": f"http://127.0.0.1:{PORTS['core']}"},
                )
            )
            pids = (*pids, service)
        _must_verify(rival, stage)
        yield pids


def _must_verify(rival: Rival, stage: Stage) -> None:
    deadline = time.monotonic() + _READY_S
    while (status := _status(rival, stage.token)) != 200:
        # A rival that listens may still be fetching its keys.
        if time.monotonic() > deadline:
            raise NotVerified(f"{rival.name} answers {status} to a good token")
        time.sleep(0.1)
    for name, token in stage.refused.items():
        if rival.verifies and (status := _status(rival, token)) != 401:
            raise NotVerified(f"{rival.name} answers {status} to a token {name}")


def _status(rival: Rival, token: str) -> int:
    try:
        with client.connected(rival.port) as sock:
            head = (
                client.head(rival.port, more=f"Cookie: sAccessToken={token}\r\n")
                if rival.in_cookie
                else client.head(rival.port, token=token)
            )
            return client.ask(sock, head).status
    except (client.NotAnswered, OSError) as exc:
        raise client.NotAnswered(f"{rival.name}: {exc}") from exc


@contextlib.contextmanager
def forwarding_to(name: str, stage: Stage) -> Iterator[Stage]:
    """Yield the stage with `bench/<name>.py` as the upstream of every rival."""
    with running(
        [sys.executable, "-m", f"bench.rig.{name}", str(PORTS[name])],
        core=LOAD_CORE,
        port=PORTS[name],
        log=stage.folder / f"{name}.log",
    ):
        yield replace(stage, upstream=PORTS[name])


T = TypeVar("T")


@dataclass
class Turns(Generic[T]):
    """The results of all rivals."""

    taken: dict[str, list[T]]
    missing: list[str]
    """A line for each rival that isn't available or failed, with the reason. Its
    completed rounds count."""


def in_turn(
    rivals: Sequence[Rival],
    stage: Stage,
    *,
    rounds: int,
    measure: Callable[[Rival, tuple[int, ...]], T],
    cores: Sequence[int] = (PROXY_CORE,),
) -> Turns[T]:
    """Start and measure all rivals in each round, so that noise affects all of them.

    Raises:
        PortInUse, NotVerified: as `started`.
    """
    turns: Turns[T] = Turns({}, [])
    gone: set[str] = set()
    for number in range(rounds):
        for rival in rivals:
            if rival.name in gone:
                continue
            say(f"  round {number + 1} of {rounds}: {rival.name}")
            try:
                with started(rival, stage, cores=cores) as pids:
                    one = measure(rival, pids)
            except (DidNotStart, client.Failed, OSError) as exc:
                gone.add(rival.name)
                turns.missing.append(_reason(rival, exc))
                continue
            turns.taken.setdefault(rival.name, []).append(one)
    return turns


def _reason(rival: Rival, exc: Exception) -> str:
    """Return one line: the exception, and the end of its text."""
    message = " ".join(f"{type(exc).__name__}: {exc}".split())
    return f"{rival.name} is missing: {message[-300:]}"
