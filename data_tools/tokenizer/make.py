"""A dataset's tokenizer put into its folder: trained on a sample, or taken over."""

from collections.abc import Iterable
from pathlib import Path

from data_tools.tokenizer.existing import read_tokenizer
from data_tools.tokenizer.section import TokenizerTraining
from data_tools.tokenizer.train import train_tokenizer
from megatrain.data.manifest import TokenizerInfo
from megatrain.data.tokenizer import describe, save_tokenizer


def make_tokenizer(home: Path, section: TokenizerTraining, texts: Iterable[str]) -> TokenizerInfo:
    """Write the tokenizer of a config into a folder and describe it.

    `texts` (those that a `TrainingSample` takes) are read only where one is trained. Raises UserError where
    they do not fit its size, or the existing one cannot be used.
    """
    if section.model is None:
        model = train_tokenizer(texts, section)
        info = describe("sentencepiece", model, vocab_multiple=section.vocab_multiple)
        return save_tokenizer(home, model, info)
    found = read_tokenizer(Path(section.model), eos_token=section.eos_token, bos_token=section.bos_token)
    info = describe(
        found.kind,
        found.model,
        eos_id=found.eos_id,
        bos_id=found.bos_id,
        vocab_multiple=section.vocab_multiple,
    )
    return save_tokenizer(home, found.model, info, found.companions)
