"""Which call of SuperTokens' API a request is, and whose account its form names."""

from __future__ import annotations

import json

import pytest

from gateway.rate_limits.auth_calls import accounts, auth_call


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("POST", "/auth/signin", "sign_in"),
        ("POST", "/auth/public/signin", "sign_in"),
        ("POST", "/auth/signinup", "sign_in"),
        ("POST", "/auth/signinup/code/consume", "sign_in"),
        ("POST", "/auth/webauthn/signin", "sign_in"),
        ("POST", "/auth/totp/verify", "sign_in"),
        ("POST", "/auth/dashboard/api/signin", "sign_in"),
        ("POST", "/auth/signup", "sign_up"),
        ("POST", "/auth/tenant-1/signup", "sign_up"),
        ("POST", "/auth/webauthn/signup", "sign_up"),
        ("POST", "/auth/user/password/reset/token", "reset"),
        ("POST", "/auth/user/password/reset", "reset"),
        ("POST", "/auth/signinup/code", "message"),
        ("POST", "/auth/signinup/code/resend", "message"),
        ("POST", "/auth/user/email/verify/token", "message"),
        ("POST", "/auth/user/email/verify", "other"),
        ("GET", "/auth/emailpassword/email/exists", "exists"),
        ("GET", "/auth/signup/phonenumber/exists", "exists"),
        ("POST", "/auth/session/refresh", "refresh"),
        ("POST", "/auth/signout", None),
        ("GET", "/auth/authorisationurl", "other"),
        ("GET", "/auth/signin", "other"),
        ("GET", "/auth", "other"),
    ],
)
def test_calls_are_told_apart(method: str, path: str, call: str | None) -> None:
    """Each call of the recipes has its name, with and without a tenant."""
    assert auth_call(method, path) == call


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/auth/signin"),
        ("PoSt", "/auth/signin"),
        ("POST", "/auth/signin/"),
        ("POST", "/auth/signin;x=1"),
        ("POST", "/auth/signin/;x"),
        ("POST", "/auth/SignIn"),
    ],
)
def test_another_spelling_is_the_same_call(method: str, path: str) -> None:
    """What the SDK takes for a sign-in counts as one."""
    assert auth_call(method, path) == "sign_in"


def form(*emails: object) -> bytes:
    fields = [{"id": "email", "value": email} for email in emails]
    return json.dumps(
        {"formFields": [{"id": "password", "value": "x"}, *fields]}
    ).encode()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (form("a@b.c"), ("a@b.c",)),
        (form(" A@B.c "), ("a@b.c",)),
        (form("a@b.c", "A@b.c", "d@e.f"), ("a@b.c", "d@e.f")),
        (b'{"email": "a@b.c"}', ("a@b.c",)),
        (b'{"phoneNumber": "+491"}', ("+491",)),
        (form(7), ()),
        (form(""), ()),
        (b"", ()),
        (b"[]", ()),
        (b"{", ()),
        (b"[" * 100_000, ()),
        (b'{"formFields": {"id": "email"}}', ()),
        (b"\xff", ()),
    ],
)
def test_accounts_are_read_from_forms(body: bytes, found: tuple[str, ...]) -> None:
    """Addresses come without blanks, in lower case; other bodies name none."""
    assert accounts(body) == found
