"""Keys and secrets by their published forms, and passwords in URLs."""

import re

from data_tools.steps.pii_rules import Rule, Span

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
    re.DOTALL | re.ASCII,
)
_AWS_SECRET = re.compile(
    r"(?i:(?<=aws_secret_access_key)|(?<=secretaccesskey)|(?<=secret_key))[\"']?\s{0,4}[:=]\s{0,4}[\"']?"
    r"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
)
_URL_PASSWORD = re.compile(
    r"(?<=://)[^\s/?#@:\"'<>${}*\[\]()]{1,64}:(?P<password>[^\s/?#@\"'<>${}*\[\]()]{1,128})(?=@[A-Za-z0-9\[])"
)
_EXAMPLES = {"pass", "password", "passwd", "passw0rd", "pwd", "pw", "secret", "token", "apikey", "api_key"}


def _secret_alone(match: re.Match[str]) -> Span:
    return match.span("secret")


def _own_password(match: re.Match[str]) -> Span | None:
    """Leave the words by which manuals show where a password goes."""
    password = match["password"].lower()
    return None if password in _EXAMPLES or set(password) <= set("x.") else match.span()


SECRET = Rule(
    "secret",
    re.compile(r"-----BEGIN|AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|hf_|xox[abeoprs]-|AIza|k_live_|sk-|eyJ"),
    _SECRET,
)
AWS_SECRET = Rule("secret", re.compile(r"[Ss][Ee][Cc][Rr][Ee][Tt]_?[AaKk]"), _AWS_SECRET, _secret_alone)
URL_PASSWORD = Rule("secret", re.compile(r"://[^\s/@]{1,193}@"), _URL_PASSWORD, _own_password)
