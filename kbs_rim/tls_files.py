"""Certificates, keys and authorities from files, with errors that say which file of which option is wrong, and how.

What ``ssl`` raises itself names no file ("[SSL] PEM lib"), and it asks for the passphrase of an encrypted key on the terminal.
"""

import ssl
from pathlib import Path

from kbs_rim.errors import ConfigurationError

_CERTIFICATE, _KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"
_MOST_BYTES = 4 * 1024 * 1024
"""The bundle of all public authorities has a tenth of it."""


def server_context(certificate: Path, key: Path, *, options: tuple[str, str]) -> ssl.SSLContext:
    """Return the settings of a listener; ``options`` name certificate and key in errors. Raises ``ConfigurationError``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_own_certificate(context, certificate, key, options=options)
    return context


def client_context(ca_file: Path | None, *, option: str) -> ssl.SSLContext:
    """Return settings that trust the system's authorities, or only those in ``ca_file``. Raises ``ConfigurationError``."""
    if ca_file is not None:
        _require(ca_file, _CERTIFICATE, option, "no PEM certificate (-----BEGIN CERTIFICATE-----)")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{option}: {ca_file} holds a damaged certificate: {_reason(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def load_own_certificate(context: ssl.SSLContext, certificate: Path, key: Path, *, options: tuple[str, str]) -> None:
    """Add the certificate by which we are known; raise ``ConfigurationError`` that names the option and the file at fault."""
    _require(certificate, _CERTIFICATE, options[0], "no PEM certificate (-----BEGIN CERTIFICATE-----)")
    _require(key, _KEY, options[1], "no PEM private key (-----BEGIN PRIVATE KEY-----)")

    def refuse() -> bytes:
        raise ConfigurationError(f"{options[1]}: {key} is encrypted: write it without a passphrase, for instance with `openssl pkey`")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"{options[1]}: {key} is not the key of the certificate in {certificate}") from error
        message = f"{options[0]}, {options[1]}: {certificate} or {key} is damaged: {_reason(error)}"
        raise ConfigurationError(message) from error
    except OSError as error:
        raise ConfigurationError(f"{options[0]}, {options[1]}: {certificate} or {key} cannot be read: {_reason(error)}") from error


def _require(file: Path, mark: bytes, option: str, lack: str) -> None:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{option}: {file} cannot be read: {_reason(error)}") from error
    except ValueError:
        raise ConfigurationError(f"{option}: this is not the path of a file") from None
    if mark not in data:
        raise ConfigurationError(f"{option}: {file} holds {lack}")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(getattr(error, "strerror", None) or error)
