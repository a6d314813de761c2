"""The configfs-tsm recipe against a tree with the kernel's semantics, real files underneath."""

import errno
import os

import pytest
from fake_configfs import Kernel

from kbs_rim.evidence.event_log import LogFormat
from kbs_rim.evidence.log_label import label_of
from kbs_rim.limits import Limits
from kbs_rim.realm.failures import EvidenceUnavailable
from kbs_rim.realm.guest_logs import GuestLogs
from kbs_rim.realm.tsm import ConfigfsTree, TsmEvidence, read_token

CHALLENGE = bytes(range(64))


@pytest.fixture
def kernel(tmp_path):
    return Kernel(tmp_path)


def test_the_recipe(kernel):
    assert read_token(CHALLENGE, kernel) == b"token for " + CHALLENGE
    assert kernel.writes == [("inblob", CHALLENGE)]
    assert kernel.names() == []


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_only_whole_challenges_are_written(kernel, size):
    with pytest.raises(ValueError, match="64"):
        read_token(bytes(size), kernel)
    assert kernel.writes == []


def test_another_provider_is_not_a_realm(tmp_path):
    kernel = Kernel(tmp_path, "tdx_guest")
    with pytest.raises(EvidenceUnavailable, match="no CCA realm"):
        read_token(CHALLENGE, kernel)
    assert kernel.writes == []
    assert kernel.names() == []


def test_a_write_that_the_kernel_threw_away_is_noticed(kernel):
    kernel.ignore_writes = True
    with pytest.raises(EvidenceUnavailable, match="did not take"):
        read_token(CHALLENGE, kernel)


def test_a_second_writer_is_noticed(kernel):
    kernel.other_writer = True
    with pytest.raises(EvidenceUnavailable, match="somebody else"):
        read_token(CHALLENGE, kernel)


def test_an_empty_report_is_a_failure(kernel):
    kernel.report = lambda challenge: b""
    with pytest.raises(EvidenceUnavailable, match="empty"):
        read_token(CHALLENGE, kernel)


def test_an_oversized_report_is_a_failure(kernel):
    kernel.report = lambda challenge: bytes(101)
    with pytest.raises(EvidenceUnavailable, match="larger"):
        read_token(CHALLENGE, kernel, Limits(token_bytes=100))


@pytest.mark.parametrize("number", [errno.ENXIO, errno.EINVAL, errno.ENOMEM])
def test_transient_errors_are_tried_again_in_a_new_directory(kernel, number):
    kernel.errors, pauses, made = [number, number], [], []
    create = kernel.create
    kernel.create = lambda name: (made.append(name), create(name))
    assert read_token(CHALLENGE, kernel, pause=pauses.append) == b"token for " + CHALLENGE
    assert pauses == [0.2, 1.0]
    assert len(set(made)) == 3
    assert kernel.names() == []


def test_it_gives_up_after_the_third_pause(kernel):
    kernel.errors, pauses = [errno.ENXIO] * 10, []
    with pytest.raises(EvidenceUnavailable, match="ENXIO"):
        read_token(CHALLENGE, kernel, pause=pauses.append)
    assert pauses == [0.2, 1.0, 3.0]
    assert kernel.names() == []


def test_other_errors_fail_at_once(kernel):
    kernel.errors = [errno.EFBIG]
    with pytest.raises(EvidenceUnavailable, match="EFBIG"):
        read_token(CHALLENGE, kernel, pause=lambda seconds: pytest.fail("it paused"))


def test_without_configfs_the_message_says_so(tmp_path):
    with pytest.raises(EvidenceUnavailable, match="configfs is not mounted"):
        read_token(CHALLENGE, ConfigfsTree(tmp_path / "absent"))


def test_leftovers_of_dead_processes_are_removed_others_are_left(kernel):
    dead = 4_000_000  # above the largest process id
    kernel.create(f"kbs-rim-{dead}-00")
    kernel.create(f"kbs-rim-{os.getpid()}-00")
    kernel.create("somebody-elses")
    read_token(CHALLENGE, kernel)
    assert kernel.names() == [f"kbs-rim-{os.getpid()}-00", "somebody-elses"]


def test_evidence_holds_token_and_logs(kernel, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "CCEL").write_bytes(b"firmware log")
    (logs / "vmm").write_bytes(b"vmm log")
    evidence = TsmEvidence(
        kernel_in(kernel, "tsm"), logs=GuestLogs(files={label_of(LogFormat.VMM): logs / "vmm"}, ccel=logs / "CCEL")
    ).evidence(CHALLENGE)
    assert evidence.token == b"token for " + CHALLENGE
    assert {label.value: log for label, log in evidence.logs} == {"vmm": b"vmm log", "cc": b"firmware log"}


def test_evidence_holds_the_device_tree_that_was_named(kernel, tmp_path):
    tree = tmp_path / "fdt"
    source = TsmEvidence(kernel_in(kernel, "tsm"), logs=GuestLogs(ccel=None), device_tree=tree)
    with pytest.raises(FileNotFoundError):
        source.evidence(CHALLENGE)
    tree.write_bytes(b"")
    with pytest.raises(EvidenceUnavailable, match="a device tree is empty"):
        source.evidence(CHALLENGE)
    tree.write_bytes(b"the tree")
    assert source.evidence(CHALLENGE).device_tree == b"the tree"


def kernel_in(kernel, name):
    kernel.root = kernel.root / name
    kernel.root.mkdir()
    return kernel
