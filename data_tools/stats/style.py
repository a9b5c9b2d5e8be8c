"""How the page of a report looks, in light and dark; it asks nothing of the network."""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --quiet: #59636e; --line: #d1d9e0;
  --panel: #f6f8fa; --kept: #2563a8; --dropped: #c7cdd4; --documents: #2563a8; --tokens: #c2570c;
  --c0: #2563a8; --c1: #c2570c; --c2: #1a8754; --c3: #8b4fbf; --c4: #b0305c; --c5: #8a7410; --c6: #0e7c86;
  --other: #8c959f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6eaef; --quiet: #9aa5b1;
  --line: #333b45; --panel: #1c2229; --kept: #5b9bdd; --dropped: #4a545f; --documents: #5b9bdd;
  --tokens: #f0954d; --c0: #5b9bdd; --c1: #f0954d; --c2: #4fb784; --c3: #b98be6; --c4: #ea7a9f; --c5: #cbb84a;
  --c6: #45bac3; --other: #77818c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); 
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .25rem 0 .75rem; }
.quiet, figcaption { color: var(--quiet); }
code { font-size: .85em; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0; }
.tiles div { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  padding: .6rem .8rem; }
.tiles dt { color: var(--quiet); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
figure { margin: .75rem 0; }
figure svg { display: block; max-width: 100%; height: auto; }
svg rect { shape-rendering: crispEdges; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg text.quiet { fill: var(--quiet); }
svg text.strong { font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; margin: .5rem 0; padding: 0;
  font-size: .9rem; }
.legend span { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem;
  margin-right: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding: .25rem 0; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th.left, td.left { text-align: left; }
thead th { font-weight: 600; }
tbody th { font-weight: 400; text-align: left; }
summary { cursor: pointer; color: var(--quiet); margin: .25rem 0; }
summary:focus-visible { outline: 2px solid var(--kept); }
@media print { details > * { display: block; } }
"""

COLOURS = 7
"""Of the parts of a bar: c0 and on; the parts after them share that of "other"."""


def stylesheet() -> str:
    """All of it, with a class for each colour that fills with it and one that has it as background."""
    numbered = [f"c{number}" for number in range(COLOURS)]
    lines = [
        f".fill-{name} {{ fill: var(--{name}); }} .back-{name} {{ background: var(--{name}); }}"
        for name in ("kept", "dropped", "documents", "tokens", "line", *numbered, "other")
    ]
    return CSS + "\n".join(lines) + "\n"
