"""edge. What the service manager is told: systemd's notification protocol.

Source: sd_notify(3), and `Type=notify-reload` of systemd.service(5). Without
`NOTIFY_SOCKET` in the environment, nothing is sent.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import MutableMapping

from gateway.process.plan_state import Phase

_STATUS = {
    Phase.STARTING: "starting",
    Phase.RUNNING: "serving",
    Phase.RELOADING: "reading the file again",
    Phase.STOPPING: "finishing requests in flight",
}


class ServiceManager:
    """Sends the supervisor's state to the service manager, if there is one.

    Nothing that fails here affects the gateway: a message that can't be sent at once is
    dropped.
    """

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        """*address* is a path, or `@` and the name of an abstract socket; None: send
        nothing. *watchdog_s* is how long the manager waits between two signs of life.
        """
        self._name = address
        self._watchdog_s = watchdog_s
        self._address = None if address is None else _to_bytes(address)
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self._phase = Phase.STARTING
        self._every_s = None if watchdog_s is None else watchdog_s / 2
        self._due = math.inf if self._every_s is None else -math.inf

    @property
    def due(self) -> float:
        """When `tick` must be called next, on the monotonic clock."""
        return self._due

    def tick(self, now: float) -> None:
        """Send a sign of life, if one is due. *now* is on the monotonic clock."""
        if self._every_s is not None and now >= self._due:
            self._due = now + self._every_s
            self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Report that the file is being read again."""
        self._phase = Phase.RELOADING
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={usec}", _status(self._phase))

    def update(self, phase: Phase) -> None:
        """Report *phase*, if it has changed. `reloading` reports a reload."""
        if phase is self._phase:
            return
        self._phase = phase
        match phase:
            case Phase.RUNNING:
                self._send("READY=1", _status(phase))
            case Phase.STOPPING:
                self._send("STOPPING=1", _status(phase))
            case _:
                self._send(_status(phase))

    def environ(self) -> dict[str, str]:
        """Return the variables with which the next gateway of an upgrade is told."""
        variables = {}
        if self._name is not None:
            variables["NOTIFY_SOCKET"] = self._name
        if self._watchdog_s is not None:
            variables["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1e6))
        return variables

    def hand_over(self, pid: int) -> None:
        """Report that process *pid* is the service from now on, and nothing more.

        That one says when it is ready. Until it does, the service counts as running.
        """
        self._send(f"MAINPID={pid}", "STATUS=upgraded")
        self._due, self._every_s = math.inf, None
        self.close()

    def close(self) -> None:
        """Close this process's socket; what follows isn't sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is not None and self._address is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)


def service_manager(environ: MutableMapping[str, str]) -> ServiceManager:
    """Return the service manager that *environ* names.

    The variables are removed, so that no child takes them for its own.
    """
    address = environ.pop("NOTIFY_SOCKET", "")
    usec = environ.pop("WATCHDOG_USEC", "")
    pid = environ.pop("WATCHDOG_PID", "")
    is_ours = pid in ("", str(os.getpid()))
    watchdog_s = None
    if is_ours and usec.isascii() and usec.isdecimal() and int(usec) > 0:
        watchdog_s = int(usec) / 1e6
    # Others, such as vsock:, are of virtual machines.
    is_known = address[:1] in ("/", "@") and len(address) > 1
    return ServiceManager(address if is_known else None, watchdog_s=watchdog_s)


def _to_bytes(address: str) -> bytes:
    data = os.fsencode(address)
    return b"\0" + data[1:] if data.startswith(b"@") else data


def _status(phase: Phase) -> str:
    return f"STATUS={_STATUS[phase]}"
