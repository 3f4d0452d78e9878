"""A thin client of the core protocol."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import Any

import aiohttp
import any_core

Json = dict[str, Any]

VERSION = {"cdi-version": "5.4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreResponse:
    """A response of the core, with header names in lower case."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Json:
        """The body as a JSON object; anything else is an error."""
        value = json.loads(self.text)
        assert isinstance(value, dict)
        return value


class CoreClient:
    """Sends requests as the SDK does, over one keep-alive session."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> CoreResponse:
        """Send a request and return the response, whatever its status."""
        data = raw if raw is not None else None
        if body is not None:
            data = json.dumps(body).encode()
        async with self.session.request(
            method,
            self.url + path,
            data=data,
            params=query,
            headers=VERSION if headers is None else headers,
        ) as response:
            text = await response.text()
            any_core.skip_if_paid(response.status, text)
            lower = {name.lower(): value for name, value in response.headers.items()}
            return CoreResponse(status=response.status, headers=lower, text=text)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Json:
        """Send a request and return its JSON; the status must be 200."""
        response = await self.call(method, path, body, query=query, headers=headers)
        assert response.status == 200, response
        assert response.headers["content-type"] == "application/json;charset=UTF-8"
        assert response.text.endswith("}\n")
        return response.json

    async def post(self, path: str, body: object) -> Json:
        """Send a POST and return the JSON of its response."""
        return await self.ask("POST", path, body)

    async def put(self, path: str, body: object) -> Json:
        """Send a PUT and return the JSON of its response."""
        return await self.ask("PUT", path, body)

    async def get(self, path: str, **query: str) -> Json:
        """Send a GET and return the JSON of its response."""
        return await self.ask("GET", path, query=query)

    async def sign_up(self, email: str | None = None, password: str = "s3cret!") -> str:
        """Create a user and return its id."""
        response = await self.post(
            "/public/recipe/signup",
            {"email": email or unique_email(), "password": password},
        )
        assert response["status"] == "OK"
        return str(response["recipeUserId"])

    async def create(
        self,
        user_id: str | None = None,
        *,
        tenant: str = "public",
        payload: Json | None = None,
        data: Json | None = None,
        anti_csrf: bool = False,
        dynamic: bool = True,
    ) -> Json:
        """Create a session and return the whole response."""
        response = await self.post(
            f"/{tenant}/recipe/session",
            {
                "userId": user_id or f"user-{uuid.uuid4()}",
                "userDataInJWT": payload or {},
                "userDataInDatabase": data or {},
                "enableAntiCsrf": anti_csrf,
                "useDynamicSigningKey": dynamic,
            },
        )
        assert response["status"] == "OK"
        return response

    async def refresh(
        self, token: str, *, anti_csrf: str | None = None, enabled: bool = False
    ) -> Json:
        """Refresh a session with its refresh token."""
        body: Json = {
            "refreshToken": token,
            "enableAntiCsrf": enabled,
            "useDynamicSigningKey": True,
        }
        if anti_csrf is not None:
            body["antiCsrfToken"] = anti_csrf
        return await self.post("/recipe/session/refresh", body)

    async def verify(
        self,
        token: str,
        *,
        check_database: bool = False,
        check_anti_csrf: bool = False,
        anti_csrf: str | None = None,
        enabled: bool = False,
    ) -> Json:
        """Verify an access token."""
        body: Json = {
            "accessToken": token,
            "doAntiCsrfCheck": check_anti_csrf,
            "enableAntiCsrf": enabled,
            "checkDatabase": check_database,
        }
        if anti_csrf is not None:
            body["antiCsrfToken"] = anti_csrf
        return await self.post("/recipe/session/verify", body)

    async def revoke(self, handle: str) -> list[str]:
        """Revoke a session and return the handles that the core lists as revoked."""
        response = await self.post(
            "/recipe/session/remove", {"sessionHandles": [handle]}
        )
        return list(response["sessionHandlesRevoked"])


class Clock:
    """A clock that only `advance` moves."""

    def __init__(self, now: float = 1_800_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now += seconds


def access(response: Json) -> str:
    """Return the access token of a response."""
    return str(response["accessToken"]["token"])


def refresh(response: Json) -> str:
    """Return the refresh token of a response."""
    return str(response["refreshToken"]["token"])


def decode(token: str) -> tuple[Json, Json]:
    """Return the header and the payload of a JWT without verifying it."""
    head, body, _ = token.split(".")
    return _part(head), _part(body)


def claims(token: str) -> Json:
    """Return the payload of a JWT without verifying it."""
    return decode(token)[1]


def unique_email() -> str:
    """Return an e-mail address that no other test uses."""
    return f"{uuid.uuid4().hex}@example.com"


def unique(prefix: str) -> str:
    """Return a name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex}"


def _part(text: str) -> Json:
    value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert isinstance(value, dict)
    return value
