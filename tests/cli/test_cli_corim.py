"""``kbs-rim corim``: make, show, sign, verify, submit, publish, describe, export, import."""

import asyncio
import base64
import json
import time
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, PublicFormat

from kbs_rim.appraisal.corim import parse_corim, read_corim
from kbs_rim.appraisal.corim_document import Comid, Corim, Profile
from kbs_rim.appraisal.corim_writer import encode_corim
from kbs_rim.appraisal.image_reference import ImageReference
from kbs_rim.appraisal.workload import Role
from kbs_rim.evidence import base64url
from kbs_rim.measurement.image import measure_image
from kbs_rim.realm.simulator import SimulatedRealm
from tests.appraisal.test_corim_signature import ROOT, chained
from tests.broker_stage import VMS, Site, expect, register_image
from tests.cli_broker import run
from tests.http.test_guest_honest_path import OldClient
from tests.http.test_guest_without_log import NAME, ask, furnish
from tests.pe_builder import uki
from tests.stage import Stage

VECTORS = Path(__file__).parent.parent / "vectors"
CORIMS = VECTORS / "corim"
SOURCES = CORIMS / "services-head/src"
IMAGES = VECTORS / "vmm/images"
RIM, REM = "11" * 32, "22" * 32


def good(capsys, *arguments):
    code, out, err = run(capsys, "corim", *map(str, arguments))
    assert code == 0, err
    return out


def bad(capsys, code, text, *arguments):
    found, out, err = run(capsys, "corim", *map(str, arguments))
    assert (found, out) == (code, "")
    assert text in err


def private_pem(key, password=None):
    protection = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


@pytest.fixture
def keys(tmp_path):
    """A signing key, its public half, and the same key with a chain to a root."""
    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "pub.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return tmp_path


# --- make and show ----------------------------------------------------------------------------------------------------


def test_veraisons_templates_give_veraisons_bytes(capsys, tmp_path):
    out = tmp_path / "x.cbor"
    templates = [SOURCES / "comid-cca-platform-refval.json", SOURCES / "comid-cca-platform-ta.json"]
    identity = "00000000-0000-0000-cca6-0000000000001"
    report = good(capsys, "make", *templates, "--template", SOURCES / "corim-cca-platform.json", "--id", identity, "-o", out)
    assert out.read_bytes() == (CORIMS / "services-head/corim-cca-platform-valid.cbor").read_bytes()
    assert report == f"{out}: corim {identity}, 1 trust anchor, 1 platform\n"


def test_a_rim_from_the_command_line(capsys, tmp_path):
    out = tmp_path / "x.cbor"
    options = ["--rim", RIM, "--rem", REM, "--rem", f"3={REM}", "--rpv", "0abc", "--label", "web", "--entity", "Acme=https://acme.example"]
    report = json.loads(good(capsys, "make", *options, "--days", 30, "-o", out, "--json"))
    corim = read_corim(out.read_bytes()).corim
    (realm,) = corim.endorsements.realms
    assert (realm.rim.hex(), {number: value.hex() for number, value in realm.rems.items()}) == (RIM, {0: REM, 3: REM})
    assert realm.rpv == b"\x0a\xbc" + bytes(62)
    assert (corim.comids[0].tag_id, corim.entities[0].name, corim.entities[0].uri) == ("web", "Acme", "https://acme.example")
    assert 29 * 86400 < corim.not_after - time.time() < 31 * 86400
    assert report["id"] == str(corim.id)
    assert report["realms"] == 1


def test_the_same_content_twice_is_the_same_file(capsys, tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        good(capsys, "make", "--rim", RIM, "--not-after", "2030-01-01", "-o", file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_measurements_and_stores_and_toml(capsys, tmp_path):
    measured = tmp_path / "two-cpus.json"
    measured.write_text(json.dumps({"rim": RIM, "rem": [REM] * 4, "dtb_sha256": "x"}))
    toml = tmp_path / "realm.toml"
    toml.write_text(
        '[tag-identity]\nid = "from-toml"\n[[triples.reference-values]]\n'
        '[triples.reference-values.environment.class]\nid = {type = "bytes", value = "' + "MzMz" * 10 + 'MzM="}\n'
        '[[triples.reference-values.measurements]]\nkey = {type = "string", value = "cca.rim"}\n'
        'value = {digests = [[1, "' + "MzMz" * 10 + 'MzM="]]}\n'
    )
    store = tmp_path / "rv.json"
    store.write_text(json.dumps({"realm": [{"initial-measurement": "44" * 48}]}))
    template = tmp_path / "head.toml"
    head = 'corim-id = "head"\n[validity]\nnot-after = 2031-01-01T00:00:00Z\n[[entities]]\nname = "Me"\nroles = ["manifestCreator"]\n'
    template.write_text(head)
    out = tmp_path / "x.cbor"
    good(capsys, "make", measured, toml, store, "--template", template, "-o", out)
    corim = read_corim(out.read_bytes()).corim
    assert {str(comid.tag_id) for comid in corim.comids} == {"two-cpus", "from-toml", "rv"}
    assert {realm.rim.hex() for realm in corim.endorsements.realms} == {RIM, "33" * 32, "44" * 48}
    assert (corim.id, corim.not_after, corim.entities[0].name) == ("head", 1924992000, "Me")


def test_a_store_of_trust_anchors(capsys, tmp_path):
    out = tmp_path / "x.cbor"
    good(capsys, "make", VECTORS / "tokens/endorsements/trustee-tastore.json", "-o", out)
    assert len(read_corim(out.read_bytes()).corim.endorsements.trust_anchors) == 1


def test_other_forms(capsys, tmp_path):
    comid = json.loads(good(capsys, "make", "--rim", RIM, "--format", "comid-json"))
    assert comid["triples"]["reference-values"][0]["measurements"][0]["key"] == {"type": "string", "value": "cca.rim"}
    store = json.loads(good(capsys, "make", "--rim", RIM, "--rem", REM, "--format", "ccatoken-store"))
    assert store == {"platform": [], "realm": [{"initial-measurement": RIM, "extensible-measurements": [REM]}]}
    template = VECTORS / "tokens/endorsements/realm-measurements-comid-cca-realm.json"
    legacy = json.loads(good(capsys, "make", "--rim", RIM, "--format", "legacy-comid", "--comid-template", template))
    assert legacy["triples"]["reference-values"][0]["environment"]["class"]["vendor"] == "Workload Client Ltd"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 64, "nothing to make"),
        (["--rem", REM], 64, "belong to --rim"),
        (["--rim", RIM, "--rem", "1=22", "--rem", "1=33"], 64, "twice"),
        (["--rim", RIM, "--rem", "7=22"], 1, "0 to 3"),
        (["--rim", "zz"], 1, "not hexadecimal"),
        (["--rim", RIM, "--days", "1", "--not-after", "2030-01-01"], 64, "give one"),
        (["--rim", RIM, "--not-after", "soon"], 64, "2026-11-23T12:00:00Z"),
        (["--rim", RIM, "--not-before", "2030-01-01"], 1, "has an end"),
        (["--rim", RIM, "--entity", "=x"], 64, "printable text"),
        (["--rim", RIM, SOURCES / "comid-cca-platform-ta.json"], 1, "different profiles"),
        (["--rim", RIM, "--template", SOURCES / "corim-cca-platform.json"], 1, "another profile"),
        ([SOURCES / "comid-cca-realm-bad-no-rim.json"], 1, "comid-cca-realm-bad-no-rim.json: RIM (cca.rim) measurement is mandatory"),
        ([VECTORS / "tokens/endorsements/rust-ccatoken-rv.json"], 1, "different profiles"),
        (["--rim", RIM, "--comid-template", SOURCES / "comid-cca-platform-ta.json"], 64, "is for --format legacy-comid"),
    ],
)
def test_what_cannot_be_made(capsys, arguments, code, text):
    bad(capsys, code, text, "make", *arguments)


def test_a_measurement_that_says_two_things_is_refused(capsys, tmp_path):
    file = tmp_path / "m.json"
    file.write_text(f'{{"rim": "{RIM}", "rim": "{REM}"}}')
    bad(capsys, 1, "m.json", "make", file)


def test_show_for_people(capsys):
    out = good(capsys, "show", CORIMS / "generated/realm-full-validity.signed.cose")
    for part in ("cca_realm", "2026-01-01T00:00:00Z to 2036-01-01", "NOT VERIFIED", "CN=Acme Gizmo CoRIM signer", "43" * 64, "REM3", "RPV"):
        assert part in out
    assert "none: it is worth" in good(capsys, "show", CORIMS / "services-head/corim-cca-platform-valid.cbor")


def test_show_verifies_with_what_is_given(capsys):
    file, root = CORIMS / "generated/realm-full-validity.signed.cose", CORIMS / "keys/corimCA.crt"
    document = json.loads(good(capsys, "show", file, "--root", root, "--json"))
    assert document["signature"]["verified_by"] == "CN=Acme Gizmo CoRIM signer"
    assert document["comids"][0]["realms"][0]["rpv"] == b"ADAD".hex() * 16
    assert "verified by" in good(capsys, "show", file, "--key", CORIMS / "keys/endEntity.der", "--root", root)


@pytest.mark.parametrize("path", sorted((CORIMS / "services-head").glob("*-bad-*.cbor")), ids=lambda path: path.stem)
def test_bad_corims_are_refused_with_a_reason(capsys, path):
    code, out, err = run(capsys, "corim", "show", str(path))
    assert (code, out) == (1, "")
    assert err.startswith("kbs-rim: endorsement.")


def test_a_hostile_corim_cannot_write_to_the_terminal(capsys, tmp_path):
    good(capsys, "make", "--rim", RIM, "-o", tmp_path / "x.cbor")
    data = (tmp_path / "x.cbor").read_bytes().replace(b"realm", b"re\x1b[m", 1)
    (tmp_path / "x.cbor").write_bytes(data)
    code, out, err = run(capsys, "corim", "show", str(tmp_path / "x.cbor"))
    assert "\x1b" not in out + err
    assert code == 1


# --- sign and verify --------------------------------------------------------------------------------------------------


@pytest.fixture
def unsigned(capsys, tmp_path):
    good(capsys, "make", "--rim", RIM, "-o", tmp_path / "x.cbor")
    return tmp_path / "x.cbor"


def test_sign_and_verify_with_a_key(capsys, keys, unsigned):
    signed = keys / "x.cose"
    code, out, err = run(capsys, "corim", "sign", str(unsigned), "--key", str(keys / "key.pem"), "--signer", "Acme", "-o", str(signed))
    assert (code, out) == (0, f"{signed}: signed by Acme\n")
    assert "Veraison will not take it" in err
    assert good(capsys, "verify", signed, "--key", keys / "pub.pem").startswith("valid: ")
    again = keys / "y.cose"
    run(capsys, "corim", "sign", str(unsigned), "--key", str(keys / "key.pem"), "--signer", "Acme", "-o", str(again))
    assert again.read_bytes() == signed.read_bytes()


def test_sign_with_a_jwk_and_a_chain(capsys, keys, unsigned):
    signer = chained()
    numbers = signer.key.private_numbers()
    fields = {"x": numbers.public_numbers.x, "y": numbers.public_numbers.y, "d": numbers.private_value}
    jwk = {"kty": "EC", "crv": "P-256", **{name: base64url.encode(value.to_bytes(32, "big")) for name, value in fields.items()}}
    (keys / "key.jwk").write_text(json.dumps(jwk))
    (keys / "key.jwk").chmod(0o600)
    (keys / "leaf.pem").write_bytes(signer.chain[0].public_bytes(Encoding.PEM))
    (keys / "root.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    signed = keys / "x.cose"
    options = ["--key", keys / "key.jwk", "--certificate", keys / "leaf.pem", "--signer", "Acme", "--signer-uri", "https://acme.example"]
    assert run(capsys, "corim", "sign", str(unsigned), *map(str, options), "--kid", "k1", "-o", str(signed))[2] == ""
    found = read_corim(signed.read_bytes()).signature
    assert (found.signer, found.signer_uri, found.kid, len(found.chain)) == ("Acme", "https://acme.example", b"k1", 1)
    assert parse_corim(signed.read_bytes(), roots=(ROOT,), at=1_790_000_000).realms[0].rim.hex() == RIM


def test_keys_that_cannot_sign(capsys, keys, unsigned):
    def refused(text, *arguments):
        bad(capsys, 2, text, "sign", unsigned, "--signer", "x", *arguments)

    (keys / "locked.pem").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    (keys / "rsa.pem").write_bytes(private_pem(rsa.generate_private_key(65537, 2048)))
    (keys / "odd.pem").write_bytes(private_pem(ec.generate_private_key(ec.SECP256K1())))
    (keys / "text").write_text("no key")
    (keys / "half.jwk").write_text('{"kty": "EC", "crv": "P-256"}')
    (keys / "leaf.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    refused("protected by a password", "--key", keys / "locked.pem")
    refused("not an EC key", "--key", keys / "rsa.pem")
    refused("P-256, P-384 or P-521", "--key", keys / "odd.pem")
    refused("not a private key", "--key", keys / "text")
    refused("not a private key", "--key", keys / "half.jwk")
    refused("not a private key", "--key", keys / "pub.pem")
    refused("is published", "--key", CORIMS / "keys/endEntity.jwk")
    refused("not the signing key's", "--key", keys / "key.pem", "--certificate", keys / "leaf.pem")
    refused("not a certificate", "--key", keys / "key.pem", "--certificate", keys / "text")


def test_a_key_that_others_can_read_is_said(capsys, keys, unsigned):
    (keys / "key.pem").chmod(0o644)
    code, _, err = run(capsys, "corim", "sign", str(unsigned), "--key", str(keys / "key.pem"), "--signer", "x", "-o", str(keys / "o"))
    assert code == 0
    assert "chmod 600" in err


def test_signed_twice_is_refused(capsys, keys):
    bad(
        capsys,
        1,
        "signed already",
        "sign",
        CORIMS / "generated/realm-full-validity.signed.cose",
        "--key",
        keys / "key.pem",
        "--signer",
        "x",
    )


def test_verify_refuses(capsys, keys, unsigned):
    signed, expired = keys / "x.cose", keys / "old.cose"
    good(capsys, "sign", unsigned, "--key", keys / "key.pem", "--signer", "x", "-o", signed)
    bad(capsys, 64, "nothing to verify with", "verify", signed)
    bad(capsys, 1, "not signed", "verify", unsigned, "--key", keys / "pub.pem")
    bad(capsys, 1, "endorsement.signature", "verify", signed, "--root", CORIMS / "keys/corimCA.crt")
    (keys / "bent.cose").write_bytes(signed.read_bytes()[:-1] + bytes([signed.read_bytes()[-1] ^ 1]))
    bad(capsys, 1, "under a given key", "verify", keys / "bent.cose", "--key", keys / "pub.pem")
    good(capsys, "sign", unsigned, "--key", keys / "key.pem", "--signer", "x", "--not-after", "2025-01-01", "-o", expired)
    bad(capsys, 1, "endorsement.validity", "verify", expired, "--key", keys / "pub.pem")
    good(capsys, "make", "--rim", RIM, "--not-after", "2025-01-01", "-o", keys / "stale.cbor")
    good(capsys, "sign", keys / "stale.cbor", "--key", keys / "key.pem", "--signer", "x", "-o", expired)
    bad(capsys, 1, "the CoRIM is outside its validity", "verify", expired, "--key", keys / "pub.pem")


# --- images -----------------------------------------------------------------------------------------------------------


def test_images_go_from_one_broker_to_another(broker, capsys, keys):
    described, signed = keys / "images.cbor", keys / "images.cose"
    kernel, initrd = IMAGES / "linux.bin.gz", IMAGES / "initrd.bin"
    said = good(capsys, "describe", "--image", f"kernel={kernel}", "--image", f"initrd={initrd}", "--entity", "Acme", "-o", described)
    assert said == f"{described}: 2 images\n"
    good(capsys, "sign", described, "--key", keys / "key.pem", "--signer", "Acme Images", "-o", signed)
    ids = [measure_image(path.read_bytes()).image_id for path in (kernel, initrd)]
    out = good(capsys, "import", signed, "--key", keys / "pub.pem", "--dry-run")
    assert out == f"{ids[0]} linux.bin.gz\n{ids[1]} initrd.bin\n"
    assert run(capsys, "image", "show", ids[0])[0] == 1
    assert good(capsys, "import", signed, "--key", keys / "pub.pem") == out
    shown = json.loads(run(capsys, "image", "show", ids[0], "--json")[1])
    words = {name: shown["provenance"][name] for name in ("corim-signer", "corim-signer-says")}
    assert words == {"corim-signer": str(keys / "pub.pem"), "corim-signer-says": "Acme Images"}
    assert (shown["roles"], shown["compression"]) == (["kernel"], "gzip")
    exported = keys / "again.cbor"
    report = json.loads(good(capsys, "export", *ids, "-o", exported, "--json"))
    assert report["images"] == ids
    again = read_corim(exported.read_bytes()).corim
    assert [image.measurements for image in again.images] == [measure_image(path.read_bytes()) for path in (kernel, initrd)]
    assert again.images[0].provenance["corim-signer-says"] == "Acme Images"


def test_images_are_not_imported_on_anybodys_word(broker, capsys, keys):
    described, signed, summary = keys / "i.cbor", keys / "i.cose", keys / "s.cbor"
    good(capsys, "describe", "--image", f"initrd={IMAGES / 'initrd.bin'}", "-o", described)
    good(capsys, "sign", described, "--key", keys / "key.pem", "--signer", "x", "-o", signed)
    bad(capsys, 64, "whose word is it", "import", signed)
    bad(capsys, 1, "not signed", "import", described, "--key", keys / "pub.pem")
    realm = CORIMS / "generated/realm-full-validity.signed.cose"
    bad(capsys, 1, "not a CoRIM of images", "import", realm, "--root", CORIMS / "keys/corimCA.crt")
    good(capsys, "describe", "--summary", "--image", f"initrd={IMAGES / 'initrd.bin'}", "-o", summary)
    good(capsys, "sign", summary, "--key", keys / "key.pem", "--signer", "x", "-o", signed)
    bad(capsys, 1, "granule digests are missing", "import", signed, "--key", keys / "pub.pem")
    assert json.loads(run(capsys, "image", "list", "--json")[1]) == {"images": []}


def test_a_signer_does_not_choose_what_was_checked_or_by_whom(broker, capsys, keys):
    """Whoever has a trusted key may sign anything, but what it says of keys and chains must not read as if it was checked here."""
    claims = {"signed-by": "the archive's key", "corim-signer": "Debian", "package": "linux"}
    image = ImageReference(measure_image((IMAGES / "initrd.bin").read_bytes()), "an initrd", (Role.INITRD,), claims)
    comid = Comid(tag_id="i", images=(image,))
    (keys / "i.cbor").write_bytes(encode_corim(Corim(id="x", profile=Profile.IMAGE, comids=(comid,))))
    good(capsys, "sign", keys / "i.cbor", "--key", keys / "key.pem", "--signer", "Debian", "-o", keys / "i.cose")
    good(capsys, "import", keys / "i.cose", "--key", keys / "pub.pem")
    shown = json.loads(run(capsys, "image", "show", image.measurements.image_id, "--json")[1])["provenance"]
    assert shown == {
        "corim": "x",
        "corim-signer": str(keys / "pub.pem"),
        "corim-signer-says": "Debian",
        "corim-says-signed-by": "the archive's key",
        "corim-says-corim-signer": "Debian",
        "corim-says-package": "linux",
    }


def test_attack_a_signer_gives_a_trusted_image_the_digests_of_another_program(broker, capsys, keys):
    """Workloads name the image already; with the Authenticode digests of another program it would stand for that one too."""
    path = IMAGES / "initrd.bin"
    added = run(capsys, "image", "add", str(path), "--name", "an initrd", "--role", "initrd")[1].strip()
    another = measure_image(uki((".linux", b"evil kernel"), (".cmdline", b"init=/bin/sh"))).pe
    image = ImageReference(replace(measure_image(path.read_bytes()), pe=another), "an initrd", (Role.INITRD, Role.BOOT_LOADER))
    comid = Comid(tag_id="i", images=(image,))
    (keys / "i.cbor").write_bytes(encode_corim(Corim(id="x", profile=Profile.IMAGE, comids=(comid,))))
    good(capsys, "sign", keys / "i.cbor", "--key", keys / "key.pem", "--signer", "x", "-o", keys / "i.cose")
    bad(capsys, 1, "registry.image-differs", "import", keys / "i.cose", "--key", keys / "pub.pem")
    shown = json.loads(run(capsys, "image", "show", added, "--json")[1])
    assert (shown["pe"], shown["roles"]) == (None, ["initrd"])


def test_a_corim_of_which_one_image_was_revoked_registers_none_of_the_others(broker, capsys, keys):
    revoked = run(capsys, "image", "add", str(IMAGES / "initrd.bin"), "--name", "an initrd", "--role", "initrd")[1].strip()
    run(capsys, "image", "revoke", revoked, "--reason", "bad")
    images = ["--image", f"kernel={IMAGES / 'linux.bin'}", "--image", f"initrd={IMAGES / 'initrd.bin'}"]
    good(capsys, "describe", *images, "-o", keys / "i.cbor")
    good(capsys, "sign", keys / "i.cbor", "--key", keys / "key.pem", "--signer", "x", "-o", keys / "i.cose")
    bad(capsys, 1, "registry.image-revoked", "import", keys / "i.cose", "--key", keys / "pub.pem")
    assert [item["id"] for item in json.loads(run(capsys, "image", "list", "--json")[1])["images"]] == [revoked]


def test_a_revoked_image_is_not_exported(broker, capsys):
    added = run(capsys, "image", "add", str(IMAGES / "initrd.bin"), "--name", "an initrd", "--role", "initrd")[1].strip()
    run(capsys, "image", "revoke", added, "--reason", "bad")
    bad(capsys, 1, "is revoked", "export", added)
    bad(capsys, 64, "name images", "export")


def test_a_build_plan_is_verified_by_computing_it(capsys, keys):
    stage = Stage()
    realm = SimulatedRealm(stage.simulation())
    (keys / "log").write_bytes(realm.log)
    options = []
    for load in stage.vm.script.loads:
        (keys / load.name).write_bytes(bytes(load.data))
        role = {"KERNEL": "kernel", "INITRD": "initrd", "DTB": "device-tree"}[load.name]
        options += ["--image", f"{role}={keys / load.name}"]
    good(capsys, "describe", *options, "--log", keys / "log", "--rmm", "1.0", "-o", keys / "p.cbor")
    good(capsys, "sign", keys / "p.cbor", "--key", keys / "key.pem", "--signer", "x", "-o", keys / "p.cose")
    out = good(capsys, "verify", keys / "p.cose", "--key", keys / "pub.pem")
    assert f"build plan {realm.rim.hex()}: recomputed from the images here" in out
    assert realm.rim.hex() in good(capsys, "show", keys / "p.cose")
    data = (keys / "p.cbor").read_bytes()
    lie = bytes(32)
    assert data.count(realm.rim) == 2
    (keys / "lie.cbor").write_bytes(data.replace(realm.rim, lie))
    good(capsys, "sign", keys / "lie.cbor", "--key", keys / "key.pem", "--signer", "x", "-o", keys / "lie.cose")
    bad(capsys, 1, "another RIM than it says", "verify", keys / "lie.cose", "--key", keys / "pub.pem")


@pytest.mark.parametrize("value", ["linux", "disk=x", "kernel="])
def test_describe_wants_role_and_file(capsys, value):
    bad(capsys, 64, "ROLE=FILE", "describe", "--image", value)


# --- publish ----------------------------------------------------------------------------------------------------------


async def test_a_workloads_rims_are_published_and_understood(site: Site, capsys, keys, monkeypatch):
    """A realm is released to; its RIM is published, signed; a verifier that knows nothing else can then recognise it."""
    await site.fetch()
    monkeypatch.setenv("KBS_RIM_URL", site.internal_url())
    monkeypatch.setenv("KBS_RIM_TOKEN", site.trust.tokens["auditor"])
    monkeypatch.delenv("KBS_RIM_TOKEN_FILE", raising=False)
    measured = keys / "four-cpus.json"
    measured.write_text(json.dumps({"rim": RIM}))
    out = keys / "w.cose"
    arguments = ["publish", "qemu-kernel", "--rims", measured, "--days", 90, "--key", keys / "key.pem", "--signer", "Acme", "-o", out]
    report = await asyncio.to_thread(good, capsys, *arguments, "--json")
    assert json.loads(report)["rims"] == 2
    found = read_corim(out.read_bytes())
    assert found.signature.signer == "Acme"
    published = {realm.rim: realm for realm in found.corim.endorsements.realms}
    rim = site.realm().rim
    assert set(published) == {rim, bytes.fromhex(RIM)}
    assert published[rim].rems == dict.fromkeys(range(4), bytes(len(rim)))
    assert published[rim].rpv == bytes(64)
    again = keys / "w2.cose"
    await asyncio.to_thread(good, capsys, "publish", "qemu-kernel", "--id", "x", "-o", again)
    assert [realm.rim for realm in read_corim(again.read_bytes()).corim.endorsements.realms] == [rim]


async def test_a_rim_that_stands_on_a_revoked_image_is_not_published(site: Site, capsys, keys, monkeypatch):
    await site.fetch()
    [record] = await site.appraisals()
    await site.ask("POST", f"/admin/v1/images/{record['facts']['images'][0]}/state", {"state": "revoked", "reason": "CVE"})
    monkeypatch.setenv("KBS_RIM_URL", site.internal_url())
    monkeypatch.setenv("KBS_RIM_TOKEN", site.trust.tokens["admin"])
    monkeypatch.delenv("KBS_RIM_TOKEN_FILE", raising=False)
    code, _, err = await asyncio.to_thread(run, capsys, "corim", "publish", "qemu-kernel", "-o", str(keys / "w"))
    assert code == 1
    assert "1 of them: an image of the realm is not active any more" in err
    assert "of its allowed appraisals all were left out (1 of them: an image" in err
    assert not (keys / "w").exists()


async def test_a_rim_whose_tree_was_judged_by_rules_is_published_until_the_tree_is_revoked(site: Site, capsys, keys, monkeypatch):
    """Such a tree is in no registry, so its image is unknown there; but somebody may have registered the same bytes, and revoked them."""
    await furnish(site)
    assert (await ask(site, OldClient("RSA-OAEP"))).status == 200
    monkeypatch.setenv("KBS_RIM_URL", site.internal_url())
    monkeypatch.setenv("KBS_RIM_TOKEN", site.trust.tokens["auditor"])
    monkeypatch.delenv("KBS_RIM_TOKEN_FILE", raising=False)
    await asyncio.to_thread(good, capsys, "publish", NAME, "-o", keys / "w")
    [record] = await site.appraisals(limit=1)
    facts = (await site.record(record["id"]))["appraisal"]["facts"]
    assert [realm.rim.hex() for realm in read_corim((keys / "w").read_bytes()).corim.endorsements.realms] == [facts["rim"]]
    [load] = [load for load in VMS["qemu-kernel"].script.loads if load.name == "DTB"]
    tree = await register_image(site, bytes(load.data), "device-tree")
    assert tree in facts["images"]
    await expect(site, 200, "POST", f"/admin/v1/images/{tree}/state", {"state": "revoked", "reason": "CVE"})
    code, _, err = await asyncio.to_thread(run, capsys, "corim", "publish", NAME, "-o", str(keys / "x"))
    assert (code, "not active any more" in err) == (1, True)


async def test_the_rims_of_a_retired_workload_are_not_published(site: Site, capsys, keys, monkeypatch):
    await site.fetch()
    await site.ask("POST", "/admin/v1/workloads/qemu-kernel/retire")
    monkeypatch.setenv("KBS_RIM_URL", site.internal_url())
    monkeypatch.setenv("KBS_RIM_TOKEN", site.trust.tokens["admin"])
    monkeypatch.delenv("KBS_RIM_TOKEN_FILE", raising=False)
    code, _, err = await asyncio.to_thread(run, capsys, "corim", "publish", "qemu-kernel", "-o", str(keys / "w"))
    assert (code, err.split(": ")[1]) == (1, "policy.workload-inactive")
    assert not (keys / "w").exists()


async def test_publishing_without_any_boot_says_that_there_was_none(site: Site, capsys, keys, monkeypatch):
    monkeypatch.setenv("KBS_RIM_URL", site.internal_url())
    monkeypatch.setenv("KBS_RIM_TOKEN", site.trust.tokens["admin"])
    monkeypatch.delenv("KBS_RIM_TOKEN_FILE", raising=False)
    code, _, err = await asyncio.to_thread(run, capsys, "corim", "publish", "qemu-kernel", "-o", str(keys / "w"))
    assert code == 1
    assert "there is no RIM of qemu-kernel to publish: the broker has no allowed appraisal of it" in err


def test_publishing_from_nowhere_is_a_wrong_call(capsys, keys):
    bad(capsys, 64, "leaves nothing to publish: give --rims", "publish", "web", "--no-records", "-o", keys / "w")


def test_publish_signs_with_all_that_it_takes(capsys, keys):
    bad(capsys, 64, "give --key and --signer", "publish", "web", "--key", keys / "key.pem")


# --- submit -----------------------------------------------------------------------------------------------------------


def test_submit_takes_no_images_and_says_when_nobody_is_there(capsys, keys, unsigned):
    good(capsys, "describe", "--image", f"initrd={IMAGES / 'initrd.bin'}", "-o", keys / "i.cbor")
    bad(capsys, 1, "describes images", "submit", keys / "i.cbor", "--to", "http://127.0.0.1:9")
    bad(capsys, 2, "127.0.0.1:9", "submit", unsigned, "--to", "http://127.0.0.1:9", "--attempts", 1)
    bad(capsys, 2, "http(s)://", "submit", unsigned, "--to", "veraison")
    (keys / "t").write_text("a b\nc")
    bad(capsys, 2, "one line", "submit", unsigned, "--to", "http://127.0.0.1:9", "--provisioning-token-file", keys / "t")


def test_cbor2_reads_what_make_writes(capsys, unsigned):
    tagged = cbor2.loads(unsigned.read_bytes())
    assert tagged.tag == 501
    assert tagged.value[3].value == "tag:arm.com,2025:cca_realm#1.0.0"


# --- measure ----------------------------------------------------------------------------------------------------------

VM = ["-k", IMAGES / "linux.bin", "-i", IMAGES / "initrd.bin", "--", "-c", "1", "-m", "512M", "--realm", "-k", "x", "-i", "y"]


def measured(capsys, *options):
    found = ["-c", "fvp", *options]
    code, out, err = run(capsys, "measure", "kvmtool", *map(str, [*found, *VM]))
    assert code == 0, err
    return out


def test_measure_writes_what_other_verifiers_read(capsys, tmp_path):
    corim, legacy = tmp_path / "m.cbor", tmp_path / "m.json"
    template = VECTORS / "tokens/endorsements/realm-measurements-comid-cca-realm.json"
    options = ["--corim", corim, "--legacy-comid", legacy, "--comid-template", template]
    document = json.loads(measured(capsys, "--json", *options))
    (realm,) = parse_corim(corim.read_bytes(), at=1).realms
    assert (realm.rim.hex(), [value.hex() for _, value in sorted(realm.rems.items())]) == (document["rim"], document["rem"])
    registers = json.loads(legacy.read_text())["triples"]["reference-values"][0]["measurements"][0]["value"]["integrity-registers"]
    algorithm, _, value = registers["rim"]["value"][0].partition(";")
    assert algorithm == f"sha-{document['hash_algorithm'][3:]}"
    assert base64.b64decode(value).hex() == document["rim"].ljust(128, "0")
    (tmp_path / "measured.json").write_text(json.dumps(document))
    good(capsys, "make", tmp_path / "measured.json", "-o", tmp_path / "again.cbor")
    assert parse_corim((tmp_path / "again.cbor").read_bytes(), at=1).realms == (realm,)


def test_measure_takes_the_reference_tools_names(capsys, tmp_path):
    measured(capsys, "--endorsements-output", tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["tag-identity"] == {"id": "", "version": 0}


@pytest.mark.parametrize("options", [["--no-measurements", "--corim", "x"], ["--comid-template", "x"]])
def test_measure_says_what_does_not_fit_together(capsys, options):
    code, out, err = run(capsys, "measure", "kvmtool", *map(str, [*options, *VM]))
    assert (code, out) == (64, "")
    assert "CoMID" in err or "--legacy-comid" in err
