"""PURE. What the supervisor's plan is told, and what it has the supervisor do.

`plan.Plan.on` takes one `Event` and returns `Action`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from gateway.config.diff import ConfigChange
from gateway.events import Fact, RuntimeEvent, Severity
from gateway.process.admin_messages import WatchFiles
from gateway.process.messages import Deny, Keys, Message
from gateway.shared.place import StorePlace
from gateway.upstream.checked import ServiceCheck

# --- events -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Now:
    """The time of an event."""

    monotonic: float
    """In seconds, for delays and deadlines."""
    epoch: float
    """In seconds since 1970, for the ends of sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFile:
    """The facts about one load of the configuration file that the plan needs."""

    generation: int
    """The number under which the supervisor keeps the settings."""
    path: str
    changes: tuple[ConfigChange, ...] = ()
    """What differs from the configuration that served when it was loaded."""
    listen: object
    """`gateway.listen`: only whether it has changed matters."""
    probes: str | None
    """`gateway.probes.listen`."""
    decision: str | None = None
    """`gateway.decision.listen`."""
    grpc: str | None = None
    """`gateway.decision.grpc`."""
    pidfile: str | None
    """`gateway.pidfile`."""
    drain_s: float
    """`gateway.drain_timeout`."""
    websocket_drain_s: float = 0.0
    """`gateway.websocket_drain`."""
    shutdown_delay_s: float
    """`gateway.shutdown_delay`."""
    startup_timeout_s: float
    """`gateway.probes.startup_timeout`."""
    sdk: object
    """What the SDK is started with: equal ones may share keys."""
    keys_refresh_s: float
    """`supertokens.keys.refresh_interval`."""
    keys_timeout_s: float
    """`supertokens.keys.timeout`."""
    log_format: str = ""
    """`log.format`."""
    log_level: Severity = Severity.INFO
    """`log.level`."""
    admin: object = None
    """`gateway.admin`."""
    watch: WatchFiles | None = None
    """The files that were read, to be watched; None: they aren't."""
    description: Mapping[str, str] = field(default_factory=dict)
    """What the hub tells operators of the file; empty: nothing."""
    checks: tuple[ServiceCheck, ...] = ()
    """How targets are checked."""
    shared: StorePlace | None = field(default=None, repr=False)
    """Where gateways share denials (`gateway.shared`)."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Received:
    """A child has sent a message."""

    child: int
    message: Message


@dataclass(frozen=True, slots=True)
class Closed:
    """A child's channel has ended, or was closed for *reason*."""

    child: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """A child doesn't read, and its unsent messages have reached the limit."""

    child: int


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A fork has failed."""

    child: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A child's process has ended. Its messages have been reported before."""

    child: int
    pid: int
    code: int
    """The exit code; negative: the number of the signal that killed it."""
    how: str
    """The exit code in words."""


class Signal(Enum):
    """The meaning of a signal."""

    RELOAD = auto()
    UPGRADE = auto()
    """Start another gateway, and exit when that one serves."""
    STOP = auto()
    """Drain; the second time, exit at once."""
    HANG_UP = auto()
    """The terminal was closed: drain. A second one doesn't force an exit, because the
    system and the shell both send one."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """The supervisor has received a signal."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class FileLoaded:
    """The file was reloaded and can be served."""

    config: LoadedFile


@dataclass(frozen=True, slots=True)
class FileRefused:
    """The file was reloaded and can't be served."""

    problems: tuple[str, ...]
    watch: WatchFiles | None = None
    """The files that were read."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """The first event of a gateway that an upgrade has started."""

    denied: tuple[Deny, ...]
    keys: Keys | None
    must_have_keys: bool
    """The gateway before has keys, so that this one must not accept without."""


Event = (
    Tick
    | Inherited
    | Received
    | Closed
    | Unread
    | NotStarted
    | Exited
    | Signalled
    | FileLoaded
    | FileRefused
)


# --- actions ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a worker. `NotStarted` reports a failure."""

    child: int
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class ForkHub:
    """Fork a hub. `NotStarted` reports a failure."""

    child: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send a child a message; do nothing if it has exited or closed its channel."""

    child: int
    message: Message


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill a child's process with SIGKILL."""

    child: int


@dataclass(frozen=True, slots=True)
class Load:
    """Reload the file. No child is forked until `FileLoaded` or `FileRefused`."""


@dataclass(frozen=True, slots=True)
class NoteReload:
    """Note for `gateway reload` that a reload has ended."""

    problems: tuple[str, ...]
    """Why the new configuration doesn't serve; empty: it does."""
    changes: tuple[ConfigChange, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """Write a line for operators."""

    event: RuntimeEvent
    message: str
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WriteFrom:
    """Write lines for operators of this severity, and of higher ones, from now on."""

    least: Severity


@dataclass(frozen=True, slots=True)
class Announce:
    """Report that the gateway is ready."""


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Close the listening sockets; the workers have their own copies."""


@dataclass(frozen=True, slots=True)
class ForkGateway:
    """Start the next gateway, with a channel. `NotStarted` reports a failure."""

    child: int


@dataclass(frozen=True, slots=True)
class EndGateway:
    """Have the next gateway exit, as SIGTERM does."""

    child: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """Leave the files of sockets, the pidfile and the service manager to a gateway."""

    child: int


@dataclass(frozen=True, slots=True)
class TakeOver:
    """They are this gateway's from now on: write the pidfile."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Exit with *code*: no child is left."""

    code: int


Action = (
    Fork
    | ForkHub
    | ForkGateway
    | EndGateway
    | HandOver
    | TakeOver
    | Send
    | Kill
    | Load
    | NoteReload
    | LogLine
    | WriteFrom
    | Announce
    | CloseSockets
    | Exit
)
