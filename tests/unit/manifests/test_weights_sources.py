"""Where pods have a model's files from: mounted by the node or downloaded, with credentials only where they pull."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from include import manifests
from include.planning import Plan, plan, plan_serving
from include.planning.explain import sentences
from include.planning.plan import model_image
from include.workspace import Workspace, parse_workspace
from tests.support.manifests import CATALOG, QUICK, RUN, SERVE, SETTINGS, env_of, mounts_of

IMAGE = f"models.example.com/kaito-phi-4-mini-instruct:1@sha256:{'a' * 64}"


def named(document: dict[str, Any], section: str, **notes: str) -> Workspace:
    found = {
        **document,
        "metadata": {**document["metadata"], "annotations": {"kaito.sh/model-image": IMAGE, **notes}},
    }
    part = dict(found[section])
    part["preset"] = {
        **part["preset"],
        "presetOptions": {"imagePullSecrets": ["models"], "modelAccessSecret": "hf"},
    }
    return parse_workspace({**found, section: part})


SERVED = named(SERVE, "inference")
TUNED = named({**QUICK, "apiVersion": "kaito.sh/v1beta1"}, "tuning")


def serving(ws: Workspace, made: Plan) -> dict[str, Any]:
    return manifests.stateful_set(ws, made, SETTINGS, RUN)


def spec_of(stateful_set: dict[str, Any]) -> dict[str, Any]:
    return stateful_set["spec"]["template"]["spec"]


def volumes_of(spec: dict[str, Any]) -> dict[str, Any]:
    return {volume["name"]: volume for volume in spec["volumes"]}


def test_a_plan_names_the_workspace_s_image_before_the_preset_s() -> None:
    assert plan(SERVED, CATALOG).model_image == IMAGE
    assert f"The model's files come from the image {IMAGE}." in sentences(plan(SERVED, CATALOG))
    assert plan(parse_workspace(SERVE), CATALOG).model_image == ""
    model = replace(CATALOG.model("phi-4-mini-instruct"), image="r.example.com/own:1")
    own = replace(CATALOG, models=tuple(model if one.name == model.name else one for one in CATALOG.models))
    assert plan(parse_workspace(SERVE), own).model_image == "r.example.com/own:1"
    assert plan(SERVED, own).model_image == IMAGE
    assert Plan.from_dict(plan(SERVED, own).to_dict()).model_image == IMAGE


def test_a_pod_downloads_the_image_by_its_digest_with_the_secret() -> None:
    made = serving(SERVED, plan(SERVED, CATALOG))
    spec = spec_of(made)
    assert "emptyDir" in volumes_of(spec)["weights"]
    (filling,) = spec["initContainers"]
    values = env_of(filling)
    assert (values["WEIGHTS_SOURCE"], values["MODEL_IMAGE"]) == ("image", IMAGE)
    assert not {"HF_TOKEN", "MODEL_ID", "MODEL_REVISION"} & set(values)
    assert values["DOCKER_CONFIG"] in mounts_of(filling)
    assert volumes_of(spec)["model-registry"]["secret"]["secretName"] == "models"
    assert "model-registry" not in {m["name"] for m in spec["containers"][0]["volumeMounts"]}
    assert made["metadata"]["annotations"]["kaito.sh/model-image"] == IMAGE


def test_a_node_mounts_the_image_where_it_can_and_it_is_only_looked_at() -> None:
    spec = spec_of(serving(SERVED, replace(plan(SERVED, CATALOG), image_volume=True)))
    assert volumes_of(spec)["weights"]["image"] == {"reference": IMAGE, "pullPolicy": "IfNotPresent"}
    (look,) = spec["initContainers"]
    assert env_of(look)["WEIGHTS_SOURCE"] == "mounted"
    assert mounts_of(look)["/workspace/weights"] == ("weights", None, True)
    assert {"name": "models"} in spec["imagePullSecrets"]
    assert "model-registry" not in volumes_of(spec)


def test_a_tuning_pod_has_it_too_and_its_dataset_step_the_tokenizer_alone() -> None:
    made = replace(plan(TUNED, CATALOG), image_volume=True)
    tuning = manifests.tuning_pod(TUNED, made, SETTINGS, RUN)["spec"]
    assert volumes_of(tuning)["weights"]["image"]["reference"] == IMAGE
    dataset = manifests.dataset_pod(TUNED, made, SETTINGS, RUN)["spec"]
    assert "emptyDir" in volumes_of(dataset)["weights"], "a CPU node must not pull a whole model"
    assert env_of(dataset["initContainers"][0])["WEIGHTS_PARTS"] == "tokenizer"
    assert plan_serving(TUNED, CATALOG).model_image == IMAGE


def test_it_beats_a_mirror_and_is_of_no_use_with_the_node_s_own_files() -> None:
    mirrored = replace(SETTINGS, weights_mirror="/mnt/models")
    made = manifests.stateful_set(SERVED, plan(SERVED, CATALOG), mirrored, RUN)
    assert "emptyDir" in volumes_of(spec_of(made))["weights"]
    local = named(SERVE, "inference", **{"kaito.sh/use-local-weights": "true"})
    assert "hostPath" in volumes_of(spec_of(serving(local, plan(local, CATALOG))))["weights"]


def test_nothing_changes_for_those_who_name_none() -> None:
    ws = parse_workspace(SERVE)
    made = serving(ws, plan(ws, CATALOG))
    assert "annotations" not in made["metadata"]
    assert [one["name"] for one in spec_of(made)["initContainers"][0]["env"]] == [
        "HOME", "PYTHONUNBUFFERED", "WEIGHTS_SOURCE", "MODEL_ID", "MODEL_REVISION", "WEIGHTS_PATH",
    ]  # fmt: skip


def test_a_candidate_of_a_retraining_takes_the_model_from_the_same_image() -> None:
    document = TUNED.to_dict()
    made = manifests.candidate(document, "20261129.1")
    assert made["metadata"]["annotations"]["kaito.sh/model-image"] == IMAGE
    assert made["tuning"]["preset"]["presetOptions"]["imagePullSecrets"] == ["models"]


VOLUME = {"kaito.sh/model-volume": "models/org/phi"}


def on_a_volume(document: dict[str, Any]) -> Workspace:
    return annotated(document, VOLUME)


def annotated(document: dict[str, Any], notes: dict[str, str]) -> Workspace:
    metadata = {**document["metadata"], "annotations": notes}
    return parse_workspace({**document, "metadata": metadata})


def weights_mount(container: dict[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in container["volumeMounts"] if one["name"] == "weights"]
    return dict(found)


def test_a_volume_is_mounted_read_only_in_every_pod_that_needs_the_model_and_looked_at_first() -> None:
    served, tuned = on_a_volume(SERVE), on_a_volume(QUICK)
    pods = [
        (spec_of(serving(served, plan(served, CATALOG))), "serving"),
        (manifests.tuning_pod(tuned, plan(tuned, CATALOG), SETTINGS, RUN)["spec"], "tuning"),
    ]
    for spec, name in pods:
        assert volumes_of(spec)["weights"] == {
            "name": "weights",
            "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
        }
        look = spec["initContainers"][0]
        assert env_of(look)["WEIGHTS_SOURCE"] == "mounted"
        main = next(one for one in spec["containers"] if one["name"] == name)
        for container in (look, main):
            assert weights_mount(container) == {
                "name": "weights", "mountPath": "/workspace/weights", "subPath": "org/phi", "readOnly": True,
            }  # fmt: skip


def test_the_dataset_step_reads_the_tokenizer_of_the_volume() -> None:
    tuned = on_a_volume(QUICK)
    spec = manifests.dataset_pod(tuned, plan(tuned, CATALOG), SETTINGS, RUN)["spec"]
    assert volumes_of(spec)["weights"]["persistentVolumeClaim"]["claimName"] == "models"
    assert "initContainers" not in spec
    assert weights_mount(spec["containers"][0])["subPath"] == "org/phi"


def test_a_volume_that_is_named_comes_before_the_presets_image_and_a_mirror() -> None:
    ws = on_a_volume(SERVE)
    settings = replace(SETTINGS, weights_mirror="/models")
    made = manifests.stateful_set(ws, plan(ws, CATALOG), settings, RUN)
    assert "persistentVolumeClaim" in volumes_of(spec_of(made))["weights"]
    model = replace(CATALOG.model(ws.preset.name), image=IMAGE) if ws.preset else None
    assert model is not None
    assert model_image(ws, model) == ""


def test_a_candidate_of_a_retraining_takes_the_model_from_the_same_volume() -> None:
    made = manifests.candidate(on_a_volume(TUNED.to_dict()).to_dict(), "20261129.1")
    assert made["metadata"]["annotations"]["kaito.sh/model-volume"] == "models/org/phi"


def test_a_cache_is_filled_as_a_whole_volume_and_read_by_the_models_folder_in_it() -> None:
    ws = annotated(SERVE, {"kaito.sh/model-cache": "cache/models"})
    made = replace(plan(ws, CATALOG), revision="c" * 40)
    spec = spec_of(serving(ws, made))
    folder = f"models/{made.model_id.replace('/', '--')}/{'c' * 40}"
    assert volumes_of(spec)["weights"] == {
        "name": "weights",
        "persistentVolumeClaim": {"claimName": "cache"},
    }
    filling = spec["initContainers"][0]
    values = env_of(filling)
    assert values["WEIGHTS_PATH"] == f"/workspace/cache/{folder}"
    assert weights_mount(filling) == {"name": "weights", "mountPath": "/workspace/cache"}
    assert {"fieldRef": {"fieldPath": "metadata.uid"}} in [
        one.get("valueFrom") for one in filling["env"] if one["name"] == "WEIGHTS_SHARED"
    ]
    assert weights_mount(spec["containers"][0]) == {
        "name": "weights", "mountPath": "/workspace/weights", "subPath": folder, "readOnly": True,
    }  # fmt: skip


def test_a_model_that_is_not_pinned_is_not_kept_for_the_next_pod() -> None:
    ws = annotated(SERVE, {"kaito.sh/model-cache": "cache"})
    spec = spec_of(serving(ws, replace(plan(ws, CATALOG), revision="main")))
    assert "emptyDir" in volumes_of(spec)["weights"]
    assert "WEIGHTS_SHARED" not in env_of(spec["initContainers"][0])
