"""edge. Settings with what their workers listen on, made before any of them is forked.

A worker that replaces another one starts with what was good when the settings were
loaded, whatever the files of its certificates are by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from gateway.assertions import AssertionKey, load
from gateway.config import decision_listens
from gateway.process.listening import BoundListen, configured
from gateway.settings import Settings
from gateway.tls import CertificateStore, stores_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSettings(Settings):
    """Settings that workers can serve."""

    listens: tuple[BoundListen, ...]
    stores: tuple[CertificateStore, ...]
    """The certificates of those of `listens` with TLS."""
    assertion_keys: tuple[AssertionKey, ...]


def served(
    settings: Settings, listens: Sequence[BoundListen], *, is_overridden: bool
) -> ServedSettings:
    """Return *settings* with *listens*, and with the certificates that these need.

    What the file says about an address counts, unless `--listen` has overridden it.

    Raises:
        BadTls: the certificates of an address can't be used.
        BadAssertionKeys: a key of `gateway.assertion` can't be used.
    """
    gateway = settings.config.gateway
    named = decision_listens(gateway.decision)
    if not is_overridden:
        named = (*gateway.listen, *named)
    listens = configured(listens, named)
    return ServedSettings(
        **{each.name: getattr(settings, each.name) for each in fields(settings)},
        listens=tuple(listens),
        stores=stores_of(listen.config for listen in listens),
        assertion_keys=load(settings.config.gateway.assertion),
    )
