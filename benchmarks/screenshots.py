"""Pictures of a run's report for the documentation: `python benchmarks/screenshots.py RUN` writes them into docs/.

RUN is a run folder with its report.html, such as `.cache/loop/killed` of `loop.py`. Needs playwright and a Chromium on
the PATH.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).resolve().parents[1] / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    report = Path(sys.argv[1]).resolve() / "report.html"
    browser_path = next(path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
        page.goto(report.as_uri())
        page.screenshot(path=DOCS / "report.png", full_page=True)
        # The kernel that a reader sees grow: of the samples with several turns, the fastest.
        page.get_by_role("button", name="operator", exact=True).click()
        page.locator("#verdict").select_option("ok")
        rows = page.locator("#attempts tbody tr:visible")
        improved = rows.filter(has=page.locator("td:nth-child(6)", has_text=re.compile(r"^[^1]")))
        (improved if improved.count() else rows).first.locator(".open").click()
        page.get_by_role("dialog").screenshot(path=DOCS / "report-kernel.png")
        browser.close()


if __name__ == "__main__":
    main()
