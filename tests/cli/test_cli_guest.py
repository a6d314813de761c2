"""``kbs-rim guest get`` against real servers on loopback: what reaches standard output, files, and the exit code."""

import asyncio
import datetime
import ipaddress
import json
import ssl
import struct
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_configfs import Kernel
from small_broker import SECRET, TAG, HostileProxy, SmallBroker

from kbs_rim.cli import main
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, parse_evidence
from kbs_rim.evidence.log_label import parse_label
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.measurement.boot_plan import boot_plan_from_log


@pytest.fixture
def broker():
    return SmallBroker()


@pytest.fixture
async def url(aiohttp_server, broker):
    return str((await aiohttp_server(broker.app)).make_url("")).rstrip("/")


@pytest.fixture
def vm(tmp_path):
    kernel = tmp_path / "Image"
    kernel.write_bytes(struct.pack("<IIQQQ24x4sI", 0, 0, 0, 0x20000, 0xA, b"ARMd", 0).ljust(20_000, b"k"))
    return ("--vmm", "qemu", "--kernel", kernel, "--memory", "64M")


@pytest.fixture
def guest(capsysbinary):
    """Run the command in a thread, since it has an event loop of its own; return exit code, stdout and stderr."""

    def run(arguments):
        with pytest.raises(SystemExit) as ended:
            main(["guest", "get", *(str(argument) for argument in arguments)])
        return ended.value.code

    async def call(*arguments):
        code = await asyncio.to_thread(run, arguments)
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return call


async def test_a_simulated_realm_prints_the_secret_and_nothing_else(guest, url, broker, vm):
    code, out, err = await guest("disk-key", "--broker", url, "--simulate", "--", *vm)
    assert (code, out, err) == (0, SECRET, "")
    evidence = parse_evidence(EVIDENCE_JSON_TYPE, broker.bodies[0])
    token = parse_cca_token(evidence.token)
    plan = boot_plan_from_log(parse_tcg_log(evidence.log(LogKind.VMM), LogKind.VMM))
    assert [image.description for image in plan.images] == ["KERNEL", "DTB"]
    assert any(token.realm.claims.initial_measurement)


async def test_as_a_process_of_its_own(url, vm):
    program = "from kbs_rim.cli import main; main()"
    arguments = ("guest", "get", "--broker", url, "--simulate", "a/b/c", "--", *vm)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, SECRET, b"")


async def test_output_to_a_file(guest, url, vm, tmp_path):
    path = tmp_path / "key"
    code, out, err = await guest("k", "--broker", url, "--output", path, "--simulate", "--", *vm)
    assert (code, out) == (0, b"")
    assert "wrote" in err
    assert path.read_bytes() == SECRET
    assert path.stat().st_mode & 0o777 == 0o600
    code, _, err = await guest("k", "--broker", url, "--output", path, "--simulate", "--", *vm)
    assert code == 2
    assert "--force" in err
    assert (await guest("k", "--broker", url, "--output", path, "--force", "--simulate", "--", *vm))[0] == 0


@pytest.mark.parametrize("key_type", ["p256", "p384", "x25519", "rsa"])
async def test_json(guest, url, vm, key_type):
    code, out, _ = await guest("k", "--broker", url, "--json", "--key-type", key_type, "--simulate", "--", *vm)
    assert code == 0
    assert json.loads(out) == {"key": "k", "ticket": "t-2", "size": len(SECRET), "secret": "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ"}


async def test_a_refusal_shows_code_and_ticket_and_no_secret(guest, url, vm):
    code, out, err = await guest("k", "--broker", url, "--simulate", "--", *vm, "--lie", "replayed-nonce")
    assert (code, out) == (1, b"")
    assert "realm-token-refused" in err
    assert "t-1" in err
    code, out, _ = await guest("k", "--broker", url, "--json", "--simulate", "--", *vm, "--lie", "replayed-nonce")
    assert (code, json.loads(out)) == (1, {"refused": {"code": "realm-token-refused", "ticket": "t-1"}})


async def test_key_swapped_by_a_man_in_the_middle(guest, aiohttp_server, url, broker, vm):
    proxy = HostileProxy(url)
    hostile = str((await aiohttp_server(proxy.app)).make_url("")).rstrip("/")
    code, out, err = await guest("k", "--broker", hostile, "--simulate", "--", *vm)
    assert (code, out) == (1, b"")
    assert "does not commit to our key" in err
    assert proxy.stolen == broker.bodies == []


async def test_no_broker(guest, unused_tcp_port, vm):
    code, out, err = await guest("k", "--broker", f"http://127.0.0.1:{unused_tcp_port}", "--simulate", "--", *vm)
    assert (code, out) == (2, b"")
    assert "cannot be reached" in err


async def test_no_realm(guest, url, broker, tmp_path):
    code, out, err = await guest("k", "--broker", url, "--tsm-root", tmp_path / "absent")
    assert (code, out) == (2, b"")
    assert "configfs" in err
    assert broker.bodies == []


async def test_a_real_realm_reads_configfs_and_its_logs(guest, url, broker, tmp_path, monkeypatch):
    def tree(root):
        kernel = Kernel(root)
        kernel.report = lambda challenge: TAG + challenge
        return kernel

    monkeypatch.setattr("kbs_rim.realm.tsm.ConfigfsTree", tree)
    for name in ("report", "ccel", "vmm", "cel"):
        (tmp_path / name).mkdir() if name == "report" else (tmp_path / name).write_bytes(name.encode())
    logs = ("--ccel", tmp_path / "ccel", "--vmm-log", tmp_path / "vmm", "--log", f"cel-tlv.mr={tmp_path / 'cel'}")
    code, out, err = await guest("k", "--broker", url, "--tsm-root", tmp_path / "report", *logs)
    assert (code, out, err) == (0, SECRET, "")
    logs = ((LogKind.VMM, b"vmm"), (LogKind.CC, b"ccel"), (parse_label("cel-tlv.mr"), b"cel"))
    assert parse_evidence(EVIDENCE_JSON_TYPE, broker.bodies[0]).logs == Evidence(b"x", logs).logs


@pytest.mark.parametrize("named", ["cel-tlv=f", "syslog=f", "cel-tlv.mr", "aael=", "cel-tlv.rim=f"])
async def test_a_log_is_named_with_what_it_counts(guest, tmp_path, named):
    code, out, err = await guest("k", "--broker", "http://127.0.0.1:9", "--tsm-root", tmp_path, "--log", named)
    assert (code, out) == (64, b"")
    assert "--log" in err


async def test_a_log_that_is_missing_is_explained(guest, url, tmp_path):
    for arguments, why in (
        (("--log", f"ima={tmp_path / 'list'}"), "without IMA"),
        (("--vmm-log", tmp_path / "vmm"), "by another channel"),
        (("--ccel", tmp_path / "CCEL"), "ACPI has no CCEL"),
    ):
        code, out, err = await guest("k", "--broker", url, "--tsm-root", tmp_path, *arguments)
        assert (code, out) == (2, b"")
        assert why in err


async def test_options_about_logs_that_contradict_each_other(guest, tmp_path):
    for arguments in (
        ("--no-ccel", "--ccel", tmp_path / "area"),
        ("--vmm-log", "a", "--log", "vmm=b"),
        ("--simulate", "--no-ccel", "--", "--vmm", "qemu"),
    ):
        code, out, _ = await guest("k", "--broker", "http://127.0.0.1:9", *arguments)
        assert (code, out) == (64, b"")


async def test_plain_http_to_another_machine_is_warned_about(guest, vm):
    code, out, err = await guest("k", "--broker", "http://192.0.2.1:9", "--deadline", "0.1", "--simulate", "--", *vm)
    assert (code, out) == (2, b"")
    assert "without TLS" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("k",), ("--broker", "http://x"), ("k", "--broker", "nonsense"), ("../k", "--broker", "http://x"),
        ("k", "--broker", "http://x", "--", "--vmm", "qemu"), ("k", "--broker", "http://x", "--simulate"),
        ("k", "--broker", "http://x", "--simulate", "--", "--vmm", "qemu", "--kernel", "k", "--json"),
        ("k", "--broker", "http://x", "--key-type", "p521"), ("k", "--broker", "http://x", "--deadline", "0"),
    ],
)  # fmt: skip
async def test_usage_errors(guest, arguments):
    code, out, _ = await guest(*arguments)
    assert (code, out) == (64, b"")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A server certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path = tmp_path_factory.mktemp("tls") / "broker.pem"
    key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + key_pem)
    return path


async def test_tls_with_the_given_authority_only(guest, aiohttp_server, broker, certificate, vm):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await aiohttp_server(broker.app, ssl=context)
    url = f"https://127.0.0.1:{server.port}"
    code, out, err = await guest("k", "--broker", url, "--ca", certificate, "--simulate", "--", *vm)
    assert (code, out, err) == (0, SECRET, "")
    code, out, err = await guest("k", "--broker", url, "--simulate", "--", *vm)
    assert (code, out) == (2, b"")
    assert "certificate" in err.lower()
    assert (await guest("k", "--broker", url, "--ca", certificate.parent / "absent", "--simulate", "--", *vm))[0] == 2
