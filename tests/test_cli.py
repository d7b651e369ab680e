"""The commands as a user types them: output, and one clear line for each mistake."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from siglip import cli
from siglip.data import pack
from siglip.data.sources import open_source
from tests.conftest import EMOJI, ROOT
from tests.data.sources.test_tar import picture_bytes, write_tar

QUICKSTART = ["train.py", "--config", "configs/quickstart.py", "--workdir"]


@pytest.fixture
def workdir(workdir):
    return str(workdir)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(picture_bytes())
    return str(path)


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(argv))
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_classify_prints_a_table(workdir, picture, capsys):
    cli.main(["classify", picture, "--labels", "a cat, a dog", "--checkpoint", workdir])
    out = capsys.readouterr().out
    assert "a cat" in out and "a dog" in out and out.count("%") == 2
    cli.main(["classify", picture, "--labels", "[red] [/x]", "--checkpoint", workdir])
    assert "[red] [/x]" in capsys.readouterr().out


def test_classify_json(workdir, picture, capsys):
    cli.main(["classify", picture, picture, "--labels", "a cat,a dog,", "--checkpoint", workdir,
              "--json"])  # fmt: skip
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [picture, picture]
    assert list(lines[0]["probabilities"]) == ["a cat", "a dog"]
    assert all(0 < p < 1 for p in lines[0]["probabilities"].values())


def test_mistakes_of_classify(workdir, picture, tmp_path, capsys):
    labels = ["--labels", "a cat"]
    checkpoint = ["--checkpoint", workdir]
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    error = fails(capsys, "classify", str(text), *labels, *checkpoint)
    assert error.startswith(f"error: {text}: not a readable image") and "replace" in error
    error = fails(capsys, "classify", str(tmp_path / "gone.png"), *labels, *checkpoint)
    assert "gone.png: No such file or directory; check the path" in error
    error = fails(capsys, "classify", str(tmp_path), *labels, *checkpoint)
    assert "Is a directory; check the path" in error
    assert "no labels given" in fails(capsys, "classify", picture, "--labels", " , ", *checkpoint)
    error = fails(capsys, "classify", picture, *labels, "--checkpoint", str(tmp_path))
    assert "no model in this folder" in error
    error = fails(capsys, "classify", picture, *labels, *checkpoint, "--template", "a photo")
    assert "must contain {}" in error


def test_classify_with_another_profile_and_size(workdir, picture, capsys):
    probabilities = []
    for options in ([], ["--profile", "open_clip"], ["--image-size", "44"]):
        cli.main(["classify", picture, "--labels", "Cat!", "--checkpoint", workdir, "--json",
                  *options])  # fmt: skip
        line = json.loads(capsys.readouterr().out)
        probabilities.append(line["probabilities"]["Cat!"])
    assert len(set(probabilities)) == 3


def test_models(capsys):
    cli.main(["models", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 27 and sum(row["supported"] for row in rows) == 25
    b16 = next(row for row in rows if row["name"] == "siglip-b16-256")
    assert b16["huggingface"] == "google/siglip-base-patch16-256"
    assert b16["open_clip"] == ["ViT-B-16-SigLIP-256/webli"]
    assert b16["vanity"] == "SigLIP B/16 256" and b16["vocabulary"] == "c4_en"
    cli.main(["models"])
    out = capsys.readouterr().out
    for row in rows:
        assert row["name"] in out and row["huggingface"] in out and row["vanity"] in out


def test_convert(workdir, tmp_path, capsys):
    there = str(tmp_path / "there")
    cli.main(["convert", workdir, there, "--to", "huggingface"])
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == there and "note: pictures: transformers" in out
    assert "model.safetensors" in os.listdir(there)
    error = fails(capsys, "convert", workdir, there, "--to", "big_vision")
    assert "exists already" in error
    error = fails(capsys, "convert", workdir, str(tmp_path / "oc"), "--to", "open_clip")
    assert "OpenCLIP builds image towers by timm's names" in error


def test_embed_takes_any_source(workdir, picture, tmp_path, capsys):
    """Also rows without a caption; what cannot be read is skipped and named."""
    table = tmp_path / "pairs.csv"
    table.write_text("file_name,text\ncat.png,\ngone.png,x\ncat.png,y,z\ncat.png,w\n")
    pairs = [("a.png", picture_bytes()), ("b.png", b""), ("c.png", picture_bytes())]
    shard = pathlib.Path(write_tar(tmp_path / "a.tar", pairs))
    shard.write_bytes(shard.read_bytes()[:2100])  # within c
    for place, keys, told in (
        (table, "cat\ncat\n", ("damaged", "3 columns instead", "skipped gone: no such file")),
        (f"{shard} + {table}", "a\ncat\ncat\n", ("not a whole tar", "skipped b: its picture has")),
    ):
        output = tmp_path / f"{len(keys)}.npy"
        argv = ["embed", str(place), "--output", str(output), "--checkpoint", workdir]
        assert exit_code(*argv) == 1
        error = capsys.readouterr().err
        assert all(words in error for words in told), error
        assert output.with_suffix(".keys.txt").read_text() == keys
    shard.write_bytes(shard.read_bytes()[:1024])  # behind a: all can be read, yet not whole
    for options, code in (([], 1), (["--allow-broken"], 0)):
        argv = ["embed", str(shard), "--checkpoint", workdir, *options]
        assert exit_code(*argv, "--output", str(tmp_path / f"x{code}.npy")) == code


def test_adapters_that_are_none(workdir, picture, tmp_path, capsys):
    model = ["--checkpoint", workdir, "--adapters", str(tmp_path / "gone.safetensors")]
    for argv in (
        ["classify", picture, "--labels", "a cat", *model],
        ["embed", str(tmp_path), "--output", str(tmp_path / "x.npy"), *model],
        ["convert", workdir, str(tmp_path / "x"), "--to", "huggingface", *model[2:]],
    ):
        assert "gone.safetensors" in fails(capsys, *argv)


def test_checkpoints_that_are_none(tmp_path, picture, capsys):
    rest = ["--labels", "a cat", "--batch-size", "8"]
    for name, message in (
        ("siglip-b16-265", "did you mean 'siglip-b16-256'?"),
        ("google/siglip2-so400m-patch16-naflex", "NaFlex"),
        (str(tmp_path), "no model in this folder"),
        (picture, "damaged or cut short"),
    ):
        assert message in fails(capsys, "classify", picture, *rest, "--checkpoint", name)


def exit_code(*argv):
    try:
        cli.main(list(argv))
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def broken(tmp_path):
    members = [("a.png", picture_bytes()), ("a.txt", b"a cat"), ("b.png", b""), ("b.txt", b"b")]
    return write_tar(tmp_path / "broken.tar", members)


def test_data_inspect(workdir, broken, tmp_path, capsys):
    heldout, sheet = str(EMOJI / "heldout-00000.tar"), tmp_path / "sheet.png"
    code = exit_code(
        "data", "inspect", heldout, "--checkpoint", workdir, "--limit", "50", "--sheet",
        str(sheet), "--against", heldout,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0 and "50 of them read" in out and "over 8 tokens" in out
    assert "50 (100%)" in out and sheet.stat().st_size > 10_000
    assert exit_code("data", "inspect", broken) == 1
    assert "1 (50%) unusable: training stops" in capsys.readouterr().out
    tokenizer = ["--tokenizer", str(EMOJI / "sentencepiece.model")]
    assert exit_code("data", "inspect", broken, "--json", "--allow-broken", *tokenizer) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unusable"] == {"empty file": 1} and len(found["advice"]) == 1
    assert found["text_length"] == 64 and found["spreads"]["width, pixels"]["median"] == 8


def test_data_pack(broken, tmp_path, capsys):
    emoji, packed = str(EMOJI / "train-00000.tar"), str(tmp_path / "packed")
    cli.main(["data", "pack", emoji, packed, "--shard-mb", "1"])
    out = capsys.readouterr().out
    assert "1,151 samples" in out and "in 2 files" in out
    assert out.endswith(f"use it with --config.data.train={packed}\n")
    cli.main(["data", "pack", broken, packed, "--split", "validation", "--check"])
    out = capsys.readouterr().out
    assert f"left out: 1 empty file, such as {broken}: b" in out
    use = re.search("--config.data.validation='(.*)'", out)[1]
    assert open_source(use)[0].captions == ("a cat",)
    assert "has a split 'validation' already" in fails(
        capsys, "data", "pack", broken, packed, "--split", "validation"
    )


def test_data_pack_knows_tfrecords(tmp_path, monkeypatch, capsys):
    folder, there = tmp_path / "x/1.0.0", str(tmp_path / "there")
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "x", "fileFormat": "tfrecord"}')
    calls = []

    def convert(source, target, *, progress):
        calls.append((source, target))
        progress(3, 3)
        return pack.Report(3, ("a",), 10, {})

    monkeypatch.setattr(pack, "pack_tfrecords", convert)
    cli.main(["data", "pack", str(tmp_path / "x"), there])
    assert calls == [(str(tmp_path / "x"), there)]
    assert "3 samples" in capsys.readouterr().out
    error = fails(capsys, "data", "pack", str(folder), there, "--check")
    assert "is copied as it is; leave out" in error


def test_mistakes_of_data(tmp_path, broken, capsys):
    for argv, message in (
        (["inspect", str(tmp_path / "gone")], "no such file or folder"),
        (["inspect", broken, "--limit", "-1"], "--limit -1: must be at least 1"),
        (["inspect", broken, "--length", "9"], "--length 9: needs --tokenizer"),
        (["inspect", broken, "--tokenizer", "gone"], "--tokenizer gone: no such file"),
        (["inspect", broken, "--sheet", "x.jpg"], "must end in .png"),
        (["inspect", broken, "--sheet", "gone/x.png"], "no folder gone; make it first"),
        (["inspect", broken, "--checkpoint", str(tmp_path)], "no model in this folder"),
        (["pack", broken, str(tmp_path / "x"), "--shard-mb", "0"], "--shard-mb 0: must be"),
    ):
        assert message in fails(capsys, "data", *argv), argv


def python(*args, **variables):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "args,message",
    [
        (["--config.trian.steps=3"], "config.trian: unknown field; did you mean 'train'?"),
        (
            ["--config.train.durations=3"],
            "config.train.durations: unknown field; did you mean 'duration'?",
        ),
        (["--config.seed=-1"], "config.seed=-1: must be at least 0"),
        (["--config.seed=abc"], "config.seed='abc': must be a whole number"),
        (["--config.train.duration=0"], "config.train.duration='0': must be above 0"),
        (["--config.train.duration=9 hours"], "duration='9 hours': is no duration; write"),
        (["--wrokdir=x"], "Unknown command line flag 'wrokdir'"),
        (
            ["--config=configs/gone.py"],
            "file or directory: 'configs/gone.py'; give the path",
        ),
        (["--config=configs/siglip_b16.py:abc"], "unknown model 'siglip-b16-abc'; did you mean"),
        (["--config=configs/clip_b16.py:abc"], "--config: ValueError: invalid literal for int()"),
        (["oops"], "unexpected argument 'oops'"),
        (["--config.data.train=gone-{00..03}.tar"], "gone-00.tar: no such file; check the path"),
    ],
)
def test_mistakes_of_train(tmp_path, args, message):
    done = python(*QUICKSTART, str(tmp_path / "run"), *args)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_help_lists_the_fields_of_a_recipe():
    done = python("train.py", "--config=configs/siglip_b16.py:384", "--config.seed=7", "--help")
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert any(re.fullmatch(r"  model\.image\.image_size +384  # pixels; .*", x) for x in lines)
    assert any(
        re.fullmatch(r"  model\.remat +'none'  # .* one of none, dots, .*", x) for x in lines
    )
    assert any(re.fullmatch(r"  seed +7", x) for x in lines)
    done = python("train.py", "--help")
    assert done.returncode == 0 and "--config RECIPE --help" in done.stdout


def test_train_and_eval_are_commands(tmp_path):
    small = ["--config.train.duration=2", "--config.optimizer.warmup=1"]
    done = python(*QUICKSTART, str(tmp_path / "run"), *small)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a run in order says nothing on stderr"
    evaluation = ["eval.py", "--config", "configs/eval.py:quickstart"]
    output = f"--config.output={tmp_path}/results"
    done = python(
        *evaluation, f"--config.model={tmp_path}/run", output, XDG_CACHE_HOME=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "emoji, name_only: 1,151 pictures, 1,151 classes, 1,151 texts" in done.stdout
    assert re.search("top-1 of pixel nearest neighbour │ +36.66% │", done.stdout)
    assert f"{tmp_path}/results/report.html" in done.stdout
    done = python(*evaluation, f"--config.model={tmp_path}/gone", output)
    assert done.returncode == 2 and "gone: no such file or folder" in done.stderr


def test_eval_of_the_command_line_and_its_report(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = f"{EMOJI}/heldout-00000.tar?label=category&kind=classification"
    for protocol in ("name_only", "best7"):
        cli.main(["eval", workdir, "--task", "groups", "--data", place, "--protocol", protocol,
                  "--output", str(tmp_path / protocol)])  # fmt: skip
    assert "groups, best7: 1,151 pictures, 7 classes, 49 texts" in capsys.readouterr().out
    folders = [str(tmp_path / name) for name in ("name_only", "best7")]
    cli.main(["eval", "report", *folders, "--output", str(tmp_path / "both")])
    table = (tmp_path / "both/report.md").read_text()
    assert "name\\_only" in table and "best7" in table


def test_mistakes_of_eval(workdir, tmp_path, capsys):
    assert "config.tasks: not given" in fails(capsys, "eval", workdir)
    assert "task imagenet: no data given" in fails(capsys, "eval", workdir, "--task", "imagenet")
    assert "no folder given" in fails(capsys, "eval", "report")
    assert "no results in it" in fails(capsys, "eval", "report", str(tmp_path))
    assert "unexpected argument 'x'" in fails(capsys, "eval", workdir, "x", "--task", "imagenet")


def test_module_and_console_script_are_one():
    assert python("-m", "siglip", "--help").stdout == python(
        "-c", "from siglip.cli import main; main(['--help'])"
    ).stdout  # fmt: skip


def test_every_verb_is_on_a_page(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    verbs = re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    pages = "".join(page.read_text() for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    assert len(verbs) >= 8 and [verb for verb in verbs if f"siglip {verb}" not in pages] == []


def test_help_does_not_wait_for_jax():
    for verb in ("'classify'", "'data', 'inspect'"):
        code = "import sys; from siglip import cli\n" + (
            f"try: cli.main([{verb}, '--help'])\nexcept SystemExit: print('jax' in sys.modules)"
        )
        assert python("-c", code).stdout.endswith("False\n")


def test_lazy_names():
    import siglip

    assert siglip.load.__module__ == "siglip.pretrained.load"
    assert dataclasses.is_dataclass(siglip.Model)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = siglip.lod
