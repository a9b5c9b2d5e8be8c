"""Perplexity of held-out documents with and without the start token in front, as evaluation harnesses score.

    python -m tests.benchmarks.start_token EXPORT DATASET [--split test] [--documents N] [--prefix TOKEN]

Each document is cut into windows of the trained length, of which the first begins with the prefix token and
each further one with the last token of the one before, as lm-evaluation-harness's rolling log-likelihood
does. The prefix is the export's own `bos_token`, else its `eos_token`, as the harness chooses, or `--prefix`.
"without" leaves the prefix out: the first token is then scored by nobody. "of the rest" is over the very same
tokens with and without.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_tools.datasets.documents import random_documents
from data_tools.datasets.shards import open_splits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("export", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--prefix")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(chosen.export)
    model = AutoModelForCausalLM.from_pretrained(chosen.export, dtype=torch.float32).eval()
    length = model.config.max_position_embeddings
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if chosen.prefix is not None:
        prefix = tokenizer.convert_tokens_to_ids(chosen.prefix)
    splits = {chosen.split: open_splits(chosen.dataset)[chosen.split]}
    first, rest, bare = [], [], []
    for document in random_documents(splits, chosen.documents, chosen.seed):
        ids = tokenizer(document.text)["input_ids"]
        with_prefix, without = nats(model, [prefix, *ids], length), nats(model, ids, length)
        first.append(with_prefix[:1])
        rest.append(with_prefix[1:])
        bare.append(without)
    first_, rest_, bare_ = (torch.cat(values) for values in (first, rest, bare))
    assert len(rest_) == len(bare_)
    print(
        f"{chosen.export}: prefix {tokenizer.convert_ids_to_tokens(prefix)!r} "
        f"(bos_token {tokenizer.bos_token!r})"
    )
    print(f"{len(first):,} documents of {chosen.split}, {len(bare_):,} tokens behind their first ones")
    print(
        f"  with the start token: perplexity {perplexity(torch.cat([first_, rest_])):.2f} over all tokens, ",
        end="",
    )
    print(f"{perplexity(rest_):.2f} of the rest; first tokens {first_.mean():.2f} nats")
    print(f"  without:              perplexity {perplexity(bare_):.2f} of the rest")
    print(f"  uniform over {len(tokenizer):,} ids: {math.log(len(tokenizer)):.2f} nats")


@torch.inference_mode()
def nats(model: torch.nn.Module, ids: list[int], length: int) -> torch.Tensor:
    """Of each token but the first, given those before it in its window."""
    found = []
    for begin in range(0, len(ids) - 1, length):
        window = torch.tensor(ids[begin : begin + length + 1])
        logits = model(window[None, :-1]).logits[0].double()
        found.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def perplexity(values: torch.Tensor) -> float:
    return math.exp(float(values.mean()))


if __name__ == "__main__":
    main()
