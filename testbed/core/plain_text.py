"""Show control characters instead of sending them to a terminal."""

from __future__ import annotations

import re

# Control characters of ASCII and of ISO 8859 but line feed and tab, characters that change the
# direction of text, and halves of surrogate pairs, which stand for bytes that are not UTF-8.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_PICTURES = 0x2400  # Unicode's pictures of the control characters of ASCII
_DELETE = 0x7F
_PICTURE_OF_DELETE = "\u2421"


def plain_text(text: str) -> str:
    """Return `text` with a visible sign for each character that could command a terminal.

    Line feeds and tabs stay. The escape character becomes ␛, for example.
    """
    return _UNSHOWN.sub(_sign, text)


def in_short(text: str, most: int) -> str:
    """Return a text cut to at most `most` characters, with an ellipsis where it was cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == _DELETE:
        return _PICTURE_OF_DELETE
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
