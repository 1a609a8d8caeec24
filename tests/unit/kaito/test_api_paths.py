"""No name can reach another path: whatever a Workspace names, a request goes where its kind and scope say, or nowhere.

A path is read here as the API server reads it: decoded and cleaned, after each client has normalised it its own way.
"""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kaito.hooks import api
from kaito.hooks.api import CONFIG_MAP, NODE, POD, SECRET, WORKSPACE, ClusterError, Kind
from urllib3.util import parse_url
from yarl import URL

SNEAKY = [
    "..",
    ".",
    "",
    "/",
    "%2e%2e",
    "%2F",
    "a/../b",
    "../../team-b/configmaps/c",
    "a?watch=true",
    "a#b",
    "a\n",
]
# Whole texts of anything, and texts made of what has a meaning in a path.
TEXTS = st.text(max_size=20) | st.lists(st.sampled_from([*SNEAKY, "a", "%", "é", " "]), max_size=4).map(
    "".join
)


def as_the_server_reads(path: str) -> list[str]:
    """The path by each client, decoded and cleaned as Go's server does; one answer, or the clients disagree."""
    by_sync = parse_url(f"https://api:6443{path}").path or ""
    by_async = URL(f"https://api:6443{path}").raw_path
    read = {posixpath.normpath(unquote(one)) for one in (by_sync, by_async)}
    assert len(read) == 1, read
    return read.pop().split("/")


@pytest.mark.parametrize("kind", [POD, WORKSPACE, NODE])
@settings(deadline=None)
@given(name=TEXTS, namespace=TEXTS)
def test_no_name_can_reach_another_path(kind: Kind, name: str, namespace: str) -> None:
    try:
        request = api.get(kind, name, namespace)
    except ClusterError:
        return
    above = ["namespaces", namespace] if kind.namespaced else []
    group = ["", "apis", kind.group, kind.version] if kind.group else ["", "api", kind.version]
    assert as_the_server_reads(request.path) == [*group, *above, kind.plural, name]
    assert not {"?", "#"} & set(request.path)


@pytest.mark.parametrize("name", SNEAKY[:8])
def test_a_name_that_is_no_path_segment_is_refused_in_words(name: str) -> None:
    for make in (api.get, api.delete):
        with pytest.raises(ClusterError, match="cannot be the name of a ConfigMap") as refused:
            make(CONFIG_MAP, name, "team-a")
        assert (refused.value.status, refused.value.transient) == (400, False)
        with pytest.raises(ClusterError, match="cannot be the name of a Namespace"):
            make(CONFIG_MAP, "c", name)


def test_one_object_is_never_taken_for_the_collection() -> None:
    """DELETE or GET without a name or a namespace would be about all of them."""
    with pytest.raises(ClusterError, match="cannot be the name of a Secret"):
        api.delete(SECRET, "", "team-a")
    with pytest.raises(ClusterError, match="cannot be the name of a Namespace"):
        api.get(SECRET, "s", None)


@settings(deadline=None)
@given(path=TEXTS)
def test_what_is_asked_through_a_proxy_stays_behind_it(path: str) -> None:
    try:
        request = api.pod_get("p", "team-a", path, port=5000, timeout=1)
    except ClusterError:
        return
    read = as_the_server_reads(request.path)
    assert read[:8] == ["", "api", "v1", "namespaces", "team-a", "pods", "p:5000", "proxy"]


@pytest.mark.parametrize("value", ["a,b", "a in (b)", "!a", "a=b", "ä", "a" * 64])
def test_no_name_can_widen_a_selection(value: str) -> None:
    with pytest.raises(ClusterError, match="cannot be the value of a label"):
        api.listing(POD, "team-a", {"kaito.sh/workspace": value})
    with pytest.raises(ClusterError, match="cannot be the value of a label"):
        api.listing(POD, "team-a", {"kaito.sh/workspace": ["fine", value]})


@pytest.mark.parametrize("name", ["w,involvedObject.kind=Secret", "w=x", ""])
def test_no_name_can_widen_a_selection_by_field(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot be the name"):
        api.events_of("team-a", name)
    assert dict(api.events_of("team-a", "w").query) == {"fieldSelector": "involvedObject.name=w"}
