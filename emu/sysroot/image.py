"""Archives of whole systems: a root file system, an OCI image layout, or what `docker save` writes.

Source: OCI Image Format Specification 1.1 (image-layout, manifest, image-index, layer: whiteouts); moby
image/spec v1.2 for manifest.json.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from emu.core.errors import SysrootError
from emu.core.record import NamedTuple
from emu.sysroot.unpack import Unpacker, members_of, open_archive, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_ZSTD = b"\x28\xb5\x2f\xfd"
_REFERENCE = "org.opencontainers.image.ref.name"
_NAMES = ("io.containerd.image.name", _REFERENCE)
_JSON_LIMIT = 1 << 24
_INDEX_DEPTH = 4


class _Layer(NamedTuple):
    """A layer by its member of the archive; `digest` is what that member must hash to, empty where nothing
    says.
    """

    member: str
    digest: str


def unpack(path: str, root: str, image: str | None, say: Callable[[str], None]) -> None:
    """Unpack the archive at `path` into the empty folder `root`; `image` picks one of several images by name.

    `say` gets a line for each long step. Raises SysrootError, OSError from the host.
    """
    with reading(path), open_archive(path) as archive:
        members = {member.name for member in members_of(archive)}
        if {"index.json", "oci-layout"} <= members:
            layers = _oci_layers(archive, path, image)
        elif "manifest.json" in members:
            layers = _docker_layers(archive, path, image)
        elif image is not None:
            raise SysrootError(f"{path}: no image in it, but a root file system: leave --image out")
        else:
            say("unpacking the root file system")
            unpacker = Unpacker(root, path, keep_links=True)
            unpacker.unpack(archive)
            return
        unpacker = Unpacker(root, path, keep_links=False)
        for number, layer in enumerate(layers, 1):
            say(f"unpacking layer {number} of {len(layers)}")
            with _opened(archive, path, layer) as content:
                _apply(unpacker, content)


def _apply(unpacker: Unpacker, content: IO[bytes]) -> None:
    """Put one layer over what is there: first what it takes away of the lower ones, then what it brings."""
    with open_archive(content=content) as layer:
        members = list(members_of(layer))
        for member in members:
            folder, _, name = unpacker.clean(member.name).rpartition("/")
            if name == _OPAQUE:
                unpacker.empty(folder)
            elif name.startswith(_WHITEOUT):
                gone = name.removeprefix(_WHITEOUT)
                if gone in ("", ".", ".."):
                    raise SysrootError(f"{unpacker.name}: its whiteout {member.name!r} names nothing")
                unpacker.delete(f"{folder}/{gone}" if folder else gone)
        for member in members:
            if not unpacker.clean(member.name).rpartition("/")[2].startswith(_WHITEOUT):
                unpacker.write(layer, member)


@contextmanager
def _opened(archive: tarfile.TarFile, path: str, layer: _Layer) -> Iterator[IO[bytes]]:
    """A layer's content, checked against its digest and readable from any place; zstd is undone here."""
    content = _member(archive, path, layer.member)
    if layer.digest:
        _check_digest(content, layer.digest, path)
    head = content.read(4)
    content.seek(0)
    if head != _ZSTD:
        yield content
        return
    if shutil.which("zstd") is None:
        raise SysrootError(f"{path}: its layers are compressed with zstd: install the program zstd")
    with tempfile.TemporaryFile() as packed, tempfile.TemporaryFile() as plain:
        shutil.copyfileobj(content, packed)
        packed.seek(0)
        done = subprocess.run(
            ["zstd", "-dc"], stdin=packed, stdout=plain, stderr=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise SysrootError(f"{path}: {layer.member}: {done.stderr.decode(errors='replace').strip()}")
        plain.seek(0)
        yield plain


def _check_digest(content: IO[bytes], digest: str, path: str) -> None:
    algorithm, _, wanted = digest.partition(":")
    if algorithm not in ("sha256", "sha512"):
        raise SysrootError(f"{path}: digest {digest!r} is neither sha256 nor sha512")
    if hashlib.file_digest(content, algorithm).hexdigest() != wanted:  # type: ignore[arg-type]
        raise SysrootError(f"{path}: damaged: the content of {digest} has another digest")
    content.seek(0)


def _member(archive: tarfile.TarFile, path: str, name: str) -> IO[bytes]:
    try:
        content = archive.extractfile(name)
    except KeyError:
        content = None
    if content is None:
        raise SysrootError(f"{path}: {name} is not in it")
    return content


def _json(content: IO[bytes], path: str, name: str) -> Any:
    text = content.read(_JSON_LIMIT + 1)
    if len(text) > _JSON_LIMIT:
        raise SysrootError(f"{path}: {name} has more than {_JSON_LIMIT} bytes")
    try:
        return json.loads(text)
    except ValueError as error:
        raise SysrootError(f"{path}: {name} is not JSON ({error})") from None


@contextmanager
def _well_formed(path: str) -> Iterator[None]:
    """What is missing in an image's JSON, or of another type, is damage."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise SysrootError(f"{path}: its manifest is malformed ({type(error).__name__}: {error})") from None


# -- OCI -----------------------------------------------------------------------------------------------------


def _blob(archive: tarfile.TarFile, path: str, digest: str) -> Any:
    """Return the JSON document of a digest."""
    name = f"blobs/{digest.replace(':', '/', 1)}"
    content = _member(archive, path, name)
    _check_digest(content, digest, path)
    return _json(content, path, name)


def _oci_layers(archive: tarfile.TarFile, path: str, image: str | None) -> list[_Layer]:
    with _well_formed(path):
        index = _json(_member(archive, path, "index.json"), path, "index.json")
        found = _manifests(archive, path, index, "", 0)
        fitting = {digest: name for digest, name, platform in found if platform in ("", "linux/amd64")}
        if image is not None:
            fitting = {digest: name for digest, name in fitting.items() if _is_called(name, image)}
        if len(fitting) != 1:
            others = sorted({platform for _, _, platform in found} - {""})
            raise SysrootError(f"{path}: {_which(list(fitting.values()), image, others)}")
        (digest,) = fitting
        manifest = _blob(archive, path, digest)
        _check_machine(_blob(archive, path, manifest["config"]["digest"]), path)
        digests = [str(layer["digest"]) for layer in manifest["layers"]]
        return [_Layer(f"blobs/{digest.replace(':', '/', 1)}", digest) for digest in digests]


def _manifests(
    archive: tarfile.TarFile, path: str, index: Any, name: str, depth: int
) -> list[tuple[str, str, str]]:
    """Return digest, name and platform (empty where not said) of every manifest below an index."""
    if depth > _INDEX_DEPTH:
        raise SysrootError(f"{path}: its indexes are nested more than {_INDEX_DEPTH} deep")
    found = []
    for entry in index["manifests"]:
        notes = entry.get("annotations") or {}
        own = next((notes[key] for key in _NAMES if key in notes), name)
        if "index" in entry.get("mediaType", "") or "manifest.list" in entry.get("mediaType", ""):
            below = _blob(archive, path, entry["digest"])
            found += _manifests(archive, path, below, own, depth + 1)
        else:
            platform = entry.get("platform")
            where = f"{platform['os']}/{platform['architecture']}" if platform else ""
            found.append((entry["digest"], own, where))
    return found


def _is_called(name: str, wanted: str) -> bool:
    """Whether an image's name is the one wanted, its registry and its tag said or not."""
    return (
        name == wanted
        or name.endswith((f"/{wanted}", f":{wanted}"))
        or name.partition(":")[0].endswith(wanted)
    )


def _which(names: list[str], image: str | None, platforms: list[str]) -> str:
    if not names and image is not None:
        return f"no image {image} for linux/amd64 in it"
    if not names:
        return f"no image for linux/amd64 in it{', only for ' + ', '.join(platforms) if platforms else ''}"
    return f"several images in it: say --image with one of {', '.join(sorted(names))}"


def _check_machine(config: Any, path: str) -> None:
    machine = config.get("architecture", "amd64")
    if machine != "amd64":
        raise SysrootError(f"{path}: of another machine: the image is for {machine}")


# -- docker save ---------------------------------------------------------------------------------------------


def _docker_layers(archive: tarfile.TarFile, path: str, image: str | None) -> list[_Layer]:
    with _well_formed(path):
        manifest = _json(_member(archive, path, "manifest.json"), path, "manifest.json")
        found = [(entry, entry.get("RepoTags") or []) for entry in manifest]
        if image is not None:
            found = [(entry, tags) for entry, tags in found if any(_is_called(tag, image) for tag in tags)]
        if len(found) != 1:
            raise SysrootError(f"{path}: {_which([', '.join(tags) for _, tags in found], image, [])}")
        ((entry, _),) = found
        _check_machine(_json(_member(archive, path, entry["Config"]), path, entry["Config"]), path)
        return [_Layer(str(layer), "") for layer in entry["Layers"]]
