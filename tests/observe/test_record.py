"""The record of one request."""

from __future__ import annotations

from dataclasses import fields

from gateway.observe import Record


def test_record_has_no_place_for_a_secret() -> None:
    """No format can leak what isn't there: no field, cookie, query or body."""
    names = {field.name for field in fields(Record)}
    assert names.isdisjoint({"query", "headers", "fields", "body", "token", "cookie"})
