"""Generation: one token at a time from the model's own cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megatrain.errors import FailedWork, require
from megatrain.model.attention import Cache
from megatrain.model.transformer import Transformer


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    eos_id: int | None = None,
    vocab_size: int | None = None,
) -> list[int]:
    """The ids that follow the prompt, at most `max_new_tokens`; `eos_id` ends them and is the last of them.

    Temperature 0 takes the likeliest token, else it is drawn from softmax(logits / temperature), cut to the
    `top_k` likeliest and to the fewest that hold `top_p` of the probability. The same seed gives the same
    ids. `vocab_size`: ids from there on (padding rows of the model) are never taken.

    Raises UserError for an empty prompt, an id that the model has not, or settings out of range; FailedWork
    for weights that give no finite logits.
    """
    require(0 <= seed < 1 << 63, f"seed ({seed}) must be 0 or above, and below 2^63")
    _check(model, prompt_ids, max_new_tokens, temperature, top_k, top_p)
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
    cache = Cache.empty(len(model.layers))
    new: list[int] = []
    fresh = list(prompt_ids)
    while len(new) < max_new_tokens:
        positions = torch.arange(cache.length, cache.length + len(fresh), device=device)[None]
        logits_V = model.logits(torch.tensor([fresh], device=device), positions, cache)[0, -1, :vocab_size]
        if not logits_V.isfinite().all():
            raise FailedWork(
                "the model's logits are not finite numbers: its weights are not, or overflow; "
                "take an older checkpoint"
            )
        new.append(choose(logits_V.float().cpu(), temperature, top_k, top_p, generator))
        if new[-1] == eos_id:
            break
        fresh = new[-1:]
    return new


def choose(
    logits_V: torch.Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> int:
    """One id by the rule that `generate` states."""
    if temperature == 0:
        return int(logits_V.argmax())
    # From the largest down, a small temperature makes -inf of the others, not inf of all.
    below_V = (logits_V - logits_V.max()).double() / temperature
    probabilities, ids = torch.softmax(below_V, 0).float().sort(descending=True, stable=True)
    if top_k is not None:
        probabilities = probabilities[:top_k]
    if top_p is not None:
        before = probabilities.cumsum(0) - probabilities  # the first is always kept
        probabilities = probabilities[before < top_p * probabilities.sum()]
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


def _check(
    model: Transformer,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    require(prompt_ids, "the prompt is empty: give at least one token to go on from")
    rows = model.embedding.weight.shape[0]
    assert rows == model.config.vocab_size, "generation is for a whole model, not for a slice of it"
    wrong = [id_ for id_ in prompt_ids if not 0 <= id_ < rows]
    require(not wrong, f"the prompt has ids {wrong[:3]}, the model {rows}; is the tokenizer another one?")
    require(max_new_tokens >= 0, f"max_new_tokens ({max_new_tokens}) must not be negative")
    require(0 <= temperature < float("inf"), f"temperature ({temperature}) must be 0 or above")
    require(top_k is None or top_k >= 1, f"top_k ({top_k}) must be at least 1")
    require(top_p is None or 0 < top_p <= 1, f"top_p ({top_p}) must be above 0 and at most 1")
