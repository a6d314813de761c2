"""Numbers with their nouns."""

import pytest

from kbs_rim.cli.wording import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 RIMs"), (1, "1 RIM"), (2, "2 RIMs")])
def test_a_noun_takes_an_s_unless_there_is_one(count, text):
    assert counted(count, "RIM") == text
