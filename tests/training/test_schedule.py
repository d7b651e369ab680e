import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siglip import config as cfg
from siglip.training import schedule


@pytest.fixture
def config(tiny_model):
    """`config(duration, **optimizer)` with batches of 20."""
    return lambda duration="100 steps", **optimizer: cfg.Config(
        tiny_model,
        data=cfg.Data(batch_size=20),
        train=cfg.Train(duration=duration),
        optimizer=cfg.Optimizer(**optimizer),
    )


SHAPES = {  # of step, warm-up, total and timescale
    "cosine": lambda s, w, n, t: (1 + math.cos(math.pi * min(1, max(0, s - w) / (n - w)))) / 2,
    "linear": lambda s, w, n, t: 1 - min(1, max(0, s - w) / (n - w)),
    "rsqrt": lambda s, w, n, t: 1 / math.sqrt(1 + max(0, s - w) / t),
    "constant": lambda s, w, n, t: 1.0,
}


@pytest.mark.parametrize("name", cfg.SCHEDULES)
@pytest.mark.parametrize("warmup,cooldown", [(0, 0), (13, 0), (0, 29), (13, 29), (40, 60)])
def test_every_step_of_every_schedule(config, name, warmup, cooldown):
    c = config(schedule=name, warmup=f"{warmup} steps", cooldown=f"{cooldown}", timescale="7 steps")

    def expected(step):
        factor = SHAPES[name](step, warmup, 100, 7)
        factor *= min(1, step / warmup) if warmup else 1
        return factor * (max(0, min(1, (100 - step) / cooldown)) if cooldown else 1)

    steps = np.arange(111)
    values = jax.jit(jax.vmap(schedule.make_schedule(c)))(steps)
    np.testing.assert_allclose(values, [expected(s) for s in steps], rtol=1e-5, atol=1e-7)
    assert values.max() == 1 or (warmup, cooldown) == (40, 60) or name == "rsqrt"
    assert not warmup or values[0] == 0
    if cooldown or name in ("cosine", "linear"):
        assert values[100] == 0


def test_the_last_steps_of_a_long_run_keep_their_digits(config):
    """40B examples at 32k: near its end a cosine is far smaller than float32's spacing at 1."""
    f = schedule.make_schedule(config("1_220_703 steps", warmup="20k steps"))
    for left in (1, 2, 1000):
        expected = math.sin(math.pi / 2 * left / 1_200_703) ** 2
        np.testing.assert_allclose(float(f(1_220_703 - left)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", cfg.SCHEDULES)
def test_traced_and_python_steps_give_the_same_strong_float32(config, name):
    f = schedule.make_schedule(config(schedule=name, warmup="5 %", cooldown="5 %"))
    for step in (0, 3, 50, 99):
        for x in (f(step), jax.jit(f)(step), f(jnp.int32(step))):
            assert (x.dtype, x.shape, x.weak_type) == (jnp.float32, (), False)
            np.testing.assert_allclose(x, f(step), rtol=1e-6)


@pytest.mark.parametrize(
    "text,steps",
    [
        ("300 steps", 300), ("1 step", 1), ("7", 7), ("2k steps", 2000), ("0.4 steps", 1),
        ("6000 examples", 300), ("6009 examples", 300), ("6010 examples", 301), ("3 examples", 1),
        ("1M examples", 50_000), ("3 epochs", 150), ("0.5 epochs", 25), ("1 epoch", 50),
    ],
)  # fmt: skip
def test_durations_of_1000_samples_in_batches_of_20(config, text, steps):
    assert schedule.total_steps(config(text), samples=1000) == steps


@pytest.mark.parametrize(
    "text,steps", [("10 steps", 10), ("200 examples", 10), ("0.2 epochs", 10), ("5 %", 10)]
)
@pytest.mark.parametrize("field", ["warmup", "cooldown", "timescale"])
def test_durations_within_a_run_in_every_unit(config, field, text, steps):
    def values(text):
        f = schedule.make_schedule(config("200 steps", schedule="rsqrt", **{field: text}), 1000)
        return [float(f(step)) for step in (0, 3, 9, 150, 195)]

    assert values(text) == values(f"{steps} steps") != values("11 steps")


def test_a_percentage_is_of_the_whole_run(config):
    f = schedule.make_schedule(config("2 epochs", warmup="10 %"), samples=1000)  # 100 steps
    assert float(f(5)) == 0.5 and float(f(10)) == 1


@pytest.mark.parametrize(
    "fields,samples,words",
    [
        ({"duration": "3 epochs"}, None, ["config.train.duration='3 epochs'", "steps or examples"]),
        ({"warmup": "1 epoch"}, None, ["config.optimizer.warmup='1 epoch'", "steps or examples"]),
        ({"duration": "5 %"}, None, ["config.train.duration='5 %'", "must be in steps"]),
        ({"duration": "10 steps", "warmup": "20 steps"}, None,
         ["config.optimizer.warmup='20 steps'", "duration='10 steps'"]),
        ({"warmup": "100 steps"}, None, ["config.optimizer.warmup='100 steps'"]),
        ({"warmup": "5 epochs"}, 1000, ["config.optimizer.warmup='5 epochs': 250 steps", "100"]),
        ({"warmup": "60 %", "cooldown": "41 steps"}, None,
         ["config.optimizer.warmup='60 %': 60 steps, and 41 of cooldown='41 steps'"]),
        ({"schedule": "rsqrt", "timescale": "3 examples"}, None,
         ["config.optimizer.timescale='3 examples'", "at least 1 step"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(config, fields, samples, words):
    with pytest.raises(cfg.UserError) as error:
        schedule.make_schedule(config(**fields), samples)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
