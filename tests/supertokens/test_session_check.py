"""Engine, key store and SDK together, with an embedded core over real HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA512
from minting import Mint
from sdk_reset import running
from session_request import session_request
from supertokens_python.recipe.emailpassword.asyncio import sign_up
from supertokens_python.recipe.emailpassword.interfaces import SignUpOkResult
from supertokens_python.recipe.emailverification.asyncio import (
    create_email_verification_token,
    verify_email_using_token,
)
from supertokens_python.recipe.emailverification.interfaces import (
    CreateEmailVerificationTokenOkResult,
)
from supertokens_python.recipe.session import SessionContainer
from supertokens_python.recipe.session import asyncio as sessions
from supertokens_python.recipe.session.claim_base_classes.boolean_claim import (
    BooleanClaim,
)
from supertokens_python.recipe.session.interfaces import (
    ClaimValidationResult,
    SessionClaimValidator,
)
from supertokens_python.recipe.session.recipe import SessionRecipe
from supertokens_python.recipe.userroles.asyncio import (
    add_role_to_user,
    create_new_role_or_add_permissions,
)
from supertokens_python.types import RecipeUserId

from gateway import config
from gateway.dev.core import CoreSettings, RunningCore, serve
from gateway.http.fields import Fields, first
from gateway.identity import (
    Allowed,
    CheckDatabase,
    ClaimRule,
    Denied,
    Protection,
    Requirements,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
)
from gateway.session import keys
from gateway.session.authenticator import SessionAuthenticator
from gateway.session.rules import AntiCsrf, GlobalClaims, Transfer
from gateway.supertokens import Sdk, session_check
from gateway.verify import Engine

REQUIRED = SessionPolicy()
ALWAYS = SessionPolicy(check_database=CheckDatabase.ALWAYS)
ADMINS = SessionPolicy(requirements=Requirements(roles_any=("admin",)))


@dataclass
class World:
    core: RunningCore
    sdk: Sdk
    store: keys.KeyStore
    engine: Engine

    async def ask(
        self,
        token: str | None,
        policy: SessionPolicy = REQUIRED,
        *,
        cookie: str | None = None,
        method: str = "GET",
    ) -> Verdict:
        fields: Fields = ()
        if token is not None:
            fields = ((b"Authorization", b"Bearer " + token.encode()),)
        if cookie is not None:
            fields = (*fields, (b"Cookie", b"sAccessToken=" + cookie.encode()))
        request = session_request(method, fields=fields)
        return await self.engine.verify(request, policy)

    def calls(self, path: str = "/recipe/session/verify") -> int:
        return self.core.core.faults.count(path)


@asynccontextmanager
async def world(
    *, write_module: Callable[[str], str] | None = None, **settings: Any
) -> AsyncIterator[World]:
    """Run a core, the SDK, a key store and an engine, assembled as in `app`.

    *write_module* makes a `config_module` for the core at a URL, and returns its name.
    """
    async with AsyncExitStack() as opened:
        core = await opened.enter_async_context(serve(CoreSettings()))
        values = {
            "connection_uri": core.url,
            "recipes": {"emailpassword": {}, "userroles": {}},
        }
        if write_module is not None:
            values = {"config_module": write_module(core.url)}
        supertokens = config.SuperTokensConfig.model_validate(values | settings)
        sdk = await opened.enter_async_context(running(supertokens))
        store = keys.KeyStore([core.url], supertokens.keys)
        sessions = SessionAuthenticator(
            keys=store,
            core=session_check.SdkSessions(sdk),
            rules=session_check.rules(sdk),
            cache=supertokens.cache,
            client=supertokens.core,
        )
        opened.push_async_callback(sessions.close)
        store.subscribe(sessions.keys_changed)
        store.subscribe(lambda key_set, _: sdk.install_keys(key_set.jwks["keys"]))
        sdk.want_key = store.want
        sdk.on_revoked = sessions.deny
        await store.start()
        opened.push_async_callback(store.close)
        await store.refresh()
        engine = Engine((sessions,), unauthorised=sessions.refusals.unauthorised)
        yield World(core, sdk, store, engine)


@pytest.fixture
async def here() -> AsyncIterator[World]:
    async with world() as running_world:
        yield running_world


def bearer(token: str) -> SessionRequest:
    fields = ((b"Authorization", b"Bearer " + token.encode()),)
    return session_request(fields=fields)


async def new_user(email: str = "user@example.com") -> str:
    result = await sign_up("public", email, "password1")
    assert isinstance(result, SignUpOkResult)
    return result.recipe_user_id.get_as_string()


async def new_session(
    user_id: str | None = None, *, anti_csrf: bool = False, **claims: Any
) -> SessionContainer:
    return await sessions.create_new_session_without_request_response(
        "public",
        RecipeUserId(user_id or await new_user()),
        claims,
        disable_anti_csrf=not anti_csrf,
    )


async def refreshed(session: SessionContainer) -> SessionContainer:
    tokens = session.get_all_session_tokens_dangerously()
    assert tokens["refreshToken"] is not None
    return await sessions.refresh_session_without_request_response(
        tokens["refreshToken"], disable_anti_csrf=True
    )


def new_token(verdict: Verdict) -> str:
    assert isinstance(verdict, Allowed)
    token = first(verdict.new_tokens, b"st-access-token")
    assert token is not None
    return token.decode()


def who(verdict: Verdict) -> str | None:
    assert isinstance(verdict, Allowed), verdict
    return None if verdict.principal is None else verdict.principal.user_id


def message(verdict: Verdict) -> tuple[int, str]:
    assert isinstance(verdict, Denied), verdict
    return verdict.status, json.loads(verdict.body)["message"]


# --- sessions ---


async def test_a_session_of_the_sdk(here: World) -> None:
    """The engine accepts the SDK's session, with its identity, without the core."""
    session = await new_session(plan="pro")
    verdict = await here.ask(session.get_access_token())
    assert isinstance(verdict, Allowed)
    identity = verdict.principal
    assert identity is not None
    assert identity.user_id == session.get_user_id()
    assert identity.recipe_user_id == session.get_recipe_user_id().get_as_string()
    assert identity.session_handle == session.get_handle()
    assert identity.tenant_id == session.get_tenant_id()
    assert identity.claims == session.get_access_token_payload()
    assert here.calls() == 0
    cookie = await here.ask(None, cookie=session.get_access_token())
    assert who(cookie) == identity.user_id


async def test_engine_and_sdk_give_the_same_identity(here: World) -> None:
    """The engine's check and the SDK's give the same ids, tenant and claims."""
    token = (await new_session()).get_access_token()
    by_engine, by_sdk = await here.ask(token), await here.ask(token, ALWAYS)
    assert isinstance(by_engine, Allowed)
    assert isinstance(by_sdk, Allowed)
    for name in ("user_id", "recipe_user_id", "session_handle", "tenant_id", "claims"):
        assert getattr(by_engine.principal, name) == getattr(by_sdk.principal, name)


async def test_the_first_use_after_a_refresh(here: World) -> None:
    """One call to the core makes the refresh final, for five requests at once (T2, T3).

    The new token needs no call. In cookie mode it comes as front-token and Set-Cookie.
    """
    fresh = (await refreshed(await new_session())).get_access_token()
    verdicts = await asyncio.gather(*(here.ask(fresh) for _ in range(5)))
    assert here.calls() == 1
    assert len({new_token(verdict) for verdict in verdicts}) == 1
    verdict = await here.ask(new_token(verdicts[0]))
    assert isinstance(verdict, Allowed)
    assert (verdict.reason, verdict.new_tokens) == ("local", ())
    assert here.calls() == 1
    by_cookie = await here.ask(None, cookie=fresh)
    assert isinstance(by_cookie, Allowed)
    assert [name for name, _ in by_cookie.new_tokens] == [b"front-token", b"Set-Cookie"]


async def test_a_revoked_session(here: World) -> None:
    """E12: if this process revokes it, every policy refuses it at once."""
    session = await new_session()
    token = session.get_access_token()
    await here.ask(token)
    await session.revoke_session()
    for policy in (REQUIRED, ALWAYS):
        verdict = await here.ask(token, policy)
        assert message(verdict) == (401, "unauthorised")
        assert verdict.reason == "session_ended"


async def test_a_session_revoked_elsewhere(here: World) -> None:
    """If another process revokes it, it is refused once the database is checked.

    That refusal clears the client's tokens.
    """
    session = await new_session()
    token = session.get_access_token()
    here.sdk.on_revoked = None  # as if another process revoked it
    await session.revoke_session()
    assert who(await here.ask(token)) is not None
    denied = await here.ask(token, ALWAYS)
    assert message(denied) == (401, "unauthorised")
    assert isinstance(denied, Denied)
    assert first(denied.fields, b"front-token") == b"remove"
    assert message(await here.ask(token)) == (401, "unauthorised")


# --- claims ---


async def test_a_role(here: World) -> None:
    """A session has the roles that its user had when it was created."""
    user_id = await new_user()
    token = (await new_session(user_id)).get_access_token()
    verdict = await here.ask(token, ADMINS)
    assert message(verdict) == (403, "invalid claim")
    await create_new_role_or_add_permissions("admin", ["write"])
    await add_role_to_user("public", user_id, "admin")
    assert message(await here.ask(token, ADMINS)) == (403, "invalid claim")
    again = (await new_session(user_id)).get_access_token()
    assert who(await here.ask(again, ADMINS)) == user_id
    assert here.calls("/recipe/session/regenerate") == 0


async def test_max_age_brings_a_role_to_a_live_session(here: World) -> None:
    """E13: an outdated claim is fetched again; the client gets a new token with it."""
    user_id = await new_user()
    token = (await new_session(user_id)).get_access_token()
    await create_new_role_or_add_permissions("admin", ["write"])
    await add_role_to_user("public", user_id, "admin")
    # Every claim is older than that, even one just fetched from the core.
    now = SessionPolicy(requirements=Requirements(roles_any=("admin",), max_age_s=1e-6))
    verdict = await here.ask(token, now)
    assert who(verdict) == user_id
    assert who(await here.ask(new_token(verdict), ADMINS)) == user_id


async def test_a_claim_that_the_token_lacks_is_fetched(here: World) -> None:
    """The roles of a session without a role claim are fetched, then checked."""
    session = await new_session()
    await session.merge_into_access_token_payload({"st-role": None})
    verdict = await here.ask(session.get_access_token(), ADMINS)
    assert message(verdict) == (403, "invalid claim")
    assert isinstance(verdict, Denied)
    assert json.loads(verdict.body)["claimValidationErrors"] == [
        {
            "id": "st-role",
            "reason": {
                "message": "wrong value",
                "expectedToIncludeAtLeastOneOf": ["admin"],
                "actualValue": [],
            },
        }
    ]


async def test_engine_and_sdk_refuse_claims_with_the_same_bytes(here: World) -> None:
    """Both refusals list all failed claims in the same order."""
    required = Requirements(
        roles_all=("admin",),
        permissions_any=("read", "write"),
        tenants=("t1",),
        claims=(ClaimRule(path=("plan",), any_of=("pro",)),),
    )
    token = (await new_session(plan="free")).get_access_token()
    by_engine = await here.ask(token, SessionPolicy(requirements=required))
    by_sdk = await here.ask(
        token,
        SessionPolicy(requirements=required, check_database=CheckDatabase.ALWAYS),
    )
    assert here.calls() == 1
    assert message(by_engine) == (403, "invalid claim")
    assert by_engine == by_sdk


async def test_email_verification_for_every_session() -> None:
    """Mode REQUIRED holds on every route; the engine checks it as the SDK does."""
    recipes = {"emailpassword": {}, "emailverification": {"mode": "REQUIRED"}}
    async with world(recipes=recipes) as here:
        assert (
            session_check.rules(here.sdk).global_claims is GlobalClaims.EMAIL_VERIFIED
        )
        user_id = await new_user()
        token = (await new_session(user_id)).get_access_token()
        verdict = await here.ask(token)
        assert message(verdict) == (403, "invalid claim")
        by_sdk = await here.ask(token, ALWAYS)
        assert by_sdk == verdict
        created = await create_email_verification_token("public", RecipeUserId(user_id))
        assert isinstance(created, CreateEmailVerificationTokenOkResult)
        await verify_email_using_token("public", created.token)
        again = (await new_session(user_id)).get_access_token()
        assert who(await here.ask(again)) == user_id


# --- the core is down ---


Fault = Callable[[Any], None]
FAULTS: dict[str, Fault] = {
    "hangs": lambda faults: faults.hang(),
    "hangs up": lambda faults: faults.disconnect(),
    "500": lambda faults: faults.error(500),
    "503": lambda faults: faults.error(503),
    "html": lambda faults: faults.garbage(body=b"<html>"),
    "truncated": lambda faults: faults.garbage(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_an_outage_of_the_core_ends_no_session(fault: Fault) -> None:
    """K3 to K5: without the core, requests that need it are undecided, not denied.

    Others pass. When the core is back, all are allowed.
    """
    async with world(core={"timeout": "1s"}) as here:
        await _no_core(here, fault)


async def _no_core(here: World, fault: Fault) -> None:
    session = await new_session()
    fresh = (await refreshed(await new_session(session.get_user_id()))).access_token
    unseen = (await new_session(session.get_user_id())).get_access_token()
    token = session.get_access_token()
    fault(here.core.core.faults)
    assert who(await here.ask(token)) == session.get_user_id()
    assert who(await here.ask(unseen)) == session.get_user_id()
    for verdict in await asyncio.gather(here.ask(token, ALWAYS), here.ask(fresh)):
        assert isinstance(verdict, Undecided)
        assert verdict.reason in {"core_unavailable", "core_timeout"}
    here.core.core.faults.clear()
    assert who(await here.ask(token, ALWAYS)) == session.get_user_id()


async def test_a_key_rotation_refuses_nobody() -> None:
    """E21, K6: a new key is fetched once for 20 requests.

    The old key stays valid as long as it is published.
    """
    async with world(keys={"cooldown": "1ms"}) as here:
        session = await new_session()
        user_id, old = session.get_user_id(), session.get_access_token()
        await here.ask(old)
        fetches = here.store.state().fetches
        await here.core.core.rotate_keys()
        new = (await new_session(user_id)).get_access_token()
        checks = [here.ask(new) for _ in range(20)]
        verdicts = await asyncio.gather(*checks, here.ask(old))
        assert {who(verdict) for verdict in verdicts} == {user_id}
        assert here.store.state().fetches == fetches + 1


async def test_a_key_that_was_withdrawn(here: World) -> None:
    """Its tokens are refused, even if cached."""
    session = await new_session()
    old = session.get_access_token()
    await here.ask(old)
    await here.core.core.rotate_keys(drop_old=True)
    await here.store.refresh()
    verdict = await here.ask(old)
    assert message(verdict) == (401, "try refresh token")
    assert verdict.reason == "token_key_unknown"


# --- the SDK's configuration ---


async def test_rules_follow_the_configuration_of_the_sdk() -> None:
    """The engine's rules have the value of each setting that both use."""
    async with world(
        anti_csrf="VIA_TOKEN",
        token_transfer_method="cookie",
        use_dynamic_signing_key=False,
        api_domain="https://api.example.com",
        website_domain="https://www.example.com",
        api_base_path="/sign/in",
    ) as here:
        rules = session_check.rules(here.sdk)
        assert rules.anti_csrf is AntiCsrf.VIA_TOKEN
        assert rules.transfer is Transfer.COOKIE
        assert rules.tokens.issuers == {"https://api.example.com/sign/in"}
        assert not rules.tokens.use_dynamic_key
        assert rules.global_claims is GlobalClaims.NONE
        assert not rules.is_sdk_only
        assert (rules.session_expired_status, rules.invalid_claim_status) == (401, 403)
        session = await new_session(anti_csrf=True)
        token = session.get_access_token()
        assert who(await here.ask(None, cookie=token)) == session.get_user_id()
        verdict = await here.ask(None, cookie=token, method="POST")
        assert message(verdict) == (401, "try refresh token")
        assert verdict.reason == "anti_csrf"


class Refuses(SessionClaimValidator):
    """A custom validator that always refuses."""

    async def validate(self, payload: Any, user_context: Any) -> ClaimValidationResult:
        return ClaimValidationResult(is_valid=False, reason={"message": "no"})


class RefusesByItself(Refuses):
    """The same validator, as a class without arguments."""

    def __init__(self) -> None:
        super().__init__("own")


def refuses() -> Refuses:
    return Refuses("own")


INSTANCE = Refuses("own")
CLAIM = BooleanClaim("own", lambda *_: True)


@pytest.mark.parametrize("name", ["refuses", "RefusesByItself", "INSTANCE"])
async def test_a_validator_by_name(here: World, name: str) -> None:
    """It may name a function, a class or an instance; the SDK runs it.

    The refusal lists the engine's own checks first, then the validator's.
    """
    token = (await new_session()).get_access_token()
    policy = SessionPolicy(
        requirements=Requirements(
            roles_any=("admin",), validators=(f"{__name__}.{name}",)
        )
    )
    verdict = await here.ask(token, policy)
    assert message(verdict) == (403, "invalid claim")
    assert isinstance(verdict, Denied)
    errors = json.loads(verdict.body)["claimValidationErrors"]
    assert [error["id"] for error in errors] == ["st-role", "own"]


@pytest.mark.parametrize(
    "name",
    ["nowhere.at.all", f"{__name__}.nothing", f"{__name__}.CLAIM", "os", ""],
    ids=["no module", "no such name", "no validator", "no dot", "empty"],
)
async def test_an_invalid_validator_name(here: World, name: str) -> None:
    """Loading it raises ValueError, which the start reports.

    If it isn't loaded before, each request is undecided with `internal_error`.
    """
    with pytest.raises(ValueError, match=r"can't load|isn't a"):
        session_check.validator(name)
    policy = SessionPolicy(requirements=Requirements(validators=(name,)))
    verdict = await here.ask((await new_session()).get_access_token(), policy)
    assert verdict == Undecided(reason="internal_error")


# --- a config_module ---

MODULE = """
from supertokens_python import InputAppInfo, SupertokensConfig
from supertokens_python.exceptions import BadInputError
from supertokens_python.recipe import emailpassword, session, userroles
from supertokens_python.recipe.session.utils import InputErrorHandlers

app_info = InputAppInfo(
    app_name="theirs",
    api_domain="http://localhost:8000",
    website_domain="http://localhost:3000",
)
supertokens_config = SupertokensConfig(connection_uri="{core}")


async def answer(request, what, response):
    response.set_status_code(418)
    response.set_json_content({{"message": "theirs"}})
    return response


async def answer_as_method(self, *args):
    return await answer(*args[-3:])


async def refuse(*_, **__):
    raise BadInputError("theirs")


def handlers(**functions):
    return {{"error_handlers": InputErrorHandlers(**functions)}}


def methods(**functions):
    return {{"error_handlers": type("Theirs", (InputErrorHandlers,), functions)()}}


def functions(*names):
    def override(original):
        for name in names:
            setattr(original, name, refuse)
        return original

    return {{"override": session.SessionOverrideConfig(functions=override)}}


recipe_list = [
    session.init(anti_csrf="NONE", **{settings}),
    emailpassword.init(),
    userroles.init(),
]
"""


@asynccontextmanager
async def with_module(
    settings: str, folder: Path, patch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """Run a `world` whose session recipe has *settings*, in a module in *folder*."""
    name = f"theirs_{folder.name.replace('-', '_')}"

    def write(core_url: str) -> str:
        text = MODULE.format(core=core_url, settings=settings)
        (folder / f"{name}.py").write_text(text)
        return name

    patch.syspath_prepend(str(folder))
    patch.setattr(sys, "dont_write_bytecode", True)
    async with world(write_module=write) as here:
        yield here


@pytest.mark.parametrize(
    "settings",
    ["handlers({}=answer)", "methods({}=answer_as_method)"],
    ids=["function", "method"],
)
@pytest.mark.parametrize(
    "handler", ["on_unauthorised", "on_try_refresh_token", "on_invalid_claim"]
)
async def test_an_overridden_error_handler_is_used(
    handler: str, settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `config_module` may override each of the three refusals on its own."""
    async with with_module(settings.format(handler), tmp_path, monkeypatch) as here:
        good = (await new_session()).get_access_token()
        verdicts = {
            "on_unauthorised": await here.ask(None),
            "on_try_refresh_token": await here.ask(good[:-8]),
            "on_invalid_claim": await here.ask(good, ADMINS),
        }
    messages = {name: message(verdict) for name, verdict in verdicts.items()}
    assert messages == {
        "on_unauthorised": (401, "unauthorised"),
        "on_try_refresh_token": (401, "try refresh token"),
        "on_invalid_claim": (403, "invalid claim"),
    } | {handler: (418, "theirs")}


@pytest.mark.parametrize(
    "function", ["get_session", "get_global_claim_validators", "validate_claims"]
)
async def test_an_overridden_sdk_function_is_run(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `config_module` may override each of three functions that check sessions."""
    settings = f"functions({function!r})"
    async with with_module(settings, tmp_path, monkeypatch) as here:
        good = (await new_session()).get_access_token()
        assert message(await here.ask(good)) == (400, "theirs")


@pytest.mark.parametrize(
    "settings",
    [
        "{}",
        "handlers()",
        "handlers(on_token_theft_detected=answer)",
        "handlers(on_clear_duplicate_session_cookies=answer)",
        "functions('get_session_information', 'refresh_session')",
    ],
    ids=["nothing", "no handlers", "theft", "duplicate cookies", "other functions"],
)
async def test_unrelated_overrides_leave_the_check_to_the_engine(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a `config_module` overrides nothing that checks sessions, the engine does."""
    async with with_module(settings, tmp_path, monkeypatch) as here:
        verdict = await here.ask((await new_session()).get_access_token())
        assert isinstance(verdict, Allowed)
        assert verdict.reason == "local"


async def test_a_global_validator_of_another_recipe_is_noticed(here: World) -> None:
    """The rules have `GlobalClaims.OTHER`, so that the SDK checks every route."""
    SessionRecipe.get_instance().add_claim_validator_from_other_recipe(refuses())
    assert session_check.rules(here.sdk).global_claims is GlobalClaims.OTHER


# --- the SDK checks tokens by the engine's rules ---


async def test_the_sdk_checks_tokens_by_the_engines_rules(here: World) -> None:
    """It takes RS256 only, and a token from up to 5 s in the future, but none expired.

    Without that leeway, new tokens of a core whose clock is ahead would be refused and
    refreshed again and again.
    """
    mint = Mint(now=time.time(), kid="d-mine")
    here.sdk.install_keys([mint.jwk()])
    sdk = session_check.SdkSessions(here.sdk)
    now = int(mint.now)
    rs512 = mint.sign(mint.header(alg="RS512"), mint.payload(), digest=SHA512())
    is_allowed = {
        name: isinstance(
            await sdk.check(
                bearer(token),
                is_required=True,
                check_database=False,
                checks=(),
                validators=(),
            ),
            Allowed,
        )
        for name, token in {
            "good": mint.token(),
            "a little ahead": mint.token(iat=now + 4),
            "far ahead": mint.token(iat=now + 60),
            "just over": mint.token(exp=now - 1),
            "RS512": rs512,
        }.items()
    }
    assert [name for name, allowed in is_allowed.items() if allowed] == [
        "good",
        "a little ahead",
    ]


async def test_an_optional_session_that_is_missing(here: World) -> None:
    """The SDK's check and the engine's both give an anonymous verdict."""
    optional = SessionPolicy(protection=Protection.OPTIONAL)
    sdk = session_check.SdkSessions(here.sdk)
    verdict = await sdk.check(
        session_request(),
        is_required=False,
        check_database=False,
        checks=(),
        validators=(),
    )
    assert verdict == Allowed(principal=None, reason="anonymous")
    assert who(await here.ask(None, optional)) is None
