"""edge. The `recipes` of the file, checked, and made into the SDK's recipe list.

Checking needs no SDK: `gateway check` finds problems before it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from gateway.config import Finding, SuperTokensConfig
from gateway.config.findings import explain
from gateway.config.forms import (
    FieldName,
    FieldValue,
    Flag,
    HostName,
    NotNegative,
    Positive,
)
from gateway.config.models import Model

if TYPE_CHECKING:
    from supertokens_python import RecipeInit
    from supertokens_python.recipe.thirdparty import ProviderInput

    from gateway.supertokens.delivery import Delivery


class RecipeError(ValueError):
    """A setting that prevents the SDK's start, and its place."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        """The YAML path, such as `supertokens.recipes.thirdparty.providers[0]`."""
        self.message = message


# --- the settings, under the SDK's own names ---------------------------------

_Text = Annotated[str, Field(min_length=1)]
_Params = dict[str, str | None]
_HeaderFields = dict[FieldName, FieldValue | None]


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
    scope: tuple[str, ...] | None = None
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
    user_info_endpoint_headers: _HeaderFields | None = None
    jwks_uri: str | None = None
    oidc_discovery_endpoint: str | None = None
    user_info_map: _UserInfoMap | None = None
    require_email: bool | None = None
    include_in_non_public_tenants_by_default: bool = False


class _ThirdParty(Model):
    providers: tuple[_Provider, ...] = ()

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each provider that is listed twice."""
        seen: set[str] = set()
        for number, provider in enumerate(self.providers):
            if provider.third_party_id in seen:
                yield Finding(
                    loc=("providers", number, "third_party_id"),
                    message="another provider has this id",
                )
            seen.add(provider.third_party_id)


class _Passwordless(Model):
    contact_method: Literal["EMAIL", "PHONE", "EMAIL_OR_PHONE"]
    flow_type: Literal[
        "USER_INPUT_CODE", "MAGIC_LINK", "USER_INPUT_CODE_AND_MAGIC_LINK"
    ]


class _Dashboard(Model):
    api_key: str | None = None
    admins: tuple[str, ...] | None = None


class _AccountLinking(Model):
    # The SDK asks a function. These are the fields of its answer.
    should_automatically_link: Flag = False
    should_require_verification: Flag = True


class _MultiFactorAuth(Model):
    first_factors: (
        Annotated[
            tuple[
                Literal[
                    "emailpassword",
                    "otp-email",
                    "otp-phone",
                    "link-email",
                    "link-phone",
                    "thirdparty",
                    "webauthn",
                ],
                ...,
            ],
            Field(min_length=1),
        ]
        | None
    ) = None


class _Totp(Model):
    issuer: _Text | None = None
    default_skew: NotNegative | None = None
    default_period: Positive | None = None


class _WebAuthn(Model):
    relying_party_id: HostName | None = None
    relying_party_name: _Text | None = None


class _Jwt(Model):
    jwt_validity_seconds: Positive | None = None


_MODELS: Mapping[str, type[Model]] = {
    "emailpassword": _EmailPassword,
    "emailverification": _EmailVerification,
    "userroles": _UserRoles,
    "usermetadata": _NoSettings,
    "thirdparty": _ThirdParty,
    "passwordless": _Passwordless,
    "multitenancy": _NoSettings,
    "dashboard": _Dashboard,
    "accountlinking": _AccountLinking,
    "multifactorauth": _MultiFactorAuth,
    "totp": _Totp,
    "webauthn": _WebAuthn,
    "jwt": _Jwt,
}

NEED_REAL_CORE = ("accountlinking", "multifactorauth", "totp", "webauthn")
"""Recipes that the embedded development core doesn't serve."""


# --- checking ----------------------------------------------------------------


def check(recipes: Mapping[str, Mapping[str, Any]]) -> tuple[Finding, ...]:
    """Return every problem of the settings of *recipes*, whose names are good."""
    findings = [
        replace(finding, loc=(name, *finding.loc))
        for name, settings in recipes.items()
        for finding in _check(_MODELS[name], settings)
    ]
    if not findings:
        findings += _missing(recipes)
    return tuple(
        replace(finding, loc=("supertokens", "recipes", *finding.loc))
        for finding in findings
    )


def _missing(recipes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield a finding for a recipe that has no effect without another one."""
    linking = _AccountLinking.model_validate(dict(recipes.get("accountlinking", {})))
    if (
        linking.should_automatically_link
        and linking.should_require_verification
        and "emailpassword" in recipes
        and "emailverification" not in recipes
    ):
        yield Finding(
            loc=("accountlinking", "should_automatically_link"),
            message="accounts are linked once their addresses are verified, and the"
            " recipe emailverification is off",
            hint="Add emailverification to supertokens.recipes",
        )


def _check(model: type[Model], settings: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        model.model_validate(dict(settings))
    except ValidationError as exc:
        yield from explain(exc, model, settings)


# --- making ------------------------------------------------------------------


def make(config: SuperTokensConfig, delivery: Delivery) -> list[RecipeInit]:
    """Return the session recipe and those of the file, ready for the SDK's `init`.

    Raises:
        RecipeError: a recipe's settings are wrong (the first of `check`'s problems).
    """
    for finding in check(config.recipes):
        raise RecipeError(finding.path, finding.message)
    return [
        _session(config),
        *(
            _make(_MODELS[name].model_validate(dict(settings)), name, delivery)
            for name, settings in config.recipes.items()
        ),
    ]


def _session(config: SuperTokensConfig) -> RecipeInit:
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
    """Return the recipe; only a configured one is imported, as that takes time."""
    match settings:
        case _EmailPassword():
            from supertokens_python.recipe import emailpassword

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
            from supertokens_python.recipe import emailverification

            return emailverification.init(
                mode=settings.mode, email_delivery=delivery.email_verification()
            )
        case _UserRoles():
            from supertokens_python.recipe import userroles

            return userroles.init(
                settings.skip_adding_roles_to_access_token,
                settings.skip_adding_permissions_to_access_token,
            )
        case _ThirdParty():
            from supertokens_python.recipe import thirdparty

            return thirdparty.init(
                thirdparty.SignInAndUpFeature(
                    [_provider(provider) for provider in settings.providers]
                )
            )
        case _Passwordless():
            from supertokens_python.recipe import passwordless

            contact = {
                "EMAIL": passwordless.ContactEmailOnlyConfig,
                "PHONE": passwordless.ContactPhoneOnlyConfig,
                "EMAIL_OR_PHONE": passwordless.ContactEmailOrPhoneConfig,
            }[settings.contact_method]
            return passwordless.init(
                contact(),
                settings.flow_type,
                email_delivery=delivery.passwordless_mail(),
                sms_delivery=delivery.passwordless_sms(),
            )
        case _Dashboard():
            from supertokens_python.recipe import dashboard

            return dashboard.init(
                settings.api_key,
                None if settings.admins is None else list(settings.admins),
            )
        case _AccountLinking():
            return _account_linking(settings)
        case _MultiFactorAuth(first_factors=factors):
            from supertokens_python.recipe import multifactorauth

            return multifactorauth.init(None if factors is None else list(factors))
        case _Totp():
            from supertokens_python.recipe import totp
            from supertokens_python.recipe.totp.types import TOTPConfig

            return totp.init(TOTPConfig(**settings.model_dump()))
        case _WebAuthn():
            from supertokens_python.recipe import webauthn

            return _init(
                webauthn.init(
                    webauthn.WebauthnConfig(
                        get_relying_party_id=settings.relying_party_id,
                        get_relying_party_name=settings.relying_party_name,
                        email_delivery=delivery.account_recovery(),
                    )
                )
            )
        case _Jwt():
            from supertokens_python.recipe import jwt

            return jwt.init(settings.jwt_validity_seconds)
        case _ if name == "usermetadata":
            from supertokens_python.recipe import usermetadata

            return usermetadata.init()
        case _:
            from supertokens_python.recipe import multitenancy

            return multitenancy.init()


def _init(untyped: Any) -> RecipeInit:
    """Return what an `init` of the SDK without a declared type returns."""
    made: RecipeInit = untyped
    return made


def _account_linking(settings: _AccountLinking) -> RecipeInit:
    from supertokens_python.recipe import accountlinking
    from supertokens_python.recipe.accountlinking.types import (
        ShouldAutomaticallyLink,
        ShouldNotAutomaticallyLink,
    )

    answer: ShouldAutomaticallyLink | ShouldNotAutomaticallyLink
    if settings.should_automatically_link:
        answer = ShouldAutomaticallyLink(settings.should_require_verification)
    else:
        answer = ShouldNotAutomaticallyLink()  # type: ignore[no-untyped-call] # the SDK's

    async def decide(
        *_: object,
    ) -> ShouldAutomaticallyLink | ShouldNotAutomaticallyLink:
        return answer

    return _init(accountlinking.init(should_do_automatic_account_linking=decide))


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
                ProviderClientConfig(**client.model_dump(mode="json"))
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
