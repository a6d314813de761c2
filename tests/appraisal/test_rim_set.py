"""A workload's RIMs for verifiers that only compare RIMs: what goes in, and what must not."""

import pytest

from kbs_rim.appraisal.corim import read_corim
from kbs_rim.appraisal.corim_document import Entity
from kbs_rim.appraisal.corim_writer import encode_corim
from kbs_rim.appraisal.endorsements import RealmReference
from kbs_rim.appraisal.rim_set import MAX_RIMS, LabelledRim, read_rims, rim_set_corim, rims_of_appraisals
from kbs_rim.appraisal.workload import RealmRules
from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import DEFAULT_LIMITS

RIM, OTHER = b"\x11" * 32, b"\x22" * 32


def labelled(rim=RIM, label="web/2-cpus", **values):
    return LabelledRim(label, RealmReference(rim, **values))


def refused(finding_id, text, call, *arguments):
    with pytest.raises(InvalidDocument) as error:
        call(*arguments)
    assert error.value.finding_id == finding_id
    assert text in str(error.value)


def test_each_label_is_a_comid():
    corim = rim_set_corim([labelled(), labelled(OTHER), labelled(b"\x33" * 32, "web/4-cpus")], entities=(Entity("Acme"),))
    found = read_corim(encode_corim(corim)).corim
    assert found == corim
    assert [(comid.tag_id, len(comid.endorsements.realms)) for comid in found.comids] == [("web/2-cpus", 2), ("web/4-cpus", 1)]


def test_the_same_set_is_the_same_corim():
    assert rim_set_corim([labelled(), labelled(OTHER)]) == rim_set_corim([labelled(), labelled(OTHER), labelled()])
    assert rim_set_corim([labelled()]).id != rim_set_corim([labelled(OTHER)]).id
    assert rim_set_corim([labelled()], corim_id="mine").id == "mine"


def test_one_rim_with_two_meanings_is_refused():
    refused("endorsement.duplicate", "two reference values", rim_set_corim, [labelled(), labelled(rems={0: RIM})])


def test_nothing_and_too_much_are_refused():
    refused("endorsement.unwritable", "1 to 1024", rim_set_corim, [])
    many = [labelled(number.to_bytes(32, "big")) for number in range(MAX_RIMS + 1)]
    refused("endorsement.unwritable", "1 to 1024", rim_set_corim, many)


def test_the_largest_set_can_be_read_again():
    values = {"rems": dict.fromkeys(range(4), b"\x44" * 64), "rpv": b"\x55" * 64}
    many = [labelled(number.to_bytes(64, "big"), **values) for number in range(MAX_RIMS)]
    data = encode_corim(rim_set_corim(many))
    assert len(data) < DEFAULT_LIMITS.endorsement_bytes
    assert len(read_corim(data).corim.endorsements.realms) == MAX_RIMS


# --- from measurements ------------------------------------------------------------------------------------------------


def test_measurements_are_read():
    (one,) = read_rims({"rim": RIM.hex(), "rem": [OTHER.hex(), OTHER.hex()], "operations": 5}, "here")
    assert one == LabelledRim("here", RealmReference(RIM, {0: OTHER, 1: OTHER}))
    (two,) = read_rims({"rim": RIM.hex().upper(), "rem": {"REM3": OTHER.hex()}, "rpv": "0abc", "label": "x"}, "here")
    assert two == LabelledRim("x", RealmReference(RIM, {3: OTHER}, b"\x0a\xbc" + bytes(62)))
    assert [item.label for item in read_rims([{"rim": RIM.hex()}, {"rim": OTHER.hex(), "label": "b"}], "here")] == ["here-1", "b"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "rim is not hexadecimal"),
        ({"rim": "11"}, "32, 48 or 64"),
        ({"rim": 5}, "not hexadecimal"),
        ({"rim": RIM.hex(), "rem": 5}, "neither a list nor"),
        ({"rim": RIM.hex(), "rem": [RIM.hex()] * 5}, "0 to 3"),
        ({"rim": RIM.hex(), "rem": {"pcr": RIM.hex()}}, "0 to 3"),
        ({"rim": RIM.hex(), "rem": ["zz"]}, "a REM is not hexadecimal"),
        ({"rim": RIM.hex(), "rem": ["11" * 64]}, "one length"),
        ({"rim": RIM.hex(), "rpv": "11" * 65}, "64 bytes"),
        ({"rim": RIM.hex(), "label": 5}, "label is not text"),
        ({"rim": RIM.hex(), "label": "a\nb"}, "printable"),
        ([], "1 to 1024"),
        ([5], "not an object"),
        ("text", "not an object"),
    ],
)
def test_measurements_that_are_none(document, text):
    refused("endorsement.malformed", text, read_rims, document, "here")


# --- from a broker's records ------------------------------------------------------------------------------------------


def appraisal(rim=RIM, **changes):
    facts = {"rim": rim.hex(), "rems": [bytes(32).hex()] * 4, "rpv": bytes(64).hex(), "images": ["sha256:a", "sha256:b"]}
    facts |= changes.pop("facts", {})
    return {"verdict": "allowed", "workload": "web", "workload_revision": 2, "facts": facts, **changes}


def seen(*appraisals, rules=None, trusted=("sha256:a", "sha256:b")):
    rims, left_out = rims_of_appraisals(appraisals, "web", rules or RealmRules(), 2, set(trusted))
    return [item.reference for item in rims], left_out


@pytest.mark.parametrize("digest", [32, 48])
def test_a_padded_register_is_not_taken_for_a_sha512(digest):
    """``kbs-rim measure`` prints registers of 64 bytes as text; a verifier would never see such a RIM in a token."""
    document = {"rim": (b"\x11" * digest).ljust(64, b"\0").hex()}
    refused("endorsement.malformed", "padded with zeros", read_rims, document, "label")


def test_what_was_allowed_is_published_once_and_oldest_first():
    references, left_out = seen(appraisal(OTHER), appraisal(), appraisal(OTHER), appraisal())
    assert [reference.rim for reference in references] == [RIM, OTHER]
    assert references[0] == RealmReference(RIM, dict.fromkeys(range(4), bytes(32)), bytes(64))
    assert left_out == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"verdict": "refused"}, "not allowed"),
        ({"workload": "db"}, "not allowed"),
        ({"workload_revision": 1}, "another revision"),
        ({"facts": {"images": ["sha256:a", "sha256:revoked"]}}, "not active any more"),
        ({"facts": {"images": []}}, "not active any more"),
    ],
)
def test_what_is_not_published(changes, reason):
    references, left_out = seen(appraisal(), appraisal(OTHER, **changes))
    assert [reference.rim for reference in references] == [RIM]
    assert len(left_out) == 1
    assert reason in left_out[0]


def test_only_registers_with_one_good_value_are_published():
    rules = RealmRules(rpv="any", rems=("zero", (OTHER.hex(), RIM.hex()), (OTHER.hex(),), "zero"))
    ((reference,), _) = seen(appraisal(facts={"rems": [bytes(32).hex(), RIM.hex(), OTHER.hex(), bytes(32).hex()]}), rules=rules)
    assert reference == RealmReference(RIM, {0: bytes(32), 2: OTHER, 3: bytes(32)}, None)


def test_a_record_that_makes_no_sense():
    with pytest.raises(InvalidDocument, match="record of an appraisal"):
        seen(appraisal(facts={"rems": ["11"]}))
