"""A simulated platform on disk, and its endorsements as a verifier reads them."""

import json
import stat

import cbor2
import pytest

from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.errors import InvalidDocument
from kbs_rim.realm.platform_identity import PlatformIdentity

NOW = 1_795_000_000


@pytest.fixture(scope="module", params=["P-256", "P-384"])
def identity(request):
    return PlatformIdentity.generate(request.param)


def test_saved_for_its_owner_only_and_read_back(identity, tmp_path):
    path = tmp_path / "platform.json"
    identity.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = PlatformIdentity.load(path)
    assert again.to_document() == identity.to_document()
    with pytest.raises(FileExistsError):
        identity.save(path)


def test_the_private_key_does_not_show(identity):
    assert "PRIVATE" not in repr(identity)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"format": "kbs-rim simulated platform v1"}', b"\xff"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "platform.json"
    path.write_bytes(damage)
    with pytest.raises(InvalidDocument):
        PlatformIdentity.load(path)


def test_platforms_of_one_model_share_firmware_but_not_identity():
    one, two = PlatformIdentity.generate(), PlatformIdentity.generate()
    assert one.components == two.components
    assert one.implementation_id == two.implementation_id
    assert one.instance_id != two.instance_id
    assert PlatformIdentity.generate(model="another").implementation_id != one.implementation_id


def check(identity, endorsements, *, anchors=True, references=True):
    assert len(endorsements.trust_anchors) == int(anchors)
    assert len(endorsements.platforms) == int(references)
    for anchor in endorsements.trust_anchors:
        assert (anchor.implementation_id, anchor.instance_id) == (identity.implementation_id, identity.instance_id)
        assert anchor.key.public_numbers() == identity.cpak.public_key().public_numbers()
    for platform in endorsements.platforms:
        assert platform.implementation_id == identity.implementation_id
        assert platform.config == identity.config
        seen = [(part.digest, part.signer_id, part.measurement_type) for part in platform.components]
        assert seen == [(part.measurement, part.signer_id, part.name) for part in identity.components]


@pytest.mark.parametrize(("anchors", "references"), [(True, True), (True, False), (False, True)])
def test_corim_is_read_by_the_verifier(identity, anchors, references):
    corim = identity.corim(trust_anchor=anchors, reference_values=references)
    check(identity, parse_endorsements(corim, at=NOW), anchors=anchors, references=references)


def test_corim_is_deterministically_encoded_and_new_every_time(identity):
    corim = identity.corim()
    assert cbor2.dumps(cbor2.loads(corim), canonical=True) == corim
    assert identity.corim() != corim


def test_comid_in_json_is_read_by_the_verifier(identity):
    check(identity, parse_endorsements(json.dumps(identity.comid_json()).encode(), at=NOW))
