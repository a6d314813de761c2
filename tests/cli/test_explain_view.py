"""What an explanation prints about the REMs that logs explain."""

from kbs_rim.cli.explain_view import measured_images, print_explanation, runtime_summary

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
