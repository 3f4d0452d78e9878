r"""The cases: how the YAML files are read.

A case is a mapping with these keys; only `id`, `why`, `send` or `bytes`, and `status`
or `statuses` must be there:

id        row of the attack table and a short name: `B2 encoded dots`
why       one sentence: what would go wrong
send      the request: each line ends with CRLF, and an empty line ends the head if
          none stands there. What follows the empty line is the body's lines.
body      bytes behind the head
bytes     in place of `send` and `body`: exactly these bytes, line ends of the file
          not counted
status    of the reply, or a list of those that are right; `closed`: no reply at all
statuses  of all replies in order, when `send` holds several requests
times     how many replies have the `status`, when there are as many requests
closes    true: the connection ends with the reply; false: it doesn't. Unsaid: either,
          but what comes next on it is read as what it is
peer      the address that it is sent from, unless 127.0.0.1: the gateway trusts the
          proxy on 127.0.0.2; ::ffff:127.0.0.2 is the same, come to an IPv6 socket
client    the address that the log has for whoever sent it
upstream  how many whole requests the upstream got, or a list of what is right. Unsaid:
          0 when `status` is 400 or more or `closed`, else one for each reply
begun     true: it may have got a part of another one, whose end never came
target    the target of the last request that it got
seen      texts that are in what it got;  unseen: that aren't, in any case of letters
content   the body of the last request that it got
answer    texts that are in the reply's bytes;  unanswered: that aren't
continued maybe: a 100 may come before the reply; unsaid: none does
reply     what the upstream answers, byte for byte;  reply_closes: and then closes
broad     what becomes of it beside a route for all other paths. Unsaid: the same;
          forwarded: that route takes it; near_miss: it would, and asks for less than
          the route that the path may be meant for; method_refused: that one refuses
          the method, whatever the broad route asks for
readers   some: parsers may refuse what goes on, and those that take it read it alike;
          unsaid: all take it
ends      true: the request isn't whole, and the client ends after it

In all texts `\r \n \t \0 \\ \xNN` stand for bytes, `{text*80}` for 80 times the text;
other characters are UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([rnt0\\{}]))")
_REPEAT = re.compile(rb"(?<!\\)\{(.+?)\*(\d+)\}", re.DOTALL)
_PLAIN = {
    b"r": b"\r",
    b"n": b"\n",
    b"t": b"\t",
    b"0": b"\0",
    b"\\": b"\\",
    b"{": b"{",
    b"}": b"}",
}


def encode(text: str) -> bytes:
    """Return the bytes that *text* stands for."""
    raw = text.encode()
    raw = _REPEAT.sub(lambda m: m[1] * int(m[2]), raw)
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else _PLAIN[m[2]], raw)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case, with everything that its file leaves unsaid."""

    id: str
    why: str
    table: str
    sent: bytes
    shown: str
    """What is sent, as it stands in the file."""
    replies: tuple[frozenset[int], ...]
    """The statuses that are right for each reply, in order."""
    upstream: frozenset[int]
    closes: bool | None = None
    begun: bool = False
    target: bytes | None = None
    content: bytes | None = None
    seen: tuple[bytes, ...] = ()
    unseen: tuple[bytes, ...] = ()
    answer: tuple[bytes, ...] = ()
    unanswered: tuple[bytes, ...] = ()
    continued: str = "no"
    reply: bytes | None = None
    reply_closes: bool = False
    ends: bool = False
    peer: str = "127.0.0.1"
    client: str | None = None
    broad: str = "same"
    readers: str = "all"
    methods: tuple[bytes, ...] = field(default=())
    """The methods of the requests, to know which replies have no body."""


_AS_THEY_ARE = (
    "closes",
    "begun",
    "continued",
    "reply_closes",
    "ends",
    "peer",
    "client",
    "broad",
    "readers",
)
_TABLES = {
    "A": "Identity",
    "B": "Path and target",
    "C": "Framing and smuggling",
    "D": "Host",
    "F": "Cookies and WebSocket handshakes",
    "G": "Methods and limits",
    "I": "Answers",
}


def load(folder: Path = FOLDER) -> list[Case]:
    """Return all cases, sorted by file and place.

    Raises:
        ValueError: a case has an unknown key, lacks one, or an id stands twice.
    """
    cases: list[Case] = []
    for path in sorted(folder.glob("*.yaml")):
        for number, given in enumerate(yaml.safe_load(path.read_text())):
            try:
                cases.append(_case(dict(given)))
            except (KeyError, TypeError, ValueError) as exc:
                raise ValueError(f"{path.name}, case {number + 1}: {exc!r}") from exc
    ids = [case.id for case in cases]
    twice = {name for name in ids if ids.count(name) > 1}
    if twice:
        raise ValueError(f"these ids stand twice: {sorted(twice)}")
    return cases


def _case(given: dict[str, Any]) -> Case:
    sent = _sent(given)
    shown = given.pop("bytes", None) or given.pop("send") + _body_shown(given)
    given.pop("body", None)
    statuses: list[Any] = given.pop("statuses", None) or [given.pop("status")]
    statuses *= given.pop("times", 1)
    replies = () if statuses == ["closed"] else tuple(map(_numbers, statuses))
    refused = not replies or min(replies[-1]) >= 400
    name = given.pop("id")
    case = Case(
        id=name,
        why=given.pop("why"),
        table=_TABLES[name[0]],
        sent=sent,
        shown=shown,
        replies=replies,
        upstream=_numbers(given.pop("upstream", 0 if refused else len(replies))),
        target=_optional(given.pop("target", None)),
        content=_optional(given.pop("content", None)),
        reply=_optional(given.pop("reply", None)),
        methods=_methods(sent, len(replies)),
        seen=_all(given.pop("seen", ())),
        unseen=_all(given.pop("unseen", ())),
        answer=_all(given.pop("answer", ())),
        unanswered=_all(given.pop("unanswered", ())),
        **{key: given.pop(key) for key in _AS_THEY_ARE if key in given},
    )
    if given:
        raise ValueError(f"{name}: unknown keys {sorted(given)}")
    return case


def _sent(given: dict[str, Any]) -> bytes:
    if "bytes" in given:
        return encode("".join(given["bytes"].splitlines()))
    lines = given["send"].rstrip("\n").split("\n")
    if "" not in lines:
        lines += ["", ""]
    head = "\r\n".join(lines)
    return encode(head) + encode(str(given.get("body", "")))


def _body_shown(given: dict[str, Any]) -> str:
    return f"\n{given['body']}" if "body" in given else ""


def _numbers(value: int | list[int]) -> frozenset[int]:
    return frozenset((value,) if isinstance(value, int) else value)


def _all(values: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(map(encode, values))


def _optional(value: str | None) -> bytes | None:
    return None if value is None else encode(str(value))


_REQUEST_LINE = re.compile(rb"(?:^|\r\n\r\n|(?<=\n))([A-Z]+) \S+ HTTP/1")


def _methods(sent: bytes, count: int) -> tuple[bytes, ...]:
    """Return the methods of the first *count* requests in *sent*, as far as known."""
    found = [sent.split(b" ", 1)[0]]
    if count > 1:
        found = [m[1] for m in _REQUEST_LINE.finditer(sent)]
    return tuple((found + [b"GET"] * count)[:count])


def beside(case: Case, protected: bool | str) -> Case:
    """Return *case* as it ends beside a broad route that is *protected* so."""
    if case.broad == "same":
        return case
    has_session = b"X-Corpus-Session" in case.sent
    if protected is True and case.broad != "method_refused":
        # As strict as any route of the rig that asks for a session only.
        status, code = (200, b"") if has_session else (401, b"unauthorised")
    elif case.broad != "forwarded":
        status, code = 404, b'"code": "near_miss"'
    else:
        status, code = 200, b"X-From: upstream"
    return replace(
        case,
        replies=(frozenset({status}),),
        upstream=frozenset({int(status == 200)}),
        answer=(code,),
    )


def one_line(text: str, limit: int = 160) -> str:
    """Return *text* as one line for a table, cut when it is long."""
    line = " ⏎ ".join(piece for piece in text.rstrip("\n").split("\n"))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def ids(cases: Iterable[Case]) -> list[str]:
    """Return the ids, for pytest."""
    return [case.id.replace(" ", "-") for case in cases]
