"""Files of TLS: whatever is wrong with one, the error names option and file, says what is wrong, and nobody is asked for a passphrase."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kbs_rim.errors import ConfigurationError
from kbs_rim.tls_files import client_context, server_context

OPTIONS = ("http.guest.tls_certificate_file", "http.guest.tls_key_file")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A certificate with its key, another key, an encrypted one, and files that are something else."""
    folder = tmp_path_factory.mktemp("tls")
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")]), datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    (folder / "good.pem").write_bytes(pem)
    (folder / "damaged.pem").write_bytes(pem[:100] + pem[-60:])
    (folder / "good.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "other.key").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "locked.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    (folder / "text").write_text("nothing of the kind")
    return folder


def test_good_files_work(folder: Path) -> None:
    assert server_context(folder / "good.pem", folder / "good.key", options=OPTIONS)
    assert client_context(folder / "good.pem", option="--ca-file").cert_store_stats()["x509"] == 1
    assert client_context(None, option="--ca-file").verify_mode


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("none", "good.key", "http.guest.tls_certificate_file: FOLDER/none cannot be read: No such file or directory"),
        ("good.pem", "none", "http.guest.tls_key_file: FOLDER/none cannot be read: No such file or directory"),
        ("text", "good.key", "http.guest.tls_certificate_file: FOLDER/text holds no PEM certificate"),
        ("good.key", "good.pem", "http.guest.tls_certificate_file: FOLDER/good.key holds no PEM certificate"),
        ("good.pem", "text", "http.guest.tls_key_file: FOLDER/text holds no PEM private key"),
        ("good.pem", "other.key", "http.guest.tls_key_file: FOLDER/other.key is not the key of the certificate in FOLDER/good.pem"),
        ("good.pem", "locked.key", "http.guest.tls_key_file: FOLDER/locked.key is encrypted"),
        (
            "damaged.pem",
            "good.key",
            "http.guest.tls_certificate_file, http.guest.tls_key_file: FOLDER/damaged.pem or FOLDER/good.key is damaged",
        ),
        (".", "good.key", "http.guest.tls_certificate_file: FOLDER cannot be read: Is a directory"),
        ("\0", "good.key", "http.guest.tls_certificate_file: this is not the path of a file"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, certificate: str, key: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        server_context(folder / certificate, folder / key, options=OPTIONS)
    assert str(caught.value).startswith(message.replace("FOLDER", str(folder)))


@pytest.mark.parametrize(
    ("name", "words"), [("none", "cannot be read"), ("text", "no PEM certificate"), ("damaged.pem", "damaged certificate")]
)
def test_authorities_are_named_as_well(folder: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_context(folder / name, option="--ca-file")
    assert str(caught.value).startswith(f"--ca-file: {folder / name} ")
    assert words in str(caught.value)
