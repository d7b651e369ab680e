"""Build the emoji shards of this folder from published npm packages.

    pip install resvg-py==0.5.0 pillow sentencepiece
    python examples/emoji/build.py    # fetches with npm; --packages DIR reads tarballs

One picture set drawn by several hands makes a true zero-shot test: a model that has learned from
some vendors' drawings must name another vendor's. Google and the three Fluent styles are written
to `train-*.tar`, Twitter to `heldout-*.tar`, as WebDataset shards: `<key>.webp` is the picture,
`<key>.json` holds `name`, `captions` (the name first), `vendor` and `category`.

What is kept: emoji that every vendor draws and CLDR names, without
- flags and symbols: their drawings are text or geometry, the same in every set;
- sequences of several code points (skin tones, gendered variants): their pictures differ less
  between names than between vendors;
- emoji that a vendor draws identically under two names: such a picture has no right answer.
"""

import argparse
import collections
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile
import tempfile

import resvg_py
import sentencepiece as spm
from PIL import Image

HERE = pathlib.Path(__file__).parent
IMAGE_SIZE = 40  # room for crops around the 30 pixels that the quick start looks at
WEBP_QUALITY = 85
VOCAB_SIZE = 2000
LEFT_OUT = {"Flags", "Symbols", "Component"}

# npm package -> sha256 of its tarball: the shards are a function of these bytes and this file.
PACKAGES = {
    "cldr-annotations-full@48.2.0": (
        "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1"
    ),
    "emoji-datasource-google@16.0.0": (
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
    ),
    "emoji-datasource-twitter@16.0.0": (
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
    ),
    "@lobehub/fluent-emoji-3d@1.1.0": (
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
    ),
    "@lobehub/fluent-emoji-flat@1.1.0": (
        "8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147"
    ),
    "@lobehub/fluent-emoji-modern@1.0.0": (
        "080906de394ad8335c24f67e1b33f12a9ac1b6d99324d26ae63cad8d27359769"
    ),
}
# vendor -> (package, folder of pictures inside it)
TRAIN_VENDORS = {
    "google": ("emoji-datasource-google@16.0.0", "img/google/64"),
    "fluent-3d": ("@lobehub/fluent-emoji-3d@1.1.0", "assets"),
    "fluent-flat": ("@lobehub/fluent-emoji-flat@1.1.0", "assets"),
    "fluent-modern": ("@lobehub/fluent-emoji-modern@1.0.0", "assets"),
}
HELDOUT_VENDORS = {"twitter": ("emoji-datasource-twitter@16.0.0", "img/twitter/64")}
VENDORS = TRAIN_VENDORS | HELDOUT_VENDORS


def fetch(package: str, folder: pathlib.Path) -> pathlib.Path:
    """Return the unpacked package, fetched with `npm pack` unless its tarball is in `folder`."""
    name, version = package.rsplit("@", 1)
    tarball = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True)
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if digest != PACKAGES[package]:
        raise SystemExit(f"{tarball}: sha256 is {digest}, expected {PACKAGES[package]}")
    target = folder / tarball.stem
    with tarfile.open(tarball) as tar:
        tar.extractall(target, filter="data")
    return target / "package"


def code_point(stem: str) -> str:
    """`1f600-fe0f` -> `1f600`: vendors disagree on the presentation selector."""
    return "-".join(part for part in stem.lower().split("-") if part != "fe0f")


def read_picture(path: pathlib.Path) -> Image.Image:
    """Render or open a picture, put it on white and pad it to a centred square."""
    if path.suffix == ".svg":
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=256, height=256))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
    else:
        picture = Image.open(path).convert("RGBA")
    side = max(picture.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)


def webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "webp", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


def captions_of(annotation: dict) -> list[str]:
    """The CLDR short name, then the name with each keyword that adds a word to it."""
    name = annotation["tts"][0].lower()
    keywords = [k.lower() for k in annotation.get("default", [])]
    return [name] + [f"{name}, {k}" for k in keywords if k not in name]


def select(emoji: list[dict], annotations: dict, pictures: dict) -> dict[str, dict]:
    """The emoji of the data set: code point -> {name, captions, category}, in Unicode order."""
    kept = {}
    for entry in sorted(emoji, key=lambda e: e["sort_order"]):
        code = code_point(entry["unified"])
        if "-" in code or entry["category"] in LEFT_OUT or chr(int(code, 16)) not in annotations:
            continue
        if all(code in files for files in pictures.values()):
            captions = captions_of(annotations[chr(int(code, 16))])
            kept[code] = {
                "name": captions[0], "captions": captions, "category": entry["category"],
            }  # fmt: skip
    return kept


def drop_repeated(kept: dict, images: dict) -> None:
    """Remove every emoji whose picture some vendor also draws for another one."""
    for by_code in images.values():
        codes_by_picture = collections.defaultdict(list)
        for code, data in by_code.items():
            codes_by_picture[data].append(code)
        for codes in codes_by_picture.values():
            if len(codes) > 1:
                for code in codes:
                    kept.pop(code, None)


def write_shard(path: pathlib.Path, samples: list[tuple[str, bytes, dict]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, image, meta in samples:
            text = json.dumps(meta, ensure_ascii=False).encode()
            for suffix, data in (("webp", image), ("json", text)):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def train_tokenizer(captions: list[str], path: pathlib.Path) -> None:
    """A SentencePiece model with the ids of T5's vocabularies: pad 0 (unused), eos 1, unk 2.

    SigLIP pads with the end-of-sentence id, so id 0 never occurs in a batch.
    """
    model = io.BytesIO()  # a file's name would be recorded in the model
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=VOCAB_SIZE,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packages", type=pathlib.Path, help="folder with the npm tarballs")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = args.packages or pathlib.Path(scratch)
        root = {package: fetch(package, folder) for package in PACKAGES}
        cldr = root["cldr-annotations-full@48.2.0"] / "annotations/en/annotations.json"
        annotations = json.loads(cldr.read_text())["annotations"]["annotations"]
        emoji = json.loads((root["emoji-datasource-google@16.0.0"] / "emoji.json").read_text())
        pictures = {
            vendor: {code_point(f.stem): f for f in (root[package] / sub).iterdir()}
            for vendor, (package, sub) in VENDORS.items()
        }
        kept = select(emoji, annotations, pictures)
        images = {
            vendor: {code: webp(read_picture(files[code])) for code in kept}
            for vendor, files in pictures.items()
        }
    drop_repeated(kept, images)

    for split, vendors in (("train", TRAIN_VENDORS), ("heldout", HELDOUT_VENDORS)):
        for number, vendor in enumerate(vendors):
            samples = [
                (f"{vendor}-{code}", images[vendor][code], {**meta, "vendor": vendor})
                for code, meta in kept.items()
            ]
            write_shard(args.out / f"{split}-{number:05d}.tar", samples)
    # Every name once and every caption once, so that names stay whole words.
    train_tokenizer(
        [c for meta in kept.values() for c in (*meta["captions"], meta["name"])],
        args.out / "sentencepiece.model",
    )
    print(f"{len(kept)} emoji x {len(VENDORS)} vendors -> {args.out}")


if __name__ == "__main__":
    main()
