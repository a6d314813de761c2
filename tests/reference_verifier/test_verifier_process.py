"""``kbs-rim verifier`` as a process: it makes its key, says when it is ready, appraises, and stops when asked."""

import json
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from kbs_rim.adapters.verifiers.veraison import VeraisonSettings, VeraisonVerifier
from kbs_rim.appraisal.attestation_result import EarPolicy, judge_attestation_result
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.cli import main
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.realm.platform_identity import PlatformIdentity
from kbs_rim.reference_verifier.signing import SigningKey
from tests.token_forge import CHALLENGE, bound, cose_key, key, parts, wrap


def run(capsys, *arguments):
    """Run the command in this process; return exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["verifier", *map(str, arguments)])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


@pytest.fixture
def signing_key(tmp_path):
    """A key that the command made."""
    path = tmp_path / "verifier.pem"
    path.write_bytes(SigningKey.generate().pem())
    return path


@pytest.fixture
def start():
    """Starts verifier processes; none outlives its test."""
    started = []

    def begin(*arguments):
        command = [sys.executable, "-c", "from kbs_rim.cli import main; main()", "verifier", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def identity(tmp_path):
    made = PlatformIdentity.generate()
    (tmp_path / "endorsements").mkdir()
    (tmp_path / "endorsements" / "platform.corim").write_bytes(made.corim())
    (tmp_path / "endorsements" / "README.txt").write_text("not an endorsement")
    return made


def evidence(identity):
    """A token of the platform, built without the simulator."""
    components = [{1: part.name, 2: part.measurement, 4: part.version, 5: part.signer_id} for part in identity.components]
    claims = {2396: identity.implementation_id, 256: identity.instance_id, 2401: identity.config, 2399: components}
    platform, realm = parts(platform=claims | {10: bound({44240: "sha-256", 44237: cose_key(key("rak"))})})
    platform.private_key = identity.cpak
    return wrap(907, platform.encode(), realm.encode())


async def test_from_nothing_to_an_affirmed_platform(identity, tmp_path, start, capsys):
    key_file = tmp_path / "new.pem"
    code, printed, _ = run(capsys, "--signing-key", key_file, "--generate-key", "--print-key", "--json")
    assert code == 0
    pinned = json.loads(printed)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    folder = tmp_path / "endorsements"
    process = start("--listen", "127.0.0.1:0", "--endorsements", folder, "--signing-key", key_file, "--json")
    ready = json.loads(process.stdout.readline())
    assert ready["key"] == pinned
    token = evidence(identity)
    async with VeraisonVerifier(VeraisonSettings(url=ready["url"])) as client:
        await client.check()
        answer = await client.appraise(token, CHALLENGE)
    now = int(time.time())
    policy = EarPolicy(keys=(EarKey.from_jwk(pinned),))
    opinion = judge_attestation_result(
        answer.attestation_result, policy, token=parse_cca_token(token), challenge=CHALLENGE, issued_at=now - 1, at=now
    )
    assert opinion.findings == ()
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"reference verifier ready on {ready['url']}" in messages
    assert "1 trust anchor, 1 platform reference," in messages


def test_test_switches_are_announced(start, signing_key):
    process = start("--listen", "127.0.0.1:0", "--signing-key", signing_key, "--fault", "delay", "--json")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "FOR TESTS" in messages


def test_a_second_start_keeps_the_key(tmp_path, capsys):
    first, second = (run(capsys, "--signing-key", tmp_path / "key.pem", "--generate-key", "--print-key") for _ in range(2))
    assert first[:2] == second[:2]
    assert json.loads(first[1])["alg"] == "ES256"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 64, "--signing-key"),
        (("--signing-key", "missing.pem"), 2, "missing.pem"),
        (("--signing-key", "KEY", "--listen", "8090"), 64, "HOST:PORT"),
        (("--signing-key", "KEY", "--listen", "[::1]:70000"), 64, "HOST:PORT"),
        (("--signing-key", "KEY", "--fault", "nonsense"), 64, "unknown fault"),
        (("--signing-key", "KEY", "--endorsements", "BAD"), 1, "endorsement.malformed"),
        (("--signing-key", "KEY", "--endorsements", "PUBLISHED"), 1, "endorsement.test-key"),
        (("--signing-key", "KEY", "--tls-key", "KEY"), 64, "together"),
        (("--signing-key", "KEY", "--corim-root", "KEY"), 2, "PEM certificate"),
        (("--signing-key", "PUBLISHED-KEY"), 2, "published"),
    ],
)
def test_what_cannot_be_started(tmp_path, vectors, signing_key, capsys, arguments, code, message):
    (tmp_path / "bad.json").write_text("{}")
    names = {
        "KEY": signing_key,
        "BAD": tmp_path / "bad.json",
        "PUBLISHED": vectors / "corim/trustee/tastore.json",
        "PUBLISHED-KEY": vectors / "corim/keys/skey.jwk",
    }
    seen, out, messages = run(capsys, *(names.get(argument, argument) for argument in arguments))
    assert (seen, out) == (code, "")
    assert message in messages


def test_an_address_in_use(signing_key, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, messages = run(capsys, "--signing-key", signing_key, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert code == 2
    assert "in use" in messages
