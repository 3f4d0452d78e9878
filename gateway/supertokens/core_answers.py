"""PURE. What a core means by an answer that no client's request is to blame for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

_MISSING = "AppId or tenantId not found"
_TENANT = re.compile(
    r"tenantId: ([a-z0-9-]+)\s*$|\([^()]*, [^(),]+, ([a-z0-9-]+)\)\s*$"
)
_OLD = re.compile(r"cdi-version \S+ not supported")
_OWN_403 = re.compile(r"[^<{]*(tenant|\bapp\b|\bappId\b|not enabled)", re.IGNORECASE)
_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
_MAX_QUOTED = 200
"""Of the core's own words in a message, in characters."""


_CALL = re.compile(r"/(?:recipe/|users?\b|apiversion|\.well-known/|ee/)[^?#]*")
UNKNOWN_CALL = "other"


def call_path(path: str) -> str:
    """Return the part of a call's *path* that says what is asked, without a tenant.

    It is `UNKNOWN_CALL` if it is none of those that the SDK makes.

    Source: CDI 5.4: a path may begin with an app and a tenant; ids of users and
    sessions stand in queries and bodies.
    """
    found = _CALL.search(path)
    return UNKNOWN_CALL if found is None else found[0].rstrip("/")


class AnswerKind(Enum):
    """What the operator has to mend."""

    UNUSABLE = auto()
    """A setting: the core refuses every call."""
    UNLICENSED = auto()
    """The core's licence: it refuses the calls of one feature."""
    OUTAGE = auto()
    """What is between: it wasn't the core that answered."""


@dataclass(frozen=True, slots=True)
class CoreRefusal:
    """Why a core refuses the gateway, in words that continue "the core"."""

    kind: AnswerKind
    text: str


def refusal(status: int, text: str) -> CoreRefusal | None:
    """Return what an answer says about the gateway; None: it is about the request.

    *text* is the body. A body that isn't a sentence of the core's comes from an IP
    filter (the core's own sends HTML) or a proxy.

    Source: core 11.4, WebserverAPI; §1.3 of its protocol for the statuses.
    """
    match status:
        case 401 if text.startswith("Invalid API key"):
            return CoreRefusal(
                AnswerKind.UNUSABLE,
                "answered 401: it refuses the API key. Set supertokens.api_key to one"
                " of the core's api_keys",
            )
        case 402:
            return CoreRefusal(
                AnswerKind.UNLICENSED,
                f"answered 402: {_quoted(text)} Add the licence key to the core, or"
                " remove what uses this feature",
            )
        case 403 if _OWN_403.match(text):
            return None
        case 401 | 403:
            return CoreRefusal(
                AnswerKind.OUTAGE,
                f"answered {status}, and not in a core's words: an IP filter or a proxy"
                " in front of it refuses the gateway",
            )
        case 404:
            return CoreRefusal(
                AnswerKind.OUTAGE,
                "answered 404: see supertokens.connection_uri for its path",
            )
        case 400 if _OLD.match(text):
            return CoreRefusal(
                AnswerKind.UNUSABLE, f"answered 400: {_quoted(text)} {_UPDATE}"
            )
        case _:
            return None


_UPDATE = "Update it to SuperTokens core 11.3 or newer"


def other_versions(spoken: object, needed: Sequence[str]) -> CoreRefusal | None:
    """Return why versions of the protocol don't do; None: they do.

    *spoken* is what the core lists, *needed* what the SDK speaks.
    """
    listed = set(map(str, spoken)) if isinstance(spoken, list) else set()
    if not listed.isdisjoint(needed):
        return None
    known = sorted(
        filter(_VERSION.fullmatch, listed),
        key=lambda version: tuple(map(int, version.split("."))),
    )
    speaks = f"CDI {known[0]} to {known[-1]}" if known else "no version of CDI"
    return CoreRefusal(
        AnswerKind.UNUSABLE,
        f"speaks {speaks}, and the gateway speaks CDI {', '.join(needed)}. {_UPDATE}",
    )


def _quoted(text: str) -> str:
    """Return the core's own words on one line, as a sentence."""
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(words) > _MAX_QUOTED:
        words = words[:_MAX_QUOTED] + "…"
    return words if words.endswith((".", "…")) else f"{words}."


def missing_tenant(text: str) -> str | None:
    """Return the tenant that a core misses, according to the *text* of its 400.

    "public": there is no such app. "": it doesn't say which. None: another answer.

    Source: core 11.4, WebserverAPI (app and tenant in brackets, after a domain);
    "appId: …, tenantId: …" in older ones.
    """
    if not text.startswith(_MISSING):
        return None
    named = _TENANT.search(text)
    return (named[1] or named[2]) if named else ""
