"""Which files of a hub's dataset are one split of one subset, at one commit.

The dataset's card says it (`configs`), as the hub's own library reads it; without, the names of files and folders do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from include.contracts.dataset_urls import HubDataset, parse_url
from include.contracts.faults import did_you_mean
from include.workloads.contract import UserConfigError, UserDataError
from include.workloads.dataset.connection import PassingFault, shown
from include.workloads.dataset.sniff import ACCEPTED, METADATA, PACKED_SUFFIXES, SUFFIXES
from include.workloads.dataset.store_client import Opens

TRAIN, DEFAULT = "train", "default"
MAX_INFO = 32 << 20
MAX_FILES = 10_000
#: By split, the words for it in names of files, as the hub's library takes them.
_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def expand(client: Opens, url: str) -> list[str]:
    """The URLs of the files that a URL means: itself, or those of a hub's dataset at the commit it has now.

    Raises PassingFault, UserConfigError or UserDataError.
    """
    found = parse_url(url)
    if not isinstance(found, HubDataset) or not found.is_listing:
        return [url]
    info = _info(client, url)
    commit = str(info.get("sha") or found.revision)
    names = [
        str(one.get("rfilename") or "") for one in info.get("siblings") or () if isinstance(one, Mapping)
    ]
    files = chosen(found, names, info.get("cardData"), shown(url))
    return [found.file(name, commit) for name in files]


def commit_of(client: Opens, url: str) -> str:
    """The commit that a hub's dataset is at now, "" where the hub does not say it. Raises as `expand`."""
    return str(_info(client, url).get("sha") or "")


def _info(client: Opens, url: str) -> Mapping[str, Any]:
    answer = client.open(url, {"Accept": "application/json"})
    try:
        text = answer.read(MAX_INFO)
        info = json.loads(text)
    except ValueError:
        info = None
    finally:
        answer.close()
    if not isinstance(info, dict):
        raise PassingFault("the hub gave no description of the dataset")
    return info


def chosen(found: HubDataset, names: Sequence[str], card: Any, asked: str) -> list[str]:
    """The files of the folder, pattern, or split and subset that a URL asks for, in the order of their names.

    :param names: of all files of the dataset.
    :param card: what the dataset's card says, as the hub gives it.
    :param asked: the URL for messages.
    """
    usable = sorted(name for name in names if is_data(name))
    if found.path:
        return _some([name for name in usable if found.means(name)], asked)
    subsets = _subsets(card, usable)
    subset = _one_of(subsets, found.subset, _default(subsets, card), "subset", asked)
    splits = subsets[subset]
    split = _one_of(splits, found.split, TRAIN, "split", asked)
    files = splits[split]
    if not files:
        raise UserDataError(f"{asked} has no file in {ACCEPTED} for its split {split!r}.")
    return _some(files, asked)


def _some(files: list[str], asked: str) -> list[str]:
    if not files:
        raise UserDataError(f"{asked} means no file in {ACCEPTED}.")
    if len(files) > MAX_FILES:
        raise UserDataError(f"{asked} is more than {MAX_FILES} files; name those that are wanted.")
    return files


def _one_of(known: Mapping[str, object], wanted: str, default: str, what: str, asked: str) -> str:
    if wanted in known:
        return wanted
    if not wanted and (default in known or len(known) == 1):
        return default if default in known else next(iter(known))
    if not known:
        raise UserDataError(f"{asked} has no file in {ACCEPTED}.")
    if wanted:
        raise UserConfigError(f"{asked} has no {what} {wanted!r}; {did_you_mean(wanted, known)}.")
    raise UserConfigError(
        f"{asked} has several of {what}: write ?{what}= and one of {', '.join(sorted(known))}."
    )


def _subsets(card: Any, usable: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """By subset and split, the files."""
    configs = card.get("configs") if isinstance(card, Mapping) else None
    told = {
        str(one.get("config_name") or DEFAULT): _told(one, usable)
        for one in configs or ()
        if isinstance(one, Mapping) and (one.get("data_files") or one.get("data_dir"))
    }
    if told:
        return told
    by_split = _by_words(usable)
    found = {DEFAULT: by_split} if usable else {}
    folders = dict.fromkeys(name.partition("/")[0] for name in usable if name.count("/"))
    for folder in folders:
        if folder not in ("data", *_WORDS):
            found[folder] = _by_words([name for name in usable if name.startswith(f"{folder}/")])
    return found


def _default(subsets: Mapping[str, object], card: Any) -> str:
    configs = card.get("configs") if isinstance(card, Mapping) else None
    for one in configs or ():
        if isinstance(one, Mapping) and one.get("default") is True:
            return str(one.get("config_name") or DEFAULT)
    return DEFAULT if DEFAULT in subsets else ""


def _told(config: Mapping[str, Any], usable: Sequence[str]) -> dict[str, list[str]]:
    folder = str(config.get("data_dir") or "").strip("/")
    within = [name for name in usable if not folder or name.startswith(f"{folder}/")]
    if not config.get("data_files"):
        return _by_words(within)
    found: dict[str, list[str]] = {}
    for split, patterns in _data_files(config["data_files"]):
        matched = [name for pattern in patterns for name in _matching(pattern, folder, usable)]
        found[split] = list(dict.fromkeys([*found.get(split, []), *matched]))
    return found


def _data_files(given: Any) -> Iterator[tuple[str, list[str]]]:
    """(split, patterns) of each of a card's shapes: one pattern, several, by split, or a list of splits."""
    if isinstance(given, Mapping):
        yield from ((str(split), _texts(patterns)) for split, patterns in given.items())
    elif isinstance(given, list) and any(isinstance(one, Mapping) for one in given):
        for one in given:
            if isinstance(one, Mapping):
                yield str(one.get("split") or TRAIN), _texts(one.get("path"))
    else:
        yield TRAIN, _texts(given)


def _texts(given: Any) -> list[str]:
    if isinstance(given, str):
        return [given]
    return [one for one in given if isinstance(one, str)] if isinstance(given, list) else []


def _matching(pattern: str, folder: str, names: Iterable[str]) -> list[str]:
    from fsspec.utils import glob_translate

    whole = re.compile(glob_translate(f"{folder}/{pattern}" if folder else pattern.removeprefix("./")))
    return [name for name in names if whole.match(name)]


def _by_words(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if split := _split_of(name):
            found.setdefault(split, []).append(name)
    # No name says anything: all of it is for training.
    return found or ({TRAIN: list(names)} if names else {})


def _split_of(name: str) -> str:
    parts = set(re.split(r"[^a-z]+", name.lower()))
    return next((split for split, words in _WORDS.items() if parts & set(words)), "")


def is_data(name: str) -> bool:
    """Whether a file of this name is one of a dataset: by its suffix, not hidden, and not a tool's."""
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts) or path.name in METADATA:
        return False
    named = path.with_suffix("") if path.suffix.lower() in PACKED_SUFFIXES else path
    return named.suffix.lower() in SUFFIXES
