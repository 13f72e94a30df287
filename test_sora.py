"""Tests of what must be true, not of shapes: inverses, invariances, closed forms, and the scripts from end to end.

    python -m pytest -q test_sora.py

Everything runs in float32 or float64 on the CPU in a few minutes; the networks are miniatures.
"""
import csv
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import sample
import sora
import train
from data.runtime import cli
from data.clips import files as clips
from data.evaluation import long_video as drift
from data.clips import folder as loader
from data.evaluation import metrics
from data.studies import mix
from data.studies import packing
from data.studies import plots
from data.evaluation import score
from data.weights import ship
from data.studies import study
from data.evaluation import ends as tasks
from data.evaluation.judge import Judge, real_clips
from data.clips.folder import load_data, load_mix
from data.clips.moving_mnist import MovingMNIST, load_digits, official_path, stochastic_path
from sora import (DDPM, TIME, Config, DiT, InputError, SiT, VideoVAE, diffusion_loss, draw_windows, extend, generate,
                  grid_coords, guided, load_checkpoint, patchify, rope_angles, rotate, save_checkpoint, take,
                  unpatchify)

HERE = Path(__file__).parent
MINI = Config(vae_width=8, dim=48, depth=2, heads=2, latent_channels=4)
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
cli.tune_cpu()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def lively(net):
    """Random values for every parameter: at its initialisation a DiT predicts 0, which proves little."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2 if p.ndim == 1 else p.shape[-1] ** -0.5)
    return net.eval()


# --- data ---------------------------------------------------------------------------------------------------------

def test_held_out_digits_are_not_training_digits():
    (train, train_labels), (held_out, held_out_labels) = load_digits("train"), load_digits("heldout")
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in held_out}
    assert np.bincount(train_labels).tolist() == [450] * 10 and np.bincount(held_out_labels).tolist() == [50] * 10


def test_official_rule_frame_by_frame():
    """Against the published loop, one digit and one number at a time."""
    rng = random.Random(0)
    for _ in range(50):
        y, x, theta = rng.random(), rng.random(), rng.random() * 2 * math.pi
        path = official_path(torch.tensor([y, x], dtype=torch.float64), torch.tensor(theta, dtype=torch.float64), 60)
        v_y, v_x = 0.1 * math.sin(theta), 0.1 * math.cos(theta)
        for frame in path:
            y, x = y + v_y, x + v_x
            if x <= 0:
                x, v_x = 0.0, -v_x
            if x >= 1:
                x, v_x = 1.0, -v_x
            if y <= 0:
                y, v_y = 0.0, -v_y
            if y >= 1:
                y, v_y = 1.0, -v_y
            assert [int(36 * c) for c in frame.tolist()] == [int(36 * y), int(36 * x)]


def test_stochastic_rule_frame_by_frame():
    """Against the published loop; both take the same redrawn velocities."""
    rng, size, free = random.Random(0), 60, 32
    for _ in range(50):
        start, speed = [rng.randint(0, 31) for _ in "yx"], [rng.randint(-4, 4) for _ in "yx"]
        redraw = [[(rng.randint(1, 4), rng.randint(-4, 4)) for _ in "yx"] for _ in range(size)]
        path = stochastic_path(torch.tensor(start), torch.tensor(speed), torch.tensor(redraw), [free, free])
        (y, x), (dy, dx) = start, speed
        for t in range(size):
            if y < 0:
                y, dy, dx = 0, redraw[t][0][0], redraw[t][0][1]
            elif y >= free:
                y, dy, dx = free - 1, -redraw[t][0][0], redraw[t][0][1]
            if x < 0:
                x, dx, dy = 0, redraw[t][1][0], redraw[t][1][1]
            elif x >= free:
                x, dx, dy = free - 1, -redraw[t][1][0], redraw[t][1][1]
            assert path[t].tolist() == [y, x]
            y, x = y + dy, x + dx


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_drawing_pastes_the_digits(rule):
    """Two overlapping digits: the larger value (official), the clipped sum (stochastic); captions name them."""
    data = MovingMNIST(*load_digits("train"), canvas=(40, 48), digit_size=28, n_digits=2, frames=3, rule=rule)
    digits, path = data.images[:2][None], torch.tensor([[[[0, 0], [5, 7]], [[12, 20], [1, 2]], [[3, 3], [3, 3]]]])
    video = data.draw(digits, path)
    for t in range(3):
        expected = torch.zeros(40, 48)
        for digit, (y, x) in zip(digits[0], path[0, t].tolist()):
            part = expected[y:y + 28, x:x + 28]
            part.copy_(torch.maximum(part, digit) if rule == "official" else (part + digit).clamp(max=1))
        assert torch.equal(video[0, 0, t], expected)


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_a_seed_means_the_same_clips(rule):
    data = MovingMNIST(*load_digits("train"), rule=rule)
    one, two, other = (data.clips(3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and not torch.equal(one[0], other[0])
    assert one[0].shape == (3, 1, 20, 64, 64) and one[0].min() == -1 and one[0].max() <= 1
    assert one[0].diff(dim=2).abs().amax(dim=(1, 2, 3, 4)).min() > 0, "a clip stands still"


def test_full_mnist_is_read_from_idx_files(tmp_path):
    rng = np.random.RandomState(0)
    for split, n in (("train", 30), ("t10k", 10)):
        images, labels = rng.randint(0, 256, (n, 28, 28), np.uint8), rng.randint(0, 10, n).astype(np.uint8)
        head = lambda array: b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(head(images) + images.tobytes())
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(head(labels) + labels.tobytes())
    read_images, read_labels = load_digits("heldout", tmp_path)
    assert np.array_equal(read_images, images) and np.array_equal(read_labels, labels)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="train-images"):
        load_digits("train", tmp_path)


# --- the VAE ------------------------------------------------------------------------------------------------------

def test_encoder_is_local_in_time():
    """Changing video frames 4..7 changes latent frame 1 and no other."""
    vae = lively(VideoVAE(MINI))
    video = torch.rand(1, 1, 16, 32, 32)
    changed = video.clone()
    changed[:, :, 4:8] = torch.rand(1, 1, 4, 32, 32)
    difference = (vae.encode(video) - vae.encode(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[1] > 0 and difference[[0, 2, 3]].max() == 0


def test_decoder_is_causal_in_time_and_uses_its_past():
    vae = lively(VideoVAE(MINI))
    latent = torch.randn(1, 4, 4, 4, 4)
    changed = latent.clone()
    changed[:, :, 2] += 1
    difference = (vae.decode(latent) - vae.decode(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert difference[:8].max() == 0 and difference[8:12].min() > 0 and difference[12:16].min() > 0


@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 3], [2, 5]])
def test_streaming_decode_equals_offline_decode(pieces):
    vae, cache = lively(VideoVAE(MINI)), {}
    latent = torch.randn(2, 4, 7, 4, 6)
    streamed = torch.cat([vae.decode(part, cache) for part in latent.split(pieces, dim=2)], dim=2)
    torch.testing.assert_close(streamed, vae.decode(latent), rtol=1e-4, atol=1e-5)


def test_latents_are_normalised_and_decode_inverts_that():
    vae = lively(VideoVAE(MINI))
    videos = [torch.rand(4, 1, 8, 32, 32) * 2 - 1 for _ in range(3)]
    raw = vae.moments(videos[0])[0]
    before = vae.paint(raw)
    vae.measure(videos)
    latent = torch.cat([vae.encode(video) for video in videos])
    torch.testing.assert_close(latent.mean(dim=(0, 2, 3, 4)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latent.std(dim=(0, 2, 3, 4)), torch.ones(4), rtol=1e-3, atol=0)
    torch.testing.assert_close(vae.decode(vae.encode(videos[0])), before, rtol=1e-3, atol=1e-4)


def test_conv_is_torch_conv():
    """The kernel kept as a matrix is a plain 3D convolution."""
    conv = sora.Conv3d(3, 5, (2, 3, 3))
    x = torch.randn(2, 3, 4, 6, 6)
    kernel = conv.kernel.view(5, 2, 3, 3, 3).permute(0, 4, 1, 2, 3).contiguous()
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1, 1, 0))
    torch.testing.assert_close(conv(x), torch.nn.functional.conv3d(padded, kernel, conv.bias))


# --- patches, positions, transformer ------------------------------------------------------------------------------

@pytest.mark.parametrize("p,F,h,w", [(1, 4, 4, 4), (2, 3, 4, 6), (2, 1, 8, 2)])
def test_patchify_is_inverted_by_unpatchify(p, F, h, w):
    latent = torch.randn(2, 5, F, h, w)
    tokens = patchify(latent, p)
    assert torch.equal(unpatchify(tokens, p, F, h, w), latent)
    f, y, x = (int(c) for c in grid_coords(F, h // p, w // p)[-2, :3])  # a token holds the patch at its coordinates
    patch = latent[:, :, f, y * p:(y + 1) * p, x * p:(x + 1) * p]
    assert torch.equal(tokens[:, -2], patch.flatten(1))


def test_rope_depends_on_relative_position_only():
    """q·k after turning stays the same when both move by the same (f,y,x), and changes when one moves alone."""
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64).unbind(0)
    at = lambda v, f, y, x: rotate(v, *rope_angles(torch.tensor([[f, y, x]], dtype=torch.float64), 32))
    score = lambda a, b: (at(q, *a) * at(k, *b)).sum()
    here = score((1, 2, 3), (4, 0, 5))
    torch.testing.assert_close(score((101, 2.5, 13), (104, 0.5, 15)), here)
    for moved in ((5, 0, 5), (4, 1, 5), (4, 0, 6)):
        assert (score((1, 2, 3), moved) - here).abs() > 1e-3


def test_block_is_the_identity_at_initialisation():
    dit = DiT(MINI, 10)
    x, condition, row = torch.randn(12, 48), torch.randn(2, 48), torch.tensor([0] * 6 + [1] * 6)
    rope = [part[:, None] for part in rope_angles(torch.rand(12, 3), 24)]
    assert torch.equal(dit.blocks[0](x, condition, row, rope, [torch.ones(2, 1, 6, 6).bool()], None), x)
    assert dit(torch.randn(2, 4, 4, 4, 4), torch.rand(2, 4), torch.ones(2, 1, dtype=torch.long)).abs().max() == 0


def test_tokens_are_a_set():
    """In another order, the tokens of a clip get the same predictions, in that order."""
    known = torch.tensor([True, False, False, True])
    dit = lively(DiT(MINI, 10))
    coords = grid_coords(4, 4, 4)
    tokens, row = torch.randn(64, 4), coords[:, 0].long()
    t, caption, order = torch.rand(4), torch.tensor([[1], [2], [3], [0]]), torch.randperm(64)
    out = dit.forward_tokens(tokens, coords, row, t, caption, known, [(1, 64)])
    shuffled = dit.forward_tokens(tokens[order], coords[order], row[order], t, caption, known, [(1, 64)])
    torch.testing.assert_close(shuffled, out[order], rtol=1e-4, atol=1e-5)


def test_packed_clips_do_not_see_each_other():
    """Clips of different sizes in one sequence give what each gives alone, outputs and gradients."""
    dit = lively(DiT(replace(MINI, patch=2), 10))
    dit.embed_word.weight.data[0] = 0                                          # "no word", which fills captions up
    groups = [(torch.randn(B, 4, F, h, w), torch.rand(B, F), torch.randint(1, 9, (B, words)), times,
               None if B == 1 else torch.rand(B, F) < 0.5)
              for B, F, h, w, words, times in ((2, 2, 4, 4, 1, None), (1, 1, 2, 6, 2, None),
                                               (3, 3, 4, 2, 1, torch.tensor([[-5, 1, 2]] * 3)))]
    alone = [dit(*group) for group in groups]
    sum(out.square().sum() for out in alone).backward()
    gradients = [p.grad.clone() for p in dit.parameters()]
    dit.zero_grad()
    packed = dit.packed(groups)
    for one, expected in zip(packed, alone):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    sum(out.square().sum() for out in packed).backward()
    for p, expected in zip(dit.parameters(), gradients):
        torch.testing.assert_close(p.grad, expected, rtol=1e-3, atol=1e-2)


def test_each_frame_feels_its_own_level_and_word():
    dit = lively(DiT(MINI, 10))
    x, t, caption = torch.randn(1, 4, 4, 4, 4), torch.full((1, 4), 0.5), torch.tensor([[3, 0]])
    out = dit(x, t, caption)
    for other in (dit(x, t.clone().index_fill_(1, torch.tensor([2]), 0.1), caption), dit(x, t, torch.tensor([[4, 0]]))):
        assert (other - out).abs().amax(dim=(0, 1, 3, 4)).min() > 0
    torch.testing.assert_close(dit(x, t, torch.tensor([[0, 3]])), out)           # a caption is a bag of words


# --- diffusion ----------------------------------------------------------------------------------------------------

def test_q_sample_has_the_stated_mean_and_variance():
    process, x0 = DDPM(), torch.full((1, 1, 2, 1, 1), 3.0).expand(1, 200000, 2, 1, 1)
    t = torch.tensor([[0, 400]])
    x = process.q_sample(x0, t, torch.randn(x0.shape))
    bar = process.alpha_bar[400].item()
    assert torch.equal(x[:, :, 0], x0[:, :, 0]), "level 0 is the data, bit for bit"
    assert abs(x[:, :, 1].mean() - 3 * bar ** 0.5) < 0.01 and abs(x[:, :, 1].var() - (1 - bar)) < 0.01


def test_posterior_follows_from_bayes_rule():
    """q(x_s | x_t, x0) is proportional to q(x_t | x_s) q(x_s | x0): a product of two Gaussians, on a grid."""
    process = DDPM()
    process.alpha_bar = process.alpha_bar.double()
    shape = lambda value: torch.full((1, 1, 1, 1, 1), value, dtype=torch.float64)
    for t, s in ((500, 499), (900, 300), (20, 19)):
        bar_t, bar_s = process.alpha_bar[t], process.alpha_bar[s]
        x0, x_t = 0.7, -0.4
        grid = torch.linspace(-8, 8, 400001, dtype=torch.float64)
        step = bar_t / bar_s
        log_p = -(x_t - step.sqrt() * grid) ** 2 / (2 * (1 - step))
        log_p -= (grid - bar_s.sqrt() * x0) ** 2 / (2 * (1 - bar_s))
        p = (log_p - log_p.max()).exp()
        mean = (p * grid).sum() / p.sum()
        variance = (p * (grid - mean) ** 2).sum() / p.sum()
        got_mean, got_variance = process.posterior(shape(x0), shape(x_t), torch.tensor([[t]]), torch.tensor([[s]]))
        torch.testing.assert_close(got_mean.squeeze(), mean, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(got_variance.squeeze(), variance, rtol=1e-4, atol=1e-9)


def test_alpha_bar_is_the_product_of_one_minus_beta():
    bar = DDPM(100).alpha_bar
    assert bar[0] == 1 and len(bar) == 101 and (bar.diff() < 0).all() and 0 < bar[-1] < 1e-3
    assert ((1 - bar[1:] / bar[:-1]) <= 0.9991).all()
    assert DDPM().level_of(0.0) == 0
    level = DDPM().level_of(0.1)
    deviation = (1 - DDPM().alpha_bar).sqrt()
    assert deviation[level - 1] < 0.1 <= deviation[level]


SIGMA = 0.5  # deviation of the Gaussian data below


def exact(process):
    """The optimal prediction for data ~ N(0, SIGMA^2): every conditional expectation is linear in x."""
    def model(x, t, caption):
        if isinstance(process, SiT):
            t = sora.per_frame(t, x)
            a, s = 1 - t, t
            gain = (s - a * SIGMA ** 2) / (a ** 2 * SIGMA ** 2 + s ** 2)       # E[eps - x0 | x_t] / x_t
            return gain * x
        a, s = process.signal_noise((t * process.N).round().long(), x)
        total = a ** 2 * SIGMA ** 2 + s ** 2
        x0, eps = a * SIGMA ** 2 / total * x, s / total * x
        return {"v": a * eps - s * x0, "eps": eps, "x0": x0}[process.prediction]
    return model


def gaussian_deviation(process, sampler, steps):
    """The gain of a whole sampling run of a deterministic sampler on one number, in float64."""
    x = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    schedule = process.schedule(steps)[:, None, None]
    schedule = schedule.double() if isinstance(process, SiT) else schedule
    for t, s in zip(schedule[:-1], schedule[1:]):
        x = getattr(process, sampler)(exact(process), x, t, s, None)
    return x.item()


def ancestral_gain(process, t, s):
    """With the exact denoiser, ancestral is x_s = gain x_t + noise: the gain, from the formulas on paper."""
    bar_t, bar_s = process.alpha_bar.double()[t].item(), process.alpha_bar.double()[s].item()
    to_x0 = bar_t ** 0.5 * SIGMA ** 2 / (bar_t * SIGMA ** 2 + 1 - bar_t)
    beta = 1 - bar_t / bar_s
    gain = bar_s ** 0.5 * beta / (1 - bar_t) * to_x0 + (bar_t / bar_s) ** 0.5 * (1 - bar_s) / (1 - bar_t)
    return gain, beta * (1 - bar_s) / (1 - bar_t)


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_ancestral_follows_the_gaussian_recursion(prediction):
    """The variance after each step is gain^2 x the variance before + that of the noise."""
    process = DDPM(1000, prediction)
    schedule = process.schedule(25).tolist()
    x, variance = torch.randn(1, 200000, 1, 1, 1), 1.0
    for t, s in zip(schedule[:-1], schedule[1:]):
        x = process.ancestral(exact(process), x, torch.tensor([[t]]), torch.tensor([[s]]), None)
        gain, noise = ancestral_gain(process, t, s)
        variance = gain ** 2 * variance + noise
        assert abs(x.var().item() / variance - 1) < 0.03


def test_ancestral_converges_at_order_1(monkeypatch):
    """The gains that the code has (its noise silenced) and its posterior variances lead to the data's variance."""
    process = smooth_ddpm()
    one = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.zeros(shape, dtype=torch.float64))
    errors = []
    for steps in (32, 64, 128):
        schedule, variance = process.schedule(steps)[:, None, None], 1.0
        for t, s in zip(schedule[:-1], schedule[1:]):
            gain = process.ancestral(exact(process), one, t, s, None).item()
            variance = gain ** 2 * variance + process.posterior(one, one, t, s)[1].item()
        errors.append(abs(variance - SIGMA ** 2))
    assert all(1.6 < coarse / fine < 2.5 for coarse, fine in zip(errors, errors[1:])), errors


def smooth_ddpm():
    """A cosine schedule in float64 that is smooth to the very end, where the usual one is clipped."""
    process = DDPM(4096)
    process.alpha_bar = torch.cos(torch.arange(4097, dtype=torch.float64) / 4097 * math.pi / 2) ** 2
    return process


@pytest.mark.parametrize("sampler,order", [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_deterministic_samplers_converge_at_their_order(sampler, order):
    """The flow must take deviation 1 to SIGMA; the error falls by 2^order when the steps double."""
    process = smooth_ddpm() if sampler == "ddim" else SiT()
    errors = [abs(gaussian_deviation(process, sampler, steps) - SIGMA) for steps in (32, 64, 128)]
    for coarse, fine in zip(errors, errors[1:]):
        assert 0.8 * 2 ** order < coarse / fine < 1.25 * 2 ** order, errors


def test_guidance_is_linear_and_acts_on_every_channel():
    dit = lively(DiT(MINI, 10))
    x, t, caption = torch.randn(2, 4, 4, 4, 4), torch.rand(2, 4), torch.tensor([[1], [2]])
    known, noise = torch.tensor([[True, False, False, True]] * 2), torch.randn(2, 4, 4, 4, 4)
    run = lambda scale, history: guided(dit, known, noise, scale, history)(x, t, caption)
    one, none = dit(x, t, caption), dit(x, t, caption * 0)
    blind = dit(torch.where(known[:, None, :, None, None], noise, x), t.masked_fill(known, 1), caption * 0)
    for (scale, history), expected in {(1, 1): one, (3, 1): none + 3 * (one - none), (2, 2): blind + 2 * (one - blind),
                                       (3, 2): blind + 2 * (none - blind) + 3 * (one - none), (0, 1): none}.items():
        torch.testing.assert_close(run(scale, history), expected, rtol=1e-4, atol=1e-4)
    assert ((run(3, 1) - one).abs().amax(dim=(0, 2, 3, 4)) > 1e-3).all()


KNOWN = {"none": [], "first": [0], "prefix": [0, 1], "suffix": [3], "both ends": [0, 3], "middle": [1, 2],
         "every other": [0, 2], "all": [0, 1, 2, 3]}


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "euler", "heun"])
@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_known_frames_come_back_bit_equal(sampler, known, noise):
    process = DDPM() if sampler in DDPM.samplers else SiT()
    mask = torch.tensor([f in known for f in range(4)])
    latent = torch.randn(2, 4, 4, 4, 4)
    out = generate(lively(DiT(MINI, 10)), process, latent, mask, torch.tensor([[1], [2]]), None, 4, 2.0, 1.5, sampler,
                   noise)
    assert torch.equal(out[:, :, mask], latent[:, :, mask]) and torch.isfinite(out).all()
    if not mask.all():
        assert (out[:, :, ~mask] - latent[:, :, ~mask]).abs().min(dim=1).values.max() > 0


@pytest.mark.parametrize("known", [KNOWN[name] for name in ("first", "prefix", "suffix", "both ends", "middle")])
def test_remembered_frames_change_nothing(known):
    """Keys and values of known frames computed once, or anew at every step in one pass with the others: the same."""
    dit, mask = lively(DiT(MINI, 10)), torch.tensor([f in known for f in range(4)])
    latent, times, outputs = torch.randn(2, 4, 4, 4, 4), torch.tensor([-7, 0, 1, 3]), []
    for model in (dit, lambda x, t, caption, times: dit(x, t, caption, times, mask.expand(t.shape))):
        outputs.append(generate(model, DDPM(), latent, mask, torch.tensor([[1], [2]]), times, 5, 2.0, 1.5, None, 0.1,
                                generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)


def test_known_frames_do_not_see_the_others():
    """What is predicted for known frames does not change with the others; what is predicted for these does."""
    dit, x = lively(DiT(MINI, 10)), torch.randn(1, 4, 4, 4, 4)
    known, t, words = torch.tensor([[True, False, False, True]]), torch.rand(1, 4), torch.ones(1, 1).long()
    one, two = (dit(x + shift * ~known[:, None, :, None, None], t, words, None, known) for shift in (0, 1))
    same = ((one - two).abs() < 1e-5).all(dim=1).flatten(2).all(dim=2)
    assert torch.equal(same, known)


def test_a_clip_does_not_depend_on_its_neighbours():
    """With a generator for each clip, the third of three is the one that its seed gives alone."""
    seeds = lambda *seeds: [torch.Generator().manual_seed(seed) for seed in seeds]
    dit, nothing = lively(DiT(MINI, 10)), torch.zeros(3, 4, 4, 4, 4)
    run = lambda n, generators: generate(dit, DDPM(), nothing[:n], torch.zeros(4).bool(), torch.ones(n, 1).long(),
                                         steps=4, generator=generators)
    torch.testing.assert_close(run(3, seeds(0, 1, 2))[2:], run(1, seeds(2)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("process", [DDPM(), SiT()], ids=["ddpm", "sit"])
def test_known_frames_reach_the_model_at_the_level_they_have(process):
    """Clean known frames at level 0; with context noise, noise of that very deviation is in them."""
    seen = []

    def model(x, t, caption):
        seen.append((x, t))
        return torch.zeros_like(x)
    latent, known = torch.ones(1, 20000, 3, 1, 1), torch.tensor([True, False, False])
    words = torch.zeros(1, 1).long()
    generate(model, process, latent, known, words, steps=3)
    assert all(torch.equal(x[:, :, 0], latent[:, :, 0]) and (t[:, 0] == 0).all() for x, t in seen)
    seen.clear()
    generate(model, process, latent, known, words, steps=3, context_noise=0.2)
    for x, t in seen:
        assert abs(x[:, :, 0].std() - 0.2) < 0.01 and (t[:, 0] > 0).all() and torch.equal(t[:, 0], seen[0][1][:, 0])


def test_loss_ignores_known_frames():
    """A model that is right on unknown frames and wild on known ones has loss 0."""
    process = SiT()
    x0 = torch.zeros(64, 2, 4, 2, 2)

    known = draw_windows(MINI, 64, 4)[0]

    def model(groups):                                                         # x0 = 0, so eps = x / t
        return [torch.where(sora.per_frame(known, x), 1e6, x / sora.per_frame(t, x).clamp(min=1e-6))
                for x, t, *_ in groups]
    loss, error, t = diffusion_loss(model, process, MINI, [(x0, torch.zeros(64, 1).long(), known, None)])
    assert loss < 1e-6 and torch.equal(t.view(64, 4) == 0, known) and 0.05 < known.float().mean() < 0.6


def test_every_unknown_token_weighs_the_same():
    """A large clip counts as many times as it has more tokens, packed with a small one or each alone."""
    plain = lambda B, F: torch.zeros(B, F, dtype=torch.bool)
    groups = [(torch.randn(3, 4, 2, 4, 6), torch.ones(3, 1).long(), plain(3, 2), None),
              (torch.randn(2, 4, 1, 2, 2), torch.ones(2, 1).long(), plain(2, 1), None)]
    rng = torch.Generator().manual_seed(0)
    loss, error, t = diffusion_loss(lambda noisy: [x * 0 for x, *_ in noisy], SiT(), MINI, groups, rng)
    assert error.shape == t.shape == (8,)
    torch.testing.assert_close(loss, (error[:6].sum() * 24 + error[6:].sum() * 4) / (6 * 24 + 2 * 4))


def test_training_windows_hold_every_use():
    """Each kind in its share; anchors come from where `times` says, beyond `far` also from farther away; the two
    of a clip on their own; a still is the frame before what follows."""
    known, times, frames = draw_windows(Config(), 4000, 4, torch.Generator().manual_seed(0))
    assert not known.all(dim=1).any() and abs(known.any(dim=1).float().mean() - 0.5) < 0.03
    patterns = {tuple(row) for row in known.int().tolist()}
    assert patterns == {tuple(int(f < a or f >= 4 - b) for f in range(4)) for a in range(4) for b in range(4 - a)}
    assert abs((known[:, 0] & known[:, 3]).float().mean() - 0.5 / 3 * 2 / 3) < 0.02            # both ends
    moved = times != torch.arange(4)
    assert (known | ~moved).all() and not moved[:, 1:3].any()
    per_latent = frames.view(4000, 4, 4)
    for end, sign in ((0, -1), (3, 1)):                                        # before the clip, after the clip
        seems, is_ = (sign * (at[:, end] - end)[moved[:, end]] for at in (times, per_latent[:, :, 0] // TIME))
        assert abs(moved[known[:, end], end].float().mean() - 0.5) < 0.05
        assert is_.min() == 1 and is_.max() == 24 and torch.equal(seems, is_.clamp(max=12))
    both = moved[known[:, 0] & known[:, 3]][:, [0, 3]]                         # each in half of them, both in a quarter
    assert (both.float().mean(0) - 0.5).abs().max() < 0.1 and abs(both.all(1).float().mean() - 0.25) < 0.1
    still = (per_latent.diff(dim=2) == 0).all(dim=2)
    assert (known | ~still).all() and not still[:, 1:].any() and (still & moved).any()
    assert abs(still[known[:, 0], 0].float().mean() - 0.25) < 0.05
    assert (per_latent[still[:, 0], 0] % TIME == TIME - 1).all()
    still_before = still[:, 0] & ~moved[:, 0]
    assert (per_latent[still_before, 0, 3] + 1 == per_latent[still_before, 1, 0]).all()
    assert torch.equal(per_latent[~still & ~moved],
                       TIME * times[~still & ~moved][:, None] + torch.arange(4))
    image = draw_windows(Config(), 9, 1)
    assert not image[0].any() and torch.equal(image[2], torch.full((9, 4), 3))                 # the same frame
    plain = draw_windows(replace(Config(), known=0), 9, 3)
    assert not plain[0].any() and torch.equal(plain[2], torch.arange(12).expand(9, -1))


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_frames_of_a_clip_in_any_order(rule):
    """Clips shown by frame number: those of the same seed in a row, picked."""
    data = lambda frames: MovingMNIST(*load_digits("train"), (32, 32), 20, 1, frames, rule)
    pick = torch.tensor([[5, 5, 0, 19], [8, 6, 7, 5]])                         # a clip begins with its first one
    row = data(20).clips(2, torch.Generator().manual_seed(1))[0]
    picked = data(4).clips(2, torch.Generator().manual_seed(1), pick - 7)[0]
    assert torch.equal(picked, torch.stack([row[i][:, pick[i] - pick[i].min()] for i in range(2)]))


@pytest.mark.parametrize("backward", [False, True])
def test_the_anchor_stays_in_the_window_at_its_place(backward):
    seen = []

    def model(x, t, caption, times=None):
        seen.append((x.clone(), t, None if times is None else times[0].tolist()))
        return torch.zeros_like(x)
    past = torch.randn(1, 2, 1, 2, 2)
    windows = extend(model, SiT(), past, torch.zeros(1, 1).long(), 4, 1, anchor=5, backward=backward, steps=1)
    sizes = [next(windows).shape[2] for _ in range(5)]
    assert sizes == [3, 2, 2, 2, 2]                                             # it takes up one place
    assert all(torch.equal(x[:, :, 0], past[:, :, 0]) and t[0, 0] == 0 for x, t, _ in seen)
    expected = [[0, 1, 2, 3], [-3, 0, 1, 2], [-5, 0, 1, 2], [-6, 0, 1, 2], [-6, 0, 1, 2]]
    assert [t for _, _, t in seen] == [[-i for i in t] if backward else t for t in expected]


def test_extension_continues_from_the_newest_frames():
    """Each window sees the last `context` frames, unchanged, and what it yields becomes the past of the next."""
    past, seen = torch.randn(1, 4, 3, 4, 4), []

    def model(x, t, caption, times):
        seen.append(x[:, :, :2].clone())
        return torch.zeros_like(x)
    windows = extend(model, SiT(), past, torch.zeros(1, 1).long(), window=4, context=2, steps=1)
    first, second = next(windows), next(windows)
    assert torch.equal(seen[0], past[:, :, -2:]) and torch.equal(seen[1], first) and second.shape[2] == 2


def test_backward_extension_mirrors_forward():
    """To a model that cannot tell -1 from 1 in time, going backward is going forward in a mirror."""
    past, words = torch.randn(1, 2, 3, 2, 2), torch.zeros(1, 1).long()

    def model(x, t, caption, times):
        return x - (x * times.abs()[:, None, :, None, None]).mean(dim=2, keepdim=True)
    made = {}
    for backward in (False, True):
        windows = extend(model, SiT(), past.flip(2) if backward else past, words, 4, 2, backward=backward, steps=4,
                         generator=torch.Generator().manual_seed(0))
        made[backward] = [next(windows), next(windows)]
    for one, two in zip(made[False], made[True]):
        assert one.shape[2] == 2 and torch.allclose(one, two.flip(2), atol=1e-6)
    frames = take(extend(model, SiT(), past.flip(2), words, 4, 2, backward=True, steps=4,
                         generator=torch.Generator().manual_seed(0)), 3, backward=True)
    assert torch.equal(frames, torch.cat(made[True][::-1], dim=2)[:, :, -3:])  # the nearest last


@pytest.mark.parametrize("gap", [1, 2, 3, 7, 8])
def test_connecting_fills_the_gap(gap):
    """Whatever its length; the last window sees both ends, unchanged."""
    before, after, seen = torch.randn(1, 2, 3, 2, 2), torch.randn(1, 2, 2, 2, 2), []

    def model(x, t, caption, times):
        seen.append((x[:, :, 0], x[:, :, -1]))
        assert times[0].tolist() == list(range(x.shape[2]))
        return torch.zeros_like(x)
    middle = sora.connect(model, SiT(), before, after, gap, torch.zeros(1, 1).long(), window=4, context=2, steps=1)
    assert middle.shape[2] == gap and torch.equal(seen[-1][1], after[:, :, 0])
    newest = torch.cat([before, middle], dim=2)[:, :, 3 + max(gap - 2, 0) - 1]
    assert torch.equal(seen[-1][0], newest)


def test_far_anchors_seem_as_far_in_sampling_as_in_training():
    config, seen = replace(Config(), known=1, anchors=1, reach=24), []
    known, times, _ = draw_windows(config, 2000, 4, torch.Generator().manual_seed(0))
    before, after = times[:, 1] - times[:, 0], times[:, 3] - times[:, 2]       # 1 + what lies between
    farthest = {before[known[:, 0]].max().item(), after[known[:, 3]].max().item()}

    def model(x, t, caption, times):
        seen.append(times[0].diff().max().item())
        return torch.zeros_like(x)
    end, words = torch.randn(1, 2, 1, 2, 2), torch.zeros(1, 1).long()
    windows = extend(model, SiT(), end.expand(-1, -1, 30, -1, -1), words, 4, 1, anchor=config.far, steps=1)
    next(windows)
    sora.connect(model, SiT(), end, end, 30, words, window=4, context=1, anchor=config.far, steps=1)
    assert farthest == {max(seen)} and seen[:2] == [max(seen)] * 2


def test_the_other_end_is_in_sight():
    """With anchors every window ends with the first frame of what comes after, at its place or as far as practised."""
    before, after, seen = torch.randn(1, 2, 1, 2, 2), torch.randn(1, 2, 1, 2, 2), []

    def model(x, t, caption, times):
        assert torch.equal(x[:, :, -1], after[:, :, 0]) and x.shape[2] == 4
        seen.append(times[0].tolist())
        return torch.zeros_like(x)
    middle = sora.connect(model, SiT(), before, after, 8, torch.zeros(1, 1).long(), window=4, context=1, anchor=4,
                          steps=1)
    assert middle.shape[2] == 8 and seen == [[0, 1, 2, 7], [0, 1, 2, 7], [0, 1, 2, 5], [0, 1, 2, 3]]


@pytest.mark.parametrize("process", [DDPM(), SiT()], ids=["ddpm", "sit"])
def test_strength_says_how_much_is_left(process):
    """At 1 the unknown frames do not matter; the less, the nearer the result is to them (SDEdit)."""
    latent, known = torch.randn(1, 4, 3, 2, 2), torch.tensor([True, False, False])
    words, model = torch.zeros(1, 1).long(), lambda x, t, caption: torch.zeros_like(x)
    run = lambda latent, strength: generate(model, process, latent, known, words, steps=20, strength=strength,
                                            sampler=process.samplers[1 if process.N > 1 else 0],
                                            generator=torch.Generator().manual_seed(1))
    other = torch.cat([latent[:, :, :1], torch.randn(1, 4, 2, 2, 2)], dim=2)
    assert torch.equal(run(latent, 1.0), run(other, 1.0))
    far = [(run(latent, strength) - latent).square().mean().item() for strength in (0.05, 0.3, 0.6, 0.9)]
    assert far == sorted(far) and far[0] < 0.2 * far[-1]


@pytest.mark.parametrize("process", ["ddpm", "sit"])
def test_one_batch_can_be_overfitted(process):
    """The VAE, then the transformer, on two clips: the loss falls to a small part of where it began."""
    data = MovingMNIST(*load_digits("train"), (32, 32), 20, 1, 8)
    video, caption = data.clips(2, torch.Generator().manual_seed(0))
    vae = VideoVAE(replace(MINI, vae_width=16))
    optimizer = torch.optim.AdamW(vae.parameters(), 4e-3)
    first = vae.loss(video, 0)[1].item()
    for _ in range(150):
        optimizer.zero_grad()
        loss, error, _ = vae.loss(video, 1e-4)
        loss.backward()
        optimizer.step()
    assert error < 0.25 * first
    vae.measure([video])
    latent = vae.encode(video).detach()
    dit, process = DiT(MINI, 10), sora.make_process(replace(MINI, process=process))
    optimizer = torch.optim.AdamW(dit.parameters(), 3e-3)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        known, x0 = draw_windows(MINI, 16, 2)[0], latent.repeat(8, 1, 1, 1, 1)
        loss = diffusion_loss(dit.packed, process, MINI, [(x0, caption.repeat(8, 1), known, None)])[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.35 * np.mean(losses[:5])


# --- the score ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module", params=[1, 2])
def judged(request):
    """A judge, and held-out clips: (judge, video, caption)."""
    size = {1: {}, 2: dict(height=64, width=64, frames=20, digits=2, digit_size=28)}[request.param]
    config = Config(**size)
    return Judge(config), *real_clips(config, "heldout", 128, seed=1)


def shuffled(video, strength):
    """2, 4, 8, 16 frames of each clip change places."""
    video, count = video.clone(), 2 ** strength
    for clip in video:
        which = torch.randperm(video.shape[2])[:count].sort().values
        clip[:, which] = clip[:, which[torch.randperm(count)]]
    return video


def swapped(video, strength):
    """From the middle on, one clip in four (two, three, four) goes on with the digits of another."""
    video, many, half = video.clone(), len(video) * strength // 4, video.shape[2] // 2
    video[:many, :, half:] = video.roll(1, 0)[:many, :, half:]
    return video


def jittered(video, strength):
    """Each frame is moved by up to 1, 2, 3, 4 pixels."""
    video = video.clone()
    for clip in video:
        for t in range(video.shape[2]):
            clip[:, t] = clip[:, t].roll(torch.randint(-strength, strength + 1, (2,)).tolist(), (1, 2))
    return video


def blurred(video, strength):
    """A Gaussian of deviation 0.5, 1, 1.5, 2 pixels."""
    taps = torch.exp(-torch.arange(-7, 8) ** 2 / (0.5 * strength ** 2))
    taps = (taps / taps.sum()).view(1, 1, 1, 15)
    frames = video.transpose(1, 2).flatten(0, 1) + 1
    for kernel in (taps, taps.transpose(2, 3)):
        frames = torch.nn.functional.conv2d(frames, kernel, padding=(kernel.shape[2] // 2, kernel.shape[3] // 2))
    return frames.unflatten(0, (len(video), -1)).transpose(1, 2) - 1


def frozen(video, strength):
    """The last 3, 6, 9, 12 frames stand still."""
    last = video.shape[2] - 3 * strength
    return torch.cat([video[:, :, :last], video[:, :, last - 1:last].expand(-1, -1, 3 * strength, -1, -1)], dim=2)


@pytest.mark.parametrize("judged,damage,metric,sign", [
    (1, shuffled, "wobble", 1), (1, swapped, "permanence", -1), (1, jittered, "wobble", 1), (1, blurred, "ssim", -1),
    (1, frozen, "speed", -1), (2, swapped, "permanence", -1)], indirect=["judged"])
def test_metrics_rank_every_damage_by_its_strength(judged, damage, metric, sign):
    """Real clips are best, and each of four strengths is worse than the one before: by the metric meant to catch that
    damage, and by the Frechet distance."""
    judge, video, caption = judged
    rows = []
    for strength in range(5):
        bad = damage(video, strength) if strength else video
        rows.append(judge.measure(bad, caption) | score.likeness(video, bad))
    for name, direction in ((metric, sign), ("frechet", 1)):
        values = [row[name][0] * direction for row in rows]
        assert all(a < b for a, b in zip(values, values[1:])), (name, values)


def test_held_out_clips_look_real(judged):
    judge, video, caption = judged
    held_out = judge.measure(video, caption)
    training = judge.measure(*real_clips(judge.config, "train", 128, seed=2))
    assert held_out["legibility"][0] > 0.85 and held_out["permanence"][0] > 0.9
    assert judge.measure(video, caption % 10 + 1)["legibility"][0] < 0.1
    assert training["frechet"][0] < 25 and held_out["frechet"][0] < 25
    if judge.config.digits == 1:
        assert training["nearest"][0] < 0.01 < held_out["nearest"][0]


def test_two_digits_count_as_permanent_only_across_an_overlap():
    """Digits that meet and part count, those that stay apart do not; how far apart they are is seen from the ink."""
    data = MovingMNIST(*load_digits("heldout"), (64, 64), 28, 2, 20)
    path = torch.zeros(3, 20, 2, 2, dtype=torch.long)
    path[:, :, 0], path[:2, :, 1], path[2, :, 1] = 18, (36 - 2 * torch.arange(20)).clamp(min=0)[:, None], 36
    ink = data.draw(data.images[torch.tensor([[3, 400]] * 3)], path)[:, 0]
    true = (path[:, :, 0] - path[:, :, 1]).float().norm(dim=-1)
    assert (metrics.separation(ink, 28) - true).abs().mean() < 4
    readings = torch.tensor([[1, 2]] * 10 + [[1, 7]] * 10).expand(3, -1, -1).clone()
    readings[1, 10:] = readings[1, 0]
    assert metrics.permanence(readings, ink, 28).nan_to_num(-1).tolist() == [0, 1, -1]
    assert metrics.permanence(readings[:, :8], ink[:, :8], 28).shape == (3,)


def test_ssim_and_psnr_against_closed_forms():
    """Flat pictures have no structure: SSIM is its luminance term. A constant error e has PSNR -20 log10 e."""
    a, b = torch.full((2, 1, 3, 16, 16), 0.2), torch.full((2, 1, 3, 16, 16), -0.4)
    x, y = 0.6, 0.3                                                            # the same in [0,1]
    expected = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    assert torch.allclose(metrics.ssim(a, b), torch.full((2,), expected), atol=1e-5)
    assert torch.allclose(metrics.ssim(a, a), torch.ones(2), atol=1e-5)
    noisy = torch.rand(2, 1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):                                # whatever the model runs in
        inside = metrics.ssim(a, noisy)
    assert torch.equal(inside, metrics.ssim(a, noisy))
    assert metrics.psnr(metrics.squared_error(a, b)).item() == pytest.approx(-20 * math.log10(0.3), abs=1e-4)


def test_frechet_distance_between_known_gaussians():
    """Independent axes with deviations s and means m: the sum of (m - m')^2 + (s - s')^2."""
    noise = torch.randn(20000, 4, dtype=torch.float64)
    scale, shift = torch.tensor([1.0, 2.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, -2.0, 0.5])
    expected = ((scale - 1) ** 2 + shift ** 2).sum().item()
    other = torch.randn(20000, 4, dtype=torch.float64) * scale + shift
    assert metrics.frechet(noise, other).item() == pytest.approx(expected, rel=0.03)
    assert abs(metrics.frechet(noise, noise).item()) < 1e-6


def test_handwriting_does_not_depend_on_the_position():
    """The same digit elsewhere is the same hand; another digit is not; its nearest training digit is itself."""
    data = MovingMNIST(*load_digits("train"), (40, 40), 20, 1, 1)
    digits = data.images[[5, 900, 2500]]
    place = lambda y, x: torch.nn.functional.pad(digits, (x, 20 - x, y, 20 - y))[:, None, None] * 2 - 1
    here, there = metrics.handwriting(place(3, 4), 24), metrics.handwriting(place(12, 9), 24)
    assert metrics.distance(here, there).max() < 1e-3 < 0.1 < metrics.distance(here, there.roll(1, 0)).min()
    training = metrics.handwriting(data.images[:, None, None] * 2 - 1, 24)
    far, which = metrics.nearest(here, training)
    assert which.tolist() == [5, 900, 2500] and far.max() < 0.02


def test_interval_holds_the_mean():
    values = torch.randn(400) + 3
    mean, low, high = metrics.interval(values)
    assert low < 3 < high and abs(high - low - 2 * 1.96 / 20) < 0.04 and low < mean < high


# --- checkpoints and scripts --------------------------------------------------------------------------------------

def test_checkpoint_round_trip(tmp_path):
    state = dict(step=3, weights={"a": torch.randn(3)}, words=["0", "1"], config={"dim": 48})
    save_checkpoint(tmp_path / "x.pt", **state)
    back = load_checkpoint(tmp_path / "x.pt")
    assert torch.equal(back["weights"]["a"], state["weights"]["a"]) and back["words"] == ["0", "1"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


TINY_RUN = ("--vae-width 8 --dim 48 --depth 2 --heads 2 --vae-steps 7 --steps 9 --batch 4 --vae-batch 2 "
            "--sample-steps 2 --log-every 4 --save-every 5 --device cpu").split()


def script(name, *args, code=0):
    """Runs a script as a user would, in a process of its own; returns what it printed."""
    done = subprocess.run([sys.executable, str(HERE / name), *map(str, args)], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def call(main, *args):
    """The same without the seconds that importing torch takes."""
    return main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A miniature, trained from end to end by train.py: too short to be good, long enough to be whole."""
    out = tmp_path_factory.mktemp("run")
    printed = script("train.py", *TINY_RUN, "--out", out)
    assert "expected" in printed and "got" in printed
    return out


def test_train_leaves_pictures_a_log_and_a_checkpoint(trained):
    for name in ("preview.gif", "preview.png", "samples.gif", "samples.png"):
        assert iio.imread(trained / name).std() > 0, name
    log = list(csv.DictReader((trained / "log.csv").open()))
    assert [row["stage"] + row["step"] for row in log] == ["vae4", "vae7", "dit4", "dit8", "dit9"]
    assert all(float(row["loss"]) > 0 for row in log)
    assert any(row[f"level_{i / 10:.1f}"] for row in log for i in range(10) if row["stage"] == "dit")
    state = load_checkpoint(trained / "sora.pt")
    assert state["words"] == [str(i) for i in range(10)] and "train.py" in state["command"]


def same(a, b):
    """Equal, bit for bit, all the way down."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(*folders):
    """Bit for bit the same checkpoint and log, but for the clock and the command line."""
    one, two = (load_checkpoint(folder / "sora.pt") for folder in folders)
    for key in one.keys() - {"seconds", "command"}:
        assert same(one[key], two[key]), key
    one, two = (list(csv.DictReader((folder / "log.csv").open())) for folder in folders)
    for row in one + two:
        del row["seconds"]
    assert one == two


def test_averaged_weights_carry_no_history(tmp_path, monkeypatch):
    """The average is data, not a function of all weights so far: a graph through it would grow at every step."""
    runs, real = [], train.dit_loss
    monkeypatch.setattr(train, "dit_loss", lambda run, step: runs.append(run) or real(run, step))
    call(train.main, *TINY_RUN, "--out", tmp_path)
    assert not any(p.requires_grad for p in runs[0].ema.parameters())
    assert not all(torch.equal(p, q) for p, q in zip(runs[0].ema.parameters(), runs[0].dit.parameters()))


def test_a_crash_loses_only_what_came_after_the_checkpoint(tmp_path, monkeypatch):
    """Killed at step 8: the checkpoint is of step 5, the log already at 6. Resumed, both end as if never stopped."""
    often = [*TINY_RUN, "--log-every", 2]
    call(train.main, *often, "--out", tmp_path / "whole")
    real = train.dit_loss

    def crash(run, step):
        if step == 7:
            raise MemoryError
        return real(run, step)
    monkeypatch.setattr(train, "dit_loss", crash)
    with pytest.raises(MemoryError):
        call(train.main, *often, "--out", tmp_path / "cut")
    monkeypatch.undo()
    assert (tmp_path / "cut" / "log.csv").read_text().splitlines()[-1].startswith("dit,6,")
    call(train.main, "--resume", "--out", tmp_path / "cut", "--device", "cpu")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("stage,step", [("vae", 3), ("dit", 6)])
def test_resumed_equals_never_stopped(trained, tmp_path, monkeypatch, stage, step):
    """Interrupted with Ctrl-C in the middle of a stage, then resumed: the same weights, optimizers and log."""
    real = getattr(train, f"{stage}_loss")

    def interrupted(run, now):
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(run, now)
    monkeypatch.setattr(train, f"{stage}_loss", interrupted)
    with pytest.raises(SystemExit, match="130"):
        call(train.main, *TINY_RUN, "--out", tmp_path)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "sora.pt")["step"] == step + 1
    call(train.main, "--resume", "--out", tmp_path, "--device", "cpu")
    assert_same_run(trained, tmp_path)


def test_until_stops_there_and_resume_goes_on(trained, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, *TINY_RUN, "--out", tmp_path, "--until", 3)
    assert stopped.value.code == 0 and load_checkpoint(tmp_path / "sora.pt")["step"] == 3
    call(train.main, "--resume", "--out", tmp_path, "--device", "cpu")
    assert_same_run(trained, tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    real = train.dit_loss

    def broken(run, step):
        loss, columns, values, weights = real(run, step)
        return loss, columns, values * (math.nan if step == 6 else 1), weights
    monkeypatch.setattr(train, "dit_loss", broken)
    with pytest.raises(SystemExit, match="no longer a number"):
        call(train.main, *TINY_RUN, "--out", tmp_path)
    state = load_checkpoint(tmp_path / "sora.pt")
    assert state["step"] == 5 and all(torch.isfinite(p).all() for p in state["dit"].values())


def test_vae_is_shared_and_weights_are_taken_over(trained, tmp_path):
    call(train.main, *TINY_RUN, "--out", tmp_path, "--vae", trained / "sora.pt", "--process", "sit", "--seed", "5")
    one, two = load_checkpoint(trained / "sora.pt"), load_checkpoint(tmp_path / "sora.pt")
    assert same(one["vae"], two["vae"]) and not same(one["dit"], two["dit"])
    assert {row["stage"] for row in csv.DictReader((tmp_path / "log.csv").open())} == {"dit"}
    call(sample.main, "--ckpt", tmp_path / "sora.pt", "--out", tmp_path / "x.gif", "--sampler", "heun", "--steps", 2)
    assert iio.imread(tmp_path / "x.gif", index=None).shape[0] == 16
    call(train.main, "--init", trained / "sora.pt", "--vae-steps", 0, "--steps", 2, "--out", tmp_path / "more")
    more = load_checkpoint(tmp_path / "more" / "sora.pt")
    assert same(one["vae"], more["vae"]) and not same(one["dit"], more["dit"]) and more["step"] == 2


@pytest.mark.parametrize("name,args,shape", [
    ("a.gif", ["--prompt", "3", "--scale", "2"], (16, 64, 64, 3)),
    ("a.mp4", ["--prompt", "3", "--n", "3", "--frames", "6"], (6, 66, 66, 3)),
    ("a.npy", ["--frames", "50", "--size", "48x40", "--sampler", "ddim", "--context-noise", "0.1"], (50, 48, 40, 3))])
def test_sample_writes_what_was_asked_for(trained, tmp_path, name, args, shape):
    call(sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / name, *args)
    video = np.load(tmp_path / name) if name.endswith("npy") else iio.imread(tmp_path / name, index=None if
                                                                           name.endswith("gif") else ...)
    assert video.shape == shape and (tmp_path / name).with_suffix(".png").exists()


def test_an_image_can_be_a_window_of_its_own(trained, clip, tmp_path, monkeypatch):
    """--window 4: one latent frame is denoised by itself, as images are in training; else a whole window."""
    seen, plain = [], sora.generate
    monkeypatch.setattr(sora, "generate", lambda *args, **more: seen.append(args[2].shape[2]) or plain(*args, **more))
    for window in ([], ["--window", "4"]):
        call(sample.main, "--ckpt", trained / "sora.pt", "--frames", 1, *window, "--out", tmp_path / "a.npy")
        assert np.load(tmp_path / "a.npy").shape == (1, 32, 32, 3)
    assert seen == [4, 1]
    assert "at least 8" in complaint(sample.main, "--ckpt", trained / "sora.pt", "--window", 4, "--extend", clip,
                                     "--out", tmp_path / "a.npy")


def test_score_writes_its_tables(trained, capsys):
    call(sample.main, "--ckpt", trained / "sora.pt", "--score", "--n", 4)
    printed = capsys.readouterr().out
    table = json.loads((trained / "sora.score.json").read_text())
    for row in ("training", "held out", "held out, VAE's copy", "samples"):
        assert row in printed and {"legibility", "frechet", "speed", "nearest"} <= table["clips"][row].keys()
    assert {"psnr", "ssim"} <= table["clips"]["held out, VAE's copy"].keys() and table["n"] == 4
    assert set(table["prediction"]) == {"the model", "the last frame again", "the VAE alone"}
    assert iio.imread(trained / "sora.score.nearest.png").std() > 0


def test_score_without_a_referee_says_so(trained, tmp_path, capsys):
    call(train.main, *TINY_RUN, "--digits", 3, "--vae-steps", 1, "--steps", 1, "--out", tmp_path)
    call(sample.main, "--ckpt", tmp_path / "sora.pt", "--score", "--n", 3)
    assert "no referee for these clips: it reads one or two digits" in capsys.readouterr().out
    assert "legibility" not in (tmp_path / "sora.score.json").read_text()


def test_drift_is_written_for_both_arms(trained, tmp_path, monkeypatch):
    call(drift.main, "--ckpt", trained / "sora.pt", "--n", 12, "--frames", 48, "--out", tmp_path / "d.csv",
         "--device", "cpu")
    rows = list(csv.DictReader((tmp_path / "d.csv").open()))
    firsts = {arm: [row["first_frame"] for row in rows if (row["clips"], row["metric"]) == (arm, "own")]
              for arm in list(drift.ARMS)[:2]}
    assert set(map(tuple, firsts.values())) == {("1", "17", "33")}
    own = {row["first_frame"]: float(row["value"]) for row in rows if row["metric"] == "own"}
    assert own["1"] == 0 < own["33"]
    monkeypatch.setattr(drift, "FACTORS", ["no anchor", "history guidance 1", "history guidance 2"])
    short = "--ckpt", trained / "sora.pt", "--n", 2, "--frames", 16, "--steps", 1, "--out", tmp_path / "f.csv"
    call(drift.main, *short, "--arms", "factors")
    call(drift.main, *short, "--arms", "caption throughout", "--append", "--label", "again: ")
    clips = [row["clips"] for row in csv.DictReader((tmp_path / "f.csv").open()) if row["metric"] == "legibility"]
    assert clips == ["held out", "held out, VAE's copy", "no anchor", "history guidance 2", "again: caption throughout"]
    assert drift.partner(torch.tensor([[3], [4], [3], [5], [3]])).tolist() == [2, 1, 4, 3, 0]


def test_stretches_lose_no_frame():
    stream = (torch.full((1, 1, n, 1, 1), 0.0) + torch.arange(a, a + n).view(1, 1, n, 1, 1)
              for a, n in ((0, 10), (10, 3), (13, 7), (20, 20)))
    at = drift.starts(33, 6)
    assert at == [0, 6, 12, 18, 24, 27]                                        # the last ends with the clip
    pieces = list(drift.stretches(stream, 6, at))
    assert all(torch.equal(piece.flatten(), torch.arange(a, a + 6.0)) for a, piece in zip(at, pieces, strict=True))
    assert drift.starts(32, 16) == [0, 16]


def test_a_frame_vae_has_the_shapes_of_the_video_vae_and_sees_one_frame():
    """The per-frame VAE of the compressor study: the same latent shape; a frame changes only its quarter of it."""
    vae = lively(study.FrameVAE(replace(MINI, latent_channels=8)))
    video = torch.rand(2, 1, 8, 16, 24)
    latent = vae.encode(video)
    assert latent.shape == (2, 8, 2, 2, 3) and vae.decode(latent).shape == video.shape
    changed = video.clone()
    changed[:, :, 5] += 0.5                                                    # frame 1 of latent frame 1
    moved = (vae.encode(changed) - latent).abs().amax((0, 3, 4)) > 1e-6        # (C,F)
    assert moved.nonzero().tolist() == [[2, 1], [3, 1]]
    latent[:, 2:4, 1] += 1
    moved = (vae.decode(latent) - vae.decode(vae.encode(video))).abs().amax((0, 1, 3, 4)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [5]


def test_a_study_goes_on_where_it_was(tmp_path, monkeypatch):
    """Stopped when a mark was reached, before its checkpoint was copied: the copy is of that mark, not of a later."""
    monkeypatch.setattr(study, "OUT", tmp_path)
    monkeypatch.setattr(study, "MARKS", (3, 6, 9))
    monkeypatch.setattr(study, "RUNS", {"one": TINY_RUN})
    real = study.shutil.copy

    def full(*args):
        raise OSError("no space left")
    monkeypatch.setattr(study.shutil, "copy", full)
    with pytest.raises(OSError):
        study.run("one")
    monkeypatch.setattr(study.shutil, "copy", real)
    study.run("one")
    assert [load_checkpoint(tmp_path / "one" / f"step{mark}.pt")["step"] for mark in (3, 6, 9)] == [3, 6, 9]
    before = (tmp_path / "one" / "step9.pt").stat().st_mtime_ns
    study.run("one")
    assert (tmp_path / "one" / "step9.pt").stat().st_mtime_ns == before


def test_every_study_is_drawn_and_says_its_numbers(tmp_path, monkeypatch, capsys):
    """From a table in which the loss is a power law: the fitted slope is its exponent."""
    monkeypatch.setattr(plots, "RESULTS", tmp_path)
    for name, runs in study.STUDIES.items():
        shown = ("frechet", "legibility", "nearest", "flicker")
        cells = {("held out", "", "", metric): (1.0, 0.9, 1.1) for metric in shown}
        for i, run in enumerate(runs):
            flops = 1e12 * 2.0 ** i
            for mark in study.MARKS:
                cells |= {(run, mark, "", metric): (value,) * 3 for metric, value in dict(
                    loss=flops ** -0.1, flops=flops, parameters=flops / 1e6, psnr=20 + i, ssim=0.5).items()}
                cells |= {(run, mark, guidance, metric): (1 + i, 0.5 + i, 2 + i)
                          for guidance in (1.0, 3.0) for metric in shown}
        plots.draw(name, list(runs), cells, study.MARKS)
        assert iio.imread(tmp_path / f"{name}.png").std() > 0
    assert "loss: slope -0.100 +- 0.000" in capsys.readouterr().out


def test_fewer_digits_are_the_first_of_each_class(tmp_path):
    study.few_digits(tmp_path, 3)
    images, labels = load_digits("train", str(tmp_path))
    assert len(images) == 30 and sorted(labels.tolist()) == [d for d in range(10) for _ in range(3)]
    assert all(np.array_equal(a, b) for a, b in zip(load_digits("heldout"), load_digits("heldout", str(tmp_path))))


@pytest.mark.parametrize("ending", ["gif", "mp4", "npy", "folder"])
def test_extend_goes_on_from_a_clip(trained, tmp_path, ending):
    """The given part of the result is the VAE's reconstruction of the given clip, whatever came after it."""
    video, _ = MovingMNIST(*load_digits("heldout"), (32, 32), 20, 1, 12).clips(1, torch.Generator().manual_seed(0))
    clip = tmp_path / f"clip.{ending}"
    if ending == "folder":
        clip.mkdir()
        for i, frame in enumerate(clips.to_pixels(video[0])):
            iio.imwrite(clip / f"{i:03d}.png", frame)
    else:
        clips.write_clip(clip, video)
    read = clips.read_clip(clip)
    assert read.shape == video[0].shape and (read - video[0]).abs().mean() < (0.05 if ending == "mp4" else 0.005)
    printed = script("sample.py", "--ckpt", trained / "sora.pt", "--extend", clip, "--frames", 30,
                     "--out", tmp_path / "x.npy")
    _, vae, _, _, _ = cli.load_models(trained / "sora.pt")
    with torch.no_grad():
        expected = clips.to_pixels(vae.decode(vae.encode(read[None]))[0]).astype(int)
    result = np.load(tmp_path / "x.npy").astype(int)
    assert "given frames" in printed and result.shape == (30, 32, 32, 3)
    assert abs(result[:12] - expected).mean() < 2


@pytest.fixture
def clip(tmp_path):
    """A file with a real clip of 20 frames, 32x32."""
    video, _ = MovingMNIST(*load_digits("heldout"), (32, 32), 20, 1, 20).clips(1, torch.Generator().manual_seed(0))
    clips.write_clip(tmp_path / "clip.npy", video)
    return tmp_path / "clip.npy"


def test_every_task_shows_its_clips_where_they_belong(trained, clip, tmp_path):
    """The VAE's copy of a given clip stands at the beginning, the end or both; a still is shown once; lengths are as
    asked for."""
    _, vae, _, _, _ = cli.load_models(trained / "sora.pt")
    read = clips.read_clip(clip)
    with torch.no_grad():
        copy = clips.to_pixels(vae.decode(vae.encode(read[None]))[0]).astype(int)
        still = clips.to_pixels(vae.decode(vae.encode(read[None, :, :1].expand(-1, -1, 4, -1, -1)))[0]).astype(int)

    def make(*args):
        call(sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / "x.npy", "--device", "cpu", *args)
        return np.load(tmp_path / "x.npy").astype(int)
    close = lambda a, b: abs(a - b).mean() < 2
    forward, backward = make("--extend", clip, "--frames", 38), make("--extend-backward", clip, "--frames", 38)
    assert len(forward) == len(backward) == 38 and close(forward[:20], copy)
    assert close(backward[-8:], copy[-8:])                                     # before that, the decoder sees the past
    both = make("--connect", clip, clip, "--frames", 57)
    assert len(both) == 60 and close(both[:20], copy) and close(both[-8:], copy[-8:])
    image = make("--image", clip, "--frames", 9)
    assert len(image) == 9 and close(image[:1], still[3:])
    assert len(make("--edit", clip, "--strength", "0.5")) == 20
    assert close(make("--edit", clip, "--strength", "0.001"), copy)            # next to no noise: the clip itself
    assert make("--extend", clip, "--resize", "--size", "48x40", "--frames", 24).shape == (24, 48, 40, 3)
    iio.imwrite(tmp_path / "still.png", clips.to_pixels(read[:, :1])[0])
    assert np.array_equal(make("--image", tmp_path / "still.png", "--frames", 9), image)


def test_a_loop_ends_where_it_began(trained):
    """The decoder comes from the last frames to the first: going round once more gives the same frames again."""
    models = config, vae, *_ = cli.load_models(trained / "sora.pt")
    args = sample.parse(["--loop", "--frames", "40"])
    total, drop, frames = sample.plan(args, config, [], 4, 2, 0)
    nothing, words = torch.zeros(1, config.latent_channels, 0, 4, 4), torch.zeros(1, 1).long()
    with torch.no_grad():
        parts = sample.pieces(args, models, nothing, [], total, words, 4, 2, 0, dict(steps=2))
        latents = [latent for latent, _ in parts]
        once = torch.cat(latents, dim=2)
        assert (drop, frames, total, once.shape[2]) == (40, 40, 10, 20)
        again = vae.decode(torch.cat([once, once], dim=2))
    assert torch.allclose(again[:, :, 40:80], again[:, :, 80:120], atol=1e-5)


@pytest.mark.parametrize("ending", ["npy", "mp4"])
def test_a_video_can_be_read_while_it_grows(tmp_path, ending):
    video = torch.rand(1, 1, 96, 32, 32).round() * 2 - 1
    writer = clips.ClipWriter(tmp_path / f"x.{ending}", 96, scale=4)
    for part in video[:, :, :72].split(8, dim=2):
        writer.write(part)
    half = clips.read_clip(tmp_path / f"x.{ending}") if ending == "npy" else None
    if half is not None:
        assert np.array_equal(clips.to_pixels(half), clips.to_pixels(clips.read_clip(tmp_path / f"x.{ending}")))
        assert np.load(tmp_path / "x.npy", mmap_mode="r")[71].std() > 0 == np.load(tmp_path / "x.npy")[72:].max()
    else:
        time.sleep(2)                                                          # the encoder is a process of its own
        assert 8 <= iio.imread(tmp_path / "x.mp4").shape[0] <= 72
    writer.write(video[:, :, 72:])
    writer.close()
    assert iio.imread(tmp_path / f"x.{ending}").shape[0] == 96 if ending == "mp4" else True


def test_the_first_frames_do_not_depend_on_the_length(trained, tmp_path):
    for frames in (24, 60):
        call(sample.main, "--ckpt", trained / "sora.pt", "--frames", frames, "--out", tmp_path / f"{frames}.npy")
    assert np.array_equal(np.load(tmp_path / "24.npy"), np.load(tmp_path / "60.npy")[:24])


# --- clips of one's own ---------------------------------------------------------------------------------------------

def counting(length, height=32, width=40):
    """Frames (T,H,W,3) whose brightness is their number, red only on the left half: uint8."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames[:, :, :width // 2, 0] = 200
    frames[:, :, :, 1:] = np.arange(length, dtype=np.uint8)[:, None, None, None] * 2
    return frames


@pytest.fixture
def folder(tmp_path):
    """One clip of each kind, each with its caption, and things that are no clips."""
    root = tmp_path / "my clips"
    for caption in ("wave", "jump high", "sit", ".hidden"):
        (root / caption).mkdir(parents=True)
    iio.imwrite(root / "wave" / "one.mp4", counting(40), fps=12, macro_block_size=1)
    iio.imwrite(root / "wave" / "two.gif", counting(30), duration=80, loop=0)
    np.save(root / "jump high" / "three.npy", counting(64))
    (root / "sit" / "four").mkdir()
    for i, frame in enumerate(counting(24)):
        iio.imwrite(root / "sit" / "four" / f"{i:03}.png", frame)
    np.save(root / ".hidden" / "five.npy", counting(64))
    (root / "wave" / "two.txt").write_text("Hop  softly\n")
    (root / "notes.pdf").write_text("not a clip")
    return root


def folder_config(folder, **more):
    return replace(MINI, data=str(folder), **dict(height=32, width=32, frames=8, channels=3) | more)


def test_every_kind_of_clip_is_read_with_its_caption(folder, capsys):
    config = folder_config(folder, heldout="one.mp4")
    training, heldout = load_mix(config, "cpu")[0][0][0], load_data(config, "heldout")
    said = "8x32x32: 3 clips to train on, 0 of them without a caption; 1 held out, 0 skipped; 6 words"
    assert said in capsys.readouterr().out
    assert training.words == heldout.words == ["high", "hop", "jump", "sit", "softly", "wave"]
    assert dict(zip(training.names, training.length.tolist())) == {
        "jump high/three.npy": 64, "sit/four": 24, "wave/two.gif": 30}
    assert heldout.names == ("wave/one.mp4",) and heldout.length.tolist() == [40]
    video, caption = training.clips(50, torch.Generator().manual_seed(0))
    assert video.shape == (50, 3, 8, 32, 32) and caption.shape == (50, 2)
    spoken = {" ".join(training.words[i - 1] for i in ids if i) for ids in caption.tolist()}
    assert spoken == {"jump high", "sit", "hop softly"}
    left, right = video[..., :12].mean((2, 3, 4)), video[..., -12:].mean((2, 3, 4))
    assert ((left - right)[:, 0] > 1).all() and ((left - right)[:, 1:].abs() < 0.1).all()      # red, and on the left
    assert load_data(folder_config(folder, channels=1), "train").clips(2)[0].shape == (2, 1, 8, 32, 32)


def test_windows_are_the_frames_asked_for_and_stay_in_their_clip(folder):
    """Brightness says which frame of the clip is shown; anchors, stills and strides are index arithmetic."""
    config = folder_config(folder, heldout="one.mp4 two.gif four", frames=16)
    for wrong, counts in (("wave jump sit", "0 clips .* to train on, 4"), ("nobody", "to train on, 0 to hold out")):
        with pytest.raises(InputError, match=counts):
            load_data(replace(config, heldout=wrong), "train")
    data = load_data(config, "train")                                          # 64 frames that count themselves
    number = lambda video: ((video[:, 1].mean((2, 3)) + 1) * 127.5 / 2).round().long()                # (n,T)
    shown = number(data.clips(300, torch.Generator().manual_seed(0))[0])
    assert (shown.diff(dim=1) == 1).all() and shown.min() == 0 and shown.max() == 63
    frames = draw_windows(replace(config, known=1, reach=24), 300, 4)[2]
    shown = number(data.clips(300, torch.Generator().manual_seed(0), frames)[0])
    assert torch.equal(shown - shown[:, 4:5], frames - frames[:, 4:5]) and shown.min() == 0 and shown.max() == 63
    third = load_data(replace(config, stride=3, frames=8), "train")
    assert third.length.tolist() == [22] and (number(third.clips(9)[0]).diff(dim=1) == 3).all()


def test_a_step_packs_the_shapes_asked_for(folder):
    """Six shapes, images among them: the mix of every step is the requested one, and no token is padding."""
    shapes = "16x32x32:3 8x32x48:2 8x48x32:2 24x16x16:1 20x24x40:1 1x32x32:4"
    mix, words, config = load_mix(replace(MINI, shapes=shapes, digit_size=14), "cpu")
    assert [n for _, n in mix] == [3, 2, 2, 1, 1, 4] and words == MovingMNIST.words and config.reach == 96
    dit, groups, seen = lively(DiT(MINI, 10)), [], []
    for data, n in mix:
        known, times, frames = draw_windows(config, n, data.frames // TIME)
        video, caption = data.clips(n, frames=frames)
        assert video.shape[2] == frames.shape[1]
        groups.append((torch.randn(n, 4, frames.shape[1] // TIME, video.shape[3] // 8, video.shape[4] // 8), caption,
                       known, times))
    dit.forward_tokens = lambda tokens, *rest, real=dit.forward_tokens: (seen.append(tokens), real(tokens, *rest))[1]
    loss, error, t = diffusion_loss(dit.packed, SiT(), config, groups)
    requested = 3 * 4 * 16 + 2 * 2 * 24 + 2 * 2 * 24 + 6 * 4 + 5 * 15 + 4 * 16
    assert len(seen[0]) == requested and torch.isfinite(loss) and len(error) == 3 * 4 + 2 * 2 + 2 * 2 + 6 + 5 + 4
    clips_of_folder, _, config = load_mix(folder_config(folder, shapes="8x32x32:2 16x16x48:1", heldout="one"), "cpu")
    assert [data.clips(n)[0].shape for data, n in clips_of_folder] == [(2, 3, 8, 32, 32), (1, 3, 16, 16, 48)]
    assert config.reach == 4 and (config.frames, config.height) == (8, 32)     # the first shape
    words = [data.words for data, _ in clips_of_folder]
    assert words[0] == words[1]
    with pytest.raises(InputError, match="the checkpoint's are up, down"):
        load_mix(folder_config(folder, heldout="one"), "cpu", ["up", "down"])
    for wrong, said in (("16x32:3", "FRAMESxHEIGHTxWIDTH"), ("16x30x32:3", "not a multiple of 8"),
                        ("0x32x32:2", "frames 0"), ("1x32x32:2", "only images")):
        with pytest.raises(InputError, match=said):
            load_mix(replace(MINI, shapes=wrong), "cpu")


def test_a_clip_is_shown_in_the_shapes_nearest_to_its_own(folder):
    """All clips of the fixture are 40x32; beside them a tall one. Where none fits, all are cropped."""
    np.save(folder / "sit" / "tall.npy", counting(30, height=48, width=24))
    shapes = "8x32x40:1 16x48x24:1 8x64x32:1 8x16x16:1 8x8x64:1"
    mix, _, _ = load_mix(folder_config(folder, shapes=shapes, heldout="one"), "cpu")
    wide = {"jump high/three.npy", "sit/four", "wave/two.gif"}
    assert [set(data.names) for data, _ in mix] == [
        wide, {"sit/tall.npy"}, {"sit/tall.npy"}, wide | {"sit/tall.npy"}, wide | {"sit/tall.npy"}]


def test_a_given_clip_has_the_frame_rate_of_training(folder):
    clip = clips.given_clip(folder / "jump high" / "three.npy", replace(MINI, channels=3, stride=3))   # 64 frames
    numbers = ((clip[0, 1].mean((1, 2)) + 1) * 127.5 / 2).round().tolist()
    assert numbers == list(range(0, 60, 3))                                    # 22 frames, cut to a multiple of 4


def test_a_single_picture_is_an_image_to_train_on(folder):
    (folder / "sit" / "photo").mkdir()
    iio.imwrite(folder / "sit" / "photo" / "one.png", counting(100)[99])
    mix, _, config = load_mix(folder_config(folder, shapes="8x32x32:2 1x32x32:3", heldout="one.mp4"), "cpu")
    assert [("sit/photo" in data.names) for data, _ in mix] == [False, True] and config.frames == 8
    for frames in (None, draw_windows(config, 40, 1)[2]):
        video, _ = mix[1][0].clips(40, torch.Generator().manual_seed(0), frames)
        assert (video.diff(dim=2) == 0).all() and (video[:, 1, 0, 0, 0] > 0.5).any()           # stills, its among them


def test_dropped_tokens_are_not_seen_and_kept_ones_see_each_other(monkeypatch):
    """Dropping is indexing: what is kept comes out as if there were nothing else; sampling sees everything."""
    torch.manual_seed(0)
    dit, dropping = DiT(MINI, 10), packing.DroppingDiT(MINI, 10)
    dropping.load_state_dict(lively(dit).state_dict())
    monkeypatch.setattr(packing.DroppingDiT, "keep", 0.5)
    x, t, caption = torch.randn(3, 4, 2, 4, 4, requires_grad=True), torch.rand(3, 2), torch.ones(3, 1, dtype=torch.long)
    seen = []
    core = DiT.forward_tokens
    monkeypatch.setattr(DiT, "forward_tokens", lambda *args: (seen.append(args[1:]), core(*args))[1])
    out = dropping(x, t, caption)
    tokens, *_, sizes = seen[0]
    assert sizes == [(3, 16)] and len(tokens) == 48                            # of 3 x 32
    dropped = (out == 0).all(1)
    assert dropped.sum((1, 2, 3)).tolist() == [16, 16, 16]                     # patch 1: a latent pixel is a token
    out.square().sum().backward()
    assert torch.equal((x.grad == 0).all(1), dropped)
    alone, kept = core(dropping, *seen[0]), out.movedim(1, -1)[~dropped]       # (48,C) each, in another order
    assert torch.equal(alone.sort(dim=0).values, kept.sort(dim=0).values)
    with torch.no_grad():
        assert torch.equal(dropping(x, t, caption), dit(x, t, caption))


def test_both_ways_known_frames_look_at_the_others():
    """In the study of the mix: what the network says of known frames changes with the others, in sampling too."""
    both, x = mix.BothWays(MINI, 10), torch.randn(2, 4, 3, 2, 2)
    lively(both)
    known, t, words = torch.tensor([True, False, True]), torch.rand(2, 3), torch.ones(2, 1).long()
    for model in (lambda x: both(x, t, words, None, known.expand(2, 3)),
                  lambda x: both.remember(known, torch.arange(3))(x, t, words)):
        one, two = (model(x + shift * ~known.view(3, 1, 1)) for shift in (0, 1))
        assert ((one - two).abs().amax((1, 3, 4)) > 1e-3).all()


def test_shipped_weights_are_those_of_the_checkpoint(trained, tmp_path):
    """Half the size or less, without optimizers; they sample (nearly) the same, and training can start from them."""
    call(ship.main, trained / "sora.pt", "--out", small := tmp_path / "sora.pt")
    assert small.stat().st_size < 0.4 * (trained / "sora.pt").stat().st_size
    whole, half = (cli.load_models(path)[2] for path in (trained / "sora.pt", small))
    for a, b in zip(whole.parameters(), half.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert "--init" in complaint(train.main, "--resume", "--out", tmp_path)
    run = train.start(train.parse(["--init", str(small), "--vae-steps", "0", "--out", str(tmp_path / "run")]))
    assert run.stage == 1 and all(map(torch.equal, run.dit.parameters(), half.parameters()))


def test_the_weights_that_come_along_draw_what_they_are_asked_for(monkeypatch, tmp_path):
    """Without a checkpoint of one's own sample.py takes them; ten digits, eight steps: nearly all frames are read."""
    monkeypatch.chdir(tmp_path)
    assert sample.parse([]).ckpt == str(cli.SHIPPED)
    assert {sample.score_path(name) for name in (str(cli.SHIPPED), os.path.relpath(cli.SHIPPED))} == {
        Path("out/tiny.score.json")}
    config, vae, dit, process, words = cli.load_models(cli.SHIPPED)
    caption = torch.arange(1, 11)[:, None].repeat(2, 1)
    with cli.autocast("cpu"):
        video = score.sample_clips(dit, vae, process, config, caption, steps=8)
    assert Judge(config).measure(video, caption)["legibility"][0] > 0.85


def test_the_mix_is_measured_in_every_use(trained, tmp_path, monkeypatch):
    small = ["--dim", 48, "--depth", 1, "--heads", 2, "--batch", 4]
    monkeypatch.setattr(mix, "RUNS", {name: small + mix.RUNS[name] for name in ("no anchors", mix.BOTH_WAYS)})
    monkeypatch.setattr(mix, "OUT", tmp_path / "runs")
    monkeypatch.setattr(mix, "RESULTS", tmp_path)
    call(mix.main, "--ckpt", trained / "sora.pt", "--n", 3, "--train-steps", 2, "--steps", 1)
    rows = list(csv.DictReader((tmp_path / "mix.csv").open()))
    assert len(rows) == 16 and {row["trained with"] for row in rows} == set(mix.RUNS)
    assert all(math.isfinite(float(row["value"])) for row in rows)


def test_square_crops_are_the_middle():
    data = MovingMNIST(*load_digits("train"), canvas=(32, 48), digit_size=20, n_digits=1, frames=8)
    crop = packing.SquareCrop(data)
    whole, cut = (source.clips(3, torch.Generator().manual_seed(0))[0] for source in (data, crop))
    assert torch.equal(cut, whole[..., 8:40]) and crop.frames == 8
    assert (packing.framed(whole) == 1).all() and (packing.framed(cut) < 1).any()


def test_a_seam_is_seen():
    """A dot that runs in a circle has no seam; with a piece of its path missing it has one, there and not elsewhere."""
    angle = torch.arange(32) / 32 * 2 * torch.pi
    y, x = (16 + 10 * wave(angle)[:, None, None] for wave in (torch.sin, torch.cos))
    grid = torch.arange(32.0)
    dot = 2 * torch.exp(-((grid[:, None] - y).square() + (grid - x).square()) / 18)[None, None] - 1    # (1,1,T,H,W)
    whole, cut = (tasks.seam(video, torch.tensor([0])) for video in (dot, dot[:, :, :28]))
    for name in ("seam", "seam, velocity"):
        assert abs(whole[name] - 1) < 0.1 and cut[name] > 2 > 1.1 > tasks.seam(dot[:, :, :28], torch.tensor([9]))[name]
    assert whole["largest"] < 1.1


def test_tasks_are_measured(trained, capsys):
    call(tasks.main, "--ckpt", trained / "sora.pt", "--n", 4, "--frames", 32, "--steps", 1)
    printed = capsys.readouterr().out
    for word in ("4 loops", "seam, velocity", "middles", "blended ends", "new frames", "backward"):
        assert word in printed


def test_what_cannot_be_used_is_named_and_skipped(folder, capsys):
    (folder / "wave" / "broken.mp4").write_bytes(b"no video" * 99)
    (folder / "wave" / "cut.mp4").write_bytes((folder / "wave" / "one.mp4").read_bytes()[:300])
    np.save(folder / "wave" / "empty.npy", counting(0))
    np.save(folder / "wave" / "float.npy", np.zeros((20, 32, 32)))
    np.save(folder / "sit" / "short.npy", counting(5))
    data = load_mix(folder_config(folder, heldout="one"), "cpu")[0][0][0]
    printed = capsys.readouterr().out
    for name in ("broken.mp4", "cut.mp4", "empty.npy", "float.npy", "short.npy: 5 frames, expected at least 8"):
        assert name in printed
    assert "1 held out, 5 skipped" in printed and len(data.names) == 3
    shown = (data.clips(200)[0][:, 1].mean((2, 3)) + 1) * 127.5 / 2            # what came after them is undamaged
    assert ((shown.diff(dim=1) - 1).abs() < 0.6).all()


def test_the_cache_is_used_until_a_file_changes(folder, monkeypatch):
    decoded = []
    monkeypatch.setattr(loader, "decode", lambda *args, real=loader.decode: (decoded.append(1), real(*args)))
    config = folder_config(folder, heldout="one")
    for _ in range(3):
        load_data(config, "train")
    assert len(decoded) == 1
    (folder / "wave" / "two.txt").write_text("run")
    assert "run" in load_data(config, "train").words and len(decoded) == 2
    np.save(folder / "jump high" / "three.npy", counting(32))
    assert 32 in load_data(config, "train").length and len(decoded) == 3
    load_data(replace(config, channels=1, cache=str(folder.parent / "elsewhere")), "train")
    assert len(decoded) == 4 and len(list((folder.parent / "elsewhere").iterdir())) == 2


def test_an_interrupted_decode_leaves_no_cache(folder, monkeypatch):
    def stop(path, real=loader.read_frames):
        if path.name == "two.gif":
            raise KeyboardInterrupt
        return real(path)
    monkeypatch.setattr(loader, "read_frames", stop)
    with pytest.raises(KeyboardInterrupt):
        load_data(folder_config(folder), "train")
    assert not list((folder / ".cache").glob("*.json")) and not list((folder / ".cache").glob("*.raw"))
    monkeypatch.undo()
    assert len(load_data(folder_config(folder, heldout="one"), "train").names) == 3


def test_a_folder_becomes_a_video_in_two_commands(folder, capsys):
    out = folder.parent / "out"
    call(train.main, *TINY_RUN, "--data", folder, "--heldout", "one", "--channels", 3, "--reach", 48, "--out", out)
    assert load_checkpoint(out / "sora.pt")["config"].reach == 4     # on either side of 16 frames, in a clip of 30
    call(sample.main, "--ckpt", out / "sora.pt", "--prompt", "jump high", "--out", out / "jump.npy")
    assert np.load(out / "jump.npy").shape == (16, 32, 32, 3)
    call(sample.main, "--ckpt", out / "sora.pt", "--extend", folder / "wave" / "one.mp4", "--prompt", "wave", "--size",
         "32x32", "--resize", "--frames", 48, "--out", out / "more.gif")
    call(sample.main, "--ckpt", out / "sora.pt", "--score", "--n", 6)
    printed = capsys.readouterr().out
    assert "no referee for these clips" in printed and (out / "sora.score.nearest.png").exists()
    table = json.loads((out / "sora.score.json").read_text())
    assert {"change", "nearest"} <= table["clips"]["samples"].keys() and "loss" in table["clips"]["held out"]


def test_folders_without_clips_are_refused(folder, tmp_path):
    assert "no such folder" in complaint(train.main, "--data", tmp_path / "nowhere", "--out", tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no clips in it" in complaint(train.main, "--data", tmp_path / "empty", "--out", tmp_path)
    said = complaint(train.main, "--data", folder, "--frames", 60, "--out", tmp_path)
    assert "1 clips of 60 frames or more to train on, 0 to hold out" in said
    data = {frames: load_data(folder_config(folder, heldout="one four", frames=frames), "heldout")
            for frames in (8, 32)}
    assert data[8].names == ("sit/four", "wave/one.mp4") and data[32].names == ("wave/one.mp4",)      # the same split
    assert data[8].words == data[32].words


# --- bad input: one clear line, exit code 2, nothing lost -----------------------------------------------------------

def complaint(main, *args):
    """What a script says about bad input: one line."""
    with pytest.raises(InputError) as caught:
        call(main, *args)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("name", ["train.py", "sample.py"])
def test_a_complaint_is_one_line_without_traceback_and_exit_code_2(tmp_path, name):
    printed = script(name, "--device", "abacus", "--out", tmp_path / "x.gif", code=2)
    assert "Traceback" not in printed and len(printed.splitlines()) == 1 and "'abacus'" in printed


@pytest.mark.parametrize("args,words", [
    (["--height", "60"], "height 60 .*multiple of 8"),
    (["--patch", "2", "--width", "40"], "width 40 .*multiple of 16.*8 for the VAE x 2"),
    (["--heads", "0"], "heads 0"), (["--frames", "10"], "frames 10 "),
    (["--frames", "0"], "frames 0: expected 8 or more"), (["--process", "gan"], "'gan'.*ddpm"),
    (["--prediction", "y"], "'y'.*x0"),
    (["--batch", "0"], "batch 0"), (["--digit-size", "40"], "40.*32"), (["--heads", "7"], "dim 192 .*14"),
    (["--rule", "odd"], "'odd'.*official"), (["--mnist", "no/such"], "no/such"), (["--resume"], "sora.pt"),
    (["--vae", "no.pt"], "no.pt"), (["--caption-drop", "2"], "caption_drop 2"), (["--save-every", "0"], "save_every 0"),
    (["--seed", "-1"], "seed -1")])
def test_train_refuses(tmp_path, args, words):
    assert re.search(words, complaint(train.main, "--out", tmp_path / "out", *args))


@pytest.mark.parametrize("args,words", [
    (["--prompt", "3 x"], "'x'.*0, 1, 2"), (["--frames", "0"], "frames 0"), (["--frames", "-3"], "frames -3"),
    (["--n", "0"], "n 0"), (["--size", "30x32"], "height 30"), (["--size", "big"], "big.*HxW"),
    (["--steps", "0"], "steps 0"),
    (["--sampler", "euler"], "euler.*ddpm"), (["--context", "16"], "--context 16"), (["--window", "4"], "--window 4"),
    (["--seed", "-1"], "seed -1"), (["--context-noise", "1.5"], "1.5"),
    (["--extend", "no.gif"], "no.gif"), (["--out", "x.avi"], "'.avi'.*gif"), (["--scale", "0"], "scale 0"),
    (["--fps", "0"], "fps 0"), (["--strength", "0"], "strength 0"), (["--loop", "--frames", "8"], "frames 8.*8 frames"),
    (["--image", "a.png", "--size", "32x32"], "size 32x32.*--resize"), (["--image", "a.png"], "a.png"),
    (["--loop", "--window", "8", "--context", "4"], "window 8.*12"), (["--strength", "0.5"], "strength 0.5.*--edit"),
    (["--resize"], "resize"), (["--extend", "b.npy", "--out", "b.npy"], "written over b.npy")])
def test_sample_refuses(trained, tmp_path, args, words):
    out = [] if "--out" in args else ["--out", tmp_path / "x.gif"]
    assert re.search(words, complaint(sample.main, "--ckpt", trained / "sora.pt", *out, *args))


def test_scripts_refuse_unusable_checkpoints(trained, tmp_path):
    whole = (trained / "sora.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"model": torch.zeros(3)}, tmp_path / "foreign.pt")
    torch.save(torch.load(trained / "sora.pt") | {"format": 0}, tmp_path / "old.pt")
    for name, words in (("short", "damaged"), ("text", "damaged"), ("foreign", "not a checkpoint of"),
                        ("old", "format 0"), ("missing", "no such")):
        assert words in complaint(sample.main, "--ckpt", tmp_path / f"{name}.pt", "--out", tmp_path / "x.gif")
        assert words in complaint(train.main, "--init", tmp_path / f"{name}.pt", "--out", tmp_path / "out")
    out = ("--out", tmp_path / "out")
    assert "do not fit" in complaint(train.main, "--init", trained / "sora.pt", "--dim", "96", *out)
    assert "leave it out" in complaint(train.main, "--init", trained / "sora.pt", "--preset", "tiny", *out)
    assert "leave it out" in complaint(train.main, "--vae", trained / "sora.pt", "--vae-width", "16", *out)
    assert "--process sit" in complaint(train.main, "--resume", "--process", "sit", "--out", trained)
    assert "do not fit" in complaint(train.main, "--resume", "--muon", "0", "--out", trained)
    wrong = torch.load(trained / "sora.pt")
    torch.save(wrong | {"ema": dict(list(wrong["ema"].items())[1:])}, tmp_path / "wrong.pt")
    assert "do not fit" in complaint(sample.main, "--ckpt", tmp_path / "wrong.pt", "--out", tmp_path / "x.gif")
    torch.save(torch.load(trained / "sora.pt") | {"stage": 0}, tmp_path / "early.pt")
    early = tmp_path / "early.pt"
    assert "before the transformer" in complaint(sample.main, "--ckpt", early, "--out", tmp_path / "x.gif")
    for flags in (("--vae", early), ("--init", early, "--vae-steps", "0"), ("--vae-steps", "0")):
        assert "trained to the end" in complaint(train.main, *flags, *out)


def test_scripts_refuse_places_that_cannot_be_written(trained, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in complaint(train.main, "--out", tmp_path / "file")
    inside = tmp_path / "file" / "x.gif"
    assert "cannot be written" in complaint(sample.main, "--ckpt", trained / "sora.pt", "--out", inside)


def test_a_finished_run_is_not_overwritten(trained):
    before = (trained / "sora.pt").read_bytes()
    assert "--overwrite" in complaint(train.main, *TINY_RUN, "--out", trained)
    assert (trained / "sora.pt").read_bytes() == before


def test_unknown_flags_are_refused_and_all_fields_are_explained():
    assert "--lerning-rate" in script("train.py", "--lerning-rate", "1", code=2)
    assert "tiny" in script("train.py", "--preset", "huge", code=2)
    printed = " ".join(script("train.py", "--help").split())
    for item in fields(Config):
        assert f"--{item.name.replace('_', '-')}" in printed and " ".join(item.metadata["help"].split()) in printed
