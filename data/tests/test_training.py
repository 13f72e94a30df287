"""A training run: what it leaves, and each of its steps by arithmetic."""
import re
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import pytest
import torch

import sora
import train
from data.clips import folder as folders
from data.clips.folder import load_data
from data.clips.moving_mnist import MovingMNIST
from data.runtime.checkpoints import load_checkpoint, load_models
from data.tests.conftest import RUN, call, close, read_log, same, spy
from data.training.log import COLUMNS, LEVELS, Log

train_preview = train.preview                                       # the one that `quick` replaces


def test_train_leaves_pictures_a_log_and_a_checkpoint(trained):
    for name in ("preview.gif", "preview.png", "samples.gif", "samples.png"):
        assert iio.imread(trained / name).std() > 0, f"{name} is of one colour"
    log, printed = read_log(trained), (trained / "printed.txt").read_text()
    lines = [row["stage"] + row["step"] for row in log]
    expected = [f"vae{i}" for i in range(4, 21, 4)] + ["dit4", "dit8", "dit9"]
    assert lines == expected, f"log: expected lines {expected}, got {lines}"
    assert all(float(row["loss"]) > 0 for row in log), "a line of the log has no loss"
    vae, dit = log[0], log[-1]
    assert float(vae["error"]) > 0 and float(vae["kl"]) > 0, f"a VAE line without error and KL: {vae}"
    assert not dit["error"] and any(dit[level] for level in LEVELS), f"a dit line without levels: {dit}"
    state = load_checkpoint(trained / "sora.pt")
    assert state["words"] == [str(i) for i in range(10)], f"got words {state['words']}"
    assert (state["stage"], state["step"]) == ("dit", 9), f"got {state['stage']} {state['step']}"
    assert state["config"]["dim"] == 48 and isinstance(state["config"], dict), (
        "the config is not a plain dict")
    verdict = r"\ngot \d+\.\d dB .* \d+ % of the frames of 64 samples"
    assert re.search(verdict, printed), (
        f"the last line but one should say what came out, got {printed!r}")


@pytest.mark.parametrize("size", [0.5, 8.0])
def test_the_rate_warms_up_and_falls_and_the_gradient_is_clipped(size):
    """train.update with plain gradient descent as optimizer: everything is known in closed form."""
    total, direction = 400, torch.tensor([0.6, 0.0, -0.8])
    for i in (0, 24, 49, 50, 250, 399):
        p = torch.nn.Parameter(torch.zeros(3))
        p.grad = size * direction
        run = SimpleNamespace(step=i, stage="dit", world=1, log=Log("unused", "cpu"),
                              optimizers={"dit": [torch.optim.SGD([p], lr=1.0)]})
        train.update(run, torch.nn.ParameterList([p]), i / total, (0.01,))
        factor = min((i + 1) / 50, 1) * (1 - i / total)
        expected = -0.01 * factor * min(size, 1) * direction
        assert close(p.detach(), expected, atol=1e-8), (
            f"step {i} of {total}, gradient of norm {size}: expected a step of {expected.tolist()} (rate "
            f"0.01 x {factor:.4f}, norm at most 1), got {p.tolist()}")
        assert p.grad is None or not p.grad.any(), (
            "the gradient is not cleared: it would be added to the next")
        logged = run.log.sums[0, COLUMNS.index("grad_norm")].item()
        assert abs(logged - size) < 1e-5, (
            f"grad_norm: expected the norm before clipping, {size}, got {logged}")


def test_the_average_of_the_weights_by_hand(trained, tmp_path, quick, monkeypatch):
    """After step s it moves towards the weights by 1 - min(ema, (s + 1) / (s + 10))."""
    seen, real = [], train.steps_to_do

    def watched(run, total):
        copy = lambda net: [p.detach().clone() for p in net.parameters()]
        for i in real(run, total):
            before = copy(run.ema)
            yield i
            seen.append((i, before, copy(run.ema), copy(run.dit)))
    monkeypatch.setattr(train, "steps_to_do", watched)
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 14, "--ema", 0.5, "--out", tmp_path)
    assert [i for i, *_ in seen] == list(range(14)), f"steps seen: {[i for i, *_ in seen]}"
    for i, before, after, weights in seen:
        decay = min(0.5, (i + 1) / (i + 10))
        for a, b, w in zip(before, after, weights):
            assert close(b, decay * a + (1 - decay) * w, atol=1e-7), (
                f"step {i}: expected average = {decay:.3f} x the old one + {1 - decay:.3f} x the weights")


def test_averaged_weights_carry_no_history(trained, tmp_path, quick, monkeypatch):
    """The average is data, not a function of all weights so far: a graph would grow at every step."""
    started = spy(monkeypatch, train, "start")
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 2, "--out", tmp_path)
    run = started[0][2]
    assert not any(p.requires_grad or p.grad_fn for p in run.ema.parameters()), (
        "the average is part of a graph")
    assert not all(map(torch.equal, run.ema.parameters(), run.dit.parameters())), "the average is the weights"


def test_a_step_in_parts_is_the_same_step(trained, tmp_path, quick, monkeypatch):
    """--accumulate 2: the same gradient and the same loss, with half of the memory."""
    gradients, real = [], train.update

    def watched(run, net, *args):
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        real(run, net, *args)
    monkeypatch.setattr(train, "update", watched)
    for n in (1, 2):
        call(train.main, *RUN, "--vae-steps", 1, "--steps", 1, "--log-every", 1, "--accumulate", n, "--out",
             tmp_path / str(n))
    whole, parts = gradients[:2], gradients[2:]
    # the VAEs differ by rounding, which AdamW's first step makes larger; hence two tolerances
    for stage, a, b, atol in zip(("vae", "dit"), whole, parts, (1e-6, 2e-2)):
        worst = max((x - y).abs().max().item() for x, y in zip(a, b))
        assert worst < atol, (
            f"{stage}: gradients differ by {worst}: is a part weighted by its share of the batch?")
    one, two = (read_log(tmp_path / n) for n in "12")
    for a, b in zip(one, two):
        assert abs(float(a["loss"]) / float(b["loss"]) - 1) < 1e-2, (
            f"{a['stage']}: loss {a['loss']} in one part, {b['loss']} in two: is the log's mean taken twice?")


def test_stage_2_leaves_the_vae_alone(trained, tmp_path, quick, monkeypatch):
    started, graphs = spy(monkeypatch, train, "start"), []
    real = sora.VideoVAE.encode
    monkeypatch.setattr(sora.VideoVAE, "encode", lambda vae, video: (
        graphs.append(torch.is_grad_enabled()), real(vae, video))[1])
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 3, "--out", tmp_path)
    assert len(graphs) >= 3 and not any(graphs), (
        f"clips were encoded with gradients in {sum(graphs)} of {len(graphs)} calls: a waste of memory")
    vae = started[0][2].vae
    assert all(p.grad is None or not p.grad.any() for p in vae.parameters()), (
        "the VAE has gradients in stage 2")
    assert same(vae.state_dict(), load_checkpoint(trained / "sora.pt")["vae"]), "the VAE changed in stage 2"


def test_the_vae_is_measured_before_stage_2(trained, tmp_path, quick, monkeypatch):
    """Latents of fresh clips then have mean 0 and deviation 1, as the noise has."""
    real, seen = train.train_dit, []

    def watched(run):
        seen.append(load_checkpoint(run.out / "sora.pt"))
        real(run)
    monkeypatch.setattr(train, "train_dit", watched)
    call(train.main, *RUN, "--steps", 1, "--out", tmp_path)
    at_start = seen[0]
    assert (at_start["stage"], at_start["step"]) == ("dit", 0), "no checkpoint between the stages"
    mean, std = at_start["vae"]["mean"], at_start["vae"]["std"]
    assert mean.any() and (std != 1).all(), "the VAE's statistics were not measured before stage 2"
    models = load_models(trained / "sora.pt")
    video, _ = load_data(models.config, "train").clips(256, torch.Generator().manual_seed(9))
    with torch.no_grad():
        latent = models.vae.encode(video)
    mean, std = latent.mean((0, 2, 3, 4)), latent.std((0, 2, 3, 4))
    assert mean.abs().max() < 0.15 and (std - 1).abs().max() < 0.15, (
        f"latents of fresh clips: expected mean 0 and deviation 1 in each channel, got {mean.tolist()} and "
        f"{std.tolist()}")


def test_training_sees_no_held_out_digit(tmp_path, quick, monkeypatch):
    """What is trained on, what the VAE is measured with and what the transformer sees is split "train"."""
    asked, shown = spy(monkeypatch, folders, "load_digits"), spy(monkeypatch, MovingMNIST, "clips")
    call(train.main, *RUN, "--vae-steps", 2, "--steps", 2, "--out", tmp_path)
    splits = [args[0] for args, *_ in asked]
    assert splits and set(splits) == {"train"}, f"expected split 'train' only, got {splits}"
    assert len(shown) >= 2 + 16 + 2, f"expected clips for 2 + 2 steps and 16 for statistics, got {len(shown)}"
    own, = {id(args[0].images): args[0].images for args, *_ in shown}.values()
    assert len(own) == 4500, f"expected clips of the 4,500 training digits, got of {len(own)}"


def test_each_step_draws_numbers_of_its_own():
    """Clips, noise and windows differ between steps, shapes, stages and seeds, and are the same again."""
    def first(seed=0, stage="dit", step=3, purpose="noise", shape=0):
        run = SimpleNamespace(config=train.TrainConfig(seed=seed), stage=stage)
        return torch.rand(1, generator=train.rng(run, step, purpose, shape)).item()
    draws = [first(), first(seed=1), first(seed=2 ** 63 - 1), first(stage="vae"), first(step=4),
             first(purpose="clips"), first(shape=1)]
    assert len(set(draws)) == len(draws), f"two of these generators draw the same numbers: {draws}"
    assert first() == draws[0], "the same step draws other numbers the second time: it could not be resumed"


def test_a_share_of_the_steps_moves_latents(tmp_path, quick, monkeypatch):
    """--vae-shift 0.3: in 0.3 of the VAE's steps latents move by 0 to 7 pixels, either way; else not at all."""
    def clips(n, generator):
        return torch.zeros(n, 1, 4, 8, 8), None
    run = SimpleNamespace(config=train.TrainConfig(vae_shift=0.3), stage="vae", device="cpu",
                          mix=[(SimpleNamespace(clips=clips), 1)])
    shifts = [train.draw_clips(run, step)[2] for step in range(1000)]
    share = sum(any(shift) for shift in shifts) / len(shifts)
    assert abs(share - 0.3 * 63 / 64) < 0.05, f"expected latents to move in 0.3 of the steps, got {share}"
    for axis in (0, 1):
        assert {shift[axis] for shift in shifts} == set(range(8)), f"axis {axis}: expected moves of 0 to 7 pixels"
    losses = spy(monkeypatch, train, "vae_loss")
    call(train.main, *RUN, "--vae-steps", 3, "--steps", 1, "--vae-shift", 1, "--out", tmp_path)
    shifts = [args[4] for args, *_ in losses]
    assert len(set(shifts)) > 1 and any(map(any, shifts)), f"each step hands its shift to the loss, got {shifts}"


def test_the_last_samples_come_from_the_averaged_weights(trained, tmp_path, quick, monkeypatch):
    drawn, started = spy(monkeypatch, train.score, "pictures"), spy(monkeypatch, train, "start")
    monkeypatch.setattr(train, "preview", train_preview)
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 6, "--out", tmp_path)
    run = started[0][2]
    names = [Path(args[0]).name for args, *_ in drawn]
    assert names == ["preview.gif", "preview.gif", "samples.gif"], (
        f"expected two previews and samples, got {names}")
    for args, *_ in drawn:
        assert args[4] is run.ema, f"{args[0]}: expected samples of the average (run.ema), not of the weights"
    state = load_checkpoint(tmp_path / "sora.pt")
    assert same(state["ema"], run.ema.state_dict()) and same(state["dit"], run.dit.state_dict()), (
        "the checkpoint has the average and the weights mixed up")
    assert all(map(torch.equal, load_models(tmp_path / "sora.pt").dit.parameters(), run.ema.parameters())), (
        "load_models should sample with the averaged weights")
