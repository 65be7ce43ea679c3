"""Python code of ``-c`` and of standard input, as the interpreter takes it."""

from __future__ import annotations

import importlib.util
import io
import sys
import textwrap
import tokenize

CODE_NAME = "<string>"  # file name of ``-c`` code in tracebacks
INPUT_NAME = "<stdin>"  # the same for code from standard input


def code_to_compile(code: str) -> str:
    """Return the code of ``-c`` as Python compiles it; from Python 3.14 on without indentation."""
    return textwrap.dedent(code) if sys.version_info >= (3, 14) else code


def decoded_source(data: bytes) -> str:
    """Return the text of a script, in the encoding that its first lines declare.

    Raises:
        ValueError: the bytes are not text in that encoding.
    """
    try:
        return importlib.util.decode_source(data)
    except SyntaxError as error:
        raise ValueError(str(error)) from error


def encoded_source(text: str) -> bytes:
    """Return the bytes of a script's text, in the encoding that its first lines declare."""
    lines = io.BytesIO(text.encode())
    encoding, _lines = tokenize.detect_encoding(lines.readline)
    return text.encode(encoding)
