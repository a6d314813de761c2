"""The CoMIDs of our image profile, from and to their CBOR shape (docs/corim.md, "The image profile").

An image's environment is the SHA-256 of its loaded bytes, a build plan's is the RIM. What a digest can say is said with CoMID's own
digests; sizes, layouts and facts stand under negative keys, which are a profile's own. What is read is held against itself: a
description whose parts contradict each other is refused, whoever signed it.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kbs_rim.appraisal.comid_shape import (
    CLASS,
    CLASS_ID,
    DIGESTS,
    MKEY,
    MVAL,
    NAME,
    TAG_BYTES,
    as_array,
    as_map,
    malformed,
    only,
    tagged_bytes,
)
from kbs_rim.appraisal.image_plan import encode_plan, read_plan
from kbs_rim.appraisal.image_reference import BuildPlan, ImageReference, Layout
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged
from kbs_rim.limits import Limits
from kbs_rim.measurement.granules import Alignment, granule_count, lead_of
from kbs_rim.measurement.image import ImageMeasurements

LOADED, FILE, KERNEL, TREE, PE, VOLUMES, PART, GRANULES = (
    "image.loaded",
    "image.file",
    "image.kernel",
    "image.device-tree",
    "image.pe",
    "image.volumes",
    "image.part",
    "image.granules",
)
RIM, PLAN = "realm.rim", "realm.plan"
SIZE, COMPRESSION, FACTS, ROLES, PROVENANCE, ALIGNMENT, GRANULE_DIGESTS, BUILD = -1, -2, -3, -4, -5, -6, -7, -8
"""Our own members of a measurement's value."""
_IANA: Mapping[HashAlgorithm, int] = {HashAlgorithm.SHA256: 1, HashAlgorithm.SHA384: 7, HashAlgorithm.SHA512: 8}
_BY_IANA: Mapping[CborValue, HashAlgorithm] = {number: algorithm for algorithm, number in _IANA.items()}
_ONCE = frozenset({LOADED, FILE, KERNEL, TREE, PE, VOLUMES})
_FACTS = {KERNEL: "kernel", TREE: "device_tree", PE: "pe", VOLUMES: "volumes"}
"""The members of an image document (``kbs-rim image hash --json``) that stand as they are, in CBOR."""
_MAX_DEPTH = 12


# --- writing ----------------------------------------------------------------------------------------------------------


def image_triple(image: ImageReference) -> CborValue:
    """Return an image as a reference value triple."""
    environment: CborMap = {CLASS: {CLASS_ID: Tagged(TAG_BYTES, image.measurements.digests[HashAlgorithm.SHA256])}}
    return (environment, tuple({MKEY: mkey, MVAL: mval} for mkey, mval in _image_measurements(image)))


def plan_triple(plan: BuildPlan) -> CborValue:
    """Return a build plan as a reference value triple."""
    environment: CborMap = {CLASS: {CLASS_ID: Tagged(TAG_BYTES, plan.rim)}}
    rim: CborMap = {DIGESTS: ((_IANA[plan.boot.hash_algorithm], plan.rim),)}
    return (environment, ({MKEY: RIM, MVAL: rim}, {MKEY: PLAN, MVAL: {BUILD: encode_plan(plan)}}))


def _image_measurements(image: ImageReference) -> Iterator[tuple[str, CborMap]]:
    measured = image.measurements
    loaded: CborMap = {DIGESTS: _digests(measured.digests), NAME: image.name, SIZE: measured.size}
    if image.roles:
        loaded[ROLES] = tuple(role.value for role in image.roles)
    if image.provenance:
        loaded[PROVENANCE] = _to_cbor(image.provenance)
    yield LOADED, loaded
    if measured.compression is not None:
        yield FILE, {DIGESTS: _digests(measured.file_digests), SIZE: measured.file_size, COMPRESSION: measured.compression.value}
    document = measured.with_granules_of().to_document()
    for mkey, member in _FACTS.items():
        if document[member]:
            yield mkey, {FACTS: _to_cbor(document[member])}
    for what, digests in _parts(measured).items():
        yield PART, {DIGESTS: _digests(digests), NAME: what}
    for algorithm, alignment in image.summaries:
        layout = (algorithm, alignment)
        mval: CborMap = {DIGESTS: ((_IANA[algorithm], image.summaries[layout]),), ALIGNMENT: alignment.value}
        if layout in measured.granules:
            mval[GRANULE_DIGESTS] = measured.granules[layout]
        yield GRANULES, mval


def _parts(measured: ImageMeasurements) -> dict[str, dict[HashAlgorithm, bytes]]:
    """Digests by what they are of, without those of the whole; two sections of one name get one entry for each."""
    parts: dict[str, dict[HashAlgorithm, bytes]] = {}
    names: dict[tuple[str, HashAlgorithm], int] = {}
    for found in measured.measured_digests():
        if found.what in ("file", "loaded"):
            continue
        number = names[found.what, found.algorithm] = names.get((found.what, found.algorithm), 0) + 1
        parts.setdefault(found.what if number == 1 else f"{found.what} ({number})", {})[found.algorithm] = found.digest
    return parts


def _digests(digests: Mapping[HashAlgorithm, bytes]) -> CborValue:
    return tuple((_IANA[algorithm], digests[algorithm]) for algorithm in HashAlgorithm if algorithm in digests)


def _to_cbor(value: Any) -> CborValue:
    if isinstance(value, Mapping):
        return {str(name): _to_cbor(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_to_cbor(item) for item in value)
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"no CBOR for {type(value).__name__} in an image document")


# --- reading ----------------------------------------------------------------------------------------------------------


def read_image_triples(pairs: Sequence[tuple[CborMap, tuple[CborValue, ...]]], limits: Limits) -> tuple[ImageReference | BuildPlan, ...]:
    """Read the reference value triples of one CoMID; raise ``InvalidDocument("endorsement.malformed")``."""
    return tuple(_read_triple(environment, measurements, limits) for environment, measurements in pairs)


def _read_triple(environment: CborMap, measurements: tuple[CborValue, ...], limits: Limits) -> ImageReference | BuildPlan:
    only(environment, (CLASS,), "environment of an image or build plan")
    members = as_map(environment.get(CLASS), "environment.class")
    only(members, (CLASS_ID,), "environment.class")
    identity = tagged_bytes(members.get(CLASS_ID), TAG_BYTES, "the class-id", "bytes")
    single: dict[str, CborMap] = {}
    parts: list[CborMap] = []
    granules: list[CborMap] = []
    lists = {PART: parts, GRANULES: granules}
    for measurement in measurements:
        mkey, mval = _measurement(measurement)
        if mkey in lists:
            lists[mkey].append(mval)
        elif mkey in single:
            malformed(f"{mkey} stands twice")
        else:
            single[mkey] = mval
    if set(single) == {RIM, PLAN} and not parts and not granules:
        return _read_plan(identity, single, limits)
    if LOADED not in single or not set(single) <= _ONCE:
        malformed("neither an image nor a build plan", expected=", ".join(sorted(_ONCE)), seen=", ".join(sorted(single))[:200])
    return _read_image(identity, single, parts, granules, limits)


def _measurement(value: CborValue) -> tuple[str, CborMap]:
    members = as_map(value, "a measurement")
    only(members, (MKEY, MVAL), "a measurement")
    mkey = members.get(MKEY)
    known = (*_ONCE, PART, GRANULES, RIM, PLAN)
    if not isinstance(mkey, str) or mkey not in known:
        malformed("invalid mkey for the image profile", expected=", ".join(sorted(known)))
    return mkey, as_map(members.get(MVAL), f"the value of {mkey}")


def _read_plan(identity: bytes, single: Mapping[str, CborMap], limits: Limits) -> BuildPlan:
    only(single[RIM], (DIGESTS,), RIM)
    only(single[PLAN], (BUILD,), PLAN)
    digests = _read_digests(single[RIM].get(DIGESTS), RIM)
    if list(digests.values()) != [identity]:
        malformed("the RIM of a build plan is not the class-id")
    return read_plan(single[PLAN].get(BUILD), next(iter(digests)), identity, limits)


def _read_image(
    identity: bytes, single: Mapping[str, CborMap], parts: Sequence[CborMap], granules: Sequence[CborMap], limits: Limits
) -> ImageReference:
    loaded = single[LOADED]
    only(loaded, (DIGESTS, NAME, SIZE, ROLES, PROVENANCE), LOADED)
    digests = _read_digests(loaded.get(DIGESTS), LOADED)
    if digests.get(HashAlgorithm.SHA256) != identity:
        malformed("the SHA-256 of the loaded bytes is not the class-id")
    document = {
        "kind": "arm64-image" if KERNEL in single else "device-tree" if TREE in single else "blob",
        "size": loaded.get(SIZE),
        "digests": _hex(digests),
        "granules": {},
        **_file_members(single.get(FILE), loaded, digests),
        **_fact_members(single),
    }
    try:
        measured = ImageMeasurements.from_document(document, limits, partial=True)
        blobs, summaries = _read_granules(granules, measured.size)
        encoded = {layout: base64.b64encode(blob).decode("ascii") for layout, blob in blobs.items()}
        document["granules"] = {
            algorithm.compact_name: {alignment.value: encoded[algorithm, alignment] for alignment in Alignment}
            for algorithm in HashAlgorithm
            if all((algorithm, alignment) in encoded for alignment in Alignment)
        }
        measured = ImageMeasurements.from_document(document, limits, partial=True)
        if _read_parts(parts) != _parts(measured):
            malformed("the digests of an image's parts are not those of its facts")
        return ImageReference(measured, _name(loaded), _roles(loaded), _provenance(loaded), summaries)
    except InvalidDocument as error:
        malformed(f"image {identity.hex()}: {error.message}", expected=error.expected, seen=error.seen)
    except ValueError as error:
        malformed(f"image {identity.hex()}: {error}")


def _file_members(file: CborMap | None, loaded: CborMap, digests: Mapping[HashAlgorithm, bytes]) -> dict[str, Any]:
    if file is None:
        return {"compression": None, "file_size": loaded.get(SIZE), "file_digests": _hex(digests)}
    only(file, (DIGESTS, SIZE, COMPRESSION), FILE)
    file_digests = _hex(_read_digests(file.get(DIGESTS), FILE))
    compression = file.get(COMPRESSION)
    return {"compression": compression if compression is not None else "", "file_size": file.get(SIZE), "file_digests": file_digests}


def _fact_members(single: Mapping[str, CborMap]) -> dict[str, Any]:
    found: dict[str, Any] = {"kernel": None, "device_tree": None, "pe": None, "volumes": []}
    for mkey, member in _FACTS.items():
        if mkey in single:
            only(single[mkey], (FACTS,), mkey)
            found[member] = _from_cbor(single[mkey].get(FACTS), 0)
            if not found[member]:
                malformed(f"{mkey} says nothing")
    return found


def _from_cbor(value: CborValue, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        malformed("the facts of an image are nested too deeply")
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            malformed("a fact of an image has a name that is not text")
        return {name: _from_cbor(item, depth + 1) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_from_cbor(item, depth + 1) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    return malformed("a fact of an image is neither text, number, list nor map")


def _read_digests(value: CborValue, what: str) -> dict[HashAlgorithm, bytes]:
    digests: dict[HashAlgorithm, bytes] = {}
    for entry in as_array(value, f"the digests of {what}"):
        number, digest = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, None)
        algorithm = _BY_IANA.get(number) if type(number) is int else None
        if algorithm is None or not isinstance(digest, bytes) or len(digest) != algorithm.digest_size:
            malformed(f"a digest of {what} is not 1, 7 or 8 and as many bytes as it gives")
        if algorithm in digests:
            malformed(f"{what} has two digests of one algorithm")
        digests[algorithm] = digest
    return digests


def _hex(digests: Mapping[HashAlgorithm, bytes]) -> dict[str, str]:
    return {algorithm.compact_name: digest.hex() for algorithm, digest in digests.items()}


def _read_parts(parts: Sequence[CborMap]) -> dict[str, dict[HashAlgorithm, bytes]]:
    found: dict[str, dict[HashAlgorithm, bytes]] = {}
    for part in parts:
        only(part, (DIGESTS, NAME), PART)
        name = _name(part)
        if name in found:
            malformed(f"{PART} {ascii(name)[:60]} stands twice")
        found[name] = _read_digests(part.get(DIGESTS), PART)
    return found


def _read_granules(items: Sequence[CborMap], size: int) -> tuple[dict[Layout, bytes], dict[Layout, bytes]]:
    """Return granule digests and summaries by layout. Where both alignments are one, one entry may stand for both."""
    blobs: dict[Layout, bytes] = {}
    summaries: dict[Layout, bytes] = {}
    for item in items:
        only(item, (DIGESTS, ALIGNMENT, GRANULE_DIGESTS), GRANULES)
        digests = _read_digests(item.get(DIGESTS), GRANULES)
        alignments = [alignment for alignment in Alignment if alignment.value == item.get(ALIGNMENT)]
        if len(digests) != 1 or not alignments:
            malformed(f"{GRANULES} needs one digest and an alignment")
        algorithm, alignment = next(iter(digests)), alignments[0]
        if (algorithm, alignment) in summaries:
            malformed(f"{GRANULES} {algorithm.value}, {alignment.value} stands twice")
        summaries[algorithm, alignment] = digests[algorithm]
        blob = item.get(GRANULE_DIGESTS)
        if blob is None:
            continue
        if not isinstance(blob, bytes) or len(blob) != granule_count(size, lead_of(alignment, size)) * algorithm.digest_size:
            malformed("granule digests of another length than the size of the image gives")
        blobs[algorithm, alignment] = blob
    if {layout[0] for layout in blobs for alignment in Alignment if (layout[0], alignment) not in blobs}:
        malformed("granule digests of one alignment without the other")
    return blobs, summaries


def _name(members: CborMap) -> str:
    name = members.get(NAME)
    return name if isinstance(name, str) else malformed("the name of an image or part is not text")


def _roles(loaded: CborMap) -> tuple[Role, ...]:
    known = {role.value: role for role in Role}
    values = as_array(loaded[ROLES], "the roles of an image") if ROLES in loaded else ()
    if not all(isinstance(value, str) and value in known for value in values):
        malformed("an image has an unknown role", expected=", ".join(known))
    return tuple(known[value] for value in values if isinstance(value, str))


def _provenance(loaded: CborMap) -> dict[str, str]:
    pairs = as_map(loaded[PROVENANCE], "the provenance of an image") if PROVENANCE in loaded else {}
    found = {name: text for name, text in pairs.items() if isinstance(name, str) and isinstance(text, str)}
    return found if len(found) == len(pairs) else malformed("the provenance of an image is not text by text")
