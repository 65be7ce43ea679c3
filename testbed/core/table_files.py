"""Read tables as people's tools write them: text in any usual encoding, with any usual separator.

The encoding follows from the byte order mark or from the bytes, the separator from which one
divides the most lines into equally many cells, and the decimal mark from all numbers of the table.
Comments (``#``, ``//``, ``%``), rulers of dashes, titles above the table and remarks below it are
no rows. `Table.understood` says in words how a file was read, for messages.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from testbed.core.errors import InputError, Place

MOST_BYTES = 64 * 2**20
EXAMINED_LINES = 2000  # from the start of a file, to find the separator
MANY_ZEROS = 0.2  # share of zeros among all bytes; half in UTF-16 of Latin letters
DOUBT = 0.6  # weight of lines that blanks divide, or of which the first holds numbers
LONGEST_CELL = 10_000  # characters

MISSING = frozenset(
    {
        *("", "-", "--", "---", "–", "—", "−", ".", "*", "?"),
        *("na", "n/a", "n.a.", "#n/a", "nan", "<na>", "null", "none", "nil"),
        *("timeout", "timed out", "time out", "unreachable", "lost", "failed", "fail", "error"),
        *("no data", "nodata", "no reply", "missing", "unknown"),
    }
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_ALIGNED = "aligned"
_BLANKS = "blanks"
_SEPARATOR_NAMES = {
    "\t": "tabs",
    ";": "semicolons",
    ",": "commas",
    "|": "bars",
    _ALIGNED: "aligned columns",
    _BLANKS: "blanks",
}
_COMMENT = re.compile(r"\s*(?:#|//|%(?=\s))\s*(.*)")
_RULER = re.compile(r"[\s|+:=_-]*(?:---|===|___)[\s|+:=_-]*")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
_QUOTED_OR_WORD = re.compile(r'"((?:[^"]|"")*)"|(\S+)')
_WIDE_GAP = re.compile(r"\s{2,}|\t")

# Numbers with a decimal comma, or with separated thousands.
_GROUP_MARKS = "'’ \u00a0\u2009\u202f"
_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NUMBER_AT_START = re.compile(rf"[+-]?\.?\d(?:[\d.,{_GROUP_MARKS}]*\d)?[.,]?(?:[eE][+-]?\d+)?")
_GROUPED_BY_COMMA = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")
_GROUPED_BY_POINT = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+")


class Row(NamedTuple):
    """A line of a table, split into cells, with its line number."""

    line: int
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """A table as read from a file.

    Attributes:
        path: The file.
        rows: The rows of cells; the first one may be the heads of the columns.
        remarks: Comments and titles, in order.
        left_out: Remarks below the table, for notes.
        encoding: Name of the encoding.
        separator: Name of what separates cells; empty for one column.
        facts: What the reader of the table has found so far, for messages.
        decimal_mark: ``.`` or ``,``, as the numbers prove; empty without proof, a point then.
    """

    path: Path
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    encoding: str = "UTF-8"
    separator: str = "commas"
    decimal_mark: str = ""

    @property
    def understood(self) -> str:
        """How the file was read, in words."""
        mark = "comma" if self.decimal_mark == "," else "point"
        cells = "one column"
        if self.separator:
            cells = f"cells separated by {self.separator}"
        facts = [f"read as {self.encoding}", cells, f"decimal {mark}", *self.facts]
        return ", ".join(facts)


def read_file(path: Path) -> bytes:
    """Read a whole file of at most 64 MiB.

    Raises:
        InputError: The file cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", place=Place(path)) from error

    if len(content) > MOST_BYTES:
        what = f"the file is larger than {MOST_BYTES // 2**20} MiB"
        raise InputError(what, place=Place(path))
    return content


def read_table(path: Path, content: bytes) -> Table:
    """Read the rows of a table.

    Args:
        path: The file, for messages.
        content: Contents of the file.

    Raises:
        InputError: The content is not text, a quotation is not closed, or numbers contradict each
            other.
    """
    text, encoding = decode(path, content)
    lines = _LINE_END.split(text)
    separator = ""
    if lines and (named := _SEPARATOR_LINE.fullmatch(lines[0])):
        separator = named[1]
        lines[0] = ""

    numbered, comments = _without_comments(lines)
    numbered = _without_frame(numbered)
    if not separator:
        separator = _find_separator([line for _, line in numbered])

    rows = _split(path, numbered, separator)
    rows, comments = _with_commented_head(rows, comments, separator)
    rows, titles, footers = _without_titles(rows)
    rows = _with_corner(rows)
    table = Table(
        path=path,
        rows=rows,
        remarks=[text for _, text in comments] + titles,
        left_out=footers,
        encoding=encoding,
        separator=_SEPARATOR_NAMES.get(separator, separator),
    )
    return replace(table, decimal_mark=_decimal_mark(table))


# ---- text


def decode(path: Path, content: bytes) -> tuple[str, str]:
    """Return the text of a file, and the name of its encoding.

    Args:
        path: The file, for messages.
        content: Contents of the file.

    Raises:
        InputError: The content is not text.
    """
    codec, name, start = _encoding(content)
    try:
        text = content[start:].decode(codec)
    except UnicodeDecodeError as error:
        raise InputError(
            f"not {name} text: {error.reason}",
            place=Place(path),
            remedy="save the file as UTF-8",
        ) from error

    if "\0" in text:
        raise InputError("not a text file", place=Place(path), remedy="save the file as UTF-8")
    return text, name


def _encoding(content: bytes) -> tuple[str, str, int]:
    """Return the codec of a text, the codec's name, and where the text starts."""
    for mark, codec, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return codec, name, len(mark)

    start = content[:1000]
    if len(start) >= 4 and len(content) % 2 == 0:
        zeros_first = start[0::2].count(0) / len(start)
        zeros_second = start[1::2].count(0) / len(start)
        if zeros_second > MANY_ZEROS > zeros_first:
            return "utf-16-le", "UTF-16", 0
        if zeros_first > MANY_ZEROS > zeros_second:
            return "utf-16-be", "UTF-16", 0

    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252", "Windows-1252", 0
    return "utf-8", "UTF-8", 0


class _Comment(NamedTuple):
    line: int
    text: str


def _without_comments(lines: Sequence[str]) -> tuple[list[tuple[int, str]], list[_Comment]]:
    """Return the lines that hold cells, with their numbers, and the comments."""
    kept: list[tuple[int, str]] = []
    comments: list[_Comment] = []
    in_quotes = False
    for number, line in enumerate(lines, 1):
        if in_quotes:
            kept.append((number, line))
        elif comment := _COMMENT.fullmatch(line):
            comments.append(_Comment(number, comment[1].strip()))
            continue
        elif line.strip() and not _RULER.fullmatch(line):
            kept.append((number, line))

        if line.count('"') % 2 == 1:
            in_quotes = not in_quotes

    return kept, comments


def _without_frame(numbered: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return lines without the bars around them, if all have such bars, as in Markdown."""
    framed: list[tuple[int, str]] = []
    for number, line in numbered:
        text = line.strip()
        has_frame = len(text) > 1 and text[0] == text[-1] == "|"
        if not has_frame:
            return numbered
        framed.append((number, text[1:-1]))
    return framed


# ---- cells


def _find_separator(lines: Sequence[str]) -> str:
    """Return the separator that divides the most lines into equally many cells."""
    examined = lines[:EXAMINED_LINES]
    best = ""
    most = 0.0
    for separator in ("\t", ";", ",", "|", _ALIGNED, _BLANKS):
        divided = _lines_with_usual_width(examined, separator)
        if separator in (_ALIGNED, _BLANKS):
            divided *= DOUBT
        if divided > most:
            best = separator
            most = divided

    return best


def _lines_with_usual_width(lines: Sequence[str], separator: str) -> float:
    """Return how many lines have the most usual number of cells, which is at least two.

    A first line with one cell fewer counts half: it may lack the head of the first column.
    """
    try:
        divided = [_cells(line, separator) for line in lines]
    except (csv.Error, ValueError):
        return 0

    widths = [len(cells) for cells in divided]
    counts = Counter(width for width in widths if width > 1)
    if not counts:
        return 0

    ((usual, count),) = counts.most_common(1)
    first = divided[widths.index(usual)]
    lacks_corner = 1 < widths[0] == usual - 1
    if lacks_corner:
        return count + 0.5
    if any(is_plain_number(cell.strip()) for cell in first):
        return count * DOUBT
    return count


def _cells(line: str, separator: str) -> list[str]:
    """Return the cells of one line."""
    if separator == _ALIGNED:
        return _WIDE_GAP.split(line.strip())
    if separator == _BLANKS:
        cells: list[str] = []
        for match in _QUOTED_OR_WORD.finditer(line):
            quoted = match[1]
            cells.append(match[2] if quoted is None else quoted.replace('""', '"'))
        return cells

    if not separator:
        return [line]
    ((*cells,),) = csv.reader([line], delimiter=separator, skipinitialspace=True)
    return cells


def _split(path: Path, numbered: Sequence[tuple[int, str]], separator: str) -> list[Row]:
    """Return the rows of cells; rows without text are left out."""
    rows: list[Row] = []
    pending: list[str] = []
    first = 0
    for number, line in numbered:
        if not pending:
            first = number
        pending.append(line)
        whole = "\n".join(pending)
        if separator not in ("", _ALIGNED, _BLANKS) and whole.count('"') % 2 == 1:
            continue

        pending = []
        try:
            cells = _cells(whole, separator)
        except (csv.Error, ValueError) as error:
            what = f"not valid CSV: {error}"
            raise InputError(what, place=Place(path, None, number)) from error

        texts = [_clean(cell) for cell in cells]
        if max(map(len, texts), default=0) > LONGEST_CELL:
            what = f"a cell has more than {LONGEST_CELL} characters"
            raise InputError(what, place=Place(path, None, number))
        if any(texts):
            rows.append(Row(number, texts))

    if pending:
        place = Place(path, None, first)
        raise InputError("a quotation is not closed", place=place, remedy='close it with "')
    return rows


def _clean(cell: str) -> str:
    """Return the text of a cell without blanks, quotes and invisible characters around it."""
    text = cell.strip().strip("\ufeff\u200b").strip()
    if len(text) < 2:
        return text
    is_quoted = text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1].strip() if is_quoted else text


def _with_commented_head(
    rows: list[Row], comments: list[_Comment], separator: str
) -> tuple[list[Row], list[_Comment]]:
    """Return rows with the heads that stand in a comment, as numpy.savetxt writes them."""
    if not rows or not any(map(is_plain_number, rows[0].cells)):
        return rows, comments

    before = [comment for comment in comments if comment.line < rows[0].line]
    if not before:
        return rows, comments

    last = before[-1]
    try:
        heads = [_clean(cell) for cell in _cells(last.text, separator)]
    except (csv.Error, ValueError):
        return rows, comments

    if len(heads) != len(rows[0].cells) or any(map(_is_value, heads)):
        return rows, comments
    others = [comment for comment in comments if comment is not last]
    return [Row(last.line, heads), *rows], others


def _is_value(text: str) -> bool:
    """Return whether a cell holds a number, or says that a value is missing."""
    return is_missing(text) or _NUMBER_AT_START.match(text) is not None


def _without_titles(rows: list[Row]) -> tuple[list[Row], list[str], list[str]]:
    """Return the rows, the titles above them, and the remarks below them.

    A title is a line with a single text, where the next lines have several cells. A remark is such
    a line below, with fewer cells than the first row.
    """
    titles: list[str] = []
    remarks: list[str] = []
    widest = max((len(row.cells) for row in rows), default=0)
    if widest < 2:
        return rows, titles, remarks

    while len(rows) > 2 and _has_single_text(rows[0]):
        title, *rows = rows
        titles.append("".join(title.cells))

    while len(rows) > 2 and _is_remark(rows[-1], rows[0]):
        *rows, remark = rows
        remarks.insert(0, "".join(remark.cells))

    return rows, titles, remarks


def _has_single_text(row: Row) -> bool:
    texts = [cell for cell in row.cells if cell]
    return len(texts) == 1 and not _is_value(texts[0])


def _is_remark(row: Row, head: Row) -> bool:
    if len(row.cells) != 1:
        return False
    (text,) = row.cells
    if not text or text in head.cells:
        return False
    return not _is_value(text)


def _with_corner(rows: list[Row]) -> list[Row]:
    """Return rows of equal width.

    The first row may lack the head of the first column, or the separator at the end of all others.
    """
    if len(rows) < 2:
        return rows

    head, *body = rows
    widths = {len(row.cells) for row in body}
    if widths == {len(head.cells) + 1}:
        names = [row.cells[0] for row in body]
        if names != head.cells and not any(row.cells[-1] for row in body):
            return [head, *(Row(row.line, row.cells[:-1]) for row in body)]
        return [Row(head.line, ["", *head.cells]), *body]
    return rows


# ---- numbers


def is_missing(text: str) -> bool:
    """Return whether a cell says that there is no value: empty, ``N/A``, ``-``, ``timeout`` …"""
    return text.strip().lower() in MISSING


def _decimal_mark(table: Table) -> str:
    """Return the decimal mark that the numbers of a table prove; empty without proof.

    Raises:
        InputError: Some numbers prove a comma, others a point.
    """
    proofs: dict[str, tuple[int, str]] = {}
    for row in table.rows:
        for cell in row.cells:
            mark = _proven_mark(cell)
            if mark:
                proofs.setdefault(mark, (row.line, cell))

    if len(proofs) < 2:
        return next(iter(proofs), "")

    (line, comma), (_, point) = proofs[","], proofs["."]
    raise InputError(
        f"{comma!r} has a decimal comma, and {point!r} a decimal point",
        place=Place(table.path, None, line),
        remedy="write all numbers with a decimal point",
    )


def _proven_mark(cell: str) -> str:
    """Return the decimal mark that a number proves; empty for other texts and unclear numbers."""
    match = _NUMBER_AT_START.match(cell)
    if match is None or any(letter.isdigit() for letter in cell[match.end() :]):
        return ""  # a name, a date or an address

    number = match[0].lstrip("+-")
    if "," in number and "." in number:
        mark = number[max(number.rfind(","), number.rfind("."))]
        return mark if number.count(mark) == 1 else ""

    for mark, other, grouped in ((",", ".", _GROUPED_BY_COMMA), (".", ",", _GROUPED_BY_POINT)):
        count = number.count(mark)
        if count > 1:
            return other if grouped.fullmatch(number) else ""
        if count == 1:
            return "" if grouped.fullmatch(number) else mark

    return ""


def plain_number(text: str, decimal_mark: str) -> str:
    """Return a cell whose number, at the start, is written with a decimal point and no groups.

    Args:
        text: The cell, such as ``16,4 ms``.
        decimal_mark: Decimal mark of the table; empty without proof.

    Raises:
        ValueError: The number may be read in two ways, or in none.
    """
    match = _NUMBER_AT_START.match(text)
    if match is None:
        return text

    written = match[0]
    rest = text[match.end() :]
    for mark in _GROUP_MARKS:
        if mark in written:
            if not re.fullmatch(rf"[+-]?\d{{1,3}}(?:{mark}\d{{3}})+(?:[.,]\d+)?", written):
                raise ValueError(f"{text!r} is not a number")
            written = written.replace(mark, "")

    number = written.lstrip("+-")
    sign = written.removesuffix(number)
    if not decimal_mark and _GROUPED_BY_COMMA.fullmatch(number):
        point = number.replace(",", ".")
        none = number.replace(",", "")
        raise ValueError(f"{text!r} may be {point} or {none}")

    point = decimal_mark or "."
    group_mark = "." if point == "," else ","
    grouped = _GROUPED_BY_POINT if group_mark == "." else _GROUPED_BY_COMMA
    whole, mark, fraction = number.partition(point)
    is_wrong = group_mark in fraction or point in fraction
    if group_mark in whole and not grouped.fullmatch(whole):
        is_wrong = True
    if is_wrong:
        raise ValueError(f"{text!r} is not a number")

    digits = whole.replace(group_mark, "")
    if mark:
        digits = f"{digits}.{fraction}"
    return f"{sign}{digits}{rest}"


def split_number(text: str) -> tuple[str, str]:
    """Return the number at the start of a text, and the rest; an empty number for other texts."""
    match = _PLAIN.match(text)
    if match is None:
        return "", text
    return match[0], text[match.end() :].strip()


def is_plain_number(text: str) -> bool:
    """Return whether a text is a number without a unit."""
    return _PLAIN.fullmatch(text) is not None


def numbers_from(cells: Iterable[str], first: int) -> bool:
    """Return whether cells count upwards from `first`, as an index column does."""
    return all(cell == str(number) for number, cell in enumerate(cells, first))
