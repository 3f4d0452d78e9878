"""edge. supertokens-gateway, a reverse proxy that verifies SuperTokens sessions."""

__version__ = "0.1.0"
