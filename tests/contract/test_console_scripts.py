"""The console scripts of pyproject.toml: the function of each is there, and teaches its options."""

import subprocess
import sys
import tomllib

import pytest

from tests.paths import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_console_script_has_help(name: str) -> None:
    module, _, function = SCRIPTS[name].partition(":")
    script = f"import sys; from {module} import {function}; sys.argv[1:] = ['--help']; {function}()"
    command = [sys.executable, "-c", script]
    run = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "usage: " in run.stdout
