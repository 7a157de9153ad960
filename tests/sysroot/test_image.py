"""Root file systems, OCI image layouts and what docker save writes: whiteouts, platforms, damage."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.core.errors import SysrootError
from emu.sysroot import image
from tests.sysroot.support import file, folder, link, tar, tree

Blobs = dict[str, bytes]

BASE = tar(
    [folder("etc"), file("etc/a", b"1"), file("etc/b", b"1"), folder("d"), file("d/x", b"1"), link("l", "d")]
)


def _blob(blobs: Blobs, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    blobs[f"blobs/sha256/{digest}"] = content
    return {"digest": f"sha256:{digest}", "size": len(content)}


def _manifest(blobs: Blobs, layers: list[bytes], machine: str = "amd64") -> dict[str, Any]:
    config = _blob(blobs, json.dumps({"architecture": machine, "os": "linux"}).encode())
    document = {"config": config, "layers": [_blob(blobs, layer) for layer in layers]}
    return _blob(blobs, json.dumps(document).encode())


def _oci(path: Path, blobs: Blobs, *manifests: dict[str, Any]) -> Path:
    members = blobs | {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(),
    }
    path.write_bytes(tar(file(name, content) for name, content in members.items()))
    return path


def _unpacked(archive: Path, tmp_path: Path, name: str | None = None) -> dict[str, str]:
    root = tmp_path / "root"
    root.mkdir()
    image.unpack(str(archive), str(root), name, lambda step: None)
    return tree(root)


def _layers(tmp_path: Path, *layers: bytes) -> dict[str, str]:
    blobs: Blobs = {}
    return _unpacked(_oci(tmp_path / "i.tar", blobs, _manifest(blobs, list(layers))), tmp_path)


def test_layers_lie_one_over_the_other(tmp_path: Path) -> None:
    upper = tar([file("etc/a", b"2"), file("etc/new", b"2"), folder("d/x"), file("d/x/y", b"2")])
    assert _layers(tmp_path, BASE, gzip.compress(upper)) == {
        "etc": "/", "etc/a": "2", "etc/b": "1", "etc/new": "2", "d": "/", "d/x": "/", "d/x/y": "2", "l": "-> d",
    }  # fmt: skip


def test_whiteouts_delete_what_is_below_and_nothing_of_their_layer(tmp_path: Path) -> None:
    # A whiteout comes after its layer's own entries or before, and deletes through a link of a lower layer
    # too.
    upper = tar(
        [file("etc/a", b"2"), file("etc/.wh.a"), file("etc/.wh.b"), file("etc/.wh.never"), file("l/.wh.x")]
    )
    assert _layers(tmp_path, BASE, upper) == {"etc": "/", "etc/a": "2", "d": "/", "l": "-> d"}


def test_an_opaque_folder_hides_all_below_it(tmp_path: Path) -> None:
    upper = tar([folder("etc"), file("etc/new", b"2"), file("etc/.wh..wh..opq"), file("none/.wh..wh..opq")])
    assert _layers(tmp_path, BASE, upper) == {"etc": "/", "etc/new": "2", "d": "/", "d/x": "1", "l": "-> d"}


def test_a_folder_takes_the_place_of_a_link(tmp_path: Path) -> None:
    found = _layers(tmp_path, BASE, tar([folder("l"), file("l/own", b"2")]))
    assert (found["l"], found["l/own"], found["d/x"]) == ("/", "2", "1")


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the program zstd")
def test_a_layer_packed_by_zstd(tmp_path: Path) -> None:
    packed = subprocess.run(["zstd", "-c"], input=BASE, capture_output=True, check=True).stdout
    assert _layers(tmp_path, packed)["etc/a"] == "1"


def test_without_zstd_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SysrootError, match="install the program zstd"):
        _layers(tmp_path, b"\x28\xb5\x2f\xfd....")


def test_the_manifest_for_this_machine_is_taken(tmp_path: Path) -> None:
    blobs: Blobs = {}
    arm = _manifest(blobs, [tar([file("arm")])], "arm64") | {
        "platform": {"os": "linux", "architecture": "arm64"}
    }
    amd = _manifest(blobs, [tar([file("amd")])]) | {"platform": {"os": "linux", "architecture": "amd64"}}
    index = _blob(blobs, json.dumps({"manifests": [arm, amd]}).encode())
    nested = index | {"mediaType": "application/vnd.oci.image.index.v1+json"}
    assert _unpacked(_oci(tmp_path / "i.tar", blobs, nested), tmp_path) == {"amd": ""}
    only = tmp_path / "only"
    only.mkdir()
    with pytest.raises(SysrootError, match="no image for linux/amd64 in it, only for linux/arm64$"):
        _unpacked(_oci(only / "i.tar", blobs, arm), only)


def test_one_of_several_images_is_picked_by_name(tmp_path: Path) -> None:
    blobs: Blobs = {}
    images = [
        _manifest(blobs, [tar([file(name)])]) | {"annotations": {"org.opencontainers.image.ref.name": name}}
        for name in ("web:1", "db:2")
    ]
    archive = _oci(tmp_path / "i.tar", blobs, *images)
    with pytest.raises(SysrootError, match="several images in it: say --image with one of db:2, web:1$"):
        image.unpack(str(archive), str(tmp_path), None, lambda step: None)
    with pytest.raises(SysrootError, match="no image mail for linux/amd64 in it"):
        image.unpack(str(archive), str(tmp_path), "mail", lambda step: None)
    assert _unpacked(archive, tmp_path, "db:2") == {"db:2": ""}


def _docker(path: Path, machine: str = "amd64", **members: bytes) -> Path:
    manifest = [{"Config": "c.json", "RepoTags": ["web:1"], "Layers": ["one/layer.tar", "two/layer.tar"]}]
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "c.json": json.dumps({"architecture": machine}).encode(),
    }
    content = [file(name, text) for name, text in (files | {"one/layer.tar": BASE} | members).items()]
    # An equal layer is written once, and a link where it comes again.
    path.write_bytes(tar([*content, link("two/layer.tar", "../one/layer.tar")]))
    return path


def test_docker_save(tmp_path: Path) -> None:
    assert _unpacked(_docker(tmp_path / "d.tar"), tmp_path, "web")["d/x"] == "1"


def test_an_image_for_another_machine(tmp_path: Path) -> None:
    with pytest.raises(SysrootError, match="of another machine: the image is for arm64"):
        _unpacked(_docker(tmp_path / "d.tar", "arm64"), tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_root_file_system(tmp_path: Path, mode: str) -> None:
    (tmp_path / "r.tar").write_bytes(tar([folder("./"), file("./etc/a", b"1")], mode))
    assert _unpacked(tmp_path / "r.tar", tmp_path) == {"etc": "/", "etc/a": "1"}


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a tar archive, damaged or cut off"),
        (b"no archive at all" * 100, "not a tar archive, damaged or cut off"),
        (_cut(tar([file("a", bytes(5000))], "w:gz")), "damaged or cut off"),
        (tar([file("a", bytes(5000))])[:3000], "damaged or cut off"),
        (tar([file("manifest.json", b"{")]), "manifest.json is not JSON"),
        (tar([file("manifest.json", b"[1]")]), "its manifest is malformed"),
        (tar([file("manifest.json", b'[{"Config": "gone"}]')]), "gone is not in it"),
        (tar([file("oci-layout"), file("index.json", b"{}")]), "its manifest is malformed"),
    ],
    # Names of their own: gzip writes the time, and the workers of pytest-xdist must collect the same.
    ids=["empty", "text", "cut-gz", "cut", "no-json", "cut-json", "gone", "oci"],
)
def test_damage_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(SysrootError) as caught:
        _unpacked(tmp_path / "x.tar", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/x.tar: ") and complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_blob_is_what_its_digest_says(tmp_path: Path) -> None:
    blobs: Blobs = {}
    manifest = _manifest(blobs, [BASE])
    (name,) = (name for name, content in blobs.items() if content == BASE)
    blobs[name] = BASE.replace(b"1", b"2")
    with pytest.raises(SysrootError, match="damaged: the content of sha256:.* has another digest"):
        _unpacked(_oci(tmp_path / "i.tar", blobs, manifest), tmp_path)


@pytest.mark.parametrize("name", [".wh.", ".wh...", ".wh..", "../.wh.x"])
def test_a_whiteout_names_something_below(tmp_path: Path, name: str) -> None:
    with pytest.raises(SysrootError):
        _layers(tmp_path, tar([file(f"etc/{name}")]))


_ARCHIVES = [
    tar([file("etc/a", b"1"), link("l", "d"), file(f"{'x' * 120}/{'y' * 120}", b"2")]),
    tar([file("etc/a", b"1"), link("l", "d"), file(f"{'x' * 120}/{'y' * 120}", b"2")], "w:gz"),
]


@given(
    st.integers(0, len(_ARCHIVES) - 1),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=12)), max_size=3),
)
def test_a_damaged_archive_is_unpacked_or_named(which: int, edits: list[tuple[int, bytes]]) -> None:
    content = bytearray(_ARCHIVES[which])
    for at, put in edits:
        content[at % len(content) : at % len(content) + len(put)] = put
    with tempfile.TemporaryDirectory() as name, suppress(SysrootError, OSError):
        (Path(name) / "x.tar").write_bytes(content)
        _unpacked(Path(name) / "x.tar", Path(name))
