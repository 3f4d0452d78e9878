"""edge. The binding of the SuperTokens SDK: its start, its sessions, its keys.

The one room that `verify` and `auth` share. Importing it is light; the SDK itself
(half a second) is imported by `start`. One process has one SDK: `start` is global.

Facts about the SDK (0.31.4)
- `framework` is fastapi, flask or django; objects that already are a BaseRequest are
  never wrapped, so that "fastapi" is declared and FastAPI is never imported.
- Its key lookup fetches with blocking `requests`, on the event loop, whenever a key id
  is unknown. Here the lookup only reads what `install_keys` was given.
- The result of `session.get_session` is what the function overrides of a
  `config_module` make of it; nothing here goes around them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from gateway.config import Finding, SuperTokensConfig
from gateway.http.fields import Fields
from gateway.identity import Denied, SessionIdentity, SessionRequest
from gateway.observe import current
from gateway.seams import supertokens as seams
from gateway.supertokens import sites
from gateway.supertokens.recipes import RecipeError, check

if TYPE_CHECKING:
    from supertokens_python.exceptions import SuperTokensError
    from supertokens_python.recipe.session.interfaces import SessionClaimValidator

    from gateway.supertokens.binding import SdkReply, SdkRequest
    from gateway.supertokens.core_exchange import Calls
    from gateway.supertokens.delivery import EmailSender

__all__ = [
    "AlreadyStarted",
    "Facts",
    "RecipeError",
    "Sdk",
    "SdkSession",
    "check",
    "preload",
    "start",
]

AntiCsrf = Literal["VIA_TOKEN", "VIA_CUSTOM_HEADER", "NONE"]

SITE_HINT = (
    "Write a domain below a public suffix (app.example.com), localhost or an IP address"
)
"""The remedy for a domain without a site."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SdkConfig:
    """What the SDK runs with in the end, from the file or from a `config_module`."""

    api_domain: str
    api_base_path: str
    """As browsers see it, `api_gateway_path` included. Without a slash at its end."""
    served_path: str
    """As it arrives here; never the root."""
    core_uris: tuple[str, ...]
    api_key: str | None = field(repr=False)
    is_intercepted: bool
    """A function of a `config_module` changes the calls to the core."""
    anti_csrf: AntiCsrf | None
    """None: it depends on the request (a computed origin), so the SDK decides."""
    dynamic_signing_key: bool
    token_transfer_method: Literal["any", "cookie", "header"] | None
    """None: a function of the user decides, through the SDK."""
    session_expired_status: int
    invalid_claim_status: int

    @property
    def issuer(self) -> str:
        """The `iss` claim of the access tokens that this SDK makes."""
        return self.api_domain + self.api_base_path


@dataclass(frozen=True, slots=True, kw_only=True)
class SdkSession:
    """A session that the SDK found valid."""

    identity: SessionIdentity
    new_tokens: Fields
    """Fields the answer must carry: Set-Cookie or st-access-token, and front-token.

    Without Access-Control-Expose-Headers: `cors` exposes these names on every answer.
    """


class Sdk:
    """The SDK of this process. The caller of `start` closes it."""

    def __init__(self, settings: SuperTokensConfig, config: SdkConfig) -> None:
        from gateway.supertokens import core

        self.config = config
        self.on_revoked: Callable[[str], None] | None = None
        """Called with the handle of each session that is revoked in this process."""
        self.confirm_revoked: Callable[[], Awaitable[bool]] | None = None
        """Called before the answer to a request that has revoked sessions.

        Returns whether the gateway's other workers refuse them by then. None: there are
        no others.
        """
        self.want_key: Callable[[str], Awaitable[None]] | None = None
        """Called with the id of a key that a request names and that isn't installed.

        Returns once it is installed, or is known not to exist, and raises
        `CoreUnavailable` if the core's keys can't be fetched.
        """
        self.on_core_call: Callable[[str, str, float], None] | None = None
        """Called after each call to the core: its path, how it ended, and the seconds
        that the core took."""
        self._core = core.CoreClient(
            settings.core, config.core_uris, on_call=self._called
        )
        self._core.install()

    def _called(self, path: str, outcome: str, took_s: float) -> None:
        if self.on_core_call is not None:
            self.on_core_call(path, outcome, took_s)
        if (recording := current.get()) is not None:
            recording.core_called(path, outcome, took_s, perf_counter())

    @property
    def sign_ins_waiting(self) -> int:
        """The calls with a password that wait for a place (`core.max_sign_in`)."""
        return self._core.hashing_waits

    async def close(self) -> None:
        """Close the connections to the core."""
        await self._core.aclose()

    async def drop_connections(self) -> None:
        """Close the connections to the core; the next call makes a new one."""
        await self._core.drop_connections()

    def recipes(self) -> frozenset[str]:
        """Return the names of the recipes that run."""
        return seams.recipe_ids()

    def cors_headers(self) -> tuple[str, ...]:
        """Return the request header names that browsers must be allowed to send."""
        from supertokens_python import get_all_cors_headers

        return tuple(sorted(get_all_cors_headers()))

    def install_keys(self, jwks: Iterable[dict[str, Any]]) -> None:
        """Give the SDK the keys to check tokens with, in place of those it had.

        A key that can't be used is left out. Without any, a session that would need
        one can't be judged: that is `CoreUnavailable`.
        """
        from gateway.supertokens import setup

        setup.install_keys(jwks)

    async def get_session(
        self,
        request: SessionRequest,
        *,
        required: bool = True,
        anti_csrf_check: bool | None = None,
        check_database: bool = False,
        validators: Sequence[SessionClaimValidator] = (),
    ) -> SdkSession | Denied | None:
        """Return the request's session, the SDK's own refusal, or None for no session.

        *anti_csrf_check* None: for every method but GET. *validators* come after the
        global ones of the recipes. Works for every method, OPTIONS included. The caller
        bounds the time, and how many are under way.

        Raises:
            CoreUnavailable: the core had to be asked and couldn't be.
            GatewayError: the SDK failed in another way.
        """
        from supertokens_python.exceptions import SuperTokensError
        from supertokens_python.recipe.session.asyncio import get_session

        from gateway.supertokens.binding import SdkReply, SdkRequest

        sdk_request = SdkRequest(
            method=request.method,
            path=request.path,
            fields=request.fields,
            secure=request.is_secure,
            authority=request.authority,
        )
        context = seams.user_context(sdk_request)
        with self._core.operation(is_check=True) as calls:
            await self._want_key(sdk_request)
            try:
                with _own_tenant(calls, lambda: seams.named_tenants(sdk_request)):
                    session = await get_session(
                        sdk_request,
                        required,
                        anti_csrf_check,
                        check_database,
                        lambda recipes, _session, _context: [*recipes, *validators],
                        context,
                    )
            except SuperTokensError as error:
                reply = await self._refuse(sdk_request, error, context)
                return Denied(
                    status=reply.status_code,
                    body=reply.body,
                    fields=reply.fields,
                    reason=_reason(error),
                )
            if session is None:
                return None
            reply = SdkReply()
            seams.add_tokens(session, reply, context)
        claims = session.get_access_token_payload()
        expires_at = claims.get("exp")
        return SdkSession(
            identity=SessionIdentity(
                user_id=session.get_user_id(),
                recipe_user_id=session.get_recipe_user_id().get_as_string(),
                session_handle=session.get_handle(),
                tenant_id=session.get_tenant_id(),
                claims=claims,
                # A version 2 token has no `exp`: valid now, but not to be kept.
                expires_at=expires_at if isinstance(expires_at, int | float) else 0.0,
            ),
            new_tokens=tuple(
                field
                for field in reply.fields
                if field[0].lower() != b"access-control-expose-headers"
            ),
        )

    async def respond(self, request: SdkRequest) -> SdkReply | None:
        """Return the reply of the SDK's own API to *request*, or None if it has none.

        If it has revoked sessions, they are refused everywhere by then. Otherwise the
        reply says so (`is_unconfirmed`).

        Raises:
            CoreUnavailable: the core had to be asked and couldn't be.
            UnknownTenant: the path names a tenant that isn't there.
            BadRequest: the request holds text that can't be encoded or decoded.
            GatewayError: the SDK failed in another way.
        """
        revoked: set[str] = set()
        token = _revoked.set(revoked)
        try:
            reply = await self._respond(request)
        finally:
            _revoked.reset(token)
        if revoked and self.confirm_revoked is not None and reply is not None:
            reply.is_unconfirmed = not await self.confirm_revoked()
        return reply

    async def _respond(self, request: SdkRequest) -> SdkReply | None:
        from supertokens_python.exceptions import SuperTokensError

        from gateway.supertokens.binding import SdkReply

        context = seams.user_context(request)
        with self._core.operation() as calls:
            await self._want_key(request)
            try:
                with _own_tenant(calls, request.tenants):
                    reply = await seams.answer(request, SdkReply(), context)
            except SuperTokensError as error:
                return await self._refuse(request, error, context)
            if reply is not None and request.session is not None:
                seams.add_tokens(request.session, reply, context)
        assert reply is None or isinstance(reply, SdkReply)
        return reply

    async def _want_key(self, request: SdkRequest) -> None:
        """Have the keys installed that the request's access tokens name."""
        from gateway.supertokens import setup

        if self.want_key is not None:
            for kid in setup.missing_keys(request):
                await self.want_key(kid)

    async def _refuse(
        self, request: SdkRequest, error: SuperTokensError, context: dict[str, Any]
    ) -> SdkReply:
        """Return the answer that the SDK gives to *error*, or raise it again."""
        from gateway.supertokens.binding import SdkReply
        from gateway.supertokens.core_exchange import outage

        if outage(error) is not None:
            raise error
        reply = await seams.refuse(request, error, SdkReply(), context)
        assert isinstance(reply, SdkReply)
        return reply


@contextmanager
def _own_tenant(calls: Calls, tenants: Callable[[], Collection[str]]) -> Iterator[None]:
    """Have the block end as for a revoked session if the session's tenant is no more.

    Whatever it would have ended with: the core, asked in it, misses one of *tenants*,
    those of the request's session.

    Raises:
        UnauthorisedError: the SDK's; its answer is 401 and clears the tokens.
    """
    from supertokens_python.recipe.session.exceptions import UnauthorisedError

    error: Exception | None = None
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - raised again below
        error = exc
    if calls.missing_tenants and not calls.missing_tenants.isdisjoint(tenants()):
        raise UnauthorisedError("the tenant of the session was removed") from error
    if error is not None:
        raise error


def _reason(error: SuperTokensError) -> str:
    """Return the log's word for a refusal."""
    from supertokens_python.recipe.session import exceptions

    match error:
        case exceptions.UnauthorisedError():
            return "unauthorised"
        case exceptions.InvalidClaimsError():
            return "invalid_claim"
        case exceptions.TryRefreshTokenError():
            return "try_refresh_token"
        case _:
            return "refused"


@dataclass(frozen=True, slots=True)
class _Started:
    settings: SuperTokensConfig
    email: EmailSender | None
    config: SdkConfig
    sdk: Sdk


_started: _Started | None = None
_revoked: ContextVar[set[str] | None] = ContextVar("revoked", default=None)
"""The sessions that the present request to the SDK's API has revoked."""


class AlreadyStarted(RuntimeError):
    """The SDK already runs in this process, with settings that can't be changed."""


def preload(settings: SuperTokensConfig) -> None:
    """Import what `start` will need, for processes that are forked afterwards.

    Raises:
        LibraryChanged: the SDK isn't as the gateway needs it (`seams`).
    """
    check_library()
    for name in settings.recipes:
        importlib.import_module(f"supertokens_python.recipe.{name}")


def check_library() -> None:
    """Import the SDK, and return when it is as the gateway needs it.

    Raises:
        LibraryChanged: it isn't; the text has the remedy.
    """
    # The public suffix list in the package is enough.
    os.environ.setdefault("SUPERTOKENS_TLDEXTRACT_DISABLE_HTTP", "1")
    with seams.without_command_of_httpx():
        import httpx  # noqa: F401 - being there is all
    seams.check()
    from gateway.supertokens import core, setup  # noqa: F401 - as above


def check_domains(settings: SuperTokensConfig) -> tuple[Finding, ...]:
    """Return a finding for each domain of the file that no session can work with.

    These are domains whose site the SDK can't look up, although it has to, and pairs
    between which browsers never send the session's cookies (`sites.refused`).
    `check_library` must have been called. A `config_module` has its own domains, which
    `start` checks.
    """
    if settings.config_module is not None:
        return ()
    domains = {"api_domain": settings.api_domain}
    if _needs_website_site(settings):
        domains["website_domain"] = settings.website_domain
    without_site = tuple(
        Finding(
            loc=("supertokens", key),
            message=f"the SuperTokens SDK finds no site for {url}",
            hint=SITE_HINT,
        )
        for key, url in domains.items()
        if seams.site(url) is None
    )
    return without_site or tuple(sites.refused(settings))


def doubtful_domains(settings: SuperTokensConfig) -> tuple[Finding, ...]:
    """Return warnings of domains that sessions in cookies can't, or may not, work with.

    `check_library` must have been called, and `check_domains` have found nothing. A
    `config_module` has its own domains, which aren't known before the start.
    """
    return () if settings.config_module else tuple(sites.doubtful(settings))


def _needs_website_site(settings: SuperTokensConfig) -> bool:
    """Return whether the SDK looks up the site of `website_domain`.

    It always looks up that of `api_domain`. Without `cookie.same_site`, it compares the
    two: at start if `anti_csrf` is unset, and for each cookie. With `none`, it compares
    them before a session with insecure cookies begins at a local API.

    Source: supertokens-python 0.31.4, recipe/session/utils.py (get_cookie_same_site)
    and session_request_functions.py (create_new_session_in_request).
    """
    cookie = settings.cookie
    sets_cookies = settings.token_transfer_method != "header"  # noqa: S105 - a way to send one
    if cookie.same_site is None:
        return sets_cookies or settings.anti_csrf is None
    if cookie.same_site != "none" or not sets_cookies:
        return False
    is_secure = cookie.secure
    if is_secure is None:
        is_secure = settings.api_domain.startswith("https:")
    return not is_secure and seams.site(settings.api_domain) == "localhost"


def start(settings: SuperTokensConfig, *, email: EmailSender | None = None) -> Sdk:
    """Start the SDK of this process and return the handle to it.

    *email* receives every mail and text message and replaces `email_delivery`. With a
    `config_module`, the module decides about both. Starting again with the same
    settings gives a new handle on the same SDK, with a new client to the core; the
    old handle must not be used any more.

    Raises:
        LibraryChanged: the SDK isn't as the gateway needs it.
        RecipeError: the settings are wrong; it names the YAML path.
        AlreadyStarted: the SDK runs already with other settings.
    """
    global _started  # noqa: PLW0603 - the SDK is global itself
    before = _started
    if before is None:
        check_library()
        from gateway.supertokens import setup

        for finding in check_domains(settings):
            raise RecipeError(finding.path, f"{finding.message}. {finding.hint}")
        config = setup.init(settings, email, on_revoked=_tell)
    elif (before.settings, before.email) == (settings, email):
        config = before.config
    else:
        raise AlreadyStarted(
            "the SuperTokens SDK already runs in this process with other settings"
        )
    sdk = Sdk(settings, config)
    _started = _Started(settings, email, config, sdk)
    return sdk


def forget() -> None:
    """Take the SDK as never started; `testing.reset` makes that true."""
    global _started  # noqa: PLW0603 - as above
    _started = None


def _tell(handle: str) -> None:
    """Pass a revoked session's handle on to the present handle of the SDK."""
    revoked = _revoked.get()
    if revoked is not None:
        revoked.add(handle)
    if _started is not None and _started.sdk.on_revoked is not None:
        _started.sdk.on_revoked(handle)
