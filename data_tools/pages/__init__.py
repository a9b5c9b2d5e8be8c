"""From a page's markup to its text: which elements are read, which are navigation, how blocks are written."""

from data_tools.pages.rendering import Rendered, render

__all__ = ["Rendered", "render"]
