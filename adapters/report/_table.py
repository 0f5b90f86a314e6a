"""Tables: in plain text, and of rich where somebody prints with it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

Row = Sequence[str]


def plain(columns: Row, rows: Sequence[Row], total: Row) -> str:
    """A table with a total in plain text; the first column is text, the others stand to the right."""
    lines = [columns, *rows, total]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    aligned = [[f"{c:<{w}}" if not i else f"{c:>{w}}" for i, (c, w) in enumerate(zip(x, widths))] for x in lines]
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def rich_table(title: str, columns: Row, rows: Sequence[Row], total: Row, remarks: Sequence[str] = ()) -> Any:
    """The same as rich prints it, with remarks below; rich is imported here, as only who prints with it needs it."""
    box, text = import_module("rich.box"), import_module("rich.text").Text
    shown = import_module("rich.table").Table(
        title=text(title) if title else None,
        box=box.SIMPLE,
        show_footer=bool(rows),
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for i, (column, footer) in enumerate(zip(columns, total)):
        shown.add_column(column, text(footer), justify="right" if i else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(text, row))
    return import_module("rich.console").Group(shown, *map(text, remarks)) if remarks else shown


def percent(share: float) -> str:
    """A share as it is shown."""
    return f"{100 * share:.2f} %"


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size_of(count: int) -> str:
    """Bytes in the unit that leaves few digits."""
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{count:,} B" if not power else f"{count / 1024**power:.1f} {_UNITS[power]}"
