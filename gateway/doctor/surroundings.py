"""edge. What this process sees of its container, its limits and its output."""

from __future__ import annotations

import os
import resource
import socket
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway.config import ListenAddress
from gateway.doctor.limits import ListenFacts, SinkFacts

_MARKS = (".dockerenv", "run/.containerenv")
"""Files that Docker and Podman make in containers."""
_VARIABLES = ("KUBERNETES_SERVICE_HOST", "container")
"""Variables that Kubernetes and systemd-nspawn, Podman and LXC set in them."""


def is_container(environ: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Return whether this process probably runs in a container."""
    has_mark = any((root / mark).exists() for mark in _MARKS)
    return has_mark or any(environ.get(name) for name in _VARIABLES)


def descriptor_limit() -> int | None:
    """Return the hard limit of open files; None: there is none."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def unix_listen(address: ListenAddress) -> ListenFacts:
    """Return whether the file of a Unix socket could be made. Nothing is changed."""
    path = Path(address.socket_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
        trying.setblocking(False)
        if trying.connect_ex(str(path)) == 0:
            return ListenFacts(address=address, is_in_use=True)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        why = "doesn't exist" if not path.parent.exists() else "can't be written"
        return ListenFacts(
            address=address, trouble=f"{address}: the directory {path.parent} {why}"
        )
    if path.exists() and not path.is_socket():
        trouble = f"{address}: there is a file that isn't a socket"
        return ListenFacts(address=address, trouble=trouble)
    return ListenFacts(address=address)


def standard_output(descriptor: int | None = None) -> SinkFacts:
    """Return where the standard output leads, or *descriptor*."""
    try:
        number = sys.stdout.fileno() if descriptor is None else descriptor
        is_file = stat.S_ISREG(os.fstat(number).st_mode)
        os.write(number, b"")
        if not is_file:
            return SinkFacts()
        disk = os.fstatvfs(number)
    except OSError as error:
        return SinkFacts(trouble=os.strerror(error.errno or 0))
    return SinkFacts(free_bytes=disk.f_bavail * disk.f_frsize)
