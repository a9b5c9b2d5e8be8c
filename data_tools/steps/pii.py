"""Masks what names or opens: e-mail addresses, public IP addresses, telephone numbers, keys and secrets."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated

from pydantic import Field

from data_tools.document import Document, Step
from data_tools.sections import Section
from data_tools.steps.pii_email import EMAIL
from data_tools.steps.pii_ip import IPV4, IPV6
from data_tools.steps.pii_phone import PHONE, PHONE_AFTER_WORD
from data_tools.steps.pii_rules import Kind, Rule, Span, fold
from data_tools.steps.pii_secret import AWS_SECRET, SECRET, URL_PASSWORD

# Secrets first: what is inside one is no address.
_RULES = (SECRET, AWS_SECRET, URL_PASSWORD, EMAIL, IPV4, IPV6, PHONE_AFTER_WORD, PHONE)
_PLACEHOLDERS: dict[Kind, str] = {
    "secret": "<SECRET>",
    "email": "<EMAIL>",
    "ip": "<IP_ADDRESS>",
    "phone": "<PHONE>",
}


class Pii(Section):
    """What is replaced by <EMAIL>, <IP_ADDRESS>, <PHONE> and <SECRET>; how often, counts as "pii.email" etc.

    IP addresses are public ones alone, as in datatrove. Telephone numbers: those with a + and a country's
    code, those after a word such as "tel" or "电话", and the usual groupings of several countries (a bare
    number of 11 digits that begins as Chinese mobile numbers do is taken for one). Secrets: private key
    blocks, keys of the known forms of Amazon, GitHub, GitLab, Hugging Face, Slack, Google, Stripe, OpenAI and
    Anthropic, JSON web tokens, and the password in a URL.
    """

    mask: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("secret", "email", "ip", "phone")

    def build(self) -> Step:
        """The step."""
        return partial(_step, tuple(rule for rule in _RULES if rule.kind in self.mask))


def _step(rules: tuple[Rule, ...], document: Document) -> Document:
    folded = fold(document.text)
    for rule in rules:
        if not rule.hint.search(folded):
            continue
        if spans := list(_spans(rule, folded)):
            placeholder = _PLACEHOLDERS[rule.kind]
            document.text = _replaced(document.text, spans, placeholder)
            folded = _replaced(folded, spans, placeholder)
            document.counts[f"pii.{rule.kind}"] += len(spans)
    return document


def _spans(rule: Rule, folded: str) -> Iterator[Span]:
    """Yield what a rule masks, in order and without overlaps."""
    at = 0
    while match := rule.pattern.search(folded, at):
        if span := rule.confirm(match):
            yield span
            at = span[1]
        else:
            at = match.end()


def _replaced(text: str, spans: list[Span], placeholder: str) -> str:
    pieces, at = list[str](), 0
    for start, end in spans:
        pieces += [text[at:start], placeholder]
        at = end
    return "".join([*pieces, text[at:]])
