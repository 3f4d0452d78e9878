"""PURE. Recipes, a user's identities, and the credentials for sign-in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Recipe(StrEnum):
    """Recipes that have users."""

    EMAIL_PASSWORD = "emailpassword"  # noqa: S105 - a recipe's name
    THIRD_PARTY = "thirdparty"
    PASSWORDLESS = "passwordless"


class Kind(StrEnum):
    """What a user signs in with."""

    EMAIL = "email"
    PHONE = "phone"
    ACCOUNT = "account"


class Taken(Exception):
    """Another user of the tenant has the same e-mail, phone number or account."""

    def __init__(self, kind: Kind) -> None:
        """*kind* is the kind of identity that is taken."""
        super().__init__(f"{kind} is taken")
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountInfo:
    """A user's e-mail, phone number and third-party account; values are normalised."""

    email: str | None = None
    phone: str | None = None
    third_party_id: str | None = None
    third_party_user_id: str | None = None


def normalised_email(text: str) -> str:
    """Return the stored form of an e-mail address."""
    return text.strip().lower()


def account_value(third_party_id: str, third_party_user_id: str) -> str:
    """Return the identity of a third-party account: its two ids, separated by NUL."""
    return f"{third_party_id}\0{third_party_user_id}"


def identities(info: AccountInfo) -> list[tuple[Kind, str]]:
    """Return the identities with which a user signs in.

    A third-party user has one, the account. Its e-mail address isn't an identity.
    """
    if info.third_party_id is not None and info.third_party_user_id is not None:
        value = account_value(info.third_party_id, info.third_party_user_id)
        return [(Kind.ACCOUNT, value)]
    pairs = ((Kind.EMAIL, info.email), (Kind.PHONE, info.phone))
    return [(kind, value) for kind, value in pairs if value is not None]
