"""Tokens/s of an evaluation's 200 golden prompts against the engine's own batch throughput, in pairs in one run.

    python -m tests.bench.evaluation_speed [PROMPTS] [PROMPTS OF A PIECE]

evaluation  what an evaluation does: its client asks all prompts, and judges each answer
engine      the same loaded engine under the server's own worker, which is given all prompts at once

SmolLM2-135M-Instruct, prompts of 20 to 130 tokens, answers of up to 16 tokens that end when the model ends them. The
prompts are asked in pieces, by the one and by the other in turn, so that a busy machine slows both; beside busy
neighbours set OMP_NUM_THREADS=1, and look at the CPU time. Goal: a ratio of at least 0.9. Nothing is asserted.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from demo.scenario import prepare_weights
from include.contracts import golden_set
from include.contracts.evaluation import Subject
from include.contracts.golden_set import GoldenPrompt
from include.workloads.evaluation import matching
from include.workloads.evaluation.engine import AT_ONCE, Question, TransformersEngine
from include.workloads.hardware import choose_precision, detect, prepare_environment, use_threads
from include.workloads.serving.generation import Request, Settings, Worker

ROOT = Path(__file__).resolve().parents[2]
NEW_TOKENS, PIECE = 16, 50
FIELDS = ("weather", "music", "rivers", "bread", "winter", "trains", "gardens", "stars", "letters", "markets")


def golden(count: int) -> tuple[GoldenPrompt, ...]:
    """Prompts of many lengths that nobody asked before."""
    chance = random.Random(7)
    fields = [" and ".join(chance.choices(FIELDS, k=chance.randint(1, 60))) for _ in range(count)]
    rows = [
        {
            "prompt": f"Number {number}: say one thing about {fields[number]}.",
            "expected": "the",
            "matcher": "contains",
        }
        for number in range(count)
    ]
    return golden_set.read(json.dumps(rows)).rows


def questions(engine: TransformersEngine, rows: Sequence[GoldenPrompt]) -> list[Question]:
    """The prompts as tokens."""
    found = []
    for row in rows:
        text = engine.tokenizer.apply_chat_template(
            list(row.messages), tokenize=False, add_generation_prompt=True
        )
        ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        found.append(Question(tuple(ids), NEW_TOKENS))
    return found


def by_evaluation(engine: TransformersEngine, rows: Sequence[GoldenPrompt], asked: Sequence[Question]) -> int:
    """Tokens of an evaluation's answers."""
    answers = engine.answers(Subject.BASE, asked, lambda _: None)
    for row, answer in zip(rows, answers, strict=True):
        matching.score(row, answer.text)
    return sum(answer.tokens for answer in answers)


def by_engine(engine: TransformersEngine, asked: Sequence[Question]) -> int:
    """Tokens of the answers that the server's worker makes."""
    worker = Worker(engine._loaded.batch, max_batch=AT_ONCE, max_waiting=len(asked))
    requests = [
        worker.submit(Request(list(one.prompt_ids), one.max_tokens, Settings(adapter=None))) for one in asked
    ]
    tokens = sum(len(list(request.stream())) for request in requests)
    worker.close()
    return tokens


def rates(run: Callable[[], int]) -> tuple[float, float]:
    """Tokens a second by the clock, and of this process's CPU time."""
    clock, busy = time.monotonic(), time.process_time()
    tokens = run()
    return tokens / (time.monotonic() - clock), tokens / (time.process_time() - busy)


def main() -> None:
    """Measure, and print each pair and the ratio."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    piece = int(sys.argv[2]) if len(sys.argv) > 2 else PIECE
    prepare_environment()
    hardware = detect()
    print(use_threads(hardware))
    engine = TransformersEngine(
        prepare_weights(ROOT / ".sandbox" / "weights"), {}, hardware, choose_precision(hardware, None)
    )
    # Which threads a step takes is found out for one thread; here two threads take turns with one model.
    engine._loaded.batch.pace = lambda rows: nullcontext()
    rows = golden(count)
    asked = questions(engine, rows)
    # The first of each pays for what is made once.
    by_engine(engine, asked[:AT_ONCE])
    by_evaluation(engine, rows[:AT_ONCE], asked[:AT_ONCE])
    heads = f"{'prompts':<12}{'evaluation':>12}{'engine':>10}{'ratio':>8}{'by CPU time':>14}"
    print(f"{heads}   tokens/s, {AT_ONCE} at once")
    ratios: list[tuple[float, float]] = []
    for number, start in enumerate(range(0, count, piece)):
        some, part = rows[start : start + piece], asked[start : start + piece]
        pair = {
            "evaluation": lambda some=some, part=part: by_evaluation(engine, some, part),
            "engine": lambda part=part: by_engine(engine, part),
        }
        order = list(pair) if number % 2 else list(reversed(pair))
        found = {name: rates(pair[name]) for name in order}
        mine, its = found["evaluation"], found["engine"]
        ratios.append((mine[0] / its[0], mine[1] / its[1]))
        shown = f"{start + 1}-{start + len(part)}"
        told = f"{shown:<12}{mine[0]:>12.1f}{its[0]:>10.1f}{ratios[-1][0]:>8.2f}{ratios[-1][1]:>14.2f}"
        print(told, flush=True)
    clock, busy = (statistics.median(part) for part in zip(*ratios, strict=True))
    print(f"ratio {clock:.2f} by the clock, {busy:.2f} by CPU time (medians; goal: at least 0.9)")


if __name__ == "__main__":
    main()
