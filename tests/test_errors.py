"""The error tree: what is said about hostile input can be shown to anybody."""

import pytest

from kbs_rim.errors import ConfigurationError, InvalidDocument, MalformedEvidence, TheirFault, VerifierUnavailable
from kbs_rim.realm.failures import BrokerNotTrusted

HOSTILE = "a\x1b[2J\nb\x7f\u202e\ud800\U000e0001c"
SHOWN = r"a\x1b[2J\nb\x7f\u202e\ud800\U000e0001c"


@pytest.mark.parametrize(
    "error",
    [
        MalformedEvidence("cbor.text", HOSTILE),
        InvalidDocument("document.workload", HOSTILE),
        ConfigurationError(HOSTILE),
        VerifierUnavailable(HOSTILE),
        BrokerNotTrusted("guest.answer", HOSTILE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_terminal_escapes_in_a_message_are_escaped(error):
    assert str(error) == SHOWN
    assert getattr(error, "message", SHOWN) == SHOWN


def test_what_was_expected_and_seen_is_escaped_too():
    error = InvalidDocument("endorsement.malformed", "x", expected=HOSTILE, seen=HOSTILE)
    assert (error.expected, error.seen) == (SHOWN, SHOWN)


def test_a_novel_is_cut():
    error = InvalidDocument("document.workload", "x" * 1_000_000, seen="y" * 8000)
    assert str(error) == error.message == "x" * 8000 + "..."
    assert error.seen == "y" * 8000
    assert len(str(ConfigurationError("\x1b" * 8000))) == 8003


def test_printable_text_stays_as_it_is():
    text = "Größe „4 KiB“ \\x1b 中 (at byte 3)"
    error = TheirFault("cbor.text", text, expected=None, seen=text)
    assert (str(error), error.message, error.expected, error.seen) == (text, text, None, text)
