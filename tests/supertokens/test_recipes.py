"""The recipes accountlinking, multifactorauth, totp, webauthn and jwt of the file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
from sdk_reset import running
from stack import Outbox
from supertokens_python.recipe.accountlinking.recipe import AccountLinkingRecipe
from supertokens_python.recipe.accountlinking.types import (
    AccountInfoWithRecipeIdAndUserId,
    ShouldAutomaticallyLink,
)
from supertokens_python.recipe.jwt.recipe import JWTRecipe
from supertokens_python.recipe.multifactorauth.recipe import MultiFactorAuthRecipe
from supertokens_python.recipe.totp.recipe import TOTPRecipe
from supertokens_python.recipe.webauthn.interfaces.api import (
    TypeWebauthnRecoverAccountEmailDeliveryInput,
    WebauthnRecoverAccountEmailDeliveryUser,
)
from supertokens_python.recipe.webauthn.recipe import WebauthnRecipe
from supertokens_python.types import RecipeUserId

from gateway.config import SmtpConfig, SuperTokensConfig
from gateway.supertokens import check
from gateway.supertokens.delivery import Delivery

FACTORS = (
    "expected 'emailpassword', 'otp-email', 'otp-phone', 'link-email', 'link-phone',"
    " 'thirdparty' or 'webauthn'"
)

WRONG: Mapping[str, tuple[Mapping[str, Any], tuple[str, str, str]]] = {
    "unknown key": (
        {"accountlinking": {"automatic": True}},
        (
            "accountlinking.automatic",
            "unknown key 'automatic'",
            "Known keys here: should_automatically_link, should_require_verification",
        ),
    ),
    "text for a flag": (
        {"accountlinking": {"should_automatically_link": "yes"}},
        (
            "accountlinking.should_automatically_link",
            "expected true or false",
            "Write true, without quotes",
        ),
    ),
    "linking without verification": (
        {"emailpassword": {}, "accountlinking": {"should_automatically_link": True}},
        (
            "accountlinking.should_automatically_link",
            (
                "accounts are linked once their addresses are verified, and the recipe"
                " emailverification is off"
            ),
            "Add emailverification to supertokens.recipes",
        ),
    ),
    "unknown factor": (
        {"multifactorauth": {"first_factors": ["otp_email"]}},
        (
            "multifactorauth.first_factors[0]",
            FACTORS,
            "Did you mean 'otp-email'?",
        ),
    ),
    "a second factor first": (
        {"multifactorauth": {"first_factors": ["totp"]}},
        ("multifactorauth.first_factors[0]", FACTORS, ""),
    ),
    "no factor": (
        {"multifactorauth": {"first_factors": []}},
        ("multifactorauth.first_factors", "expected at least one item", ""),
    ),
    "negative skew": (
        {"totp": {"default_skew": -1}},
        ("totp.default_skew", "must be at least 0", ""),
    ),
    "no period": (
        {"totp": {"default_period": 0}},
        ("totp.default_period", "must be at least 1", ""),
    ),
    "a URL for a domain": (
        {"webauthn": {"relying_party_id": "https://example.com"}},
        (
            "webauthn.relying_party_id",
            (
                "this isn't a host: expected a DNS name, an IPv4 address, or an IPv6"
                " address in brackets"
            ),
            "",
        ),
    ),
    "no validity": (
        {"jwt": {"jwt_validity_seconds": 0}},
        ("jwt.jwt_validity_seconds", "must be at least 1", ""),
    ),
}


def settings(**recipes: Any) -> SuperTokensConfig:
    return SuperTokensConfig.model_validate(
        {
            "connection_uri": "http://127.0.0.1:9",
            "recipes": {"emailpassword": {}, **recipes},
        }
    )


@pytest.mark.parametrize(("recipes", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_settings(
    recipes: Mapping[str, Any], expected: tuple[str, str, str]
) -> None:
    """A mistake is one finding with its place, its message and the remedy."""
    path, message, hint = expected
    (finding,) = check(recipes)
    assert finding.path == f"supertokens.recipes.{path}"
    assert finding.message == message
    assert hint in (finding.hint or "")


@pytest.mark.parametrize(
    "recipes",
    [
        {"emailpassword": {}, "accountlinking": {}},
        {
            "emailpassword": {},
            "accountlinking": {
                "should_automatically_link": True,
                "should_require_verification": False,
            },
        },
        {
            "emailpassword": {},
            "emailverification": {"mode": "OPTIONAL"},
            "accountlinking": {"should_automatically_link": True},
        },
        {"thirdparty": {}, "accountlinking": {"should_automatically_link": True}},
        {"totp": {}, "multifactorauth": {}, "webauthn": {}, "jwt": {}},
    ],
)
def test_good_settings(recipes: Mapping[str, Any]) -> None:
    """Without settings a recipe has the SDK's defaults."""
    assert check(recipes) == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"should_automatically_link": False}, None),
        (
            {
                "should_automatically_link": True,
                "should_require_verification": False,
            },
            False,
        ),
    ],
)
async def test_account_linking_decides_by_the_file(
    values: Mapping[str, bool], expected: bool | None
) -> None:
    """By default accounts aren't linked."""
    async with running(settings(accountlinking=values)):
        config = AccountLinkingRecipe.get_instance().config
        decision = await config.should_do_automatic_account_linking(
            AccountInfoWithRecipeIdAndUserId(None, "emailpassword", email="a@b.co"),
            None,
            None,
            "public",
            {},
        )
    verification = (
        decision.should_require_verification
        if isinstance(decision, ShouldAutomaticallyLink)
        else None
    )
    assert verification is expected


async def test_linking_requires_verification_by_default() -> None:
    """An account is linked only once its address is verified, unless the file says so.

    Otherwise anybody could sign up with another's address and get the other's account.
    """
    values = settings(
        emailverification={"mode": "OPTIONAL"},
        accountlinking={"should_automatically_link": True},
    )
    async with running(values):
        config = AccountLinkingRecipe.get_instance().config
        decision = await config.should_do_automatic_account_linking(
            AccountInfoWithRecipeIdAndUserId(None, "emailpassword", email="a@b.co"),
            None,
            None,
            "public",
            {},
        )
    assert isinstance(decision, ShouldAutomaticallyLink)
    assert decision.should_require_verification


async def test_settings_reach_the_sdk() -> None:
    """The SDK runs with the values of the file."""
    async with running(
        settings(
            multifactorauth={"first_factors": ["emailpassword"]},
            totp={"issuer": "Example", "default_skew": 0, "default_period": 60},
            webauthn={"relying_party_id": "example.com", "relying_party_name": "Ex"},
            jwt={"jwt_validity_seconds": 77},
        )
    ):
        factors = MultiFactorAuthRecipe.get_instance_or_throw_error().config
        assert factors.first_factors == ["emailpassword"]
        totp = TOTPRecipe.get_instance_or_throw().config
        assert (totp.issuer, totp.default_skew, totp.default_period) == (
            "Example",
            0,
            60,
        )
        webauthn = WebauthnRecipe.get_instance().config
        relying_party = await webauthn.get_relying_party_id(
            tenant_id="public", request=None, user_context={}
        )
        name = await webauthn.get_relying_party_name(
            tenant_id="public", request=None, user_context={}
        )
        assert (relying_party, name) == ("example.com", "Ex")
        assert JWTRecipe.get_instance().config.jwt_validity_seconds == 77


RECOVERY = TypeWebauthnRecoverAccountEmailDeliveryInput(
    user=WebauthnRecoverAccountEmailDeliveryUser(
        id="1", recipe_user_id=RecipeUserId("1"), email="ann@example.com"
    ),
    recover_account_link="http://localhost:8000/auth/webauthn/recover?token=x",
    tenant_id="public",
)


async def test_recovery_links_go_where_other_mails_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Links that recover a WebAuthn account reach the outbox, or nobody by default.

    The SDK's own default posts them to SuperTokens' service.
    """

    async def send() -> None:
        mails = WebauthnRecipe.get_instance().email_delivery
        await mails.ingredient_interface_impl.send_email(
            template_vars=RECOVERY, user_context={}
        )

    outbox = Outbox()
    async with running(settings(webauthn={}), email=outbox):
        await send()
    assert outbox.mails == [
        ("account_recovery", "ann@example.com", RECOVERY.recover_account_link)
    ]
    async with running(settings(webauthn={})):
        with caplog.at_level(logging.WARNING, "gateway.sdk"):
            await send()
    assert "account_recovery message was not sent" in caplog.text
    assert "token=" not in caplog.text


def test_recovery_links_are_sent_through_smtp() -> None:
    """With a mail server its service is the SDK's for SMTP."""
    smtp = SmtpConfig(host="mail.example.com", from_email="a@example.com")
    delivery = Delivery(smtp, None).account_recovery()
    assert delivery is not None
    assert type(delivery.service).__name__ == "SMTPService"
    assert Delivery("supertokens", None).account_recovery() is None
