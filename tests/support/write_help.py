"""Write the stored help texts and error messages that tests/unit/cli compares.

    python -m tests.support.write_help

Review the changes with `git diff` before you commit them.
"""

from __future__ import annotations

from tests.support.shown_texts import (
    ERRORS,
    HELP,
    commands,
    file_of_help,
    help_text,
    page_of_errors,
)


def main() -> None:
    """Replace all stored texts by what the program prints now."""
    HELP.mkdir(exist_ok=True)
    for path in HELP.glob("*.txt"):
        path.unlink()
    for words in commands():
        file_of_help(words).write_text(help_text(words))
    ERRORS.write_text(page_of_errors())


if __name__ == "__main__":
    main()
