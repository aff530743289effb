"The site as a reader meets it: in a browser."

import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'seatrial[dev]'")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
WHY = "needs Chromium and chromedriver on the PATH (Debian and Ubuntu: apt install chromium chromium-driver)"

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=WHY)]

FLAGS = [
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "disable-dev-shm-usage",
    "no-first-run",
    "disable-sync",
]
FLAGS += ["disable-background-networking", "disable-component-update", "window-size=1400,1000"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    "A headless Chromium with a profile of its own."
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(browser, condition):
    "Until the condition holds; a minute is for slow machines, not for the page."
    return WebDriverWait(browser, 60, 0.1).until(condition)


def test_home_page_shows_its_picture_and_breaks_nothing(browser, address):
    browser.get_log("browser")
    browser.get(f"{address}/index.html")
    assert browser.title.startswith("seatrial")
    picture = browser.find_element(By.CSS_SELECTOR, "main img[src$='.svg']")
    wait(browser, lambda b: b.execute_script("return arguments[0].naturalWidth", picture) > 0)
    broken = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE" and address in e["message"]]
    assert broken == []


def test_a_link_from_the_home_page_opens_the_notebook(browser, address):
    browser.get(f"{address}/index.html")
    link = browser.find_element(By.CSS_SELECTOR, "main table a[href*='stats/sequential']")
    browser.execute_script("arguments[0].click()", link)
    wait(browser, lambda b: b.current_url == f"{address}/stats/sequential.html")
    assert browser.find_element(By.CSS_SELECTOR, "h1").is_displayed()
    assert browser.find_element(By.ID, "stats.sequential.always_valid").is_displayed()


def test_searching_a_function_leads_to_its_place(browser, address):
    browser.get(f"{address}/index.html")
    browser.find_element(By.CSS_SELECTOR, "input[type=search], .smalldocs-search input").send_keys("always_valid")
    hits = wait(
        browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".smalldocs-search-results a[href*='stats/sequential']")
    )
    browser.execute_script("arguments[0].click()", hits[0])
    wait(browser, lambda b: "/stats/sequential.html" in b.current_url)
    assert browser.current_url.endswith("#stats.sequential.always_valid")


def test_folded_code_opens_on_click(browser, address):
    browser.get(f"{address}/stats/sequential.html")
    code = browser.find_element(By.CSS_SELECTOR, "[id='stats.sequential.always_valid'] details.api-code")
    assert not code.find_element(By.CSS_SELECTOR, "pre").is_displayed()
    browser.execute_script("arguments[0].click()", code.find_element(By.CSS_SELECTOR, "summary"))
    assert "def always_valid" in wait(browser, lambda b: code.find_element(By.CSS_SELECTOR, "pre").text)


@pytest.mark.parametrize("width", [1400, 390], ids=["desk", "phone"])
def test_no_page_is_wider_than_the_window(browser, address, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    for page in ("index", "settings", "stats/comparison", "rollout/trial", "base/data"):
        browser.get(f"{address}/{page}.html")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
