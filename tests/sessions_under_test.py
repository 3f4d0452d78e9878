"""The session authenticator, alone in an engine, with fake keys and a fake core.

here = world()
verdict = await here.ask(GOOD, ALWAYS)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from minting import ISSUER, NOW, Mint, private_key
from session_request import session_request

from gateway import config
from gateway.http.fields import Fields
from gateway.identity import (
    Allowed,
    CheckDatabase,
    Denied,
    Protection,
    Requirements,
    SessionIdentity,
    SessionPolicy,
    SessionRequest,
    Verdict,
)
from gateway.session import tokens
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.keys import Missing
from gateway.session.requirements import Check
from gateway.session.rules import SessionRules
from gateway.verify import Engine

MINT = Mint()


OTHER = Mint(kid="d-2", key=private_key("other"))


GOOD = MINT.token()


JSON = ((b"Content-Type", b"application/json; charset=utf-8"),)


REQUIRED = SessionPolicy()


OPTIONAL = SessionPolicy(protection=Protection.OPTIONAL)


PUBLIC = SessionPolicy(protection=Protection.PUBLIC)


ALWAYS = SessionPolicy(check_database=CheckDatabase.ALWAYS)


ADMINS = SessionPolicy(requirements=Requirements(roles_any=("admin",)))


@dataclass
class FakeKeys:
    """A key store whose fetch adds the keys *more*, or returns *missing*."""

    keys: dict[str, RSAPublicKey] = field(
        default_factory=lambda: {"d-1": MINT.key.public_key()}
    )
    more: dict[str, RSAPublicKey] = field(default_factory=dict)
    missing: Missing = Missing.UNKNOWN
    usable_s: float = 1000.0
    sought: list[str] = field(default_factory=list)

    def get(self, kid: str) -> RSAPublicKey | None:
        return self.keys.get(kid)

    async def seek(self, kid: str) -> RSAPublicKey | Missing:
        self.sought.append(kid)
        self.keys |= self.more
        return self.keys.get(kid, self.missing)

    def usable_for_s(self) -> float:
        return self.usable_s


Answer = Callable[[], Awaitable[Allowed | Denied]]


@dataclass
class FakeCore:
    """A core whose checks end with *answer*; it records their arguments."""

    answer: Answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def check(
        self,
        request: SessionRequest,
        *,
        is_required: bool,
        check_database: bool,
        checks: Sequence[Check],
        validators: Sequence[str],
    ) -> Allowed | Denied:
        self.asked.append(
            {
                "method": request.method,
                "is_required": is_required,
                "check_database": check_database,
                "checks": [check.id for check in checks],
                "validators": list(validators),
            }
        )
        self.was_asked.set()
        return await self.answer()


def identity(**claims: Any) -> SessionIdentity:
    """Return the session of a token with *claims*."""
    token = tokens.parse(MINT.token(**claims))
    assert token is not None
    return tokens.identity(token)


def session(handle: str) -> SessionIdentity:
    """Return a session by its handle."""
    return identity(sessionHandle=handle)


NEW_TOKENS: Fields = ((b"st-access-token", b"new"), (b"front-token", b"x"))


def says(verdict: Allowed | Denied) -> Answer:
    async def answer() -> Allowed | Denied:
        return verdict

    return answer


def allows(
    *, new_tokens: Fields = (), claims: Mapping[str, Any] | None = None
) -> Answer:
    allowed = Allowed(
        principal=identity(**claims or {}), reason="core", new_tokens=new_tokens
    )
    return says(allowed)


def raises(error: BaseException) -> Answer:
    async def answer() -> Allowed | Denied:
        raise error

    return answer


CLEARS: Fields = (*JSON, (b"front-token", b"remove"))


FRESH = MINT.token(parentRefreshTokenHash1="b" * 64)
"""An access token from a refresh that the core hasn't seen used yet."""
GONE = Denied(status=401, body=b'{"message":"unauthorised"}', fields=CLEARS)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """An engine with one authenticator, and their keys, core and clock."""

    keys: FakeKeys
    core: FakeCore
    clock: Clock
    sessions: SessionAuthenticator
    engine: Engine

    async def ask(
        self,
        token: str | None = GOOD,
        policy: SessionPolicy = REQUIRED,
        *,
        method: str = "GET",
        cookies: Sequence[str] = (),
        **fields: str,
    ) -> Verdict:
        return await self.engine.verify(
            request(token, method=method, cookies=cookies, **fields), policy
        )


def request(
    token: str | None = None,
    *,
    method: str = "GET",
    cookies: Sequence[str] = (),
    **fields: str,
) -> SessionRequest:
    """Return a request; `_` in the name of a field stands for `-`."""
    pairs = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in fields.items()
    ]
    if token is not None:
        pairs.append((b"Authorization", b"Bearer " + token.encode("latin-1")))
    if cookies:
        pairs.append((b"Cookie", "; ".join(cookies).encode("latin-1")))
    return session_request(method, fields=tuple(pairs))


RULES = SessionRules(tokens=tokens.TokenRules(issuers=frozenset({ISSUER})))


def world(
    rules: SessionRules = RULES,
    *,
    cache: config.CacheConfig | None = None,
    client: config.CoreConfig | None = None,
) -> World:
    keys, core, clock = FakeKeys(), FakeCore(allows()), Clock()
    sessions = SessionAuthenticator(
        keys=keys,
        core=core,
        rules=rules,
        cache=cache or config.CacheConfig(),
        client=client or config.CoreConfig(),
        clock=clock,
    )
    engine = Engine((sessions,), unauthorised=sessions.refusals.unauthorised)
    return World(keys, core, clock, sessions, engine)


def refused(verdict: Verdict) -> str:
    """Return the reason of a 401; assert that it is the SDK's, byte for byte."""
    assert isinstance(verdict, Denied)
    assert verdict.status == 401
    assert verdict.fields == JSON
    is_final = verdict.reason in {"unauthorised", "session_ended"}
    message = b"unauthorised" if is_final else b"try refresh token"
    assert verdict.body == b'{"message":"%b"}' % message
    return verdict.reason


def failed(verdict: Verdict) -> list[str]:
    """Return the ids of the claims that a 403 lists."""
    assert isinstance(verdict, Denied)
    assert (verdict.status, verdict.reason) == (403, "invalid_claim")
    return [error["id"] for error in json.loads(verdict.body)["claimValidationErrors"]]


def who(verdict: Verdict) -> str | None:
    assert isinstance(verdict, Allowed)
    return None if verdict.principal is None else verdict.principal.user_id


def reason(verdict: Verdict) -> str:
    return verdict.reason


def role_claim(*roles: str, age_s: float = 0.0) -> dict[str, Any]:
    return {"v": list(roles), "t": (NOW - age_s) * 1000}
