"""Every logical tensor has one Hugging Face name and one way back; config.json too."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from megatrain.config import Llama3Scaling, ModelConfig, RopeConfig
from megatrain.errors import FailedWork, UserError
from megatrain.export.hf_config import hf_config, model_config
from megatrain.export.names import logical_shapes, require_same_names, to_hf, to_native

TINY = {"vocab_size": 96, "dim": 32, "layers": 12, "heads": 4, "kv_heads": 2, "head_dim": 12, "ffn_dim": 40}
MODELS = [
    ModelConfig(**TINY),
    ModelConfig(**TINY, tied_embeddings=True, norm_eps=1e-6),
    ModelConfig(**TINY, rope=RopeConfig(theta=500000.0, llama3=Llama3Scaling(factor=32.0))),
]


def config_json(model: ModelConfig) -> dict[str, object]:
    return hf_config(model, sequence_length=64, dtype="bf16", bos_id=1, eos_id=2)


@pytest.mark.parametrize("model", MODELS)
def test_names_and_shapes_are_those_of_transformers(model: ModelConfig) -> None:
    ours = {to_hf(name): shape for name, shape in logical_shapes(model).items()}
    theirs = LlamaForCausalLM(LlamaConfig(**config_json(model)))
    assert ours == {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    assert all(to_native(to_hf(name)) == name for name in logical_shapes(model))


@pytest.mark.parametrize("model", MODELS)
def test_config_json_goes_back_to_the_model(model: ModelConfig) -> None:
    tree = config_json(model)
    assert model_config(tree, "config.json") == model
    for dropped in ("rope_parameters", "rope_theta"):  # as either transformers 4 or 5 writes it
        older = {key: value for key, value in tree.items() if key != dropped}
        assert model_config(older, "config.json") == model
    assert model_config(LlamaConfig(**tree).to_dict(), "config.json") == model


def test_a_tensor_without_a_place_is_named() -> None:
    with pytest.raises(FailedWork, match=r"layers\.3\.attention\.wz\.weight"):
        to_hf("layers.3.attention.wz.weight")
    with pytest.raises(FailedWork, match=r"model\.layers\.3\.self_attn\.q_proj\.bias"):
        to_native("model.layers.3.self_attn.q_proj.bias")
    with pytest.raises(FailedWork, match=r"here: lacks the tensor b"):
        require_same_names(["a"], ["a", "b"], "here")
    with pytest.raises(FailedWork, match=r"here: has the tensor b"):
        require_same_names(["a", "b"], ["a"], "here")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "mixtral"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ({"hidden_size": -1}, "dim"),
    ],
)
def test_another_kind_of_model_is_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        model_config(config_json(MODELS[0]) | change, "config.json")
