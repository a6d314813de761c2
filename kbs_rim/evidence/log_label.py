"""What a guest says about a log that it sends: its format, and what its register numbers count.

The numbering decides which register an event extended, and a log's bytes do not tell (PCR 3 is REM1, measurement register 3 is REM2);
so a label always has one, either because the format counts one kind only or because the label says so: ``cc``, but ``cel-tlv.mr``.
Like everything a guest says it is a claim: a wrong one ends in a log that replays to other registers.
"""

from dataclasses import dataclass
from typing import Final

from kbs_rim.evidence.event_log import REGISTERS_OF, LogFormat, RegisterKind
from kbs_rim.evidence.log_reader import CEL_FORMATS
from kbs_rim.evidence.tcg_log import LogKind

_FIXED: Final = {**{LogFormat(kind.value): registers for kind, registers in REGISTERS_OF.items()}, LogFormat.IMA: RegisterKind.PCR}
_CHOICES: Final = (RegisterKind.MR, RegisterKind.PCR)
_ORDER: Final = {log_format: place for place, log_format in enumerate(LogFormat)}


@dataclass(frozen=True, slots=True)
class LogLabel:
    """Format and numbering of a log. Raises ``ValueError`` for a numbering that the format does not have."""

    format: LogFormat
    registers: RegisterKind

    def __post_init__(self) -> None:
        fixed = _FIXED.get(self.format)
        if self.registers is not fixed if fixed else self.registers not in _CHOICES:
            raise ValueError(f"a {self.format} log does not count {self.registers} registers")

    @property
    def value(self) -> str:
        """The text form: the format, and the numbering where the format leaves it open."""
        return self.format.value if self.format in _FIXED or self == AAEL else f"{self.format.value}.{self.registers.value}"

    @property
    def place(self) -> int:
        """Where logs of this format stand among others."""
        return _ORDER[self.format]

    def __str__(self) -> str:
        return self.value


def label_of(kind: "LogLabel | LogKind | LogFormat") -> LogLabel:
    """Return the label of a format that needs no numbering said. Raises ``ValueError`` for a canonical event log."""
    return kind if isinstance(kind, LogLabel) else parse_label(kind.value)


def parse_label(text: str, registers: str | None = None) -> LogLabel:
    """Read a label's text form, or a format with its numbering apart. Raises ``ValueError`` for anything else.

    A canonical event log without a numbering is refused: nothing is guessed. ``aael`` alone counts measurement registers, as the
    attestation agent of Confidential Containers writes them.
    """
    name, dot, said = text.partition(".")
    if dot and registers is not None:
        raise ValueError("the numbering is said twice")
    log_format = LogFormat(name)
    numbering = said if dot else registers
    if numbering is None:
        if log_format in CEL_FORMATS:
            raise ValueError(f"what the register numbers of a {log_format} log count must be said")
        return LogLabel(log_format, _FIXED.get(log_format, RegisterKind.MR))
    if log_format in _FIXED:
        raise ValueError(f"a {log_format} log counts one kind of registers, which is not said")
    return LogLabel(log_format, RegisterKind(numbering))


AAEL: Final = LogLabel(LogFormat.AAEL, RegisterKind.MR)
LABELS: Final = tuple(
    LogLabel(log_format, registers)
    for log_format in LogFormat
    for registers in ((_FIXED[log_format],) if log_format in _FIXED else _CHOICES)
)
"""Every label there is."""
