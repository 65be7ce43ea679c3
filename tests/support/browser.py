"""Chromium for tests, and servers of `testbed ui` in processes of their own."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.shared import Need

LONGEST_MS = 300_000  # of wall time for any step; they take 1 or 2 s
expect.set_options(timeout=LONGEST_MS)
PHONE, LAPTOP = {"width": 390, "height": 800}, {"width": 1280, "height": 800}


@contextmanager
def chromium_started(need: Need) -> Iterator[Browser]:
    """Start Chromium, and end it after the block."""
    path = shutil.which("chromium")
    need(path, "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"], timeout=LONGEST_MS
        )
        yield browser
        browser.close()


@contextmanager
def serving(folder: Path, environment: Mapping[str, str], *options: str) -> Iterator[str]:
    """Run `testbed ui` on a free port, and give the address that it prints."""
    words = [sys.executable, "-m", "testbed", "ui", str(folder), "--port", "0", *options]
    server = subprocess.Popen(
        words, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert "http://" in line, server.communicate()[1]
        yield "http://" + line.partition("http://")[2].strip()
    finally:
        server.terminate()
        _out, errors = server.communicate()
    assert "Traceback" not in errors, errors
