"""The weights workload: a base model's safetensors and tokenizer, pinned and checked, in one folder.

It never fetches or keeps anything that carries code: no pickles, no Python files, no `auto_map` in a config.
"""
