"""The thirdparty and passwordless recipes."""

from __future__ import annotations

import pytest
from dev.core.core_client import CoreClient, Json, unique, unique_email

_RESTART = {"status": "RESTART_FLOW_ERROR"}


async def _third_party(
    core: CoreClient, account: str, email: str, **more: bool
) -> Json:
    return await core.post(
        "/public/recipe/signinup",
        {
            "thirdPartyId": "google",
            "thirdPartyUserId": account,
            "email": {"id": email, "isVerified": more.get("verified", False)},
        },
    )


async def test_third_party_account_is_one_user(core: CoreClient) -> None:
    """The first time creates; later the account counts, not the e-mail."""
    account, email, other = unique("account"), unique_email(), unique_email()
    first = await _third_party(core, account, email.upper())
    assert first["createdNewUser"] is True
    assert first["user"]["emails"] == [email]
    assert first["user"]["thirdParty"] == [{"id": "google", "userId": account}]
    assert first["user"]["loginMethods"][0]["verified"] is False
    second = await _third_party(core, account, other, verified=True)
    assert second["createdNewUser"] is False
    assert second["recipeUserId"] == first["recipeUserId"]
    assert second["user"]["emails"] == [other]
    assert second["user"]["loginMethods"][0]["verified"] is True
    # The same address may sign in with a password, too, as another user.
    await core.sign_up(other)
    found = await core.get(
        "/public/users/by-accountinfo",
        doUnionOfAccountInfo="false",
        thirdPartyId="google",
        thirdPartyUserId=account,
    )
    assert [user["id"] for user in found["users"]] == [first["recipeUserId"]]


async def _begin(core: CoreClient, **contact: str) -> Json:
    answer = await core.post("/public/recipe/signinup/code", contact)
    assert answer["status"] == "OK"
    return answer


def _typed(begun: Json, code: str | None = None) -> Json:
    return {
        "preAuthSessionId": begun["preAuthSessionId"],
        "deviceId": begun["deviceId"],
        "userInputCode": code or begun["userInputCode"],
    }


async def test_code_signs_in_once(core: CoreClient) -> None:
    """Checking doesn't use a code up, consuming does, and it proves the address."""
    email = unique_email()
    begun = await _begin(core, email=email.upper())
    assert begun["codeLifetime"] == 900_000
    path = "/public/recipe/signinup/code"
    checked = await core.post(f"{path}/check", _typed(begun))
    assert checked["consumedDevice"] == {
        "preAuthSessionId": begun["preAuthSessionId"],
        "failedCodeInputAttemptCount": 0,
        "email": email,
    }
    consumed = await core.post(f"{path}/consume", _typed(begun))
    assert consumed["createdNewUser"] is True
    assert consumed["user"]["emails"] == [email]
    assert consumed["user"]["loginMethods"][0]["verified"] is True
    assert consumed["consumedDevice"] == checked["consumedDevice"]
    assert await core.post(f"{path}/consume", _typed(begun)) == _RESTART
    again = await core.post(f"{path}/consume", _typed(await _begin(core, email=email)))
    assert again["createdNewUser"] is False
    assert again["recipeUserId"] == consumed["recipeUserId"]


async def test_link_code_needs_no_device(core: CoreClient) -> None:
    """A link can be opened elsewhere, for a phone number as well."""
    phone = f"+{int(unique('1')[2:14], 16)}"
    begun = await _begin(core, phoneNumber=phone)
    consumed = await core.post(
        "/public/recipe/signinup/code/consume",
        {
            "preAuthSessionId": begun["preAuthSessionId"],
            "linkCode": begun["linkCode"],
        },
    )
    assert consumed["user"]["phoneNumbers"] == [phone]
    method = consumed["user"]["loginMethods"][0]
    assert (method["recipeId"], method["verified"]) == ("passwordless", True)


async def test_wrong_codes_count_until_the_attempt_is_over(core: CoreClient) -> None:
    """The fifth wrong code ends the device; the right one comes too late."""
    begun = await _begin(core, email=unique_email())
    path = "/public/recipe/signinup/code/consume"
    for count in range(1, 5):
        answer = await core.post(path, _typed(begun, "wrong"))
        assert answer == {
            "status": "INCORRECT_USER_INPUT_CODE_ERROR",
            "failedCodeInputAttemptCount": count,
            "maximumCodeInputAttempts": 5,
        }
    assert await core.post(path, _typed(begun, "wrong")) == _RESTART
    assert await core.post(path, _typed(begun)) == _RESTART


async def test_resend_gives_the_device_another_code(core: CoreClient) -> None:
    """Both codes work; a code given twice is refused, an unknown device restarts."""
    begun = await _begin(core, email=unique_email(), userInputCode="111111")
    path = "/public/recipe/signinup/code"
    body = {"deviceId": begun["deviceId"], "userInputCode": "111111"}
    taken = await core.post(path, body)
    assert taken == {"status": "USER_INPUT_CODE_ALREADY_USED_ERROR"}
    body = {"deviceId": begun["deviceId"], "userInputCode": "222222"}
    resent = await core.post(path, body)
    assert resent["preAuthSessionId"] == begun["preAuthSessionId"]
    for answer in (begun, resent):
        checked = await core.post(f"{path}/check", _typed(answer))
        assert checked["status"] == "OK"
    assert await core.post(path, {"deviceId": "unknown"}) == _RESTART
    other = await _begin(core, email=unique_email())
    mixed = {**_typed(begun), "deviceId": other["deviceId"]}
    assert await core.post(f"{path}/check", mixed) == _RESTART


async def test_codes_are_listed_and_revoked(core: CoreClient) -> None:
    """By address or attempt, without the secrets."""
    email = unique_email()
    begun = await _begin(core, email=email)
    path = "/public/recipe/signinup/codes"
    for query in (
        {"email": email.upper()},
        {"preAuthSessionId": begun["preAuthSessionId"]},
        {"deviceId": begun["deviceId"]},
    ):
        (device,) = (await core.get(path, **query))["devices"]
        assert device["email"] == email
        assert [code["codeId"] for code in device["codes"]] == [begun["codeId"]]
    one = await core.post(
        "/public/recipe/signinup/code/remove", {"codeId": begun["codeId"]}
    )
    assert one == {"status": "OK"}
    assert (await core.get(path, email=email))["devices"][0]["codes"] == []
    assert await core.post(f"{path}/remove", {"email": email}) == {"status": "OK"}
    assert (await core.get(path, email=email))["devices"] == []
    nothing = await core.get(path, preAuthSessionId="unknown")
    assert nothing["devices"] == []


async def test_passwordless_user_changes_contact(core: CoreClient) -> None:
    """The recipe is told by `rid`; null takes a contact away, but not the last."""
    email, taken = unique_email(), unique_email()
    path = "/public/recipe/signinup/code/consume"
    user = await core.post(path, _typed(await _begin(core, email=email)))
    await core.post(path, _typed(await _begin(core, email=taken)))
    headers = {"cdi-version": "5.4", "rid": "passwordless"}

    async def update(status: int = 200, **change: object) -> str:
        answer = await core.call(
            "PUT",
            "/recipe/user",
            {"recipeUserId": user["recipeUserId"], **change},
            headers=headers,
        )
        assert answer.status == status
        return str(answer.json["status"]) if status == 200 else ""

    phone = f"+{int(unique('1')[2:14], 16)}"
    unknown = await core.call(
        "PUT", "/recipe/user", {"recipeUserId": "x", "email": email}, headers=headers
    )
    assert unknown.json == {"status": "UNKNOWN_USER_ID_ERROR"}
    assert await update(email=taken) == "EMAIL_ALREADY_EXISTS_ERROR"
    assert await update(phoneNumber=phone) == "OK"
    assert await update(email=None) == "OK"
    await update(400, phoneNumber=None)
    got = (await core.get("/user/id", userId=user["recipeUserId"]))["user"]
    assert (got["emails"], got["phoneNumbers"]) == ([], [phone])
    # Without the rid it's the emailpassword recipe, which has no such user.
    body = {"recipeUserId": user["recipeUserId"], "email": email}
    assert (await core.put("/recipe/user", body))["status"] == "UNKNOWN_USER_ID_ERROR"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/public/recipe/signinup/code", {}),
        ("/public/recipe/signinup/code", {"email": "a", "phoneNumber": "1"}),
        ("/public/recipe/signinup/code/check", {"preAuthSessionId": "x"}),
        ("/public/recipe/signinup/codes/remove", {}),
        ("/public/recipe/signinup", {"thirdPartyId": "", "thirdPartyUserId": "x"}),
        (
            "/public/recipe/signinup",
            {"thirdPartyId": "g", "thirdPartyUserId": "x", "email": "a@b"},
        ),
    ],
)
async def test_incomplete_requests_are_400(
    core: CoreClient, path: str, body: Json
) -> None:
    """What's needed must be there, and only one contact."""
    assert (await core.call("POST", path, body)).status == 400
