"""One string opens any format, and the same pairs are the same in each."""

import json
import os

import pytest

from siglip.config import UserError
from siglip.data.sources import SUFFIXES, TarSource, open_source
from siglip.embedding import find_inputs
from tests.conftest import EMOJI, ROOT
from tests.data.sources.test_tar import write_tar

N = 20


@pytest.fixture(scope="module")
def pairs():
    source = TarSource(str(EMOJI / "train-00000.tar"))
    return sorted((source[i] for i in range(N)), key=lambda sample: sample.key)


@pytest.fixture(scope="module")
def places(pairs, tmp_path_factory):
    """The same pairs in every format, by name."""
    root = tmp_path_factory.mktemp("places")
    folder, lines = root / "folder", []
    folder.mkdir()
    members = []
    for pair in pairs:
        name, caption = f"{pair.key}.png", pair.captions[0]
        os.makedirs((folder / name).parent, exist_ok=True)
        (folder / name).write_bytes(pair.image)
        (folder / f"{pair.key}.txt").write_text(caption)
        lines.append({"file_name": name, "text": caption, "class": "emoji"})
        members += [(name, pair.image), (f"{pair.key}.txt", caption.encode())]
    (root / "shards").mkdir()
    write_tar(root / "shards/0.tar", members[: N // 2 * 2])
    write_tar(root / "shards/1.tar", members[N // 2 * 2 :])
    (root / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = [[line["file_name"], '"' + line["text"].replace('"', '""') + '"'] for line in lines]
    (root / "list.tsv").write_text("\n".join(map("\t".join, [["filepath", "title"], *rows])))
    half = N // 2 + 1
    for i, part in enumerate((rows[:half], rows[half:])):
        (root / f"list-{i}.csv").write_text("\n".join(map(",".join, [["image", "text"], *part])))
    return {
        "tars": f"{root}/shards/{{0..1}}.tar",
        "joined tars": f"{root}/shards/0.tar::{root}/shards/1.tar",
        "mixture": f"{root}/shards/0.tar + {root}/shards/1.tar",
        "folder of tars": f"{root}/shards",
        "folder": f"{root}/folder/",
        "jsonl": f"{root}/list.jsonl?root={root}/folder",
        "tsv": f"{root}/list.tsv?root={root}/folder",
        "csv": f"{root}/list-*.csv?root={root}/folder",
    }


FORMS = ["tars", "joined tars", "mixture", "folder of tars", "folder", "jsonl", "tsv", "csv"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_pairs_in_every_format(places, pairs, form):
    assert sorted(places) == sorted(FORMS)
    source = open_source(places[form])
    expected = [(pair.key, pair.image, pair.captions[:1]) for pair in pairs]
    found = [(s.key, s.image, s.captions) for s in (source[i] for i in range(len(source)))]
    assert found == expected and list(source.keys()) == [pair.key for pair in pairs]
    assert open_source(places[form]).fingerprint() == source.fingerprint()
    pictures = open_source(places[form], captions=False)
    assert pictures[N - 1].image == pairs[-1].image and pictures[0].captions == ()


def test_labels_of_any_format(places):
    assert open_source(places["jsonl"] + "&label=class")[3].captions == ("emoji",)
    source = open_source(places["folder"] + "?label=folder&template=in {}")
    assert source[0].captions[0].startswith("in ")


@pytest.mark.parametrize(
    "place,message",
    [
        ("lst.jsonl", r"lst\.jsonl: no such file; did you mean '.*/list\.jsonl'\?"),
        ("shads", r"shads: no such file or folder; did you mean '.*/shards'\?"),
        ("nothing like it", r"no such file or folder; give a folder, \.tar, "),
        ("notes.zip", r"notes\.zip: no known format; give a folder"),
        ("web.tar.gz", "a compressed tar has no random access"),
        ("a.tar::b.csv", r"\.csv, \.tar joined by `::`; join different formats by ` \+ `"),
        ("list.jsonl?sep=tab", r"list\.jsonl\?sep=: no option .* image, caption, key, root, "),
        ("shards?key=id", r"\?key=: no option of this format, which takes caption, label"),
        ("folder?image=x", r"\?image=: no option of this format"),
    ],
)
def test_mistakes(places, place, message):
    root = os.path.dirname(places["folder of tars"])
    for name in ("notes.zip", "web.tar.gz"):
        open(os.path.join(root, name), "w").close()
    with pytest.raises(UserError, match=message) as error:
        open_source(os.path.join(root, place))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_known_to_all(tmp_path, suffix):
    """`open_source` reads it, no verb takes it for a list of texts, and the page names it."""
    place = str(tmp_path / f"x{suffix}")
    with open(place, "w") as file:
        file.write("nothing of the kind\n")
    for read in (open_source, find_inputs):
        with pytest.raises(UserError) as error:
            read(place)
        assert "no known format" not in str(error.value)
    assert suffix == ".arrayrecord" or suffix in (ROOT / "docs/data.md").read_text()


def test_suffixes_within_braces_and_of_shards(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, [("k.png", b"x"), ("k.txt", b"x")])
    assert len(open_source(f"{tmp_path}/{{a.tar,b.tar}}")) == 2
    with pytest.raises(UserError, match="array_record"):
        open_source(f"{tmp_path}/x.array_record-00000-of-00012")
