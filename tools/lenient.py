"""The spellings of a path that real upstreams treat as equal (`make lenient`).

A gateway that compares paths as strings protects `/admin`, but forwards `/Admin` and
`/admin;x`, which an upstream may serve as `/admin`. This script starts web frameworks
with their defaults on loopback, sends them spellings of paths byte by byte, and prints
a Markdown table of the handlers that served them.

Every upstream has the same handlers: GET, POST and DELETE `/admin`, and GET for
`/admin/users`, `/panel/`, `/secret`, `/orders/{id}/refund` and `/v1/things:lock`. The
reply's X-Handler tells which one answered. The programs are in tools/lenient/.

npm, pip, go and mvn install into a temporary folder (`--folder` keeps it for the next
run). Debian's Ruby and PHP are used if they are installed. Programs that aren't
available are reported.

    python tools/lenient.py --only express-5 --only django > table.md
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = Path(__file__).parent / "lenient"

INSTALL_S = 600
START_S = 60.0
REPLY_S = 5.0
"""How long to wait for a reply; a later one counts as none."""


# --- the requests ---------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """One row: a request, byte by byte."""

    target: str
    """Characters stand for bytes (latin-1), HOST for the upstream's address."""
    method: str = "GET"
    fields: tuple[str, ...] = ()
    body: str = ""
    note: str = ""

    def __str__(self) -> str:
        """Return the name of the row."""
        start = self.target if self.method == "GET" else f"{self.method} {self.target}"
        parts = " ".join(
            f"`{part}`" for part in (start, *self.fields, self.body) if part
        )
        return f"{parts} {self.note}".rstrip()


_PLAIN = """
/admin /admin/users /panel/ /secret /orders/1/refund /v1/things:lock
"""

_CASE = """
/Admin /ADMIN /admin/Users /Orders/1/refund /orders/1/Refund
"""

_SLASHES = """
/admin/ /admin// //admin ///admin /admin//users /admin/users/ /panel /panel//
/orders/1/refund/ /orders//refund /orders/1//refund /admin%2F /%2Fadmin /admin%2Fusers
/orders/1%2Frefund /orders/1%2F2/refund /admin\\ /\\admin /admin\\users /admin%5C
/admin%5Cusers
"""

_ENDS = """
/admin. /admin.. /admin%2e /admin%20 /admin%09 /admin%0A /admin%0D%0A /admin%00
/admin%00.x /%20admin /admin%C2%A0 /admin%E2%80%8B /admin%C2%AD /admin%FF /%FFadmin
/admin+ /admin~ /admin::$DATA /admin:$DATA /admin! /admin* /admin, /admin' /admin%22
/secret%0A /orders/1/refund%0A /orders/1%0A/refund /orders/%20/refund
"""

_PARAMETERS = """
/admin; /admin;x /admin;x=1/users /admin/;x /admin/;x/users /;x/admin /admin%3Bx
/orders/1;a/refund /orders/1/refund;a /v1;x/things:lock /admin;.json
"""

_DOTS = """
/admin/. /./admin /admin/./users /admin/x/.. /x/../admin /x/%2e%2e/admin /%2e/admin
/x/%2E%2E%2Fadmin /x/..%2Fadmin /x/..;/admin /x/..%5Cadmin /x/..\\admin /x/.../admin
/../admin /x/%252e%252e/admin
"""

_EXTENSIONS = """
/admin.json /admin.html /admin.x /admin.php /admin.json/ /admin/users.json
/orders/1/refund.json /orders/1.json/refund /secret.xml /admin/index.html
/admin/index.php /index.php/admin /index.html/admin /admin.php/x /app.php/admin
"""

_ESCAPES = """
/%61dmin /%41dmin /admin%252Fx /%2561dmin /v1/things%3Alock /v1/things%3alock
/adm%C4%B1n /adm%C4%B0n /%EF%BD%81dmin /%C5%BFecret /v1/things:loc%E2%84%AA
/%C1%A1dmin /%u0061dmin /admin%u002e /admin% /admin%zz /admin%2 /adm\xedn
/a%CC%81dmin /adm%69%6e
"""

_QUERIES = """
/admin? /admin?x /admin%3F /admin%3Fx /admin%23 /admin%23x /admin#x /admin# /?/admin
/admin& /admin&x=1 /x?/../admin http://HOST/admin http://HOST//admin
http://elsewhere.test/admin
"""

SPELLINGS: dict[str, list[Probe]] = {
    title: [Probe(word) for word in words.split()]
    for title, words in {
        "as they are": _PLAIN,
        "letter case": _CASE,
        "slashes": _SLASHES,
        "what hangs on": _ENDS,
        "path parameters": _PARAMETERS,
        "dot segments": _DOTS,
        "extensions and scripts": _EXTENSIONS,
        "escapes and Unicode": _ESCAPES,
        "queries and fragments": _QUERIES,
    }.items()
}

PATHS = tuple(SPELLINGS)[1:]
"""The spellings of a path, which the column "in short" reports."""

_FORM = "Content-Type: application/x-www-form-urlencoded"

SPELLINGS["methods"] = [
    Probe("/admin", "HEAD"),
    Probe("/orders/1/refund", "HEAD"),
    Probe("/admin", "POST"),
    Probe("/admin", "POST", (_FORM,), "_method=DELETE"),
    Probe("/admin?_method=DELETE", "POST"),
    Probe("/admin?_method=DELETE"),
    Probe("/admin", "POST", ("X-HTTP-Method-Override: DELETE",)),
    Probe("/admin", "POST", (_FORM, "X-HTTP-Method-Override: DELETE"), "a=b"),
    Probe("/admin", "POST", ("X-HTTP-Method: DELETE",)),
    Probe("/admin", "POST", ("X-Method-Override: DELETE",)),
    Probe("/admin", "GET", ("X-HTTP-Method-Override: DELETE",)),
    Probe("/admin", "get"),
    Probe("/admin", "delete"),
    Probe("/admin", "OPTIONS"),
    Probe("/admin", "TRACE"),
    Probe("/admin", "PUT"),
    Probe("/admin", "QUERY"),
    Probe("/admin", "MADEUP"),
]
SPELLINGS["fields that name another path"] = [
    Probe("/x", fields=("X-Original-URL: /admin",)),
    Probe("/x", fields=("X-Rewrite-URL: /admin",)),
    Probe("/x", fields=("X-Forwarded-Path: /admin",)),
    Probe("/x", fields=("X-Forwarded-Uri: /admin",)),
    Probe("/admin", fields=("X-Forwarded-Prefix: /x",)),
    Probe("/x/admin", fields=("X-Forwarded-Prefix: /x",)),
    Probe("/x/admin", fields=("SCRIPT_NAME: /x",)),
    Probe("/x/admin", fields=("Script-Name: /x",)),
    Probe("/x", fields=("PATH_INFO: /admin",)),
    Probe("/x", fields=("Path-Info: /admin",)),
]


# --- the upstreams --------------------------------------------------------------


@dataclass(frozen=True)
class Installed:
    """A program that can be started."""

    command: tuple[str, ...]
    """PORT stands for the port."""
    version: str
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Upstream:
    """One column."""

    title: str
    how: Callable[[Path, Upstream], Installed]
    program: str
    packages: tuple[str, ...] = ()
    """As the package client takes them; the version of the first one is reported."""
    command: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    """Further files that the program needs."""


class NotHereError(Exception):
    """An upstream isn't available. The text is the reason."""


def _run(*command: str | Path, cwd: Path, environ: dict[str, str] | None = None) -> str:
    """Return what *command* printed; raise NotHereError when it fails."""
    name = str(command[0])
    if shutil.which(name) is None:
        raise NotHereError(f"`{Path(name).name}` is not installed")
    try:
        done = subprocess.run(  # noqa: S603 - our own table of commands
            command,
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotHereError(
            f"`{Path(name).name}` took longer than {INSTALL_S} s"
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise NotHereError(f"`{Path(name).name}` failed: {said[0][:200]}")
    return done.stdout.strip()


def _copy(folder: Path, upstream: Upstream) -> None:
    for name in (upstream.program, *upstream.sources):
        shutil.copy(PROGRAMS / name, folder / name)


def npm(folder: Path, upstream: Upstream) -> Installed:
    """Install with npm, below the program."""
    _copy(folder, upstream)
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    _run("npm", "install", *quiet, *upstream.packages, cwd=folder)
    versions = []
    for package in upstream.packages:
        name = package[:1] + package[1:].partition("@")[0]
        said = json.loads((folder / "node_modules" / name / "package.json").read_text())
        versions.append(said["version"])
    return Installed(("node", upstream.program, "PORT"), " / ".join(versions))


def pip(folder: Path, upstream: Upstream) -> Installed:
    """Install with pip, into an environment of the upstream's own."""
    _copy(folder, upstream)
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
    _run(python, "-m", "pip", "install", "-qU", *upstream.packages, cwd=folder)
    asked = (
        f"import importlib.metadata as m; print(*map(m.version, {upstream.packages}))"
    )
    versions = _run(python, "-c", asked, cwd=folder).split()
    return Installed((str(python), *upstream.command), " / ".join(versions))


def go(folder: Path, upstream: Upstream) -> Installed:
    """Build with go; its caches are shared by all of its upstreams."""
    _copy(folder, upstream)
    caches = folder.parent / "go-caches"
    environ = {
        "GOMODCACHE": str(caches / "modules"),
        "GOCACHE": str(caches / "builds"),
        "GOFLAGS": "-modcacherw",  # else the temporary folder can't be removed
    }
    if not (folder / "go.mod").exists():
        _run("go", "mod", "init", "lenient", cwd=folder, environ=environ)
    version = _run("go", "env", "GOVERSION", cwd=folder)
    for package in upstream.packages:
        _run("go", "get", f"{package}@latest", cwd=folder, environ=environ)
        listed = ("list", "-m", "-f", "{{.Version}}", package)
        version = _run("go", *listed, cwd=folder, environ=environ)
    _run("go", "build", "-o", "program", ".", cwd=folder, environ=environ)
    return Installed((str(folder / "program"), "PORT"), version)


def maven(folder: Path, upstream: Upstream) -> Installed:
    """Fetch the libraries with Maven; compile the program with javac."""
    _copy(folder, upstream)
    needed = ""
    for package in upstream.packages:
        group, artifact, version = package.split(":")
        needed += (
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version></dependency>"
        )
    (folder / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0">'
        "<modelVersion>4.0.0</modelVersion><groupId>lenient</groupId>"
        "<artifactId>lenient</artifactId><version>1</version>"
        f"<dependencies>{needed}</dependencies></project>"
    )
    _run(
        *("mvn", "-q", "-B", f"-Dmaven.repo.local={folder.parent / 'm2'}"),
        *("dependency:copy-dependencies", "-DoutputDirectory=lib"),
        cwd=folder,
    )
    files = (upstream.program, *upstream.sources)
    _run("javac", "-parameters", "-cp", "lib/*", "-d", "out", *files, cwd=folder)
    main = upstream.program.removesuffix(".java")
    options = upstream.command
    return Installed(
        ("java", *options, "-Xmx128m", "-cp", "out:lib/*", main, "PORT"),
        upstream.packages[0].rpartition(":")[2],
    )


def ruby(folder: Path, upstream: Upstream) -> Installed:
    """Use the system's Ruby with puma: without a registry of gems."""
    _copy(folder, upstream)
    if shutil.which("puma") is None:
        raise NotHereError(f"apt install puma {' '.join(upstream.packages)}")
    library = upstream.packages[0].removeprefix("ruby-")
    asked = f"print Gem::Specification.find_by_name({library!r}).version"
    version = _run("ruby", "-e", asked, cwd=folder)
    at = ("-b", "tcp://127.0.0.1:PORT", "-t", "1:2", "-e", "production")
    return Installed(
        ("puma", *at, upstream.program), version, {"APP_ENV": "production"}
    )


def php(folder: Path, upstream: Upstream) -> Installed:
    """Use the system's PHP and its own server."""
    _copy(folder, upstream)
    if shutil.which("php") is None:
        raise NotHereError(f"apt install php-cli {' '.join(upstream.packages)}")
    asked = ("dpkg-query", "-W", "-f", "${Version}", upstream.packages[0])
    version = _run(*asked, cwd=folder).partition("+")[0]
    return Installed(("php", "-S", "127.0.0.1:PORT", upstream.program), version)


_GUNICORN = ("-m", "gunicorn", "-b", "127.0.0.1:PORT", "--log-level", "critical")
_UVICORN = ("-m", "uvicorn", "--port", "PORT", "--log-level", "critical")
_BOOT = "org.springframework.boot:spring-boot-starter-web"
_OPEN = ("--add-opens", "java.base/java.lang=ALL-UNNAMED")

UPSTREAMS: dict[str, Upstream] = {
    "express-5": Upstream("Express 5", npm, "express.mjs", ("express@5",)),
    "express-4": Upstream("Express 4", npm, "express.mjs", ("express@4",)),
    "koa": Upstream("Koa, @koa/router", npm, "koa.mjs", ("koa@3", "@koa/router")),
    "fastify": Upstream("Fastify", npm, "fastify.mjs", ("fastify",)),
    "django": Upstream(
        "Django, gunicorn",
        pip,
        "django_app.py",
        ("django", "gunicorn"),
        (*_GUNICORN, "django_app:app"),
    ),
    "django-regex": Upstream(
        "Django `re_path`",
        pip,
        "django_app.py",
        ("django", "gunicorn"),
        (*_GUNICORN, "django_app:app"),
        {"LENIENT_REGEX": "1"},
    ),
    "flask": Upstream(
        "Flask, gunicorn",
        pip,
        "flask_app.py",
        ("flask", "gunicorn"),
        (*_GUNICORN, "flask_app:app"),
    ),
    "fastapi": Upstream(
        "FastAPI, uvicorn",
        pip,
        "fastapi_app.py",
        ("fastapi", "uvicorn"),
        (*_UVICORN, "fastapi_app:app"),
    ),
    "aiohttp": Upstream(
        "aiohttp", pip, "aiohttp_app.py", ("aiohttp",), ("aiohttp_app.py", "PORT")
    ),
    "servemux": Upstream("Go ServeMux", go, "servemux.go"),
    "gorilla": Upstream("gorilla/mux", go, "gorilla.go", ("github.com/gorilla/mux",)),
    "gin": Upstream("gin", go, "gin.go", ("github.com/gin-gonic/gin",)),
    "chi": Upstream("chi", go, "chi.go", ("github.com/go-chi/chi/v5",)),
    "tomcat": Upstream(
        "Tomcat",
        maven,
        "TomcatServer.java",
        ("org.apache.tomcat.embed:tomcat-embed-core:11.0.27",),
        sources=("Servlets.java",),
    ),
    "jetty": Upstream(
        "Jetty",
        maven,
        "JettyServer.java",
        ("org.eclipse.jetty.ee11:jetty-ee11-servlet:12.1.14",),
        sources=("Servlets.java",),
    ),
    "spring-4": Upstream(
        "Spring Boot 4", maven, "SpringServer.java", (f"{_BOOT}:4.1.2",)
    ),
    "spring-2": Upstream(
        "Spring Boot 2", maven, "SpringServer.java", (f"{_BOOT}:2.5.15",)
    ),
    "spring-1": Upstream(
        "Spring Boot 1", maven, "SpringServer.java", (f"{_BOOT}:1.5.22.RELEASE",), _OPEN
    ),
    "rails": Upstream("Rails, puma", ruby, "rails.ru", ("ruby-railties",)),
    "sinatra": Upstream("Sinatra, puma", ruby, "sinatra.ru", ("ruby-sinatra",)),
    "symfony": Upstream(
        "Symfony",
        php,
        "symfony.php",
        ("php-symfony-routing", "php-symfony-http-kernel"),
    ),
}


# --- the run --------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def started(
    installed: Installed, folder: Path, environ: dict[str, str]
) -> Iterator[int]:
    """Run a program for the block; yield its port."""
    port = _free_port()
    command = [part.replace("PORT", str(port)) for part in installed.command]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own table of commands
            command,
            cwd=folder,
            env={**os.environ, **installed.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its children end with it
        )
    try:
        _until_listening(process, port, folder / "log")
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text("utf-8", "replace").strip().splitlines() or [""]
            raise NotHereError(f"ended at once: {said[-1][:200]}")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        time.sleep(0.05)
    raise NotHereError(f"did not listen within {START_S:.0f} s")


def _exchange(port: int, probe: Probe) -> bytes:
    """Return all that an upstream answers to one request."""
    host = f"127.0.0.1:{port}"
    fields = [f"Host: {host}", "Connection: close", *probe.fields]
    if probe.body or probe.method == "POST":
        fields.append(f"Content-Length: {len(probe.body)}")
    target = probe.target.replace("HOST", host)
    head = "\r\n".join((f"{probe.method} {target} HTTP/1.1", *fields))
    answer = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), REPLY_S) as sock,
    ):
        sock.sendall(f"{head}\r\n\r\n{probe.body}".encode("latin-1"))
        while data := sock.recv(65536):
            answer += data
    return answer


def cell(port: int, probe: Probe) -> str:
    """Return the name of the route that served *probe*, its redirect, or the status."""
    head = _exchange(port, probe).partition(b"\r\n\r\n")[0].decode("latin-1")
    status = re.match(r"HTTP/1\.[01] (\d{3})", head)
    if status is None:
        return "no reply"
    handler = re.search(r"(?im)^x-handler: *([^\r\n]*)", head)
    if handler:
        return f"**{handler[1].strip()}**"
    where = re.search(r"(?im)^location: *([^\r\n]*)", head)
    if where and status[1].startswith("3"):
        short = where[1].strip().replace(f"http://127.0.0.1:{port}", "")
        return f"{status[1]} → `{short}`"
    return status[1]


def column(folder: Path, upstream: Upstream) -> tuple[str, list[str]]:
    """Return an upstream's version, and a cell for every probe."""
    folder.mkdir(parents=True, exist_ok=True)
    installed = upstream.how(folder, upstream)
    with started(installed, folder, upstream.environ) as port:
        return installed.version, [
            cell(port, probe) for probes in SPELLINGS.values() for probe in probes
        ]


# --- the page -------------------------------------------------------------------

NOT_RUN = """\
- ASP.NET Core: not run here. By what is written of it, routes are compared without
  regard to letter case, and a slash at the end is ignored (dotnet/aspnetcore#4220).
  Windows drops dots and spaces at the end of a file's name, so that files served from
  there have such spellings, too; no page was found that says so of routes."""

LEGEND = """\
A **bold** name is the handler that served the request. A number is a status, with the
place that a redirect names. Every upstream has its framework's defaults; a proxy in
front of it would fold more. Two columns are partly this script's own doing: a servlet
of Tomcat and Jetty looks for `{id}/refund` itself, and Symfony's kernel is put together
as its bundle does it (redirected slashes, and methods that a form overrides)."""


def _row(*cells: str) -> str:
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"


def _in_short(columns: dict[str, tuple[str, list[str]]]) -> Iterator[str]:
    """Yield the route for each spelling that is served or redirected."""
    yield from ("## In short", "")
    yield _row("request", "served by", "sent elsewhere by")
    yield _row("---", "---", "---")
    at = 0
    for title, probes in SPELLINGS.items():
        for probe in probes:
            found = {key: cells[at] for key, (_, cells) in columns.items()}
            at += 1
            served = [key for key, said in found.items() if said.startswith("**")]
            sent = [key for key, said in found.items() if "→" in said]
            if title in PATHS and (served or sent):
                every = "all" if len(served) == len(columns) else ", ".join(served)
                yield _row(str(probe), every, ", ".join(sent))
    yield ""


def page(
    columns: dict[str, tuple[str, list[str]]], skipped: dict[str, str]
) -> Iterator[str]:
    """Yield the lines of the Markdown page."""
    yield from ("# Which spellings upstreams read as one", "", LEGEND, "")
    yield from _in_short(columns)
    names = [f"{UPSTREAMS[key].title} {columns[key][0]}" for key in columns]
    at = 0
    for title, probes in SPELLINGS.items():
        yield from (f"## {title[0].upper()}{title[1:]}", "")
        yield _row("request", *names)
        yield _row(*("---" for _ in ("", *names)))
        for probe in probes:
            yield _row(str(probe), *(cells[at] for _, cells in columns.values()))
            at += 1
        yield ""
    yield from ("## Not run", "")
    for key, why in skipped.items():
        yield f"- {UPSTREAMS[key].title}: {why}"
    yield NOT_RUN


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=UPSTREAMS, help="may repeat"
    )
    parser.add_argument("--list", action="store_true", help="tell the names and end")
    parser.add_argument("--folder", type=Path, help="install here, and leave it")
    options = parser.parse_args(arguments)
    if options.list:
        for name, upstream in UPSTREAMS.items():
            print(f"{name:13} {upstream.title} ({upstream.how.__name__})")
        return 0
    # A signal that stops this script must stop its upstreams, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    columns: dict[str, tuple[str, list[str]]] = {}
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as opened:
        folder = options.folder or Path(
            opened.enter_context(tempfile.TemporaryDirectory(prefix="lenient-"))
        )
        for name in options.only or UPSTREAMS:
            began = time.monotonic()
            _say(f"{name} …")
            try:
                columns[name] = column(folder.resolve() / name, UPSTREAMS[name])
            except NotHereError as error:
                skipped[name] = str(error)
                _say(f"{name}: skipped, {error}")
            else:
                took = time.monotonic() - began
                _say(f"{name}: {columns[name][0]}, {took:.0f} s")
    print("\n".join(page(columns, skipped)))
    return 0 if columns else 1


if __name__ == "__main__":
    sys.exit(main())
