"""How many tokens text takes: counts over documents, and their ratios."""

from dataclasses import asdict, dataclass

import numpy as np

from data_tools.words import split_words

HEAD = (
    f"{'':<20}{'documents':>10}{'bytes':>14}{'tokens':>13}{'bytes/token':>12}{'tokens/word':>12}"
    f"{'tokens/char':>12}{'byte tokens':>12}{'lossy':>7}"
)


@dataclass(frozen=True)
class Fertility:
    """Counts over some documents, EOS not among the tokens, and their ratios (0 where there is no text)."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0
    byte_tokens: int = 0
    """Tokens that are a part of a character."""
    lossy_documents: int = 0
    """Documents that decoding does not give back."""

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / max(1, self.words)

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / max(1, self.characters)

    @property
    def tokens_per_byte(self) -> float:
        return self.tokens / max(1, self.bytes)

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(1, self.tokens)

    @property
    def byte_token_share(self) -> float:
        return self.byte_tokens / max(1, self.tokens)

    def __add__(self, other: "Fertility") -> "Fertility":
        mine, theirs = asdict(self), asdict(other)
        return Fertility(**{key: mine[key] + theirs[key] for key in mine})

    def record(self) -> dict[str, float]:
        """Counts and ratios, for JSON."""
        return {
            **asdict(self),
            "tokens_per_word": self.tokens_per_word,
            "tokens_per_character": self.tokens_per_character,
            "tokens_per_byte": self.tokens_per_byte,
            "bytes_per_token": self.bytes_per_token,
            "byte_token_share": self.byte_token_share,
        }

    def row(self, name: str) -> str:
        """A line under `HEAD`."""
        return (
            f"{name:<20}{self.documents:>10,}{self.bytes:>14,}{self.tokens:>13,}{self.bytes_per_token:>12.2f}"
            f"{self.tokens_per_word:>12.2f}{self.tokens_per_character:>12.3f}{self.byte_token_share:>12.2%}"
            f"{self.lossy_documents:>7,}"
        )


def count_words(text: str) -> int:
    """As all steps count them: what stands between spaces, and each letter of a script without spaces."""
    return int(np.count_nonzero(split_words(text).spoken))
