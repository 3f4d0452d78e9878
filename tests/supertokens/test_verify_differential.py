"""The engine held against the unmodified SDK: more than a thousand
requests each.

Both ask the same core, and get the same requests (those with a token that the core
changes: each its own). The SDK runs in another process, as its makers ship it
(`reference_sdk`); the engine is joined as `app` joins it. Verdict, status, fields and
body must be the same, and who the session belongs to. Where they differ is written
down in `DIFFERENCES`, with the reason, and nowhere else: a line that no longer holds
fails, as does a difference without a line.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import aiohttp
import pytest
from minting import ISSUER, Mint
from reference_sdk import Reference, reference
from sdk_answers import Seen, normal
from sdk_reset import reset
from session_cases import (
    Fields,
    Source,
    anti_csrf,
    bearer,
    cases,
    real,
    transports,
)
from session_request import session_request

from gateway import config, routes
from gateway.app import open_app
from gateway.dev.core import ThreadedCore, serve_in_thread
from gateway.identity import Allowed, Denied, Undecided
from gateway.routes import Matched, RouteTable
from gateway.verify import Engine

MODES = ("NONE", "VIA_TOKEN", "VIA_CUSTOM_HEADER")
METHODS = ("GET", "POST")
ROUTES = ("/required", "/optional", "/checked")
AT_LEAST = 1_000
"""Different requests on each route, in the mode that has all cases."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Cases where ours says something else, and why it should."""

    cases: tuple[str, ...]
    """Shell globs over the names of cases. Each case that one fits must differ."""
    theirs: str
    ours: str
    why: str
    on: str = "*"
    """A glob over `METHOD /path`."""
    modes: tuple[str, ...] = MODES


STRICTER: dict[str, Any] = {"theirs": "allowed", "ours": "401 try refresh token"}

DIFFERENCES = (
    Difference(
        cases=("token/alg/RS384", "token/alg/RS512", "token/alg/PS???"),
        why="The core signs with RS256 only. The SDK takes the algorithm from the"
        " token itself, so a weakness of any is a weakness of all (RFC 8725 §3.1).",
        **STRICTER,
    ),
    Difference(
        cases=("token/header/crit=[[]b64]", "token/header/b64=true", "*/b64=null"),
        why="No core sends an extension that changes what a signature covers.",
        **STRICTER,
    ),
    Difference(
        cases=("token/claim/iss=*",),
        why="A token of another application on the same core is no session here"
        " (RFC 8725 §3.8).",
        **STRICTER,
    ),
    Difference(
        cases=("token/real/JWT like a session",),
        on="* /[!c]*",  # the core, where it is asked, knows that it is none
        why="Nor is a JWT that the core made for something else.",
        **STRICTER,
    ),
    Difference(
        cases=("token/version 2/good",),
        why="Cores have made none since 2023. They have no kid and no iss, so that"
        " they would be tried with every key there is.",
        **STRICTER,
    ),
    Difference(
        cases=(
            "token/claim/sub=empty",
            "token/claim/sub=blank",
            "token/claim/sessionHandle=empty",
            "token/claim/sessionHandle=blank",
        ),
        why="A user without an id would reach the upstream as an empty identity field,"
        " and one without a handle could not be signed out.",
        **STRICTER,
    ),
    Difference(
        cases=("token/spelling/signature padded",),
        why="One token has one spelling, for the cache and the deny-list.",
        **STRICTER,
    ),
    Difference(
        cases=("token/payload/100 kB",),
        on="* /required",
        theirs="allowed",
        ours="401 unauthorised",
        why="Longer than any token that a core makes or a client can send: no token.",
    ),
    Difference(
        cases=("token/payload/100 kB",),
        on="* /optional",
        theirs="allowed",
        ours="anonymous",
        why="The same: what isn't a token is no session.",
    ),
    Difference(
        cases=("two Cookie fields/*, good",),
        modes=("NONE",),
        why="The SDK counts access cookies in the first Cookie field only, and reads"
        " the last of all. Two of them ask for a refresh, wherever they stand.",
        **STRICTER,
    ),
    Difference(
        cases=("two Cookie fields/*, good",),
        modes=("VIA_TOKEN", "VIA_CUSTOM_HEADER"),
        on="GET *",  # any other method is refused by both
        why="The same.",
        **STRICTER,
    ),
    Difference(
        cases=("iat 3 s ahead",),
        theirs="401 try refresh token",
        ours="allowed",
        why="The one point where ours is more lenient: a core whose clock is a second"
        " ahead would have every new token refused, and refreshed for ever.",
    ),
    Difference(
        cases=("revoked, asked again",),
        theirs="401 unauthorised, cleared",
        ours="401 unauthorised",
        why="Ours remembers that the core said the session is gone, and asks no more."
        " It clears no tokens then: an old request that comes late would log a new"
        " session out. The refresh that follows is refused by the core, and clears.",
    ),
    Difference(
        cases=("revoked, asked elsewhere",),
        why="Once the core has said that a session is gone, it is gone on every route;"
        " the SDK goes on taking its token wherever the core isn't asked.",
        theirs="allowed",
        ours="401 unauthorised",
    ),
)


# --- the two sides ------------------------------------------------------------------


@pytest.fixture(scope="module")
def core() -> Iterator[ThreadedCore]:
    with serve_in_thread() as running:
        yield running


class Silent:
    def observe(self, record: object) -> None:
        """Nothing is asked over HTTP here."""


@dataclass
class Ours:
    """The engine, joined with keys, SDK and route table."""

    engine: Engine
    table: RouteTable

    async def ask(self, method: str, path: str, fields: Fields) -> tuple[Seen, str]:
        """Return the answer, and the reason that the log would have."""
        found = self.table.match(method, "localhost", path)
        assert isinstance(found, Matched)
        verdict = await self.engine.verify(
            session_request(method, path, fields), found.route.session
        )
        match verdict:
            case Allowed(principal=None):
                seen = Seen(status=200, body=b"null")
            case Allowed(principal=who, new_tokens=fields):
                assert who is not None
                said = [
                    who.user_id,
                    who.recipe_user_id,
                    who.session_handle,
                    who.tenant_id,
                    who.claims,
                ]
                body = json.dumps(said).encode()
                seen = Seen(status=200, fields=fields, body=body)
            case Denied(status=status, fields=fields, body=body):
                seen = Seen(status=status, fields=fields, body=body)
            case _:
                assert isinstance(verdict, Undecided)
                seen = Seen(status=503)
        return seen, verdict.reason


@asynccontextmanager
async def ours(settings: dict[str, str]) -> AsyncIterator[Ours]:
    loaded = config.parse(
        {
            "version": 1,
            "supertokens": {
                **settings,
                "recipes": {"emailpassword": {}, "userroles": {}},
            },
            "services": {"up": {"targets": ["http://127.0.0.1:9"]}},
            "routes": [
                {"path": "/required", "service": "up"},
                {"path": "/optional", "service": "up", "protected": "optional"},
                {
                    "path": "/checked",
                    "service": "up",
                    "session": {"check_database": "always"},
                },
            ],
        }
    )
    table = routes.compile(loaded)
    reset()
    async with open_app(loaded, table, observer=Silent()) as app:
        await app.keys.refresh()
        engine = app.proxy.dependencies.verifier
        assert isinstance(engine, Engine)
        yield Ours(engine, table)
    reset()


class Sessions:
    """Makes real sessions at the core."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def __call__(self, path: str, **body: object) -> dict[str, dict[str, str]]:
        async with self._http.post(
            self._url + path, json=body, headers={"cdi-version": "5.4"}
        ) as reply:
            said: dict[str, Any] = await reply.json()
            assert said["status"] == "OK", said
            return said

    async def new(self, *, static: bool = False) -> dict[str, dict[str, str]]:
        return await self(
            "/public/recipe/session",
            userId="user-1",
            userDataInJWT={"iss": ISSUER},
            userDataInDatabase={},
            enableAntiCsrf=False,
            useDynamicSigningKey=not static,
        )

    async def refreshed(self) -> str:
        """Return a token that nobody has used since its refresh."""
        answer = await self(
            "/recipe/session/refresh",
            refreshToken=(await self.new())["refreshToken"]["token"],
            enableAntiCsrf=False,
            useDynamicSigningKey=True,
        )
        return answer["accessToken"]["token"]

    async def jwt(self, **payload: object) -> str:
        """Return a JWT of the core that is no session's."""
        answer = await self(
            "/recipe/jwt",
            payload=payload,
            algorithm="RS256",
            jwksDomain="http://localhost:8000",
            validity=3600,
            useStaticSigningKey=False,
        )
        return str(answer["jwt"])

    async def real(self) -> dict[str, str]:
        """Return tokens that the core made, by what they are."""
        new = await self.new()
        revoked = await self.new()
        await self(
            "/recipe/session/remove", sessionHandles=[revoked["session"]["handle"]]
        )
        session = {"sub": "user-1", "sessionHandle": "h", "refreshTokenHash1": "r"}
        return {
            "session": new["accessToken"]["token"],
            "refresh token": new["refreshToken"]["token"],
            "revoked": revoked["accessToken"]["token"],
            "static key": (await self.new(static=True))["accessToken"]["token"],
            "refreshed": await self.refreshed(),
            "JWT": await self.jwt(sub="user-1"),
            "JWT like a session": await self.jwt(**session),
            "JWT of an OAuth2 client": await self.jwt(**session, stt=1, iss=ISSUER),
        }


@dataclass
class Asked:
    """One case on one route. The fields are the same but where the core changes it."""

    name: str
    method: str
    path: str
    theirs: Fields
    ours: Fields

    @property
    def on(self) -> str:
        return f"{self.method} {self.path}"


async def new_source(core: ThreadedCore) -> Source:
    """Return what makes tokens now, with the core's keys; an older one is there."""
    keys = core.core._apps["public"].keys
    older = keys.signer(static=False)
    await asyncio.to_thread(core.do, core.core.rotate_keys())
    newest, static = keys.signer(static=False), keys.signer(static=True)
    assert newest.kid != older.kid
    now = time.time()
    return Source(
        dynamic=Mint(now=now, kid=newest.kid, key=newest.private),
        older=Mint(now=now, kid=older.kid, key=older.private),
        static=Mint(now=now, kid=static.kid, key=static.private),
    )


async def questions(source: Source, sessions: Sessions, *, whole: bool) -> list[Asked]:
    """Return every case on every route, each with a session of its own.

    Not *whole*: without the tokens that no anti-CSRF mode can change.
    """
    found: list[Asked] = []
    for method, path in itertools.product(METHODS, ROUTES):
        source.real = await sessions.real()
        if path == "/checked":  # where only a session that the core knows is let in
            made = real(source)
        elif whole:
            made = cases(source)
        else:
            made = chain(real(source), transports(source), anti_csrf(source))
        for name, fields in made:
            theirs = fields
            if name == "token/real/refreshed":
                theirs = bearer(await sessions.refreshed())
            found.append(Asked(name, method, path, theirs, fields))
    return found


# --- what they say -----------------------------------------------------------------


def word(seen: Seen) -> str:
    """Return an answer in a few words."""
    if seen.status == 200:
        return "anonymous" if seen.body == b"null" else "allowed"
    said = json.loads(seen.body)["message"] if seen.body else "nothing"
    cleared = ", cleared" if seen.values("front-token") else ""
    return f"{seen.status} {said}{cleared}"


def is_same(asked: Asked, left: Seen, right: Seen) -> bool:
    """Tell whether two answers are the same: to the byte, unless they are dated."""
    if asked.theirs != asked.ours:
        return normal(left, "") == normal(right, "")
    return (left.status, left.body, lower(left)) == (
        right.status,
        right.body,
        lower(right),
    )


def lower(seen: Seen) -> list[tuple[bytes, bytes]]:
    """Return the fields as HTTP compares them."""
    return [(name.lower(), value) for name, value in seen.fields]


Found = dict[tuple[str, str], tuple[str, str]]
"""By name and route of a case: what they say, and what we do."""


def expected(mode: str, asked: Sequence[Asked]) -> Found:
    """Return the differences that are written down for *asked*."""
    return {
        (each.name, each.on): (line.theirs, line.ours)
        for each in asked
        for line in DIFFERENCES
        if mode in line.modes
        and fnmatchcase(each.on, line.on)
        and any(fnmatchcase(each.name, glob) for glob in line.cases)
    }


def compared(
    asked: Sequence[Asked], theirs: Sequence[Seen], ours: Sequence[Seen]
) -> Found:
    """Return the differences that there are."""
    return {
        (each.name, each.on): (word(left), word(right))
        for each, left, right in zip(asked, theirs, ours, strict=True)
        if not is_same(each, left, right)
    }


def settings(core: ThreadedCore, mode: str) -> dict[str, str]:
    return {
        "app_name": "test",
        "api_domain": "http://localhost:8000",
        "website_domain": "http://localhost:8000",
        "connection_uri": core.url,
        "anti_csrf": mode,
    }


@asynccontextmanager
async def both(
    core: ThreadedCore, mode: str
) -> AsyncIterator[tuple[Reference, Ours, Sessions]]:
    """Run the reference and the engine with the same settings, for the block."""
    async with (
        aiohttp.ClientSession() as http,
        reference(settings(core, mode)) as sdk,
        ours(settings(core, mode)) as engine,
    ):
        yield sdk, engine, Sessions(http, core.url)


@pytest.mark.parametrize("mode", MODES)
async def test_the_sdk_and_we_give_the_same_answers(
    core: ThreadedCore, mode: str
) -> None:
    """Every case, with GET and POST, where a session is required and where it isn't.

    What was let in here without the core is asked once more, and comes from memory.
    """
    source = await new_source(core)
    async with both(core, mode) as (sdk, engine, sessions):
        asked = await questions(source, sessions, whole=mode == "NONE")
        theirs = await sdk.ask([(q.method, q.path, q.theirs) for q in asked])
        ours: list[Seen] = []
        for each in asked:
            seen, reason = await engine.ask(each.method, each.path, each.ours)
            ours.append(seen)
            if reason == "local":
                again = await engine.ask(each.method, each.path, each.ours)
                assert again == (seen, "cached"), each.name
    found = compared(asked, theirs, ours)
    assert found == expected(mode, asked)
    # All kinds of answers are among them, and no failure.
    words = Counter(map(word, theirs))
    assert set(words) == {
        "allowed",
        "anonymous",
        "401 unauthorised",
        "401 unauthorised, cleared",
        "401 try refresh token",
    }
    assert all(count >= 2 for count in words.values()), words
    if mode == "NONE":
        assert len({q.ours for q in asked if q.on == "GET /required"}) >= AT_LEAST


async def test_what_depends_on_the_moment(core: ThreadedCore) -> None:
    """Cases whose answer depends on the clock, or on what was asked before."""
    source = await new_source(core)
    async with both(core, "NONE") as (sdk, engine, sessions):

        async def ask(name: str, path: str, fields: Fields) -> None:
            asked.append(Asked(name, "GET", path, fields, fields))
            theirs.extend(await sdk.ask([("GET", path, fields)]))
            ours.append((await engine.ask("GET", path, fields))[0])

        asked: list[Asked] = []
        theirs: list[Seen] = []
        ours: list[Seen] = []
        revoked = bearer((await sessions.real())["revoked"])
        await ask("revoked", "/required", revoked)
        await ask("revoked", "/checked", revoked)
        await ask("revoked, asked again", "/checked", revoked)
        await ask("revoked, asked elsewhere", "/required", revoked)
        await ask("good", "/required", bearer(source.token()))
        ahead = source.token(iat=int(time.time()) + 4)
        await ask("iat 3 s ahead", "/required", bearer(ahead))
    assert compared(asked, theirs, ours) == expected("NONE", asked)


def test_every_line_of_the_list_is_about_a_case() -> None:
    """A case that is renamed or dropped takes its line along."""
    source = Source(dynamic=Mint(), older=Mint(), static=Mint())
    source.real = {"JWT like a session": "x"}
    made = [name for name, _ in cases(source)]
    assert len(made) == len(set(made))
    names = {*made} | {
        "iat 3 s ahead",
        "revoked, asked again",
        "revoked, asked elsewhere",
    }
    for line in DIFFERENCES:
        for glob in line.cases:
            assert any(fnmatchcase(name, glob) for name in names), glob
