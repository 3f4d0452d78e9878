"""Flask with its defaults, a WSGI application."""

from flask import Flask

app = Flask(__name__)


def serve(method: str, pattern: str, name: str) -> None:
    """Have the handler *name* answer *method* on *pattern*."""

    def handler(**_parts: str) -> tuple[str, dict[str, str]]:
        return name, {"X-Handler": name}

    app.add_url_rule(pattern, name, handler, methods=[method])


serve("GET", "/admin", "admin")
serve("POST", "/admin", "POST admin")
serve("DELETE", "/admin", "DELETE admin")
serve("GET", "/admin/users", "users")
serve("GET", "/panel/", "panel")
serve("GET", "/secret", "secret")
serve("GET", "/orders/<id>/refund", "refund")
serve("GET", "/v1/things:lock", "lock")
