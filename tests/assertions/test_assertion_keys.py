"""The keys of assertions: read from PEM, named and published."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.assertions.keys import BadAssertionKey, key_set, parse

P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


SECRET = BestAvailableEncryption(b"secret")
PUBLIC = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL]
)
def test_a_key_on_p256_is_read_in_both_forms(form: PrivateFormat) -> None:
    """The one that `gateway keygen` writes, and that of `openssl ecparam -genkey`."""
    key = parse(pem(P256, form))
    assert key.private.private_numbers() == P256.private_numbers()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pem(RSA), "isn't on the curve P-256"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "isn't on the curve P-256"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "isn't on the curve P-256"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "isn't on the curve P-256"),
        (pem(P256, encryption=SECRET), "has a passphrase"),
        (pem(P256, PrivateFormat.TraditionalOpenSSL, SECRET), "has a passphrase"),
        (PUBLIC, "this is a public key"),
        (b"-----BEGIN CERTIFICATE-----\nAA==\n", "this is a public key"),
        (pem(P256) + pem(P256), "more than one private key"),
        (b"", "no private key in PEM form"),
        (b"\xff\xfe", "no private key in PEM form"),
        (pem(P256)[:-40], "no private key in PEM form"),
        (pem(P256).replace(b"M", b"N", 3), "no private key in PEM form"),
    ],
)
def test_other_keys_are_refused(data: bytes, reason: str) -> None:
    """With the reason and a remedy, and nothing of the key."""
    with pytest.raises(BadAssertionKey, match=reason) as caught:
        parse(data)
    assert caught.value.hint
    for line in filter(None, data.splitlines()[1:-1]):
        assert line.decode("latin-1") not in f"{caught.value}{caught.value.hint}"


def test_the_kid_is_the_thumbprint_of_the_public_key() -> None:
    """RFC 7638 §3: SHA-256 over the required members, by name, without blanks."""
    number = int("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721", 16)
    key = parse(pem(ec.derive_private_key(number, ec.SECP256R1())))
    # The key is that of RFC 6979 §A.2.5. Node.js made its thumbprint.
    assert key.x == "YP7UuiVanTHJYet0xjVtaMBJuJI7Yfps5mliLmDyn7Y"
    assert key.y == "eQP-EAi4vJmkGunpVii8ZPLxsgwtfp9Rd6PClNRGIpk"
    assert key.kid == THUMBPRINT


THUMBPRINT = "DOvxvJiAdIqVWIkFt5hDtCunXLF0BV4-JGv4f-ALSm0"


def test_the_key_set_has_the_public_parts_in_order() -> None:
    """A service finds each key by its kid; nothing private is published."""
    keys = [parse(pem(ec.generate_private_key(ec.SECP256R1()))) for _ in range(2)]
    published = json.loads(key_set(keys))["keys"]
    assert [one["kid"] for one in published] == [key.kid for key in keys]
    for one in published:
        assert one.keys() == {"kty", "crv", "x", "y", "use", "alg", "kid"}
        assert (one["kty"], one["crv"], one["alg"]) == ("EC", "P-256", "ES256")
        assert len(one["x"]) == len(one["y"]) == 43
    assert json.loads(key_set(())) == {"keys": []}
    assert "private" not in repr(keys[0]).lower()
