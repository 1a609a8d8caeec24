"""The requests on objects: get, list, create, replace, patch, delete, and their plain subresources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sandbox.api.errors import ApiError, FieldError, bad_request, invalid, method_not_allowed
from sandbox.api.http import reviews
from sandbox.api.http.address import Address, need_namespace
from sandbox.api.http.listing import Page, listed
from sandbox.api.http.negotiation import body_of, encoded, flag
from sandbox.api.http.printing.forms import Former
from sandbox.api.http.watching import HttpWatch
from sandbox.api.meta import copied_object
from sandbox.api.writes import eviction, subresources
from sandbox.api.writes.options import WriteOptions
from sandbox.api.writes.patch import (
    APPLY_PATCHES,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_PATCH,
    patched,
)
from sandbox.api.writes.pipeline import from_storage
from sandbox.api.writes.strategies import strategy_of

if TYPE_CHECKING:
    from sandbox.api.cluster import Cluster
    from sandbox.api.http.authentication import Tokens, User
    from sandbox.api.http.fault_injection import FaultInjector

Json = dict[str, Any]

_PATCHES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, *APPLY_PATCHES)
_VIEWS = (None, "status", "resize", "ephemeralcontainers", "finalize")


@dataclass
class ObjectRequests:
    """Answers requests whose path names a resource."""

    cluster: Cluster
    fault_injector: FaultInjector
    tokens: Tokens

    async def answer(self, request: web.Request, address: Address, user: User) -> web.StreamResponse:
        method = request.method
        if address.name is None:
            return await self._collection(request, address, user)
        if address.subresource == "scale":
            return await self._scale(request, address)
        if address.subresource in ("binding", "eviction", "token"):
            return await self._action(request, address)
        if address.subresource not in _VIEWS:
            raise method_not_allowed()
        if method in ("GET", "HEAD"):
            return await self._get(request, address)
        if method == "PUT":
            return await self._replace(request, address)
        if method == "PATCH":
            return await self._patch(request, address)
        if method == "DELETE" and address.subresource is None:
            return await self._delete(request, address)
        raise method_not_allowed()

    async def _collection(self, request: web.Request, address: Address, user: User) -> web.StreamResponse:
        verb = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}.get(
            request.method
        )
        if verb is None or verb not in address.info.verbs:
            raise method_not_allowed()
        if verb == "list":
            return await self._list(request, address)
        need_namespace(address)
        if verb == "deletecollection":
            return await self._delete_collection(request, address)
        body = await self._body(request)
        if "list" not in address.info.verbs:
            return self._one(request, address, await self._review(address, body, user), 201)
        options = write_options(request)
        created = await self.cluster.create(address.info, body, address.namespace, options)
        return self._one(request, address, created, 201, options)

    async def _review(self, address: Address, body: Json, user: User) -> Json:
        if address.info.plural == "bindings":
            name = (body.get("metadata") or {}).get("name", "")
            return subresources.bind(self.cluster, (address.namespace or "default", name), body)
        return reviews.answered(address.info, body, user, self.tokens, self.cluster)

    @staticmethod
    async def _body(request: web.Request) -> Json:
        body = await body_of(request)
        if not isinstance(body, dict):
            raise bad_request("the body of the request must be one object")
        return body

    # reading

    async def _get(self, request: web.Request, address: Address) -> web.StreamResponse:
        if flag(request.query, "watch"):
            return await self._watch(request, address)
        obj = from_storage(address.info, self.cluster.stored(address.info, address.key))
        return self._one(request, address, obj)

    async def _watch(self, request: web.Request, address: Address) -> web.StreamResponse:
        former = Former(request, address.info)
        return await HttpWatch(
            self.cluster, address, request, former.watch_shape(), self.fault_injector
        ).run()

    async def _list(self, request: web.Request, address: Address) -> web.StreamResponse:
        if flag(request.query, "watch"):
            return await self._watch(request, address)
        page = listed(self.cluster, address, request.query)
        return self._page(request, address, page)

    @staticmethod
    def _page(request: web.Request, address: Address, page: Page) -> web.StreamResponse:
        former = Former(request, address.info)
        if former.form.shape or former.form.yaml or former.form.pretty or address.info.conversion:
            objects = [from_storage(address.info, entry.obj) for entry in page.entries]
            body, media = encoded(former.list(objects, page.metadata()), former.form)
            return web.Response(body=body, content_type=media)
        head = {
            "kind": address.info.list_name,
            "apiVersion": address.info.api_version,
            "metadata": page.metadata(),
        }
        start = json.dumps(head, separators=(",", ":"))[:-1].encode()
        items = b",".join(former.item_text(entry) for entry in page.entries)
        return web.Response(body=start + b',"items":[' + items + b"]}\n", content_type="application/json")

    def _one(
        self,
        request: web.Request,
        address: Address,
        obj: Json,
        status: int = 200,
        options: WriteOptions | None = None,
    ) -> web.Response:
        former = Former(request, address.info)
        body, media = encoded(former.one(obj), former.form)
        response = web.Response(body=body + b"\n", status=status, content_type=media)
        for text in dict.fromkeys([*(options.warnings if options else ()), *_deprecations(address)]):
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{escaped}"')
        return response

    # writing

    async def _replace(self, request: web.Request, address: Address) -> web.StreamResponse:
        body, options = await self._body(request), write_options(request, needs_version=True)
        _check_name(body, address)
        if self._may_create(address):
            created = await self.cluster.create(address.info, body, address.namespace, options)
            return self._one(request, address, created, 201, options)
        new = self.cluster.change_now(address.info, address.key, lambda _: body, _view(address), options)
        return self._one(request, address, new, 200, options)

    def _may_create(self, address: Address) -> bool:
        """Some kinds are made by a PUT to where nothing is."""
        absent = self.cluster.storage.get(address.info.key, address.key) is None
        return absent and address.subresource is None and strategy_of(address.info.key).creates_on_update

    async def _patch(self, request: web.Request, address: Address) -> web.StreamResponse:
        media = request.content_type
        if media not in _PATCHES:
            raise _unsupported_patch(address)
        if media == STRATEGIC_PATCH and address.info.custom is not None:
            raise _unsupported_patch(address)
        body = await body_of(request)
        options = write_options(request, form="apply" if media in APPLY_PATCHES else "patch")
        if media not in APPLY_PATCHES:
            new = self.cluster.change_now(
                address.info,
                address.key,
                lambda current: patched(address.info, current, body, media),
                _view(address),
                options,
            )
            return self._one(request, address, new, 200, options)
        if not request.query.get("fieldManager"):
            fault = FieldError("fieldManager", "FieldValueRequired", "", "is required for apply patch")
            raise invalid("PatchOptions", "meta.k8s.io", "", [fault])
        existed = self.cluster.storage.get(address.info.key, address.key) is not None
        new = self.cluster.apply_now(address.info, address.key, body, _view(address), options)
        return self._one(request, address, new, 200 if existed else 201, options)

    async def _delete(self, request: web.Request, address: Address) -> web.StreamResponse:
        options, dry_run = await _delete_options(request)
        answer = self.cluster.delete_now(address.info, address.key, options, dry_run)
        if answer.get("kind") != "Status":
            answer = from_storage(address.info, answer)
        lingers = self.cluster.storage.get(address.info.key, address.key) is not None
        slow = options.get("orphanDependents") is False or options.get("propagationPolicy") == "Foreground"
        return self._one(request, address, answer, 202 if lingers and slow and not dry_run else 200)

    async def _delete_collection(self, request: web.Request, address: Address) -> web.StreamResponse:
        options, dry_run = await _delete_options(request)
        page = listed(self.cluster, address, {k: v for k, v in request.query.items() if k != "limit"})
        for entry in page.entries:
            meta = entry.obj["metadata"]
            try:
                self.cluster.delete_now(
                    address.info, (meta.get("namespace", ""), meta["name"]), dict(options), dry_run
                )
            except ApiError as error:
                if error.code != 404:
                    raise
        return self._page(request, address, page)

    # subresources

    async def _scale(self, request: web.Request, address: Address) -> web.StreamResponse:
        info, key, options = address.info, address.key, write_options(request)
        if request.method == "GET":
            scale = subresources.scale_of(info, from_storage(info, self.cluster.stored(info, key)))
        elif request.method == "PUT":
            body = await self._body(request)
            scale = subresources.set_scale(self.cluster, info, key, lambda _: body, options)
        elif request.method == "PATCH":
            patch, media = await body_of(request), request.content_type
            media = MERGE_PATCH if media in (*APPLY_PATCHES, STRATEGIC_PATCH) else media
            scale = subresources.set_scale(
                self.cluster, info, key, lambda current: patched(info, current, patch, media), options
            )
        else:
            raise method_not_allowed()
        return web.json_response(scale)

    async def _action(self, request: web.Request, address: Address) -> web.StreamResponse:
        if request.method != "POST":
            raise method_not_allowed()
        body = await self._body(request)
        if address.subresource == "binding":
            answer = subresources.bind(self.cluster, address.key, body)
        elif address.subresource == "eviction":
            dry_run = _dry_run(request.query.getall("dryRun", []))
            answer = eviction.evict(self.cluster, address.key, body, dry_run)
        else:
            answer = subresources.token(self.cluster, address.key, body, self.tokens.issue)
        return web.json_response(answer, status=201)


def _view(address: Address) -> str | None:
    """Which part of the object a path may write; resize and finalize write the whole."""
    return address.subresource if address.subresource == "status" else None


def _check_name(body: Json, address: Address) -> None:
    name = (body.get("metadata") or {}).get("name")
    if name and name != address.name:
        raise bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({address.name})"
        )


def _unsupported_patch(address: Address) -> ApiError:
    accepted = [media for media in (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCHES[0])]
    if address.info.custom is not None:
        accepted.remove(STRATEGIC_PATCH)
    listed_types = ", ".join(accepted)
    message = (
        f"the body of the request was in an unknown format - accepted media types include: {listed_types}"
    )
    return ApiError(415, "UnsupportedMediaType", message)


def _deprecations(address: Address) -> list[str]:
    warning = address.info.custom.deprecation if address.info.custom is not None else ""
    return [warning] if warning else []


def write_options(request: web.Request, needs_version: bool = False, form: str = "body") -> WriteOptions:
    """The query's fieldManager, fieldValidation, force and dryRun; raises ApiError for values there are not."""
    query = request.query
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Ignore", "Warn", "Strict"):
        supported = 'supported values: "Ignore", "Strict", "Warn"'
        fault = FieldError("fieldValidation", "FieldValueNotSupported", validation, supported)
        raise invalid("CreateOptions", "meta.k8s.io", "", [fault])
    manager = query.get("fieldManager") or request.headers.get("User-Agent", "unknown").split("/")[0]
    return WriteOptions(
        manager=manager[:128],
        dry_run=_dry_run(query.getall("dryRun", [])),
        force=flag(query, "force"),
        validation=validation,
        form=form,
        needs_version=needs_version,
    )


def _dry_run(values: list[str]) -> bool:
    if any(value not in ("All", "") for value in values):
        fault = FieldError("dryRun", "FieldValueNotSupported", values, 'supported values: "All"')
        raise invalid("CreateOptions", "meta.k8s.io", "", [fault])
    return "All" in values


async def _delete_options(request: web.Request) -> tuple[Json, bool]:
    """DeleteOptions from the body, or else from the query; and whether it is a dry run."""
    body = await body_of(request)
    options = copied_object(body) if isinstance(body, dict) else {}
    query = request.query
    if not options:
        if "gracePeriodSeconds" in query:
            options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        if "propagationPolicy" in query:
            options["propagationPolicy"] = query["propagationPolicy"]
        if "orphanDependents" in query:
            options["orphanDependents"] = query["orphanDependents"] == "true"
    return options, _dry_run([*query.getall("dryRun", []), *(options.pop("dryRun", None) or ())])
