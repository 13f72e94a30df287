"""The log: each number in it, computed by hand."""
import math

import pytest
import torch

import train
from data.tests.conftest import RUN, call, read_log, spy
from data.training.log import COLUMNS, LEVELS, Log


def by_hand(run, groups):
    """The first step's loss, where the network predicts 0: the mean square of the targets v.
    Also the errors of the unknown latent frames (n,) and their t / N (n,)."""
    total, count, errors, levels = 0, 0, [], []
    for video, _, known, _, t, eps in groups:
        with torch.no_grad():
            x0 = run.vae.encode(video)
        bar = run.process.alpha_bar[t][:, None, :, None, None]
        v = bar.sqrt() * eps - (1 - bar).sqrt() * x0
        errors.append(v.square().mean((1, 3, 4))[~known])
        levels.append(t[~known] / run.process.N)
        pixels = x0.shape[3] * x0.shape[4]
        total, count = total + errors[-1].sum() * pixels, count + len(errors[-1]) * pixels
    return (total / count).item(), torch.cat(errors), torch.cat(levels)


@pytest.mark.parametrize("shapes", ["", "16x32x32:2 8x24x32:3 1x32x32:2"])
def test_the_first_line_of_the_log_by_hand(trained, tmp_path, quick, monkeypatch, shapes):
    """At its initialisation the network predicts 0, so the loss and every column can be computed."""
    drawn, started = spy(monkeypatch, train, "draw_group"), spy(monkeypatch, train, "start")
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 1, "--log-every", 1, "--batch", 16,
         *(["--shapes", shapes] if shapes else []), "--out", tmp_path)
    run, line = started[0][2], read_log(tmp_path)[0]
    groups = [group for (_, step, _), _, group in drawn if step == 0]           # others: before a save
    loss, errors, levels = by_hand(run, groups)
    assert abs(float(line["loss"]) - loss) < 1e-4 * loss, (
        f"loss of step 1: expected the mean over unknown frames, {loss:.6g}, got {line['loss']}; are known "
        "frames counted, or every shape alike whatever its size?")
    for i, name in enumerate(LEVELS):
        here = errors[(levels * 10).floor().clamp(max=9) == i]
        expected = here.mean().item() if len(here) else -1          # -1: nothing at this level
        got = float(line[name]) if line[name] else -1
        assert abs(got - expected) < 1e-4 * abs(expected), (
            f"{name}: expected {expected}, the mean error of unknown frames at these levels, got {got}")


def test_a_level_has_its_column_and_known_frames_have_none():
    """t / N from 0.3 to 0.4 is counted in level_0.3, for each level of a process with N levels."""
    for N in (1000, 50):
        for i in range(1, N + 1):
            log = Log("unused", "cpu")
            error, t = torch.tensor([[3.0, 100.0]]), torch.tensor([[i, 0]]) / N
            log.add_levels(error, t, known=torch.tensor([[False, True]]))
            names = [name for name, n in zip(COLUMNS, log.sums[1].tolist()) if n]
            expected = [LEVELS[min(10 * i // N, 9)]]
            assert names == expected, f"t {i} of {N}: expected the error in {expected}, got it in {names}"
            assert log.sums[0].sum() == 3, "the error of a known frame was added"


def test_a_line_of_the_log_is_the_mean_since_the_last_one(tmp_path):
    log = Log(tmp_path / "log.csv", "cpu")
    log.cut_back("vae", 0)
    log.add(0.5, loss=torch.tensor(1.0))                           # half of a step
    log.add(0.5, loss=torch.tensor(1.0))
    log.add(1, kl=torch.tensor(5.0))
    log.add(1, loss=torch.tensor(3.0))
    log.write("vae", 2, 1.0)
    log.add(1, loss=torch.tensor(7.0))
    log.write("vae", 3, 2.0)
    rows = [(row["step"], row["loss"], row["kl"], row["error"]) for row in read_log(tmp_path)]
    assert rows == [("2", "2", "5", ""), ("3", "7", "", "")], (
        f"expected means of what was added since the last line, nothing where nothing was added; got {rows}")
    assert log.finite(), "nothing was added, and it is called not finite"
    log.add(1, loss=torch.tensor(math.inf))
    assert not log.finite(), "an infinite loss is called finite"
