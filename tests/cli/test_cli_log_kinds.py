"""``kbs-rim log show`` for every kind of log, and ``kbs-rim log diff``."""

import hashlib
import json
from pathlib import Path

import pytest
from log_forge import (
    AGENT_HEADER,
    SHA1,
    SHA256,
    SHA384,
    aael_record,
    cel_cbor,
    cel_json,
    cel_tlv,
    digest_of,
    ima_fields,
    ima_legacy,
    ima_ng,
    ima_record,
    tcg_log,
)

from kbs_rim.cli import main

VECTORS = Path(__file__).parent.parent / "vectors"
LOGS = VECTORS / "logs"
BOOTS = VECTORS / "images" / "measured-boot"
IPL = 0x0D
RECORDS = [
    (0, 0, {SHA256: bytes(32)}, (4, (1, (1, 1)))),
    (1, 4, {SHA256: digest_of(SHA256, b"boot")}, (5, (IPL, b"grub_cmd: boot\0"))),
    (2, 4, {SHA256: digest_of(SHA256, b"lie")}, (5, (0x5, b"truth"))),
]


@pytest.fixture
def run(capsys):
    """Run the command; return (exit code, stdout, stderr)."""

    def invoke(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return int(caught.value.code or 0), output.out, output.err

    return invoke


@pytest.fixture
def file(tmp_path):
    """Write bytes to a new file."""

    def write(data: bytes, name: str = "log") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def rows(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines()]


# show


CANONICAL = {"cel-tlv": cel_tlv(RECORDS), "cel-cbor": cel_cbor(RECORDS), "cel-json": cel_json(RECORDS)}


@pytest.mark.parametrize("kind", CANONICAL)
def test_canonical_logs(run, file, kind):
    path = file(CANONICAL[kind])
    code, out, err = run("log", "show", path)
    digest = digest_of(SHA256, b"boot").hex()[:16]
    assert (code, err) == (0, f"kbs-rim: read as a {kind} log; --kind says otherwise\n")
    assert rows(out)[0] == "# Register Type What it says Digest Digest is"
    assert rows(out)[1] == "0 - cel_version CEL version 1.1 not measured"
    assert rows(out)[2] == f"1 PCR 4 EV_IPL grub_cmd: boot sha256:{digest}... hash of GRUB command"
    assert rows(out)[3].endswith("NOT the hash of event data")
    assert run("log", "show", path, "--kind", "cel")[1] == run("log", "show", path, "--kind", kind)[1] == out


@pytest.mark.parametrize("data", [cel_tlv(RECORDS), cel_cbor(RECORDS), cel_json(RECORDS)], ids=["tlv", "cbor", "json"])
def test_canonical_logs_as_json(run, file, data):
    code, out, _ = run("log", "show", file(data), "--kind", "cel", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["registers"], document["algorithms"]) == ("pcr", ["sha256"])
    assert [event["measured"] for event in document["events"]] == [False, True, True]
    assert [event["digest_is"] for event in document["events"]] == [
        None,
        {"kind": "recomputed", "matches": True, "what": "GRUB command", "material": None},
        {"kind": "recomputed", "matches": False, "what": "event data", "material": None},
    ]


def test_numbering_of_a_canonical_log(run, file):
    path = file(cel_cbor(RECORDS))
    assert "PCR 4" in run("log", "show", path)[1]
    assert "MR 4" in run("log", "show", path, "--numbering", "mr")[1]
    assert "MR 4" in run("log", "show", file(cel_tlv(RECORDS, register_type=108)))[1]


def test_a_log_of_measurement_registers_is_not_shown_as_pcrs(run, file):
    code, out, err = run("log", "show", file(cel_tlv(RECORDS, register_type=108)), "--numbering", "pcr")
    assert (code, out) == (1, "")
    assert err.startswith("kbs-rim: log.index")


@pytest.mark.parametrize("kind", ["tpm", "cc", "vmm", "ima"])
def test_numbering_is_for_logs_that_do_not_say(run, file, kind):
    assert run("log", "show", file(b""), "--kind", kind, "--numbering", "mr")[0] == 64


def test_registers_of_a_canonical_log(run, file):
    code, out, _ = run("log", "show", file(cel_json(RECORDS[:2])), "--registers")
    assert (code, out) == (0, f"sha256  4 {digest_of(SHA256, bytes(32) + digest_of(SHA256, b'boot')).hex()}\n")


def test_what_is_no_canonical_log(run, file):
    code, _, err = run("log", "show", file(b"\x00" * 40), "--kind", "cel")
    assert code == 1
    assert "log.encoding" in err


def test_ima_list_in_binary(run, file):
    data, hashed = ima_legacy(b"/init", bytes(range(20)))
    raw = ima_record(b"ima-ng", ima_ng(b"/bin/sh")) + ima_record(b"ima", data, digest=digest_of(SHA1, hashed))
    raw += ima_record(b"ima-ng", ima_ng(b"/tmp/x"), digest=bytes(20))
    path = file(raw)
    code, out, _ = run("log", "show", path, "--kind", "ima")
    assert code == 0
    assert [row.rsplit("...", 1)[1].strip() for row in rows(out)[1:]] == [
        "hash of template data",
        "hash of template data",
        "constant: ones: a violation",
    ]
    assert run("log", "show", path, "--kind", "ima", "--registers")[1].startswith("sha1 10 ")


@pytest.mark.parametrize(("order", "algorithm"), [(">", SHA1), ("<", SHA256)])
def test_ima_lists_of_other_hosts(run, file, order, algorithm):
    raw = ima_record(b"ima-ng", ima_ng(b"/bin/sh", order=order), algorithm=algorithm, order=order)
    code, out, err = run("log", "show", file(raw))
    assert (code, err) == (0, "kbs-rim: read as a ima log; --kind says otherwise\n")
    assert "/bin/sh" in out


@pytest.mark.parametrize("name", ["sha1", "sha256", "sha384", "sha512"])
def test_ima_lists_as_text(run, name):
    code, out, _ = run("log", "show", LOGS / "ima" / f"keylime-ima-log-{name}.txt")
    assert code == 0
    assert rows(out)[2].startswith("1 PCR 10 ima-ng /data")
    assert rows(out)[2].endswith("hash of template data")


def test_negative_case_of_ima(run):
    code, out, err = run("log", "show", LOGS / "ima" / "keylime-ima-log-unknown.txt")
    assert (code, out) == (1, "")
    assert "log.algorithm" in err


@pytest.mark.parametrize("header", [b"", AGENT_HEADER])
def test_log_of_an_agent(run, file, header):
    path = file(header + aael_record(b"coco.com PullImage {}") + b"\xff" * 8)
    code, out, err = run("log", "show", path)
    assert (code, err) == (0, "kbs-rim: read as a aael log; --kind says otherwise\n")
    assert rows(out)[1].startswith("0 MR 4 EV_EVENT_TAG Confidential Containers AAEL: coco.com PullImage {} sha384:")
    assert rows(out)[1].endswith("hash of tag, length and line")
    assert run("log", "show", path, "--kind", "aael", "--json")[0] == 0


def test_firmware_logs_say_what_digests_are(run):
    code, out, _ = run("log", "show", LOGS / "ccel" / "CCEL_AAEL_alibabacloud", "--kind", "cc")
    assert code == 0
    assert rows(out)[0] == "# Register Type What it says Digest Digest is"
    assert len([row for row in rows(out) if row.endswith("hash of tag, length and line")]) == 2


@pytest.mark.parametrize("boot", sorted(path.parent for path in BOOTS.glob("*/log.bin")), ids=lambda path: path.name)
def test_every_event_of_a_measured_boot_is_explained(run, boot):
    _, out, _ = run("log", "show", boot / "log.bin", "--kind", "tpm", "--json")
    oracle = json.loads((boot / "oracle.json").read_text())["events"][1:]
    events = json.loads(out)["events"]
    assert [(event["register"], event["type_name"], event["digests"]) for event in events] == [
        (said["pcr"], said["type"], said["digests"]) for said in oracle
    ]
    assert {event["digest_is"]["kind"] for event in events} <= {"recomputed", "constant", "external"}
    assert not [event for event in events if event["digest_is"]["matches"] is False]


def test_vmm_logs_keep_their_columns_and_members(run):
    path = LOGS / "synthetic" / "emitter-layout-kernel-sha256.bin"
    assert rows(run("log", "show", path, "--kind", "vmm")[1])[0] == "# Register Type What it says Digest"
    assert "digest_is" not in json.loads(run("log", "show", path, "--kind", "vmm", "--json")[1])["events"][0]


def test_a_bank_that_lies_shows(run, file):
    digests = {SHA1: digest_of(SHA1, b"x"), SHA256: digest_of(SHA256, b"y")}
    path = file(cel_cbor([(0, 4, digests, (5, (0x5, b"x")))]))
    assert rows(run("log", "show", path)[1])[1].endswith("NOT the hash of event data")


def test_ccel_table(run):
    code, out, err = run("log", "show", LOGS / "ccel" / "CCEL.table.bin")
    assert (code, out) == (0, "CCEL table: Intel TDX, log area of 65536 bytes at 0x7d649000\n")
    assert "/sys/firmware/acpi/tables/data/CCEL" in err
    document = json.loads(run("log", "show", LOGS / "ccel" / "CCEL.table.bin", "--kind", "cc", "--json")[1])
    assert (document["kind"], document["cc_type"], document["area_bytes"]) == ("ccel", 2, 65536)


def test_damaged_ccel_table(run, file):
    table = bytearray((LOGS / "ccel" / "CCEL.table.bin").read_bytes())
    table[40] ^= 1
    code, _, err = run("log", "show", file(bytes(table)))
    assert code == 1
    assert "log.table" in err


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        ima_record(b"ima-ng", ima_ng(b"/\x1b]0;owned\x07[red]")),
        cel_cbor([(0, 4, {SHA256: digest_of(SHA256, b"x")}, (80, b"\x1b[2J[red]"))]),
        cel_json([(0, 4, {SHA256: digest_of(SHA256, b"x")}, (5, (IPL, b"/\x1b[2J[red]\0")))]),
    ],
    ids=["ima", "cbor", "json"],
)
def test_terminal_escapes_never_reach_the_terminal(run, file, data, as_json):
    code, out, err = run("log", "show", file(data), *(["--json"] if as_json else []))
    assert code == 0
    assert all(character.isprintable() or character == "\n" for character in out + err)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("cel-tlv", cel_tlv(RECORDS)[:-1]),
        ("cel-cbor", cel_cbor(RECORDS)[:-1]),
        ("cel-json", cel_json(RECORDS)[:-1]),
        ("ima", ima_record(b"ima-ng", ima_ng(b"/x"))[:-1]),
        ("ima", ima_record(b"ima-ng", ima_fields(b"sha256:\0short", b"/x\0"))),
        ("aael", aael_record(b"a b c")[:-1]),
        ("aael", aael_record(b"only-one-part")),
    ],
)
def test_malformed_logs_give_exit_1_and_one_line(run, file, kind, data):
    code, out, err = run("log", "show", file(data), "--kind", kind, "--json")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("kbs-rim: log.")


# diff


def commands(*texts: str) -> bytes:
    return tcg_log(SHA256, *((8, IPL, f"kernel_cmdline: {text}\0".encode(), text.encode()) for text in texts))


def test_same_boot(run):
    log = BOOTS / "arm64-uki-direct" / "log.bin"
    assert run("log", "diff", log, log) == (0, "the same\n", "")
    document = json.loads(run("log", "diff", log, log, "--json")[1])
    assert (document["same"], document["changes"], set(document["registers"].values())) == (True, [], {"same"})


def test_changed_command_line(run, file):
    before, after = file(commands("quiet"), "before"), file(commands("quiet debug"), "after")
    code, out, _ = run("log", "diff", before, after, "--kind", "tpm")
    assert code == 1
    assert rows(out)[0] == "Register # Type What it says Digest"
    assert rows(out)[1].startswith("~ PCR 8 0 -> 0 EV_IPL kernel_cmdline: quiet -> kernel_cmdline: quiet debug sha256:")


def test_added_and_removed(run, file):
    short, long = file(commands("a"), "short"), file(commands("a", "b"), "long")
    assert rows(run("log", "diff", short, long)[1])[1].startswith("+ PCR 8 1 EV_IPL kernel_cmdline: b")
    assert rows(run("log", "diff", long, short)[1])[1].startswith("- PCR 8 1 EV_IPL kernel_cmdline: b")


def test_differences_as_json(run, file):
    code, out, _ = run("log", "diff", file(commands("a"), "one"), file(commands("b"), "two"), "--json")
    document = json.loads(out)
    assert code == 1
    assert (document["same"], document["registers"]) == (False, {"8": "different"})
    (change,) = document["changes"]
    assert (change["change"], change["register"]) == ("changed", 8)
    assert change["before"]["digests"] == {"sha256": hashlib.sha256(b"a").hexdigest()}
    assert change["after"]["description"] == "kernel_cmdline: b"


def test_two_firmwares(run):
    before, after = (BOOTS / f"arm64-direct-edk2-{version}" / "log.bin" for version in ("2022.11", "2025.02"))
    document = json.loads(run("log", "diff", before, after, "--json")[1])
    assert document["registers"]["0"] == document["registers"]["1"] == "different"
    assert document["registers"]["4"] == document["registers"]["7"] == "same"


def test_two_vmm_logs(run):
    path = LOGS / "synthetic" / "emitter-layout-kernel-sha256.bin"
    assert run("log", "diff", path, path)[0] == 0


def test_one_boot_in_two_encodings(run, file):
    assert run("log", "diff", file(cel_json(RECORDS), "json"), file(cel_tlv(RECORDS), "tlv"))[0] == 0


def test_guesses_that_differ_are_said(run, file):
    err = run("log", "diff", file(cel_json(RECORDS), "json"), file(cel_tlv(RECORDS), "tlv"))[2]
    assert err == "kbs-rim: read as a cel-json and a cel-tlv log; --kind says otherwise\n"


@pytest.mark.parametrize("swap", [False, True])
def test_malformed_log_cannot_be_compared(run, file, swap):
    good, bad = file(commands("a"), "good"), file(commands("a")[:-1], "bad")
    code, out, err = run("log", "diff", *((bad, good) if swap else (good, bad)))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "log.truncated" in err
    assert "bad" in err


def test_two_numberings_cannot_be_compared(run, file):
    code, out, err = run("log", "diff", file(commands("a")), LOGS / "ccel" / "CCEL_data_ovmf")
    assert (code, out) == (2, "")
    assert "registers" in err


def test_two_algorithms_cannot_be_compared(run, file):
    other = tcg_log(SHA384, (8, IPL, b"a\0", None))
    code, _, err = run("log", "diff", file(commands("a"), "one"), file(other, "two"))
    assert code == 2
    assert "no hash algorithm in common" in err


def test_missing_file_cannot_be_compared(run, file, tmp_path):
    assert run("log", "diff", file(commands("a")), tmp_path / "absent")[0] == 2


def test_terminal_escapes_in_differences_stay_inert(run, file):
    one, two = (file(tcg_log(SHA256, (9, IPL, f"/\x1b[2J[red]{name}\0".encode(), b"x")), name) for name in ("a", "b"))
    changed = file(tcg_log(SHA256, (9, IPL, b"/\x1b[2J[red]\0", b"y")), "c")
    for pair in ((one, two), (one, changed)):
        _, out, _ = run("log", "diff", *pair)
        assert all(character.isprintable() or character == "\n" for character in out)


def test_differences_of_ima_lists(run, file):
    one = file(ima_record(b"ima-ng", ima_ng(b"/a", b"1")), "one")
    two = file(ima_record(b"ima-ng", ima_ng(b"/a", b"2")), "two")
    assert rows(run("log", "diff", one, two, "--kind", "ima")[1])[1].startswith("~ PCR 10 0 -> 0 ima-ng /a sha256:")
