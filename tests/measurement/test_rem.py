"""Extending a REM."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.rem import extend_rem
from kbs_rim.realm.rim_model import Measurements, RealmHash, RealmParams


def test_documented_vector():
    """vmm-platforms 1.10: one extend of a zero register with SHA-256("FW CONTENT")."""
    value = extend_rem(HashAlgorithm.SHA256, bytes(32), hashlib.sha256(b"FW CONTENT").digest())
    assert value.hex() == "f3decba632ca2d1697fdd19174bb357ba997bf19a611ee303ba85c3331f7d8bf"


@given(st.sampled_from(list(HashAlgorithm)), st.lists(st.binary(max_size=64), min_size=1, max_size=4))
def test_chains_equal_those_of_the_modelled_rmm(algorithm, values):
    model = Measurements(RealmParams(RealmHash(algorithm.compact_name), 0, 40))
    register = bytes(algorithm.digest_size)
    for value in values:
        model.extend(2, value)
        register = extend_rem(algorithm, register, value)
    assert register == model.rems[1]


def test_short_and_padded_values_differ():
    """The reference tool pads the value to 64 bytes and forgets the old register; both must show."""
    zero = bytes(32)
    once = extend_rem(HashAlgorithm.SHA256, zero, b"x")
    assert once != extend_rem(HashAlgorithm.SHA256, zero, b"x".ljust(64, b"\0"))
    assert extend_rem(HashAlgorithm.SHA256, once, b"x") != once
    assert extend_rem(HashAlgorithm.SHA256, zero, b"") == hashlib.sha256(zero).digest()


@pytest.mark.parametrize(("old", "value"), [(bytes(31), b""), (bytes(64), b""), (b"", b""), (bytes(32), bytes(65))])
def test_wrong_lengths(old, value):
    with pytest.raises(ValueError, match="bytes"):
        extend_rem(HashAlgorithm.SHA256, old, value)
