"""No file over 300 lines, no function over 40, no folder over 16 files: more wants to be two.

And no function of the programs takes more than ten ways (McCabe's complexity as radon counts it:
branches, boolean operators, comprehensions).
"""

import ast
from collections import Counter
from pathlib import Path

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


def test_no_function_has_a_complexity_over_10() -> None:
    tangled = [
        f"{path.relative_to(ROOT)}: {block.name} {block.complexity}"
        for path in FILES
        if "tests" not in path.relative_to(ROOT).parts
        for block in cc_visit(path.read_text("utf-8"))
        if block.letter in "FM" and block.complexity > 10
    ]
    assert not tangled
