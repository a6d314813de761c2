"""What reading a source may cost: name, unit, default, reason. Limits of the administrator's machine, not of a broker."""

from dataclasses import dataclass

from kbs_rim.limits import KIB, MIB, check_limits, limit

GIB = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLimits:
    """All limits of one run. ``SourceLimits()`` gives the defaults. Raises ``ValueError`` for one that is not positive."""

    unpacked_bytes: int = limit(16 * GIB, "bytes", "one archive, unpacked; a desktop's container image has less than 8 GiB")
    files: int = limit(500_000, "files", "one archive or folder; a Linux source tree has 90,000")
    name_bytes: int = limit(4 * KIB, "bytes", "PATH_MAX of Linux")
    names_bytes: int = limit(128 * MIB, "bytes", "all names and targets of links of one source; a Linux source tree has 4 MiB")
    extended_header_bytes: int = limit(1 * MIB, "bytes", "pax records of one file; extended attributes are below 64 KiB")
    decompressor_bytes: int = limit(160 * MIB, "bytes", "memory for one stream: xz -9 needs 65 MiB, zstd --long=27 needs 128 MiB")
    control_bytes: int = limit(4 * MIB, "bytes", "the control file of a package, or the part of it that we read")
    release_bytes: int = limit(16 * MIB, "bytes", "a release file; Debian's have 150 KiB")
    index_bytes: int = limit(512 * MIB, "bytes", "a package index, unpacked; Debian's main has 50 MiB")
    package_bytes: int = limit(4 * GIB, "bytes", "one package; the largest with a kernel or an installer has 128 MiB")
    document_bytes: int = limit(4 * MIB, "bytes", "a manifest or configuration in JSON or TOML")
    layers: int = limit(256, "layers", "of one container image; builders stop at 127")
    documents: int = limit(64, "manifests", "of one container layout, with the indexes around them")
    images: int = limit(200, "images", "found in one source; a kernel package has one, an installer about six")
    device_trees: int = limit(2000, "files", "kernel packages bring 1000 of them for boards")

    def __post_init__(self) -> None:
        check_limits(self)


DEFAULT_SOURCE_LIMITS = SourceLimits()
