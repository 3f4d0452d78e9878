"""Forgetting the SuperTokens SDK of this process, so that a test can start its own.

The SDK is a set of singletons that only reset when SUPERTOKENS_ENV is "testing"; that
is so for the moment of the reset and at no other time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import gateway.sdk
from gateway.config import SuperTokens
from gateway.sdk import Sdk, start


def reset() -> None:
    """Forget the SDK, its recipes, its keys and its connection to a core."""
    from supertokens_python import Supertokens
    from supertokens_python.post_init_callbacks import PostSTInitCallbacks
    from supertokens_python.process_state import ProcessState
    from supertokens_python.querier import Querier
    from supertokens_python.recipe.accountlinking.recipe import AccountLinkingRecipe
    from supertokens_python.recipe.dashboard import DashboardRecipe
    from supertokens_python.recipe.emailpassword import EmailPasswordRecipe
    from supertokens_python.recipe.emailverification import EmailVerificationRecipe
    from supertokens_python.recipe.jwt import JWTRecipe
    from supertokens_python.recipe.multifactorauth.recipe import MultiFactorAuthRecipe
    from supertokens_python.recipe.multitenancy.recipe import MultitenancyRecipe
    from supertokens_python.recipe.oauth2provider.recipe import OAuth2ProviderRecipe
    from supertokens_python.recipe.openid.recipe import OpenIdRecipe
    from supertokens_python.recipe.passwordless import PasswordlessRecipe
    from supertokens_python.recipe.session import SessionRecipe
    from supertokens_python.recipe.thirdparty import ThirdPartyRecipe
    from supertokens_python.recipe.usermetadata import UserMetadataRecipe
    from supertokens_python.recipe.userroles import UserRolesRecipe

    before = os.environ.get("SUPERTOKENS_ENV")
    os.environ["SUPERTOKENS_ENV"] = "testing"
    try:
        for singleton in (
            Supertokens,
            Querier,
            SessionRecipe,
            AccountLinkingRecipe,
            DashboardRecipe,
            EmailPasswordRecipe,
            EmailVerificationRecipe,
            JWTRecipe,
            MultiFactorAuthRecipe,
            MultitenancyRecipe,
            OAuth2ProviderRecipe,
            OpenIdRecipe,
            PasswordlessRecipe,
            ThirdPartyRecipe,
            UserMetadataRecipe,
            UserRolesRecipe,
        ):
            singleton.reset()
        ProcessState.get_instance().reset()
        PostSTInitCallbacks.reset()
    finally:
        if before is None:
            del os.environ["SUPERTOKENS_ENV"]
        else:
            os.environ["SUPERTOKENS_ENV"] = before
    gateway.sdk._started = None


@contextlib.asynccontextmanager
async def running(
    settings: SuperTokens, *, email: object | None = None
) -> AsyncIterator[Sdk]:
    """Run the SDK with *settings* inside, whatever ran before, and close it."""
    reset()
    sdk = start(settings, email=email)  # type: ignore[arg-type]
    try:
        yield sdk
    finally:
        await sdk.close()
        reset()
