"""What every command shares: how options travel, how results and errors are shown."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from leader_platform.progress import LINE_EVERY_S, LineProgress, Progress, Status, Task, line_of, sentence

if TYPE_CHECKING:
    import typer
    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from leader_platform.config import LeaderConfig

# Progress and remarks go to the error stream, so that `--json` leaves only the result on the output.
remarks = Console(stderr=True, highlight=False, soft_wrap=True)
_BAR_WIDTH, _WIDE = 10, 110
# Tables that are piped into a file are not squeezed into the 80 columns of a terminal that is not there.
# No markup: cells hold hospitals' drug names, and `[/x]` in one must not be read as a tag.
output = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 130)


@dataclass(frozen=True)
class Settings:
    """The global options, as `main` read them; the configuration is built only when a command asks for it."""

    home: Path
    config_file: str | None = None
    recipe: str = "default"
    overrides: tuple[str, ...] = ()
    address: str | None = None
    as_json: bool = False
    debug: bool = False
    planned: dict[str, Any] = field(default_factory=dict)  # a command's own changes to the recipe, below the user's

    def config(self) -> LeaderConfig:
        from leader_platform.recipes import recipe
        from leader_platform.settings import load_config, with_values

        config = load_config(with_values(recipe(self.recipe), self.planned), self.config_file, self.overrides)
        backbone = Path(os.path.expanduser(config.teacher.backbone))
        if not backbone.is_dir():
            return config
        # A job's folder is not the caller's, so a relative folder would be taken for a hub's name there.
        teacher = config.teacher.model_copy(update={"backbone": str(backbone.absolute())})
        return config.model_copy(update={"teacher": teacher})

    def is_set(self, key: str) -> bool:
        """Whether the user gave the setting `key` a value, in the configuration file or by `--set`."""
        from leader_platform.settings import is_set

        return is_set(key, self.config_file, self.overrides)

    def data(self, option: str | None) -> str:
        """The prepared data set: what the option says, else `data` under the workspace."""
        return option or str(self.home / "data")

    def run(self, option: str | None) -> str:
        """The run directory: what the option says, else `runs/default` under the workspace."""
        return option or str(self.home / "runs" / "default")

    def keys_file(self) -> str:
        """Where the keys of the application's callers are kept: what the settings say, else the workspace's file."""
        return self.config().serve.keys_file or str(self.home / "serve_keys.json")


def settings_of(context: typer.Context) -> Settings:
    assert isinstance(context.obj, Settings)
    return context.obj


def default_home() -> Path:
    return Path(os.environ.get("LEADER_HOME", "workspace"))


def log(text: str, style: str | None = None) -> None:
    """One line about what is going on, for a person."""
    if style is None:
        progress.log(text)
    else:
        _print(text, style)


def _print(text: str, style: str | None = None) -> None:
    remarks.print(text, style=style, markup=False)


def _bar(status: Status) -> RenderableType:
    from rich.progress_bar import ProgressBar

    if status.total is None or status.done > status.total:
        return ProgressBar(width=_BAR_WIDTH, pulse=True)
    # A total of nothing is done, whatever rich thinks of a division by it.
    return ProgressBar(total=max(1, status.total), completed=status.done if status.total else 1, width=_BAR_WIDTH)


class TerminalProgress(Progress):
    """A bar for each open task at the foot of the terminal; what is logged moves up above them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._bars: RichProgress | None = None
        self._rows: dict[int, TaskID] = {}
        self._hidden = 0

    def log(self, text: str) -> None:
        self._console.print(text, markup=False)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        with self._lock:
            self._erase()
            self._hidden += 1
        try:
            yield
        finally:
            with self._lock:
                self._hidden -= 1
                self._draw()

    def _opened(self, task: Task) -> None:
        if self._bars is None:
            self._draw()
        else:
            self._add_row(task)

    def _closed(self, task: Task, ended: Status | None) -> None:
        if self._bars is not None:
            self._bars.refresh()  # its end is seen, however short it was
            self._bars.remove_task(self._rows.pop(task.id))
        if not self._open:
            self._erase()
        if ended is not None and ended.seconds >= LINE_EVERY_S:
            self.log(line_of([*self.statuses(), ended]))

    def _draw(self) -> None:
        if self._open and not self._hidden:
            # New ones each time: rich would look for the old ones where other lines are now.
            self._bars = _make_bars(self._console)
            self._bars.start()
            for task in self._open:
                self._add_row(task)

    def _add_row(self, task: Task) -> None:
        assert self._bars is not None
        self._rows[task.id] = self._bars.add_task(f"{'  ' * len(self._rows)}{task.name}", total=None, source=task)

    def _erase(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._rows.clear()


def _make_bars(console: Console) -> RichProgress:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn, SpinnerColumn
    from rich.progress import Task as Row
    from rich.table import Column
    from rich.text import Text

    class StatusColumn(ProgressColumn):
        """What `render` makes of a task's status, anew at each refresh, so that seconds go on without reports."""

        def __init__(self, render: Callable[[Status], RenderableType]) -> None:
            super().__init__(Column(no_wrap=True))
            self._render = render

        def render(self, task: Row) -> RenderableType:
            return self._render(task.fields["source"].status())

    class NameColumn(ProgressColumn):
        def render(self, task: Row) -> RenderableType:
            return Text(task.description)

    return RichProgress(
        SpinnerColumn(),
        NameColumn(Column(no_wrap=True)),
        StatusColumn(_bar),
        # On a narrow terminal the name and the time left are worth more than the loss.
        StatusColumn(lambda status: Text(sentence(status if console.width >= _WIDE else replace(status, facts={})))),
        console=console,
        transient=True,
        refresh_per_second=5,
    )


def _progress() -> Progress:
    # Not by rich alone: FORCE_COLOR makes a terminal of a file for it.
    if remarks.is_interactive and sys.stderr.isatty():
        return TerminalProgress(remarks)
    return LineProgress(_print)


# Every command's.
progress = _progress()


def show(context: typer.Context, result: Any, *tables: Table) -> None:
    """The result of a command: tables for a person, or one JSON document with `--json`."""
    if settings_of(context).as_json:
        with progress.hidden():
            sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
            sys.stdout.flush()
    else:
        with progress.hidden():
            for table in tables:
                output.print(table)
