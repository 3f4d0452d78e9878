"""PURE. A person in a few words, as the claims of a session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from gateway.config import PersonConfig
from gateway.session import requirements

_LIFETIME_S: Final = 3600


class BadPerson(ValueError):
    """The words don't describe a person. The text says why."""


def person(text: str) -> PersonConfig:
    """Return the person that the JSON in *text* describes.

    Raises:
        BadPerson: it describes none.
    """
    try:
        return PersonConfig.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        known = ", ".join(PersonConfig.model_fields)
        raise BadPerson(
            f"{place or 'a person'}: {first['msg']} (a person has {known})"
        ) from None
    except (ValueError, RecursionError):
        raise BadPerson(
            'expected JSON such as {"roles": ["admin"], "age": "30s"}'
        ) from None


def payload(one: PersonConfig, now: float) -> Mapping[str, Any]:
    """Return the payload of an access token of *one*; *now* in seconds."""
    at = int((now - one.age) * 1000)
    claims: dict[str, Any] = {
        "sub": one.id,
        "rsub": one.id,
        "sessionHandle": "given",
        "tId": one.tenant,
        "iat": int(now),
        "exp": int(now) + _LIFETIME_S,
    }
    for name, value in (
        (requirements.ROLES, one.roles),
        (requirements.PERMISSIONS, one.permissions),
        (requirements.EMAIL_VERIFIED, one.email_verified),
        (requirements.MFA, one.mfa),
    ):
        if value is not None:
            shown = list(value) if isinstance(value, tuple) else value
            claims[name] = {"v": shown, "t": at}
    return claims | one.claims
