"""The session recipe beyond rotation: tokens, payloads, lists, revocation."""

from __future__ import annotations

import re
import uuid

import pytest
from dev.core.core_client import (
    CoreClient,
    Json,
    access,
    claims,
    decode,
    refresh,
    unique,
)

_PROTECTED = [
    "sub",
    "iat",
    "exp",
    "sessionHandle",
    "refreshTokenHash1",
    "parentRefreshTokenHash1",
    "antiCsrfToken",
    "tId",
    "rsub",
]


async def test_create_returns_a_version_5_token(core: CoreClient) -> None:
    """Header and claims are those of version 5; unused claims are null."""
    created = await core.create("u1", payload={"iss": "https://a/auth", "x": [1]})
    header, body = decode(access(created))
    assert header.keys() == {"alg", "typ", "kid", "version"}
    assert (header["alg"], header["typ"], header["version"]) == ("RS256", "JWT", "5")
    assert re.fullmatch(r"d-\d{13}", header["kid"])
    assert body.keys() == {*_PROTECTED, "iss", "x"}
    assert body["parentRefreshTokenHash1"] is None
    assert body["antiCsrfToken"] is None
    assert (body["sub"], body["rsub"], body["tId"]) == ("u1", "u1", "public")
    assert created["session"] == {
        "handle": body["sessionHandle"],
        "userId": "u1",
        "recipeUserId": "u1",
        "userDataInJWT": {"iss": "https://a/auth", "x": [1]},
        "tenantId": "public",
    }
    assert "antiCsrfToken" not in created


async def test_token_times_are_whole_seconds(core: CoreClient) -> None:
    """`expiry` and `createdTime` are the claims `exp` and `iat` in milliseconds."""
    created = await core.create()
    body = claims(access(created))
    assert created["accessToken"]["expiry"] == body["exp"] * 1000
    assert created["accessToken"]["createdTime"] == body["iat"] * 1000
    assert 3420 <= body["exp"] - body["iat"] <= 3600
    life_ms = created["refreshToken"]["expiry"] - created["refreshToken"]["createdTime"]
    assert life_ms == 100 * 86_400 * 1000


async def test_the_caller_chooses_the_static_or_the_dynamic_key(
    core: CoreClient,
) -> None:
    """The prefix of `kid` shows which key signed; later tokens keep the choice."""
    created = await core.create(dynamic=False)
    assert decode(access(created))[0]["kid"].startswith("s-")
    regenerated = await core.post(
        "/recipe/session/regenerate", {"accessToken": access(created)}
    )
    assert decode(access(regenerated))[0]["kid"].startswith("s-")
    # A refresh may choose the other key, and later tokens keep that choice.
    child = await core.refresh(refresh(created))
    assert decode(access(child))[0]["kid"].startswith("d-")
    renewed = await core.verify(access(child))
    assert decode(access(renewed))[0]["kid"].startswith("d-")


@pytest.mark.parametrize("claim", _PROTECTED)
async def test_protected_claim_is_400(core: CoreClient, claim: str) -> None:
    """A payload with a claim of the token itself is 400 in each call that takes one."""
    created = await core.create()
    handle = created["session"]["handle"]
    attempts: list[tuple[str, str, Json]] = [
        (
            "POST",
            "/public/recipe/session",
            {
                "userId": "u",
                "userDataInJWT": {claim: "x"},
                "userDataInDatabase": {},
                "enableAntiCsrf": False,
            },
        ),
        (
            "POST",
            "/recipe/session/regenerate",
            {"accessToken": access(created), "userDataInJWT": {claim: "x"}},
        ),
        (
            "PUT",
            "/recipe/jwt/data",
            {"sessionHandle": handle, "userDataInJWT": {claim: "x"}},
        ),
    ]
    for method, path, body in attempts:
        response = await core.call(method, path, body)
        assert response.status == 400, path
        assert response.headers["content-type"] == "text/html;charset=UTF-8"


async def test_get_describes_a_session(core: CoreClient) -> None:
    """The response has the stored data and payload, with times in milliseconds."""
    created = await core.create("u2", payload={"a": None}, data={"d": {"e": 1}})
    handle = created["session"]["handle"]
    response = await core.get("/recipe/session", sessionHandle=handle)
    assert response == {
        "status": "OK",
        "sessionHandle": handle,
        "userId": "u2",
        "recipeUserId": "u2",
        "userDataInDatabase": {"d": {"e": 1}},
        "userDataInJWT": {"a": None},
        "expiry": created["refreshToken"]["expiry"],
        "timeCreated": created["refreshToken"]["createdTime"],
        "tenantId": "public",
    }


async def test_unknown_handles_are_unauthorised(core: CoreClient) -> None:
    """Reading or changing an unknown session is UNAUTHORISED with status 200."""
    handle = str(uuid.uuid4())
    responses = [
        await core.get("/recipe/session", sessionHandle=handle),
        await core.put(
            "/recipe/session/data", {"sessionHandle": handle, "userDataInDatabase": {}}
        ),
        await core.put(
            "/recipe/jwt/data", {"sessionHandle": handle, "userDataInJWT": {}}
        ),
    ]
    assert {a["status"] for a in responses} == {"UNAUTHORISED"}
    assert all(a["message"] for a in responses)


async def test_data_and_payload_are_replaced(core: CoreClient) -> None:
    """PUT replaces the whole value; the next refresh puts the payload in the token."""
    created = await core.create(payload={"old": 1}, data={"old": 1})
    handle = created["session"]["handle"]
    for path, name in (
        ("/recipe/session/data", "userDataInDatabase"),
        ("/recipe/jwt/data", "userDataInJWT"),
    ):
        response = await core.put(path, {"sessionHandle": handle, name: {"new": 2}})
        assert response == {"status": "OK"}
    response = await core.get("/recipe/session", sessionHandle=handle)
    assert (response["userDataInDatabase"], response["userDataInJWT"]) == (
        {"new": 2},
    ) * 2
    child = await core.refresh(refresh(created))
    assert child["session"]["userDataInJWT"] == {"new": 2}
    body = claims(access(child))
    assert body["new"] == 2
    assert "old" not in body


async def test_regenerate_keeps_the_expiry_and_the_hashes(core: CoreClient) -> None:
    """A regenerated token has the expiry, handle and token hashes of the old one."""
    child = await core.refresh(refresh(await core.create(payload={"x": 1})))
    old = claims(access(child))
    response = await core.post(
        "/recipe/session/regenerate",
        {"accessToken": access(child), "userDataInJWT": {"x": 2}},
    )
    new = claims(access(response))
    assert response["session"]["userDataInJWT"] == {"x": 2}
    same = ("exp", "refreshTokenHash1", "parentRefreshTokenHash1", "sessionHandle")
    assert {k: new[k] for k in same} == {k: old[k] for k in same}
    # Without a payload the stored one is used.
    again = await core.post(
        "/recipe/session/regenerate", {"accessToken": access(child)}
    )
    assert claims(access(again))["x"] == 2


async def test_regenerate_does_not_check_the_signature(core: CoreClient) -> None:
    """Only the session must exist: the caller has verified the token before."""
    created = await core.create()
    head, body, signature = access(created).split(".")
    forged = f"{head}.{body}.{signature[::-1]}"
    response = await core.post("/recipe/session/regenerate", {"accessToken": forged})
    assert response["status"] == "OK"
    await core.revoke(created["session"]["handle"])
    response = await core.post("/recipe/session/regenerate", {"accessToken": forged})
    assert response["status"] == "UNAUTHORISED"


_GARBAGE = ["", "a.b", "a.b.c", "é.é.é", "e30.e30.", "e30.MQ.x", "W10.W10.W10"]


@pytest.mark.parametrize("token", _GARBAGE)
async def test_garbage_refresh_tokens_are_unauthorised(
    core: CoreClient, token: str
) -> None:
    """A malformed refresh token is UNAUTHORISED with status 200."""
    assert (await core.refresh(token))["status"] == "UNAUTHORISED"


@pytest.mark.embedded
@pytest.mark.parametrize("token", _GARBAGE)
async def test_garbage_access_tokens_are_an_error_status(
    core: CoreClient, token: str
) -> None:
    """A malformed access token is an error status; a real core may answer with 500."""
    assert (await core.verify(token))["status"] == "TRY_REFRESH_TOKEN"
    response = await core.post("/recipe/session/regenerate", {"accessToken": token})
    assert response["status"] == "UNAUTHORISED"


def _swap(text: str, index: int) -> str:
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


async def test_changed_tokens_are_refused(core: CoreClient) -> None:
    """A token with one part changed is refused."""
    created = await core.create()
    body, nonce, _ = refresh(created).split(".")
    for changed in (
        f"{_swap(body, 40)}.{nonce}.V2",
        f"{body}.{_swap(nonce, 3)}.V2",
        f"{body}.{nonce}.V3",
        f"{body}.{nonce}",
    ):
        assert (await core.refresh(changed))["status"] == "UNAUTHORISED"
    head, payload, signature = access(created).split(".")
    for changed in (
        f"{head}.{_swap(payload, 20)}.{signature}",
        f"{head}.{payload}.{_swap(signature, 20)}",
        f"{head}.{payload}.",
    ):
        assert (await core.verify(changed))["status"] == "TRY_REFRESH_TOKEN"


@pytest.mark.parametrize(
    "version",
    ["V1", *(pytest.param(v, marks=pytest.mark.embedded) for v in ("V0", "v2"))],
)
async def test_a_refresh_token_with_another_version_is_theft(
    core: CoreClient, version: str
) -> None:
    """The core issues V2 only: another version was written by somebody else."""
    token = refresh(await core.create())
    theft = await core.refresh(token.removesuffix("V2") + version)
    assert theft["status"] == "TOKEN_THEFT_DETECTED"
    assert (await core.refresh(token))["status"] == "OK"


@pytest.mark.embedded
async def test_a_child_with_another_version_is_theft(core: CoreClient) -> None:
    """An unused child whose version was changed doesn't become the parent."""
    child = await core.refresh(refresh(await core.create()))
    changed = refresh(child).removesuffix("V2") + "V1"
    assert (await core.refresh(changed))["status"] == "TOKEN_THEFT_DETECTED"
    assert (await core.refresh(refresh(child)))["status"] == "OK"


async def test_anti_csrf_value_is_in_the_token_and_the_response(
    core: CoreClient,
) -> None:
    """Create and refresh make a new value; a refresh requires the current one."""
    created = await core.create(anti_csrf=True)
    first = created["antiCsrfToken"]
    assert claims(access(created))["antiCsrfToken"] == first
    refused = await core.refresh(refresh(created), enabled=True)
    assert refused["status"] == "UNAUTHORISED"
    refused = await core.refresh(refresh(created), enabled=True, anti_csrf="wrong")
    assert refused["status"] == "UNAUTHORISED"
    child = await core.refresh(refresh(created), enabled=True, anti_csrf=first)
    assert child["antiCsrfToken"] != first
    assert claims(access(child))["antiCsrfToken"] == child["antiCsrfToken"]
    renewed = await core.verify(access(child))
    assert claims(access(renewed))["antiCsrfToken"] == child["antiCsrfToken"]


@pytest.mark.parametrize(
    ("sent", "enabled", "checked", "status"),
    [
        ("right", True, True, "OK"),
        ("wrong", True, True, "TRY_REFRESH_TOKEN"),
        (None, True, True, "TRY_REFRESH_TOKEN"),
        ("wrong", True, False, "OK"),
        ("wrong", False, True, "OK"),
    ],
)
async def test_anti_csrf_is_checked_only_with_both_flags(
    core: CoreClient, sent: str | None, enabled: bool, checked: bool, status: str
) -> None:
    """The value is compared only if `enableAntiCsrf` and `doAntiCsrfCheck` are set."""
    created = await core.create(anti_csrf=True)
    value = created["antiCsrfToken"] if sent == "right" else sent
    verified = await core.verify(
        access(created), anti_csrf=value, enabled=enabled, check_anti_csrf=checked
    )
    assert verified["status"] == status


async def test_token_without_anti_csrf_fails_the_check(core: CoreClient) -> None:
    """A token without the value fails a verify that checks it."""
    created = await core.create()
    verified = await core.verify(
        access(created), enabled=True, check_anti_csrf=True, anti_csrf="x"
    )
    assert verified["status"] == "TRY_REFRESH_TOKEN"
    # A refresh succeeds: the refresh token has no value to compare.
    child = await core.refresh(refresh(created), enabled=True)
    assert child["status"] == "OK"
    assert child["antiCsrfToken"]


async def test_sessions_of_a_user_are_listed_and_revoked(core: CoreClient) -> None:
    """Sessions are listed by user, and revoked by handle or by user."""
    user_id = unique("user")
    handles = [(await core.create(user_id))["session"]["handle"] for _ in range(3)]
    listed = await core.get("/recipe/session/user", userId=user_id)
    assert sorted(listed["sessionHandles"]) == sorted(handles)
    assert await core.revoke(handles[0]) == [handles[0]]
    assert await core.revoke(handles[0]) == []
    revoked = await core.post(
        "/recipe/session/remove", {"userId": user_id, "revokeAcrossAllTenants": True}
    )
    assert sorted(revoked["sessionHandlesRevoked"]) == sorted(handles[1:])
    listed = await core.get("/recipe/session/user", userId=user_id)
    assert listed["sessionHandles"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sessionHandles": ["h"], "userId": "u"},
        {"sessionHandles": ["h"], "revokeAcrossAllTenants": True},
        {"sessionHandles": ["h"], "revokeSessionsForLinkedAccounts": True},
        {"sessionHandles": [1]},
        {"userId": "u", "revokeAcrossAllTenants": "true"},
    ],
)
async def test_remove_takes_handles_or_a_user(core: CoreClient, body: Json) -> None:
    """Handles and a user exclude each other; the flags need a user."""
    assert (await core.call("POST", "/recipe/session/remove", body)).status == 400
