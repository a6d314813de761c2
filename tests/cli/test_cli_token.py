"""``kbs-rim token``: exit codes, what goes to stdout and what to stderr, and that text in a token cannot drive a terminal."""

import base64
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kbs_rim.cli import main
from tests import token_forge as forge
from tests.token_forge import CHALLENGE, key, parts, token, wrap

VECTORS = Path(__file__).parent.parent / "vectors" / "tokens"
INDEX = {Path(entry["file"]).stem: entry for entry in json.loads((VECTORS / "index.json").read_text())}
VALID = sorted((VECTORS / "valid").glob("*.cbor"))
V07 = VECTORS / "valid" / "v07-2024realm-907-mec-int.cbor"


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command as a shell would: arguments and stdin in, exit code and both streams out."""

    def call(*arguments: object, stdin: bytes = b"") -> SimpleNamespace:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as caught:
            main(["token", *map(str, arguments)])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=caught.value.code, out=out, err=err)

    return call


@pytest.fixture
def written(tmp_path):
    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_check_a_good_token(run, written):
    pem = key("cpak").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    result = run("check", written("t", token()), "--challenge", CHALLENGE.hex(), "--cpak", written("k.pem", pem))
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("valid: tag:arm.com,2023:cca_platform#1.0.0 + tag:arm.com,2024:realm#2.0.0")


def test_check_says_what_it_did_not_check(run, written):
    result = run("check", written("t", token()))
    assert result.code == 0
    assert "freshness was not checked" in result.err
    assert "platform token's signature was not checked" in result.err


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_check_public_tokens(run, path):
    entry = INDEX[path.stem]
    arguments = ("check", path, "--challenge", entry["nonce"], "--cpak", VECTORS / "keys" / f"{entry['platform_key']}.jwk")
    allowed = run(*arguments, "--allow-test-keys")
    assert allowed.code == 0
    assert ("warning: token.profile-legacy" in allowed.err) == ("CCA-SSD" in entry["profiles"])
    refused = run(*arguments)
    assert refused.code == 1
    found = [line.split(": ")[0] for line in refused.out.splitlines()]
    assert {"realm.test-key", "platform.test-instance", "platform.test-key"} <= set(found)
    assert "token.profile-legacy" not in found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--challenge", "00" * 64), ["realm.challenge"]),
        (("--challenge", CHALLENGE[:32].hex()), ["realm.challenge"]),
        (("--challenge", CHALLENGE.hex().upper()), []),
        (("--cpak", VECTORS / "keys" / "rak-tfm2-p384.pem", "--allow-test-keys"), ["platform.signature"]),
        (("--cpak", VECTORS / "keys" / "rak-tfm2-p384.pem"), ["platform.signature", "platform.test-key"]),
    ],
)
def test_check_refusals(run, written, arguments, expected):
    result = run("check", written("t", token()), *arguments)
    assert result.code == (1 if expected else 0)
    assert [line.split(": ")[0] for line in result.out.splitlines() if not line.startswith("valid")] == expected


def test_check_a_spliced_token(run, written):
    platform, _ = parts()
    _, realm = parts(realm={44237: forge.cose_key(key("attacker"))})
    realm.private_key = key("attacker")
    result = run("check", written("t", wrap(907, platform.encode(), realm.encode())), "--json")
    document = json.loads(result.out)
    assert result.code == 1
    assert document["valid"] is False
    assert [finding["id"] for finding in document["findings"]] == ["realm.binding"]


def test_check_json_of_a_good_token(run):
    result = run("check", V07, "--allow-test-keys", "--json")
    document = json.loads(result.out)
    assert result.code == 0
    assert document["valid"] is True
    assert document["rim"] == {"algorithm": "sha-256", "value": INDEX[V07.stem]["rim"]}
    assert document["checked"] == {"challenge": False, "platform_signature": False}
    assert document["profiles"]["realm"] == "tag:arm.com,2024:realm#2.0.0"


def test_check_json_of_the_legacy_profile_has_a_warning(run):
    document = json.loads(run("check", VALID[0], "--allow-test-keys", "--json").out)
    assert document["valid"] is True
    assert [(finding["id"], finding["severity"]) for finding in document["findings"]] == [("token.profile-legacy", "warning")]


def test_a_debug_platform_is_a_warning(run, written):
    result = run("check", written("t", token(platform={2395: 0x4003})))
    assert result.code == 0
    assert "warning: platform.lifecycle: " in result.err


@pytest.mark.parametrize("name", ["o01-unbound-fvp-original-emptyphdr", "o07-veraison-mixed-profiles", "o13-parsec-bundle"])
def test_check_odd_tokens(run, name):
    result = run("check", VECTORS / "odd" / f"{name}.cbor", "--allow-test-keys")
    assert result.code == 1
    assert len(result.out.splitlines()) == 1
    assert result.out.startswith("token.")


def test_check_malformed_json_still_is_json(run):
    document = json.loads(run("check", "-", "--json", stdin=b"\xd9\x03\x8b\xbf").out)
    assert [finding["id"] for finding in document["findings"]] == ["cbor.indefinite-length"]


@pytest.mark.parametrize(
    "spelling", [lambda data: data, base64.urlsafe_b64encode, lambda data: base64.urlsafe_b64encode(data).rstrip(b"=") + b"\n"]
)
def test_the_token_from_standard_input(run, spelling):
    assert run("check", "-", "--allow-test-keys", stdin=spelling(V07.read_bytes())).code == 0


@pytest.mark.parametrize("stdin", [b"", b"hello", b"{}", b"\x00" * 100, b"\xd9\x03\x8b" + bytes(40000)])
def test_what_is_no_token(run, stdin):
    result = run("check", "-", stdin=stdin)
    assert result.code == 1
    assert result.out.split(": ")[0].startswith(("token.", "cbor."))
    shown = run("show", "-", stdin=stdin)
    assert (shown.code, shown.out) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("check",), 64), (("check", V07, "--challenge", "xyz"), 64), (("check", V07, "--challenge", "abc"), 64),
        (("check", V07, "--nonsense"), 64), (("show",), 64), (("nonsense",), 64),
        (("check", VECTORS / "absent"), 2), (("check", VECTORS), 2), (("show", VECTORS / "absent"), 2),
        (("check", V07, "--cpak", VECTORS / "absent"), 2), (("check", V07, "--cpak", V07), 2),
        (("check", V07, "--cpak", VECTORS / "index.json"), 2),
    ],
)  # fmt: skip
def test_exit_codes_of_what_cannot_be_done(run, arguments, code):
    result = run(*arguments)
    assert (result.code, result.out) == (code, "")
    assert result.err


JWK = {"kty": "EC", "crv": "P-384", "x": base64.urlsafe_b64encode(bytes(48)).decode(), "y": base64.urlsafe_b64encode(bytes(48)).decode()}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b'{"kty":"RSA","n":"AQAB","e":"AQAB"}', json.dumps(JWK).encode(), json.dumps(JWK | {"crv": "P-999"}).encode(),
        json.dumps(JWK | {"x": 5}).encode(), json.dumps(JWK | {"x": "!"}).encode(), b'{"kty":"EC","kty":"EC"}',
        key("cpak").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)  # fmt: skip
def test_keys_that_cannot_be_read(run, written, content):
    assert run("check", V07, "--cpak", written("key", content)).code == 2


def test_a_private_jwk_gives_its_public_half_with_a_warning(run, written):
    private = key("cpak")
    x, y = forge.coordinates(private)
    jwk = {"kty": "EC", "crv": "P-384", "d": "AQ"} | {n: base64.urlsafe_b64encode(v).rstrip(b"=").decode() for n, v in (("x", x), ("y", y))}
    result = run("check", written("t", token()), "--cpak", written("k", json.dumps(jwk).encode()))
    assert result.code == 0
    assert "private key" in result.err


def test_a_p256_platform(run, written):
    platform, realm = parts()
    platform.private_key, platform.algorithm = key("cpak", ec.SECP256R1), forge.ES256
    pem = key("cpak", ec.SECP256R1).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert run("check", written("t", wrap(399, platform.encode(), realm.encode())), "--cpak", written("k", pem)).code == 0


# --- show ---


@pytest.mark.parametrize("path", VALID + sorted((VECTORS / "odd").glob("o0[3-5789]*.cbor")), ids=lambda path: path.stem)
def test_show_json_is_the_independent_decode(run, path):
    result = run("show", path, "--json")
    shown, expected = json.loads(result.out), json.loads((VECTORS / "expected" / f"{path.stem}.json").read_text())
    assert result.code == 0
    assert shown["tag"] == expected["tag"]
    for role in ("platform", "realm"):
        assert {name: shown[role][name] for name in expected[role]} == expected[role]


def test_show_names_the_claims(run):
    named = json.loads(run("show", V07, "--json").out)["realm"]["named"]
    assert named["initial_measurement"] == INDEX[V07.stem]["rim"]
    assert named["memory_encryption_policy"] == 1


def test_show_is_readable(run):
    result = run("show", V07)
    assert result.code == 0
    assert "initial measurement (44238)" in result.out
    assert INDEX[V07.stem]["rim"] in result.out
    assert "0x3003 (secured)" in result.out
    assert "would be refused" not in result.out


def test_show_a_token_that_would_be_refused(run):
    path = VECTORS / "odd" / "o09-2023-907-hashlen-mismatch.cbor"
    assert "This token would be refused: token.hash-length" in run("show", path).out
    assert json.loads(run("show", path, "--json").out)["refused"]["id"] == "token.hash-length"


@pytest.mark.parametrize("name", ["p01-legacy-platform-only", "p02-2023-platform-only"])
def test_show_a_platform_token_alone(run, name):
    result = run("show", VECTORS / "valid-platform" / f"{name}.cbor", "--json")
    expected = json.loads((VECTORS / "expected" / f"{name}.json").read_text())
    assert result.code == 0
    assert json.loads(result.out)["platform"]["named"]["profile"] == INDEX[name]["profiles"]
    assert expected


def test_show_escapes_what_would_drive_a_terminal(run, written):
    evil = "\x1b]0;owned\x07\u202e\n  valid"
    component = {1: evil, 2: bytes(32), 5: bytes(32)}
    path = written("t", token(platform={2400: evil, 2399: [component], evil: 1}, realm={999: [evil, {evil: evil}]}))
    for arguments in ((), ("--json",)):
        out = run("show", path, *arguments).out
        assert all(character.isprintable() or character == "\n" for character in out)
        assert "\n  valid" not in out


def test_show_claims_of_any_type(run, written):
    strange = {10: 1.5, 2395: "x", 2399: [1, {2: [None]}], 265: None, 44239: [{}], "x": [float("nan"), float("inf")]}
    for role in ("platform", "realm"):
        path = written("t", token(**{role: strange}))
        assert run("show", path).code == 0
        json.loads(run("show", path, "--json").out)
    assert "0x7000 (undefined)" in run("show", written("t", token(platform={2395: 0x7000}))).out
