"""What the guest accepts and what it refuses, without a network."""

import json
import os

import pytest

from kbs_rim.evidence import base64url
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, parse_evidence
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.realm.failures import BrokerNotTrusted
from kbs_rim.realm.guest import Exchange, KeyType, new_key, read_refusal
from kbs_rim.realm.secret_file import write_secret
from kbs_rim.sealing.guest_key import commitment, guest_key_of, parse_guest_key
from kbs_rim.sealing.jwe import seal

URL = "https://broker.example:8443/base"


@pytest.fixture(scope="module", params=list(KeyType))
def private_key(request):
    return new_key(request.param)


@pytest.fixture
def exchange(private_key):
    return Exchange(URL, "disk-key", private_key)


def offer_for(key, **changes):
    salt = os.urandom(32)
    members = {
        "challenge": base64url.encode(commitment(salt, key.thumbprint)),
        "salt": base64url.encode(salt),
        "accept": [EVIDENCE_JSON_TYPE],
    }
    return json.dumps({name: value for name, value in (members | changes).items() if value is not None}).encode()


def test_the_request_names_the_secret_and_carries_only_the_public_key(exchange, private_key):
    assert exchange.request_url == f"{URL}/keys/v1/key/disk-key"
    document = json.loads(exchange.key_request())
    assert set(document) == {"pubkey"}
    assert not {"d", "p", "q"} & set(document["pubkey"])
    assert parse_guest_key(document["pubkey"]).thumbprint == guest_key_of(private_key.public_key()).thumbprint


def test_an_offer_that_commits_to_our_key_is_taken(exchange, private_key):
    body = offer_for(guest_key_of(private_key.public_key()))
    offer = exchange.read_offer(f"{URL}/keys/v1/evidence/1", body)
    assert offer.challenge == base64url.decode(json.loads(body)["challenge"])
    assert offer.location == f"{URL}/keys/v1/evidence/1"


def test_a_challenge_for_another_key_is_refused(exchange):
    """Attack: key swapped by a man in the middle."""
    other = guest_key_of(new_key(KeyType.P256).public_key())
    with pytest.raises(BrokerNotTrusted, match="does not commit to our key") as refused:
        exchange.read_offer(f"{URL}/x", offer_for(other))
    assert refused.value.code == "guest.challenge-not-ours"


@pytest.mark.parametrize("member", ["challenge", "salt"])
@pytest.mark.parametrize("value", [None, 5, "", "AAAA", "A" * 86, "!!!", "A" * 43])
def test_an_offer_without_challenge_or_salt_is_refused(private_key, member, value):
    exchange = Exchange(URL, "k", private_key)
    with pytest.raises(BrokerNotTrusted):
        exchange.read_offer(f"{URL}/x", offer_for(guest_key_of(private_key.public_key()), **{member: value}))


@pytest.mark.parametrize("accept", [None, [], ["application/eat-collection"], "application/vnd.kbs-rim.evidence+json"])
def test_a_broker_that_does_not_read_our_envelope_is_refused(exchange, private_key, accept):
    with pytest.raises(BrokerNotTrusted) as refused:
        exchange.read_offer(f"{URL}/x", offer_for(guest_key_of(private_key.public_key()), accept=accept))
    assert refused.value.code == "guest.accept"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://broker.example:8443/keys/v1/evidence/1", "https://broker.example:8443/keys/v1/evidence/1"),
        ("https://BROKER.example:8443/e", "https://BROKER.example:8443/e"),
        ("/keys/v1/evidence/1", "https://broker.example:8443/keys/v1/evidence/1"),
        ("../evidence/1", "https://broker.example:8443/base/keys/v1/evidence/1"),
    ],
)
def test_absolute_and_relative_locations(exchange, private_key, location, target):
    assert exchange.read_offer(location, offer_for(guest_key_of(private_key.public_key()))).location == target


@pytest.mark.parametrize(
    "location",
    [
        None, "", "https://evil.example/e", "http://broker.example:8443/e", "https://broker.example/e", "//evil.example:8443/e",
        "https://broker.example:8443@evil.example/e", "ftp://broker.example:8443/e", "https://broker.example:99999/e", "https://[bad/e",
    ],
)  # fmt: skip
def test_other_origins_are_refused(exchange, private_key, location):
    with pytest.raises(BrokerNotTrusted) as refused:
        exchange.read_offer(location, offer_for(guest_key_of(private_key.public_key())))
    assert refused.value.code == "guest.location"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"challenge": 1, "challenge": 2}', b"\xff", b"{}" + b" " * 200_000])
def test_broken_answers_are_refused(exchange, body):
    with pytest.raises(BrokerNotTrusted):
        exchange.read_offer(f"{URL}/x", body)
    with pytest.raises(BrokerNotTrusted):
        exchange.read_secret(body)


def test_evidence_goes_out_in_the_envelope_that_the_broker_reads(exchange):
    evidence = Evidence(b"\xd9\x03\x8b\xa0", ((LogKind.VMM, b"log"),))
    assert parse_evidence(*exchange.evidence_body(evidence)) == evidence


def test_the_sealed_secret_is_opened(exchange, private_key):
    sealed = seal(guest_key_of(private_key.public_key()), b"the disk key\n\x00")
    secret = exchange.read_secret(json.dumps({"data": sealed.value, "ticket": "abc-1"}).encode())
    assert secret.value == b"the disk key\n\x00"
    assert secret.ticket == "abc-1"
    assert "disk" not in repr(secret)


def test_a_secret_sealed_to_somebody_else_is_refused(exchange):
    sealed = seal(guest_key_of(new_key(KeyType.P256).public_key()), b"secret")
    with pytest.raises(BrokerNotTrusted) as refused:
        exchange.read_secret(json.dumps({"data": sealed.value}).encode())
    assert refused.value.code == "guest.answer"


def test_refusals_show_code_and_ticket():
    error = read_refusal(403, json.dumps({"code": "measurement-refused", "ticket": "t-17", "detail": "x"}).encode())
    assert (error.code, error.ticket) == ("measurement-refused", "t-17")
    assert "t-17" in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"code": "\\u001b[31m", "ticket": "a\\nb"}', b'{"code": 5, "ticket": []}'])
def test_nothing_strange_of_a_refusal_reaches_the_terminal(body):
    error = read_refusal(403, body)
    assert (error.code, error.ticket) == ("http-403", None)


@pytest.mark.parametrize("url", ["broker", "ftp://x", "https://", "https://user:pw@host", "https://host/?q=1", "https://host/#f"])
def test_broker_urls_that_make_no_sense(url, private_key):
    with pytest.raises(ValueError, match="URL"):
        Exchange(url, "k", private_key)


@pytest.mark.parametrize("name", ["", "/", "a//b", "../x", "a/b/c/d", "a b", "a?b", "é"])
def test_names_that_no_secret_has(name, private_key):
    with pytest.raises(ValueError, match="secret"):
        Exchange(URL, name, private_key)


def test_secrets_are_written_for_the_owner_only_and_never_over_a_file(tmp_path):
    path = tmp_path / "key"
    write_secret(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_secret(path, b"two")
    assert path.read_bytes() == b"one"
    write_secret(path, b"three", replace=True)
    assert path.read_bytes() == b"three"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_secret_does_not_follow_a_link(tmp_path):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_secret(tmp_path / "key", b"secret")
    assert not (tmp_path / "elsewhere").exists()
