"""Keys and values of the sequences that run together, and the model's forward pass over them.

`Rows` keeps them in one block a layer, a row a sequence, so that one forward pass makes a token for all of them however
long each one is. `Apart` gives each sequence the model's own cache and runs them one after the other: for models whose
state is more than keys and values. Rows below the number of running sequences are in use; the others keep what they
last held, for a prompt that begins the same way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, DynamicCache

STEP = 128  # tokens by which rows grow
FULL, SLIDING = "full_attention", "sliding_attention"


class Sequences(Protocol):
    """Where running sequences are kept."""

    keeps: bool  # whether what a row held before can be used again

    def reserve(self, rows: int, width: int) -> int:
        """Room for so many rows of `width` tokens, what they hold kept. Returns how many rows there are now."""

    def read(self, row: int, ids: Sequence[int], start: int) -> torch.Tensor:
        """Read tokens that follow the first `start` ones of this row; the scores after the last, (vocabulary,)."""

    def follow(self, ids: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
        """One more token for each of the first rows; the scores after each, (rows, vocabulary)."""

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first tokens of a row."""


Forward = Callable[..., Any]


class Rows(Cache):  # type: ignore[misc]
    """A row for each sequence, from its first token on."""

    keeps = True

    def __init__(
        self, forward: Forward, config: Any, device: Any, dtype: torch.dtype, most: int, keeps_last: bool
    ) -> None:
        """`most` is the number of tokens that all rows together may hold; `keeps_last`: the model can leave out scores.

        :param forward: the model, called as transformers' models are.
        :param config: the text model's configuration, for its kinds of attention.
        """
        super().__init__(layers=[])
        self._forward, self._config, self._most = forward, config, most
        self._device, self._dtype = device, dtype
        self._last = {"logits_to_keep": 1} if keeps_last else {}
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._rows = self._width = 0
        self._place: tuple[slice, Any, int] = (slice(0), slice(0), 0)

    # --- what transformers' models ask of a cache --------------------------------------------------------------------

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep what a layer made of the new tokens, and give it all that its rows hold: (rows, heads, tokens, size)."""
        while len(self._keys) <= layer_idx:
            self._keys.append(self._block(key_states))
            self._values.append(self._block(value_states))
        rows, where, width = self._place
        found = []
        for block, states in ((self._keys[layer_idx], key_states), (self._values[layer_idx], value_states)):
            if isinstance(where, slice):
                block[rows, :, where] = states
            else:
                one, at = (index.to(states.device) for index in where)
                block[one, :, at] = states[:, :, 0]
            found.append(block[rows, :, :width])
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """None before the new ones, to a model that is given positions and masks."""
        return 0

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        """Tokens that a layer sees, and where they begin."""
        return self._place[2], 0

    # --- what the batch asks -----------------------------------------------------------------------------------------

    def reserve(self, rows: int, width: int) -> int:
        """Room by doubling rows, and by STEP tokens; within the limit, rows that are not in use give way first."""
        wide = -(-width // STEP) * STEP
        if rows <= self._rows and width <= self._width:
            return self._rows
        columns = max(wide, self._width)
        lines = rows if rows <= self._rows else max(rows, min(2 * self._rows, rows + 8))
        lines = max(lines, self._rows)
        if lines * columns > self._most:
            columns = wide
            lines = max(rows, min(lines, self._most // columns))
        kept = min(self._rows, lines)
        short = min(self._width, columns)
        with torch.inference_mode():
            for blocks in (self._keys, self._values):
                for layer, old in enumerate(blocks):
                    new = old.new_zeros((lines, old.shape[1], columns, old.shape[3]))
                    new[:kept, :, :short] = old[:kept, :, :short]
                    blocks[layer] = new
        self._rows, self._width = lines, columns
        return lines

    def read(self, row: int, ids: Sequence[int], start: int) -> torch.Tensor:
        end = start + len(ids)
        self._place = (slice(row, row + 1), slice(start, end), end)
        positions = torch.arange(start, end, device=self._device)[None]
        return self._scores([list(ids)], positions)[0]

    def follow(self, ids: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
        rows = torch.arange(len(ids), device=self._device)
        positions = torch.tensor(list(starts), device=self._device)
        self._place = (slice(0, len(ids)), (rows, positions), max(starts) + 1)
        return self._scores([[one] for one in ids], positions[:, None])

    def _scores(self, ids: list[list[int]], positions: torch.Tensor) -> torch.Tensor:
        found = self._forward(
            input_ids=torch.tensor(ids, device=self._device),
            position_ids=positions,
            attention_mask=self._masks(positions),
            past_key_values=self,
            use_cache=True,
            **self._last,
        )
        return found.logits[:, -1]

    def _masks(self, positions: torch.Tensor) -> Any:
        """Which tokens of its row each new token sees, (rows, 1, new, tokens), by kind of attention."""
        seen = torch.arange(self._place[2], device=positions.device)
        full = seen <= positions[..., None]
        window = getattr(self._config, "sliding_window", None)
        kinds = set(getattr(self._config, "layer_types", None) or ())
        if not window or kinds == {FULL}:
            return self._added(full)
        near = full & (seen > positions[..., None] - window)
        return {FULL: self._added(full), SLIDING: self._added(near)} if kinds else self._added(near)

    def _added(self, seen: torch.Tensor) -> torch.Tensor:
        """A mask as it is added to scores, made once a step: a layer would make it of a boolean one again."""
        return torch.zeros(seen.shape, dtype=self._dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[
            :, None
        ]

    def _block(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros((self._rows, states.shape[1], self._width, states.shape[3]))

    def swap(self, one: int, other: int) -> None:
        if one == other:
            return
        with torch.inference_mode():
            for block in (*self._keys, *self._values):
                held = block[one].clone()
                block[one] = block[other]
                block[other] = held

    def copy(self, source: int, target: int, tokens: int) -> None:
        with torch.inference_mode():
            for block in (*self._keys, *self._values):
                block[target, :, :tokens] = block[source, :, :tokens]


class Apart:
    """A cache of the model's own kind for each sequence, each read alone."""

    keeps = False

    def __init__(self, forward: Forward, config: Any, device: Any, keeps_last: bool) -> None:
        self._forward, self._config, self._device = forward, config, device
        self._last = {"logits_to_keep": 1} if keeps_last else {}
        self._caches: list[Any] = []

    def reserve(self, rows: int, width: int) -> int:
        self._caches += [None] * (rows - len(self._caches))
        return len(self._caches)

    def read(self, row: int, ids: Sequence[int], start: int) -> torch.Tensor:
        if start == 0:
            self._caches[row] = DynamicCache(config=self._config)
        found = self._forward(
            input_ids=torch.tensor([list(ids)], device=self._device),
            past_key_values=self._caches[row],
            use_cache=True,
            **self._last,
        )
        return found.logits[0, -1]

    def follow(self, ids: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
        return torch.stack(
            [self.read(row, [one], start) for row, (one, start) in enumerate(zip(ids, starts, strict=True))]
        )

    def swap(self, one: int, other: int) -> None:
        caches = self._caches
        caches[one], caches[other] = caches[other], caches[one]

    def copy(self, source: int, target: int, tokens: int) -> None:
        raise NotImplementedError("a cache of the model's own kind is not copied")


def leaves_out_scores(model: Any) -> bool:
    """Whether a model makes the last token's scores alone when it is asked to."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
