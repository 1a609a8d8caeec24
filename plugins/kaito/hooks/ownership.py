"""Whose an object is, and how one of ours is written: the only way in which this project applies objects.

A forced server-side apply takes fields over from whoever set them, and our owner reference would make the object go
with its Workspace. So what stands under the name is looked at first, the write is bound to that very object, and one
that appeared in between is given back. Each sequence of requests is a generator that both hooks drive, so that they
cannot drift apart: it yields requests, gets answers (None for a GET without an object) and is told of errors.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import Any

from include.workspace.api import names
from kaito.hooks import api
from kaito.hooks.api import ClusterError, Kind, Request

Object = Mapping[str, Any]
Steps = Generator[Request, Any, Any]

ATTEMPTS = 8
OF_A_WORKSPACE = (names.WORKSPACE, names.WORKSPACE_NAMESPACE)


class ForeignObject(ClusterError):
    """Something of another owner stands where one of ours must. It is never written, adopted or deleted."""

    def __init__(self, kind: Kind, manifest: Object, owner: str) -> None:
        name = manifest["metadata"]["name"]
        message = (
            f"{kind.name} {name} exists and belongs to {owner}; it is not touched. Remove it, or give the Workspace "
            "another name."
        )
        super().__init__(422, "ForeignObject", message)


def controller(obj: Object) -> Mapping[str, Any] | None:
    """The owner reference of whoever controls an object."""
    owners = obj["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def other_owner(live: Object, manifest: Object) -> str:
    """Say to whom an object belongs if it is not the Workspace that a manifest is for; "" when it is.

    Ours is what that very Workspace controls (by uid) and no label gives to another one; without namespaces there are
    no owners, and the labels decide. A manifest that is for no Workspace has nothing to lose.
    """
    wanted, has = _labels(manifest), _labels(live)
    owner = controller(manifest)
    if owner is not None:
        told = controller(live)
        if told is None:
            return "nobody that we know"
        if told.get("uid") != owner.get("uid"):
            return f"{told.get('kind')} {told.get('name')}, uid {told.get('uid')}"
        strange = [
            key for key in OF_A_WORKSPACE if key in wanted and has.get(key, wanted[key]) != wanted[key]
        ]
    else:
        strange = [key for key in OF_A_WORKSPACE if key in wanted and has.get(key) != wanted[key]]
    return f"{', '.join(f'{key}={has.get(key)}' for key in strange)}" if strange else ""


def refuse_foreign(kind: Kind, live: Object | None, manifest: Object) -> None:
    """Raise ForeignObject when an object is not ours to write."""
    if live is not None and (owner := other_owner(live, manifest)):
        raise ForeignObject(kind, manifest, owner)


def applying(kind: Kind, manifest: Object, *, force: bool) -> Steps:
    """Apply an object: one that is not there is made, one of ours is written, any other is refused.

    :raises ForeignObject: it is not ours.
    """
    if controller(manifest) is None and not set(OF_A_WORKSPACE) & set(_labels(manifest)):
        return (yield api.apply(kind, manifest, force=force))  # no child of a Workspace
    metadata = manifest["metadata"]
    for _ in range(ATTEMPTS):
        live = yield api.get(kind, metadata["name"], metadata.get("namespace") if kind.namespaced else None)
        refuse_foreign(kind, live, manifest)
        guards = {key: live["metadata"].get(key) for key in ("uid", "resourceVersion")} if live else {}
        guarded = {**manifest, "metadata": {**metadata, **{key: at for key, at in guards.items() if at}}}
        try:
            # Not by force where there was nothing: somebody else's values are then a conflict.
            made = yield api.apply(kind, guarded, force=force and live is not None)
        except ClusterError as error:
            if error.status != 409:
                raise
            continue  # another object or another version by now: look again
        if live is None and (writer := _another_writer(made)):
            yield _give_back(kind, made)
            raise ForeignObject(kind, manifest, writer)
        return made
    raise ClusterError(409, "Conflict", f"{kind.name} {metadata['name']}: somebody else keeps writing it.")


def after_error(steps: Steps, request: Request, error: ClusterError) -> Callable[[], Request]:
    """Return the next move of a sequence whose request was refused: what is not there is an answer to a GET."""
    if error.status == 404 and request.method == "GET":
        return partial(steps.send, None)
    return partial(steps.throw, error)


def _another_writer(made: Object) -> str:
    """Who else has written an object that we have just made; "" when it was not there before."""
    entries = made["metadata"].get("managedFields") or ()
    others = [e for e in entries if e.get("manager") != api.FIELD_MANAGER and not e.get("subresource")]
    return str(others[0].get("manager")) if others else ""


def _give_back(kind: Kind, made: Object) -> Request:
    """Take back all that we alone have written to an object: labels and owner reference."""
    metadata = {
        key: made["metadata"][key] for key in ("name", "namespace", "uid") if made["metadata"].get(key)
    }
    return api.apply(kind, {"metadata": metadata}, force=False)


def getting_or_creating(kind: Kind, manifest: Object) -> Steps:
    """Return the object of that name and whether it was made now.

    What has no namespace is judged by whoever makes machines, who knows more of it than its labels.

    :raises ForeignObject: an object of that name is controlled by somebody else, or by nobody.
    """
    metadata = manifest["metadata"]
    for _ in range(2):
        try:
            return (yield api.create(kind, manifest)), True
        except ClusterError as error:
            if error.reason != "AlreadyExists":
                raise
        existing = yield api.get(
            kind, metadata["name"], metadata.get("namespace") if kind.namespaced else None
        )
        if existing is not None:  # else it was deleted between the two calls
            if controller(manifest) is not None:
                refuse_foreign(kind, existing, manifest)
            return existing, False
    raise ClusterError(
        409, "Conflict", f"{kind.name} {metadata['name']}: somebody else makes and deletes it."
    )
