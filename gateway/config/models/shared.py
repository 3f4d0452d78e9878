"""PURE. The keys below `gateway.shared`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway.config.findings import Finding
from gateway.config.forms import AbsolutePath, Seconds
from gateway.config.models.base import Model
from gateway.config.secret import SECRET
from gateway.config.stores import StoreAddress, store_address, store_key

_MIN_GRACE_S = 3.0
"""An outage that shows at once may be noticed that late."""


def _store_url(value: str) -> str:
    store_address(value)
    return value


class SharedConfig(Model):
    """What gateways with the same core (replicas) tell each other; see
    docs/replicas.md."""

    redis: Annotated[str, AfterValidator(_store_url), Field(repr=False), SECRET]
    """The Redis server (6.2 or newer) over which sessions that have ended are made
    known: `redis://user:password@host:port/database`, or `rediss://` for TLS. Take it
    from the environment: `${REDIS_URL}`. Needs the extra `redis`.

    Risk: whoever may write to it can sign users out, and reads ids of sessions and
    users.
    """
    on_failure: Literal["local", "refuse"] = "local"
    """What happens while the server can't be reached. `local`: sessions that end at
    other replicas are accepted here until it is back. `refuse`: after `grace`,
    requests with a session are answered with 503.

    Risk: with `refuse`, an outage of Redis is one of all routes with sessions.
    """
    grace: Seconds = 5.0
    """With `refuse`: how long the server may be away before requests are refused; at
    least 3 s."""
    key: Annotated[str, AfterValidator(store_key)] | None = None
    """Name of the stream in Redis. Replicas with the same name share their sessions.
    Unset: one made from `supertokens.connection_uri`, so that gateways of different
    cores don't mix."""
    ca_file: AbsolutePath | None = None
    """With `rediss`: PEM file with the certificate authorities that are trusted. Unset:
    those of the system."""

    @property
    def address(self) -> StoreAddress:
        """Where the server is."""
        return store_address(self.redis)

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each setting that can have no effect."""
        if self.grace < _MIN_GRACE_S:
            yield Finding(
                loc=("grace",),
                message="this is less than 3 s, within which an outage may not show",
                hint="Write 5s, or leave it out for 5 s",
            )
        if self.ca_file is not None and not self.address.is_tls:
            yield Finding(
                loc=("ca_file",),
                message="redis:// has no TLS, so nothing is verified",
                hint="Write rediss:// in gateway.shared.redis, or remove ca_file",
            )
