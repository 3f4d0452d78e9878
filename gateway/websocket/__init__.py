"""edge. Upgraded connections: a handshake judged here, then a tunnel of bytes.

The upstream is dialled first, and the client gets its 101 only after the upstream's.
Frames are not rebuilt: extensions, subprotocol, close codes and reasons are those of
the two ends. Frame boundaries are tracked, because a close frame of the gateway's own
(session over, shutting down) may only be sent between two frames.
"""

from __future__ import annotations

from gateway.websocket.frames import (
    GOING_AWAY,
    SESSION_ENDED,
    FrameTracker,
    close_frame,
)
from gateway.websocket.handshake import (
    UPGRADE,
    accept_value,
    flaw_of_switch,
    origin_allowed,
    refuse_handshake,
    wants_upgrade,
)
from gateway.websocket.open_tunnels import OpenTunnels
from gateway.websocket.tunnel import (
    Socket,
    Tunnel,
    TunnelClient,
    TunnelLimits,
    UpstreamSocket,
)

__all__ = [
    "GOING_AWAY",
    "SESSION_ENDED",
    "UPGRADE",
    "FrameTracker",
    "OpenTunnels",
    "Socket",
    "Tunnel",
    "TunnelClient",
    "TunnelLimits",
    "UpstreamSocket",
    "accept_value",
    "close_frame",
    "flaw_of_switch",
    "origin_allowed",
    "refuse_handshake",
    "wants_upgrade",
]
