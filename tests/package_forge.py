"""Packages, signed repositories and container layouts as others make them, and as attackers do; for tests of image sources."""

import gzip
import hashlib
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKERS = {"": bytes, "gz": partial(gzip.compress, mtime=0), "xz": lzma.compress, "zst": zstd.compress}
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def arm64_kernel(size: int = 10_000, seed: bytes = b"kernel") -> bytes:
    """An arm64 Linux Image without a PE header, of pseudo-random content."""
    body = bytearray((hashlib.sha512(seed).digest() * (size // 64 + 1))[:size])
    body[:64] = bytes(8) + (0).to_bytes(8, "little") + size.to_bytes(8, "little") + bytes(32) + b"ARMd" + bytes(4)
    return bytes(body)


def initrd(seed: bytes = b"initrd") -> bytes:
    """A gzip'd cpio, as far as anybody looks."""
    return gzip.compress(b"070701" + hashlib.sha256(seed).hexdigest().encode() * 100, mtime=0)


def tar_bytes(entries: Iterable[tuple[str, bytes | str]], *, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of (name, content), written by Python's tarfile; content that is text is where a symbolic link leads; ``=`` a hard link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type = tarfile.LNKTYPE if content.startswith("=") else tarfile.SYMTYPE
                info.linkname = content.removeprefix("=")
                tar.addfile(info)
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def ar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """An ar archive as dpkg-deb writes it."""
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
    return out


@dataclass(frozen=True)
class Package:
    """A package of a repository."""

    name: str
    version: str = "1.0-1"
    files: tuple[tuple[str, bytes | str], ...] = ()
    architecture: str = "arm64"
    depends: str = ""
    packing: str = "xz"

    @property
    def control(self) -> str:
        depends = f"Depends: {self.depends}\n" if self.depends else ""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: {self.architecture}\n{depends}Description: a test\n more of it\n"
        )

    @property
    def deb(self) -> bytes:
        pack = PACKERS[self.packing]
        suffix = f".{self.packing}" if self.packing else ""
        return ar_bytes(
            (
                ("debian-binary", b"2.0\n"),
                (f"control.tar{suffix}", pack(tar_bytes([("./", b""), ("./control", self.control.encode())]))),
                (f"data.tar{suffix}", pack(tar_bytes([("./", b""), *self.files]))),
            )
        )

    @property
    def filename(self) -> str:
        return f"pool/main/{self.name[0]}/{self.name}/{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"

    @property
    def stanza(self) -> str:
        deb = self.deb
        lines = [*self.control.splitlines()]
        lines[3:3] = [f"Filename: {self.filename}", f"Size: {len(deb)}", f"SHA256: {hashlib.sha256(deb).hexdigest()}"]
        return "\n".join(lines) + "\n"


class Signer:
    """A key in a GnuPG home of its own. Call ``close`` when done with it."""

    def __init__(self, user: str, *, expired: bool = False) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="kbs-rim-gpg-"))  # the agent's socket needs a short path
        self._clock = ("--faked-system-time", "20200101T000000!") if expired else ()
        made = (*self._clock, "--passphrase", "", "--quick-gen-key", f"{user} <{user}@example.org>", "ed25519", "sign")
        self._gpg(*made, "1d" if expired else "never")
        listed = self._gpg("--with-colons", "--list-keys").decode()
        self.fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def keyring(self, path: Path, *others: "Signer", armour: bool = False) -> Path:
        """Write a keyring with this key and those of others."""
        keys = b"".join(signer._gpg(*(("--armor",) if armour else ()), "--export") for signer in (self, *others))
        path.write_bytes(keys)
        return path

    def clear_sign(self, text: str, *options: str) -> bytes:
        """Return a clear-signed text, as InRelease is."""
        return self._gpg(*self._clock, *options, "--clear-sign", data=text.encode())

    def detached(self, text: str) -> bytes:
        """Return a detached signature, as Release.gpg is."""
        return self._gpg(*self._clock, "--armor", "--detach-sign", data=text.encode())

    def close(self) -> None:
        """End the agent, and remove the home."""
        subprocess.run(["gpgconf", "--homedir", str(self._home), "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(self._home, ignore_errors=True)

    def _gpg(self, *arguments: str, data: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self._home), "--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@dataclass
class Repository:
    """A repository on disk. Change the fields or the files, and ``publish`` again."""

    folder: Path
    signer: Signer
    packages: list[Package] = field(default_factory=list)
    fields: dict[str, str] = field(
        default_factory=lambda: {
            "Origin": "Debian",
            "Label": "Debian",
            "Suite": "oldstable",
            "Codename": "bookworm",
            "Date": format_datetime(NOW - timedelta(hours=3), usegmt=True),
            "Acquire-By-Hash": "yes",
            "Architectures": "all amd64 arm64",
            "Components": "main contrib",
        }
    )

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"

    @property
    def suite(self) -> Path:
        return self.folder / "dists" / "bookworm"

    def index(self) -> bytes:
        return "\n".join(package.stanza for package in self.packages).encode()

    def release(self, files: Mapping[str, bytes]) -> str:
        lines = [f"{name}: {value}" for name, value in self.fields.items()]
        lines.append("SHA256:")
        lines += [f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}" for name, data in files.items()]
        return "\n".join(lines) + "\n"

    def publish(self, *, in_release: bool = True, plain_listed: bool = True) -> str:
        """Write packages, index, and the signed release file; return its text."""
        for package in self.packages:
            path = self.folder / package.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(package.deb)
        index, packed = self.index(), lzma.compress(self.index())
        files = {"main/binary-arm64/Packages.xz": packed} | ({"main/binary-arm64/Packages": index} if plain_listed else {})
        by_hash = self.suite / "main" / "binary-arm64" / "by-hash" / "SHA256"
        by_hash.mkdir(parents=True, exist_ok=True)
        (by_hash / hashlib.sha256(packed).hexdigest()).write_bytes(packed)
        (self.suite / "main" / "binary-arm64" / "Packages.xz").write_bytes(packed)
        text = self.release(files)
        for name in ("InRelease", "Release", "Release.gpg"):
            (self.suite / name).unlink(missing_ok=True)
        if in_release:
            (self.suite / "InRelease").write_bytes(self.signer.clear_sign(text))
        else:
            (self.suite / "Release").write_text(text)
            (self.suite / "Release.gpg").write_bytes(self.signer.detached(text))
        return text


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Layout:
    """An OCI image layout on disk with one image of some layers."""

    folder: Path
    layers: list[bytes]
    packing: str = "gz"
    architecture: str = "arm64"
    reference: str | None = "os"
    media: str = "application/vnd.oci.image.layer.v1.tar"

    def blob(self, data: bytes) -> str:
        digest = sha256_of(data)
        path = self.folder / "blobs" / "sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"sha256:{digest}"

    def write(self, *, nested: bool = False) -> str:
        """Write it and return the manifest's digest."""
        suffix = {"": "", "gz": "+gzip", "zst": "+zstd"}[self.packing]
        packed = [PACKERS[self.packing](layer) for layer in self.layers]
        layers = [{"mediaType": self.media + suffix, "digest": self.blob(data), "size": len(data)} for data in packed]
        config = json.dumps(
            {
                "architecture": self.architecture,
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256_of(layer)}" for layer in self.layers]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.blob(config), "size": len(config)},
                "layers": layers,
            }
        ).encode()
        entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.blob(manifest), "size": len(manifest)}
        if nested:
            platforms = [{**entry, "platform": {"architecture": self.architecture, "os": "linux"}}]
            platforms.append({**entry, "digest": self.blob(b"{}"), "size": 2, "platform": {"architecture": "s390x", "os": "linux"}})
            index = json.dumps({"schemaVersion": 2, "manifests": platforms}).encode()
            entry = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": self.blob(index), "size": len(index)}
        if self.reference:
            entry["annotations"] = {"org.opencontainers.image.ref.name": self.reference}
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return f"sha256:{sha256_of(manifest)}"
