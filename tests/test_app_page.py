"""The application's page in a real browser, over the real server and the bundled priors."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from cli_fixtures import FOUR, program
from test_app import without_time
from test_report import find, gains, keys, now, wait
from tiny import folder_of

pytest.importorskip("uvicorn", reason="uvicorn is not installed")

COMMIT = "c" * 40
TINY = f"org/tiny@{COMMIT}"
DEMO = Path(__file__).parents[1] / "docs" / "demo.ogg"
DROP = """
const [names, data] = arguments;
const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
const dataTransfer = new DataTransfer();
for (const name of names) dataTransfer.items.add(new File([bytes], name));
for (const type of ["dragenter", "dragover", "drop"])
  document.querySelector("#drop").dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
"""


class Server:
    """`deepsep app` as a process, which can be started again."""

    def __init__(self, folder):
        self.folder, self.port = folder, 0
        self.start()

    def start(self):
        words = ("app", "--no-browser", "--folder", self.folder, "--port", self.port)
        self.process = program(*words, stderr=subprocess.PIPE, text=True)
        told = self.process.stderr.readline()
        assert told.startswith("deepsep app: http://127.0.0.1:"), told
        self.address = told.split()[2]
        self.port = urllib.parse.urlsplit(self.address).port

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stderr.close()

    def hold_worker(self):
        """Have the process that separates stand still."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, check=True)
        os.kill(int(found.stdout), signal.SIGSTOP)

    def get(self, path):
        with urllib.request.urlopen(self.address + path) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server, with quick priors in the Hub's cache beside the bundled ones."""
    cache = tmp_path_factory.mktemp("hub")
    folder_of(cache / "models--org--tiny" / "snapshots" / COMMIT, *FOUR, encoder=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(cache))
        server = Server(tmp_path_factory.mktemp("music") / "deepsep")
        yield server
        server.stop()


@pytest.fixture
def page(browser, server):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    if server.process.poll() is not None:
        server.start()  # one that a test has started ended with that test
    browser.get("about:blank")
    browser.get_log("browser")  # of a page whose server has ended
    browser.get(server.address)
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    wait(lambda: find(browser, "#priors").get_attribute("value") == "bundled")
    yield browser
    assert browser.get_log("browser") == []


def drop(page, *names):
    page.execute_script(DROP, list(names), base64.b64encode(DEMO.read_bytes()).decode())


def row(page, label):
    """The row of a song, once it is in the list of the server."""
    return wait(
        lambda: next(
            (
                found
                for found in page.find_elements("css selector", ".song:not([data-id^=upload])")
                if find(found, "h2").text == label
            ),
            None,
        )
    )


def state(page, label):
    return row(page, label).get_attribute("data-state")


def choose(page, field, value):
    page.execute_script(
        "const [id, value] = arguments; const e = document.getElementById(id); e.value = value;"
        "e.dispatchEvent(new Event('input', { bubbles: true }))",
        field,
        value,
    )


def songs(server):
    with urllib.request.urlopen(server.address + "api/events") as lines:
        return json.loads(lines.readline().removeprefix(b"data: "))["songs"]


def separated(tmp_path):
    """What the command line writes of the demo song."""
    done = program("separate", DEMO, "-o", tmp_path / "cli", stderr=subprocess.PIPE)
    assert done.wait(120) == 0
    done.stderr.close()
    return {path.name: path.read_bytes() for path in (tmp_path / "cli").rglob("*") if path.is_file()}


def test_two_songs_dropped_one_cancelled_the_other_heard_and_downloaded(page, server, tmp_path):
    drop(page, "first.ogg", "second.ogg")
    first = row(page, "first.ogg")
    row(page, "second.ogg")
    find(row(page, "second.ogg"), ".cancel").click()
    wait(lambda: state(page, "second.ogg") == "cancelled")
    wait(lambda: state(page, "first.ogg") == "done", 90)
    find(first, ".open").click()
    play = wait(lambda: page.find_elements("css selector", "#play"))[0]
    wait(lambda: page.execute_script("return Boolean(window.deepsep)"))
    play.click()
    wait(lambda: now(page) > 0.3)
    assert gains(page) == [0, 1, 1, 1, 1]
    find(page, ".solo").click()
    assert gains(page) == [0, 1, 0, 0, 0]
    page.execute_script("deepsep.seek(12)")
    wait(lambda: now(page) > 12.2)
    keys(page, "1o")
    assert gains(page) == [1, 0, 0, 0, 0]
    names = [link.text for link in page.find_elements("css selector", "#downloads .act")]
    assert names == ["All as zip", "vocals", "drums", "bass", "other", "NI stem file"]
    theirs = separated(tmp_path)
    for name in ("vocals", "bass"):
        link = next(one for one in page.find_elements("css selector", "#downloads a") if one.text == name)
        ours = server.get(link.get_attribute("href").removeprefix(server.address))
        assert without_time(ours) == without_time(theirs[f"{name}.wav"])
    find(page, ".back").click()
    assert page.switch_to.active_element.accessible_name == "Listen to first.ogg"
    assert page.execute_script("return window.deepsep === undefined")


def test_heard_before_the_end_reloaded_and_the_server_started_again_in_the_middle(page, server):
    if not hasattr(signal, "SIGSTOP") or shutil.which("pgrep") is None:
        pytest.skip("needs a system that can hold a process")
    choose(page, "priors", TINY)
    choose(page, "method", "sgld")
    choose(page, "format", "flac 24")
    drop(page, "slow.ogg", "later.ogg")
    later = row(page, "later.ogg")
    assert find(later, ".facts").text == "0:20 · FLAC · Langevin · org/tiny @ ccccccc"
    wait(lambda: row(page, "slow.ogg").find_elements("css selector", ".open[href]"), 120)
    server.hold_worker()
    middle = {song["label"]: song for song in songs(server)}["slow.ogg"]
    assert middle["state"] == "running" and 5 <= middle["done"] < 20
    share = find(row(page, "slow.ogg"), ".bar").get_attribute("aria-valuenow")
    assert 0 < int(share) < 100 and " left" in find(row(page, "slow.ogg"), ".state").text
    find(row(page, "slow.ogg"), ".open").click()
    wait(lambda: page.execute_script("return Boolean(window.deepsep)"))
    find(page, "#play").click()
    wait(lambda: now(page) > 0.2)  # it is heard before its end
    page.execute_script("deepsep.seek(19.5)")
    wait(lambda: "still being separated" in find(page, "#status").text)
    page.refresh()
    wait(lambda: page.execute_script("return Boolean(window.deepsep)"))  # the same song is open
    assert find(page, "#song-title").text == "slow.ogg"
    wait(lambda: find(page, "#priors").get_attribute("value") == TINY)  # and what was chosen last is chosen
    assert page.get_log("browser") == []
    server.stop()
    wait(lambda: "does not answer" in find(page, "#line").text)
    server.start()
    wait(lambda: "does not answer" not in find(page, "#line").text, 60)
    page.get_log("browser")  # refused connections
    assert [song["label"] for song in songs(server)[-2:]] == ["slow.ogg", "later.ogg"]
    page.execute_script("location.hash = ''")
    find(row(page, "later.ogg"), ".cancel").click()
    wait(lambda: state(page, "slow.ogg") == "done", 120)
    assert sorted(os.listdir(server.folder / "slow")) == [
        "bass.flac",
        "drums.flac",
        "other.flac",
        "vocals.flac",
    ]
    assert not (server.folder / "later").exists()
    find(row(page, "slow.ogg"), ".open").click()
    wait(lambda: page.execute_script("return Boolean(window.deepsep)"))
    page.execute_script("deepsep.seek(19)")
    keys(page, " ")
    wait(lambda: 19.2 < now(page))


def test_a_file_that_is_no_song_is_said_and_does_not_stop_the_rest(page, server):
    choose(page, "two", "vocals")
    page.execute_script(DROP, ["<img src=x onerror=alert(1)>.txt"], base64.b64encode(b"text").decode())
    failed = wait(lambda: page.find_elements("css selector", ".song[data-state=failed]"))[0]
    assert "no audio found" in find(failed, ".state").text
    assert find(failed, "h2").text == "<img src=x onerror=alert(1)>.txt"
    assert page.find_elements("css selector", "img") == []
    find(failed, ".remove").click()
    wait(lambda: not page.find_elements("css selector", ".song[data-state=failed]"))
    refused = page.get_log("browser")
    assert len(refused) == 1 and "422" in refused[0]["message"]


def luminance(colour):
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


TEXTS = """
const seen = (e) => e.checkVisibility({ opacityProperty: false }) && e.getBoundingClientRect().width > 2;
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  return getComputedStyle(document.body).backgroundColor;
};
return [...document.querySelectorAll("h1, h2, p, label, summary, .act, .back, legend, span, b, .plain, select")]
  .filter((e) => seen(e) && e.textContent.trim() && !e.closest(".unseen, [aria-disabled=true]"))
  .map((e) => [e.textContent.trim().slice(0, 40), getComputedStyle(e).color, ground(e)]);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 1200])
@pytest.mark.parametrize("view", ["list", "song"])
def test_fits_the_screen_is_labelled_and_legible(page, server, width, scheme, view):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    if view == "song":
        page.execute_script(f"location.hash = '#song={songs(server)[0]['id']}'")
        wait(lambda: page.execute_script("return Boolean(window.deepsep)"))
    else:
        page.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true })")
        wait(lambda: page.find_elements("css selector", ".song"))
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    controls = page.find_elements("css selector", "a[href], button, input, select, summary, [role=slider]")
    bare = [e.get_attribute("outerHTML")[:80] for e in controls if e.is_displayed() and not e.accessible_name]
    assert bare == []
    small = [
        (e.accessible_name, e.size)
        for e in page.find_elements("css selector", "a[href], button, select")
        if e.is_displayed() and min(e.size.values()) < 24
    ]
    assert small == []
    for text, colour, ground in page.execute_script(TEXTS):
        light, dark = sorted([luminance(colour), luminance(ground)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, colour, ground)


def test_everything_is_reached_by_keyboard_in_the_order_of_the_page(page):
    from selenium.webdriver.common.keys import Keys

    wait(lambda: page.find_elements("css selector", ".song"))
    order = []
    for _ in range(12):
        keys(page, Keys.TAB)
        order.append(page.switch_to.active_element.accessible_name)
    assert order[0] == "deepsep"
    assert order[1].startswith("Drop songs here")
    assert order[2:6] == ["How new songs are separated", "Separate into", "Format", "Method"]
    assert order[6] == "Priors, samples, uncertainty"
    assert order[7] == "Clear finished"
    assert order[8:11] == [
        "Listen to first.ogg",
        "Download all of first.ogg as a zip",
        "Remove first.ogg from the list",
    ]
    page.execute_script("document.querySelector('.open[href]').focus()")
    keys(page, Keys.ENTER)
    wait(lambda: page.execute_script("return Boolean(window.deepsep)"))
    assert page.switch_to.active_element == find(page, "#song-title")
    keys(page, Keys.SPACE)
    wait(lambda: now(page) > 0.1)


def test_what_was_chosen_is_what_is_written(page, server):
    choose(page, "priors", TINY)
    choose(page, "format", "mp3 192")
    choose(page, "into", "two")
    choose(page, "two", "bass")
    drop(page, "two.ogg")
    wait(lambda: state(page, "two.ogg") == "done", 90)
    assert sorted(os.listdir(server.folder / "two")) == ["bass.mp3", "no_bass.mp3"]
    choose(page, "into", "some")
    for box in page.find_elements("css selector", "#some input:not([value=drums])"):
        page.execute_script("arguments[0].click()", box)
    find(page, "#more summary").click()
    choose(page, "samples", "2")
    drop(page, "some.ogg")
    wait(lambda: state(page, "some.ogg") == "done", 90)
    assert sorted(path.name for path in (server.folder / "some").glob("*/*")) == ["drums.mp3", "drums.mp3"]
    find(row(page, "some.ogg"), ".open").click()
    wait(lambda: page.find_elements("css selector", "[name=sample]"))
    names = [link.accessible_name for link in page.find_elements("css selector", "#downloads .act")]
    assert names == ["All as zip", "Sample 1: drums", "Sample 2: drums"]
