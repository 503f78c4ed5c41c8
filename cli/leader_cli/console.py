"""What every command shares: how options travel, how results and errors are shown."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import typer

    from leader_platform.config import LeaderConfig

# Progress and remarks go to the error stream, so that `--json` leaves only the result on the output.
remarks = Console(stderr=True, highlight=False, soft_wrap=True)
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

    def config(self) -> LeaderConfig:
        from leader_platform.recipes import recipe
        from leader_platform.settings import load_config

        config = load_config(recipe(self.recipe), self.config_file, self.overrides)
        backbone = Path(config.teacher.backbone).expanduser()
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


def say(text: str, style: str | None = None) -> None:
    """One line about what is going on, for a person."""
    remarks.print(text, style=style, markup=False)


def show(context: typer.Context, result: Any, *tables: Table) -> None:
    """The result of a command: tables for a person, or one JSON document with `--json`."""
    if settings_of(context).as_json:
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
    else:
        for table in tables:
            output.print(table)
