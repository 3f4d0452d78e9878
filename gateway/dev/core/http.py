"""edge. The protocol's HTTP conventions for all recipes: paths, inputs and answers.

Facts (real core's PathRouter, WebserverAPI and InputParser)
- A path is an API path, or `[/appid-<app>][/<tenant>]<API path>`. Case and a `/` at
  the end don't matter.
- An expected failure is 200 with a `status` in the JSON. Any other failure is a 4xx or
  5xx with a plain sentence.
- An optional JSON field may be absent, but not null, unless the endpoint gives null a
  meaning. Unknown fields are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, Self

from gateway.dev.core.jws import JsonObject
from gateway.dev.core.settings import PUBLIC
from gateway.dev.core.tenants import is_tenant_id

JSON_TYPE: Final = "application/json;charset=UTF-8"
TEXT_TYPE: Final = "text/html;charset=UTF-8"

_PREFIX: Final = re.compile(r"(?:/appid-(?P<app>[a-z0-9-]*))?(?:/(?P<tenant>[^/]+))?")


class Refusal(Exception):
    """A request that the protocol answers with a 4xx and a plain sentence."""

    def __init__(self, status: int, text: str) -> None:
        """Take the HTTP status and the sentence."""
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer other than JSON with 200."""

    status: int = 200
    content_type: str = JSON_TYPE
    body: bytes
    headers: Mapping[str, str]


def json_reply(body: JsonObject, **headers: str) -> Reply:
    """Return an answer of 200: one JSON object and a newline."""
    return Reply(
        body=json.dumps(body, separators=(",", ":")).encode("ascii") + b"\n",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def text_reply(status: int, text: str) -> Reply:
    """Return an answer that is a plain sentence."""
    return Reply(
        status=status,
        content_type=TEXT_TYPE,
        body=f"{text}\n".encode(),
        headers={},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The parts of an API path."""

    api_path: str
    app_id: str
    tenant_id: str


def locate(path: str, api_paths: Collection[str]) -> Place | None:
    """Return the parts of a path, or None if it has no API path.

    Source: core protocol CDI 5.4, paths: an exact API path is preferred.
    """
    path = path.lower().rstrip("/") or "/"
    if path in api_paths:
        return Place(api_path=path, app_id=PUBLIC, tenant_id=PUBLIC)
    for api_path in api_paths:
        if api_path == "/" or not path.endswith(api_path):
            continue
        # At most one API path fits: none is a tenant followed by another API path,
        # because `recipe` is a stop word and can't be a tenant.
        prefix = _PREFIX.fullmatch(path.removesuffix(api_path))
        if prefix is None:
            continue
        tenant_id = prefix["tenant"] or PUBLIC
        if is_tenant_id(tenant_id):
            return Place(
                api_path=api_path, app_id=prefix["app"] or PUBLIC, tenant_id=tenant_id
            )
    return None


class Body:
    """The JSON object of a request, read field by field.

    Each method that reads a value raises `Refusal` (400) if the field is missing, null
    or of another type. Methods with `_or` return a default for a missing field.
    """

    def __init__(self, fields: JsonObject) -> None:
        """Take the parsed object."""
        self._fields = fields

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the body in the bytes.

        Raises:
            Refusal: 400, the bytes aren't a JSON object.
        """
        try:
            value = json.loads(raw, parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            raise Refusal(400, "Invalid Json Input") from exc
        if not isinstance(value, dict):
            raise Refusal(400, "Invalid Json Input")
        return cls(value)

    def has(self, name: str) -> bool:
        """Return whether the field is present; its value may be null."""
        return name in self._fields

    def is_null(self, name: str) -> bool:
        """Return whether the field is present and null."""
        return name in self._fields and self._fields[name] is None

    def text(self, name: str) -> str:
        """Return a string."""
        return _as_text(self._fields.get(name), name)

    def text_or_none(self, name: str) -> str | None:
        """Return a string, or None when it's absent."""
        return self.text(name) if self.has(name) else None

    def filled(self, name: str) -> str:
        """Return a string without the white space around it; 400 if it is empty."""
        value = self.text(name).strip()
        if not value:
            raise Refusal(400, f"Field name '{name}' cannot be an empty String")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean."""
        value = self._fields.get(name)
        if not isinstance(value, bool):
            _invalid(name)
        return value

    def flag_or(self, name: str, default: bool) -> bool:
        """Return a boolean, or the default when it's absent."""
        return self.flag(name) if self.has(name) else default

    def integer(self, name: str) -> int:
        """Return a whole number."""
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            _invalid(name)
        return value

    def object(self, name: str) -> JsonObject:
        """Return an object."""
        value = self._fields.get(name)
        if not isinstance(value, dict):
            _invalid(name)
        return value

    def nested(self, name: str) -> Body:
        """Return an object as a `Body`."""
        return Body(self.object(name))

    def object_or_none(self, name: str) -> JsonObject | None:
        """Return an object, or None when it's absent."""
        return self.object(name) if self.has(name) else None

    def texts(self, name: str) -> list[str]:
        """Return a list of strings."""
        value = self._fields.get(name)
        if not isinstance(value, list):
            _invalid(name)
        return [_as_text(item, name) for item in value]

    def texts_or_none(self, name: str) -> list[str] | None:
        """Return a list of strings, or None when it's absent."""
        return self.texts(name) if self.has(name) else None


class Query:
    """The query of a request.

    An empty value counts as absent, because httpx sends None as an empty value.
    """

    def __init__(self, fields: Mapping[str, str]) -> None:
        """Take the decoded fields."""
        self._fields = fields

    def text(self, name: str) -> str:
        """Return a value.

        Raises:
            Refusal: 400, it is absent.
        """
        value = self.text_or_none(name)
        if value is None:
            raise Refusal(400, f"Field name '{name}' is missing in GET request")
        return value

    def text_or_none(self, name: str) -> str | None:
        """Return a value, or None when it's absent."""
        return self._fields.get(name) or None

    def flag_or(self, name: str, default: bool) -> bool:
        """Return whether the value is `true`, or the default when it's absent."""
        value = self.text_or_none(name)
        return default if value is None else value == "true"

    def integer_or_none(self, name: str) -> int | None:
        """Return a whole number, or None when it's absent.

        Raises:
            Refusal: 400, it isn't a number.
        """
        value = self.text_or_none(name)
        try:
            return None if value is None else int(value)
        except ValueError as exc:
            raise Refusal(
                400, f"Field name '{name}' must be an int in the GET request"
            ) from exc


def _as_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        _invalid(name)
    try:
        # JSON can contain a lone surrogate, which can't be hashed or stored.
        value.encode("utf-8")
    except UnicodeEncodeError:
        _invalid(name)
    return value


def _invalid(name: str) -> NoReturn:
    raise Refusal(400, f"Field name '{name}' is invalid in JSON input")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")
