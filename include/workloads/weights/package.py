"""Make a model image of a model on the hub or in a folder, and push it under KAITO's name for it.

The files are made harmless and checked exactly as for a pod that loads them, before anything is sent. What a registry
has is not sent again, so a push that was stopped goes on where it was.
"""

from __future__ import annotations

import io
import logging
import re
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from include.contracts.image_reference import ImageReference
from include.contracts.licences import is_private_by_default, may_be_public
from include.workloads.contract import TryAgain, UserConfigError, file_write_error
from include.workloads.oci.media import OCI_INDEX, sha256
from include.workloads.oci.registry import RegistryClient
from include.workloads.oci.session import anonymous_can_read, connect, is_inside, read_reference
from include.workloads.oci.transfers import put_big_blob
from include.workloads.weights import hub
from include.workloads.weights.folder import ALLOWED, FOLDERS, MISTRAL, Parts, check, strip_code
from include.workloads.weights.layers import LayerContent, LayerFile, layer_of
from include.workloads.weights.model_image import ModelImage, build
from include.workloads.weights.pace import Meter

log = logging.getLogger("weights")

#: Beside what a server loads: what a licence asks to hand on with the files.
TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
PACKAGED = {
    "": Parts((*ALLOWED, *TERMS)),
    "mistral": Parts((*MISTRAL, *TERMS), FOLDERS, "params.json"),
}
PARALLEL = 4
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Request:
    """What to package, and where to.

    :param model: `org/model` of the hub, "" for a folder.
    :param folder: of a model's files, which stay as they are; where `model` is given, the place to download it to
        ("" for one that goes again).
    :param registry: where repositories are, such as `myregistry.azurecr.io/models`.
    :param name: of the preset: the image is `<registry>/kaito-<name>:<tag>`.
    :param tag: "" for the first 12 characters of the revision.
    :param licence: the identifier of the licence, "" for what the hub or the folder's model card says.
    :param gated: that it is gated, whatever the hub says.
    :param private: that only those can read the repository who may have the model.
    :param parts: "mistral" for Mistral's own files in place of the usual ones.
    """

    registry: str
    name: str
    model: str = ""
    revision: str = "main"
    folder: str = ""
    tag: str = ""
    licence: str = ""
    gated: bool = False
    private: bool = False
    parts: str = ""


def package(request: Request) -> dict[str, Any]:
    """Carry out a request; its result. Raises the contract's errors."""
    faults = _faults(request)
    if faults:
        raise UserConfigError("; ".join(faults) + ".")
    try:
        if request.folder:
            return _package(request, Path(request.folder))
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            return _package(request, Path(folder))
    except OSError as error:
        raise file_write_error(error, "the model's files") from error


def _faults(request: Request) -> list[str]:
    found = []
    if not request.model and not request.folder:
        found.append("name a model of the hub (--model org/name) or a folder of files (--folder)")
    if not _NAME.fullmatch(request.name):
        found.append(
            f"--name {request.name!r} is not a name for an image (lower-case letters, digits, . _ -)"
        )
    if request.parts not in PACKAGED:
        found.append(f"--parts {request.parts!r} is not one of {', '.join(filter(None, PACKAGED))}")
    if not request.model and not request.tag:
        found.append("a folder has no revision, so give --tag")
    if not request.model and request.folder and not Path(request.folder).is_dir():
        found.append(f"--folder {request.folder} is not a folder")
    return found


def reference_of(request: Request) -> ImageReference:
    """The image's name in KAITO's way; UserConfigError where it cannot be one."""
    tag = request.tag or request.revision[:12]
    return read_reference(f"{request.registry.rstrip('/')}/kaito-{request.name}:{tag}")


def _package(request: Request, folder: Path) -> dict[str, Any]:
    if request.model:
        card = hub.look_up(request.model, request.revision)
        request = replace(
            request,
            revision=card.revision,
            licence=request.licence or card.licence,
            gated=request.gated or card.gated,
        )
    else:
        request = replace(request, licence=request.licence or _licence_of(folder))
    reference = reference_of(request)
    client = connect(reference)
    check_publication(request, client)
    parts = PACKAGED[request.parts]
    if request.model:
        folder.mkdir(parents=True, exist_ok=True)
        hub.download(request.model, request.revision, folder, parts)
    with tempfile.TemporaryDirectory(prefix="package-") as staged:
        stage(folder, Path(staged), parts)
        image, pushed = _push_folder(client, request, Path(staged))
    log.info("%s %s", "pushed" if pushed else "already there:", reference.by_digest(image.digest))
    return {
        "image": str(reference),
        "digest": image.digest,
        "reference": reference.by_digest(image.digest),
        "files": len(image.files),
        "bytes": image.size,
        "licence": request.licence,
        "revision": request.revision if request.model else "",
        "pushed": pushed,
    }


def _push_folder(client: RegistryClient, request: Request, folder: Path) -> tuple[ModelImage, bool]:
    paths = sorted(folder.iterdir())
    log.info("reading %d files, %.0f MiB", len(paths), sum(path.stat().st_size for path in paths) / (1 << 20))
    with ThreadPoolExecutor(PARALLEL) as pool:
        image = build(pool.map(layer_of, paths), _notes(request))
    return image, push(client, image, folder)


def stage(folder: Path, target: Path, parts: Parts) -> None:
    """Lay a model's files out as they will be in the image, without a second copy of the weights.

    :param target: an empty folder: settings are copied there and made harmless, the rest are links.
    :raises UserDataError: the files are not a whole model, or not a harmless one.
    """
    for path in sorted(folder.iterdir()):
        if not parts.belongs(path.name) or not path.is_file():
            continue
        if path.suffix == ".json":
            shutil.copyfile(path, target / path.name)
        else:
            (target / path.name).symlink_to(path.resolve())
    strip_code(target)
    check(target, parts)


def check_publication(request: Request, client: RegistryClient) -> None:
    """Refuse to put a model where everybody can read it, unless its licence allows that.

    :raises UserConfigError: it does not.
    """
    why = may_be_public(request.licence, request.gated)
    if not why:
        return
    reference = client.reference
    inside = is_inside(reference)
    if not (inside or request.private or is_private_by_default(reference.registry)):
        raise UserConfigError(
            f"The model {request.model or request.name} is not pushed to {reference.name}: {why}, and nothing says "
            "that the registry is private. If only those who may have the model can read it there, say --private."
        )
    if not inside and anonymous_can_read(reference):
        raise UserConfigError(
            f"The model {request.model or request.name} is not pushed to {reference.name}: {why}, and the registry "
            "shows this repository to everybody. Make it private."
        )


def push(client: RegistryClient, image: ModelImage, folder: Path) -> bool:
    """Push what the registry does not have; False when the tag already means this very image.

    :param folder: with the image's files.
    """
    tag = client.reference.version
    if client.reported_digest(tag) == image.digest:
        return False
    log.info("pushing to %s", client.reference)
    _push_layers(client, image.files, folder)
    for content in image.configs:
        client.put_blob(sha256(content), lambda content=content: io.BytesIO(content))  # type: ignore[misc]
    for manifest in image.manifests:
        client.put_manifest(sha256(manifest), manifest)
    client.put_manifest(tag, image.index, OCI_INDEX)
    reported = client.reported_digest(tag)
    if reported != image.digest:
        raise TryAgain(
            f"The registry {client.reference.registry} reports {reported} for {client.reference} after "
            f"{image.digest} was pushed; somebody else may have pushed to the same tag."
        )
    return True


def _push_layers(client: RegistryClient, files: Sequence[LayerFile], folder: Path) -> None:
    def send(file: LayerFile) -> None:
        sent = put_big_blob(
            client,
            file.digest,
            file.layer_size,
            lambda start: LayerContent(folder / file.name, file, start),  # type: ignore[arg-type, return-value]
            meter.add,
        )
        if not sent:
            log.info("  %s is there already", file.name)
            meter.add(file.layer_size)

    with (
        Meter(sum(file.layer_size for file in files), "pushing") as meter,
        ThreadPoolExecutor(PARALLEL) as pool,
    ):
        running = [pool.submit(send, file) for file in sorted(files, key=lambda one: -one.size)]
        for one in running:
            try:
                one.result()
            except BaseException:
                for other in running:
                    other.cancel()
                raise


def _notes(request: Request) -> dict[str, str]:
    # The hub's own address, also where a mirror of it was asked: the same content is the same digest.
    source = f"{hub.ENDPOINT}/{request.model}" if request.model else ""
    known = {
        "org.opencontainers.image.title": f"kaito-{request.name}",
        "org.opencontainers.image.licenses": request.licence,
        "org.opencontainers.image.revision": request.revision if request.model else "",
        "org.opencontainers.image.source": source,
        "sh.kaito.model.name": request.name,
        "sh.kaito.model.id": request.model,
        "sh.kaito.model.gated": "true" if request.gated else "",
    }
    return {key: value for key, value in known.items() if value}


def _licence_of(folder: Path) -> str:
    """What the front matter of a folder's model card says, "" where there is none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:65536]
    except OSError:
        return ""
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1].lower() if found else ""
