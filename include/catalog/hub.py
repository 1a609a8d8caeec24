"""Models that the catalogue does not hold, by their hub id: what the hub says about them becomes a Model record.

KAITO takes any `org/model`; so do we, with the commit pinned at the first look, so that all later tasks use the same
weights. It must never run while a DAG file is parsed, nor in a check that did not ask for it, and it takes no model
whose weights are pickles or which needs code of its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from include.catalog.architectures import TARGET_MODULES, loadable
from include.catalog.config_json import Facts, Unreadable, read_config
from include.catalog.engines import vllm_facts
from include.catalog.hub_http import (
    Answer,
    Fetch,
    HubAnswerRefused,
    HubError,
    HubUnreachable,
    check_endpoint,
    http_fetch,
)
from include.catalog.models import GIB, Model, Tuning
from include.contracts.revisions import is_commit, is_revision

HUB = "https://huggingface.co"
INFO_MAX, CONFIG_MAX, INDEX_MAX = 16 << 20, 4 << 20, 64 << 20  # bytes
LISTED = 12  # architectures that a refusal names
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,94}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
SHORT_NAME = 63  # it becomes a label's value and a folder
# What sentence-transformers adds to a model: how its tokens become one vector, and how many it reads at most.
POOLING_MODULE, SENTENCES = re.compile(r"[^/]+_Pooling/config\.json"), "sentence_bert_config.json"
BYTES = {"F64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}

__all__ = [
    "HubAnswerRefused",
    "HubError",
    "HubUnreachable",
    "ModelNotFound",
    "NeedsRemoteCode",
    "NeedsToken",
    "NoSafetensors",
    "UnsupportedArchitecture",
    "commit_of",
    "could_be_on_the_hub",
    "resolve",
]


class ModelNotFound(HubError):
    """The hub has no such model or revision, or hides it."""


class NeedsToken(HubError):
    """The model is gated or private, and the token (or its absence) does not open it."""


class NoSafetensors(HubError):
    """The model's weights are pickles, GGUF or another format that is not loaded."""


class UnsupportedArchitecture(HubError):
    """Neither runtime can load this kind of model."""


class NeedsRemoteCode(HubError):
    """The model only loads with Python code of its repository, which is never run."""


def could_be_on_the_hub(name: str) -> bool:
    """Whether a preset name has the form of a hub id, `org/model`."""
    return NAME.fullmatch(name) is not None and ".." not in name and "--" not in name


def resolve(
    name: str,
    *,
    revision: str = "main",
    token: str | None = None,
    endpoint: str | None = None,
    fetch: Fetch = http_fetch,
) -> Model:
    """Ask the hub for a model and pin it to the commit that `revision` is now.

    :param name: hub id, `org/model`.
    :param token: a hub token for gated and private models; it is sent to the hub only.
    :param endpoint: the hub's or a mirror's address; default: the environment's HF_ENDPOINT, else huggingface.co.
    :param fetch: how to GET; for tests.
    :returns: a record like those of presets/models; `weights_gib` is the size of the files, whatever their precision.
    :raises HubError: its class says why not, its text says so in a sentence.
    """
    hub = _hub(name, revision, token, endpoint, fetch)
    info = hub.info(revision, "?blobs=true")
    commit, hf_id = str(info.get("sha")), str(info.get("id"))
    listed = _listed(info)
    files = _weight_files(listed, hf_id)
    place = f"{hf_id}/resolve/{commit}"
    config = hub.json(f"{place}/config.json", CONFIG_MAX, commit)
    facts = _facts(config, hf_id)
    if pools := facts.architecture in vllm_facts().pooling or _has_pooling_module(listed):
        facts = replace(facts, **_of_pooling(facts, listed, hub, place))
    size = _size(info, files, hub, f"{place}/model.safetensors.index.json")
    model = _model(name, hf_id, commit, info, facts, size)
    return replace(model, pooling=True, tuning=Tuning()) if pools else model


def _has_pooling_module(listed: Iterable[str]) -> bool:
    """Whether vLLM takes the model for a sentence embedding, whatever its class (its get_pooling_config)."""
    return "modules.json" in listed and any(POOLING_MODULE.fullmatch(name) for name in listed)


def _of_pooling(facts: Facts, listed: Container[str], hub: _Hub, place: str) -> dict[str, Any]:
    """What is otherwise with a model that embeds: an encoder has no KV cache, and a file may say a shorter context."""
    found: dict[str, Any] = {}
    if facts.architecture in vllm_facts().encoders:
        found["kv_bytes_per_token"] = 0
    if SENTENCES in listed:
        longest = hub.json(f"{place}/{SENTENCES}", CONFIG_MAX, "").get("max_seq_length")
        if isinstance(longest, int) and 0 < longest <= facts.context:
            found["context"] = longest
    return found


def commit_of(
    name: str,
    *,
    revision: str = "main",
    token: str | None = None,
    endpoint: str | None = None,
    fetch: Fetch = http_fetch,
) -> str:
    """The commit that a branch or tag of a model's repository is now; parameters and errors as for `resolve`."""
    return str(_hub(name, revision, token, endpoint, fetch).info(revision)["sha"])


def _hub(name: str, revision: str, token: str | None, endpoint: str | None, fetch: Fetch) -> _Hub:
    if not could_be_on_the_hub(name) or not is_revision(revision):
        raise ModelNotFound(f"{name!r} at {revision!r} is not a hub id like org/model with a revision.")
    return _Hub(check_endpoint(endpoint or os.environ.get("HF_ENDPOINT") or HUB), name, token, fetch)


class _Hub:
    """The hub as seen by one lookup: turns answers into JSON, and refusals into sentences."""

    def __init__(self, endpoint: str, name: str, token: str | None, fetch: Fetch) -> None:
        self.endpoint, self.name, self.token, self.fetch = endpoint, name, token, fetch

    def info(self, revision: str, query: str = "") -> Mapping[str, Any]:
        """What the hub says of a revision; it has a commit (`sha`) and a hub id (`id`)."""
        found = self.json(
            f"api/models/{self.name}/revision/{quote(revision, safe='')}{query}", INFO_MAX, revision
        )
        if not is_commit(str(found.get("sha"))) or not could_be_on_the_hub(str(found.get("id"))):
            raise HubAnswerRefused(f"The hub's answer about {self.name} has no commit or no model id.")
        return found

    def json(self, path: str, limit: int, revision: str) -> Mapping[str, Any]:
        answer = self.fetch(f"{self.endpoint}/{path}", self.token, limit)
        if answer.status != 200:
            raise self._refusal(answer, path, revision)
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise HubAnswerRefused(f"The hub's answer to {path.partition('?')[0]} is not a JSON object.")
        return document

    def _refusal(self, answer: Answer, path: str, revision: str) -> HubError:
        code = answer.headers.get("x-error-code", "")
        given = "the token that was given does not open it" if self.token else "no token was given"
        open_it = "name a Secret whose key HF_TOKEN opens it as presetOptions.modelAccessSecret"
        if code == "GatedRepo" or answer.status == 403:
            return NeedsToken(
                f"{self.name} is gated and {given}: accept its terms on the hub, then {open_it}."
            )
        if code == "RevisionNotFound":
            return ModelNotFound(f"{self.name} has no revision {revision}.")
        if path.endswith("config.json") and (code == "EntryNotFound" or answer.status == 404):
            return UnsupportedArchitecture(f"{self.name} has no config.json: it is not a transformers model.")
        if answer.status in (401, 404) and code in ("", "RepoNotFound"):
            # The hub says 401 for what is not there, too, so that private names stay private.
            return ModelNotFound(
                f"The hub has no model {self.name}, or it is private and {given}: check the name, or {open_it}."
            )
        if answer.status == 401:
            return NeedsToken(f"The hub does not let {self.name} be read, and {given}: {open_it}.")
        return HubUnreachable(f"The hub answered {answer.status} when asked for {self.name}.")


def _listed(info: Mapping[str, Any]) -> dict[str, Any]:
    """The files of a repository, with their bytes where the hub says them."""
    siblings = info.get("siblings")
    return {
        str(file.get("rfilename")): file.get("size")
        for file in (siblings if isinstance(siblings, list) else [])
        if isinstance(file, Mapping)
    }


def _weight_files(listed: Mapping[str, Any], hf_id: str) -> dict[str, int | None]:
    """The safetensors files that are loaded, with their bytes where the hub says them."""
    result = {
        name: size if isinstance(size, int) and size > 0 else None
        for name, size in listed.items()
        if name.endswith(".safetensors") and "/" not in name and not name.startswith("consolidated")
    }
    if not result:
        others = sorted(
            {name.rpartition(".")[2] for name in listed if name.endswith((".bin", ".gguf", ".pt", ".pth"))}
        )
        instead = (
            f"only .{', .'.join(others)} files" if others else "none in the form that transformers reads"
        )
        raise NoSafetensors(
            f"{hf_id} has no safetensors weights, {instead}; pickles can run code and are not loaded. "
            "Choose a revision or a copy with safetensors."
        )
    return result


def _facts(config: Mapping[str, Any], hf_id: str) -> Facts:
    """What its config.json says, if one of the runtimes can load such a model without code of its repository."""
    model_type = str(config.get("model_type") or "")
    architectures = config.get("architectures")
    named = ", ".join(map(str, architectures)) if isinstance(architectures, list) else ""
    kind = named[:100] or model_type[:100] or "of no known kind"
    architecture = _first_architecture(config)
    known_to_vllm = architecture in vllm_facts().served
    if model_type not in loadable() and not (known_to_vllm and model_type in vllm_facts().config_types):
        if known_to_vllm or config.get("auto_map"):
            raise NeedsRemoteCode(
                f"{hf_id} ({kind}) loads only with Python code from its repository, which is never run here."
            )
        raise UnsupportedArchitecture(
            f"{hf_id} is {kind}, which no runtime serves: vLLM {vllm_facts().version} has "
            f"{len(vllm_facts().architectures)} architectures that write text and {len(vllm_facts().pooling)} that "
            f"embed, rank or score it{_like(architecture)}."
        )
    try:
        return read_config(config)
    except Unreadable as error:
        raise UnsupportedArchitecture(
            f"The memory of {hf_id} ({kind}) cannot be estimated: {error}."
        ) from None


def _first_architecture(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def _like(architecture: str) -> str:
    """Architectures of the same family, for a refusal."""
    family = re.match(r"[A-Z][a-z]{2,}", architecture)
    same = sorted(name for name in vllm_facts().served if family and name.startswith(family[0]))
    return f", of this family {', '.join(same[:LISTED])}" if same else ""


def _size(info: Mapping[str, Any], files: Mapping[str, int | None], hub: _Hub, index_path: str) -> int:
    """Bytes of the weights: of the files, else by the index of the shards, else by the count of each type."""
    sizes = list(files.values())
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        return sum(known)
    if len(files) > 1:  # a mirror that lists no sizes
        metadata = hub.json(index_path, INDEX_MAX, "").get("metadata")
        total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    else:
        total = _by_type(info)
    if not isinstance(total, int) or total <= 0:
        raise HubAnswerRefused(f"The hub does not say how large the weights of {hub.name} are.")
    return total


def _by_type(info: Mapping[str, Any]) -> int | None:
    safetensors = info.get("safetensors")
    counts = safetensors.get("parameters") if isinstance(safetensors, Mapping) else None
    sized = counts.items() if isinstance(counts, Mapping) else ()
    return sum(count * BYTES.get(str(kind), 2) for kind, count in sized if isinstance(count, int)) or None


def _model(name: str, hf_id: str, commit: str, info: Mapping[str, Any], facts: Facts, size: int) -> Model:
    known = facts.architecture in TARGET_MODULES or facts.architecture in vllm_facts().served
    architecture = facts.architecture if known else loadable()[facts.model_type]
    modules = TARGET_MODULES.get(architecture, ()) if facts.shape and not facts.quantization else ()
    safetensors = info.get("safetensors")
    total = safetensors.get("total") if isinstance(safetensors, Mapping) else None
    return Model(
        name=short_name(hf_id),
        hf_id=hf_id,
        revision=commit,
        status="current",
        architecture=architecture,
        parameters=_in_words(total) if isinstance(total, int) and total > 0 else None,
        weights_gib=size / GIB,
        context=facts.context,
        attention=facts.attention,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        dtype=facts.dtype,
        quantization=facts.quantization,
        licence=_licence(info),
        gated=info.get("gated") not in (False, None) or info.get("private") is True,
        aliases=(name,) if name.lower() != hf_id.lower() else (),
        shape=facts.shape,
        tuning=Tuning(supported=bool(modules), target_modules=modules),
    )


def short_name(hf_id: str) -> str:
    """The end of the hub id as KAITO takes it, fit for a label's value and a folder."""
    short = re.sub(r"[^a-z0-9.-]", "-", hf_id.rpartition("/")[2].lower())
    return short[:SHORT_NAME].strip("-.") or "model"


def _in_words(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 10**9 else f"{parameters / 1e6:.0f}M"


def _licence(info: Mapping[str, Any]) -> str | None:
    tags = info.get("tags")
    for tag in tags if isinstance(tags, list) else []:
        if isinstance(tag, str) and tag.startswith("license:"):
            return tag.removeprefix("license:")[:64]
    return None
