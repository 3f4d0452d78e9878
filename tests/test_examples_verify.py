"""The examples of `examples/verify`: each accepts what the gateway signs for its
service, and nothing else.

Python and Node.js always run. Go and Java run where their libraries are installed
already: the Go module cache, and Maven's local repository or `NIMBUS_JAR`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from hmac import digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway import config, routes
from gateway.assertions import AssertionKey, Assertions, generate, key_set
from gateway.headers import policy
from gateway.identity import SessionIdentity

VERIFY = Path(__file__).parent.parent / "examples" / "verify"
ISSUER = "https://api.example.com"
AUDIENCE = "orders"
DEADLINE_S = 120
"""Of one run of an example. A JVM is slow to start."""


# --- the gateway's side ---


class Published:
    """Two keys and the server of their JWK Set."""

    def __init__(self, folder: Path) -> None:
        self.keys = [generate(folder / f"{number}.pem") for number in range(2)]
        self.stranger = generate(folder / "stranger.pem")
        body = key_set(self.keys)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/jwk-set+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    made = Published(tmp_path_factory.mktemp("keys"))
    thread = Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def by_gateway(key: AssertionKey, audience: str = AUDIENCE, **changes: Any) -> str:
    """Return an assertion that the gateway itself signs now."""
    options: dict[str, Any] = {"issuer": ISSUER, "lifetime_s": 60.0, **changes}
    table = routes.compile(config.parse({"version": 1}))
    who = SessionIdentity(
        user_id="ann",
        recipe_user_id="ann",
        session_handle="handle",
        tenant_id="public",
        claims={"st-role": {"v": ["admin"]}},
        expires_at=time.time() + 3600,
    )
    field = Assertions([key], table=table, **options).field(who, policy({}), audience)
    return field.partition(b": ")[2].strip().decode()


def segment(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return claims as the gateway makes them; the value `...` removes one."""
    now = int(time.time())
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": now,
        "exp": now + 60,
        **changes,
    }
    return {name: value for name, value in made.items() if value is not ...}


def forged(
    key: AssertionKey, header: dict[str, Any] | None = None, **changes: Any
) -> str:
    """Return a token that is signed with ES256 by *key*, whatever its header says."""
    start = {"alg": "ES256", "typ": "gateway-identity+jwt", "kid": key.kid}
    signed = f"{segment(start | (header or {}))}.{segment(claims(**changes))}"
    r, s = decode_dss_signature(key.private.sign(signed.encode(), ec.ECDSA(SHA256())))
    return f"{signed}.{segment(r.to_bytes(32) + s.to_bytes(32))}"


def unsigned(key: AssertionKey) -> str:
    """Return a token without a signature (RFC 7519 §6)."""
    header = {"alg": "none", "typ": "gateway-identity+jwt", "kid": key.kid}
    return f"{segment(header)}.{segment(claims())}."


def by_public_key(key: AssertionKey, form: bytes) -> str:
    """Return a token signed with HMAC, whose secret is the public key."""
    header = {"alg": "HS256", "typ": "gateway-identity+jwt", "kid": key.kid}
    signed = f"{segment(header)}.{segment(claims())}"
    return f"{signed}.{segment(digest(form, signed.encode(), sha256))}"


def altered(token: str) -> str:
    """Return *token* for another user, with the old signature."""
    head, _, signature = token.split(".")
    return f"{head}.{segment(claims(sub='eve'))}.{signature}"


def pem(key: AssertionKey) -> bytes:
    return key.private.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )


ACCEPTED: dict[str, Callable[[Published], str]] = {
    "the first key": lambda one: by_gateway(one.keys[0]),
    "the second key": lambda one: by_gateway(one.keys[1]),
}
FORGED: dict[str, Callable[[Published], str]] = {
    "replayed to another service": lambda one: by_gateway(one.keys[0], "billing"),
    "another issuer": lambda one: by_gateway(one.keys[0], issuer="https://evil.test"),
    "expired": lambda one: by_gateway(
        one.keys[0], clock=lambda: time.time() - 60 - 3600
    ),
    "without exp": lambda one: forged(one.keys[0], exp=...),
    "without aud": lambda one: forged(one.keys[0], aud=...),
    "without iss": lambda one: forged(one.keys[0], iss=...),
    "without sub": lambda one: forged(one.keys[0], sub=...),
    "alg none": lambda one: unsigned(one.keys[0]),
    "HS256 with the public key": lambda one: by_public_key(
        one.keys[0], pem(one.keys[0])
    ),
    "HS256 with the JWK": lambda one: by_public_key(
        one.keys[0], json.dumps(one.keys[0].jwk).encode()
    ),
    "another algorithm's name": lambda one: forged(one.keys[0], {"alg": "ES384"}),
    "another kind of token": lambda one: forged(one.keys[0], {"typ": "JWT"}),
    "another key": lambda one: forged(one.stranger),
    "another key under a known kid": lambda one: forged(
        one.stranger, {"kid": one.keys[0].kid}
    ),
    "another user": lambda one: altered(by_gateway(one.keys[0])),
    "no token": lambda _: "x",
    "an empty one": lambda _: "",
}


# --- the services' side ---


def command(language: str, scratch: Path) -> tuple[str, ...]:
    """Return the command that runs an example; skip the test if it can't run."""
    match language:
        case "python":
            return sys.executable, str(VERIFY / "python" / "verify.py")
        case "node":
            return found("node"), str(VERIFY / "node" / "verify.mjs")
        case "go":
            return (go_program(scratch / "verify"),)
        case _:
            return found("java"), "-cp", java_classes(scratch), "Verify"


def found(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} isn't installed")
    return path


def go_program(to: Path) -> str:
    """Return the built example; it takes no module from the network."""
    done = subprocess.run(
        [found("go"), "build", "-o", to, "."],
        cwd=VERIFY / "go",
        env={**os.environ, "GOPROXY": "off", "GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if "module lookup disabled" in done.stderr or "requires go" in done.stderr:
        pytest.skip("the Go modules aren't here: run `go mod download` in its folder")
    assert done.returncode == 0, done.stderr
    return str(to)


def java_classes(to: Path) -> str:
    """Return the class path of the compiled example."""
    local = Path.home() / ".m2" / "repository" / "com" / "nimbusds" / "nimbus-jose-jwt"
    jar = os.environ.get("NIMBUS_JAR") or next(
        (str(one) for one in sorted(local.glob("*/nimbus-jose-jwt-*.jar"))), None
    )
    if jar is None:
        pytest.skip("nimbus-jose-jwt isn't here: set NIMBUS_JAR to its file")
    source = VERIFY / "java" / "Verify.java"
    subprocess.run(
        [found("javac"), "-cp", jar, "-d", to, source], check=True, timeout=600
    )
    return f"{jar}{os.pathsep}{to}"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module", params=["python", "node", "go", "java"])
def lines(
    request: pytest.FixtureRequest, scratch: Path, published: Published
) -> dict[str, str]:
    """Return what an example says to each case, in a service called `orders`."""
    environ = {"JWKS_URL": published.url, "ISSUER": ISSUER, "AUDIENCE": AUDIENCE}
    cases = ACCEPTED | FORGED
    done = subprocess.run(
        [
            *command(request.param, scratch),
            *(make(published) for make in cases.values()),
        ],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_S,
    )
    return dict(zip(cases, done.stdout.splitlines(), strict=True))


def test_an_assertion_is_accepted(lines: dict[str, str]) -> None:
    """Signed by any published key, it says who the request is from."""
    for case in ACCEPTED:
        got = json.loads(lines[case])
        assert (got["sub"], got["sid"], got["roles"]) == ("ann", "handle", ["admin"])


def test_everything_else_is_refused(lines: dict[str, str]) -> None:
    """Forged, expired, unsigned, or made for another service: no claims come out."""
    accepted = [case for case in FORGED if not lines[case].startswith("refused: ")]
    assert not accepted
