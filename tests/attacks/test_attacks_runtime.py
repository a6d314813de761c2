"""REMs over HTTP: a realm that booted a UKI sends its firmware's log, and everything that a host or guest may do to it is refused."""

from collections.abc import Sequence

import pytest
from log_forge import SHA256, aael_record, tagged, tcg_log
from measured_boot import extends_of, read, with_logs
from stage import QEMU_KERNEL

from kbs_rim.evidence.envelope import (
    CMW_CBOR_TYPE,
    CMW_JSON_TYPE,
    EVIDENCE_JSON_TYPE,
    Evidence,
    encode_evidence_cmw_cbor,
    encode_evidence_cmw_json,
    encode_evidence_json,
    encode_evidence_multipart,
)
from kbs_rim.evidence.log_label import parse_label
from kbs_rim.measurement.uki import load_options
from tests.broker_stage import Answer, Site, expect, register_image
from tests.pe_builder import PeFile, Section, slow_authenticode, uki

LINE = "console=ttyAMA0 root=/dev/vda2"
LOADER = PeFile([Section(".text", b"code of a boot loader")]).build()
KERNEL = b"a kernel in a UKI"
UKI = uki((".linux", KERNEL), (".cmdline", LINE.encode()))
ACTION, SEPARATOR, APPLICATION, IPL, TAG = 0x80000007, 0x4, 0x80000003, 0xD, 0x6
LOAD_OPTIONS = tagged(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0")
PULL = b"coco.example PullImage alpine"
Event = tuple[int, int, bytes, bytes | None]


class Pe(bytes):
    """Bytes that are measured by their Authenticode digest."""


def boot(loader: bytes = LOADER, image: bytes = UKI, options: bytes | None = None) -> list[Event]:
    """The events of a boot; PE images by their digest, which ``log_of`` puts in as it is."""
    return [
        (2, ACTION, b"Calling EFI Application from Boot Option", None),
        (1, SEPARATOR, bytes(4), None),
        (2, APPLICATION, bytes(32), Pe(loader)),
        (2, APPLICATION, bytes(32), Pe(image)),
        (3, IPL, ".linux\0".encode("utf-16-le"), b".linux\0"),
        (3, IPL, ".linux\0".encode("utf-16-le"), KERNEL),
        (3, TAG, LOAD_OPTIONS, load_options(LINE) if options is None else options),
    ]


def log_of(events: Sequence[Event]) -> bytes:
    """A firmware log; events of PE images get their Authenticode digest in place of a hash of data."""
    out = tcg_log(SHA256)
    for register, kind, data, hashed in events:
        record = tcg_log(SHA256, (register, kind, data, hashed))[len(tcg_log(SHA256)) :]
        if isinstance(hashed, Pe):
            record = record[:14] + slow_authenticode(bytes(hashed)) + record[46:]
        out += record
    return out


async def furnish_runtime(site: Site, **changes) -> dict[str, str]:
    """Register the boot's images, and a workload that explains REM0 to REM2 by the firmware's log and REM3 by the agent's."""
    ids = {"boot-loader": await register_image(site, LOADER, "boot-loader"), "uki": await register_image(site, UKI, "uki")}
    table = {
        "logs": [{"kind": "cc"}, {"kind": "aael", "required": False}],
        "images": [{"role": role, "images": [image]} for role, image in ids.items()],
        "command_line": {"exact": [LINE]},
        "aael": [{"domain": "coco.example", "operation": "PullImage", "content": "*"}],
    }
    document = {**QEMU_KERNEL.workload_document("qemu-kernel"), "realm": {"rems": ["log"] * 4}, "runtime": {**table, **changes}}
    await expect(site, 201, "POST", "/admin/v1/workloads", document)
    return ids


async def attest(site: Site, truth: Sequence[Event], sent: Sequence[tuple[str, bytes]] | None = None, agent: bytes = b"") -> Answer:
    """A realm that measured ``truth`` (and what its agent logged), and sends these logs."""
    honest = [("cc", log_of(truth)), *([("aael", agent)] if agent else [])]
    extends = tuple(item for label, data in honest for item in extends_of(read(label, data)))
    offer = await site.offer()
    evidence = site.realm(extends=extends).evidence(offer.challenge)
    return await site.submit(offer, with_logs(evidence, honest if sent is None else sent))


async def test_a_measured_boot_is_released_and_on_record(site: Site) -> None:
    ids = await furnish_runtime(site)
    answer = await attest(site, boot(), agent=aael_record(PULL, SHA256))
    assert answer.status == 200, answer
    shown = await site.record(answer.document["ticket"])
    facts = shown["appraisal"]["facts"]
    assert facts["runtime"]["logs"] == {"cc": 7, "aael": 1}
    assert facts["runtime"]["classes"] == {"constant": 2, "image": 3, "expected": 3}
    assert set(ids.values()) <= set(facts["images"])
    assert {"log.vmm", "log.cc", "log.aael"} <= set(shown["appraisal"]["inputs"])
    kept = await site.ask("GET", f"/audit/v1/payloads/{shown['appraisal']['inputs']['log.cc']}", who="auditor")
    assert kept.body == log_of(boot())
    touched = (await expect(site, 200, "POST", f"/admin/v1/images/{ids['uki']}/state", {"state": "revoked", "reason": "hole"})).document
    assert touched["touches"]["past_releases"] == 1
    assert touched["touches"]["workloads"] == ["qemu-kernel"]
    assert (await attest(site, boot())).status == 403


async def test_attack_revoked_boot_loader_of_a_measured_boot(site: Site) -> None:
    ids = await furnish_runtime(site)
    await expect(site, 200, "POST", f"/admin/v1/images/{ids['boot-loader']}/state", {"state": "revoked", "reason": "hole"})
    await site.assert_refused(await attest(site, boot()), "rem.image-revoked", code="measurement-refused")


async def test_attack_unregistered_boot_loader(site: Site) -> None:
    await furnish_runtime(site)
    evil = PeFile([Section(".text", b"evil loader")]).build()
    record = await site.assert_refused(await attest(site, boot(loader=evil)), "rem.event-unknown", code="measurement-refused")
    assert {finding["id"] for finding in record["findings"] if finding["severity"] == "error"} == {"rem.event-unknown", "rem.image-missing"}


async def test_attack_registered_boot_loader_of_nobody(site: Site) -> None:
    """Registered, active, but no workload lets it in."""
    await furnish_runtime(site)
    other = PeFile([Section(".text", b"another loader")]).build()
    await register_image(site, other, "boot-loader")
    await site.assert_refused(await attest(site, boot(loader=other)), "rem.image-unexpected", code="measurement-refused")


async def test_attack_forged_command_line(site: Site) -> None:
    await furnish_runtime(site)
    answer = await attest(site, boot(options=load_options(LINE + " init=/bin/sh")))
    await site.assert_refused(answer, "rem.event-unknown", code="measurement-refused")


async def test_attack_event_relabelled(site: Site) -> None:
    """The evil loader's digest under the label of an action of the firmware."""
    await furnish_runtime(site)
    evil = PeFile([Section(".text", b"evil loader")]).build()
    truth = [*boot(), (2, ACTION, b"Exit Boot Services Invocation", Pe(evil))]
    await site.assert_refused(await attest(site, truth), "rem.event-unknown", code="measurement-refused")


@pytest.mark.parametrize(
    ("attack", "findings"),
    [
        ("none", {"rem.log-missing"}),
        ("truncated", {"log.truncated"}),
        ("behind padding", {"log.padding"}),
        ("other boot", {"rem.replay"}),
        ("called a TPM's", {"rem.log-missing"}),
        ("no agent", {"rem.unexplained"}),
    ],
)
async def test_attack_on_the_logs(site: Site, attack: str, findings: set[str]) -> None:
    await furnish_runtime(site)
    data, agent = log_of(boot()), aael_record(PULL, SHA256)
    sent = {
        "none": [],
        "truncated": [("cc", data[:-1]), ("aael", agent)],
        "behind padding": [("cc", data + b"\xff" * 99 + b"x"), ("aael", agent)],
        "other boot": [("cc", log_of(boot()[:-1])), ("aael", agent)],
        "called a TPM's": [("tpm", data), ("aael", agent)],
        "no agent": [("cc", data)],
    }[attack]
    record = await site.assert_refused(await attest(site, boot(), sent, agent), *findings)
    errors = {finding["id"] for finding in record["findings"] if finding["severity"] == "error"}
    assert errors == findings | {"rem.not-judged"}


async def test_every_envelope_carries_every_log(site: Site) -> None:
    await furnish_runtime(site)
    extends = extends_of(read("cc", log_of(boot()))) + extends_of(read("aael", aael_record(PULL, SHA256)))
    realm = site.realm(extends=extends)
    for media_type, encode in (
        (EVIDENCE_JSON_TYPE, encode_evidence_json),
        (CMW_CBOR_TYPE, encode_evidence_cmw_cbor),
        (CMW_JSON_TYPE, encode_evidence_cmw_json),
        ("multipart/mixed; boundary=kbs-rim-9d1f", lambda evidence: encode_evidence_multipart(evidence, "kbs-rim-9d1f")),
    ):
        offer = await site.offer()
        evidence = with_logs(realm.evidence(offer.challenge), [("cc", log_of(boot())), ("aael", aael_record(PULL, SHA256))])
        answer = await site.send(offer, encode(evidence), media_type)
        assert answer.status == 200, (media_type, answer)


async def test_a_canonical_log_without_its_numbering_is_no_evidence(site: Site) -> None:
    offer = await site.offer()
    genuine = site.realm().evidence(offer.challenge)
    body = encode_evidence_json(Evidence(genuine.token, (*genuine.logs, (parse_label("cel-tlv.mr"), b"x")))).replace(
        b"cel-tlv.mr", b"cel-tlv"
    )
    answer = await site.send(offer, body, EVIDENCE_JSON_TYPE)
    await site.assert_refused(answer, "envelope.unknown-member")
