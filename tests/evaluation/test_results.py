"""Results as files: nothing is lost, nothing replaced by another, others' files are understood."""

import csv
import dataclasses
import io
import json

import pytest
from PIL import Image

from siglip import config as cfg
from siglip.config import UserError
from siglip.evaluation import protocols, provenance, results
from siglip.evaluation.details import SIDE, Details, Mistake, thumbnail
from siglip.evaluation.results import Result
from siglip.evaluation.summary import table


def result(**fields) -> Result:
    protocol = protocols.get("big_vision")
    return dataclasses.replace(
        Result(
            "imagenet", "ViT-B-16-SigLIP", "webli", results.CLASSIFICATION,
            metrics={"acc1": 0.762, "acc5": 0.9, "mean_per_class_recall": 0.761},
            intervals={"acc1": (0.758, 0.766)},
            protocol=provenance.protocol_facts(protocol, "imagenet"),
            preprocessing=provenance.preprocessing_facts(
                cfg.Image(), cfg.Text("/models/v.model"), image_size=224, text_length=64,
                tokenizer="5e" * 32,
            ),
            versions=provenance.versions(), checkpoint={"name": "b16", "sha256": "ab" * 32},
            counts={"pictures": 50000, "unusable": 0}, seconds={"model": 60.5},
            date=provenance.now(), device="cpu", command="siglip eval b16",
        ),
        **fields,
    )  # fmt: skip


def retrieval(**metrics) -> Result:
    shares = {f"{way}_retrieval_recall@{k}": k / 20 for way in ("image", "text") for k in (1, 5)}
    return result(
        dataset="coco", task=results.RETRIEVAL, protocol={}, intervals={},
        metrics=metrics or shares, counts={"pictures": 5000},
    )  # fmt: skip


def test_a_result_and_its_details_are_read_as_they_were_written(tmp_path):
    picture = thumbnail(Image.new("RGBA", (400, 200), (255, 0, 0, 0)))
    with Image.open(io.BytesIO(picture)) as small:
        assert small.size == (SIDE, SIDE // 2) and small.getpixel((5, 5)) == (255, 255, 255)
    details = Details(
        (("tench", 1.5, 2),),
        (("tench", "猫 <b>", 1),),
        (Mistake(picture, ("tench",), (("cat", 0.9),), "val/1.jpg"),),
        ((0.25, 0.5, 10),),
    )
    path = results.write(tmp_path / "new", wrote := result(), details)
    assert path.name == "imagenet_webli_ViT-B-16-SigLIP_en_zeroshot_classification.json"
    assert wrote.preprocessing["tokenizer"] == "v.model" and wrote.protocol["prompts"] == 81
    assert wrote.protocol["published"] is True
    (read,) = results.read_all([tmp_path, path])
    assert read == wrote and read.path == str(path)
    assert results.read_details(read) == details
    # What CLIP_benchmark's tools read comes first and by their names.
    keys = ["dataset", "model", "pretrained", "task", "metrics", "language"]
    assert list(json.loads(path.read_text()))[:6] == keys
    results.write(tmp_path / "new", wrote)
    assert results.read_details(read) is None, "details of another evaluation"


def test_the_same_again_replaces_and_another_setting_does_not(tmp_path):
    first = results.write(tmp_path, result())
    assert results.write(tmp_path, result(metrics={"acc1": 0.5})) == first
    crop = {**result().preprocessing, "shape": "crop"}
    second = results.write(tmp_path, result(preprocessing=crop))
    assert second != first and results.write(tmp_path, result(preprocessing=crop)) == second
    assert [r.metrics["acc1"] for r in results.read_all([tmp_path])] == [0.5, 0.762]


@pytest.mark.parametrize(
    "name",
    ["../../x", 'a:b*?"<>|\\c', "-rf", "猫" * 99, "..", "\udc80"],
    ids=["path", "forbidden", "flag", "long", "dots", "half"],
)
def test_any_name_gives_a_file_that_every_file_system_takes(tmp_path, name):
    path = results.write(tmp_path, result(dataset=name), Details())
    assert path.parent == tmp_path and not path.name.startswith((".", "-"))
    assert len(path.name.encode()) <= 255 and not set('<>:"/\\|?*') & set(path.name)
    assert sorted(p.suffixes[-1] for p in tmp_path.iterdir()) == [".json", ".json"]
    assert len(results.read_all([tmp_path])) == 1


def test_files_of_clip_benchmark_are_read(tmp_path):
    data = {
        "dataset": "wds/imagenet1k", "model": "ViT-B-32", "pretrained": "openai",
        "task": "zeroshot_classification", "metrics": {"acc1": 0.63, "acc5": float("nan")},
        "language": "en",
    }  # fmt: skip
    (tmp_path / "theirs.json").write_text(json.dumps(data))
    (tmp_path / "other.json").write_text('{"step": 1}')
    (tmp_path / "broken.json").write_text("{")
    (read,) = results.read_all([tmp_path])
    assert read.metrics == {"acc1": 0.63} and read.protocol == {} and read.headlines == ("acc1",)
    assert table.dataset_title(read.dataset) == "ImageNet-1k"
    theirs = {"text_retrieval_recall@5": 0.5, "image_retrieval_recall@5": 0.4}
    assert retrieval(**theirs).headlines == tuple(theirs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ('{"step": 1}', "no result of an evaluation; give files that have dataset, model"),
        (dict(metrics={"acc1": "high"}), "metrics.acc1='high': not a number"),
        (dict(metrics=[]), None),
        (dict(metrics=[1]), "metrics=[1]: not an object"),
        (dict(model=3), "model=3: not text"),
        (dict(intervals={"acc1": [1]}), "intervals.acc1=[1]: not two numbers"),
    ],
)
def test_what_is_no_result_is_told_in_a_line(tmp_path, content, message):
    path = tmp_path / "x.json"
    text = content if isinstance(content, str) else json.dumps({**result().to_json(), **content})
    path.write_text(text)
    if message is None:
        assert results.read(path).metrics == {}
        return
    with pytest.raises(UserError) as error:
        results.read_all([path])
    assert str(error.value).startswith(f"{path}: {message}") and "\n" not in str(error.value)


def test_folders_without_results_and_broken_details_are_told(tmp_path):
    with pytest.raises(UserError, match="no results in it"):
        results.read_all([tmp_path])
    with pytest.raises(UserError, match="nowhere"):
        results.read_all([tmp_path / "nowhere"])
    path = results.write(tmp_path, result(), Details(calibration=((0.1, 0.2, 3),)))
    beside = path.with_name(path.stem + ".details.json")
    beside.write_text(beside.read_text().replace("0.2", '"x"'))
    with pytest.raises(UserError, match=r"details.json: no details of a result \(ValueError"):
        results.read_details(results.read(path))


def test_a_table_says_what_may_be_compared():
    def asked(protocol, dataset):
        return provenance.protocol_facts(protocols.get(protocol), dataset)

    clip = asked("open_clip", "imagenet")
    made = [
        result(),
        result(protocol=clip, metrics={"acc1": 0.8}, intervals={}),
        result(dataset="food101", protocol=asked("big_vision", "food101")),
        result(model="L|16", counts={"pictures": 100, "unusable": 3}),
        retrieval(),
    ]  # fmt: skip
    lines = table.markdown(made).splitlines()
    assert lines[0] == (
        "| model | protocol | ImageNet-1k top-1 | Food101 top-1 | COCO image to text R@1 | "
        "COCO text to image R@1 |"
    )
    assert lines[2:5] == [
        r"| L\|16 webli | big\_vision | 76.2 (75.8, 76.6) |  |  |  |",
        r"| ViT-B-16-SigLIP webli | big\_vision | 76.2 (75.8, 76.6) | 76.2† (75.8, 76.6) | 5.0 | "
        "5.0 |",
        r"| ViT-B-16-SigLIP webli | open\_clip | **80.0** |  | 5.0 | 5.0 |",
    ]
    notes = "\n".join(lines[6:])
    assert r"ImageNet-1k: protocols differ (big\_vision, open\_clip)" in notes
    assert "numbers of pictures differ (100, 50,000)" in notes
    assert r"3 pictures were unusable for L\|16 webli" in notes
    assert "† The authors of the protocol" in notes


def test_rows_of_one_name_say_in_what_they_differ():
    crop = {**result().preprocessing, "shape": "crop"}
    rows = table.build([result(), result(preprocessing=crop)]).rows
    assert [row.differs for row in rows] == ["shape crop", "shape squash"]
    old = result(date="2020-01-01", metrics={"acc1": 0.1})
    found = table.build([result(), old])
    assert [[cell.value for cell in line] for line in found.cells] == [[0.762]]
    assert "of several results of ViT-B-16-SigLIP webli the newest" in found.notes[0]


def test_csv_is_flattened_as_clip_benchmark_does():
    first, second = csv.DictReader(io.StringIO(table.csv([result(), retrieval()])))
    assert first["model_fullname"] == "ViT-B-16-SigLIP webli" and first["acc1"] == "0.762"
    assert first["intervals.acc1.low"] == "0.758" and first["protocol.name"] == "big_vision"
    assert second["acc1"] == "" and second["image_retrieval_recall@5"] == "0.25"
