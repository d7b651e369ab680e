import json

import pytest
import rich.console
from tensorboardX.proto import event_pb2

from siglip import metrics
from siglip.data.tfrecord import read_tfrecords


def test_each_step_occurs_once_after_a_resumption(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": float(step)})
    writer.close()
    with open(tmp_path / metrics.JSONL, "a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    writer = metrics.MetricsWriter(tmp_path, 2)
    writer.write(3, {"loss": 0.5})
    writer.close()
    lines = [json.loads(x) for x in (tmp_path / metrics.JSONL).read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 0.5},
    ]  # fmt: skip


def test_what_the_events_say(tmp_path):
    for name in (metrics.JSONL, metrics.EVALUATIONS):
        writer = metrics.MetricsWriter(tmp_path, 300, name)
        writer.write(301, {"loss": 1.5, "zeroshot/top1": -2.0})
        writer.close()
        folder = tmp_path / "tensorboard" / ("evaluations" if name != metrics.JSONL else "")
        (file,) = (path for path in folder.iterdir() if path.is_file())
        assert ".tfevents." in file.name
        events = [event_pb2.Event.FromString(record) for record in read_tfrecords(str(file))]
        assert events[0].file_version == "brain.Event:2" and events[0].wall_time > 1.7e9
        assert (events[1].session_log.status, events[1].step) == (1, 301)
        values = {value.tag: value.simple_value for value in events[2].summary.value}
        assert events[2].step == 301 and values == {"loss": 1.5, "zeroshot/top1": -2.0}
        assert len(events) == 3


def test_no_file_has_no_lines(tmp_path):
    assert metrics.read_lines(tmp_path / "nowhere.jsonl") == []


@pytest.mark.parametrize(
    "seconds,text", [(0, "0:00"), (187, "3:07"), (7530, "2:05:30"), (float("inf"), "?")]
)
def test_duration(seconds, text):
    assert metrics.duration(seconds) == text


def test_progress_in_a_log_is_plain_lines(capsys):
    progress = metrics.Progress(10, 4)
    progress.advance_to(5)
    progress.report(7, "loss 1.0")
    progress.close()
    out = capsys.readouterr().out
    assert out.startswith("7/10 steps  loss 1.0  ") and "steps/s" in out and "left" in out
    assert "\x1b" not in out and out.count("\n") == 1


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    terminal = rich.console.Console(force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", lambda **_: terminal)
    progress = metrics.Progress(10, 4)
    progress.report(7, "loss 1.0")
    progress.close()
    out = capsys.readouterr().out
    assert "7/10 steps" in out and "loss 1.0" in out and "\x1b" in out
