"""Public IP addresses, apart from versions, object identifiers, section numbers and prices."""

import ipaddress
import re

from data_tools.steps.pii_rules import Rule, Span, after, before, called, is_price, is_version, vocabulary

_IPV4 = re.compile(r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\.?\d)(?![A-Za-z_])", re.ASCII)
# Public addresses are 2000::/3; the first group keeps the "::" of programs out.
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}"
    r"(?:(?<=[0-9A-Fa-f])|(?<=::))(?![0-9A-Za-z])"
)
# A name just before the number ("v10.2", "lib-2.3"), unless it is "ip".
_NAMED = re.compile(r"(?:(?<!\bi)p|[a-oq-z_])-?$", re.IGNORECASE)
_ADDRESS_WORDS = vocabulary("ip ips ipv4")
_ADDRESS_ENDS = ("ip地址", "ip位址", "ipアドレス", "ip-адрес")
_HEADING_BEFORE = re.compile(r"[\s#*>]*$")
_HEADING_AFTER = re.compile(r"[.:)]?\s+[^\W\d_a-z]")
_HEADING_PART = 50
# X.500: attributes and extensions of certificates (2.5.4.3 is a name, 2.5.29.15 the use of a key).
_X500 = re.compile(r"2\.5\.(?:4|29)\.")


def _public_v4(match: re.Match[str]) -> Span | None:
    """Two parts of 10 and more, or "ip" before it: else a section, "6.1.2.3" (and 1 address in 4,000)."""
    parts = match[0].split(".")
    few = sum(len(part) > 1 for part in parts) < 2 and not called(match, _ADDRESS_WORDS, _ADDRESS_ENDS)
    if few or not _is_public(match[0]) or _X500.match(match[0]) or _NAMED.search(before(match)):
        return None
    if is_version(match, match.end()) or is_price(match, match.end()) or _is_heading(match, parts):
        return None
    return match.span()


def _is_heading(match: re.Match[str], parts: list[str]) -> bool:
    """Whether a number of small parts begins a line and a title follows."""
    return (
        all(int(part) < _HEADING_PART for part in parts)
        and _HEADING_BEFORE.match(before(match)) is not None
        and _HEADING_AFTER.match(after(match, match.end())) is not None
    )


def _public_v6(match: re.Match[str]) -> Span | None:
    return match.span() if _is_public(match[0]) else None


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_global and not found.is_multicast


IPV4 = Rule("ip", re.compile(r"\d\.\d{1,3}\.\d", re.ASCII), _IPV4, _public_v4)
IPV6 = Rule("ip", re.compile(r"[23][0-9A-Fa-f]{3}:"), _IPV6, _public_v6)
