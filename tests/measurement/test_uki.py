"""UKIs and addons: which sections count, in which order they are measured, and the initrd that the stub makes of them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.image import ImageMeasurements, measure_image, measure_stream
from kbs_rim.measurement.stub_initrd import stub_initrd
from kbs_rim.measurement.uki import STUB_ORDER, Measured, UkiForm, kernel_command_line, load_options
from tests.pe_builder import MAGIC, PeFile, Section, signed, uki, up

SHA256 = HashAlgorithm.SHA256
COMMAND_LINE = "console=ttyAMA0 panic=-1 rdinit=/init loglevel=1"
UNAME = "6.1.0-56-cloud-arm64"


def facts_of(data: bytes, limits: Limits = DEFAULT_LIMITS):
    facts = measure_image(data, limits).pe.uki
    assert facts is not None
    return facts


def digests_of(data: bytes) -> dict[HashAlgorithm, bytes]:
    return {algorithm: algorithm.digest(data) for algorithm in HashAlgorithm}


def events_of(vectors: Path, boot: str, register: int, kind: str) -> list[dict[str, str]]:
    events = json.loads((vectors / "images" / "measured-boot" / boot / "oracle.json").read_text())["events"]
    return [event["digests"] for event in events if (event["pcr"], event["type"]) == (register, kind)]


@pytest.mark.parametrize("boot", ["arm64-uki-direct", "arm64-uki-direct-all-sections", "arm64-uki-direct-edk2-2026.08-systemd-262"])
def test_the_stub_measures_sections_in_its_own_order(vectors, boot):
    """What two versions of the stub wrote into the log of a TPM, from a UKI whose sections have another order in the file."""
    release = (vectors / "images" / "measured-boot" / "os-release.txt").read_bytes()
    known = {".osrel": release, ".cmdline": COMMAND_LINE.encode(), ".uname": UNAME.encode(), ".profile": b"ID=main"}
    names = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"]
    if "all-sections" in boot:
        names += [".ucode", ".splash", ".pcrpkey", ".profile"]
    image = uki((".foo", b"not known"), (".pcrsig", b"{}"), *((name, known.get(name, b"x")) for name in reversed(names)))
    logged = events_of(vectors, boot, 11, "EV_IPL")
    measured = facts_of(image).measured()
    assert len(logged) == 2 * len(measured)
    derived = 0
    for section, of_name, of_content in zip(measured, logged[::2], logged[1::2], strict=True):
        for algorithm in HashAlgorithm:
            assert section.name_digest(algorithm).hex() == of_name[algorithm.compact_name], section.name
            if section.name in known:
                assert section.digests[algorithm].hex() == of_content[algorithm.compact_name], section.name
                derived += 1
    assert derived == 3 * (4 if "all-sections" in boot else 3)


def test_the_command_line_is_what_the_kernel_measures(vectors):
    text = facts_of(uki((".linux", b"k"), (".cmdline", COMMAND_LINE.encode() + b"\0garbage"))).effective()[".cmdline"].text
    options, _initrd = events_of(vectors, "arm64-uki-direct", 9, "EV_EVENT_TAG")
    for algorithm in HashAlgorithm:
        assert algorithm.digest(load_options(kernel_command_line(text))).hex() == options[algorithm.compact_name]


def test_command_lines_of_addons_are_appended():
    assert kernel_command_line(" quiet\n", "\t", "a=1\tb\x7f", "") == "quiet a=1 b"
    assert kernel_command_line("a\x01b  c") == "a b  c"
    assert kernel_command_line() == ""


def test_sections_are_digested_as_they_lie_in_memory():
    sections = [
        MAGIC,
        Section(".linux", b"kernel" * 100),
        Section(".osrel", b"ID=x\n" + b"padding", virtual_size=5),
        Section(".uname", b"6.1", virtual_size=1000),
        Section(".cmdline", b"", virtual_size=4),
    ]
    found = {section.name: section for section in facts_of(PeFile(sections, alignment=16).build()).sections}
    assert found[".linux"].digests == digests_of(b"kernel" * 100)
    assert (found[".osrel"].digests, found[".osrel"].text) == (digests_of(b"ID=x\n"), "ID=x\n")
    assert (found[".uname"].digests, found[".uname"].text) == (digests_of(b"6.1" + bytes(997)), "6.1")
    assert (found[".cmdline"].digests, found[".cmdline"].text) == (digests_of(bytes(4)), "")


def test_the_stub_ignores_what_is_empty_or_comes_second():
    facts = facts_of(uki((".linux", b"k"), (".cmdline", b"first"), (".osrel", b""), (".cmdline", b"second"), (".linuxx", b"")))
    assert [(section.name, section.text) for section in facts.sections] == [(".linux", None), (".cmdline", "first")]


def test_profiles_override_what_all_share():
    facts = facts_of(
        uki(
            (".linux", b"k"), (".cmdline", b"base"), (".dtbauto", b"tree 0"),
            (".profile", b"ID=a"),
            (".profile", b"ID=b"), (".cmdline", b"for b"), (".dtbauto", b"tree b"), (".initrd", b"initrd b"),
        )
    )  # fmt: skip
    assert facts.profiles == len(facts.initrds) == 2
    assert [facts.effective(profile)[".cmdline"].text for profile in (0, 1)] == ["base", "for b"]
    assert [section.name for section in facts.measured(0)] == [".linux", ".cmdline", ".profile", ".dtbauto"]
    assert [section.name for section in facts.measured(1)] == [".linux", ".cmdline", ".initrd", ".profile", ".dtbauto", ".dtbauto"]
    assert {section.measured for section in facts.measured(1)} == {Measured.ALWAYS, Measured.IF_SELECTED}
    assert facts.initrds[0] == digests_of(slow_cpio("profile", b"ID=a"))
    assert facts.initrds[1] == digests_of(b"initrd b" + slow_cpio("profile", b"ID=b"))


def test_signatures_of_the_expected_values_are_not_measured():
    facts = facts_of(uki((".linux", b"k"), (".pcrsig", b"{}"), (".sbat", b"sbat,1\n")))
    assert [section.name for section in facts.measured()] == [".linux", ".sbat"]
    assert {section.name for section in facts.sections} == {".linux", ".pcrsig", ".sbat"}


def test_every_known_section_has_its_place():
    image = uki(*((name, name.encode()) for name in sorted(STUB_ORDER) if name != ".profile"))
    assert [section.name for section in facts_of(image).measured()] == [
        ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".dtbauto", ".hwids",
        ".efifw",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "form"),
    [
        ([".linux", ".cmdline"], UkiForm.UKI),
        ([".cmdline"], UkiForm.ADDON),
        ([".initrd", ".sbat"], UkiForm.ADDON),
        ([".osrel", ".sbat"], None),
        ([], None),
    ],
)
def test_addons_and_other_programs(sections, form):
    pe = measure_image(uki(*((name, b"content") for name in sections))).pe
    assert (pe.uki and pe.uki.form) == form
    assert pe.loader == "systemd-stub 257.13-1~deb13u1"
    if form is UkiForm.ADDON:
        assert pe.uki.initrds == ()


def test_a_signed_uki_has_the_same_sections():
    image = uki((".linux", b"k"), (".initrd", b"i"))
    assert facts_of(signed(image)) == facts_of(image)


# --- the initrd -------------------------------------------------------------------------------------------------------


def slow_cpio(name: str, content: bytes) -> bytes:
    """One file in one folder, in the newc format, written field by field; shares no code with what is tested."""
    out = b""
    for inode, mode, path, data in ((1, "0000416d", ".extra", b""), (2, "00008124", f".extra/{name}", content)):
        fields = [f"{inode:08x}", mode, "0" * 8, "0" * 8, "00000001", "0" * 8, f"{len(data):08x}"] + ["0" * 8] * 4
        fields += [f"{len(path) + 1:08x}", "0" * 8]
        header = ("070701" + "".join(fields) + path + "\0").encode()
        out += header.ljust(up(len(header), 4), b"\0") + data.ljust(up(len(data), 4), b"\0")
    end = ["0" * 8] * 4 + ["00000001"] + ["0" * 8] * 6 + ["0000000B", "0" * 8]
    return out + ("070701" + "".join(end) + "TRAILER!!!").encode() + bytes(4)


def padded(data: bytes) -> bytes:
    return data.ljust(up(len(data), 4), b"\0")


@pytest.mark.parametrize("block", [3, 1000, 1 << 20])
def test_the_initrd_is_put_together_in_the_order_of_the_stub(block):
    contents = {
        ".linux": b"k", ".initrd": b"initrd" * 999, ".profile": b"ID=main", ".osrel": b"ID=debian\n", ".pcrpkey": b"-----BEGIN",
        ".ucode": b"microcode" * 77, ".pcrsig": b"{}",
    }  # fmt: skip
    expected = (
        padded(contents[".ucode"])
        + padded(contents[".initrd"])
        + slow_cpio("tpm2-pcr-signature.json", contents[".pcrsig"])
        + slow_cpio("tpm2-pcr-public-key.pem", contents[".pcrpkey"])
        + slow_cpio("os-release", contents[".osrel"])
        + slow_cpio("profile", contents[".profile"])
    )
    image = uki(*contents.items())
    facts = measure_stream((image[at : at + block] for at in range(0, len(image), block)), len(image)).pe.uki
    assert facts.initrds == (digests_of(expected),)


def test_a_lone_initrd_is_handed_over_as_it_is():
    """There is nothing to combine, so the stub does not copy it, and does not pad it."""
    assert facts_of(uki((".linux", b"k"), (".initrd", b"12345"))).initrds == (digests_of(b"12345"),)
    assert facts_of(uki((".linux", b"k"), (".initrd", b"12345"), (".osrel", b"x"))).initrds == (
        digests_of(b"12345\0\0\0" + slow_cpio("os-release", b"x")),
    )


def test_without_parts_there_is_no_initrd():
    assert facts_of(uki((".linux", b"k"), (".cmdline", b"x"))).initrds == (None,)


def test_addons_surround_what_the_uki_has():
    pieces = stub_initrd(
        {".initrd": [b"base"], ".ucode": [b"uc"]}, ucode_addons=[[b"first uc"], [b"second uc"]], initrd_addons=[[b"addon a"], [b"addon b"]]
    )
    assert b"".join(pieces) == b"second uc\0\0\0first ucuc\0\0baseaddon a\0addon b\0"


@pytest.mark.parametrize("loader", [b"#### LoaderInfo: systemd-stub 256.7-1 ####", b"#### LoaderInfo: other-stub 300 ####", b"x"])
def test_the_initrd_of_a_stub_that_we_do_not_know_is_unknown(loader):
    facts = facts_of(uki((".linux", b"k"), (".initrd", b"i"), magic=Section(".sdmagic", loader)))
    assert facts.initrds == ()


# --- liars ------------------------------------------------------------------------------------------------------------


def refusal_of(data: bytes, limits: Limits) -> tuple[str, str]:
    with pytest.raises(MalformedEvidence) as refused:
        measure_image(data, limits)
    return refused.value.finding_id, refused.value.message


def test_a_section_of_4_gib_of_zeros_is_refused_before_anything_is_hashed():
    data = PeFile([MAGIC, Section(".linux", b"k"), Section(".initrd", b"i", virtual_size=0xFFFFFFFF)]).build()
    finding, message = refusal_of(data, DEFAULT_LIMITS)
    assert finding == "image.pe"
    assert "larger in memory" in message


def test_zeros_add_up():
    sections = [MAGIC, *(Section(name, b"", virtual_size=4 << 20) for name in (".linux", ".initrd", ".osrel", ".dtb", ".hwids"))]
    assert refusal_of(PeFile(sections).build(), DEFAULT_LIMITS)[0] == "image.pe"
    assert facts_of(PeFile(sections[:-1]).build()).effective()[".dtb"].size == 4 << 20


def test_a_thousand_profiles_are_refused():
    data = uki((".linux", b"k"), (".initrd", b"i" * 100), *[(".profile", b"x")] * 1000)
    finding, message = refusal_of(data, DEFAULT_LIMITS)
    assert finding == "image.pe"
    assert "profiles" in message
    assert facts_of(uki((".linux", b"k"), *[(".profile", b"x")] * 3), Limits(uki_profiles=3)).profiles == 3


def test_what_must_be_kept_is_bounded():
    """Microcode comes first in the initrd; where it is last in the file, everything in front of it has to wait."""
    late, early = ((".initrd", b"i" * 5000), (".ucode", b"u" * 10)), ((".ucode", b"u" * 10), (".initrd", b"i" * 5000))
    limits = Limits(pe_held_bytes=4999)
    assert refusal_of(uki((".linux", b"k"), *late), limits)[0] == "image.too-large"
    assert facts_of(uki((".linux", b"k"), *early), limits).initrds == facts_of(uki((".linux", b"k"), *late)).initrds
    hole = PeFile([Section(".a", b"a" * 9000, at=0x4000)]).build()
    assert refusal_of(hole, limits)[0] == "image.too-large"


def test_long_or_binary_text_is_not_shown():
    facts = facts_of(uki((".linux", b"k"), (".cmdline", b"\xff\xfe"), (".osrel", b"x" * 9000), (".sbat", b"sbat")))
    assert [section.text for section in facts.sections] == [None] * 4
    assert [section.size for section in facts.sections] == [1, 2, 9000, 4]


DAMAGEABLE = signed(uki((".linux", b"k" * 40), (".profile", b"a"), (".initrd", b"i" * 9), (".ucode", b"u"), (".profile", b"b")))


@given(st.lists(st.tuples(st.integers(0, 0x260), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 600))
def test_a_damaged_uki_is_measured_or_refused_and_nothing_else(changes, cut):
    data = bytearray(DAMAGEABLE)
    for at, value in changes:
        data[at] = value
    try:
        image = measure_image(bytes(data[: len(data) - cut]), Limits(pe_zero_fill_bytes=1 << 16))
    except MalformedEvidence as error:
        finding = error.finding_id
    else:
        finding = "none"
        assert ImageMeasurements.from_document(image.to_document()) == image
    assert finding in ("none", "image.pe")
