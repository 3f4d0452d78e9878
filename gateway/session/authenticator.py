"""edge. The authenticator of sessions: what a request's access token comes to.

What needs no core is judged here and remembered; the rest goes to the SDK.

1 credentials as the SDK picks them → 2 remembered, or parsed and judged →
3 anti-CSRF → 4 the core, when it must be asked → 5 the route's requirements.

Facts (supertokens-python 0.31.4; `tokens` lists where a token is judged stricter):
- Anti-CSRF is for cookies and for every method but GET; HEAD is another method.
- The SDK refuses OPTIONS where a session is required (500) and lets it through as
  anonymous where it is optional. Here OPTIONS is judged like any other method.
- A session that the core says is gone is refused on every route from then on, not
  only where `check_database` asks.
- A refusal from the deny-list clears no tokens: an old request that comes late would
  log a new session out. The client's refresh is refused by the core, which clears.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, assert_never

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from gateway import config
from gateway.identity import (
    ABSENT,
    Absent,
    Allowed,
    Denied,
    Pending,
    Principal,
    SessionIdentity,
    SessionPolicy,
    SessionRequest,
    Verdict,
)
from gateway.session import requirements, tokens
from gateway.session.compiled_policy import CompiledPolicy
from gateway.session.core_calls import CoreCalls, CoreQuestion, CoreSession
from gateway.session.credentials import Credentials, choose
from gateway.session.deny_list import MAX_DENY_S, DenyList, UserDenial
from gateway.session.failures import Failures, undecided
from gateway.session.keys import KeySet, Missing
from gateway.session.refusals import Refusals
from gateway.session.rules import AntiCsrf, SessionRules, Transfer
from gateway.session.tokens import Token
from gateway.session.verified_tokens import VerifiedToken, VerifiedTokens, line_of

DENY_S = 4 * 3600.0
"""How long a denied session is remembered at least. Core tokens live 1 h by default;
where longer ones are seen, it is the longest life seen."""

DenialListener = Callable[[str, float], None]
"""Called with the handle of a denied session, and until when it is denied, in seconds
since the epoch."""


class SigningKeys(Protocol):
    """The core's signing keys (`keys.KeyStore`)."""

    def get(self, kid: str) -> RSAPublicKey | None: ...

    async def seek(self, kid: str) -> RSAPublicKey | Missing: ...

    def usable_for_s(self) -> float: ...


class SessionAuthenticator:
    """Judges sessions, for one SDK, one key store and one event loop."""

    def __init__(
        self,
        *,
        keys: SigningKeys,
        core: CoreSession,
        rules: SessionRules,
        cache: config.CacheConfig,
        client: config.CoreConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """*clock* is in seconds since the epoch."""
        self.refusals = Refusals(rules)
        self._keys = keys
        self._rules = rules
        self._is_sdk_only = rules.is_sdk_only
        self._clock = clock
        self._max_age_s = cache.max_age
        self._takes_header = rules.transfer is not Transfer.COOKIE
        self._takes_cookie = rules.transfer is not Transfer.HEADER
        self._policies: dict[SessionPolicy, CompiledPolicy] = {}
        self._verified = VerifiedTokens(cache.size)
        self._by_end = self._verified.by_end
        self._denied = DenyList()
        self._ends = self._denied.ends
        self._longest_life_s = DENY_S
        self._listeners: list[DenialListener] = []
        self.on_user_denied: Callable[[], None] = lambda: None
        """Called when sessions may have ended whose handles aren't known."""
        self._calls = CoreCalls(
            core, client=client, refusals=self.refusals, clock=clock
        )
        self._failures = Failures()

    # --- the authenticator ----------------------------------------------------

    def judge(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | Absent | Pending:
        """Return the verdict on *request*, or what must be waited for to have one."""
        compiled = self._policies.get(policy) or self._compile(policy)
        if self._is_sdk_only:
            return Pending(partial(self._by_sdk, request, compiled))

        # 1 credentials
        lines = request.credential_lines
        chosen = choose(lines, self._by_end, self._takes_header, self._takes_cookie)
        if not isinstance(chosen, tuple):
            return ABSENT if chosen is None else self.refusals.try_refresh(chosen)
        text, token, by_cookie = chosen

        # 2 remembered, or parsed and judged
        now = self._clock()
        if type(token) is VerifiedToken and token.until > now:  # nearly always
            known, allowed = token, token.allowed
        else:
            judged = self._judged(request, policy, text, token, now)
            if not isinstance(judged, VerifiedToken):
                return judged
            known = judged
            allowed = Allowed(principal=known.identity, reason="local")
        line = lines[0] if len(lines) == 1 else line_of(text, lines)
        if len(line.raw) <= known.line_max:
            known.line = line
        if self._ends and self._denied.denies_token(known.identity, now):
            return self.refusals.session_ended

        # 3 anti-CSRF
        if by_cookie is not None and request.method != "GET":
            refused = self._forged(by_cookie, known)
            if refused is not None:
                return refused

        # 4 the core
        if compiled.is_simple and not known.needs_core:
            return allowed
        claims = known.identity.claims
        needs_core = known.needs_core and not (
            compiled.withholds and known.is_confirmed
        )
        asks = compiled.asks_database(request.method, now - known.core_at)
        if (
            asks
            or needs_core
            or compiled.needs_sdk
            or requirements.is_stale(compiled.checks, claims, now)
        ):
            question = CoreQuestion(compiled, known, text, by_cookie is None, asks)
            return Pending(partial(self._by_core, request, question))

        # 5 requirements
        failed = requirements.refusals(compiled.checks, claims)
        return self.refusals.invalid_claims(failed) if failed else allowed

    def has_ended(self, principal: Principal) -> bool:
        """Return whether the session, or its user, is on the deny-list."""
        match principal:
            case SessionIdentity():
                return self._denied.denies_token(principal, self._clock())
            case never:
                assert_never(never)

    def _judged(
        self,
        request: SessionRequest,
        policy: SessionPolicy,
        text: str,
        token: VerifiedToken | Token,
        now: float,
    ) -> VerifiedToken | Verdict | Absent | Pending:
        """Return *token*, which came as *text*, verified and remembered."""
        if not isinstance(token, Token):  # it is over
            self._verified.remove(token)
            parsed = tokens.parse(text)
            assert parsed is not None, "it parsed before"
            token = parsed
        flaw = tokens.flaw(token, self._rules.tokens, now)
        if flaw is not None:
            return self.refusals.try_refresh(flaw)
        kid = token.header.kid
        key = self._keys.get(kid)
        if key is None:
            return Pending(partial(self._with_key, request, policy, kid))
        if not tokens.is_signed(token, key):
            return self.refusals.try_refresh("token_signature")
        self._learn_life(token)
        # Kept no longer than its key may be used without a word from the core.
        age_s = min(self._max_age_s, self._keys.usable_for_s())
        known = VerifiedToken(text, token, now + age_s, request.credential_lines)
        if not known.needs_core or policy.withholds:
            self._verified.add(known, now)
        return known

    async def _with_key(
        self, request: SessionRequest, policy: SessionPolicy, kid: str
    ) -> Verdict | Absent:
        """Have the key called *kid* fetched, and judge *request* again."""
        match await self._keys.seek(kid):
            case Missing.UNKNOWN:
                return self.refusals.try_refresh("token_key_unknown")
            case Missing.UNAVAILABLE:
                return undecided("keys_unavailable")
            case _ if self._keys.get(kid) is None:  # it came and went again
                return undecided("keys_unavailable")
            case _:
                outcome = self.judge(request, policy)
                return (
                    await outcome.resume() if isinstance(outcome, Pending) else outcome
                )

    def _forged(
        self, credential_lines: Credentials, known: VerifiedToken
    ) -> Denied | None:
        """Return the refusal of a request that another site may have made."""
        match self._rules.anti_csrf:
            case AntiCsrf.VIA_CUSTOM_HEADER if not credential_lines.has_rid:
                return self.refusals.try_refresh("anti_csrf")
            case AntiCsrf.VIA_TOKEN if (
                credential_lines.anti_csrf is None
                or credential_lines.anti_csrf != known.anti_csrf
            ):
                return self.refusals.try_refresh("anti_csrf")
            case _:
                return None

    # --- the core ---------------------------------------------------------------

    async def _by_core(
        self, request: SessionRequest, question: CoreQuestion
    ) -> Verdict | Absent:
        """Return the verdict on a token that the core must be asked about."""
        verdict = await self._calls.ask(request, question)
        if isinstance(verdict, Denied) and verdict.reason == "unauthorised":
            self.deny(question.known.identity.session_handle)
        if question.policy.withholds and isinstance(verdict, Allowed):
            question.known.is_confirmed = verdict.principal is not None
            verdict = replace(verdict, new_tokens=())
        return self._settled(verdict)

    async def _by_sdk(
        self, request: SessionRequest, compiled: CompiledPolicy
    ) -> Verdict | Absent:
        """Return the verdict on a request that only the SDK can judge.

        Where a session is required the SDK refuses a request without one itself, so
        that no authenticator after this one is asked.
        """
        verdict = await self._calls.ask_unshared(request, compiled)
        if compiled.withholds and isinstance(verdict, Allowed):
            verdict = replace(verdict, new_tokens=())
        return self._settled(verdict)

    def _settled(self, verdict: Verdict) -> Verdict | Absent:
        """Return the SDK's *verdict* as it holds by now.

        It may have been asked for by a request to another route, or made by an
        override: none lets a request without a session pass where one is required.
        """
        if isinstance(verdict, Allowed):
            if verdict.principal is None:
                return ABSENT
            if self.has_ended(verdict.principal):
                return self.refusals.session_ended
        return verdict

    # --- sessions that ended, and what is remembered ----------------------------

    def deny(self, session_handle: str, until: float | None = None) -> None:
        """Refuse the access tokens of a session from now on.

        Called when a session is signed out or revoked in this process. *until*, in
        seconds since the epoch, is when its last token expires; unset, the longest
        life of a token that was seen, and at least `DENY_S`, is taken from now.
        """
        now = self._clock()
        end = now + self._longest_life_s if until is None else until
        news = self._denied.add({session_handle: end}, now)
        for handle, ends_at in news.items():
            for listener in self._listeners:
                listener(handle, ends_at)
        if self._denied.overflows:
            self._failures.log_once(
                "the deny-list is full: the oldest entries are forgotten"
            )

    def deny_user(self, denial: UserDenial) -> None:
        """Refuse a user's access tokens from before a time, from now on."""
        self._denied.add_user(denial, self._clock())
        self.on_user_denied()

    @property
    def remembered(self) -> int:
        """The number of tokens that are remembered as verified."""
        return len(self._verified.by_end)

    @property
    def denied(self) -> int:
        """The number of sessions that are refused, though their tokens are valid."""
        return len(self._denied)

    def subscribe(self, listener: DenialListener) -> None:
        """Have *listener* called for every new denial, and now for those in force."""
        self._listeners.append(listener)
        for handle, ends_at in self._denied.live(self._clock()):
            listener(handle, ends_at)

    def clear(self) -> None:
        """Forget every verdict and every compiled policy, as after a reload.

        Sessions that were denied stay denied.
        """
        self._verified.clear()
        self._policies.clear()

    def keys_changed(self, _keys: KeySet, has_left: bool) -> None:
        """Forget every verdict when a key left the store; a `keys.Listener`."""
        if has_left:
            self._verified.clear()

    async def close(self) -> None:
        """Stop asking the core; requests that still wait are cancelled."""
        await self._calls.close()

    def _learn_life(self, token: Token) -> None:
        """Note how long the core's tokens live, for the deny-list."""
        life_s = token.payload["exp"] - token.payload["iat"]
        if life_s > self._longest_life_s:
            self._longest_life_s = min(life_s, MAX_DENY_S)

    def _compile(self, policy: SessionPolicy) -> CompiledPolicy:
        compiled = self._policies[policy] = CompiledPolicy(policy, self._rules)
        return compiled
