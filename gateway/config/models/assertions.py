"""PURE. The keys below `gateway.assertion` and `services.<name>.assertion`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import Flag, OwnPath, Seconds, Text
from gateway.config.models.base import Model

MAX_KEYS: Final = 8
MAX_NAME: Final = 256
"""Of an issuer or an audience, in characters: it is sent with each request."""
MIN_LIFETIME_S: Final = 10.0
"""Shorter ones would be refused where clocks differ."""
MAX_LIFETIME_S: Final = 600.0
"""A service accepts an assertion until it expires, whatever happens to its session."""


class AssertionConfig(Model):
    """Signed identity that services can check; see docs/signed-identity.md.

    Services get `X-Identity-Assertion`, a JWT for them alone, with each request of a
    session.
    """

    keys: Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_KEYS)]
    """Files with private keys for ES256, which `gateway keygen FILE` makes: readable by
    their owner only, or also by their group. The first key signs, and the public parts
    of all are published. They are read at start and at a reload.
    """
    issuer: Text | None = None
    """The claim `iss`. Unset: `supertokens.api_domain`."""
    lifetime: Seconds = 60.0
    """How long an assertion can be used, from 10 s to 10 m; never longer than its
    access token. It is sent with the session's requests for half of that time, and then
    a new one is made.

    Risk: a service accepts it until then, even if the session has been signed out.
    """
    jwks_path: OwnPath = "/.well-known/gateway-jwks.json"
    """Path at which the gateway answers everyone with the public keys (a JWK Set)."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield findings about values out of range, and about a key named twice."""
        if not MIN_LIFETIME_S <= self.lifetime <= MAX_LIFETIME_S:
            yield Finding(
                loc=("lifetime",),
                message="expected a duration from 10s to 10m",
                hint="Leave it out for 60 s",
            )
        if self.issuer is not None and len(self.issuer) > MAX_NAME:
            yield Finding(loc=("issuer",), message=_TOO_LONG)
        for index, name in enumerate(self.keys):
            if name in self.keys[:index]:
                yield Finding(
                    loc=("keys", index),
                    message="this file is listed twice",
                    hint="Remove one of them",
                )


_TOO_LONG: Final = f"this has more than {MAX_NAME} characters"


class ServiceAssertionConfig(Model):
    """Assertions to this service."""

    enabled: Flag = True
    """False: the service gets no assertions, whatever the route says.
    `assertion: false` is short for it."""
    audience: Text | None = None
    """The claim `aud`, which the service checks. Unset: the service's name.

    Risk: services with the same audience can use each other's assertions.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for a long audience."""
        if self.audience is not None and len(self.audience) > MAX_NAME:
            yield Finding(loc=("audience",), message=_TOO_LONG)


def short_assertion(value: object) -> object:
    """Return the keys that `assertion: false` is short for."""
    return {"enabled": value} if isinstance(value, bool) else value
