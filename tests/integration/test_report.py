"""The report in a real browser: headless Chromium, which reaches no network."""

import re
import shutil
import subprocess

import pytest
from PIL import Image

from launcher.report.page import write_report
from tests.unit.launcher.report.run_folder import HOSTILE, write_data, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_S = 60
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium")

MEASURE = """
<script>
const boxes = [...document.querySelectorAll("svg[role=img]")].map(svg => svg.getBoundingClientRect());
document.body.dataset.sizes = boxes.map(box => Math.round(box.width) + "x" + Math.round(box.height)).join(" ");
document.body.dataset.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.scripts = document.querySelectorAll("script").length;
</script>
"""
WIDTHS = {"phone": 500, "screen": 1200}  # headless Chromium has no narrower windows


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of two runs, one of them under way, with hostile texts."""
    folder = tmp_path_factory.mktemp("report")
    data = write_data(folder / "data")
    roots = [
        write_run(folder / "random", data, strategy="random"),
        write_run(folder / "spectral", data, num_finished=1, alarms=(HOSTILE,)),
    ]
    write_report(roots, folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def browse(tmp_path):
    """Open a page and return the finished process, whose stderr has the console."""

    def browse(page, *flags):
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}/profile",
            "--enable-logging=stderr", *flags, page.as_uri(),
        ]  # fmt: skip
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=DEADLINE_S
        )

    return browse


def console(result):
    return re.findall(r"CONSOLE.*", result.stderr)


def measure(browse, page, width):
    """What a script finds out about a copy of the page that lets scripts run."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy = page.with_name("copy.html")
    copy.write_text(text.replace("</body>", MEASURE + "</body>"))
    result = browse(copy, f"--window-size={width},900", "--dump-dom")
    assert console(result) == []
    return dict(re.findall(r'data-(\w+)="([^"]*)"', result.stdout))


def test_the_browser_tells_of_errors_and_requests(browse, page):
    """Otherwise the tests below would prove nothing."""
    broken = page.with_name("broken.html")
    broken.write_text(
        page.read_text().replace(
            "</body>", '<script>1</script><img src="http://a.test/b.png"></body>'
        )
    )
    found = " ".join(console(browse(broken, "--dump-dom")))
    assert "Executing inline script violates" in found
    assert "Loading the image" in found


def test_opens_from_a_file_without_errors_or_requests(browse, page):
    result = browse(page, "--dump-dom")
    assert console(result) == []
    assert "<script" not in result.stdout
    assert "&lt;script&gt;alert('pair')&lt;/script&gt;" in result.stdout
    assert "1 of 2 rounds finished" in result.stdout


@pytest.mark.parametrize("device", WIDTHS)
def test_figures_have_their_places(browse, page, device):
    found = measure(browse, page, WIDTHS[device])
    sizes = [tuple(map(int, size.split("x"))) for size in found["sizes"].split()]
    assert len(sizes) == 4
    assert len({width for width, _ in sizes}) == 1  # aligned
    assert all(width >= 600 and height >= 100 for width, height in sizes)
    assert found["overflow"] == "0"  # what is too wide scrolls by itself
    assert found["scripts"] == "1"  # the one that measures


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_colours_of_the_screen(browse, page, tmp_path, scheme):
    shot = tmp_path / "shot.png"
    is_light = scheme == "light"
    browse(
        page, f"--blink-settings=preferredColorScheme={int(is_light)}", f"--screenshot={shot}",
        "--window-size=1200,2000",
    )  # fmt: skip
    image = Image.open(shot).convert("L")
    assert image.size == (1200, 2000)
    counts = image.histogram()
    commonest = max(range(256), key=counts.__getitem__)
    assert (commonest > 240) if is_light else (commonest < 40)
    inked = sum(count for shade, count in enumerate(counts) if abs(shade - commonest) > 100)
    assert inked > 0.01 * 1200 * 2000


def test_prints(browse, page, tmp_path):
    paper = tmp_path / "report.pdf"
    browse(page, f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF")
    assert paper.stat().st_size > 20_000
