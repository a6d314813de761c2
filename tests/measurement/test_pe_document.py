"""What is known of PE files and firmware, as JSON: it survives the way, and older documents lack it."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.image import PART_MEMBERS, ImageMeasurements, measure_image
from kbs_rim.measurement.pe_facts import PeFacts
from kbs_rim.measurement.uki import UkiFacts, UkiForm, UkiSection
from tests.pe_builder import PeFile, Section, signed, uki, volume

UKI = uki((".linux", b"kernel"), (".cmdline", b"a=\xc3\xa9 b"), (".initrd", b"i"), (".profile", b"ID=a"), (".profile", b"ID=b"))
DIGESTS = {algorithm: algorithm.digest(b"x") for algorithm in HashAlgorithm}


def again(image: ImageMeasurements) -> ImageMeasurements:
    return ImageMeasurements.from_document(json.loads(json.dumps(image.to_document())))


@pytest.mark.parametrize(
    "data",
    [
        UKI,
        signed(UKI),
        uki((".cmdline", b"addon")),
        PeFile([Section(".text", b"x")], trailer=b"odd").build(),
        bytes(4096) + volume(8192),
        b"plain",
    ],
)
def test_a_document_survives_the_way(data):
    assert again(measure_image(data)) == measure_image(data)


@given(st.dictionaries(st.sampled_from([".linux", ".osrel", ".cmdline", ".initrd", ".profile", ".pcrsig"]), st.binary(max_size=40)))
def test_any_uki_survives_the_way(sections):
    image = measure_image(uki(*sections.items()))
    assert again(image) == image


def test_a_document_from_before_parts_were_known_is_accepted():
    image = measure_image(UKI)
    document = image.to_document()
    for member in PART_MEMBERS:
        del document[member]
    found = ImageMeasurements.from_document(document)
    assert (found.pe, found.volumes, found.image_id) == (None, (), image.image_id)


def test_every_digest_of_an_image_is_named():
    image = measure_image(UKI)
    assert image.pe is not None
    named = {(item.what, item.algorithm): item.digest for item in image.measured_digests()}
    assert len(image.measured_digests()) == len(set(image.measured_digests()))
    assert {what for what, _ in named} == {
        "file", "authenticode", "section .linux", "section .cmdline", "section .initrd", "section .profile", "initrd",
    }  # fmt: skip
    for algorithm in HashAlgorithm:
        assert named["file", algorithm] == algorithm.digest(UKI)
        assert named["authenticode", algorithm] == image.pe.authenticode[algorithm]
        assert named["section .cmdline", algorithm] == algorithm.digest(b"a=\xc3\xa9 b")


def _set(path: str, value):
    def change(document):
        *folders, name = path.split("/")
        target = document
        for folder in folders:
            target = target[int(folder) if folder.isdigit() else folder]
        target[name] = value

    return pytest.param(change, path.rsplit("/", maxsplit=1)[-1], id=f"{path} = {value!r}")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        _set("pe/machine", "0x1ffff"),
        _set("pe/machine", 0xAA64),
        _set("pe/certificates_size", -1),
        _set("pe/certificates_size", 1 << 40),
        _set("pe/authenticode", {}),
        _set("pe/authenticode_padded", "x"),
        _set("pe/loader", "a\0b"),
        _set("pe/loader", 3),
        _set("pe/loader", "systemd-stub \x1b[2J"),
        _set("pe/loader", "x" * 257),
        _set("pe/uki", []),
        _set("pe/uki/form", "elf"),
        _set("pe/uki/form", ["uki"]),
        _set("pe/uki/sections", {}),
        _set("pe/uki/initrds", [None] * 33),
        _set("pe/uki/sections/0/name", 3),
        _set("pe/uki/sections/0/size", 0),
        _set("pe/uki/sections/0/size", True),
        _set("pe/uki/sections/0/profile", 32),
        _set("pe/uki/sections/0/profile", "0"),
        _set("pe/uki/sections/0/text", "x" * 8193),
        _set("pe/uki/sections/0/text", "\xe9" * 5000),
        _set("pe/unknown", 1),
        _set("volumes", None),
        _set("volumes", [{}]),
        _set("volumes", [{"offset": "0x1000", "size": 1 << 40, "digests": {}}]),
        _set("volumes", [{"offset": "0xffffffffffff", "size": 1, "digests": {}}]),
    ],
)
def test_a_wrong_document_names_what_is_wrong(change, word):
    document = copy.deepcopy(measure_image(UKI).to_document())
    change(document)
    with pytest.raises(InvalidDocument, match=word) as refused:
        ImageMeasurements.from_document(document)
    assert refused.value.finding_id == "document.image"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda pe: pe["uki"]["sections"].pop(0), "kernel"),
        (lambda pe: pe["uki"].update(form="addon"), "kernel"),
        (lambda pe: pe["uki"].update(initrds=[None]), "one initrd for each profile"),
        (lambda pe: pe["uki"]["sections"][0].update(name=".text"), "knows no section"),
        (lambda pe: pe["uki"]["sections"][0].update(text="kernel"), "not text"),
        (lambda pe: pe.update(certificates_size=8, authenticode_padded=pe["authenticode"]), "padded already"),
        (lambda pe: pe["uki"]["sections"].extend(pe["uki"]["sections"][:1] * 1024), "at most"),
    ],
)
def test_contradictions_are_refused(change, word):
    document = copy.deepcopy(measure_image(UKI).to_document())
    change(document["pe"])
    with pytest.raises(InvalidDocument, match=word):
        ImageMeasurements.from_document(document)


def test_a_device_tree_is_no_pe_file(vectors):
    document = measure_image((vectors / "vmm" / "dtb-public" / "X080-cloud-hv.dtb").read_bytes()).to_document()
    document["pe"] = PeFacts(0xAA64, 0, DIGESTS).to_document()
    with pytest.raises(InvalidDocument, match="no device tree"):
        ImageMeasurements.from_document(document)


def test_contradicting_facts_cannot_be_made():
    section = UkiSection(".cmdline", None, 1, DIGESTS)
    for make, word in (
        (lambda: PeFacts(1 << 16, 0, DIGESTS), "16 bits"),
        (lambda: PeFacts(0, -1, DIGESTS), "negative"),
        (lambda: UkiSection(".cmdline", -1, 1, DIGESTS), "numbered"),
        (lambda: UkiSection(".cmdline", None, 0, DIGESTS), "one byte"),
        (lambda: UkiFacts(UkiForm.UKI, (section,)), "kernel"),
        (lambda: UkiFacts(UkiForm.ADDON, (section,), (None,)), "each profile"),
    ):
        with pytest.raises(ValueError, match=word):
            make()


def test_documents_obey_the_limits():
    document = measure_image(UKI).to_document()
    with pytest.raises(InvalidDocument, match="sections"):
        ImageMeasurements.from_document(document, Limits(pe_sections=2))
