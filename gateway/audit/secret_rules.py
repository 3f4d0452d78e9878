"""PURE. GW022: secrets that the file has, and keys that don't change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.audit.findings import Audited, AuditSeverity, Hit
from gateway.config import Loc
from gateway.config.models.base import Model
from gateway.config.secret import secret_keys

_CREDENTIAL: Final = re.compile(
    r"(?:^|[-_.])(?:secret|password|passwd|token|api[-_]?key|private[-_]?key"
    r"|authorization|cookie|credentials?)s?$",
    re.IGNORECASE,
)
"""A name in a mapping of which only some values are secret: a recipe's settings, or
fields of requests. `clientSecret` is read as `client-Secret`."""
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL: Final = re.compile(r"[a-z]+://(?P<who>[^/@]*@)?")


def secrets_in_file(audited: Audited) -> Iterator[Hit]:
    """GW022: a secret that the file itself has, or one static signing key."""
    for loc in secret_places(audited.config, ()):
        if audited.is_written(loc):
            name = ".".join(str(one) for one in loc if not isinstance(one, int))
            yield Hit(
                loc=loc,
                message="a secret is in the file: everybody who reads it has it, and so"
                " does its history",
                remedy="Take it from the environment or a file: ${NAME} or"
                " ${file:PATH}, and replace the secret",
                counterpart=name,
            )
    if not audited.config.supertokens.use_dynamic_signing_key:
        yield Hit(
            loc=("supertokens", "use_dynamic_signing_key"),
            message="tokens are always signed with the same key: a leaked one signs"
            " valid tokens until it is replaced by hand",
            remedy="Remove use_dynamic_signing_key: false",
            severity=AuditSeverity.MEDIUM,
        )


def secret_places(model: Model, loc: Loc) -> Iterator[Loc]:
    """Yield the place of each secret in *model*, which is at *loc*."""
    secret = secret_keys(type(model))
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        place = (*loc, field.alias or name)
        if name not in secret:
            yield from _within(value, place)
        elif isinstance(value, str):
            url = _URL.match(value)
            if url is None or url["who"]:
                yield place
        else:
            yield from _credentials(value, place)


def _within(value: object, loc: Loc) -> Iterator[Loc]:
    match value:
        case Model():
            yield from secret_places(value, loc)
        case Mapping():
            for key, item in value.items():
                yield from _within(item, (*loc, key))
        case tuple() | list():
            for index, item in enumerate(value):
                yield from _within(item, (*loc, index))
        case _:
            pass


def _credentials(value: object, loc: Loc) -> Iterator[Loc]:
    """Yield the places below *loc* whose name is that of a credential."""
    match value:
        case Mapping():
            for key, item in value.items():
                yield from _credentials(item, (*loc, key))
        case tuple() | list():
            for index, item in enumerate(value):
                yield from _credentials(item, (*loc, index))
        case str():
            name = next((one for one in reversed(loc) if isinstance(one, str)), "")
            if value and _CREDENTIAL.search(_HUMP.sub("-", name)):
                yield loc
        case _:
            pass
