"""Every measured event of a realm classified by its digest: constant, registered image, expected, let in by name, refused or unknown.

A digest is looked at in this order: a whole image that is revoked; a digest that the workload names; a part of a registered image, in a
register where an image of that role is measured; the bytes that it is the hash of, where the log holds them; command lines that are known
without the log. What is left is unknown. Types of events decide nothing; they are words for people.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kbs_rim.appraisal.event_meaning import BINDING, REM0, REM1, REM2, EventMeaning, Meaning, meanings_of
from kbs_rim.appraisal.event_rules import Allowance, ImaFiles, Objection, object_to, object_to_load_options
from kbs_rim.appraisal.measured_images import WHOLE, KnownDigest, MeasuredImages
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.rule_values import Role
from kbs_rim.appraisal.runtime_logs import LoggedEvent
from kbs_rim.appraisal.runtime_workload import RuntimeRules
from kbs_rim.evidence.event_digest import rederive
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.uki import CMDLINE, kernel_command_line, load_options

_AUTHENTICODE, _FILE = frozenset({"authenticode", "authenticode-padded"}), frozenset({"file", "loaded"})
_PLACES: Mapping[tuple[Role, int], frozenset[str]] = {
    (Role.FIRMWARE, REM0): _FILE | {"volume"},
    (Role.FIRMWARE, REM1): _FILE | {"volume"},
    (Role.DEVICE_TREE, REM0): _FILE,
    (Role.ACPI, REM0): _FILE,
    (Role.BOOT_LOADER, REM1): _AUTHENTICODE,
    (Role.BOOT_LOADER, REM2): _FILE,
    (Role.KERNEL, REM1): _AUTHENTICODE | _FILE,
    (Role.KERNEL, REM2): _FILE,
    (Role.INITRD, REM2): _FILE,
    (Role.UKI, REM1): _AUTHENTICODE,
    (Role.UKI, REM2): _FILE | {"section", "initrd"},
    (Role.UKI_ADDON, REM1): _AUTHENTICODE,
    (Role.UKI_ADDON, REM2): _FILE | {"section"},
    (Role.BOOT_FILE, REM1): _FILE,
    (Role.BOOT_FILE, REM2): _FILE,
}
"""What of an image is measured into which register, by its role (UEFI 2.11 section 38; EDK2, GRUB, Linux's and systemd's EFI stubs)."""


class EventClass(StrEnum):
    """How a digest is known."""

    CONSTANT = "constant"
    IMAGE = "image"
    EXPECTED = "expected"
    NAMED = "named"
    REFUSED = "refused"
    UNKNOWN = "unknown"


_CONSTANTS = frozenset({Meaning.SEPARATOR, Meaning.MOK_LIST_TRUSTED, Meaning.SECTION_NAME})


@dataclass(frozen=True, slots=True)
class ClassifiedEvent:
    """An event, what its digest is of, and why it is refused if it is. ``image`` and ``role`` are set if it is a registered image's."""

    logged: LoggedEvent
    kind: EventClass
    what: str
    meanings: tuple[EventMeaning, ...] = ()
    image: RegisteredImage | None = None
    role: Role | None = None
    objection: Objection | None = None

    def means(self, kind: Meaning) -> bool:
        """True if the event is let in and its bytes can have this meaning."""
        return self.kind in (EventClass.CONSTANT, EventClass.EXPECTED) and any(meaning.kind is kind for meaning in self.meanings)


def classify_events(
    events: Sequence[LoggedEvent],
    rules: RuntimeRules,
    images: MeasuredImages,
    algorithm: HashAlgorithm,
    limits: Limits,
    *,
    loaded: Mapping[bytes, RegisteredImage] | None = None,
) -> tuple[ClassifiedEvent, ...]:
    """Classify ``events`` by what ``rules`` let in. Pure, and linear in the events for given rules.

    ``images`` are those that the registry knows by digests of the events, whatever their state. ``loaded`` are device trees that the RIM
    covers, by digest in ``algorithm``: firmware for Arm CCA measures its tree again. Text beyond ``limits.runtime_text_bytes`` is refused
    without being matched with patterns.
    """
    return _Classifier(rules, images, algorithm, limits, loaded or {}).classify(events)


def fitting_roles(item: KnownDigest, rem: int) -> tuple[Role, ...]:
    """Return the roles that the image is registered for and in which firmware or a boot loader measures this of it into REM ``rem``."""
    return tuple(role for role in item.image.roles if item.kind in _PLACES.get((role, rem), ()))


class _Classifier:
    """One pass for images, because command lines of UKIs count for later events; one for the rest."""

    def __init__(
        self,
        rules: RuntimeRules,
        images: MeasuredImages,
        algorithm: HashAlgorithm,
        limits: Limits,
        loaded: Mapping[bytes, RegisteredImage],
    ) -> None:
        self._rules, self._images, self._algorithm, self._loaded = rules, images, algorithm, loaded
        self._named = {(rule.rem, bytes.fromhex(rule.digest)): rule for rule in rules.digests}
        self._allowance = Allowance(rules, ImaFiles.of(rules.ima))
        self._options: dict[bytes, str] = {}
        self._text_left = limits.runtime_text_bytes

    def classify(self, events: Sequence[LoggedEvent]) -> tuple[ClassifiedEvent, ...]:
        meanings = [meanings_of(event) for event in events]
        known = [self._of_images(event) for event in events]
        self._allowance = replace(self._allowance, own_command_lines=frozenset(_command_lines(known)))
        self._options = self._candidates(meaning.text for found in meanings for meaning in found if meaning.kind is Meaning.KERNEL_TEXT)
        return tuple(
            image if image is not None and image.kind is not EventClass.REFUSED else self._rest(event, found, image)
            for event, found, image in zip(events, meanings, known, strict=True)
        )

    # --- registered images --------------------------------------------------------------------------------------------

    def _of_images(self, event: LoggedEvent) -> ClassifiedEvent | None:
        known = self._images.known(self._algorithm, event.digest)
        revoked = next((item for item in known if item.image.state is ImageState.REVOKED and item.kind in WHOLE), None)
        if revoked is not None:
            objection = Objection("rem.image-revoked", f"{_name(revoked)} was measured, which is revoked", seen=revoked.image.id)
            return ClassifiedEvent(event, EventClass.REFUSED, _name(revoked), image=revoked.image, objection=objection)
        if rule := self._named.get((event.rem, event.digest)):
            return ClassifiedEvent(event, EventClass.NAMED, rule.comment or rule.type or "named by the workload")
        tree = self._loaded.get(event.digest)
        if tree is not None and event.rem == REM0:
            return ClassifiedEvent(event, EventClass.IMAGE, "the device tree that the RIM covers", image=tree, role=Role.DEVICE_TREE)
        for item in known:
            if item.image.state is not ImageState.REVOKED and (role := self._role(item, event.rem)):
                return ClassifiedEvent(event, EventClass.IMAGE, _name(item), image=item.image, role=role)
        return self._unwelcome(event, known) if known else None

    def _role(self, item: KnownDigest, rem: int) -> Role | None:
        fitting = fitting_roles(item, rem)
        return next((role for role in self._rules.roles_of(item.image.id) if role in fitting), None)

    def _unwelcome(self, event: LoggedEvent, known: tuple[KnownDigest, ...]) -> ClassifiedEvent:
        """A registered image that may not be here. A revoked one is named as such only if no other has the digest."""
        item = next((item for item in known if item.image.state is not ImageState.REVOKED), known[0])
        if item.image.state is ImageState.REVOKED:
            objection = Objection("rem.image-revoked", f"{_name(item)} was measured, which is revoked", seen=item.image.id)
        else:
            message = f"{_name(item)} was measured into REM{event.rem}, and the workload does not let it in there"
            roles = self._rules.roles_of(item.image.id)
            expected = f"another register for the role {', '.join(roles)}" if roles else "an image that runtime.images lists"
            objection = Objection("rem.image-unexpected", message, expected, item.image.id)
        return ClassifiedEvent(event, EventClass.REFUSED, _name(item), image=item.image, objection=objection)

    # --- everything else ----------------------------------------------------------------------------------------------

    def _rest(self, event: LoggedEvent, meanings: tuple[EventMeaning, ...], image: ClassifiedEvent | None) -> ClassifiedEvent:
        if image is not None and image.objection is not None and image.objection.finding == "rem.image-revoked":
            return image
        if meanings:
            return self._by_meaning(event, meanings)
        if event.rem == REM2 and (text := self._options.get(event.digest)) is not None:
            return self._by_load_options(event, text)
        return image or ClassifiedEvent(event, EventClass.UNKNOWN, rederive(event.event, self._algorithm).what)

    def _by_meaning(self, event: LoggedEvent, meanings: tuple[EventMeaning, ...]) -> ClassifiedEvent:
        """One meaning that is let in is enough, unless another one is binding and refused."""
        what = ", or ".join(map(str, meanings))
        self._text_left -= sum(len(meaning.text) for meaning in meanings if meaning.kind is not Meaning.IMA_ENTRY)
        if self._text_left < 0:
            objection = Objection("rem.event-refused", "the logs hold more text than is judged", "at most limits.runtime_text_bytes")
            return ClassifiedEvent(event, EventClass.REFUSED, what, meanings, objection=objection)
        judged = [(meaning, object_to(meaning, event, self._allowance)) for meaning in meanings]
        binding = [objection for meaning, objection in judged if objection is not None and meaning.kind in BINDING]
        good = [meaning for meaning, objection in judged if objection is None]
        if binding or not good:
            objection = binding[0] if binding else next(found for _, found in judged if found is not None)
            return ClassifiedEvent(event, EventClass.REFUSED, what, meanings, objection=objection)
        kind = EventClass.CONSTANT if any(meaning.kind in _CONSTANTS for meaning in good) else EventClass.EXPECTED
        return ClassifiedEvent(event, kind, ", or ".join(map(str, good)), tuple(good))

    def _by_load_options(self, event: LoggedEvent, text: str) -> ClassifiedEvent:
        meaning = EventMeaning(Meaning.LOAD_OPTIONS, text)
        objection = object_to_load_options(text, self._allowance)
        kind = EventClass.EXPECTED if objection is None else EventClass.REFUSED
        return ClassifiedEvent(event, kind, str(meaning), (meaning,), objection=objection)

    def _candidates(self, boot_loader_texts: Iterable[str]) -> dict[bytes, str]:
        """Return command lines by their digest as load options, which the kernel measures without writing them into the log.

        They come from the rules, from UKIs, and from what the boot loader logged; which of them is good is judged afterwards.
        """
        rules = self._rules.command_line
        texts = dict.fromkeys((*self._allowance.own_command_lines, *(rules.exact if rules else ())))
        for text in boot_loader_texts:
            texts.update(dict.fromkeys((_BOOT_IMAGE + text, text, text.partition(" ")[2])))
        return {self._algorithm.digest(encoded): text for text in texts for encoded in _encodings(text)}


_BOOT_IMAGE = "BOOT_IMAGE="
"""What GRUB puts in front of the path of the kernel when it hands over a command line."""


def _encodings(text: str) -> Iterator[bytes]:
    """UEFI's load options end with a NUL; those that GRUB makes do not."""
    encoded = load_options(text)
    return iter((encoded, encoded[:-2]))


def _command_lines(known: Iterable[ClassifiedEvent | None]) -> Iterator[str]:
    """Yield the command lines that systemd-stub makes of the UKIs and addons that were measured and let in."""
    images = {item.image.id: (item.image, item.role) for item in known if item is not None and item.image is not None}
    addons = [text for image, role in images.values() if role is Role.UKI_ADDON for text in _section_texts(image)]
    yield from (kernel_command_line(text) for text in addons)
    for image, role in images.values():
        if role is Role.UKI:
            for text in _section_texts(image):
                yield kernel_command_line(text)
                yield kernel_command_line(text, *addons)


def _section_texts(image: RegisteredImage) -> Iterator[str]:
    """Yield the command line of each profile of a UKI or addon."""
    uki = image.measurements.pe.uki if image.measurements.pe else None
    for profile in range(uki.profiles if uki else 0):
        section = uki.effective(profile).get(CMDLINE) if uki else None
        if section is not None and section.text:
            yield section.text


def _name(item: KnownDigest) -> str:
    return f"{item.what} of {item.image.name}"


def counts_by_class(events: Iterable[ClassifiedEvent]) -> dict[str, int]:
    """Return how many events are of each class, for the record."""
    counted = Counter(event.kind for event in events)
    return {kind.value: counted[kind] for kind in EventClass if counted[kind]}
