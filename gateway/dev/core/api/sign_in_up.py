"""edge. Endpoints of the thirdparty and passwordless recipes.

Source: core protocol CDI 5.4, thirdparty and passwordless.
"""

from __future__ import annotations

from typing import Final, assert_never

from gateway.dev.core.accounts import (
    AccountInfo,
    Kind,
    Recipe,
    Taken,
    account_value,
    normalised_email,
)
from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, failed, ok
from gateway.dev.core.api.user import signed_in
from gateway.dev.core.http import Body, Refusal
from gateway.dev.core.jws import JsonObject
from gateway.dev.core.passwordless import (
    BadEncoding,
    CodeTaken,
    Device,
    Mismatch,
    NewCode,
    Refused,
    Restart,
    public_id,
)

_BAD_DEVICE_ID: Final = "Input encoding error in DeviceId"


async def third_party(call: Call) -> JsonObject:
    """Sign in the user of a third-party account; create the user if it is new."""
    provider = call.body.filled("thirdPartyId")
    account = call.body.filled("thirdPartyUserId")
    contact = call.body.nested("email")
    email = normalised_email(contact.text("id"))
    verified = contact.flag("isVerified")
    users = call.app.users
    user_id = users.find(
        call.tenant_id,
        Recipe.THIRD_PARTY,
        Kind.ACCOUNT,
        account_value(provider, account),
    )
    created = user_id is None
    if user_id is None:
        info = AccountInfo(
            email=email, third_party_id=provider, third_party_user_id=account
        )
        user_id = users.add(call.tenant_id, Recipe.THIRD_PARTY, info)
    else:
        users.set_contact(user_id, email=email, phone=None)
    if verified:
        users.mark_verified(user_id, email)
    return signed_in(call, user_id, createdNewUser=created)


async def create_code(call: Call) -> JsonObject:
    """Start a passwordless sign-in, or return another code for one."""
    email, phone = _contact(call.body)
    device_id = call.body.text_or_none("deviceId")
    code = call.body.text_or_none("userInputCode")
    if device_id is None:
        _one_of("email", email, "phoneNumber", phone)
        return _new_code(
            call.app.codes.begin(call.tenant_id, email=email, phone=phone, code=code)
        )
    try:
        new = call.app.codes.again(call.tenant_id, device_id, code)
    except CodeTaken:
        return failed("USER_INPUT_CODE_ALREADY_USED_ERROR")
    except BadEncoding as exc:
        raise Refusal(400, _BAD_DEVICE_ID) from exc
    return failed("RESTART_FLOW_ERROR") if new is None else _new_code(new)


async def check_code(call: Call) -> JsonObject:
    """Check a code without consuming it."""
    outcome = _device(call)
    if isinstance(outcome, Device):
        return ok(consumedDevice=outcome.view())
    return outcome


async def consume_code(call: Call) -> JsonObject:
    """Consume a code and sign its user in; create the user if it is new."""
    device = _device(call)
    if not isinstance(device, Device):
        return device
    call.app.codes.end_contact(call.tenant_id, email=device.email, phone=device.phone)
    kind = Kind.PHONE if device.email is None else Kind.EMAIL
    value = device.phone if device.email is None else device.email
    user_id = call.app.users.find(
        call.tenant_id, Recipe.PASSWORDLESS, kind, value or ""
    )
    created = user_id is None
    if user_id is None:
        info = AccountInfo(email=device.email, phone=device.phone)
        user_id = call.app.users.add(call.tenant_id, Recipe.PASSWORDLESS, info)
    if device.email is not None:
        # The code was mailed to this address, so the user reads it.
        call.app.users.mark_verified(user_id, device.email)
    return signed_in(
        call, user_id, createdNewUser=created, consumedDevice=device.view()
    )


async def list_codes(call: Call) -> JsonObject:
    """List the attempts for an address or number, or the one with an id."""
    email = call.query.text_or_none("email")
    phone = call.query.text_or_none("phoneNumber")
    device_id = call.query.text_or_none("deviceId")
    session_id = call.query.text_or_none("preAuthSessionId")
    if device_id is not None:
        try:
            session_id = public_id(device_id)
        except BadEncoding as exc:
            raise Refusal(400, _BAD_DEVICE_ID) from exc
    if session_id is not None:
        devices = call.app.codes.device(call.tenant_id, pre_auth_session_id=session_id)
    else:
        _one_of("email", email, "phoneNumber", phone)
        devices = call.app.codes.devices(
            call.tenant_id,
            email=None if email is None else normalised_email(email),
            phone=phone,
        )
    return ok(
        devices=[
            {**device.view(), "codes": call.app.codes.codes_of(device)}
            for device in devices
        ]
    )


async def remove_codes(call: Call) -> JsonObject:
    """Delete every attempt for an address or number."""
    email, phone = _contact(call.body)
    _one_of("email", email, "phoneNumber", phone)
    call.app.codes.end_contact(call.tenant_id, email=email, phone=phone)
    return ok()


async def remove_code(call: Call) -> JsonObject:
    """Delete one code."""
    code_id = call.body.text("codeId")
    call.app.codes.end_code(call.tenant_id, code_id)
    return ok()


async def update_user(call: Call) -> JsonObject:
    """Change e-mail or phone number of a passwordless user; null removes it."""
    user_id = call.body.text("recipeUserId")
    changes = {
        name: None if call.body.is_null(name) else call.body.text(name)
        for name in ("email", "phoneNumber")
        if call.body.has(name)
    }
    users = call.app.users
    if users.recipe_of(user_id) is not Recipe.PASSWORDLESS:
        return failed("UNKNOWN_USER_ID_ERROR")
    email, phone = users.contact_of(user_id)
    if "email" in changes:
        text = changes["email"]
        email = None if text is None else normalised_email(text)
    phone = changes.get("phoneNumber", phone)
    if email is None and phone is None:
        raise Refusal(400, "You cannot clear both email and phone number of a user")
    try:
        users.set_contact(user_id, email=email, phone=phone)
    except Taken as taken:
        return failed(
            "EMAIL_ALREADY_EXISTS_ERROR"
            if taken.kind is Kind.EMAIL
            else "PHONE_NUMBER_ALREADY_EXISTS_ERROR"
        )
    return ok()


def _device(call: Call) -> Device | JsonObject:
    """Return the device of the call's code, or the answer for an invalid code."""
    device_id = call.body.text_or_none("deviceId")
    user_input_code = call.body.text_or_none("userInputCode")
    link_code = call.body.text_or_none("linkCode")
    session_id = call.body.text("preAuthSessionId")
    others = (device_id, user_input_code)
    if (None in others) if link_code is None else others != (None, None):
        raise Refusal(
            400, "Please provide exactly one of linkCode or deviceId+userInputCode"
        )
    try:
        outcome = call.app.codes.check(
            call.tenant_id,
            pre_auth_session_id=session_id,
            link_code=link_code,
            device_id=device_id,
            user_input_code=user_input_code,
        )
    except Mismatch as exc:
        raise Refusal(400, "preAuthSessionId and deviceId doesn't match") from exc
    except BadEncoding as exc:
        raise Refusal(400, _BAD_DEVICE_ID) from exc
    match outcome:
        case Device():
            return outcome
        case Restart():
            return failed("RESTART_FLOW_ERROR")
        case Refused(status=status, failed_attempts=attempts):
            return failed(
                status,
                failedCodeInputAttemptCount=attempts,
                maximumCodeInputAttempts=call.app.codes.max_attempts,
            )
        case _:
            assert_never(outcome)


def _contact(body: Body) -> tuple[str | None, str | None]:
    email = body.text_or_none("email")
    return (
        None if email is None else normalised_email(email),
        body.text_or_none("phoneNumber"),
    )


def _one_of(one: str, value: str | None, other: str, other_value: str | None) -> None:
    if (value is None) == (other_value is None):
        raise Refusal(400, f"Please provide exactly one of {one} or {other}")


def _new_code(new: NewCode) -> JsonObject:
    return ok(
        preAuthSessionId=new.pre_auth_session_id,
        codeId=new.code_id,
        deviceId=new.device_id,
        userInputCode=new.user_input_code,
        linkCode=new.link_code,
        codeLifetime=new.life_ms,
        timeCreated=new.created_ms,
    )


ENDPOINTS: Final = (
    Endpoint(method="POST", path="/recipe/signinup", handler=third_party),
    Endpoint(method="POST", path="/recipe/signinup/code", handler=create_code),
    Endpoint(method="POST", path="/recipe/signinup/code/check", handler=check_code),
    Endpoint(method="POST", path="/recipe/signinup/code/consume", handler=consume_code),
    Endpoint(method="POST", path="/recipe/signinup/code/remove", handler=remove_code),
    Endpoint(method="GET", path="/recipe/signinup/codes", handler=list_codes),
    Endpoint(method="POST", path="/recipe/signinup/codes/remove", handler=remove_codes),
    Endpoint(
        method="PUT",
        path="/recipe/user",
        handler=update_user,
        scope=Scope.APP,
        rid="passwordless",
    ),
)
