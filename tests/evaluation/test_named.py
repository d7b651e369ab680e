"""Tasks by one string."""

import pytest
from PIL import Image

from siglip import config as cfg
from siglip.evaluation import named
from siglip.evaluation.named import open_tasks
from tests.conftest import EMOJI

OWN = f"emoji={EMOJI}/heldout-00000.tar?label=name&kind=classification"


def test_commas_join_tasks_and_may_be_in_places():
    assert named._split("imagenet, pets=/d/{a,b}.tar?caption=x,y&split=z,coco,mine=/x?kind=y") == [
        "imagenet", " pets=/d/{a,b}.tar?caption=x,y&split=z", "coco", "mine=/x?kind=y"
    ]  # fmt: skip
    assert named._split("imagenet,pets,") == ["imagenet", "pets"]


@pytest.mark.parametrize(
    "place,expected",
    (
        ("/d", ("/d", {})),
        ("/d?kind=retrieval", ("/d", {"kind": "retrieval"})),
        ("a?.tar?kind=x&label=y&names=a%26b&sep=%2C", ("a?.tar?label=y&sep=%2C", {"kind": "x", "names": "a&b"})),  # noqa: E501
    ),
)  # fmt: skip
def test_options_of_the_task_and_of_the_place(place, expected):
    assert named._options(place) == expected


def test_data_for_one_task_for_several_and_of_tfds(tmp_path):
    for task, places in (("cats", "ab"), ("dogs", "c")):
        for place in places:
            (tmp_path / task / place).mkdir(parents=True)
            Image.new("RGB", (2, 2)).save(tmp_path / task / place / "x.png")
    one = open_tasks(f"mine={tmp_path}/cats?kind=classification")
    assert [task.names for task in one] == [("a", "b")]
    both = f"cats,dogs={tmp_path}/dogs?kind=classification"
    with pytest.raises(cfg.UserError, match="a place for several tasks; write"):
        open_tasks(both, str(tmp_path))
    two = open_tasks(both, f"{tmp_path}/{{}}?kind=classification")
    assert [(task.key, task.names) for task in two] == [("cats", ("a", "b")), ("dogs", ("c",))]
    assert named._place("imagenet_v2", "tfds", False, "x") == "tfds:imagenet_v2/matched-frequency"
    with pytest.raises(cfg.UserError, match="country211 is not in TensorFlow Datasets"):
        open_tasks("country211", "tfds")


@pytest.mark.parametrize(
    "tasks,data,message",
    (
        ("", "", "config.eval.tasks: no task given; write for example imagenet=PLACE"),
        ("imagenet", "", "no data given, and none is downloaded"),
        (f"{OWN},{OWN}", "", "emoji is given twice"),
        ("imagnet=/d", "", "did you mean 'imagenet'"),
        ("mine=/d?kind=classify", "", "did you mean 'classification'"),
    ),
)
def test_what_is_wrong_is_told(tasks, data, message):
    with pytest.raises(cfg.UserError, match=message) as error:
        open_tasks(tasks, data, "config.eval.tasks")
    assert "\n" not in str(error.value)
