"""Folders as users have them."""

from __future__ import annotations

from pathlib import Path


def odd_folder(parent: Path) -> Path:
    """A new folder with blanks, letters beyond ASCII, and what means something in URIs, patterns and shells."""
    folder = parent / "Ärzte Daten%20[1]#2?*'$x "
    folder.mkdir()
    return folder
