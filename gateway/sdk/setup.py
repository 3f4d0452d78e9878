"""edge. What is done to the SDK once: its start, and the seams where we take over.

Nothing of the SDK's source is edited: names of its modules and methods of its
instances are replaced, which is how its own overrides work, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeVar

import supertokens_python
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from supertokens_python import InputAppInfo, RecipeInit, Supertokens, SupertokensConfig
from supertokens_python.querier import Querier
from supertokens_python.recipe.oauth2provider import (
    recipe_implementation as oauth2provider,
)
from supertokens_python.recipe.session import access_token, jwks
from supertokens_python.recipe.session.constants import available_token_transfer_methods
from supertokens_python.recipe.session.cookie_and_header import get_token
from supertokens_python.recipe.session.jwt import (
    parse_jwt_without_signature_verification,
)
from supertokens_python.recipe.session.recipe import SessionRecipe
from supertokens_python.recipe.session.utils import (
    NormalisedSessionConfig,
    get_token_transfer_method_default,
)

from gateway.config import SuperTokens
from gateway.errors import CoreUnavailable
from gateway.sdk import Facts, recipes
from gateway.sdk.binding import SdkRequest
from gateway.sdk.delivery import Delivery, EmailSender
from gateway.sdk.recipes import RecipeError

_T = TypeVar("_T")

_MODULE = "supertokens.config_module"

# Longer than any process lives: the SDK must never find its keys too old.
_FOR_EVER_S = 100 * 365 * 86_400


def init(
    settings: SuperTokens,
    email: EmailSender | None,
    *,
    on_revoked: Callable[[str], None],
) -> Facts:
    """Start the SDK and return what it runs with.

    Raises:
        RecipeError: the settings are wrong; it names the YAML path.
    """
    if settings.config_module is None:
        place = "supertokens"
        app_info, core, recipe_list = _from_file(settings, email)
    else:
        place = _MODULE
        app_info, core, recipe_list = _from_module(settings.config_module)
    try:
        supertokens_python.init(
            app_info=app_info,
            supertokens_config=core,
            framework="fastapi",
            mode="asgi",
            recipe_list=recipe_list,
            telemetry=False,
        )
    except Exception as exc:
        raise RecipeError(place, f"the SuperTokens SDK refuses this: {exc}") from exc
    try:
        SessionRecipe.get_instance()
    except Exception as exc:
        raise RecipeError(place, "recipe_list has no session recipe") from exc
    facts = _facts(settings, computed_origin=callable(app_info.origin))
    if not facts.api_base_path:
        raise RecipeError(place, "api_base_path is the root; the routes stand there")
    _replace_key_lookup()
    _watch_revocations(on_revoked)
    return facts


def _from_file(
    settings: SuperTokens, email: EmailSender | None
) -> tuple[InputAppInfo, SupertokensConfig, list[RecipeInit]]:
    return (
        InputAppInfo(
            app_name=settings.app_name,
            api_domain=settings.api_domain,
            website_domain=settings.website_domain,
            api_base_path=settings.api_base_path,
            website_base_path=settings.website_base_path,
        ),
        SupertokensConfig(settings.connection_uri, settings.api_key),
        recipes.make(settings, Delivery(settings.email_delivery, email)),
    )


def _from_module(name: str) -> tuple[InputAppInfo, SupertokensConfig, list[RecipeInit]]:
    """Return what the module has under the names of SuperTokens' own examples."""
    try:
        module = importlib.import_module(name)
    except Exception as exc:
        raise RecipeError(
            _MODULE, f"can't import {name}: {type(exc).__name__}: {exc}"
        ) from exc
    if _is_running():
        raise RecipeError(
            _MODULE, f"{name} calls supertokens_python.init; leave that to the gateway"
        )
    recipe_list = _attribute(module, "recipe_list", list[RecipeInit], list)
    if not recipe_list:
        raise RecipeError(_MODULE, f"{name}.recipe_list is empty")
    return (
        _attribute(module, "app_info", InputAppInfo, InputAppInfo),
        _attribute(module, "supertokens_config", SupertokensConfig, SupertokensConfig),
        recipe_list,
    )


def _is_running() -> bool:
    try:
        Supertokens.get_instance()
    except supertokens_python.exceptions.GeneralError:
        return False
    return True


def _attribute(module: ModuleType, name: str, _as: type[_T], kind: type[object]) -> _T:
    value = getattr(module, name, None)
    if not isinstance(value, kind):
        raise RecipeError(
            _MODULE,
            f"{module.__name__} has no {name}"
            if value is None
            else f"{module.__name__}.{name} isn't a {kind.__name__}",
        )
    return value  # type: ignore[return-value]  # just checked, but for the items


def _facts(settings: SuperTokens, *, computed_origin: bool) -> Facts:
    app_info = Supertokens.get_instance().app_info
    session = SessionRecipe.get_instance().config
    anti_csrf = session.anti_csrf_function_or_string
    if callable(anti_csrf):
        # Asked now, because the first answer is kept and takes a while to make.
        anti_csrf = None if computed_origin else anti_csrf(None, {})
    if settings.config_module is None:
        transfer = settings.token_transfer_method
    elif session.get_token_transfer_method is get_token_transfer_method_default:
        transfer = "any"
    else:
        transfer = None
    api_domain: str = app_info.api_domain.get_as_string_dangerous()  # type: ignore[no-untyped-call]
    return Facts(
        api_domain=api_domain,
        api_base_path=app_info.api_base_path.get_as_string_dangerous(),
        core_uris=tuple(Querier.get_instance().get_all_core_urls_for_path("")),
        api_key=Supertokens.get_instance().supertokens_config.api_key,
        anti_csrf=anti_csrf,
        dynamic_signing_key=session.use_dynamic_access_token_signing_key,
        token_transfer_method=transfer,
        session_expired_status=session.session_expired_status_code,
        invalid_claim_status=session.invalid_claim_status_code,
    )


# --- keys ----------------------------------------------------------------------


def install_keys(keys: Iterable[dict[str, Any]]) -> None:
    """Put *keys* where the SDK looks first, for good; see `Sdk.install_keys`."""
    usable: list[PyJWK] = []
    for key in keys:
        try:
            usable.append(PyJWK.from_dict(key))
        except PyJWTError:
            continue
    jwks.cached_keys = jwks.CachedKeys(usable, _FOR_EVER_S)


def missing_keys(request: SdkRequest) -> list[str]:
    """Return the key ids that the request's access tokens name and nobody installed."""
    missing = []
    for method in available_token_transfer_methods:
        token = get_token(request, "access", method)
        if token is None:
            continue
        try:
            kid = parse_jwt_without_signature_verification(token).kid
        except Exception:  # noqa: BLE001, S112 - no JWT; the SDK ignores it, too
            continue
        if isinstance(kid, str) and jwks.find_matching_keys(_installed(), kid) is None:
            missing.append(kid)
    return missing


def _installed() -> list[PyJWK]:
    return [] if jwks.cached_keys is None else jwks.cached_keys.keys


def _lookup(_config: NormalisedSessionConfig, kid: str | None = None) -> list[PyJWK]:
    """Stand in for `get_latest_keys`, without its fetch.

    Raises:
        CoreUnavailable: no key was ever installed, so no token can be judged.
        LookupError: there is no such key.
    """
    keys = _installed()
    if not keys:
        raise CoreUnavailable("no signing key of the core is known yet")
    found = jwks.find_matching_keys(keys, kid)
    if found is None:
        raise LookupError("no signing key of this id")
    return found


def _replace_key_lookup() -> None:
    """Take the SDK's blocking fetch out, at each place that imported the function."""
    for module in (jwks, access_token, oauth2provider):
        module.get_latest_keys = _lookup  # type: ignore[attr-defined]


# --- revocation ------------------------------------------------------------------


def _watch_revocations(on_revoked: Callable[[str], None]) -> None:
    """Call *on_revoked* with each session handle that the SDK has revoked.

    Covers sign-out, token theft, the dashboard and calls of a `config_module`; not
    what another process, or the core when a user is deleted, does by itself.
    """
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

    sessions.revoke_session = one  # type: ignore[method-assign]
    sessions.revoke_multiple_sessions = several  # type: ignore[method-assign]
    sessions.revoke_all_sessions_for_user = of_user  # type: ignore[method-assign]
