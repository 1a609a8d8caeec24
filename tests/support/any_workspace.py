"""Workspaces at random, for property tests."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import strategies as st

from include.catalog import load_catalog
from include.workspace.api.dialect import API_VERSIONS

CATALOG = load_catalog()

word = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=20)

texts = st.one_of(word, st.text(max_size=30))

labels = st.dictionaries(word, texts, max_size=3)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3)
    ),
    max_leaves=10,
)

volumes = st.dictionaries(word, json_values, max_size=2)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping that may lack any of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


source = some(
    name=word,
    urls=st.lists(texts, max_size=3),
    volumeSource=volumes,
    image=texts,
    imagePullSecrets=st.lists(word, max_size=2),
)

destination = some(volumeSource=volumes, image=texts, imagePushSecret=word)

preset_names = st.one_of(st.sampled_from(CATALOG.model_names()), texts)


def presets(beta: bool) -> st.SearchStrategy[dict[str, Any]]:
    options: dict[str, Any] = {"image": texts, "imagePullSecrets": st.lists(word, max_size=2)}
    if beta:
        options["modelAccessSecret"] = word
    return st.fixed_dictionaries(
        {"name": preset_names}, optional={"accessMode": word, "presetOptions": some(**options)}
    )


@st.composite
def workspaces(draw: st.DrawFn) -> dict[str, Any]:
    """Documents that the schema takes, whatever they mean."""
    version = draw(st.sampled_from(API_VERSIONS))
    beta = version.endswith("v1beta1")
    selector = some(
        matchLabels=labels,
        matchExpressions=st.lists(
            st.fixed_dictionaries(
                {"key": word, "operator": st.sampled_from(["In", "Exists"])},
                optional={"values": st.lists(word, max_size=2)},
            ),
            max_size=2,
        ),
    )
    resource: dict[str, Any] = {
        "count": st.integers(-2, 9),
        "instanceType": st.one_of(st.sampled_from(CATALOG.machine_names()), texts),
        "preferredNodes": st.lists(word, max_size=2),
    }
    if beta:
        resource["partition"] = st.fixed_dictionaries(
            {"mode": word}, optional={"profile": word, "count": st.integers(0, 3)}
        )
    adapters = st.lists(some(source=source, strength=texts), max_size=3)
    tuning = st.fixed_dictionaries(
        {"input": source, "output": destination},
        optional={"preset": presets(beta), "method": st.sampled_from(["lora", "QLoRA", "x"]), "config": word},
    )
    document = st.fixed_dictionaries(
        {
            "apiVersion": st.just(version),
            "kind": st.just("Workspace"),
            "metadata": some(name=texts, namespace=word, generation=st.integers(0, 9), annotations=labels),
        },
        optional={
            "resource": st.fixed_dictionaries({"labelSelector": selector}, optional=resource),
            "inference": some(preset=presets(beta), template=volumes, config=word, adapters=adapters),
            "tuning": tuning,
            "status": st.dictionaries(word, json_values, max_size=2),
        },
    )  # fmt: skip
    return draw(document)
