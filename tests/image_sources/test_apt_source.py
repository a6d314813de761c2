"""From the keyring to the file in a package: a repository that the tests sign, and each way to attack it."""

import gzip
import lzma
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime

import pytest

from kbs_rim.errors import OurFault, RefusedSource
from kbs_rim.image_sources.apt_source import AptRepository, AptSource
from kbs_rim.image_sources.collecting import Collector
from kbs_rim.image_sources.requests import ImageRequest, RequestKind
from kbs_rim.image_sources.sources_file import Sources
from tests.package_forge import NOW, Package, Repository, Signer, arm64_kernel, sha256_of


def source_of(repository: Repository, **changed: object) -> AptSource:
    usual = AptSource(
        name="debian",
        uri=repository.uri,
        suite="bookworm",
        keyring=repository.folder.parent / "archive.gpg",
        signed_by=(repository.signer.fingerprint,),
        origin="Debian",
    )
    return replace(usual, **changed)


def reader(repository: Repository, *, newest_seen=None, now=NOW, **changed: object) -> AptRepository:
    return AptRepository(source_of(repository, **changed), now=now, newest_seen=newest_seen)


def take(repository: Repository, package: str = "linux-image-1", **changed: object):
    collector = Collector(Sources((source_of(repository, **changed),)), NOW)
    return collector.collect(ImageRequest(kind=RequestKind.APT, value=package))


def refusal(repository: Repository, **changed: object) -> str:
    with pytest.raises(RefusedSource) as caught:
        take(repository, **changed)
    return caught.value.finding_id


def test_every_link_of_the_chain_is_recorded(repository):
    [image] = take(repository)
    package = repository.packages[0]
    words = image.provenance
    assert image.found.measurements.image_id == f"sha256:{sha256_of(arm64_kernel())}"
    assert image.name == "linux-image-1 6.1-1 /boot/vmlinuz-1"
    assert (words["package"], words["package-version"], words["package-architecture"]) == ("linux-image-1", "6.1-1", "arm64")
    assert (words["package-sha256"], words["package-file"]) == (sha256_of(package.deb), package.filename)
    assert words["release-sha256"] == sha256_of((repository.suite / "InRelease").read_bytes())
    assert words["index-sha256"] == sha256_of((repository.suite / "main/binary-arm64/Packages.xz").read_bytes())
    assert words["keyring-sha256"] == sha256_of((repository.folder.parent / "archive.gpg").read_bytes())
    assert words["signed-by"].startswith(repository.signer.fingerprint)
    assert (words["origin"], words["suite"], words["release-form"]) == ("Debian", "bookworm", "InRelease")
    assert "vouched-for" not in words


def test_a_detached_signature_does_as_well(repository):
    repository.publish(in_release=False)
    assert take(repository)[0].provenance["release-form"] == "Release"


def test_an_armoured_keyring_does_as_well(repository, tmp_path):
    repository.signer.keyring(tmp_path / "archive.asc", armour=True)
    assert take(repository, keyring=tmp_path / "archive.asc")


def test_an_index_by_path_does_where_there_are_no_hashes(repository):
    repository.fields["Acquire-By-Hash"] = "no"
    repository.publish()
    for path in (repository.suite / "main/binary-arm64/by-hash/SHA256").iterdir():
        path.unlink()
    assert take(repository)


def test_versions_are_chosen_by_name_or_by_order(repository):
    repository.packages += [Package("linux-image-1", version, repository.packages[0].files) for version in ("6.10-1", "6.9~rc1-1", "6.9-1")]
    repository.publish()
    chosen = reader(repository)
    assert [offer.facts.version for offer in chosen.offers("linux-image-1")] == ["6.1-1", "6.9~rc1-1", "6.9-1", "6.10-1"]
    assert chosen.offer("linux-image-1").facts.version == "6.10-1"
    assert chosen.offer("linux-image-1", "6.9-1").facts.version == "6.9-1"
    with pytest.raises(RefusedSource) as caught:
        chosen.offer("linux-image-1", "7.0-1")
    assert (caught.value.finding_id, "6.9~rc1-1" in (caught.value.expected or "")) == ("source.package-unknown", True)


def test_a_package_that_only_names_a_kernel_stands_for_it(repository):
    repository.packages.append(Package("linux-image-arm64", "6.1-1", depends="linux-image-1 (= 6.1-1), other (>= 2)"))
    repository.publish()
    [image] = take(repository, "linux-image-arm64")
    assert (image.provenance["package"], image.provenance["via"]) == ("linux-image-1", "linux-image-arm64 6.1-1")


# --- signatures -------------------------------------------------------------------------------------------------------


def test_a_release_signed_by_a_stranger_is_refused(repository, signers):
    (repository.suite / "InRelease").write_bytes(signers[1].clear_sign((repository.suite / "InRelease").read_text()))
    assert refusal(repository) == "source.signature"


def test_a_key_of_the_keyring_that_is_not_pinned_is_refused(repository, signers, tmp_path):
    signers[0].keyring(tmp_path / "both.gpg", signers[1])
    repository.signer = signers[1]
    repository.publish()
    assert take(repository, keyring=tmp_path / "both.gpg")
    assert refusal(repository, keyring=tmp_path / "both.gpg", signed_by=(signers[0].fingerprint,)) == "source.signature"


def test_one_good_signature_among_unknown_ones_is_enough(repository, signers, tmp_path):
    text = repository.publish(in_release=False)
    both = signers[0].detached(text) + signers[1].detached(text)
    (repository.suite / "Release.gpg").write_bytes(both)
    assert take(repository)


def test_a_bad_signature_spoils_a_good_one(repository, signers, tmp_path):
    text = repository.publish(in_release=False)
    signers[0].keyring(tmp_path / "both.gpg", signers[1])
    (repository.suite / "Release.gpg").write_bytes(signers[0].detached(text) + signers[1].detached(text + "x"))
    assert refusal(repository, keyring=tmp_path / "both.gpg", signed_by=()) == "source.signature"


def test_text_outside_the_signature_is_not_read(repository):
    path = repository.suite / "InRelease"
    signed = path.read_bytes()
    path.write_bytes(signed + b"\nSHA256:\n " + b"0" * 64 + b" 0 main/binary-arm64/Packages\n")
    reader(repository).release()
    path.write_bytes(b"Suite: evil\n\n" + signed)
    assert refusal(repository) == "source.signature"


def test_a_changed_release_is_refused(repository):
    path = repository.suite / "InRelease"
    path.write_bytes(path.read_bytes().replace(b"Label: Debian", b"Label: Debiam"))
    assert refusal(repository) == "source.signature"


def test_an_unsigned_release_is_refused(repository):
    text = repository.publish()
    (repository.suite / "InRelease").write_text(text)
    assert refusal(repository) == "source.signature"
    (repository.suite / "InRelease").unlink()
    (repository.suite / "Release").write_text(text)
    assert refusal(repository) == "source.signature"


def test_a_key_that_has_expired_is_refused(repository, tmp_path):
    old = Signer("old", expired=True)
    try:
        old.keyring(tmp_path / "archive.gpg")
        repository.signer = old
        repository.publish()
        assert refusal(repository) == "source.signature"
    finally:
        old.close()


def test_a_signature_with_a_broken_hash_is_refused(repository, signers):
    text = repository.publish()
    (repository.suite / "InRelease").write_bytes(signers[0].clear_sign(text, "--digest-algo", "SHA1"))
    with pytest.raises(RefusedSource, match="no allowed key") as caught:
        take(repository)
    assert "SHA-1" in (caught.value.seen or "")


def test_without_gpgv_nothing_is_believed(repository, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(OurFault, match="gpgv"):
        take(repository)


# --- time and identity ------------------------------------------------------------------------------------------------


def test_an_expired_release_is_refused_unless_its_bytes_are_pinned(repository):
    repository.fields["Valid-Until"] = format_datetime(NOW - timedelta(minutes=1), usegmt=True)
    repository.publish()
    assert refusal(repository) == "source.expired"
    pinned = sha256_of((repository.suite / "InRelease").read_bytes())
    assert take(repository, release_sha256=pinned)
    assert refusal(repository, release_sha256="0" * 64) == "source.identity"


def test_a_release_from_the_future_is_refused(repository):
    repository.fields["Date"] = format_datetime(NOW + timedelta(hours=1), usegmt=True)
    repository.publish()
    assert refusal(repository) == "source.expired"


def test_a_mirror_that_is_stale_is_refused_where_the_archive_sets_no_end(repository):
    assert take(repository, max_age_days=1)
    repository.fields["Date"] = format_datetime(NOW - timedelta(days=40), usegmt=True)
    repository.publish()
    assert take(repository)
    assert refusal(repository, max_age_days=30) == "source.expired"


def test_a_rollback_to_an_older_release_is_refused(repository):
    newest = reader(repository).release().release.date
    reader(repository, newest_seen=newest).release()
    repository.fields["Date"] = format_datetime(NOW - timedelta(days=2), usegmt=True)
    repository.publish()
    with pytest.raises(RefusedSource) as caught:
        reader(repository, newest_seen=newest).release()
    assert caught.value.finding_id == "source.rollback"


def test_a_collector_remembers_the_newest_release(repository):
    collector = Collector(Sources((source_of(repository),)), NOW, newest_seen={"debian": NOW})
    with pytest.raises(RefusedSource) as caught:
        collector.collect(ImageRequest(kind=RequestKind.APT, value="linux-image-1"))
    assert caught.value.finding_id == "source.rollback"
    assert collector.newest_seen["debian"] == NOW


@pytest.mark.parametrize(
    ("field", "value"),
    [("Codename", "sid"), ("Origin", "Evil"), ("Architectures", "amd64"), ("Components", "contrib")],
)
def test_another_suite_of_the_same_key_is_refused(repository, field, value):
    repository.fields |= {field: value, "Suite": "unstable"}
    repository.publish()
    assert refusal(repository) == "source.identity"


# --- index and package ------------------------------------------------------------------------------------------------


def test_a_changed_index_is_refused(repository):
    evil = lzma.compress(repository.index().replace(b"6.1-1", b"6.1-2"))
    for path in (*(repository.suite / "main/binary-arm64/by-hash/SHA256").iterdir(), repository.suite / "main/binary-arm64/Packages.xz"):
        path.write_bytes(evil)
    assert refusal(repository) == "source.index-differs"


def test_an_index_that_unpacks_to_something_else_is_refused(repository):
    packed = lzma.compress(repository.index() + b"\n\nPackage: evil\n")
    folder = repository.suite / "main/binary-arm64"
    (folder / "Packages.xz").write_bytes(packed)
    (folder / "by-hash/SHA256" / sha256_of(packed)).write_bytes(packed)
    text = repository.release({"main/binary-arm64/Packages.xz": packed, "main/binary-arm64/Packages": repository.index()})
    (repository.suite / "InRelease").write_bytes(repository.signer.clear_sign(text))
    assert refusal(repository) in {"source.index-differs", "source.too-large"}


def test_an_index_that_is_missing_is_refused(repository):
    for path in (*(repository.suite / "main/binary-arm64/by-hash/SHA256").iterdir(), repository.suite / "main/binary-arm64/Packages.xz"):
        path.unlink()
    assert refusal(repository) == "source.index-differs"


def test_a_changed_package_is_refused(repository):
    package = repository.packages[0]
    other = Package(package.name, package.version, (("./boot/vmlinuz-1", arm64_kernel(seed=b"evil")),))
    (repository.folder / package.filename).write_bytes(other.deb)
    assert refusal(repository) == "source.package-differs"


def test_another_package_under_a_signed_digest_is_refused(repository):
    """The index is signed but wrong: it names a package that calls itself something else."""
    package = repository.packages[0]
    index = package.stanza.replace("Version: 6.1-1", "Version: 6.2-1").encode()
    _publish_index(repository, index)
    assert refusal(repository) == "source.package-differs"


@pytest.mark.parametrize("filename", ["../../etc/passwd", "/etc/passwd", "pool/../../x.deb", "http://elsewhere/x.deb"])
def test_a_package_outside_the_repository_is_refused(repository, filename):
    package = repository.packages[0]
    _publish_index(repository, package.stanza.replace(package.filename, filename).encode())
    with pytest.raises((RefusedSource, FileNotFoundError)) as caught:
        take(repository)
    assert getattr(caught.value, "finding_id", "source.index") == "source.index"


@pytest.mark.parametrize("line", ["Size: 1", "Size: x", "SHA256: 00", "Filename:"])
def test_a_stanza_without_what_is_needed_is_refused(repository, line):
    name = line.partition(":")[0]
    stanza = "\n".join(line if old.startswith(f"{name}:") else old for old in repository.packages[0].stanza.splitlines())
    _publish_index(repository, stanza.encode())
    assert refusal(repository) in {"source.index", "source.package-differs", "source.too-large"}


def test_a_release_without_sha256_is_refused(repository):
    text = repository.publish().partition("SHA256:")[0] + "MD5Sum:\n 00000000000000000000000000000000 1 main/binary-arm64/Packages\n"
    (repository.suite / "InRelease").write_bytes(repository.signer.clear_sign(text))
    assert refusal(repository) == "source.release"


def test_an_endless_package_is_refused(repository):
    package = repository.packages[0]
    (repository.folder / package.filename).write_bytes(package.deb + bytes(1000))
    assert refusal(repository) == "source.too-large"


def test_what_is_in_the_cache_is_not_believed(repository, tmp_path):
    cache = tmp_path / "cache"
    collector = Collector(Sources((source_of(repository),)), NOW, cache=cache)
    request = ImageRequest(kind=RequestKind.APT, value="linux-image-1")
    [image] = collector.collect(request)
    package = repository.packages[0]
    kept = cache / sha256_of(package.deb)
    kept.write_bytes(b"evil")
    assert Collector(Sources((source_of(repository),)), NOW, cache=cache).collect(request) == (image,)
    assert kept.read_bytes() == package.deb


def test_gzip_and_plain_indexes_are_read_too(repository):
    index = repository.index()
    for name, data in (("Packages.gz", gzip.compress(index)), ("Packages", index)):
        (repository.suite / "main/binary-arm64" / name).write_bytes(data)
        repository.fields["Acquire-By-Hash"] = "no"
        text = repository.release({f"main/binary-arm64/{name}": data})
        (repository.suite / "InRelease").write_bytes(repository.signer.clear_sign(text))
        assert take(repository)[0].provenance["index"] == f"main/binary-arm64/{name}"


def test_a_local_package_is_held_against_the_signed_index(repository, tmp_path):
    good, evil = tmp_path / "good.deb", tmp_path / "evil.deb"
    package = repository.packages[0]
    good.write_bytes(package.deb)
    evil.write_bytes(Package(package.name, package.version, (("./boot/vmlinuz-1", arm64_kernel(seed=b"evil")),)).deb)
    collector = Collector(Sources((source_of(repository),)), NOW)
    [image] = collector.collect(ImageRequest(kind=RequestKind.DEB, value=str(good)))
    assert image.provenance["signed-by"].startswith(repository.signer.fingerprint)
    for request, finding in (
        (ImageRequest(kind=RequestKind.DEB, value=str(evil)), "source.package-differs"),
        (ImageRequest(kind=RequestKind.DEB, value=str(good), image_id=f"sha256:{'0' * 64}"), "source.unexpected"),
    ):
        with pytest.raises(RefusedSource) as caught:
            collector.collect(request)
        assert caught.value.finding_id == finding
    with pytest.raises(RefusedSource) as caught:
        Collector(Sources(()), NOW).collect(ImageRequest(kind=RequestKind.DEB, value=str(good)))
    assert caught.value.finding_id == "source.signature"
    [unsigned] = Collector(Sources(()), NOW).collect(ImageRequest(kind=RequestKind.DEB, value=str(evil), unsigned=True))
    assert unsigned.provenance["vouched-for"].startswith("nobody")


def _publish_index(repository: Repository, index: bytes) -> None:
    packed = lzma.compress(index)
    folder = repository.suite / "main/binary-arm64"
    (folder / "by-hash/SHA256" / sha256_of(packed)).write_bytes(packed)
    text = repository.release({"main/binary-arm64/Packages.xz": packed, "main/binary-arm64/Packages": index})
    (repository.suite / "InRelease").write_bytes(repository.signer.clear_sign(text))
