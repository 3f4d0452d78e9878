"""The engine compared with the unmodified SDK, on more than a thousand requests.

Both use the same core and get the same requests, but each its own token if the core
changes that token. The SDK runs unmodified in another process (`reference_sdk`); the
engine is assembled as in `app`. Verdict, status, fields, body and identity must be the
same. `DIFFERENCES` lists every intended difference with its reason: an entry that no
longer holds fails the test, and so does a difference without an entry.
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
from sdk_reset import reset
from sdk_responses import SdkResponse, normal
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
"""The least number of different requests on a route, in the mode with all cases."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Cases where the engine's response differs from the SDK's, and why."""

    cases: tuple[str, ...]
    """Shell globs over the names of cases. Each case that matches must differ."""
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
        why="A token of another application on the same core isn't a session of this"
        " one (RFC 8725 §3.8).",
        **STRICTER,
    ),
    Difference(
        cases=("token/real/JWT like a session",),
        on="* /[!c]*",  # on /checked the core itself refuses it
        why="A JWT that the core made for another purpose isn't a session.",
        **STRICTER,
    ),
    Difference(
        cases=("token/version 2/good",),
        why="Cores have made none since 2023. They have no kid and no iss, so they"
        " would have to be tried with every key.",
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
        why="Each token has one encoding only, for the cache and the deny-list.",
        **STRICTER,
    ),
    Difference(
        cases=("token/payload/100 kB",),
        on="* /required",
        theirs="allowed",
        ours="401 unauthorised",
        why="It is longer than any token that a core makes or a client can send, so it"
        " isn't taken for a token.",
    ),
    Difference(
        cases=("token/payload/100 kB",),
        on="* /optional",
        theirs="allowed",
        ours="anonymous",
        why="The same reason: without a token there is no session.",
    ),
    Difference(
        cases=("two Cookie fields/*, good",),
        modes=("NONE",),
        why="The SDK counts access cookies in the first Cookie field only, and reads"
        " the last of all. In the engine two of them always lead to a refresh.",
        **STRICTER,
    ),
    Difference(
        cases=("two Cookie fields/*, good",),
        modes=("VIA_TOKEN", "VIA_CUSTOM_HEADER"),
        on="GET *",  # any other method is refused by both
        why="The same reason.",
        **STRICTER,
    ),
    Difference(
        cases=("iat 3 s ahead",),
        theirs="401 try refresh token",
        ours="allowed",
        why="The only point where the engine is more lenient: with a core whose clock"
        " is a second ahead, every new token would be refused and refreshed, for ever.",
    ),
    Difference(
        cases=("revoked, checked again",),
        theirs="401 unauthorised, cleared",
        ours="401 unauthorised",
        why="The engine remembers that the session has ended, and doesn't call the core"
        " again. It clears no tokens then: a late request of the old session would"
        " clear those of a new one. The core refuses the refresh that follows, and"
        " that reply clears them.",
    ),
    Difference(
        cases=("revoked, on another route",),
        why="Once the core has reported that a session has ended, every route refuses"
        " it; the SDK still accepts its token on routes that don't check the database.",
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
        """No request comes over HTTP in these tests."""


@dataclass
class Ours:
    """The engine with its keys, SDK and route table."""

    engine: Engine
    table: RouteTable

    async def ask(
        self, method: str, path: str, fields: Fields
    ) -> tuple[SdkResponse, str]:
        """Return the response, and the reason that the log would have."""
        result = self.table.match(method, "localhost", path)
        assert isinstance(result, Matched)
        verdict = await self.engine.verify(
            session_request(method, path, fields), result.route.session
        )
        match verdict:
            case Allowed(principal=None):
                response = SdkResponse(status=200, body=b"null")
            case Allowed(principal=principal, new_tokens=fields):
                assert principal is not None
                identity = [
                    principal.user_id,
                    principal.recipe_user_id,
                    principal.session_handle,
                    principal.tenant_id,
                    principal.claims,
                ]
                body = json.dumps(identity).encode()
                response = SdkResponse(status=200, fields=fields, body=body)
            case Denied(status=status, fields=fields, body=body):
                response = SdkResponse(status=status, fields=fields, body=body)
            case _:
                assert isinstance(verdict, Undecided)
                response = SdkResponse(status=503)
        return response, verdict.reason


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
    """Creates real sessions in the core."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def __call__(self, path: str, **body: object) -> dict[str, dict[str, str]]:
        async with self._http.post(
            self._url + path, json=body, headers={"cdi-version": "5.4"}
        ) as reply:
            answer: dict[str, Any] = await reply.json()
            assert answer["status"] == "OK", answer
            return answer

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
        """Return a token that hasn't been used since its refresh."""
        answer = await self(
            "/recipe/session/refresh",
            refreshToken=(await self.new())["refreshToken"]["token"],
            enableAntiCsrf=False,
            useDynamicSigningKey=True,
        )
        return answer["accessToken"]["token"]

    async def jwt(self, **payload: object) -> str:
        """Return a JWT of the core that isn't an access token."""
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
        """Return tokens that the core made, by their kind."""
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
class Trial:
    """One case on one route. Both get the same fields, or a refreshed token each."""

    name: str
    method: str
    path: str
    theirs: Fields
    ours: Fields

    @property
    def on(self) -> str:
        return f"{self.method} {self.path}"


async def new_source(core: ThreadedCore) -> Source:
    """Rotate the core's key; return a source of tokens with its old and new keys."""
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


async def all_trials(
    source: Source, sessions: Sessions, *, with_all_tokens: bool
) -> list[Trial]:
    """Return every case on every route, each with a session of its own.

    Without *with_all_tokens* the tokens that no anti-CSRF mode affects are left out.
    """
    trials: list[Trial] = []
    for method, path in itertools.product(METHODS, ROUTES):
        source.real = await sessions.real()
        if path == "/checked":  # the core accepts only sessions that it knows
            named_fields = real(source)
        elif with_all_tokens:
            named_fields = cases(source)
        else:
            named_fields = chain(real(source), transports(source), anti_csrf(source))
        for name, fields in named_fields:
            theirs = fields
            if name == "token/real/refreshed":
                theirs = bearer(await sessions.refreshed())
            trials.append(Trial(name, method, path, theirs, fields))
    return trials


# --- how responses compare ----------------------------------------------------------


def summary(response: SdkResponse) -> str:
    """Return a response in a few words."""
    if response.status == 200:
        return "anonymous" if response.body == b"null" else "allowed"
    message = json.loads(response.body)["message"] if response.body else "nothing"
    cleared = ", cleared" if response.values("front-token") else ""
    return f"{response.status} {message}{cleared}"


def is_same(trial: Trial, left: SdkResponse, right: SdkResponse) -> bool:
    """Return whether two responses are the same, byte by byte.

    If the two requests had a token each, `normal` forms are compared.
    """
    if trial.theirs != trial.ours:
        return normal(left, "") == normal(right, "")
    return (left.status, left.body, lower(left)) == (
        right.status,
        right.body,
        lower(right),
    )


def lower(response: SdkResponse) -> list[tuple[bytes, bytes]]:
    """Return the fields with lower-case names."""
    return [(name.lower(), value) for name, value in response.fields]


Differences = dict[tuple[str, str], tuple[str, str]]
"""By name and route of a trial: summaries of the SDK's response and the engine's."""


def expected(mode: str, trials: Sequence[Trial]) -> Differences:
    """Return the differences that `DIFFERENCES` lists for *trials*."""
    return {
        (trial.name, trial.on): (entry.theirs, entry.ours)
        for trial in trials
        for entry in DIFFERENCES
        if mode in entry.modes
        and fnmatchcase(trial.on, entry.on)
        and any(fnmatchcase(trial.name, glob) for glob in entry.cases)
    }


def actual(
    trials: Sequence[Trial],
    theirs: Sequence[SdkResponse],
    ours: Sequence[SdkResponse],
) -> Differences:
    """Return the differences between the responses.

    Those of equal summaries are shown whole.
    """
    return {
        (trial.name, trial.on): (summary(left), summary(right))
        if summary(left) != summary(right)
        else (str(left), str(right))
        for trial, left, right in zip(trials, theirs, ours, strict=True)
        if not is_same(trial, left, right)
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
async def test_the_sdk_and_the_engine_give_the_same_responses(
    core: ThreadedCore, mode: str
) -> None:
    """Every case with GET and POST, on routes that require a session and that don't.

    A request that the engine allowed without the core is repeated: it must get the same
    response from the cache.
    """
    source = await new_source(core)
    async with both(core, mode) as (sdk, engine, sessions):
        trials = await all_trials(source, sessions, with_all_tokens=mode == "NONE")
        theirs = await sdk.ask([(t.method, t.path, t.theirs) for t in trials])
        ours: list[SdkResponse] = []
        for trial in trials:
            response, reason = await engine.ask(trial.method, trial.path, trial.ours)
            ours.append(response)
            if reason == "local":
                again = await engine.ask(trial.method, trial.path, trial.ours)
                assert again == (response, "cached"), trial.name
    assert actual(trials, theirs, ours) == expected(mode, trials)
    # Every kind of response occurs, and none is a failure.
    kinds = Counter(map(summary, theirs))
    assert set(kinds) == {
        "allowed",
        "anonymous",
        "401 unauthorised",
        "401 unauthorised, cleared",
        "401 try refresh token",
    }
    assert all(count >= 2 for count in kinds.values()), kinds
    if mode == "NONE":
        different = {trial.ours for trial in trials if trial.on == "GET /required"}
        assert len(different) >= AT_LEAST


async def test_cases_that_depend_on_time_or_earlier_requests(
    core: ThreadedCore,
) -> None:
    """A token from the near future, and a revoked session before and after a check."""
    source = await new_source(core)
    async with both(core, "NONE") as (sdk, engine, sessions):

        async def ask(name: str, path: str, fields: Fields) -> None:
            trials.append(Trial(name, "GET", path, fields, fields))
            theirs.extend(await sdk.ask([("GET", path, fields)]))
            ours.append((await engine.ask("GET", path, fields))[0])

        trials: list[Trial] = []
        theirs: list[SdkResponse] = []
        ours: list[SdkResponse] = []
        revoked = bearer((await sessions.real())["revoked"])
        await ask("revoked", "/required", revoked)
        await ask("revoked", "/checked", revoked)
        await ask("revoked, checked again", "/checked", revoked)
        await ask("revoked, on another route", "/required", revoked)
        await ask("good", "/required", bearer(source.token()))
        ahead = source.token(iat=int(time.time()) + 4)
        await ask("iat 3 s ahead", "/required", bearer(ahead))
    assert actual(trials, theirs, ours) == expected("NONE", trials)


def test_every_listed_difference_matches_a_case() -> None:
    """Each glob in `DIFFERENCES` matches a case, and names of cases are unique."""
    source = Source(dynamic=Mint(), older=Mint(), static=Mint())
    source.real = {"JWT like a session": "x"}
    case_names = [name for name, _ in cases(source)]
    assert len(case_names) == len(set(case_names))
    names = {*case_names} | {
        "iat 3 s ahead",
        "revoked, checked again",
        "revoked, on another route",
    }
    for entry in DIFFERENCES:
        for glob in entry.cases:
            assert any(fnmatchcase(name, glob) for name in names), glob
