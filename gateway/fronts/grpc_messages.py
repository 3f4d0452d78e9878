"""PURE. The messages of `envoy.service.auth.v3.Authorization`, as far as they are used.

They are described here, and made by the protobuf library: the package with all of
Envoy's messages (xds-protos) overwrites files of opentelemetry-proto with older ones,
so it can't be installed beside the extra `otel`. Fields that aren't listed are skipped
by every reader (protobuf's encoding), and none of them changes what is asked.

Source: envoy/service/auth/v3/external_auth.proto and attribute_context.proto,
envoy/config/core/v3/base.proto and address.proto, google/rpc/status.proto.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

METHOD: Final = b"/envoy.service.auth.v3.Authorization/Check"

_PACKAGE: Final = "supertokens_gateway"
_KINDS: Final = {"string": 9, "bytes": 12, "int32": 5, "enum": 5, "bool": 8}
"""Types by name, with protobuf's numbers. On the wire, an enum is an int32."""

# Message → its fields: name, number, and the type or another message; `*` repeats.
_MESSAGES: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "SocketAddress": (("address", 2, "string"),),
    "Address": (("socket_address", 1, "SocketAddress"),),
    "Peer": (("address", 1, "Address"),),
    "HeaderValue": (("key", 1, "string"), ("value", 2, "string"), ("raw", 3, "bytes")),
    "HeaderMap": (("headers", 1, "*HeaderValue"),),
    # An entry of a map is a message with these two fields.
    "HeadersEntry": (("key", 1, "string"), ("value", 2, "string")),
    "HttpRequest": (
        ("method", 2, "string"),
        ("headers", 3, "*HeadersEntry"),
        ("header_map", 13, "HeaderMap"),
        ("path", 4, "string"),
        ("host", 5, "string"),
        ("scheme", 6, "string"),
    ),
    "Request": (("http", 2, "HttpRequest"),),
    "AttributeContext": (("source", 1, "Peer"), ("request", 4, "Request")),
    "CheckRequest": (("attributes", 1, "AttributeContext"),),
    "BoolValue": (("value", 1, "bool"),),
    "HeaderValueOption": (
        ("header", 1, "HeaderValue"),
        ("append", 2, "BoolValue"),
        ("append_action", 3, "enum"),
        ("keep_empty_value", 4, "bool"),
    ),
    "HttpStatus": (("code", 1, "enum"),),
    "Status": (("code", 1, "int32"), ("message", 2, "string")),
    "DeniedHttpResponse": (
        ("status", 1, "HttpStatus"),
        ("headers", 2, "*HeaderValueOption"),
        ("body", 3, "string"),
    ),
    "OkHttpResponse": (
        ("headers", 2, "*HeaderValueOption"),
        ("headers_to_remove", 5, "*string"),
        ("response_headers_to_add", 6, "*HeaderValueOption"),
    ),
    "CheckResponse": (
        ("status", 1, "Status"),
        ("denied_response", 2, "DeniedHttpResponse"),
        ("ok_response", 3, "OkHttpResponse"),
    ),
}


def _made() -> dict[str, Any]:
    """Return the class of each message, in a pool that no other package shares."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            simple = _KINDS.get(kind.lstrip("*"))
            made = message.field.add(
                name=field,
                number=number,
                label=3 if kind.startswith("*") else 1,
                type=simple or 11,
            )
            if simple is None:
                made.type_name = f".{_PACKAGE}.{kind.lstrip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
        )
        for name in _MESSAGES
    }


_CLASSES: Final = _made()
CheckRequest: Final = _CLASSES["CheckRequest"]
CheckResponse: Final = _CLASSES["CheckResponse"]
