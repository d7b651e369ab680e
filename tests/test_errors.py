"""Everything a user can get wrong, in one table: what was done, and the line that answers.

Each row is run in a folder with whatever a user may have lying about. The answer is one line that
names the field or the file, the value and the remedy, the exit code is 2, no file is made, changed
or lost, and nothing has been compiled. `...` in a row stands for anything.
"""

import ast
import contextlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import huggingface_hub.constants
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy

import siglip
from siglip import cli, entry
from siglip.checkpoint import Checkpoints, Keep
from siglip.data import decode
from siglip.data.sources import open_source
from siglip.parallel import hosts
from siglip.pretrained import places
from siglip.training import loop
from tests.conftest import EMOJI, ROOT
from tests.data.sources.test_tar import picture_bytes, write_tar
from tests.fixtures.make_pretrained import FOLDER

OWN = "mine=classes?kind=classification"
PLAN = "plan --config configs/quickstart.py --topology"

Action = Callable[[], object]
Rows = list[tuple[str, Action, str]]

# What users do. All of it happens in the folder that `world` makes.


def train(*overrides: str, recipe: str = "configs/quickstart.py", workdir: str = "new") -> Action:
    """`python train.py --config RECIPE --workdir WORKDIR --config.OVERRIDE...`"""
    flags = [f"--config.{override}" for override in overrides]
    return lambda: loop.train(entry.config_of(recipe, flags), workdir)


def finetune(*overrides: str, mode: str = "full") -> Action:
    return train(*overrides, recipe=f"configs/finetune.py:{mode}")


def run(command: str, *more: str) -> Action:
    """`siglip COMMAND`, divided at spaces, and further words."""
    return lambda: cli.main([*command.split(), *more])


def classify(*more: str) -> Action:
    return run("classify cat.png --checkpoint models/whole --labels", "a cat", *more)


def evaluate(tasks: str, data: str = "", *more: str) -> Action:
    return run("eval models/whole --task", tasks, "--data", data, *more)


def own(options: str, place: str = "classes") -> Action:
    return evaluate(f"mine={place}?kind=classification{options}")


def data(address: str) -> Action:
    """`--config.data.train=ADDRESS`, and whatever else opens data."""
    return lambda: open_source(address)


def sample(address: str) -> Action:
    return lambda: open_source(address)[0]


def load(name: str, **options) -> Action:
    return lambda: siglip.load(name, **options)


def picture(path: object) -> Action:
    return lambda: siglip.load("models/whole:img").pixels(path)


def group(**variables: str) -> Action:
    return lambda: hosts.find_group({f"JAX_{n}": value for n, value in variables.items()})


def fetch() -> object:
    """The script of the example, as a module."""
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "examples/photos/fetch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photos() -> None:
    """`python examples/photos/fetch.py spoilt`"""
    fetch().make(pathlib.Path("spoilt"))


# fmt: off
TABLE: dict[str, Rows] = {
"configuration": [
    ("a field that is not there", train("train.steps=3"),
     "config.train.steps: unknown field; choose from best, checkpoint_every, duration, ..."),
    ("a field misspelt", train("train.durations=3"),
     "config.train.durations: unknown field; did you mean 'duration'?"),
    ("a section misspelt", train("trian.duration=3"),
     "config.trian: unknown field; did you mean 'train'?"),
    ("a field below a value", train("seed.x=3"),
     "config.seed.x: no such field; set config.seed itself"),
    ("words for a number", train("seed=abc"), "config.seed='abc': must be a whole number"),
    ("a fraction of a pair", train("data.batch_size=1.5"),
     "config.data.batch_size='1.5': must be a whole number"),
    ("neither true nor false", train("data.flip=maybe"),
     "config.data.flip='maybe': must be True or False"),
    ("None for a tower", train("model.image=None"),
     "config.model.image='None': must be a section of fields"),
    ("below the least", train("seed=-1"), "config.seed=-1: must be at least 0"),
    ("above the most", train("seed=2147483648"),
     "config.seed=2147483648: must be below 2**31"),
    ("no number", train("optimizer.weight_decay=inf"),
     "config.optimizer.weight_decay=inf: must be finite"),
    ("steps for examples", train("train.duration=40B steps"),
     "config.train.duration='40B steps': must be below 2**31 steps"),
    ("no number", train("optimizer.learning_rate=nan"),
     "config.optimizer.learning_rate=nan: must be above 0"),
    ("a word that is none of them", train("optimizer.name=adam"),
     "config.optimizer.name='adam': must be one of adamw, adafactor, lion"),
    ("an export that is none", train("export=timm"),
     "config.export='timm': must be one of '', huggingface, open_clip, big_vision"),
    ("no duration", train("train.duration=3 hours"),
     "config.train.duration='3 hours': is no duration; write for example '20000 steps', '200M "
     "examples', '3 epochs' or, of a run, '5 %'"),
    ("a duration of nothing", train("train.duration=0"),
     "config.train.duration='0': must be above 0, not in %"),
    ("a share for a duration", train("train.duration=5 %"),
     "config.train.duration='5 %': must be above 0, not in %"),
    ("warm-up longer than the run", train("train.duration=9", "optimizer.warmup=20 steps"),
     "config.optimizer.warmup='20 steps': 20 steps, and 0 of cooldown='0 steps', do not fit into "
     "the 9 of train.duration='9'; shorten them"),
    ("a timescale of nothing",
     train("optimizer.schedule=rsqrt", "optimizer.timescale=0 steps"),
     "config.optimizer.timescale='0 steps': must be at least 1 step"),
    ("a step for a window", train("train.profile=5"),
     "config.train.profile='5': must be such as 100-110, in steps from 1"),
    ("a spike below all", train("train.spike=0.5"),
     "config.train.spike=0.5: must be above 1, or 0 for none"),
    ("best of nothing", train("train.best=acc"),
     "config.train.best='acc': needs eval.every; set it"),
    ("best by what is not measured",
     train("train.best=imagenet/acc1", "eval.every=9 steps", "data.holdout=0.1"),
     "config.train.best='imagenet/acc1': is not measured; choose from validation/mean_recall, "
     "validation/text_retrieval_recall@1, ..."),
    ("nothing to evaluate", train("eval.every=10 steps"),
     "config.eval.every='10 steps': nothing to evaluate; give data.validation, data.holdout or "
     "eval.tasks"),
    ("a pattern alone", train("optimizer.frozen=img/.*"),
     "config.optimizer.frozen=('img/.*',): must be a list of (pattern, number), such as "
     "(('img/.*', 0.1),)"),
    ("no regular expression", train("optimizer.frozen=(('img/(', 1),)"),
     "config.optimizer.frozen: 'img/(' is no regular expression (...); repair it"),
    ("half frozen", train("optimizer.frozen=(('img/.*', 0.5),)"),
     "config.optimizer.frozen: 'img/.*' has 0.5; write 1 for frozen, else 0"),
    ("a pattern without a match", train("optimizer.frozen=(('image/.*', 1),)"),
     "config.optimizer.frozen: 'image/.*' matches no parameter; the nearest is "
     "'img/embedding/bias'"),
    ("a part of a path", train("optimizer.frozen=(('img', 1),)"),
     "config.optimizer.frozen: 'img' matches no parameter; the nearest is 'img/embedding/bias', "
     "and whole paths have to match: write 'img/.*'"),
    ("all frozen", train("optimizer.frozen=(('.*', 1),)"),
     "config.optimizer.frozen=(('.*', 1.0),): leaves nothing to train; freeze less"),
    ("a rule behind one for all",
     train("optimizer.rate_multipliers=(('.*', 1), ('img/.*', 0.1))"),
     "config.optimizer.rate_multipliers: 'img/.*' never applies, as '.*' before it matches all "
     "its parameters; move it to the front or remove it"),
    ("a rate below 0", train("optimizer.rate_multipliers=(('.*', -1),)"),
     "config.optimizer.rate_multipliers: '.*' has -1.0; it must be at least 0"),
    ("a random tower frozen", train("optimizer.frozen=(('img/.*', 1),)"),
     "config.optimizer.frozen=(('img/.*', 1.0),): leaves a random image tower as it is; give a "
     "trained one with --config.init=NAME:img"),
    ("more blocks than there are", train("optimizer.last_blocks=9", "init=models/whole"),
     "config.optimizer.last_blocks=9: more than there are (img has 1 and txt has 1); 0 trains all"),
    ("last blocks of a random tower",
     train("optimizer.last_blocks=1", "model.image.depth=2"),
     "config.optimizer.last_blocks=1: leaves other blocks of a random image tower; give a "
     "trained one with --config.init=NAME:img"),
    ("heads that do not divide", train("model.image.heads=7"),
     "config.model.image.width=96: must be a multiple of heads=7"),
    ("patches larger than the picture", train("model.image.patch_size=31"),
     "config.model.image.image_size=30: must be at least patch_size=31"),
    ("towers of other widths", train("model.text.out_dim=16"),
     "config.model.text.out_dim=16: text embeddings have 16 dimensions, image embeddings 96; set "
     "out_dim=96"),
    ("padding outside the vocabulary", train("text.pad_id=2000"),
     "config.text.pad_id=2000: must be below model.text.vocab_size=2000"),
    ("a table smaller than the vocabulary", train("model.text.vocab_size=100"),
     "config.model.text.vocab_size=100: the tokenizer has 2000 pieces; set at least that"),
    ("a batch that devices do not divide", train("data.batch_size=12"),
     "config.data.batch_size=12: 8 devices do not divide it; use 8 or 16"),
    ("microbatches that do not divide", train("train.microbatches=3"),
     "config.data.batch_size=128: 8 devices x 3 microbatches do not divide it; use 120 or 144"),
    ("a mesh of other devices", train("mesh.fsdp=3"),
     "config.mesh.fsdp=3: does not divide 8 devices; use 1, 2, 4, 8"),
    ("a batch of more than there is", train("data.batch_size=8192"),
     "config.data.batch_size=8192: more than the 4604 samples to train on, so that each would be "
     "in every batch as what does not match itself; set it lower"),
    ("a share that holds out none", train("data.holdout=0.00001"),
     "config.data.holdout=1e-05: of 4604 samples 0 would be held out; take another share, or "
     "give config.data.validation"),
    ("an operation that is none", train("data.augment=flip(1)"),
     "config.data.augment='flip': unknown; choose from jitter, randaugment"),
    ("too few numbers for one", train("data.augment=jitter(2)"),
     "config.data.augment='jitter(2)': jitter takes three numbers from 0 to 1 and one from 0 to "
     "0.5; write for example jitter(0.4,0.4,0.4,0.1),randaugment(2,9)"),
    ("one without numbers", train("data.augment=jitter"),
     "config.data.augment='jitter': not understood; write for example "
     "jitter(0.4,0.4,0.4,0.1),randaugment(2,9)"),
    ("embeddings of a tower that learns", train("data.cache_embeddings=True"),
     "config.data.cache_embeddings=True: the image tower learns; freeze it with "
     '--config.optimizer.frozen="((\'img/.*\', 1),)" (configs/finetune.py:lit)'),
    ("a width that OpenCLIP has not", train("export=open_clip"),
     "config.export='open_clip': OpenCLIP builds image towers by timm's names and has none of "
     "width 96, depth 1, patch 10 at 30 pixels; it has B/32 at 256, ...; convert to huggingface "
     "or big_vision instead; or leave it empty"),
    ("a recipe that is not there", train(recipe="configs/gone.py"),
     "--config: No such file or directory: 'configs/gone.py'; give the path of a recipe"),
    ("another field in it", train("seed=3", recipe="configs/gone.py"),
     "--config: No such file or directory: 'configs/gone.py'; give the path of a recipe"),
    ("an item of a field", train("optimizer.frozen[0]=3"),
     "config.optimizer.frozen[0]: unknown field; did you mean 'frozen'?"),
    ("a recipe that is none", train(recipe="notes.txt"),
     "--config: SyntaxError: ... (notes.txt, line 1); repair the recipe"),
    ("a recipe with a mistake", train(recipe="recipes/name.py"),
     "--config: NameError: name 'config' is not defined; repair the recipe"),
    ("a recipe that gives nothing", train(recipe="recipes/dataclass.py"),
     "--config: get_config() gives no ConfigDict; repair the recipe"),
    ("a recipe for eval.py", train(recipe="configs/eval.py"),
     "--config: a recipe of an evaluation, for eval.py; give one of a run"),
    ("a batch size of letters", train(recipe="configs/clip_b16.py:abc"),
     "--config: ValueError: invalid literal for int() with base 10: 'abc'; check the recipe's "
     "argument, or repair the recipe"),
    ("a size that was not released", train(recipe="configs/siglip_b16.py:265"),
     "unknown model 'siglip-b16-265'; did you mean 'siglip-b16-256'?"),
    ("a way to fine-tune that is none", finetune(mode="fast"),
     "configs/finetune.py, the mode='fast': unknown; choose from full, lit, text_locked, head, "
     "lora"),
],
"command line": [
    ("no verb", run(""), "the following arguments are required: VERB; see siglip --help"),
    ("a verb misspelt", run("clasify"),
     "argument VERB: invalid choice: 'clasify' (choose from ...classify...); see siglip --help"),
    ("what is required", run("classify cat.png"),
     "the following arguments are required: --labels, --checkpoint; see siglip classify --help"),
    ("a stack that is none", run("convert a b --to onnx"),
     "argument --to: invalid choice: 'onnx' (choose from ...huggingface...); see siglip convert "
     "--help"),
    ("an option misspelt", run("models --jsno"),
     "unrecognized arguments: --jsno; see siglip --help"),
    ("a recipe's field where none is", run("models --config.seed=1"),
     "unrecognized arguments: --config.seed=1; see siglip --help"),
    ("no label", run("classify cat.png --checkpoint models/whole --labels ,"),
     '--labels: no labels given; write for example --labels "a cat, a dog"'),
    ("a template without a place", classify("--template", "a photo"),
     "--template 'a photo': must contain {} for the label"),
    ("letters for a number", classify("--batch-size", "x"),
     "argument --batch-size: invalid int value: 'x'; see siglip classify --help"),
    ("a batch of none", classify("--batch-size", "0"), "--batch-size 0: must be at least 1"),
    ("pictures smaller than a patch", classify("--image-size", "3"),
     "--image-size 3: must be at least the patch size 7"),
    ("adapters that are not there", classify("--adapters", "gone.safetensors"),
     "gone.safetensors: no such file; check the path"),
    ("adapters that are none",
     classify("--adapters", "models/foreign/model.safetensors"),
     "models/foreign/model.safetensors: not adapters as this project writes them (format None, "
     "rank ''; expected '...'); give another file"),
    ("embeddings as text",
     run("embed pairs --output x.txt --checkpoint models/whole"),
     "--output x.txt: must end in .npy or .parquet"),
    ("embeddings that are there",
     run("embed pairs --output done.npy --checkpoint models/whole"),
     "--output done.npy: done.npy exists already; remove it or give another name"),
    ("embeddings into no folder",
     run("embed pairs --output gone/x.npy --checkpoint models/whole"),
     "--output gone/x.npy: no folder gone; make it first"),
    ("nothing to embed", run("embed blank.txt --output x.npy --checkpoint models/whole"),
     "blank.txt: an empty file; write one text a line"),
    ("texts in Latin-1", run("embed latin.txt --output x.npy --checkpoint models/whole"),
     "latin.txt: not a text file in UTF-8; give a folder of pictures, a source of pairs, or a "
     "text file with one text a line"),
    ("pictures for a text tower",
     run("embed pairs --output x.npy --checkpoint models/whole:txt"),
     "the checkpoint holds no image tower for pictures; give one that does"),
    ("another's unfinished work",
     run("embed pairs --output begun.npy --checkpoint models/whole"),
     "begun.npy.partial: damaged; remove it to begin again"),
    ("a folder that is there", run("convert models/whole pairs --to huggingface"),
     "pairs: exists already; give a new folder, or remove it first"),
    ("adapters of what is no run",
     run("convert models/whole x.safetensors --to adapters"),
     "models/whole: not the workdir of a run, which alone has adapters apart; give one"),
    ("adapters of a run without",
     run("convert run x.safetensors --to adapters"),
     "run: started from config.init=''; adapters apart need one base for both towers; convert "
     "the whole model instead"),
    ("fewer than one sample", run("data inspect pairs --limit -1"),
     "--limit -1: must be at least 1"),
    ("a sheet as JPEG", run("data inspect pairs --sheet x.jpg"), "--sheet x.jpg: must end in .png"),
    ("a sheet into no folder", run("data inspect pairs --sheet gone/x.png"),
     "--sheet gone/x.png: no folder gone; make it first"),
    ("a length without a vocabulary", run("data inspect pairs --length 9"),
     "--length 9: needs --tokenizer; a checkpoint has its own"),
    ("a vocabulary that is not there", run("data inspect pairs --tokenizer gone.model"),
     "--tokenizer gone.model: no such file; check the path"),
    ("two vocabularies", run("data inspect pairs --tokenizer a --checkpoint b"),
     "argument --checkpoint: not allowed with argument --tokenizer; see siglip data inspect "
     "--help"),
    ("texts of an image tower", run("data inspect pairs --checkpoint models/whole:img"),
     "--checkpoint models/whole:img: has no text tower; give another"),
    ("files of nothing", run("data pack pairs x --shard-mb 0"), "--shard-mb 0: must be at least 1"),
    ("packed over pictures", run("data pack pairs bare"),
     ".../bare: is there already, and no packed dataset; give a new folder"),
    ("a split of two words", run("data pack pairs x --split", "1 2"),
     "--split '1 2': give letters, digits and _, beginning with a letter"),
    ("nothing to pack", run("data pack zero.tar x"),
     ".../x: nothing to write, no sample can be used (1 empty file); repair the data"),
    ("packed into a bucket", run("data pack pairs s3://bucket/x"),
     "s3://bucket/x: packing needs a disk; pack there and copy the folder"),
    ("packed below a file", run("data pack pairs cat.png/x"),
     ".../cat.png/x.train.partial: cannot be written (Not a directory); free space, or give "
     "another folder"),
    ("TFRecords checked", run("data pack tfds y --check"),
     "tfds: a TFDS dataset of TFRecord files is copied as it is; leave out --split, --shard-mb "
     "and --check"),
],
"data sources": [
    ("no data", train("data.train="),
     "config.data.train: no data given; set it to pairs in any format (docs/data.md)"),
    ("a folder that is not there", data("piars"),
     "piars: no such file or folder; did you mean 'pairs'?; give a folder, .tar, .csv, .tsv, "
     ".jsonl, .parquet, .array_record or tfds:NAME"),
    ("a file misspelt", data("pair.csv"),
     "pair.csv: no such file; did you mean 'pairs.csv'?; check the path or the range"),
    ("a pattern without a match", data("b-*.tar"),
     "b-*.tar: no file matches b-*.tar; check the path"),
    ("a range beyond the last", data("pairs-{0..3}.tar"),
     "pairs-1.tar: no such file; did you mean 'pairs-0.tar'?; check the path or the range"),
    ("validation that is not there", train("data.validation=gone.csv"),
     "gone.csv: no such file; did you mean 'other.csv'?; check the path or the range"),
    ("a compressed tar", data("pairs.tar.gz"),
     "pairs.tar.gz: a compressed tar has no random access; decompress it to .tar"),
    ("a format that is none", data("notes.txt"),
     "notes.txt: no known format; give a folder, .tar, .csv, .tsv, .jsonl, .parquet, "
     ".array_record or tfds:NAME"),
    ("two formats joined as one", data("pairs-0.tar::pairs.csv"),
     "pairs-0.tar::pairs.csv: .csv, .tar joined by `::`; join different formats by ` + `"),
    ("nothing behind a plus", data("pairs.csv + "),
     "'': no place before the options or beside ` + `; give a path"),
    ("an option misspelt", data("pairs.csv?captoin=text"),
     "pairs.csv?captoin=text: unknown option 'captoin'; did you mean 'caption'?"),
    ("an option twice", data("pairs.csv?caption=a&caption=b"),
     "pairs.csv?caption=b: caption is given twice; join names with a comma"),
    ("an option without a value", data("pairs.csv?caption="),
     "pairs.csv?caption=: no value; write caption=VALUE"),
    ("an option of other formats", data("pairs-0.tar?root=x"),
     "pairs-0.tar?root=: no option of this format, which takes caption, label, template, weight; "
     "remove it"),
    ("a template for no label", data("pairs.csv?template={}"),
     "pairs.csv?template=: nothing to put into it; add label=FIELD"),
    ("a template without a place", data("pairs.csv?label=kind&template=a photo"),
     "pairs.csv?template=a photo: 'a photo' has no {}; write it where the label goes"),
    ("a caption and a label", data("pairs.csv?label=kind&caption=text"),
     "pairs.csv: captions come from caption= or from label=; remove one"),
    ("a label that is not there", data("pairs.csv?label=kind"),
     "pairs.csv?label=kind: no such field; a sample has text"),
    ("two characters to divide at", data("pairs.csv?sep=ab"),
     "pairs.csv?sep=ab: not one character; write it, or one of tab, comma, semicolon, pipe, space"),
    ("a weight of nothing", data("pairs?weight=0"),
     "pairs?weight=0: not a share of draws; write a number above 0"),
    ("one weight for two", data("pairs?weight=1 + pairs.csv"),
     "weight= is given for 1 of 2 parts of a mixture; give it for all of them or for none"),
    ("a store that is none", data("foo://bucket/a.tar"),
     "foo://bucket/a.tar: ...foo...; check the address, or install that"),
    ("a bucket without the file", data("memory://gone/a.tar"),
     "memory://gone/a.tar: no such file; check whether it is still there"),
    ("an empty folder", data("empty"),
     "empty: an empty folder: no pictures, shards or metadata; check the path"),
    ("a folder of something else", data("recipes"),
     "recipes: found 2 .py, but no pictures, shards or metadata; check the path"),
    ("pictures without captions", data("bare"),
     "bare: 2 pictures without captions; write NAME.txt beside NAME.jpg, or metadata.jsonl with "
     "file_name and text, or set ?label=folder where folders are classes"),
    ("a table alone in a folder", data("table"),
     "table: found 1 .csv, but no pictures, shards or metadata; check the path; or open "
     "pairs.csv itself"),
    ("a table of a part of a folder", data("outer"),
     "outer: in/metadata.csv describes in alone, and b.png lies outside; give outer/in, or move "
     "metadata.csv away"),
    ("a path out of the folder", data("escape"),
     "escape/metadata.csv: row 1: its path ../cat.png leaves the folder; write it relative to "
     "the folder"),
    ("a column that is not there", data("pairs.csv?caption=txt"),
     "pairs.csv?caption=txt: no such column; it has file_name, text"),
    ("columns of other names", data("other.csv"),
     "other.csv: no column for the image (file_name, filepath, image_path, image, path, img, "
     "filename); it has url, alt: choose with ?image=NAME"),
    ("pictures elsewhere", data("far.csv"),
     "far.csv: no picture gone.png, nor in 1 rows looked at; relative paths start from the "
     "table's folder, or from ?root=FOLDER"),
    ("a column twice", data("twice.csv"), "twice.csv: two columns are named 'text'; rename one"),
    ("a header alone", data("header.csv"), "header.csv: no rows; give it some"),
    ("JSON that ends early", data("bad.jsonl"),
     "bad.jsonl: not a table that can be read (JSON parse error: ...); repair it"),
    ("addresses for paths", data("web.csv"),
     "web.csv: row 1: its path https://example.org/cat.png is an address, and its root is not of "
     "that kind; fetch the pictures, or allow it with ?root=https://PLACE"),
    ("a tar without captions", data("silent.tar"),
     "silent.tar: no samples: the shards hold 1 pictures and no text <key>.json or <key>.txt; "
     "add texts, or make captions from a label with ?label=FIELD"),
    ("a tar without pictures", data("texts.tar"),
     "texts.tar: no samples: the shards hold no pictures (jpg, jpeg, png, webp, gif, bmp, tif, "
     "tiff); give others"),
    ("a tar cut short", data("cut.tar"),
     "cut.tar: not a whole tar file (truncated header); fetch it again"),
    ("a field that its JSON has not", data("json.tar?caption=txet"),
     "json.tar: a: its JSON has no field txet; set caption= to some of alt"),
    ("numbers for pictures", data("numbers.parquet"),
     "numbers.parquet: column 'image' is int64, not a picture; name another, image="),
    ("parquet without captions", data("jpg.parquet"),
     "jpg.parquet: no column for the caption (text, caption, captions, title, description); it "
     "has jpg, txt: choose with ?caption=NAME"),
    ("parquet without rows", data("norows.parquet"),
     "norows.parquet: no rows in these files; check what wrote them"),
    ("parquet cut short", data("cut.parquet"),
     "cut.parquet: damaged, or not parquet (...); fetch it again"),
    ("ArrayRecord cut short", data("cut.array_record"),
     "cut.array_record: not a whole ArrayRecord file (...); fetch the file again"),
    ("a data set that is not prepared", data("tfds:cifar10"),
     "tfds:cifar10: no folder gone/tfds/cifar10; set TFDS_DATA_DIR to where datasets lie, or "
     "prepare it (needs tensorflow): tfds build cifar10 --file_format=array_record"),
],
"pictures": [
    ("a text file", picture("notes.txt"),
     "notes.txt: not a readable image (not an image: not of a known format); replace or remove it"),
    ("not there", picture("gone.png"), "gone.png: No such file or directory; check the path"),
    ("a folder", picture("pairs"), "pairs: Is a directory; check the path"),
    ("of no byte", picture("zero.png"),
     "zero.png: not a readable image (empty file: 0 bytes); replace or remove it"),
    ("cut short", picture("cut.jpg"),
     "cut.jpg: not a readable image (truncated image: ...); replace or remove it"),
    ("a name of two lines", picture("a\nb.png"),
     "a\\nb.png: No such file or directory; check the path"),
    ("channels first", picture(np.zeros((3, 8, 8), np.float32)),
     "a picture as an array of float32 (3, 8, 8); give uint8 (h, w, 3) from 0 to 255, channels "
     "last"),
    ("a bomb", lambda: decode.decode(picture_bytes(), "cat.png", max_pixels=10),
     "cat.png: not a readable image (too many pixels: 8 x 6, 10 are allowed); replace or remove "
     "it"),
    ("of no byte in a tar", sample("zero.tar"),
     "zero.tar: a: its picture has no bytes; replace or remove it"),
    ("for a text tower", lambda: siglip.load("models/whole:txt").encode_image("cat.png"),
     "the model holds no image tower; load a checkpoint of both towers"),
],
"texts": [
    ("in Latin-1", sample("latin.tar"), "latin.tar: a: its caption is not UTF-8; write it again"),
    ("of spaces", sample("blank.tar"), "blank.tar: a: has no caption; give it one or remove it"),
    ("in broken JSON", sample("json2.tar"),
     "json2.tar: a: its JSON: Unterminated string ...; repair the shard"),
    ("no vocabulary", train("text.tokenizer="),
     "config.text.tokenizer='': no such file; give the path of a SentencePiece model or a "
     "tokenizer.json"),
    ("a vocabulary that is not there", train("text.tokenizer=gone.model"),
     "config.text.tokenizer='gone.model': no such file; give the path of a SentencePiece model "
     "or a tokenizer.json"),
    ("a vocabulary that is a folder", train("text.tokenizer=empty"),
     "config.text.tokenizer='empty': no such file; give the path of a SentencePiece model or a "
     "tokenizer.json"),
    ("a vocabulary that is none", train("text.tokenizer=notes.txt"),
     "config.text.tokenizer='notes.txt': neither a SentencePiece model nor a tokenizer.json; "
     "fetch it again"),
    ("a tokenizer.json that is none", train("text.tokenizer=broken.json"),
     "config.text.tokenizer='broken.json': not a tokenizer.json of the tokenizers library (...); "
     "fetch it again"),
    ("a tokenizer.json without an end", train("text.tokenizer=endless.json"),
     "config.text.tokenizer='endless.json': has no end-of-sentence token (</s> or <eos>); give "
     "the vocabulary of a SigLIP"),
    ("a vocabulary of another model", classify("--tokenizer", str(EMOJI)),
     ".../examples/emoji/sentencepiece.model: has 2000 pieces, the embedding table 60 rows; use "
     "the vocabulary that the checkpoint was trained with"),
    ("a folder without a vocabulary", classify("--tokenizer", "empty"),
     "empty: holds no vocabulary; give its SentencePiece model or tokenizer.json with "
     "--tokenizer (tokenizer=)"),
    ("a vocabulary misspelt", classify("--tokenizer", "gone.model"),
     "gone.model: no such vocabulary file or folder; check the path"),
    ("a model without a vocabulary", run("data inspect pairs --checkpoint models/whole"),
     "models/whole: has no vocabulary; give its SentencePiece model or tokenizer.json with "
     "--tokenizer (tokenizer=)"),
    ("for an image tower", lambda: siglip.load("models/whole:img").encode_text("a cat"),
     "the model holds no text tower; load a checkpoint of both towers"),
    ("no label", lambda: siglip.load("models/whole").classify("cat.png", []),
     "no labels given; write for example labels=['a cat', 'a dog']"),
],
"models": [
    ("a name without an end", load("x" * 300),
     "x...x: no such file or folder, and no released model; `siglip models` lists the names"),
    ("nobody's home", load("~nobody-of-that-name/x"),
     "~nobody-of-that-name/x: no such file or folder, and no released model; `siglip models` lists "
     "the names"),
    ("no name", load(""), "the checkpoint's name is empty; `siglip models` lists names"),
    ("not there", load("gone"),
     "gone: no such file or folder, and no released model; `siglip models` lists the names"),
    ("a released name misspelt", load("siglip-b16-265"),
     "siglip-b16-265: no such file or folder, and no released model; did you mean "
     "'siglip-b16-256'?"),
    ("patches of any number", load("google/siglip2-base-patch16-naflex"),
     "google/siglip2-base-patch16-naflex: a NaFlex checkpoint (variable resolution), which is "
     "not supported yet; use one of a fixed resolution, `siglip models` lists them"),
    ("an empty folder", load("empty"),
     "empty: no model in this folder (no checkpoints/ of a run, no *.safetensors, no *.npz); "
     "check the path"),
    ("a folder by its prefix", load("local-dir:gone"),
     "gone: no such folder; check the path after local-dir:"),
    ("a picture", load("cat.png"), "cat.png: damaged or cut short (...); fetch it again"),
    ("a pickle", load("models/pickle"),
     "models/pickle/pytorch_model.bin: a pickle, which can run any code when it is opened, is "
     "not read; use the same checkpoint's .safetensors file, or convert it where you trust it: "
     "..."),
    ("Python objects", load("models/objects.npz"),
     "models/objects.npz: a.npy holds Python objects, which are pickles and are not read; save "
     "arrays only"),
    ("cut short", load("models/cut"),
     "models/cut/model.safetensors: damaged or cut short (...); fetch it again"),
    ("two files", load("models/two"),
     "models/two: holds 2 weight files (a.npz, b.npz, ...); give the path of one"),
    ("shards that are missing", load("models/sharded"),
     "models/sharded/model.safetensors.index.json: names 1 files of which 1 are missing "
     "(1.safetensors); fetch them too"),
    ("another architecture", load("models/foreign"),
     "models/foreign/model.safetensors: not a SigLIP of big_vision, transformers, OpenCLIP or "
     "timm; its arrays are layer.weight, ...: give another"),
    ("a tensor that is missing", load("models/lacking"),
     "models/lacking/model.safetensors: its arrays are not those of this SigLIP: 1 missing "
     "(text_model.encoder.layers.0.mlp.fc1.bias); fetch it again, or check what it is"),
    ("a tower that is not there", load("models/vision:txt"),
     "models/vision/model.safetensors: has no txt tower; leave out :txt"),
    ("another's configuration", load("models/width"),
     "models/width/model.safetensors: its configuration says hidden_size=32, its arrays 24; use "
     "the configuration that belongs to these weights"),
    ("another activation", load("models/relu"),
     "models/relu/model.safetensors: hidden_act='relu' is not an activation of SigLIP's; it must "
     "be one of gelu_pytorch_tanh, gelu_new, gelu"),
    ("another epsilon", load("models/epsilon"),
     "models/epsilon/model.safetensors: layer_norm_eps=1e-05 must be 1e-6, SigLIP's"),
    ("another size of pictures", load("models/size"),
     "models/size/model.safetensors: its configuration says image_size=64, which is 9x9 patches "
     "of 7; its arrays have 4x4: use the configuration that belongs to these weights"),
    ("heads that do not divide", load("models/heads"),
     "models/heads/model.safetensors: 5 attention heads do not divide width 24; use the "
     "configuration that belongs to these weights"),
    ("a configuration of nonsense", load("models/strange"),
     "models/strange: its arrays or the configuration files beside the weights make no sense "
     "(...); fetch them again"),
    ("a configuration cut short", load("models/json"),
     "models/json/preprocessor_config.json: not JSON (...); fetch it again"),
    ("another's preprocessing", load("models/pixels"),
     "models/pixels/model.safetensors: its preprocessing makes 224 pixels, its positions are for "
     "31; use the files of one checkpoint"),
    ("another crop", load("models/crop"),
     "models/crop/model.safetensors: its preprocessing asks for size={'shortest_edge': 31}, "
     "do_center_crop=False; SigLIP's squashes to a square: write a height and a width into its "
     "size, and do_center_crop=false"),
    ("another filter", load("models/filter"),
     "models/filter/model.safetensors: its preprocessing asks for resample=0; write 2 (bilinear) "
     "or 3 (bicubic), SigLIP's"),
    ("a mean for each channel", load("models/mean"),
     "models/mean/model.safetensors: its preprocessing has mean=[0.4, 0.5, 0.6], one value for "
     "each channel; write the same for all, SigLIP's is 0.5"),
    ("a resize that is not known", load("models/longest"),
     "models/longest/open_clip_model.safetensors: its preprocessing asks for "
     "resize_mode='longest', interpolation='bicubic'; write 'squash' or 'shortest', and "
     "'bicubic' or 'bilinear'"),
    ("a profile that is none", load("models/whole", profile="clip"),
     "profile='clip': unknown; did you mean 'open_clip'?"),
    ("a type that is none", load("models/whole", dtype="float16"),
     "dtype='float16': unknown; did you mean 'bfloat16'?"),
    ("devices that are not there", load("models/whole", fsdp=3),
     "fsdp=3: does not divide 1 devices; use 1"),
],
"hub and buckets": [
    ("out of reach", load("google/siglip-base-patch16-256"),
     "google/siglip-base-patch16-256: not in the hub's cache on this machine, and the hub is out "
     "of reach or HF_HUB_OFFLINE is set; run `hf download google/siglip-base-patch16-256` with a "
     "network, or give a folder"),
    ("a repository that is none", load("a/b/c"),
     "a/b/c: no such file or folder, and no released model; `siglip models` lists the names"),
    ("a store that is none", load("foo://bucket/model"),
     "foo://bucket/model: could not be fetched (...foo...); check the address, or fetch the file "
     "by hand and give its path"),
    ("an address with dots", load("gs://bucket/../model.npz"),
     "gs://bucket/../model.npz: an address with `..` in it; write where it leads"),
    ("a run in a store that is none", train(workdir="foo://bucket/run"),
     "foo://bucket/run: what belongs to a run lies in a folder or at gs://, the one store that "
     "Orbax saves to; mount this one and give the folder"),
],
"training and resuming": [
    ("another configuration", train("data.batch_size=64", workdir="run"),
     "run: holds a checkpoint of another configuration (data.batch_size: 128 -> 64); use a new "
     "--workdir, the values it was started with, or --force to go on all the same"),
    ("other data", train(workdir="run"),
     "run: the data changed since its checkpoint was saved; restore it, use a new --workdir, or "
     "--force to go on all the same"),
    ("all checkpoints damaged", train(workdir="damaged"),
     ".../damaged/checkpoints/2: damaged (run.json: has 1 of ... bytes), and all before it (1); "
     "restore the folder from a copy, or use a new --workdir"),
    ("parameters alone", train(workdir="exported"),
     "exported: holds parameters only, which cannot be continued; start from them in a new "
     "--workdir with --config.init=exported"),
    ("a file for a folder", train(workdir="cat.png"),
     "cat.png/unusable.jsonl: Not a directory; check the path, its rights, the space that is left"),
    ("nothing to start from", finetune(),
     "config.init: this recipe starts from something trained; give a released model, a file or a "
     "run: --config.init=NAME"),
    ("a start that is not there", finetune("init=gone"),
     "gone: no such file or folder, and no released model; `siglip models` lists the names"),
    ("one tower to start from", finetune("init=models/whole:img"),
     "config.init='models/whole:img': this recipe takes architecture and preprocessing from one "
     "checkpoint of both towers; give --config.init=NAME"),
    ("a tower twice", finetune("init=a:img, b:img"),
     "config.init='a:img, b:img': gives a tower twice; write NAME for both, or A:img, B:txt"),
    ("a start of another size",
     train("init=models/whole"),
     "config.init='models/whole': its image.width is 24, model.image.width=96; make them equal"),
    ("no vocabulary to fine-tune with", finetune("init=models/whole"),
     "models/whole: has no vocabulary; give its SentencePiece model or tokenizer.json with "
     "--tokenizer (tokenizer=)"),
],
"several hosts": [
    ("an address alone", group(COORDINATOR_ADDRESS="a:1"),
     "JAX_COORDINATOR_ADDRESS is set and JAX_NUM_PROCESSES is not; set both"),
    ("letters for a number",
     group(COORDINATOR_ADDRESS="a:1", NUM_PROCESSES="two", PROCESS_ID="0"),
     "JAX_NUM_PROCESSES='two': must be a whole number"),
    ("one too many", group(COORDINATOR_ADDRESS="a:1", NUM_PROCESSES="2", PROCESS_ID="2"),
     "JAX_PROCESS_ID=2: must be below JAX_NUM_PROCESSES=2"),
    ("no port", group(COORDINATOR_ADDRESS="a", NUM_PROCESSES="2", PROCESS_ID="1"),
     "JAX_COORDINATOR_ADDRESS='a': must be host:port"),
],
"checkpoints": [
    ("a run that is not there", run("checkpoint ls gone"), "gone: no such folder; check the path"),
    ("a folder that is no run", run("checkpoint ls empty"),
     "empty: no checkpoints in this folder; give the workdir of a training run"),
    ("a run that saved nothing", run("checkpoint ls young"),
     "young: holds no finished checkpoint yet; train longer"),
    ("a list of one", run("checkpoint ls run@1"), "run@1: ls lists all checkpoints; leave out @1"),
    ("nothing to verify", run("checkpoint verify young"),
     "young: holds no finished checkpoint yet; train longer"),
    ("a step that is not there", run("checkpoint export run@7 x"),
     "run@7: no such checkpoint; it has 1, 2"),
    ("best of no evaluation", load("run@best"), "run@best: no such checkpoint; it has 1, 2"),
    ("a damaged step", run("checkpoint export half@2 x"),
     "half@2: damaged (run.json: has 1 of ... bytes); use another of its checkpoints: 1"),
    ("all damaged", run("checkpoint export damaged x"),
     ".../damaged/checkpoints/2: damaged (run.json: has 1 of ... bytes), and all before it (1); "
     "restore the folder from a copy, or use a new --workdir"),
    ("an average that was not kept", run("checkpoint export run x --item ema"),
     "--item ema: step 2 of run has only params; leave out --item"),
    ("into a folder that is there", run("checkpoint export run pairs"),
     "pairs: exists already; give a new folder, or remove it first"),
],
"evaluation": [
    ("no task", evaluate(""),
     "--task: not given; set it, see docs/evaluation.md"),
    ("a task misspelt", evaluate("imagenett", "classes"),
     "task imagenett: unknown; did you mean 'imagenet'?; for one of your own add "
     "?kind=classification or ?kind=retrieval"),
    ("an own task without a kind", evaluate("mine", "classes"),
     "task mine: unknown; choose from imagenet, imagenet_v2, ...; for one of your own add "
     "?kind=classification or ?kind=retrieval"),
    ("a kind misspelt", evaluate("mine=classes?kind=clasification"),
     "kind='clasification': unknown; did you mean 'classification'?"),
    ("a known task with a kind", evaluate("pets=classes?kind=classification"),
     "task pets: known, so that kind=classification is not for it; remove that"),
    ("a task twice", evaluate(f"{OWN},{OWN}"),
     "--task: mine is given twice; give it once, or another name"),
    ("no data of a known task", evaluate("imagenet"),
     "task imagenet: no data given, and none is downloaded; fetch ILSVRC2012_img_val.tar "
     "(image-net.org/download-images, with an account) and give it, or give a folder with "
     "val/n01440764/*.JPEG; or tfds:imagenet2012, after tfds build imagenet2012 "
     "--file_format=array_record"),
    ("no data of an own task", evaluate("mine=?kind=retrieval"),
     "task mine: no data given; give a place of docs/data.md"),
    ("data that is not there", own("", "gone"),
     "gone: no such file or folder; give a folder, .tar, .csv, .tsv, .jsonl, .parquet, "
     ".array_record or tfds:NAME"),
    ("an empty folder", own("", "empty"),
     "empty: an empty folder: no pictures, shards or metadata; check the path"),
    ("an empty split", evaluate("imagenet=trained"),
     "trained: its pictures are of other splits, such as train/a.png; give those of validation"),
    ("one place for two", evaluate("pets,coco", "bare"),
     "--data bare: a place for several tasks; write {} in it where the name of each goes, or "
     "NAME=PLACE for each task"),
    ("not in TFDS", evaluate("objectnet", "tfds"),
     "--task: objectnet is not in TensorFlow Datasets; write objectnet=PLACE, see "
     "docs/evaluation.md"),
    ("in TFDS, not prepared", evaluate("imagenet", "tfds"),
     "tfds:imagenet2012: no folder gone/tfds/imagenet2012; set TFDS_DATA_DIR to where datasets "
     "lie, or prepare it (needs tensorflow): tfds build imagenet2012 --file_format=array_record"),
    ("a compressed archive", evaluate("imagenet_a=pairs.tar.gz"),
     "pairs.tar.gz: a compressed tar has no random access; unpack it (tar xf), give the folder"),
    ("a zip that is none", evaluate("eurosat=notes.zip"),
     "notes.zip: not a whole zip file (...); fetch it again"),
    ("folders of few classes", evaluate("imagenet=few"),
     "few: 1 of 1000 classes of ImageNet-1k have a folder; none is n01443537, n01484850, "
     "n01491361 ...; 1 are no class, such as 'n0144'; the nearest is 'n04251144'; rename or "
     "remove folders"),
    ("a folder misspelt", evaluate("cifar10=cifar"),
     "cifar: 1 of 10 classes of CIFAR-10 have a folder; none is airplane, automobile, bird ...; "
     "1 are no class, such as 'airplanes'; the nearest is 'airplane'; rename or remove folders"),
    ("pickles of CIFAR", evaluate("cifar10=pickled"),
     "pickled: holds Python pickles, which run code when they are read; give a folder with "
     "test/airplane/*.png and the others; or tfds:cifar10, after tfds build cifar10 "
     "--file_format=array_record"),
    ("pictures that are missing", evaluate("pets=pets"),
     "pets: 1 of 2 pictures of its list are not there, such as images/Bengal_2.jpg; unpack the "
     "archive again"),
    ("no real.json", evaluate("imagenet_real=bare"),
     "bare: no real.json there; fetch real.json (github.com/google-research/reassessed-imagenet) "
     "and give labels=real.json with ImageNet's validation pictures, or put it into their "
     "folder; or tfds:imagenet2012_real, after tfds build imagenet2012_real "
     "--file_format=array_record"),
    ("names that are not there", own("&names=nams.txt"),
     "names=nams.txt: no such file; did you mean 'names.txt'?; check the path"),
    ("a name twice", own("&names=twice.txt"),
     "names=twice.txt: 'cat' stands there twice; a class has one line"),
    ("no names", own("&names=blank.txt"), "names=blank.txt: no class; write one a line"),
    ("names of other classes", own("&names=names.txt"),
     "classes: 1 of 2 labels are none of the 2 names, such as 'dog'; those are 'cat', 'bird'"),
    ("labels that are no table", own("&labels=notes.txt", "bare"),
     "labels=notes.txt: not a table; give one of .csv, .tsv, .jsonl, .parquet"),
    ("labels of other pictures", own("&labels=strangers.csv", "bare"),
     "strangers.csv: none of its 1 keys is one of the 2 pictures; it has zz, and the pictures a, "
     "b: make them equal"),
    ("labels outside the names", own("&labels=beyond.csv&names=names.txt", "bare"),
     "beyond.csv: 1 of 2 labels are none of the 2 names, such as '7'; those are 'cat', 'bird'"),
    ("numbers without names", own("&labels=numbers.csv", "bare"),
     "numbers.csv: labels are numbers, such as 1; give names=FILE, a class a line, the first of "
     "which is 0"),
    ("a field that is not there", own("&label=kind", "pairs.csv"),
     "pairs.csv?label=kind: no sample has a field 'kind'; a sample has text: choose with label="),
    ("names for retrieval", evaluate("mine=pairs?kind=retrieval&names=names.txt"),
     "task mine: retrieval has captions and no labels; remove those options"),
    ("captions of missing pictures", evaluate("coco=coco"),
     "coco: 1 of the 1 pictures with captions are not there, such as a.jpg; put them into that "
     "folder or below"),
    ("captions that make no sense", evaluate("coco=coco2"),
     "coco2: the file of its captions cannot be read (TypeError ...); fetch it again"),
    ("captions of another number", evaluate("xtd10=xtd10?language=de"),
     "xtd10: the file of its captions cannot be read (ValueError 2 pictures and 1 captions); "
     "fetch it again"),
    ("another language", evaluate("coco=coco?language=de"),
     "language=de: dataset_coco.json is English; for others xm3600 or xtd10"),
    ("a language that is not there", evaluate("xm3600=xm3600?language=fr"),
     "language=fr: not in it; choose from de, en"),
    ("a protocol misspelt", evaluate("pets=pets", "", "--protocol", "openclip"),
     "--protocol 'openclip': neither a protocol nor a file of prompts; did you mean 'open_clip'?"),
    ("no protocol", evaluate("pets=pets", "", "--protocol", ","),
     "--protocol: none given; choose from big_vision, open_clip, best7, name_only"),
    ("a prompt without a place", evaluate("pets=pets", "", "--protocol", "notes.txt"),
     "notes.txt: line 1 is 'a photo'; put {} where the name goes, once"),
    ("no prompt", evaluate("pets=pets", "", "--protocol", "blank.txt"),
     "blank.txt: has no prompt; write one a line, {} for the class name"),
    ("prompts in Latin-1", evaluate("pets=pets", "", "--protocol", "latin.txt"),
     "latin.txt: not UTF-8 ('utf-8' codec can't decode byte 0xe9 ...); write it again as text"),
    ("a model that is not there", run(f"eval gone --task {OWN}"),
     "gone: no such file or folder, and no released model; `siglip models` lists the names"),
    ("one tower", run(f"eval models/whole:img --task {OWN}"),
     "models/whole:img: a checkpoint of one tower; an evaluation needs both"),
    ("no vocabulary", own(""),
     "models/whole: has no vocabulary; give its SentencePiece model or tokenizer.json with "
     "--tokenizer (tokenizer=)"),
    ("devices that do not divide", evaluate(OWN, "", "--fsdp", "3"),
     "--fsdp 3: does not divide 8 devices; use 1, 2, 4, 8"),
    ("none of them", evaluate(OWN, "", "--fsdp", "0"), "--fsdp 0: must be at least 1"),
    ("results into a file", evaluate(OWN, "", "--output", "cat.png"),
     "cat.png: Not a directory; check the path, its rights, the space that is left"),
    ("another argument", run("eval models/whole imagenet"),
     "siglip eval: unexpected argument 'imagenet'; see --help"),
    ("a report of nothing", run("eval report"),
     "siglip eval report: no folder given; give folders of results"),
    ("a report of what is not there", run("eval report gone"),
     "gone: No such file or directory; check the path, its rights, the space that is left"),
    ("a report of no results", run("eval report empty"),
     "empty: no results in it; give a folder that an evaluation wrote to"),
    ("a result cut short", run("eval report cut.json"),
     "cut.json: no JSON; evaluate again, or leave the file out"),
    ("a result of something else", run("eval report broken.json"),
     "broken.json: no result of an evaluation; give files that have dataset, model, pretrained, "
     "task, metrics"),
    ("a result of words", run("eval report words.json"),
     "words.json: metrics.acc1='high': not a number; evaluate again, or leave the file out"),
],
"plan": [
    ("no recipe", run("plan --topology v5e:2x2 --config gone.py"),
     "--config: No such file or directory: 'gone.py'; give the path of a recipe"),
    ("fewer than one slice", run(f"{PLAN} v5e:2x2 --slices 0"), "--slices 0: must be at least 1"),
],
"plan, with the compiler": [
    ("a shape that is none", run(f"{PLAN} v5e:3x3"),
     "topology 'v5e:3x3': there is none; use one of v5e: 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, "
     "16x16"),
    ("a batch that chips do not divide", run(f"{PLAN} v5e:2x2 --config.data.batch_size=7"),
     "config.data.batch_size=7: 4 devices do not divide it; use 4 or 8"),
    ("epochs of unknown data", run(f"{PLAN} v5e:2x2 --config.train.duration", "3 epochs"),
     "config.train.duration='3 epochs': the size of the training set is not known here; write it "
     "in steps or examples"),
],
"examples": [
    ("an archive that was changed", photos,
     "spoilt/...: its sha256 is e3b0c4..., not ...; remove it and try again"),
],
}
# fmt: on

ROWS = [
    pytest.param(
        action,
        says,
        id=f"{room}: {mistake}",
        marks=[pytest.mark.tpu_compiler] if "compiler" in room else [],
    )
    for room, rows in TABLE.items()
    for mistake, action, says in rows
]


@pytest.mark.parametrize("action,says", ROWS)
def test_the_line_that_a_user_sees(action, says, world, compilations, capsys):
    before = _snapshot(world)
    with pytest.raises(SystemExit) as stop, entry.user_errors():
        action()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    pattern = re.escape(says).replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, err[len("error: ") : -1]), err
    assert _snapshot(world) == before, "a file was made, changed or lost"
    assert not compilations


@pytest.mark.parametrize(
    "command,says",
    [
        ("train.py --config configs/quickstart.py --workdir new --config.trian.steps=3",
         "config.trian: unknown field; did you mean 'train'?"),
        ("train.py --config configs/quickstart.py", "--workdir: not given; see --help"),
        ("train.py --config configs/quickstart.py --wrokdir=x",
         "Unknown command line flag 'wrokdir'. Did you mean: workdir ?; see --help"),
        ("train.py --config configs/quickstart.py --workdir new oops",
         "unexpected argument 'oops'; options start with --"),
        ("eval.py --config configs/quickstart.py",
         "--config: a recipe of a run, for train.py; give configs/eval.py"),
        ("-m siglip convert models/cut converted --to huggingface",
         "models/cut/model.safetensors: damaged or cut short (...); fetch it again"),
    ],
)  # fmt: skip
def test_the_line_of_a_process(command, says, world):
    program, *rest = command.split()
    program = str(ROOT / program) if program.endswith(".py") else program
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = _snapshot(world)
    done = subprocess.run(
        [sys.executable, program, *rest], cwd=world, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "", done.stderr
    pattern = re.escape(f"error: {says}\n").replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, done.stderr), done.stderr
    assert _snapshot(world) == before


# Behind a semicolon, or as what has to be; or something that is put in says it.
REMEDY = re.compile(
    r"; |\bmust |\bgive |pip install |{rule}"
    r"|did_you_mean|near|remedy|_advice|_why_empty|suggestion|broken"
)


def test_every_message_is_one_line_with_a_remedy():
    """Also those that no row above comes by."""
    messages = list(_messages())
    assert len(messages) > 300, "they are not found any more"
    assert [where for where, text in messages if "\n" in text] == []
    assert [(where, text) for where, text in messages if not REMEDY.search(text)] == []


def _messages() -> Iterator[tuple[str, str]]:
    """Where a `UserError` or a `BadSample` is made, and its message as far as it is written there:
    of what is put into it, the code."""
    for path in sorted((ROOT / "siglip").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name, args = ast.unparse(call.func).rpartition(".")[2], list(map(_text, call.args))
            if name == "UserError":
                text = args[0]
            elif name == "BadSample":  # has a remedy of its own where none is given
                text = "; ".join([*args[1:], "replace or remove it"][:3])
            elif name == "require":  # of siglip/config/rules.py
                text = args[2]
            else:
                continue
            yield f"{path.relative_to(ROOT)}:{call.lineno}", text


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    value = node.value if isinstance(node, ast.FormattedValue) else node
    return "{" + ast.unparse(value) + "}"


# The folder in which all this happens.


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """What a user may have lying about."""
    folder = tmp_path_factory.mktemp("world")
    with contextlib.chdir(folder):
        for name in ("configs", "examples"):
            os.symlink(ROOT / name, name)
        _make_pictures()
        _make_tables()
        _make_shards()
        _make_tasks()
        _make_models()
        _make_runs()
    return folder


@pytest.fixture
def world(folder, monkeypatch) -> pathlib.Path:
    """It is the current folder; no hub, no cache, no prepared data."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "gone/hub")
    monkeypatch.setenv("XDG_CACHE_HOME", "gone/cache")
    monkeypatch.setenv("TFDS_DATA_DIR", "gone/tfds")
    monkeypatch.delenv(places.WEIGHTS, raising=False)
    return folder


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """What XLA compiles meanwhile."""
    found: list[str] = []

    def listen(event: str, seconds: float, **_) -> None:
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def _snapshot(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Files and folders, without the indexes that are kept beside tar shards; of files also size
    and time."""
    found = {}
    for parent, folders, names in os.walk(folder):
        found |= {os.path.join(parent, name): (0, 0) for name in folders}
        for name in names:
            if not name.endswith(".index.npz"):
                status = os.lstat(path := os.path.join(parent, name))
                found[path] = status.st_size, status.st_mtime_ns
    return found


def _put(path: str, content: object = b"") -> None:
    """A file; of what is neither bytes nor text, its JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    pathlib.Path(path).write_bytes(content)


def _make_pictures() -> None:
    red = picture_bytes()
    _put("cat.png", red)
    _put("zero.png")
    _put("cut.jpg", picture_bytes(form="jpeg", size=(64, 64))[:500])
    for path in ("bare/a.png", "bare/b.png", "pairs/a.png", "outer/b.png", "outer/in/a.png",
                 "escape/a.png", "trained/train/a.png", "few/val/n01440764/a.png",
                 "few/val/n0144/a.png", "classes/cat/a.png", "classes/dog/a.png",
                 "cifar/test/airplanes/a.png", "cifar/test/cat/a.png", "pets/images/Bombay_1.jpg",
                 "coco/b.png", "coco2/b.png", "xm3600/a.png", "xtd10/a.png",
                 "xtd10/b.png"):  # fmt: skip
        _put(path, red)
    _put("pairs/a.txt", "a cat")
    os.mkdir("empty")


def _make_tables() -> None:
    _put("notes.txt", "a photo")
    _put("blank.txt", "\n")
    _put("latin.txt", "café {}".encode("latin-1"))
    _put("pairs.csv", "file_name,text\ncat.png,a cat\n")
    _put("table/pairs.csv", "file_name,text\n")
    _put("outer/in/metadata.csv", "file_name,text\na.png,a cat\n")
    _put("escape/metadata.csv", "file_name,text\n../cat.png,a cat\n")
    _put("other.csv", "url,alt\ncat.png,a cat\n")
    _put("far.csv", "file_name,text\ngone.png,a cat\n")
    _put("twice.csv", "file_name,text,text\ncat.png,a cat,a dog\n")
    _put("header.csv", "file_name,text\n")
    _put("web.csv", "file_name,text\nhttps://example.org/cat.png,a cat\n")
    _put("bad.jsonl", '{"file_name": "cat.png"\n')
    _put("recipes/name.py", "def get_config():\n    return config\n")
    _put("recipes/dataclass.py", "from siglip.config import Data as get_config\n")
    write = pyarrow.parquet.write_table
    write(pa.table({"image": [1, 2], "text": ["a", "b"]}), "numbers.parquet")
    write(pa.table({"jpg": [picture_bytes()], "txt": ["a cat"]}), "jpg.parquet")
    write(pa.table({"image": pa.array([], pa.binary()), "text": [""][:0]}), "norows.parquet")
    _put("cut.parquet", b"PAR1")
    _put("done.npy")
    _put("begun.npy.partial/state.json", "{")


def _make_shards() -> None:
    red = picture_bytes()
    write_tar("pairs-0.tar", [("a.png", red), ("a.txt", b"a cat")])
    write_tar("json.tar", [("a.png", red), ("a.json", b'{"alt": "a cat"}')])
    write_tar("json2.tar", [("a.png", red), ("a.json", b'{"caption')])
    write_tar("latin.tar", [("a.png", red), ("a.txt", "café".encode("latin-1"))])
    write_tar("blank.tar", [("a.png", red), ("a.txt", b" ")])
    write_tar("zero.tar", [("a.png", b""), ("a.txt", b"a cat")])
    write_tar("silent.tar", [("a.png", red)])
    write_tar("texts.tar", [("a.txt", b"a cat")])
    _put("cut.tar", pathlib.Path("pairs-0.tar").read_bytes()[:300])
    _put("cut.array_record", bytes(100))
    for name in ("pairs.tar.gz", "notes.zip"):
        _put(name, b"not whole")
    _put("tfds/dataset_info.json", {"name": "x", "fileFormat": "tfrecord"})


def _make_tasks() -> None:
    _put("names.txt", "cat\nbird\n")
    _put("twice.txt", "cat\ncat\n")
    _put("strangers.csv", "key,label\nzz,cat\n")
    _put("beyond.csv", "key,label\na,7\nb,cat\n")
    _put("numbers.csv", "key,label\na,1\n")
    _put("pickled/test_batch")
    _put("pets/annotations/test.txt", "Bombay_1 1 1 1\nBengal_2 2 2 2\n")
    image = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a cat"}]}
    _put("coco/dataset_coco.json", {"images": [image]})
    _put("coco2/dataset_coco.json", [])
    texts = {"image/key": "a", "en": {"caption": ["a cat"]}, "de": {"caption": ["Katze"]}}
    _put("xm3600/captions.jsonl", texts)
    _put("xtd10/test_image_names.txt", "a.png\nb.png\n")
    _put("xtd10/test_1kcaptions_de.txt", "eine Katze\n")
    _put("cut.json", "{")
    _put("broken.json", {})
    result = {"dataset": "pets", "model": "a", "pretrained": "b", "metrics": {"acc1": "high"}}
    _put("words.json", {**result, "task": "zeroshot_classification"})
    _put(f"spoilt/{fetch().ARCHIVE}")


def _make_models() -> None:
    whole = FOLDER / "huggingface"
    shutil.copytree(whole, "models/whole")
    shutil.copytree(FOLDER / "huggingface_vision", "models/vision")

    def changed(name: str, section: str, **fields: object) -> None:
        config = json.loads((whole / "config.json").read_text())
        config[section] = fields.pop("all", None) or {**config[section], **fields}
        shutil.copytree(whole, f"models/{name}")
        _put(f"models/{name}/config.json", config)

    def prepared(name: str, processor: object) -> None:
        shutil.copytree(whole, f"models/{name}")
        _put(f"models/{name}/preprocessor_config.json", processor)

    changed("width", "vision_config", hidden_size=32)
    changed("relu", "vision_config", hidden_act="relu")
    changed("epsilon", "text_config", layer_norm_eps=1e-5)
    changed("size", "vision_config", image_size=64)
    changed("heads", "vision_config", num_attention_heads=5)
    changed("strange", "vision_config", all=3)
    prepared("json", "{")
    prepared("pixels", {"size": {"height": 224, "width": 224}})
    prepared("crop", {"size": {"shortest_edge": 31}})
    prepared("filter", {"resample": 0})
    prepared("mean", {"image_mean": [0.4, 0.5, 0.6]})

    shutil.copytree(FOLDER / "open_clip", "models/longest")
    config = json.loads(pathlib.Path("models/longest/open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    _put("models/longest/open_clip_config.json", config)

    tensors = safetensors.numpy.load_file(whole / "model.safetensors")
    del tensors["text_model.encoder.layers.0.mlp.fc1.bias"]
    shutil.copytree(whole, "models/lacking")
    safetensors.numpy.save_file(tensors, "models/lacking/model.safetensors")
    _put("models/cut/model.safetensors", (whole / "model.safetensors").read_bytes()[:900])
    os.mkdir("models/foreign")
    layer = {"layer.weight": np.zeros((2, 2), np.float32)}
    safetensors.numpy.save_file(layer, "models/foreign/model.safetensors")
    _put("models/pickle/pytorch_model.bin")
    np.savez("models/objects.npz", a=np.array([{}], object))
    for name in ("a.npz", "b.npz"):
        _put(f"models/two/{name}")
    _put("models/sharded/model.safetensors.index.json", {"weight_map": {"a": "1.safetensors"}})
    endless = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    _put("endless.json", {"version": "1.0", "model": endless, "added_tokens": []})


def _make_runs() -> None:
    config = entry.config_of("configs/quickstart.py")
    inputs, arrays = {"data": "a", "tokenizer": "b"}, {"a": np.zeros(3, np.float32)}
    for name, items in (("run", ("params", "opt_state")), ("exported", ("params",))):
        with contextlib.closing(Checkpoints(name, Keep(3, 0, {}))) as checkpoints:
            for step in (1, 2):
                checkpoints.save(step, dict.fromkeys(items, arrays), config, inputs, {})
    for name, steps in (("half", (2,)), ("damaged", (1, 2))):
        shutil.copytree("run", name)
        for step in steps:
            _put(f"{name}/checkpoints/{step}/run.json", "{")
    os.makedirs("young/checkpoints")
