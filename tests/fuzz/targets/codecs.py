"""Codecs and envelopes: base64url, JSON, CBOR, media types, multipart, and the evidence around a token."""

import base64
import json
import re
from collections.abc import Iterable
from hashlib import sha256

import cbor2

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import base64url, strict_cbor, strict_json
from kbs_rim.evidence.envelope import (
    ACCEPTED_MEDIA_TYPES,
    CMW_CBOR_TYPE,
    CMW_JSON_TYPE,
    EVIDENCE_JSON_TYPE,
    Evidence,
    encode_evidence_cmw_cbor,
    encode_evidence_cmw_json,
    encode_evidence_json,
    encode_evidence_multipart,
    parse_evidence,
)
from kbs_rim.evidence.media_type import MediaType, parse_media_type
from kbs_rim.evidence.multipart import parse_multipart
from kbs_rim.evidence.strict_cbor import CborValue, Tagged
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.limits import DEFAULT_LIMITS
from tests.fuzz.examination import Target, require
from tests.fuzz.vectors import files

JSON_WORDS = (b"{", b"}", b"[", b"]", b",", b":", b'""', b"null", b"true", b"1e999", b"-0", b"NaN", b"\\ud800", b"\\u0000", b"\\n")
_TAGS = frozenset({1, 18, 32, 37, 501, 506, 550, 554, 560})
_BOUNDARY = "b"
_PARTS = 4


# --- base64url, JSON --------------------------------------------------------------------------------------------------


def check_base64url(data: bytes) -> object:
    """One spelling for each byte string, and it is the standard library's."""
    decoded = base64url.decode(data)
    require(base64url.encode(decoded).encode("ascii") == data, "base64url has one spelling")
    require(base64url.decode(data.decode("ascii")) == decoded, "text and bytes are read alike")
    require(base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4)) == decoded, "base64url is what the standard library says")
    return decoded


def base64url_seeds() -> Iterable[bytes]:
    """Every length modulo 3, the last characters of the alphabet, bad ends."""
    yield from (base64url.encode(bytes(range(255, 255 - length, -1))).encode() for length in range(1, 40))
    yield from (b"AB==", b"AB", b"AA\n", b"-_-_", b"+/+/")


def check_strict_json(data: bytes) -> object:
    """What we accept the standard library reads in the same way, and our own writing is read back."""
    value = strict_json.decode(data, allow_floats=True)
    seen = repr(value)
    require(repr(json.loads(data.decode("utf-8"))) == seen, "JSON means what the standard library reads")
    require(repr(strict_json.decode(strict_json.encode(value), allow_floats=True)) == seen, "encode undoes decode")
    try:
        plain = strict_json.decode(data)
    except MalformedEvidence:
        require(re.search(rb"[0-9][.eE]", data) is not None, "only floats need allow_floats")
    else:
        require(repr(plain) == seen, "allow_floats changes nothing but floats")
    return seen


def json_seeds() -> Iterable[bytes]:
    """Documents of every kind that we read."""
    yield from files("corim/*/*.json", "tokens/expected/*.json", most=6000)
    yield from (b'{"a":[1,-0,1.5,1e3,true,null,"\\u00e9\\ud83d\\ude00"]}', b'{"a":1,"a":2}', b'"\\ud800"', b"[" * 17 + b"]" * 17)


# --- CBOR -------------------------------------------------------------------------------------------------------------


def check_strict_cbor(data: bytes) -> object:
    """Every set of options agrees, our encoding is read back, and cbor2 sees the same value in what we accept."""
    lenient = strict_cbor.decode(data, allow_text_keys=True, allow_floats=True, allowed_tags=_TAGS, outer_tag=True)
    seen = repr(lenient)
    written = strict_cbor.encode(lenient)
    again = strict_cbor.decode(written, allow_text_keys=True, allow_floats=True, allowed_tags=_TAGS, outer_tag=True, preferred=True)
    require(_sorted(again) == _sorted(lenient), "decode undoes encode")
    require(strict_cbor.encode(again) == written, "the encoding is deterministic")
    tag = strict_cbor.leading_tag(data)
    require(tag == (lenient.number if isinstance(lenient, Tagged) else None), "the leading tag is the item's tag")
    try:
        strict = strict_cbor.decode(data)
    except MalformedEvidence:
        return seen
    require(repr(strict) == seen, "options that are not needed change nothing")
    require(_plain(cbor2.loads(data)) == _plain(strict), "cbor2 reads the same value")
    return seen


def _sorted(value: CborValue) -> str:
    """A form in which the order of map keys does not matter, and NaN equals NaN."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_sorted(item)}" for key, item in value.items())) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(map(_sorted, value)) + "]"
    return f"{value.number}({_sorted(value.value)})" if isinstance(value, Tagged) else repr(value)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def cbor_seeds() -> Iterable[bytes]:
    """Tokens, claims and CoRIMs, and the corners of RFC 8949."""
    yield from files("tokens/claims/*.cbor", "tokens/valid/*.cbor", "corim/services-head/*.cbor")
    corners = "f97e00 fb7ff0000000000000 1bffffffffffffffff 3bffffffffffffffff a201020103 9f01ff d82061 f818 c24100"
    yield from map(bytes.fromhex, corners.split())


# --- media types, multipart, envelopes --------------------------------------------------------------------------------


def check_media_type(data: bytes) -> object:
    """Written anew with every value quoted, a media type is the same."""
    given = parse_media_type(data.decode("utf-8", "surrogateescape"))
    quoted = "".join(f"; {name}=" + '"' + re.sub(r'(["\\])', r"\\\1", value) + '"' for name, value in given.parameters.items())
    if len(given.name + quoted) <= DEFAULT_LIMITS.media_type_bytes:
        require(parse_media_type(given.name + quoted) == MediaType(given.name, given.parameters), "quoting changes nothing")
    return given.name, sorted(given.parameters.items())


def media_type_seeds() -> Iterable[bytes]:
    """The types that we read, and those of old clients."""
    yield from (text.encode() for text in ACCEPTED_MEDIA_TYPES)
    yield from (b"application/eat-collection; profile=http://arm.com/CCA-SSD/1.0.0", b'a/b;c="\\"\\\\";d=e', b'a/b ;\tc=""')


def check_multipart(data: bytes) -> object:
    """Parts written anew are read back."""
    parts = parse_multipart(data, _BOUNDARY, max_parts=_PARTS)
    require(1 <= len(parts) <= _PARTS, "there are between one and four parts")
    anew = b"".join(b"--b\r\nContent-Type: " + part.content_type.encode() + b"\r\n\r\n" + part.body + b"\r\n" for part in parts)
    require(parse_multipart(anew + b"--b--", _BOUNDARY, max_parts=_PARTS) == parts, "parts written anew are read back")
    return parts


def multipart_seeds() -> Iterable[bytes]:
    """One to five parts, every header field, and what is around them."""
    for count in range(1, 6):
        yield b"".join(b"--b\r\nContent-Type: a/b\r\n\r\nbody %d\r\n" % number for number in range(count)) + b"--b--\r\n"
    yield b"--b\r\ncontent-type: a/b \r\nContent-Length: 2\r\nContent-Transfer-Encoding: BINARY\r\nContent-ID: <1>\r\n\r\n\r\n\r\n--b--"
    yield b"--b\r\nContent-Type: a/b\r\n\r\n--b--\r\n--b--"


_MEDIA_TYPES = (
    *ACCEPTED_MEDIA_TYPES,
    "multipart/mixed; boundary=b",
    'multipart/related; boundary="b"; type="application/cbor"',
    'application/cmw+cbor; cmwc_t="tag:example.com,2026:x"',
    'application/cmw+json; cmwc_t="tag:example.com,2026:x"',
    "application/vnd.veraison.cmw+cbor",
    "application/vnd.veraison.cmw+json",
)


def check_envelope(data: bytes) -> object:
    """The first byte chooses the media type; 255: the first line is one. Evidence survives each of our four envelopes."""
    choice, body = data[:1] or b"\0", data[1:]
    if choice == b"\xff":
        line, _, body = body.partition(b"\n")
        media_type = line.decode("utf-8", "surrogateescape")
    else:
        media_type = _MEDIA_TYPES[choice[0] % len(_MEDIA_TYPES)]
    evidence = parse_evidence(media_type, body)
    boundary = sha256(evidence.token + b"".join(log for _, log in evidence.logs)).hexdigest()
    written = (
        (EVIDENCE_JSON_TYPE, encode_evidence_json(evidence)),
        (CMW_CBOR_TYPE, encode_evidence_cmw_cbor(evidence)),
        (CMW_JSON_TYPE, encode_evidence_cmw_json(evidence)),
        (f"multipart/mixed; boundary={boundary}", encode_evidence_multipart(evidence, boundary)),
    )
    for type_, envelope in written:
        require(parse_evidence(type_, envelope) == evidence, f"evidence survives {type_.partition(';')[0]}")
    return evidence.token, evidence.logs


def envelope_seeds() -> Iterable[bytes]:
    """A token and its logs in each envelope."""
    token, log = files("tokens/valid/v02*.cbor")[0], files("logs/cca/realm-bootlog.bin")[0]
    small = Evidence(b"\xd9\x01\x8f\xa0", ((LogKind.VMM, b"v"), (LogKind.TPM, b"t"), (LogKind.CC, b"c")))
    for evidence in (Evidence(token), Evidence(token, ((LogKind.VMM, log),)), small):
        bodies = {
            EVIDENCE_JSON_TYPE: encode_evidence_json(evidence),
            CMW_CBOR_TYPE: encode_evidence_cmw_cbor(evidence),
            CMW_JSON_TYPE: encode_evidence_cmw_json(evidence),
            "multipart/mixed; boundary=b": encode_evidence_multipart(evidence, "bQ").replace(b"--bQ", b"--b"),
        }
        for number, type_ in enumerate(_MEDIA_TYPES):
            name = type_.partition(";")[0].replace("vnd.veraison.", "")
            body = bodies.get(type_) or next((body for known, body in bodies.items() if known.partition(";")[0] == name), evidence.token)
            yield bytes([number]) + body
    yield b"\0" + base64url.encode(token).encode()
    yield b"\xffapplication/cbor\n" + token


_ENVELOPE_WORDS = (
    b"--b\r\n",
    b"\r\n--b--",
    b"Content-Type: ",
    b"application/vnd.kbs-rim.log; kind=vmm",
    b"__cmwc_t",
    b'"logs"',
    b'"token"',
    *JSON_WORDS[:8],
)
TARGETS = (
    Target(name="base64url", check=check_base64url, seeds=base64url_seeds, max_bytes=512),
    Target(name="strict_json", check=check_strict_json, seeds=json_seeds, words=JSON_WORDS, max_bytes=8192),
    Target(name="strict_cbor", check=check_strict_cbor, seeds=cbor_seeds),
    Target(name="media_type", check=check_media_type, seeds=media_type_seeds, words=(b"; ", b'="', b'\\"'), max_bytes=300),
    Target(name="multipart", check=check_multipart, seeds=multipart_seeds, words=_ENVELOPE_WORDS[:3], max_bytes=8192),
    Target(name="envelope", check=check_envelope, seeds=envelope_seeds, words=_ENVELOPE_WORDS, max_bytes=8192),
)
