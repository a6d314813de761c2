"""The one error tree: their fault and our fault are different branches.

``TheirFault`` means that bytes from outside (a guest, a host, an administrator's file) are wrong; it never becomes a 5xx.
``OurFault`` means that the service could not do its work; it never becomes a statement about the realm.
No message of this tree may contain a secret or the bytes of a token.
"""

_LONGEST_TEXT = 8000
"""Characters. Twenty wrong keys of a workload with their reasons fit in half of it."""


class KbsRimError(Exception):
    """Root of every error raised on purpose by kbs_rim.

    Messages quote what was read and what other libraries said of it. They are shown on terminals and pages and stored in logs
    and databases, so what does not print (control characters, halves of surrogate pairs) is escaped here, for all of them, and
    what is as long as a novel is cut.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_presentable(message))


def _presentable(text: str) -> str:
    if len(text) <= _LONGEST_TEXT and text.isprintable():
        return text
    # Escaping makes text longer, never shorter: what stands behind the limit cannot matter.
    characters = text[: _LONGEST_TEXT + 1]
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii") for character in characters
    )
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}..."


class TheirFault(KbsRimError):
    """Input from outside is wrong. ``finding_id`` names the refusal in ``kbs_rim.appraisal.findings``."""

    def __init__(self, finding_id: str, message: str, *, expected: str | None = None, seen: str | None = None) -> None:
        super().__init__(message)
        self.finding_id = finding_id
        self.message = _presentable(message)
        self.expected = None if expected is None else _presentable(expected)
        self.seen = None if seen is None else _presentable(seen)


class MalformedEvidence(TheirFault):
    """The only exception that leaves a parser of evidence (token, log, envelope, device tree, image).

    ``offset`` is the byte position inside the input where the parser stopped, if it knows one.
    """

    def __init__(
        self,
        finding_id: str,
        message: str,
        *,
        offset: int | None = None,
        expected: str | None = None,
        seen: str | None = None,
    ) -> None:
        super().__init__(finding_id, message, expected=expected, seen=seen)
        self.offset = offset

    def __str__(self) -> str:
        return self.message if self.offset is None else f"{self.message} (at byte {self.offset})"


class RefusedKey(TheirFault):
    """A guest's public key that no secret may be sealed to."""


class UnopenableSecret(TheirFault):
    """An answer that is not a secret sealed to our own key; raised on the guest's side only."""


class InvalidDocument(TheirFault):
    """An administrator's document (workload, image record, reference values) that does not validate."""


class RefusedSource(TheirFault):
    """A package, repository, archive or layout that images were to be taken from: damaged, not what it claims, or not safe to read."""


class NotFound(TheirFault):
    """A named thing does not exist, or the caller may not know whether it exists."""


class Conflict(TheirFault):
    """The change contradicts what is registered already."""


class Forbidden(TheirFault):
    """The caller is known but its role does not allow this."""


class OurFault(KbsRimError):
    """The service could not do its work. Says nothing about the realm."""


class ConfigurationError(OurFault):
    """The configuration is wrong; the message names the key and what to write instead."""


class StoreUnavailable(OurFault):
    """The database did not answer, or is not at the schema version this code needs."""


class VerifierUnavailable(OurFault):
    """The external verifier gave no usable answer in time. Callers answer 503 with Retry-After.

    ``retry_after_s`` is a hint in seconds, ``ticket`` names the record of the attempt, once there is one.
    """

    def __init__(self, message: str, *, retry_after_s: int = 5, ticket: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.ticket = ticket


class KeyUnavailable(OurFault):
    """The key-encryption key could not be used."""
