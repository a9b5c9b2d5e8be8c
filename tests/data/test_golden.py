"""What a run in progress sees must not change with the code: the batches of the plain settings, by hash."""

from typing import get_args

import numpy as np
import xxhash

from megatrain.config import DataConfig
from megatrain.data.batch import RankBatch
from megatrain.data.documents import Documents
from megatrain.data.loader import Loader
from megatrain.data.mixture import TokenMixture
from megatrain.data.training import TrainingSamples

from .conftest import MakeDataset

LENGTH = 16


def _digest(batches: list[RankBatch]) -> str:
    digest = xxhash.xxh3_128()
    for batch in batches:
        digest.update(batch.sample_ids.astype("<i8").tobytes())
        for micro in batch.micro_batches:
            for tensor in (micro.tokens, micro.labels, micro.positions, micro.loss_mask):
                digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def test_batches_of_the_plain_settings_never_change(make_dataset: MakeDataset) -> None:
    folder = make_dataset({"a": 300, "b": 120, "c": 50}).parent
    found = {}
    for weights in (None, {"a": 1, "c": 3}):
        sources = [{"path": str(folder)}]
        if weights is not None:
            sources = [{"path": str(folder), "name": name, "weight": w} for name, w in weights.items()]
        config = DataConfig.model_validate({"sources": sources, "sequence_length": LENGTH})
        data = TokenMixture.open(config, "train")
        samples = TrainingSamples(data, config)
        order = samples.order(seed=1234)
        found[f"order {weights}"] = samples.fingerprint(order)
        older = TrainingSamples(data, config.model_copy(update={"document_start": "none"}))
        found[f"order {weights}, none"] = older.fingerprint(order)
        for documents in get_args(Documents):
            batches = []
            for rank in range(2):
                loader = Loader(
                    samples,
                    order,
                    global_batch=7,
                    micro_batch=2,
                    dp_rank=rank,
                    dp_size=2,
                    sequence_length=LENGTH,
                    documents=documents,
                    prefetch=0,
                )
                batches += [loader.batch(7 * step, ((9, 12),)) for step in (0, 1, 2, 200)]
            found[f"batches {weights} {documents}"] = _digest(batches)
    first = "e5b2ad75a460b67d27f94588b1e2a64b-9ac38daa8eb3f8dcac63f149a96de340-16"
    other = "bd5c3bf241e2e1e426f7b6373c38b367-522a01ffc2ff63e3aacabab0efdda72c-16"
    assert found == {
        "order None": f"{first}-start",
        "order None, none": f"{first}-mask",
        "batches None start": "9110174c7a289d357d2f38b3577a58eb",
        "batches None mask": "0ad8c25ddb2e91b102d3c4a44aacfe76",
        "batches None concat": "528d881b867fed971213a1cddfc8f9d3",
        "order {'a': 1, 'c': 3}": f"{other}-start",
        "order {'a': 1, 'c': 3}, none": f"{other}-mask",
        "batches {'a': 1, 'c': 3} start": "c8695afc2b7bfa0b5b53adaee807360b",
        "batches {'a': 1, 'c': 3} mask": "854adfa1f4c231108346ff95c35cdc28",
        "batches {'a': 1, 'c': 3} concat": "e219e0ebb7384febda2d830abeea1a90",
    }
