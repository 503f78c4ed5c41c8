"""What the source tree promises: who imports whom, and what is never imported before it is needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "leader_platform": ROOT / "platform" / "leader_platform",
    "leader_jobs": ROOT / "jobs" / "leader_jobs",
    "leader_serve": ROOT / "serve" / "leader_serve",
    "leader_cli": ROOT / "cli" / "leader_cli",
}
MAY_IMPORT = {
    "leader_platform": set(),
    "leader_jobs": {"leader_platform"},
    "leader_serve": {"leader_platform"},
    "leader_cli": {"leader_platform", "leader_jobs", "leader_serve"},
}
# What runs in workers is torch code, as the modules of `models` are: imported when a stage begins.
WORKERS = {"student_fit", "teacher_steps", "teacher_head", "teacher_checkpoint", "teacher_workers", "trials"}
HEAVY = {"ray", "torch", "vllm", "transformers", "peft", "safetensors", "sklearn"}


def sources(package: str) -> list[Path]:
    found = sorted(PACKAGES[package].rglob("*.py"))
    assert found
    return found


def roots(node: ast.AST) -> set[str]:
    """The top packages that an import statement names; empty for any other node."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {(node.module or "").split(".")[0]}
    return set()


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: no function's body, nothing for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("package", list(PACKAGES))
def test_imports_run_one_way(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = {
        str(path.relative_to(ROOT)): sorted((roots(node) & set(PACKAGES)) - allowed)
        for path in sources(package)
        for node in ast.walk(tree(path))
        if (roots(node) & set(PACKAGES)) - allowed
    }
    assert wrong == {}


@pytest.mark.parametrize("package", ["leader_cli", "leader_platform", "leader_jobs"])
def test_nothing_heavy_is_imported_before_it_is_needed(package: str) -> None:
    """Modules of `models` and of workers are torch code and may import torch; they are imported late themselves."""
    wrong = {
        str(path.relative_to(ROOT)): sorted(roots(node) & HEAVY)
        for path in sources(package)
        for node in at_import(tree(path))
        if roots(node)
        & (HEAVY - {"peft", "ray", "torch"} if path.parent.name == "models" or path.stem in WORKERS else HEAVY)
    }
    assert wrong == {}


def test_the_source_roots_do_not_shadow_other_packages() -> None:
    """With the repository's root on `sys.path`, `platform/__init__.py` would hide the standard library's `platform`."""
    for package in PACKAGES.values():
        assert not (package.parent / "__init__.py").exists()
        assert (package / "__init__.py").exists()


@pytest.mark.parametrize("package", list(PACKAGES))
def test_packages_do_no_work_when_imported(package: str) -> None:
    assert (PACKAGES[package] / "__init__.py").read_text().strip() == ""
