"""A model on tasks: the numbers are those of the definitions, on any number of devices."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from siglip import config as cfg
from siglip.data.sources import open_source
from siglip.evaluation import measure, protocols, run, suite
from siglip.evaluation.results import read, read_details
from siglip.evaluation.retrieval import rank
from siglip.evaluation.tasks import open_task
from siglip.inference import Model
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import places
from siglip.pretrained.identity import Identity
from siglip.pretrained.load import load
from tests.conftest import EMOJI
from tests.data.sources.test_tar import write_tar

N = 37  # no multiple of devices or batches
HELDOUT = "few.tar"  # every 20th of the emoji held out
OWN = f"emoji={HELDOUT}?label=category&kind=classification"


@pytest.fixture(scope="module")
def emoji():
    return open_source(str(EMOJI / "heldout-00000.tar"))


@pytest.fixture(scope="module")
def few(emoji, tmp_path_factory):
    samples = [emoji[i] for i in range(0, len(emoji), 20)]
    members = [
        member
        for s in samples
        for member in ((f"{s.key}.webp", s.image), (f"{s.key}.json", json.dumps(s.meta).encode()))
    ]
    return pathlib.Path(write_tar(tmp_path_factory.mktemp("few") / HELDOUT, members))


@pytest.fixture(autouse=True)
def cache(few, tmp_path, monkeypatch):
    monkeypatch.chdir(few.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return places.cache_folder() / "classes"


@pytest.fixture
def no_sheets(monkeypatch):
    """Drawing one takes longer than all else."""
    monkeypatch.setattr(suite.sheet, "contact_sheet", lambda path, *_: path.touch())


@pytest.fixture(scope="module")
def folder(emoji, tmp_path_factory):
    """Pictures in folders of classes, a few of them cut short."""
    made = tmp_path_factory.mktemp("pictures")
    for i in range(N):
        path = made / emoji[i].meta["name"].split()[0] / f"{i}.webp"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(emoji[i].image[: 100 if i in (3, 30) else None])
    return made


def suite_of(workdir, tmp_path, **fields) -> cfg.Suite:
    given = {"model": str(workdir), "tasks": OWN, "output": str(tmp_path / "out")}
    return cfg.Suite(**{**given, **fields})


def over(model: Model, devices: int, batch_size: int) -> Model:
    mesh = meshes.make_mesh(cfg.Mesh(), jax.devices()[:devices])
    params = jax.device_put(model.params, sharding.tree_shardings(model.params, mesh))
    return dataclasses.replace(model, params=params, mesh=mesh, batch_size=batch_size)


def test_classification_by_its_definition(workdir, folder):
    task = open_task("mine", str(folder), kind="classification")
    protocol, model = protocols.get("open_clip"), load(workdir)
    evaluator = run.Evaluator(model, Identity("x", "m", "p", "h"))
    (outcome,) = evaluator(task, [protocol])
    metrics, counts = outcome.result.metrics, outcome.result.counts
    assert (counts["pictures"], counts["unusable"]) == (N, 2)
    assert (counts["classes"], counts["texts"]) == (len(task.names), 80 * len(task.names))

    z = []
    for name in task.names:
        each = model.encode_text([p.replace("{}", name) for p in protocol.prompts()])
        z.append(each.mean(axis=0) / np.linalg.norm(each.mean(axis=0)))
    right, ranks = 0, []
    for sample, (label,) in zip(task.samples, task.labels, strict=True):
        try:
            zimg = model.encode_image(task.source[int(sample)].image)[0]
        except cfg.UserError:
            ranks.append(len(task.names))  # a broken picture is wrong
            continue
        order = np.argsort(-(np.array(z) @ zimg), kind="stable")
        right += order[0] == label
        ranks.append(list(order).index(label))
    assert metrics["acc1"] == pytest.approx(right / N)
    assert metrics["acc5"] == pytest.approx(np.mean(np.array(ranks) < 5))
    assert outcome.details.mistakes and sum(n for *_, n in outcome.details.per_class) == N


def test_any_number_of_devices_counts_the_same(workdir, folder):
    task = open_task("mine", str(folder), kind="classification")
    model, counts = load(workdir), []
    for devices, batch_size in ((1, 64), (8, 16), (3, 7)):
        evaluator = run.Evaluator(over(model, devices, batch_size), Identity("x", "m", "p", "h"))
        (outcome,) = evaluator(task, [protocols.get("name_only")])
        counts.append(outcome.scores.top.tolist())
        assert outcome.result.counts["unusable"] == 2
        assert outcome.result.device.startswith(f"{devices} x ")
    assert all(other == counts[0] for other in counts[1:])


def test_retrieval_of_pairs_and_its_result(workdir, tmp_path):
    place = f"pairs={HELDOUT}?kind=retrieval"
    (outcome,) = suite.evaluate(suite_of(workdir, tmp_path, tasks=place))
    task, model = open_task("pairs", HELDOUT, kind="retrieval"), load(workdir)
    pictures = [task.source[int(i)].image for i in task.samples]
    zimg, ztxt = model.encode_image(pictures), model.encode_text(task.captions)
    expected = rank(zimg, ztxt, task.owner).metrics()
    assert outcome.result.metrics == pytest.approx(expected)
    (path,) = pathlib.Path(tmp_path / "out").glob("*retrieval.json")
    assert read(path) == outcome.result and outcome.result.protocol == {}


def test_several_protocols_embed_pictures_once_and_classes_are_kept(
    workdir, tmp_path, capsys, cache, monkeypatch
):
    passes = []
    pictures = measure.Subject.pictures
    monkeypatch.setattr(
        measure.Subject, "pictures", lambda self, *args: passes.append(1) or pictures(self, *args)
    )
    c = suite_of(workdir, tmp_path, protocol="name_only, best7")
    first = suite.evaluate(c)
    assert len(passes) == 1 and len(list(cache.iterdir())) == 2
    assert [o.result.protocol["prompts"] for o in first] == [1, 7]
    again = suite.evaluate(c)
    assert [o.result.counts["texts_from_cache"] for o in first + again] == [0, 0, 7, 49]
    assert [o.result.counts["texts_cut"] for o in first + again] == [0, 49, 0, 49]
    for one, two in zip(first, again, strict=True):
        assert one.result.metrics == two.result.metrics and one.result.notes == two.result.notes
    out = capsys.readouterr().out
    assert "emoji, best7: 58 pictures, 7 classes, 49 texts" in out
    assert "(classes from the cache)" in out and out.count("note: 49 texts are longer than 8") == 2

    folder = tmp_path / "out"
    results = sorted(p for p in folder.glob("emoji_step1_*.json") if ".details" not in p.name)
    assert len(results) == 2, "one result a protocol, replaced when it is measured again"
    facts = json.loads(results[0].read_text())
    assert "published" not in facts["protocol"], "nobody publishes numbers of own data"
    assert facts["preprocessing"]["shape"] == "squash"
    # What is written down is what was read, whatever a run saves meanwhile.
    assert facts["checkpoint"]["name"] == f"{workdir}@1"
    assert len(facts["checkpoint"]["sha256"]) == 64
    assert len(read_details(read(results[0])).per_class) == 7
    for name in ("report.md", "report.csv", "report.html", f"loss_{workdir.name}.png"):
        assert (folder / name).stat().st_size > 50
    with Image.open(results[0].with_suffix(".png")) as sheet:
        assert min(sheet.size) > 300


def test_other_preprocessing_is_another_result(workdir, tmp_path, no_sheets):
    a = suite.evaluate(suite_of(workdir, tmp_path, protocol="name_only"))[0].result
    b = suite.evaluate(suite_of(workdir, tmp_path, protocol="name_only", shape="crop"))[0].result
    assert (a.preprocessing["shape"], b.preprocessing["shape"]) == ("squash", "crop")
    assert a.setting != b.setting
    # Emoji are square: nothing is cut off.
    assert a.metrics == b.metrics


def test_other_data_or_prompts_of_one_name_are_another_result(workdir, tmp_path, no_sheets):
    """As many pictures, and as many prompts in a file of the same name."""
    path, settings = tmp_path / "prompts.txt", []
    for label, prompt in (("category", "{}"), ("name", "{}"), ("category", "a {}")):
        path.write_text(f"{prompt}\n")
        place = f"emoji={HELDOUT}?label={label}&kind=classification"
        c = suite_of(workdir, tmp_path, tasks=place, protocol=str(path))
        settings.append(suite.evaluate(c)[0].result.setting)
    assert len({*settings}) == 3
    assert len(list((tmp_path / "out").glob("emoji_*.details.json"))) == 3


def test_a_model_that_gives_no_numbers_is_told(workdir, folder):
    model = load(workdir)
    params = jax.tree.map(lambda x: x * np.nan, model.params)
    task = open_task("mine", str(folder), kind="classification")
    evaluator = run.Evaluator(dataclasses.replace(model, params=params))
    with pytest.raises(cfg.UserError, match="the model gives embeddings that are no numbers"):
        evaluator(task, [protocols.get("name_only")])


@pytest.mark.parametrize(
    "fields,message",
    (
        ({"model": cfg.REQUIRED}, "config.model: not given"),
        ({"tasks": ""}, "config.tasks: not given; set it"),
        ({"tasks": "imagenet"}, "task imagenet: no data given, and none is downloaded"),
        ({"tasks": OWN, "protocol": "openclip"}, "did you mean 'open_clip'"),
        ({"protocol": ", "}, "config.protocol: none given; choose from big_vision"),
        ({"shape": "crup"}, "did you mean 'crop'"),
        ({"tokenizer": "/nowhere.model"}, "nowhere"),
    ),
)
def test_what_is_wrong_is_told_before_anything_is_compiled(
    workdir, tmp_path, fields, message, monkeypatch
):
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(cfg.UserError, match=message) as error:
        suite.evaluate(suite_of(workdir, tmp_path, **fields))
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_found_before_the_pictures(
    workdir, tmp_path, monkeypatch
):
    monkeypatch.setattr(run.Evaluator, "__call__", lambda *_: pytest.fail("looked at pictures"))
    with pytest.raises(cfg.UserError, match="/proc/x"):
        suite.evaluate(suite_of(workdir, tmp_path, output="/proc/x"))


def test_one_tower_is_refused(workdir, tmp_path):
    with pytest.raises(cfg.UserError, match="one tower; an evaluation needs both"):
        suite.evaluate(suite_of(workdir, tmp_path, model=f"{workdir}:img"))


def test_pictures_that_cannot_be_used_at_all(workdir, tmp_path):
    (tmp_path / "pictures/a").mkdir(parents=True)
    (tmp_path / "pictures/a/1.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    own = f"mine={tmp_path}/pictures?kind=classification"
    with pytest.raises(cfg.UserError, match=r"task mine: none of 1 pictures can be used, such as"):
        suite.evaluate(suite_of(workdir, tmp_path, tasks=own))


def test_workdirs_without_a_checkpoint_are_refused_and_left_alone(tmp_path):
    with pytest.raises(cfg.UserError, match="no such file or folder, and no released model"):
        suite.evaluate(suite_of(tmp_path / "nowhere", tmp_path))
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(cfg.UserError, match="holds no finished checkpoint"):
        suite.evaluate(suite_of(tmp_path / "run", tmp_path))
