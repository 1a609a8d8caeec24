"""TRL's DPOTrainer and KTOTrainer over rows that are tokenised already, with what a pod needs.

The reference is the base model with the adapter off (TRL's own way for a PEFT model without a `ref` adapter), so no
second copy of the weights is ever held. A training that goes on from an adapter is compared with the base model too.
"""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer, KTOTrainer

from include.workloads.tuning.preferences import COMPLETION
from include.workloads.tuning.trainer import AdapterTraining


class _Tokenised(AdapterTraining):
    """Rows come with token ids, and tokens are counted as the model reads them."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss of one batch."""
        if model.training:
            self.tokens += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]


class PairTrainer(_Tokenised, DPOTrainer):  # type: ignore[misc]
    """DPO over prompt, chosen and rejected ids."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


class MarkedTrainer(_Tokenised, KTOTrainer):  # type: ignore[misc]
    """KTO over prompt and completion ids with a label."""

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, *others: Any, **kwargs: Any
    ) -> Any:
        """The rows, each with another row's answer: the divergence from the reference is estimated from those.

        As in TRL, the answers of a batch's rows are turned by one, in the order in which they are trained on.
        """
        if not self.calculate_KL:
            return dataset

        def turned(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
            answers = rows[COMPLETION]
            return {**rows, "KL_completion_ids": [answers[-1], *answers[:-1]]}

        return dataset.map(turned, batched=True, batch_size=args.per_device_train_batch_size)
