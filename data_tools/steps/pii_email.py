"""E-mail addresses of all scripts, apart from file names, versions and the users of remote hosts."""

import re

from data_tools.steps.pii_rules import Rule, Span, vocabulary
from data_tools.words import UNSPACED_RANGES

# A part in Latin script ends where another script begins: in "邮箱bob@example.com谢谢" nothing parts them.
_LATIN = r"A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
# Letters of other scripts; marks of Indic vowels are no \w.
_OTHER = rf"(?:(?![{_LATIN}_])[\w\u0300-\u036f\u0900-\u0dff])"
_LOCAL = (
    rf"(?:(?<![{_LATIN}])[{_LATIN}](?:\.?[{_LATIN}_%+'-]){{0,63}}"
    rf"|(?<![\w\u0900-\u0dff]){_OTHER}(?:{_OTHER}|[0-9._+-]){{0,63}})"
)
_AT = r"(?:@|%40|&#0?64;)"
_LABEL = rf"(?:[{_LATIN}](?:[{_LATIN}-]{{0,61}}[{_LATIN}])?|{_OTHER}(?:{_OTHER}|-){{0,61}})"
# In scripts without spaces nothing else says where a name ends.
_UNSPACED_TOPS = (
    "中国|中國|公司|网络|網絡|香港|台湾|台灣|澳門|澳门|新加坡|在线|中文网|网址|网站|商城|集团|世界|移动|政务|公益|广东|佛山"
    "|游戏|娱乐|企业|信息|时尚|商标|商店|餐厅|みんな|コム|ไทย|ລາວ"
)
_TOP = (
    r"(?:(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![A-Za-z0-9])"
    rf"|{_UNSPACED_TOPS}|(?:(?![{UNSPACED_RANGES}]){_OTHER}){{2,24}}(?![\w\u0900-\u0dff]))"
)
_EMAIL = re.compile(rf"{_LOCAL}{_AT}(?:{_LABEL}\.){{1,8}}{_TOP}")

# Ends of file names that are no top-level domains.
_FILES = vocabulary(
    "png jpg jpeg gif svg webp avif bmp ico tif tiff psd pdf css scss less js mjs ts tsx jsx json html "
    "htm xhtml xml txt csv tsv yml yaml toml ini cfg conf log php asp aspx jsp exe dll msi deb rpm dmg "
    "apk tar gz tgz bz xz rar zip iso img mp3 mp4 avi mkv wav ogg flac woff ttf otf eot doc docx xls xlsx "
    "ppt pptx odt epub jar war whl gem vue svelte java cpp hpp swift lock map patch diff service timer "
    "socket mount device target "
)
_NUMERIC_HOSTS = vocabulary("com net org cn cc io me tw hk jp kr ru de fr eu biz info co in us uk vip xyz ")
_TOOLS = frozenset(("git", "hg", "svn", "cvs", "gitlab", "gitea", "forgejo", "bzr"))
_RETINA = re.compile(r"\d(?:\.\d)?x(?:~\w+)?\.", re.ASCII)
_IN_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s/?#\"'<>]*$", re.IGNORECASE)
_REMOTE_PATH = re.compile(r":(?:[/~]|[\w.-]+(?:/|\.git\b))", re.ASCII)


def _is_address(match: re.Match[str]) -> Span | None:
    """Return the span, unless it is a file, a version or a user of a host."""
    text, (start, end) = match.string, match.span()
    local, domain = re.split(_AT, match[0], maxsplit=1)
    *labels, top = domain.lower().split(".")
    is_file = top in _FILES or _RETINA.match(domain)
    is_call = len(top) > 3 and text[end : end + 1] == "("  # A product of matrices: "w@x.reshape(2)".
    is_version = all(label.replace("-", "").isdecimal() for label in labels) and top not in _NUMERIC_HOSTS
    is_host = (
        local.lower() in _TOOLS
        or _REMOTE_PATH.match(text, end)
        or ("://" in (led := text[max(0, start - 100) : start]) and _IN_AUTHORITY.search(led))
    )
    return None if is_file or is_call or is_version or is_host else (start, end)


EMAIL = Rule("email", re.compile(_AT), _EMAIL, _is_address)
