"""The reference page of the options of a run, made from their model."""

from __future__ import annotations

from testbed.spec.options import Option, run_options

HEAD = """# Options of a run

`make docs` writes this page from the model `RunOptions` in `testbed/spec/options.py`.

An option has the same meaning and the same default wherever you set it:

- on the command line: `testbed run two-sites --isolation process`. `testbed sweep` takes all
  options but `--where`.
- in the environment: `TESTBED_ISOLATION=process`. A flag on the command line wins.
- in an experiment: `run.isolation: process`, below `settings` or as a key of the sweep.
- in Python: `testbed.run("two-sites", isolation="process")`.

The Python keyword is the last part of the key in experiments (`isolation`). A SIZE is a number and
a unit, such as `2 GiB`. `stall_limit` is a number of seconds, or a time with a unit. In experiments
and in Python, `environment` is a mapping and `readable` a list.
"""


def run_options_page() -> str:
    """Return the page as Markdown."""
    lines = [
        HEAD,
        "| option | value | default | meaning | environment variable | key in experiments |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(option) for option in run_options()]
    return "\n".join(lines)


def _row(option: Option) -> str:
    choices = option.value.split("|")
    value = ", ".join(_code(choice) for choice in choices)
    key = "" if option.key is None else _code(option.key)
    cells = [
        _code(option.flag),
        value,
        option.default,
        option.help,
        _code(option.variable),
        key,
    ]
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    return f"`{text}`"
