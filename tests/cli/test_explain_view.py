"""What an explanation prints about the REMs that logs explain."""

import hashlib

from kbs_rim.cli.explain_view import compare_images, definition_summary, measured_images, print_explanation, runtime_summary
from kbs_rim.measurement.image import measure_image

FACTS = {
    "runtime": {
        "logs": {"cc": 16, "aael": 1},
        "classes": {"constant": 2, "image": 1},
        "images": [{"rem": 1, "event": 5, "role": "boot-loader", "what": "authenticode of grub\x1b[2J", "image": "sha256:00"}],
    }
}


def test_logs_classes_and_images_are_printed(capsys):
    record = {"verdict": "allowed", "secret": "s", "workload": "w", "at": "now", "facts": FACTS}
    print_explanation({"appraisal": record, "reasons": [], "differences": []})
    shown = capsys.readouterr().out
    assert "REMs by logs: events: 16 in cc, 1 in aael; known as: 2 constant, 1 image" in shown
    assert "REM1 event 5: boot-loader, authenticode of grub\\x1b[2J" in shown


def test_records_without_logs_say_nothing():
    assert runtime_summary({}) is None
    assert measured_images({"runtime": None}) == []


# --- files beside an explanation ----------------------------------------------------------------------------------------


def answer_about(*digests: str, nearest: tuple[dict, ...] = ()) -> dict:
    """An explanation of unknown images with these digests."""
    where = {"event": 3, "description": "KERNEL", "address": "0x40200000"}
    findings = [{"id": "rim.image-unknown", "step": 5, "message": "?", "seen": digest, "where": where} for digest in digests]
    return {"reasons": [{"finding": finding, "nearest": list(nearest)} for finding in findings]}


def test_a_file_that_the_log_does_not_name_is_not_passed_over(tmp_path):
    (tmp_path / "Image").write_bytes(b"another kernel")
    [told] = compare_images(None, answer_about("ab" * 32), (tmp_path / "Image",))
    assert told == {
        "file": str(tmp_path / "Image"),
        "problem": "this is none of the unknown images that the log names: the realm loaded another file",
    }
    nothing = {"appraisal": {"facts": {"images": ["sha256:00"]}}, "reasons": []}
    [told] = compare_images(None, nothing, (tmp_path / "Image",))
    assert told["problem"] == "nothing to compare: the log names no unknown image"


def test_a_file_is_compared_with_what_the_log_names_if_the_rim_did_not_match(tmp_path, capsys):
    """The host loaded other bytes than it logged: its file shows which."""
    trusted = bytes(range(256)) * 64
    loaded = bytearray(trusted)
    loaded[5000] ^= 1
    (tmp_path / "loaded").write_bytes(loaded)
    (tmp_path / "trusted").write_bytes(trusted)
    known = {measured.image_id: measured for measured in (measure_image(trusted), measure_image(b"x" * 99))}

    class Client:
        def get(self, path):
            image_id, _, more = path.removeprefix("/admin/v1/images/").partition("/")
            measured = known[image_id]
            return measured.to_document() if more else {"id": image_id, "name": "kernel", "size": measured.size}

    reasons = [{"finding": {"id": "rim.mismatch", "step": 5, "message": "m"}, "title": "t", "remedy": "r", "hints": [], "nearest": []}]
    record = {"verdict": "refused", "secret": "s", "workload": "w", "at": "now", "facts": {"images": list(known)}}
    answer = {"appraisal": record, "reasons": reasons}
    differences = compare_images(Client(), answer, (tmp_path / "loaded", tmp_path / "trusted"))
    assert differences[1]["problem"] == "this is registered, and the log names it: these bytes are not what differs"
    print_explanation({**answer, "differences": differences})
    out = capsys.readouterr().out
    assert f"{tmp_path}/loaded and kernel: 1 of 4 granules differ\n  granule 1 at offset 0x1000\n" in out


def test_a_file_with_nothing_registered_beside_it_is_not_passed_over(tmp_path, capsys):
    (tmp_path / "Image").write_bytes(b"the kernel")
    [told] = compare_images(None, answer_about(hashlib.sha512(b"the kernel").hexdigest()), (tmp_path / "Image",))
    assert told["event"] == 3
    record = {"verdict": "refused", "secret": None, "workload": None, "at": "now", "facts": {}}
    print_explanation({"appraisal": record, "reasons": [], "differences": [told, {"file": "x", "problem": "y"}]})
    out = capsys.readouterr().out
    assert f"{tmp_path}/Image (event 3): no image is registered that it could be compared with" in out
    assert "\nx: y\n" in out


def test_replays_that_did_not_match_stand_on_lines_of_their_own(capsys):
    record = {"verdict": "refused", "secret": "s", "workload": "w", "at": "now", "facts": {}}
    finding = {"id": "rim.mismatch", "step": 5, "message": "m", "expected": "rmm-1.0/4k/log: aa; rmm-2.0/4k/log: bb", "seen": "cc"}
    reason = {"finding": finding, "title": "t", "remedy": "r", "hints": [], "nearest": []}
    print_explanation({"appraisal": record, "reasons": [reason], "differences": []})
    assert "  expected: rmm-1.0/4k/log: aa\n            rmm-2.0/4k/log: bb\n  seen: cc\n" in capsys.readouterr().out


def test_a_place_is_told_from_the_large_to_the_small(capsys):
    where = {"address": "0x48000000", "event": 5, "node": "/chosen", "property": "linux,initrd-start", "z": 1}
    finding = {"id": "tree.initrd", "step": 7, "message": "m", "where": where}
    record = {"verdict": "refused", "secret": "s", "workload": "w", "at": "now", "facts": {}}
    reasons = [{"finding": finding, "title": "t", "remedy": "r", "hints": [], "nearest": []}]
    print_explanation({"appraisal": record, "reasons": reasons, "differences": []})
    assert "  where: event 5, node /chosen, property linux,initrd-start, address 0x48000000, z 1\n" in capsys.readouterr().out


# --- realms without a log -----------------------------------------------------------------------------------------------

VM = {"cpus": 4, "ram": 2 << 30, "sve_bits": 0, "pmu_counters": None, "bootargs": "ro\x1b[2J"}


def test_the_vm_of_a_definition_is_told(capsys):
    facts = {"definition": {"vms": 96, "tried": 17, "number": 17, "remembered": False, "vm": VM}}
    record = {"verdict": "allowed", "secret": "s", "workload": "w", "at": "now", "facts": facts}
    print_explanation({"appraisal": record, "reasons": [], "differences": []})
    shown = capsys.readouterr().out
    assert "No log; from the workload's definition: VM 17 of 96: 4 vCPUs, 2 GiB, SVE off, PMU off, command line" in shown
    assert "\x1b" not in shown
    other = {**VM, "ram": 512 << 20, "sve_bits": 512, "pmu_counters": 6, "bootargs": None}
    told = definition_summary({"definition": {"vms": 96, "tried": 1, "number": 2, "remembered": True, "vm": other}})
    assert told == "VM 2 of 96, as was found before: 4 vCPUs, 512 MiB, SVE 512 bits, PMU with 6 counters"


def test_a_search_that_failed_says_how_much_was_tried():
    assert definition_summary({"definition": {"vms": 96, "tried": 80, "remembered": False}}) == "none of 96 VMs, 80 of them tried"
    assert definition_summary({}) is None
