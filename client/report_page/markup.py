"""HTML elements whose texts cannot be anything but text."""

import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import Element, tostring

Node = Element | str
# what no HTML may hold: controls, halves of pairs, noncharacters
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def element(tag: str, *children: Node, **attributes: Any) -> Element:
    """An element; `class_` and the like stand for names that Python keeps for itself."""
    made = Element(tag, {name.rstrip("_"): str(value) for name, value in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif last is None:
            made.text = (made.text or "") + _shown(child)
        else:
            last.tail = (last.tail or "") + _shown(child)
    return made


def document(title: str, style: str, body: Iterable[Node]) -> Iterator[str]:
    """A page that loads nothing and runs nothing, piece by piece."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield '<meta name="color-scheme" content="light dark">\n'
    yield tostring(element("title", title), encoding="unicode", method="html")
    yield f"\n<style>\n{style}</style></head>\n<body>\n"
    for each in body:
        node = element("p", each) if isinstance(each, str) else each
        yield tostring(node, encoding="unicode", method="html") + "\n"
    yield "</body></html>\n"


def table(head: Iterable[Node], rows: Iterable[Iterable[Node]], **attributes: Any) -> Element:
    """A table in a frame that scrolls by itself where the screen is narrow."""
    cells = [element("th", each, scope="col") for each in head]
    lines = [element("tr", *(element("td", each) for each in row)) for row in rows]
    inner = element(
        "table", element("thead", element("tr", *cells)), element("tbody", *lines), **attributes
    )
    return element("div", inner, class_="scrolls", tabindex="0")


def folded(title: str, *children: Node) -> Element:
    """What shows when its title is clicked."""
    return element("details", element("summary", title), *children)


def _shown(text: str) -> str:
    return _FORBIDDEN.sub("�", text)
