"""edge. One request and one reply in the shape that the SDK works on.

Built from raw parts, so neither aiohttp nor FastAPI is needed. Requests and replies
look to the SDK as in its own FastAPI binding; the two places where this one is
stricter are marked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.utils import formatdate
from http.cookies import SimpleCookie
from typing import Any, Literal
from urllib.parse import parse_qsl

from supertokens_python.exceptions import BadInputError
from supertokens_python.framework import BaseRequest, BaseResponse
from supertokens_python.recipe.session import SessionContainer

from gateway.http.fields import Field, Fields

_UNQUOTE = SimpleCookie()
_LINE_BREAKS = frozenset("\r\n\0")


class SdkRequest(BaseRequest):
    """A request as the SDK reads it; header values are latin-1, byte for byte."""

    def __init__(
        self,
        *,
        method: str,
        path: str,
        query: bytes = b"",
        fields: Fields = (),
        body: bytes = b"",
        secure: bool = False,
        authority: str = "",
    ) -> None:
        """*path* is canonical (see `target`), *query* as received, without `?`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._method = method
        self._path = path
        self._query = query.decode("latin-1")
        self._body = body
        self._secure = secure
        self._authority = authority
        self._headers = _headers(fields)
        self._cookies: dict[str, str] | None = None
        self.session: SessionContainer | None = None

    def get_original_url(self) -> str:
        scheme = "https" if self._secure else "http"
        query = f"?{self._query}" if self._query else ""
        return f"{scheme}://{self._authority}{self._path}{query}"

    def get_query_param(self, key: str, default: str | None = None) -> str | None:
        return self.get_query_params().get(key, default)

    def get_query_params(self) -> dict[str, str]:
        return dict(parse_qsl(self._query, keep_blank_values=True))

    async def json(self) -> dict[str, Any]:
        """Return the body's JSON object, or an empty one when it isn't JSON.

        Raises:
            BadInputError: it is JSON, but no object. FastAPI's binding hands a list
                or number on, which ends in a 500 that any client can cause.
        """
        try:
            value = json.loads(self._body)
        except (ValueError, RecursionError):
            return {}
        if not isinstance(value, dict):
            raise BadInputError("The request body must be a JSON object")
        return value

    async def form_data(self) -> dict[str, str]:
        return dict(parse_qsl(self._body.decode("utf-8")))

    def method(self) -> str:
        return self._method

    def get_cookie(self, key: str) -> str | None:
        if self._cookies is None:
            self._cookies = dict(_cookies(self._headers.get("cookie", "")))
        return self._cookies.get(key)

    def get_header(self, key: str) -> str | None:
        return self._headers.get(key.lower())

    def get_session(self) -> SessionContainer | None:
        return self.session

    def set_session(self, session: SessionContainer) -> None:
        self.session = session

    def set_session_as_none(self) -> None:
        self.session = None

    def get_path(self) -> str:
        return self._path

    def tenants(self) -> tuple[str, ...]:
        """Return the tenant of the session that the SDK has found, if it has."""
        return () if self.session is None else (self.session.get_tenant_id(),)


def _headers(fields: Fields) -> dict[str, str]:
    """Return the first value of each field; all Cookie fields joined.

    Joined, because the SDK looks for a second access token in one field only, and
    FastAPI's binding shows it the first: a token in another field goes unnoticed.

    Source: RFC 6265 §5.4 (one Cookie field), RFC 9113 §8.2.3 (how to join several).
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        if name not in headers:
            headers[name] = value
        elif name == "cookie":
            headers[name] += "; " + value
    return headers


def _cookies(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the value, without quotes, of each cookie in *text*."""
    for pair in text.split(";"):
        name, equals, value = pair.partition("=")
        if not equals:
            name, value = "", name
        name, value = name.strip(), value.strip()
        if name or value:
            yield name, _UNQUOTE.value_decode(value)[0]


class SdkReply(BaseResponse):
    """A reply as the SDK writes it: the first status and the first body count."""

    def __init__(self) -> None:
        super().__init__({}, 200)
        self.body = b""
        self.is_unconfirmed = False
        """Not all workers are known to refuse the sessions that it has revoked."""
        self._fields: list[Field] = []
        self._has_status = False
        self._has_body = False

    @property
    def fields(self) -> Fields:
        """The fields in the order they were set; each Set-Cookie separate."""
        return tuple(self._fields)

    def set_cookie(
        self,
        key: str,
        value: str,
        expires: int,
        path: str = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: Literal["lax", "strict", "none"] = "lax",
    ) -> None:
        """Add a Set-Cookie field; *expires* is milliseconds since the epoch."""
        cookie = SimpleCookie()
        cookie[key] = value
        morsel = cookie[key]
        # Whole seconds, upwards: a token that lives 1 s keeps its cookie for 1 s.
        morsel["expires"] = formatdate(-(-expires // 1000), usegmt=True)
        morsel["path"] = path
        morsel["samesite"] = samesite
        if domain is not None:
            morsel["domain"] = domain
        if secure:
            morsel["secure"] = True
        if httponly:
            morsel["httponly"] = True
        self._fields.append((b"Set-Cookie", _value(morsel.OutputString())))

    def set_header(self, key: str, value: str) -> None:
        field = (key.encode("latin-1"), _value(value))
        name = field[0].lower()
        for place, (other, _) in enumerate(self._fields):
            if other.lower() == name:
                self._fields[place] = field
                return
        self._fields.append(field)

    def get_header(self, key: str) -> str | None:
        name = key.lower().encode("latin-1")
        for other, value in self._fields:
            if other.lower() == name:
                return value.decode("latin-1")
        return None

    def remove_header(self, key: str) -> None:
        name = key.lower().encode("latin-1")
        self._fields = [field for field in self._fields if field[0].lower() != name]

    def set_status_code(self, status_code: int) -> None:
        if not self._has_status:
            self.status_code = status_code
            self._has_status = True

    def set_json_content(self, content: dict[str, Any]) -> None:
        text = json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        self._set_body(text, "application/json; charset=utf-8")

    def set_html_content(self, content: str) -> None:
        self._set_body(content, "text/html")

    def redirect(self, url: str) -> SdkReply:
        if not self._has_body:
            self.set_header("Location", url)
            self.set_status_code(302)
            self._has_body = True
        return self

    def _set_body(self, text: str, content_type: str) -> None:
        if not self._has_body:
            self.body = text.encode("utf-8")
            self.set_header("Content-Type", content_type)
            self._has_body = True


def _value(text: str) -> bytes:
    """Return *text* as a field value.

    Raises:
        ValueError: it would end the field (the SDK puts client input in Location).
    """
    if not _LINE_BREAKS.isdisjoint(text):
        raise ValueError("a header value can't contain a line break")
    return text.encode("latin-1")
