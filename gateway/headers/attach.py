"""PURE. Identity fields: a route's header templates, and the encoding of claims."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, assert_never

from gateway.errors import GatewayError
from gateway.headers import templates
from gateway.headers.edits import NO_EDITS, Edits
from gateway.headers.names import (
    HAS_BEARER,
    HAS_CREDENTIALS,
    HAS_ODD,
    LISTS,
    check_allowable,
    check_settable,
    fold,
)
from gateway.http.fields import Field, block
from gateway.identity import Principal, SessionIdentity

MAX_IDENTITY_BYTES = 8192
"""All identity fields of one request together. Node.js takes 16 KiB of head in all,
nginx and gunicorn about 8 KiB a field: more would fail at the upstream, unexplained."""


class IdentityTooLarge(GatewayError):
    """The session's claims don't fit into header fields.

    The request isn't forwarded: an upstream that gets no roles, or only some of them,
    would decide on wrong facts.
    """

    status = 431
    code = "identity_too_large"
    title = "The session's claims are too large to be passed on"


_Read = Callable[[SessionIdentity], Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeaderPolicy:
    """The fields that one route sets and allows. Made by `policy`, compared by id."""

    writers: tuple[tuple[bytes, _Read], ...]
    """For sessions: field name, and a function that returns the field's encoded text;
    None: no such field."""
    forward_credentials: bool
    forward_authorization: bool
    """Bearer tokens that are no session's are forwarded."""
    edits: Edits
    allowed: frozenset[bytes]
    """Odd names that are forwarded, in lower case."""
    marks: int
    """Marks of lines: in a request with one of these, the policy decides each line."""


def policy(
    identity_headers: Mapping[str, str],
    *,
    forward_credentials: bool = False,
    forward_authorization: bool = False,
    allow_field_names: Sequence[str] = (),
    edits: Edits = NO_EDITS,
) -> HeaderPolicy:
    """Return the policy of a route, from `identity.headers` and its related keys.

    *forward_credentials* implies *forward_authorization*.

    A template is text with `{user_id}`, `{recipe_user_id}`, `{session_handle}`,
    `{tenant_id}` and `{claims.a.b}` in it. When one of them has no value the field is
    absent. A route may give another meaning to a standard identity name.

    Raises:
        ValueError: a name or template is invalid; the message has the reason.
    """
    return _policy(
        tuple(identity_headers.items()),
        forward_credentials,
        forward_authorization or forward_credentials,
        tuple(allow_field_names),
        edits,
    )


@lru_cache(maxsize=256)  # equal routes share one policy, and its written fields
def _policy(
    identity_headers: tuple[tuple[str, str], ...],
    forward_credentials: bool,
    forward_authorization: bool,
    allow_field_names: tuple[str, ...],
    edits: Edits,
) -> HeaderPolicy:
    writers: dict[bytes, tuple[bytes, _Read]] = {
        fold(name): (name, read) for name, read in _STANDARD_WRITERS
    }
    for name, template in identity_headers:
        check_settable(name)
        written = name.encode()
        writers[fold(written)] = (written, _template(template))
    for name in allow_field_names:
        check_allowable(name)
    return HeaderPolicy(
        writers=tuple(writers.values()),
        forward_credentials=forward_credentials,
        forward_authorization=forward_authorization,
        edits=edits,
        allowed=frozenset(name.lower().encode() for name in allow_field_names),
        marks=LISTS
        | edits.marks
        | (HAS_CREDENTIALS if forward_credentials else 0)
        | (HAS_BEARER if forward_authorization else 0)
        | (HAS_ODD if allow_field_names else 0),
    )


def _template(template: str) -> _Read:
    parts: list[str | _Read] = [
        part if isinstance(part, str) else _reader(part)
        for part in templates.parse(template)
    ]

    def write(identity: SessionIdentity) -> str | None:
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            value = part(identity)
            if value is None:
                return None
            text += _written(value)
        return text

    return write


def _reader(place: templates.Place) -> _Read:
    first, *path = place
    if path:
        return lambda identity: _claim(identity.claims, path)
    return attrgetter(first)


def _claim(claims: Any, path: Sequence[str]) -> Any:
    """Return the claim at *path*, None when there is none."""
    for key in path:
        if not isinstance(claims, dict) or key not in claims:
            return None
        claims = claims[key]
    return claims


# --- values -----------------------------------------------------------------

# Printable ASCII but `%`, no space at the ends: needs no encoding.
_IS_SAFE = re.compile(r"(?:[!-$&-~](?:[ -$&-~]*[!-$&-~])?)?").fullmatch
_UNSAFE = re.compile(rb"^ +| +$|[^ !-$&-~]")
# The same without the comma.
_IS_SAFE_ELEMENT = re.compile(
    r"(?:[!-$&-+\x2d-~](?:[ -$&-+\x2d-~]*[!-$&-+\x2d-~])?)?"
).fullmatch
_UNSAFE_ELEMENT = re.compile(rb"^ +| +$|[^ !-$&-+\x2d-~]")


def escaped(text: str) -> str:
    """Return *text* as printable ASCII; percent-decoding gives *text* back."""
    return text if _IS_SAFE(text) else _percent_encoded(text, _UNSAFE)


def _escaped_element(text: str) -> str:
    """Return an element of a list as `_escaped` does, with commas escaped, too."""
    return text if _IS_SAFE_ELEMENT(text) else _percent_encoded(text, _UNSAFE_ELEMENT)


def _percent_encoded(text: str, unsafe: re.Pattern[bytes]) -> str:
    return unsafe.sub(
        lambda match: b"".join(b"%%%02X" % byte for byte in match[0]),
        text.encode("utf-8", "surrogatepass"),
    ).decode()


def _written(value: Any) -> str:
    """Return a claim as the text of a field.

    Text and numbers are themselves; a list is its elements between commas, so a comma
    inside one of them is escaped; anything else is JSON. Percent-decoding (of each
    element, for a list) gives the claim back.
    """
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return ",".join(
            _escaped_element(part if isinstance(part, str) else _json(part))
            for part in value
        )
    return escaped(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def names_of(identity: SessionIdentity, claim: str) -> list[str] | None:
    """Return a SuperTokens claim that is a list of names, sorted; None: it has none."""
    value = _claim(identity.claims, (claim, "v"))
    if not isinstance(value, list):
        return None
    return sorted(part for part in value if isinstance(part, str))


def _sorted_list(claim: str) -> _Read:
    """Return a writer of a SuperTokens claim that is a list of names."""

    def write(identity: SessionIdentity) -> str | None:
        names = names_of(identity, claim)
        return None if names is None else _written(names)

    return write


def _plain(name: str) -> _Read:
    read = attrgetter(name)
    return lambda identity: escaped(read(identity))


def _recipe_user_id(identity: SessionIdentity) -> str | None:
    """Return the recipe user id if it differs from the user id (linked accounts)."""
    if identity.recipe_user_id == identity.user_id:
        return None
    return escaped(identity.recipe_user_id)


_STANDARD_WRITERS: tuple[tuple[bytes, _Read], ...] = (
    (b"X-User-Id", _plain("user_id")),
    (b"X-Recipe-User-Id", _recipe_user_id),
    (b"X-Session-Handle", _plain("session_handle")),
    (b"X-Tenant-Id", _plain("tenant_id")),
    (b"X-User-Roles", _sorted_list("st-role")),
    (b"X-User-Permissions", _sorted_list("st-perm")),
)
_AUTHENTICATED: Field = (b"X-Auth-Status", b"authenticated")
ANONYMOUS: Field = (b"X-Auth-Status", b"anonymous")
_MAX_WRITTEN = 8
"""The most policies whose fields one principal holds, for as long as it exists."""


def identity_fields(principal: Principal, policy: HeaderPolicy) -> bytes:
    """Return the fields that identify *principal* to the upstream, each with CRLF.

    Raises:
        IdentityTooLarge: together they exceed `MAX_IDENTITY_BYTES`.
    """
    written = principal.written.get(policy)
    if written is not None:
        return written
    made: list[Field] = [_AUTHENTICATED]
    match principal:
        case SessionIdentity():
            for name, write in policy.writers:
                text = write(principal)
                if text is not None:
                    made.append((name, text.encode("ascii")))
        case never:
            assert_never(never)
    if sum(len(name) + len(value) for name, value in made) > MAX_IDENTITY_BYTES:
        raise IdentityTooLarge
    if len(principal.written) >= _MAX_WRITTEN:
        principal.written.clear()
    principal.written[policy] = written = block(made)
    return written
