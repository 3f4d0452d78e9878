"""PURE. An answer as text for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from gateway.explain.given import Judged
from gateway.explain.questions import Explained
from gateway.identity import CheckDatabase
from gateway.routes import NearMiss
from gateway.routes.explain import Candidate

_LISTED: Final = 12
"""Routes that match host and path, listed in the text unless all are asked for."""


def lines(answer: Explained, *, has_all: bool = False) -> Iterator[str]:
    """Yield the lines that explain *answer*; *has_all*: with all routes."""
    if answer.target:
        yield f"  target   {answer.target}"
    yield from _routes(answer, has_all=has_all)
    yield from _session(answer)
    yield _outcome(answer)
    yield from _changes(answer)


def _routes(answer: Explained, *, has_all: bool) -> Iterator[str]:
    if answer.table is None:
        if answer.record.route is not None:
            yield f"  route    {answer.record.route}: the gateway answers it itself"
        return
    candidates = answer.table.candidates
    near = [one for one in candidates if one.is_near]
    shown = list(candidates) if has_all else near[:_LISTED]
    width = max((len(one.route.name) for one in shown), default=0)
    for index, one in enumerate(shown):
        title = "  routes   " if index == 0 else "           "
        mark = "*" if one.lost is None else " "
        yield (
            f"{title}{mark} {one.number:<3} {one.route.name:<{width}}  {_why(one)}"
        ).rstrip()
    if rest := len(candidates) - len(shown):
        others = "1 other" if rest == 1 else f"{rest} others"
        title = "           " if shown else "  routes   "
        yield f"{title}{others}: another path or host"
    if isinstance(answer.table.outcome, NearMiss):
        yield (
            f"  guard    {answer.table.outcome.guard.name}: its service may read the"
            " path as one of this route"
        )


def _why(one: Candidate) -> str:
    return "decides" if one.lost is None else f"lost: {one.lost}"


def _session(answer: Explained) -> Iterator[str]:
    session = answer.session
    if session.is_unknown:
        yield "  session  only the SDK can judge it: by a validator or override"
    for index, judged in enumerate(session.judged):
        title = "  session  " if index == 0 else "           "
        yield f"{title}{_check(judged)}"
    if session.judged and session.asks_core is not CheckDatabase.NEVER:
        yield f"  core     asked {session.asks_core.value.replace('_', ' ')}"


def _check(judged: Judged) -> str:
    mark = "met" if judged.reason is None else "not met"
    text = f"{judged.id}: {mark}"
    if judged.reason is not None:
        text += f", {json.dumps(dict(judged.reason))}"
    if judged.is_stale:
        text += " (too old: fetched from the core before it is judged)"
    return text


def _outcome(answer: Explained) -> str:
    record = answer.record
    if answer.sent is not None:
        sent = answer.sent
        who = "" if record.user_id is None else f" as {record.user_id}"
        return (
            f"-> {record.decision}{who} ({record.reason}), sent to {sent.service}"
            f" as {sent.method} {sent.path}"
        )
    if answer.status is None:
        return "-> answered by SuperTokens' API, or by the gateway from the session"
    why = f" {record.reason}" if record.reason else ""
    why += f" ({record.note})" if record.note else ""
    text = answer.body.decode("utf-8", "replace").strip()
    body = f"  {text}" if text and len(text) <= 600 else ""
    return f"-> {answer.status}{why}{body}  No service is asked."


def _changes(answer: Explained) -> Iterator[str]:
    if answer.sent is None:
        return
    for line in answer.sent.removed:
        yield f"   - {_text(line)}"
    for line in answer.sent.added:
        yield f"   + {_text(line)}"


def _text(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def as_json(answer: Explained) -> dict[str, Any]:
    """Return *answer* as JSON: all routes, all checks, all fields."""
    record, table, sent = answer.record, answer.table, answer.sent
    return {
        "target": answer.target,
        "outcome": record.decision if sent is not None else "answered",
        "status": answer.status,
        "reason": record.reason,
        "note": record.note,
        "route": record.route,
        "candidates": []
        if table is None
        else [
            {
                "number": one.number,
                "name": one.route.name,
                "host": one.has_host,
                "path": one.has_path,
                "method": one.has_method,
                "condition": one.has_condition,
                "lost": one.lost,
            }
            for one in table.candidates
        ],
        "checks": [
            {
                "id": one.id,
                "is_met": one.reason is None,
                "reason": one.reason,
                "is_stale": one.is_stale,
            }
            for one in answer.session.judged
        ],
        "body": answer.body.decode("utf-8", "replace"),
        "upstream": None
        if sent is None
        else {
            "service": sent.service,
            "method": sent.method,
            "path": sent.path,
            "host": sent.host,
            "removed": [*map(_text, sent.removed)],
            "added": [*map(_text, sent.added)],
            "kept": [*map(_text, sent.kept)],
        },
    }


def outcome_of(answer: Explained) -> str:
    """Return the outcome as `--expect` names it: a status, or the route's name."""
    if answer.status is not None:
        return str(answer.status)
    return answer.record.route or ""
