"""edge. What is done to the SDK once: its start, and its signing keys.

What is replaced in it is in `seams`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import supertokens_python
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from supertokens_python import InputAppInfo, RecipeInit, SupertokensConfig

from gateway.config import SuperTokensConfig
from gateway.errors import CoreUnavailable
from gateway.http.fields import is_plain_value
from gateway.seams import supertokens as seams
from gateway.supertokens import SITE_HINT, SdkConfig, recipes
from gateway.supertokens.binding import SdkRequest
from gateway.supertokens.delivery import Delivery, EmailSender
from gateway.supertokens.recipes import RecipeError

if TYPE_CHECKING:
    from supertokens_python.recipe.session.utils import NormalisedSessionConfig

_T = TypeVar("_T")

_MODULE = "supertokens.config_module"


def init(
    settings: SuperTokensConfig,
    email: EmailSender | None,
    *,
    on_revoked: Callable[[str], None],
) -> SdkConfig:
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
        session = seams.session_config()
    except Exception as exc:
        raise RecipeError(place, "recipe_list has no session recipe") from exc
    computed_origin = callable(app_info.origin)
    if settings.config_module is not None and not computed_origin:
        _check_website_site(session)
    config = _sdk_config(
        settings,
        computed_origin=computed_origin,
        is_intercepted=core.network_interceptor is not None,
    )
    if not config.served_path:
        raise RecipeError(place, "api_base_path is the root, where the routes are")
    seams.replace_key_lookup(_lookup)
    seams.watch_revocations(on_revoked)
    return config


def _from_file(
    settings: SuperTokensConfig, email: EmailSender | None
) -> tuple[InputAppInfo, SupertokensConfig, list[RecipeInit]]:
    return (
        InputAppInfo(
            app_name=settings.app_name,
            api_domain=settings.api_domain,
            website_domain=settings.website_domain,
            api_base_path=settings.api_base_path,
            api_gateway_path=settings.api_gateway_path or "",
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
    if seams.is_running():
        raise RecipeError(
            _MODULE, f"{name} calls supertokens_python.init; leave that to the gateway"
        )
    recipe_list = _attribute(module, "recipe_list", list[RecipeInit], list)
    if not recipe_list:
        raise RecipeError(_MODULE, f"{name}.recipe_list is empty")
    core = _attribute(
        module, "supertokens_config", SupertokensConfig, SupertokensConfig
    )
    if core.api_key is not None and not is_plain_value(core.api_key):
        raise RecipeError(
            _MODULE,
            f"{name}.supertokens_config.api_key is sent in a header field, so it must"
            " be printable ASCII without a blank or line break at its ends",
        )
    return (
        _attribute(module, "app_info", InputAppInfo, InputAppInfo),
        core,
        recipe_list,
    )


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


def _check_website_site(session: NormalisedSessionConfig) -> None:
    """Return when the SDK finds the site of a module's website, or never needs it.

    It needs the site to choose anti-CSRF, and for cookies. If a function of the module
    chooses between cookies and headers, cookies may never be set.

    Raises:
        RecipeError: the website has no site.
    """
    needed = callable(session.anti_csrf_function_or_string) or (
        seams.has_default_transfer(session)
    )
    if needed and not seams.finds_website_site(session):
        raise RecipeError(
            _MODULE,
            "the SuperTokens SDK finds no site for the origin or website_domain of"
            f" app_info. {SITE_HINT}",
        )


def _sdk_config(
    settings: SuperTokensConfig, *, computed_origin: bool, is_intercepted: bool
) -> SdkConfig:
    api_domain, api_base_path, gateway_path, api_key = seams.app_info()
    session = seams.session_config()
    anti_csrf: Any = session.anti_csrf_function_or_string
    if callable(anti_csrf):
        # Asked now, because the first answer is kept and takes a while to make.
        anti_csrf = None if computed_origin else anti_csrf(None, {})
    if settings.config_module is None:
        transfer = settings.token_transfer_method
    elif seams.has_default_transfer(session):
        transfer = "any"
    else:
        transfer = None
    return SdkConfig(
        api_domain=api_domain,
        api_base_path=api_base_path,
        served_path=api_base_path.removeprefix(gateway_path),
        core_uris=seams.core_urls(),
        api_key=api_key,
        is_intercepted=is_intercepted,
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
    seams.install_keys(usable)


def missing_keys(request: SdkRequest) -> list[str]:
    """Return the key ids in the request's access tokens that aren't installed."""
    return [kid for kid in seams.key_ids(request) if seams.find_keys(kid) is None]


def _lookup(_config: object, kid: str | None = None) -> list[PyJWK]:
    """Return the installed keys for *kid*, without the SDK's fetch.

    Raises:
        CoreUnavailable: no key was ever installed, so no token can be judged.
        LookupError: there is no such key.
    """
    if not seams.installed_keys():
        raise CoreUnavailable("no signing key of the core is known yet")
    keys = seams.find_keys(kid)
    if keys is None:
        raise LookupError("no signing key of this id")
    return keys
