"""edge. TLS towards clients: certificates, contexts, and files that change.

`certificates` (pure) reads a certificate and its key, and finds the one for a name.
`contexts` makes the TLS contexts of an address from its files, or says what is wrong
with them. `store` loads them again when the files change.
"""

from gateway.tls.certificates import Certificate, subject_of
from gateway.tls.contexts import BadTls, ServerTls, findings, load, warnings
from gateway.tls.store import CertificateStore, stores_of, watching

__all__ = [
    "BadTls",
    "Certificate",
    "CertificateStore",
    "ServerTls",
    "findings",
    "load",
    "stores_of",
    "subject_of",
    "warnings",
    "watching",
]
