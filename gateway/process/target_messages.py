"""PURE. The messages about targets: checks (`health.active`), and ejections.

The supervisor tells the hub what to check. The hub tells it what is down, and it tells
the workers. It believes no worker about this.

Workers tell each other which targets they have ejected, through the supervisor. Each
keeps to its own bounds, so none can have another eject all targets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import assert_never

from gateway.process.message_values import BadMessage, to_number, to_time
from gateway.upstream.checked import ServiceCheck

_MAX_TEXT = 8192
"""Of an address, a name or a path, in characters."""
_FIELDS = tuple(field.name for field in fields(ServiceCheck))


@dataclass(frozen=True, slots=True)
class CheckTargets:
    """To the hub: check the targets of one more service."""

    check: ServiceCheck | None
    """None: of none but those that follow. The configuration is another one."""


@dataclass(frozen=True, slots=True)
class TargetsDown:
    """From the hub, to workers, and to a new hub: all targets of a service that are
    down by its checks."""

    service: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TargetEjected:
    """From a worker, and to the others: its requests have shown how a target is."""

    service: str
    target: str
    until: float | None
    """When one may try it, on the monotonic clock; None: it is back."""


TargetMessage = CheckTargets | TargetsDown | TargetEjected


def to_json(message: TargetMessage) -> dict[str, object]:
    """Return *message* as JSON."""
    match message:
        case CheckTargets(None):
            return {"check_targets": None}
        case CheckTargets(check):
            return {"check_targets": [getattr(check, name) for name in _FIELDS]}
        case TargetsDown(service, targets):
            return {"targets_down": [service, *targets]}
        case TargetEjected(service, target, until):
            return {"target_ejected": [service, target, until]}
        case never:
            assert_never(never)


def from_json(value: object) -> TargetMessage:
    """Return the message in *value*.

    Raises:
        BadMessage: it is none of these.
    """
    match value:
        case {"check_targets": None, **rest} if not rest:
            return CheckTargets(None)
        case {"check_targets": list() as values, **rest} if not rest:
            return CheckTargets(_check(values))
        case {"targets_down": [service, *targets], **rest} if not rest:
            return TargetsDown(_short(service), tuple(map(_short, targets)))
        case {"target_ejected": [service, target, until], **rest} if not rest:
            at = None if until is None else to_time(until)
            return TargetEjected(_short(service), _short(target), at)
        case _:
            raise BadMessage("a message of an unknown kind")


def _check(values: list[object]) -> ServiceCheck:
    match values:
        case [
            service,
            list() as targets,
            resolve_s,
            path,
            interval_s,
            timeout_s,
            up,
            down,
            host,
            ca_file,
            server_name,
            bool(verify),
        ]:
            return ServiceCheck(
                service=_short(service),
                targets=tuple(map(_short, targets)),
                resolve_s=None if resolve_s is None else to_time(resolve_s),
                path=_short(path),
                interval_s=to_time(interval_s),
                timeout_s=to_time(timeout_s),
                up=to_number(up),
                down=to_number(down),
                host=None if host is None else _short(host),
                ca_file=None if ca_file is None else _short(ca_file),
                server_name=None if server_name is None else _short(server_name),
                verify=verify,
            )
        case _:
            raise BadMessage("an invalid check of targets")


def _short(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise BadMessage("an invalid text about targets")
    return value
