"""edge. The `recipes` of the file, checked, and made into the SDK's recipe list.

Checking needs no SDK, so `gateway check` is quick; making imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from gateway.config import Model, SuperTokens

if TYPE_CHECKING:
    from supertokens_python import RecipeInit
    from supertokens_python.recipe.thirdparty import ProviderInput

    from gateway.sdk.delivery import Delivery

_ROOT = "supertokens.recipes"


class RecipeError(ValueError):
    """A setting that the SDK can't be started with, and where it stands."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        """The YAML path, such as `supertokens.recipes.thirdparty.providers[0]`."""
        self.message = message


# --- the settings, under the SDK's own names ---------------------------------

_Text = Annotated[str, Field(min_length=1)]
_Params = dict[str, str | None]


class _FormField(Model):
    id: _Text
    optional: bool = False


class _SignUp(Model):
    form_fields: tuple[_FormField, ...] = ()


class _EmailPassword(Model):
    sign_up_feature: _SignUp = _SignUp()


class _EmailVerification(Model):
    mode: Literal["REQUIRED", "OPTIONAL"]


class _UserRoles(Model):
    skip_adding_roles_to_access_token: bool = False
    skip_adding_permissions_to_access_token: bool = False


class _NoSettings(Model):
    pass


class _ProviderClient(Model):
    client_id: _Text
    client_secret: str | None = None
    client_type: str | None = None
    scope: list[str] | None = None
    force_pkce: bool | None = None
    additional_config: dict[str, Any] | None = None


class _UserFields(Model):
    user_id: str | None = None
    email: str | None = None
    email_verified: str | None = None


class _UserInfoMap(Model):
    from_id_token_payload: _UserFields = _UserFields()
    from_user_info_api: _UserFields = _UserFields()


class _Provider(Model):
    third_party_id: _Text
    name: str | None = None
    clients: tuple[_ProviderClient, ...] = ()
    authorization_endpoint: str | None = None
    authorization_endpoint_query_params: _Params | None = None
    token_endpoint: str | None = None
    token_endpoint_body_params: _Params | None = None
    user_info_endpoint: str | None = None
    user_info_endpoint_query_params: _Params | None = None
    user_info_endpoint_headers: _Params | None = None
    jwks_uri: str | None = None
    oidc_discovery_endpoint: str | None = None
    user_info_map: _UserInfoMap | None = None
    require_email: bool | None = None
    include_in_non_public_tenants_by_default: bool = False


class _ThirdParty(Model):
    providers: tuple[_Provider, ...] = ()


class _Passwordless(Model):
    contact_method: Literal["EMAIL", "PHONE", "EMAIL_OR_PHONE"]
    flow_type: Literal[
        "USER_INPUT_CODE", "MAGIC_LINK", "USER_INPUT_CODE_AND_MAGIC_LINK"
    ]


class _Dashboard(Model):
    api_key: str | None = None
    admins: list[str] | None = None


_MODELS: Mapping[str, type[Model]] = {
    "emailpassword": _EmailPassword,
    "emailverification": _EmailVerification,
    "userroles": _UserRoles,
    "usermetadata": _NoSettings,
    "thirdparty": _ThirdParty,
    "passwordless": _Passwordless,
    "multitenancy": _NoSettings,
    "dashboard": _Dashboard,
}


# --- checking ----------------------------------------------------------------


def check(recipes: Mapping[str, Mapping[str, Any]]) -> tuple[RecipeError, ...]:
    """Return every problem of the `recipes` mapping, in the file's order."""
    return tuple(
        error for name, settings in recipes.items() for error in _check(name, settings)
    )


def _check(name: str, settings: Mapping[str, Any]) -> Iterator[RecipeError]:
    path = f"{_ROOT}.{name}"
    model = _MODELS.get(name)
    if model is None:
        known = ", ".join(_MODELS)
        yield RecipeError(
            path,
            "is always on; its settings stand under supertokens itself"
            if name == "session"
            else f"is not a recipe; there are {known}",
        )
        return
    try:
        parsed = model.model_validate(dict(settings))
    except ValidationError as exc:
        for problem in exc.errors(include_url=False, include_input=False):
            yield RecipeError(path + _place(problem["loc"]), _words(problem))
        return
    if isinstance(parsed, _ThirdParty):
        seen: set[str] = set()
        for number, provider in enumerate(parsed.providers):
            if provider.third_party_id in seen:
                yield RecipeError(
                    f"{path}.providers[{number}].third_party_id",
                    "stands here a second time; ids are unique",
                )
            seen.add(provider.third_party_id)


def _place(location: tuple[int | str, ...]) -> str:
    return "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in location
    )


def _words(problem: Mapping[str, Any]) -> str:
    match problem["type"]:
        case "extra_forbidden":
            return "is not a known key"
        case "missing":
            return "is required"
        case _:
            return str(problem["msg"])


# --- making ------------------------------------------------------------------


def make(config: SuperTokens, delivery: Delivery) -> list[RecipeInit]:
    """Return the session recipe and those of the file, ready for the SDK's `init`.

    Raises:
        RecipeError: a recipe's settings are wrong (the first of `check`'s problems).
    """
    for error in check(config.recipes):
        raise error
    return [
        _session(config),
        *(
            _make(_MODELS[name].model_validate(dict(settings)), name, delivery)
            for name, settings in config.recipes.items()
        ),
    ]


def _session(config: SuperTokens) -> RecipeInit:
    from supertokens_python.framework import BaseRequest
    from supertokens_python.recipe import session

    method = config.token_transfer_method

    def transfer_method(
        _request: BaseRequest, _creating: bool, _context: dict[str, Any]
    ) -> Literal["any", "cookie", "header"]:
        return method

    return session.init(
        cookie_domain=config.cookie.domain,
        older_cookie_domain=config.cookie.older_domain,
        cookie_secure=config.cookie.secure,
        cookie_same_site=config.cookie.same_site,
        anti_csrf=config.anti_csrf,
        # `any` is left to the SDK: at sign-in it obeys the client's st-auth-mode.
        get_token_transfer_method=None if method == "any" else transfer_method,
        use_dynamic_access_token_signing_key=config.use_dynamic_signing_key,
    )


def _make(settings: Model, name: str, delivery: Delivery) -> RecipeInit:
    from supertokens_python.recipe import (
        dashboard,
        emailpassword,
        emailverification,
        multitenancy,
        passwordless,
        thirdparty,
        usermetadata,
        userroles,
    )

    match settings:
        case _EmailPassword():
            return emailpassword.init(
                sign_up_feature=emailpassword.InputSignUpFeature(
                    [
                        emailpassword.InputFormField(field.id, optional=field.optional)
                        for field in settings.sign_up_feature.form_fields
                    ]
                ),
                email_delivery=delivery.password_reset(),
            )
        case _EmailVerification():
            return emailverification.init(
                mode=settings.mode, email_delivery=delivery.email_verification()
            )
        case _UserRoles():
            return userroles.init(
                settings.skip_adding_roles_to_access_token,
                settings.skip_adding_permissions_to_access_token,
            )
        case _ThirdParty():
            return thirdparty.init(
                thirdparty.SignInAndUpFeature(
                    [_provider(provider) for provider in settings.providers]
                )
            )
        case _Passwordless():
            contact: passwordless.ContactConfig
            match settings.contact_method:
                case "EMAIL":
                    contact = passwordless.ContactEmailOnlyConfig()
                case "PHONE":
                    contact = passwordless.ContactPhoneOnlyConfig()
                case "EMAIL_OR_PHONE":
                    contact = passwordless.ContactEmailOrPhoneConfig()
            return passwordless.init(
                contact,
                settings.flow_type,
                email_delivery=delivery.passwordless_mail(),
                sms_delivery=delivery.passwordless_sms(),
            )
        case _Dashboard():
            return dashboard.init(settings.api_key, settings.admins)
        case _ if name == "usermetadata":
            return usermetadata.init()
        case _:
            return multitenancy.init()


def _provider(provider: _Provider) -> ProviderInput:
    from supertokens_python.recipe.thirdparty import (
        ProviderClientConfig,
        ProviderConfig,
        ProviderInput,
    )
    from supertokens_python.recipe.thirdparty.provider import UserFields, UserInfoMap

    mapped = provider.user_info_map
    plain = provider.model_dump(
        exclude={
            "clients",
            "user_info_map",
            "include_in_non_public_tenants_by_default",
        }
    )
    return ProviderInput(
        ProviderConfig(
            **plain,
            clients=[
                ProviderClientConfig(**client.model_dump())
                for client in provider.clients
            ],
            user_info_map=None
            if mapped is None
            else UserInfoMap(
                UserFields(**mapped.from_id_token_payload.model_dump()),
                UserFields(**mapped.from_user_info_api.model_dump()),
            ),
        ),
        provider.include_in_non_public_tenants_by_default,
    )
