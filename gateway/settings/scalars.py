"""PURE. The values of plain scalars, by the core schema of YAML 1.2.

Only `true` and `false` are booleans; `22:30` and `yes` are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_WORDS: Final[Mapping[str, object]] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,15})\.[0-9]{1,16}")


def resolve(text: str) -> object:
    """Return the value of the plain scalar *text*.

    It is a number only if writing that number gives the same text: `1.10` and `007`
    stay text, so that nothing is lost. Keys of a number type parse such text.

    Source: YAML 1.2.2 §10.3 (core schema).
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text) and repr(float(text)) == text:
        return float(text)
    return text
