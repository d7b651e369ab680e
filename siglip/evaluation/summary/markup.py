"""HTML and SVG as a tree: whatever stands in a name is text, never markup."""

import re
from xml.etree import ElementTree

Element = ElementTree.Element
Child = Element | str | float | None

# What no document may hold: controls, and halves of characters.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def el(tag: str, /, *children: Child, **attributes: str | float | None) -> Element:
    """An element; a child or attribute that is None is left out.

    Attributes that Python reserves end in an underscore, and underscores in between are hyphens:
    `el("th", "name", class_="x", aria_sort="none")`.
    """
    element = Element(tag)
    for key, value in attributes.items():
        if value is not None:
            element.set(key.rstrip("_").replace("_", "-"), _text(value))
    add(element, *children)
    return element


def add(element: Element, *children: Child) -> Element:
    """Append to an element, and give it back."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + _text(child)
        else:
            element.text = (element.text or "") + _text(child)
    return element


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")  # coordinates
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(value))


def to_html(root: Element) -> str:
    """The whole document."""
    body = ElementTree.tostring(root, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{body}\n"
