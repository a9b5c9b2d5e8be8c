"""What the rules of the step `pii` share: their form, the folding of a text and the context of a number."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal["secret", "email", "ip", "phone"]
Span = tuple[int, int]
"""Where what is masked begins and ends."""

_BEFORE = 60  # Characters that decide what a number is.
_AFTER = 24
# Signs that stand for the one before them; each is one character, so places stay the same.
_SIGNS = {
    "-": "‐‑‒–—−﹣－",
    "@": "﹫＠",
    ".": "﹒․．",
    "(": "﹙（",
    ")": "﹚）",
    "+": "＋",
    "/": "／",
    "=": "＝",
}
_SPACES = "\u00a0\u2007\u2009\u202f\u3000"


@dataclass(frozen=True)
class Rule:
    """What is masked as `kind`: where `pattern` matches and `confirm` returns a span of it.

    Both see the folded text. Nothing is looked for in a text without `hint`.
    """

    kind: Kind
    hint: re.Pattern[str]
    pattern: re.Pattern[str]
    confirm: Callable[[re.Match[str]], Span | None] = re.Match.span


def vocabulary(words: str) -> frozenset[str]:
    """The words of a list that spaces part."""
    return frozenset(words.split())


def fold(text: str) -> str:
    """The text with the signs, letters and digits of numbers and addresses as ASCII; no place in it moves."""
    if text.isascii():
        return text
    table, other = _folding()
    return other.sub(lambda match: table[match[0]], text)


@cache
def _folding() -> tuple[dict[str, str], re.Pattern[str]]:
    """What a character is folded to, and a pattern that finds the characters that are."""
    table = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code - 0xFEE0).isalnum()}
    table |= {sign: plain for plain, signs in _SIGNS.items() for sign in signs} | dict.fromkeys(_SPACES, " ")
    digits = (chr(code) for code in range(0x80, 0x10000) if unicodedata.category(chr(code)) == "Nd")
    table |= {digit: str(unicodedata.digit(digit)) for digit in digits}
    return table, re.compile("[" + "".join(map(re.escape, sorted(table))) + "]")


def before(match: re.Match[str]) -> str:
    """What leads to a match on its line."""
    return match.string[max(0, match.start() - _BEFORE) : match.start()].rpartition("\n")[2]


def after(match: re.Match[str], end: int) -> str:
    """What follows a place on its line."""
    return match.string[end : end + _AFTER].partition("\n")[0]


_CURRENCY = (
    r"[$€£¥₩₽₹₺₫₴₦฿₪＄￡￥￦]|R\$|Rp\.?"
    r"|(?:USD|EUR|GBP|JPY|CNY|RMB|INR|KRW|RUB|BRL|IDR|VND|CHF|CAD|AUD)(?![A-Za-z])"
)
_PRICE_BEFORE = re.compile(rf"(?:{_CURRENCY})\s?$")
_PRICE_AFTER = re.compile(
    rf"\s?(?:{_CURRENCY}|元|块钱|円|원|руб|(?:dollars?|euros?|pounds?|yen|yuan|won|rupees?)(?![a-z]))"
)
_UNIT_AFTER = re.compile(
    r"[\s-]?(?:[%‰°℃]|[gmlLbBWV](?![A-Za-z.:])|(?:[mkµμcn][gm]|mcg|[mck][lL]|[kMGT]i?[Bb]|[kMGT]?Hz"
    r"|[mkMG][WVA]|kWh|k?cal|[kMh]?Pa|k?J|m[²³2]|IU|px|pt|ppm|dpi|rpm|mph|lbs?|oz|ft|dB|tons?|tonnes?|units?|pieces|pcs|people"
    r"|users|miles|feet|inches|bytes|years|days|hours|minutes|seconds|shares|votes|copies)(?![A-Za-z])"
    r"|毫克|公斤|千克|公里|毫米|厘米|万|亿|人(?!工)|件|个|個|米|吨|度|号(?![码碼])|號(?![码碼])|명|개)"
)


def is_price(match: re.Match[str], end: int) -> bool:
    """Whether a currency stands before or after a number."""
    return bool(_PRICE_BEFORE.search(before(match)[-5:]) or _PRICE_AFTER.match(after(match, end)))


def is_quantity(match: re.Match[str], end: int) -> bool:
    """Whether a number is a price or has a unit behind it."""
    return is_price(match, end) or bool(_UNIT_AFTER.match(after(match, end)))


_TOKEN = re.compile(r"[vV]?\d+(?:\.\d+)+|[^\W\d_]+|\S")
_FILLERS = vocabulary(
    "and or to through until und et y e и no number nr is was are es est ist 和 与 與 及 或 至 到 为 是 は が"
    " 号 號 番号 . , : ： ; = # / & ~ - ( [ { \" ' ` * > _"
)


def called(match: re.Match[str], names: frozenset[str], ends: tuple[str, ...]) -> bool:
    """Whether the word that leads to a number is one of `names` or ends with one of `ends`.

    Signs, words such as "is" and "number", and other dotted numbers may stand between: "versions 1.2 and".
    """
    for token in reversed(_TOKEN.findall(before(match))):
        word = token.lower()
        if word in names or word.endswith(ends):
            return True
        if word not in _FILLERS and not ("." in word and word[-1].isdecimal()):
            return False
    return False


_VERSIONS = vocabulary(
    "v ver versión versione versão release releases rev revision revisions build builds firmware driver "
    "drivers kernel patch update updates updated upgrade upgraded hotfix chrome chromium firefox safari "
    "opera edge android ios macos windows linux ubuntu debian java jdk jre php python mysql postgresql "
    "oracle openssl nginx apache oid oids identifier identifiers section sections sect sec § chapter "
    "chapters clause clauses article articles paragraph paragraphs table tables figure figures fig "
    "appendix annex step steps item items requirement requirements ec "
)
_VERSION_ENDS = (
    *("version", "versions", "версия", "версии", "версию", "версії", "раздел"),
    *("пункт", "الإصدار", "النسخة", "バージョン", "버전"),
    *(
        "版本号",
        "版本",
        "版",
        "固件",
        "内核",
        "章节",
        "第",
        "章",
        "节",
        "節",
        "条",
        "條",
        "バージョン",
        "버전",
    ),
)
_PRODUCT = re.compile(r"(?<![\w./:-])[A-Za-z][\w+-]*/$", re.ASCII)
_VERSION_AFTER = re.compile(
    r"[\s)]*(?:(?:and|or)\s+(?:later|earlier|newer|older|above|below|higher|lower)"
    r"|(?:release|version|build|firmware|driver|update|patch)s?(?![A-Za-z])|以上|以下|及以上|及以下|以降|版)"
    r"|[-_+~]?(?:alpha|beta|rc|pre|dev|snapshot|final|build|ubuntu|deb|el)\d*(?![A-Za-z])|-\d+[A-Za-z]",
    re.IGNORECASE,
)


def is_version(match: re.Match[str], end: int) -> bool:
    """Whether a dotted number is called a version, an object identifier or a section."""
    return (
        called(match, _VERSIONS, _VERSION_ENDS)
        or _PRODUCT.search(before(match)) is not None
        or _VERSION_AFTER.match(after(match, end)) is not None
    )
