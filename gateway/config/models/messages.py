"""PURE. What of requests and replies is changed: the keys `request`, `response`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import (
    AllowedField,
    Bytes,
    EditedReplyField,
    EditedRequestField,
    FieldValue,
    Flag,
)
from gateway.config.models.base import Model
from gateway.config.secret import SECRET
from gateway.headers import edits


class EditsConfig(Model):
    """Fields that are set, added and removed."""

    set: Annotated[dict[str, str], SECRET] = Field(default_factory=dict)
    """Name → value."""
    add: Annotated[dict[str, str], SECRET] = Field(default_factory=dict)
    """Name → value."""
    remove: tuple[str, ...] = ()
    """Names."""

    def over(self, others: Iterable[EditsConfig]) -> Self:
        """Return these edits on top of *others*, of which the first is the nearest.

        What is nearer counts: it may set what another one removes, and remove what
        another one sets.
        """
        fields: dict[str, tuple[str, str | None]] = {}
        added: dict[str, tuple[str, str]] = {}
        levels: list[EditsConfig] = [self, *others]
        for one in reversed(levels):
            for name, value in one.changes():
                fields[name.lower()] = name, value
                added.pop(name.lower(), None)
            for name, value in one.add.items():
                added[name.lower()] = name, value
        return type(self).model_construct(
            set={name: value for name, value in fields.values() if value is not None},
            add=dict(added.values()),
            remove=tuple(name for name, value in fields.values() if value is None),
        )

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each name that is edited in two ways."""
        seen: set[str] = set()
        for name, value in self.changes():
            if name.lower() in seen:
                yield Finding(
                    loc=("remove",) if value is None else ("set", name),
                    message=f"{name} is set or removed twice",
                    hint="Remove one of the two",
                )
            seen.add(name.lower())

    def changes(self) -> Iterator[tuple[str, str | None]]:
        """Yield the names that are set, with their values, and those removed: None."""
        yield from self.set.items()
        for name in self.remove:
            yield name, None


class RequestEditsConfig(EditsConfig):
    """Fields of requests that are changed for the service.

    The gateway's own fields, Host, and fields of the connection can't be changed.
    """

    set: Annotated[dict[EditedRequestField, FieldValue], SECRET] = Field(
        default_factory=dict
    )
    """Name → value. It takes the place of the client's fields of that name.

    On routes that don't set it, a client may send it.
    """
    add: Annotated[dict[EditedRequestField, FieldValue], SECRET] = Field(
        default_factory=dict
    )
    """Name → value. It comes after the client's fields of that name."""
    remove: tuple[EditedRequestField, ...] = ()
    """Names of the client's fields that the service doesn't get."""


class ReplyEditsConfig(EditsConfig):
    """Fields of replies that are changed for the client.

    The fields of CORS and of sessions, the gateway's own, and fields of the connection
    can't be changed. The gateway's own answers, such as a 401, aren't changed.
    """

    set: dict[EditedReplyField, FieldValue] = Field(default_factory=dict)
    """Name → value. It takes the place of the service's fields of that name."""
    add: dict[EditedReplyField, FieldValue] = Field(default_factory=dict)
    """Name → value. It comes after the service's fields of that name."""
    remove: tuple[EditedReplyField, ...] = ()
    """Names of the service's fields that the client doesn't get."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield findings about names edited twice, and about cookies of sessions."""
        yield from super().conflicts()
        for key in ("set", "add"):
            for name, value in getattr(self, key).items():
                try:
                    edits.check_reply_value(name, value)
                except ValueError as exc:
                    yield Finding(loc=(key, name), message=str(exc), hint="Remove it")


class RequestConfig(Model):
    """What a request on this route may contain, and what of it is changed."""

    max_body_size: Bytes | None = None
    """Largest request body. Unset: `gateway.limits.max_body_size`."""
    buffer: Bytes | None = None
    """Bodies up to this size arrive whole before their service is asked. 0: none do.

    Unset: `defaults.request.buffer`. A body without Content-Length is never awaited.
    """
    allow_field_names: tuple[AllowedField, ...] = ()
    """Names with `_` or `.` that are forwarded; other fields with them are dropped.

    Risk: a service that reads `_` as `-` takes such a field for the one with `-`.
    """
    encoded_slash: Literal["refuse", "keep"] = "refuse"
    """What happens to `%2F` in the path: 400, or it is forwarded unchanged.

    Risk: with `keep`, a service that decodes it may serve another path than the one
    that was matched. A path of a stricter route is refused (`gateway.near_misses`).
    """
    merge_slashes: Flag = True
    """False forwards `//` unchanged; at the beginning, slashes are merged in any case.

    Risk: as for `encoded_slash`, with services that merge them.
    """
    headers: RequestEditsConfig = RequestEditsConfig()


class RequestDefaultsConfig(Model):
    """What holds for the requests of all routes."""

    buffer: Bytes = 65536
    """Bodies up to this size arrive whole before their service is asked. 0: none do.

    A slow upload then holds no connection of the service.
    """
    headers: RequestEditsConfig = RequestEditsConfig()


class ResponseConfig(Model):
    """What of a service's reply is changed."""

    headers: ReplyEditsConfig = ReplyEditsConfig()
