"""edge. One-time codes: devices (sign-in attempts), each with its codes and links.

Facts
- `deviceId` is a secret, in base64. `preAuthSessionId` is the public id of a device:
  the SHA-256 of the secret, in base64url. Like the real core's, the first one may
  contain `/`, `+` and `=`, and has to be escaped in a URL.
- A user input code is valid only with its `deviceId`. A link code doesn't need it, so
  the link works on any device.
- Too many wrong codes, or a code that signs in, end the attempt. For another sign-in,
  the user starts again.
"""

from __future__ import annotations

import base64
import hashlib
import random
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.dev.core.jws import JsonObject, base64url
from gateway.dev.core.settings import CoreSettings
from gateway.dev.core.store import Store
from gateway.dev.core.tokens import h

_SECRET_BYTES: Final = 32
_CODE_DIGITS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCode:
    """A new code with its secrets; times in ms."""

    device_id: str
    pre_auth_session_id: str
    code_id: str
    user_input_code: str
    link_code: str
    created_ms: int
    life_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One sign-in attempt."""

    pre_auth_session_id: str
    email: str | None
    phone: str | None
    failed_attempts: int

    def view(self) -> JsonObject:
        """Return the fields that the protocol defines."""
        view: JsonObject = {
            "preAuthSessionId": self.pre_auth_session_id,
            "failedCodeInputAttemptCount": self.failed_attempts,
        }
        if self.email is not None:
            view["email"] = self.email
        if self.phone is not None:
            view["phoneNumber"] = self.phone
        return view


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A wrong or expired user input code; `status` is the protocol's."""

    status: str
    failed_attempts: int


@dataclass(frozen=True, slots=True)
class Restart:
    """The user must start again.

    The device is unknown or has ended, the link code is wrong or expired, or there
    were too many wrong codes.
    """


class Mismatch(Exception):
    """The code isn't one of the device with this `preAuthSessionId`."""


class BadEncoding(Exception):
    """A `deviceId` isn't base64."""


class CodeTaken(Exception):
    """The device has this user input code already."""


class Codes:
    """The one-time codes of one app."""

    def __init__(
        self,
        store: Store,
        settings: CoreSettings,
        *,
        now_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        """Use *store* for the codes."""
        self._store = store
        self._now_ms = now_ms
        self._rng = rng
        self._life_ms = settings.passwordless_code_lifetime_ms
        self.max_attempts = settings.passwordless_max_code_input_attempts

    def begin(
        self, tenant_id: str, *, email: str | None, phone: str | None, code: str | None
    ) -> NewCode:
        """Start an attempt and return its first code."""
        secret = self._rng.randbytes(_SECRET_BYTES)
        device_id = base64.b64encode(secret).decode("ascii")
        with self._store.transaction():
            self._store.run(
                "INSERT INTO devices VALUES (?, ?, ?, ?, 0)",
                public_id(device_id),
                tenant_id,
                email,
                phone,
            )
            return self._add(device_id, code)

    def again(self, tenant_id: str, device_id: str, code: str | None) -> NewCode | None:
        """Return another code for an attempt, or None if the attempt has ended.

        Raises:
            CodeTaken: the attempt has this code already.
            BadEncoding: *device_id* isn't base64.
        """
        with self._store.transaction():
            if self._device(tenant_id, public_id(device_id)) is None:
                return None
            return self._add(device_id, code)

    def check(
        self,
        tenant_id: str,
        *,
        pre_auth_session_id: str,
        link_code: str | None,
        device_id: str | None,
        user_input_code: str | None,
    ) -> Device | Refused | Restart:
        """Return the device of a valid code; the code stays valid.

        A user input code is sent with its *device_id*. Each wrong or expired one counts
        as a failed attempt.

        Raises:
            Mismatch: *pre_auth_session_id* is another device's.
            BadEncoding: *device_id* isn't base64.
        """
        sent = pre_auth_session_id.replace("=", "")
        with self._store.transaction():
            if link_code is not None:
                return self._check_link(tenant_id, sent, link_code)
            device = self._device(tenant_id, public_id(device_id or ""))
            if device is None:
                return Restart()
            if device.pre_auth_session_id != sent:
                raise Mismatch
            row = self._code(sent, user_input_code or "")
            if row is not None and not self._is_old(row):
                return device
            failed = device.failed_attempts + 1
            if failed >= self.max_attempts:
                self._end(sent)
                return Restart()
            self._store.run(
                "UPDATE devices SET failed_attempts = ? WHERE device_hash = ?",
                failed,
                sent,
            )
        return Refused(
            status=(
                "INCORRECT_USER_INPUT_CODE_ERROR"
                if row is None
                else "EXPIRED_USER_INPUT_CODE_ERROR"
            ),
            failed_attempts=failed,
        )

    def end_contact(
        self, tenant_id: str, *, email: str | None, phone: str | None
    ) -> None:
        """Delete every attempt for an address or number, with its codes."""
        with self._store.transaction():
            for device in self.devices(tenant_id, email=email, phone=phone):
                self._end(device.pre_auth_session_id)

    def end_code(self, tenant_id: str, code_id: str) -> None:
        """Delete one code, and its attempt if it has no other code."""
        with self._store.transaction():
            device_hash = self._store.scalar(
                "SELECT device_hash FROM codes JOIN devices USING (device_hash)"
                " WHERE code_id = ? AND tenant_id = ?",
                code_id,
                tenant_id,
            )
            if device_hash is None:
                return
            self._store.delete("codes", code_id=code_id)
            if not self._store.all(
                "SELECT 1 FROM codes WHERE device_hash = ?", device_hash
            ):
                self._end(device_hash)

    def devices(
        self, tenant_id: str, *, email: str | None, phone: str | None
    ) -> list[Device]:
        """Return the attempts for an address or number."""
        rows = self._store.all(
            "SELECT * FROM devices WHERE tenant_id = ? AND (email = ? OR phone = ?)",
            tenant_id,
            email,
            phone,
        )
        return [_device(row) for row in rows]

    def device(self, tenant_id: str, *, pre_auth_session_id: str) -> list[Device]:
        """Return a list of the attempt with this id, or an empty list."""
        device = self._device(tenant_id, pre_auth_session_id)
        return [] if device is None else [device]

    def codes_of(self, device: Device) -> list[JsonObject]:
        """Return an attempt's codes as the protocol defines them, without secrets."""
        rows = self._store.all(
            "SELECT * FROM codes WHERE device_hash = ? ORDER BY created_ms",
            device.pre_auth_session_id,
        )
        return [
            {
                "codeId": row["code_id"],
                "timeCreated": row["created_ms"],
                "codeLifetime": self._life_ms,
            }
            for row in rows
        ]

    def _check_link(
        self, tenant_id: str, pre_auth_session_id: str, link_code: str
    ) -> Device | Restart:
        row = self._store.one(
            "SELECT codes.* FROM codes JOIN devices USING (device_hash)"
            " WHERE link_hash = ? AND tenant_id = ?",
            h(link_code),
            tenant_id,
        )
        if row is None or self._is_old(row):
            return Restart()
        device = self._device(tenant_id, row["device_hash"])
        if device is None:
            return Restart()
        if device.pre_auth_session_id != pre_auth_session_id:
            raise Mismatch
        return device

    def _add(self, device_id: str, code: str | None) -> NewCode:
        device_hash = public_id(device_id)
        if code is None:
            code = f"{self._rng.randrange(10**_CODE_DIGITS):0{_CODE_DIGITS}}"
        if self._code(device_hash, code) is not None:
            raise CodeTaken
        new = NewCode(
            device_id=device_id,
            pre_auth_session_id=device_hash,
            code_id=str(uuid.UUID(bytes=self._rng.randbytes(16), version=4)),
            user_input_code=code,
            link_code=base64url(self._rng.randbytes(_SECRET_BYTES)),
            created_ms=self._now_ms(),
            life_ms=self._life_ms,
        )
        self._store.run(
            "INSERT INTO codes VALUES (?, ?, ?, ?, ?)",
            new.code_id,
            device_hash,
            h(new.link_code),
            h(code),
            new.created_ms,
        )
        return new

    def _code(self, device_hash: str, user_input_code: str) -> sqlite3.Row | None:
        return self._store.one(
            "SELECT * FROM codes WHERE device_hash = ? AND input_hash = ?",
            device_hash,
            h(user_input_code),
        )

    def _device(self, tenant_id: str, device_hash: str) -> Device | None:
        row = self._store.one(
            "SELECT * FROM devices WHERE device_hash = ? AND tenant_id = ?",
            device_hash,
            tenant_id,
        )
        return None if row is None else _device(row)

    def _is_old(self, code: sqlite3.Row) -> bool:
        return int(code["created_ms"]) + self._life_ms < self._now_ms()

    def _end(self, device_hash: str) -> None:
        self._store.delete("devices", device_hash=device_hash)
        self._store.delete("codes", device_hash=device_hash)


def public_id(device_id: str) -> str:
    """Return the `preAuthSessionId` of a device.

    Raises:
        BadEncoding: *device_id* isn't base64.
    """
    try:
        # Like Java's decoder, without the padding at the end if need be.
        padded = device_id + "=" * (-len(device_id) % 4)
        secret = base64.b64decode(padded, validate=True)
    except ValueError as exc:
        raise BadEncoding from exc
    return base64url(hashlib.sha256(secret).digest())


def _device(row: sqlite3.Row) -> Device:
    return Device(
        pre_auth_session_id=row["device_hash"],
        email=row["email"],
        phone=row["phone"],
        failed_attempts=row["failed_attempts"],
    )
