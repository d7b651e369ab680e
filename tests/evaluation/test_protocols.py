import hashlib
import importlib.resources
import importlib.util

import pytest

from siglip import config as cfg
from siglip.evaluation import facts, protocols
from siglip.evaluation.facts import datasets

PINNED = {
    "classes/caltech101.tsv": "d652f1276794c49b",
    "classes/cifar10.tsv": "e99244d756a80546",
    "classes/cifar100.tsv": "ce4061784090041c",
    "classes/country211.tsv": "4e3db0941a13e0bd",
    "classes/dtd.tsv": "7f7ac825a07c5d78",
    "classes/eurosat.tsv": "9ba492558faf6c7e",
    "classes/flowers102.tsv": "ee93ab3bddbbb800",
    "classes/food101.tsv": "b9d302cddb4c3b46",
    "classes/gtsrb.tsv": "c276154c9911c36a",
    "classes/imagenet.tsv": "d27cfbfdbae5f40d",
    "classes/imagenet_a.tsv": "7fc7cd125341b1cb",
    "classes/imagenet_r.tsv": "32c58bc2bcb5cfe7",
    "classes/objectnet.tsv": "4d46d771e8739924",
    "classes/pets.tsv": "e69acf83f4093b74",
    "classes/sun397.tsv": "2a5839eda57b0909",
    "prompts/best7.txt": "521a62d0a05a423b",
    "prompts/caltech101.txt": "9c2f7e234963a31c",
    "prompts/cifar.txt": "7b155d8b94e26288",
    "prompts/country211.txt": "9ffc118cb0bc44dc",
    "prompts/dtd.txt": "ee98e3bdc8bb6e92",
    "prompts/eurosat.txt": "0ce535a9b56f0854",
    "prompts/flowers102.txt": "1d8418345fa75de9",
    "prompts/food101.txt": "6db321c4c7f208ec",
    "prompts/gtsrb.txt": "08d8b4a068e1cce9",
    "prompts/imagenet.txt": "717aaf1055595d31",
    "prompts/pets.txt": "6d2ff729b46bfd62",
    "prompts/sun397.txt": "ce539ee87f7a3df6",
}

CLASSES = {
    "imagenet": 1000, "imagenet_v2": 1000, "imagenet_real": 1000, "imagenet_a": 200,
    "imagenet_r": 200, "imagenet_sketch": 1000, "objectnet": 113, "cifar10": 10, "cifar100": 100,
    "pets": 37, "food101": 101, "flowers102": 102, "caltech101": 102, "dtd": 47, "eurosat": 10,
    "sun397": 397, "country211": 211, "gtsrb": 43,
}  # fmt: skip

# CLIP's own prompts, of which there are as many for open_clip.
PROMPTS = {
    "cifar10": 18, "cifar100": 18, "pets": 1, "food101": 1, "flowers102": 1, "caltech101": 34,
    "dtd": 8, "eurosat": 3, "sun397": 2, "country211": 5, "gtsrb": 3,
}  # fmt: skip


def test_files_are_as_they_were_copied():
    root = importlib.resources.files(facts)
    found = {
        f"{folder}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for folder in ("classes", "prompts")
        for file in (root / folder).iterdir()
    }
    assert found == PINNED
    sources = (root / "SOURCES.md").read_text()
    assert [file for file in PINNED if "classes/" in file and file[8:] not in sources] == []


def test_every_data_set_has_its_classes():
    assert {name: len(dataset) for name, dataset in datasets.ALL.items()} == CLASSES
    for dataset in datasets.ALL.values():
        assert len(dataset.folders) == len(set(dataset.folders)) == len(dataset.names())
        assert all(name == name.strip() and name for name in dataset.names())
        for row in (0, len(dataset) // 2, len(dataset) - 1):
            assert dataset.row(dataset.folders[row]) == row
        for numbering in datasets.NUMBERINGS:
            numbers = [dataset.row(i, numbering) for i in _numbers(dataset, numbering)]
            assert sorted(numbers) == list(range(len(dataset)))


def _numbers(dataset, numbering):
    if numbering == "tfds" and len(dataset) == 200:
        return [i for (i,) in dataset.imagenet]
    return range(len(dataset))


def test_imagenet_and_its_parts():
    imagenet = datasets.get("imagenet")
    assert imagenet.folders == sorted(imagenet.folders) and imagenet.folders[0] == "n01440764"
    for name in ("imagenet_a", "imagenet_r"):
        part = datasets.get(name)
        rows = [i for (i,) in part.imagenet]
        assert part.folders == [imagenet.folders[i] for i in rows] and rows == sorted(rows)
        assert part.names() == [imagenet.names()[i] for i in rows]
        assert part.row(rows[7]) == part.row(7, "folder") == part.row(part.folders[7]) == 7
    objectnet = datasets.get("objectnet")
    meant = {
        name: [imagenet.names()[i] for i in rows]
        for name, rows in zip(objectnet.names(), objectnet.imagenet, strict=True)
    }
    assert meant["wok"] == ["wok"] and meant["alarm clock"] == ["analog clock", "digital clock"]
    assert meant["pen"] == ["ballpoint pen", "fountain pen", "quill"]
    assert sum(map(len, objectnet.imagenet)) == len({i for r in objectnet.imagenet for i in r})
    assert datasets.get("cifar10").imagenet == []


def test_folders_that_are_numbers_are_read_as_numbers():
    v2, flowers, signs = map(datasets.get, ("imagenet_v2", "flowers102", "gtsrb"))
    assert [v2.row(folder) for folder in ("10", "2", "999")] == [10, 2, 999]
    assert flowers.names()[flowers.row("1")] == flowers.names()[flowers.row(0)] == "pink primrose"
    assert signs.names()[signs.row("00014")] == "stop"


def test_orders_that_differ():
    """A label's number says nothing without who numbered."""
    food, pets, caltech = map(datasets.get, ("food101", "pets", "caltech101"))
    assert food.names()[food.row(16)] == food.names()[food.row(17, "folder")] == "cheesecake"
    assert pets.names()[pets.row(1)] == "american bulldog"
    assert pets.names()[pets.row(1, "folder")] == "Bengal"
    assert caltech.names()[caltech.row(0, "folder")] == "background"
    assert caltech.row("background_google") == caltech.row("BACKGROUND_Google") == 4
    sun = datasets.get("sun397")
    assert (
        sun.names()[sun.row("j/jail_cell")] == sun.names()[sun.row("/j/jail_cell")] == "jail cell"
    )
    country = datasets.get("country211")
    assert country.folders == sorted(country.folders)


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("imagenet_a", 5, "ImageNet-A: no class 5; labels are .* or numbers from 6 to 988"),
        ("flowers102", "0", "no class '0'; labels are 1, 2, ... or numbers from 0 to 101"),
        ("pets", "cat", "no class 'cat'"),
    ],
)
def test_a_label_of_another_data_set(name, label, message):
    with pytest.raises(cfg.UserError, match=message):
        datasets.get(name).row(label)


def test_names_are_checked():
    with pytest.raises(cfg.UserError, match="dataset='imagnet': unknown; did you mean 'imagenet'"):
        datasets.get("imagnet")
    with pytest.raises(cfg.UserError, match="numbering='torch': unknown"):
        datasets.get("pets").row(0, "torch")
    with pytest.raises(cfg.UserError, match=r"neither a protocol nor .* did you mean 'open_clip'"):
        protocols.get("openclip")


def test_prompts():
    for dataset in (*datasets.ALL, "", "own"):
        counts = [len(protocols.get(name).prompts(dataset)) for name in protocols.PROTOCOLS]
        assert counts == [81, PROMPTS.get(dataset, 80), 7, 1]
        for protocol in protocols.PROTOCOLS.values():
            prompts = protocol.prompts(dataset)
            assert all(prompt.count("{}") == 1 for prompt in prompts)
            assert len(set(prompts)) == len(prompts)
    assert all(set(p.published) <= set(datasets.ALL) for p in protocols.PROTOCOLS.values())
    assert set(datasets.ALL) - set(protocols.get("open_clip").published) == {"imagenet_real"}


def test_big_vision_writes_without_punctuation():
    protocol = protocols.get("big_vision")
    prompts = protocol.prompts("imagenet")
    assert prompts[0] == "a bad photo of a {}" and prompts[20] == "a closeup photo of a {}"
    assert prompts[-1] == "{}"
    # 190 names of ImageNet change.
    plain = datasets.get("imagenet").names()
    written = protocol.class_names("imagenet")
    assert sum(a != b for a, b in zip(plain, written, strict=True)) == 190
    assert written[21] == "kite bird of prey" and plain[21] == "kite (bird of prey)"
    # What it reads from TensorFlow Datasets is what CLIP's names become.
    for name in ("cifar100", "pets"):
        folders = datasets.get(name).folders
        assert protocol.class_names(name) == [f.replace("_", " ").lower() for f in folders]
    assert protocol.written(["Crane, bird", "Traffic_Light: (RED)"]) == [
        "crane", "traffic light red"
    ]  # fmt: skip
    assert protocol.texts(["A.B"])[0][-1] == "ab"


def test_open_clip_uses_the_names_of_clip_benchmark():
    protocol, bare = protocols.get("open_clip"), protocols.get("name_only")
    assert protocol.class_names("pets")[1] == "American Bulldog"
    assert protocol.class_names("cifar100")[1] == "aquarium_fish"
    assert bare.class_names("cifar100")[1] == "aquarium fish"
    assert protocol.texts(["stop"], "gtsrb")[0][0] == 'a zoomed in photo of a "stop" traffic sign.'


def test_prompts_of_a_file(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("\ufeffein Foto von {}\n\n  {} auf einem Tisch \n")
    protocol = protocols.get(path)
    assert protocol.texts(["Äpfel"]) == [["ein Foto von Äpfel", "Äpfel auf einem Tisch"]]
    assert protocol.class_names("pets")[1] == "american bulldog"
    for content, message in (
        (b"a {}\na photo\n", "own.txt: line 2 is 'a photo'; put {} where"),
        (b"{} and {}", "line 1"),
        (b"\n", "has no prompt"),
        (b"\xff{}", "not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(cfg.UserError, match=message):
            protocols.get(path)


def test_words_are_those_of_open_clip():
    found = importlib.util.find_spec("open_clip")
    if found is None:
        pytest.skip("OpenCLIP is not installed; run `make parity`")
    # That file alone: the package would import torch.
    path = found.submodule_search_locations[0] + "/zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("zero_shot_metadata", path)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    ours = protocols.get("open_clip")
    assert ours.class_names("imagenet") == list(theirs.IMAGENET_CLASSNAMES)
    sentences = [template("{}") for template in theirs.OPENAI_IMAGENET_TEMPLATES]
    assert ours.prompts("imagenet") == sentences
    best = [template("{}") for template in theirs.SIMPLE_IMAGENET_TEMPLATES]
    assert protocols.get("best7").prompts() == best
