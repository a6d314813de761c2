"""Every limit: name, unit, default, reason.

A hostile log or token must not cost the service more than a bounded amount of work. The numbers stand here and nowhere
else; each may be overridden in the ``[limits]`` table of the configuration.
"""

from dataclasses import dataclass, field, fields
from typing import Any

KIB = 1024
MIB = 1024 * KIB
GRANULE_SIZE = 4 * KIB
"""RMM granule in bytes (RMM 1.0, A2.2). Not a limit, but every limit below counts in it."""


def limit(default: int, unit: str, reason: str) -> Any:
    """Make the field of a limit, with what ``make limits`` writes beside its default."""
    return field(default=default, metadata={"unit": unit, "reason": reason})


def check_limits(table: Any) -> None:
    """Raise ``ValueError`` for a limit that is no positive number; ``table`` is a dataclass whose fields ``limit`` made."""
    for item in fields(table):
        value = getattr(table, item.name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
            raise ValueError(f"limit {item.name} must be a positive number of {item.metadata['unit']} below 2**63")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """All limits of one process. ``Limits()`` gives the defaults."""

    body_bytes: int = limit(2 * MIB, "bytes", "token, three logs and base64 overhead fit; a larger body is an attack")
    receiving_bytes: int = limit(64 * MIB, "bytes", "bodies of guests that are still arriving, all together; 700 usual ones")
    admin_body_bytes: int = limit(64 * MIB, "bytes", "granule digests of a 256 MiB image, all algorithms and layouts, in base64")
    key_request_bytes: int = limit(16 * KIB, "bytes", "a JWK of RSA 8192 is 1.4 KiB")
    json_depth: int = limit(16, "levels", "a JWK inside a request needs 3; the deepest document needs fewer than 10")
    json_items: int = limit(4096, "items", "containers, strings and separators of one request; a key request has about 30")
    media_type_bytes: int = limit(256, "bytes", "the longest media type we name has 70")
    part_header_bytes: int = limit(2 * KIB, "bytes", "header of one part of a multipart envelope; two short lines are enough")
    unproven_payload_bytes: int = limit(
        32 * KIB, "bytes", "kept of evidence that is not genuine: a token, an EAR and a usual log; its digests are always kept"
    )
    secret_bytes: int = limit(64 * KIB, "bytes", "a disk key, a certificate chain with its key; larger things belong on an encrypted disk")
    token_bytes: int = limit(16 * KIB, "bytes", "TF-RMM hands out 4 KiB; room for a longer platform token")
    realm_token_bytes: int = limit(4 * KIB, "bytes", "TF-RMM's realm token buffer is 1 KiB")
    cbor_depth: int = limit(8, "levels", "a CCA token needs 4")
    cbor_items: int = limit(1000, "items", "the largest public token has about 120")
    log_bytes: int = limit(1 * MIB, "bytes", "td-shim's area is 1 MiB, the largest seen")
    vmm_log_bytes: int = limit(64 * KIB, "bytes", "size of the log area that QEMU and kvmtool reserve")
    log_events: int = limit(8192, "events", "the longest real log seen has 120")
    log_algorithms: int = limit(8, "algorithms", "TCG defines fewer hash algorithms in use")
    event_bytes: int = limit(1 * MIB, "bytes", "ceiling recommended by the PC Client profile")
    log_items: int = limit(256 * KIB, "items", "a canonical event log of 1 MiB has 4500 records of 50 tokens each in JSON")
    log_changes: int = limit(1000, "events", "a comparison of two boots goes no further; their memory and time grow with its square")
    runtime_events: int = limit(8192, "events", "all logs of one appraisal that explain REMs; a boot has 100, IMA a few thousand")
    runtime_text_bytes: int = limit(64 * KIB, "bytes", "text of boot loaders that is matched with patterns; a long menu has 10 KiB")
    runtime_findings: int = limit(100, "findings", "events that one appraisal refuses one by one; the rest are counted")
    ima_name_bytes: int = limit(255, "bytes", "IMA's longest built-in template format has 67")
    device_path_nodes: int = limit(64, "nodes", "real boot entries have fewer than 10")
    image_records: int = limit(16, "records", "no VMM loads more than five images")
    ripas_records: int = limit(64, "records", "one is normal")
    ripas_entries: int = limit(65536, "entries", "128 GiB of RAM in 2 MiB entries")
    unmeasured_bytes: int = limit(64 * KIB, "bytes", "only the log area may be unmeasured")
    plan_granules: int = limit(1 * MIB, "granules", "4 GiB of measured images; a large live initrd has 1 GiB")
    recs: int = limit(512, "records", "one REC record per vCPU at most")
    cpus: int = limit(512, "CPUs", "KVM's arm64 limit")
    rim_cache_entries: int = limit(4096, "RIMs", "one for each boot configuration of a fleet; an entry is below 1 KiB")
    granule_cache_bytes: int = limit(64 * MIB, "bytes", "SHA-256 digests, both layouts, of 4 GiB of images that boot often")
    replay_dialects: int = limit(24, "dialects", "RMM versions x roundings x orders that one appraisal may try")
    replay_granules: int = limit(4 * MIB, "granules", "all dialects of one appraisal together, about 10 s; usual images take 0.1 s each")
    unproven_granules: int = limit(512 * KIB, "granules", "the same, for a token that no verifier vouches for: anybody can send one")
    definition_candidates: int = limit(4096, "candidates", "VMs that a workload's definition may describe; a tree and a replay each")
    failed_searches: int = limit(16, "searches", "in vain, by realms of one machine within 10 minutes; each may cost replay_granules")
    tree_guesses: int = limit(16, "trees", "made anew for a log that names one and does not hold it; a large one costs 50 ms")
    device_tree_bytes: int = limit(2 * MIB, "bytes", "stock QEMU loads a 1 MiB tree")
    device_tree_nodes: int = limit(8192, "nodes", "QEMU with 512 CPUs stays below 3000")
    device_tree_ranges: int = limit(512, "ranges", "of RAM, and as many of reserved memory; NUMA machines have tens")
    device_tree_depth: int = limit(16, "levels", "QEMU's deepest node is at 6")
    image_bytes: int = limit(2048 * MIB, "bytes", "largest image an administrator may register")
    gunzip_bytes: int = limit(512 * MIB, "bytes", "a gzip'd kernel unpacks to less than 100 MiB")
    pe_header_bytes: int = limit(128 * KIB, "bytes", "headers and section table of a PE file; real ones end below 4 KiB")
    pe_sections: int = limit(1024, "sections", "a UKI of 32 profiles has fewer than 500; real files have about 15")
    pe_zero_fill_bytes: int = limit(16 * MIB, "bytes", "sections of a UKI that are larger in memory than in the file; ukify makes none")
    uki_profiles: int = limit(32, "profiles", "the initrd is hashed for each; real ones have fewer than 5")
    pe_held_bytes: int = limit(256 * MIB, "bytes", "parts of a PE file that are hashed in another order: an initrd in front of microcode")
    uki_text_bytes: int = limit(8 * KIB, "bytes", "a kernel takes 2 KiB of command line, an os-release file has 0.5 KiB")
    operations_file_bytes: int = limit(16 * MIB, "bytes", "60 cases of 24 operations have 90 KiB")
    operations: int = limit(100_000, "operations", "all cases of one file together; a page made from its seed costs 0.3 ms")
    attestation_result_bytes: int = limit(64 * KIB, "bytes", "an EAR is 8 KiB; some verifiers echo the evidence inside")
    endorsement_bytes: int = limit(1 * MIB, "bytes", "a CoRIM of hundreds of platforms; cocli's samples have 1 KiB")
    image_corim_bytes: int = limit(64 * MIB, "bytes", "a CoRIM with the granule digests of 512 MiB of images, all algorithms and layouts")
    verifier_response_bytes: int = limit(256 * KIB, "bytes", "evidence echo of a 16 KiB token and an EAR of 8 KiB")

    def __post_init__(self) -> None:
        check_limits(self)


DEFAULT_LIMITS = Limits()
