"""Starts TensorFlow as the command lines do, with two logical CPUs for the tests of strategies; and a real browser."""

from model.common import devices

devices.start_tensorflow()

import shutil  # noqa: E402

import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

_CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_CPU, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="module")
def page():
    """A page of a real browser; what goes wrong in it is collected in `page.errors`."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium, as Debian packages it")
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        "--ignore-gpu-blocklist", "--disable-background-networking", "--no-first-run", "--disable-dev-shm-usage",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        page.errors = []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        yield page
        browser.close()
