"""What a tag means now, asked by the control plane: an answer, a refusal that names what to look at, or silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from include.contracts.image_reference import parse_reference
from include.contracts.network_policy import NetworkPolicy
from include.workloads.deadline import Deadline
from include.workloads.oci.asking import Described, NotToBeHad, Unanswered, describe, unanswered
from include.workloads.oci.credentials import Credentials
from include.workloads.oci.media import sha256
from include.workloads.oci.transport import TooSlow
from tests.support.registry_server import Registry

CREDENTIALS = Credentials("entry", "u", "CANARY-password")
HELD = b'{"annotations": {"a": "b"}}'


def asked(registry: Registry, tag: str = "1", seconds: float = 5.0, **more: Any) -> Described:
    reference = parse_reference(f"127.0.0.1:{registry.port}/team/phi:{tag}")
    policy = NetworkPolicy.of((), [reference.registry])
    return describe(reference, more.get("credentials", CREDENTIALS), policy, seconds)


def test_a_tag_is_its_digest_and_its_manifest(registry: Registry):
    registry.manifests["1"] = HELD
    assert asked(registry) == Described(sha256(HELD), json.loads(HELD))


def test_a_password_is_sent_where_it_is_asked_for(registry: Registry):
    registry.manifests["1"] = HELD

    def guarded(handler: Any) -> bool:
        if handler.headers.get("Authorization"):
            return False
        return handler.reply(401, WWW_Authenticate='Basic realm="r"')

    registry.before = guarded
    assert asked(registry).digest == sha256(HELD)
    with pytest.raises(NotToBeHad, match="no credentials for it were given"):
        asked(registry, credentials=None)


@pytest.mark.parametrize(
    ("status", "words"), [(404, "has no image team/phi with 1"), (403, "does not give the image team/phi")]
)
def test_a_refusal_says_what_to_look_at(status: int, words: str, registry: Registry):
    registry.before = lambda handler: handler.reply(status)
    with pytest.raises(NotToBeHad, match=words) as refused:
        asked(registry)
    assert "CANARY" not in str(refused.value)


def test_what_is_no_manifest_is_told(registry: Registry):
    registry.manifests["1"] = b"[]"
    with pytest.raises(NotToBeHad, match="not a JSON object"):
        asked(registry)


def test_silence_is_no_verdict(registry: Registry):
    registry.before = lambda handler: handler.reply(503)
    with pytest.raises(Unanswered, match="answered 503"):
        asked(registry)
    registry.before = lambda handler: True
    with pytest.raises(Unanswered, match="cannot be reached from Airflow"):
        asked(registry)


def test_the_control_plane_needs_no_library_of_registries():
    """Airflow's own environment has `requests`, and no `oras`."""
    from subprocess import run
    from sys import executable

    code = (
        "import sys; sys.modules['oras'] = None\n"
        "import include.workloads.oci.asking, include.workloads.oci.trial, include.workloads.weights.model_image"
    )
    done = run([executable, "-c", code], cwd=Path(__file__).parents[4], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_inner_deadline_that_ends_first_is_told_as_a_time_too():
    """Two timers for the same moment: which one is first is the machine's to say."""
    error, reference = TooSlow("no answer within 3 s"), parse_reference("r.example/team/phi:1")
    assert unanswered(reference, error, Deadline(3)).endswith("(no answer within 3 s)")
