"""What ``kbs-rim measure`` writes for other verifiers: a realm CoRIM, or the CoMID that cca-realm-measurements writes."""

from pathlib import Path

from kbs_rim.cli.corim_files import document, write
from kbs_rim.errors import InvalidDocument


def write_measured(
    rim: bytes,
    rems: "tuple[bytes, ...] | list[bytes]",
    rpv: bytes | None,
    *,
    label: str,
    corim: Path | None = None,
    legacy_comid: Path | None = None,
    comid_template: Path | None = None,
) -> None:
    """Write RIM, REMs and personalization value as an unsigned CoRIM to ``corim`` and as a legacy CoMID to ``legacy_comid``.

    Raises ``InvalidDocument("endorsement.*")`` for a template that is none, and ``OSError``.
    """
    from kbs_rim.appraisal.comid_template import legacy_comid as legacy
    from kbs_rim.appraisal.corim_writer import encode_corim
    from kbs_rim.appraisal.endorsements import RPV_BYTES, RealmReference
    from kbs_rim.appraisal.rim_set import LabelledRim, check_reference, rim_set_corim

    padded = None if rpv is None else rpv.ljust(RPV_BYTES, b"\0")
    try:
        item = LabelledRim(label, check_reference(RealmReference(rim, dict(enumerate(rems)), padded)))
    except ValueError as error:
        raise InvalidDocument("endorsement.unwritable", str(error)) from None
    if corim is not None:
        write(corim, encode_corim(rim_set_corim([item])))
    if legacy_comid is not None:
        template = None if comid_template is None else document(comid_template, 1 << 20)
        write(legacy_comid, legacy(item.reference, template).encode())
