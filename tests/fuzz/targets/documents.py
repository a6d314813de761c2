"""Documents of verifiers, endorsers and operators: attestation results, endorsements, workloads, configuration."""

import functools
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509 import load_pem_x509_certificate

from kbs_rim.appraisal.attestation_result import judge_attestation_result
from kbs_rim.appraisal.comid_json import read_json_corim
from kbs_rim.appraisal.corim import read_corim
from kbs_rim.appraisal.corim_document import Comid, Corim, Profile
from kbs_rim.appraisal.corim_writer import encode_corim
from kbs_rim.appraisal.ear_policy import EarPolicy
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.appraisal.endorsements import Endorsements
from kbs_rim.appraisal.image_reference import ImageReference
from kbs_rim.appraisal.rim_set import read_rims, rim_set_corim
from kbs_rim.appraisal.workload import Role, parse_workload, workload_document
from kbs_rim.config import load_settings
from kbs_rim.errors import ConfigurationError, InvalidDocument, MalformedEvidence
from kbs_rim.evidence import base64url, strict_json
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.measurement.image import measure_image
from tests.ear_forge import NOW, PLATFORM, REALM, annotated_platform, annotated_realm, ear
from tests.fuzz.examination import Judged, Target, require, require_presentable
from tests.fuzz.targets.codecs import JSON_WORDS
from tests.fuzz.vectors import files

CONFIG = Path(__file__).parents[3] / "config"
AT = 1_790_000_000

# --- attestation results ----------------------------------------------------------------------------------------------

TOKEN = parse_cca_token(files("tokens/valid/v07*.cbor")[0])
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER_JWK = {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(SIGNER.public_key().public_bytes_raw())}
POLICY = EarPolicy(
    keys=(EarKey.from_jwk(SIGNER_JWK),), algorithms=frozenset({"EdDSA", "ES256"}), trust_discovery=True, developer="Veraison Project"
)
_HEADER = {"alg": "EdDSA", "typ": "JWT"}


def check_attestation_result(data: bytes) -> object:
    """The first byte chooses: 0 a whole JWT; 1 its claims, signed by us; 2 its header, the same; 3 a key of the discovery document."""
    mode, content = (data[0] % 4 if data else 0), data[1:]
    discovery: tuple[Mapping[str, object], ...] = ()
    text = _signed(json.dumps(_HEADER).encode(), json.dumps(_good_result()).encode())
    if mode == 0:
        text = content.decode("utf-8", "replace")
    elif mode == 1:
        text = _signed(json.dumps(_HEADER).encode(), content)
    elif mode == 2:
        text = _signed(content, json.dumps(_good_result()).encode())
    else:
        discovery = (strict_json.decode_object(content, allow_floats=True),)
    challenge = TOKEN.realm.claims.challenge
    opinion = judge_attestation_result(text, POLICY, token=TOKEN, challenge=challenge, issued_at=NOW, at=NOW, discovery_keys=discovery)
    documents = [finding.to_document() for finding in opinion.findings]
    for document in documents:
        for shown in (document["message"], document.get("expected"), document.get("seen")):
            require_presentable(shown)
    # The record is hashed as canonical JSON, which has no floats.
    strict_json.decode(strict_json.encode(json.loads(json.dumps([documents, opinion.facts]))))
    require(opinion.affirming == (not any(item["severity"] == "error" for item in documents)), "affirming means that nothing is wrong")
    return Judged(", ".join(sorted({item["id"] for item in documents})), (documents, opinion.facts))


def _signed(header: bytes, payload: bytes) -> str:
    message = f"{base64url.encode(header)}.{base64url.encode(payload)}"
    return f"{message}.{base64url.encode(SIGNER.sign(message.encode()))}"


@functools.cache
def _good_result() -> dict[str, object]:
    claims = ear(nonce=TOKEN.realm.claims.challenge)
    platform, realm = (cbor2.loads(part.sign1.payload) for part in (TOKEN.platform, TOKEN.realm))
    claims["submods"][PLATFORM]["ear.veraison.annotated-evidence"] = annotated_platform(platform)
    claims["submods"][REALM]["ear.veraison.annotated-evidence"] = annotated_realm(realm)
    return claims


def result_seeds() -> Iterable[bytes]:
    """A good result, those of Veraison, and its parts."""
    yield from (b"\0" + data for data in files("corim/generated/*.jwt"))
    yield b"\1" + json.dumps(_good_result(), separators=(",", ":")).encode()
    yield from (b"\1" + data for data in files("corim/generated/ear-*.json"))
    yield b"\2" + json.dumps(_HEADER).encode()
    yield b'\2{"alg":"none","crit":["x"],"jwk":{}}'
    yield b"\3" + json.dumps(SIGNER_JWK).encode()
    yield from (b"\3" + data for data in files("corim/keys/*.jwk", "tokens/keys/*.jwk"))


# --- endorsements -----------------------------------------------------------------------------------------------------

_ROOT = load_pem_x509_certificate(files("corim/keys/corimCA.crt")[0])


def check_endorsements(data: bytes) -> object:
    """Every format; the root that signed the vectors is trusted."""
    found = parse_endorsements(data, roots=(_ROOT,), at=AT)
    anchors = [(anchor.implementation_id, anchor.instance_id, anchor.key.public_numbers().x) for anchor in found.trust_anchors]
    require(isinstance(found, Endorsements) and isinstance(found.valid_at(AT), bool), "endorsements say when they hold")
    return anchors, found.platforms, found.realms, found.not_before, found.not_after


def check_corim_written_again(data: bytes) -> object:
    """What is read of a CoRIM, image profile included, is written as bytes that are read as the same, and written as the same."""
    found = read_corim(data)
    for shown in (found.corim.id, *(comid.tag_id for comid in found.corim.comids)):
        require_presentable(str(shown))
    try:
        written = encode_corim(found.corim)
    except InvalidDocument as error:
        require(error.finding_id == "endorsement.unwritable", "a CoRIM that was read is written, or cannot be for a reason")
        return Judged("unwritable", (str(error),))
    again = read_corim(written)
    require(again.corim == found.corim and encode_corim(again.corim) == written, "an encoder undoes its decoder")
    return Judged(found.corim.profile.name, (written,))


def check_measured_rims(data: bytes) -> object:
    """What was measured, or a template of a CoRIM, as JSON: becomes reference values that can be written, or is refused."""
    document = strict_json.decode(data, what="the document")
    if isinstance(document, dict) and "rim" not in document:
        template = read_json_corim(document)
        return Judged("template", (template,))
    rims = read_rims(document, "fuzzed")
    corim = rim_set_corim(rims)
    require(read_corim(encode_corim(corim)).corim == corim, "a set of RIMs is read as it was written")
    return Judged("rims", (corim.id,))


def measured_rim_seeds() -> Iterable[bytes]:
    """Two measurements, and the public templates."""
    rim, other = "11" * 32, "22" * 48
    yield json.dumps({"rim": rim, "rem": [rim] * 4, "rpv": "0abc", "label": "web"}).encode()
    yield json.dumps([{"rim": rim}, {"rim": other, "rems": {"REM1": other}}]).encode()
    yield from files("corim/services-head/src/corim-*.json", "tokens/endorsements/veraison-corim-*.json")


def written_corim_seeds() -> Iterable[bytes]:
    """The public ones, and images of ours."""
    yield from corim_seeds()
    for data in (bytes(range(256)) * 20, *files("vmm/images/linux.bin.gz", "vmm/dtb-public/X016*.dtb")):
        image = ImageReference(measure_image(data), "an image", (Role.KERNEL,), {"package": "linux"})
        for shown in (image, image.summarised()):
            yield encode_corim(Corim(id="i", profile=Profile.IMAGE, comids=(Comid(tag_id="i", images=(shown,)),)))


def corim_seeds() -> Iterable[bytes]:
    """CoRIMs in CBOR, good and bad, signed and not."""
    yield from files("corim/*/*.cbor", "corim/*/*.cose", "tokens/endorsements/*.corim")


def json_endorsement_seeds() -> Iterable[bytes]:
    """CoMID templates and rust-ccatoken's stores."""
    yield from files("corim/services-head/src/*.json", "tokens/endorsements/*.json", "corim/trustee/*.json")


# --- workloads and configuration --------------------------------------------------------------------------------------


def check_workload(data: bytes) -> object:
    """A workload's document is read back as the same workload."""
    workload = parse_workload(strict_json.decode(data, max_depth=12, max_items=100_000))
    document = workload_document(workload)
    require(parse_workload(strict_json.decode(strict_json.encode(document))) == workload, "a workload's document is read back")
    return document


def workload_seeds() -> Iterable[bytes]:
    """The least workload, and one that says everything."""
    image = f"sha256:{'ab' * 32}"
    tree = {"role": "device-tree", "images": [image]}
    least = {"name": "web", "images": [{"role": "kernel", "images": [image]}, tree], "memory": {"base": 0, "size": {"min": 0, "max": 4096}}}
    everything = workload_document(parse_workload({**least, "realm": {"rpv": "ab", "rems": ["zero", ["cd" * 32], "zero", "zero"]}}))
    everything["images"][0]["addresses"] = [{"min": "0x40000000", "max": "0xFFFFFFFFFFFFFFFF"}]
    rmm = {"versions": ["1.0"], "hash_algorithms": ["SHA512"], "roundings": [4096], "orders": ["log"]}
    for document in (least, everything, {**least, "rmm": rmm}, {str(number): "x" * 60 for number in range(100)}, {"x" * 9000: 1}):
        yield json.dumps(document, separators=(",", ":")).encode()


def check_config(data: bytes) -> object:
    """The first byte chooses: 0 a file, 1 lines NAME=VALUE of the environment."""
    mode, content = (data[0] % 2 if data else 0), data[1:]
    path, environ = config_file(), {}
    path.write_bytes(b"" if mode else content)
    if mode:
        lines = content.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
        environ = {f"KBS_RIM__{name}": value for name, separator, value in (line.partition("=") for line in lines) if separator}
    loaded = load_settings(path, environ)
    settings = loaded.settings
    require(strict_json.decode(json.dumps(settings.document()).encode(), allow_floats=True) == settings.document(), "settings are JSON")
    if settings.database.url_file is None and settings.database.password_file is None:
        require(settings.database.resolved_url() is not None, "a URL without files resolves")
    return settings.document(), settings.digest(), settings.warnings(), settings.serving_problems(), settings.http.guest.address


@functools.cache
def config_file() -> Path:
    """Where configuration to be read is written; the folder has another name in every run."""
    return Path(tempfile.mkdtemp()) / "fuzz.toml"


def config_seeds() -> Iterable[bytes]:
    """The file that we ship, whole and by section, and the environment."""
    text = (CONFIG / "kbs_rim.toml").read_bytes()
    yield b"\0" + b"\n".join(line for line in text.splitlines() if line and not line.startswith(b"# "))
    for section in text.split(b"\n[")[1:]:
        yield b"\0[" + b"\n".join(line.lstrip(b"#") for line in section.splitlines() if not line.startswith(b"# "))
    yield b'\1HTTP__GUEST__LISTEN=[::1]:8088\nDATABASE__URL=postgresql://u:p@h/d?x=y\nVERIFIER__ALGORITHMS=["ES384"]'
    yield from (b"\0[limits]\nlog_bytes = " + number for number in (b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 3000))
    yield from (b"\1LIMITS__LOG_BYTES=" + number for number in (b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 3000))
    yield b"\0" + b"x" * 9000 + b" = 1"
    yield b"\1LIMITS__LOG_BYTES=0x10\nVERIFIER__DEADLINE_S=1e1\nSERVICE__TEST_MODE=true"


TARGETS = (
    Target(
        name="attestation_result",
        check=check_attestation_result,
        seeds=result_seeds,
        words=JSON_WORDS,
        max_bytes=8192,
    ),
    Target(name="corim", check=check_endorsements, seeds=corim_seeds, refusals=(InvalidDocument,)),
    Target(
        name="measured_rims",
        check=check_measured_rims,
        seeds=measured_rim_seeds,
        words=(*JSON_WORDS, b"rim", b"rem", b"rpv", b"label", b"corim-id", b"profile", b"entities", b"validity", b"not-after"),
        refusals=(InvalidDocument, MalformedEvidence),
    ),
    Target(name="corim_written", check=check_corim_written_again, seeds=written_corim_seeds, refusals=(InvalidDocument,)),
    Target(
        name="endorsement_json",
        check=check_endorsements,
        seeds=json_endorsement_seeds,
        refusals=(InvalidDocument,),
        words=JSON_WORDS,
        max_bytes=8192,
    ),
    Target(
        name="workload",
        check=check_workload,
        seeds=workload_seeds,
        refusals=(InvalidDocument, MalformedEvidence),
        max_bytes=16 * 1024,
        words=(*JSON_WORDS, b'"0x', b'"zero"', b'"min"'),
    ),
    Target(
        name="config",
        check=check_config,
        seeds=config_seeds,
        refusals=(ConfigurationError,),
        max_bytes=16 * 1024,
        words=(b"\n[", b"]\n", b" = ", b'"""', b"0x", b"nan", b"inf", b"1979-05-27", b"__", b"[[", b"{"),
    ),
)
