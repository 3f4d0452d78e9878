"""Malformed requests to the SDK's API never cause a 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from stack import Start

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  api_domain: http://localhost:8000
  website_domain: http://localhost:8000
  recipes:
    emailpassword: {}
    emailverification: {mode: OPTIONAL}
    passwordless:
      contact_method: EMAIL_OR_PHONE
      flow_type: USER_INPUT_CODE_AND_MAGIC_LINK
    thirdparty:
      providers:
        - {third_party_id: google, clients: [{client_id: a, client_secret: b}]}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
"""

EMAIL = {"id": "email", "value": "a@b.example"}
PASSWORD = {"id": "password", "value": "correct-horse-1"}
BODIES: dict[str, tuple[str, Any]] = {
    "sign-in": ("signin", {"formFields": [EMAIL, PASSWORD]}),
    "sign-up": ("signup", {"formFields": [EMAIL, PASSWORD]}),
    "reset link": ("user/password/reset/token", {"formFields": [EMAIL]}),
    "reset": (
        "user/password/reset",
        {"method": "token", "token": "a", "formFields": [PASSWORD]},
    ),
    "code by mail": ("signinup/code", {"email": "a@b.example"}),
    "code by phone": ("signinup/code", {"phoneNumber": "+12025550123"}),
    "code again": (
        "signinup/code/resend",
        {"deviceId": "a", "preAuthSessionId": "b"},
    ),
    "code": (
        "signinup/code/consume",
        {"deviceId": "a", "preAuthSessionId": "b", "userInputCode": "123456"},
    ),
    "link": (
        "signinup/code/consume",
        {"preAuthSessionId": "b", "linkCode": "123456"},
    ),
    "provider": (
        "signinup",
        {"thirdPartyId": "nope", "redirectURIInfo": {"a": "b"}, "clientType": "x"},
    ),
    "verify": ("user/email/verify", {"method": "token", "token": "x"}),
}
VALUES: tuple[Any, ...] = (None, 1, True, "", "x", "\ud800", [], [1], {}, {"a": 1})


def damaged(value: Any) -> Iterator[Any]:
    """Yield *value* with one part of it replaced or removed, for each part."""
    yield from VALUES
    if isinstance(value, dict):
        for key, part in value.items():
            yield {name: item for name, item in value.items() if name != key}
            yield from ({**value, key: changed} for changed in damaged(part))
    if isinstance(value, list):
        for index, part in enumerate(value):
            for changed in damaged(part):
                yield [*value[:index], changed, *value[index + 1 :]]


@pytest.mark.parametrize("name", BODIES)
async def test_a_damaged_body_is_never_a_5xx(start: Start, name: str) -> None:
    """Each part of the JSON in turn has a wrong value or is missing."""
    gateway = await start(ROUTES)
    path, body = BODIES[name]
    content = ("Content-Type", "application/json")
    for changed in damaged(body):
        sent = json.dumps(changed).encode()
        reply = await gateway.ask("POST", f"/auth/{path}", content, body=sent)
        assert reply.status < 500, (sent, (await gateway.record(reply)).note)


@pytest.mark.parametrize(
    "version", ["abc", "", "1", "1.", ".", "1.2,x", "1.19,,", "-1.0", "9" * 5000]
)
@pytest.mark.parametrize(
    "target",
    [
        "signup/email/exists?email=a@b.example",
        "emailpassword/email/exists?email=%ff",
        "passwordless/phonenumber/exists?phoneNumber=%00",
        "authorisationurl?thirdPartyId=nope&redirectURIOnProviderDashboard=%ff",
        "session/refresh?x",
    ],
)
async def test_a_malformed_fdi_version_is_never_a_5xx(
    start: Start, target: str, version: str
) -> None:
    """The frontend sends `fdi-version`, and the SDK doesn't validate it."""
    gateway = await start(ROUTES)
    method = "POST" if target.startswith("session") else "GET"
    reply = await gateway.ask(method, f"/auth/{target}", ("fdi-version", version))
    assert reply.status < 500
    content = ("Content-Type", "application/json")
    body = json.dumps(BODIES["sign-in"][1]).encode()
    reply = await gateway.ask(
        "POST", "/auth/signin", content, ("fdi-version", version), body=body
    )
    assert reply.status < 500


async def test_a_client_type_that_the_provider_lacks_is_400(start: Start) -> None:
    """`clientType` must be that of a client configured for the provider."""
    gateway = await start(ROUTES)
    body = {
        "thirdPartyId": "google",
        "clientType": "nope",
        "redirectURIInfo": {
            "redirectURIOnProviderDashboard": "http://localhost:8000/callback",
            "redirectURIQueryParams": {"code": "x"},
        },
    }
    reply = await gateway.ask(
        "POST",
        "/auth/signinup",
        ("Content-Type", "application/json"),
        body=json.dumps(body).encode(),
    )
    assert reply.status == 400
