"""Models outside the catalogue, asked of a hub that runs here: the record, and every reason to refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from include.catalog import engines, hub_http, load_catalog, sizing, tunability
from include.catalog import hub as hubs
from include.catalog.hub import HubError, resolve
from include.catalog.loading import PRESETS
from include.catalog.plausibility import model_faults
from tests.support.hub_server import COMMIT, CONFIG, HubServer, running

NAME = "acme/Tiny_Llama.1B"
CATALOG = load_catalog(PRESETS)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running() as server:
        yield server


class TestRecord:
    def test_it_is_a_catalogue_record_pinned_to_the_commit(self, hub: HubServer) -> None:
        hub.model(NAME)
        model = resolve(NAME, endpoint=hub.endpoint)
        assert (model.name, model.hf_id, model.revision) == ("tiny-llama.1b", NAME, COMMIT)
        assert model.weights_bytes == 2471645608  # not the copies for other runtimes
        assert (model.context, model.attention, model.kv_bytes_per_token) == (131072, "GQA", 32768)
        assert (model.dtype, model.quantization, model.parameters) == ("bfloat16", None, "1.2B")
        assert (model.licence, model.gated, model.aliases) == ("apache-2.0", False, ())
        assert model.tuning.supported
        assert set(model.tuning.target_modules) == set(sizing.linear_layers(model))
        assert list(model_faults(model)) == []

    def test_it_asks_the_hub_twice_and_sends_no_token_unasked(self, hub: HubServer) -> None:
        hub.model(NAME)
        resolve(NAME, endpoint=hub.endpoint)
        assert [path for path, _ in hub.asked] == [
            f"/api/models/{NAME}/revision/main?blobs=true",
            f"/{NAME}/resolve/{COMMIT}/config.json",
            f"/api/resolve-cache/{NAME}/c.json",
        ]
        assert not any("authorization" in headers for _, headers in hub.asked)

    def test_a_gated_model_opens_with_a_token(self, hub: HubServer) -> None:
        hub.model(NAME, gated="manual")
        model = resolve(NAME, endpoint=hub.endpoint, token="hf_secret")
        assert model.gated
        assert {headers["authorization"] for _, headers in hub.asked} == {"Bearer hf_secret"}

    def test_a_mirror_is_asked_instead(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        hub.model(NAME)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint + "/")
        assert resolve(NAME).revision == COMMIT

    def test_a_renamed_model_is_found_under_both_names(self, hub: HubServer) -> None:
        hub.answer(
            "/api/models/old/name/revision/main", status=307, location=f"/api/models/{NAME}/revision/main"
        )
        hub.model(NAME)
        model = resolve("old/name", endpoint=hub.endpoint)
        assert model.all_names == ("tiny-llama.1b", "old/name", NAME)

    @pytest.mark.parametrize(
        ("siblings", "expected"),
        [
            (["a-1.safetensors", "a-2.safetensors"], 2471645608),  # the index of the shards
            (["model.safetensors"], 2471628800),  # the count of each type
        ],
    )
    def test_a_mirror_without_sizes_has_other_ways_to_tell(
        self, hub: HubServer, siblings: list[str], expected: int
    ) -> None:
        hub.model(NAME, siblings=[{"rfilename": name} for name in siblings])
        index = {"metadata": {"total_size": 2471645608}, "weight_map": {"a": "a-1.safetensors"}}
        hub.answer(f"/{NAME}/resolve/{COMMIT}/model.safetensors.index.json", index)
        assert resolve(NAME, endpoint=hub.endpoint).weights_bytes == expected

    def test_code_that_is_not_needed_is_no_obstacle(self, hub: HubServer) -> None:
        hub.model(NAME, CONFIG | {"auto_map": {"AutoConfig": "configuration_x.XConfig"}})
        assert resolve(NAME, endpoint=hub.endpoint).architecture == "LlamaForCausalLM"

    @pytest.mark.parametrize(
        ("model_type", "architecture"),
        [
            ("qwen2_vl", "Qwen2VLForConditionalGeneration"),  # transformers writes no text with it
            ("kimi_k25", "KimiK25ForConditionalGeneration"),  # vLLM has its own reader of its config
            ("step3_text", "Step3TextForCausalLM"),
        ],
    )
    def test_what_vllm_alone_knows_is_taken(self, hub: HubServer, model_type: str, architecture: str) -> None:
        hub.model(NAME, CONFIG | {"model_type": model_type, "architectures": [architecture]})
        model = resolve(NAME, endpoint=hub.endpoint)
        assert model.architecture == architecture
        assert engines.loads(model, "vllm")
        assert not engines.loads(model, "transformers")
        assert not model.tuning.supported

    @pytest.mark.parametrize(
        "changes",
        [
            {"quantization_config": {"quant_method": "awq", "bits": 4}},
            {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 8},
            {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]},
        ],
    )
    def test_what_the_trainer_cannot_tune_is_not_tunable(
        self, hub: HubServer, changes: dict[str, Any]
    ) -> None:
        hub.model(NAME, CONFIG | changes)
        assert not resolve(NAME, endpoint=hub.endpoint).tuning.supported


MINILM: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "vocab_size": 30522,
}
SENTENCE_FILES = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")


def embedder(hub: HubServer, config: dict[str, Any], *files: str) -> None:
    """A model of the hub with 90 MB of weights and these files beside them."""
    listed = [{"rfilename": "model.safetensors", "size": 90868376}]
    listed += [{"rfilename": name, "size": 99} for name in files]
    hub.model(NAME, config, siblings=listed, safetensors=None)
    hub.answer(f"/{NAME}/resolve/{COMMIT}/sentence_bert_config.json", {"max_seq_length": 256})


class TestModelsThatEmbed:
    def test_an_encoder_keeps_no_cache_and_reads_what_its_files_say(self, hub: HubServer) -> None:
        embedder(hub, MINILM, *SENTENCE_FILES)
        model = resolve(NAME, endpoint=hub.endpoint)
        assert (model.architecture, model.pooling) == ("BertModel", True)
        assert (model.kv_bytes_per_token, model.context) == (0, 256)
        assert not model.tuning.supported
        assert "a tuning teaches a model to write" in tunability.why_not(model)
        assert list(model_faults(model)) == []

    def test_without_the_files_of_sentences_its_window_is_the_config_s(self, hub: HubServer) -> None:
        embedder(hub, MINILM)
        assert resolve(NAME, endpoint=hub.endpoint).context == 512

    def test_a_writer_with_a_pooling_module_embeds(self, hub: HubServer) -> None:
        config = CONFIG | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
        embedder(hub, config, "modules.json", "1_Pooling/config.json")
        model = resolve(NAME, endpoint=hub.endpoint)
        assert (model.pooling, model.kv_bytes_per_token) == (True, 32768)
        assert not model.tuning.supported

    @pytest.mark.parametrize("files", [(), ("modules.json",), ("1_Pooling/config.json",)])
    def test_a_writer_without_one_writes(self, hub: HubServer, files: tuple[str, ...]) -> None:
        embedder(hub, CONFIG, *files)
        assert not resolve(NAME, endpoint=hub.endpoint).pooling

    @pytest.mark.parametrize(
        ("model_type", "architecture"),
        [("qwen3", "Qwen3ForSequenceClassification"), ("xlm-roberta", "XLMRobertaForSequenceClassification")],
    )
    def test_one_that_ranks_or_judges_is_taken(
        self, hub: HubServer, model_type: str, architecture: str
    ) -> None:
        embedder(hub, CONFIG | {"architectures": [architecture], "model_type": model_type})
        model = resolve(NAME, endpoint=hub.endpoint)
        assert (model.architecture, model.pooling) == (architecture, True)
        assert engines.loads(model, "vllm")


REFUSALS: list[tuple[str, dict[str, Any], type[HubError], str]] = [
    ("no such model", {}, hubs.ModelNotFound, r"has no model acme/.*or it is private and no token was given"),
    (
        "revision",
        {"status": 404, "x_error_code": "RevisionNotFound"},
        hubs.ModelNotFound,
        "has no revision main",
    ),
    (
        "gated",
        {"status": 403, "x_error_code": "GatedRepo"},
        hubs.NeedsToken,
        r"is gated and no token.*HF_TOKEN",
    ),
    ("forbidden", {"status": 403}, hubs.NeedsToken, "is gated"),
    ("busy", {"status": 503}, hubs.HubUnreachable, "answered 503"),
    ("too many", {"status": 429}, hubs.HubUnreachable, "answered 429"),
    (
        "elsewhere",
        {"status": 302, "location": "https://evil.example/x"},
        hubs.HubAnswerRefused,
        "to evil.example",
    ),
    (
        "another port",
        {"status": 302, "location": "http://127.0.0.1:1/x"},
        hubs.HubAnswerRefused,
        "not followed",
    ),
    (
        "in a circle",
        {"status": 302, "location": f"/api/models/{NAME}/revision/main"},
        hubs.HubAnswerRefused,
        "more than 3",
    ),
    ("no JSON", {"body": b"<html>"}, hubs.HubAnswerRefused, "not a JSON object"),
    ("a list", {"body": b"[]"}, hubs.HubAnswerRefused, "not a JSON object"),
    ("deep", {"body": b"[" * 100_000}, hubs.HubAnswerRefused, "not a JSON object"),
    ("no commit", {"body": {"id": NAME}}, hubs.HubAnswerRefused, "no commit"),
    ("another id", {"body": {"id": "../x", "sha": COMMIT}}, hubs.HubAnswerRefused, "no model id"),
    ("compressed", {"body": b"x", "content_encoding": "gzip"}, hubs.HubAnswerRefused, "compressed"),
]


class TestRefusal:
    @pytest.mark.parametrize(("case", "answer", "kind", "said"), REFUSALS, ids=[case[0] for case in REFUSALS])
    def test_of_the_hub(
        self, hub: HubServer, case: str, answer: dict[str, Any], kind: type[HubError], said: str
    ) -> None:
        if answer:
            hub.answer(f"/api/models/{NAME}/revision/main", **answer)
        with pytest.raises(HubError, match=said) as error:
            resolve(NAME, endpoint=hub.endpoint)
        assert type(error.value) is kind
        assert error.value.transient == (kind is hubs.HubUnreachable)

    def test_a_token_that_does_not_open_it_is_said_and_never_shown(self, hub: HubServer) -> None:
        hub.model(NAME, gated="auto")
        hub.answer(f"/{NAME}/resolve/{COMMIT}/config.json", status=403, x_error_code="GatedRepo")
        with pytest.raises(hubs.NeedsToken, match="the token that was given does not open it") as error:
            resolve(NAME, endpoint=hub.endpoint, token="hf_secret")
        assert "hf_secret" not in str(error.value)

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            (["pytorch_model.bin"], "only .bin files"),
            (["model.gguf", "x.pt"], "only .gguf, .pt files"),
            (["consolidated.safetensors"], "none in the form that transformers reads"),
            ([], "none in the form that transformers reads"),
        ],
    )
    def test_of_weights_that_are_not_safetensors(self, hub: HubServer, files: list[str], said: str) -> None:
        hub.model(NAME, siblings=[{"rfilename": name, "size": 5} for name in files])
        with pytest.raises(hubs.NoSafetensors, match=said):
            resolve(NAME, endpoint=hub.endpoint)

    @pytest.mark.parametrize(
        ("config", "kind", "said"),
        [
            (
                {"model_type": "mpnet", "architectures": ["MPNetForMaskedLM"]},
                hubs.UnsupportedArchitecture,
                r"which no runtime serves: vLLM \S+ has \d+ architectures that write text and \d+ that embed, rank or "
                r"score it\.",
            ),
            (
                {"model_type": "phi9", "architectures": ["Phi9ForCausalLM"]},
                hubs.UnsupportedArchitecture,
                "is Phi9ForCausalLM, .* of this family Phi3ForCausalLM",
            ),
            ({"model_type": None}, hubs.NeedsRemoteCode, r"\(LlamaForCausalLM\)"),
            (
                {"model_type": "own", "architectures": ["OwnLM"], "auto_map": {"AutoModel": "m.Own"}},
                hubs.NeedsRemoteCode,
                r"\(OwnLM\) loads only with Python code",
            ),
            (
                {"num_hidden_layers": None},
                hubs.UnsupportedArchitecture,
                "its config.json has no num_hidden_layers",
            ),
            (
                {"hidden_size": 10**30},
                hubs.UnsupportedArchitecture,
                "hidden_size of its config.json is not a number",
            ),
            ({"head_dim": "64"}, hubs.UnsupportedArchitecture, "head_dim of its config.json is not a number"),
        ],
    )
    def test_of_its_config(
        self, hub: HubServer, config: dict[str, Any], kind: type[HubError], said: str
    ) -> None:
        hub.model(NAME, CONFIG | config)
        with pytest.raises(kind, match=said):
            resolve(NAME, endpoint=hub.endpoint)

    def test_of_a_repository_without_a_config(self, hub: HubServer) -> None:
        hub.model(NAME)
        hub.answer(f"/{NAME}/resolve/{COMMIT}/config.json", status=404, x_error_code="EntryNotFound")
        with pytest.raises(hubs.UnsupportedArchitecture, match=r"has no config\.json"):
            resolve(NAME, endpoint=hub.endpoint)

    def test_of_an_answer_that_is_too_large(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hubs, "CONFIG_MAX", 1 << 20)
        hub.model(NAME, {**CONFIG, "padding": "x" * (1 << 20)})
        with pytest.raises(hubs.HubAnswerRefused, match="more than 1 MiB"):
            resolve(NAME, endpoint=hub.endpoint)

    def test_of_an_answer_that_takes_too_long(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub_http, "WHOLE_SECONDS", -1.0)
        hub.model(NAME)
        with pytest.raises(hubs.HubUnreachable, match="to answer"):
            resolve(NAME, endpoint=hub.endpoint)

    def test_of_a_size_that_nobody_says(self, hub: HubServer) -> None:
        hub.model(NAME, siblings=[{"rfilename": "model.safetensors"}], safetensors=None)
        with pytest.raises(hubs.HubAnswerRefused, match="does not say how large"):
            resolve(NAME, endpoint=hub.endpoint)

    def test_of_a_hub_that_is_not_there(self, hub: HubServer) -> None:
        with pytest.raises(hubs.HubUnreachable, match=r"127\.0\.0\.1 could not be reached"):
            resolve(NAME, endpoint="http://127.0.0.1:9")

    @pytest.mark.parametrize(
        "name",
        [
            "phi-4",
            "a/b/c",
            "../x",
            "a/../b",
            "a/..",
            "https://x/y",
            "a/b?x=1",
            "a/b#c",
            "a b/c",
            "",
            "/",
            "a/",
            "a/b\n",
        ],
    )
    def test_of_what_is_no_hub_id_without_asking(self, name: str) -> None:
        with pytest.raises(hubs.ModelNotFound, match="is not a hub id"):
            resolve(name, endpoint="http://127.0.0.1:9")
        assert not hubs.could_be_on_the_hub(name)

    @pytest.mark.parametrize(
        "endpoint",
        [
            "http://hub.example",
            "ftp://hub.example",
            "hub.example",
            "https://",
            "https://a:b@hub.example",
            "http://127.example",
        ],
    )
    def test_of_an_address_that_is_not_https(self, endpoint: str) -> None:
        with pytest.raises(HubError, match="must be https://HOST") as error:
            resolve(NAME, endpoint=endpoint)
        assert "a:b" not in str(error.value)


class TestCatalogue:
    def test_it_holds_the_model_under_all_its_names(self, hub: HubServer) -> None:
        hub.model(NAME)
        catalog = CATALOG.with_hub_model(resolve(NAME, endpoint=hub.endpoint))
        assert catalog.model(NAME.upper()).name == "tiny-llama.1b"
        assert catalog.model("tiny-llama.1b").hf_id == NAME
        assert not CATALOG.has_model(NAME)

    def test_a_namesake_of_a_preset_never_gets_its_name(self, hub: HubServer) -> None:
        hub.model("evil_corp/Phi-4")
        catalog = CATALOG.with_hub_model(resolve("evil_corp/Phi-4", endpoint=hub.endpoint))
        assert catalog.model("phi-4").hf_id == "microsoft/phi-4"
        assert catalog.model("evil_corp/phi-4").name == "evil-corp-phi-4"

    def test_what_it_has_already_is_not_added(self, hub: HubServer) -> None:
        hub.answer(
            "/api/models/old/phi/revision/main",
            status=307,
            location="/api/models/microsoft/phi-4/revision/main",
        )
        hub.model("microsoft/phi-4")
        with pytest.raises(ValueError, match="microsoft/phi-4 is in the catalogue already"):
            CATALOG.with_hub_model(resolve("old/phi", endpoint=hub.endpoint))
