"""Serving: answers KAITO's `/chat` and OpenAI's `/v1/chat/completions` from one base model and its LoRA adapters.

It never downloads and never runs code that comes with a model: weights and adapters are safetensors in folders
that init containers filled.
"""
