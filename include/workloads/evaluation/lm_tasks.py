"""Tasks of the package lm-eval (EleutherAI's Language Model Evaluation Harness), asked of the engine that evaluates.

The package is not part of the images: whoever wants its tasks adds it. It brings prompts, rows and judgement; answers
and likelihoods come from the engine in this process, so that base, current and candidate share one copy of the weights.
A task's rows are fetched from the hub by the package, unless the image has them.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.contracts.evaluation import Subject
from include.contracts.faults import did_you_mean
from include.workloads.contract import TryAgain, UserConfigError, UserDataError, WorkloadError, stop_requested
from include.workloads.evaluation.engine import Engine, Question
from include.workloads.tuning.rows import IGNORE, Row

log = logging.getLogger("workload")

#: The longest answer to a task that sets no limit, in tokens, as lm-eval has it.
ANSWER_TOKENS = 256


@dataclass(frozen=True)
class LmTasks:
    """Tasks that were found in the package.

    :ivar manager: the package's own index of tasks.
    :ivar few_shot: solved rows before each one, None for what the task says.
    """

    names: tuple[str, ...]
    limit: int
    few_shot: int | None
    seed: int
    manager: Any

    def scores(self, engine: Engine, subject: Subject) -> dict[str, list[float]]:
        """By the name of each task the scores of its rows, 0 to 1.

        :raises UserConfigError: a task cannot be run, or gives nothing that is a score of each row.
        """
        import lm_eval

        try:
            found = lm_eval.simple_evaluate(
                model=_model(engine, subject),
                tasks=list(self.names),
                num_fewshot=self.few_shot,
                limit=self.limit,
                bootstrap_iters=0,
                log_samples=True,
                task_manager=self.manager,
                random_seed=self.seed,
                numpy_random_seed=self.seed,
                torch_random_seed=self.seed,
                fewshot_random_seed=self.seed,
            )
        except WorkloadError:
            raise
        except (MemoryError, RuntimeError):
            raise  # memory ran out: the caller knows the sentence
        except FileNotFoundError as error:
            raise UserConfigError(f"The rows of an lm-eval task are not there: {error}") from None
        except OSError as error:
            raise TryAgain(f"The rows of an lm-eval task cannot be fetched for now: {error}") from None
        except Exception as error:  # tasks are programs of other people
            raise UserConfigError(
                f"The lm-eval tasks {', '.join(self.names)} cannot be run: {type(error).__name__}: {error}"
            ) from error
        samples: Mapping[str, Sequence[Mapping[str, Any]]] = found["samples"]
        return {name: _row_scores(name, rows) for name, rows in samples.items()}


def find_tasks(
    names: Sequence[str], limit: int, few_shot: int | None, seed: int, folder: Path | None
) -> LmTasks | None:
    """The tasks of these names; None for no names.

    :param limit: how many rows of each are asked.
    :param folder: with tasks besides the package's, which the image brings; they may hold code.
    :raises UserConfigError: the package is not there, or knows no such task.
    """
    if not names:
        return None
    # Where a pod may write; the library of data sets reads it when it is imported.
    os.environ.setdefault("HF_HOME", str(Path(tempfile.gettempdir()) / "hf"))
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserConfigError(
            f"The policy's evaluation names tasks of lm-eval ({', '.join(names)}), and this image has no such package "
            f"({error}): add it, or leave lmEval out."
        ) from None
    manager = TaskManager(include_path=str(folder), include_defaults=False) if folder else None
    known = set(manager.all_tasks) if manager else set()
    if not known.issuperset(names):  # the package's own index takes half a minute
        manager = TaskManager(include_path=str(folder) if folder else None)
        known = set(manager.all_tasks)
    if unknown := [name for name in names if name not in known]:
        hints = "; ".join(f"{name}: {did_you_mean(name, known)}" for name in unknown)
        raise UserConfigError(f"lm-eval has no task {', '.join(unknown)} ({hints}).")
    return LmTasks(tuple(names), limit, few_shot, seed, manager)


def _row_scores(name: str, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The first metric of a task, of each row, by its first filter. UserConfigError where it is no score."""
    first = rows[0] if rows else {}
    metrics = first.get("metrics") or ()
    metric = next((one for one in metrics if _is_score(first.get(one))), None)
    if metric is None:
        told = ", ".join(map(str, metrics)) or "nothing"
        raise UserConfigError(
            f"The lm-eval task {name} gives {told} and no score of each row from 0 to 1: it cannot be compared here."
        )
    mine = [row for row in rows if row.get("filter") == first.get("filter")]
    scores = [row.get(metric) for row in sorted(mine, key=lambda row: int(row["doc_id"]))]
    if not all(map(_is_score, scores)):
        raise UserDataError(f"The lm-eval task {name} gives rows without a score ({metric}).")
    log.info("lm-eval task %s: %d rows, %s", name, len(scores), metric)
    return [float(score) for score in scores if score is not None]


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _model(engine: Engine, subject: Subject) -> Any:
    """The engine as lm-eval asks a model; the package's class is there only where the package is."""
    from lm_eval.api.model import TemplateLM

    class EngineModel(TemplateLM):  # type: ignore[misc]
        tokenizer_name = "engine"

        @property
        def eot_token_id(self) -> int:
            return int(engine.tokenizer.eos_token_id)

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return list(engine.tokenizer(string, add_special_tokens=False)["input_ids"])

        def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
            return [
                _of_row(engine, subject, learnt_row(asked, answer, engine.context))
                for _, asked, answer in requests
            ]

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
            raise UserConfigError(
                "A task of lm-eval asks for the perplexity of texts: that is no score of a row."
            )

        def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
            asked = [request.args for request in requests]
            questions = [_question(self.tok_encode(text), wishes, engine.context) for text, wishes in asked]
            answers = engine.answers(subject, questions, _go_on)
            return [
                ended(answer.text, wishes.get("until") or ())
                for answer, (_, wishes) in zip(answers, asked, strict=True)
            ]

    return EngineModel()


def _of_row(engine: Engine, subject: Subject, row: Row) -> tuple[float, bool]:
    _go_on(1)
    return engine.likelihood(subject, row)


def _go_on(_: int) -> None:
    if stop_requested():
        raise TryAgain("Stopped before the evaluation was done; it can be started again.")


def learnt_row(asked: Sequence[int], answer: Sequence[int], context: int) -> Row:
    """A row whose answer is judged, cut at its beginning where it is longer than the model reads.

    :param asked: the tokens before the answer, one at least.
    :param context: tokens that the model reads.
    """
    ids = [*asked, *answer][-context:]
    judged = min(len(answer), len(ids) - 1)
    return {"input_ids": ids, "labels": [IGNORE] * (len(ids) - judged) + ids[len(ids) - judged :]}


def _question(ids: Sequence[int], wishes: Mapping[str, Any], context: int) -> Question:
    tokens = min(int(wishes.get("max_gen_toks") or ANSWER_TOKENS), context - 1)
    return Question(tuple(ids[-(context - tokens) :]), tokens)


def ended(text: str, until: str | Sequence[str]) -> str:
    """The text up to the first of the words that end an answer."""
    for word in [until] if isinstance(until, str) else until:
        if word:
            text = text.partition(word)[0]
    return text
