"""PURE. Header fields in both directions: to the upstream, and back to the client.

Fields are filtered, never rewritten: those that no rule names are forwarded byte for
byte and in order. The gateway's own fields are added at the end, after every rule that
could remove them.

Facts that the rules rest on
- A reader may fold names: CGI, WSGI and PHP read `X_User_Id`, and some `X.User.Id`, as
  `X-User-Id`. So names are compared with every character but letters and digits read
  as `-`, and names with such characters don't pass unless the route lists them.
- `Connection` may name any field to be removed (RFC 9110 §7.6.1). It is obeyed for the
  client's fields, before the gateway adds its own.
- A filter that reads other bytes than the forwarded ones can be bypassed; values are
  decoded to be examined, never to be sent.

`names` has the rule of each name, `cookies` and `attach` (identity fields) handle
values, `forwarded` the peer, `trace_context` the trace, `public_urls` redirects;
`filters` combines them.
"""

from gateway.headers.attach import (
    MAX_IDENTITY_BYTES,
    HeaderPolicy,
    IdentityTooLarge,
    escaped,
    identity_fields,
    names_of,
    policy,
)
from gateway.headers.cookies import without_session_cookies
from gateway.headers.edits import Edits, compile_edits
from gateway.headers.filters import (
    reply_rules,
    request_id,
    request_rules,
    session_cookies,
    to_client,
    to_upstream,
)
from gateway.headers.forwarded import (
    UNIX_PEER,
    ForwardedCache,
    ForwardedFields,
    Networks,
)
from gateway.headers.hash_by import HashBy
from gateway.headers.names import (
    ASSERTION_NAME,
    HAS_TRACE,
    IDENTITY_NAMES,
    SETS_SESSION,
    SHADOW_NAME,
    Reserved,
    fold,
    reserved,
)
from gateway.headers.public_urls import MapPolicy, Public, authority
from gateway.headers.trace_context import (
    InboundPolicy,
    Sampler,
    Traces,
    span_id,
    trace_id,
)

__all__ = [
    "ASSERTION_NAME",
    "HAS_TRACE",
    "IDENTITY_NAMES",
    "MAX_IDENTITY_BYTES",
    "SETS_SESSION",
    "SHADOW_NAME",
    "UNIX_PEER",
    "Edits",
    "ForwardedCache",
    "ForwardedFields",
    "HashBy",
    "HeaderPolicy",
    "IdentityTooLarge",
    "InboundPolicy",
    "MapPolicy",
    "Networks",
    "Public",
    "Reserved",
    "Sampler",
    "Traces",
    "authority",
    "compile_edits",
    "escaped",
    "fold",
    "identity_fields",
    "names_of",
    "policy",
    "reply_rules",
    "request_id",
    "request_rules",
    "reserved",
    "session_cookies",
    "span_id",
    "to_client",
    "to_upstream",
    "trace_id",
    "without_session_cookies",
]
