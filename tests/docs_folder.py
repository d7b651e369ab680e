"""A folder in which all that the pages name is there, in small."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import venv

import tensorflow_datasets as tfds
from PIL import Image

from siglip import config as cfg
from siglip.checkpoint import Checkpoints
from siglip.evaluation.facts import datasets
from siglip.pretrained import export
from siglip.training import loop
from tests.conftest import EMOJI, ROOT
from tests.evaluation.handed_out import dataset_of_tfds, in_folders, picture, put, tar

RELEASED = "google/siglip-base-patch16-256"
# All that the shell finds: what reaches out of the folder, such as pip, is not among them.
TOOLS = ("bash", "cat", "cp", "dirname", "env", "grep", "ls", "mkdir", "rm", "tar", "touch")
CAPTIONS = ("a harbour with many red and yellow boats in the rain", "a mountain", "a street")


def train(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """The run of `workdir` again, into `run`: four steps, judged by two pictures, all saved.

    The third checkpoint is damaged afterwards.
    """
    with contextlib.closing(Checkpoints(workdir, items=())) as checkpoints:
        config = checkpoints.config()
    photos(folder / "judged", 2)
    rows = ({"file_name": f"{i}.jpg", "label": name} for i, name in enumerate(("cat", "dog")))
    lines(folder / "judged/metadata.jsonl", rows)
    judged = cfg.Evaluation(
        tasks=f"emoji={folder}/judged?label=label&kind=classification", protocol="name_only",
        every="2 steps",
    )  # fmt: skip
    kept = cfg.Train(
        duration="4 steps", checkpoint_every=1, keep_checkpoints=2, keep_every="1 steps",
        best="emoji/acc1",
    )  # fmt: skip
    loop.train(dataclasses.replace(config, eval=judged, train=kept), folder / "run")
    array = next((folder / "run/checkpoints/3/params/d").iterdir())
    array.write_bytes(b"\0" + array.read_bytes()[1:])


def release(folder: pathlib.Path, run: pathlib.Path) -> None:
    """A small model in the place of a released one, which carries that one's name alone."""
    export.convert(run, folder / RELEASED, "huggingface")
    # A SentencePiece model would have to be the released one; tokenizer.json holds the same pieces.
    (folder / RELEASED / "spiece.model").unlink()


def make(folder: pathlib.Path) -> None:
    """What belongs to the checkout, as copies, and what a reader has."""
    for name in ("configs", "examples", "launch"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("train.py", "eval.py", "Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, folder)
    (folder / "bin").mkdir()
    for name in TOOLS:
        (folder / "bin" / name).symlink_to(shutil.which(name))
    venv.create(folder / ".venv", with_pip=False)
    # No target of make installs anything.
    for name in (".installed", ".installed-dev", ".installed-parity"):
        (folder / ".venv" / name).touch()
    photos(folder / "photos", 24)
    for name in ("cat", "dog", "birds/duck"):
        photo(folder / f"photos/{name}.jpg", f"a {name}\nmy {name}\n")
    photo(folder / "cat.jpg")
    for name in ("rose", "tulip"):
        photo(folder / f"flowers/{name}/1.jpg")
    for part, count in (("train", 16), ("heldout", 4)):
        photos(folder / f"runs/photos/{part}", count)
        rows = (
            {"file_name": f"{i}.jpg", "text": CAPTIONS[i % len(CAPTIONS)]} for i in range(count)
        )
        lines(folder / f"runs/photos/{part}/metadata.jsonl", rows)
    shutil.copy(EMOJI / "sentencepiece.model", folder / "c4_en.model")
    for name in ("", "data/"):
        (folder / name).mkdir(exist_ok=True)
        for i in range(2):
            shutil.copy(EMOJI / f"train-{i:05}.tar", folder / f"{name}pairs-{i:05}.tar")
    (folder / "audit").mkdir()


def photo(path: pathlib.Path, captions: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 30), 90).save(path)
    if captions:
        path.with_suffix(".txt").write_text(captions)


def photos(folder: pathlib.Path, count: int) -> None:
    for i in range(count):
        photo(folder / f"{i}.jpg", f"photo {i}\n")


def lines(path: pathlib.Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_published(folder: pathlib.Path) -> None:
    """Data sets as they are handed out, with a picture of each class or less."""
    flat = {f"ILSVRC2012_val_{i:08d}.JPEG": picture(i) for i in (1, 2, 3)}
    tar(folder / "ILSVRC2012_img_val.tar", flat)
    put(folder, {"real.json": json.dumps([[i % 1000] for i in range(50_000)])})
    put(folder / "data/imagenet", in_folders("imagenet", "val/{}/{}.JPEG"))
    put(folder / "data/imagenet_v2", in_folders("imagenet_v2", "{}/{}.jpeg"))
    for name in ("imagenet_a", "imagenet_r"):
        put(folder / "data" / name, in_folders(name))
    tar(folder / "imagenet-a.tar", in_folders("imagenet_a"))
    listed = [
        {"filename": f"{i}.jpg", "split": "test", "sentences": [{"raw": f"picture {i}"}]}
        for i in range(4)
    ]
    put(folder / "data/coco", {f"val2014/{i}.jpg": picture(i) for i in range(4)})
    put(folder / "data/coco", {"dataset_coco.json": json.dumps({"images": listed})})
    row = {"image/key": "a", "image/locale": "x", "de": {"caption": ["ein Bild"]}}
    files = {"captions.jsonl": json.dumps(row) + "\n", "images/a.jpg": picture(0)}
    put(folder / "data/xm3600", files)
    for name, task, split in (
        ("imagenet2012", "imagenet", "validation"), ("cifar100", "cifar100", "test"),
        ("oxford_iiit_pet", "pets", "test"),
    ):  # fmt: skip
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=datasets.get(task).folders),
        }
        samples = [{"image": picture(i), "label": i} for i in range(3)]
        dataset_of_tfds(folder / "tfds", name, features, split, samples)


def environment(folder: pathlib.Path, released: pathlib.Path) -> dict[str, str]:
    return {
        "SIGLIP_WEIGHTS": str(released), "TFDS_DATA_DIR": str(folder / "tfds"),
        "XDG_CACHE_HOME": str(released / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": "80",
        "HOME": str(folder),
    }  # fmt: skip
