"""PURE. Which call of SuperTokens' API a request is, and whose account it names.

The SDK ignores parameters and a slash at the end of a path, and reads methods in any
case. So does this, and where it can't be sure, a request counts rather than not.

Source: supertokens-python 0.31.4, `recipe/*/constants.py`, `recipe_module.py` and
`normalised_url_path.py`.
"""

from __future__ import annotations

import json
from typing import Final

_CALLS: Final = (
    ("/session/refresh", "refresh"),
    ("/signin", "sign_in"),
    ("/signinup", "sign_in"),
    ("/signinup/code/consume", "sign_in"),
    ("/totp/verify", "sign_in"),
    ("/totp/device/verify", "sign_in"),
    ("/signup", "sign_up"),
    ("/user/password/reset/token", "reset"),
    ("/user/password/reset", "reset"),
    ("/user/webauthn/reset/token", "reset"),
    ("/user/webauthn/reset", "reset"),
    ("/signinup/code", "message"),
    ("/signinup/code/resend", "message"),
    ("/user/email/verify/token", "message"),
)
"""The end of a path → the call. All are POST. `/webauthn/signin` ends as `/signin`."""
_EXISTS: Final = ("/email/exists", "/phonenumber/exists")
_SIGN_OUT: Final = "/signout"
OTHER: Final = "other"
WITH_ACCOUNT: Final = frozenset(("sign_in", "sign_up", "reset", "message"))
"""The calls whose forms name an account."""


def auth_call(method: str, path: str) -> str | None:
    """Return the name of the call; None: it signs out, which has no limit.

    *path* is canonical. It begins with the base path, and perhaps a tenant.
    """
    before, slash, last = path.rpartition("/")
    path = f"{before}{slash}{last.partition(';')[0]}".rstrip("/").lower()
    if path.endswith(_SIGN_OUT):
        return None
    if path.endswith(_EXISTS):
        return "exists"
    if method.upper() == "POST":
        for end, name in _CALLS:
            if path.endswith(end):
                return name
    return OTHER


def accounts(body: bytes) -> tuple[str, ...]:
    """Return the mail addresses and phone numbers in the form *body*, without repeats.

    They are in lower case and without blanks around them, as the core reads them.
    """
    try:
        form = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(form, dict):
        return ()
    found = [form.get("email"), form.get("phoneNumber")]
    fields = form.get("formFields")
    found += [
        field.get("value")
        for field in (fields if isinstance(fields, list) else ())
        if isinstance(field, dict) and field.get("id") == "email"
    ]
    texts = (each.strip().lower() for each in found if isinstance(each, str))
    return tuple(dict.fromkeys(text for text in texts if text))
