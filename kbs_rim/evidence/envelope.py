"""The envelope: how a guest sends its CCA token, its measurement logs and its device tree in one HTTP body.

Nothing here is believed: token and logs are taken apart and handed on as bytes. Which form a
token has is read from its CBOR tag by ``cca_token``, never from a media type. Each log carries
a label, because its bytes do not tell what its register numbers count (``log_label``).

| media type of the body | form |
|---|---|
| ``application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"`` | the token alone, as CBOR or as base64url text |
| ``application/eat+cwt; eat_profile="..."``, ``application/cbor`` | the token alone, as CBOR |
| ``application/vnd.kbs-rim.evidence+json`` | ``{"token": base64url, "logs": {"vmm": base64url, ...}, "device_tree": base64url}`` |
| ``multipart/mixed`` or ``multipart/related`` | the token first, then logs and device tree, each with its type |
| ``application/cmw+cbor``, ``application/cmw+json`` | a collection of the conceptual message wrapper (RFC 9999) |

Inside multipart and CMW a log has the type ``application/vnd.kbs-rim.log; kind=vmm``, or for formats that leave the numbering open
``...; kind=cel-tlv; registers=mr``; in JSON that is the member ``cel-tlv.mr``. No other type of log is read: none of those in use says
which register numbering it has. A device tree has the type ``application/vnd.kbs-rim.device-tree``; it proves
nothing by itself.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import base64url, strict_cbor, strict_json
from kbs_rim.evidence.event_log import LogFormat
from kbs_rim.evidence.log_label import LABELS, LogLabel, label_of, parse_label
from kbs_rim.evidence.media_type import MediaType, parse_media_type
from kbs_rim.evidence.multipart import parse_multipart
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.limits import DEFAULT_LIMITS, Limits

EAT_COLLECTION_TYPE = 'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"'
"""What Veraison and its clients call a CCA token, whatever its outer tag and profiles."""
EVIDENCE_JSON_TYPE = "application/vnd.kbs-rim.evidence+json"
CMW_CBOR_TYPE = "application/cmw+cbor"
CMW_JSON_TYPE = "application/cmw+json"
LOG_TYPE = "application/vnd.kbs-rim.log"
DEVICE_TREE_TYPE = "application/vnd.kbs-rim.device-tree"

_EAT_PROFILES = (
    "tag:arm.com,2023:cca_platform#1.0.0",
    "tag:arm.com,2024:cca_platform#2.0.0",
    "tag:arm.com,2023:realm#1.0.0",
    "tag:arm.com,2024:realm#2.0.0",
)
ACCEPTED_MEDIA_TYPES: tuple[str, ...] = (
    EAT_COLLECTION_TYPE,
    *(f'application/eat+cwt; eat_profile="{profile}"' for profile in _EAT_PROFILES),
    "application/cbor",
    EVIDENCE_JSON_TYPE,
    "multipart/mixed",
    "multipart/related",
    CMW_CBOR_TYPE,
    CMW_JSON_TYPE,
)
"""What a challenge's ``accept`` member names; the first is the one that every known client can send."""

_TOKEN_PARAMETERS: Mapping[str, tuple[dict[str, str], ...]] = {
    "application/eat-collection": ({"profile": "http://arm.com/CCA-SSD/1.0.0"},),
    "application/eat+cwt": (
        *({"eat_profile": profile} for profile in _EAT_PROFILES),
        {"profile": "tag:arm.com,2023:cca#1.0.0"},  # the measurement-log prototype's spelling
    ),
    "application/cbor": ({},),
}
_CONTENT_FORMAT_EAT_CWT = 263  # CoAP content format of application/eat+cwt (RFC 9782)
_COLLECTION_TYPE_KEY = "__cmwc_t"
_INDICATOR_EVIDENCE = 4  # bit 2 of the CMW indicator (RFC 9999, CMW indicators registry)
_INDICATORS = range(1, 16)
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
_MAX_PARTS = 2 + len(LogFormat)
_MAJOR_TYPE_TAG = 6


@dataclass(frozen=True, slots=True, init=False)
class Evidence:
    """A CCA token and its logs as bytes, in the order of ``LogFormat``; at most one log of each format, the token not empty.

    A kind or format that leaves nothing open stands for its label. ``device_tree`` is what the guest says it was started with.
    """

    token: bytes = field(repr=False)
    logs: tuple[tuple[LogLabel, bytes], ...] = field(default=(), repr=False)
    device_tree: bytes | None = field(default=None, repr=False)

    def __init__(
        self, token: bytes, logs: Iterable[tuple[LogLabel | LogKind | LogFormat, bytes]] = (), device_tree: bytes | None = None
    ) -> None:
        """Raises ``MalformedEvidence("envelope.*")``, and ``ValueError`` for a format that needs a numbering."""
        if not token:
            raise MalformedEvidence("envelope.token-missing", "the token is empty")
        if device_tree == b"":
            raise MalformedEvidence("envelope.malformed", "the device tree is empty")
        labelled = sorted(((label_of(kind), log) for kind, log in logs), key=lambda item: item[0].place)
        if len({label.format for label, _ in labelled}) != len(labelled):
            raise MalformedEvidence("envelope.duplicate", "the envelope holds two logs of one kind")
        object.__setattr__(self, "token", token)
        object.__setattr__(self, "logs", tuple(labelled))
        object.__setattr__(self, "device_tree", device_tree)

    def log(self, kind: LogLabel | LogKind | LogFormat) -> bytes | None:
        """Return the log with this label, if it was sent."""
        return dict(self.logs).get(label_of(kind))


def parse_evidence(media_type: str, body: bytes, limits: Limits = DEFAULT_LIMITS) -> Evidence:
    """Take an HTTP body apart into token, logs and device tree. ``media_type`` is the Content-Type field as received.

    Raises ``MalformedEvidence`` with an id ``envelope.*``, or ``cbor.*`` for a malformed CMW in CBOR.
    """
    if len(body) > limits.body_bytes:
        raise MalformedEvidence(
            "envelope.too-large", "the evidence is too large", expected=f"at most {limits.body_bytes} bytes", seen=f"{len(body)} bytes"
        )
    given = _without_charset(parse_media_type(media_type, limits))
    if _is_token_type(given):
        return Evidence(_bare_token(given, body))
    reader = _READERS.get(given.name)
    if reader is None:
        raise _unknown_type(given.name)
    return reader(given, body, limits)


def encode_evidence_json(evidence: Evidence) -> bytes:
    """Return the body for ``EVIDENCE_JSON_TYPE``."""
    logs: dict[str, strict_json.JsonValue] = {label.value: base64url.encode(log) for label, log in evidence.logs}
    document: dict[str, strict_json.JsonValue] = {"token": base64url.encode(evidence.token), "logs": logs}
    if evidence.device_tree is not None:
        document["device_tree"] = base64url.encode(evidence.device_tree)
    return strict_json.encode(document)


def encode_evidence_cmw_cbor(evidence: Evidence) -> bytes:
    """Return the body for ``CMW_CBOR_TYPE``: a collection with the labels ``token``, each log's kind, and ``device-tree``."""
    return strict_cbor.encode({label: (type_, value) for label, type_, value in _records_of(evidence)})


def encode_evidence_cmw_json(evidence: Evidence) -> bytes:
    """Return the body for ``CMW_JSON_TYPE``: a collection with the labels ``token``, each log's kind, and ``device-tree``."""
    return strict_json.encode({label: [type_, base64url.encode(value)] for label, type_, value in _records_of(evidence)})


def encode_evidence_multipart(evidence: Evidence, boundary: str) -> bytes:
    """Return a ``multipart/mixed`` body. Raises ``ValueError`` if the boundary occurs in token or logs."""
    delimiter = b"--" + boundary.encode("ascii")
    body = b""
    for _, type_, value in _records_of(evidence):
        if delimiter in value:
            raise ValueError("the boundary occurs in the evidence: choose another")
        body += delimiter + b"\r\nContent-Type: " + type_.encode("ascii") + b"\r\n\r\n" + value + b"\r\n"
    return body + delimiter + b"--\r\n"


def _records_of(evidence: Evidence) -> tuple[tuple[str, str, bytes], ...]:
    """Label, media type and bytes of each piece."""
    tree = () if evidence.device_tree is None else (("device-tree", DEVICE_TREE_TYPE, evidence.device_tree),)
    return (
        ("token", EAT_COLLECTION_TYPE, evidence.token),
        *((label.value, _log_type(label), log) for label, log in evidence.logs),
        *tree,
    )


def _log_type(label: LogLabel) -> str:
    name, _, registers = label.value.partition(".")
    return f"{LOG_TYPE}; kind={name}" + (f"; registers={registers}" if registers else "")


def _without_charset(given: MediaType) -> MediaType:
    """Drop what HTTP libraries and proxies add to types whose body is text. It names the encoding that the text has anyway."""
    is_text = given.name.endswith("+json") or given.name == "application/eat-collection"
    if not is_text or given.parameters.get("charset", "").lower() not in _CHARSETS:
        return given
    return MediaType(given.name, {name: value for name, value in given.parameters.items() if name != "charset"})


def _is_token_type(given: MediaType) -> bool:
    return dict(given.parameters) in _TOKEN_PARAMETERS.get(given.name, ())


def _unknown_type(name: str) -> MalformedEvidence:
    known = name in _TOKEN_PARAMETERS or name in _READERS or name in (LOG_TYPE, DEVICE_TREE_TYPE)
    message = f"{name} with these parameters is not a type that we read here" if known else "the media type is not one that we read here"
    return MalformedEvidence("envelope.media-type", message, expected=EAT_COLLECTION_TYPE)


def _is_tagged(data: bytes) -> bool:
    return bool(data) and data[0] >> 5 == _MAJOR_TYPE_TAG


def _bare_token(given: MediaType, body: bytes) -> bytes:
    """A token alone. keybroker-demo's client sends base64url text under the same type as the CBOR."""
    if body and given.name == "application/eat-collection" and not _is_tagged(body):
        return _tagged_token(base64url.decode(body, what="the token"))
    return _tagged_token(body)


def _tagged_token(data: bytes) -> bytes:
    """Every form of a CCA token starts with a CBOR tag; which one, ``cca_token`` judges."""
    if not data:
        raise MalformedEvidence("envelope.token-missing", "the token is empty")
    if not _is_tagged(data):
        raise MalformedEvidence("envelope.malformed", "the token does not start with a CBOR tag")
    return data


def _from_json(given: MediaType, body: bytes, limits: Limits) -> Evidence:
    _only_parameters(given)
    document = strict_json.decode_object(body, what="the evidence", max_bytes=limits.body_bytes)
    if set(document) - {"token", "logs", "device_tree"}:
        raise MalformedEvidence("envelope.unknown-member", "the evidence has a member other than token, logs and device_tree")
    if "token" not in document:
        raise MalformedEvidence("envelope.token-missing", "the evidence has no member token")
    logs = document.get("logs", {})
    if not isinstance(logs, dict):
        raise MalformedEvidence("envelope.malformed", "the member logs is not an object")
    return Evidence(
        _tagged_token(_base64_member(document["token"], "the token")),
        tuple((_label(kind, None, "envelope.unknown-member"), _base64_member(log, "a log")) for kind, log in logs.items()),
        _base64_member(document["device_tree"], "the device tree") if "device_tree" in document else None,
    )


def _base64_member(value: strict_json.JsonValue, what: str) -> bytes:
    if not isinstance(value, str):
        raise MalformedEvidence("envelope.malformed", f"{what} is not a string")
    return base64url.decode(value, what=what)


def _label(kind: str, registers: str | None, finding_id: str) -> LogLabel:
    try:
        return parse_label(kind, registers)
    except ValueError:
        known = ", ".join(label.value for label in LABELS)
        raise MalformedEvidence(finding_id, "a log has an unknown kind, or does not say what it counts", expected=known) from None


def _from_multipart(given: MediaType, body: bytes, limits: Limits) -> Evidence:
    _only_parameters(given, "boundary", "type")
    parts = parse_multipart(body, given.parameters.get("boundary", ""), max_parts=_MAX_PARTS, limits=limits)
    typed = [(parse_media_type(part.content_type, limits), part.body) for part in parts]
    if not _is_token_type(typed[0][0]):
        raise MalformedEvidence("envelope.token-missing", "the first part is not a token")
    return _collect(typed)


def _collect(pieces: Iterable[tuple[MediaType, bytes]]) -> Evidence:
    """Sort typed pieces into one token, logs, and perhaps a device tree."""
    tokens: list[bytes] = []
    trees: list[bytes] = []
    logs: list[tuple[LogLabel, bytes]] = []
    for given, value in pieces:
        if _is_token_type(given):
            tokens.append(_tagged_token(value))
        elif given.name == LOG_TYPE and "kind" in given.parameters and set(given.parameters) <= {"kind", "registers"}:
            kind = given.parameters["kind"]
            if "." in kind:
                raise _unknown_type(LOG_TYPE)
            logs.append((_label(kind, given.parameters.get("registers"), "envelope.media-type"), value))
        elif given.name == DEVICE_TREE_TYPE and not given.parameters:
            trees.append(value)
        else:
            raise _unknown_type(given.name)
    if not tokens:
        raise MalformedEvidence("envelope.token-missing", "the envelope holds no token")
    if len(tokens) > 1:
        raise MalformedEvidence("envelope.duplicate", "the envelope holds two tokens")
    if len(trees) > 1:
        raise MalformedEvidence("envelope.duplicate", "the envelope holds two device trees")
    return Evidence(tokens[0], tuple(logs), trees[0] if trees else None)


def _from_cmw_cbor(given: MediaType, body: bytes, limits: Limits) -> Evidence:
    """A CMW in CBOR. The new form of the CCA token is one itself, so a bare token under this type is what it is."""
    _only_parameters(given, "cmwc_t")
    if _is_tagged(body):
        return Evidence(body)
    item = strict_cbor.decode(body, limits=limits, allow_text_keys=True)
    records = _cmw_records(item, given)
    return _collect(_cmw_piece(record, limits) for record in records)


def _from_cmw_json(given: MediaType, body: bytes, limits: Limits) -> Evidence:
    _only_parameters(given, "cmwc_t")
    item = strict_json.decode(body, what="the CMW", max_bytes=limits.body_bytes)
    pieces = []
    for record in _cmw_records(item, given):
        if isinstance(record, list) and len(record) > 1 and isinstance(record[0], str):
            record = [record[0], _base64_member(record[1], "a CMW value"), *record[2:]]
        else:
            raise _malformed_record()
        pieces.append(_cmw_piece(record, limits))
    return _collect(pieces)


def _cmw_records(item: object, given: MediaType) -> list[object]:
    """Return the records of a collection, or a record that stands alone; collections in collections are not read."""
    if not isinstance(item, Mapping):
        if "cmwc_t" in given.parameters:
            raise MalformedEvidence("envelope.malformed", "the media type names a collection, and the body is none")
        return [item]
    collection_type = item.get(_COLLECTION_TYPE_KEY, given.parameters.get("cmwc_t", ""))
    if not isinstance(collection_type, str) or collection_type.lower() != given.parameters.get("cmwc_t", collection_type).lower():
        raise MalformedEvidence("envelope.malformed", "the collection has another type than its media type says")
    records = [record for label, record in item.items() if label != _COLLECTION_TYPE_KEY]
    if len(records) > _MAX_PARTS:
        raise MalformedEvidence("envelope.malformed", "the collection has too many records", expected=f"at most {_MAX_PARTS} records")
    return records


def _cmw_piece(record: object, limits: Limits) -> tuple[MediaType, bytes]:
    """One record ``[type, value, ?indicator]`` (RFC 9999 section 3.1)."""
    if not isinstance(record, list | tuple) or len(record) not in {2, 3}:
        raise _malformed_record()
    type_, value = record[:2]
    indicator = record[2] if len(record) == 3 else _INDICATOR_EVIDENCE
    if not isinstance(value, bytes):
        raise _malformed_record()
    if not isinstance(indicator, int) or isinstance(indicator, bool) or indicator not in _INDICATORS or not indicator & _INDICATOR_EVIDENCE:
        raise MalformedEvidence("envelope.malformed", "a CMW record says that it is no evidence")
    if isinstance(type_, str):
        return parse_media_type(type_, limits), value
    if type_ == _CONTENT_FORMAT_EAT_CWT and not isinstance(type_, bool):
        return MediaType("application/eat+cwt", {"eat_profile": _EAT_PROFILES[0]}), value
    raise _unknown_type("")


def _malformed_record() -> MalformedEvidence:
    return MalformedEvidence("envelope.malformed", "a CMW record is not an array of type, value and perhaps an indicator")


def _only_parameters(given: MediaType, *names: str) -> None:
    if set(given.parameters) - set(names):
        raise MalformedEvidence("envelope.media-type", f"{given.name} has a parameter that we do not know")


_READERS: Mapping[str, Callable[[MediaType, bytes, Limits], Evidence]] = {
    EVIDENCE_JSON_TYPE: _from_json,
    "multipart/mixed": _from_multipart,
    "multipart/related": _from_multipart,
    CMW_CBOR_TYPE: _from_cmw_cbor,
    CMW_JSON_TYPE: _from_cmw_json,
    # The measurement-log prototype and Veraison's services use the names from before the registration.
    "application/vnd.veraison.cmw+cbor": _from_cmw_cbor,
    "application/vnd.veraison.cmw+json": _from_cmw_json,
}
