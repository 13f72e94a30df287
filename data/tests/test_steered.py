"""The steered world, frame by frame: what its keys do, when, and what its captions say."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sora
from data.clips.moving_mnist import KEYS, MovingMNIST, draw_keys, load_digits, steered_path
from data.clips.places import digits_of
from data.tests.conftest import close
from sora import TIME, draw_windows

NAMES = list(KEYS)


def world(frames=40, canvas=(32, 48), n_digits=1, split="train"):
    """A steered world on a canvas that is not square."""
    return MovingMNIST(*load_digits(split), canvas, 20, n_digits, frames, "steered")


def seeded(number):
    return torch.Generator().manual_seed(number)


def plain_world(y, x, v_y, v_x, names, frames):
    """The rule as a player would tell it, one number at a time: the key pushes, no faster than 0.1; then a
    step; at a wall the digit turns round."""
    path = []
    for t in range(frames):
        name = names[t // 4]
        if name == "up":
            v_y = max(v_y - 0.05, -0.1)
        if name == "down":
            v_y = min(v_y + 0.05, 0.1)
        if name == "left":
            v_x = max(v_x - 0.05, -0.1)
        if name == "right":
            v_x = min(v_x + 0.05, 0.1)
        y, x = y + v_y, x + v_x
        if y <= 0 or y >= 1:
            y, v_y = min(max(y, 0.0), 1.0), -v_y
        if x <= 0 or x >= 1:
            x, v_x = min(max(x, 0.0), 1.0), -v_x
        path.append([y, x])
    return path


def test_the_steered_rule_frame_by_frame():
    rng = np.random.RandomState(0)
    for _ in range(30):
        start, speed = rng.rand(2), rng.uniform(-0.1, 0.1, 2)
        keys = rng.randint(0, 5, 20)
        names = [NAMES[key] for key in keys]
        start_and_speed = torch.tensor(start)[None], torch.tensor(speed)[None]
        path = steered_path(*start_and_speed, torch.from_numpy(keys)[None])
        expected = torch.tensor(plain_world(*start, *speed, names, 80))
        wrong = (path[:, 0] - expected).abs().amax(1) > 1e-9        # (T,)
        assert not wrong.any(), (
            f"start {start}, speed {speed}, keys {names}: expected the positions (y,x) of a plain loop: the "
            f"key pushes, then a step, then the walls; first wrong in frame {wrong.int().argmax().item()}")


def test_without_keys_it_is_the_official_rule():
    """The same seed, the same digits, start and direction: with "glide" only, official clips, bit for bit."""
    official = MovingMNIST(*load_digits("train"), (32, 48), 20, 2, 60)
    glide = torch.full((5, 15), NAMES.index("glide"))
    expected, labels = official.clips(5, seeded(3))
    video, caption = world(60, n_digits=2).clips(5, seeded(3), keys=glide)
    assert torch.equal(video, expected), "gliding is not the official rule: does no key still push?"
    assert torch.equal(digits_of(caption, 2), labels), "captions name other digits than the official ones"


def test_a_key_acts_in_its_own_four_frames():
    """Worlds that differ in the key of latent frame 5 are equal up to frame 19, and differ from 20 on."""
    data, keys, paths = world(32), torch.full((200, 8), NAMES.index("glide")), {}
    for name in NAMES:
        keys[:, 5] = NAMES.index(name)
        paths[name] = data.paths(200, seeded(0), keys=keys.clone())[:, :, 0]
    for name, (y, x) in KEYS.items():
        same = (paths[name] == paths["glide"]).all(-1).all(0)       # (T,) of all worlds
        first = same.int().argmin().item()
        assert same[:20].all(), f"{name} in latent frame 5 changed frame {first}"
        if name != "glide":
            assert not same[20:].any(), f"{name} in latent frame 5 changed nothing in a frame from 20 on"
        moved = (paths[name] - paths["glide"])[:, 21].float().mean(0)
        towards = moved.sign() * (moved.abs() > 0.3)
        assert towards.tolist() == [y, x], (
            f"{name}, frame 21: expected to be pushed towards {y, x}, got {moved.tolist()} pixels")


def test_inertia():
    """After its key a digit glides on as fast as it was, and it never is faster than a tenth of its range."""
    start = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    keys = torch.tensor([[NAMES.index("right"), NAMES.index("glide")]])
    y, x = steered_path(start, torch.zeros_like(start), keys)[:, 0].T
    expected = torch.tensor([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75])
    assert close(x, expected), f"from rest, right: expected x {expected.tolist()}, got {x.tolist()}"
    assert (y == 0.5).all(), "right moved the digit up or down"


@pytest.mark.parametrize("n_digits", [1, 2])
def test_captions_say_digit_and_key_of_each_latent_frame(n_digits):
    data, keys = world(22, n_digits=n_digits), draw_keys(6, 6, seeded(1))
    video, caption = data.clips(6, seeded(2), keys=keys)
    assert video.shape == (6, 1, 22, 32, 48), f"got a video of shape {tuple(video.shape)}"
    assert caption.shape == (6, 6, n_digits + 1), (
        f"22 frames: expected captions for 6 latent frames, the last of 2 frames, got {tuple(caption.shape)}")
    said = [[data.words[i - 1] for i in row] for row in caption[..., -1].tolist()]
    assert said == [[NAMES[k] for k in row] for row in keys.tolist()], f"the captions' last words are {said}"
    digits = caption[..., :-1]
    assert (digits == digits[:, :1]).all(), "a digit becomes another on the way"
    low, high = digits.min().item(), digits.max().item()
    assert 1 <= low and high <= 10, f"expected ids 1 to 10 of digits, got {low} to {high}"
    assert data.words == [str(d) for d in range(10)] + NAMES, (
        f"expected the words of the other rules, because weights are shared, then the keys, got {data.words}")


def test_windows_and_anchors_show_one_world():
    """Clips picked by draw_windows, with anchors up to `reach` earlier, are frames of one world that begins
    with the earliest, and each latent frame is told the key that moved it."""
    data, n = world(), 64
    config = SimpleNamespace(known=1.0, anchors=1.0, reach=96)
    known, positions, frames = draw_windows(config, n, 4, seeded(0))
    earliest = frames.amin(1)
    assert (earliest < 0).any(), "no window has an anchor: this test would prove nothing"
    keys = draw_keys(n, 60, seeded(1))
    video, caption = data.clips(n, seeded(2), frames, keys)
    data.frames = 240
    whole, spoken = data.clips(n, seeded(2), keys=keys)
    for i in range(n):
        at = frames[i] - earliest[i]
        shown = whole[i][:, at]
        assert torch.equal(video[i], shown), f"window {i} does not show frames {at.tolist()} of its world"
        told, right = caption[i], spoken[i, at[::TIME] // TIME]
        assert torch.equal(told, right), (
            f"window {i} shows frames {at.tolist()} of its world: expected captions {right.tolist()}, got "
            f"{told.tolist()}")


def test_a_seed_means_the_same_keys_and_some_are_held():
    data = world()
    one, two, other = (data.clips(8, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]), "the same seed, two different worlds"
    assert not torch.equal(one[1], other[1]), "two seeds, the same keys: is the generator used?"
    keys = draw_keys(500, 40, seeded(0))
    again = (keys[:, 1:] == keys[:, :-1]).double().mean().item()
    assert abs(again - 0.6) < 0.02, f"expected the key before in 0.5 + 0.5/5 of cases, got {again:.3f}"
    shares = torch.bincount(keys.flatten(), minlength=5) / keys.numel()
    assert (shares - 0.2).abs().max() < 0.02, f"expected each key in a fifth of cases, got {shares.tolist()}"


def test_digit_and_key_are_dropped_together():
    """For guidance: a caption that is dropped says neither digit nor key, in no latent frame."""
    _, caption = world(16).clips(200, seeded(0))
    config = SimpleNamespace(caption_drop=0.5, caption_drop_known=0.5)
    known, shape = torch.zeros(200, 4, dtype=torch.bool), (200, 8, 4, 4, 4)
    _, _, kept = sora.draw_noise(sora.DDPM(), config, shape, known, caption, seeded(1))
    dropped = (kept == 0).flatten(1)
    whole = dropped.all(1)
    assert torch.equal(whole, dropped.any(1)), "some captions lost only their key, or only their digit"
    assert 60 < whole.sum() < 140, f"expected about 100 of 200 dropped, got {whole.sum()}"


def test_the_network_is_told_each_key_at_its_own_latent_frame():
    """The condition of a latent frame is made of its own words, not of those of the whole clip."""
    config = sora.Config(dim=32, depth=1, heads=2, latent_channels=4)
    net = sora.DiT(config, 15)
    seen = []
    net.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    caption = torch.tensor([[[6, 11], [6, 12], [6, 13], [6, 14]]])
    net(torch.zeros(1, 4, 4, 2, 2), torch.zeros(1, 4), caption)
    condition, words = seen[0][0], net.embed_word.weight
    for f in range(4):
        expected = words[11 + f] - words[11]                        # level and digit are the same in all
        got = condition[f] - condition[0]
        assert close(got, expected), f"latent frame {f}: not the condition of its own words"
