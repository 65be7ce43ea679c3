"""Elements of an SVG document."""

from __future__ import annotations

from xml.etree import ElementTree as ET


def add(parent: ET.Element, tag: str, text: str = "", **attributes: object) -> ET.Element:
    """Append a new child to an element and return the child.

    Args:
        parent: the parent element.
        tag: the child's tag.
        text: the child's text.
        attributes: ``class_`` becomes class, ``stroke_width`` becomes stroke-width; floats are
            rounded to one decimal.

    Returns:
        The child.
    """
    values = {}

    for name, value in attributes.items():
        attribute = name.rstrip("_").replace("_", "-")
        values[attribute] = f"{value:.1f}" if isinstance(value, float) else str(value)

    child = ET.SubElement(parent, tag, values)
    child.text = text or None
    return child
