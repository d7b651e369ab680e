"""The page of results, as its text and in a browser that draws it."""

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from siglip.evaluation import results
from siglip.evaluation.details import SIDE, Details, Mistake, thumbnail
from siglip.evaluation.results import Result
from siglip.evaluation.summary import page
from tests.fixtures import fetch_chromium

HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800"


def made() -> tuple[list[Result], list[Details]]:
    """A classification of many classes, one of few, and a retrieval; names as bad as can be."""
    rng = np.random.default_rng(0)
    picture = thumbnail(Image.fromarray(rng.integers(0, 255, (200, 300, 3), np.uint8)))
    names = [f"class {i}" for i in range(60)] + [HOSTILE]
    many = Details(
        (*((name, i % 11, 10) for i, name in enumerate(names, 1)), ("empty", 0, 0)),
        tuple((names[i], names[-1 - i], 3 + i) for i in range(20)),
        tuple(
            Mistake(picture, (HOSTILE,), ((names[i], 0.9), (HOSTILE, 0.01)), f"{i}.jpg")
            for i in range(4)
        ),
        ((1e-6, 0.0, 10**6), (0.01, 0.02, 500), (0.5, 0.4, 20), (0.99, 1.0, 3)),
    )
    few = Details(tuple((name, 1, 2) for name in names[:3]))
    pairs = Details(mistakes=many.mistakes)
    classified = Result(
        "imagenet", "B/16", HOSTILE, results.CLASSIFICATION, {"acc1": 0.7, "acc5": 0.9},
        intervals={"acc1": (0.69, 0.71)}, protocol={"name": "big_vision", "published": True},
        counts={"pictures": 610}, date="2026-01-02T03:04:05+00:00", command=HOSTILE,
    )  # fmt: skip
    better = dataclasses.replace(classified, model="L/16", metrics={"acc1": 0.8})
    recalls = {"text_retrieval_recall@1": 0.5, "image_retrieval_recall@1": 0.25}
    ranks = {"text_retrieval_median_rank": 1.0}
    found = Result("coco", "B/16", HOSTILE, results.RETRIEVAL, {**recalls, **ranks})
    return [classified, better, found], [many, few, pairs]


class Parts(HTMLParser):
    """The elements of a document, and its text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_names_are_text_and_nothing_is_fetched():
    html = page.render(*made())
    html.encode()
    parts = Parts(html)
    tags = Counter(tag for tag, _ in parts.elements)
    assert tags["script"] == 1 and tags["img"] == 8 and tags["section"] == 3
    assert HOSTILE[:-2] in parts.text and "\x00" not in html
    for tag, attributes in parts.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "img" or attributes["alt"].startswith(HOSTILE[:-2])
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
    # 12 of 20 classes have a row.
    matrix = next(
        e for tag, e in parts.elements if tag == "svg" and "Confusions" in e["aria-label"]
    )
    assert matrix["aria-label"].count(" taken for ") == 12
    assert "url(" not in html and "@import" not in html and "default-src 'none'" in html


def test_results_alone_make_a_page_and_calibration_says_how_far_off():
    few = page.render([Result("own", "m", "", "zeroshot_classification", {"acc1": 1.0})], [None])
    assert "<svg" in few and "Calibration" not in few and "measured" not in few.split("<main>")[0]
    (only,) = made()[1][:1]
    html = page.render(made()[0][:1], [dataclasses.replace(only, calibration=((0.2, 0.5, 7),))])
    assert "calibration error is 0.3." in html


_BROWSER = fetch_chromium.find()
# Chromium is spoken to by its descriptors 3 and 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


class Tab:
    """A tab of a headless Chromium, by the DevTools protocol: JSON that ends in a zero byte."""

    def __init__(self, to_browser, from_browser):
        self._to, self._from, self._ids = to_browser, from_browser, itertools.count(1)
        self._session, self.events = {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params, **self._session}
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self):
        data = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser ended"
            data += byte
        return json.loads(data)

    def open(self, path):
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def told(self, *methods):
        return [event["params"] for event in self.events if event["method"] in methods]


@pytest.fixture
def tab(tmp_path):
    if not _BROWSER:
        pytest.skip("no Chromium: python tests/fixtures/fetch_chromium.py, or set CHROME_BIN")
    theirs, ours = os.pipe(), os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
             "--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    starter = [sys.executable, "-IS", "-c", _START, str(theirs[0]), str(ours[1])]
    with contextlib.ExitStack() as stack:
        to_browser = stack.enter_context(open(theirs[1], "wb"))
        from_browser = stack.enter_context(open(ours[0], "rb"))
        process = subprocess.Popen(
            [*starter, _BROWSER, *flags], pass_fds=(theirs[0], ours[1]), stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait, 10)
        stack.callback(process.kill)
        # One that hangs is ended, and whoever waits for its answer told so.
        timer = threading.Timer(60, process.kill)
        timer.start()
        stack.callback(timer.cancel)
        os.close(theirs[0])
        os.close(ours[1])
        yield Tab(to_browser, from_browser)


def test_a_browser_draws_the_page_without_a_complaint(tab, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page.render(*made()), "utf-8")
    tab.open(file)
    tab.evaluate("document.querySelectorAll('img').forEach(img => img.loading = 'eager')")
    pictures = tab.evaluate("[...document.images].map(i => [i.naturalWidth, i.naturalHeight])")
    assert len(pictures) == 8 and all(0 < side <= SIDE for sides in pictures for side in sides)
    figures = tab.evaluate(
        "[...document.querySelectorAll('svg')].map(svg => {"
        " const own = svg.getBoundingClientRect();"
        " const parts = [...svg.querySelectorAll('rect,circle,path,text,line')];"
        " const boxes = parts.map(part => part.getBoundingClientRect());"
        " return [svg.querySelector('title').textContent, own.width, own.height, parts.length,"
        "  boxes.filter(b => b.left < own.left - 1 || b.right > own.right + 1 ||"
        "   b.top < own.top - 1 || b.bottom > own.bottom + 1).length]})"
    )
    assert len(figures) == 9
    for name, width, height, parts, outside in figures:
        assert width > 200 and height > 20 and parts > 2, name
        assert outside == 0, f"{name}: {outside} parts are cut off"
    assert "Reliability diagram" in [name for name, *_ in figures]
    assert tab.evaluate("document.scripts.length") == 1
    first = "document.querySelector('table tbody').rows[0].cells[0].textContent"
    head = "document.querySelectorAll('table thead th')[2].querySelector('button')"
    assert tab.evaluate(first).startswith("B/16")
    tab.evaluate(f"{head}.click()")
    assert tab.evaluate(first).startswith("L/16"), "the best first"
    assert tab.evaluate("document.querySelector('th[aria-sort]').ariaSort") == "descending"
    tab.evaluate(f"{head}.click()")
    assert tab.evaluate(first).startswith("B/16"), "and the other way round"
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(paper)
    tab.call("Emulation.setEmulatedMedia",
             features=[{"name": "prefers-color-scheme", "value": "dark"}])  # fmt: skip
    assert tab.evaluate(paper) != light
    complaints = tab.told("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert complaints == []
    asked = [params["request"]["url"] for params in tab.told("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
