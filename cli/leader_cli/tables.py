"""The tables of a report, printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from leader_platform import report


def rich_tables(tables: Iterable[report.Table], most_rows: int | None = None) -> list[Table]:
    """The tables for a terminal, with the first rows of long ones alone."""
    return [_rich_table(table, most_rows) for table in tables]


def _rich_table(table: report.Table, most_rows: int | None) -> Table:
    from leader_platform.report import cell_text

    num_left = len(table.rows[most_rows:]) if most_rows else 0
    printed = Table(
        title=table.caption,
        title_justify="left",
        min_width=len(table.caption) + 1,  # a title is wrapped to the width of its table
        show_header=any(table.columns),
        caption=f"and {num_left:,} more" if num_left else None,
        caption_justify="left",
    )
    for name, is_numeric in zip(table.columns, table.is_numeric, strict=True):
        printed.add_column(name, justify="right" if is_numeric else "left")
    for row in table.rows[:most_rows]:
        printed.add_row(*map(cell_text, row))
    return printed
