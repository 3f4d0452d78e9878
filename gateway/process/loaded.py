"""edge. What the supervisor's plan needs to know of the settings that were loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.config import SuperTokensConfig
from gateway.config.diff import fingerprint
from gateway.events import Severity
from gateway.process.plan_events import LoadedFile
from gateway.process.target_checks import service_checks
from gateway.settings import Settings
from gateway.shared.place import place_of

_NOT_SDK: Final = ("keys", "cache", "core")
"""The sections below `supertokens` that say nothing about what a token means."""


def loaded_file(
    generation: int, settings: Settings, description: Mapping[str, str]
) -> LoadedFile:
    """Return the facts about *settings* that the plan needs."""
    gateway, sdk = settings.config.gateway, settings.config.supertokens
    return LoadedFile(
        generation=generation,
        path=str(settings.path),
        listen=[(one.address, one.mode, one.owner) for one in gateway.listen],
        probes=gateway.probes.listen,
        decision=None if gateway.decision is None else gateway.decision.listen,
        grpc=None if gateway.decision is None else gateway.decision.grpc,
        pidfile=gateway.pidfile,
        drain_s=gateway.drain_timeout,
        websocket_drain_s=gateway.websocket_drain,
        shutdown_delay_s=gateway.shutdown_delay or 0.0,
        startup_timeout_s=gateway.probes.startup_timeout,
        sdk=_meaning(sdk),
        keys_refresh_s=sdk.keys.refresh_interval,
        keys_timeout_s=sdk.keys.timeout,
        log_format=settings.config.log.format,
        log_level=Severity(settings.config.log.level),
        admin=gateway.admin,
        description=description,
        checks=service_checks(settings.config, settings.table),
        shared=place_of(settings.config),
    )


def sdk_digest(settings: Settings) -> str:
    """Return what equal settings of the SDK have in common across processes.

    Different ones have different digests, so keys never pass between them.
    """
    return fingerprint(_meaning(settings.config.supertokens))


def _meaning(sdk: SuperTokensConfig) -> SuperTokensConfig:
    """Return the part of *sdk* that says what a token means."""
    return sdk.model_copy(update=dict.fromkeys(_NOT_SDK))
