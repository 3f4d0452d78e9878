"""PURE. Which keys are secret, and a configuration without their values.

A key is secret if its annotation in a model has `SECRET`. That is the one list: what
shows a configuration to anybody reads it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel


class Secret:
    """Marks a key whose value isn't shown. In a mapping or list, no value is."""


SECRET: Final = Secret()
REDACTED: Final = "(secret)"
"""Shown in place of a value."""


def secret_keys(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of the secret keys of *model*."""
    return frozenset(
        name
        for name, field in model.model_fields.items()
        if any(isinstance(mark, Secret) for mark in field.metadata)
    )


def shown(value: object) -> Any:
    """Return *value*, of a configuration, as JSON without the values of secret keys."""
    match value:
        case BaseModel():
            return dict(_fields(value))
        case Mapping():
            return {str(key): shown(item) for key, item in value.items()}
        case list() | tuple() | frozenset() | set():
            return [shown(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _fields(model: BaseModel) -> Iterator[tuple[str, Any]]:
    secret = secret_keys(type(model))
    for name in type(model).model_fields:
        value = getattr(model, name)
        yield name, _redacted(value) if name in secret else shown(value)


def _redacted(value: object) -> object:
    """Return the shape of *value*: the names in it, and no value."""
    match value:
        case None | bool():
            return value
        case Mapping():
            return {str(key): _redacted(item) for key, item in value.items()}
        case list() | tuple():
            return [_redacted(item) for item in value]
        case _:
            return REDACTED
