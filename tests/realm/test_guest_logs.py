"""Which logs a guest sends, from where, and what it says of those that it cannot have."""

import os

import pytest
from measured_boot import LOGS
from pe_builder import PeFile, Section
from stage import QEMU_FIRMWARE, Stage

from kbs_rim.evidence.event_log import LogFormat
from kbs_rim.evidence.log_label import label_of, parse_label
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import Limits
from kbs_rim.realm import guest_logs
from kbs_rim.realm.cc_log import cc_area, cc_log, ccel_table
from kbs_rim.realm.failures import EvidenceUnavailable
from kbs_rim.realm.firmware_boot import Disk, FirmwareBoot
from kbs_rim.realm.guest_logs import GuestLogs
from kbs_rim.realm.rim_model import RealmHash

CC, VMM, IMA = label_of(LogFormat.CC), label_of(LogFormat.VMM), label_of(LogFormat.IMA)
CCELS = LOGS / "ccel"


@pytest.fixture
def acpi(tmp_path, monkeypatch):
    """ACPI's tables at their usual place, without any."""
    monkeypatch.setattr(guest_logs, "CCEL_DATA", tmp_path / "data" / "CCEL")
    (tmp_path / "data").mkdir()
    return tmp_path


def logs(acpi, **changes) -> GuestLogs:
    return GuestLogs(**{"ccel": acpi / "data" / "CCEL", "table": acpi / "CCEL", **changes})


def test_a_realm_without_firmware_sends_no_log_of_it(acpi):
    said = []
    assert logs(acpi, say=said.append).read() == ()
    assert said == []


def test_the_log_goes_without_what_fills_its_area(acpi):
    whole = (CCELS / "CCEL_data_ovmf").read_bytes()
    (acpi / "data" / "CCEL").write_bytes(whole)
    [(label, sent)] = logs(acpi).read()
    assert label == CC
    assert len(sent) < len(whole)
    assert parse_tcg_log(sent, LogKind.CC).events == parse_tcg_log(whole, LogKind.CC).events


def test_a_large_area_with_a_small_log_fits(acpi):
    whole = (CCELS / "CCEL_data_ovmf").read_bytes()
    (acpi / "data" / "CCEL").write_bytes(whole.ljust(8 << 20, b"\xff"))
    [(_, sent)] = logs(acpi).read()
    assert len(sent) < len(whole)
    with pytest.raises(EvidenceUnavailable, match="a broker takes 100"):
        logs(acpi, limits=Limits(log_bytes=100)).read()


def test_a_log_that_cannot_be_read_goes_as_it_is(acpi):
    (acpi / "data" / "CCEL").write_bytes(b"no log")
    assert logs(acpi).read() == ((CC, b"no log"),)


def test_the_table_must_be_of_a_realm(acpi):
    (acpi / "data" / "CCEL").write_bytes(cc_area(cc_log((), RealmHash.SHA256)))
    (acpi / "CCEL").write_bytes(ccel_table())
    assert logs(acpi).read()
    for name in ("CCEL.table.bin", "cos-113-intel-tdx.table.bin"):
        (acpi / "CCEL").write_bytes((CCELS / name).read_bytes())
        with pytest.raises(EvidenceUnavailable, match="Intel TDX, not of Arm CCA"):
            logs(acpi).read()
    (acpi / "CCEL").write_bytes(ccel_table()[:-1] + b"\x01")
    with pytest.raises(EvidenceUnavailable, match="checksum"):
        logs(acpi).read()
    (acpi / "CCEL").write_bytes(ccel_table(100))
    with pytest.raises(EvidenceUnavailable, match="larger than its table says"):
        logs(acpi).read()
    assert logs(acpi, ccel=None).read() == ()


def test_a_table_without_its_data_is_worth_a_word(acpi):
    (acpi / "CCEL").write_bytes(ccel_table())
    said = []
    assert logs(acpi, say=said.append).read() == ()
    assert "ACPI has a CCEL table" in said[0]


def test_an_area_that_was_named_must_be_there(acpi):
    with pytest.raises(EvidenceUnavailable, match="ACPI has no CCEL"):
        logs(acpi, ccel=acpi / "elsewhere").read()


def test_named_logs_keep_their_labels_and_take_the_place_of_acpis(acpi):
    for name in ("vmm", "cel"):
        (acpi / name).write_bytes(name.encode())
    (acpi / "data" / "CCEL").write_bytes(b"that of ACPI")
    (acpi / "mine").write_bytes((CCELS / "CCEL_data_ovmf").read_bytes())
    cel = parse_label("cel-tlv.mr")
    found = dict(logs(acpi, files={VMM: acpi / "vmm", cel: acpi / "cel", CC: acpi / "mine"}).read())
    assert (found[VMM], found[cel]) == (b"vmm", b"cel")
    assert parse_tcg_log(found[CC], LogKind.CC).events


@pytest.mark.parametrize(("label", "why"), [(VMM, "another channel"), (IMA, "without IMA"), (parse_label("cel-cbor.pcr"), "was named")])
def test_a_missing_file_is_explained(acpi, label, why):
    with pytest.raises(EvidenceUnavailable, match=why):
        logs(acpi, files={label: acpi / "absent"}).read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_for_root_is_explained(acpi):
    (acpi / "list").touch(mode=0o000)
    with pytest.raises(EvidenceUnavailable, match="root only"):
        logs(acpi, files={IMA: acpi / "list"}).read()


@pytest.mark.parametrize(("content", "why"), [(b"", "is empty"), (bytes(11), "more than 10 bytes")])
def test_empty_and_oversized_logs_are_refused(acpi, content, why):
    (acpi / "list").write_bytes(content)
    with pytest.raises(EvidenceUnavailable, match=why):
        logs(acpi, files={IMA: acpi / "list"}, limits=Limits(log_bytes=10)).read()
    (acpi / "data" / "CCEL").write_bytes(b"")
    with pytest.raises(EvidenceUnavailable, match="is empty"):
        logs(acpi).read()


def test_a_directory_is_no_log(acpi):
    with pytest.raises(EvidenceUnavailable, match="EISDIR"):
        logs(acpi, files={IMA: acpi}).read()


def test_what_a_simulated_realm_would_find_in_acpi_is_what_it_sends(acpi):
    """The simulator's area, read by the guest's code, is the log that was measured."""
    stage = Stage(vm=QEMU_FIRMWARE)
    tree = bytes(stage.vm.script.load("DTB").data)
    measured = FirmwareBoot(Disk(kernel=PeFile([Section(".text", b"a kernel")]).build()), RealmHash.SHA256, tree).measurements()
    (acpi / "data" / "CCEL").write_bytes(cc_area(cc_log(measured, RealmHash.SHA256)))
    (acpi / "CCEL").write_bytes(ccel_table())
    assert logs(acpi).read() == ((CC, cc_log(measured, RealmHash.SHA256)),)
