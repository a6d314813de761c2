"""``kbs-rim image add`` from packages, repositories, folders and layouts, and ``follow``, against a running broker."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from kbs_rim.cli import main
from tests.package_forge import Layout, Package, Repository, arm64_kernel, initrd, sha256_of, tar_bytes
from tests.repository_fixtures import repository, signers

__all__ = ["repository", "signers"]
KERNEL, RAMDISK = arm64_kernel(), initrd()
KERNEL_ID, RAMDISK_ID = f"sha256:{sha256_of(KERNEL)}", f"sha256:{sha256_of(RAMDISK)}"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def registered(capsys) -> dict[str, dict]:
    return {item["id"]: item for item in json.loads(run(capsys, "image", "list", "--json")[1])["images"]}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An administrator's home: nothing is remembered from another test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def sources(repository: Repository, home: Path, monkeypatch) -> Path:
    publish(repository)
    path = home / "sources.toml"
    path.write_text(
        f'[[apt]]\nname = "debian"\nuri = "{repository.uri}"\nsuite = "bookworm"\nkeyring = "archive.gpg"\n'
        f'signed_by = ["{repository.signer.fingerprint}"]\n'
        '[[follow]]\nname = "kernel"\nsource = "debian"\npackage = "linux-image-1"\nsupersede = "ask"\n'
    )
    monkeypatch.setenv("KBS_RIM_IMAGE_SOURCES", str(path))
    return path


def publish(repository: Repository, *packages: Package, age: timedelta = timedelta(hours=2)) -> None:
    repository.packages += packages
    repository.fields["Date"] = format_datetime(datetime.now(UTC) - age, usegmt=True)
    repository.publish()


def package(folder: Path) -> Path:
    path = folder / "installer.deb"
    path.write_bytes(Package("installer", "1-1", (("./images/linux", KERNEL), ("./images/initrd.gz", RAMDISK))).deb)
    return path


def test_a_dry_run_needs_no_broker_and_lists_what_there_is(home, capsys, monkeypatch):
    monkeypatch.delenv("KBS_RIM_URL", raising=False)
    code, out, _ = run(capsys, "image", "add", "--deb", package(home), "--unsigned", "--dry-run", "--json")
    found = json.loads(out)["images"]
    assert code == 0
    assert [(item["image_id"], item["kind"], item["roles"]) for item in found] == [
        (KERNEL_ID, "kernel", ["kernel"]),
        (RAMDISK_ID, "initrd", ["initrd"]),
    ]
    assert found[0]["locations"] == [{"path": "/images/linux", "container": "data.tar.xz", "offset": 1024, "links": []}]
    code, out, _ = run(capsys, "image", "add", "--deb", package(home), "--unsigned", "--dry-run", "--match", "*/linux")
    assert (code, KERNEL_ID in out, RAMDISK_ID in out) == (0, True, False)


def test_a_package_that_nobody_vouches_for_is_refused(home, capsys, monkeypatch):
    monkeypatch.delenv("KBS_RIM_IMAGE_SOURCES", raising=False)
    code, _, err = run(capsys, "image", "add", "--deb", package(home), "--dry-run")
    assert (code, err.split(": ")[1]) == (1, "source.signature")


def test_a_set_is_registered_with_its_chain(broker, sources, capsys):
    code, out, err = run(capsys, "image", "add", "--apt", "linux-image-1=6.1-1", "--json")
    assert (code, err) == (0, "")
    [item] = json.loads(out)["images"]
    assert (item["outcome"], item["added"], item["image"]["id"]) == ("registered", [], KERNEL_ID)
    shown = json.loads(run(capsys, "image", "show", KERNEL_ID, "--json")[1])
    assert (shown["provenance"]["package"], shown["provenance"]["package-version"]) == ("linux-image-1", "6.1-1")
    assert "signed-by" in shown["provenance"]
    assert "signed-by" in run(capsys, "image", "show", KERNEL_ID)[1]


def test_adding_again_changes_nothing_and_says_so(broker, sources, capsys):
    run(capsys, "image", "add", "--apt", "linux-image-1")
    before = registered(capsys)
    code, out, _ = run(capsys, "image", "add", "--apt", "linux-image-1", "--json")
    [item] = json.loads(out)["images"]
    assert (code, item["outcome"], item["added"]) == (0, "unchanged", [])
    assert registered(capsys) == before
    code, out, _ = run(capsys, "image", "add", "--apt", "linux-image-1")
    assert "unchanged" in out


def test_another_origin_of_the_same_bytes_is_added_to_what_is_known(broker, home, sources, capsys):
    file = home / "linux"
    file.write_bytes(KERNEL)
    code, _, err = run(capsys, "image", "add", file)
    assert (code, err) == (0, "")
    run(capsys, "image", "add", "--apt", "linux-image-1")
    code, out, err = run(capsys, "image", "add", file, "--provenance", "note=from a colleague")
    assert (code, out.strip()) == (0, KERNEL_ID)
    assert "registered before, as linux; added: provenance" in err
    shown = json.loads(run(capsys, "image", "show", KERNEL_ID, "--json")[1])
    assert shown["provenance"]["origin"] == "local file"
    assert [word["provenance"].get("package", word["provenance"].get("note")) for word in shown["further_provenance"]] == [
        "linux-image-1",
        "from a colleague",
    ]
    assert {word["added_by"] for word in shown["further_provenance"]} == {"admin"}
    assert "from a colleague" in run(capsys, "image", "show", KERNEL_ID)[1]


def test_a_manifest_is_registered_whole_or_not_at_all(broker, home, sources, capsys):
    revoked = home / "bad"
    revoked.write_bytes(arm64_kernel(seed=b"bad"))
    bad = run(capsys, "image", "add", revoked)[1].strip()
    assert run(capsys, "image", "revoke", bad, "--reason", "CVE-2026-1")[0] == 0
    (home / "initrd.gz").write_bytes(RAMDISK)
    manifest = home / "images.toml"
    entries = '[[image]]\napt = "linux-image-1"\n[[image]]\nfile = "initrd.gz"\nname = "our initrd"\n'
    manifest.write_text(entries + '[[image]]\nfile = "bad"\n')
    code, _, err = run(capsys, "image", "add", "--from", manifest)
    assert (code, err.split(": ")[1]) == (1, "registry.image-revoked")
    assert set(registered(capsys)) == {bad}
    manifest.write_text(entries)
    assert run(capsys, "image", "add", "--from", manifest)[0] == 0
    assert {item["name"] for item in registered(capsys).values()} == {"bad", "our initrd", "linux-image-1 6.1-1 /boot/vmlinuz-1"}
    changes = json.loads(run(capsys, "image", "add", "--from", manifest, "--json")[1])["images"]
    assert [item["outcome"] for item in changes] == ["unchanged", "unchanged"]


def test_a_manifest_pins_what_must_come_out_of_it(broker, home, sources, capsys):
    manifest = home / "images.toml"
    manifest.write_text(f'[[image]]\napt = "linux-image-1"\nimage_id = "sha256:{"0" * 64}"\n')
    code, _, err = run(capsys, "image", "add", "--from", manifest)
    assert (code, err.split(": ")[1]) == (1, "source.unexpected")
    assert registered(capsys) == {}


def test_a_tampered_mirror_registers_nothing(broker, repository, sources, capsys):
    victim = repository.packages[0]
    evil = Package(victim.name, victim.version, (("./boot/vmlinuz-1", arm64_kernel(seed=b"evil")),))
    (repository.folder / victim.filename).write_bytes(evil.deb)
    code, _, err = run(capsys, "image", "add", "--apt", "linux-image-1")
    assert (code, err.split(": ")[1]) == (1, "source.package-differs")
    assert registered(capsys) == {}


def test_a_rollback_is_remembered_between_runs(broker, repository, sources, capsys):
    assert run(capsys, "image", "add", "--apt", "linux-image-1", "--dry-run")[0] == 0
    publish(repository, age=timedelta(days=3))
    code, _, err = run(capsys, "image", "add", "--apt", "linux-image-1", "--dry-run")
    assert (code, err.split(": ")[1]) == (1, "source.rollback")


def test_folders_and_container_layouts(broker, home, capsys):
    root = home / "boot"
    root.mkdir()
    (root / "vmlinuz").write_bytes(KERNEL)
    layout = Layout(home / "layout", [tar_bytes([("usr/lib/modules/6.1/initramfs.img", RAMDISK)])])
    layout.folder.mkdir()
    digest = layout.write()
    code, out, _ = run(capsys, "image", "add", "--dir", root, "--oci-layout", layout.folder, "--digest", digest)
    assert code == 0
    assert set(registered(capsys)) == {KERNEL_ID, RAMDISK_ID}
    assert "boot /vmlinuz" in out
    assert "os /usr/lib/modules/6.1/initramfs.img" in out


def test_follow_proposes_and_an_approval_registers(broker, repository, sources, capsys):
    code, out, _ = run(capsys, "image", "follow", "--json")
    [proposal] = json.loads(out)["proposals"]
    assert (code, proposal["action"], proposal["version"]) == (0, "register", "6.1-1")
    assert registered(capsys) == {}
    code, out, _ = run(capsys, "image", "approve", proposal["id"])
    assert (code, out) == (0, f"approved: register linux-image-1 6.1-1 ({proposal['id']})\n")
    assert registered(capsys)[KERNEL_ID]["provenance"]["approved"] == "admin"

    publish(repository, Package("linux-image-1", "6.2-1", (("./boot/vmlinuz-1", arm64_kernel(seed=b"new")),)), age=timedelta(hours=1))
    [second] = json.loads(run(capsys, "image", "follow", "--json")[1])["proposals"]
    code, out, _ = run(capsys, "image", "approve", second["id"], "--json")
    deprecation = json.loads(out)["events"][1]["proposal"]
    assert (deprecation["action"], deprecation["images"][0]["id"]) == ("deprecate", KERNEL_ID)
    code, out, _ = run(capsys, "image", "follow", "--list")
    assert deprecation["id"] in out
    assert run(capsys, "image", "approve", deprecation["id"])[0] == 0
    assert registered(capsys)[KERNEL_ID]["state"] == "deprecated"


def test_a_rejected_proposal_is_gone(broker, sources, capsys):
    [proposal] = json.loads(run(capsys, "image", "follow", "--json")[1])["proposals"]
    code, out, _ = run(capsys, "image", "reject", proposal["id"])
    assert (code, out) == (0, f"{proposal['id']} is rejected\n")
    code, _, err = run(capsys, "image", "approve", proposal["id"])
    assert (code, err.split(": ")[1]) == (1, "document.sources")
    assert "none" in run(capsys, "image", "follow", "--list")[1]


def test_a_source_that_fails_is_an_exit_code_of_1(broker, repository, sources, capsys):
    (repository.suite / "InRelease").write_text("Suite: bookworm\n")
    code, _, err = run(capsys, "image", "follow")
    assert code == 1
    assert "kernel: source.signature" in err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ((), "name a FILE"),
        (("--all", "--dir", "/"), "--dry-run"),
        (("--from", "{file}", "--name", "x"), "--from"),
        (("--deb", "a", "--deb", "b", "--name", "x"), "--name"),
        (("-",), "--name and --role"),
    ],
)
def test_options_that_contradict_each_other_are_refused(home, capsys, options, word):
    file = home / "images.toml"
    file.write_text("")
    code, _, err = run(capsys, "image", "add", *(option.format(file=file) for option in options))
    assert code == 64
    assert word in err
