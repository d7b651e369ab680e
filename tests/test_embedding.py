import io
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import siglip
from siglip import cli, embedding
from siglip import config as cfg
from tests.data.sources.test_tar import write_tar
from tests.fixtures.make_pretrained import FOLDER

CHECKPOINT = FOLDER / "huggingface"


@pytest.fixture(scope="module")
def model():
    return siglip.load(CHECKPOINT, batch_size=4)


@pytest.fixture
def photos(tmp_path):
    """Eleven pictures in two folders, and what is no picture."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(11):
        name = f"more/{i:02d}.jpg" if i % 2 else f"{i:02d}.PNG"
        Image.effect_noise((20 + i, 15), 80).convert("RGB").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def run(capsys, *args):
    code = 0
    try:
        cli.main(["embed", *map(str, args), "--checkpoint", str(CHECKPOINT), "--batch-size", "4"])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def test_a_folder(photos, tmp_path, model, capsys):
    code, out, err = run(capsys, photos, "--output", tmp_path / "x.npy")
    assert code == 0 and err == "" and "11 pictures" in out
    z = np.load(tmp_path / "x.npy")
    keys = (tmp_path / "x.keys.txt").read_text().splitlines()
    assert z.dtype == np.float32 and z.shape == (11, 24) and keys == sorted(keys)
    expected = model.encode_image([photos / key for key in keys])
    np.testing.assert_allclose(z, expected, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == ["photos", "x.keys.txt", "x.npy"]


def test_parquet(photos, tmp_path, model, capsys):
    run(capsys, photos, "--output", tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    keys = table["key"].to_pylist()
    z = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(z, model.encode_image([photos / k for k in keys]), atol=1e-6)


def test_tar_shards(tmp_path, model, capsys):
    buffer = io.BytesIO()
    Image.effect_noise((9, 9), 50).save(buffer, "png")
    shard = write_tar(tmp_path / "a.tar", [("x/one.png", buffer.getvalue()), ("b.txt", b"text")])
    code, *_ = run(capsys, shard, "--output", tmp_path / "x.npy")
    assert code == 0 and (tmp_path / "x.keys.txt").read_text() == "x/one\n"
    np.testing.assert_allclose(
        np.load(tmp_path / "x.npy"), model.encode_image(buffer.getvalue()), atol=1e-6
    )


def test_texts(workdir, tmp_path, capsys):
    text = "\ufeffa cat\r\n\r\nein Hund\r\n貓\n"  # as an editor on Windows may write it
    (tmp_path / "texts.txt").write_bytes(text.encode())
    argv = ["embed", str(tmp_path / "texts.txt"), "--output", str(tmp_path / "t.npy")]
    cli.main([*argv, "--checkpoint", str(workdir)])
    assert (tmp_path / "t.keys.txt").read_text().splitlines() == ["a cat", "ein Hund", "貓"]
    expected = siglip.load(workdir).encode_text(["a cat", "ein Hund", "貓"])
    np.testing.assert_allclose(np.load(tmp_path / "t.npy"), expected, atol=1e-6)


def test_broken_pictures_are_named_counted_and_skipped(photos, tmp_path, model, capsys):
    (photos / "03broken.jpg").write_bytes(b"not a picture")
    (photos / "more/05.jpg").write_bytes((photos / "more/05.jpg").read_bytes()[:100])
    code, out, err = run(capsys, photos, "--output", tmp_path / "x.npy")
    assert code == 1 and "10 pictures" in out
    assert "skipped 03broken.jpg: not a readable image" in err
    assert "skipped more/05.jpg: not a readable image" in err
    assert "2 of 12 pictures were skipped" in err
    keys = (tmp_path / "x.keys.txt").read_text().splitlines()
    assert len(keys) == 10 and "03broken.jpg" not in keys and "more/05.jpg" not in keys
    expected = model.encode_image([photos / key for key in keys])
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)
    code, *_ = run(capsys, photos, "--output", tmp_path / "y.npy", "--allow-broken")
    assert code == 0


def test_nothing_readable(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"")
    code, *_ = run(capsys, tmp_path / "a", "--output", tmp_path / "x.npy")
    assert code == 1 and np.load(tmp_path / "x.npy").shape == (0, 24)


def test_an_interrupted_run_goes_on(photos, tmp_path, model, capsys, monkeypatch):
    inputs = embedding.find_inputs(str(photos))
    calls = []

    def stop_at_the_third(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, pixels)

    encode = type(model).encode_pixels
    monkeypatch.setattr(type(model), "encode_pixels", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        embedding.embed(model, inputs, tmp_path / "x.npy")
    monkeypatch.undo()
    state = json.loads((tmp_path / "x.npy.partial/state.json").read_text())
    assert 0 < state["done"] < 11 and not (tmp_path / "x.npy").exists()

    seen = []
    monkeypatch.setattr(
        type(model), "encode_pixels", lambda s, p: seen.append(len(p)) or encode(s, p)
    )
    embedding.embed(model, inputs, tmp_path / "x.npy")
    assert sum(seen) == 11 - state["done"], "finished pictures were embedded again"
    assert "going on after" in capsys.readouterr().out
    expected = model.encode_image([photos / key for key in inputs.keys])
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-6)


def test_stopped_while_the_end_was_written(photos, tmp_path, model, monkeypatch):
    """After the keys, before the rows: the same command still goes on."""
    inputs, replace = embedding.find_inputs(str(photos)), os.replace

    def stop(source, target):
        if str(target).endswith("x.npy"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(embedding.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        embedding.embed(model, inputs, tmp_path / "x.npy")
    monkeypatch.undo()
    assert (tmp_path / "x.keys.txt").exists()
    embedding.embed(model, inputs, tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (11, 24)


def test_only_the_same_work_is_continued(photos, tmp_path, model):
    inputs = embedding.find_inputs(str(photos))
    rows = [np.zeros(24, np.float32)]
    with embedding._Partial(tmp_path / "x.npy", inputs, "another model", 24) as partial:
        partial.add(rows)
    with pytest.raises(cfg.UserError, match="begun with another model; remove it"):
        embedding.embed(model, inputs, tmp_path / "x.npy")
    shutil.rmtree(tmp_path / "x.npy.partial")
    other = embedding.find_inputs(str(photos / "more"))
    with embedding._Partial(tmp_path / "x.npy", other, "x", 24) as partial:
        partial.add(rows)
    with pytest.raises(cfg.UserError, match="begun with another input; remove it"):
        embedding.embed(model, inputs, tmp_path / "x.npy")


@pytest.mark.parametrize("file,content", [("state.json", b"{}"), ("rows", b"cut")])
def test_damaged_work_is_told(photos, tmp_path, model, monkeypatch, file, content):
    inputs = embedding.find_inputs(str(photos))
    monkeypatch.setattr(embedding._Partial, "finish", lambda *_: None)
    embedding.embed(model, inputs, tmp_path / "x.npy")
    (tmp_path / "x.npy.partial" / file).write_bytes(content)
    with pytest.raises(cfg.UserError, match=r"x.npy.partial: damaged; remove it to begin again"):
        embedding.embed(model, inputs, tmp_path / "x.npy")


def test_a_full_disk_is_told(photos, tmp_path, model, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedding.os, "fsync", full)
    with pytest.raises(cfg.UserError, match=r"x.npy.partial: No space left on device; check"):
        embedding.embed(model, embedding.find_inputs(str(photos)), tmp_path / "x.npy")


def test_names_that_are_no_text(photos, tmp_path, capsys):
    os.rename(os.fsencode(photos / "00.PNG"), os.fsencode(photos) + b"/a\xff.png")
    code, *_ = run(capsys, photos, "--output", tmp_path / "x.npy")
    assert code == 0 and "a\ufffd.png" in (tmp_path / "x.keys.txt").read_text()


def test_changed_pictures_are_not_continued(photos):
    before = embedding.find_inputs(str(photos)).fingerprint()
    Image.new("RGB", (5, 5)).save(photos / "00.PNG")
    assert embedding.find_inputs(str(photos)).fingerprint() != before


def test_a_checkpoint_of_the_other_tower(photos, tmp_path):
    text = siglip.load(f"{CHECKPOINT}:txt")
    with pytest.raises(cfg.UserError, match="holds no image tower"):
        embedding.embed(text, embedding.find_inputs(str(photos)), tmp_path / "x.npy")


def test_mistakes(photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("\n\n")
    (tmp_path / "there.npy").touch()
    out = tmp_path / "x.npy"
    for args, message in (
        ((tmp_path / "gone", "--output", out), "no such file or folder"),
        ((tmp_path / "empty", "--output", out), "no pictures"),
        ((tmp_path / "none.txt", "--output", out), "write one text a line"),
        ((photos / "00.PNG", "--output", out), "not a text file in UTF-8"),
        ((photos, "--output", tmp_path / "x.csv"), "must end in .npy or .parquet"),
        ((photos, "--output", tmp_path / "there.npy"), "exists already"),
        ((photos, "--output", tmp_path / "no/x.npy"), "make it first"),
    ):
        code, printed, err = run(capsys, *args)
        assert code == 2 and err.count("\n") == 1 and message in err, (args, err)
        assert printed == ""
    assert not (tmp_path / "x.npy.partial").exists()
