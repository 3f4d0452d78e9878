"""edge. The socket of the admin listener, bound before the hub is forked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.admin import views
from gateway.config import AdminConfig, ListenConfig, listen_address
from gateway.process.hub_admin import AdminListener
from gateway.process.listening import BoundListen, open_listens
from gateway.process.sockets import bind
from gateway.settings import Settings

_ONLY_ITS_USER: Final = "0600"
"""The mode of the socket: whoever can connect to it can stop the gateway."""


def open_admin(
    config: AdminConfig,
    found: Callable[[ListenConfig], BoundListen | None] = lambda _listen: None,
) -> BoundListen | None:
    """Listen as *config* asks; None: it asks for nothing.

    *found* returns what is listened on already.

    Raises:
        ListenError: the address can't be listened on.
    """
    if config.listen is None:
        return None
    listen = ListenConfig(address=config.listen, mode=_ONLY_ITS_USER)
    if (inherited := found(listen)) is not None:
        return inherited
    if listen.parsed.is_unix:
        (bound,) = open_listens((listen,), 1)
        return bound
    sock = bind(config.listen, keys="gateway.admin.listen")
    return BoundListen(config=listen, sockets=(sock,))


def listener_of(config: AdminConfig, bound: BoundListen | None) -> AdminListener | None:
    """Return what the hub needs to answer on *bound*."""
    if bound is None:
        return None
    return AdminListener(
        sock=bound.sockets[0],
        host=listen_address(bound.config.address).host,
        token_file=config.token_file,
    )


def description_of(settings: Settings) -> Mapping[str, str]:
    """Return what the hub shows of *settings*."""
    return views.describe(settings.config, settings.table)
