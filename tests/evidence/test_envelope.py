import base64
import json
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import base64url, envelope
from kbs_rim.evidence.envelope import ACCEPTED_MEDIA_TYPES, EAT_COLLECTION_TYPE, Evidence, parse_evidence
from kbs_rim.evidence.event_log import LogFormat, RegisterKind
from kbs_rim.evidence.log_label import LABELS, LogLabel, parse_label
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.limits import Limits

TOKEN = bytes.fromhex("d9018fa0")
NEW_TOKEN = bytes.fromhex("d9038ba0")
LOG = b"\0\0\0\0\3\0\0\0 a log\r\n--b\r\n"
JSON = envelope.EVIDENCE_JSON_TYPE
CMW_CBOR = envelope.CMW_CBOR_TYPE
CMW_JSON = envelope.CMW_JSON_TYPE
MULTIPART = "multipart/mixed; boundary=frontier"
VMM = "application/vnd.kbs-rim.log; kind=vmm"

TOKENS = st.binary(max_size=80).map(TOKEN.__add__)
LOGS = st.lists(st.tuples(st.sampled_from(LABELS), st.binary(max_size=80)), unique_by=lambda log: log[0].format).map(tuple)
EVIDENCE = st.builds(Evidence, TOKENS, LOGS, st.none() | st.binary(min_size=1, max_size=80))


def refusal(media_type: str, body: bytes, limits: Limits | None = None) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as caught:
        parse_evidence(media_type, body, limits or Limits())
    return caught.value


def multipart(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--frontier\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + b"--frontier--\r\n"


def b64(data: bytes) -> str:
    return base64url.encode(data)


@given(EVIDENCE)
def test_each_envelope_gives_back_what_was_put_in(evidence: Evidence) -> None:
    assert parse_evidence(JSON, envelope.encode_evidence_json(evidence)) == evidence
    assert parse_evidence(CMW_CBOR, envelope.encode_evidence_cmw_cbor(evidence)) == evidence
    assert parse_evidence(CMW_JSON, envelope.encode_evidence_cmw_json(evidence)) == evidence
    boundary = "0123456789abcdef-frontier"
    assert parse_evidence(f"multipart/mixed; boundary={boundary}", envelope.encode_evidence_multipart(evidence, boundary)) == evidence


@pytest.mark.parametrize("name", ["v01-legacy-399-sha256-keybroker-example.cbor", "v07-2024realm-907-mec-int.cbor"])
def test_a_real_token_travels_in_every_envelope(vectors: Path, name: str) -> None:
    token = (vectors / "tokens" / "valid" / name).read_bytes()
    evidence = Evidence(token, ((LogKind.VMM, LOG),))
    bare = [media_type for media_type in ACCEPTED_MEDIA_TYPES if media_type.startswith(("application/eat", "application/cbor"))]
    assert len(bare) == 6
    assert {parse_evidence(media_type, token).token for media_type in bare} == {token}
    assert parse_evidence(JSON, envelope.encode_evidence_json(evidence)) == evidence
    assert parse_evidence(CMW_CBOR, envelope.encode_evidence_cmw_cbor(evidence)) == evidence


def test_the_old_client_sends_base64url_text_under_the_type_it_was_told() -> None:
    assert parse_evidence(EAT_COLLECTION_TYPE, base64.urlsafe_b64encode(NEW_TOKEN).rstrip(b"=")).token == NEW_TOKEN


@pytest.mark.parametrize(
    "media_type",
    [
        'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"',
        "application/eat-collection; profile=http://arm.com/CCA-SSD/1.0.0",
        'application/eat-collection;profile="http://arm.com/CCA-SSD/1.0.0"',
        'Application/EAT-Collection ; Profile="http://arm.com/CCA-SSD/1.0.0"',
        'application/eat+cwt; profile="tag:arm.com,2023:cca#1.0.0"',
        "application/cmw+cbor",
        'application/cmw+cbor; cmwc_t="tag:example.com,2026:x"',
    ],
)
def test_the_form_of_a_token_is_never_read_from_the_media_type(media_type: str) -> None:
    assert parse_evidence(media_type, TOKEN) == Evidence(TOKEN)
    assert parse_evidence(media_type, NEW_TOKEN) == Evidence(NEW_TOKEN)


def test_the_accept_list_starts_with_what_every_client_can_send() -> None:
    assert ACCEPTED_MEDIA_TYPES[0] == 'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"'
    for media_type in ACCEPTED_MEDIA_TYPES:
        error = refusal(media_type, b"")
        assert error.finding_id != "envelope.media-type"


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/octet-stream",
        "application/json",
        "application/eat-collection",
        'application/eat-collection; profile="https://arm.com/CCA-SSD/1.0.0"',
        'application/eat-collection; profile="http://arm.com/cca-ssd/1.0.0"',
        'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"; q=1',
        "application/eat+cwt",
        'application/eat+cwt; eat_profile="tag:arm.com,2026:cca_platform#2.0.0"',
        "application/cbor; charset=utf-8",
        "application/cmw",
        "application/cmw+cose",
        JSON + "; charset=latin-1",
        "multipart/form-data; boundary=frontier",
        VMM,
        "",
        "\r\n",
    ],
)
def test_other_media_types_are_refused(media_type: str) -> None:
    assert refusal(media_type, TOKEN).finding_id == "envelope.media-type"


@given(
    st.sampled_from([*ACCEPTED_MEDIA_TYPES, MULTIPART, "application/vnd.veraison.cmw+cbor"]) | st.text(max_size=30),
    st.binary(max_size=200)
    | st.builds(
        lambda head, tail: head + tail, st.sampled_from([TOKEN, b"--frontier\r\n", b"{", b"\xa2", b"\x82"]), st.binary(max_size=100)
    ),
)
def test_any_body_is_taken_apart_or_refused(media_type: str, body: bytes) -> None:
    try:
        outcome = type(parse_evidence(media_type, body)).__name__
    except MalformedEvidence as error:
        outcome = error.finding_id.split(".")[0]
    assert outcome in {"Evidence", "envelope", "cbor"}


@given(EVIDENCE, st.data())
def test_a_damaged_envelope_is_taken_apart_or_refused(evidence: Evidence, data: st.DataObject) -> None:
    media_type, body = data.draw(
        st.sampled_from(
            [
                (JSON, envelope.encode_evidence_json(evidence)),
                (CMW_CBOR, envelope.encode_evidence_cmw_cbor(evidence)),
                (CMW_JSON, envelope.encode_evidence_cmw_json(evidence)),
                ("multipart/mixed; boundary=0123456789abcdef", envelope.encode_evidence_multipart(evidence, "0123456789abcdef")),
            ]
        )
    )
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 3)))
    damaged = body[:start] + data.draw(st.binary(max_size=3)) + body[end:]
    try:
        outcome = type(parse_evidence(media_type, damaged)).__name__
    except MalformedEvidence as error:
        outcome = error.finding_id.split(".")[0]
    assert outcome in {"Evidence", "envelope", "cbor"}


def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    error = refusal(JSON, b"{" * 11, Limits(body_bytes=10))
    assert (error.finding_id, error.expected, error.seen) == ("envelope.too-large", "at most 10 bytes", "11 bytes")


def test_the_logs_come_in_one_order_whatever_the_sender_chose() -> None:
    one = parse_evidence(JSON, json.dumps({"logs": {"cc": b64(b"c"), "vmm": b64(b"v")}, "token": b64(TOKEN)}).encode())
    assert [(label.value, log) for label, log in one.logs] == [("vmm", b"v"), ("cc", b"c")]
    assert one.log(LogKind.CC) == b"c"
    assert one.log(LogKind.TPM) is None


def test_evidence_without_a_token_does_not_exist() -> None:
    with pytest.raises(MalformedEvidence) as caught:
        Evidence(b"", ((LogKind.VMM, LOG),))
    assert caught.value.finding_id == "envelope.token-missing"


def test_evidence_does_not_print_its_content() -> None:
    assert repr(Evidence(TOKEN, ((LogKind.VMM, LOG),))) == "Evidence()"


@pytest.mark.parametrize(
    ("attack", "finding_id", "body"),
    [
        ("nothing", "envelope.token-missing", b""),
        ("claims without a tag", "envelope.base64", b"\xa0"),
        ("padded base64", "envelope.base64", base64.b64encode(TOKEN + b"x")),
        ("base64 with a line end", "envelope.base64", b64(TOKEN).encode() + b"\n"),
        ("base64 of no token", "envelope.malformed", b64(b"hello").encode()),
    ],
)
def test_bare_tokens_that_are_refused(attack: str, finding_id: str, body: bytes) -> None:
    assert refusal(EAT_COLLECTION_TYPE, body).finding_id == finding_id


def test_base64_text_is_read_only_under_the_old_clients_type() -> None:
    assert refusal("application/cbor", b64(TOKEN).encode()).finding_id == "envelope.malformed"


@pytest.mark.parametrize(
    ("attack", "finding_id", "document"),
    [
        ("no token", "envelope.token-missing", {"logs": {}}),
        ("empty token", "envelope.token-missing", {"token": ""}),
        ("token of numbers", "envelope.malformed", {"token": [217, 1, 143]}),
        ("token without a tag", "envelope.malformed", {"token": "AAAA"}),
        ("token in standard base64", "envelope.base64", {"token": "2Q+/"}),
        ("unknown member", "envelope.unknown-member", {"token": b64(TOKEN), "log": "AAAA"}),
        ("unknown kind", "envelope.unknown-member", {"token": b64(TOKEN), "logs": {"syslog": "AAAA"}}),
        ("numbering not said", "envelope.unknown-member", {"token": b64(TOKEN), "logs": {"cel-tlv": "AAAA"}}),
        ("numbering that the format does not have", "envelope.unknown-member", {"token": b64(TOKEN), "logs": {"cc.pcr": "AAAA"}}),
        ("numbering of the RIM", "envelope.unknown-member", {"token": b64(TOKEN), "logs": {"cel-cbor.rim": "AAAA"}}),
        ("one format, two numberings", "envelope.duplicate", {"token": b64(TOKEN), "logs": {"aael": "AAAA", "aael.pcr": "AAAA"}}),
        ("kind in capitals", "envelope.unknown-member", {"token": b64(TOKEN), "logs": {"VMM": "AAAA"}}),
        ("logs in a list", "envelope.malformed", {"token": b64(TOKEN), "logs": ["AAAA"]}),
        ("logs null", "envelope.malformed", {"token": b64(TOKEN), "logs": None}),
        ("log null", "envelope.malformed", {"token": b64(TOKEN), "logs": {"vmm": None}}),
        ("log padded", "envelope.base64", {"token": b64(TOKEN), "logs": {"vmm": "AA=="}}),
        ("device tree null", "envelope.malformed", {"token": b64(TOKEN), "device_tree": None}),
        ("device tree empty", "envelope.malformed", {"token": b64(TOKEN), "device_tree": ""}),
        ("device tree padded", "envelope.base64", {"token": b64(TOKEN), "device_tree": "AA=="}),
        ("device tree under its name in CMW", "envelope.unknown-member", {"token": b64(TOKEN), "device-tree": "AAAA"}),
        ("not an object", "envelope.malformed", [b64(TOKEN)]),
    ],
)
def test_json_envelopes_that_are_refused(attack: str, finding_id: str, document: object) -> None:
    assert refusal(JSON, json.dumps(document).encode()).finding_id == finding_id


def test_two_logs_of_one_kind_in_json() -> None:
    body = f'{{"token":"{b64(TOKEN)}","logs":{{"vmm":"AAAA","vmm":"BBBB"}}}}'.encode()
    assert refusal(JSON, body).finding_id == "envelope.malformed"


def test_multipart_with_what_clients_add() -> None:
    body = multipart(
        ("Content-Type: application/eat-collection; profile=http://arm.com/CCA-SSD/1.0.0\r\nContent-Length: 4", TOKEN),
        (f"content-type:\t{VMM} \r\nContent-Transfer-Encoding: BINARY\r\nContent-Disposition: attachment", LOG),
        ("Content-Type: application/vnd.kbs-rim.log; kind=cc", b""),
    )
    expected = Evidence(TOKEN, ((LogKind.VMM, LOG), (LogKind.CC, b"")))
    assert parse_evidence(MULTIPART, body) == expected
    assert parse_evidence('multipart/related; type="application/cbor"; boundary="frontier"', body) == expected


PART = ("Content-Type: application/cbor", TOKEN)
LOG_PART = (f"Content-Type: {VMM}", b"log")
CEL_PART = ("Content-Type: application/vnd.kbs-rim.log; kind=cel-tlv; registers=mr", b"cel")
TREE_PART = ("Content-Type: application/vnd.kbs-rim.device-tree", b"tree")


@pytest.mark.parametrize(
    ("attack", "finding_id", "body"),
    [
        ("nothing", "envelope.malformed", b""),
        ("no part", "envelope.malformed", b"--frontier--\r\n"),
        ("preamble", "envelope.malformed", b"hello\r\n" + multipart(PART)),
        ("epilogue", "envelope.malformed", multipart(PART) + b"hello"),
        ("not closed", "envelope.malformed", multipart(PART)[:-4]),
        ("cut inside a part", "envelope.malformed", multipart(PART)[:-20]),
        ("bare line feeds", "envelope.malformed", multipart(PART).replace(b"\r\n", b"\n")),
        ("boundary that goes on", "envelope.malformed", multipart(PART).replace(b"\r\n--frontier--", b"\r\n--frontierX")),
        ("no header", "envelope.malformed", multipart(("", TOKEN))),
        ("no content type", "envelope.malformed", multipart(("Content-Length: 4", TOKEN))),
        ("header without end", "envelope.malformed", b"--frontier\r\nContent-Type: application/cbor\r\n--frontier--"),
        ("folded header", "envelope.malformed", multipart(("Content-Type: application/cbor;\r\n x=y", TOKEN))),
        ("content type twice", "envelope.malformed", multipart((PART[0] + "\r\n" + PART[0], TOKEN))),
        ("header of 3 KiB", "envelope.malformed", multipart((PART[0] + "\r\nContent-Id: " + "x" * 3000, TOKEN))),
        ("header bytes", "envelope.malformed", multipart((PART[0] + "\r\nContent-Id: \u00e4", TOKEN))),
        ("unknown header", "envelope.unknown-member", multipart((PART[0] + "\r\nX-Kind: vmm", TOKEN))),
        ("base64", "envelope.malformed", multipart((PART[0] + "\r\nContent-Transfer-Encoding: base64", TOKEN))),
        ("wrong length", "envelope.malformed", multipart((PART[0] + "\r\nContent-Length: 5", TOKEN))),
        ("eleven parts", "envelope.malformed", multipart(PART, *[LOG_PART] * 10)),
        ("two device trees", "envelope.duplicate", multipart(PART, TREE_PART, TREE_PART)),
        ("device tree with a parameter", "envelope.media-type", multipart(PART, (TREE_PART[0] + "; kind=dtb", b"tree"))),
        ("empty device tree", "envelope.malformed", multipart(PART, (TREE_PART[0], b""))),
        ("device tree first", "envelope.token-missing", multipart(TREE_PART, PART)),
        ("log first", "envelope.token-missing", multipart(LOG_PART, PART)),
        ("two tokens", "envelope.duplicate", multipart(PART, PART)),
        ("two logs of one kind", "envelope.duplicate", multipart(PART, LOG_PART, LOG_PART)),
        ("log of no kind", "envelope.media-type", multipart(PART, ("Content-Type: application/vnd.kbs-rim.log", b"log"))),
        ("log of unknown kind", "envelope.media-type", multipart(PART, ("Content-Type: application/vnd.kbs-rim.log; kind=syslog", b"log"))),
        ("log without its numbering", "envelope.media-type", multipart(PART, (CEL_PART[0].partition("; registers")[0], b"log"))),
        ("log with a numbering of its own", "envelope.media-type", multipart(PART, (LOG_PART[0] + "; registers=mr", b"log"))),
        (
            "numbering in the kind",
            "envelope.media-type",
            multipart(PART, ("Content-Type: application/vnd.kbs-rim.log; kind=cel-tlv.mr", b"log")),
        ),
        ("log of two kinds", "envelope.media-type", multipart(PART, (LOG_PART[0] + "; kind=cc", b"log"))),
        ("foreign type", "envelope.media-type", multipart(PART, ("Content-Type: application/vnd.tcg.tpm-event-log", b"log"))),
        ("nested", "envelope.media-type", multipart(PART, ("Content-Type: multipart/mixed; boundary=inner", b"--inner--"))),
        ("empty token", "envelope.token-missing", multipart((PART[0], b""), LOG_PART)),
        ("base64 text", "envelope.malformed", multipart((f"Content-Type: {EAT_COLLECTION_TYPE}", b64(TOKEN).encode()))),
    ],
)
def test_multipart_bodies_that_are_refused(attack: str, finding_id: str, body: bytes) -> None:
    assert refusal(MULTIPART, body).finding_id == finding_id


@pytest.mark.parametrize("parameters", ["", '; boundary=""', '; boundary="a "', f"; boundary={'x' * 71}", '; boundary="a\\"b"'])
def test_a_malformed_boundary_is_refused(parameters: str) -> None:
    assert refusal(f"multipart/mixed{parameters}", multipart(PART)).finding_id == "envelope.malformed"


def test_a_boundary_that_occurs_in_the_log_is_not_used() -> None:
    with pytest.raises(ValueError, match="choose another"):
        envelope.encode_evidence_multipart(Evidence(TOKEN, ((LogKind.VMM, LOG),)), "b")


def cmw(records: object) -> bytes:
    return cbor2.dumps(records)


TOKEN_RECORD = [EAT_COLLECTION_TYPE, TOKEN]
LOG_RECORD = [VMM, b"log"]
TREE_RECORD = ["application/vnd.kbs-rim.device-tree", b"tree"]


@pytest.mark.parametrize(
    "collection",
    [
        {1: TOKEN_RECORD, 2: LOG_RECORD},
        {"token": TOKEN_RECORD, "log": LOG_RECORD},
        {"__cmwc_t": "tag:example.com,2026:cca", "log": LOG_RECORD, -7: TOKEN_RECORD},
        {"a": [263, TOKEN], "b": [*LOG_RECORD, 4]},
        {"a": ["application/cbor", TOKEN, 15], "b": LOG_RECORD},
        {1: ['application/eat+cwt; profile="tag:arm.com,2023:cca#1.0.0"', TOKEN], 2: LOG_RECORD},
    ],
)
def test_a_cmw_collection_in_any_of_its_spellings(collection: dict[int | str, object]) -> None:
    for media_type in (CMW_CBOR, "application/vnd.veraison.cmw+cbor"):
        assert parse_evidence(media_type, cmw(collection)) == Evidence(TOKEN, ((LogKind.VMM, b"log"),))


def test_a_device_tree_in_every_envelope() -> None:
    expected = Evidence(TOKEN, ((LogKind.VMM, LOG_PART[1]),), b"tree")
    assert parse_evidence(MULTIPART, multipart(PART, TREE_PART, LOG_PART)) == expected
    records = {"t": TOKEN_RECORD, "d": TREE_RECORD, "l": [VMM, LOG_PART[1]]}
    assert parse_evidence(CMW_CBOR, cmw(records)) == expected
    assert (
        parse_evidence(CMW_JSON, json.dumps({label: [type_, b64(value)] for label, (type_, value) in records.items()}).encode()) == expected
    )
    document = {"token": b64(TOKEN), "logs": {"vmm": b64(LOG_PART[1])}, "device_tree": b64(b"tree")}
    assert parse_evidence(JSON, json.dumps(document).encode()) == expected
    assert "tree" not in repr(expected).replace("device_tree", "")


def test_a_cmw_record_alone_is_a_token() -> None:
    assert parse_evidence(CMW_CBOR, cmw(TOKEN_RECORD)) == Evidence(TOKEN)
    assert parse_evidence(CMW_JSON, json.dumps([EAT_COLLECTION_TYPE, b64(TOKEN)]).encode()) == Evidence(TOKEN)


def test_the_collection_type_of_header_and_body_must_agree() -> None:
    body = cmw({"__cmwc_t": "tag:Example.com,2026:cca", "t": TOKEN_RECORD})
    assert parse_evidence(f'{CMW_CBOR}; cmwc_t="TAG:example.com,2026:CCA"', body) == Evidence(TOKEN)
    assert parse_evidence(CMW_CBOR, body) == Evidence(TOKEN)
    assert refusal(f'{CMW_CBOR}; cmwc_t="1.2.3"', body).finding_id == "envelope.malformed"
    assert refusal(f'{CMW_CBOR}; cmwc_t="1.2.3"', cmw(TOKEN_RECORD)).finding_id == "envelope.malformed"


@pytest.mark.parametrize(
    ("attack", "finding_id", "body"),
    [
        ("nothing", "cbor.truncated", b""),
        ("empty collection", "envelope.token-missing", cmw({})),
        ("only a type", "envelope.token-missing", cmw({"__cmwc_t": "1.2.3"})),
        ("type that is no text", "envelope.malformed", cmw({"__cmwc_t": 1, "t": TOKEN_RECORD})),
        ("no token", "envelope.token-missing", cmw({1: LOG_RECORD})),
        ("two tokens", "envelope.duplicate", cmw({1: TOKEN_RECORD, 2: TOKEN_RECORD})),
        ("two logs of one kind", "envelope.duplicate", cmw({1: TOKEN_RECORD, 2: LOG_RECORD, 3: LOG_RECORD})),
        ("eleven records", "envelope.malformed", cmw({1: TOKEN_RECORD, **dict.fromkeys(range(2, 12), LOG_RECORD)})),
        ("two device trees", "envelope.duplicate", cmw({1: TOKEN_RECORD, 2: TREE_RECORD, 3: TREE_RECORD})),
        ("same label twice", "cbor.duplicate-key", b"\xa2\x01" + cmw(TOKEN_RECORD) + b"\x01" + cmw(TOKEN_RECORD)),
        ("same label twice, two encodings", "cbor.duplicate-key", b"\xa2\x01" + cmw(TOKEN_RECORD) + b"\x18\x01" + cmw(LOG_RECORD)),
        ("label of bytes", "cbor.key-type", cmw({b"t": TOKEN_RECORD})),
        ("trailing bytes", "cbor.trailing-bytes", cmw({1: TOKEN_RECORD}) + b"\0"),
        ("indefinite length", "cbor.indefinite-length", b"\xbf\x01" + cmw(TOKEN_RECORD) + b"\xff"),
        ("collection in a collection", "envelope.malformed", cmw({1: {1: TOKEN_RECORD}})),
        ("tagged record", "cbor.tag", cmw({1: cbor2.CBORTag(1668547081, TOKEN)})),
        ("token members without their tag", "envelope.duplicate", cmw({44234: [263, TOKEN], 44241: [263, TOKEN]})),
        ("record of one", "envelope.malformed", cmw({1: [EAT_COLLECTION_TYPE]})),
        ("record of four", "envelope.malformed", cmw({1: [*TOKEN_RECORD, 4, 4]})),
        ("value of text", "envelope.malformed", cmw({1: [EAT_COLLECTION_TYPE, b64(TOKEN)]})),
        ("value of base64 bytes", "envelope.malformed", cmw({1: [EAT_COLLECTION_TYPE, b64(TOKEN).encode()]})),
        ("unknown content format", "envelope.media-type", cmw({1: [264, TOKEN]})),
        ("type null", "envelope.media-type", cmw({1: [None, TOKEN]})),
        ("type true", "envelope.media-type", cmw({1: [True, TOKEN]})),
        ("foreign type", "envelope.media-type", cmw({1: TOKEN_RECORD, 2: ["application/vnd.veraison.cel-cbor-log", b"log"]})),
        ("endorsement", "envelope.malformed", cmw({1: [*TOKEN_RECORD, 2]})),
        ("indicator of nothing", "envelope.malformed", cmw({1: [*TOKEN_RECORD, 0]})),
        ("indicator out of range", "envelope.malformed", cmw({1: [*TOKEN_RECORD, 20]})),
        ("indicator true", "envelope.malformed", cmw({1: [*TOKEN_RECORD, True]})),
        ("indicator of text", "envelope.malformed", cmw({1: [*TOKEN_RECORD, "4"]})),
        ("number", "envelope.malformed", cmw(1)),
    ],
)
def test_cbor_collections_that_are_refused(attack: str, finding_id: str, body: bytes) -> None:
    assert refusal(CMW_CBOR, body).finding_id == finding_id


@pytest.mark.parametrize(
    ("attack", "finding_id", "body"),
    [
        ("content format in JSON", "envelope.malformed", {"t": [263, b64(TOKEN)]}),
        ("value of numbers", "envelope.malformed", {"t": [EAT_COLLECTION_TYPE, [217, 1, 143]]}),
        ("padded value", "envelope.base64", {"t": [EAT_COLLECTION_TYPE, b64(TOKEN) + "=="]}),
        ("record as object", "envelope.malformed", {"t": {"type": EAT_COLLECTION_TYPE}}),
        ("tunnel of an old draft", "envelope.media-type", {"t": ["#cmw-c2j-tunnel", b64(TOKEN)]}),
        ("text", "envelope.malformed", "token"),
        ("empty", "envelope.token-missing", {}),
    ],
)
def test_json_collections_that_are_refused(attack: str, finding_id: str, body: object) -> None:
    assert refusal(CMW_JSON, json.dumps(body).encode()).finding_id == finding_id


def test_no_content_reaches_a_message() -> None:
    marker = "hunter2"
    bodies = [
        (EAT_COLLECTION_TYPE, b"hunter2!"),
        (JSON, b'{"hunter2":1}'),
        (JSON, json.dumps({"token": b64(TOKEN), "logs": {marker: ""}}).encode()),
        (CMW_JSON, json.dumps({marker: [f"application/{marker}", ""]}).encode()),
        (MULTIPART, multipart((f"X-{marker}: {marker}", marker.encode()))),
    ]
    for media_type, body in bodies:
        error = refusal(media_type, body)
        assert marker not in f"{error} {error!r} {error.expected} {error.seen}"


# --- labels of logs ---------------------------------------------------------------------------------------------------


def test_a_canonical_log_says_what_it_counts() -> None:
    body = multipart(PART, LOG_PART, CEL_PART)
    label = LogLabel(LogFormat.CEL_TLV, RegisterKind.MR)
    evidence = parse_evidence(MULTIPART, body)
    assert evidence.logs == Evidence(TOKEN, ((LogKind.VMM, b"log"), (label, b"cel"))).logs
    assert evidence.log(label) == b"cel"
    assert evidence.log(LogLabel(LogFormat.CEL_TLV, RegisterKind.PCR)) is None


@pytest.mark.parametrize("label", LABELS, ids=str)
def test_labels_are_read_back(label: LogLabel) -> None:
    assert parse_label(label.value) == label
    evidence = Evidence(TOKEN, ((label, b"x"),))
    for type_, encoded in (
        (envelope.EVIDENCE_JSON_TYPE, envelope.encode_evidence_json(evidence)),
        (envelope.CMW_CBOR_TYPE, envelope.encode_evidence_cmw_cbor(evidence)),
        (envelope.CMW_JSON_TYPE, envelope.encode_evidence_cmw_json(evidence)),
    ):
        assert parse_evidence(type_, encoded) == evidence


def test_a_canonical_log_without_numbering_cannot_be_named() -> None:
    with pytest.raises(ValueError, match="must be said"):
        Evidence(TOKEN, ((LogFormat.CEL_JSON, b"[]"),))
