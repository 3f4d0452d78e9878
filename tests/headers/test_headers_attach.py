"""Identity fields: the meaning of templates, and the encoding of claims (A12, A13)."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.headers import (
    IDENTITY_NAMES,
    MAX_IDENTITY_BYTES,
    IdentityTooLarge,
    policy,
)
from gateway.headers.attach import identity_fields
from gateway.identity import SessionIdentity

many = settings(max_examples=300, deadline=None)  # may be slow on a busy machine


def identity(**changes: Any) -> SessionIdentity:
    facts: dict[str, Any] = {
        "user_id": "8d2f1c34-0000-4000-8000-1234567890ab",
        "recipe_user_id": "8d2f1c34-0000-4000-8000-1234567890ab",
        "session_handle": "5c1e2d3f-0000-4000-8000-abcdefabcdef",
        "tenant_id": "public",
        "claims": {},
        "expires_at": 0.0,
    }
    return SessionIdentity(**(facts | changes))


def written(
    who: SessionIdentity, headers: dict[str, str] | None = None
) -> dict[str, str]:
    """Return the fields of the block by name; each name must occur once."""
    headers = headers or {}
    *lines, end = identity_fields(who, policy(headers)).decode("ascii").split("\r\n")
    assert end == ""
    got = dict(line.split(": ", 1) for line in lines)
    assert len(got) == len(lines)
    assert got.keys() <= {*IDENTITY_NAMES, *headers}
    return got


def claim(value: Any) -> str | None:
    return written(identity(claims={"c": value}), {"X-C": "{claims.c}"}).get("X-C")


def test_standard_fields() -> None:
    """Every verified request has these fields.

    Roles only if the token has the claim.
    """
    assert written(identity()) == {
        "X-Auth-Status": "authenticated",
        "X-User-Id": "8d2f1c34-0000-4000-8000-1234567890ab",
        "X-Session-Handle": "5c1e2d3f-0000-4000-8000-abcdefabcdef",
        "X-Tenant-Id": "public",
    }


def test_recipe_user_id_is_sent_when_it_differs() -> None:
    """The recipe user id is sent if it differs, as with linked accounts."""
    assert written(identity(recipe_user_id="other"))["X-Recipe-User-Id"] == "other"


def test_roles_and_permissions_are_sorted_lists() -> None:
    """Roles and permissions are read from `{"v": [...], "t": ...}` and sorted."""
    got = written(
        identity(
            claims={
                "st-role": {"v": ["seller", "admin"], "t": 1},
                "st-perm": {"v": [], "t": 1},
            }
        )
    )
    assert got["X-User-Roles"] == "admin,seller"
    assert got["X-User-Permissions"] == ""


@pytest.mark.parametrize(
    "roles",
    [None, "admin", {}, {"v": "admin"}, {"v": {"admin": 1}}, ["admin"]],
    ids=json.dumps,
)
def test_roles_of_another_shape_are_absent(roles: Any) -> None:
    """A roles claim of any other shape gives no roles field."""
    assert "X-User-Roles" not in written(identity(claims={"st-role": roles}))


def test_roles_that_are_no_text_are_left_out() -> None:
    """Roles that are no strings are omitted."""
    claims = {"st-role": {"v": [1, "admin", None, ["x"]]}}
    assert written(identity(claims=claims))["X-User-Roles"] == "admin"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{claims.plan}", "pro"),
        ("{claims.org.id}", "7"),
        ("org-{claims.org.id}/{user_id}", "org-7/u"),
        ("{recipe_user_id} {session_handle} {tenant_id}", "r h t"),
        ("just text, 100%", "just text, 100%"),
        ("", ""),
        ("{claims.nothing}", None),
        ("{claims.org.nothing}", None),
        ("{claims.plan.deeper}", None),
        ("{claims.null}", None),
        ("a{claims.nothing}b", None),
    ],
)
def test_template(template: str, text: str | None) -> None:
    """A template is text with placeholders.

    If one has no value, the field is omitted (A2).
    """
    who = identity(
        user_id="u",
        recipe_user_id="r",
        session_handle="h",
        tenant_id="t",
        claims={"plan": "pro", "org": {"id": 7}, "null": None},
    )
    assert written(who, {"X-Extra": template}).get("X-Extra") == text


def test_route_may_redefine_a_standard_name() -> None:
    """A route that sets a standard name replaces its value and spelling.

    It is sent once.
    """
    got = written(identity(claims={"id": "42"}), {"x-user-id": "{claims.id}"})
    assert got["x-user-id"] == "42"
    assert "X-User-Id" not in got


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("with space", "with space"),
        ("", ""),
        (" both ends  ", "%20both ends%20%20"),
        ("a@e.com@corp.com", "a@e.com@corp.com"),
        ("50%", "50%25"),
        ("a%2Cb", "a%252Cb"),
        ("a,b", "a,b"),
        ("é", "%C3%A9"),
        ("🔑", "%F0%9F%94%91"),
        ("a\r\nX-Role: admin", "a%0D%0AX-Role: admin"),
        ("\x00\t\x7f", "%00%09%7F"),
        ("\ud800", "%ED%A0%80"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1.5, "1.5"),
        (["a,b", "c"], "a%2Cb,c"),
        (["b", " a ", "%"], "b,%20a%20,%25"),
        ([1, True, None, {"k": 1}], '1,true,null,{"k":1}'),
        ([[1, 2]], "[1%2C2]"),
        ([], ""),
        ({"k": ["é", "%"]}, '{"k":["\\u00e9","%25"]}'),
    ],
    ids=ascii,
)
def test_claim_is_written_as_one_visible_ascii_value(value: Any, text: str) -> None:
    """A12, A13: a claim is one visible-ASCII value; percent-decoding restores it."""
    assert claim(value) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=6,
)


@many
@given(value=json_values, text=st.text())
def test_property_any_claim_makes_a_safe_value(value: Any, text: str) -> None:
    """Any claim gives a reversible value of visible ASCII with inner spaces only."""
    got = claim(value)
    assert (got is None) == (value is None)
    if got is not None:
        assert re.fullmatch(r"([!-~]([ -~]*[!-~])?)?", got)
    assert unquote(claim(text) or "") == text


@many
@given(st.lists(st.text(min_size=1), min_size=1))
def test_property_list_elements_stay_apart(names: list[str]) -> None:
    """A13: splitting at commas and decoding restores the list; roles are sorted."""
    assert [unquote(part) for part in (claim(names) or "").split(",")] == names
    roles = written(identity(claims={"st-role": {"v": names}}))["X-User-Roles"]
    assert [unquote(part) for part in roles.split(",")] == sorted(names)


def test_too_large_identity_is_refused() -> None:
    """A12: an oversized identity is refused with 431, as truncation would alter it."""
    room = MAX_IDENTITY_BYTES - sum(
        len(name) + len(value) for name, value in written(identity()).items()
    )
    fits = "x" * (room - len("X-C"))
    headers = {"X-C": "{claims.c}"}
    assert written(identity(claims={"c": fits}), headers)["X-C"] == fits
    with pytest.raises(IdentityTooLarge) as caught:
        written(identity(claims={"c": fits + "x"}), headers)
    assert caught.value.status == 431


def test_fields_are_made_once_for_an_identity_and_a_policy() -> None:
    """The block is made once for each identity and policy.

    An identity keeps 8 at most.
    """
    who = identity(claims={"c": "x"})
    one = policy({"X-C": "{claims.c}"})
    first = identity_fields(who, one)
    assert identity_fields(who, one) is first
    for i in range(20):
        identity_fields(who, policy({"X-C": f"{i}"}))
        assert len(who.written) <= 8
    assert identity_fields(who, one) == first


def test_equal_policies_are_one() -> None:
    """Routes with equal header policies share one object, and so its cached results."""
    assert policy({"X-A": "{user_id}"}) is policy({"X-A": "{user_id}"})
    assert policy({}) is not policy({}, forward_credentials=True)
    assert policy({}, allow_field_names=["X_A"]).allowed == {b"x_a"}


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"X User": ""}, "letters, digits"),
        ({"X_User": ""}, "letters, digits"),
        ({"": ""}, "letters, digits"),
        ({"X-Ü": ""}, "letters, digits"),
        ({"X-A\r\n": ""}, "letters, digits"),
        ({"Host": ""}, "another meaning"),
        ({"content-length": ""}, "another meaning"),
        ({"Connection": ""}, "another meaning"),
        ({"Cookie": ""}, "another meaning"),
        ({"Authorization": ""}, "another meaning"),
        ({"Content-Type": ""}, "another meaning"),
        ({"Set-Cookie": ""}, "another meaning"),
        ({"X-Auth-Status": ""}, "another meaning"),
        ({"X-Forwarded-For": ""}, "another meaning"),
        ({"X-Forwarded-Proto": ""}, "another meaning"),
        ({"X-Request-Id": ""}, "another meaning"),
        ({"st-access-token": ""}, "another meaning"),
        ({"Access-Control-Allow-Origin": ""}, "another meaning"),
        ({"X-A": "{user}"}, "is unknown"),
        ({"X-A": "{claims}"}, "is unknown"),
        ({"X-A": "{claims.}"}, "is unknown"),
        ({"X-A": "{claims.a..b}"}, "is unknown"),
        ({"X-A": "{}"}, "is unknown"),
        ({"X-A": "{claims.a b}"}, "is unknown"),
        ({"X-A": " {user_id}"}, "a blank"),
        ({"X-A": "{user_id"}, "brace"),
        ({"X-A": "user_id}"}, "brace"),
        ({"X-A": "{{user_id}}"}, "brace"),
        ({"X-A": "é"}, "printable ASCII"),
        ({"X-A": "a\nb"}, "printable ASCII"),
    ],
    ids=str,
)
def test_bad_identity_header_is_an_error(headers: dict[str, str], problem: str) -> None:
    """A route can't set a name with another meaning, nor use an unknown placeholder."""
    with pytest.raises(ValueError, match=re.escape(problem)):
        policy(headers)


@pytest.mark.parametrize(
    "name", ["X-Forwarded-User", "x-forwarded-email", "Remote-User"]
)
def test_names_of_other_gateways_may_be_set(name: str) -> None:
    """A route may set the identity names of other proxies that services expect."""
    assert written(identity(user_id="u"), {name: "{user_id}"})[name] == "u"


@pytest.mark.parametrize(
    "name", ["", "a b", "X:A", "X_User_Id", "x.user.id", "Content_Length", "Host"]
)
def test_bad_allowed_name_is_an_error(name: str) -> None:
    """A3: a route can't allow-list another spelling of an identity name."""
    with pytest.raises(ValueError, match=r"field name|another spelling"):
        policy({}, allow_field_names=[name])
