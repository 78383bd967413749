"""What a training says while it runs: true rates, the stage it is in, and how long it took."""

import io
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from alexnet import terminal
from alexnet.config import TrainConfig
from alexnet.training import progress, scoring, session
from alexnet.training.learner import Counters, Learner
from alexnet.training.loop import train
from alexnet.training.progress import Reporter
from alexnet.training.saves import Saves
from conftest import STEPS, Blank, text

pytestmark = pytest.mark.usefixtures("no_figures", "no_fsync")
IMAGES = 325


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 1000.0

    def takes(self, seconds, work):
        def timed(*arguments, **options):
            self.now += seconds
            return work(*arguments, **options)

        return timed


@pytest.fixture
def clock(monkeypatch):
    """A step takes 2 seconds, an evaluation 100, a save 1,000 and a picture 10,000."""
    clock = Clock()
    for module in (session, progress):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(Learner, "train_step", clock.takes(2, Learner.train_step))
    monkeypatch.setattr(scoring, "score", clock.takes(100, scoring.score))
    monkeypatch.setattr(session.Session, "_save_last", clock.takes(1000, session.Session._save_last))
    monkeypatch.setattr(session, "draw_curves", clock.takes(10000, lambda *_: Blank()))
    return clock


def test_work_goes_on_where_nobody_reads_how_far_it_is(monkeypatch):
    """The output is closed, or the disk of a log is full."""

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    now = itertools.count(step=20)
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr("sys.stdout", Gone())
    with terminal.counting() as count:
        for done in range(4):
            count("train", done, 4)


def test_rates_count_training_steps_alone(tiny, tmp_path, reporter, clock):
    """Not validation, not checkpoints, within the epoch or at its end, and not the drawing of curves."""
    run = train(tiny(epochs=3, save_minutes=0.01), tmp_path / "run", reporter=reporter)
    assert [row["images_per_second"] for row in run.epochs] == [round(IMAGES / (2 * STEPS), 1)] * 3
    assert [row["seconds"] for row in run.epochs] == [2 * STEPS, 4 * STEPS, 6 * STEPS]
    said = text(reporter)
    assert re.findall(r"(\d+) images/s$", said, re.MULTILINE) == ["27"] * 3
    assert set(re.findall(r"(\d+) images/s, ", said)) == {"32", "27"}  # three whole batches, and with the last one


def test_time_left_has_room_for_what_comes_between(tiny, tmp_path, reporter, clock):
    train(tiny(epochs=3), tmp_path / "run", reporter=reporter)
    left = re.findall(r"epoch (\d)/3 step \d+: .* ([\d:]+) left", text(reporter))
    minutes = {epoch: sum(int(n) * 60**i for i, n in enumerate(reversed(t.split(":")))) for epoch, t in left}
    assert minutes["1"] < 60  # nothing is known yet
    assert minutes["2"] == pytest.approx(1100, abs=60)  # the first curves are drawn after the first report
    assert minutes["3"] == 0


def test_time_left_after_a_resume_counts_no_image_twice():
    """An epoch of 1,300 images in batches of 128 has a last one of 20."""
    with Reporter(quiet=True) as reporter:
        reporter.start(Path("run"), TrainConfig(epochs=3, batch_size=128), 1300, Counters(epoch=2, step=22))
        reporter.step(1, 128, 128.0)
        assert reporter.pace() == "1 images/s, 19:32 left"


def test_end_says_how_long_it_took(tiny, tmp_path, reporter, clock):
    run = train(tiny(epochs=1), tmp_path / "run", reporter=reporter)
    first = 2 * STEPS + 100 + 1000 + 10000 + 100
    assert "took 3:06:52\n" in text(reporter)
    assert run.status["elapsed"] == first
    clock.now += 1e6  # what passes between two sessions is nobody's
    train(tiny(epochs=2), run.path, reporter=reporter)
    assert "took 6:13:44, of which this session 3:06:52\n" in text(reporter)


def test_stages(tiny, tmp_path, monkeypatch):
    """On a terminal: never an epoch that is not there."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    reporter, seen = Reporter(console=console), []
    score, step = scoring.score, Reporter.step

    def stage():
        seen.append(reporter._bar.tasks[0].fields["stage"])

    monkeypatch.setattr(scoring, "score", lambda *a, **o: (stage(), score(*a, **o))[1])
    monkeypatch.setattr(Reporter, "step", lambda *a: (step(*a), stage())[0])
    train(tiny(), tmp_path / "run", reporter=reporter)
    assert [stage for stage, _ in itertools.groupby(seen)] == [
        "epoch 1/2",
        "validating",
        "epoch 2/2",
        "validating",
        "testing",
    ]


def test_rate_of_an_epoch_without_steps_is_not_told(tiny, tmp_path, reporter, monkeypatch):
    """A session that takes over between the last step of an epoch and its end has nothing to measure."""
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "_finish_epoch", lambda self, learner: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(session.Session, "_train_epoch", _train_and_save)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), tmp_path / "run", reporter=reporter)
    run = train(tiny(), tmp_path / "run", reporter=reporter)
    assert ["images_per_second" in row for row in run.epochs] == [False, True]
    assert " 0 images/s" not in text(reporter)


_train_epoch = session.Session._train_epoch


def _train_and_save(self, learner):
    _train_epoch(self, learner)
    self._save_last(learner)


def test_names_are_no_commands_to_a_terminal():
    out = io.StringIO()
    reporter = Reporter(console=Console(file=out))
    reporter.note("left out: \x1b]0;title\x07\x1b[2Ja\nepoch 9/9: all is well")
    reporter.say("run folder: \x1b[2J\nnext: on a line of its own")
    assert "\x1b" not in out.getvalue()
    assert [line.split(":")[0] for line in out.getvalue().splitlines()] == ["note", "run folder", "next"]


def test_saves_are_as_far_apart_as_asked(tiny, tmp_path, reporter, clock, monkeypatch):
    steps, last = [], Saves.save_last
    monkeypatch.setattr(
        Saves, "save_last", lambda self, learner: (steps.append(learner.counters.step), last(self, learner))
    )
    train(tiny(epochs=1, save_minutes=0.1), tmp_path / "run", reporter=reporter)
    assert STEPS == 6
    assert steps == [4, 6]  # a step takes two seconds, and the second save is the epoch's
