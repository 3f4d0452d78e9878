"""PURE. The values in messages between a supervisor and its children, checked.

Each function raises `BadMessage` if the value isn't what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.observe.meters import MAX_LABEL, MAX_ROWS, Sample, is_sample
from gateway.pace import finite_s
from gateway.session.deny_list import MAX_HANDLE, UserDenial, UserScope

_MAX_SAMPLES = 4 * MAX_ROWS
_MAX_HOSTS = 64
_MAX_URL = 4096
"""Of a core's address, of its API key and of an issuer, in characters."""


class BadMessage(ValueError):
    """The other end has sent an invalid message. The text quotes nothing of it."""


def one_of(names: Sequence[str], value: object) -> str:
    """Return *value*, one of *names*."""
    if not isinstance(value, str) or value not in names:
        raise BadMessage("an unknown name in a status")
    return value


def user_to_json(denial: UserDenial) -> list[object]:
    """Return what `to_user` reads."""
    scope = denial.scope
    return [scope.user_id, scope.tenant_id, denial.before, denial.until]


def to_user(value: object) -> UserDenial:
    """Return *value* as the denial of a user."""
    match value:
        case [str(user_id), str() | None as tenant_id, before, until]:
            scope = UserScope(
                to_handle(user_id), None if tenant_id is None else to_handle(tenant_id)
            )
            return UserDenial(scope, to_time(before), to_time(until))
        case _:
            raise BadMessage("an invalid user")


def to_handle(value: str) -> str:
    """Return *value*, a session handle or an id."""
    if len(value) > MAX_HANDLE:
        raise BadMessage("an invalid handle or id")
    return value


def to_ends(value: Mapping[str, object]) -> dict[str, float]:
    """Return *value*, the ends of denials by session handle."""
    return {to_handle(name): to_time(until) for name, until in value.items()}


def to_time(value: object) -> float:
    """Return *value*, a finite number of seconds."""
    try:
        return finite_s(value)
    except ValueError as error:
        raise BadMessage(str(error)) from None


def to_number(value: object) -> int:
    """Return *value*, a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadMessage("an invalid number")
    return value


def to_hosts(value: list[object]) -> tuple[str, ...]:
    """Return *value*, the addresses of a core."""
    if len(value) > _MAX_HOSTS:
        raise BadMessage("too many hosts")
    return tuple(map(to_url, value))


def to_api_key(value: object) -> str | None:
    """Return *value*, a core's API key or None."""
    if value is not None and (not isinstance(value, str) or len(value) > _MAX_URL):
        raise BadMessage("an invalid API key")
    return value


def to_url(value: object) -> str:
    """Return *value*, an address or an issuer."""
    if not isinstance(value, str) or len(value) > _MAX_URL:
        raise BadMessage("an invalid URL")
    return value


def to_samples(values: list[object]) -> tuple[Sample, ...]:
    """Return *values* as what a worker has counted."""
    if len(values) > _MAX_SAMPLES:
        raise BadMessage("too many samples")
    return tuple(map(_sample, values))


def _sample(value: object) -> Sample:
    match value:
        case [str(kind), list() as labels, list() as numbers]:
            sample = Sample(
                kind, tuple(map(_label, labels)), tuple(map(_amount, numbers))
            )
            if is_sample(sample):
                return sample
        case _:
            pass
    raise BadMessage("an invalid sample")


def _label(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_LABEL:
        raise BadMessage("an invalid label")
    return value


def _amount(value: object) -> float:
    amount = to_time(value)
    if amount < 0:
        raise BadMessage("a negative amount")
    return amount
