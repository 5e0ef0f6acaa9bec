"""The built book in headless Chromium: what a reader without a network sees, hears and can click.

Every page of the table of contents is served from a local server and opened once at 375 pixels.
The tests look at what `make book` left in book/_build/html and never build anything themselves.
"""

import functools
import html.parser
import http.server
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
import yaml
from conftest import PATIENCE, new_context

ROOT = Path(__file__).parent.parent
SITE = ROOT / "book" / "_build" / "html"
PHONE = {"width": 375, "height": 812}  # pixels

pytestmark = pytest.mark.pages


def pages_of(entry: dict) -> list[str]:
    """The files of an entry of _toc.yml and of all below it, in reading order."""
    below = [page for key in ("parts", "chapters", "sections") for page in entry.get(key, [])]
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [name for part in below for name in pages_of(part)]


PAGES = pages_of(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Visit:
    """One open page, and what it asked for and complained about since it was opened."""

    def __init__(self, browser, origin: str, name: str) -> None:
        self.origin = origin
        self.requests: list[str] = []
        self.complaints: list[str] = []
        context = new_context(browser, viewport=PHONE)
        context.on("request", lambda request: self.requests.append(request.url))
        # Recorded above, then stopped here: the verdict is the same with and without a network.
        context.route(lambda url: not url.startswith(origin), lambda route: route.abort())
        self.page = context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        answer = self.page.goto(f"{origin}/{name}.html", wait_until="load")
        assert answer.ok, f"{name}.html: HTTP {answer.status}"
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        # A player may keep its stream open: then five seconds show what a page asks for.
        with suppress(PlaywrightTimeout):
            self.page.wait_for_load_state("networkidle", timeout=5000)
        self.page.evaluate("window.MathJax?.startup?.promise")

    def _on_console(self, message) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")


@pytest.fixture(scope="session")
def site():
    if not (SITE / "index.html").is_file():
        pytest.fail(f"{SITE} holds no book: run `make book` first", pytrace=False)
    return SITE


@pytest.fixture(scope="session")
def origin(site):
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def visits(browser, origin):
    opened: dict[str, Visit] = {}

    def visit(name: str) -> Visit:
        if name not in opened:
            opened[name] = Visit(browser, origin, name)
        return opened[name]

    return visit


@pytest.fixture(params=PAGES)
def visit(request, visits):
    return visits(request.param)


def test_no_request_leaves_the_machine(visit):
    local = (visit.origin + "/", "data:", "blob:")
    elsewhere = [url for url in visit.requests if not url.startswith(local)]
    assert len(visit.requests) > 3, "the page did not even load its own scripts"
    assert elsewhere == []


def test_no_console_errors(visit):
    assert visit.complaints == []


WIDER_THAN_THE_SCREEN = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (node) => {
    for (let n = node.parentElement; n && n.tagName !== "BODY"; n = n.parentElement) {
      const box = n.getBoundingClientRect();
      if (/auto|scroll/.test(getComputedStyle(n).overflowX) && box.right <= width + 1) return true;
    }
    return false;
  };
  const wide = [...document.querySelectorAll("main *")].filter((node) => {
    const box = node.getBoundingClientRect();
    return node.checkVisibility() && box.width > 1 && box.right > width + 1
      // The list of sections is a drawer that waits outside.
      && !node.closest("mjx-assistive-mml, .bd-sidebar-secondary") && !scrolls(node);
  });
  return [document.documentElement.scrollWidth - width,
    wide.map((node) => node.outerHTML.slice(0, 120))];
}"""


def test_fits_a_phone(visit):
    visit.page.set_viewport_size(PHONE)
    surplus, wide = visit.page.evaluate(WIDER_THAN_THE_SCREEN)
    assert surplus <= 0, f"the page scrolls sideways by {surplus} pixels"
    assert wide == []


# WCAG 2.2, success criterion 1.4.3: 4.5 to 1, or 3 to 1 for large text.
PALE_TEXT = """() => {
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = color;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const color = rgba(getComputedStyle(node).backgroundColor);
    return color[3] === 1 ? color.slice(0, 3) : over(color, behind(node.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pale = new Set();
  let seen = 0;
  const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility({ visibilityProperty: true })) {
      continue;
    }
    if (node.closest("script, style, mjx-assistive-mml, .sr-only, .visually-hidden")) continue;
    // Links that appear beside a heading when the mouse is over it, and the button for copying.
    if (node.closest(".headerlink, button")) continue;
    const style = getComputedStyle(node);
    const ground = behind(node);
    const [a, b] = [light(over(rgba(style.color), ground)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    seen += 1;
    if (ratio < (large ? 3 : 4.5)) {
      const text = walk.currentNode.data.trim().slice(0, 40);
      pale.add(`${ratio.toFixed(2)}: ${text} <${node.tagName} class="${node.className}">`);
    }
  }
  return [seen, [...pale]];
}"""


# Colours fade over from one scheme to the other.
END_OF_FADING = """() => document.getAnimations()
  .filter((animation) => animation instanceof CSSTransition)
  .forEach((transition) => transition.finish())"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(visit, scheme):
    visit.page.emulate_media(color_scheme=scheme)
    visit.page.wait_for_selector(f'html[data-theme="{scheme}"]')
    visit.page.evaluate(END_OF_FADING)
    seen, pale = visit.page.evaluate(PALE_TEXT)
    assert seen > 5, "hardly any text was looked at"
    assert pale == []


DURATIONS = """(patience) => Promise.all([...document.querySelectorAll("audio")].map((audio) =>
  new Promise((done) => {
    const answer = () => done(Number.isFinite(audio.duration) ? audio.duration : -1);
    if (audio.readyState >= 1) return answer();
    audio.addEventListener("loadedmetadata", answer);
    audio.addEventListener("error", () => done(-1));
    setTimeout(() => done(-2), 1000 * patience);
    audio.preload = "metadata";
    audio.load();
  })))"""


def test_every_player_has_a_duration(visit):
    durations = visit.page.evaluate(DURATIONS, PATIENCE)  # seconds; -1 not playable, -2 no answer
    assert all(seconds > 0 for seconds in durations), durations


WITHOUT_TEXT = """() => {
  const unnamed = [];
  for (const node of document.querySelectorAll("article.bd-article img")) {
    if (!(node.getAttribute("alt") || "").trim()) unnamed.push(node);
  }
  for (const node of document.querySelectorAll("article.bd-article svg")) {
    // Icons inside a control, and what is marked as ornament, are named or skipped elsewhere.
    if (node.closest('[aria-hidden="true"], button, summary, mjx-container')) continue;
    const title = node.querySelector(":scope > title")?.textContent;
    if (!(node.getAttribute("aria-label") || title || "").trim()) unnamed.push(node);
  }
  return unnamed.map((node) => node.outerHTML.slice(0, 120));
}"""


def test_every_picture_has_a_text(visit):
    assert visit.page.evaluate(WITHOUT_TEXT) == []


MATHEMATICS = """() => {
  const formulas = [...document.querySelectorAll("article.bd-article .math")];
  const bare = formulas.filter((node) => !node.querySelector("mjx-container"));
  const wrong = document.querySelectorAll("mjx-merror, [data-mjx-error]");
  return [...bare, ...wrong].map((node) => node.outerHTML.slice(0, 200));
}"""


def test_mathematics_is_typeset(visit):
    assert visit.page.evaluate(MATHEMATICS) == []


# The manager puts what it draws beside the script element that names the widget.
WIDGETS = """() => {
  const views = 'script[type="application/vnd.jupyter.widget-view+json"]';
  const blank = [...document.querySelectorAll(views)].filter((view) => {
    const drawn = view.parentElement.querySelector(".jupyter-widgets");
    return !drawn || /error/i.test(drawn.className);
  });
  return blank.map((node) => node.textContent.trim());
}"""


def test_widgets_are_drawn(visit):
    views = 'script[type="application/vnd.jupyter.widget-view+json"]'
    if visit.page.locator(views).count():
        visit.page.wait_for_selector(".jupyter-widgets", state="attached")
    assert visit.page.evaluate(WIDGETS) == []


class Anchors(html.parser.HTMLParser):
    """The ids and the link targets of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids.update(filter(None, (values.get("id"), values.get("name"))))
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])


@functools.cache
def anchors(path: Path) -> Anchors:
    return Anchors(path.read_text(encoding="utf-8"))


def broken_links(path: Path, site: Path) -> list[str]:
    """The links of a page to files or places inside the site that are not there."""
    broken = []
    for link in anchors(path).links:
        if urlparse(link).scheme or link.startswith("//"):
            continue
        target, place = urldefrag(link)
        file = (path.parent / unquote(urlparse(target).path)).resolve() if target else path
        inside = file.is_relative_to(site.resolve()) and file.is_file()
        if not inside or (
            place and file.suffix == ".html" and unquote(place) not in anchors(file).ids
        ):
            broken.append(link)
    return broken


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_resolve(site, name):
    page = site.resolve() / f"{name}.html"
    assert page.is_file(), f"{page} was not built"
    assert len(anchors(page).links) > 3
    assert [link for link in broken_links(page, site) if link != "#"] == []


def test_broken_links_are_noticed(tmp_path):
    page = tmp_path / "a.html"
    page.write_text('<a href="b.html">x</a><a href="#no">x</a><a id="yes" href="#yes">x</a>')
    assert broken_links(page, tmp_path) == ["b.html", "#no"]


PICTURE = ".tinyperceiver-interactive"
# What a reader sees of it: the drawing, and what is said in words.
SEEN = """(root) => root.querySelector(".picture").innerHTML
  + [...root.querySelectorAll("[aria-live], output")].map((node) => node.textContent)"""


def test_interactive_pictures_follow_the_keyboard(visit):
    for root in visit.page.locator(PICTURE).all():
        assert root.locator(".controls").is_visible()
        ranges = root.locator('input[type="range"]').all()
        assert ranges, "nothing to move with the keyboard"
        for slider in ranges:
            name = slider.evaluate(
                "(node) => (node.labels[0]?.innerText || node.ariaLabel || '').trim()"
            )
            assert name, "a slider without a label"
            before, value = root.evaluate(SEEN), slider.input_value()
            slider.focus()
            for key in ("ArrowRight", "ArrowLeft"):  # the first moves nothing at the right end
                visit.page.keyboard.press(key)
                if slider.input_value() != value:
                    break
            assert slider.input_value() != value, f"{name} does not move"
            assert root.evaluate(SEEN) != before, f"nothing follows {name}"
    assert visit.complaints == []


def test_there_are_three_interactive_pictures_at_least(visits):
    count = sum(visits(name).page.locator(PICTURE).count() for name in PAGES)
    assert count >= 3


def test_without_scripts_the_pictures_stand(browser, origin, site):
    context = new_context(browser, viewport=PHONE, java_script_enabled=False)
    page, seen = context.new_page(), 0
    for name in PAGES:
        if "tinyperceiver-interactive" not in (site / f"{name}.html").read_text(encoding="utf-8"):
            continue
        page.goto(f"{origin}/{name}.html")
        for root in page.locator(PICTURE).all():
            assert not root.locator(".controls").is_visible(), "controls that do nothing"
            box = root.locator(".picture").bounding_box()
            assert box["width"] > 200 and box["height"] > 50
            assert root.locator(".picture svg").first.bounding_box()["width"] > 50
            seen += 1
    context.close()
    assert seen >= 3


def test_search_works_offline(browser, origin):
    found = Visit(browser, origin, "search")
    found.page.goto(f"{origin}/search.html?q=perceiver")
    found.page.wait_for_selector("#search-results li a")
    assert [url for url in found.requests if not url.startswith((origin, "data:"))] == []
    assert found.complaints == []


def test_the_browser_checks_can_fail(browser, origin):
    """A page with every fault at once: each check must name its own."""
    bad = Visit(browser, origin, PAGES[0])
    with bad.page.expect_request("https://example.org/**"), bad.page.expect_console_message():
        bad.page.evaluate(
            """() => {
              const article = document.querySelector("article.bd-article");
              article.innerHTML += `<img src="https://example.org/x.png">
                <audio src="data:audio/mpeg;base64,AAAA"></audio><div class="math">x</div>
                <p style="width: 900px; color: #888; background: #999">pale and wide</p>
                <div><script type="application/vnd.jupyter.widget-view+json">{}</script></div>`;
              console.error("complaint");
            }"""
        )
    assert any("example.org" in url for url in bad.requests)
    assert any("complaint" in text for text in bad.complaints)
    assert "pale and wide" in str(bad.page.evaluate(WIDER_THAN_THE_SCREEN)[1])
    assert "pale and wide" in str(bad.page.evaluate(PALE_TEXT)[1])
    assert min(bad.page.evaluate(DURATIONS, PATIENCE)) < 0
    assert "example.org" in str(bad.page.evaluate(WITHOUT_TEXT))
    assert len(bad.page.evaluate(MATHEMATICS)) == 1
    assert len(bad.page.evaluate(WIDGETS)) == 1
