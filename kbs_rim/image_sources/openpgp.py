"""OpenPGP signatures of release files, checked by gpgv with the keyring that the administrator names and no other.

What is used afterwards is the text that gpgv says was signed, never the file: a clear-signed file may have more in it. A
signature counts if gpgv calls it good (not merely valid: keys and signatures expire and are revoked), its primary key is allowed,
and its hash is not broken. One bad signature spoils all.
"""

import base64
import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kbs_rim.errors import OurFault, RefusedSource

_CLEAR_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----\n"
_ARMOUR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_TIMEOUT_S = 60
_KEYRING_BYTES = 16 * 1024 * 1024
_WEAK_HASHES = {"1": "MD5", "2": "SHA-1", "3": "RIPEMD-160"}
"""RFC 9580 9.5."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed: fingerprints in upper-case hex of the key and of the primary key it belongs to."""

    key: str
    primary: str


@dataclass(frozen=True, slots=True)
class SignedText:
    """What was signed, by whom, and which keyring said so."""

    text: bytes
    signers: tuple[Signer, ...]
    keyring_sha256: str


def verify_release(signed: bytes, keyring: Path, allowed: tuple[str, ...] = (), *, detached: bytes | None = None) -> SignedText:
    """Return the signed text of an ``InRelease`` file, or of a ``Release`` file with its ``detached`` signature.

    ``allowed`` are fingerprints of primary keys; without any, each key of the keyring will do. Raises ``RefusedSource``
    (``source.signature``), ``OurFault`` if gpgv is missing or does not work, ``OSError`` for a keyring that cannot be read.
    """
    program = shutil.which("gpgv")
    if program is None:
        raise OurFault("gpgv is needed to check the signature of a repository: install Debian's package gpgv")
    keys = _binary_keyring(keyring)
    if detached is None and not signed.startswith(_CLEAR_SIGNED):
        raise RefusedSource("source.signature", "the release file is not signed: it does not begin as a clear-signed text")
    with tempfile.TemporaryDirectory(prefix="kbs-rim-gpgv-") as name:
        folder = Path(name)
        (folder / "keyring.gpg").write_bytes(keys)
        (folder / "signed").write_bytes(signed)
        command = [program, "--homedir", name, "--status-fd", "1", "--keyring", str(folder / "keyring.gpg")]
        if detached is None:
            command += ["--output", str(folder / "text"), str(folder / "signed")]
        else:
            (folder / "signature").write_bytes(detached)
            command += [str(folder / "signature"), str(folder / "signed")]
        status = _status_of(command)
        signers = _signers(status, allowed)
        text = signed if detached is not None else _signed_text(folder / "text")
    return SignedText(text, signers, hashlib.sha256(keys).hexdigest())


def _signed_text(path: Path) -> bytes:
    if not path.is_file():
        raise RefusedSource("source.signature", "gpgv found no signed text in the release file")
    return path.read_bytes()


def _binary_keyring(path: Path) -> bytes:
    data = path.read_bytes()
    if not data or len(data) > _KEYRING_BYTES:
        raise OurFault(f"the keyring {path} is empty or too large")
    if not data.lstrip().startswith(_ARMOUR):
        return data
    # gpgv reads no armoured keyrings, which Signed-By of apt takes.
    body = data.decode("ascii", "replace").replace("\r", "").strip().split("\n\n", 1)[-1]
    lines = [line for line in body.splitlines() if not line.startswith(("=", "-----"))]
    try:
        return base64.b64decode("".join(lines), validate=True)
    except ValueError:
        raise OurFault(f"the keyring {path} is not a keyring in ASCII armour") from None


def _status_of(command: list[str]) -> list[list[str]]:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OurFault(f"gpgv could not be run: {error}") from None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return [line.split()[1:] for line in lines if line.startswith("[GNUPG:] ") and len(line.split()) > 1]


def _signers(status: list[list[str]], allowed: tuple[str, ...]) -> tuple[Signer, ...]:
    """Read gpgv's status lines (GnuPG doc/DETAILS); gpgv's exit code is 2 as soon as one key is not in the keyring."""
    signers: list[Signer] = []
    why: list[str] = []
    verdict = ""
    for word, *values in status:
        if word == "BADSIG":
            raise RefusedSource(
                "source.signature", "a signature of the release file is bad: the text was changed", seen=" ".join(values)[:200]
            )
        if word == "NEWSIG":
            verdict = ""
        elif word in ("GOODSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "ERRSIG"):
            verdict = word
            if word != "GOODSIG":
                why.append(f"{word} {values[0] if values else ''}")
        elif word == "VALIDSIG" and len(values) >= 10:
            signer = Signer(values[0], values[9])
            if verdict != "GOODSIG":
                continue
            if values[7] in _WEAK_HASHES:
                why.append(f"{signer.primary} signed with {_WEAK_HASHES[values[7]]}")
            elif allowed and signer.primary not in allowed:
                why.append(f"{signer.primary} is not allowed")
            else:
                signers.append(signer)
    if not signers:
        expected = f"one of {', '.join(allowed)}" if allowed else "a key of the keyring"
        raise RefusedSource(
            "source.signature", "no allowed key has signed the release file", expected=expected, seen="; ".join(why) or "no signature"
        )
    return tuple(signers)
