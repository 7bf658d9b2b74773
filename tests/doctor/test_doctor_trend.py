"""What the doctor says of the records of a training: what lasts, and not what passes."""

import numpy as np
import pytest
from families import VOCAB

from pellucid.doctor.record import Forward, Record, Update
from pellucid.doctor.trend import Setting, judged


def course(count=8, every=100, **of):
    """Records of a healthy training, with some figures as functions of their number."""
    return [
        Record(
            step=i * every,
            rate=1e-3,
            loss=of.get("loss", lambda i: 3.0 - 0.1 * i)(i),
            losses=every,
            forward=Forward(
                entropy={"a": of.get("entropy", lambda i: (0.6, 0.7, 0.8, 0.02))(i)},
                scores={"a": of.get("scores", lambda i: (9.0, 8.0, 7.0, 60.0))(i)},
                dead={"f": of.get("dead", lambda i: 0.1)(i)},
                tokens=4096,
                residual={"l.0": 1.0, "l.1": of.get("grown", lambda i: 2.0)(i)},
            ),
            update=Update(
                gradients={"l.0": 1.0, "l.1": of.get("gradient", lambda i: 1.1)(i)},
                norm=of.get("norm", lambda i: 1.5)(i),
                ratios={"l.0": 1e-3, "l.1": of.get("ratio", lambda i: 1e-3)(i)},
            ),
        )
        for i in range(1, count + 1)
    ]


BAD = {
    "health.attention": {
        "entropy": lambda i: (0.6, 0.7, 0.8, 0.9) if i < 4 else (0.01, 0.2, 0.7, 0.01),
        "scores": lambda i: (40.0, 90.0, 7.0, 60.0),
    },
    "health.ffn": {"dead": lambda i: 0.1 if i < 4 else 0.4},
    "health.residual": {"grown": lambda i: 2.0 if i < 4 else 400.0},
    "health.gradients": {"norm": lambda i: 1.5 if i < 4 else 400.0},
    "health.updates": {"ratio": lambda i: 1e-3 if i < 4 else 0.5},
    "loss.diverges": {"loss": lambda i: 2.0 if i < 4 else 5.0},
}


@pytest.mark.parametrize("check", BAD)
def test_what_lasts_is_said_and_what_passes_is_not(check):
    records = course(**BAD[check])
    said = [bool(judged(records[:n], Setting())) for n in range(1, 9)]
    assert said == [False] * 5 + [True] * 3  # from the third in a row
    assert {finding.check for finding in judged(records, Setting())} == {check}

    def once(make):
        return lambda i: make(9) if i in (4, 5) else make(1)

    passing = course(**{name: once(make) for name, make in BAD[check].items()})
    assert not any(judged(passing[:n], Setting()) for n in range(1, 9))


def test_few_sharp_heads_are_no_fault():
    sharp = course(entropy=lambda i: (0.001, 0.7, 0.8, 0.02, 0.3), scores=lambda i: (80.0, 8.0, 7.0, 60.0, 5.0))
    assert not judged(sharp, Setting())
    copying = course(entropy=lambda i: (0.001, 0.002, 0.004, 0.02), scores=lambda i: (15.0, 18.0, 17.0, 14.0))
    assert not judged(copying, Setting())  # every head looks at one key, and could still be turned


def test_a_gradient_between_layers_and_heads_that_learn_nothing():
    apart = course(gradient=lambda i: 5e3)
    assert {finding.check for finding in judged(apart, Setting())} == {"health.gradients"}
    even = course(count=12, entropy=lambda i: (0.9999,) * 4)
    assert not judged(even[:10], Setting())
    assert {finding.check for finding in judged(even, Setting())} == {"health.attention"}


def test_a_loss_no_better_than_guessing():
    stuck = course(count=12, loss=lambda i: float(np.log(VOCAB)))
    assert not judged(stuck[:9], Setting(vocab_size=VOCAB))
    assert {finding.check for finding in judged(stuck, Setting(vocab_size=VOCAB))} == {"loss.floor"}
    assert not judged(stuck, Setting())  # nobody said what it is a loss of
