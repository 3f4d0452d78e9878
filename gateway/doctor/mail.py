"""edge. A visit to the mail server, as the SDK makes one, without a mail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import smtplib
import socket
import ssl

from gateway.config import SmtpConfig
from gateway.doctor.judgments import MailFacts
from gateway.doctor.threads import in_thread


async def visit(
    smtp: SmtpConfig, *, timeout_s: float, context: ssl.SSLContext | None = None
) -> MailFacts:
    """Return what came of it. *context* None trusts the system's authorities."""
    trust = context or ssl.create_default_context()
    try:
        async with asyncio.timeout(timeout_s):
            return await in_thread(lambda: _visit(smtp, trust, timeout_s))
    except TimeoutError:
        return MailFacts(trouble=f"no answer within {timeout_s:g} s")
    except smtplib.SMTPAuthenticationError as error:
        why = f"it refuses the user name or password ({error.smtp_code})"
        return MailFacts(trouble=why)
    except smtplib.SMTPException as error:
        return MailFacts(trouble=f"it doesn't do as expected ({type(error).__name__})")
    except ssl.SSLCertVerificationError as error:
        return MailFacts(trouble=f"its certificate: {error.verify_message}")
    except UnicodeError:
        return MailFacts(trouble="its name isn't a name")
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or "closed"
        if isinstance(error, socket.gaierror):
            why = error.strerror or "unknown name"
        return MailFacts(trouble=why)


def _visit(smtp: SmtpConfig, context: ssl.SSLContext, timeout_s: float) -> MailFacts:
    """Connect and sign in; never sends the password without TLS."""
    name = "localhost"  # the default would look up this machine's name
    server: smtplib.SMTP
    if smtp.secure:
        server = smtplib.SMTP_SSL(
            smtp.host, smtp.port, name, timeout=timeout_s, context=context
        )
    else:
        server = smtplib.SMTP(smtp.host, smtp.port, name, timeout=timeout_s)
    with contextlib.closing(server):
        is_encrypted = smtp.secure
        server.ehlo_or_helo_if_needed()
        if not smtp.secure and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo_or_helo_if_needed()
            is_encrypted = True
        signs_in = bool(smtp.password) and is_encrypted
        if signs_in:
            # As the SDK does: without a user name, it is the sender's address.
            server.login(smtp.username or smtp.from_email, smtp.password or "")
        with contextlib.suppress(smtplib.SMTPException, OSError):
            server.quit()
        return MailFacts(is_encrypted=is_encrypted, has_signed_in=signs_in)
