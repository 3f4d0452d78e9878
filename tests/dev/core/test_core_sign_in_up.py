"""The thirdparty and passwordless recipes."""

from __future__ import annotations

import base64
import hashlib

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


async def test_third_party_account_identifies_the_user(core: CoreClient) -> None:
    """The first sign-in creates a user; the account identifies it, not its address."""
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
    # The same address may sign up with a password, as another user.
    await core.sign_up(other)
    matches = await core.get(
        "/public/users/by-accountinfo",
        doUnionOfAccountInfo="false",
        thirdPartyId="google",
        thirdPartyUserId=account,
    )
    assert [user["id"] for user in matches["users"]] == [first["recipeUserId"]]


async def _begin(core: CoreClient, **contact: str) -> Json:
    response = await core.post("/public/recipe/signinup/code", contact)
    assert response["status"] == "OK"
    return response


def _input(attempt: Json, code: str | None = None) -> Json:
    return {
        "preAuthSessionId": attempt["preAuthSessionId"],
        "deviceId": attempt["deviceId"],
        "userInputCode": code or attempt["userInputCode"],
    }


async def test_code_works_once(core: CoreClient) -> None:
    """A check leaves the code valid, consume uses it up and verifies the address."""
    email = unique_email()
    attempt = await _begin(core, email=email.upper())
    assert attempt["codeLifetime"] == 900_000
    path = "/public/recipe/signinup/code"
    checked = await core.post(f"{path}/check", _input(attempt))
    assert checked["consumedDevice"] == {
        "preAuthSessionId": attempt["preAuthSessionId"],
        "failedCodeInputAttemptCount": 0,
        "email": email,
    }
    consumed = await core.post(f"{path}/consume", _input(attempt))
    assert consumed["createdNewUser"] is True
    assert consumed["user"]["emails"] == [email]
    assert consumed["user"]["loginMethods"][0]["verified"] is True
    assert consumed["consumedDevice"] == checked["consumedDevice"]
    assert await core.post(f"{path}/consume", _input(attempt)) == _RESTART
    again = await core.post(f"{path}/consume", _input(await _begin(core, email=email)))
    assert again["createdNewUser"] is False
    assert again["recipeUserId"] == consumed["recipeUserId"]


async def test_link_code_needs_no_device_id(core: CoreClient) -> None:
    """A link code signs in without a device id, here for a phone number."""
    phone = f"+{int(unique('1')[2:14], 16)}"
    attempt = await _begin(core, phoneNumber=phone)
    consumed = await core.post(
        "/public/recipe/signinup/code/consume",
        {
            "preAuthSessionId": attempt["preAuthSessionId"],
            "linkCode": attempt["linkCode"],
        },
    )
    assert consumed["user"]["phoneNumbers"] == [phone]
    method = consumed["user"]["loginMethods"][0]
    assert (method["recipeId"], method["verified"]) == ("passwordless", True)


async def test_the_fifth_wrong_code_ends_the_attempt(core: CoreClient) -> None:
    """Wrong codes are counted; after the fifth even the right code is refused."""
    attempt = await _begin(core, email=unique_email())
    path = "/public/recipe/signinup/code/consume"
    for count in range(1, 5):
        response = await core.post(path, _input(attempt, "wrong"))
        assert response == {
            "status": "INCORRECT_USER_INPUT_CODE_ERROR",
            "failedCodeInputAttemptCount": count,
            "maximumCodeInputAttempts": 5,
        }
    assert await core.post(path, _input(attempt, "wrong")) == _RESTART
    assert await core.post(path, _input(attempt)) == _RESTART


async def test_resend_adds_a_code_to_the_device(core: CoreClient) -> None:
    """Both codes work. A code in use is refused; an unknown device must restart."""
    attempt = await _begin(core, email=unique_email(), userInputCode="111111")
    path = "/public/recipe/signinup/code"
    body = {"deviceId": attempt["deviceId"], "userInputCode": "111111"}
    taken = await core.post(path, body)
    assert taken == {"status": "USER_INPUT_CODE_ALREADY_USED_ERROR"}
    body = {"deviceId": attempt["deviceId"], "userInputCode": "222222"}
    resent = await core.post(path, body)
    assert resent["preAuthSessionId"] == attempt["preAuthSessionId"]
    for response in (attempt, resent):
        checked = await core.post(f"{path}/check", _input(response))
        assert checked["status"] == "OK"
    unknown = base64.b64encode(b"unknown").decode()
    assert await core.post(path, {"deviceId": unknown}) == _RESTART


async def test_ids_of_a_device(core: CoreClient) -> None:
    """`deviceId` is base64, `preAuthSessionId` its SHA-256 in base64url."""
    attempt = await _begin(core, email=unique_email())
    secret = base64.b64decode(attempt["deviceId"], validate=True)
    assert len(secret) == 32
    digest = base64.urlsafe_b64encode(hashlib.sha256(secret).digest()).decode()
    assert attempt["preAuthSessionId"] == digest.rstrip("=")


@pytest.mark.parametrize(
    ("of_the_other", "of_this", "text"),
    [
        (("deviceId",), ("userInputCode",), "doesn't match"),
        ((), ("userInputCode", "deviceId", "linkCode"), "exactly one of linkCode"),
        (("linkCode",), (), "doesn't match"),
    ],
)
async def test_ids_of_two_devices_do_not_match(
    core: CoreClient,
    of_the_other: tuple[str, ...],
    of_this: tuple[str, ...],
    text: str,
) -> None:
    """A code with the `preAuthSessionId` of another device is 400 and costs nothing."""
    attempt = await _begin(core, email=unique_email())
    other = await _begin(core, email=unique_email())
    mixed = {
        "preAuthSessionId": attempt["preAuthSessionId"],
        **{name: attempt[name] for name in of_this},
        **{name: other[name] for name in of_the_other},
    }
    for action in ("check", "consume"):
        response = await core.call(
            "POST", f"/public/recipe/signinup/code/{action}", mixed
        )
        assert response.status == 400
        assert text in response.text
    for each in (attempt, other):
        checked = await core.post("/public/recipe/signinup/code/check", _input(each))
        assert checked["consumedDevice"]["failedCodeInputAttemptCount"] == 0


async def test_a_device_id_must_be_base64(core: CoreClient) -> None:
    """Another encoding is 400 wherever a device id is sent."""
    path = "/public/recipe/signinup/code"
    attempt = {**await _begin(core, email=unique_email()), "deviceId": "a_-b"}
    for response in (
        await core.call("POST", path, {"deviceId": "a_-b"}),
        await core.call("POST", f"{path}/check", _input(attempt)),
        await core.call("POST", f"{path}/consume", _input(attempt)),
        await core.call("GET", f"{path}s", query={"deviceId": "a_-b"}),
    ):
        assert response.status == 400
        assert response.text == "Input encoding error in DeviceId\n"


async def test_codes_are_listed_and_revoked(core: CoreClient) -> None:
    """Codes are listed by address, attempt or device, and revoked by id or address."""
    email = unique_email()
    attempt = await _begin(core, email=email)
    path = "/public/recipe/signinup/codes"
    for query in (
        {"email": email.upper()},
        {"preAuthSessionId": attempt["preAuthSessionId"]},
        {"deviceId": attempt["deviceId"]},
    ):
        (device,) = (await core.get(path, **query))["devices"]
        assert device["email"] == email
        assert [code["codeId"] for code in device["codes"]] == [attempt["codeId"]]
    resent = await core.post(
        "/public/recipe/signinup/code", {"deviceId": attempt["deviceId"]}
    )
    one = await core.post(
        "/public/recipe/signinup/code/remove", {"codeId": attempt["codeId"]}
    )
    assert one == {"status": "OK"}
    (device,) = (await core.get(path, email=email))["devices"]
    assert [code["codeId"] for code in device["codes"]] == [resent["codeId"]]
    # The device goes with its last code.
    await core.post("/public/recipe/signinup/code/remove", {"codeId": resent["codeId"]})
    assert (await core.get(path, email=email))["devices"] == []
    consumed = await core.post("/public/recipe/signinup/code/consume", _input(attempt))
    assert consumed == _RESTART
    await _begin(core, email=email)
    assert await core.post(f"{path}/remove", {"email": email}) == {"status": "OK"}
    assert (await core.get(path, email=email))["devices"] == []
    nothing = await core.get(path, preAuthSessionId="unknown")
    assert nothing["devices"] == []


async def test_contacts_of_a_passwordless_user_change(core: CoreClient) -> None:
    """`rid` selects the recipe; null removes a contact, but not the last one."""
    email, taken = unique_email(), unique_email()
    path = "/public/recipe/signinup/code/consume"
    user = await core.post(path, _input(await _begin(core, email=email)))
    await core.post(path, _input(await _begin(core, email=taken)))
    headers = {"cdi-version": "5.4", "rid": "passwordless"}

    async def update(status: int = 200, **change: object) -> str:
        response = await core.call(
            "PUT",
            "/recipe/user",
            {"recipeUserId": user["recipeUserId"], **change},
            headers=headers,
        )
        assert response.status == status
        return str(response.json["status"]) if status == 200 else ""

    phone = f"+{int(unique('1')[2:14], 16)}"
    unknown = await core.call(
        "PUT", "/recipe/user", {"recipeUserId": "x", "email": email}, headers=headers
    )
    assert unknown.json == {"status": "UNKNOWN_USER_ID_ERROR"}
    assert await update(email=taken) == "EMAIL_ALREADY_EXISTS_ERROR"
    assert await update(phoneNumber=phone) == "OK"
    assert await update(email=None) == "OK"
    await update(400, phoneNumber=None)
    response = (await core.get("/user/id", userId=user["recipeUserId"]))["user"]
    assert (response["emails"], response["phoneNumbers"]) == ([], [phone])
    # Without `rid` the emailpassword recipe is used, which has no such user.
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
    """A request without a required field or with two contacts is 400."""
    assert (await core.call("POST", path, body)).status == 400
