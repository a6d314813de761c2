"""Container images: what is visible in the end, and layouts that lie."""

import json

import pytest

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.finder import ImageFinder
from kbs_rim.image_sources.oci_layout import OciLayout
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS, SourceLimits
from tests.package_forge import Layout, arm64_kernel, initrd, sha256_of, tar_bytes
from tests.pe_builder import uki

KERNEL, OTHER = arm64_kernel(), arm64_kernel(seed=b"other")
MODULES = "usr/lib/modules/6.1"


def images(layout: Layout, limits: SourceLimits = DEFAULT_SOURCE_LIMITS, **chosen: str) -> dict[str, str]:
    found = OciLayout(layout.folder, limits, **chosen).images(ImageFinder(source_limits=limits))
    return {item.found.locations[0].path: item.found.measurements.image_id for item in found}


def refusal(layout: Layout, **chosen: str) -> str:
    with pytest.raises(RefusedSource) as caught:
        images(layout, **chosen)
    return caught.value.finding_id


@pytest.fixture
def layout(tmp_path) -> Layout:
    made = Layout(tmp_path, [tar_bytes([(f"{MODULES}/vmlinuz", KERNEL)])])
    made.write()
    return made


@pytest.mark.parametrize("packing", ["", "gz", "zst"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_bootable_container_has_kernel_initramfs_and_uki(tmp_path, packing, nested):
    program = uki((".linux", b"kernel"), (".cmdline", b"quiet"))
    lower = tar_bytes([(f"{MODULES}/", b""), (f"{MODULES}/vmlinuz", KERNEL), (f"{MODULES}/initramfs.img", initrd())])
    upper = tar_bytes([("boot/EFI/Linux/os.efi", program), ("etc/motd", b"hello")])
    made = Layout(tmp_path, [lower, upper], packing=packing)
    digest = made.write(nested=nested)
    found = OciLayout(tmp_path, DEFAULT_SOURCE_LIMITS).images(ImageFinder())
    assert {item.found.locations[0].path: (item.found.kind.value, item.found.roles[0].value) for item in found} == {
        f"/{MODULES}/vmlinuz": ("kernel", "kernel"),
        f"/{MODULES}/initramfs.img": ("initrd", "initrd"),
        "/boot/EFI/Linux/os.efi": ("UKI", "uki"),
    }
    words = found[0].provenance
    assert (words["manifest-digest"], words["reference"], words["file"]) == (digest, "os", f"/{MODULES}/vmlinuz")
    assert words["container"].startswith("sha256:")
    assert found[0].name == f"os /{MODULES}/vmlinuz"


@pytest.mark.parametrize(
    "upper",
    [
        [(f"{MODULES}/.wh.vmlinuz", b"")],
        [("usr/lib/.wh.modules", b"")],
        [(f"{MODULES}/.wh..wh..opq", b"")],
        [("usr/.wh..wh..opq", b"")],
        [(f"{MODULES}/vmlinuz/", b"")],
        [("usr/lib/modules", "elsewhere")],
        [(f"{MODULES}/vmlinuz", "elsewhere")],
        [("usr/lib", b"a file now")],
    ],
    ids=["whiteout", "whiteout above", "opaque", "opaque above", "folder instead", "link above", "link instead", "file above"],
)
def test_what_a_later_layer_hides_is_not_there(tmp_path, upper):
    other = [("boot/other", OTHER)]
    made = Layout(tmp_path, [tar_bytes([(f"{MODULES}/vmlinuz", KERNEL)]), tar_bytes([*upper, *other])])
    made.write()
    assert images(made) == {"/boot/other": f"sha256:{sha256_of(OTHER)}"}


def test_the_last_layer_wins_and_does_not_hide_its_own_files(tmp_path):
    upper = [(f"{MODULES}/vmlinuz", OTHER), (f"{MODULES}/.wh..wh..opq", b""), (f"{MODULES}/.wh.initramfs.img", b"")]
    lower = [(f"{MODULES}/vmlinuz", KERNEL), (f"{MODULES}/initramfs.img", initrd())]
    made = Layout(tmp_path, [tar_bytes(lower), tar_bytes(upper)])
    made.write()
    assert images(made) == {f"/{MODULES}/vmlinuz": f"sha256:{sha256_of(OTHER)}"}


def test_a_digest_pins_the_manifest(layout):
    digest = layout.write()
    assert images(layout, digest=digest)
    assert refusal(layout, digest=f"sha256:{'0' * 64}") == "source.oci-digest"
    nested = layout.write(nested=True)
    assert images(layout, digest=nested)


def test_one_of_several_is_chosen_by_name(layout):
    layout.write()
    index = json.loads((layout.folder / "index.json").read_text())
    second = Layout(layout.folder, [tar_bytes([("boot/vmlinuz", OTHER)])], reference="second")
    second.write()
    index["manifests"] += json.loads((layout.folder / "index.json").read_text())["manifests"]
    (layout.folder / "index.json").write_text(json.dumps(index))
    assert refusal(layout) == "source.oci"
    assert images(layout, reference="second") == {"/boot/vmlinuz": f"sha256:{sha256_of(OTHER)}"}
    assert refusal(layout, reference="third") == "source.oci"


def test_a_changed_layer_is_refused(layout):
    for path in (layout.folder / "blobs/sha256").iterdir():
        if path.read_bytes().startswith(b"\x1f\x8b"):
            path.write_bytes(Layout(layout.folder, [tar_bytes([("boot/vmlinuz", OTHER)])]).layers[0])
    assert refusal(layout) in {"source.oci-digest", "source.compressed"}


def test_a_layer_with_another_unpacked_digest_is_refused(layout):
    good = layout.layers
    layout.layers = [tar_bytes([(f"{MODULES}/vmlinuz", OTHER)])]
    other = sha256_of(layout.layers[0])
    layout.layers = good
    layout.write()
    config = next(p for p in (layout.folder / "blobs/sha256").iterdir() if b"diff_ids" in p.read_bytes())
    text = config.read_text().replace(sha256_of(good[0]), other)
    _replace_config(layout, config.name, text)
    assert refusal(layout) == "source.oci-digest"


def test_an_image_for_another_architecture_is_refused(tmp_path):
    made = Layout(tmp_path, [tar_bytes([("boot/vmlinuz", KERNEL)])], architecture="amd64")
    made.write()
    assert refusal(made) == "source.oci"


@pytest.mark.parametrize("blob", ["manifest", "index.json", "oci-layout"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"layers": 1}', b'{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}', b"\xff", b"9" * 9999]
)
def test_documents_that_are_none_are_refused(layout, blob, content):
    digest = layout.write()
    path = layout.folder / "blobs/sha256" / digest[7:] if blob == "manifest" else layout.folder / blob
    path.write_bytes(content)
    assert refusal(layout) in {"source.oci", "source.oci-digest"}


def test_a_blob_that_is_a_link_is_refused(layout, tmp_path):
    digest = layout.write()
    path = layout.folder / "blobs/sha256" / digest[7:]
    moved = path.rename(tmp_path / "elsewhere")
    path.symlink_to(moved)
    assert refusal(layout) == "source.oci"


def test_layers_together_may_not_unpack_to_too_much(tmp_path):
    made = Layout(tmp_path, [tar_bytes([(f"f{number}", bytes(600_000))]) for number in range(3)])
    made.write()
    with pytest.raises(RefusedSource) as caught:
        images(made, SourceLimits(unpacked_bytes=1_500_000))
    assert caught.value.finding_id == "source.too-large"


def _replace_config(layout: Layout, old: str, text: str) -> None:
    """Put another configuration into the image, with right digests all the way up."""
    new = layout.blob(text.encode())
    index = json.loads((layout.folder / "index.json").read_text())
    manifest = (layout.folder / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text()
    document = json.loads(manifest.replace(f"sha256:{old}", new))
    document["config"]["size"] = len(text.encode())
    data = json.dumps(document).encode()
    index["manifests"][0] |= {"digest": layout.blob(data), "size": len(data)}
    (layout.folder / "index.json").write_text(json.dumps(index))
