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


async def test_create_hands_out_a_v5_token(core: CoreClient) -> None:
    """Header and claims are those of version 5, unused ones being null."""
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
    """`expiry` and `createdTime` of an access token are those of the claims, in ms."""
    created = await core.create()
    body = claims(access(created))
    assert created["accessToken"]["expiry"] == body["exp"] * 1000
    assert created["accessToken"]["createdTime"] == body["iat"] * 1000
    assert 3420 <= body["exp"] - body["iat"] <= 3600
    life_ms = created["refreshToken"]["expiry"] - created["refreshToken"]["createdTime"]
    assert life_ms == 100 * 86_400 * 1000


async def test_static_key_signs_when_the_dynamic_one_is_not_wanted(
    core: CoreClient,
) -> None:
    """The family is the caller's choice, told by the kid's prefix, also later on."""
    created = await core.create(dynamic=False)
    assert decode(access(created))[0]["kid"].startswith("s-")
    regenerated = await core.post(
        "/recipe/session/regenerate", {"accessToken": access(created)}
    )
    assert decode(access(regenerated))[0]["kid"].startswith("s-")
    # A refresh may change the family, and what follows keeps it.
    child = await core.refresh(refresh(created))
    assert decode(access(child))[0]["kid"].startswith("d-")
    renewed = await core.verify(access(child))
    assert decode(access(renewed))[0]["kid"].startswith("d-")


@pytest.mark.parametrize("claim", _PROTECTED)
async def test_protected_claim_is_400(core: CoreClient, claim: str) -> None:
    """A caller's payload can't use the token's own names, wherever it's given."""
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
        answer = await core.call(method, path, body)
        assert answer.status == 400, path
        assert answer.headers["content-type"] == "text/html; charset=UTF-8"


async def test_get_describes_a_session(core: CoreClient) -> None:
    """What was stored comes back, with times in ms."""
    created = await core.create("u2", payload={"a": None}, data={"d": {"e": 1}})
    handle = created["session"]["handle"]
    got = await core.get("/recipe/session", sessionHandle=handle)
    assert got == {
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
    """Reading or changing a session that isn't there is an expected failure."""
    handle = str(uuid.uuid4())
    answers = [
        await core.get("/recipe/session", sessionHandle=handle),
        await core.put(
            "/recipe/session/data", {"sessionHandle": handle, "userDataInDatabase": {}}
        ),
        await core.put(
            "/recipe/jwt/data", {"sessionHandle": handle, "userDataInJWT": {}}
        ),
    ]
    assert {a["status"] for a in answers} == {"UNAUTHORISED"}
    assert all(a["message"] for a in answers)


async def test_data_and_payload_are_replaced(core: CoreClient) -> None:
    """PUT replaces; the payload reaches the client with the next refresh."""
    created = await core.create(payload={"old": 1}, data={"old": 1})
    handle = created["session"]["handle"]
    for path, name in (
        ("/recipe/session/data", "userDataInDatabase"),
        ("/recipe/jwt/data", "userDataInJWT"),
    ):
        answer = await core.put(path, {"sessionHandle": handle, name: {"new": 2}})
        assert answer == {"status": "OK"}
    got = await core.get("/recipe/session", sessionHandle=handle)
    assert (got["userDataInDatabase"], got["userDataInJWT"]) == ({"new": 2},) * 2
    child = await core.refresh(refresh(created))
    assert child["session"]["userDataInJWT"] == {"new": 2}
    body = claims(access(child))
    assert body["new"] == 2
    assert "old" not in body


async def test_regenerate_keeps_the_life_and_the_parent(core: CoreClient) -> None:
    """A regenerated token ends when the old one would, and belongs to the same pair."""
    child = await core.refresh(refresh(await core.create(payload={"x": 1})))
    old = claims(access(child))
    answer = await core.post(
        "/recipe/session/regenerate",
        {"accessToken": access(child), "userDataInJWT": {"x": 2}},
    )
    new = claims(access(answer))
    assert answer["session"]["userDataInJWT"] == {"x": 2}
    same = ("exp", "refreshTokenHash1", "parentRefreshTokenHash1", "sessionHandle")
    assert {k: new[k] for k in same} == {k: old[k] for k in same}
    # Without a payload the stored one is used.
    again = await core.post(
        "/recipe/session/regenerate", {"accessToken": access(child)}
    )
    assert claims(access(again))["x"] == 2


async def test_regenerate_does_not_check_the_signature(core: CoreClient) -> None:
    """Its caller has verified the session; only the row must be there."""
    created = await core.create()
    head, body, signature = access(created).split(".")
    forged = f"{head}.{body}.{signature[::-1]}"
    answer = await core.post("/recipe/session/regenerate", {"accessToken": forged})
    assert answer["status"] == "OK"
    await core.revoke(created["session"]["handle"])
    answer = await core.post("/recipe/session/regenerate", {"accessToken": forged})
    assert answer["status"] == "UNAUTHORISED"


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "é.é.é", "e30.e30.", "e30.MQ.x", "W10.W10.W10"]
)
async def test_garbage_tokens_are_expected_failures(
    core: CoreClient, token: str
) -> None:
    """No text that's sent as a token makes the core stumble."""
    assert (await core.verify(token))["status"] == "TRY_REFRESH_TOKEN"
    assert (await core.refresh(token))["status"] == "UNAUTHORISED"
    answer = await core.post("/recipe/session/regenerate", {"accessToken": token})
    assert answer["status"] == "UNAUTHORISED"


def _swap(text: str, index: int) -> str:
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


async def test_changed_tokens_are_refused(core: CoreClient) -> None:
    """One other character in body, nonce, signature or version is enough."""
    created = await core.create()
    body, nonce, _ = refresh(created).split(".")
    for changed in (
        f"{_swap(body, 40)}.{nonce}.V2",
        f"{body}.{_swap(nonce, 3)}.V2",
        f"{body}.{nonce}.V1",
    ):
        assert (await core.refresh(changed))["status"] == "UNAUTHORISED"
    head, payload, signature = access(created).split(".")
    for changed in (
        f"{head}.{_swap(payload, 20)}.{signature}",
        f"{head}.{payload}.{_swap(signature, 20)}",
        f"{head}.{payload}.",
    ):
        assert (await core.verify(changed))["status"] == "TRY_REFRESH_TOKEN"


async def test_anti_csrf_travels_in_token_and_answer(core: CoreClient) -> None:
    """VIA_TOKEN: a new value at create and at each refresh, compared in both calls."""
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
    ("given", "enabled", "checked", "status"),
    [
        ("right", True, True, "OK"),
        ("wrong", True, True, "TRY_REFRESH_TOKEN"),
        (None, True, True, "TRY_REFRESH_TOKEN"),
        ("wrong", True, False, "OK"),
        ("wrong", False, True, "OK"),
    ],
)
async def test_anti_csrf_is_checked_when_enabled_and_asked_for(
    core: CoreClient, given: str | None, enabled: bool, checked: bool, status: str
) -> None:
    """Both flags must be set for the value to matter."""
    created = await core.create(anti_csrf=True)
    value = created["antiCsrfToken"] if given == "right" else given
    verified = await core.verify(
        access(created), anti_csrf=value, enabled=enabled, check_anti_csrf=checked
    )
    assert verified["status"] == status


async def test_token_without_anti_csrf_fails_the_check(core: CoreClient) -> None:
    """A session made without the value can't pass where it's asked for."""
    created = await core.create()
    verified = await core.verify(
        access(created), enabled=True, check_anti_csrf=True, anti_csrf="x"
    )
    assert verified["status"] == "TRY_REFRESH_TOKEN"
    # But it can be refreshed: the refresh token carries no value to compare.
    child = await core.refresh(refresh(created), enabled=True)
    assert child["status"] == "OK"
    assert child["antiCsrfToken"]


async def test_sessions_of_a_user_are_listed_and_revoked(core: CoreClient) -> None:
    """By user: all sessions; by handle: those that exist are told."""
    user_id = unique("user")
    handles = [(await core.create(user_id))["session"]["handle"] for _ in range(3)]
    listed = await core.get("/recipe/session/user", userId=user_id)
    assert sorted(listed["sessionHandles"]) == sorted(handles)
    assert await core.revoke(handles[0]) == [handles[0]]
    assert await core.revoke(handles[0]) == []
    gone = await core.post(
        "/recipe/session/remove", {"userId": user_id, "revokeAcrossAllTenants": True}
    )
    assert sorted(gone["sessionHandlesRevoked"]) == sorted(handles[1:])
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
    """Exactly one of both, and the flags belong to the user."""
    assert (await core.call("POST", "/recipe/session/remove", body)).status == 400
