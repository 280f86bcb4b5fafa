"""No file over 300 lines, no function over 40, no folder over 16 files: more wants to be two.

And how simple functions of the programs are (McCabe's complexity as radon counts it: branches,
boolean operators, comprehensions), and how few imports wait inside of them.
"""

import ast
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
from radon.complexity import cc_visit

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("service", "training", "client", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_no_file_is_over_300_lines() -> None:
    assert FILES
    sizes = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert not {path: lines for path, lines in sizes.items() if lines > 300}


def test_no_folder_holds_over_16_files() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in FILES)
    assert not {folder: count for folder, count in counts.items() if count > 16}


def test_no_function_is_over_40_lines() -> None:
    too_long = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 40:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines}")
    assert not too_long


PROGRAMS = {"service": 2.6, "training": 3.0, "client": 3.0}
"""The programs, and the average complexity of their functions at most."""
LATE_IMPORTS = 60


def _complexities(program: str) -> dict[str, int]:
    return {
        f"{path.relative_to(ROOT)}:{block.lineno} {block.name}": block.complexity
        for path in (ROOT / program).rglob("*.py")
        for block in cc_visit(path.read_text("utf-8"))
        if block.letter in "FM"
    }


@pytest.mark.parametrize(("program", "average"), PROGRAMS.items())
def test_functions_are_simple(program: str, average: float) -> None:
    complexities = _complexities(program)
    assert {name: each for name, each in complexities.items() if each > 10} == {}
    assert fmean(complexities.values()) <= average


def test_few_imports_are_late() -> None:
    late = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for program in PROGRAMS
        for path in (ROOT / program).rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(set(late)) <= LATE_IMPORTS
