from __future__ import annotations

from include.workloads.tuning.fit import ALWAYS, lean

DEFAULTS = {
    "r": 8,
    "peft_type": "LORA",
    "use_rslora": False,
    "alora_invocation_tokens": None,
    "rank_pattern": {},
}


def test_only_what_is_no_default_is_written() -> None:
    config = {**DEFAULTS, "use_rslora": True, "rank_pattern": {"o_proj": 4}, "new_key": 1}
    assert lean(config, DEFAULTS) == {
        "r": 8,
        "peft_type": "LORA",
        "use_rslora": True,
        "rank_pattern": {"o_proj": 4},
        "new_key": 1,
    }


def test_what_readers_of_adapters_need_is_always_there() -> None:
    config = dict.fromkeys(ALWAYS, None)
    assert lean(config, config) == config
    assert {"r", "lora_alpha", "target_modules"} <= ALWAYS  # without them vLLM refuses an adapter
