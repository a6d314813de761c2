"""Values for tests of the store and the services above it. Every image is measured from real bytes."""

from datetime import UTC, datetime, timedelta
from functools import cache

from kbs_rim.appraisal.workload import Role, Workload, parse_workload
from kbs_rim.ledger.records import AppraisalRecord, ChangeRecord, ReleaseRecord, VerdictKind
from kbs_rim.measurement.image import ImageMeasurements, measure_image
from kbs_rim.ports import Challenge, ImageRecord, ImageState, SealedVersion

AT = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
ARM64_HEADER = (
    bytes(8) + (0).to_bytes(8, "little") + (0x20000).to_bytes(8, "little") + (0xA).to_bytes(8, "little") + bytes(24) + b"ARMd" + bytes(4)
)


class SettableClock:
    """Implements ``ports.Clock``; stands still unless it is told."""

    def __init__(self, at: datetime = AT) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


@cache
def measured(content: bytes) -> ImageMeasurements:
    return measure_image(content)


def kernel_bytes(name: str = "kernel") -> bytes:
    return ARM64_HEADER + name.encode() * 1000


def image(content: bytes = b"initrd" * 1000, *, roles: tuple[Role, ...] = (Role.INITRD,), name: str = "an image") -> ImageRecord:
    measurements = measured(content)
    return ImageRecord(
        id=measurements.image_id,
        name=name,
        roles=roles,
        state=ImageState.ACTIVE,
        measurements=measurements,
        provenance={"package": "installer", "version": "12", "note": "a\0b \ud800"},
        registered_at=AT,
        registered_by="ada",
        state_at=AT,
        state_by="ada",
    )


def change(
    action: str = "test.change", subject: str = "test/subject", *, at: datetime = AT, actor: str = "ada", **detail: str
) -> ChangeRecord:
    return ChangeRecord(at=at, actor=actor, action=action, subject=subject, detail=detail)


def workload(name: str, kernel: ImageRecord, tree: ImageRecord, *others: ImageRecord, description: str = "") -> Workload:
    rules = [{"role": "kernel", "images": [kernel.id]}, {"role": "device-tree", "images": [tree.id]}]
    rules += [{"role": other.roles[0].value, "images": [other.id], "required": False} for other in others]
    return parse_workload(
        {
            "name": name,
            "description": description,
            "images": rules,
            "memory": {"base": "0x40000000", "size": {"min": 1 << 28, "max": "0xffffffffffff0000"}},
        }
    )


def sealed(version: int) -> SealedVersion:
    return SealedVersion(
        version=version, kek_id="kek-1", wrapped_key=b"wrapped" * 8, nonce=b"n" * 12, ciphertext=b"ciphertext %d" % version
    )


def challenge(identity: str = "challenge-1", *, lifetime_s: float = 60, secret: str = "default/disk/root") -> Challenge:
    return Challenge(
        id=identity,
        secret=secret,
        value=bytes(range(64)),
        salt=bytes(range(32)),
        jwk={"kty": "EC", "crv": "P-256", "x": "x", "y": "y"},
        issued_at=AT,
        expires_at=AT + timedelta(seconds=lifetime_s),
    )


def appraisal(
    identity: str,
    *,
    at: datetime = AT,
    verdict: VerdictKind = VerdictKind.ALLOWED,
    secret: str = "default/disk/root",
    workload_name: str | None = "web",
    findings: tuple[str, ...] = ("policy.accepted",),
    images: tuple[str, ...] = (),
    instance_id: str | None = None,
    inputs: dict[str, str] | None = None,
) -> AppraisalRecord:
    facts: dict = {"images": list(images), "text": "NUL \0 and ünïcode"}
    if instance_id is not None:
        facts["instance_id"] = instance_id
    return AppraisalRecord(
        id=identity,
        at=at,
        verdict=verdict,
        secret=secret,
        workload=workload_name,
        workload_revision=None if workload_name is None else 1,
        findings=tuple({"id": finding, "severity": "note", "step": 9, "message": "because"} for finding in findings),
        inputs=inputs or {},
        facts=facts,
        durations_us={"appraise": 1234},
        config_digest="c" * 64,
        request_id="request-1",
        software="kbs_rim 0.1.0",
    )


def release(appraisal_id: str, *, at: datetime = AT, version: int = 1) -> ReleaseRecord:
    return ReleaseRecord(
        appraisal_id=appraisal_id, at=at, secret="default/disk/root", version=version, key_thumbprint="ab" * 32, sealing="ECDH-ES+A256KW"
    )
