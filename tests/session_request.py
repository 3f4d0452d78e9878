"""Session requests (`identity.SessionRequest`) made from header fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.http.fields import Fields
from gateway.http.lines import Line
from gateway.identity import SessionRequest
from gateway.session.credentials import CREDENTIAL_FIELDS


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    fields: Fields
    credential_lines: Sequence[Line]
    is_secure: bool
    authority: str


def session_request(
    method: str = "GET",
    path: str = "/x",
    fields: Fields = (),
    *,
    is_secure: bool = False,
    authority: str = "",
) -> SessionRequest:
    """Return a request with the credentials in *fields*.

    Values that the request parser would refuse become credential lines too.
    """
    credential_lines: list[Line] = []
    for name, value in fields:
        read = CREDENTIAL_FIELDS.get(name.lower())
        if read is not None:
            line = Line()
            line.raw = b"%b: %b\r\n" % (name, value)
            line.parsed = read(value)
            credential_lines.append(line)
    return _Request(method, path, tuple(fields), credential_lines, is_secure, authority)
