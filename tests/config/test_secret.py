"""What is shown of a configuration: everything but the values of secret keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway.admin import views
from gateway.config import Config, parse
from gateway.config.secret import REDACTED, secret_keys, shown
from gateway.routes import compile as compile_routes

NAMES = re.compile("secret|password|token|(api|private|signing).?key|credential")
NOT_SECRET = {
    ("AdminConfig", "token_file"): "a path",
    ("DecisionConfig", "new_tokens"): "whether they are given to clients",
    ("DefaultsConfig", "forward_credentials"): "whether they are forwarded",
    ("GroupConfig", "forward_credentials"): "whether they are forwarded",
    ("RouteConfig", "forward_credentials"): "whether they are forwarded",
    ("SuperTokensConfig", "token_transfer_method"): "a way to send one",
    ("SuperTokensConfig", "use_dynamic_signing_key"): "whether there is one",
}
"""Keys whose names look like those of secrets: (model, key) → why they aren't."""

SECRET = st.text("abcdefgh0123456789", min_size=12, max_size=20).map("s3cr3t-{}".format)


def models(annotation: object, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield all models that *annotation* mentions."""
    if (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and annotation not in seen
    ):
        seen.add(annotation)
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation, seen)
    for part in get_args(annotation):
        yield from models(part, seen)


def test_a_key_with_the_name_of_a_secret_is_marked() -> None:
    """A new key that looks like a secret must be marked, or listed with the reason."""
    named = {
        (model.__name__, key)
        for model in models(Config, set())
        for key in model.model_fields
        if NAMES.search(key) and (model, key) != (Config, "supertokens")
    }
    marked = {
        (model.__name__, key)
        for model in models(Config, set())
        for key in secret_keys(model)
    }
    assert named - marked == NOT_SECRET.keys()
    assert {("SuperTokensConfig", "api_key"), ("SmtpConfig", "password")} <= marked


@given(values=st.lists(SECRET, min_size=9, max_size=9, unique=True), seed=st.integers())
def test_no_secret_is_shown(values: list[str], seed: int) -> None:
    """No value of a secret key occurs in what is shown, in no part of it.

    Names are, and so is what isn't secret.
    """
    config = parse(with_secrets(values, seed))
    parts = views.describe(config, compile_routes(config))
    text = "".join(views.unpack(part) for part in parts.values())
    for value in values:
        assert value not in text
    for name in (
        "api_key",
        "clientSecret",
        "X-Key",
        "x-match",
        "thirdPartyId",
        "mail.test",
    ):
        assert name in text
    hashed = json.loads(views.unpack(parts["config"]))["hash"]
    others = parse(with_secrets([value[::-1] for value in values], seed))
    assert hashed == views.hash_of(shown(others))  # it can't be used to guess them


def with_secrets(values: list[str], seed: int) -> dict[str, Any]:
    """Return a configuration that has *values* at every kind of secret key."""
    key, password, secret, sent, added, matched, query, group, service = values
    edits = {"headers": {"set": {"X-Key": sent}, "add": {"X-More": added}}}
    return {
        "version": 1,
        "gateway": {"drain_timeout": 1 + seed % 100},
        "supertokens": {
            "api_key": key,
            "email_delivery": {
                "host": "mail.test",
                "username": "me",
                "password": password,
                "from_email": "a@b.test",
            },
            "recipes": {
                "emailpassword": {},
                "thirdparty": {
                    "providers": [
                        {
                            "thirdPartyId": "google",
                            "clients": [{"clientId": "id", "clientSecret": secret}],
                        }
                    ]
                },
            },
        },
        "defaults": {"request": {"headers": {"set": {"X-Default": sent}}}},
        "services": {
            "up": {
                "targets": ["http://127.0.0.1:1"],
                "request": {"headers": {"set": {"X-Service": service}}},
            }
        },
        "routes": [
            {
                "path": "/a",
                "service": "up",
                "protected": False,
                "request": edits,
                "match": {"headers": {"X-Match": matched}, "query": {"q": [query]}},
            }
        ],
        "groups": [
            {
                "path": "/g",
                "service": "up",
                "protected": False,
                "request": {"headers": {"set": {"X-Group": group}}},
                "routes": [{"path": "/b"}],
            }
        ],
    }


def test_only_values_are_left_out() -> None:
    """The names of recipes and fields help; whether something is set does, too."""
    config = parse(with_secrets(["s3cr3t"] * 9, 0))
    settings = shown(config)
    assert settings["supertokens"]["api_key"] == REDACTED
    assert settings["supertokens"]["recipes"]["emailpassword"] == {}
    assert settings["routes"][0]["match"]["query"] == {"q": [REDACTED]}
    without = shown(parse({"version": 1, "routes": []}))
    assert without["supertokens"]["api_key"] is None
