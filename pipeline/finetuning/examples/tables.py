"""Tables with task data: their rows, and whether the first line names the columns."""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from pipeline.errors import TaskError
from pipeline.finetuning.examples.columns import Columns, Record

TABLES = (".csv", ".tsv", ".tab")
DELIMITERS = (",", ";", "\t", "|")
"""What stands between the columns of CSV."""
SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)
"""The first line with which Excel names the delimiter."""
LABEL = re.compile(r"O|[BIESMLUW]-\S+")
"""A label of BIO, IOB1, IOE, BIOES, BILOU or BMES."""
LOOKAHEAD = 1000
"""Rows of a table without names that show whether its first line holds names after all."""
FEW = 20
"""Rows below which a label that stands once says nothing."""
LABEL_NAMES = (
    *("label", "labels", "gold", "gold_label", "class", "category", "target", "tag", "score"),
    *("similarity", "标签", "类别", "分类", "标注", "分数", "得分", "相似度"),
)
"""What files call their column of targets, in lower case."""
PLACED = re.compile(r"^(\S)([0-9]+)(?=\s|$)")
"""A character and its place in its word."""
IDENTIFIER = re.compile(r"[A-Za-z_.:#-]*\d[\w.:#-]*", re.ASCII)

Row = tuple[str, list[str]]
"""Its place and its cells."""


def read_rows(
    path: str, lines: Iterator[tuple[str, str]], quoted: bool, columns: Columns
) -> Iterator[Row]:
    """The rows of a table, the first line and blank ones included."""
    return _quoted_rows(path, lines, columns) if quoted else _plain_rows(lines)


def hold_words(rows: Iterable[Row], columns: Columns) -> bool:
    """Whether each row is a word with its label, as in CoNLL's columns, and not a sentence."""
    place = columns.numbers.get("labels", -1)
    seen = itertools.islice(rows, LOOKAHEAD)
    # Between sentences Excel writes `,`, and WNUT has a tab.
    filled = [cells for _, cells in seen if any(map(str.strip, cells))]
    labels = ["".join(cells[1:] and cells[place:][:1]).strip() for cells in filled]
    return bool(filled) and all(map(LABEL.fullmatch, labels))


def word_cells(line: str) -> list[str]:
    """CoNLL's columns of a word, between which is a tab or spaces."""
    if "\t" in line:
        return line.split("\t")
    cells = re.findall("[^ ]+", line)  # other white space, such as U+3000, may be a word
    is_space = line.startswith(" ") and len(cells) == 1 and LABEL.fullmatch(cells[0])
    return [" ", *cells] if is_space else cells


def without_places(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Lines of CoNLL's columns without the number behind each character, as Weibo NER has it.

    In `科0 技1 全0` it is the place of the character in its word. Lines in which not all words have
    such numbers stay as they are.
    """
    remaining = iter(lines)
    seen = list(itertools.islice(remaining, LOOKAHEAD))
    words = [word_cells(line)[0] for _, line in seen if line.strip()]
    found = [PLACED.match(word) for word in words]
    places = [int(each[2]) if each else -1 for each in found]
    counted = all(now in (0, before + 1) for before, now in itertools.pairwise([-1, *places]))
    for place, line in itertools.chain(seen, remaining):
        yield place, PLACED.sub(r"\1", line) if 1 in places and counted else line


def is_comment(line: str, label: int = -1) -> bool:
    """Whether a line is none of a word, as the `# id …` before each sentence of MultiCoNER.

    Args:
        label: number of the column that would hold the label.
    """
    return line.startswith("# ") and not LABEL.fullmatch("".join(word_cells(line)[label:][:1]))


def check_names(names: Sequence[str], place: str) -> None:
    """Raise TaskError where two columns have one name; nothing reads those without a name."""
    if twice := [name for name, times in Counter(names).items() if name and times > 1]:
        raise TaskError(f"{place}: the column {twice[0]!r} occurs twice; rename or remove one")


def read_table(path: str, rows: Iterator[Row], columns: Columns) -> Iterator[Record]:
    """The records of a table. Raises TaskError where nothing says what its columns hold."""
    first = next((row for row in rows if not _is_blank_line(row[1])), None)
    if first is None:
        return
    heading = [name.strip() for name in first[1]]
    names = _names(path, heading, columns)
    check_names(names, first[0])
    if names is not heading:
        seen = [first, *itertools.islice(rows, LOOKAHEAD)]
        rows = itertools.chain(seen, rows)
        _check_without_names([cells for _, cells in seen], path, names, columns)
    for place, cells in rows:
        if len(names) > 1 and _is_blank_line(cells):
            continue
        if names is heading and [cell.strip() for cell in cells] == heading:
            yield place, TaskError(f"{place}: the names of the columns again, not an example")
        elif len(cells) != len(names):
            yield place, TaskError(f"{place}: {len(cells)} columns, expected {', '.join(names)}")
        else:
            yield place, columns.without_empty(dict(zip(names, cells, strict=True)))


def _plain_rows(lines: Iterator[tuple[str, str]]) -> Iterator[Row]:
    return ((place, line.split("\t")) for place, line in lines)


def _is_blank_line(cells: Sequence[str]) -> bool:
    """Whether a line holds no row, unless the table has one column: there its text is blank."""
    return len(cells) == 1 and not cells[0].strip()


def _quoted_rows(path: str, lines: Iterator[tuple[str, str]], columns: Columns) -> Iterator[Row]:
    remaining = (line for _, line in lines)
    *blank, first = _to_first_filled(remaining)
    mark = ""
    if named := SEPARATOR.fullmatch(first):
        mark = named[1]
        *more, first = _to_first_filled(remaining)
        blank += ["", *more]
    mark = mark or _delimiter(first, columns)
    spaced = 0 < first.count(mark) == first.count(f"{mark} ")
    given = (f"{line}\n" for line in itertools.chain(blank, [first], remaining))
    reader = csv.reader(given, strict=True, skipinitialspace=spaced, delimiter=mark)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise TaskError(
                f"{path}, line {line}: {error}; within a field in quotes, quotes are written twice "
                '(""), not as \\"'
            ) from None
        if cells is None:
            return
        yield f"{path}, line {line}", cells or [""]


def _to_first_filled(lines: Iterator[str]) -> list[str]:
    """Lines up to the first one that is not blank; a blank one if there is none."""
    head = []
    for line in lines:
        head.append(line)
        if line.strip():
            return head
    return [*head, ""]


def _delimiter(line: str, columns: Columns) -> str:
    """What stands between the columns that a line names, as programs write it."""
    for mark in DELIMITERS:
        if columns.are_named([name.strip(' "') for name in line.split(mark)]):
            return mark
    return DELIMITERS[0]


def _names(path: str, first: list[str], columns: Columns) -> list[str]:
    """Names of the columns: the first line itself, if it is one of names.

    Raises TaskError where nothing says what the columns hold.
    """
    numbers = {each: field for field, each in columns.numbers.items()}
    for field in (*columns.needed, *columns.either):
        if (number := columns.numbers.get(field, 0)) >= len(first):
            raise TaskError(
                f"{path}, line 1: {columns.setting} says {{{field}: {number}}}, but there are "
                f"{len(first)} column(s), counted from 0{_division(path, first)}"
            )
    if numbers:
        return [numbers.get(place, f"column {place}") for place in range(len(first))]
    if columns.are_named(first):
        return first
    if len(first) == len(columns.task.order):
        return list(columns.task.order)
    fields = columns.needed or columns.either[:1]
    named = (*fields, columns.task.target)
    names = ", ".join(f"{field}: NAME" for field in named)
    places = ", ".join(f"{field}: {place}" for place, field in enumerate(named))
    raise TaskError(
        f"{path}, line 1: {', '.join(first)[:80]!r} does not name the columns "
        f"({columns.wanted}); set {columns.setting} to their names, as {{{names}}}, or, for a file "
        f"without names, to their numbers, as {{{places}}}{_division(path, first)}"
    )


def _division(path: str, first: Sequence[str]) -> str:
    """What divides columns, for the message on a first line in which nothing does."""
    if len(first) > 1:
        return ""
    if ".csv" in PurePath(path.lower()).suffixes[-2:]:  # .csv.gz too
        return "; without names, commas divide columns here: call a file with tabs .tsv"
    return "; tabs divide columns here"


def _check_without_names(
    rows: Sequence[Sequence[str]], path: str, names: Sequence[str], columns: Columns
) -> None:
    """Raise TaskError where the first line names columns after all, or a text is an identifier.

    Args:
        rows: the first rows of a file whose columns have these `names`, by their places.
    """
    whole = [[cell.strip() for cell in row] for row in rows if len(row) == len(names)]
    if not whole:
        return
    first, rest = dict(zip(names, whole[0], strict=True)), whole[1:]
    target = columns.task.target
    named = [name for name in first if name in columns.task.aliases or name in columns.needed]
    labels = [row[names.index(target)] for row in rest] if target in first else []
    if any(first[name].lower() in columns.names_of(name) for name in named) or (
        target in first and _names_labels(first[target], labels)
    ):
        example = ", ".join(f"{field}: {first[field]}" for field in named)
        raise TaskError(
            f"{path}, line 1: {', '.join(whole[0])[:80]!r} looks like names of columns, not like "
            f"an example; set {columns.setting} to these names, as {{{example}}}, or give the file "
            f"a first line with {', '.join(name for name in names if name in named)}"
        )
    if not columns.renamed and all(IDENTIFIER.fullmatch(row[0]) for row in whole):
        moved = ", ".join(f"{field}: {place}" for place, field in enumerate(columns.needed, 1))
        raise TaskError(
            f"{path}, line 1: {whole[0][0]!r} and all that stands below it looks like an "
            f"identifier, not like {names[0]}; set {columns.setting} to the numbers of the "
            f"columns, as {{{moved}}}"
        )


def _names_labels(cell: str, labels: Sequence[str]) -> bool:
    """Whether a cell is the name of a column of labels: known as one, or unlike these labels."""
    counts = Counter(labels)
    if not any(map(str.isalnum, cell)) or _is_number(cell) or cell in counts:
        return False
    if cell.lower() in LABEL_NAMES:
        return True
    numbers = bool(counts) and all(map(_is_number, counts))
    # In a few rows a label may well stand once.
    return numbers or (len(labels) >= FEW and len(counts) > 1 and min(counts.values()) > 1)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
