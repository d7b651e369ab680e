"""Pictures with their captions, as they are handed out and of one's own."""

import json
import pathlib

import pytest

from siglip.config import UserError
from siglip.evaluation.tasks import open_task
from tests.evaluation.handed_out import PICTURE, picture, put, tar


def test_retrieval_as_it_is_handed_out(tmp_path):
    def karpathy(*splits):
        return json.dumps({"images": [
            {"filename": f"{i}.jpg", "split": split,
             "sentences": [{"raw": f"{i}{n} \n"} for n in "ab"[: 1 + i % 2]]}
            for i, split in enumerate(splits)
        ]})  # fmt: skip

    pictures = {f"val2014/{i}.jpg": picture(i) for i in range(4)}
    for name in ("coco", "flickr30k"):
        listed = {f"dataset_{name}.json": karpathy("train", "test", "val", "test")}
        task = open_task(name, put(tmp_path / name, pictures | listed))
        assert task.captions == ("1a", "1b", "3a", "3b") and task.owner.tolist() == [0, 0, 1, 1]
        assert [task.source[i].image for i in task.samples] == [picture(1), picture(3)]
        with pytest.raises(UserError, match="English"):
            open_task(name, str(tmp_path / name), language="de")

    rows = [{"image/key": k, "image/locale": "x", "quz": {"caption": [f"{k}1", f"{k}2"]}}
            for k in ("b", "a")]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    place = put(tmp_path / "xm", {"captions.jsonl": lines, "images/a.jpg": PICTURE,
                                  "images/b.jpg": PICTURE})  # fmt: skip
    task = open_task("xm3600", place, language="quz")
    assert task.captions == ("b1", "b2", "a1", "a2") and task.language == "quz"
    assert task.source.keys() == ["images/b", "images/a"]
    with pytest.raises(UserError, match=r"language=qz: not in it; did you mean 'quz'"):
        open_task("xm3600", place, language="qz")
    pathlib.Path(place, "images/a.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the 2 pictures .* such as a;"):
        open_task("xm3600", place, language="quz")

    files = {"test_image_names.txt": "2.jpg\n0.jpg\n", "test_1kcaptions_ko.txt": "zwei\nnull\n"}
    task = open_task("xtd10", put(tmp_path / "xtd", files | pictures), language="ko")
    assert task.captions == ("zwei", "null") and task.source.keys() == ["val2014/2", "val2014/0"]
    with pytest.raises(UserError, match=r"language=en: no captions; choose from ko"):
        open_task("xtd10", str(tmp_path / "xtd"))
    put(tmp_path / "xtd", {"test_1kcaptions_de.txt": "zwei\n"})
    with pytest.raises(UserError, match=r"captions cannot be read .ValueError"):
        open_task("xtd10", str(tmp_path / "xtd"), language="de")


def test_retrieval_from_shards_and_own_pairs(tmp_path):
    (tmp_path / "test").mkdir()
    tar(tmp_path / "test/0.tar", {"s0.webp": PICTURE, "s0.txt": "a\nb", "s1.webp": picture(1),
                                  "s1.txt": "c"})  # fmt: skip
    for place, kind in ((str(tmp_path), ""), (str(tmp_path / "test/0.tar"), "retrieval")):
        task = open_task("own" if kind else "flickr30k", place, kind=kind)
        assert task.captions == ("a", "b", "c") and task.owner.tolist() == [0, 0, 1]
    # A row for each caption: rows of the same picture are one picture.
    put(tmp_path / "own", {"a.jpg": PICTURE, "b.jpg": picture(1), "c.jpg": b"",
                           "t.csv": "path,text\na.jpg,x\nb.jpg,y\nc.jpg,v\na.jpg,z\n"})  # fmt: skip
    task = open_task("mine", str(tmp_path / "own/t.csv"), kind="retrieval")
    assert task.captions == ("x", "y", "z") and task.owner.tolist() == [0, 1, 0]
    assert task.samples.tolist() == [0, 1] and "1 pairs are left out" in task.notes[0]
