"""edge. The files of the keys of assertions: read, checked and made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from gateway.assertions.keys import (
    HOW_TO_MAKE,
    AssertionKey,
    BadAssertionKey,
    parse,
)
from gateway.config import AssertionConfig, Finding, path
from gateway.settings.secret_files import is_exposed, read_regular

_MAX_BYTES: Final = 16 * 1024
"""Of a file. A key on P-256 in PEM form has less than 400 bytes."""
_PLACE: Final = ("gateway", "assertion", "keys")


class BadAssertionKeys(Exception):
    """The keys that the configuration names can't be used; the text says why."""


def read_key(name: str) -> AssertionKey:
    """Return the key in the file called *name*.

    Raises:
        BadAssertionKey: it can't be read, others than its owner and group may read it,
            or it isn't one unencrypted private key on P-256.
    """
    try:
        data, mode = read_regular(name, _MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not the name of a file"
        raise BadAssertionKey(f"the file can't be read: {reason}") from None
    if is_exposed(mode):
        raise BadAssertionKey(
            "everyone on this machine can read the file, or others can write it",
            f"chmod 600 {name}, or 640 with a group for the gateway",
        )
    if len(data) > _MAX_BYTES:
        raise BadAssertionKey("the file is too long for a key")
    return parse(data)


def load(config: AssertionConfig | None) -> tuple[AssertionKey, ...]:
    """Return the keys that *config* names, the one that signs first.

    Raises:
        BadAssertionKeys: one of them can't be used.
    """
    if config is None:
        return ()
    keys: list[AssertionKey] = []
    for finding in _read(config.keys, keys):
        raise BadAssertionKeys(f"{path(finding.loc)}: {finding.message}")
    return tuple(keys)


def check(config: AssertionConfig | None) -> Iterator[Finding]:
    """Yield a finding for each key that *config* names and that can't be used."""
    if config is not None:
        yield from _read(config.keys, [])


def _read(names: Sequence[str], keys: list[AssertionKey]) -> Iterator[Finding]:
    """Append the keys in the files *names* to *keys*; yield what is wrong with them."""
    places: dict[str, int] = {}
    for index, name in enumerate(names):
        try:
            key = read_key(name)
        except BadAssertionKey as error:
            yield Finding(loc=(*_PLACE, index), message=str(error), hint=error.hint)
            continue
        if (before := places.setdefault(key.kid, index)) != index:
            yield Finding(
                loc=(*_PLACE, index),
                message=f"this is the same key as that of keys[{before}]",
                hint=f"Remove it, or name another one. {HOW_TO_MAKE}",
            )
        keys.append(key)


def generate(file: Path) -> AssertionKey:
    """Make a new key, write it to *file* with mode 0600, and return it.

    An existing file, or a symbolic link, stays as it is.

    Raises:
        OSError: the file exists (FileExistsError), or can't be written.
    """
    pem = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    mode = stat.S_IRUSR | stat.S_IWUSR
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(file, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            os.fchmod(descriptor, mode)  # whatever the umask is
            opened.write(pem)
            opened.flush()
            os.fsync(descriptor)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return parse(pem)
