"""The images of ``kbs-rim workload from``: files hashed here, or images that the broker knows; what is missing there is registered."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kbs_rim.cli.admin_client import AdminClient
    from kbs_rim.measurement.image import ImageMeasurements

_ROLES = ("kernel", "initrd", "firmware")
_ID_PREFIX = "sha256:"
_BATCH = "/admin/v1/images/batch"


@dataclass(frozen=True, slots=True)
class ChosenImage:
    """An image with its role. ``state`` is what the broker says of it, None if nobody asked or it does not know it."""

    role: str
    name: str
    measurements: "ImageMeasurements" = field(repr=False)
    asked: bool
    state: str | None
    roles: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """The broker must be told before a workload can name it."""
        return self.asked and (self.state is None or self.role not in self.roles)

    @property
    def standing(self) -> str:
        """In words."""
        if not self.asked:
            return "no broker was asked"
        if self.state is None:
            return "not registered"
        return self.state if self.role in self.roles else f"{self.state}, but not as {self.role}"

    @property
    def submission(self) -> Mapping[str, Any]:
        """The image as the broker takes it."""
        return {"name": self.name, "roles": [self.role], "measurements": self.measurements.to_document(), "provenance": {"from": self.name}}


def pairs_of(values: Sequence[str]) -> dict[str, str]:
    """Read ``ROLE=FILE`` and ``ROLE=sha256:ID``. Raises ``click.UsageError``."""
    found: dict[str, str] = {}
    for value in values:
        role, equals, text = value.partition("=")
        if not equals or not text or role not in _ROLES or role in found:
            raise click.UsageError(f"--image is ROLE=FILE or ROLE=sha256:ID, each role once, of {', '.join(_ROLES)}; not {value[:80]!r}")
        found[role] = text
    return found


def choose_images(
    wanted: Iterable[str], named: Mapping[str, str], given: Mapping[str, str], client: "AdminClient | None"
) -> tuple[ChosenImage, ...]:
    """Hash or look up the image of each role that the VM loads; what ``given`` says replaces the file that the definition names.

    Raises ``OSError`` for a file that cannot be read, ``MalformedEvidence`` for what is no image, and as the broker answers.
    """
    roles = sorted(wanted)
    if unused := sorted(set(given) - set(roles)):
        raise click.UsageError(f"--image {unused[0]}: the VM loads none")
    chosen = []
    for role in roles:
        text = given.get(role) or named.get(role)
        if not text:
            raise click.UsageError(f"the VM loads {'an' if role == 'initrd' else 'a'} {role}: name it with --image {role}=FILE")
        chosen.append(_registered(role, text, client) if text.startswith(_ID_PREFIX) and role in given else _hashed(role, text, client))
    return tuple(chosen)


def chosen_image(role: str, name: str, measurements: "ImageMeasurements", client: "AdminClient | None") -> ChosenImage:
    """Return an image that was measured, with what the broker knows of it."""
    known = None if client is None else _known(measurements.image_id, client)
    return ChosenImage(
        role,
        name,
        measurements,
        asked=client is not None,
        state=None if known is None else str(known["state"]),
        roles=tuple(known["roles"]) if known else (),
    )


def register_missing(images: Sequence[ChosenImage], client: "AdminClient") -> list[str]:
    """Register what the broker does not know, all or nothing; return what became of it in words."""
    missing = [image for image in images if image.missing]
    if not missing:
        return []
    answers = client.send("POST", _BATCH, {"images": [image.submission for image in missing]})["images"]
    return [f"image {answer['image']['name']} {answer['image']['id']}: {answer['outcome']}" for answer in answers]


def _hashed(role: str, text: str, client: "AdminClient | None") -> ChosenImage:
    from kbs_rim.cli.image import measure_file
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.image_sources.shared_work import SharedWork

    path = Path(text)
    if not path.is_file():
        raise click.ClickException(f"{text}: no such file here; say where the {role} is with --image {role}=FILE or {role}=sha256:ID")
    with SharedWork() as work:
        measured = measure_file(path, do=work)
    if role == "kernel" and measured.kernel is None:
        raise MalformedEvidence("image.kernel", f"{path} is no arm64 Linux Image")
    return chosen_image(role, path.name, measured, client)


def _registered(role: str, image_id: str, client: "AdminClient | None") -> ChosenImage:
    from kbs_rim.measurement.image import ImageMeasurements

    if client is None:
        raise click.UsageError(f"--image {role}={image_id[:20]}...: only a broker knows ids; set KBS_RIM_TOKEN_FILE or --token-file")
    known = client.get(f"/admin/v1/images/{image_id}")
    measured = ImageMeasurements.from_document(client.get(f"/admin/v1/images/{image_id}/measurements"))
    return ChosenImage(role, str(known["name"]), measured, asked=True, state=str(known["state"]), roles=tuple(known["roles"]))


def _known(image_id: str, client: "AdminClient") -> Any:
    from kbs_rim.errors import TheirFault

    try:
        return client.get(f"/admin/v1/images/{image_id}")
    except TheirFault as error:
        if error.finding_id == "registry.image-unknown":
            return None
        raise
