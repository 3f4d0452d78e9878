"""The rules of `gateway audit`: each finds the mistake planted for it, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.audit import RULES, AuditFinding, AuditSeverity
from gateway.audit.route_rules import is_one_edit
from gateway.cli.audit import audit_of
from gateway.config import AUDIT_RULES
from gateway.routes.labels import label

ROOT = Path(__file__).parents[2]
TODAY = "2026-11-28"
ENVIRON = {"SECRET": "from-the-environment", "REDIS": "redis://:word@redis:6379"}

WEB = "{name: web, path: /, service: app, protected: true}"
CLEAN = f"""\
version: 1
gateway:
  limits: {{max_body_size: 1MiB}}
supertokens:
  connection_uri: http://core:3567
  api_domain: https://api.example.com
  website_domain: https://app.example.com
defaults:
  session: {{check_database: on_write}}
services:
  app: {{targets: ["https://app-1"], paths: exact}}
routes:
  - {WEB}
"""


def findings(text: str, tmp_path: Path, today: str = TODAY) -> list[AuditFinding]:
    """Return what the audit of a file reports."""
    file = tmp_path / "routes.yaml"
    file.write_text(text)
    return [*audit_of(settings.load(file, ENVIRON), today).findings]


def changed(changes: dict[str, str]) -> str:
    """Return the clean file with each key of *changes* replaced by its value."""
    text = CLEAN
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def with_routes(*routes: str) -> dict[str, str]:
    return {f"  - {WEB}\n": "".join(f"  - {one}\n" for one in routes)}


def service(text: str) -> dict[str, str]:
    return {'app: {targets: ["https://app-1"], paths: exact}': text}


ADMIN = "{name: admin, path: /admin, service: app, require: {%s}}"
ROLE = "roles: {any: [%s]}, max_age: 60s"
PERMISSION = "permissions: {all: [%s]}, max_age: 60s"
TEAM = "tenants: [%s]"

PLANTED: dict[str, tuple[dict[str, str], dict[str, str], str, str]] = {
    # code: the planted mistake, the same without it, the route, what else
    "GW001": (
        with_routes(WEB, "{name: h, path: /h, service: app, protected: optional}"),
        with_routes(WEB, "{name: h, path: /h, service: app}"),
        "h",
        "web",
    ),
    "GW002": (
        with_routes(
            ADMIN % (ROLE % "staff"), "{name: logs, path: /admin/logs, service: app}"
        ),
        with_routes(
            ADMIN % (ROLE % "staff"),
            "{name: logs, path: /admin/logs, service: app,"
            f" require: {{{ROLE % 'staff'}}}}}",
        ),
        "logs",
        "admin",
    ),
    "GW003": (
        with_routes(
            ADMIN % (TEAM % "red"),
            "{name: logs, path: /admin/logs, service: app, require: {mfa: true}}",
        )
        | {"  connection_uri": "  recipes: {multifactorauth: {}}\n  connection_uri"},
        with_routes(
            ADMIN % (TEAM % "red"),
            "{name: logs, path: /admin/logs, service: app,"
            " require: {mfa: true, tenants: [red]}}",
        )
        | {"  connection_uri": "  recipes: {multifactorauth: {}}\n  connection_uri"},
        "logs",
        "admin",
    ),
    "GW004": (
        with_routes("{name: web, path: /, service: app}")
        | {"defaults:\n": "defaults:\n  protected: false\n"},
        with_routes("{name: web, path: /, service: app, protected: false}"),
        "web",
        "",
    ),
    "GW005": (
        with_routes("{name: w, path: /, service: app, protected: false}")
        | {"limits: {max_body_size: 1MiB}": "limits: {max_fields: 50}"},
        with_routes(
            "{name: w, path: /, service: app, protected: false, methods: [GET]}"
        )
        | {"limits: {max_body_size: 1MiB}": "limits: {max_fields: 50}"},
        "w",
        "",
    ),
    "GW006": (
        {"services:\n": 'services:\n  old: {targets: ["https://old"]}\n'},
        {},
        "",
        "old",
    ),
    "GW007": (
        service('app: {targets: ["https://a"], paths: exact, tls: {verify: false}}'),
        service('app: {targets: ["https://a"], paths: exact, tls: {verify: true}}'),
        "",
        "app",
    ),
    "GW008": (
        {"api_domain: https": "api_domain: http"},
        {"api_domain: https://api.example.com": "api_domain: http://localhost"},
        "",
        "",
    ),
    "GW009": (
        service('app: {targets: ["http://app-1"], paths: exact}')
        | with_routes(
            "{name: web, path: /, service: app, forward_credentials: true}",
        ),
        service('app: {targets: ["http://127.0.0.1:81"], paths: exact}')
        | with_routes(
            "{name: web, path: /, service: app, forward_credentials: true}",
        ),
        "web",
        "app",
    ),
    "GW010": (
        {"gateway:\n": "gateway:\n  trusted_proxies: [10.0.0.0/8]\n"},
        {"gateway:\n": "gateway:\n  trusted_proxies: [10.1.0.0/16, unix]\n"},
        "",
        "10.0.0.0/8",
    ),
    "GW011": (
        with_routes(
            "{name: a, path: /a, service: app, require: {%s}}" % (ROLE % "support"),
            "{name: b, path: /b, service: app, require: {%s}}" % (ROLE % "supports"),
        ),
        with_routes(
            "{name: a, path: /a, service: app, require: {%s}}" % (ROLE % "support"),
            "{name: b, path: /b, service: app, require: {%s}}"
            % (PERMISSION % "supports"),
        ),
        "b",
        "supports support",
    ),
    "GW012": (
        service('app: {targets: ["https://app-1"]}')
        | with_routes(WEB, ADMIN % (TEAM % "red"))
        | {"gateway:\n": "gateway:\n  near_misses: forward\n"},
        service('app: {targets: ["https://app-1"]}')
        | with_routes(WEB, ADMIN % (TEAM % "red")),
        "admin",
        "web",
    ),
    "GW013": (
        with_routes(ADMIN % "any: [{roles: {any: [staff]}}, {tenants: [red]}]"),
        with_routes(
            ADMIN % "any: [{roles: {any: [staff]}, max_age: 60s}, {tenants: [red]}]"
        ),
        "admin",
        "",
    ),
    "GW014": (
        {"check_database: on_write": "check_database: never"},
        {"check_database: on_write": "check_database: cached"},
        "web",
        "",
    ),
    "GW015": (
        {"  limits: {max_body_size: 1MiB}": '  listen: "127.0.0.1:1"'},
        {"  limits: {max_body_size: 1MiB}": "  overload: {}"},
        "",
        "",
    ),
    "GW016": (
        with_routes("{name: ws, path: /, service: app, websocket: {idle_timeout: 1m}}"),
        with_routes("{name: ws, path: /, service: app, websocket: {max_lifetime: 1h}}"),
        "ws",
        "",
    ),
    "GW017": (
        {
            "api_domain: https": "cookie: {domain: .example.com}\n  api_domain: https",
            "https://app.example.com": "https://app.api.example.com",
        },
        {"api_domain: https": "cookie: {domain: .example.com}\n  api_domain: https"},
        "",
        "",
    ),
    "GW018": (
        with_routes('{name: r, path: {regex: "/a/[^/]+"}, service: app}'),
        with_routes('{name: r, path: {regex: "/a/[0-9]+"}, service: app}'),
        "r",
        "",
    ),
    "GW019": (
        with_routes("{name: web, path: /, service: app, upstream_401: pass}"),
        with_routes(
            "{name: web, path: /, service: app, upstream_401: pass, protected: false}"
        ),
        "web",
        "",
    ),
    "GW021": (
        with_routes(
            "{name: all, path: /, hosts: ['*.example.com'], service: app}",
            "{name: api, path: /v1, hosts: [api.example.com], service: app}",
        ),
        with_routes(
            "{name: all, path: /, hosts: ['*.example.com'], service: app}",
            "{name: api, path: /, hosts: [api.example.com], service: app}",
        ),
        "all",
        "api",
    ),
    "GW022": (
        {"  connection_uri": "  api_key: abcdefghijklmnopqrstuvwxyz\n  connection_uri"},
        {"  connection_uri": '  api_key: "${SECRET}"\n  connection_uri'},
        "",
        "supertokens.api_key",
    ),
    "GW023": (
        {"services:\n": "cors: {allow_origins: [https://elsewhere.org]}\nservices:\n"},
        {
            "services:\n": 'cors: {allow_origins: ["https://*.example.com"]}\nservices:\n'
        },
        "",
        "https://elsewhere.org",
    ),
    "GW024": (
        with_routes(*(f"{{path: /{n}, service: app}}" for n in range(11))),
        with_routes(*(f"{{path: /{n}, service: app}}" for n in range(10))),
        "",
        "",
    ),
}


@pytest.mark.parametrize("code", PLANTED)
def test_a_rule_finds_what_is_planted(code: str, tmp_path: Path) -> None:
    """It finds exactly that, and nothing in the same table without the mistake."""
    planted, clean, route, counterpart = PLANTED[code]
    found = findings(changed(planted), tmp_path)
    assert [(one.rule, one.route, one.counterpart) for one in found] == [
        (code, route, counterpart)
    ], found
    assert findings(changed(clean), tmp_path) == []
    assert found[0].message
    assert found[0].remedy


def test_every_rule_has_its_planted_mistake() -> None:
    """The rules, the codes that can be accepted, and these tests are the same."""
    assert tuple(rule.id for rule in RULES) == AUDIT_RULES == tuple(PLANTED)


HIGH = ("GW002", "GW004", "GW007", "GW008", "GW009", "GW012", "GW022")


@pytest.mark.parametrize("code", HIGH)
def test_grave_rules(code: str, tmp_path: Path) -> None:
    """What lets somebody in is high, so that `gateway audit` fails by itself."""
    (found,) = findings(changed(PLANTED[code][0]), tmp_path)
    assert found.severity is AuditSeverity.HIGH


MORE: dict[str, tuple[dict[str, str], list[tuple[str, str]]]] = {
    "an optional route is open, too, and each has its severity": (
        with_routes(
            "{name: a, path: /, service: app, protected: false, methods: [GET]}",
            "{name: b, path: /b, service: app}",
        ),
        [],
    ),
    "public addresses of proxies are doubtful, one alone less so": (
        {"gateway:\n": "gateway:\n  trusted_proxies: [8.8.0.0/16, 8.8.8.8/32]\n"},
        [("GW010", "medium"), ("GW010", "low")],
    ),
    "other sites can act for users": (
        {
            "api_domain: https": "anti_csrf: NONE\n  cookie: {same_site: none}\n"
            "  api_domain: https"
        },
        [("GW017", "high")],
    ),
    "keys that don't change": (
        {"  connection_uri": "  use_dynamic_signing_key: false\n  connection_uri"},
        [("GW022", "medium")],
    ),
    "a secret of a recipe": (
        {
            "  connection_uri": "  recipes: {thirdparty: {providers: [{id: google,"
            " client_id: me, client_secret: s3cret}]}}\n  connection_uri"
        },
        [("GW022", "high")],
    ),
    "two secrets in fields of requests": (
        with_routes(
            "{name: a, path: /a, service: app, request: {headers:"
            " {set: {X-Api-Key: one, X-Colour: red}}}}",
            "{name: b, path: /b, service: app, request: {headers:"
            " {set: {X-Api-Key: two}}}}",
        ),
        [("GW022", "high"), ("GW022", "high")],
    ),
    "a store with a password in the file": (
        {"gateway:\n": "gateway:\n  shared: {redis: 'redis://:word@redis'}\n"},
        [("GW022", "high")],
    ),
    "a store without one, and one from the environment": (
        {"gateway:\n": 'gateway:\n  shared: {redis: "${REDIS}"}\n'},
        [],
    ),
    "origins without TLS": (
        {"services:\n": "cors: {allow_origins: [http://x.example.com]}\nservices:\n"},
        [("GW023", "medium")],
    ),
    "the origin of a group": (
        {
            "services:\n": "groups:\n  - cors: {allow_origins: [https://a.org]}\n"
            "    routes: [{name: g, path: /g, service: app}]\nservices:\n"
        },
        [("GW023", "medium")],
    ),
    "a role in other capitals": (
        with_routes(
            "{name: a, path: /a, service: app, require: {%s}}" % (ROLE % "Support"),
            "{name: b, path: /b, service: app, require: {%s}}" % (ROLE % "SUPPORT"),
        ),
        [("GW011", "medium")],
    ),
    "one route with two paths counts once": (
        {
            **with_routes("{name: web, path: [/a, /b], service: app}"),
            "check_database: on_write": "check_database: never",
        },
        [("GW014", "low")],
    ),
}


@pytest.mark.parametrize(("changes", "expected"), MORE.values(), ids=MORE)
def test_more_of_the_rules(
    changes: dict[str, str], expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Code and severity of each finding."""
    found = findings(changed(changes), tmp_path)
    assert [(one.rule, str(one.severity)) for one in found] == expected, found
    assert len({one.fingerprint for one in found}) == len(found)


REGEXES = {
    r"/a\.b": "exact: /a.b",
    "/a(/.*)?": "prefix: /a",
    "/a/[^/]+/b/[^/]+": 'template: "/a/{a}/b/{b}"',
    "/a|/b": "",
    "/a.b": "",
    "/a/[^/]*": "",
    "/a(/b)?": "",
    r"/\d": "",
}


@pytest.mark.parametrize(("regex", "instead"), REGEXES.items())
def test_a_needless_regex_has_another_form(
    regex: str, instead: str, tmp_path: Path
) -> None:
    """The remedy says which; `gateway check` accepts it, for the same paths."""
    route = "{name: r, path: {%s}, service: app}"
    text = changed(with_routes(route % f"regex: '{regex}'"))
    found = findings(text, tmp_path)
    assert [one.remedy for one in found] == ([f"Write {instead}"] if instead else [])
    if instead:
        assert findings(changed(with_routes(route % instead)), tmp_path) == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("admin", "admins", True),
        ("admin", "adimn", True),
        ("admin", "admen", True),
        ("dmin", "admin", True),
        ("ADMIN", "admin", True),
        ("admin", "admin", False),
        ("admin", "admiral", False),
        ("dev", "deb", False),
        ("tier1", "tier2", False),
        ("tier", "tier2", False),
        ("orders:read", "orders:write", False),
        ("aabb", "bbaa", False),
    ],
)
def test_one_edit(one: str, other: str, expected: bool) -> None:
    """It is the same from both sides."""
    assert is_one_edit(one, other) is expected
    assert is_one_edit(other, one) is expected


# --- whole tables -------------------------------------------------------------


def tables() -> list[Any]:
    """Return each file of the repository, and block of its documents, that is one."""
    found = []
    for path in [ROOT / "config" / "routes.yaml", *sorted(ROOT.rglob("deploy/**/*"))]:
        if path.suffix in (".yaml", ".yml") and "templates" not in path.parts:
            text = path.read_text("utf-8")
            if re.search(r"^version: 1$", text, re.MULTILINE) and "\nroutes:" in text:
                found.append(pytest.param(text, id=str(path.relative_to(ROOT))))
    fence = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text("utf-8")
        for match in fence.finditer(text):
            if match[1].startswith("version: 1"):
                line = text.count("\n", 0, match.start(1)) + 1
                found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize("text", tables())
def test_every_table_of_the_repository_can_be_audited(
    text: str, tmp_path: Path
) -> None:
    """A finding is about a route that exists, at a line of the file."""
    file = tmp_path / "routes.yaml"
    file.write_text(text)
    environ = {
        name: "redis://redis" if "REDIS" in name else "http://core"
        for name in re.findall(r"\$\{([A-Z_]+)\}", text)
    }
    environ |= {name: "abcdefghijklmnopqrst" for name in environ if "KEY" in name}
    loaded = settings.load(file, environ)
    found = audit_of(loaded, TODAY)
    labels = {label(route) for route in loaded.table.routes}
    for one in found.findings:
        assert one.route in labels | {""}
        assert 1 <= one.line <= len(text.splitlines())
