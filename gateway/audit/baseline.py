"""PURE. The fingerprints of an earlier audit, from its JSON or SARIF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.audit.sarif import FINGERPRINT


class BadBaseline(ValueError):
    """The file is no audit."""


def fingerprints(raw: bytes) -> frozenset[str]:
    """Return the fingerprints of the findings in *raw*.

    Raises:
        BadBaseline: it is neither of the two formats.
    """
    try:
        data = json.loads(raw)
        found = frozenset(_sarif(data) if "runs" in data else _own(data))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadBaseline(
            "this isn't what gateway audit prints with --format json or sarif"
        ) from None
    if not all(isinstance(one, str) for one in found):
        raise BadBaseline("a fingerprint isn't text")
    return found


def _own(data: Any) -> Iterator[Any]:
    for one in data["findings"]:
        yield one["fingerprint"]


def _sarif(data: Any) -> Iterator[Any]:
    for run in data["runs"]:
        for result in run["results"]:
            yield result["partialFingerprints"][FINGERPRINT]
