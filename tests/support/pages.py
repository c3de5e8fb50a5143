"""Reading the report's page as a browser would: elements with what they hold, and where their pictures draw."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "img", "meta"}


@dataclass
class Element:
    """An element of a page or of a picture in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All words in it, as one line."""
        words = (child if isinstance(child, str) else child.text for child in self.children)
        return re.sub(r"\s+", " ", "".join(words)).strip()

    @property
    def elements(self) -> list[Element]:
        """Those right in it."""
        return [child for child in self.children if isinstance(child, Element)]

    def all(self, tag: str, css: str = "") -> list[Element]:
        """Those of a tag below it that have all these classes."""
        return [each for each in self._below() if each.tag == tag and set(css.split()) <= each.classes]

    def one(self, tag: str, css: str = "") -> Element:
        """The only one of its kind."""
        (found,) = self.all(tag, css)
        return found

    @property
    def classes(self) -> set[str]:
        """Its classes."""
        return set(self.attributes.get("class", "").split())

    def number(self, name: str) -> float:
        """An attribute that is a number."""
        return float(self.attributes[name])

    def _below(self) -> Iterator[Element]:
        for child in self.elements:
            yield child
            yield from child._below()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"{tag} is closed where another is open"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(html: str) -> Element:
    """Read a page whose elements are all closed."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    (page,) = reader.open
    return page


def points(path: str) -> list[tuple[float, float]]:
    """The corners of a path that consists of M, L, H, V, h and v."""
    found: list[tuple[float, float]] = []
    x = y = 0.0
    for command, words in re.findall(r"([MLHVhv])([^MLHVhv]*)", path):
        numbers = [float(word) for word in words.split()]
        if command in "ML":
            x, y = numbers
        elif command in "Hh":
            x = numbers[0] + (x if command == "h" else 0)
        else:
            y = numbers[0] + (y if command == "v" else 0)
        found.append((x, y))
    return found
