"""Elements of an SVG document."""

from __future__ import annotations

from xml.etree import ElementTree as ET


def add(parent: ET.Element, tag: str, text: str = "", **attributes: object) -> ET.Element:
    """A new child of `parent`; the attribute ``class_`` is class, ``stroke_width`` is
    stroke-width.
    """
    values = {
        name.rstrip("_").replace("_", "-"): f"{value:.1f}"
        if isinstance(value, float)
        else str(value)
        for name, value in attributes.items()
    }
    child = ET.SubElement(parent, tag, values)
    child.text = text or None
    return child
