"""edge. What the gateway before an upgrade leaves to the next: its descriptors.

They are named in one variable of the environment. The next gateway removes it at once,
so that no other process takes it for its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

from gateway.config import ListenConfig
from gateway.process.channel import Channel, Hangup
from gateway.process.listening import BoundListen, remove_file
from gateway.process.messages import Deny, Keys, Message, Ping
from gateway.process.sockets import ListenError
from gateway.process.worker import SIGNALS

VARIABLE: Final = "GATEWAY_UPGRADE"
_FORM: Final = 1
"""Of the variable. Another version of the gateway may have another one."""
_HANDOVER_S: Final = 10.0
"""For the gateway before to send what it knows."""


class NotHandedOver(Exception):
    """The gateway before hasn't left what this one needs. The text is the reason."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What the gateway before has sent first."""

    denied: tuple[Deny, ...]
    keys: Keys | None
    later: tuple[Message, ...]
    """What it has sent since."""


@dataclass(slots=True, kw_only=True, eq=False)
class Inheritance:
    """Descriptors that the gateway before has left."""

    pid: int
    """The process id of the gateway before."""
    sdk: str
    """The digest of the settings that its keys belong to."""
    channel: Channel
    listens: list[BoundListen]
    """Those that nobody has taken yet."""
    files: dict[str, tuple[int, ...]]
    """Path → the file of a Unix socket. It is the gateway's before until the end."""
    modes: dict[str, tuple[str, str | None]]
    """Address → mode and owner of a Unix socket's file."""
    _taken: set[str] = field(default_factory=set)

    def take(self, listen: ListenConfig) -> BoundListen | None:
        """Return what is listened on at the address of *listen*, once; or None.

        Raises:
            ListenError: it is a Unix socket whose mode or owner has changed.
        """
        for bound in self.listens:
            if bound.config.address != listen.address:
                continue
            mode = self.modes.get(listen.address)
            if mode is not None and mode != (listen.mode, listen.owner):
                raise ListenError(
                    f"can't listen on {listen.address}: its mode or owner has changed"
                    " in the file, which needs a restart"
                )
            self.listens.remove(bound)
            self._taken.add(listen.parsed.socket_path)
            return BoundListen(config=listen, sockets=bound.sockets)
        return None

    def with_file(self, bound: BoundListen) -> BoundListen:
        """Return *bound* with its file, if it is one that the gateway before made."""
        file = bound.file or self.files.get(bound.config.parsed.socket_path)
        return replace(bound, file=file)

    def close_rest(self) -> None:
        """Close this process's copies of what nobody has taken."""
        for bound in self.listens:
            for sock in bound.sockets:
                sock.close()
        self.listens.clear()

    def remove_rest(self) -> None:
        """Remove the files of Unix sockets that nobody has taken."""
        for path, file in self.files.items():
            if path not in self._taken:
                remove_file(path, file)

    def handed(self) -> Handed:
        """Wait for what the gateway before knows.

        Raises:
            NotHandedOver: it has ended, or doesn't send all of it in time.
        """
        received: list[Message] = []
        ends = time.monotonic() + _HANDOVER_S
        while Ping() not in received:
            wait_s = max(0.0, ends - time.monotonic())
            if not select.select((self.channel,), (), (), wait_s)[0]:
                raise NotHandedOver("the gateway before doesn't answer")
            try:
                received += self.channel.receive() or ()
            except Hangup as hangup:
                why = str(hangup) or "it has closed the channel"
                raise NotHandedOver(f"the gateway before has gone: {why}") from None
        end = received.index(Ping())
        keys = [one for one in received[:end] if isinstance(one, Keys)]
        return Handed(
            tuple(one for one in received[:end] if isinstance(one, Deny)),
            keys[-1] if keys else None,
            tuple(received[end + 1 :]),
        )


def run_next(
    listens: Iterable[BoundListen],
    channel: socket.socket,
    *,
    sdk: str,
    environ: Mapping[str, str],
    keeps_hangup: bool,
) -> NoReturn:
    """Run the command line of this process again, with what it inherits.

    Only in a forked process. *environ* is added to the environment. With
    *keeps_hangup*, SIGHUP stays ignored, as under `nohup`.

    Raises:
        OSError: the program can't be run.
    """
    named = [
        {
            "address": one.config.address,
            "descriptors": [sock.fileno() for sock in one.sockets],
            "file": one.file,
            "mode": one.config.mode,
            "owner": one.config.owner,
        }
        for one in listens
    ]
    facts = {
        "form": _FORM,
        "pid": os.getppid(),
        "sdk": sdk,
        "channel": channel.fileno(),
        "listens": named,
    }
    channel.set_inheritable(True)
    for bound in listens:
        for sock in bound.sockets:
            sock.set_inheritable(True)
    for number in SIGNALS:
        if number != signal.SIGHUP or not keeps_hangup:
            signal.signal(number, signal.SIG_DFL)
    program = [sys.executable, *sys.orig_argv[1:]]
    variables = {**os.environ, **environ, VARIABLE: json.dumps(facts)}
    os.execve(program[0], program, variables)  # noqa: S606 - the same program again


def inherited(environ: MutableMapping[str, str] = os.environ) -> Inheritance | None:
    """Return what an upgrade has left to this process; None: it is no upgrade.

    Raises:
        NotHandedOver: the gateway before is of a version that this one can't follow.
    """
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        facts = json.loads(text)
        if facts["form"] != _FORM or facts["pid"] != os.getppid():
            raise ValueError
        return _inheritance(facts)
    except (ValueError, KeyError, TypeError, OSError):
        raise NotHandedOver(
            f"{VARIABLE} isn't as this version of the gateway leaves it: restart the"
            " gateway, and don't set this variable"
        ) from None


def _inheritance(facts: dict[str, Any]) -> Inheritance:
    listens, files, modes = [], {}, {}
    for one in facts["listens"]:
        config = ListenConfig(address=one["address"])
        sockets = tuple(_socket(number) for number in one["descriptors"])
        listens.append(BoundListen(config=config, sockets=sockets))
        if one["file"] is not None:
            files[config.parsed.socket_path] = tuple(one["file"])
            modes[config.address] = one["mode"], one["owner"]
    return Inheritance(
        pid=facts["pid"],
        sdk=facts["sdk"],
        channel=Channel(_socket(facts["channel"])),
        listens=listens,
        files=files,
        modes=modes,
    )


def _socket(number: int) -> socket.socket:
    sock = socket.socket(fileno=number)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
