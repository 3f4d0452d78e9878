"""edge. What the admin listener shows and does, in the hub.

What it shows is what the hub knows anyway, so it is shown while workers hang. What it
does goes to the supervisor, like a signal; sessions are ended at the core from here,
because no worker can be relied on.
"""

from __future__ import annotations

import asyncio
import json
import math
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from gateway import __version__
from gateway.admin import views
from gateway.admin.bodies import (
    CONFIGURED,
    LogChange,
    Revocation,
    RevokeSession,
    RevokeUser,
)
from gateway.admin.server import AdminAnswer
from gateway.process.admin_messages import (
    Describe,
    DrainWanted,
    LogAs,
    LogChangeWanted,
    Reloaded,
    ReloadWanted,
)
from gateway.process.messages import AskCore, Deny, DenyDone, Message, Status, batches
from gateway.session.deny_list import MAX_DENY_S, UserDenial, UserScope
from gateway.supertokens.core_sessions import CoreCallFailed, CoreSessions

_ACKNOWLEDGE_S: Final = 20.0
"""For all workers to acknowledge a denial: one that hangs is killed after 15 s, and its
exit counts as an acknowledgement."""
_RELOAD_S: Final = 280.0
"""For a reload. A worker has 60 s to start, and the file may wait for another one."""
_LOG_CHANGE_S: Final = 20.0
"""For the supervisor to tell all processes how to log."""
_PARTS: Final = {f"/{name}": name for name in views.PARTS}


@dataclass(frozen=True, slots=True)
class AdminListener:
    """Where the hub answers operators, and what they must show."""

    sock: socket.socket
    host: str
    """Empty for a Unix socket."""
    token_file: str | None


class HubAdmin:
    """Implements `admin.server.AdminBackend`."""

    def __init__(
        self,
        send: Callable[[Message], None],
        facts: Callable[[], HubFacts],
        *,
        has_access_log: bool = True,
    ) -> None:
        """*send* sends a message to the supervisor; *facts* is what is known now."""
        self._has_access_log = has_access_log
        self._send = send
        self._facts = facts
        self._described: Describe | None = None
        self._core: AskCore | None = None
        self._last = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        """By the number of the message that is to be answered."""

    # --- messages -------------------------------------------------------------

    def describe(self, message: Describe) -> None:
        """Show this configuration from now on."""
        self._described = message

    def use_core(self, message: AskCore) -> None:
        """End sessions at this core from now on."""
        self._core = message

    def answered(self, message: DenyDone | Reloaded | LogAs) -> None:
        """Note what the supervisor has answered."""
        future = self._waiting.get(message.number)
        if future is not None and not future.done():
            future.set_result(message)

    async def _ask(self, make: Callable[[int], Message], timeout_s: float) -> Any:
        """Send the message that *make* returns for a number; return its answer.

        Raises:
            TimeoutError: none has come.
        """
        self._last += 1
        number = self._last
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(make(number))
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            del self._waiting[number]

    # --- views ----------------------------------------------------------------

    def view(self, path: str) -> str:
        """Return the JSON text at *path*."""
        if path == "/support-dump":
            return views.joined(
                {name[1:]: self._view(name) for name in (*_PARTS, *_OWN)}
                | {"health": _text(self._facts().health)}
            )
        return self._view(path)

    def _view(self, path: str) -> str:
        if part := _PARTS.get(path):
            if self._described is None or part not in self._described.parts:
                return _text({"error": "the configuration isn't known yet"})
            return views.unpack(self._described.parts[part]) + "\n"
        return _text(_OWN[path](self._facts()))

    # --- actions --------------------------------------------------------------

    async def reload(self) -> AdminAnswer:
        """Have the file read again; return when it serves or is refused."""
        if self._facts().status.is_draining:
            return AdminAnswer(409, {"error": "the gateway is stopping"})
        try:
            done: Reloaded = await self._ask(ReloadWanted, _RELOAD_S)
        except TimeoutError:
            return AdminAnswer(504, {"error": "the reload hasn't ended yet"})
        if done.problems:
            return AdminAnswer(
                422, {"generation": done.generation, "problems": [*done.problems]}
            )
        return AdminAnswer(
            200, {"generation": done.generation, "changes": [*done.changes]}
        )

    def drain(self) -> AdminAnswer:
        """Have the gateway stop as on SIGTERM."""
        self._send(DrainWanted())
        return AdminAnswer(202, {"draining": True})

    async def log_as(self, change: LogChange) -> AdminAnswer:
        """Have all processes log as *change* says; return when they are told."""
        if change.requests not in (None, CONFIGURED) and not self._has_access_log:
            return AdminAnswer(
                409, {"error": "there is no access log: the format is none"}
            )
        try:
            now: LogAs = await self._ask(
                lambda number: LogChangeWanted(number, change), _LOG_CHANGE_S
            )
        except TimeoutError:
            return AdminAnswer(504, {"error": "the supervisor hasn't answered"})
        return AdminAnswer(200, _log_shown(now))

    async def revoke(self, what: Revocation) -> AdminAnswer:
        """End sessions, in this gateway first, then at the core."""
        match what:
            case RevokeSession(handle):
                denied = await self._deny(handles=[handle])
                core = await self._at_core([handle])
                return _outcome(denied=denied, core=core)
            case RevokeUser():
                return await self._revoke_user(what)

    async def _revoke_user(self, what: RevokeUser) -> AdminAnswer:
        now = time.time()
        denied = await self._deny(
            users=(
                UserDenial(
                    UserScope(what.user_id, what.tenant_id), now, now + MAX_DENY_S
                ),
            )
        )
        try:
            handles = await self._client().handles_of(what.user_id, what.tenant_id)
        except CoreCallFailed as error:
            core: int | str = f"{error}. The sessions aren't listed"
        else:
            # Their handles, too: the core's clock may be ahead of this one.
            if handles:
                denied = await self._deny(handles=handles) and denied
            core = await self._at_core(handles)
        # Tokens have whole seconds: a session that begins now isn't one of before.
        await asyncio.sleep(max(0.0, math.floor(now) + 1 - time.time()))
        return _outcome(denied=denied, core=core)

    async def _deny(
        self, *, handles: Sequence[str] = (), users: tuple[UserDenial, ...] = ()
    ) -> bool:
        """Deny sessions in all workers; return whether all of them know it."""
        until = time.time() + MAX_DENY_S
        try:
            for part in batches([(handle, until) for handle in handles], users):
                await self._ask(
                    lambda number, part=part: Deny(part.ends, number, part.users),  # type: ignore[misc]  # a lambda's default
                    _ACKNOWLEDGE_S,
                )
        except TimeoutError:
            return False
        return True

    async def _at_core(self, handles: Sequence[str]) -> int | str:
        """Return how many sessions the core has ended, or why it hasn't."""
        try:
            return await self._client().remove(handles)
        except CoreCallFailed as error:
            return str(error)

    def _client(self) -> CoreSessions:
        core = self._core
        if core is None:
            raise CoreCallFailed("the core isn't known yet")
        return CoreSessions(core.hosts, core.api_key, timeout_s=core.timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFacts:
    """What the hub knows when it is asked."""

    status: Status
    keys: Mapping[str, object]
    """The hub's own, as JSON."""
    health: Mapping[str, object]
    """All checks of `/readyz`, as JSON."""
    targets: Sequence[Mapping[str, object]]
    """Those of all services, as JSON."""
    log_as: LogAs


def _outcome(*, denied: bool, core: int | str) -> AdminAnswer:
    """Return the answer to a revocation: 200 if both parts worked."""
    body: dict[str, Any] = {
        "gateway": {"ended": denied},
        "core": {"ended": isinstance(core, int)},
    }
    if not denied:
        body["gateway"]["error"] = (
            "a worker hasn't acknowledged it yet: it will be killed, or will soon"
        )
    if isinstance(core, int):
        body["core"]["sessions"] = core
    else:
        body["core"]["error"] = core
    return AdminAnswer(200 if denied and isinstance(core, int) else 502, body)


def _log_shown(now: LogAs) -> dict[str, Any]:
    """Return what is logged; `until` is null if it is what the file says."""
    is_set = now.is_least_set or now.all_requests
    return {
        "level": now.least,
        "requests": "all" if now.all_requests else CONFIGURED,
        "until": "the next reload or restart" if is_set else None,
    }


def _version(facts: HubFacts) -> object:
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "generation": facts.status.generation,
    }


def _workers(facts: HubFacts) -> object:
    status = facts.status
    return {
        "generation": status.generation,
        "workers": [
            {"worker": slot, "state": state}
            for slot, state in enumerate(status.slots, start=1)
        ],
        "of_other_generations": dict(status.others),
        "restarts": dict(status.restarts),
        "hub_restarts": status.hub_restarts,
        "is_draining": status.is_draining,
        "last_reload": {
            "succeeded": status.is_loaded,
            "serving_since": _time(status.loaded_at),
        },
    }


def _keys(facts: HubFacts) -> object:
    """Return the hub's keys, and until when all workers have some."""
    status, now, wall = facts.status, time.monotonic(), time.time()
    until = status.keys_until
    usable_until = None if until is None else _time(wall + until - now)
    return {"workers_usable_until": usable_until, **facts.keys}


_OWN: Final[Mapping[str, Callable[[HubFacts], object]]] = {
    "/keys": _keys,
    "/workers": _workers,
    "/targets": lambda facts: facts.targets,
    "/version": _version,
    "/log-level": lambda facts: _log_shown(facts.log_as),
}


def _text(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
