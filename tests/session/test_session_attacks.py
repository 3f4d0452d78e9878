"""Attacks on sessions, rows E1 to E27 of docs/attacks.md, end to end.

The tests use a whole gateway, the real SDK and an embedded core. They check what the
client gets, and what the upstream and the core receive. `ELSEWHERE` names the tests of
the rows that other modules cover.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from faults import FaultUpstream
from minting import ISSUER, Mint, private_key, segment
from stack import Gateway, Start, form
from wire import WireReply

from gateway.dev.core import ThreadedCore

ELSEWHERE = {
    "E12": "test_end_to_end.py::test_session_that_was_removed_from_the_core",
    "E13, role": "test_session_check.py::test_max_age_brings_a_role_to_a_live_session",
    "E14": "test_credentials.py::test_two_access_cookies_ask_for_a_refresh",
    "E18, theft": "test_end_to_end.py::test_stolen_refresh_token_ends_the_session",
    "E19": "test_end_to_end.py::test_new_token_reaches_the_client_once",
    "E19, HEAD": "test_end_to_end.py::test_new_token_on_head",
    "E19, 101": "test_end_to_end.py::test_new_token_on_an_upgrade",
    "E20": "test_end_to_end_errors.py::test_upstream_401_for_a_valid_session",
    "E21": "test_session_check.py::test_a_key_rotation_refuses_nobody",
    "E24": "test_end_to_end.py::"
    "test_optional_route_takes_a_session_and_refuses_an_invalid_token",
    "E25": "test_verify.py::test_every_failure_is_undecided",
    "E25, proxy": "proxy/test_proxy.py::test_p12_a_verifier_that_fails_lets_nobody_in",
    "E27": "proxy/test_tunnel.py::test_the_socket_ends_with_its_session",
}

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}}
  keys: {cooldown: "${COOLDOWN:-1}", timeout: "${TIMEOUT:-3}"}
  core: {timeout: "${CORE_TIMEOUT:-5}"}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /public, service: echo, protected: false}
  - {path: /private, service: echo}
  - {path: /checked, service: echo, session: {check_database: always}}
  - {path: /tenant, service: echo, require: {tenants: [blue]}}
"""

UNAUTHORISED = {"message": "unauthorised"}
TRY_REFRESH = {"message": "try refresh token"}
JWKS = "/.well-known/jwks.json"


@pytest.mark.parametrize("row", ELSEWHERE)
def test_the_tests_of_other_rows_exist(row: str) -> None:
    """Every test that `ELSEWHERE` names exists."""
    name, _, function = ELSEWHERE[row].partition("::")
    (path,) = Path(__file__).parents[1].rglob(name)
    text = path.read_text(encoding="utf-8")
    assert f"def {function}(" in text


def core_mint(core: ThreadedCore, *, static: bool = False) -> Mint:
    """Return a mint that signs with the core's current key."""
    key = core.core._apps["public"].keys.signer(static=static)
    return Mint(now=time.time(), kid=key.kid, key=key.private)


async def send(gateway: Gateway, token: str, path: str = "/private") -> WireReply:
    return await gateway.ask("GET", path, ("Authorization", f"Bearer {token}"))


async def refuse(
    gateway: Gateway,
    upstream: FaultUpstream,
    tokens: dict[str, str],
    why: str | dict[str, str],
) -> None:
    """Check that each token is refused without a call to the core or the upstream.

    *why* is the logged reason, of all tokens or of each. A good token of the same core
    is let in afterwards.
    """
    gateway.core.core.faults.forget_calls()
    reasons = dict.fromkeys(tokens, why) if isinstance(why, str) else why
    assert reasons.keys() == tokens.keys()
    for name, token in tokens.items():
        reply = await send(gateway, token)
        reason = reasons[name]
        said = UNAUTHORISED if reason == "unauthorised" else TRY_REFRESH
        assert (name, reply.status, reply.json()) == (name, 401, said)
        record = await gateway.record(reply)
        assert (name, record.decision, record.reason) == (name, "denied", reason)
        assert record.user_id is None
    assert not upstream.requests
    assert not [
        call for call in gateway.core.core.faults.calls if call != ("GET", JWKS)
    ]
    assert (await send(gateway, core_mint(gateway.core).token())).status == 200
    assert len(upstream.requests) == 1
    upstream.requests.clear()


# --- forged tokens ------------------------------------------------------------------


async def test_e1_no_algorithm(start: Start, upstream: FaultUpstream) -> None:
    """E1: `none` is refused in any spelling, with or without a good signature."""
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    tokens = {}
    for name in ("none", "None", "nOnE", "NONE"):
        header = segment(mint.header(alg=name))
        tokens[f"{name}, unsigned"] = f"{header}.{segment(mint.payload())}."
        tokens[f"{name}, signed"] = mint.token({"alg": name})
    await refuse(gateway, upstream, tokens, "token_algorithm")


async def test_e2_public_key_as_a_secret(start: Start, upstream: FaultUpstream) -> None:
    """E2: HS256 with the public key as the secret is refused."""
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    public = mint.key.public_key()
    tokens = {}
    for name, secret in {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": json.dumps(mint.jwk()).encode(),
    }.items():
        signed = f"{segment(mint.header(alg='HS256'))}.{segment(mint.payload())}"
        mac = hmac.new(secret, signed.encode(), sha256).digest()
        tokens[name] = f"{signed}.{segment(mac)}"
    await refuse(gateway, upstream, tokens, "token_algorithm")


async def test_e3_other_algorithms_with_the_right_key(
    start: Start, upstream: FaultUpstream
) -> None:
    """E3: only RS256 is accepted, whatever the token's header names."""
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    pss = padding.PSS(padding.MGF1(SHA256()), SHA256.digest_size)
    tokens = {
        name: mint.sign(mint.header(alg=name), mint.payload(), pad=pad, digest=digest)
        for name, pad, digest in (
            ("RS384", None, SHA384()),
            ("RS512", None, SHA512()),
            ("PS256", pss, SHA256()),
        )
    }
    await refuse(gateway, upstream, tokens, "token_algorithm")


async def test_e4_key_ids(start: Start, upstream: FaultUpstream) -> None:
    """E4: key ids of any kind cause at most one fetch in a cooldown, and no error."""
    gateway = await start(ROUTES, COOLDOWN="59")
    mint = core_mint(gateway.core)
    static = core_mint(gateway.core, static=True)
    odd = {
        "unknown": "d-1",
        "path": "../../etc/passwd",
        "SQL": "' OR 1=1 --",
        "URL": "http://169.254.169.254/",
        "empty": "",
        "number": 5,
        "list": ["d-1"],
        "long": "d-" + "1" * 4000,
        "of the static key": static.kid,
    }
    tokens = {name: mint.token({"kid": kid}) for name, kid in odd.items()}
    tokens["the static key itself"] = static.token()
    why = dict.fromkeys(tokens, "token_key_kind")
    why |= dict.fromkeys(["unknown", "long"], "token_key_unknown")
    await refuse(gateway, upstream, tokens, why)
    none = {"none": mint.token({"kid": ...})}
    await refuse(gateway, upstream, none, "unauthorised")
    assert gateway.core.core.faults.count(JWKS) <= 1


async def test_e5_flood_of_key_ids_while_the_core_hangs(
    start: Start, upstream: FaultUpstream
) -> None:
    """E5: a hung core delays only the requests with unknown key ids (`make faults`).

    Blocking calls of the gateway fail this test, see `stack.no_blocking`.
    """
    gateway = await start(ROUTES, TIMEOUT="60", COOLDOWN="0.05")
    user = await gateway.sign_up()
    faults = gateway.core.core.faults
    faults.forget_calls()
    faults.hang()
    flood = [
        asyncio.create_task(send(gateway, core_mint(gateway.core).token({"kid": kid})))
        for kid in (f"d-{number}" for number in range(200))
    ]
    await faults.until_called(JWKS)
    for _ in range(20):
        assert (await gateway.ask("GET", "/public")).status == 200
        assert (await user.get("/private")).status == 200
    assert not all(task.done() for task in flood)
    faults.disconnect()
    faults.release()
    # The keys are unknown, so no client is asked to refresh its session.
    for reply in await asyncio.gather(*flood):
        assert reply.status == 503
        assert reply.one("Retry-After") is not None
    assert faults.count(JWKS) <= 2  # for 200; a second one on a slow machine
    assert len(upstream.requests) == 40


async def test_e6_keys_in_the_token(start: Start, upstream: FaultUpstream) -> None:
    """E6: keys and key URLs within a token are ignored and never fetched."""
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    evil = Mint(now=mint.now, kid=mint.kid, key=private_key("evil"))
    url = f"{upstream.url}/jwks.json"
    tokens = {
        name: evil.token({name: value})
        for name, value in {
            "jwk": evil.jwk(),
            "jku": url,
            "x5u": url,
            "x5c": ["MIIB"],
        }.items()
    }
    await refuse(gateway, upstream, tokens, "token_signature")
    tokens = {
        "crit": mint.token({"crit": ["exp"], "exp": 1}),
        "b64": mint.token({"crit": ["b64"], "b64": True}),
    }
    await refuse(gateway, upstream, tokens, "token_algorithm")


async def test_e7_times(start: Start, upstream: FaultUpstream) -> None:
    """E7: expired, not yet valid and malformed times are refused."""
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    now = int(mint.now)
    claims: dict[str, tuple[dict[str, Any], str]] = {
        "expired": ({"exp": now - 1}, "token_expired"),
        "made in a minute": ({"iat": now + 60}, "token_not_yet_valid"),
        "valid in a minute": ({"nbf": now + 60}, "token_not_yet_valid"),
        "exp NaN": ({"exp": float("nan")}, "token_claim"),
        "exp -inf": ({"exp": float("-inf")}, "token_claim"),
        "exp inf": ({"exp": float("inf")}, "token_claim"),
        "iat NaN": ({"iat": float("nan")}, "token_claim"),
        "exp as text": ({"exp": str(now + 60)}, "unauthorised"),
    }
    tokens = {name: mint.token(**changes) for name, (changes, _) in claims.items()}
    why = {name: reason for name, (_, reason) in claims.items()}
    await refuse(gateway, upstream, tokens, why)
    # An extreme expiry time is handled like any other.
    reply = await send(gateway, mint.token(exp=2**63))
    assert (reply.status, len(upstream.requests)) == (200, 1)


async def test_e8_damage(start: Start, upstream: FaultUpstream) -> None:
    """E8: another key, another payload, and cut or extended tokens are refused."""
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    header, payload, signature = mint.token().split(".")
    admin = segment(mint.payload(sub="admin"))
    tokens = {
        "other key": Mint(now=mint.now, kid=mint.kid, key=private_key("x")).token(),
        "other payload": f"{header}.{admin}.{signature}",
        "no signature": f"{header}.{payload}.",
        "short signature": f"{header}.{payload}.{signature[:-4]}",
        "padded signature": f"{header}.{payload}.{signature}==",
    }
    await refuse(gateway, upstream, tokens, "token_signature")
    tokens = {
        "two parts": f"{header}.{payload}",
        "four parts": f"{header}.{payload}.{signature}.x",
        "six parts": ".".join([header, payload, signature] * 2),
        "half": f"{header}.{payload[:40]}.{signature}",
    }
    await refuse(gateway, upstream, tokens, "unauthorised")


async def test_e9_tokens_of_another_kind(start: Start, upstream: FaultUpstream) -> None:
    """E9: other tokens signed by the same core are no session."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    mint = core_mint(gateway.core)
    tokens = {
        "refresh token": user.refresh_token,
        "OAuth2 access token": mint.token(stt=1),
        "OAuth2 id token": mint.token(stt=2),
        "between machines": await core_jwt(gateway, {"sub": "service"}),
    }
    await refuse(gateway, upstream, tokens, "unauthorised")
    claims = {"sub": "x", "sessionHandle": "h", "refreshTokenHash1": "r"}
    like = {"like a session": await core_jwt(gateway, claims)}
    await refuse(gateway, upstream, like, "token_issuer")


async def core_jwt(gateway: Gateway, payload: dict[str, str]) -> str:
    """Return a JWT made by the core on request."""
    reply = await call_core(
        gateway,
        "/recipe/jwt",
        {
            "payload": payload,
            "algorithm": "RS256",
            "jwksDomain": "http://localhost",
            "validity": 60,
            "useStaticSigningKey": False,
        },
    )
    return str(reply["jwt"])


async def call_core(gateway: Gateway, path: str, body: object) -> dict[str, Any]:
    """Call the core directly, not through the gateway."""
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        reply = await client.post(
            gateway.core.url + path, json=body, headers={"cdi-version": "5.4"}
        )
    said = reply.json()
    assert said["status"] == "OK"
    return dict(said)


async def test_e10_other_application_or_tenant(
    start: Start, upstream: FaultUpstream
) -> None:
    """E10: another `iss` or `aud` is 401.

    A tenant that the route doesn't list is 403.
    """
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    tokens = {
        "other issuer": mint.token(iss="https://other.example/auth"),
        "no issuer": mint.token(iss=...),
        "issuer like ours": mint.token(iss=ISSUER + "/"),
    }
    await refuse(gateway, upstream, tokens, "token_issuer")
    audience = {"an audience": mint.token(aud="someone")}
    await refuse(gateway, upstream, audience, "token_audience")
    assert (await send(gateway, mint.token(tId="blue"), "/tenant")).status == 200
    reply = await send(gateway, mint.token(tId="red"), "/tenant")
    assert reply.status == 403
    assert reply.json()["claimValidationErrors"][0]["id"] == "tId"
    assert len(upstream.requests) == 1


async def test_e11_json_bombs(start: Start, upstream: FaultUpstream) -> None:
    """E11: deep, long, doubled or broken JSON costs little and is never a 500."""
    gateway = await start(ROUTES)
    mint = core_mint(gateway.core)
    good = json.dumps(mint.payload()).encode()
    texts = {
        "deep list": b"[" * 5000,
        "deep object": b'{"a":' * 2000,
        "long number": b"9" * 5000,
        "list": b"[]",
        "not UTF-8": good[:-1] + b',"x":"\xff"}',
        "sub twice, last a number": good[:-1] + b',"sub":5}',
    }
    tokens = {name: mint.sign(mint.header(), text) for name, text in texts.items()}
    began = time.process_time()
    await refuse(gateway, upstream, tokens, "unauthorised")
    assert time.process_time() - began < 2  # client and core included
    reply = await send(gateway, mint.token(sub="\ud800"))
    assert reply.status == 200
    (seen,) = upstream.requests
    assert seen.field(b"x-user-id") == b"%ED%A0%80"


async def test_e13_deleted_user(start: Start, upstream: FaultUpstream) -> None:
    """E13: where the core is called, a deleted user's session ends at once."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    assert (await user.get("/checked")).status == 200
    await call_core(gateway, "/user/remove", {"userId": user.id})
    for path, reason in (("/checked", "unauthorised"), ("/private", "session_ended")):
        reply = await user.get(path)
        assert (reply.status, reply.json()) == (401, UNAUTHORISED)
        assert (await gateway.record(reply)).reason == reason
    assert len(upstream.requests) == 1


async def test_e13_user_deleted_in_the_dashboard(
    start: Start, upstream: FaultUpstream
) -> None:
    """E13: a user deleted through this gateway has no access, where `never`, too."""
    gateway = await start(
        ROUTES.replace("userroles: {}", "userroles: {}, dashboard: {api_key: secret}")
    )
    ann, bob = [await gateway.sign_up(name) for name in ("ann", "bob")]
    ann_elsewhere = replace(ann)
    await ann_elsewhere.enter()
    for user in (ann, ann_elsewhere, bob):
        assert (await user.get("/private")).status == 200
    reply = await gateway.ask(
        "DELETE",
        f"/auth/dashboard/api/user?userId={ann.id}",
        ("Authorization", "Bearer secret"),
    )
    assert reply.status == 200
    for user in (ann, ann_elsewhere):
        reply = await user.get("/private")
        assert (reply.status, reply.json()) == (401, UNAUTHORISED)
        assert (await gateway.record(reply)).reason == "session_ended"
    assert len(upstream.requests) == 3
    assert (await bob.get("/private")).status == 200


# --- which credentials count --------------------------------------------------------


async def test_e15_cookie_of_one_and_bearer_of_another(
    start: Start, upstream: FaultUpstream
) -> None:
    """E15: the header wins, as in the SDK; no credential reaches the upstream."""
    gateway = await start(ROUTES)
    ann, bob = [await gateway.sign_up(name) for name in ("ann", "bob")]
    cookie = ("Cookie", f"a=b; sAccessToken={ann.access}")
    assert (await bob.get("/private", cookie)).status == 200
    (seen,) = upstream.requests
    assert seen.field(b"x-user-id") == bob.id.encode()
    assert ann.access.encode() not in seen.head
    assert bob.access.encode() not in seen.head


async def test_e16_junk_bearer_and_a_good_cookie(
    start: Start, upstream: FaultUpstream
) -> None:
    """E16: a good cookie counts beside a junk bearer, as in the SDK.

    The junk token is not forwarded.
    """
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    reply = await gateway.ask(
        "GET",
        "/private",
        ("Authorization", "Bearer xyz"),
        ("Cookie", f"sAccessToken={user.access}"),
    )
    assert reply.status == 200
    (seen,) = upstream.requests
    assert seen.field(b"x-user-id") == user.id.encode()
    assert user.access.encode() not in seen.head


@pytest.mark.parametrize(
    "values",
    [
        ("bearer {}",),
        ("Bearer\t{}",),
        ("Basic {}",),
        ("Bearer {}, Bearer {}",),
        ("{}",),
        ("Bearer",),
        ("Bearer junk", "Bearer {}"),
        ("Basic YTpi", "Bearer {}"),
    ],
    ids=str,
)
async def test_e17_schemes(
    start: Start, upstream: FaultUpstream, values: Sequence[str]
) -> None:
    """E17: only one `Bearer` with one token is a session; the first field counts.

    The same token is let in when it is sent correctly.
    """
    gateway = await start(ROUTES)
    token = core_mint(gateway.core).token()
    shown = [("Authorization", value.format(token, token)) for value in values]
    reply = await gateway.ask("GET", "/private", *shown)
    assert (reply.status, reply.json()) == (401, UNAUTHORISED)
    assert (await gateway.record(reply)).reason == "unauthorised"
    assert not upstream.requests
    assert (await send(gateway, token)).status == 200
    assert len(upstream.requests) == 1


async def test_e18_fifty_refreshes_at_once(start: Start) -> None:
    """E18: of fifty simultaneous refreshes, each gets tokens, and all tokens work."""
    gateway = await start(ROUTES, CORE_TIMEOUT="60")  # a busy machine is slow
    user = await gateway.sign_up()
    token = user.refresh_token
    replies = await asyncio.gather(*(user.refresh(token) for _ in range(50)))
    assert {reply.status for reply in replies} == {200}
    assert (await user.get("/private")).status == 200


async def test_e22_token_in_the_url(start: Start, upstream: FaultUpstream) -> None:
    """E22: a token in the URL is neither read nor logged; in a header it is let in."""
    gateway = await start(ROUTES)
    user = await gateway.sign_up()
    for name in ("access_token", "token", "sAccessToken", "st-access-token"):
        reply = await gateway.ask("GET", f"/private?{name}={user.access}")
        assert (reply.status, reply.json()) == (401, UNAUTHORISED)
        record = await gateway.record(reply)
        assert record.reason == "unauthorised"
        assert user.access not in repr(record)
    assert not upstream.requests
    assert (await user.get("/private")).status == 200
    assert len(upstream.requests) == 1


async def test_e23_sign_in_over_the_attackers_session(start: Start) -> None:
    """E23: another session's cookies never replace the victim's."""
    gateway = await start(ROUTES)
    attacker, victim = [await gateway.sign_up(name) for name in ("eve", "ann")]
    reply = await victim.post(
        "/auth/signin",
        ("st-auth-mode", "cookie"),
        ("Cookie", f"sAccessToken={attacker.access}"),
        body=json.dumps(form(victim.email)).encode(),
    )
    assert reply.json()["user"]["id"] == victim.id
    set_to = [text for text in reply.all("Set-Cookie") if "sAccessToken=" in text]
    assert len(set_to) == 1
    assert attacker.access not in set_to[0]
    cookie = ("Cookie", set_to[0].partition(";")[0])
    shown = await gateway.ask("GET", "/user", cookie)
    assert shown.json()["userId"] == victim.id
    theirs = await attacker.get("/user")
    assert theirs.status == 401 or theirs.json()["userId"] == attacker.id


async def test_e26_user_is_nobody_elses(start: Start) -> None:
    """E26: `/user` describes the caller's own session only and is never stored."""
    gateway = await start(ROUTES)
    ann, bob = [await gateway.sign_up(name) for name in ("ann", "bob")]
    for target in (f"/user?userId={bob.id}", f"/user?sub={bob.id}"):
        reply = await ann.get(target, ("X-User-Id", bob.id))
        assert reply.json()["userId"] == ann.id
        assert reply.one("Cache-Control") == "no-store"
    refused = await gateway.ask("GET", "/user")
    assert (refused.status, refused.json()) == (401, UNAUTHORISED)
    assert refused.one("Cache-Control") == "no-store"
