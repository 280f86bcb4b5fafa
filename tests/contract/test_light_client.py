"""The client needs no library of training or serving, not even where they are installed."""

import subprocess
import sys

from tests.paths import ROOT

HEAVY = ["torch", "transformers", "fastapi", "vllm", "peft", "pydantic", "numpy", "service"]
CODE = """
import importlib, pkgutil, sys
import client
for module in pkgutil.iter_modules(client.__path__):
    importlib.import_module("client." + module.name)
print(*sorted(sys.modules))
"""


def test_no_module_of_the_client_imports_anything_heavy() -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = run.stdout.split()
    assert {"client.report", "client.score", "client.evaluate", "httpx"} <= {*loaded}
    assert not {*HEAVY} & {*loaded}
