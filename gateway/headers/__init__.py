"""PURE. Header fields on their way through: to the upstream, and back to the client.

Fields are filtered, never rewritten: what no rule names goes through byte for byte
and in order. What the gateway states itself is added at the end, after everything
that could remove it.

Facts that the rules rest on
- A reader may fold names: CGI, WSGI and PHP read `X_User_Id`, and some `X.User.Id`, as
  `X-User-Id`. So names are compared with every character but letters and digits read
  as `-`, and names with such characters don't pass unless the route lists them.
- `Connection` may name any field to be removed (RFC 9110 §7.6.1). It is obeyed for
  what the client sent, and before the gateway adds anything of its own.
- A filter that reads other bytes than the ones that are forwarded can be walked
  around; values are decoded to be looked at, never to be sent.

`names` says which rule a name falls under, `cookies` and `attach` (identity fields)
know values, `forwarded` the peer; `filters` puts them together.
"""

from gateway.headers.attach import (
    MAX_IDENTITY_BYTES,
    HeaderPolicy,
    IdentityTooLarge,
    policy,
)
from gateway.headers.cookies import without_session_cookies
from gateway.headers.filters import (
    reply_rules,
    request_id,
    request_rules,
    session_cookies,
    to_client,
    to_upstream,
)
from gateway.headers.forwarded import ForwardedCache, ForwardedFields, Networks
from gateway.headers.names import (
    IDENTITY_NAMES,
    SETS_SESSION,
    Reserved,
    fold,
    reserved,
)

__all__ = [
    "IDENTITY_NAMES",
    "MAX_IDENTITY_BYTES",
    "SETS_SESSION",
    "ForwardedCache",
    "ForwardedFields",
    "HeaderPolicy",
    "IdentityTooLarge",
    "Networks",
    "Reserved",
    "fold",
    "policy",
    "reply_rules",
    "request_id",
    "request_rules",
    "reserved",
    "session_cookies",
    "to_client",
    "to_upstream",
    "without_session_cookies",
]
