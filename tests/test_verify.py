"""The chain of authenticators: which one decides, and how failures end."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sessions_under_test import (
    ALWAYS,
    GOOD,
    MINT,
    OPTIONAL,
    OTHER,
    PUBLIC,
    REQUIRED,
    RULES,
    identity,
    raises,
    reason,
    request,
    who,
    world,
)

from gateway.errors import CoreUnavailable
from gateway.http.fields import first
from gateway.identity import (
    ABSENT,
    Absent,
    Allowed,
    ClaimRule,
    Denied,
    Pending,
    Principal,
    Protection,
    Requirements,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
)
from gateway.session import authenticator
from gateway.verify import Engine


async def test_public_routes_read_no_session() -> None:
    """A request is anonymous there, with an invalid token as with a valid one."""
    here = world()
    assert who(await here.ask("junk", PUBLIC, cookies=["sIdRefreshToken=x"])) is None
    assert reason(await here.ask(GOOD, PUBLIC)) == "public"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CoreUnavailable("secret"), "core_unavailable"),
        (TimeoutError("secret"), "core_timeout"),
        (RuntimeError("secret"), "internal_error"),
        (KeyError("secret"), "internal_error"),
        (RecursionError("secret"), "internal_error"),
        (MemoryError("secret"), "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
@pytest.mark.parametrize("place", ["core", "sdk only", "seek", "get", "credentials"])
async def test_every_failure_is_undecided(
    error: Exception,
    expected: str,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error anywhere gives `Undecided`; unexpected ones are logged, without data.

    Of several requests with the same error only the first is logged. A public route
    isn't affected.
    """

    def fails(*_: object) -> Any:
        raise error

    async def fails_later(_: object) -> Any:
        raise error

    here = world(replace(RULES, is_sdk_only=place == "sdk only"))
    here.core.answer = raises(error)
    token, policy = GOOD, REQUIRED
    match place:
        case "core":
            policy = ALWAYS
        case "seek":
            token = OTHER.token()
            monkeypatch.setattr(here.keys, "seek", fails_later)
        case "get":
            monkeypatch.setattr(here.keys, "get", fails)
        case "credentials":
            monkeypatch.setattr(authenticator, "choose", fails)
        case _:
            pass
    for protection in (Protection.REQUIRED, Protection.OPTIONAL):
        verdict = await here.ask(token, replace(policy, protection=protection))
        assert verdict == Undecided(reason=expected)
    assert len(caplog.records) == (1 if expected == "internal_error" else 0)
    assert "secret" not in caplog.text
    assert token not in caplog.text
    assert who(await here.ask(None, PUBLIC)) is None


async def test_cancellation_is_not_swallowed() -> None:
    """A cancellation during the check is raised; it isn't turned into a verdict."""
    here = world()

    async def seek(kid: str) -> Any:
        raise asyncio.CancelledError

    here.keys.seek = seek  # type: ignore[method-assign] # of this fake alone
    with pytest.raises(asyncio.CancelledError):
        await here.ask(OTHER.token())


async def test_a_refusal_that_cannot_be_written_is_undecided() -> None:
    """A claim of NaN can't be written as JSON, so there is no body for a 403."""
    here = world()
    log = logging.getLogger("gateway.verify")
    log.disabled = True
    rule = ClaimRule(path=("x",), equals=1, has_equals=True)
    policy = SessionPolicy(requirements=Requirements(claims=(rule,)))
    try:
        verdict = await here.ask(MINT.token(x=float("nan")), policy)
    finally:
        log.disabled = False
    assert verdict == Undecided(reason="internal_error")


# --- the chain ---


@dataclass
class Fake:
    """An authenticator whose credential is the request field of its name."""

    name: bytes
    verdict: Verdict
    is_pending: bool = False
    """Whether its verdict must be awaited."""
    judged: int = 0

    def judge(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | Absent | Pending:
        self.judged += 1
        if first(request.fields, self.name) is None:
            return ABSENT
        return Pending(self._wait) if self.is_pending else self.verdict

    async def _wait(self) -> Verdict | Absent:
        return self.verdict

    def has_ended(self, principal: Principal) -> bool:
        return principal.user_id == self.name.decode()


def allowed(user_id: str) -> Allowed:
    return Allowed(principal=identity(sub=user_id), reason="fake")


REFUSED = Denied(status=401, body=b"a is bad")
UNAUTHORISED = Denied(status=401, body=b"no credential")


def fake_chain(**changes: Any) -> tuple[Engine, Fake, Fake]:
    """Return an engine with two authenticators, for the fields `a` and `b`."""
    a = replace(Fake(b"a", allowed("a")), **changes)
    b = Fake(b"b", allowed("b"))
    return Engine((a, b), unauthorised=UNAUTHORISED), a, b


@pytest.mark.parametrize(
    ("credentials", "changes", "expected"),
    [
        ("a", {}, "a"),
        ("b", {}, "b"),
        ("ab", {}, "a"),
        ("ab", {"is_pending": True}, "a"),
        ("b", {"is_pending": True}, "b"),
        ("ab", {"verdict": REFUSED}, REFUSED),
        ("ab", {"verdict": REFUSED, "is_pending": True}, REFUSED),
        ("ab", {"verdict": Undecided(reason="x")}, Undecided(reason="x")),
        ("", {}, UNAUTHORISED),
    ],
    ids=[
        "first",
        "second",
        "first of both",
        "first, pending",
        "second, not pending",
        "first is refused",
        "first is refused, pending",
        "first is undecided",
        "none",
    ],
)
async def test_the_first_credential_decides(
    credentials: str, changes: dict[str, Any], expected: str | Verdict
) -> None:
    """The first authenticator in the chain that finds its credential decides.

    A valid second credential doesn't replace an invalid first one. `verify_now` has the
    same verdict, or None if it must be awaited.
    """
    engine, a, b = fake_chain(**changes)
    session_request = request(**dict.fromkeys(credentials, "x"))
    verdict = await engine.verify(session_request, REQUIRED)
    assert (who(verdict) if isinstance(expected, str) else verdict) == expected
    assert (a.judged, b.judged) == (1, 0 if "a" in credentials else 1)
    now = engine.verify_now(session_request, REQUIRED)
    assert now is (None if a.is_pending and "a" in credentials else verdict)


@pytest.mark.parametrize("at_once", [True, False])
async def test_without_a_credential_the_route_decides(at_once: bool) -> None:
    """The request is anonymous where a session is optional, and refused elsewhere.

    On a public route no authenticator is called.
    """
    engine, a, b = fake_chain()

    async def ask(policy: SessionPolicy) -> Verdict | None:
        if at_once:
            return engine.verify_now(request(), policy)
        return await engine.verify(request(), policy)

    anonymous = Allowed(principal=None, reason="anonymous")
    assert await ask(PUBLIC) == Allowed(principal=None, reason="public")
    assert (a.judged, b.judged) == (0, 0)
    assert await ask(OPTIONAL) == anonymous
    assert await ask(REQUIRED) == UNAUTHORISED


async def test_a_pending_authenticator_may_find_no_credential() -> None:
    """Then the next one in the chain decides."""
    engine, a, b = fake_chain(verdict=ABSENT, is_pending=True)
    assert who(await engine.verify(request(a="x", b="x"), REQUIRED)) == "b"
    assert await engine.verify(request(a="x"), REQUIRED) == UNAUTHORISED
    assert (a.judged, b.judged) == (2, 2)


@pytest.mark.parametrize("place", [0, 1])
async def test_a_failure_anywhere_in_the_chain_is_undecided(place: int) -> None:
    """Even if another authenticator has found no credential before."""
    engine, *fakes = fake_chain()

    def fails(*_: object) -> Any:
        raise CoreUnavailable

    fakes[place].judge = fails  # type: ignore[assignment, method-assign]
    engine = Engine(fakes, unauthorised=UNAUTHORISED)
    unavailable = Undecided(reason="core_unavailable")
    assert engine.verify_now(request(), OPTIONAL) == unavailable
    assert await engine.verify(request(), OPTIONAL) == unavailable


def test_any_authenticator_may_report_that_a_principal_has_ended() -> None:
    """A principal has ended if one authenticator of the chain reports it."""
    engine, _, _ = fake_chain()
    ended = [engine.has_ended(identity(sub=name)) for name in ("a", "b", "c")]
    assert ended == [True, True, False]


@pytest.mark.parametrize("is_pending", [False, True])
async def test_no_credential_is_allowed_while_denials_are_unknown(
    is_pending: bool,
) -> None:
    """What is refused anyway still is; a request without a credential is as before."""
    engine, a, _ = fake_chain(is_pending=is_pending)
    unknown = Undecided(reason="denials_unknown")
    engine.refuse_sessions(is_on=True)
    for names in ("a", "b", "ab"):
        for policy in (REQUIRED, OPTIONAL):
            shown = request(**dict.fromkeys(names, "x"))
            assert engine.verify_now(shown, policy) == unknown
            assert await engine.verify(shown, policy) == unknown
    shown = request()
    assert engine.verify_now(shown, REQUIRED) == UNAUTHORISED
    assert reason(await engine.verify(shown, OPTIONAL)) == "anonymous"
    shown = request(a="x")
    assert reason(await engine.verify(shown, PUBLIC)) == "public"
    a.verdict = REFUSED
    expected = unknown if is_pending else REFUSED
    assert await engine.verify(shown, REQUIRED) == expected
    engine.refuse_sessions(is_on=False)
    assert await engine.verify(shown, REQUIRED) == REFUSED
