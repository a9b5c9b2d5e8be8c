"""A word n-gram language model with interpolated Kneser-Ney smoothing: what it is, its file, perplexities."""

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_tools.words import Hashes, Ints, split_words
from megatrain.durable import replacing
from megatrain.errors import UserError, require

FORMAT_VERSION = 1
_BASE = np.uint64(0xA0761D6478BD642F)
_START = np.uint64(1)
Shares = npt.NDArray[np.float32]
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Table:
    """Numbers by hash: `keys` [n] ascending, `values` [n]."""

    keys: Hashes
    values: Shares

    def get(self, keys: Hashes, default: float) -> npt.NDArray[np.float64]:
        """The value of each of some keys [m]."""
        found = np.full(len(keys), default, np.float64)
        shift, begins = self._buckets
        bucket = (keys >> shift).astype(np.int64)
        at, end = begins[bucket], begins[bucket + 1]
        left = np.flatnonzero(at < end)
        while len(left):  # A bucket holds one key on average: a few rounds, where a bisection has twenty.
            same = self.keys[at[left]] == keys[left]
            found[left[same]] = self.values[at[left[same]]]
            left = left[~same]
            at[left] += 1
            left = left[at[left] < end[left]]
        return found

    @cached_property
    def _buckets(self) -> tuple[np.uint64, Ints]:
        """By how many bits a key is shifted to its bucket; where each bucket begins and the last one ends."""
        bits = max(1, len(self.keys).bit_length() - 1)
        shift = np.uint64(64 - bits)
        begins = np.searchsorted(self.keys, np.arange(1 << bits, dtype=np.uint64) << shift)
        return shift, np.append(begins, len(self.keys))


@dataclass(frozen=True)
class NgramModel:
    """P(w | h) = grams(h w) + contexts(h) · P(w | h without its first word), down to 1 / (vocabulary + 1).

    `grams[n]` and `contexts[n]` are for n-grams of n + 1 words and their first n; a word that was not in the
    reference is the one unknown word. `percentiles` [101] are those of the perplexities of the texts by which
    the model was calibrated.
    """

    grams: tuple[Table, ...]
    contexts: tuple[Table, ...]
    percentiles: npt.NDArray[np.float64]

    @property
    def order(self) -> int:
        """The words of the longest n-gram."""
        return len(self.grams)

    def probabilities(self, words: Hashes) -> npt.NDArray[np.float64]:
        """P of each word of a text after those before it [n]."""
        found = np.full(len(words), 1.0 / (len(self.grams[0].keys) + 1))
        for (context, gram), contexts, grams in zip(
            ngram_hashes(words, self.order), self.contexts, self.grams, strict=True
        ):
            found = grams.get(gram, 0.0) + contexts.get(context, 1.0) * found
        return found

    def perplexity(self, words: Hashes) -> float:
        """The number of equally likely words that would be as hard to foresee; words [n], n > 0."""
        return float(np.exp(-np.log(self.probabilities(words)).mean()))

    def percentile(self, perplexity: float) -> float:
        """The share, in percent, of the calibrating texts with a lower perplexity."""
        return float(np.interp(perplexity, self.percentiles, np.arange(101.0)))


def model_words(text: str) -> Hashes:
    """The words of a text as the model knows them: in lower case, digits as 0, without signs on their own."""
    words = split_words(_DIGIT.sub("0", text.lower()))
    return words.hashes[words.spoken]


def ngram_hashes(
    words: Hashes, order: int, firsts: Sequence[int] | Ints = (0,)
) -> Iterator[tuple[Hashes, Hashes]]:
    """For n = 1 to `order` and each word of some texts: the hashes of the n - 1 words before it, and with it.

    `firsts` are the places of the texts' first words; before one stand marks of the start.
    """
    start = np.zeros(1, np.uint64)
    context = gram = np.zeros(len(words), np.uint64)
    for size in range(1, order + 1):
        if size > 1:
            start = _START + _BASE * start
            context = np.roll(gram, 1)
            context[np.asarray(firsts)] = start
        gram = words + _BASE * context
        yield context, gram


def save_model(model: NgramModel, path: Path) -> None:
    """Write a model as a .npz of plain arrays, whole or not at all."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "format_version": np.array(FORMAT_VERSION),
        "percentiles": model.percentiles,
    }
    for size, (grams, contexts) in enumerate(zip(model.grams, model.contexts, strict=True), 1):
        arrays |= {f"grams_{size}": grams.keys, f"grams_{size}_values": grams.values}
        arrays |= {f"contexts_{size}": contexts.keys, f"contexts_{size}_values": contexts.values}
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_model(path: Path) -> NgramModel:
    """Read a model. Raises UserError where the file is none, is damaged, or is of a newer version."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            version = int(arrays["format_version"])
            require(
                version <= FORMAT_VERSION,
                f"{path}: version {version} of the model's format is newer than this megatrain reads "
                f"({FORMAT_VERSION}); upgrade megatrain",
            )
            order = sum(1 for name in arrays.files if re.fullmatch(r"grams_\d+", name))
            percentiles = np.asarray(arrays["percentiles"], np.float64)
            if percentiles.shape != (101,):
                raise ValueError("percentiles are not 101")
            return NgramModel(
                grams=_tables(arrays, "grams", order),
                contexts=_tables(arrays, "contexts", order),
                percentiles=percentiles,
            )
    except FileNotFoundError:
        raise UserError(
            f"perplexity.model: {path}: no such file; make one with `megatrain data perplexity-model`"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        # numpy says of what is no archive that it could be loaded "unsafely": that is for nobody here.
        told = "no archive" if "allow_pickle" in str(error) else " ".join(str(error).split())
        raise UserError(f"{path}: no model of n-grams, or damaged: {told}; train one anew") from None


def _tables(arrays: "np.lib.npyio.NpzFile", name: str, order: int) -> tuple[Table, ...]:
    tables = []
    for size in range(1, order + 1):
        keys, values = arrays[f"{name}_{size}"], arrays[f"{name}_{size}_values"]
        if (
            keys.dtype != np.uint64
            or values.dtype != np.float32
            or keys.shape != values.shape
            or not keys.size
        ):
            raise ValueError(f"{name}_{size} does not fit together")
        tables.append(Table(keys, values))
    if not tables:
        raise ValueError("it holds no n-grams")
    return tuple(tables)
