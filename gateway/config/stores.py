"""PURE. The address of a store that gateways share: a Redis server.

It is parsed only here: the client of the store connects to the `StoreAddress` that
`store_address` returns, and passes no other option on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from gateway.config.findings import wrong
from gateway.config.urls import host_and_port

_URL = re.compile(r"(rediss?)://(?:([^/?#]*)@)?([^/?#@]*)(.*)", re.DOTALL)
_DATABASE = re.compile(r"/(\d{1,5})?")
_DEFAULT_PORT: Final = 6379
_KEY = re.compile(r"[A-Za-z0-9._:{}-]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """Where a store is, and as whom to use it."""

    host: str
    """In lower case, IPv6 without brackets."""
    port: int
    is_tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def store_address(url: str) -> StoreAddress:
    """Return the address in `redis://[[user]:password@]host[:port][/database]`.

    With `rediss`, the connection has TLS. User and password may be percent-encoded.

    Raises:
        ValueError: *url* has another form.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise wrong(
            "expected redis://host:port, or rediss://host:port for TLS",
            "The form is redis://user:password@host:port/database. Percent-encode /, ?"
            " and # in a user or a password",
        )
    scheme, login, authority, rest = match.groups()
    database = _DATABASE.fullmatch(rest or "/")
    if database is None:
        raise wrong(
            "after the host there is only /database, a number",
            "Remove the rest: there are no options in this URL",
        )
    host = host_and_port(authority)
    if host.port == 0:
        raise wrong("no store can listen on port 0", "Write its port, such as 6379")
    username, password = _login(login)
    return StoreAddress(
        host=host.name.strip("[]"),
        port=host.port or _DEFAULT_PORT,
        is_tls=scheme == "rediss",
        username=username,
        password=password,
        database=int(database[1] or 0),
    )


def _login(login: str | None) -> tuple[str | None, str | None]:
    """Return the user and the password in `user:password`; None: there is none."""
    if login is None:
        return None, None
    username, _, password = login.partition(":")
    if not password:
        raise wrong(
            "the password is missing before the @",
            "Write redis://:password@host, or redis://user:password@host",
        )
    return unquote(username) or None, unquote(password)


def store_key(value: str) -> str:
    """Return *value*, the name of a key in a store.

    Raises:
        ValueError: it isn't a name that every tool for the store can show.
    """
    if _KEY.fullmatch(value) is None:
        raise wrong(
            "expected letters, digits and . _ : { } -, at most 200",
            "Choose a name such as shop:denials",
        )
    return value
