"""What is masked, and what only looks like it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.document import Document
from data_tools.steps.pii import Pii
from tests.data_tools.passages import CHINESE_PROSE, CLASSICAL_PROSE, ENGLISH_PROSE, run

# Put together here, so that no scanner takes this file for a leak.
DASHES = "-----"
SECRETS = {
    "amazon": "AKIA" + "IOSFODNN7EXAMPLE",
    "github": "ghp_" + "a1B2" * 9,
    "github fine-grained": "github_pat_" + "a1B2_" * 10,
    "gitlab": "glpat-" + "a1B2" * 5,
    "hugging face": "hf_" + "aB" * 17,
    "slack": "xoxb-" + "123456789012-abcdef",
    "google": "AIza" + "Sy" * 17 + "x",
    "stripe": "sk_live_" + "a1B2" * 6,
    "openai": "sk-" + "a1B2" * 12,
    "anthropic": "sk-ant-api03-" + "a1B2" * 12,
    "token": "eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + "." + "SflKxwRJSMeKKF",
    "private key": "-----BEGIN RSA PRIVATE "
    + "KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE "
    + "KEY-----",
    "openssh": "-----BEGIN OPENSSH PRIVATE "
    + "KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE "
    + "KEY-----",
}


def masked(text: str, **settings: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    found = run(Pii.model_validate(settings).build(), text)
    assert isinstance(found, Document)
    return found.text, dict(found.counts)


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("Write to jane.doe+x@mail.example.co.uk.", "Write to <EMAIL>.", "email"),
        ("联系我们abc_1@example.com。谢谢", "联系我们<EMAIL>。谢谢", "email"),
        ("<bob@example.org>", "<<EMAIL>>", "email"),
        ("from 93.184.216.34:80,", "from <IP_ADDRESS>:80,", "ip"),
        ("服务器93.184.216.34无响应", "服务器<IP_ADDRESS>无响应", "ip"),
        ("at 2001:4860:4860::8888: lost", "at <IP_ADDRESS>: lost", "ip"),
        ("Call (212) 555-0123 now", "Call <PHONE> now", "phone"),
        ("Call 1-800-555-1234.", "Call <PHONE>.", "phone"),
        ("tel. +44 20 7946 0958,", "tel. <PHONE>,", "phone"),
        ("电话13812345678，", "电话<PHONE>，", "phone"),
        ("手机：+86 138-1234-5678", "手机：<PHONE>", "phone"),
        ("座机010-62345678。", "座机<PHONE>。", "phone"),
        (f"aws_secret_access_key = '{'aB3/' * 10}'", "aws_secret_access_key = '<SECRET>'", "secret"),
    ],
)
def test_is_masked(text: str, expected: str, kind: str) -> None:
    assert masked(text) == (expected, {f"pii.{kind}": 1})


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_masked(name: str) -> None:
    assert masked(f"key: {SECRETS[name]};") == ("key: <SECRET>;", {"pii.secret": 1})


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH_PROSE,
        CHINESE_PROSE,
        CLASSICAL_PROSE,
        "192.168.1.1, 10.0.0.1, 127.0.0.1, fe80::1, 2001:db8::1, ::1",
        "version 1.2.3.4, section 6.1.12.3, 999.999.99.99",
        "std::dec::abc, Dead::Beef, 12:30:45",
        "2024-01-02 10:11:12, 1,234,567.89, 3.14159265358979, +3.1415926, 12345678901234",
        "ISBN 978-3-16-148410-0, a@b, @user, user@localhost, 5 @ 3",
        "sk-learn and task-based, AKIAAA, ghp_short, the eyJ prefix",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    ],
)
def test_is_left(text: str) -> None:
    assert masked(text) == (text, {})


def test_only_what_is_asked_for() -> None:
    text = "a@example.com 93.184.216.34 212-555-0123"
    assert masked(text, mask=("ip",)) == ("a@example.com <IP_ADDRESS> 212-555-0123", {"pii.ip": 1})
    assert masked(text) == ("<EMAIL> <IP_ADDRESS> <PHONE>", {"pii.email": 1, "pii.ip": 1, "pii.phone": 1})


@given(st.text(st.sampled_from("ab1234567890.:@+-() x好")))
def test_masking_again_changes_nothing(text: str) -> None:
    once = masked(text)[0]
    assert masked(once)[0] == once
    # What stays of the text is in its old order.
    assert re.fullmatch(".*".join(map(re.escape, re.split(r"<[A-Z_]+>", once))), text, re.DOTALL)
