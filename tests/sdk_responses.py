"""Responses of the SDK, through our binding or the reference's, made comparable."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

Fields = tuple[tuple[bytes, bytes], ...]
"""As `gateway.http.fields.Fields`; nothing of the gateway is imported here, because the
reference must run without it."""


@dataclass(frozen=True, kw_only=True)
class SdkResponse:
    """A response of the SDK; status 0 means that the SDK doesn't serve this path."""

    status: int
    fields: Fields = ()
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        return [
            value.decode("latin-1")
            for other, value in self.fields
            if other.decode().lower() == name
        ]

    def token(self, kind: str) -> str:
        """Return the access or refresh token, from its header or its cookie."""
        for value in self.values(f"st-{kind}-token"):
            return value
        for text in self.values("set-cookie"):
            match = re.match(rf"s{kind.title()}Token=([^;]+)", text)
            if match:
                return match[1]
        raise AssertionError(f"no {kind} token")

    def back(self, kind: str) -> tuple[bytes, bytes]:
        """Return the field in which a frontend sends the token: Bearer or Cookie."""
        value = self.token(kind)
        if self.values(f"st-{kind}-token"):
            return bearer(value)
        return cookies(**{f"s{kind.title()}Token": value})


def bearer(token: str) -> tuple[bytes, bytes]:
    return (b"Authorization", b"Bearer " + token.encode())


def cookies(**values: str) -> tuple[bytes, bytes]:
    return (b"Cookie", "; ".join(f"{k}={v}" for k, v in values.items()).encode())


# --- what may differ between two runs ---------------------------------------------


def plain(value: object, email: str) -> object:
    """Return *value* with ids, hashes, times and the e-mail address replaced."""
    match value:
        case dict():
            return {key: plain(item, email) for key, item in value.items()}
        case list():
            return [plain(item, email) for item in value]
        case str():
            if value == email:
                return "<email>"
            if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
                return "<uuid>"
            return "<hash>" if re.fullmatch(r"[0-9a-f]{64}", value) else value
        case int() if value > 1_000_000_000:
            return "<time>"
        case _:
            return value


def token(value: str, email: str) -> object:
    """Return the payload of a JWT or front token; for other text, whether it's empty.

    The payload is normalised by `plain`.
    """
    part = value.split(".")[1] if value.count(".") == 2 else value
    try:
        # Surplus padding is ignored.
        return plain(json.loads(base64.urlsafe_b64decode(part + "===")), email)
    except ValueError:
        return bool(value)


def cookie(text: str, email: str) -> object:
    """Return the parts of a Set-Cookie value, its lifetime rounded to hours."""
    pair, *attributes = text.split("; ")
    name, _, value = pair.partition("=")
    # A refresh token with a slash is quoted; whether it has one is chance.
    well_quoted = value.startswith('"') == ("/" in value or value == '""')
    plain_attributes = []
    for attribute in attributes:
        key, _, date = attribute.partition("=")
        if key == "expires":
            left = parsedate_to_datetime(date) - datetime.now(UTC)
            plain_attributes.append(f"in {round(left.total_seconds() / 3600)} h")
        else:
            plain_attributes.append(attribute)
    return (name, token(value.strip('"'), email), well_quoted, *plain_attributes)


def normal(response: SdkResponse, email: str) -> object:
    """Return a response without what differs between two runs."""
    fields: list[tuple[str, object]] = []
    for raw_name, raw_value in response.fields:
        name, value = raw_name.decode().lower(), raw_value.decode("latin-1")
        match name:
            case "set-cookie":
                fields.append((name, cookie(value, email)))
            case "front-token" | "st-access-token" | "st-refresh-token":
                fields.append((name, token(value, email)))
            case "anti-csrf":
                fields.append((name, plain(value, email)))
            case _:
                fields.append((name, value))
    try:
        body = plain(json.loads(response.body), email)
    except ValueError:
        body = response.body
    return {"status": response.status, "fields": fields, "body": body}
