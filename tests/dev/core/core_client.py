"""A plain client of the core protocol, as thin as it can be."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from typing import Any

import aiohttp

Json = dict[str, Any]

VERSION = {"cdi-version": "5.4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Json:
        """The body, which must be a JSON object."""
        value = json.loads(self.text)
        assert isinstance(value, dict)
        return value


class CoreClient:
    """Sends what the SDK sends, over one keep-alive session."""

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
    ) -> Answer:
        """Return the answer, whatever it is."""
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
            lower = {name.lower(): value for name, value in response.headers.items()}
            return Answer(
                status=response.status, headers=lower, text=await response.text()
            )

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Json:
        """Return the JSON of an answer that must be a 200."""
        answer = await self.call(method, path, body, query=query, headers=headers)
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
        assert answer.text.endswith("}\n")
        return answer.json

    async def post(self, path: str, body: object) -> Json:
        """Return the JSON of a POST."""
        return await self.ask("POST", path, body)

    async def put(self, path: str, body: object) -> Json:
        """Return the JSON of a PUT."""
        return await self.ask("PUT", path, body)

    async def get(self, path: str, **query: str) -> Json:
        """Return the JSON of a GET."""
        return await self.ask("GET", path, query=query)

    async def sign_up(self, email: str | None = None, password: str = "s3cret!") -> str:
        """Create a user and return its id."""
        answer = await self.post(
            "/public/recipe/signup",
            {"email": email or unique_email(), "password": password},
        )
        assert answer["status"] == "OK"
        return str(answer["recipeUserId"])

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
        """Start a session and return the whole answer."""
        answer = await self.post(
            f"/{tenant}/recipe/session",
            {
                "userId": user_id or f"user-{uuid.uuid4()}",
                "userDataInJWT": payload or {},
                "userDataInDatabase": data or {},
                "enableAntiCsrf": anti_csrf,
                "useDynamicSigningKey": dynamic,
            },
        )
        assert answer["status"] == "OK"
        return answer

    async def refresh(
        self, token: str, *, anti_csrf: str | None = None, enabled: bool = False
    ) -> Json:
        """Refresh with a token."""
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
        """End a session; return what was ended."""
        answer = await self.post("/recipe/session/remove", {"sessionHandles": [handle]})
        return list(answer["sessionHandlesRevoked"])


class Clock:
    """A clock that stands until it's pushed."""

    def __init__(self, now: float = 1_800_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def push(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def access(answer: Json) -> str:
    """Return the access token of an answer."""
    return str(answer["accessToken"]["token"])


def refresh(answer: Json) -> str:
    """Return the refresh token of an answer."""
    return str(answer["refreshToken"]["token"])


def decode(token: str) -> tuple[Json, Json]:
    """Return header and payload of a JWT, unverified."""
    head, body, _ = token.split(".")
    return _part(head), _part(body)


def claims(token: str) -> Json:
    """Return the payload of a JWT, unverified."""
    return decode(token)[1]


def unique_email() -> str:
    """Return an address nobody has used."""
    return f"{uuid.uuid4().hex}@example.com"


def unique(prefix: str) -> str:
    """Return a name nobody has used."""
    return f"{prefix}-{uuid.uuid4().hex}"


def _part(text: str) -> Json:
    value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert isinstance(value, dict)
    return value
