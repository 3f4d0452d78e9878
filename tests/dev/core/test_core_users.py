"""Users, e-mail and password, password reset, listing, removal."""

from __future__ import annotations

import pytest
from dev.core.core_client import CoreClient, Json, access, unique, unique_email


def _credentials(email: str, password: str = "s3cret!") -> Json:
    return {"email": email, "password": password}


async def test_sign_up_returns_the_whole_user(core: CoreClient) -> None:
    """The response has each field that the SDK reads, the e-mail in lower case."""
    email = unique_email()
    response = await core.post(
        "/public/recipe/signup", _credentials(f"  {email.upper()} ")
    )
    user = response["user"]
    joined = user["timeJoined"]
    assert response == {
        "status": "OK",
        "recipeUserId": user["id"],
        "user": {
            "id": user["id"],
            "isPrimaryUser": False,
            "tenantIds": ["public"],
            "timeJoined": joined,
            "emails": [email],
            "phoneNumbers": [],
            "thirdParty": [],
            "webauthn": {"credentialIds": []},
            "loginMethods": [
                {
                    "recipeId": "emailpassword",
                    "recipeUserId": user["id"],
                    "tenantIds": ["public"],
                    "timeJoined": joined,
                    "verified": False,
                    "email": email,
                }
            ],
        },
    }
    assert isinstance(joined, int)
    response = await core.get("/user/id", userId=user["id"])
    assert response == {"status": "OK", "user": user}


async def test_email_is_unique(core: CoreClient) -> None:
    """Addresses that differ in case or outer spaces are the same."""
    email = unique_email()
    await core.sign_up(email)
    response = await core.post(
        "/public/recipe/signup", _credentials(f" {email.upper()}", "other")
    )
    assert response == {"status": "EMAIL_ALREADY_EXISTS_ERROR"}


async def test_empty_password_is_400(core: CoreClient) -> None:
    """A sign-up with an empty password is 400."""
    body = _credentials(unique_email(), "")
    assert (await core.call("POST", "/public/recipe/signup", body)).status == 400


async def test_sign_in(core: CoreClient) -> None:
    """A wrong password and an unknown e-mail get the same response."""
    email = unique_email()
    user_id = await core.sign_up(email, "pass word ü")
    good = await core.post(
        "/public/recipe/signin", _credentials(f"{email.upper()} ", "pass word ü")
    )
    assert (good["status"], good["recipeUserId"]) == ("OK", user_id)
    assert good["user"]["id"] == user_id
    for wrong in (
        _credentials(email, "pass word u"),
        _credentials(email, ""),
        _credentials(unique_email(), "pass word ü"),
    ):
        response = await core.post("/public/recipe/signin", wrong)
        assert response == {"status": "WRONG_CREDENTIALS_ERROR"}


async def test_fake_email_is_verified_from_the_start(core: CoreClient) -> None:
    """An address of the fake e-mail domain counts as verified."""
    email = f"{unique('x')}@stfakeemail.supertokens.com"
    user_id = await core.sign_up(email)
    response = await core.get("/user/id", userId=user_id)
    assert response["user"]["loginMethods"][0]["verified"] is True


async def test_unknown_user(core: CoreClient) -> None:
    """Reading, changing or resetting an unknown user is UNKNOWN_USER_ID_ERROR."""
    unknown = {"status": "UNKNOWN_USER_ID_ERROR"}
    assert await core.get("/user/id", userId="nobody") == unknown
    body = {"recipeUserId": "nobody", "password": "x1"}
    assert await core.put("/recipe/user", body) == unknown
    body = {"userId": "nobody", "email": "a@b.co"}
    path = "/public/recipe/user/password/reset/token"
    assert await core.post(path, body) == unknown


async def test_update_email_and_password(core: CoreClient) -> None:
    """After an update only the new pair signs in, and the old address is free."""
    old, new = unique_email(), unique_email()
    user_id = await core.sign_up(old, "before1")
    response = await core.put(
        "/recipe/user",
        {"recipeUserId": user_id, "email": new.upper(), "password": "after1"},
    )
    assert response == {"status": "OK"}
    for email, password, status in (
        (new, "after1", "OK"),
        (new, "before1", "WRONG_CREDENTIALS_ERROR"),
        (old, "after1", "WRONG_CREDENTIALS_ERROR"),
    ):
        signed = await core.post("/public/recipe/signin", _credentials(email, password))
        assert signed["status"] == status
    await core.sign_up(old)


async def test_update_refuses_a_taken_email_and_an_empty_change(
    core: CoreClient,
) -> None:
    """Another user's address is refused; so is an update that changes nothing."""
    taken = unique_email()
    await core.sign_up(taken)
    user_id = await core.sign_up()
    response = await core.put("/recipe/user", {"recipeUserId": user_id, "email": taken})
    assert response == {"status": "EMAIL_ALREADY_EXISTS_ERROR"}
    nothing = await core.call("PUT", "/recipe/user", {"recipeUserId": user_id})
    assert nothing.status == 400
    only = {"recipeUserId": user_id, "password": "0nly-this"}
    assert await core.put("/recipe/user", only) == {"status": "OK"}
    own = (await core.get("/user/id", userId=user_id))["user"]["emails"][0]
    response = await core.put("/recipe/user", {"recipeUserId": user_id, "email": own})
    assert response == {"status": "OK"}


async def test_password_reset(core: CoreClient) -> None:
    """A token works once and voids the others; the address comes back as given."""
    email = unique_email()
    user_id = await core.sign_up(email)
    base = "/public/recipe/user/password/reset/token"
    tokens = []
    for _ in range(2):
        body = {"userId": user_id, "email": email.upper()}
        tokens.append((await core.post(base, body))["token"])
    assert all(token.isascii() and token.isalnum() for token in tokens)
    consumed = await core.post(f"{base}/consume", {"token": tokens[0]})
    assert consumed == {"status": "OK", "userId": user_id, "email": email.upper()}
    for token in (*tokens, "x"):
        response = await core.post(f"{base}/consume", {"token": token})
        assert response == {"status": "RESET_PASSWORD_INVALID_TOKEN_ERROR"}


async def test_by_account_info(core: CoreClient) -> None:
    """With `doUnionOfAccountInfo` one value must match, without it all must."""
    email = unique_email()
    user_id = await core.sign_up(email)
    for query, matches in (
        ({"doUnionOfAccountInfo": "true", "email": email.upper()}, True),
        ({"doUnionOfAccountInfo": "false", "email": email}, True),
        (
            {"doUnionOfAccountInfo": "true", "email": email, "phoneNumber": "+1"},
            True,
        ),
        (
            {"doUnionOfAccountInfo": "false", "email": email, "phoneNumber": "+1"},
            False,
        ),
        ({"doUnionOfAccountInfo": "true", "email": unique_email()}, False),
        ({"doUnionOfAccountInfo": "true"}, False),
    ):
        response = await core.get("/public/users/by-accountinfo", **query)
        assert [u["id"] for u in response["users"]] == ([user_id] if matches else []), (
            query
        )


@pytest.mark.embedded
async def test_by_account_info_with_an_unknown_credential(core: CoreClient) -> None:
    """No user has a WebAuthn credential; a real core answers with 500."""
    email = unique_email()
    await core.sign_up(email)
    response = await core.get(
        "/public/users/by-accountinfo",
        doUnionOfAccountInfo="false",
        email=email,
        webauthnCredentialId="c",
    )
    assert response["users"] == []


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"doUnionOfAccountInfo": "yes"},
        {"doUnionOfAccountInfo": "true", "thirdPartyId": "google"},
    ],
)
async def test_by_account_info_with_a_bad_query_is_400(
    core: CoreClient, query: Json
) -> None:
    """The match kind is required, and a third-party account needs both its ids."""
    response = await core.call("GET", "/public/users/by-accountinfo", query=query)
    assert response.status == 400


async def test_pages_of_users(core: CoreClient) -> None:
    """The pages list each user once, in either order."""
    user_ids = [await core.sign_up() for _ in range(5)]
    for order in ("ASC", "DESC"):
        listed: list[str] = []
        query = {"timeJoinedOrder": order, "limit": "2"}
        while True:
            page = await core.get("/public/users", **query)
            assert len(page["users"]) <= 2
            listed += [user["id"] for user in page["users"]]
            if "nextPaginationToken" not in page:
                break
            query["paginationToken"] = page["nextPaginationToken"]
        assert len(listed) == len(set(listed))
        assert {*user_ids} <= {*listed}


async def test_users_are_searched(core: CoreClient) -> None:
    """A search finds the beginnings of addresses, domains, numbers and providers.

    `;` separates values of which one must match; kinds of values must all match.
    """
    name = unique("s")
    provider = unique("p")
    ann, bob = f"{name}_ann@a.example", f"{name}%bob@{name}.example"
    ids = {email: await core.sign_up(email) for email in (ann, bob)}
    response = await core.post(
        "/public/recipe/signinup",
        {
            "thirdPartyId": provider,
            "thirdPartyUserId": name,
            "email": {"id": f"{name}-eve@a.example", "isVerified": False},
        },
    )
    ids["eve"] = response["recipeUserId"]
    for query, found in (
        ({"email": name}, [ann, bob, "eve"]),
        ({"email": f" {name.upper()}_ANN "}, [ann]),
        ({"email": f"{name}.exa"}, [bob]),
        ({"email": f"{name}_ann;{name}%"}, [ann, bob]),
        ({"email": name, "provider": provider}, ["eve"]),
        ({"provider": provider[:-1]}, ["eve"]),
        ({"email": name, "phone": "+1"}, []),
        ({"email": f"{name}-ann"}, []),
    ):
        page = await core.get("/public/users", **query)
        listed = {user["id"] for user in page["users"]}
        assert listed == {ids[each] for each in found}, query
    first = await core.get("/public/users", email=name, limit="2")
    second = await core.get(
        "/public/users",
        email=name,
        limit="2",
        paginationToken=first["nextPaginationToken"],
    )
    assert (len(first["users"]), len(second["users"])) == (2, 1)
    listed = {user["id"] for user in (*first["users"], *second["users"])}
    assert listed == set(ids.values())


async def test_users_are_searched_by_phone_number(core: CoreClient) -> None:
    """A search finds the beginning of a phone number."""
    phone = f"+{int(unique('1')[2:14], 16)}"
    path = "/public/recipe/signinup/code"
    attempt = await core.post(path, {"phoneNumber": phone})
    user = await core.post(
        f"{path}/consume",
        {
            "preAuthSessionId": attempt["preAuthSessionId"],
            "linkCode": attempt["linkCode"],
        },
    )
    page = await core.get("/public/users", phone=phone[:-1])
    assert user["recipeUserId"] in [each["id"] for each in page["users"]]


async def test_users_are_counted_by_recipe(core: CoreClient) -> None:
    """A sign-up raises the count; an empty recipe list (sent by httpx) means all."""

    async def count(**query: str) -> int:
        return int((await core.get("/public/users/count", **query))["count"])

    before = await count(includeRecipeIds="")
    others = await count(includeRecipeIds="thirdparty,passwordless")
    await core.sign_up()
    assert await count(includeRecipeIds="") == before + 1
    assert await count(includeRecipeIds="thirdparty,passwordless") == others
    assert await count(includeAllTenants="true") >= before + 1


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/public/users", {"limit": "0"}),
        ("/public/users", {"limit": "501"}),
        ("/public/users", {"limit": "many"}),
        ("/public/users", {"timeJoinedOrder": "UP"}),
        ("/public/users", {"paginationToken": "????"}),
        ("/public/users", {"includeRecipeIds": "nope"}),
        ("/users/count/active", {}),
        ("/users/count/active", {"since": "-1"}),
    ],
)
async def test_listing_with_a_bad_query_is_400(
    core: CoreClient, path: str, query: Json
) -> None:
    """A bad value in the query is 400."""
    assert (await core.call("GET", path, query=query)).status == 400


async def test_removing_a_user_removes_its_data(core: CoreClient) -> None:
    """Sessions, roles, metadata and verification of a removed user are removed."""
    email = unique_email()
    user_id = await core.sign_up(email)
    role = unique("role")
    await core.put("/recipe/role", {"role": role})
    await core.put("/public/recipe/user/role", {"userId": user_id, "role": role})
    body: Json = {"userId": user_id, "metadataUpdate": {"a": 1}}
    await core.put("/recipe/user/metadata", body)
    token = await core.post(
        "/public/recipe/user/email/verify/token", {"userId": user_id, "email": email}
    )
    await core.post(
        "/public/recipe/user/email/verify",
        {"method": "token", "token": token["token"]},
    )
    session = await core.create(user_id)
    for _ in range(2):
        body = {"userId": user_id, "removeAllLinkedAccounts": True}
        assert await core.post("/user/remove", body) == {"status": "OK"}
    response = await core.get("/user/id", userId=user_id)
    assert response["status"] == "UNKNOWN_USER_ID_ERROR"
    verified = await core.verify(access(session), check_database=True)
    assert verified["status"] == "UNAUTHORISED"
    assert (await core.get("/public/recipe/user/roles", userId=user_id))["roles"] == []
    assert (await core.get("/recipe/user/metadata", userId=user_id))["metadata"] == {}
    response = await core.get("/recipe/user/email/verify", userId=user_id, email=email)
    assert response["isVerified"] is False
    await core.sign_up(email)


async def test_active_users_are_counted(core: CoreClient) -> None:
    """A sign-up counts as activity, and activity is counted from `since` on."""
    before = (await core.get("/users/count/active", since="0"))["count"]
    await core.sign_up()
    after = (await core.get("/users/count/active", since="0"))["count"]
    assert after == before + 1
    future = str(4_102_444_800_000)
    assert (await core.get("/users/count/active", since=future))["count"] == 0
