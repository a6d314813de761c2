"""Manifests and lists of sources: what is read, and what is refused with the key's name."""

from pathlib import Path

import pytest

from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import InvalidDocument
from kbs_rim.image_sources.requests import RequestKind, parse_manifest
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS as LIMITS
from kbs_rim.image_sources.sources_file import Consent, parse_sources

SOURCE = """
[[apt]]
name = "debian"
uri = "https://mirror.example/debian"
suite = "bookworm"
keyring = "keys/debian.gpg"
signed_by = ["4d64 fec1 19c2 0290 67d6 e791 f8d2 585b 8783 d481"]
"""


def test_a_manifest_is_read_with_paths_relative_to_it():
    text = """
    [[image]]
    file = "vm.dtb"
    name = "a tree"
    roles = ["device-tree"]
    provenance = { made-by = "qemu" }
    [[image]]
    apt = "linux-image-arm64=6.1.176-1"
    source = "debian"
    match = ["/boot/vmlinuz-*"]
    [[image]]
    oci_layout = "/layouts/os"
    ref = "os"
    """
    tree, kernel, container = parse_manifest(text.encode(), Path("/there"), LIMITS)
    assert (tree.kind, tree.value, tree.roles, tree.provenance) == (
        RequestKind.FILE, "/there/vm.dtb", (Role.DEVICE_TREE,), {"made-by": "qemu"},
    )  # fmt: skip
    assert (kernel.package, kernel.source, kernel.patterns) == (("linux-image-arm64", "6.1.176-1"), "debian", ("/boot/vmlinuz-*",))
    assert (container.value, container.reference) == ("/layouts/os", "os")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "image = 1",
        "[[image]]",
        "[[image]]\nfile = 'a'\ndeb = 'b'",
        "[[image]]\nfile = 'a'\nroel = ['kernel']",
        "[[image]]\nfile = 'a'\nsource = 'debian'",
        "[[image]]\nfile = ''",
        "[[image]]\nfile = 7",
        "[[image]]\nfile = 'a'\nroles = ['king']",
        "[[image]]\nfile = 'a'\nroles = 'kernel'",
        "[[image]]\nfile = 'a'\nimage_id = 'abc'",
        "[[image]]\ndeb = 'a'\nunsigned = 'yes'",
        "[[image]]\nfile = 'a'\nprovenance = { x = 1 }",
        "[[image]]\noci_layout = 'a'\ndigest = 'sha1:00'",
        "[[pictures]]\nfile = 'a'",
        "not toml",
        "[[image]]\nfile = 'a'\n" + "# filler\n" * 600_000,
    ],
)
def test_a_manifest_that_is_not_valid_is_refused(text):
    with pytest.raises(InvalidDocument) as caught:
        parse_manifest(text.encode(), Path("/"), LIMITS)
    assert caught.value.finding_id == "document.sources"


def test_sources_are_read_with_keyrings_relative_to_them():
    rule = '[[follow]]\nsource = "debian"\npackage = "linux-image-arm64"\nversions = ["6.1.*"]\napprove = "automatic"\nsupersede = "ask"\n'
    sources = parse_sources((SOURCE + rule).encode(), Path("/etc/kbs-rim"), LIMITS)
    [source], [follow] = sources.apt, sources.follow
    assert (source.keyring, source.signed_by) == (Path("/etc/kbs-rim/keys/debian.gpg"), ("4D64FEC119C2029067D6E791F8D2585B8783D481",))
    assert (source.components, source.architecture) == (("main",), "arm64")
    assert (follow.name, follow.approve, follow.supersede) == ("linux-image-arm64", Consent.AUTOMATIC, Consent.ASK)
    assert follow.allows("6.1.176-1")
    assert not follow.allows("6.12.1-1")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (SOURCE.replace('suite = "bookworm"', ""), "suite"),
        (SOURCE.replace("bookworm", "../sid"), "suite"),
        (SOURCE.replace("4d64", "zz"), "signed_by"),
        (SOURCE + SOURCE, "name"),
        (SOURCE + "max_age_days = 0\n", "max_age_days"),
        (SOURCE + "trusted = true\n", "trusted"),
        (SOURCE + "release_sha256 = 'x'\n", "release_sha256"),
        (SOURCE + "[[follow]]\nsource = 'other'\npackage = 'p'\n", "other"),
        (SOURCE + "[[follow]]\nsource = 'debian'\n", "package"),
        (SOURCE + "[[follow]]\nsource = 'debian'\npackage = 'p'\napprove = 'yes'\n", "approve"),
        (SOURCE + "[[follow]]\nsource = 'debian'\npackage = 'p'\napprove = 'automatic'\n", "versions"),
        (
            SOURCE[: SOURCE.index("signed_by")] + "[[follow]]\nsource = 'debian'\npackage = 'p'\napprove = 'automatic'\nversions = ['1']\n",
            "signed_by",
        ),
    ],
)
def test_sources_that_are_not_valid_are_refused_and_the_key_is_named(text, word):
    with pytest.raises(InvalidDocument, match=word) as caught:
        parse_sources(text.encode(), Path("/"), LIMITS)
    assert caught.value.finding_id == "document.sources"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("file", "signed-by"),
        ("file", "vouched-for"),
        ("deb", "signed-by"),
        ("deb", "approved"),
        ("apt", "package"),
        ("oci_layout", "origin"),
    ],
)
def test_a_manifest_does_not_say_what_was_checked(tmp_path, source, word):
    data = f'[[image]]\n{source} = "x"\nprovenance = {{ "{word}" = "Debian" }}\n'.encode()
    with pytest.raises(InvalidDocument) as caught:
        parse_manifest(data, tmp_path, LIMITS)
    assert (caught.value.finding_id, caught.value.seen) == ("document.sources", word)
