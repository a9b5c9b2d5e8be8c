"""Removes lines that belong to the page and not to its text: notices, navigation, by option repetitions."""

import re
from collections.abc import Callable
from functools import partial
from typing import Literal

from data_tools.analysis import analyse
from data_tools.document import Document, Drop, Step
from data_tools.fences import Unit, joined
from data_tools.sections import Count, Section
from data_tools.sentences import ends_sentence

# Between the items of a menu or of a path of links; a table's line may begin with one and is neither.
_SEPARATOR = re.compile(r"\s[|·•»›>]\s|\s?[｜»›]\s?|(?<=[\u4e00-\u9fff])\s?[|>]\s?(?=[\u4e00-\u9fff])")
_ITEM = re.compile(r"[^\W_a-z][\w &'’,.-]{0,24}")
_ITEMS = 5
_ITEMS_FROM_HOME = 3
_HOMES = (
    *("home", "homepage", "home page", "main page"),
    *("首页", "首頁", "主页", "主頁", "网站首页", "網站首頁"),
)


class Boilerplate(Section):
    """Which lines are removed; each is counted by its reason. A document without any line left is dropped.

    A preformatted block and the rows of a table are kept or removed whole.

    Notices are looked for, in any case, in lines of up to `notice_characters`, so that prose that speaks of
    cookies stays; labels are whole lines.
    """

    notices: tuple[str, ...] = (
        *("enable javascript", "javascript is disabled", "javascript is required", "requires javascript"),
        *("accept cookies", "accept all cookies", "uses cookies", "use cookies", "use of cookies"),
        *("cookie policy", "cookie settings", "all rights reserved"),
        *("subscribe to our newsletter", "sign up for our newsletter"),
        *("启用javascript", "启用 javascript", "啟用javascript", "啟用 javascript"),
        *("使用cookie", "使用 cookie", "版权所有", "版權所有", "不得转载", "不得轉載", "icp备", "icp備"),
    )
    notice_characters: Count = 200
    """Longer lines are left alone."""
    labels: tuple[str, ...] = (
        *("skip to content", "skip to main content", "skip navigation", "back to top", "read more"),
        *("log in", "sign in", "sign up", "share on facebook", "share on twitter", "share this"),
        *("print this page", "返回顶部", "返回頂部", "返回首页", "返回首頁", "上一篇", "下一篇"),
        *("上一页", "下一页", "上一頁", "下一頁", "登录", "登錄", "注册", "註冊", "阅读全文", "閱讀全文"),
        *("查看更多", "网站地图", "網站地圖", "联系我们", "聯繫我們"),
    )
    navigation: Literal["remove", "keep"] = "remove"
    """Menus and paths: "Home | News | About", "首页 > 新闻 > 正文"."""
    repeated_lines: Literal["keep", "remove"] = "keep"
    """Those that stood earlier in the document."""
    repeated_line_characters: Count = 10
    """Shorter ones may repeat: "}", "Yes."."""

    def build(self) -> Step:
        """The step."""
        pattern = "|".join(re.escape(notice.lower()) for notice in self.notices)
        labels = frozenset(label.lower() for label in self.labels)
        return partial(_step, self, partial(_fault, self, re.compile(pattern or "(?!)"), labels))


def _step(rules: Boilerplate, fault_of: Callable[[str], str | None], document: Document) -> Document | Drop:
    kept: list[tuple[bool, Unit]] = []
    seen: set[str] = set()
    removed = 0
    for unit in analyse(document.text).units:
        fault = None
        if unit.kind == "line":
            stripped = unit.lines[0].strip()
            fault = fault_of(stripped) if stripped else None
        elif unit.kind == "rows":
            faults = [fault_of(line.strip()) for line in unit.lines]
            fault = faults[0] if all(faults) else None
            stripped = "\n".join(unit.lines).strip()
        else:
            stripped = "\n".join(unit.lines).strip()
        if rules.repeated_lines == "remove" and len(stripped) >= rules.repeated_line_characters:
            fault = fault or ("repeated_line" if stripped in seen else None)
            seen.add(stripped)
        if fault:
            document.counts[f"boilerplate.{fault}"] += len(unit.lines)
            removed += len(unit.lines)
        kept.append((fault is None, unit))
    if not removed:
        return document
    document.text = joined(kept)
    return document if document.text.strip() else Drop("boilerplate.nothing_left", f"all of {removed} lines")


def _fault(rules: Boilerplate, notices: re.Pattern[str], labels: frozenset[str], line: str) -> str | None:
    if len(line) > rules.notice_characters:
        return None
    lower = line.lower()
    if lower in labels:
        return "label"
    if notices.search(lower):
        return "notice"
    if rules.navigation == "remove" and _is_navigation(line):
        return "navigation"
    return None


def _is_navigation(line: str) -> bool:
    """Whether a line is a menu or a path: several short names, none in lower case, and no sentence."""
    items = _SEPARATOR.split(line)
    least = _ITEMS_FROM_HOME if items[0].lower() in _HOMES else _ITEMS
    return len(items) >= least and all(map(_ITEM.fullmatch, items)) and not ends_sentence(line)
