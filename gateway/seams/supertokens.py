"""edge. What the gateway replaces and reads inside supertokens-python, all of it here.

Nothing of the SDK's source is edited: names of its modules and methods of its
instances are replaced, which is how its own overrides work, too. `check` verifies
at start that each seam is as it was in the versions that it was read in. Importing
this module is light; its functions import the SDK.

Versions: supertokens-python 0.31.4, httpx 0.28. "Breaks" is what a change would do if
nothing checked for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from gateway.errors import CoreUnavailable
from gateway.seams.library import Demands, Does, Has, Keeps, Library, Takes, Uses

if TYPE_CHECKING:
    from jwt import PyJWK
    from supertokens_python.exceptions import SuperTokensError
    from supertokens_python.framework import BaseRequest, BaseResponse
    from supertokens_python.recipe.session import SessionContainer
    from supertokens_python.recipe.session.interfaces import SessionClaimValidator
    from supertokens_python.recipe.session.jwt import ParsedJWTInfo
    from supertokens_python.recipe.session.utils import NormalisedSessionConfig
    from supertokens_python.supertokens import AppInfo

SDK = Library("supertokens-python", ">=0.31.4,<0.32")
HTTPX = Library("httpx", ">=0.28")
LIBRARIES = (SDK, HTTPX)

_SDK = "supertokens_python"
_QUERIER = f"{_SDK}.querier"
_SUPERTOKENS = f"{_SDK}.supertokens"
_SESSION = f"{_SDK}.recipe.session"
_OAUTH2 = f"{_SDK}.recipe.oauth2provider.recipe_implementation"

# Longer than any process lives: the SDK must never find its keys too old.
_FOR_EVER_S = 100 * 365 * 86_400


def check() -> None:
    """Return when every seam is there as it was read.

    Raises:
        LibraryChanged: the text names what has changed, and the remedy.
    """
    for library in LIBRARIES:
        library.check()


# --- the start --------------------------------------


@HTTPX.seam(harmless="without effect, a start takes 0.1 s longer")
@contextmanager
def without_command_of_httpx() -> Iterator[None]:
    """Import httpx in the block without its command.

    Replaced: `httpx._main`, by a module that can't be imported. Why: wherever rich is
    installed it takes longer to import than the rest of httpx. `httpx.main` is then
    what it is without rich.
    """
    if "httpx" in sys.modules:
        yield
        return
    sys.modules["httpx._main"] = None  # type: ignore[assignment] # no such module
    try:
        yield
    finally:
        del sys.modules["httpx._main"]


@SDK.seam(
    Takes(f"{_SUPERTOKENS}:Supertokens.get_instance"),
    Has(f"{_SDK}.exceptions:GeneralError"),
)
def is_running() -> bool:
    """Return whether `supertokens_python.init` was called in this process.

    Read: that `Supertokens.get_instance` raises GeneralError before. Breaks: a
    `config_module` that calls `init` itself starts the SDK with other settings.
    """
    from supertokens_python import Supertokens
    from supertokens_python.exceptions import GeneralError

    try:
        Supertokens.get_instance()
    except GeneralError:
        return False
    return True


@SDK.seam(
    Takes(f"{_SUPERTOKENS}:Supertokens.get_instance"),
    Keeps(f"{_SUPERTOKENS}:Supertokens", ("app_info", "supertokens_config")),
    Keeps(
        f"{_SUPERTOKENS}:AppInfo",
        ("api_domain", "api_base_path", "api_gateway_path"),
    ),
    Keeps(f"{_SUPERTOKENS}:SupertokensConfig", ("api_key",)),
    Takes(
        f"{_SDK}.normalised_url_domain:NormalisedURLDomain.get_as_string_dangerous", 1
    ),
    Takes(f"{_SDK}.normalised_url_path:NormalisedURLPath.get_as_string_dangerous", 1),
)
def app_info() -> tuple[str, str, str, str | None]:
    """Return the API's domain, its base path, how much of that path never arrives
    (`api_gateway_path`), and the core's API key.

    Read: the normalised settings of the `Supertokens` instance. Why: a `config_module`
    may set them. Breaks: the routes of the SDK's API, and the issuer of tokens.
    """
    from supertokens_python import Supertokens

    sdk = Supertokens.get_instance()
    info: AppInfo = sdk.app_info
    domain: str = info.api_domain.get_as_string_dangerous()  # type: ignore[no-untyped-call]
    base_path: str = info.api_base_path.get_as_string_dangerous()
    gateway_path: str = info.api_gateway_path.get_as_string_dangerous()
    return domain, base_path, gateway_path, sdk.supertokens_config.api_key


@SDK.seam(
    Takes(f"{_SESSION}.recipe:SessionRecipe.get_instance"),
    Keeps(f"{_SESSION}.recipe:SessionRecipe", ("config", "recipe_implementation")),
    Keeps(
        f"{_SESSION}.utils:NormalisedSessionConfig",
        (
            "anti_csrf_function_or_string",
            "error_handlers",
            "get_token_transfer_method",
            "invalid_claim_status_code",
            "session_expired_status_code",
            "use_dynamic_access_token_signing_key",
        ),
    ),
)
def session_config() -> NormalisedSessionConfig:
    """Return the settings of the session recipe, defaults filled in.

    Read: `SessionRecipe.config`. Why: tokens are verified here by the same settings.
    Breaks: the gateway's verdicts and the SDK's would differ. Raises what the SDK
    does when there is no session recipe.
    """
    from supertokens_python.recipe.session.recipe import SessionRecipe

    config: NormalisedSessionConfig = SessionRecipe.get_instance().config
    return config


@SDK.seam(
    Takes(f"{_SUPERTOKENS}:Supertokens.get_instance"),
    Keeps(f"{_SUPERTOKENS}:Supertokens", ("recipe_modules",)),
    Takes(f"{_SDK}.recipe_module:RecipeModule.get_recipe_id", 1),
)
def recipe_ids() -> frozenset[str]:
    """Return the names of the recipes that run, those that the SDK adds included.

    Read: `Supertokens.recipe_modules`. Why: those of a `config_module` are functions
    until then. Breaks: the start ends, or a route's requirement can't be met.
    """
    from supertokens_python import Supertokens

    modules = Supertokens.get_instance().recipe_modules
    return frozenset(
        module.get_recipe_id()  # type: ignore[no-untyped-call]
        for module in modules
    )


@SDK.seam(Takes(f"{_SESSION}.utils:get_token_transfer_method_default", 3))
def has_default_transfer(config: NormalisedSessionConfig) -> bool:
    """Return whether the SDK's default chooses between cookies and headers.

    Read: `get_token_transfer_method_default`. Breaks: a function of a `config_module`
    could be taken for the default.
    """
    from supertokens_python.recipe.session.utils import (
        get_token_transfer_method_default,
    )

    return config.get_token_transfer_method is get_token_transfer_method_default


# --- calls to the core --------------------------------------


@SDK.seam(
    Has(f"{_QUERIER}:AsyncClient"),
    Uses(
        f"{_QUERIER}:Querier.api_request",
        ("AsyncClient", "get", "post", "put", "delete"),
    ),
)
def use_client(make: Callable[..., Any]) -> None:
    """Make the Querier call the core through what *make* returns.

    Replaced: `querier.AsyncClient`. Why: the SDK opens a client for each call, 22 ms
    of CPU, without a limit and with a timeout of 30 s. Breaks: calls to the core
    have no deadline and no limit.
    """
    from supertokens_python import querier

    cast("Any", querier).AsyncClient = make


@SDK.seam(
    Takes(f"{_SDK}.utils:get_top_level_domain_for_same_site_resolution", 1),
)
def site(url: str) -> str | None:
    """Return the site of *url* as the SDK finds it; None for a bare public suffix.

    `localhost` is also the site of every IPv4 address.

    Read: the function that decides between SameSite `lax` and `none`, and about
    anti-CSRF. Breaks: the start ends with a traceback.
    """
    from supertokens_python.utils import get_top_level_domain_for_same_site_resolution

    try:
        return get_top_level_domain_for_same_site_resolution(url)
    except Exception:  # noqa: BLE001 - it raises nothing more specific
        return None


@SDK.seam(Keeps(f"{_SESSION}.utils:NormalisedSessionConfig", ("get_cookie_same_site",)))
def finds_website_site(config: NormalisedSessionConfig) -> bool:
    """Return whether the SDK can choose the cookies' SameSite.

    Unless `cookie_same_site` is set, it looks up the site of the website. Not for a
    computed origin, since there is no request.

    Read: `get_cookie_same_site`, which keeps its first result for good. Breaks: the
    start ends with a traceback.
    """
    try:
        config.get_cookie_same_site(None, {})
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


@SDK.seam(
    Takes(f"{_QUERIER}:Querier.get_instance"),
    Takes(f"{_QUERIER}:Querier.get_all_core_urls_for_path", 2),
)
def core_urls() -> tuple[str, ...]:
    """Return the core's addresses: scheme, authority and base path.

    Read: the hosts of the Querier. Why: a `config_module` may set them. Breaks: keys
    are fetched from the wrong place.
    """
    from supertokens_python.querier import Querier

    return tuple(Querier.get_instance().get_all_core_urls_for_path(""))


@SDK.seam(Has(f"{_SDK}.constants:SUPPORTED_CDI_VERSIONS"))
def cdi_versions() -> tuple[str, ...]:
    """Return the versions of the core's protocol that the SDK speaks.

    Read: `constants.SUPPORTED_CDI_VERSIONS`. Why: the SDK knows a bare exception for a
    core that speaks none of them. Breaks: a core of the wrong version isn't noticed.
    """
    from supertokens_python.constants import SUPPORTED_CDI_VERSIONS

    return tuple(SUPPORTED_CDI_VERSIONS)


def _keeps_the_cause(raise_it: Any) -> bool:
    cause = CoreUnavailable("")
    try:
        raise_it(cause)
    except Exception as error:  # noqa: BLE001 - its type is the SDK's matter
        return hidden_cause(error) is cause
    return False


@SDK.seam(
    Does(
        f"{_SESSION}.exceptions:raise_try_refresh_token_exception",
        "keep the cause as the first argument",
        _keeps_the_cause,
    ),
    Uses(
        f"{_SESSION}.access_token:get_info_from_access_token",
        ("raise_try_refresh_token_exception",),
    ),
)
def hidden_cause(error: Exception) -> object:
    """Return what a key lookup raised, when *error* is the SDK's refusal for it.

    Read: the first argument of TryRefreshTokenError. Why: the SDK makes a refusal of
    everything that the verification of a token raises. Breaks: without keys, 401 in
    place of 503, and browsers sign their users out.
    """
    return error.args[0] if error.args else None


# --- keys and tokens --------------------------------------


@SDK.seam(
    Takes(f"{_SESSION}.jwks:get_latest_keys", 2),
    Has(f"{_SESSION}.access_token:get_latest_keys"),
    Has(f"{_OAUTH2}:get_latest_keys"),
    Uses(f"{_SESSION}.access_token:get_info_from_access_token", ("get_latest_keys",)),
    Uses(
        f"{_OAUTH2}:RecipeImplementation.validate_oauth2_access_token",
        ("get_latest_keys",),
    ),
)
def replace_key_lookup(lookup: Callable[..., list[PyJWK]]) -> None:
    """Have *lookup* called with the session config and a key id, or None.

    Replaced: `get_latest_keys`, at each place that imported it. Why: it fetches with
    blocking `requests`, on the event loop, whenever a key id is unknown. Breaks: one
    client with made-up tokens stops the gateway.
    """
    from supertokens_python.recipe.oauth2provider import recipe_implementation
    from supertokens_python.recipe.session import access_token, jwks

    for module in (jwks, access_token, recipe_implementation):
        module.get_latest_keys = lookup  # type: ignore[attr-defined]


@SDK.seam(
    Has(f"{_SESSION}.jwks:cached_keys"),
    Takes(f"{_SESSION}.jwks:CachedKeys", 2),
    Keeps(f"{_SESSION}.jwks:CachedKeys", ("keys",)),
)
def install_keys(keys: list[PyJWK]) -> None:
    """Put *keys* into the SDK's cache, where they never become too old.

    Replaced: `jwks.cached_keys`. Why: they are there for `find_keys`, and for code of
    the SDK that would look into its cache first. Breaks: no token is verified.
    """
    from supertokens_python.recipe.session import jwks

    jwks.cached_keys = jwks.CachedKeys(keys, _FOR_EVER_S)


@SDK.seam(
    Has(f"{_SESSION}.jwks:cached_keys"),
    Keeps(f"{_SESSION}.jwks:CachedKeys", ("keys",)),
)
def installed_keys() -> list[PyJWK]:
    """Return what was installed last.

    Read: `jwks.cached_keys`, which the SDK's own reset clears. Breaks: as
    `install_keys`.
    """
    from supertokens_python.recipe.session import jwks

    return [] if jwks.cached_keys is None else jwks.cached_keys.keys


@SDK.seam(Takes(f"{_SESSION}.jwks:find_matching_keys", 2))
def find_keys(kid: str | None) -> list[PyJWK] | None:
    """Return the installed keys that a token with this key id may be signed with.

    Read: `jwks.find_matching_keys`, for the SDK's own choice. None: there is none.
    Breaks: a token is verified with keys that the SDK wouldn't use.
    """
    from supertokens_python.recipe.session import jwks

    return jwks.find_matching_keys(installed_keys(), kid)


_TOKENS = (
    Has(f"{_SESSION}.constants:available_token_transfer_methods"),
    Takes(f"{_SESSION}.cookie_and_header:get_token", 3),
    Takes(f"{_SESSION}.jwt:parse_jwt_without_signature_verification", 1),
    Keeps(f"{_SESSION}.jwt:ParsedJWTInfo", ("kid", "payload")),
)


def _access_tokens(request: BaseRequest) -> Iterator[ParsedJWTInfo]:
    """Yield the request's access tokens, parsed and not verified."""
    from supertokens_python.recipe.session.constants import (
        available_token_transfer_methods,
    )
    from supertokens_python.recipe.session.cookie_and_header import get_token
    from supertokens_python.recipe.session.jwt import (
        parse_jwt_without_signature_verification,
    )

    for method in available_token_transfer_methods:
        token = get_token(request, "access", method)
        if token is None:
            continue
        try:
            yield parse_jwt_without_signature_verification(token)
        except Exception:  # noqa: BLE001, S112 - no JWT; the SDK ignores it, too
            continue


@SDK.seam(*_TOKENS)
def key_ids(request: BaseRequest) -> list[str]:
    """Return the key ids that the request's access tokens name.

    Read: how the SDK finds and parses tokens. Why: a key that isn't installed is
    fetched before the SDK is called. Breaks: new tokens are refused after a key
    rotation, until the next refresh of the keys.
    """
    kids = (token.kid for token in _access_tokens(request))
    return [kid for kid in kids if isinstance(kid, str)]


@SDK.seam(*_TOKENS)
def named_tenants(request: BaseRequest) -> frozenset[str]:
    """Return the tenants that the request's access tokens name; none is verified.

    Read: as `key_ids`. Why: the SDK calls the core below the tenant of a session before
    it hands the session out. Breaks: a session of a removed tenant gets 503.
    """
    tenants = (token.payload.get("tId") for token in _access_tokens(request))
    return frozenset(tenant for tenant in tenants if isinstance(tenant, str))


@SDK.seam(
    Has(f"{_SESSION}.access_token:jwt"),
    Uses(f"{_SESSION}.access_token:get_info_from_access_token", ("jwt", "decode")),
)
def replace_jwt(replacement: Any) -> None:
    """Have the SDK decode access tokens with *replacement*`.decode`.

    Replaced: `access_token.jwt`, the module of PyJWT. Why: the SDK takes the algorithm
    from the token, and allows no clock skew. Breaks: new tokens of a core whose clock
    is ahead are refused.
    """
    from supertokens_python.recipe.session import access_token

    access_token.jwt = replacement  # type: ignore[attr-defined]


# --- sessions --------------------------------------

_SESSIONS = f"{_SESSION}.recipe_implementation:RecipeImplementation"
_LINKING = f"{_SDK}.recipe.accountlinking"


@SDK.seam(
    Takes(f"{_SESSION}.recipe:SessionRecipe.get_instance"),
    Keeps(f"{_SESSION}.recipe:SessionRecipe", ("recipe_implementation",)),
    Takes(f"{_SESSIONS}.revoke_session", 1, ("session_handle", "user_context")),
    Takes(
        f"{_SESSIONS}.revoke_multiple_sessions", 1, ("session_handles", "user_context")
    ),
    Has(f"{_SESSIONS}.revoke_all_sessions_for_user"),
    Takes(
        f"{_SESSIONS}.get_all_session_handles_for_user",
        1,
        (
            "user_id",
            "fetch_sessions_for_linked_accounts",
            "tenant_id",
            "fetch_across_all_tenants",
            "user_context",
        ),
    ),
    Takes(f"{_LINKING}.recipe:AccountLinkingRecipe.get_instance"),
    Keeps(f"{_LINKING}.recipe:AccountLinkingRecipe", ("recipe_implementation",)),
    Takes(
        f"{_LINKING}.recipe_implementation:RecipeImplementation.delete_user",
        1,
        ("user_id", "remove_all_linked_accounts", "user_context"),
    ),
)
def watch_revocations(on_revoked: Callable[[str], None]) -> None:
    """Call *on_revoked* with each session handle that the SDK has revoked.

    Covers sign-out, token theft, the dashboard and calls of a `config_module`, and the
    deletion of a user by these; not what another process does. The core revokes a
    deleted user's sessions without naming them, so they are listed before. If they
    can't be, the user isn't deleted. A session that begins between the two calls is
    missed.

    Replaced: three methods of the session recipe's implementation, and `delete_user` of
    accountlinking's, which is always loaded. Breaks: a remembered token is accepted
    after its session was revoked.
    """
    from supertokens_python.recipe.accountlinking.recipe import AccountLinkingRecipe
    from supertokens_python.recipe.session.recipe import SessionRecipe

    users = AccountLinkingRecipe.get_instance().recipe_implementation
    delete_user = users.delete_user
    sessions = SessionRecipe.get_instance().recipe_implementation
    revoke_session = sessions.revoke_session
    revoke_multiple_sessions = sessions.revoke_multiple_sessions
    revoke_all_sessions_for_user = sessions.revoke_all_sessions_for_user

    async def one(session_handle: str, user_context: dict[str, Any]) -> bool:
        revoked = await revoke_session(session_handle, user_context)
        on_revoked(session_handle)  # also when the core had lost it before
        return revoked

    async def several(
        session_handles: list[str], user_context: dict[str, Any]
    ) -> list[str]:
        revoked = await revoke_multiple_sessions(session_handles, user_context)
        for handle in session_handles:
            on_revoked(handle)
        return revoked

    async def of_user(*args: Any, **kwargs: Any) -> list[str]:
        revoked = await revoke_all_sessions_for_user(*args, **kwargs)
        for handle in revoked:
            on_revoked(handle)
        return revoked

    async def user(
        user_id: str, remove_all_linked_accounts: bool, user_context: dict[str, Any]
    ) -> None:
        handles = await sessions.get_all_session_handles_for_user(
            user_id=user_id,
            fetch_sessions_for_linked_accounts=remove_all_linked_accounts,
            tenant_id=None,  # type: ignore[arg-type] # all tenants; declared too strict
            fetch_across_all_tenants=True,
            user_context=user_context,
        )
        await delete_user(user_id, remove_all_linked_accounts, user_context)
        for handle in handles:
            on_revoked(handle)

    users.delete_user = user  # type: ignore[method-assign]
    sessions.revoke_session = one  # type: ignore[method-assign]
    sessions.revoke_multiple_sessions = several  # type: ignore[method-assign]
    sessions.revoke_all_sessions_for_user = of_user  # type: ignore[method-assign]


_JUDGING = ("get_session", "get_global_claim_validators", "validate_claims")
_REFUSALS = ("unauthorised", "try_refresh_token", "invalid_claim")


@SDK.seam(
    *(Has(f"{_SESSIONS}.{name}") for name in _JUDGING),
    *(Has(f"{_SESSION}.utils:ErrorHandlers.on_{name}") for name in _REFUSALS),
    *(Has(f"{_SESSION}.utils:default_{name}_callback") for name in _REFUSALS),
    Keeps(
        f"{_SESSION}.utils:ErrorHandlers",
        tuple(f"_ErrorHandlers__on_{name}" for name in _REFUSALS),
    ),
)
def is_judging_overridden() -> bool:
    """Return whether a `config_module` changes how sessions are verified or refused.

    Read: methods of the session recipe's implementation, and the private callbacks of
    its ErrorHandlers. Breaks: an override isn't noticed, and the gateway judges by
    itself what it must leave to the SDK.
    """
    from supertokens_python.recipe.session import utils
    from supertokens_python.recipe.session.recipe import SessionRecipe
    from supertokens_python.recipe.session.recipe_implementation import (
        RecipeImplementation,
    )

    recipe = SessionRecipe.get_instance()
    for name in _JUDGING:
        if not _is_own(recipe.recipe_implementation, name, RecipeImplementation):
            return True
    handlers = recipe.config.error_handlers
    for name in _REFUSALS:
        if not _is_own(handlers, f"on_{name}", utils.ErrorHandlers):
            return True
        callback = getattr(handlers, f"_ErrorHandlers__on_{name}")
        if callback is not getattr(utils, f"default_{name}_callback"):
            return True
    return False


def _is_own(instance: object, name: str, kind: type) -> bool:
    """Return whether the method *name* of *instance* is the one of *kind*."""
    method = getattr(instance, name)
    return getattr(method, "__func__", method) is getattr(kind, name)


@SDK.seam(
    Takes(
        f"{_SESSION}.recipe:SessionRecipe.get_claim_validators_added_by_other_recipes",
        1,
    )
)
def global_validators() -> Sequence[SessionClaimValidator]:
    """Return what the recipes demand of the claims of every session.

    Read: `SessionRecipe`. Breaks: a session that a recipe refuses is accepted.
    """
    from supertokens_python.recipe.session.recipe import SessionRecipe

    return SessionRecipe.get_instance().get_claim_validators_added_by_other_recipes()


_IS_VERIFIED = f"{_SDK}.recipe.emailverification.recipe:IsVerifiedSCV"


@SDK.seam(
    Keeps(_IS_VERIFIED, ("id", "max_age_in_sec", "refetch_time_on_false_in_ms")),
)
def is_verified_email(
    validator: SessionClaimValidator, name: str, refetch_false_s: float
) -> bool:
    """Return whether *validator* is emailverification's own, for the claim *name*.

    Read: the attributes of `IsVerifiedSCV`. Breaks: the gateway leaves every
    verification to the SDK, or fetches an unverified address again at other times.
    """
    from supertokens_python.recipe.emailverification.recipe import IsVerifiedSCV

    match validator:
        case IsVerifiedSCV(
            id=id_, max_age_in_sec=None, refetch_time_on_false_in_ms=since_ms
        ):
            return id_ == name and since_ms == refetch_false_s * 1000
        case _:
            return False


# --- requests and replies --------------------------------------

# What `binding.SdkRequest` and `binding.SdkReply` define. A method that the SDK adds
# to its base classes would make every request a TypeError.
SDK.declare(
    "gateway.supertokens.binding:SdkRequest",
    Demands(
        f"{_SDK}.framework:BaseRequest",
        frozenset(
            {
                *("form_data", "get_cookie", "get_header", "get_original_url"),
                *("get_path", "get_query_param", "get_query_params", "get_session"),
                *("json", "method", "set_session", "set_session_as_none"),
            }
        ),
    ),
    Takes(f"{_SDK}.framework:BaseRequest"),
)
SDK.declare(
    "gateway.supertokens.binding:SdkReply",
    Demands(
        f"{_SDK}.framework:BaseResponse",
        frozenset(
            {
                *("__init__", "get_header", "redirect", "remove_header", "set_cookie"),
                *("set_header", "set_html_content", "set_json_content"),
                *("set_status_code",),
            }
        ),
    ),
    Takes(f"{_SDK}.framework:BaseResponse", 2),
)


@SDK.seam(Takes(f"{_SDK}.utils:default_user_context", 1))
def user_context(request: BaseRequest) -> dict[str, Any]:
    """Return a new context for the work on *request*.

    Read: `utils.default_user_context`, as the SDK's bindings do. Breaks: functions of
    a `config_module` don't find the request.
    """
    from supertokens_python.utils import default_user_context

    return default_user_context(request)


@SDK.seam(
    Takes(f"{_SUPERTOKENS}:Supertokens.middleware", 4),
    Takes(f"{_SUPERTOKENS}:Supertokens.get_instance"),
)
async def answer(
    request: BaseRequest, reply: BaseResponse, context: dict[str, Any]
) -> BaseResponse | None:
    """Return the reply of the SDK's own API, or None when it has none for the path.

    Read: `Supertokens.middleware`, which the SDK's bindings call. Breaks: sign-in.
    """
    from supertokens_python import Supertokens

    return await Supertokens.get_instance().middleware(request, reply, context)


@SDK.seam(
    Takes(f"{_SUPERTOKENS}:Supertokens.handle_supertokens_error", 5),
    Takes(f"{_SUPERTOKENS}:Supertokens.get_instance"),
)
async def refuse(
    request: BaseRequest,
    error: SuperTokensError,
    reply: BaseResponse,
    context: dict[str, Any],
) -> BaseResponse | None:
    """Return the reply that the SDK gives to *error*, or raise it again.

    Read: `Supertokens.handle_supertokens_error`, as the SDK's bindings do. Breaks: a
    refusal is a 500.
    """
    from supertokens_python import Supertokens

    return await Supertokens.get_instance().handle_supertokens_error(
        request, error, reply, context
    )


@SDK.seam(Takes(f"{_SUPERTOKENS}:manage_session_post_response", 3))
def add_tokens(
    session: SessionContainer, reply: BaseResponse, context: dict[str, Any]
) -> None:
    """Write the new tokens of *session* to *reply*.

    Read: `manage_session_post_response`, as the SDK's bindings do. Breaks: a client
    doesn't get its new tokens.
    """
    from supertokens_python.supertokens import manage_session_post_response

    manage_session_post_response(session, reply, context)


# --- tests --------------------------------------

_RECIPES = "supertokens_python.recipe."


@SDK.seam(harmless="only tests start the SDK twice in a process")
def singletons() -> Iterator[Any]:
    """Yield all that is to be `reset`; what isn't loaded has no instance.

    Read: the classes that keep an instance. Breaks: a test gets the SDK of another.
    """
    loaded = sys.modules.get
    if module := loaded("supertokens_python.supertokens"):
        yield module.Supertokens
    if module := loaded("supertokens_python.querier"):
        yield module.Querier
    for name, module in tuple(sys.modules.items()):
        if name.startswith(_RECIPES) and name.endswith(".recipe"):
            for one in tuple(vars(module).values()):
                is_own = isinstance(one, type) and one.__module__ == name
                if is_own and hasattr(one, "reset"):
                    yield one
    if module := loaded("supertokens_python.process_state"):
        yield module.ProcessState.get_instance()
    if module := loaded("supertokens_python.post_init_callbacks"):
        yield module.PostSTInitCallbacks
