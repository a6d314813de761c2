"""Signing CoRIMs and trusting signatures: against pycose, the public samples, and every way in which a signature is not good enough."""

import base64
import json
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pycose.keys import EC2Key
from pycose.keys.curves import P256, P384, P521
from pycose.messages import Sign1Message

from kbs_rim.appraisal.corim import read_corim, verify_corim
from kbs_rim.appraisal.corim_document import Comid, Corim, Profile
from kbs_rim.appraisal.corim_signature import Signer, SignerKey, sign_corim, verify_signature
from kbs_rim.appraisal.corim_writer import encode_corim
from kbs_rim.appraisal.endorsements import Endorsements, RealmReference
from kbs_rim.errors import InvalidDocument

AT = 1_790_000_000
KEYS = {
    name: ec.derive_private_key(4711, curve)
    for name, curve in (("P-256", ec.SECP256R1()), ("P-384", ec.SECP384R1()), ("P-521", ec.SECP521R1()))
}
COSE_CURVES = {"P-256": P256, "P-384": P384, "P-521": P521}
CORIM = encode_corim(
    Corim(id="corim", profile=Profile.REALM, comids=(Comid(tag_id="r", endorsements=Endorsements(realms=(RealmReference(b"\x11" * 32),))),))
)


def certificate(subject, key, issuer=None, issuer_key=None, *, authority=True):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    issued_by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or subject)])
    moment = datetime.fromtimestamp(AT, UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issued_by).public_key(key.public_key()).serial_number(4)
    builder = builder.not_valid_before(moment - timedelta(days=1)).not_valid_after(moment + timedelta(days=365))
    signing_key = issuer_key or key
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    return builder.add_extension(identifier, critical=False).sign(signing_key, hashes.SHA256())


ROOT_KEY = ec.derive_private_key(99, ec.SECP256R1())
ROOT = certificate("root", ROOT_KEY)


def signer(curve="P-256", **options):
    return Signer(**{"key": KEYS[curve], "name": "Acme", **options})


def chained(**options):
    return signer(chain=(certificate("leaf", KEYS["P-256"], "root", ROOT_KEY, authority=False),), **options)


def refused(data, finding_id="endorsement.signature", text="", **options):
    with pytest.raises(InvalidDocument) as error:
        verify_corim(data, **{"at": AT, **options})
    assert error.value.finding_id == finding_id
    assert text in str(error.value)


@pytest.mark.parametrize("curve", KEYS)
def test_pycose_verifies_what_is_signed(curve):
    data = sign_corim(CORIM, signer(curve, kid=b"key 1"))
    protected, unprotected, *others = cbor2.loads(data).value
    message = Sign1Message.from_cose_obj([protected, dict(unprotected), *others], True)
    numbers = KEYS[curve].public_key().public_numbers()
    size = (KEYS[curve].curve.key_size + 7) // 8
    message.key = EC2Key(crv=COSE_CURVES[curve], x=numbers.x.to_bytes(size, "big"), y=numbers.y.to_bytes(size, "big"))
    assert message.verify_signature()
    assert message.payload == CORIM
    found = verify_corim(data, keys=(SignerKey("ours", KEYS[curve].public_key()),), at=AT)
    assert (found.signature.signer, found.signature.kid, found.payload) == ("Acme", b"key 1", CORIM)
    assert found.signature.algorithm_name == {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[curve]


@pytest.mark.parametrize("curve", KEYS)
def test_the_same_content_and_key_give_the_same_bytes(curve):
    assert sign_corim(CORIM, signer(curve)) == sign_corim(CORIM, signer(curve))


def test_a_public_sample_signed_again_has_the_same_signed_content(vectors):
    """Its header and payload, byte for byte; the signature was random."""
    data = (vectors / "corim/generated/realm-full-validity.signed.cose").read_bytes()
    found = read_corim(data)
    jwk = json.loads((vectors / "corim/keys/endEntity.jwk").read_bytes())
    private = ec.derive_private_key(int.from_bytes(base64.urlsafe_b64decode(jwk["d"] + "=="), "big"), ec.SECP256R1())
    theirs = found.signature
    ours = sign_corim(
        found.payload,
        Signer(
            key=private, name=theirs.signer, chain=theirs.chain, kid=theirs.kid, not_before=theirs.not_before, not_after=theirs.not_after
        ),
    )
    assert ours[:-64] == data[:-64]
    assert ours[-64:] != data[-64:]


def test_the_protected_header_is_what_veraison_wants():
    data = sign_corim(CORIM, chained(uri="https://acme.example", not_before=AT - 5, not_after=AT + 5))
    tagged = cbor2.loads(data)
    header = cbor2.loads(tagged.value[0])
    assert tagged.tag == 18
    assert list(header) == [1, 3, 8, 33]
    assert (header[1], header[3], tagged.value[1]) == (-7, "application/rim+cbor", {})
    assert isinstance(header[33], bytes)
    meta = cbor2.loads(header[8])
    assert meta[0][0] == "Acme"


def test_a_chain_is_followed_to_the_root():
    found = verify_corim(sign_corim(CORIM, chained()), roots=(ROOT,), at=AT)
    assert verify_signature(found.signature, roots=(ROOT,), at=AT) == "CN=leaf"


def test_a_key_is_enough_beside_an_unrelated_root():
    other = certificate("other root", KEYS["P-384"])
    verify_corim(sign_corim(CORIM, chained()), roots=(other,), keys=(SignerKey("k", KEYS["P-256"].public_key()),), at=AT)


def test_unsigned_is_refused_where_a_signature_is_demanded():
    refused(CORIM, text="not signed", roots=(ROOT,))


def test_nothing_to_check_with_is_a_failure():
    refused(sign_corim(CORIM, chained()), text="no root certificate or key was given")


def test_wrong_key():
    refused(sign_corim(CORIM, signer()), text="under a given key", keys=(SignerKey("other", ROOT_KEY.public_key()),))


def test_key_of_another_curve():
    refused(sign_corim(CORIM, signer()), keys=(SignerKey("other", KEYS["P-384"].public_key()),))


def test_chain_to_another_root():
    refused(sign_corim(CORIM, chained()), text="lead to a given root", roots=(certificate("root", KEYS["P-384"]),))


def test_signed_without_a_certificate():
    refused(sign_corim(CORIM, signer()), text="no signing certificate", roots=(ROOT,))


def test_a_certificate_that_is_not_an_authority_signs_no_certificates():
    middle_key = KEYS["P-384"]
    middle = certificate("middle", middle_key, "root", ROOT_KEY, authority=False)
    leaf = certificate("leaf", KEYS["P-256"], "middle", middle_key, authority=False)
    refused(sign_corim(CORIM, signer(chain=(leaf, middle))), text="lead to a given root", roots=(ROOT,))


def test_certificates_expire():
    refused(sign_corim(CORIM, chained()), roots=(ROOT,), at=AT + 400 * 86400)


@pytest.mark.parametrize("at", [AT - 6, AT + 6])
def test_outside_the_signatures_validity(at):
    data = sign_corim(CORIM, chained(not_before=AT - 5, not_after=AT + 5))
    refused(data, "endorsement.validity", roots=(ROOT,), at=at)
    verify_corim(data, roots=(ROOT,), at=AT)


@pytest.mark.parametrize("part", [0, 2, 3])
def test_changed_bytes(part):
    tagged = cbor2.loads(sign_corim(CORIM, chained()))
    parts = list(tagged.value)
    parts[part] = parts[part].replace(b"Acme", b"Acne") if part == 0 else parts[part][:-1] + bytes([parts[part][-1] ^ 1])
    refused(cbor2.dumps(cbor2.CBORTag(18, parts)), text="does not verify", roots=(ROOT,))


def test_the_certificate_in_the_unprotected_header_does_not_count():
    """Whoever passes the file on could put one there."""
    tagged = cbor2.loads(sign_corim(CORIM, signer()))
    header, _, payload, signature = tagged.value
    leaf = certificate("leaf", KEYS["P-256"], "root", ROOT_KEY, authority=False)
    moved = [header, {33: leaf.public_bytes(Encoding.DER)}, payload, signature]
    refused(cbor2.dumps(cbor2.CBORTag(18, moved)), text="no signing certificate", roots=(ROOT,))


def with_header(**changes):
    tagged = cbor2.loads(sign_corim(CORIM, signer()))
    header = {**cbor2.loads(tagged.value[0]), **{int(name[1:]): value for name, value in changes.items()}}
    header = {key: value for key, value in header.items() if value is not None}
    return cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps(header), {}, *tagged.value[2:]]))


@pytest.mark.parametrize(
    ("changes", "finding_id", "text"),
    [
        ({"_1": -8}, "endorsement.signature", "an algorithm other than"),
        ({"_3": "application/cbor"}, "endorsement.malformed", "content type"),
        ({"_8": "text"}, "endorsement.malformed", "not a byte string"),
        ({"_8": cbor2.dumps([])}, "endorsement.malformed", "is not a map"),
        ({"_8": cbor2.dumps({0: {0: 5}})}, "endorsement.malformed", "not text"),
        ({"_8": cbor2.dumps({0: {0: "x"}, 1: {0: 5}})}, "endorsement.malformed", "tag 1"),
        ({"_8": b"\xff"}, "endorsement.malformed", "CBOR"),
        ({"_33": []}, "endorsement.signature", "not 1 to 8"),
        ({"_33": [b"x"] * 9}, "endorsement.signature", "not 1 to 8"),
        ({"_33": [1]}, "endorsement.signature", "not 1 to 8"),
        ({"_33": b"no certificate"}, "endorsement.signature", "malformed"),
    ],
)
def test_bad_headers(changes, finding_id, text):
    with pytest.raises(InvalidDocument) as error:
        read_corim(with_header(**changes))
    assert error.value.finding_id == finding_id
    assert text in str(error.value)


def test_a_certificate_of_a_version_that_does_not_exist():
    """Found by the fuzzer: cryptography says so with an exception of its own."""
    leaf = certificate("leaf", KEYS["P-256"]).public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert leaf.count(version) == 1
    with pytest.raises(InvalidDocument, match="malformed"):
        read_corim(with_header(_33=leaf.replace(version, bytes.fromhex("a003020105"))))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key": ec.derive_private_key(5, ec.SECP256K1())}, "P-256, P-384 or P-521"),
        ({"chain": (ROOT,)}, "not the signing key's"),
        ({"chain": (certificate("me", KEYS["P-256"]),) * 9}, "at most 8"),
        ({"chain": (certificate("leaf", KEYS["P-256"], "root", ROOT_KEY), certificate("root", KEYS["P-384"]))}, "is not signed by CN=root"),
        ({"chain": (certificate("leaf", KEYS["P-256"], "root", ROOT_KEY), certificate("other", ROOT_KEY))}, "is not signed by CN=other"),
        ({"name": ""}, "name"),
        ({"uri": "a\nb"}, "URI"),
        ({"kid": b""}, "key id"),
        ({"not_before": AT}, "has an end"),
        ({"not_before": AT, "not_after": AT - 1}, "ends before"),
    ],
)
def test_what_nobody_can_sign_with(options, text):
    with pytest.raises(ValueError, match=text):
        signer(**options)
