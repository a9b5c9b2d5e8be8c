"""SVG as text: elements, and numbers short enough to read."""

from __future__ import annotations

from html import escape


def element(name: str, *children: str, **attributes: object) -> str:
    """An element; `children` are elements or escaped text, `_` in an attribute's name stands for `-`."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{told}>{''.join(children)}</{name}>" if children else f"<{name}{told}/>"


def words(x: float, y: float, text: str, **attributes: object) -> str:
    """A text at a place."""
    return element("text", escape(text), x=x, y=y, **attributes)


def shape(path: str, colour: str, tip: str) -> str:
    """An area in one of the page's colours, that says what it is under the pointer."""
    return element("path", element("title", escape(tip)), d=path, class_=f"fill-{colour}")


def box(x: float, y: float, width: float, height: float, colour: str, tip: str) -> str:
    """A rectangle, that says what it is under the pointer."""
    title = element("title", escape(tip))
    return element("rect", title, x=x, y=y, width=width, height=height, class_=f"fill-{colour}")


def drawing(width: float, height: float, name: str, *children: str) -> str:
    """A whole picture; `name` says what it shows to whoever does not see it."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=name,
    )


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
