"""Access tokens: which texts parse as one, and which of those are valid."""

from __future__ import annotations

import hmac
import itertools
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import jwt
import pytest
from cost import grows_linearly
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minting import ISSUER, NOW, Mint, private_key, segment
from supertokens_python.recipe.session.access_token import (
    validate_access_token_structure,
)
from supertokens_python.recipe.session.jwt import (
    parse_jwt_without_signature_verification,
)

from gateway.session import tokens
from gateway.session.tokens import Flaw, TokenRules

MINT = Mint()
KEY = private_key().public_key()
RULES = TokenRules(issuers=frozenset({ISSUER}))


def sdk_takes_it_for_a_token(text: str) -> bool:
    """Return whether the SDK parses *text* as a token, before any key is used."""
    try:
        info = parse_jwt_without_signature_verification(text)
        validate_access_token_structure(info.payload, info.version)
    except Exception:  # noqa: BLE001 - the SDK ignores a token for any of them
        return False
    return True


def parsed(text: str) -> tokens.Token:
    token = tokens.parse(text)
    assert token is not None
    return token


# --- parse: the same texts are tokens for the SDK ------------------------------

# Padded, as the core writes it: the SDK recognises version 2 by this exact text.
V2_HEADER = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsInZlcnNpb24iOiIyIn0="
V2_PAYLOAD = {
    "sessionHandle": "h",
    "userId": "u",
    "refreshTokenHash1": "r",
    "userData": {},
    "expiryTime": 1,
    "timeCreated": 1,
}

TEXTS = {
    "good": MINT.token(),
    "version 3": MINT.token({"version": "3"}, tId=..., rsub=...),
    "version 4": MINT.token({"version": "4"}, rsub=...),
    "version 4 without tenant": MINT.token({"version": "4"}, tId=...),
    "version 5 without rsub": MINT.token(rsub=...),
    "version 99": MINT.token({"version": "99"}),
    "no version is 3": MINT.token({"version": ...}, tId=...),
    "version as a number": MINT.token({"version": 5}),
    "version as a fraction": MINT.token({"version": 5.9}),
    "version with spaces": MINT.token({"version": " 5 "}),
    "version true": MINT.token({"version": True}),
    "version null": MINT.token({"version": None}),
    "version list": MINT.token({"version": []}),
    "version word": MINT.token({"version": "five"}),
    "version infinite": MINT.token({"version": float("inf")}),
    "version NaN": MINT.token({"version": float("nan")}),
    "version 2 with kid": MINT.token({"version": "2"}),
    "version 2": f"{V2_HEADER}.{segment(V2_PAYLOAD)}.c2ln",
    "version 2 without pad": f"{V2_HEADER[:-1]}.{segment(V2_PAYLOAD)}.c2ln",
    "version 2 as 5": f"{V2_HEADER}.{segment(MINT.payload())}.c2ln",
    "typ at+jwt": MINT.token({"typ": "at+jwt"}),
    "no typ": MINT.token({"typ": ...}),
    "no kid": MINT.token({"kid": ...}),
    "kid null": MINT.token({"kid": None}),
    "kid number": MINT.token({"kid": 5}),
    "kid empty": MINT.token({"kid": ""}),
    "header list": MINT.sign([], MINT.payload()),
    "header not JSON": MINT.sign(b"{", MINT.payload()),
    "payload list": MINT.sign(MINT.header(), []),
    "payload text": MINT.sign(MINT.header(), "stt"),
    "payload not UTF-8": MINT.sign(MINT.header(), b'{"sub": "\xff"}'),
    "payload with BOM": MINT.sign(MINT.header(), b"\xef\xbb\xbf{}"),
    "deep payload": MINT.sign(MINT.header(), b"[" * 5000),
    "deep claim": MINT.sign(MINT.header(), b'{"a":' * 2500),
    "a number of 5000 digits": MINT.sign(MINT.header(), b"9" * 5000),
    "duplicate claim": MINT.sign(
        MINT.header(), json.dumps(MINT.payload()).encode()[:-1] + b',"sub":5}'
    ),
    "lone surrogate": MINT.token(sub="\ud800"),
    "sub number": MINT.token(sub=5),
    "no sub": MINT.token(sub=...),
    "exp text": MINT.token(exp="soon"),
    "exp true": MINT.token(exp=True),
    "exp NaN": MINT.token(exp=float("nan")),
    "iat null": MINT.token(iat=None),
    "no handle": MINT.token(sessionHandle=...),
    "refresh hash list": MINT.token(refreshTokenHash1=[]),
    "stt 0": MINT.token(stt=0),
    "stt 0.0": MINT.token(stt=0.0),
    "stt 1": MINT.token(stt=1),
    "stt false": MINT.token(stt=False),
    "stt null": MINT.token(stt=None),
    "stt text": MINT.token(stt="0"),
    "empty": "",
    "dots": "..",
    "two segments": MINT.token().rpartition(".")[0],
    "four segments": MINT.token() + ".x",
    "five segments": "a.b.c.d.e",
    "not base64url": "!!!.???.***",
    "header of one character": "e." + MINT.token().partition(".")[2],
    "junk inside the payload": MINT.token().replace(".", ".!", 1),
    "padded payload": ".".join(
        part + "=" * (-len(part) % 4) for part in MINT.token().split(".")
    ),
    "not ASCII": "é" + MINT.token(),
    "no signature": MINT.token().rpartition(".")[0] + ".",
    "a refresh token": "c29tZXRoaW5n.0f0f.V2",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_the_sdk_and_we_take_the_same_texts_for_tokens(text: str) -> None:
    """The gateway and the SDK agree on which texts parse; others count as absent."""
    assert (tokens.parse(text) is not None) is sdk_takes_it_for_a_token(text)


ODD = st.sampled_from(
    [..., None, True, False, 0, 1, -1, 2**63, 0.5, "", "0", "x", [], {}, [1], {"a": 1}]
)


@given(
    st.dictionaries(st.sampled_from([*MINT.payload(), "stt", "aud", "nbf"]), ODD),
    st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "version", "crit"]),
        ODD | st.sampled_from(["2", "3", "4", "5", "JWT"]),
    ),
)
@settings(max_examples=300, deadline=None)
def test_the_sdk_and_we_agree_on_any_odd_claims(
    claims: dict[str, Any], header: dict[str, Any]
) -> None:
    """They agree for any claims and header fields of any JSON type."""
    head = {k: v for k, v in (MINT.header() | header).items() if v is not ...}
    text = f"{segment(head)}.{segment(MINT.payload(**claims))}.c2ln"
    assert (tokens.parse(text) is not None) is sdk_takes_it_for_a_token(text)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_the_sdk_and_we_agree_on_any_damaged_text(data: st.DataObject) -> None:
    """They agree for a token with characters changed, inserted or removed."""
    text = MINT.token()
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 2))
        new = data.draw(st.text(st.sampled_from("aZ09-_=+/.! é\x00"), max_size=2))
        text = text[:place] + new + text[place + cut :]
    assert (tokens.parse(text) is not None) is sdk_takes_it_for_a_token(text)


def test_a_text_longer_than_any_token_is_none() -> None:
    """A text above the length bound is no token and isn't parsed."""
    long = MINT.token(pad="x" * tokens.MAX_TOKEN_SIZE)
    assert sdk_takes_it_for_a_token(long)
    assert tokens.parse(long) is None


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(lambda size: b"[" * size, id="brackets"),
        pytest.param(lambda size: b'{"a":' * (size // 5), id="objects"),
        pytest.param(lambda size: b"9" * size, id="digits"),
        pytest.param(lambda size: b'{"' + b"a" * (size - 6) + b'":1}', id="name"),
    ],
)
def test_json_bombs_cost_little(bomb: Callable[[int], bytes]) -> None:
    """E11: the worst payload costs no more than its bounded size."""

    def parsing(size: int) -> Callable[[], object]:
        text = MINT.sign(MINT.header(), bomb(size))
        return lambda: tokens.parse(text)

    assert grows_linearly(parsing, 12_000)


# --- flaw: checks that need no key ---------------------------------------------

FLAWS: dict[str, tuple[str, Flaw | None]] = {
    "good": (MINT.token(), None),
    "version 3 has no tenant": (MINT.token({"version": "3"}, tId=..., rsub=...), None),
    "version 2": (TEXTS["version 2"], Flaw.VERSION),
    "alg none": (MINT.token({"alg": "none"}), Flaw.ALGORITHM),
    "alg nOnE": (MINT.token({"alg": "nOnE"}), Flaw.ALGORITHM),
    "alg HS256": (MINT.token({"alg": "HS256"}), Flaw.ALGORITHM),
    "alg RS512": (MINT.token({"alg": "RS512"}), Flaw.ALGORITHM),
    "alg PS256": (MINT.token({"alg": "PS256"}), Flaw.ALGORITHM),
    "alg rs256": (MINT.token({"alg": "rs256"}), Flaw.ALGORITHM),
    "no alg": (MINT.token({"alg": ...}), Flaw.ALGORITHM),
    "crit": (MINT.token({"crit": ["b64"], "b64": True}), Flaw.ALGORITHM),
    "b64": (MINT.token({"b64": False}), Flaw.ALGORITHM),
    "embedded key": (MINT.token({"jwk": MINT.jwk(), "jku": "http://evil"}), None),
    "static key": (MINT.token({"kid": "s-1"}), Flaw.KEY_KIND),
    "kid number": (MINT.token({"kid": 5}), Flaw.KEY_KIND),
    "kid path": (MINT.token({"kid": "../../etc/passwd"}), Flaw.KEY_KIND),
    "exp now": (MINT.token(exp=int(NOW)), Flaw.EXPIRED),
    "exp in a second": (MINT.token(exp=int(NOW) + 1), None),
    "exp true": (MINT.token(exp=True), Flaw.EXPIRED),
    "exp NaN": (MINT.token(exp=float("nan")), Flaw.CLAIM),
    "exp infinite": (MINT.token(exp=float("inf")), Flaw.CLAIM),
    "exp far away": (MINT.token(exp=2**63), None),
    "iat within the leeway": (MINT.token(iat=int(NOW) + 5), None),
    "iat beyond the leeway": (MINT.token(iat=int(NOW) + 6), Flaw.NOT_YET_VALID),
    "iat NaN": (MINT.token(iat=float("nan")), Flaw.CLAIM),
    "nbf passed": (MINT.token(nbf=int(NOW)), None),
    "nbf to come": (MINT.token(nbf=int(NOW) + 1), Flaw.NOT_YET_VALID),
    "nbf null": (MINT.token(nbf=None), Flaw.CLAIM),
    "aud": (MINT.token(aud="someone"), Flaw.AUDIENCE),
    "aud empty": (MINT.token(aud=""), None),
    "other iss": (MINT.token(iss="http://localhost:8000"), Flaw.ISSUER),
    "no iss": (MINT.token(iss=...), Flaw.ISSUER),
    "iss list": (MINT.token(iss=[ISSUER]), Flaw.ISSUER),
    "jti": (MINT.token(jti="x"), None),
    "jti number": (MINT.token(jti=5), Flaw.CLAIM),
    "blank sub": (MINT.token(sub="  "), Flaw.CLAIM),
    "blank handle": (MINT.token(sessionHandle=""), Flaw.CLAIM),
}


@pytest.mark.parametrize(("text", "expected"), FLAWS.values(), ids=FLAWS.keys())
def test_flaw(text: str, expected: Flaw | None) -> None:
    """Every claim and header field that PyJWT or the gateway uses is checked."""
    assert tokens.flaw(parsed(text), RULES, NOW) is expected


def test_the_static_key_signs_where_it_is_set() -> None:
    """`use_dynamic_signing_key: false` reverses the rule about key ids."""
    rules = TokenRules(use_dynamic_key=False)
    assert tokens.flaw(parsed(MINT.token({"kid": "s-1"})), rules, NOW) is None
    assert tokens.flaw(parsed(MINT.token()), rules, NOW) is Flaw.KEY_KIND


def test_without_issuers_any_is_taken() -> None:
    """An empty set of issuers turns the issuer check off."""
    assert tokens.flaw(parsed(MINT.token(iss="other")), TokenRules(), NOW) is None


@given(st.dictionaries(st.sampled_from([*MINT.payload(), "nbf", "aud", "jti"]), ODD))
@settings(max_examples=200, deadline=None)
def test_nothing_passes_that_pyjwt_refuses(claims: dict[str, Any]) -> None:
    """For any claims, the gateway is never more lenient than PyJWT."""
    text = Mint(now=time.time()).token(**claims)
    token = tokens.parse(text)
    if token is None or tokens.flaw(token, RULES, time.time()) is not None:
        return
    assert jwt.decode(text, KEY, algorithms=["RS256"]) == token.payload


# --- is_signed -------------------------------------------------------------------


def test_the_right_key_signs() -> None:
    assert tokens.is_signed(parsed(MINT.token()), KEY)


def _hs256(secret: bytes) -> str:
    signed = f"{segment(MINT.header(alg='HS256'))}.{segment(MINT.payload())}"
    return f"{signed}.{segment(hmac.digest(secret, signed.encode(), sha256))}"


def _last_bits_changed(text: str) -> str:
    """Return *text* with another last character that decodes to the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


PARTS = ("header", "payload", "signature")


def _with_letter(letter: str, part: str) -> str:
    """Return a good token whose *part* has *letter* (`-` or `_`), not the other."""
    place = PARTS.index(part)
    other, odd = {"-": ("_", ">>>"), "_": ("-", "???")}[letter]
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "header": lambda: iter([MINT.token({"odd": odd})]),
        "payload": lambda: iter([MINT.token(odd=odd)]),
        "signature": lambda: (MINT.token(n=n) for n in itertools.count()),
    }
    return next(
        text
        for text in makers[part]()
        if letter in text.split(".")[place] and other not in text.split(".")[place]
    )


def _in_standard_alphabet(letter: str, part: str) -> str:
    """Return such a token with standard base64's *letter*, `+` or `/`, instead."""
    url_letter = {"+": "-", "/": "_"}[letter]
    pieces = _with_letter(url_letter, part).split(".")
    place = PARTS.index(part)
    pieces[place] = pieces[place].replace(url_letter, letter)
    return ".".join(pieces)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("letter", ["-", "_"])
def test_both_letters_of_base64url_are_read(letter: str, part: str) -> None:
    """A good token may have either letter alone, in each part."""
    token = parsed(_with_letter(letter, part))
    assert tokens.flaw(token, RULES, NOW) is None
    assert tokens.is_signed(token, KEY)


PEM = KEY.public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
PSS = padding.PSS(padding.MGF1(SHA256()), 32)
FORGED = {
    "no signature": MINT.token().rpartition(".")[0] + ".",
    "other key": Mint(key=private_key("other")).token(),
    "HS256 with the PEM": _hs256(PEM),
    "HS256 with the JWK": _hs256(json.dumps(MINT.jwk()).encode()),
    "RS512": MINT.sign(MINT.header(), MINT.payload(), digest=SHA512()),
    "PS256": MINT.sign(MINT.header(), MINT.payload(), pad=PSS),
    "cut": MINT.token()[:-4],
    "longer": MINT.token() + "AAAA",
    "padded": MINT.token() + "==",
    "spaced": MINT.token() + " ",
    **{
        f"{letter} in the {part}": _in_standard_alphabet(letter, part)
        for letter in "+/"
        for part in PARTS
    },
    "other spelling": _last_bits_changed(MINT.token()),
    "one character": MINT.token().rpartition(".")[0] + ".A",
    "another's signature": MINT.token().rpartition(".")[0]
    + "."
    + MINT.token(sub="user-2").rpartition(".")[2],
    "junk inside the payload": TEXTS["junk inside the payload"],
    "padded payload": TEXTS["padded payload"],
}


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED.keys())
def test_not_signed(text: str) -> None:
    """A token is signed only by RS256, with the exact key, bytes and spelling."""
    assert not tokens.is_signed(parsed(text), KEY)


def _signed(header: str, payload: str) -> str:
    """Return the two segments, whatever they are, signed with the core's key."""
    text = f"{header}.{payload}"
    signature = private_key().sign(text.encode(), padding.PKCS1v15(), SHA256())
    return f"{text}.{segment(signature)}"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "/": lambda text: text.replace("_", "/"),
    "padded": lambda text: text + "=",
    "junk": lambda text: text[:8] + "!" + text[8:],
    "other last bits": _last_bits_changed,
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("part", ["header", "payload"])
def test_the_key_vouches_for_base64url_only(
    part: str, spell: Callable[[str], str]
) -> None:
    """A segment in another spelling is refused, even if the core's key signed it."""
    header, payload, _ = MINT.token({"odd": "???"}, odd="a???").split(".")
    assert tokens.is_signed(parsed(_signed(header, payload)), KEY)
    odd = {"header": header, "payload": payload}
    odd[part] = spell(odd[part])
    assert odd[part] not in {header, payload}
    assert not tokens.is_signed(parsed(_signed(**odd)), KEY)


def test_the_other_spelling_decodes_to_the_same_bytes() -> None:
    """The spellings above decode to the same bytes, so only the spelling is refused."""
    other = FORGED["other spelling"].rpartition(".")[2]
    right = MINT.token().rpartition(".")[2]
    assert other != right
    assert urlsafe_b64decode(other + "==") == urlsafe_b64decode(right + "==")


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_damaged_token_is_signed(data: st.DataObject) -> None:
    """A token that differs from the signed one in any character is refused."""
    text = MINT.token()
    place = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.characters(max_codepoint=0x17F).filter(lambda c: c != "."))
    damaged = text[:place] + new + text[place + 1 :]
    token = tokens.parse(damaged)
    if token is not None and damaged != text:
        assert not tokens.is_signed(token, KEY)


# --- the identity of a good token --------------------------------------------------


def test_identity() -> None:
    """The identity has the token's facts and the whole payload."""
    token = parsed(MINT.token(sub=" user-1 ", tId="t1", plan="pro"))
    identity = tokens.identity(token)
    assert identity.user_id == "user-1"
    assert identity.recipe_user_id == "recipe-user-1"
    assert identity.session_handle == "handle-1"
    assert identity.tenant_id == "t1"
    assert identity.claims["plan"] == "pro"
    assert identity.expires_at == int(NOW) + 3590


def test_identity_of_an_old_token() -> None:
    """Version 3 tokens have no tenant and no recipe user."""
    text = MINT.token({"version": "3"}, tId="ignored", rsub=..., exp=10**400)
    identity = tokens.identity(parsed(text))
    assert identity.tenant_id == "public"
    assert identity.recipe_user_id == "user-1"
    assert identity.expires_at == 2.0**53


@pytest.mark.parametrize(
    ("parent", "expected"),
    [(..., False), (None, False), (5, False), ("", True), ("b" * 64, True)],
    ids=["absent", "null", "number", "empty", "hash"],
)
def test_needs_core(parent: object, expected: bool) -> None:
    """A token with a parent comes from a refresh, which the core must confirm."""
    token = parsed(MINT.token(parentRefreshTokenHash1=parent))
    assert tokens.needs_core(token) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(..., None), (None, None), (5, None), (" x ", "x"), ("", "")],
    ids=["absent", "null", "number", "spaced", "empty"],
)
def test_anti_csrf(value: object, expected: str | None) -> None:
    """The anti-CSRF token is the claim, trimmed as the SDK does."""
    assert tokens.anti_csrf(parsed(MINT.token(antiCsrfToken=value))) == expected


@pytest.mark.parametrize("around", [b"%b", b"x=%b;", b"\xff eyJ%b.eyJ", b"a.%b."])
@pytest.mark.parametrize(
    "token",
    [
        Mint().token(),
        Mint().token(exp=1),  # expired: it may still be refreshed
        Mint().token({"alg": "none"}),  # hidden behind another header
        Mint(kid="s-1").token(parentRefreshTokenHash1="h"),
        "a+/=." + "0f" * 32 + ".V2",
    ],
)
def test_a_token_is_found_in_whatever_is_around_it(token: str, around: bytes) -> None:
    """It must not reach a service by any field."""
    assert tokens.holds_token(around % token.encode())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"..",
        b"a.eyJ.b",
        Mint().token(stt=1).encode(),
        Mint().token(sessionHandle=...).encode(),
        Mint().token().rpartition(".")[0].encode(),
        ("a." + "0F" * 32 + ".V2").encode(),
        ("a." + "0f" * 31 + ".V2").encode(),
        ("a." + "0f" * 32 + ".V20").encode(),
        b"." + b"eyJ" * 9000 + b".",
        b".eyJ" + segment(b"[" * 9000).encode() + b".",
    ],
)
def test_what_is_no_sessions_token_is_not_taken_for_one(value: bytes) -> None:
    """Neither another issuer's JWT, nor a part of a token, nor a deep structure."""
    assert not tokens.holds_token(value)


def test_the_shortest_payload_is_found() -> None:
    """Every value as short as it can be: the size that tells parts from payloads."""
    shortest = dict.fromkeys(("sub", "sessionHandle", "refreshTokenHash1"), "")
    times = dict.fromkeys(("exp", "iat"), 0)
    payload = segment(json.dumps(shortest | times, separators=(",", ":")).encode())
    assert tokens.holds_token(f"a.{payload}.b".encode())


@pytest.mark.parametrize(
    "part", [b".eyJ", b".eyJhIjoxfQ", b"." + segment(b'{"a":"%090d"}' % 0).encode()]
)
def test_parts_that_are_no_payload_are_not_parsed(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To parse each of 4,096 parts of one field took 0.1 s."""
    monkeypatch.setattr(tokens, "_from_json", None)
    assert not tokens.holds_token(part * (16384 // len(part)))
