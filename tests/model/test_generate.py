"""Generation from the cache is generation without one; sampling follows its stated rule."""

import math
from collections import Counter

import pytest
import torch

from megatrain.config import Llama3Scaling, ModelConfig, RopeConfig
from megatrain.errors import UserError
from megatrain.model import Transformer
from megatrain.model.attention import Cache
from megatrain.model.generate import choose, generate
from megatrain.model.init import build_model
from megatrain.parallel.context import ParallelContext

PROMPT = [5, 60, 7, 7, 31]


@pytest.fixture(scope="module")
def model() -> Transformer:
    rope = RopeConfig(theta=100.0, llama3=Llama3Scaling(factor=4.0, original_sequence_length=16))
    config = ModelConfig(
        vocab_size=64, dim=32, layers=3, heads=4, kv_heads=2, head_dim=8, ffn_dim=48, init_std=0.3, rope=rope
    )
    return build_model(config, ParallelContext.single(), seed=2, dtype=torch.float32)[0]


def uncached(model: Transformer, ids: list[int]) -> torch.Tensor:
    """Logits (S, V) of all positions, computed anew."""
    with torch.no_grad():
        return model.logits(torch.tensor([ids]), torch.arange(len(ids))[None])[0]


def test_greedy_is_the_argmax_loop_without_a_cache(model: Transformer) -> None:
    ids = list(PROMPT)
    for _ in range(40):  # beyond the 16 positions that the scaled RoPE calls original
        ids.append(int(uncached(model, ids)[-1].argmax()))
    new = generate(model, PROMPT, max_new_tokens=40)
    assert PROMPT + new == ids
    assert len(set(new)) > 3  # not one token for ever


def test_logits_from_the_cache_are_those_without(model: Transformer) -> None:
    """1e-5: fp32 roundings of other matrix shapes, on logits of size 5."""
    ids = PROMPT + list(range(20))
    cache, rows = Cache.empty(3), []
    with torch.no_grad():
        rows.append(model.logits(torch.tensor([PROMPT]), torch.arange(5)[None], cache)[0])
        for at in range(5, len(ids)):
            rows.append(model.logits(torch.tensor([[ids[at]]]), torch.tensor([[at]]), cache)[0])
    assert cache.length == len(ids)
    assert (torch.cat(rows) - uncached(model, ids)).abs().max() < 1e-5


def test_sampling_is_a_function_of_the_seed(model: Transformer) -> None:
    def draw(seed: int) -> list[int]:
        return generate(model, PROMPT, max_new_tokens=30, temperature=1.0, seed=seed)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = draw(3)
    assert torch.equal(torch.get_rng_state(), state)  # the process's own generator is left alone
    torch.manual_seed(2)
    assert draw(3) == first != draw(4)
    assert draw(3)[:10] == generate(model, PROMPT, max_new_tokens=10, temperature=1.0, seed=3)


@pytest.mark.parametrize("temperature", [1e-9, 1e-40, 1e-300])
def test_a_tiny_temperature_takes_the_likeliest(model: Transformer, temperature: float) -> None:
    greedy = generate(model, PROMPT, max_new_tokens=5)
    assert generate(model, PROMPT, max_new_tokens=5, temperature=temperature, top_p=0.9) == greedy


def test_eos_ends_it_and_padding_rows_are_never_taken(model: Transformer) -> None:
    free = generate(model, PROMPT, max_new_tokens=20)
    eos = free[6]
    assert generate(model, PROMPT, max_new_tokens=20, eos_id=eos) == free[: free.index(eos) + 1]
    allowed = max(PROMPT) + 1
    assert max(free) >= allowed
    for temperature in (0.0, 5.0):
        new = generate(model, PROMPT, max_new_tokens=50, temperature=temperature, vocab_size=allowed)
        assert max(new) < allowed and len(new) == 50
    assert generate(model, PROMPT, max_new_tokens=0) == []


def shares(**rule: float | int | None) -> dict[int, float]:
    """How often each of four ids, of probabilities .5 .3 .15 .05 in mixed order, is chosen."""
    settings = {"temperature": 1.0, "top_k": None, "top_p": None} | rule
    logits = torch.tensor([math.log(p) for p in (0.15, 0.5, 0.05, 0.3)])
    generator = torch.Generator().manual_seed(0)
    counts = Counter(choose(logits, generator=generator, **settings) for _ in range(4000))  # type: ignore[arg-type]
    return {id_: counts[id_] / 4000 for id_ in sorted(counts)}


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({}, {0: 0.15, 1: 0.5, 2: 0.05, 3: 0.3}),
        ({"temperature": 0.5}, {0: 0.0225 / 0.365, 1: 0.25 / 0.365, 2: 0.0025 / 0.365, 3: 0.09 / 0.365}),
        ({"temperature": 0.0}, {1: 1.0}),
        ({"top_k": 2}, {1: 0.625, 3: 0.375}),
        ({"top_k": 100, "top_p": 1.0}, {0: 0.15, 1: 0.5, 2: 0.05, 3: 0.3}),
        ({"top_p": 0.4}, {1: 1.0}),
        ({"top_p": 0.7}, {1: 0.625, 3: 0.375}),
        ({"top_p": 0.9}, {0: 0.15 / 0.95, 1: 0.5 / 0.95, 3: 0.3 / 0.95}),
        ({"top_k": 3, "top_p": 0.6}, {1: 0.625, 3: 0.375}),
    ],
)
def test_the_rule_of_sampling(rule: dict[str, float], wanted: dict[int, float]) -> None:
    """0.03: four standard errors of a share in 4,000 draws."""
    got = shares(**rule)
    assert got.keys() == wanted.keys()
    assert all(abs(got[id_] - share) < 0.03 for id_, share in wanted.items())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prompt_ids": []}, "empty"),
        ({"prompt_ids": [64]}, "64"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
    ],
)
def test_wrong_settings_are_refused(model: Transformer, change: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        generate(model, **({"prompt_ids": PROMPT, "max_new_tokens": 3} | change))  # type: ignore[arg-type]
