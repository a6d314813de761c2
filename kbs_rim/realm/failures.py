"""What can go wrong on the attester's side.

``AttesterRefused`` means that somebody said no and asking again does not help (exit code 1); everything else of the tree is
"could not do it" (exit code 2). No message holds a secret.
"""

from kbs_rim.errors import KbsRimError


class AttesterRefused(KbsRimError):
    """The broker refused the guest, or the guest refuses the broker. ``code`` is stable and meant for scripts.

    ``ticket`` names the appraisal in the broker's database, if the broker gave one.
    """

    def __init__(self, code: str, message: str, *, ticket: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.ticket = ticket


class BrokerRefused(AttesterRefused):
    """The broker answered with a 4xx problem document."""


class BrokerNotTrusted(AttesterRefused):
    """The guest refuses to go on: what answers is not the broker that it asked, or does not behave like it."""


class BrokerUnavailable(KbsRimError):
    """No usable answer from the broker before the deadline."""


class EvidenceUnavailable(KbsRimError):
    """This machine gave no evidence: not a realm, no driver, or the RMM failed."""


class SimulationFailed(KbsRimError):
    """The VM cannot be built as asked; the message says which step the simulated RMM or host refused."""


class RmmRefused(SimulationFailed):
    """The RMM model returned an error; ``status`` is the name of the RMI return code."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
