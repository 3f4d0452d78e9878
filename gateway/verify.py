"""edge. The verification engine: a request's credentials in, a verdict out.

What needs no core is judged here and remembered; the rest goes to the SDK.

1 public? → 2 credentials as the SDK picks them → 3 remembered, or parsed and judged →
4 anti-CSRF → 5 the core, when it must be asked → 6 the route's requirements.
Whatever goes wrong is `Undecided`, so nothing is let through unverified.

Facts (supertokens-python 0.31.4; `tokens` lists where a token is judged stricter):
- A bearer token that parses wins over the cookie. Neither parsing is no session.
- A legacy `sIdRefreshToken` cookie, or a second access cookie, asks for a refresh.
- Anti-CSRF is for cookies and for every method but GET; HEAD is another method.
- The SDK refuses OPTIONS where a session is required (500) and lets it through as
  anonymous where it is optional. Here OPTIONS is judged like any other method.
- A session that the core says is gone is refused on every route from then on, not
  only where `check_database` asks.
- A refusal from the deny-list clears no tokens: an old request that comes late would
  log a new session out. The client's refresh is refused by the core, which clears.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, assert_never

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway import config, requirements, tokens
from gateway.errors import CoreUnavailable
from gateway.fields import Field
from gateway.http.lines import HELD_MAX_BYTES, Line
from gateway.identity import (
    SAFE_METHODS,
    Allowed,
    CheckDatabase,
    Denied,
    Identity,
    Protection,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
    credentials,
)
from gateway.keys import KeySet, Missing
from gateway.requirements import Check
from gateway.tokens import Token

DENY_S = 4 * 3600.0
"""How long a denied session is remembered at least. Core tokens live 1 h by default;
where longer ones are seen, it is the longest life seen."""
_MAX_DENY_S = 7 * 86_400.0
_MAX_DENIED = 100_000
"""Sessions on the deny-list, about 200 bytes each."""
_MAX_QUESTIONS = 1024
"""Questions to the core that may be open or waiting; more are `Undecided` at once."""
_MAX_LOGGED = 64
_KEY_CHARS = 32
"""By so much of a token's end its verdict is found: 192 bits of the signature. The rest
is compared, which costs a tenth of what it costs to hash a thousand characters."""
_JSON: Field = (b"Content-Type", b"application/json; charset=utf-8")
_PUBLIC = Allowed(identity=None, reason="public")
_ANONYMOUS = Allowed(identity=None, reason="anonymous")
# Looking a member up in its enumeration costs more than all the rest of the test.
_IS_PUBLIC = Protection.PUBLIC

_log = logging.getLogger("gateway.verify")


class AntiCsrf(StrEnum):
    """How a request with a cookie shows that no other site made it."""

    NONE = "NONE"
    VIA_CUSTOM_HEADER = "VIA_CUSTOM_HEADER"
    VIA_TOKEN = "VIA_TOKEN"  # noqa: S105 - a mode, no secret


class Transfer(StrEnum):
    """Where the access token is looked for."""

    ANY = "any"
    HEADER = "header"
    COOKIE = "cookie"


class GlobalClaims(StrEnum):
    """What the SDK's recipes demand of the claims of every session."""

    NONE = "none"
    EMAIL_VERIFIED = "email_verified"
    OTHER = "other"
    """Something that only the SDK can judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How sessions are judged, as the SDK is set up."""

    tokens: tokens.Rules
    anti_csrf: AntiCsrf = AntiCsrf.NONE
    transfer: Transfer = Transfer.ANY
    global_claims: GlobalClaims = GlobalClaims.NONE
    is_sdk_only: bool = False
    """Only the SDK can tell: its behaviour is overridden, or depends on the request."""
    session_expired_status: int = 401
    invalid_claim_status: int = 403


class Keys(Protocol):
    """The core's signing keys (`keys.KeyStore`)."""

    def get(self, kid: str) -> RSAPublicKey | None: ...

    async def seek(self, kid: str) -> RSAPublicKey | Missing: ...

    def usable_for_s(self) -> float: ...


class CoreSession(Protocol):
    """The SDK: asks the core, and judges what only it can."""

    async def check(
        self,
        request: SessionRequest,
        *,
        is_required: bool,
        check_database: bool,
        checks: Sequence[Check],
        validators: Sequence[str],
    ) -> Allowed | Denied:
        """Return the SDK's verdict on the request's session.

        *checks* say when a claim is fetched again; they are judged after the SDK's
        global validators, and before *validators*, dotted names of the user's own.

        Raises:
            CoreUnavailable: the core had to be asked and couldn't be.
        """
        ...


class _Plan:
    """What a route's policy comes to under the present rules."""

    __slots__ = (
        "checks",
        "is_required",
        "is_simple",
        "max_age_s",
        "needs_sdk",
        "route_checks",
        "validators",
        "when",
    )

    def __init__(self, policy: SessionPolicy, rules: Rules) -> None:
        self.is_required = policy.protection is Protection.REQUIRED
        self.when = policy.check_database
        self.max_age_s = policy.max_age_s
        globally_verified = rules.global_claims is GlobalClaims.EMAIL_VERIFIED
        self.checks = requirements.checks(
            policy.requirements, globally_verified=globally_verified
        )
        # The SDK adds its global one itself, and would list it twice.
        self.route_checks = self.checks[1:] if globally_verified else self.checks
        self.validators = policy.requirements.validators
        self.needs_sdk = bool(self.validators) or (
            rules.global_claims is GlobalClaims.OTHER
        )
        self.is_simple = (
            not self.checks and not self.needs_sdk and self.when is CheckDatabase.NEVER
        )
        """A good token is all it takes."""


class _Entry:
    """A token that was verified. Nothing in it depends on a route or a request."""

    __slots__ = (
        "allowed",
        "anti_csrf",
        "core_at",
        "identity",
        "line",
        "needs_core",
        "text",
        "until",
    )

    def __init__(self, text: str, token: Token, until: float) -> None:
        self.text = text
        self.identity = tokens.identity(token)
        self.allowed = Allowed(identity=self.identity, reason="cached")
        self.anti_csrf = tokens.anti_csrf(token)
        self.needs_core = tokens.needs_core(token)
        self.until = min(until, self.identity.expires_at)
        """When it must be verified again, in seconds since the epoch."""
        self.core_at = float("-inf")
        """When the core last said that the session exists."""
        self.line: Line | None = None
        """The line that showed the token last. The reader of heads finds it again
        without judging its bytes, for as long as it is held here."""


def _line_of(text: str, shown: Sequence[Line]) -> Line:
    """Return the line among *shown* that has the token *text*."""
    return next(
        line
        for line in shown
        if line.says.bearer is text or text in line.says.access_cookies
    )


class _NeedsKey(NamedTuple):
    """No verdict before the key store has been asked for a key."""

    kid: str


class _NeedsCore(NamedTuple):
    """No verdict before the core has been asked about a token that is good so far."""

    plan: _Plan
    entry: _Entry
    token: str
    by_header: bool
    asks_database: bool

    @property
    def key(self) -> object:
        """What two requests must have in common to share one answer."""
        plan = self.plan if self.plan.checks or self.plan.needs_sdk else None
        return self.token, self.by_header, self.asks_database, plan


class _Question:
    """A question to the core, and who may share its answer."""

    __slots__ = ("asked_at", "before", "task")

    def __init__(self, before: asyncio.Task[Verdict] | None = None) -> None:
        self.before = before
        """The question to wait for: of one kind, one is asked at a time."""
        self.asked_at: float | None = None
        """When it was sent; None: it waits for its turn."""
        self.task: asyncio.Task[Verdict]

    def serves(self, need: _NeedsCore, method: str, now: float) -> bool:
        """Tell whether a request that comes *now* may have the answer, too.

        Not when the answer can be older than the route allows: the session may have
        been revoked between the question and the request.
        """
        return (
            self.asked_at is None
            or not need.asks_database
            or not _asks_database(need.plan, method, now - self.asked_at)
        )


class Engine:
    """Implements `identity.Verifier` for one SDK, one key store and one event loop."""

    def __init__(
        self,
        *,
        keys: Keys,
        core: CoreSession,
        rules: Rules,
        cache: config.Cache,
        client: config.CoreClient,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """*clock* is in seconds since the epoch."""
        self._keys = keys
        self._core = core
        self._rules = rules
        self._is_sdk_only = rules.is_sdk_only
        self._clock = clock
        self._max_entries = cache.size
        self._max_age_s = cache.max_age
        self._core_timeout_s = client.timeout
        self._slots = asyncio.Semaphore(client.max_concurrent)
        self._takes_header = rules.transfer is not Transfer.COOKIE
        self._takes_cookie = rules.transfer is not Transfer.HEADER
        self._plans: dict[SessionPolicy, _Plan] = {}
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._denied: OrderedDict[str, float] = OrderedDict()
        self._longest_life_s = DENY_S
        self._latest: dict[object, _Question] = {}
        self._questions: set[asyncio.Task[Verdict]] = set()
        self._logged: set[str] = set()
        self._unauthorised = self._refusal("unauthorised", "unauthorised")
        self._gone = self._refusal("unauthorised", "session_ended")
        self.on_denied: Callable[[str, float], None] | None = None
        """Called with the handle of each session that is refused from then on, and
        until when it is, in seconds since the epoch."""

    # --- the verifier -------------------------------------------------------

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        """Return the verdict if nobody must be asked for it, None otherwise."""
        if policy.protection is _IS_PUBLIC:
            return _PUBLIC
        if self._is_sdk_only:
            return None
        try:
            plan = self._plans.get(policy) or self._plan(policy)
            found = self._judge(request, plan)
        except Exception as exc:  # noqa: BLE001 - the boundary: fail closed
            return self._undecided(exc)
        if type(found) is Allowed:  # nearly always
            return found
        return None if isinstance(found, (_NeedsKey, _NeedsCore)) else found

    async def verify(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        """Return whether *request* may go on under *policy*. Never raises.

        Cancellation excepted, which ends only this request's own wait.
        """
        if policy.protection is _IS_PUBLIC:
            return _PUBLIC
        try:
            plan = self._plans.get(policy) or self._plan(policy)
            if self._is_sdk_only:
                return await self._by_sdk(request, plan)
            found = self._judge(request, plan)
            if isinstance(found, Allowed):  # nearly always
                return found
            if isinstance(found, _NeedsKey):
                found = await self._seek(found.kid) or self._judge(request, plan)
            match found:
                case _NeedsCore():
                    return await self._by_core(request, found)
                case _NeedsKey():  # it came and went again
                    return Undecided(reason="keys_unavailable")
                case _:
                    return found
        except Exception as exc:  # noqa: BLE001 - the boundary: fail closed
            return self._undecided(exc)

    def _judge(
        self, request: SessionRequest, plan: _Plan
    ) -> Verdict | _NeedsKey | _NeedsCore:
        """Return the verdict on *request*, or what must be waited for to have one."""
        # 2 credentials
        lines = request.shown
        text, cookies, anti_csrf, has_rid, is_legacy, _, _ = credentials(lines)
        if is_legacy:
            return self._try_refresh("legacy_session")
        entries = self._entries
        entry: _Entry | None = None
        token: Token | None = None
        if text is not None and self._takes_header:
            entry = entries.get(text[-_KEY_CHARS:])
            if entry is None or entry.text != text:
                entry, token = None, tokens.parse(text)
        by_header = entry is not None or token is not None
        if not by_header:
            if not cookies or not self._takes_cookie:
                return self._absent(plan)
            text = cookies[-1]
            entry = entries.get(text[-_KEY_CHARS:])
            if entry is None or entry.text != text:
                entry, token = None, tokens.parse(text)
                if token is None:
                    return self._absent(plan)
            if len(cookies) > 1:
                return self._try_refresh("several_access_cookies")
        assert text is not None

        # 3 remembered, or parsed and judged
        now = self._clock()
        if entry is not None and entry.until <= now:
            del entries[text[-_KEY_CHARS:]]
            entry, token = None, tokens.parse(text)
        if entry is not None:
            allowed = entry.allowed
        else:
            assert token is not None
            judged = self._judged(text, token, now)
            if not isinstance(judged, _Entry):
                return judged
            entry = judged
            allowed = Allowed(identity=entry.identity, reason="local")
            if not entry.needs_core:
                self._remember(entry, now)
        line = lines[0] if len(lines) == 1 else _line_of(text, lines)
        if len(line.raw) <= HELD_MAX_BYTES:
            entry.line = line
        if self._denied and self._is_denied(entry.identity.session_handle, now):
            return self._gone

        # 4 anti-CSRF
        if not by_header and request.method != "GET":
            refused = self._forged(anti_csrf, entry, has_rid=has_rid)
            if refused is not None:
                return refused

        # 5 the core
        if plan.is_simple and not entry.needs_core:
            return allowed
        claims = entry.identity.claims
        asks = _asks_database(plan, request.method, now - entry.core_at)
        if (
            asks
            or entry.needs_core
            or plan.needs_sdk
            or requirements.is_stale(plan.checks, claims, now)
        ):
            return _NeedsCore(plan, entry, text, by_header, asks)

        # 6 requirements
        failed = requirements.refusals(plan.checks, claims)
        return self._invalid_claims(failed) if failed else allowed

    def _judged(
        self, text: str, token: Token, now: float
    ) -> _Entry | Denied | _NeedsKey:
        """Return what *token*, which isn't remembered and came as *text*, comes to."""
        flaw = tokens.flaw(token, self._rules.tokens, now)
        if flaw is not None:
            return self._try_refresh(flaw)
        key = self._keys.get(token.header.kid)
        if key is None:
            return _NeedsKey(token.header.kid)
        if not tokens.is_signed(token, key):
            return self._try_refresh("token_signature")
        self._learn_life(token)
        # Kept no longer than its key may be used without a word from the core.
        age_s = min(self._max_age_s, self._keys.usable_for_s())
        return _Entry(text, token, now + age_s)

    async def _seek(self, kid: str) -> Denied | Undecided | None:
        """Have the key called *kid* fetched; return a verdict if it can't be had."""
        match await self._keys.seek(kid):
            case Missing.UNKNOWN:
                return self._try_refresh("token_key_unknown")
            case Missing.UNAVAILABLE:
                return Undecided(reason="keys_unavailable")
            case _:
                return None

    def _forged(
        self, anti_csrf: str | None, entry: _Entry, *, has_rid: bool
    ) -> Denied | None:
        """Return the refusal of a request that another site may have made."""
        match self._rules.anti_csrf:
            case AntiCsrf.VIA_CUSTOM_HEADER if not has_rid:
                return self._try_refresh("anti_csrf")
            case AntiCsrf.VIA_TOKEN if (
                anti_csrf is None or anti_csrf != entry.anti_csrf
            ):
                return self._try_refresh("anti_csrf")
            case _:
                return None

    # --- the core -----------------------------------------------------------

    async def _by_core(self, request: SessionRequest, need: _NeedsCore) -> Verdict:
        """Ask the core about a token that is good as far as can be seen here.

        Requests with the same need share the answer to a question that is asked after
        they came: one is under way, and one waits for it, for all who come meanwhile.
        A new token goes to each of them, because nobody knows whose answer the client
        will keep.
        """
        question = self._latest.get(need.key)
        if question is None or not question.serves(need, request.method, self._clock()):
            if len(self._questions) >= _MAX_QUESTIONS:
                return Undecided(reason="core_busy")
            question = self._question(request, need, question)
        # Shielded: others may wait for it when this request's client has gone.
        verdict = await asyncio.shield(question.task)
        if need.asks_database and isinstance(verdict, Allowed):
            assert question.asked_at is not None
            need.entry.core_at = max(need.entry.core_at, question.asked_at)
        if isinstance(verdict, Denied) and verdict.reason == "unauthorised":
            self.deny(need.entry.identity.session_handle)
        return self._settled(verdict, need.plan)

    def _question(
        self, request: SessionRequest, need: _NeedsCore, before: _Question | None
    ) -> _Question:
        """Return a new question, to be asked when the one *before* it is answered."""
        question = _Question(None if before is None else before.task)
        question.task = asyncio.create_task(
            self._ask(request, need.plan, question, check_database=need.asks_database),
            name="session-check",
        )
        key = need.key
        self._latest[key] = question
        self._questions.add(question.task)

        def answered(task: asyncio.Task[Verdict]) -> None:
            self._questions.discard(task)
            if self._latest.get(key) is question:
                del self._latest[key]

        question.task.add_done_callback(answered)
        return question

    async def _by_sdk(self, request: SessionRequest, plan: _Plan) -> Verdict:
        """Have the SDK judge a request that only it can judge; nothing is shared."""
        asks = _asks_database(plan, request.method, float("inf"))
        verdict = await self._ask(request, plan, _Question(), check_database=asks)
        return self._settled(verdict, plan)

    async def _ask(
        self,
        request: SessionRequest,
        plan: _Plan,
        question: _Question,
        *,
        check_database: bool,
    ) -> Verdict:
        """Return the SDK's verdict. Never raises, so that it can be shared.

        The time spent on waiting for a turn counts, so that nobody waits any longer.
        """
        try:
            async with asyncio.timeout(self._core_timeout_s):
                if question.before is not None:
                    await asyncio.wait((question.before,))
                    question.before = None
                async with self._slots:
                    question.asked_at = self._clock()
                    verdict = await self._core.check(
                        request,
                        is_required=plan.is_required,
                        check_database=check_database,
                        checks=plan.route_checks,
                        validators=plan.validators,
                    )
            if isinstance(verdict, Allowed) and verdict.identity is not None:
                # Once more, so that no gap in the SDK's validators lets anyone through.
                claims = verdict.identity.claims
                failed = requirements.refusals(plan.checks, claims)
                if failed:
                    return self._invalid_claims(failed)
        except Exception as exc:  # noqa: BLE001 - the boundary: fail closed
            return self._undecided(exc)
        return verdict

    # --- sessions that ended, and what is remembered ------------------------

    def has_ended(self, session_handle: str) -> bool:
        """Return whether the session is on the deny-list."""
        return self._is_denied(session_handle, self._clock())

    def deny(self, session_handle: str, until: float | None = None) -> None:
        """Refuse the access tokens of a session from now on.

        Called when a session is signed out or revoked in this process. *until*, in
        seconds since the epoch, is when its last token expires; unset, the longest
        life of a token that was seen, and at least `DENY_S`, is taken from now.
        """
        now = self._clock()
        denied = self._denied
        end = now + self._longest_life_s if until is None else until
        end = max(end, denied.get(session_handle, now))
        if end <= now:
            return
        denied[session_handle] = end
        denied.move_to_end(session_handle)
        if self.on_denied is not None:
            self.on_denied(session_handle, end)
        # Ends are nearly in order. Two looks per entry keep pace, whatever comes.
        for _ in range(2):
            oldest = next(iter(denied))
            if denied[oldest] <= now:
                del denied[oldest]
        if len(denied) > _MAX_DENIED:
            denied.popitem(last=False)
            self._log_once("the deny-list is full: the oldest entries are forgotten")

    def clear(self) -> None:
        """Forget every verdict and every route's plan, as after a reload.

        Sessions that were denied stay denied.
        """
        self._entries.clear()
        self._plans.clear()

    def keys_changed(self, _keys: KeySet, has_left: bool) -> None:
        """Forget every verdict when a key left the store; a `keys.Listener`."""
        if has_left:
            self._entries.clear()

    async def close(self) -> None:
        """Stop asking the core; requests that still wait are cancelled."""
        questions = tuple(self._questions)
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    def _learn_life(self, token: Token) -> None:
        """Note how long the core's tokens live, for the deny-list."""
        life_s = token.payload["exp"] - token.payload["iat"]
        if life_s > self._longest_life_s:
            self._longest_life_s = min(life_s, _MAX_DENY_S)

    def _is_denied(self, session_handle: str, now: float) -> bool:
        until = self._denied.get(session_handle)
        if until is None:
            return False
        if until > now:
            return True
        del self._denied[session_handle]
        return False

    def _settled(self, verdict: Verdict, plan: _Plan) -> Verdict:
        """Return the SDK's *verdict* as it holds for this route, and by now.

        It may have been asked for by a request to another route, or made by an
        override: none lets a request without a session pass where one is required.
        """
        match verdict:
            case Allowed(identity=None):
                return self._absent(plan)
            case Allowed(identity=Identity(session_handle=handle)) if self.has_ended(
                handle
            ):
                return self._gone
            case _:
                return verdict

    def _remember(self, entry: _Entry, now: float) -> None:
        """Keep *entry*; the oldest go, and of those that are over two at a time."""
        entries = self._entries
        entries[entry.text[-_KEY_CHARS:]] = entry
        for _ in range(2):
            oldest = next(iter(entries), None)
            if oldest is None or entries[oldest].until > now:
                break
            del entries[oldest]
        if len(entries) > self._max_entries:
            entries.popitem(last=False)

    def _plan(self, policy: SessionPolicy) -> _Plan:
        plan = self._plans[policy] = _Plan(policy, self._rules)
        return plan

    # --- refusals -----------------------------------------------------------

    def _refusal(self, message: str, reason: str) -> Denied:
        return Denied(
            status=self._rules.session_expired_status,
            body=b'{"message":"%b"}' % message.encode(),
            fields=(_JSON,),
            reason=reason,
        )

    def _try_refresh(self, reason: str) -> Denied:
        """Return the refusal that sends a client to refresh its session."""
        return self._refusal("try refresh token", reason)

    def _absent(self, plan: _Plan) -> Verdict:
        """Return the verdict on a request that shows no session."""
        return self._unauthorised if plan.is_required else _ANONYMOUS

    def _invalid_claims(self, failed: Sequence[Mapping[str, Any]]) -> Denied:
        return Denied(
            status=self._rules.invalid_claim_status,
            body=requirements.refusal_body(failed),
            fields=(_JSON,),
            reason="invalid_claim",
        )

    def _undecided(self, error: Exception) -> Undecided:
        """Return that nobody could tell; the log gets each kind of *error* once."""
        match error:
            case CoreUnavailable():
                return Undecided(reason="core_unavailable")
            case TimeoutError():
                return Undecided(reason="core_timeout")
            case _:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{frame.filename}:{frame.lineno}"
                # Without its message, which may hold what a client sent.
                self._log_once(
                    f"verification failed: {type(error).__name__} at {place}"
                )
                return Undecided(reason="internal_error")

    def _log_once(self, text: str) -> None:
        if text not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(text)
            _log.error(text)


def _asks_database(plan: _Plan, method: str, age_s: float) -> bool:
    """Tell whether the core must say that the session exists.

    *age_s* is how long ago it last said so.
    """
    match plan.when:
        case CheckDatabase.NEVER:
            return False
        case CheckDatabase.ON_WRITE:
            return method not in SAFE_METHODS
        case CheckDatabase.CACHED:
            return age_s > plan.max_age_s
        case CheckDatabase.ALWAYS:
            return True
        case never:
            assert_never(never)
