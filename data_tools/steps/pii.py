"""Masks what names or opens: e-mail addresses, public IP addresses, telephone numbers, keys and secrets."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from data_tools.document import Document, Step
from data_tools.sections import Section

Kind = Literal["secret", "email", "ip", "phone"]

# \b takes a Chinese character for a part of the word, so the edges are named: no character of an address.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_IPV4 = re.compile(r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\.?\d)", re.ASCII)
# Public addresses are 2000::/3; the first group keeps the "::" of programs out.
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}"
    r"(?:(?<=[0-9A-Fa-f])|(?<=::))(?![0-9A-Za-z])"
)
_PHONE = re.compile(
    r"(?<![\w.+/=#-])(?:"
    r"\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # International.
    r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])\d{3}[.-]\d{4}"  # North America.
    r"|(?:86[ -]?)?1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4})"  # China, mobile.
    r"|(?:\(0\d{2,3}\) ?|0\d{2,3}[ -])[2-9]\d{6,7}"  # China, landline.
    r")(?!\d|[.-]\d)",
    re.ASCII,
)
_SECRET = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:(?!-----).){1,20000}"
    r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"|(?<![A-Za-z0-9_])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon: access key.
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"
    r"|hf_[A-Za-z0-9]{34}"  # Hugging Face.
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}"  # Slack.
    r"|AIza[0-9A-Za-z_-]{35}"  # Google.
    r"|[rs]k_live_[0-9A-Za-z]{20,250}"  # Stripe.
    r"|sk-(?=[a-z0-9_-]{0,250}[A-Z])(?=[A-Za-z_-]{0,250}\d)[A-Za-z0-9_-]{32,250}"  # OpenAI, Anthropic.
    r"|eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,2000}"  # JSON web token.
    r")(?![A-Za-z0-9_])",
    re.DOTALL,
)
_AWS_SECRET = re.compile(
    r"(?i:(?<=aws_secret_access_key)|(?<=secretaccesskey)|(?<=secret_key))([\"']?\s{0,4}[:=]\s{0,4}[\"']?)"
    r"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"
)
_SECRET_HINT = re.compile(
    r"-----BEGIN|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|hf_|xox[abeoprs]-|AIza|k_live_|sk-|eyJ"
)
_AWS_HINT = re.compile(r"[Ss][Ee][Cc][Rr][Ee][Tt]_?[AaKk]")
_IPV4_HINT = re.compile(r"\d\.\d{1,3}\.\d")
_IPV6_HINT = re.compile(r"[23][0-9A-Fa-f]{3}:")
_DECIMAL = re.compile(r"\+\d+\.\d+")
_PHONE_HINT = re.compile(r"\d[\d ().-]{5,20}\d")


@dataclass(frozen=True)
class _Rule:
    """What is masked as `kind`: where `pattern` matches and `confirm` agrees; not looked for without `hint`.

    A group of the pattern is what stays.
    """

    kind: Kind
    hint: re.Pattern[str]
    pattern: re.Pattern[str]
    confirm: Callable[[str], bool] = bool


def _is_public_ipv4(numbers: str) -> bool:
    """At least two parts of 10 and more: fewer are a section, "6.1.2.3" (and 1 public address in 4,000)."""
    large = sum(len(part) > 1 for part in numbers.split("."))
    return large > 1 and _is_public(numbers)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _is_phone(number: str) -> bool:
    """A signed decimal number, or one too short for any country's, is none."""
    return not _DECIMAL.fullmatch(number) and sum(map(str.isdigit, number)) >= 8


# Secrets first: what is inside one is no address.
_RULES = (
    _Rule("secret", _SECRET_HINT, _SECRET),
    _Rule("secret", _AWS_HINT, _AWS_SECRET),
    _Rule("email", re.compile("@"), _EMAIL),
    _Rule("ip", _IPV4_HINT, _IPV4, _is_public_ipv4),
    _Rule("ip", _IPV6_HINT, _IPV6, _is_public),
    _Rule("phone", _PHONE_HINT, _PHONE, _is_phone),
)
_PLACEHOLDERS: dict[Kind, str] = {
    "secret": "<SECRET>",
    "email": "<EMAIL>",
    "ip": "<IP_ADDRESS>",
    "phone": "<PHONE>",
}


class Pii(Section):
    """What is replaced by <EMAIL>, <IP_ADDRESS>, <PHONE> and <SECRET>; how often, counts as "pii.email" etc.

    IP addresses are public ones alone, as in datatrove. Telephone numbers: those with a + and a country's
    code, North American and Chinese ones (a bare number of 11 digits that begins as Chinese mobile numbers do
    is taken for one). Secrets: private key blocks, keys of the known forms of Amazon, GitHub, GitLab, Hugging
    Face, Slack, Google, Stripe, OpenAI and Anthropic, and JSON web tokens.
    """

    mask: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("secret", "email", "ip", "phone")

    def build(self) -> Step:
        """The step."""
        return partial(_step, tuple(rule for rule in _RULES if rule.kind in self.mask))


def _step(rules: tuple[_Rule, ...], document: Document) -> Document:
    for rule in rules:
        if rule.hint.search(document.text):
            document.text, found = _mask(rule, document.text)
            if found:
                document.counts[f"pii.{rule.kind}"] += found
    return document


def _mask(rule: _Rule, text: str) -> tuple[str, int]:
    found = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal found
        if not rule.confirm(match[0]):
            return match[0]
        found += 1
        before = match[1] if match.re.groups else ""  # What leads to the secret and stays.
        return before + _PLACEHOLDERS[rule.kind]

    return rule.pattern.sub(replace, text), found
