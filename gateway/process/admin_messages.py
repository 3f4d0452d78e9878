"""PURE. The messages between the supervisor and the hub that the admin listener needs.

What an operator asks for by a signal, the hub asks for on behalf of its listener. The
supervisor takes none of these from a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from gateway.admin.bodies import LOG_LEVELS, LOG_REQUESTS, LogChange
from gateway.events import Severity
from gateway.process.message_values import BadMessage, one_of, to_number, to_time


@dataclass(frozen=True, slots=True)
class Describe:
    """To the hub: the configuration that serves now, without its secrets."""

    generation: int
    parts: Mapping[str, str]
    """As `admin.views.describe` returns them."""


@dataclass(frozen=True, slots=True)
class ReloadWanted:
    """From the hub: read the file again. `Reloaded` answers it."""

    number: int


@dataclass(frozen=True, slots=True)
class Reloaded:
    """To the hub: the outcome of the `ReloadWanted` with this number."""

    number: int
    generation: int
    """The generation that serves now."""
    problems: tuple[str, ...]
    """Why another one doesn't; empty: this is the new one."""
    changes: tuple[str, ...] = ()
    """What it has changed."""


@dataclass(frozen=True, slots=True)
class DrainWanted:
    """From the hub: stop as on SIGTERM."""


@dataclass(frozen=True, slots=True)
class WatchFiles:
    """To the hub: compare these files with what was loaded."""

    names: tuple[str, ...]
    """As `settings.files_read` has them; none: compare nothing."""
    loaded: str
    """The digest of what was loaded, or refused."""
    interval_s: float


@dataclass(frozen=True, slots=True)
class FilesChanged:
    """From the hub: a watched file has changed, and is to be loaded."""


@dataclass(frozen=True, slots=True)
class LogChangeWanted:
    """From the hub: log as this says. `LogAs` answers it."""

    number: int
    change: LogChange


@dataclass(frozen=True, slots=True)
class LogAs:
    """To a child: what is logged from now on."""

    least: Severity = Severity.INFO
    """The least severity of messages."""
    is_least_set: bool = False
    """An operator has set it, so that `log.level` doesn't count."""
    all_requests: bool = False
    """Every request has a line, whatever `log.exclude` and `log.sample` say."""
    number: int = 0
    """To the hub: that of the `LogChangeWanted` that this answers; 0: of none."""


AdminMessage = (
    Describe
    | ReloadWanted
    | Reloaded
    | DrainWanted
    | WatchFiles
    | FilesChanged
    | LogChangeWanted
    | LogAs
)


def to_json(message: AdminMessage) -> dict[str, object]:
    """Return *message* as JSON."""
    match message:
        case Describe(generation, parts):
            return {"describe": [generation, dict(parts)]}
        case ReloadWanted(wanted):
            return {"reload": wanted}
        case Reloaded(wanted, generation, problems, changes):
            return {"reloaded": [wanted, generation, [*problems], [*changes]]}
        case DrainWanted():
            return {"leave": True}
        case WatchFiles(names, loaded, interval_s):
            return {"watch": [loaded, interval_s, *names]}
        case FilesChanged():
            return {"files_changed": True}
        case LogChangeWanted(number, LogChange(level, requests)):
            return {"log_change": [number, level, requests]}
        case LogAs(least, is_least_set, all_requests, number):
            return {"log_as": [least, is_least_set, all_requests, number]}
        case never:
            assert_never(never)


def from_json(value: object) -> AdminMessage:
    """Return the message in *value*.

    Raises:
        BadMessage: it is none of these.
    """
    match value:
        case {"describe": [generation, dict() as parts], **rest} if not rest:
            named = {name: _text(part) for name, part in parts.items()}
            return Describe(to_number(generation), named)
        case {"reload": wanted, **rest} if not rest:
            return ReloadWanted(to_number(wanted))
        case {
            "reloaded": [wanted, generation, list() as problems, list() as changes],
            **rest,
        } if not rest:
            return Reloaded(
                to_number(wanted),
                to_number(generation),
                tuple(map(_text, problems)),
                tuple(map(_text, changes)),
            )
        case {"leave": True, **rest} if not rest:
            return DrainWanted()
        case {"watch": [loaded, interval_s, *names], **rest} if not rest:
            return WatchFiles(
                tuple(map(_text, names)), _text(loaded), to_time(interval_s)
            )
        case {"files_changed": True, **rest} if not rest:
            return FilesChanged()
        case {"log_change": [number, level, requests], **rest} if not rest:
            change = LogChange(
                _choice(LOG_LEVELS, level), _choice(LOG_REQUESTS, requests)
            )
            return LogChangeWanted(to_number(number), change)
        case {
            "log_as": [least, bool(is_least_set), bool(all_requests), number],
            **rest,
        } if not rest:
            level = Severity(one_of(tuple(Severity), least))
            return LogAs(level, is_least_set, all_requests, to_number(number))
        case _:
            raise BadMessage("a message of an unknown kind")


def _choice(names: Sequence[str], value: object) -> str | None:
    return None if value is None else one_of(names, value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BadMessage("an invalid text")
    return value
