"""Draw the README's pictures: the demo's page with an answer, and the report of its dev set.

    python -m tests.e2e.page.screenshots

It needs a Chinese font, such as Debian's fonts-wqy-microhei.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import ViewportSize

from tests.e2e.page.browser import chromium, visiting
from tests.paths import DEMO, ROOT
from tests.server import serving

FOLDER = ROOT / ".github" / "images"
WINDOW: ViewportSize = {"width": 1200, "height": 760}


def main() -> None:
    """Serve the demo, ask for one answer and for all of the dev set."""
    if not subprocess.check_output(["fc-list", ":lang=zh"]):
        sys.exit("error: no Chinese font: install Debian's fonts-wqy-microhei")
    FOLDER.mkdir(parents=True, exist_ok=True)
    gold = DEMO / "data" / "dev.json"
    rows = map(json.loads, gold.read_text("utf-8").splitlines())
    prompt = next(row["input"] for row in rows if row["task_dataset"] == "IMCS-V2-MRG")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        scratch = Path(folder)
        with serving(DEMO / "model", scratch / "log") as server:
            with visiting(browser, server, viewport=WINDOW) as visit:
                visit.ask(prompt, max_tokens="128")
                visit.page.screenshot(path=FOLDER / "page.png")
            shutil.copy(gold, scratch)
            evaluate = [sys.executable, str(ROOT / "client/evaluate.py"), "--gold", "dev.json"]
            arguments = ["--url", server.url, "--folder", "."]
            subprocess.run([*evaluate, *arguments], cwd=scratch, check=True)
        page = browser.new_page(viewport=WINDOW)
        page.goto((scratch / "report.html").as_uri())
        page.screenshot(path=FOLDER / "report.png")


if __name__ == "__main__":
    main()
