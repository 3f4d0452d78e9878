"""Who a request is from: `X-Identity-Assertion`, checked. pip install "pyjwt[crypto]"

JWKS_URL=… ISSUER=… AUDIENCE=orders python verify.py ASSERTION…
"""

import json
import os
import sys

import jwt

# Kept for five minutes. An unknown key is looked for at once.
KEYS = jwt.PyJWKClient(os.environ["JWKS_URL"], lifespan=300, timeout=5)


def identity(assertion: str) -> dict:
    """Return the claims of an assertion, or raise jwt.PyJWTError."""
    decoded = jwt.decode_complete(
        assertion,
        KEYS.get_signing_key_from_jwt(assertion).key,
        algorithms=["ES256"],
        issuer=os.environ["ISSUER"],
        audience=os.environ["AUDIENCE"],
        leeway=5,
        options={"require": ["iss", "aud", "sub", "iat", "exp"]},
    )
    if decoded["header"].get("typ") != "gateway-identity+jwt":
        raise jwt.InvalidTokenError("another kind of token")
    return decoded["payload"]


if __name__ == "__main__":
    for assertion in sys.argv[1:]:
        try:
            print(json.dumps(identity(assertion)))
        except jwt.PyJWTError as error:
            print(f"refused: {error}")
