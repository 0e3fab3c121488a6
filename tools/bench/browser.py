"""A browser without a window, driven through chromedriver: for the viewer's tests and measurements."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

INSTALL = "apt-get install chromium chromium-driver, and pip install selenium"
BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome", "chrome"), ("chromedriver",)


def missing() -> str:
    """Why no browser can be driven here, with what to install; empty where one can."""
    if find_spec("selenium") is None:
        return f"selenium is not installed; {INSTALL}"
    if _which(BROWSERS) is None:
        return f"no chromium is installed; {INSTALL}"
    if _which(DRIVERS) is None:
        return f"chromedriver is not installed; {INSTALL}"
    return ""


def _which(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def browser(width: int = 1440, height: int = 900) -> Iterator[Any]:
    """A selenium driver of a headless chromium; its console is kept for get_log("browser")."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _which(BROWSERS) or ""
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                 f"--window-size={width},{height}"]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # chromium refuses its sandbox to root, as in a container
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(_which(DRIVERS)))
    try:
        yield driver
    finally:
        driver.quit()


def open_page(driver: Any, path: Path, seconds: float = 60.0, fragment: str = "summary") -> None:
    """Open a page of the viewer at a view and wait until it is painted. Raises TimeoutError with what the page says."""
    driver.get("about:blank")  # else the same address is not loaded again
    driver.get(f"{path.resolve().as_uri()}#{fragment}")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if driver.execute_script("return document.body.dataset.ready === 'yes'"):
            return
        time.sleep(0.02)
    said = driver.execute_script("return document.getElementById('status').textContent")
    raise TimeoutError(f"{path}: not painted after {seconds} s; status: {said}; console: {driver.get_log('browser')}")


def complaints(driver: Any) -> list[str]:
    """What the browser's console holds against the page."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
