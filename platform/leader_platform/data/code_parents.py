"""The broader categories that a code stands in, by its coding system's own levels."""

from __future__ import annotations

# Characters of a code that name a category, finest first. ICD-9's E codes have a letter more.
_LEVELS = {
    "ICD10CM": (3, 2, 1),
    "ICD9CM": (3, 2),
    "ICD10PCS": (4, 3, 2),
    "ICD9PCS": (3, 2),
    "ATC": (3, 1),
}


def parents(code: str) -> list[str]:
    """The categories of a namespaced code, finest first, such as `ICD10CM:E11*` and `ICD10CM:E1*` of `ICD10CM:E119`.

    A system without known levels has none.
    """
    system, _, name = code.partition(":")
    longer = system == "ICD9CM" and name.startswith("E")
    lengths = [length + longer for length in _LEVELS.get(system, ())]
    return [f"{system}:{name[:length]}*" for length in lengths if length < len(name)]
