"""Builds and runs an image without a container engine, for `make image-test` (root).

Debian's buildah builds it, on a base image made by debootstrap. A process of the image
gets namespaces of its own for mounts, processes and the network, a read-only root, the
image's user, and no capabilities, as compose.yaml and deploy/ ask of an engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
STORE = ROOT / ".gateway" / "image"
"""Images and the base system: 1 GB, kept for the next run."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIRROR = os.environ.get("MIRROR", "http://deb.debian.org/debian")
NEEDS = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
}
"""Command → Debian's package."""


def missing() -> str | None:
    """Return why this machine can't build and run images; None: it can."""
    if os.geteuid() != 0:
        return "namespaces and chroot need root"
    packages = {NEEDS[name] for name in NEEDS if shutil.which(name) is None}
    if packages:
        return f"missing: apt-get install {' '.join(sorted(packages))}"
    return None


def buildah(*arguments: str | Path, log: IO[str] | None = None) -> str:
    """Run buildah on the images in `STORE`; return what it prints.

    Raises:
        subprocess.CalledProcessError: it failed; standard error says why.
    """
    # vfs works on any file system, a container's included.
    store = ("--root", STORE / "root", "--runroot", STORE / "run")
    done = subprocess.run(  # noqa: S603 - the Makefile's command
        ["buildah", *store, "--storage-driver=vfs", *arguments],  # noqa: S607
        env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        stdin=subprocess.DEVNULL,
        stdout=log or subprocess.PIPE,
        text=True,
        check=True,
    )
    return (done.stdout or "").strip()


def has(image: str) -> bool:
    """Return whether `STORE` has an image."""
    named = buildah("images", "--json")
    return any(image in (each.get("names") or ()) for each in json.loads(named))


def make_base(image: str) -> None:
    """Make Debian trixie with its Python 3.13, and call it *image*.

    The official image has its Python in /usr/local, this one in /usr.
    """
    tree = STORE / "trixie"
    shutil.rmtree(tree, ignore_errors=True)
    STORE.mkdir(parents=True, exist_ok=True)
    with (STORE / "debootstrap.log").open("w") as log:
        packages = "--include=ca-certificates,python3,python3-venv"
        subprocess.run(  # noqa: S603 - the Makefile's command
            ["debootstrap", "--variant=minbase", packages, "trixie", tree, MIRROR],  # noqa: S607
            stdout=log,
            check=True,
        )
    (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    # The host's certificate authorities, for pip behind a proxy of its own.
    bundle = Path("etc/ssl/certs/ca-certificates.crt")
    if (Path("/") / bundle).is_file():
        shutil.copy(Path("/") / bundle, tree / bundle)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, tree, "/")
    buildah("config", f"--env=PATH={PATH}", "--cmd=python", container)
    buildah("commit", "--quiet", "--rm", container, image)
    shutil.rmtree(tree)


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says about how it is run."""

    config: Mapping[str, Any]
    """Source: Docker Image Specification v1.3, "Container RunConfig"."""
    root: Path
    """Its files, mounted."""

    @property
    def environ(self) -> dict[str, str]:
        """Return its environment variables."""
        return dict(each.split("=", 1) for each in self.config["Env"])


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Image]:
    """Yield an image with its files, which are removed at the end."""
    container = buildah("from", "--pull-never", image)
    try:
        found = json.loads(buildah("inspect", container))
        yield Image(
            config=found["Docker"]["config"], root=Path(buildah("mount", container))
        )
    finally:
        buildah("rm", container)


@dataclass(frozen=True, slots=True)
class Network:
    """A network namespace, and its one connection to this machine."""

    name: str
    host: str
    """This machine's address, seen from inside."""
    inside: str
    """The container's address, seen from this machine."""


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Yield a network of two addresses, which is removed at the end."""
    made = Network(f"gwimage{os.getpid()}", host="10.231.77.1", inside="10.231.77.2")
    device, peer = f"gwh{os.getpid()}", "eth0"
    _run("ip", "netns", "add", made.name)
    try:
        _run("ip", "link", "add", device, "type", "veth", "peer", peer, *_in(made))
        _run("ip", "address", "add", f"{made.host}/30", "dev", device)
        _run("ip", "link", "set", device, "up")
        inside = ("ip", "-n", made.name)
        _run(*inside, "address", "add", f"{made.inside}/30", "dev", peer)
        _run(*inside, "link", "set", peer, "up")
        _run(*inside, "link", "set", "lo", "up")
        yield made
    finally:
        _run("ip", "netns", "delete", made.name)  # and both ends of the connection


def _in(network: Network) -> tuple[str, str]:
    return "netns", network.name


def _run(*command: str) -> None:
    subprocess.run(command, check=True)  # noqa: S603 - the Makefile's command


# Run in new namespaces for mounts and processes, as their first process, which becomes
# the image's. The mounts end with it.
_INSIDE = """
set -eu
root=$1; file=$2; user=$3; shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o nosuid,nodev,noexec,size=64m tmpfs "$root/tmp"
mount -t tmpfs -o nosuid,noexec,size=1m,mode=755 tmpfs "$root/dev"
for name in null zero full random urandom; do
  touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
if [ -n "$file" ]; then
  mount --bind "$file" "$root/etc/gateway/routes.yaml"
  mount -o remount,ro,bind "$root/etc/gateway/routes.yaml"
fi
mount -o remount,ro,bind "$root"
exec chroot "$root" setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups \
  --bounding-set=-all --inh-caps=-all --no-new-privs -- "$@"
"""


class Container:
    """A process of an image, and its output in files."""

    def __init__(
        self,
        image: Image,
        network: Network,
        output: Path,
        *,
        environ: Mapping[str, str],
        file: Path | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """Start *image* with *file* in place of its route table, if there is one."""
        config = image.config
        arguments = [*config["Entrypoint"], *(command or config["Cmd"])]
        self._image = image
        self.out, self.err = output / "stdout", output / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._outer = subprocess.Popen(  # noqa: S603 - the image's command
                [
                    *("ip", "netns", "exec", network.name),
                    *("unshare", "--mount", "--pid", "--fork"),
                    *("sh", "-c", _INSIDE, "sh", str(image.root), str(file or "")),
                    *(config["User"], *arguments),
                ],
                env={**image.environ, "HOME": "/nonexistent", **environ},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def pid(self) -> int:
        """Return the id of its first process, seen from this machine."""
        parent = self._outer.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        return int(children.split()[0])

    def processes(self) -> list[int]:
        """Return the ids of all its processes, seen from this machine."""
        found = [self.pid]
        for pid in found:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        return found

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the image beside it, with the same rights."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net"]
        user, _, group = self._image.config["User"].partition(":")
        drop = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        environ = dict(
            each.split("=", 1)
            for each in Path(f"/proc/{self.pid}/environ").read_text().split("\0")
            if each
        )
        return subprocess.run(  # noqa: S603 - the Makefile's command
            [
                *enter,
                f"--root=/proc/{self.pid}/root",
                *drop,
                "--no-new-privs",
                *command,
            ],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def wait(self, timeout_s: float) -> int:
        """Return its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self._outer.wait(timeout_s)

    @property
    def has_ended(self) -> bool:
        """Return whether it has exited."""
        return self._outer.poll() is not None

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if not self.has_ended:
            # Its first process, whose end is that of all others.
            try:
                os.kill(self.pid, signal.SIGKILL)
            except (ProcessLookupError, IndexError):
                self._outer.kill()  # it hasn't started, or ends
            self._outer.wait()
