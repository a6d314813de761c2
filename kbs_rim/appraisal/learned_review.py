"""What a person should think about before approving learned rules: in plain words, worst first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kbs_rim.appraisal.event_classes import EventClass
from kbs_rim.appraisal.event_meaning import REM0, REM1, REM2
from kbs_rim.appraisal.reference_boot import Learned
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.rule_values import Role

_STARTED = frozenset({Role.BOOT_LOADER, Role.KERNEL, Role.UKI})
_DANGEROUS = ("init", "rdinit", "rd.break", "rd.shell", "systemd.debug-shell", "systemd.debug_shell", "single", "emergency")
"""Parameters that give whoever sits at the console a shell, or the host a say in what starts first."""


def warnings_of(learned: Learned, registered: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return what the rules leave open. ``registered`` are ids of images that the broker has, None if it was not asked."""
    return (
        *_unknown(learned),
        *_images(learned, registered),
        *_secure_boot(learned.table),
        *_command_line(learned),
        *_loose(learned.table),
        *_left_out(learned),
    )


def _unknown(learned: Learned) -> Iterator[str]:
    accepted = [lesson for lesson in learned.lessons if lesson.kind is EventClass.NAMED]
    if accepted:
        rems = ", ".join(f"REM{rem}" for rem in sorted({lesson.event.rem for lesson in accepted}))
        yield f"{len(accepted)} events in {rems} are let in by bare digests, which hold for this hash algorithm only: see digests"


def _images(learned: Learned, registered: Sequence[str] | None) -> Iterator[str]:
    roles = {lesson.key for lesson in learned.lessons if lesson.image is not None}
    if not any(f"images, {role}" in roles for role in _STARTED):
        yield "no program that the firmware started is known: the rules do not say what boots"
    for rule in learned.table.get("images", ()):
        if not rule.get("required", True):
            yield f"images of the role {rule['role']} were measured, but not when they could have started this realm: they are not required"
    for image in learned.images:
        if registered is not None and image.id not in registered:
            yield f"{_named(image)} is not registered: kbs-rim image add FILE --role {_role(image, learned)}"
        if image.state is ImageState.DEPRECATED:
            yield f"{_named(image)} is deprecated"


def _named(image: RegisteredImage) -> str:
    return f"{image.name} ({image.id[:19]}...)"


def _role(image: RegisteredImage, learned: Learned) -> str:
    rules: Sequence[Mapping[str, Any]] = learned.table.get("images", ())
    return next((rule["role"] for rule in rules if image.id in rule["images"]), image.roles[0].value)


def _secure_boot(table: Mapping[str, Any]) -> Iterator[str]:
    state = table["secure_boot"]["state"]
    if state == "off":
        yield "Secure Boot is off, and the rules require that: only the images above decide what boots"
    elif state == "any":
        yield "Secure Boot was not measured"


def _command_line(learned: Learned) -> Iterator[str]:
    rules = learned.table.get("command_line")
    if rules is None:
        if not any("load options" in lesson.what or "command line" in lesson.what for lesson in learned.lessons):
            yield "no command line was measured: nothing says what the kernel obeys"
        return
    if rules.get("measured_by") == "boot-loader":
        yield "the kernel measured no command line: that of the boot loader is believed"
    for line in rules.get("exact", ()):
        for word in line.split():
            if word.partition("=")[0] in _DANGEROUS:
                yield f"the command line has {word}: be sure that you want it"


def _loose(table: Mapping[str, Any]) -> Iterator[str]:
    ima = table.get("ima", {})
    places = {
        "boot_variables": table.get("boot_variables"),
        "partition_tables": table.get("partition_tables"),
        "secure_boot.authorities": table["secure_boot"]["authorities"],
        "ima": ima.get("mode"),
    }
    for key, value in places.items():
        if value == "any":
            yield f"{key} is any: what such events say is not looked at"


def _left_out(learned: Learned) -> Iterator[str]:
    for rem, rule in enumerate(learned.rems):
        if isinstance(rule, list):
            yield f"no log explains REM{rem}: the rules require the value that it had, whatever it is of"
    parts = {REM0: "the firmware's settings", REM1: "what the firmware starts", REM2: "what boot loader and kernel load"}
    for rem, about in parts.items():
        if learned.rems[rem] == "zero":
            yield f"nothing was measured into REM{rem} ({about}); the rules require that it stays so"
