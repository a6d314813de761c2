"""The oracle itself, against chains that TF-RMM's own code computed and against documented values."""

import hashlib
import json
from pathlib import Path

import pytest

from kbs_rim.realm.rim_model import Measurements, RealmHash, RealmParams, RecParams, RmmGeneration

VECTORS = Path(__file__).parent.parent / "vectors" / "rim"
PAGE = 4096


def page_of(seed: int) -> bytes:
    return bytes((((seed * 2654435761 + i * 40503) % 2**32) >> 8) & 0xFF for i in range(PAGE))


def replay(generation: RmmGeneration, operations: list[dict]) -> bytes:
    first = operations[0]
    names = ("flags", "s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs")
    model = Measurements(RealmParams(RealmHash(first["hash_algo"]), *(first[name] for name in names)))
    for step in operations[1:]:
        match step["op"]:
            case "data_create" if step["measured"]:
                model.measured_data(step["ipa"], page_of(step["page_seed"]))
            case "data_create":
                model.unmeasured_data(step["ipa"])
            case "rec_create":
                model.rec(RecParams(step["flags"], step["pc"], tuple(step["gprs"])))
            case "ripas_entry":
                assert generation is RmmGeneration.V1
                model.ripas(step["base"], step["top"])
    return model.rim


@pytest.mark.parametrize("generation", list(RmmGeneration))
def test_chains_of_tf_rmm(generation):
    cases = json.loads((VECTORS / f"rmm{generation.value}.json").read_text())["cases"]
    assert cases
    for number, case in enumerate(cases):
        assert replay(generation, case["operations"]).hex() == case["rim"], number


@pytest.mark.parametrize(
    ("bps", "wps", "rim"),
    [
        (1, 1, "6739dfb22b75ee1268d08dfa8369f501bc0b066243553f069f560d1fa1172973"),
        (5, 3, "8960d56826370aaa6fc9b3a041d4240689582ba41e2ad8bb8f9adf6d2a0cd5e7"),
    ],
)
def test_documented_create_values(bps, wps, rim):
    assert Measurements(RealmParams(RealmHash.SHA256, 0, 48, 0, bps, wps)).rim.hex() == rim


def test_the_rpv_is_not_measured():
    one, two = (Measurements(RealmParams(RealmHash.SHA256, 0, 48, 0, 1, 1, 0, rpv * 64)).rim for rpv in (b"\0", b"r"))
    assert one == two


def test_documented_rem_value():
    model = Measurements(RealmParams(RealmHash.SHA256, 0, 48))
    model.extend(1, hashlib.sha256(b"FW CONTENT").digest())
    assert model.rems[0].hex() == "f3decba632ca2d1697fdd19174bb357ba997bf19a611ee303ba85c3331f7d8bf"
    assert model.rems[1:] == (bytes(32),) * 3


@pytest.mark.parametrize(("index", "size"), [(0, 32), (5, 32), (1, 65)])
def test_rsi_error_input(index, size):
    with pytest.raises(ValueError, match="RSI_ERROR_INPUT"):
        Measurements(RealmParams(RealmHash.SHA256, 0, 48)).extend(index, bytes(size))
