"""Tuning: trains a LoRA or QLoRA adapter from /mnt/data and leaves it, safetensors only, in $OUTPUT_DIR/adapter.

The libraries do the work (transformers, peft, trl, bitsandbytes); what is here reads KAITO's training
configuration, chooses settings for the machine and the data, reports progress, and resumes after a stop.
It never pushes anything: publishing is another pod's work.
"""
