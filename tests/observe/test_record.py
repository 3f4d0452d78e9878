"""The record of one request."""

from __future__ import annotations

from dataclasses import fields

from gateway.observe import Record


def test_record_has_no_attribute_for_a_secret() -> None:
    """A record has no headers, token, cookie, query or body, so none can be logged."""
    names = {field.name for field in fields(Record)}
    assert names.isdisjoint({"query", "headers", "fields", "body", "token", "cookie"})
