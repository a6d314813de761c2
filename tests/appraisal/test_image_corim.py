"""Our image profile: what is written is read as the same; what contradicts itself, or is too large, is refused; plans are recomputed."""

import gzip
import hashlib
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.appraisal.corim import parse_corim, read_corim
from kbs_rim.appraisal.corim_document import Comid, Corim, Profile
from kbs_rim.appraisal.corim_writer import encode_corim
from kbs_rim.appraisal.image_reference import BuildPlan, ImageReference
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import boot_plan_from_log
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.granules import Alignment
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.rmm import RmmVersion
from kbs_rim.realm.simulator import SimulatedRealm
from tests.pe_builder import uki, volume
from tests.stage import KERNEL, Stage

IMAGES = {
    "kernel": KERNEL,
    "gzip": gzip.compress(KERNEL, mtime=0),
    "blob": b"initrd " * 1000,
    "whole granules": bytes(range(256)) * 16 + b"x" * 4092,
    "uki": uki((".linux", KERNEL), (".initrd", b"initrd"), (".cmdline", b"quiet")),
    "volume": bytes(8192) + volume(16384),
}


def reference(data, **options):
    return ImageReference(measure_image(data), **{"name": "an image", "roles": (Role.KERNEL,), **options})


def corim_of(*images, plans=()):
    comids = [Comid(tag_id=image.measurements.image_id, images=(image,)) for image in images]
    return Corim(id="images", profile=Profile.IMAGE, comids=(*comids, *(Comid(tag_id="plan", plans=(plan,)) for plan in plans)))


def read(corim, **options):
    data = corim if isinstance(corim, bytes) else encode_corim(corim)
    return read_corim(data, max_bytes=1 << 24, **options).corim


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_read_as_it_was_written(name):
    image = reference(IMAGES[name], provenance={"package": "linux-image", "version": "6.12"})
    corim = corim_of(image)
    found = read(corim)
    assert found == corim
    assert found.images[0].measurements == measure_image(IMAGES[name])
    assert found.images[0].complete
    assert encode_corim(found) == encode_corim(corim)


def test_a_device_tree_is_read_as_it_was_written(vectors):
    image = reference(min((vectors / "vmm/dtb-public").glob("*.dtb")).read_bytes(), roles=(Role.DEVICE_TREE,))
    assert image.measurements.device_tree is not None
    assert read(corim_of(image)).images == (image,)


@pytest.mark.parametrize("name", IMAGES)
def test_a_summary_compares_and_does_not_replay(name):
    image = reference(IMAGES[name])
    (found,) = read(corim_of(image.summarised())).images
    assert not found.complete
    assert found.summaries == image.summaries
    granules = image.measurements.granules[HashAlgorithm.SHA384, Alignment.END]
    assert found.summaries[HashAlgorithm.SHA384, Alignment.END] == hashlib.sha384(granules).digest()


@given(st.binary(min_size=1, max_size=9000), st.sets(st.sampled_from(sorted(HashAlgorithm, key=str))), st.text(max_size=3))
def test_any_bytes_are_an_image(data, algorithms, name):
    measured = measure_image(b"\1" + data).with_granules_of(*algorithms)
    image = ImageReference(measured, f"n{''.join(c for c in name if c.isprintable())}")
    assert read(corim_of(image)).images == (image,)


# --- what a plain reader of CoRIM finds -------------------------------------------------------------------------------


def decoded(image):
    outer = cbor2.loads(encode_corim(corim_of(image))).value
    return cbor2.loads(outer[1][0].value)


def test_a_reader_that_knows_only_the_draft_finds_the_digests():
    image = reference(IMAGES["uki"])
    (environment, measurements) = decoded(image)[4][0][0]
    assert environment[0][0].value == hashlib.sha256(IMAGES["uki"]).digest()
    loaded = measurements[0]
    assert loaded[0] == "image.loaded"
    assert list(map(list, loaded[1][2])) == [
        [1, hashlib.sha256(IMAGES["uki"]).digest()],
        [7, hashlib.sha384(IMAGES["uki"]).digest()],
        [8, hashlib.sha512(IMAGES["uki"]).digest()],
    ]
    names = [item[1].get(11) for item in measurements if item[0] == "image.part"]
    assert {"authenticode", "section .linux", "initrd"} <= set(names)


# --- attacks ----------------------------------------------------------------------------------------------------------


def thawed(value):
    if hasattr(value, "items"):
        return {key: thawed(item) for key, item in value.items()}
    return [thawed(item) for item in value] if isinstance(value, list | tuple) else value


def changed(image, change):
    comid = thawed(decoded(image))
    change(comid[4][0][0])
    members = {0: "x", 1: [cbor2.CBORTag(506, cbor2.dumps(comid))], 3: cbor2.CBORTag(32, Profile.IMAGE.value)}
    return cbor2.dumps(cbor2.CBORTag(501, members))


def of(triple, mkey, number=0):
    return [item[1] for item in triple[1] if item[0] == mkey][number]


def set_(mkey, key, value, number=0):
    return lambda triple: of(triple, mkey, number).__setitem__(key, value)


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def flip_granule(triple):
    mval = of(triple, "image.granules")
    mval[-7] = flip(mval[-7])


def flip_part(triple):
    mval = of(triple, "image.part")
    mval[2] = [[mval[2][0][0], flip(mval[2][0][1])], *mval[2][1:]]


def drop(mkey):
    return lambda triple: triple[1].remove(next(item for item in triple[1] if item[0] == mkey))


def repeat(mkey):
    return lambda triple: triple[1].append(next(item for item in triple[1] if item[0] == mkey))


def loaded_digests(triple):
    return of(triple, "image.loaded")[2]


def other_class(triple):
    triple[0][0][0] = cbor2.CBORTag(560, bytes(32))


ATTACKS = {
    "another class-id": (other_class, "not the class-id"),
    "granules of other content": (flip_granule, "granule digests is another one"),
    "granules cut short": (lambda triple: set_("image.granules", -7, of(triple, "image.granules")[-7][:-32])(triple), "another length"),
    "a larger size": (set_("image.loaded", -1, 1 << 40), "whole number"),
    "a size that the granules do not have": (set_("image.loaded", -1, 5), "another length"),
    "one alignment only": (lambda triple: triple[1].__delitem__(slice(-3, None)), "without the other|twice|granule"),
    "a part with another digest": (flip_part, "not those of its facts"),
    "a part left out": (drop("image.part"), "not those of its facts"),
    "facts left out": (drop("image.pe"), "not those of its facts"),
    "loaded bytes left out": (drop("image.loaded"), "neither an image nor"),
    "loaded bytes twice": (repeat("image.loaded"), "stands twice"),
    "granules twice": (repeat("image.granules"), "stands twice"),
    "a role nobody has": (set_("image.loaded", -4, ["shim"]), "unknown role"),
    "a role twice": (set_("image.loaded", -4, ["kernel", "kernel"]), "stands twice"),
    "no roles at all": (set_("image.loaded", -4, []), "non-empty"),
    "an unknown member": (set_("image.loaded", -99, 1), "not read here"),
    "a name that is a number": (set_("image.loaded", 11, 5), "not text"),
    "a name with a line end": (set_("image.loaded", 11, "a\nb"), "printable"),
    "provenance that is no text": (set_("image.loaded", -5, {"a": 1}), "not text by text"),
    "facts that are a list": (set_("image.pe", -3, ["x"]), "must be an object"),
    "facts that say nothing": (set_("image.pe", -3, {}), "says nothing"),
    "facts with a key that is a number": (set_("image.pe", -3, {1: 2}), "not text"),
    "facts that are bytes": (set_("image.pe", -3, b"x"), "neither text, number"),
    "facts nested deeply": (set_("image.pe", -3, [[[[[[[[[[[[[[1]]]]]]]]]]]]]]), "nested|deep"),
    "a device tree that is none": (lambda triple: triple[1].append({0: "image.device-tree", 1: {-3: {"a": 1}}}), "device_tree|missing"),
    "a file that is not packed": (
        lambda triple: triple[1].append({0: "image.file", 1: {2: of(triple, "image.loaded")[2], -1: 7}}),
        "compression",
    ),
    "a digest of the wrong length": (set_("image.loaded", 2, [[1, bytes(31)]]), "as many bytes"),
    "a digest twice": (set_("image.loaded", 2, [[1, bytes(32)], [1, bytes(32)]]), "two digests"),
    "an unknown hash": (set_("image.loaded", 2, [[2, bytes(32)]]), "1, 7 or 8"),
    "a truth for a hash": (set_("image.loaded", 2, [[True, bytes(32)]]), "1, 7 or 8"),
    "an unknown measurement": (lambda triple: triple[1].append({0: "image.other", 1: {}}), "invalid mkey"),
    "an unknown alignment": (set_("image.granules", -6, "middle"), "an alignment"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_description_that_contradicts_itself_is_refused(attack):
    change, text = ATTACKS[attack]
    with pytest.raises(InvalidDocument, match=text) as error:
        read(changed(reference(IMAGES["uki"]), change))
    assert error.value.finding_id == "endorsement.malformed"


def test_the_unchanged_one_is_good():
    assert read(changed(reference(IMAGES["uki"]), lambda triple: None)).images == (reference(IMAGES["uki"]),)


def test_an_image_larger_than_may_be_registered_is_refused():
    with pytest.raises(InvalidDocument, match="whole number"):
        read(corim_of(reference(KERNEL)), limits=Limits(image_bytes=1000, gunzip_bytes=1000))


def test_a_verifier_takes_no_images():
    with pytest.raises(InvalidDocument) as error:
        parse_corim(encode_corim(corim_of(reference(IMAGES["blob"]))), at=1)
    assert error.value.finding_id == "endorsement.profile"


# --- build plans ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def realm():
    """A simulated realm: its RIM comes from the model of the RMM, not from our replay."""
    stage = Stage()
    simulated = SimulatedRealm(stage.simulation())
    boot = boot_plan_from_log(parse_tcg_log(simulated.log, LogKind.VMM))
    images = [reference(bytes(load.data)) for load in stage.vm.script.loads]
    return boot, images, simulated.rim


def plan_of(realm, **changes):
    boot, _, rim = realm
    return replace(BuildPlan.of(boot, rim, Dialect(RmmVersion.V1_0)), **changes)


def test_a_build_plan_is_read_as_it_was_written_and_gives_the_realms_rim(realm):
    plan = plan_of(realm)
    found = read(corim_of(*realm[1], plans=(plan,)))
    assert found.plans == (plan,)
    assert found.plans[0].holds(found.images)
    assert BuildPlan.computed(realm[0], realm[1], Dialect(RmmVersion.V1_0)) == plan


def test_a_plan_that_lies_about_its_rim_does_not_hold(realm):
    plan = plan_of(realm, rim=bytes(len(realm[2])))
    assert not read(corim_of(*realm[1], plans=(plan,))).plans[0].holds(realm[1])


def test_a_plan_needs_complete_images(realm):
    with pytest.raises(MalformedEvidence) as error:
        plan_of(realm).holds([image.summarised() for image in realm[1]])
    assert error.value.finding_id == "rim.image-unknown"


def plan_changed(realm, change):
    comid = thawed(cbor2.loads(cbor2.loads(encode_corim(corim_of(plans=(plan_of(realm),)))).value[1][0].value))
    triple = comid[4][0][0]
    change(triple[1][1][1][-8])
    members = {0: "x", 1: [cbor2.CBORTag(506, cbor2.dumps(comid))], 3: cbor2.CBORTag(32, Profile.IMAGE.value)}
    return cbor2.dumps(cbor2.CBORTag(501, members))


PLAN_ATTACKS = {
    "no such RMM": (lambda plan: plan.__setitem__(0, "9.0"), "9.0"),
    "no such rounding": (lambda plan: plan.__setitem__(1, 5), "5"),
    "no such order": (lambda plan: plan.__setitem__(2, "backwards"), "backwards"),
    "a parameter too few": (lambda plan: plan[3].pop(), "6 whole numbers"),
    "a parameter that is a truth": (lambda plan: plan[3].__setitem__(0, True), "6 whole numbers"),
    "too few address bits": (lambda plan: plan[3].__setitem__(1, 1), "address bits"),
    "too many address bits": (lambda plan: plan[3].__setitem__(1, 250), "address bits"),
    "no steps": (lambda plan: plan.__setitem__(4, []), "non-empty"),
    "a thousand vCPUs": (lambda plan: plan[4].extend([[3, 1, 0, [0] * 8]] * 1000), "too many steps"),
    "an exabyte of RAM": (lambda plan: plan[4].append([0, 1 << 40, 1 << 60]), "protected address space"),
    "RAM that goes back": (lambda plan: plan[4].append([0, 0, 4096]), "do not ascend"),
    "RAM in bits of pages": (lambda plan: plan[4].append([0, 1, 4096]), "page aligned"),
    "RAM of no size": (lambda plan: plan[4].append([0, 1 << 30, 0]), "protected address space"),
    "two log areas": (lambda plan: plan[4].extend([[2, 1 << 30, 4096]] * 2), "one kind"),
    "a hidden megabyte": (lambda plan: plan[4].__setitem__(slice(None), [[2, 1 << 30, 1 << 20]]), "unmeasured area"),
    "a step of no kind": (lambda plan: plan[4].append([9, 0, 4096]), "no known kind"),
    "a step that is no list": (lambda plan: plan[4].append(5), "2 whole numbers"),
    "a negative address": (lambda plan: plan[4].append([0, -4096, 4096]), "2 whole numbers"),
    "a digest of another hash": (lambda plan: plan[4].append([1, 0, 4096, bytes(20), "KERNEL"]), "no digest in the realm's algorithm"),
    "a description with a line end": (lambda plan: plan[4].append([1, 0, 4096, bytes(32), "a\nb"]), "printable"),
    "an unknown member": (lambda plan: plan.__setitem__(7, 1), "not read here"),
}


@pytest.mark.parametrize("attack", PLAN_ATTACKS)
def test_a_hostile_plan_is_refused_before_anything_is_hashed(realm, attack):
    change, text = PLAN_ATTACKS[attack]
    with pytest.raises(InvalidDocument, match=text) as error:
        read(plan_changed(realm, change))
    assert error.value.finding_id == "endorsement.malformed"


def test_a_file_of_nothing_but_work_is_refused(realm):
    """Each plan is a replay for whoever verifies the file."""
    with pytest.raises(ValueError, match="at most 1024 images and 64"):
        corim_of(plans=[plan_of(realm)] * 65)


def test_the_unchanged_plan_is_good(realm):
    assert read(plan_changed(realm, lambda plan: None)).plans == (plan_of(realm),)
