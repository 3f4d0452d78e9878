"""edge. Delivery of the SDK's mails and text messages: off unless configured.

The SDK's own default posts every link to api.supertokens.io; here that is a choice.
A recipe that isn't configured isn't imported here, either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from supertokens_python.ingredients.emaildelivery.types import (
    EmailDeliveryConfig,
    EmailDeliveryInterface,
    SMTPSettings,
    SMTPSettingsFrom,
)
from supertokens_python.ingredients.smsdelivery.types import (
    SMSDeliveryConfig,
    SMSDeliveryInterface,
)

from gateway.config import SmtpConfig
from gateway.events import RuntimeEvent, about

if TYPE_CHECKING:
    from supertokens_python.recipe.passwordless.types import (
        CreateAndSendCustomEmailParameters as LoginMail,
    )
    from supertokens_python.recipe.passwordless.types import (
        CreateAndSendCustomTextMessageParameters as LoginText,
    )

_log = logging.getLogger("gateway.sdk")


class EmailSender(Protocol):
    """Takes what would have been sent, such as a development outbox."""

    async def send(self, kind: str, to: str, link: str) -> None:
        """Take one message.

        *kind* is `password_reset`, `email_verification`, `account_recovery`,
        `passwordless` or `passwordless_sms`; *to* an address or phone number; *link*
        the link. For passwordless it is the link, the code, or both on a line each, as
        the flow has them.
        """
        ...


class Withheld:
    """Sends nothing, and logs that once for each kind of message."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    async def send(self, kind: str, to: str, link: str) -> None:
        """Drop the message; its link is a credential and isn't logged."""
        if kind not in self._said:
            self._said.add(kind)
            _log.warning(
                "a %s message was not sent: supertokens.email_delivery is none",
                kind,
                extra=about(RuntimeEvent.MAIL_WITHHELD, kind=kind),
            )


class _Mail(EmailDeliveryInterface[Any]):
    """Hands a mail of the SDK's to an `EmailSender`."""

    def __init__(
        self, sender: EmailSender, kind: str, read: Callable[[Any], tuple[str, str]]
    ) -> None:
        self._sender = sender
        self._kind = kind
        self._read = read

    # The SDK passes both arguments by name.
    async def send_email(
        self,
        template_vars: Any,
        user_context: dict[str, Any],
    ) -> None:
        to, link = self._read(template_vars)
        await self._sender.send(self._kind, to, link)


class _Text(SMSDeliveryInterface[Any]):
    """Hands a text message of the SDK's to an `EmailSender`."""

    def __init__(self, sender: EmailSender) -> None:
        self._sender = sender

    async def send_sms(
        self,
        template_vars: Any,
        user_context: dict[str, Any],
    ) -> None:
        await self._sender.send(
            "passwordless_sms", template_vars.phone_number, _login(template_vars)
        )


def _login(message: LoginMail | LoginText) -> str:
    """Return the link and the code of a message on a line each; it may lack one."""
    parts = (message.url_with_link_code, message.user_input_code)
    return "\n".join(part for part in parts if part)


class Delivery:
    """The delivery settings of each recipe; None leaves the SDK's own default."""

    def __init__(
        self,
        choice: Literal["none", "supertokens"] | SmtpConfig,
        sender: EmailSender | None,
    ) -> None:
        """*sender*, if given, replaces the delivery of the file."""
        self._sender = Withheld() if sender is None and choice == "none" else sender
        self._smtp: SMTPSettings | None = None
        if isinstance(choice, SmtpConfig):
            self._smtp = SMTPSettings(
                host=choice.host,
                port=choice.port,
                from_=SMTPSettingsFrom(choice.from_name, choice.from_email),
                username=choice.username,
                password=choice.password,
                secure=choice.secure,
            )

    def password_reset(self) -> EmailDeliveryConfig[Any] | None:
        """Return the delivery of emailpassword's reset links."""
        from supertokens_python.recipe import emailpassword

        return self._mail(
            "password_reset",
            lambda mail: (mail.user.email, mail.password_reset_link),
            emailpassword.SMTPService,
        )

    def email_verification(self) -> EmailDeliveryConfig[Any] | None:
        """Return the delivery of emailverification's links."""
        from supertokens_python.recipe import emailverification

        return self._mail(
            "email_verification",
            lambda mail: (mail.user.email, mail.email_verify_link),
            emailverification.SMTPService,
        )

    def account_recovery(self) -> EmailDeliveryConfig[Any] | None:
        """Return the delivery of webauthn's links that recover an account."""
        from supertokens_python.recipe.webauthn.emaildelivery.services.smtp import base

        return self._mail(
            "account_recovery",
            lambda mail: (mail.user.email, mail.recover_account_link),
            base.SMTPService,
        )

    def passwordless_mail(self) -> EmailDeliveryConfig[Any] | None:
        """Return the delivery of passwordless links and codes by mail."""
        from supertokens_python.recipe import passwordless

        return self._mail(
            "passwordless",
            lambda mail: (mail.email, _login(mail)),
            passwordless.SMTPService,
        )

    def passwordless_sms(self) -> SMSDeliveryConfig[Any] | None:
        """Return the delivery of passwordless links and codes by text message.

        A mail server sends no text messages, so with SMTP they are withheld.
        """
        if self._sender is not None:
            return SMSDeliveryConfig(service=_Text(self._sender))
        if self._smtp is not None:
            return SMSDeliveryConfig(service=_Text(Withheld()))
        return None

    def _mail(
        self,
        kind: str,
        read: Callable[[Any], tuple[str, str]],
        smtp_service: Callable[[SMTPSettings], EmailDeliveryInterface[Any]],
    ) -> EmailDeliveryConfig[Any] | None:
        if self._sender is not None:
            return EmailDeliveryConfig(service=_Mail(self._sender, kind, read))
        if self._smtp is not None:
            return EmailDeliveryConfig(service=smtp_service(self._smtp))
        return None
