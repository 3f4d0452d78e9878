"""The unmodified SDK as a client of the core, through its functions."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from dev.core.core_client import claims, unique, unique_email


def _modules() -> dict[str, ModuleType]:
    """Return the modules of the SDK that this process has imported."""
    return {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] == "supertokens_python"
    }


@pytest.fixture(autouse=True, scope="module")
def unmodified() -> Iterator[None]:
    """Import the SDK anew, since the gateway replaces names in it in other tests."""
    before = _modules()
    for name in before:
        del sys.modules[name]
    yield
    for name in _modules():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(autouse=True)
def sdk(core_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Initialise the SDK with the shared core, and reset it afterwards."""
    # Set before the import: the SDK reads the first variable when it is imported.
    monkeypatch.setenv("SUPERTOKENS_TLDEXTRACT_DISABLE_HTTP", "1")
    monkeypatch.setenv("SUPERTOKENS_ENV", "testing")
    from supertokens_python import InputAppInfo, SupertokensConfig, init
    from supertokens_python.recipe import (
        emailpassword,
        emailverification,
        multitenancy,
        passwordless,
        session,
        thirdparty,
        usermetadata,
        userroles,
    )

    _reset()
    init(
        app_info=InputAppInfo(
            app_name="test",
            api_domain="http://localhost:8000",
            website_domain="http://localhost:3000",
        ),
        supertokens_config=SupertokensConfig(connection_uri=core_url),
        framework="fastapi",
        mode="asgi",
        recipe_list=[
            emailpassword.init(),
            emailverification.init(mode="OPTIONAL"),
            session.init(anti_csrf="VIA_TOKEN"),
            userroles.init(),
            usermetadata.init(),
            multitenancy.init(),
            thirdparty.init(),
            passwordless.init(
                flow_type="USER_INPUT_CODE_AND_MAGIC_LINK",
                contact_config=passwordless.ContactEmailOnlyConfig(),
            ),
        ],
        telemetry=False,
    )
    yield
    _reset()


def _reset() -> None:
    from supertokens_python.querier import Querier
    from supertokens_python.recipe.accountlinking.recipe import AccountLinkingRecipe
    from supertokens_python.recipe.emailpassword.recipe import EmailPasswordRecipe
    from supertokens_python.recipe.emailverification.recipe import (
        EmailVerificationRecipe,
    )
    from supertokens_python.recipe.jwt.recipe import JWTRecipe
    from supertokens_python.recipe.multitenancy.recipe import MultitenancyRecipe
    from supertokens_python.recipe.oauth2provider.recipe import OAuth2ProviderRecipe
    from supertokens_python.recipe.openid.recipe import OpenIdRecipe
    from supertokens_python.recipe.passwordless.recipe import PasswordlessRecipe
    from supertokens_python.recipe.session.jwks import reset_jwks_cache
    from supertokens_python.recipe.session.recipe import SessionRecipe
    from supertokens_python.recipe.thirdparty.recipe import ThirdPartyRecipe
    from supertokens_python.recipe.usermetadata.recipe import UserMetadataRecipe
    from supertokens_python.recipe.userroles.recipe import UserRolesRecipe
    from supertokens_python.supertokens import Supertokens

    for singleton in (
        Supertokens,
        Querier,
        AccountLinkingRecipe,
        EmailPasswordRecipe,
        EmailVerificationRecipe,
        JWTRecipe,
        MultitenancyRecipe,
        OAuth2ProviderRecipe,
        OpenIdRecipe,
        PasswordlessRecipe,
        SessionRecipe,
        ThirdPartyRecipe,
        UserMetadataRecipe,
        UserRolesRecipe,
    ):
        singleton.reset()  # type: ignore[no-untyped-call] # the SDK's
    reset_jwks_cache()  # type: ignore[no-untyped-call] # the SDK's


def _is_ok(result: object) -> bool:
    """Return whether a result means success; not every class has a `status`."""
    return type(result).__name__.endswith("OkResult")


async def _user(email: str | None = None, password: str = "s3cret!!1") -> Any:
    from supertokens_python.recipe.emailpassword.asyncio import sign_up

    result = await sign_up("public", email or unique_email(), password)
    assert _is_ok(result), result
    return result


async def _session(user: Any = None, **payload: Any) -> Any:
    from supertokens_python.recipe.session.asyncio import (
        create_new_session_without_request_response,
    )

    user = user or await _user()
    return await create_new_session_without_request_response(
        "public", user.recipe_user_id, payload, {"db": 1}, disable_anti_csrf=True
    )


async def _verify(token: str, *, check_database: bool = False) -> Any:
    from supertokens_python.recipe.session.asyncio import (
        get_session_without_request_response,
    )

    return await get_session_without_request_response(
        token, anti_csrf_check=False, check_database=check_database
    )


async def _refresh(token: str) -> Any:
    from supertokens_python.recipe.session.asyncio import (
        refresh_session_without_request_response,
    )

    return await refresh_session_without_request_response(token, disable_anti_csrf=True)


def _tokens(session: Any) -> tuple[str, str]:
    tokens = session.get_all_session_tokens_dangerously()
    return tokens["accessToken"], tokens["refreshToken"]


async def test_sign_up_and_in() -> None:
    """The SDK parses sign-up, sign-in and user lookup, and their error statuses."""
    from supertokens_python.asyncio import get_user
    from supertokens_python.recipe.emailpassword.asyncio import sign_in, sign_up

    email = unique_email()
    created = await _user(email, "s3cret!!1")
    assert created.user.emails == [email]
    taken = await sign_up("public", email, "s3cret!!1")
    assert taken.status == "EMAIL_ALREADY_EXISTS_ERROR"
    wrong = await sign_in("public", email, "wrong")
    assert type(wrong).__name__ == "WrongCredentialsError"
    assert _is_ok(await sign_in("public", email, "s3cret!!1"))
    user = await get_user(created.user.id)
    assert user is not None
    assert user.to_json() == created.user.to_json()
    assert await get_user("nobody") is None


async def test_password_reset_and_email_change() -> None:
    """A reset token works once and sets the password; then the address is changed."""
    from supertokens_python.recipe.emailpassword.asyncio import (
        create_reset_password_token,
        reset_password_using_token,
        sign_in,
        update_email_or_password,
    )
    from supertokens_python.recipe.emailpassword.interfaces import (
        CreateResetPasswordOkResult,
        PasswordResetTokenInvalidError,
    )

    email, new = unique_email(), unique_email()
    created = await _user(email)
    token = await create_reset_password_token("public", created.user.id, email)
    assert isinstance(token, CreateResetPasswordOkResult)
    done = await reset_password_using_token("public", token.token, "n3w-secret")
    assert _is_ok(done)
    again = await reset_password_using_token("public", token.token, "n3w-secret")
    assert isinstance(again, PasswordResetTokenInvalidError)
    assert again.status == "RESET_PASSWORD_INVALID_TOKEN_ERROR"
    assert _is_ok(await sign_in("public", email, "n3w-secret"))
    changed = await update_email_or_password(created.recipe_user_id, email=new)
    assert _is_ok(changed)
    assert _is_ok(await sign_in("public", new, "n3w-secret"))


async def test_session_with_roles_and_verification_claims() -> None:
    """A new session has the roles, permissions and verification state as claims."""
    from supertokens_python.recipe.emailverification.asyncio import (
        create_email_verification_token,
        is_email_verified,
        verify_email_using_token,
    )
    from supertokens_python.recipe.emailverification.interfaces import (
        CreateEmailVerificationTokenOkResult,
    )
    from supertokens_python.recipe.userroles.asyncio import (
        add_role_to_user,
        create_new_role_or_add_permissions,
        get_roles_for_user,
    )

    user = await _user()
    role = unique("role")
    created = await create_new_role_or_add_permissions(role, ["read", "write"])
    assert created.created_new_role
    added = await add_role_to_user("public", user.user.id, role)
    assert _is_ok(added)
    assert (await get_roles_for_user("public", user.user.id)).roles == [role]
    token = await create_email_verification_token("public", user.recipe_user_id)
    assert isinstance(token, CreateEmailVerificationTokenOkResult)
    verified = await verify_email_using_token("public", token.token)
    assert _is_ok(verified)
    assert await is_email_verified(user.recipe_user_id)
    session = await _session(user, mine=1)
    body = claims(_tokens(session)[0])
    assert body["st-role"]["v"] == [role]
    assert sorted(body["st-perm"]["v"]) == ["read", "write"]
    assert body["st-ev"]["v"] is True
    assert body["mine"] == 1
    assert body["iss"] == "http://localhost:8000/auth"
    assert (await _verify(_tokens(session)[0])).get_user_id() == user.user.id


async def test_rotation_through_the_sdk() -> None:
    """T1, T2, T4, T5 and T7: the SDK raises its own errors."""
    from supertokens_python.recipe.session.exceptions import (
        TokenTheftError,
        UnauthorisedError,
    )

    session = await _session()
    access, r0 = _tokens(session)
    chosen, sibling = await _refresh(r0), await _refresh(r0)
    promoted = await _verify(_tokens(chosen)[0])
    assert promoted.get_handle() == session.get_handle()
    renewed = promoted.get_all_session_tokens_dangerously()
    assert renewed["accessAndFrontTokenUpdated"]
    assert claims(renewed["accessToken"])["parentRefreshTokenHash1"] is None
    for token in (r0, _tokens(sibling)[1]):
        with pytest.raises(TokenTheftError) as theft:
            await _refresh(token)
        assert theft.value.session_handle == session.get_handle()
    assert await _refresh(_tokens(chosen)[1])
    await promoted.revoke_session()
    assert await _verify(access)
    with pytest.raises(UnauthorisedError):
        await _verify(access, check_database=True)
    with pytest.raises(UnauthorisedError):
        await _refresh(_tokens(chosen)[1])


async def test_parallel_refreshes_through_the_sdk() -> None:
    """T9: all refreshes succeed; after one child is used the others are theft."""
    from supertokens_python.recipe.session.exceptions import TokenTheftError

    _, r0 = _tokens(await _session())
    children = await asyncio.gather(*(_refresh(r0) for _ in range(4)))
    await _verify(_tokens(children[1])[0])
    after = await asyncio.gather(
        *(_refresh(_tokens(child)[1]) for child in children), return_exceptions=True
    )
    assert [isinstance(result, TokenTheftError) for result in after] == [
        True,
        False,
        True,
        True,
    ]


async def test_payload_and_data() -> None:
    """T8: a checked verify of an older token returns the merged payload."""
    from supertokens_python.recipe.session.asyncio import (
        get_all_session_handles_for_user,
        get_session_information,
        revoke_all_sessions_for_user,
        revoke_session,
        update_session_data_in_database,
    )

    session = await _session(x=1)
    old = _tokens(session)[0]
    await session.merge_into_access_token_payload({"x": 2, "y": None})
    assert claims(_tokens(session)[0])["x"] == 2
    checked = await _verify(old, check_database=True)
    assert checked.get_access_token_payload()["x"] == 2
    handle = session.get_handle()
    assert await update_session_data_in_database(handle, {"db": 2})
    information = await get_session_information(handle)
    assert information is not None
    assert information.session_data_in_database == {"db": 2}
    user_id = session.get_user_id()
    assert await get_all_session_handles_for_user(user_id) == [handle]
    assert await revoke_all_sessions_for_user(user_id) == [handle]
    assert await revoke_session(handle) is False
    assert await get_session_information(handle) is None


async def test_anti_csrf_via_token() -> None:
    """The SDK refuses a wrong anti-CSRF value; a refresh makes a new one."""
    from supertokens_python.recipe.session.asyncio import (
        create_new_session_without_request_response,
        get_session_without_request_response,
        refresh_session_without_request_response,
    )
    from supertokens_python.recipe.session.exceptions import (
        TryRefreshTokenError,
        UnauthorisedError,
    )

    user = await _user()
    session = await create_new_session_without_request_response(
        "public", user.recipe_user_id
    )
    tokens = session.get_all_session_tokens_dangerously()
    access, value = tokens["accessToken"], tokens["antiCsrfToken"]
    refresh_token = tokens["refreshToken"]
    assert value is not None
    assert refresh_token is not None
    assert await get_session_without_request_response(access, value)
    with pytest.raises(TryRefreshTokenError):
        await get_session_without_request_response(access, "wrong")
    with pytest.raises(UnauthorisedError):
        await refresh_session_without_request_response(
            refresh_token, anti_csrf_token="wrong"
        )
    child = await refresh_session_without_request_response(
        refresh_token, anti_csrf_token=value
    )
    new = child.get_all_session_tokens_dangerously()["antiCsrfToken"]
    assert new not in (None, value)


async def test_metadata_and_removal() -> None:
    """Metadata is merged; removing a user removes its metadata."""
    from supertokens_python.asyncio import delete_user, get_user, get_user_count
    from supertokens_python.recipe.usermetadata.asyncio import (
        get_user_metadata,
        update_user_metadata,
    )

    user = await _user()
    updated = await update_user_metadata(user.user.id, {"a": 1, "b": 2})
    assert updated.metadata == {"a": 1, "b": 2}
    updated = await update_user_metadata(user.user.id, {"a": None})
    assert updated.metadata == {"b": 2}
    before = await get_user_count()
    await delete_user(user.user.id)
    assert await get_user_count() == before - 1
    assert await get_user(user.user.id) is None
    assert (await get_user_metadata(user.user.id)).metadata == {}


async def test_users_in_pages() -> None:
    """The SDK follows the pagination token to the next page."""
    from supertokens_python.asyncio import (
        get_users_newest_first,
        get_users_oldest_first,
    )

    newest = [await _user() for _ in range(3)][-1]
    page = await get_users_newest_first("public", limit=2)
    assert page.users[0].id == newest.user.id
    assert page.next_pagination_token is not None
    following = await get_users_newest_first(
        "public", limit=2, pagination_token=page.next_pagination_token
    )
    assert not {u.id for u in following.users} & {u.id for u in page.users}
    assert len((await get_users_oldest_first("public", limit=1)).users) == 1


async def test_tenants_through_the_sdk() -> None:
    """The SDK creates, reads, joins, leaves, lists and removes a tenant."""
    from supertokens_python.recipe.multitenancy.asyncio import (
        associate_user_to_tenant,
        create_or_update_tenant,
        delete_tenant,
        disassociate_user_from_tenant,
        get_tenant,
        list_all_tenants,
    )
    from supertokens_python.recipe.multitenancy.interfaces import (
        TenantConfigCreateOrUpdate,
    )

    tenant_id = unique("t")
    config = TenantConfigCreateOrUpdate(first_factors=["emailpassword"])
    assert (await create_or_update_tenant(tenant_id, config)).created_new
    tenant = await get_tenant(tenant_id)
    assert tenant is not None
    assert tenant.first_factors == ["emailpassword"]
    default = await get_tenant("public")
    assert default is not None
    assert default.first_factors is None
    user = await _user()
    joined = await associate_user_to_tenant(tenant_id, user.recipe_user_id)
    assert _is_ok(joined)
    left = await disassociate_user_from_tenant(tenant_id, user.recipe_user_id)
    assert left.was_associated
    listed = (await list_all_tenants()).tenants
    assert tenant_id in [t.tenant_id for t in listed]
    assert (await delete_tenant(tenant_id)).did_exist
    assert await get_tenant(tenant_id) is None


async def test_third_party_and_passwordless() -> None:
    """Both recipes sign up; third party also signs in."""
    from supertokens_python.recipe.passwordless.asyncio import (
        consume_code,
        create_code,
        update_user,
    )
    from supertokens_python.recipe.passwordless.interfaces import ConsumeCodeOkResult
    from supertokens_python.recipe.thirdparty.asyncio import (
        manually_create_or_update_user,
    )
    from supertokens_python.recipe.thirdparty.interfaces import (
        ManuallyCreateOrUpdateUserOkResult,
    )

    account = unique("account")
    for new in (True, False):
        result = await manually_create_or_update_user(
            "public", "google", account, unique_email(), True
        )
        assert isinstance(result, ManuallyCreateOrUpdateUserOkResult)
        assert result.created_new_recipe_user is new
    email = unique_email()
    code = await create_code("public", email)
    wrong = await consume_code(
        "public",
        code.pre_auth_session_id,
        user_input_code="wrong",
        device_id=code.device_id,
    )
    assert type(wrong).__name__ == "ConsumeCodeIncorrectUserInputCodeError"
    signed = await consume_code(
        "public",
        code.pre_auth_session_id,
        user_input_code=code.user_input_code,
        device_id=code.device_id,
    )
    assert isinstance(signed, ConsumeCodeOkResult)
    assert signed.created_new_recipe_user
    changed = await update_user(signed.recipe_user_id, email=unique_email())
    assert _is_ok(changed)


async def test_jwt_through_the_sdk() -> None:
    """The SDK creates a plain JWT and reads the keys."""
    from supertokens_python.recipe.jwt.interfaces import CreateJwtOkResult
    from supertokens_python.recipe.session.asyncio import create_jwt, get_jwks

    created = await create_jwt({"a": 1}, 60, use_static_signing_key=True)
    assert isinstance(created, CreateJwtOkResult)
    assert claims(created.jwt)["iss"] == "http://localhost:8000/auth"
    keys = await get_jwks()
    assert {key.kid[:2] for key in keys.keys} == {"d-", "s-"}
