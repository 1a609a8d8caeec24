"""What a usable weights folder is: which files belong to it, made harmless, checked, and marked complete.

The mark is written last and read first, so a pod that is killed while downloading leaves nothing that looks done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from include.workloads.contract import UserDataError, atomic_write
from include.workloads.safetensors_header import read_header

# Patterns of `snapshot_download`; `*` would also match a `/`, so folders are ignored by a pattern of their own:
# they hold copies for other runtimes (original/, onnx/), like the `consolidated` files.
ALLOWED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    # Without them vLLM does not start a model that reads images, sound or video as well, whatever it is asked.
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
IGNORED = ("*/*", "consolidated*")
# Mistral's own files, for a server that is told to read them: its config is params.json.
MISTRAL = (
    "consolidated*.safetensors",
    "consolidated*.safetensors.index.json",
    "params.json",
    "config.json",
    "generation_config.json",
    "tekken.json",
    "tokenizer.model*",
    "tokenizer*.json",
    "chat_template.jinja",
    "SYSTEM_PROMPT.txt",
)
FOLDERS = ("*/*",)
# What sentence-transformers adds to a model that embeds: how its tokens become one vector, layers behind that, and how
# many tokens it reads. A layer is a folder such as 1_Pooling; without it vLLM computes other vectors and says nothing.
SENTENCES = ("modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "*_*/config.json")
NO_MODULES = ("[!1-9]*/*", "[1-9][!_]*/*", "[1-9]/*", "[1-9]_[!A-Z]*/*", "*/*/*", "consolidated*")
MODULES = "[1-9]_[A-Z]*"
# What the dataset step needs to ask the model's chat template; config.json says which tokenizer it is.
TOKENIZER = tuple(pattern for pattern in ALLOWED if "safetensors" not in pattern)
# Files of data, not of settings: big, and never read as a configuration.
_DATA = ("tokenizer.json", "vocab.json", "added_tokens.json", "tekken.json")
MAX_SETTINGS_BYTES = 16 << 20
MARK = ".weights.json"
# Keys that make transformers import or download code: from the repository, or a kernel from the hub.
CODE_KEYS = frozenset(
    {
        "auto_map",
        "custom_pipelines",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
    }
)


@dataclass(frozen=True)
class Parts:
    """Which files of a repository are taken, by patterns, and what must be among them."""

    allowed: tuple[str, ...] = ALLOWED
    ignored: tuple[str, ...] = IGNORED
    config: str = "config.json"

    def belongs(self, name: str) -> bool:
        """Whether a file of a model repository, by its path in it, is one that we take."""
        return any(fnmatch(name, pattern) for pattern in self.allowed) and not any(
            fnmatch(name, pattern) for pattern in self.ignored
        )

    def sizes(self, folder: Path) -> dict[str, int]:
        """The files of a folder that we take, by their paths in it, with their bytes."""
        found = {
            path.relative_to(folder).as_posix(): path
            for pattern in ("*", f"{MODULES}/*")
            for path in folder.glob(pattern)
        }
        return {name: path.stat().st_size for name, path in sorted(found.items()) if self.belongs(name)}


# By the name in WEIGHTS_PARTS.
PARTS: Mapping[str, Parts] = {
    "": Parts(),
    "tokenizer": Parts(TOKENIZER),
    "mistral": Parts(MISTRAL, FOLDERS, "params.json"),
    "pooling": Parts((*ALLOWED, *SENTENCES), NO_MODULES),
}


def is_complete(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the folder holds exactly what `identity` names, finished and of the marked sizes."""
    try:
        mark = json.loads((folder / MARK).read_text())
        sizes = {name: (folder / name).stat().st_size for name in mark["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(mark.get("identity") == dict(identity) and sizes == mark["files"])


def complete(folder: Path, identity: Mapping[str, Any], parts: Parts = PARTS[""]) -> dict[str, int]:
    """Make a filled folder harmless, check it, mark it; its files with their bytes. UserDataError when unusable."""
    make_harmless(folder)
    check(folder, parts)
    files = parts.sizes(folder)
    atomic_write(folder / MARK, json.dumps({"identity": dict(identity), "files": files}).encode())
    return files


def make_harmless(folder: Path) -> None:
    """Take out what would make a library run or download code, and let other users read. UserDataError for no JSON."""
    strip_code(folder)
    _open_to_readers(folder)


def check_harmless(folder: Path) -> None:
    """UserDataError where `strip_code` would change something, of a folder that cannot be written."""
    for path in _settings_files(folder):
        if (document := _settings(path)) is not None and _without(document) != document:
            raise UserDataError(
                f"{path.name} of the model asks for code of its own ({', '.join(sorted(CODE_KEYS))}), which is not run."
            )


def strip_code(folder: Path) -> None:
    """Take out of the settings what would make a library run or download code. UserDataError for no JSON."""
    for path in _settings_files(folder):
        _strip_code_keys(path)


def _settings_files(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("*.json")), *sorted(folder.glob(f"{MODULES}/*.json"))]


def _open_to_readers(folder: Path) -> None:
    """Whoever fills the folder, the pods that mount it read it as another user."""
    folder.chmod(folder.stat().st_mode | 0o555)
    for path in [*folder.iterdir(), *folder.glob(f"{MODULES}/*")]:
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def check(folder: Path, parts: Parts = PARTS[""]) -> None:
    """UserDataError unless config, tokenizer and every shard are there and every header fits its file."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserDataError(
            "The model has no safetensors files; weights in .bin or .pt files are pickles, which can run code, "
            "and are not loaded. Choose a revision or a model with safetensors."
        )
    if not (folder / parts.config).is_file():
        kind = "transformers" if parts.config == "config.json" else "Mistral"
        raise UserDataError(f"The model has no {parts.config}; it is not a {kind} model.")
    if not any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "*.model", "tekken.json")):
        raise UserDataError("The model has no tokenizer files.")
    for index in folder.glob("*.safetensors.index.json"):
        missing = sorted(_shards(index) - {path.name for path in weights})
        if missing:
            raise UserDataError(
                f"The model is incomplete: {index.name} lists {missing[0]}, which is not there."
            )
    for path in [*weights, *sorted(folder.glob(f"{MODULES}/*.safetensors"))]:
        read_header(path)
    _check_modules(folder)


def _check_modules(folder: Path) -> None:
    """UserDataError where a layer that modules.json names is not there: vLLM would leave it out without a word."""
    if not (folder / "modules.json").is_file():
        return
    try:
        modules = [(str(one["type"]), str(one["path"])) for one in _settings(folder / "modules.json")]
    except (KeyError, TypeError):
        raise UserDataError("modules.json of the model is not a list of modules.") from None
    for kind, path in modules:
        needed = {"Pooling": "config.json", "Dense": "model.safetensors"}.get(kind.rpartition(".")[2])
        if needed and path and not (folder / path / needed).is_file():
            raise UserDataError(
                f"The model is incomplete: modules.json names {path}, and {path}/{needed} is not there."
            )


def _shards(index: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserDataError(f"{index.name} is not an index of safetensors files.") from None


def _strip_code_keys(path: Path) -> None:
    document = _settings(path)
    if document is not None and (stripped := _without(document)) != document:
        atomic_write(path, json.dumps(stripped, indent=2, ensure_ascii=False).encode())


def _settings(path: Path) -> Any:
    """A file of settings as its values; None for a file of data."""
    if path.name.endswith("index.json") or path.name in _DATA:
        return None
    if path.stat().st_size > MAX_SETTINGS_BYTES:
        raise UserDataError(
            f"{path.name} of the model has more than {MAX_SETTINGS_BYTES >> 20} MiB; settings are never that big."
        )
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserDataError(f"{path.name} of the model is not JSON.") from None


def _without(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in CODE_KEYS}
    if isinstance(value, list):
        return [_without(item) for item in value]
    return value
