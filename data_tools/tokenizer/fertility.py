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
    """Counts over some documents, EOS not among the tokens, and their ratios; None where there is nothing."""

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
    def tokens_per_word(self) -> float | None:
        return ratio(self.tokens, self.words)

    @property
    def tokens_per_character(self) -> float | None:
        return ratio(self.tokens, self.characters)

    @property
    def tokens_per_byte(self) -> float | None:
        return ratio(self.tokens, self.bytes)

    @property
    def bytes_per_token(self) -> float | None:
        return ratio(self.bytes, self.tokens)

    @property
    def byte_token_share(self) -> float | None:
        return ratio(self.byte_tokens, self.tokens)

    def __add__(self, other: "Fertility") -> "Fertility":
        mine, theirs = asdict(self), asdict(other)
        return Fertility(**{key: mine[key] + theirs[key] for key in mine})

    def record(self) -> dict[str, float | None]:
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
            f"{name:<20}{self.documents:>10,}{self.bytes:>14,}{self.tokens:>13,}"
            f"{shown(self.bytes_per_token, '.2f'):>12}{shown(self.tokens_per_word, '.2f'):>12}"
            f"{shown(self.tokens_per_character, '.3f'):>12}{shown(self.byte_token_share, '.2%'):>12}"
            f"{self.lossy_documents:>7,}"
        )


def ratio(part: float, whole: float) -> float | None:
    """Return part / whole; None where the whole is nothing."""
    return part / whole if whole else None


def shown(value: float | None, form: str) -> str:
    """Return a number as text; a dash for an average over nothing."""
    return "-" if value is None else format(value, form)


def count_words(text: str) -> int:
    """As all steps count them: what stands between spaces, and each letter of a script without spaces."""
    return int(np.count_nonzero(split_words(text).spoken))
