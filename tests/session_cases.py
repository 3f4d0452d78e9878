"""Requests with every kind of valid and invalid session, for the differential test.

`cases` gives each a name and a token of its own; the user is the same in all of them.
The names must stay: the list of differences refers to them.
"""

from __future__ import annotations

import hmac
import itertools
import json
import math
from base64 import standard_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256, sha384
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from minting import Mint, private_key, segment

Fields = tuple[tuple[bytes, bytes], ...]
Case = tuple[str, Fields]

ANTI_CSRF = "6b1a5f7c-0d53-4a53-9be3-4f2bd1c0a001"
"""The value of `antiCsrfToken` in tokens that have one."""

_SPELLING = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass
class Source:
    """The keys for tokens. Each token of a source has a session of its own."""

    dynamic: Mint
    """Has the key that the core signs with; its `now` is the current time."""
    older: Mint
    """Has the core's previous key, which is still published."""
    static: Mint
    real: Mapping[str, str] = field(default_factory=dict)
    """Tokens that the core itself issued, by kind."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def payload(self, **claims: Any) -> dict[str, Any]:
        handle = {"sessionHandle": f"handle-{next(self.numbers)}"}
        return self.dynamic.payload(**(handle | claims))

    def token(self, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        return self.dynamic.sign(
            self.dynamic.header(**(header or {})), self.payload(**claims)
        )

    def raw(self, payload: bytes) -> str:
        """Sign the bytes of *payload* unchanged."""
        return self.dynamic.sign(self.dynamic.header(), payload)


def bearer(token: str) -> Fields:
    return ((b"Authorization", b"Bearer " + token.encode("latin-1")),)


def cookie(text: str) -> Fields:
    return ((b"Cookie", text.encode("latin-1")),)


def cases(source: Source) -> Iterator[Case]:
    """Yield every case, each with a new session."""
    for name, token in tokens(source):
        yield f"token/{name}", bearer(token)
    yield from real(source)
    yield from transports(source)
    yield from anti_csrf(source)


def real(source: Source) -> Iterator[Case]:
    """Yield a case for each token that the core itself issued."""
    for name, token in source.real.items():
        yield f"token/real/{name}", bearer(token)


# --- tokens -----------------------------------------------------------------------

_ODD: Mapping[str, Any] = {
    "missing": ...,
    "null": None,
    "true": True,
    "false": False,
    "0": 0,
    "-0.0": -0.0,
    "1": 1,
    "-1": -1,
    "1.5": 1.5,
    "2^53+1": 2**53 + 1,
    "2^63": 2**63,
    "10^400": 10**400,
    "inf": math.inf,
    "-inf": -math.inf,
    "NaN": math.nan,
    "empty": "",
    "blank": " ",
    "digit": "0",
    "text": "text",
    "spaces round": " text ",
    "number as text": "99999999999",
    "not ASCII": "Zoë",
    "surrogate": "\ud800",
    "NUL": "a\x00b",
    "list": [],
    "list of text": ["public"],
    "object": {},
    "deep": [[[[{"a": [1, {"b": None}]}]]]],
}

_CLAIMS = (
    "sub",
    "iat",
    "exp",
    "sessionHandle",
    "refreshTokenHash1",
    "parentRefreshTokenHash1",
    "antiCsrfToken",
    "tId",
    "rsub",
    "iss",
    "aud",
    "nbf",
    "jti",
    "stt",
    "userId",
    "st-role",
)


def tokens(source: Source) -> Iterator[tuple[str, str]]:
    """Yield tokens with a name for what is unusual about each."""
    yield "good", source.token()
    for claim, (name, value) in itertools.product(_CLAIMS, _ODD.items()):
        yield f"claim/{claim}={name}", source.token(None, **{claim: value})
    yield from _times(source)
    yield from _versions(source)
    yield from _headers(source)
    yield from _algorithms(source)
    yield from _keys(source)
    yield from _spellings(source)
    yield from _bodies(source)


def _times(source: Source) -> Iterator[tuple[str, str]]:
    now = int(source.dynamic.now)
    for claim in ("exp", "iat", "nbf"):
        # At least a minute from now, because the test itself takes a while.
        for name, offset in (
            ("a year ago", -365 * 86_400),
            ("a minute ago", -60),
            ("in an hour", 3600),
            ("in a year", 365 * 86_400),
        ):
            yield f"time/{claim} {name}", source.token(None, **{claim: now + offset})
            yield (
                f"time/{claim} {name}, a fraction",
                source.token(None, **{claim: now + offset + 0.5}),
            )
            yield (
                f"time/{claim} {name}, as text",
                source.token(None, **{claim: str(now + offset)}),
            )
        yield f"time/{claim} in ms", source.token(None, **{claim: now * 1000})
    yield "time/exp before iat", source.token(iat=now - 10, exp=now - 20)


_V2_HEADER = standard_b64encode(b'{"alg":"RS256","typ":"JWT","version":"2"}').decode()


def _versions(source: Source) -> Iterator[tuple[str, str]]:
    value: Any
    for version in (
        "2",
        "3",
        "4",
        "5",
        "6",
        "99",
        "0",
        "-1",
        "",
        " 5 ",
        "5.0",
        "\u0665",
    ):
        for name, claims in (
            ("as it is", {}),
            ("without rsub", {"rsub": ...}),
            ("without tId", {"tId": ...}),
            ("without both", {"rsub": ..., "tId": ...}),
        ):
            yield (
                f"version/{version!r} {name}",
                source.token({"version": version}, **claims),
            )
    for value in (2, 3, 4, 5, 5.9, 1e3, True, None, [], ["5"], {}, "five", "1e1"):
        yield f"version/{value!r}", source.token({"version": value})
    yield "version/missing", source.token({"version": ...})
    now_ms = int(source.dynamic.now * 1000)
    old = {
        "sessionHandle": f"handle-{next(source.numbers)}",
        "userId": "user-1",
        "refreshTokenHash1": "a" * 64,
        "userData": {},
        "expiryTime": now_ms + 3_600_000,
        "timeCreated": now_ms - 10_000,
    }
    for name, changes in (
        ("good", {}),
        ("expired", {"expiryTime": now_ms - 60_000}),
        ("without userData", {"userData": None}),
        ("new from a refresh", {"parentRefreshTokenHash1": "b" * 64}),
    ):
        yield f"version 2/{name}", _signed(source, _V2_HEADER, old | changes)
    yield (
        "version 2/wrong key",
        _signed(source, _V2_HEADER, old, key=Mint(key=private_key("other"))),
    )
    yield "version 2/claims of 5", _signed(source, _V2_HEADER, source.payload())
    yield "version 2/no pad", _signed(source, _V2_HEADER.rstrip("="), old)


def _signed(
    source: Source, header: str, payload: object, *, key: Mint | None = None
) -> str:
    """Sign with a *header* that is already encoded."""
    signed = f"{header}.{segment(payload)}"
    private = (key or source.dynamic).key
    signature = private.sign(signed.encode(), padding.PKCS1v15(), SHA256())
    return f"{signed}.{segment(signature)}"


def _headers(source: Source) -> Iterator[tuple[str, str]]:
    value: Any
    header: object
    for name, value in {
        "missing": ...,
        "null": None,
        "lower case": "jwt",
        "at+jwt": "at+jwt",
        "number": 1,
        "list": ["JWT"],
        "spaces": " JWT ",
    }.items():
        yield f"typ/{name}", source.token({"typ": value})
    for name, value in {
        "missing": ...,
        "null": None,
        "empty": "",
        "unknown": "d-1",
        "unknown without kind": "1",
        "only kind": "d-",
        "other case": source.dynamic.kid.upper(),
        "space": source.dynamic.kid + " ",
        "path": "../../etc/passwd",
        "URL": "https://evil.example/jwks.json",
        "SQL": "' OR 1=1 --",
        "NUL": "d-\x00",
        "long": "d-" + "1" * 5000,
        "number": 5,
        "true": True,
        "list": [source.dynamic.kid],
        "object": {},
        "static": source.static.kid,
        "older": source.older.kid,
    }.items():
        yield f"kid/{name}", source.token({"kid": value})
    jwk = source.dynamic.jwk()
    evil = Mint(kid=source.dynamic.kid, key=private_key("evil"))
    for name, value in {
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example/cert.pem",
        "x5c": ["MIIB"],
        "x5t": "x",
        "jwk": jwk,
        "cty": "JWT",
        "zip": "DEF",
        "enc": "A128GCM",
        "unheard of": True,
    }.items():
        yield f"header/{name}", source.token({name: value})
    yield (
        "header/jwk of another key that signed",
        evil.token({"jwk": evil.jwk()}, sessionHandle="h"),
    )
    for name, value in {
        "crit=null": {"crit": None},
        "crit=[]": {"crit": []},
        "crit=text": {"crit": "exp"},
        "crit=[exp]": {"crit": ["exp"], "exp": 1},
        "crit=[b64]": {"crit": ["b64"], "b64": True},
        "crit=[b64], false": {"crit": ["b64"], "b64": False},
        "b64=true": {"b64": True},
        "b64=false": {"b64": False},
        "b64=null": {"b64": None},
    }.items():
        yield f"header/{name}", source.token(value)
    for name, header in {
        "list": [],
        "text": "JWT",
        "null": None,
        "not JSON": b"{",
        "empty": b"",
        "deep": b"[" * 5000,
        "BOM": b"\xef\xbb\xbf" + json.dumps(source.dynamic.header()).encode(),
        "spaces": b"  " + json.dumps(source.dynamic.header(), indent=2).encode(),
        "not UTF-8": b'{"alg":"RS256","typ":"JWT","kid":"\xff","version":"5"}',
        "duplicate alg": json.dumps(source.dynamic.header()).encode()[:-1]
        + b',"alg":"none"}',
    }.items():
        yield f"whole header/{name}", source.dynamic.sign(header, source.payload())


def _algorithms(source: Source) -> Iterator[tuple[str, str]]:
    mint = source.dynamic
    public = mint.key.public_key()
    secrets = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "PKCS1 PEM": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "JWK": json.dumps(mint.jwk()).encode(),
        "nothing": b"",
        "kid": mint.kid.encode(),
    }
    for (name, secret), (algorithm, hashed) in itertools.product(
        secrets.items(), (("HS256", sha256), ("HS384", sha384))
    ):
        signed = f"{segment(mint.header(alg=algorithm))}.{segment(source.payload())}"
        mac = hmac.new(secret, signed.encode(), hashed).digest()
        yield f"alg/{algorithm} with the {name}", f"{signed}.{segment(mac)}"
    for algorithm in ("none", "None", "nOnE", "NONE", ""):
        header = segment(mint.header(alg=algorithm))
        body = segment(source.payload())
        yield f"alg/{algorithm!r}, no signature", f"{header}.{body}."
        yield f"alg/{algorithm!r}, signed", source.token({"alg": algorithm})
    for algorithm, pad, digest in (
        ("RS384", None, SHA384()),
        ("RS512", None, SHA512()),
        ("PS256", SHA256(), SHA256()),
        ("PS384", SHA384(), SHA384()),
        ("PS512", SHA512(), SHA512()),
    ):
        yield (
            f"alg/{algorithm}",
            mint.sign(
                mint.header(alg=algorithm),
                source.payload(),
                pad=padding.PSS(padding.MGF1(pad), digest.digest_size) if pad else None,
                digest=digest,
            ),
        )
        yield (
            f"alg/RS256 said, {algorithm} used",
            mint.sign(
                mint.header(),
                source.payload(),
                pad=padding.PSS(padding.MGF1(pad), digest.digest_size) if pad else None,
                digest=digest,
            ),
        )
        yield f"alg/{algorithm} said, RS256 used", source.token({"alg": algorithm})
    for value in (..., None, 1, True, [], ["RS256"], "rs256", " RS256", "ES256"):
        yield f"alg/{value!r}", source.token({"alg": value})
    signed = f"{segment(mint.header(alg='ES256'))}.{segment(source.payload())}"
    curve = ec.generate_private_key(ec.SECP256R1())
    signature = curve.sign(signed.encode(), ec.ECDSA(SHA256()))
    yield "alg/ES256 by a curve", f"{signed}.{segment(signature)}"


def _keys(source: Source) -> Iterator[tuple[str, str]]:
    payload = source.payload
    yield "key/older", source.older.sign(source.older.header(), payload())
    yield "key/static", source.static.sign(source.static.header(), payload())
    for name, said, used in (
        ("dynamic said, static used", source.dynamic, source.static),
        ("dynamic said, older used", source.dynamic, source.older),
        ("static said, dynamic used", source.static, source.dynamic),
        ("dynamic said, stranger used", source.dynamic, Mint(key=private_key("x"))),
    ):
        yield f"key/{name}", used.sign(said.header(), payload())


def _spellings(source: Source) -> Iterator[tuple[str, str]]:
    def parts() -> list[str]:
        return source.token().split(".")

    for place, name in enumerate(("header", "payload", "signature")):
        edits: dict[str, Callable[[str], str]] = {
            "empty": lambda text: "",
            "cut by 1": lambda text: text[:-1],
            "cut by 4": lambda text: text[:-4],
            "longer by A": lambda text: text + "A",
            "longer by AAAA": lambda text: text + "AAAA",
            "one pad": lambda text: text + "=",
            "padded": lambda text: text + "=" * (-len(text) % 4),
            "three pads": lambda text: text + "===",
            "space in it": lambda text: text[:8] + " " + text[8:],
            "comma in it": lambda text: text[:8] + "," + text[8:],
            "! before": lambda text: "!" + text,
            "plus in it": lambda text: text[:8] + "+" + text[8:],
            "high byte in it": lambda text: text[:8] + "\xff" + text[8:],
            "percent in it": lambda text: text[:8] + "%41" + text[9:],
            "standard alphabet": lambda text: text.replace("-", "+").replace("_", "/"),
            "first changed": lambda text: _other(text, 0),
            "middle changed": lambda text: _other(text, len(text) // 2),
            "last changed": lambda text: _other(text, -1),
            "spelled otherwise": _other_spelling,
            "upper case": lambda text: text.upper(),
            "twice": lambda text: text + text,
        }
        for change, edit in edits.items():
            edited = parts()
            edited[place] = edit(edited[place])
            yield f"spelling/{name} {change}", ".".join(edited)
    one, other = parts(), parts()
    yield "spelling/payload of another", f"{one[0]}.{other[1]}.{one[2]}"
    yield "spelling/signature of another", f"{one[0]}.{one[1]}.{other[2]}"
    for name, text in {
        "nothing": "",
        "dots": "..",
        "four parts": f"{source.token()}.x",
        "five parts": "a.b.c.d.e",
        "two parts": source.token().rpartition(".")[0],
        "dot before": f".{source.token()}",
        "dot after": f"{source.token()}.",
        "slashes": source.token().replace(".", "/"),
        "quoted": f'"{source.token()}"',
        "in brackets": f"<{source.token()}>",
        "twice": f"{source.token()} {source.token()}",
        "twice with comma": f"{source.token()},{source.token()}",
        "twice, dot between": f"{source.token()}.{source.token()}",
        "parameter after": f"{source.token()};x=1",
        "comma after": f"{source.token()},",
        "percent-encoded dots": source.token().replace(".", "%2E"),
        "spaces round": f"  {source.token()}  ",
        "tab after": f"{source.token()}\t",
        "no-break space after": f"{source.token()}\xa0",
        "word": "undefined",
        "null": "null",
    }.items():
        yield f"text/{name}", text


def _other(text: str, place: int) -> str:
    """Return *text* with a different base64url character at *place*."""
    letters = list(text)
    letters[place] = "B" if letters[place] == "A" else "A"
    return "".join(letters)


def _other_spelling(text: str) -> str:
    """Return *text* with an unused bit of its last character set, if it has any."""
    if len(text) % 4 == 0:
        return text
    return text[:-1] + _SPELLING[_SPELLING.index(text[-1]) ^ 1]


def _bodies(source: Source) -> Iterator[tuple[str, str]]:
    good = json.dumps(source.payload()).encode()
    now = int(source.dynamic.now)
    for name, payload in {
        "list": b"[]",
        "text": b'"sub"',
        "null": b"null",
        "empty": b"",
        "empty object": b"{}",
        "not JSON": b"{",
        "not UTF-8": good[:-1] + b',"x":"\xff"}',
        "BOM": b"\xef\xbb\xbf" + good,
        "UTF-16": good.decode().encode("utf-16"),
        "UTF-32": good.decode().encode("utf-32-le"),
        "spaces": b" \n\t" + good + b"\r\n ",
        "NUL after": good + b"\x00",
        "two objects": good + good,
        "trailing comma": good[:-1] + b",}",
        "comment": good + b"// x",
        "sub twice": good[:-1] + b',"sub":"user-2"}',
        "sub twice, last a number": good[:-1] + b',"sub":5}',
        "exp twice, last expired": good[:-1] + b',"exp":%d}' % (now - 60),
        "stt twice": good[:-1] + b',"stt":1,"stt":0}',
        "exp as a float": good[:-1] + b',"exp":%d.0}' % (now + 3600),
        "exp in E notation": good[:-1] + b',"exp":%de-2}' % ((now + 3600) * 100),
        "exp 1E400": good[:-1] + b',"exp":1E400}',
        "escaped name": good.replace(b'"sub"', b'"\\u0073ub"'),
        "deep": b"[" * 5000,
        "deep claim": good[:-1] + b',"x":' + b"[" * 500 + b"]" * 500 + b"}",
        "deep object": b'{"a":' * 2500,
        "a number of 5000 digits": b"9" * 5000,
        "digits in a claim": good[:-1] + b',"x":' + b"9" * 4000 + b"}",
        "4 kB": good[:-1] + b',"x":"' + b"a" * 4096 + b'"}',
        "100 kB": good[:-1] + b',"x":"' + b"a" * 100_000 + b'"}',
    }.items():
        yield f"payload/{name}", source.raw(payload)


# --- how a token is sent ------------------------------------------------------------


def transports(source: Source) -> Iterator[Case]:
    """Yield the ways in which a request can carry a valid token, or two."""

    def token(user: str = "user-1") -> str:
        return source.token(sub=user)

    def expired() -> str:
        return source.token(exp=int(source.dynamic.now) - 60)

    def access(text: str) -> Fields:
        return cookie(f"sAccessToken={text}")

    yield "nothing", ()
    for scheme in (
        "bearer ",
        "BEARER ",
        "Bearer",
        "Bearer\t",
        "Bearer  ",
        " Bearer ",
        "Basic ",
        "Token ",
        "Bearer: ",
        "Bearer=",
        "",
    ):
        text = f"{scheme}{token()}"
        yield f"scheme/{scheme!r}", ((b"Authorization", text.encode()),)
    yield "scheme/alone", ((b"Authorization", b"Bearer"),)
    yield "scheme/alone with space", ((b"Authorization", b"Bearer "),)
    for name, other in {
        "junk": b"Bearer junk",
        "basic": b"Basic YTpi",
        "empty": b"",
        "good of user-2": b"Bearer " + token("user-2").encode(),
        "expired": b"Bearer " + expired().encode(),
    }.items():
        field = (b"Authorization", other)
        yield f"two Authorization/good, {name}", (*bearer(token()), field)
        yield f"two Authorization/{name}, good", (field, *bearer(token()))
    for spelt in (b"authorization", b"AUTHORIZATION", b"Authorization "):
        yield f"field name/{spelt!r}", ((spelt, b"Bearer " + token().encode()),)
    for mode in ("header", "cookie", "any", "COOKIE", "x", ""):
        sent = ((b"st-auth-mode", mode.encode()),)
        yield f"st-auth-mode/{mode} bearer", (*sent, *bearer(token()))
        yield f"st-auth-mode/{mode} cookie", (*sent, *access(token()))
        yield (
            f"st-auth-mode/{mode} both",
            (*sent, *bearer(token()), *access(token("user-2"))),
        )
    for first, second in itertools.product(
        ("good", "expired", "junk", "empty", "other type", "forged"), repeat=2
    ):
        made: dict[str, Callable[[], str]] = {
            "good": token,
            "expired": expired,
            "junk": lambda: "junk",
            "empty": lambda: "",
            "other type": lambda: source.token(stt=1),
            "forged": lambda: source.token()[:-8] + "AAAAAAAA",
        }
        yield (
            f"both/{first} bearer, {second} cookie",
            (*bearer(made[first]()), *access(made[second]())),
        )
        yield (
            f"two cookies/{first}, {second}",
            cookie(f"sAccessToken={made[first]()}; sAccessToken={made[second]()}"),
        )
        yield (
            f"two Cookie fields/{first}, {second}",
            (*access(made[first]()), *access(made[second]())),
        )
    for name, text in {
        "alone": "sAccessToken={}",
        "with others": "a=b; sAccessToken={}; c=d",
        "no spaces": "a=b;sAccessToken={};c=d",
        "spaces round": "a=b;  sAccessToken  =  {}  ;c=d",
        "last semicolon": "sAccessToken={};",
        "quoted": 'sAccessToken="{}"',
        "quote before": 'sAccessToken="{}',
        "quote after": 'sAccessToken={}"',
        "quoted, escape": 'sAccessToken="\\{}"',
        "quoted, octal": 'sAccessToken="\\145{}"',
        "other case": "saccesstoken={}",
        "prefix": "xsAccessToken={}",
        "suffix": "sAccessTokenX={}",
        "host prefix": "__Host-sAccessToken={}",
        "encoded name": "sAccess%54oken={}",
        "encoded name and itself": "sAccess%54oken=x; sAccessToken={}",
        "no value": "sAccessToken; a={}",
        "no name": "={}",
        "only value": "{}",
        "comma": "a=b, sAccessToken={}",
        "dollar": "$Version=1; sAccessToken={}; $Path=/",
        "legacy": "sIdRefreshToken=x; sAccessToken={}",
        "legacy, empty": "sIdRefreshToken=; sAccessToken={}",
        "legacy, no value": "sIdRefreshToken; sAccessToken={}",
        "legacy alone": "sIdRefreshToken=x; a={}",
        "legacy, encoded": "sIdRefresh%54oken=x; sAccessToken={}",
        "refresh token too": "sRefreshToken=x; sAccessToken={}",
        "front token too": "sFrontToken=x; sAccessToken={}",
        "equals after": "sAccessToken={}=",
        "plus after": "sAccessToken={}+",
        "space in it": "sAccessToken={} x",
        "newline in it": "sAccessToken={}%0A",
        "NUL in it": "sAccessToken={}%00",
        "percent alone": "sAccessToken={}%",
        "wrong escape": "sAccessToken={}%zz",
    }.items():
        yield f"cookie/{name}", cookie(text.format(token()))
        yield (
            f"cookie/{name}, junk bearer",
            (*bearer("x.y.z"), *cookie(text.format(token()))),
        )
    good = token()
    for name, text in {
        "dots": good.replace(".", "%2E"),
        "dots, lower case": good.replace(".", "%2e"),
        "all": "".join(f"%{ord(letter):02X}" for letter in good),
        "twice": quote(good.replace(".", "%2E")),
        "as a browser does": quote(good, safe=""),
    }.items():
        yield f"percent-encoded/{name}", access(text)
    yield "legacy/bearer", (*bearer(token()), *cookie("sIdRefreshToken=x"))
    yield "legacy/expired bearer", (*bearer(expired()), *cookie("sIdRefreshToken=x"))
    yield "legacy/nothing else", cookie("sIdRefreshToken=x")
    yield (
        "query names as fields",
        (
            (b"access_token", token().encode()),
            (b"st-access-token", token().encode()),
            (b"sAccessToken", token().encode()),
        ),
    )
    yield "cookie field name/lower", ((b"cookie", b"sAccessToken=" + token().encode()),)


# --- anti-CSRF ----------------------------------------------------------------------


def anti_csrf(source: Source) -> Iterator[Case]:
    """Yield combinations of a token's anti-CSRF value and the fields of a request."""
    sent: Mapping[str, Fields] = {
        "nothing": (),
        "rid": ((b"rid", b"session"),),
        "rid empty": ((b"rid", b""),),
        "rid anti-csrf": ((b"RID", b"anti-csrf"),),
        "seal": ((b"anti-csrf", ANTI_CSRF.encode()),),
        "seal, rid": ((b"anti-csrf", ANTI_CSRF.encode()), (b"rid", b"session")),
        "other seal": ((b"anti-csrf", b"x"),),
        "empty seal": ((b"anti-csrf", b""),),
        "seal in capitals": ((b"Anti-CSRF", ANTI_CSRF.upper().encode()),),
        "seal with a space": ((b"anti-csrf", ANTI_CSRF.encode() + b" "),),
        "null": ((b"anti-csrf", b"null"),),
        "two seals": ((b"anti-csrf", ANTI_CSRF.encode()), (b"anti-csrf", b"x")),
        "two seals, wrong first": (
            (b"anti-csrf", b"x"),
            (b"anti-csrf", ANTI_CSRF.encode()),
        ),
    }
    values = {
        "sealed": ANTI_CSRF,
        "null": None,
        "empty": "",
        "spaced": f" {ANTI_CSRF} ",
    }
    for (field_name, fields), (name, seal) in itertools.product(
        sent.items(), values.items()
    ):
        token = source.token(antiCsrfToken=seal)
        for way, credential in (
            ("cookie", cookie(f"sAccessToken={token}")),
            ("bearer", bearer(token)),
        ):
            yield f"anti-csrf/{name} token, {field_name}, {way}", (*credential, *fields)
