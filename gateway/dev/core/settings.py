"""edge. The settings of the embedded core, with the real core's defaults.

Each default is written once, here, with its unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PUBLIC: Final = "public"
"""The name of the default app and of the default tenant."""

MEMORY: Final = ":memory:"
"""SQLite's name for a database in memory; its data is lost when it is closed."""

KEY_OVERLAP_S: Final = 60
"""Seconds for which a new dynamic key is in the JWKS before it signs."""

TENANT_SETTINGS: Final = frozenset(
    {
        "access_token_validity",
        "access_token_dynamic_signing_key_update_interval",
        "refresh_token_validity",
        "password_reset_token_lifetime",
        "email_verification_token_lifetime",
        "passwordless_code_lifetime",
        "passwordless_max_code_input_attempts",
        "totp_max_attempts",
        "totp_rate_limit_cooldown_sec",
        "ip_allow_regex",
        "ip_deny_regex",
    }
)
"""The real core's settings that a tenant may have of its own."""

_MIN_API_KEY_LENGTH: Final = 20
_APP_ID: Final = re.compile(r"[a-z0-9-]+")


class BadSettings(ValueError):
    """A setting is outside the core's limits. The text names each problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Settings of one embedded core.

    Raises:
        BadSettings: a value is out of range; all problems are in one message.
    Source: core protocol CDI 5.4; CoreConfig of the real core for the defaults.
    """

    database: str | Path = MEMORY
    """SQLite file, or ":memory:". Further apps get files beside it."""

    api_keys: tuple[str, ...] = ()
    """The accepted API keys; empty means that no key is required."""

    apps: tuple[str, ...] = ()
    """Apps besides `public`, at `/appid-<name>/…`. Each has its own data."""

    real_hashing: bool = False
    """Whether the hash of a new password costs as much time as the real core's."""

    access_token_validity_s: int = 3600
    access_token_jitter: float = 0.05
    """The largest fraction of the validity that create and refresh subtract."""

    refresh_token_validity_s: int = 100 * 86_400
    signing_key_update_interval_s: int = 168 * 3600
    password_reset_token_lifetime_ms: int = 3600 * 1000
    email_verification_token_lifetime_ms: int = 86_400 * 1000
    passwordless_code_lifetime_ms: int = 900 * 1000
    passwordless_max_code_input_attempts: int = 5

    def __post_init__(self) -> None:
        """Check every value and report all problems at once."""
        problems = [
            f"{name} must be at least {least}, not {value}"
            for name, value, least in (
                ("access_token_validity_s", self.access_token_validity_s, 1),
                ("refresh_token_validity_s", self.refresh_token_validity_s, 1),
                # Below two overlaps, a key would be due before the newest one signs.
                (
                    "signing_key_update_interval_s",
                    self.signing_key_update_interval_s,
                    2 * KEY_OVERLAP_S,
                ),
                (
                    "password_reset_token_lifetime_ms",
                    self.password_reset_token_lifetime_ms,
                    1,
                ),
                (
                    "email_verification_token_lifetime_ms",
                    self.email_verification_token_lifetime_ms,
                    1,
                ),
                (
                    "passwordless_code_lifetime_ms",
                    self.passwordless_code_lifetime_ms,
                    1,
                ),
                (
                    "passwordless_max_code_input_attempts",
                    self.passwordless_max_code_input_attempts,
                    1,
                ),
            )
            if value < least
        ]
        if not 0 <= self.access_token_jitter < 1:
            problems.append(
                "access_token_jitter must be at least 0 and below 1, "
                f"not {self.access_token_jitter}"
            )
        if any(len(key) < _MIN_API_KEY_LENGTH for key in self.api_keys):
            problems.append(
                f"each of api_keys needs at least {_MIN_API_KEY_LENGTH} characters, "
                "as in the real core"
            )
        problems.extend(
            f"apps: {app!r} is not a name of lower-case letters, digits and '-' "
            f"other than {PUBLIC!r}"
            for app in self.apps
            if app == PUBLIC or not _APP_ID.fullmatch(app)
        )
        if problems:
            raise BadSettings("; ".join(problems))

    def database_of(self, app_id: str) -> str | Path:
        """Return the database of an app; each app has its own."""
        if app_id == PUBLIC or self.database == MEMORY:
            return self.database
        path = Path(self.database)
        return path.with_name(f"{path.stem}-{app_id}{path.suffix}")
