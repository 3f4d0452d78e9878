"""edge. `core_calls.CoreSession` by the SDK: what it is asked, and how it is set up.

Requirements become the SDK's claim validators here, so that it fetches stale claims
again itself and one refusal lists whatever is wrong.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gateway.identity import Allowed, Denied, SessionRequest
from gateway.seams import supertokens as seams
from gateway.session import requirements, tokens
from gateway.session.requirements import Check
from gateway.session.rules import AntiCsrf, GlobalClaims, SessionRules, Transfer
from gateway.supertokens import Sdk, SdkSession

if TYPE_CHECKING:
    from supertokens_python.recipe.session.interfaces import (
        SessionClaim,
        SessionClaimValidator,
    )


class SdkSessions:
    """Has the SDK judge a request's session."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        _judge_tokens_as_we_do()

    async def check(
        self,
        request: SessionRequest,
        *,
        is_required: bool,
        check_database: bool,
        checks: Sequence[Check],
        validators: Sequence[str],
    ) -> Allowed | Denied:
        """Return the SDK's verdict; see `core_calls.CoreSession`.

        Raises:
            CoreUnavailable: the core had to be asked and couldn't be.
            GatewayError: the SDK failed in another way.
            ValueError: one of *validators* isn't the name of a claim validator.
        """
        session = await self._sdk.get_session(
            request,
            required=is_required,
            check_database=check_database,
            validators=[
                *map(_checked(), checks),
                *(validator(name) for name in validators),
            ],
        )
        match session:
            case None:
                return Allowed(principal=None, reason="anonymous")
            case SdkSession(identity=identity, new_tokens=new_tokens):
                return Allowed(principal=identity, reason="core", new_tokens=new_tokens)
            case denied:
                return denied


def rules(sdk: Sdk) -> SessionRules:
    """Return how the engine must judge so that it agrees with the SDK as it is set up.

    Source: SDK `NormalisedSessionConfig`, `get_required_claim_validators`.
    """
    config = sdk.config
    return SessionRules(
        tokens=tokens.TokenRules(
            issuers=frozenset({config.issuer}),
            use_dynamic_key=config.dynamic_signing_key,
        ),
        anti_csrf=AntiCsrf(config.anti_csrf or AntiCsrf.NONE),
        transfer=Transfer(config.token_transfer_method or Transfer.ANY),
        global_claims=_global_claims(),
        is_sdk_only=(
            config.anti_csrf is None
            or config.token_transfer_method is None
            or seams.is_judging_overridden()
        ),
        session_expired_status=config.session_expired_status,
        invalid_claim_status=config.invalid_claim_status,
    )


@lru_cache(maxsize=256)
def validator(name: str) -> SessionClaimValidator:
    """Return the claim validator called `package.module.name`.

    It is a `SessionClaimValidator`, or a function without arguments that returns one.

    Raises:
        ValueError: there is no such thing.
    """
    from supertokens_python.recipe.session.interfaces import SessionClaimValidator

    module_name, _, attribute = name.rpartition(".")
    try:
        value = getattr(importlib.import_module(module_name), attribute)
        if callable(value):
            value = value()
    except Exception as exc:
        raise ValueError(f"can't load {name}: {type(exc).__name__}: {exc}") from exc
    if not isinstance(value, SessionClaimValidator):
        raise ValueError(f"{name} isn't a SessionClaimValidator")
    return value


@lru_cache(maxsize=1)
def _checked() -> Callable[[Check], SessionClaimValidator]:
    """Return what makes a claim validator of the SDK's out of a check of ours."""
    from supertokens_python.recipe.session.interfaces import (
        ClaimValidationResult,
        SessionClaimValidator,
    )

    claims = _claims()

    class Checked(SessionClaimValidator):
        def __init__(self, check: Check) -> None:
            super().__init__(check.id)
            self.claim = claims.get(check.id)
            self.check = check

        def should_refetch(self, payload: Any, user_context: Any) -> bool:
            return self.check.is_stale(payload, time.time())

        async def validate(
            self,
            payload: Any,
            user_context: Any,
        ) -> ClaimValidationResult:
            reason = self.check.reason(payload)
            return ClaimValidationResult(is_valid=reason is None, reason=reason)

    return Checked


def _claims() -> Mapping[str, SessionClaim[Any]]:
    """Return the claims that the SDK can fetch from the core, by name."""
    from supertokens_python.recipe.emailverification import EmailVerificationClaim
    from supertokens_python.recipe.multifactorauth.multi_factor_auth_claim import (
        MultiFactorAuthClaim,
    )
    from supertokens_python.recipe.userroles import PermissionClaim, UserRoleClaim

    return {
        requirements.ROLES: UserRoleClaim,
        requirements.PERMISSIONS: PermissionClaim,
        requirements.EMAIL_VERIFIED: EmailVerificationClaim,
        requirements.MFA: MultiFactorAuthClaim,
    }


def _global_claims() -> GlobalClaims:
    """Return what the recipes demand of the claims of every session."""
    match seams.global_validators():
        case []:
            return GlobalClaims.NONE
        case [validator] if seams.is_verified_email(
            validator, requirements.EMAIL_VERIFIED, requirements.REFETCH_FALSE_S
        ):
            return GlobalClaims.EMAIL_VERIFIED
        case _:
            return GlobalClaims.OTHER


def _judge_tokens_as_we_do() -> None:
    """Make the SDK take RS256 only, and an `iat` that is a little ahead.

    It takes the algorithm from the token, and lets no second of skew pass: a core
    whose clock is ahead would have its new tokens refused, and refreshed for ever.
    """
    import jwt

    def decode(token: str, key: Any, algorithms: object, options: Any) -> Any:  # noqa: ARG001
        return jwt.decode(
            token,
            key,
            algorithms=["RS256"],
            options=options,
            leeway=tokens.IAT_LEEWAY_S,  # for `exp` too; the SDK looks at it once more
        )

    seams.replace_jwt(SimpleNamespace(decode=decode))
