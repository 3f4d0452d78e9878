"""Rotation of refresh tokens and theft detection: sequences T1 to T9, over HTTP."""

from __future__ import annotations

import asyncio

import pytest
from dev.core.core_client import CoreClient, access, claims, refresh


async def test_t1_parent_can_be_refreshed_again_until_a_child_is_used(
    core: CoreClient,
) -> None:
    """A client can retry after a lost response: each refresh creates another child."""
    r0 = refresh(await core.create())
    children = [await core.refresh(r0) for _ in range(3)]
    assert [child["status"] for child in children] == ["OK"] * 3
    assert len({refresh(child) for child in children}) == 3


async def test_t2_first_verify_of_a_child_promotes_it(core: CoreClient) -> None:
    """Verifying the child's access token returns a new one without a parent."""
    s0 = await core.create(payload={"x": 1})
    s1 = await core.refresh(refresh(s0))
    assert claims(access(s1))["parentRefreshTokenHash1"] is not None
    verified = await core.verify(access(s1))
    assert verified["status"] == "OK"
    renewed = claims(access(verified))
    assert renewed["parentRefreshTokenHash1"] is None
    assert renewed["refreshTokenHash1"] == claims(access(s1))["refreshTokenHash1"]
    assert renewed["x"] == 1
    assert (await core.verify(access(verified))).keys() == {"status", "session"}


async def test_t3_a_client_that_keeps_the_old_token_gets_a_new_one_each_time(
    core: CoreClient,
) -> None:
    """The promoted child's first access token still verifies and is still outdated."""
    s1 = await core.refresh(refresh(await core.create()))
    for _ in range(3):
        verified = await core.verify(access(s1))
        assert verified["status"] == "OK"
        assert claims(access(verified))["parentRefreshTokenHash1"] is None


async def test_t4_parent_of_a_promoted_child_is_theft(core: CoreClient) -> None:
    """Reuse of a superseded refresh token is theft; the core itself revokes nothing."""
    s0 = await core.create()
    s1 = await core.refresh(refresh(s0))
    await core.verify(access(s1))
    theft = await core.refresh(refresh(s0))
    session = s0["session"]
    assert theft == {
        "status": "TOKEN_THEFT_DETECTED",
        "session": {
            "handle": session["handle"],
            "userId": session["userId"],
            "recipeUserId": session["recipeUserId"],
        },
    }
    assert (await core.refresh(refresh(s1)))["status"] == "OK"


async def test_t5_sibling_of_a_promoted_child_is_theft(core: CoreClient) -> None:
    """Once one child is used, a refresh with another child is theft."""
    r0 = refresh(await core.create())
    chosen, sibling = await core.refresh(r0), await core.refresh(r0)
    await core.verify(access(chosen))
    assert (await core.refresh(refresh(sibling)))["status"] == "TOKEN_THEFT_DETECTED"


async def test_t5b_access_token_of_the_sibling_is_accepted_and_not_renewed(
    core: CoreClient,
) -> None:
    """The sibling's access token verifies until it expires; no new token is sent."""
    r0 = refresh(await core.create())
    chosen, sibling = await core.refresh(r0), await core.refresh(r0)
    await core.verify(access(chosen))
    for _ in range(2):
        assert (await core.verify(access(sibling))).keys() == {"status", "session"}


async def test_t6_refreshing_with_an_unused_child_promotes_it(
    core: CoreClient,
) -> None:
    """A refresh with a child is its first use; after it the parent is theft."""
    r0 = refresh(await core.create())
    s1 = await core.refresh(r0)
    s2 = await core.refresh(refresh(s1))
    assert s2["status"] == "OK"
    assert (await core.refresh(r0))["status"] == "TOKEN_THEFT_DETECTED"
    assert (await core.refresh(refresh(s1)))["status"] == "OK"


async def test_t6b_only_one_child_is_promoted_by_its_refresh(
    core: CoreClient,
) -> None:
    """After a refresh with one child a refresh with the other is theft."""
    s0 = await core.create()
    left, right = await core.refresh(refresh(s0)), await core.refresh(refresh(s0))
    left2 = await core.refresh(refresh(left))
    assert left2["status"] == "OK"
    assert (await core.refresh(refresh(right)))["status"] == "TOKEN_THEFT_DETECTED"
    assert (await core.refresh(refresh(left2)))["status"] == "OK"


@pytest.mark.parametrize("check_database", [False, True])
async def test_t7_first_access_token_is_valid_after_promotion(
    core: CoreClient, check_database: bool
) -> None:
    """The first access token has no parent, so it is valid until it expires."""
    s0 = await core.create()
    s1 = await core.refresh(refresh(s0))
    await core.verify(access(s1))
    verified = await core.verify(access(s0), check_database=check_database)
    assert verified.keys() == {"status", "session"}


async def test_t7b_revoked_session_is_seen_only_with_check_database(
    core: CoreClient,
) -> None:
    """Without the check, the access token of a revoked session is accepted."""
    s0 = await core.create()
    assert await core.revoke(s0["session"]["handle"]) == [s0["session"]["handle"]]
    assert (await core.verify(access(s0)))["status"] == "OK"
    refused = await core.verify(access(s0), check_database=True)
    assert refused["status"] == "UNAUTHORISED"
    assert refused["message"]


async def test_t7c_revoked_child_is_refused_even_without_the_check(
    core: CoreClient,
) -> None:
    """A token with a parent is always checked in the database."""
    s0 = await core.create()
    s1 = await core.refresh(refresh(s0))
    await core.revoke(s0["session"]["handle"])
    assert (await core.verify(access(s1)))["status"] == "UNAUTHORISED"
    assert (await core.refresh(refresh(s1)))["status"] == "UNAUTHORISED"


async def test_t8_stale_payload_is_renewed_by_a_checked_verify(
    core: CoreClient,
) -> None:
    """After regenerate the old token verifies; a checked verify returns a new one."""
    s0 = await core.create(payload={"x": 1, "y": {"b": 1, "a": [1, 2]}})
    regenerated = await core.post(
        "/recipe/session/regenerate",
        {"accessToken": access(s0), "userDataInJWT": {"x": 2}},
    )
    assert claims(access(regenerated))["x"] == 2
    assert (await core.verify(access(s0))).keys() == {"status", "session"}
    verified = await core.verify(access(s0), check_database=True)
    assert claims(access(verified))["x"] == 2
    assert verified["session"]["userDataInJWT"] == {"x": 2}
    again = await core.verify(access(verified), check_database=True)
    assert again.keys() == {"status", "session"}


async def test_t9_parallel_refreshes_succeed_and_one_child_survives(
    core: CoreClient,
) -> None:
    """Eight refreshes at once succeed; after one child is used the others are theft."""
    r0 = refresh(await core.create())
    children = await asyncio.gather(*(core.refresh(r0) for _ in range(8)))
    assert {child["status"] for child in children} == {"OK"}
    chosen = children[3]
    assert (await core.verify(access(chosen)))["status"] == "OK"
    after = await asyncio.gather(*(core.refresh(refresh(c)) for c in children))
    assert [a["status"] for a in after] == [
        "OK" if child is chosen else "TOKEN_THEFT_DETECTED" for child in children
    ]


async def test_t9b_of_racing_children_exactly_one_survives(
    core: CoreClient,
) -> None:
    """Compare and promote are atomic: of eight racing refreshes, one succeeds."""
    r0 = refresh(await core.create())
    children = [await core.refresh(r0) for _ in range(8)]
    raced = await asyncio.gather(*(core.refresh(refresh(c)) for c in children))
    statuses = sorted(response["status"] for response in raced)
    assert statuses == ["OK"] + ["TOKEN_THEFT_DETECTED"] * 7


async def test_rotation_over_five_generations(core: CoreClient) -> None:
    """The newest refresh token works; each older one is theft."""
    session = await core.create(payload={"keep": "me"})
    used = []
    for _ in range(5):
        used.append(refresh(session))
        session = await core.refresh(refresh(session))
        assert session["status"] == "OK"
        assert session["session"]["userDataInJWT"] == {"keep": "me"}
        await core.verify(access(session))
    for token in used:
        assert (await core.refresh(token))["status"] == "TOKEN_THEFT_DETECTED"
    assert (await core.refresh(refresh(session)))["status"] == "OK"
