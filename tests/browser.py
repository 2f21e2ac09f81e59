"""A real browser for tests: headless Chromium, driven by Selenium."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from . import TIMEOUT

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
]

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


def find(program: str, package: str) -> str:
    """Where a program is."""
    path = shutil.which(program)
    if path is None:
        why = f"this test looks at the page with {program}: apt-get install {package}"
        pytest.fail(why) if "CI" in os.environ else pytest.skip(why)
    return path


class Browser:
    """One window, on one page. Selenium blocks: so each call is made in a thread."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    async def open(self, port: int, origin: str = "http://127.0.0.1") -> None:
        await trio.to_thread.run_sync(self.driver.get, f"{origin}:{port}/")

    async def run(self, script: str, *arguments: object) -> object:
        """What a script returns, as the body of a function."""
        return await trio.to_thread.run_sync(self.driver.execute_script, script, *arguments)

    async def until(self, script: str, is_right: Callable[[object], bool]) -> object:
        """Wait until what the script returns is right."""
        value: object = None
        with trio.move_on_after(TIMEOUT):
            while True:
                value = await self.run(f"return {script}")
                if is_right(value):
                    return value
                await trio.sleep(0.05)
        raise AssertionError(f"{script} is still {value!r}")

    def complaints(self) -> list[str]:
        """What the browser has told of the page: an error, a breach of its policy; but not that the
        server was away.
        """
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in messages if "ERR_CONNECTION" not in message]

    def emulate(self, scheme: str, screen: dict[str, object] | None = None) -> None:
        """Be light or dark, and of another size."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        if screen is not None:
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def close(self) -> None:
        """Be as before, on no page. The page must have given no reason to complain."""
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.get("about:blank")  # and so closes its connections
        complaints = self.complaints()
        assert not complaints, complaints


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Start it."""
    program = find("chromium", "chromium")
    service = Service(find("chromedriver", "chromium-driver"))
    options = ChromeOptions()
    options.binary_location = program
    for argument in OPTIONS:
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=service)
    yield driver
    driver.quit()
