"""PURE. The keys below `gateway.listen`: one address, and how clients connect there."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.findings import Finding
from gateway.config.forms import ListenPlace, SocketMode, SocketOwner
from gateway.config.listens import ListenAddress, listen_address
from gateway.config.models.base import Model


class ListenConfig(Model):
    """One address. A bare address is short for it."""

    address: ListenPlace
    """`host:port`, `[::1]:8000` for IPv6, or `unix:/path/to.sock`. Port 0: any free
    one."""
    mode: SocketMode = "0660"
    """Permissions of a Unix socket's file, in quotes. To connect, a process needs the
    permission to write.

    Risk: with write permission for others, each user of the machine can connect.
    """
    owner: SocketOwner | None = None
    """`user:group`, `user` or `:group` of a Unix socket's file; unset: those of the
    gateway's process. Another user needs root."""

    @property
    def parsed(self) -> ListenAddress:
        """The address in its parts."""
        return listen_address(self.address)

    def __str__(self) -> str:
        return self.address

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each key that this kind of address doesn't have."""
        if not self.parsed.is_unix:
            for name in self._keys_set("mode", "owner"):
                yield Finding(
                    loc=(name,),
                    message="only the file of a Unix socket has this",
                    hint="Remove it, or listen on unix:/path",
                )


def short_listens(value: object) -> object:
    """Return *value* as a list of mappings, if it is an address or has some."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    return [{"address": item} if isinstance(item, str) else item for item in value]
