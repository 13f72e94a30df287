"""Tests of the core, sora.py, and of the data it learns from: what must be true, whatever was trained.

    python3 -m pytest -q test_sora.py                    all of them
    python3 -m pytest -q test_sora.py -k "not slow"      without those that train a network

After the data, a section for each section of sora.py.

Inverses, closed forms, invariances and equations, in float32 or float64 on the CPU, with miniature
networks. A failing test says what was expected, what came instead, and where to look first.
"""
import math
import random
import re
from copy import deepcopy
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch.distributions import Normal, kl_divergence
from torch.utils.flop_counter import FlopCounterMode

import sora
from data.clips.moving_mnist import MovingMNIST, load_digits, official_path, stochastic_path
from data.runtime.checkpoints import make_process
from data.training.loop import measure_latents
from data.training.packed import packed_loss, unknown_pixels
from data.training.start import make_optimizers
from sora import (DDPM, Attention, CausalConv3d, Config, DiT, InputError, Muon, ResBlock, SiT, VideoVAE,
                  connect, diffusion_loss, draw_noise, draw_windows, extend, fourier_shift, generate, guided,
                  loop, newton_schulz, patchify, per_frame, rope_angles, rotate, sinusoid, take, token_positions,
                  unpatchify, vae_loss)

MINI = Config(vae_width=8, dim=48, depth=2, heads=2, latent_channels=4)
WORDS = torch.ones(1, 1).long()  # a caption for one clip
torch.set_num_threads(1)


def slow(test):
    """Marks a test that takes seconds; `-k "not slow"` leaves it out."""
    test.slow = True
    return test


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def close(got, expected, because, rtol=1e-4, atol=1e-5):
    """`got` is `expected` but for rounding. because: what should be so, and the likeliest mistake."""
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    values = f"\ngot      {got.tolist()}\nexpected {expected.tolist()}" if got.numel() <= 12 else ""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, check_dtype=False,
                               msg=lambda m: f"{because}\n{m}{values}")


def same(got, expected, because):
    """`got` is `expected`, bit for bit."""
    close(got, expected, because, rtol=0, atol=0)


def share(mask, p, because):
    """A share p of the entries is true, but for 5 standard deviations of a fair draw."""
    n, got = mask.numel(), mask.float().mean().item()
    assert abs(got - p) <= 5 * math.sqrt(p * (1 - p) / n), f"{because}: expected a share of {p:.3f} " \
                                                            f"of {n}, got {got:.3f}"


def lively(net):
    """Random values for all parameters: as initialised, a DiT predicts 0, which proves little."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3 if p.ndim == 1 else p[0].numel() ** -0.5)
    if isinstance(net, DiT):
        net.embed_word.weight.data[0] = 0                           # "no word" must stay what it is
    return net.eval()


def changed(one, two):
    """Which latent (or video) frames of (B,C,F,h,w) differ at all."""
    return (one != two).any(dim=4).any(dim=3).any(dim=1).any(dim=0)


def seeds(seed):
    """A `randn` with a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


class Spy:
    """A network that predicts 0 and remembers what it was given."""

    def __init__(self):
        self.x, self.t, self.caption, self.positions = [], [], [], []

    def __call__(self, x, t, caption, positions):
        for name, value in dict(x=x, t=t, caption=caption, positions=positions).items():
            getattr(self, name).append(value.clone())
        return torch.zeros_like(x)


# --- the data -------------------------------------------------------------------------------------

def test_held_out_digits_are_not_training_digits():
    (train, train_labels), (held_out, held_out_labels) = load_digits("train"), load_digits("heldout")
    both = {image.tobytes() for image in train} & {image.tobytes() for image in held_out}
    assert not both, f"{len(both)} images are in both splits: a network could know the test by heart"
    for labels, each in ((train_labels, 450), (held_out_labels, 50)):
        assert np.bincount(labels).tolist() == [each] * 10, f"expected {each} of each digit, got " \
                                                            f"{np.bincount(labels)}"


def test_official_rule_frame_by_frame():
    """Against the published loop, one digit and one number at a time."""
    rng = random.Random(0)
    for _ in range(20):
        y, x, angle = rng.random(), rng.random(), rng.random() * 2 * math.pi
        path = official_path(torch.tensor([y, x], dtype=torch.float64),
                             torch.tensor(angle, dtype=torch.float64), 60)
        expected, v_y, v_x = [], 0.1 * math.sin(angle), 0.1 * math.cos(angle)
        for _ in range(60):
            y, x = y + v_y, x + v_x
            if x <= 0:
                x, v_x = 0.0, -v_x
            if x >= 1:
                x, v_x = 1.0, -v_x
            if y <= 0:
                y, v_y = 0.0, -v_y
            if y >= 1:
                y, v_y = 1.0, -v_y
            expected.append([y, x])
        close(path, expected, "expected the positions (y,x) of the published loop, which steps, then "
                              "bounces, then draws", atol=1e-6)


def test_stochastic_rule_frame_by_frame():
    """Against the published loop; both take the same redrawn velocities."""
    rng, frames, free = random.Random(0), 60, [32, 20]
    for _ in range(30):
        start, speed = [rng.randint(0, n - 1) for n in free], [rng.randint(-4, 4) for _ in "yx"]
        redraw = [[(rng.randint(1, 4), rng.randint(-4, 4)) for _ in "yx"] for _ in range(frames)]
        path = stochastic_path(torch.tensor(start), torch.tensor(speed), torch.tensor(redraw), free)
        (y, x), (dy, dx) = start, speed
        for n in range(frames):
            if y < 0:
                y, dy, dx = 0, redraw[n][0][0], redraw[n][0][1]
            elif y >= free[0]:
                y, dy, dx = free[0] - 1, -redraw[n][0][0], redraw[n][0][1]
            if x < 0:
                x, dx, dy = 0, redraw[n][1][0], redraw[n][1][1]
            elif x >= free[1]:
                x, dx, dy = free[1] - 1, -redraw[n][1][0], redraw[n][1][1]
            assert path[n].tolist() == [y, x], f"frame {n}: expected (y,x) {y, x} as in the published " \
                                               f"loop (y first, then x), got {path[n].tolist()}"
            y, x = y + dy, x + dx


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_drawing_pastes_the_digits(rule):
    """Where two digits overlap: the larger value (official), the sum, at most 1 (stochastic)."""
    data = MovingMNIST(*load_digits("train"), canvas=(40, 48), digit_size=28, n_digits=2, rule=rule)
    digits, path = data.images[:2][None], torch.tensor([[[[0, 0], [5, 7]], [[12, 20], [1, 2]]]])
    video = data.draw(digits, path)
    for n in range(2):
        expected = torch.zeros(40, 48)
        for digit, (y, x) in zip(digits[0], path[0, n].tolist()):
            part = expected[y:y + 28, x:x + 28]
            part.copy_(torch.maximum(part, digit) if rule == "official" else (part + digit).clamp(max=1))
        same(video[0, 0, n], expected, f"{rule}, frame {n}: the digits are not where their path (y,x) says")


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_digits_use_the_whole_canvas(rule):
    """Whole pixels from wall to wall, on a canvas that is not square; official ones touch the walls."""
    path = MovingMNIST(*load_digits("heldout"), (32, 56), 20, 1, 40, rule).paths(200)
    for axis, free in enumerate((12, 36)):
        low, high = path[..., axis].min().item(), path[..., axis].max().item()
        expected = (0, free if rule == "official" else free - 1)
        assert (low, high) == expected, f"{'yx'[axis]} runs over {low, high}, expected {expected}: " \
                                        "canvas height and width swapped?"


def test_captions_name_the_digits():
    """Every digit d is drawn as a square as bright as 20 d + 20: what is seen must be what is said."""
    images = np.stack([np.full((28, 28), 20 * d + 20, np.uint8) for d in range(10)])
    video, caption = MovingMNIST(images, np.arange(10), n_digits=1, channels=3).clips(50)
    seen = ((video.amax((1, 2, 3, 4)) + 1) / 2 * 255 - 20) / 20     # the digit d
    close(seen, (caption[:, 0] - 1).float(), "word ids are digit + 1 (0 is no word)", atol=1e-3)
    said = [MovingMNIST.words[i - 1] for i in caption[:, 0].tolist()]
    assert said == [str(round(d)) for d in seen.tolist()], f"the words {said} do not name the digits {seen}"
    assert video.min() == -1, f"black is -1, got {video.min()}: is video still in [0,1]?"


@pytest.mark.parametrize("rule", ["official", "stochastic"])
def test_frames_of_a_clip_in_any_order(rule):
    """Clips shown by frame number are those of the same seed in a row, picked; another seed, others."""
    data = MovingMNIST(*load_digits("train"), (32, 32), 20, 1, 20, rule)
    clips = lambda seed, frames=None: data.clips(2, torch.Generator().manual_seed(seed), frames)[0]
    pick, row = torch.tensor([[5, 5, 0, 19], [8, 6, 7, 5]]), clips(1)
    expected = torch.stack([row[i][:, pick[i] - pick[i].min()] for i in range(2)])
    same(clips(1, pick - 7), expected, "expected these frames of the clip; it begins with its first one")
    assert not torch.equal(row, clips(2)), "seeds 1 and 2 give the same clips: is the generator used?"
    assert row.diff(dim=2).abs().amax((1, 2, 3, 4)).min() > 0, "a clip stands still"


def test_full_mnist_is_read_from_idx_files(tmp_path):
    rng = np.random.RandomState(0)
    images, labels = rng.randint(0, 256, (10, 28, 28), np.uint8), rng.randint(0, 10, 10).astype(np.uint8)
    for name, array in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
        head = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes()
        (tmp_path / name).write_bytes(head + array.tobytes())
    read_images, read_labels = load_digits("heldout", tmp_path)
    assert np.array_equal(read_images, images), "images are not those in the file"
    assert np.array_equal(read_labels, labels), "labels are not those in the file"
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="t10k-images"):
        load_digits("heldout", tmp_path)


# --- 1. config ------------------------------------------------------------------------------------

def test_config_explains_every_field():
    """Each becomes a flag of train.py, with its type, its default and its help."""
    for item in fields(Config):
        assert isinstance(item.default, item.type), f"{item.name}: default {item.default!r} is no {item.type}"
        assert item.metadata["help"], f"{item.name}: no help for the command line"


@pytest.mark.parametrize("channels,C", [(1, 4), (3, 6)])
def test_config_says_how_much_the_vae_compresses(channels, C):
    """Values of a video over values of its latent: "256 x channels / this" (latent_channels)."""
    video = torch.rand(2, channels, 8, 16, 24)
    latent = VideoVAE(replace(MINI, channels=channels, latent_channels=C)).encode(video)
    assert latent.shape == (2, C, 2, 2, 3), f"expected (B,C,T/4,H/8,W/8), got {tuple(latent.shape)}"
    compression = video.numel() / latent.numel()
    assert compression == 256 * channels / C, f"compression {compression}, expected {256 * channels / C}"


def test_networks_have_the_sizes_of_config():
    vae, dit = VideoVAE(MINI), DiT(replace(MINI, depth=3, patch=2), 10)
    for name, got, expected in (
            ("vae_width, at 1/4 of the resolution", vae.encoder[1].conv1.out_channels, 8),
            ("2 x vae_width, at 1/8", vae.encoder[3].conv1.out_channels, 16),
            ("depth", len(dit.blocks), 3),
            ("heads", len(dit.blocks[0].attention.gain), 2),
            ("dim", dit.embed_token.out_features, 48),
            ("latent_channels x patch x patch", dit.embed_token.in_features, 16),
            ("words and 'no word'", len(dit.embed_word.weight), 11)):
        assert got == expected, f"{name}: expected {expected}, got {got}"


# --- 2. the video compression network -------------------------------------------------------------

def test_causal_conv_sees_the_past_only():
    """It is torch's 3D convolution with zeros put before the first frame, and around each frame."""
    conv, x = CausalConv3d(3, 5, (2, 3, 3)), torch.randn(2, 3, 4, 6, 7)
    expected = nnf.conv3d(nnf.pad(x, (1, 1, 1, 1, 1, 0)), conv.weight, conv.bias)
    close(conv(x), expected, "all padding in time goes before the video, none after it")


def test_encoder_is_local_in_time():
    """Changing video frames 4..7 changes latent frame 1 and no other."""
    vae, video = lively(VideoVAE(MINI)), torch.rand(1, 1, 16, 32, 24)
    other = video.clone()
    other[:, :, 4:8] = torch.rand(1, 1, 4, 32, 24)
    same(changed(vae.encode(video), vae.encode(other)), [False, True, False, False],
         "only latent frame 1 may change: does an encoder layer see more than its own 4 frames?")


def test_decoder_is_causal_and_remembers_three_latent_frames():
    """Latent frame 1 shows in video frames 4..19, its own and those of the 3 next ones: never before."""
    vae, latent = lively(VideoVAE(MINI)), torch.randn(1, 4, 7, 4, 3)
    other = latent.clone()
    other[:, :, 1] += 1
    expected = [4 <= n < 20 for n in range(28)]
    same(changed(vae.decode(latent), vae.decode(other)), expected,
         "earlier frames change: not causal; fewer later ones: a layer does not look at the past")


@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 3]])
def test_streaming_decode_equals_offline_decode(pieces):
    vae, cache, latent = lively(VideoVAE(MINI)), {}, torch.randn(2, 4, 7, 4, 6)
    streamed = torch.cat([vae.decode(part, cache) for part in latent.split(pieces, dim=2)], dim=2)
    close(streamed, vae.decode(latent), f"decoding in pieces of {pieces}: does each layer keep the frames "
                                        "it needs in the cache, and take them from there?", atol=1e-4)


def test_vae_works_the_same_everywhere():
    """Away from the borders, moving the input by a latent pixel (8 pixels) moves the output likewise."""
    vae, latent = lively(VideoVAE(MINI)), torch.randn(1, 4, 2, 16, 15)
    moved, video = latent.roll((1, 2), (3, 4)), torch.rand(1, 1, 4, 144, 136)
    a, b = vae.decode(latent).roll((8, 16), (3, 4)), vae.decode(moved)
    close(a[..., 56:80, 64:72], b[..., 56:80, 64:72], "decoded pixels are out of their place", atol=1e-4)
    a, b = vae.encode(video).roll((1, 2), (3, 4)), vae.encode(video.roll((8, 16), (3, 4)))
    close(a[..., 7:10, 7:10], b[..., 7:10, 7:10], "latent pixels are out of their place", atol=1e-4)


def test_decoder_puts_pixels_in_their_place():
    """With the last layer reduced to its bias, each 4 x 4 x 4 block of each channel shows its tanh."""
    vae = VideoVAE(replace(MINI, channels=3))
    torch.nn.init.zeros_(vae.to_pixels.weight)
    bias = torch.randn(3, 4, 4, 4)
    vae.to_pixels.bias.data = bias.flatten()
    close(vae.decode(torch.randn(1, 4, 2, 2, 3))[0], bias.tanh().repeat(1, 2, 4, 6),
          "expected (channel, frame, row, column) in this order, in [-1,1] by a tanh: see `decode`")


def test_channel_norm_normalises_each_voxel():
    y = sora.channel_norm(7 * torch.randn(2, 16, 3, 4, 5) + 3)
    close(y.mean(1), torch.zeros(2, 3, 4, 5), "expected mean 0 over the channels of each voxel")
    close(y.var(1, unbiased=False), torch.ones(2, 3, 4, 5), "expected variance 1 over the channels")


def test_residual_block_adds_what_does_not_depend_on_scale():
    """Its branch normalises: twice the input, the same addition. Without the last kernel, none."""
    block, x = lively(ResBlock(8, 2)), 10 * torch.randn(1, 8, 3, 4, 4)
    close(block(2 * x) - 2 * x, block(x) - x, "the branch must begin with a norm", atol=1e-3)
    before = block(x)
    block.conv1.weight.data *= 2
    block.conv1.bias.data *= 2
    close(block(x), before, "the second convolution must be fed normalised values", atol=1e-3)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    same(block(x), x, "with a branch of 0 the block is the identity: is x added?")


def test_vae_layers_are_fed_normalised_activated_values():
    """silu(channel_norm(x)) comes before the last layer of each half, and before the layers of a block."""
    vae, into, out = lively(VideoVAE(MINI)), {}, {}
    for layer in vae.modules():
        layer.register_forward_hook(lambda layer, inputs, y: into.update({layer: inputs[0]}))
        layer.register_forward_hook(lambda layer, inputs, y: out.update({layer: y}))
    vae.decode(vae.encode(torch.rand(1, 1, 8, 16, 16)))
    block = vae.decoder[3]
    for name, got, before in (("to_moments", into[vae.to_moments], out[vae.encoder]),
                              ("to_pixels", into[vae.to_pixels], out[block]),
                              ("conv1", into[block.conv1], into[block]),
                              ("conv2", into[block.conv2], out[block.conv1])):
        close(got, nnf.silu(sora.channel_norm(before)), f"{name} must be fed silu(channel_norm(x))")


def test_latents_are_normalised_and_decode_inverts_that():
    vae = lively(VideoVAE(MINI))
    videos = [torch.rand(4, 1, 8, 16, 16) * 2 - k for k in range(3)]
    before = vae.decode(vae.moments(videos[0])[0])                  # mean 0 and std 1 so far
    measure_latents(vae, videos)
    latent = torch.cat([vae.encode(video) for video in videos])
    close(latent.mean((0, 2, 3, 4)), torch.zeros(4), "mean of each channel, after `measure_latents`", atol=1e-4)
    close(latent.std((0, 2, 3, 4)), torch.ones(4), "deviation of each channel, after `measure_latents`", 1e-3)
    close(vae.decode(vae.encode(videos[0])), before, "`decode` must undo what `encode` does to mean and std",
          1e-3, 1e-4)
    assert not vae.mean.requires_grad and not vae.std.requires_grad, "the statistics hold on to a graph"
    assert {"mean", "std"} <= set(vae.state_dict()), "the statistics are not saved with the weights"


def test_vae_draws_from_its_posterior():
    """In training the decoder gets mean + sqrt(variance) x eps, where log variance is what it says."""
    vae, video, drawn = lively(VideoVAE(MINI)), torch.rand(2, 1, 8, 16, 16), []
    vae.mean += torch.randn(4, 1, 1, 1)
    vae.std *= 3
    decode, eps = vae.decode, torch.randn(2, 4, 2, 2, 2).abs() + 0.1
    vae.decode = lambda latent: drawn.append(latent) or decode(latent)
    copy, mean, log_var = vae(video, eps)
    same(copy, decode(drawn[0]), "the copy is the decoded draw")
    latent = drawn[0] * vae.std + vae.mean                          # `decode` undoes the normalisation
    close((latent - mean) / eps, log_var.exp().sqrt(), "the draw deviates by eps x the wrong deviation: "
          "exp(0.5 log_var) is the deviation, exp(log_var) the variance; 0: no noise is drawn", 1e-3, 1e-4)
    for got, expected in zip((mean, log_var), vae.moments(video)):
        same(got, expected, "mean and log variance are those of `moments`")


def test_fourier_shift_moves():
    """By whole numbers it is a roll; in between, a wave moves by a part of its length."""
    x = torch.randn(2, 3, 2, 6, 8)
    close(fourier_shift(x, (2, -3)), x.roll((2, -3), dims=(3, 4)), "a shift of 2 down and 3 to the left is a roll: "
          "are height and width mixed up, or the sign?", 1e-4, 1e-5)
    y, x = torch.arange(6.0)[:, None] / 6, torch.arange(8.0) / 8    # places, in turns of the slowest wave
    wave = torch.cos(2 * math.pi * (y + 2 * x)).expand(1, 1, 1, 6, 8)
    moved = torch.cos(2 * math.pi * ((y - 0.5 / 6) + 2 * (x - 0.25 / 8)))
    close(fourier_shift(wave, (0.5, 0.25))[0, 0, 0], moved, "half a latent pixel down and a quarter to the right: "
          "each frequency turns by -2 pi frequency x shift", 1e-4, 1e-5)


def test_vae_moves_latents_in_pixels():
    """With a shift, the decoder is given the drawn latent moved by shift / 8: a latent pixel has 8 pixels."""
    vae, video, drawn = lively(VideoVAE(MINI)), torch.rand(2, 1, 4, 16, 32), []
    decode, eps = vae.decode, torch.randn(2, 4, 1, 2, 4)
    vae.decode = lambda latent: drawn.append(latent) or decode(latent)
    for shift in ((0, 0), (8, 0), (0, 8), (3, 0)):
        vae(video, eps, shift)
    still, down, right, part = drawn
    close(down, still.roll(1, dims=3), "8 pixels down are a latent pixel down", 1e-4, 1e-5)
    close(right, still.roll(1, dims=4), "8 pixels to the right are a latent pixel to the right", 1e-4, 1e-5)
    close(part, fourier_shift(still, (3 / 8, 0)), "3 pixels are 3/8 of a latent pixel", 1e-4, 1e-5)


def test_log_variance_is_bounded():
    vae = lively(VideoVAE(MINI))
    for bias, bound in ((-1e4, -20.0), (1e4, 10.0)):
        vae.to_moments.bias.data.fill_(bias)
        log_var = vae.moments(torch.rand(1, 1, 4, 8, 8))[1]
        same(log_var, torch.full_like(log_var, bound), "without bounds exp(log_var) becomes inf or 0")


def test_kl_is_that_of_torch():
    """And the loss is squared error + kl_weight x KL, of a copy made with the noise that was handed in."""
    video, eps = torch.rand(2, 1, 8, 8, 8), torch.randn(2, 4, 2, 1, 1)
    mean, log_var = torch.randn(2, 2, 4, 2, 1, 1)
    seen = []

    def vae(video, eps, shift):
        seen.append((eps, shift))
        return video.roll(shift, dims=(3, 4)) + 0.5, mean, log_var

    loss, error, kl = vae_loss(vae, video, eps, kl_weight=0.1)
    expected = kl_divergence(Normal(mean, log_var.exp().sqrt()), Normal(0.0, 1.0)).mean()
    close(kl, expected, "KL(q || N(0,1)) = (mean^2 + variance - 1 - log variance) / 2: a wrong sign?")
    close(error, 0.25, "all pixels are off by 0.5: the mean squared error is 0.25")
    close(loss, 0.25 + 0.1 * expected, "loss = squared error + kl_weight x KL(q || N(0,1))")
    same(seen[0][0], eps, "the noise that the VAE draws with is the one handed in")
    _, error, _ = vae_loss(vae, video, eps, 0.1, shift=(2, 5))
    close(error, 0.25, "a latent moved 2 pixels down and 5 to the right is compared with the video moved as far")
    assert [shift for _, shift in seen] == [(0, 0), (2, 5)], "nothing moves unless asked for; then as far as asked"


@pytest.mark.parametrize("T,H,W", [(6, 16, 16), (8, 12, 16), (8, 16, 20)])
def test_vae_refuses_videos_it_cannot_divide(T, H, W):
    with pytest.raises(InputError, match=f"{T} frames of {H}x{W}"):
        VideoVAE(MINI).encode(torch.rand(1, 1, T, H, W))


# --- 3. spacetime patches -------------------------------------------------------------------------

@pytest.mark.parametrize("p,F,h,w", [(1, 4, 4, 5), (2, 3, 4, 6), (2, 1, 8, 2)])
def test_patchify_is_inverted_by_unpatchify(p, F, h, w):
    """And every token holds the patch at the position that `token_positions` gives it."""
    latent = torch.randn(2, 5, F, h, w)
    tokens = patchify(latent, p)
    same(unpatchify(tokens, p, F, h, w), latent, "unpatchify must undo patchify")
    positions, _ = token_positions(torch.arange(F).expand(2, F), h // p, w // p)
    for i, (f, y, x) in enumerate(positions[1].tolist()):
        patch = latent[:, :, f, y * p:(y + 1) * p, x * p:(x + 1) * p]
        same(tokens[:, i], patch.flatten(1), f"token {i} must hold the patch at {f, y, x}: order of axes?")


def test_positions_and_walls_one_token_at_a_time():
    """2 rows and 3 columns: the canvas is not square. Each clip has its own times."""
    frames = torch.tensor([[0, 1], [-24, 7]])
    positions, walls = token_positions(frames, rows=2, columns=3)
    i = 0
    for f in range(2):
        for y in range(2):
            for x in range(3):
                for b in range(2):
                    same(positions[b, i], [frames[b, f], y, x], f"position (f,y,x) of token {i}, clip {b}")
                same(walls[i], [y, 1 - y, x, 2 - x], f"distances of token {i} to the top, bottom, left and "
                                                     "right wall: rows and columns swapped?")
                i += 1
    assert len(walls) == i == positions.shape[1], f"expected {i} tokens, got {len(walls)}"


def test_sinusoid_one_number_at_a_time():
    got = sinusoid(torch.tensor([0.0, 3.0]), 8, max_period=100)
    for row, x in zip(got, (0, 3)):
        waves = [x / 100 ** (i / 4) for i in range(4)]
        close(row, [math.cos(a) for a in waves] + [math.sin(a) for a in waves],
              "cosines, then sines, of x / max_period^(i / half)")


def test_rope_angles_one_axis_at_a_time():
    """Of 8 pairs 2 rotate with f, 3 with y and 3 with x, from 1 radian a patch on, slower and slower."""
    for axis, mine in enumerate((range(0, 2), range(2, 5), range(5, 8))):
        position = torch.zeros(1, 1, 3)
        position[..., axis] = 1.3
        cos, sin = rope_angles(position, 16)
        expected = [1.3 * 100 ** -((i - mine[0]) / len(mine)) if i in mine else 0.0 for i in range(8)]
        close(torch.atan2(sin, cos).flatten(), expected, f"axis {'fyx'[axis]}: angles of the 8 pairs; are "
                                                         "axes swapped, or is one left out?")


def test_rotate_is_multiplication_by_a_complex_number():
    """The pair (i, i + half) is a complex number; RoPE multiplies it by exp(i angle), counterclockwise."""
    x, angle = torch.randn(2, 5, 3, 16), torch.randn(2, 5, 1, 8)
    got = rotate(x, (angle.cos(), angle.sin()))
    z = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angle), angle)
    close(got, torch.cat([z.real, z.imag], -1), "(a cos - b sin, a sin + b cos): a sign or a pair is wrong")


def test_rope_depends_on_relative_position_only():
    """q·k stays the same when both move by the same (f,y,x), and changes when one moves alone."""
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)
    at = lambda v, *place: rotate(v, rope_angles(torch.tensor([[place]], dtype=torch.float64), 32))
    score = lambda a, b: (at(q, *a) * at(k, *b)).sum()
    here = score((1, 2, 3), (4, 0, 5))
    close(score((101, 2.5, 13), (104, 0.5, 15)), here, "both moved by (100, 0.5, 10): q·k must not change")
    for moved in ((5, 0, 5), (4, 1, 5), (4, 0, 6)):
        assert (score((1, 2, 3), moved) - here).abs() > 1e-3, \
            f"the key moved from (4, 0, 5) to {moved}, q·k did not change: an axis is left out"


# --- 4. the diffusion transformer -----------------------------------------------------------------

def test_attention_one_head_at_a_time():
    """softmax(q·k / sqrt(head_dim)) v with normalised, rotated q and k, and q times the head's gain."""
    attention, x = lively(Attention(32, 2)).double(), torch.randn(1, 5, 32, dtype=torch.float64)
    attention.gain.data = torch.tensor([[0.7], [3.0]], dtype=torch.float64)
    rope = rope_angles(torch.randn(1, 5, 3, dtype=torch.float64), 16)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for n in range(2):
        mine = slice(16 * n, 16 * n + 16)
        centred = lambda y: y - y.mean(-1, keepdim=True)
        unit = lambda y: centred(y) / (centred(y).square().mean(-1, keepdim=True) + 1e-5).sqrt()
        turn = lambda y: rotate(y[:, :, None], rope)[:, :, 0]
        queries, keys = turn(unit(q[..., mine]) * attention.gain[n]), turn(unit(k[..., mine]))
        heads.append((queries @ keys.mT / 4).softmax(-1) @ v[..., mine])
    close(attention(x, rope), attention.out(torch.cat(heads, -1)),
          "attention is not what the formula says: is a norm of q or k, the gain, or RoPE missing?")


def test_queries_and_keys_of_any_size_attend_alike():
    """QK-norm: 9 times the queries and keys, the same attention. Gain 0: all tokens attended alike."""
    attention, x = lively(Attention(32, 2)), torch.randn(1, 5, 32)
    torch.nn.init.ones_(attention.gain)
    rope = rope_angles(torch.randn(1, 5, 3), 16)
    before = attention(x, rope)
    attention.qkv.weight.data[:64] *= 9
    attention.qkv.bias.data[:64] *= 9
    close(attention(x, rope), before, "queries and keys must be normalised", 1e-3, 1e-3)
    torch.nn.init.zeros_(attention.gain)
    y = attention(x, rope)
    close(y, y.mean(1, keepdim=True).expand_as(y), "gain 0 makes all logits 0: is the gain used?")


def mlp(layers, act, y):
    """layers[2](act(layers[0](y))), by hand."""
    return nnf.linear(act(nnf.linear(y, layers[0].weight, layers[0].bias)), layers[2].weight, layers[2].bias)


def test_block_is_adaln():
    """The modulation's six parts: shift, scale and gate of the attention, then those of the MLP."""
    block, x, rope = lively(sora.DiTBlock(48, 2)), torch.randn(1, 6, 48), rope_angles(torch.rand(1, 6, 3), 24)
    frame, condition = torch.tensor([0, 0, 0, 1, 1, 1]), torch.randn(1, 2, 48)
    parts = block.modulation(nnf.silu(condition))[:, frame].chunk(6, dim=-1)
    ln = lambda y: nnf.layer_norm(y, (48,))
    y = x + parts[2] * block.attention(ln(x) * (1 + parts[1]) + parts[0], rope)
    y = y + parts[5] * mlp(block.mlp, nnf.gelu, ln(y) * (1 + parts[4]) + parts[3])
    assert len(block.mlp[0].weight) == 4 * 48, f"the MLP is {len(block.mlp[0].weight)} wide, expected 4 x 48"
    close(block(x, condition, frame, rope), y, "x + gate f(norm(x) (1 + scale) + shift), twice: is a part "
                                               "missing, or that of another latent frame?")


def test_block_is_the_identity_at_initialisation():
    """adaLN-Zero: gates are 0. So the network predicts 0, and a caption without words adds nothing."""
    dit, x, condition = DiT(MINI, 10), torch.randn(1, 6, 48), torch.randn(1, 2, 48)
    rope, frame = rope_angles(torch.rand(1, 6, 3), 24), torch.tensor([0, 0, 0, 1, 1, 1])
    for block in dit.blocks:
        same(block(x, condition, frame, rope), x, "is block.modulation initialised with 0?")
        same(block.attention.gain, torch.full((2, 1), 2.0), "gains begin at 2: with 1 attention is too blunt")
    out = dit(torch.randn(2, 4, 2, 4, 4), torch.rand(2, 2), torch.ones(2, 1).long())
    same(out, torch.zeros_like(out), "is the head initialised with 0?")
    same(dit.modulation.weight, torch.zeros(96, 48), "the last shift and scale must do nothing at first")
    for name, layer in dit.named_modules():
        if isinstance(layer, torch.nn.Linear):
            bound, most = math.sqrt(6 / sum(layer.weight.shape)), layer.weight.abs().max().item()
            assert most == 0 or 0.95 * bound < most <= bound, f"{name}: weights up to {most:.3f}, Xavier's " \
                                                              f"uniform draw has them up to {bound:.3f}"
            same(layer.bias, torch.zeros_like(layer.bias), f"{name}: biases begin at 0")
    same(dit.embed_word.weight[0], torch.zeros(48), "'no word' must add nothing to a caption")
    assert (dit.embed_word.weight[1:].std(1) > 0.2).all(), "the other words must differ from 'no word'"


def test_last_layer_is_shifted_and_scaled():
    """Both halves of the last modulation act: head(norm(x) (1 + scale) + shift)."""
    dit = lively(DiT(MINI, 10))
    seen = {}
    dit.blocks[-1].register_forward_hook(lambda _, inputs, y: seen.update(x=y, condition=inputs[1]))
    out = dit(torch.randn(1, 4, 2, 2, 3), torch.rand(1, 2), torch.ones(1, 1).long())
    shift, scale = dit.modulation(nnf.silu(seen["condition"])).repeat_interleave(6, 1).chunk(2, -1)
    expected = dit.head(nnf.layer_norm(seen["x"], (48,)) * (1 + scale) + shift)
    close(out, unpatchify(expected, 1, 2, 2, 3), "the last layer is not head(norm(x) (1 + scale) + shift)")


def test_network_is_told_level_walls_and_words():
    """Waves of 1000 t and of the four distances to the walls; the sum of the words of each frame."""
    dit, seen = lively(DiT(MINI, 10)), {}
    dit.embed_level.register_forward_pre_hook(lambda _, inputs: seen.update(level=inputs[0]))
    dit.embed_walls.register_forward_pre_hook(lambda _, inputs: seen.update(walls=inputs[0]))
    dit.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0], condition=inputs[1]))
    x, t, caption = torch.randn(1, 4, 2, 2, 3), torch.tensor([[0.3, 0.0]]), torch.tensor([[[3, 0], [5, 7]]])
    dit(x, t, caption)
    close(seen["level"][0, 0, [0, 64, 128]], [math.cos(300), math.cos(300 / 100), math.sin(300)],
          "the level's waves are cos and sin of 1000 t: in [0,1] they would hardly move", 1e-3, 1e-3)
    close(seen["walls"], sinusoid(token_positions(torch.arange(2)[None], 2, 3)[1], 16, 100).flatten(1),
          "the waves of the distances to the walls")
    close(seen["x"], dit.embed_token(patchify(x, 1)) + dit.embed_walls(seen["walls"]),
          "the blocks begin with the embedded tokens + the embedded walls")
    word = dit.embed_word.weight
    words = torch.stack([word[3], word[5] + word[7]])
    close(seen["condition"][0], mlp(dit.embed_level, nnf.silu, seen["level"])[0] + words,
          "the condition of a latent frame is its level + the sum of its words")


def forward_args(B=2, F=4):
    return torch.randn(B, 4, F, 4, 2), torch.rand(B, F), torch.randint(1, 10, (B, F, 2)), torch.randn(B, F)


def test_tokens_are_a_set():
    """In another order, the tokens of a clip get the same predictions, in that order."""
    dit = lively(DiT(MINI, 10))
    tokens, positions, walls, frame, t, caption = dit.tokenise(*forward_args(1))
    order = torch.randperm(tokens.shape[1])
    out = dit.forward_tokens(tokens, positions, walls, frame, t, caption)
    shuffled = dit.forward_tokens(tokens[:, order], positions[:, order], walls[order], frame[order], t,
                                  caption)
    close(shuffled, out[:, order], "the order of tokens must not matter, only their positions", atol=1e-4)


def test_latent_frames_are_a_set():
    """A frame takes its level, caption and position along to another place in the clip."""
    dit, args, order = lively(DiT(replace(MINI, patch=2), 10)), forward_args(), torch.tensor([2, 0, 3, 1])
    moved = dit(args[0][:, :, order], *(arg[:, order] for arg in args[1:]))
    close(moved, dit(*args)[:, :, order], "is each token given the level and caption of its own frame?",
          atol=1e-4)


def test_clips_of_a_batch_do_not_see_each_other():
    dit, args = lively(DiT(MINI, 10)), forward_args(3)
    close(dit(*args)[1:2], dit(*(arg[1:2] for arg in args)), "a clip alone, and in a batch", atol=1e-4)


def test_each_frame_feels_its_own_level():
    """And its own word and position; every frame feels those of the others, through attention."""
    dit, (x, t, caption, positions) = lively(DiT(MINI, 10)), forward_args(1)
    out, at = dit(x, t, caption, positions), torch.tensor([[0, 0, 1, 0]])
    for name, other in (("level", dit(x, t + 0.01 * at, caption, positions)),
                        ("caption", dit(x, t, caption * (1 - at[..., None]), positions)),
                        ("position", dit(x, t, caption, positions + at))):
        difference = (other - out).abs().amax((0, 1, 3, 4))
        assert difference.min() > 1e-6, f"another {name} of frame 2 changes the frames by " \
                                        f"{difference.tolist()}"
    close(dit(x, t, caption, positions + 50), out, "time has no beginning: RoPE is relative", atol=1e-3)


def test_a_caption_is_a_bag_of_words():
    dit, (x, t, *_) = lively(DiT(MINI, 10)), forward_args(1)
    out = dit(x, t, torch.tensor([[3, 7]]))
    for caption in ([[7, 3]], [[7, 0, 3, 0]], [[[3, 7]] * 4]):
        close(dit(x, t, torch.tensor(caption)), out, f"{caption} says the same as [[3, 7]]")
    assert (dit(x, t, torch.tensor([[3, 8]])) - out).abs().max() > 1e-3, "another word changes nothing"
    close(dit(x, t, torch.tensor([[3, 7]]), torch.arange(4)[None]), out, "without positions: 0, 1, 2, 3")
    dit(x, t, torch.tensor([[3, 0]])).sum().backward()
    same(dit.embed_word.weight.grad[0], torch.zeros(48), "'no word' must not be trained: padding_idx?")
    assert dit.embed_word.weight.grad[3].abs().max() > 0, "word 3 must be trained"


def test_packed_clips_do_not_see_each_other():
    """Clips of several sizes in one sequence give what each gives alone, outputs and gradients."""
    dit, times = lively(DiT(replace(MINI, patch=2, placed=0.5), 10)), torch.tensor([[-5, 1, 2]])
    clips = [(torch.randn(1, 4, F, h, w), torch.rand(1, F), torch.randint(1, 9, caption), *positions)
             for F, h, w, caption, positions in ((2, 4, 4, (1, 2), []), (1, 2, 6, (1, 1, 2), []),
                                                 (3, 4, 2, (1, 2), [times]), (2, 4, 4, (1, 2, 2), []))]
    clips[1][2][:] = at(3, 6, 20)
    alone = [dit(*clip) for clip in clips]
    sum(out.square().sum() for out in alone).backward()
    gradients = [p.grad.clone() for p in dit.parameters()]
    dit.zero_grad()
    packed = dit.forward_packed(clips)
    assert len(packed) == len(clips), f"{len(clips)} clips went in, {len(packed)} came out"
    for one, expected in zip(packed, alone):
        close(one, expected, "a packed clip must not see the others, their levels or captions", atol=1e-4)
    sum(out.square().sum() for out in packed).backward()
    for p, expected in zip(dit.parameters(), gradients):
        close(p.grad, expected, "gradients of packed clips", 1e-3, 1e-2)


def at(word, y, x):
    """The id of a word that says it is at y, x."""
    return word + sora.PLACE * (1 + 1000 * y + x)


@pytest.mark.parametrize("p", [1, 2])
def test_nearness_is_a_gaussian_of_the_distance(p):
    """In latent pixels of 8: from the middle of a token to the place, in each latent frame to its own."""
    places = torch.tensor([[[at(3, 12, 20), 3], [at(4, 0, 0), at(5, 7, 33)]]])            # (1,F=2,words=2)
    rows, columns = 4 // p, 6 // p
    positions, _ = token_positions(torch.tensor([[7, 8]]), rows, columns)
    frame = torch.arange(2).repeat_interleave(rows * columns)
    got = sora.nearness(places // sora.PLACE, positions, frame, p).view(2, rows, columns, 2)
    for f, word, y, x in ((0, 0, 12, 20), (1, 0, 0, 0), (1, 1, 7, 33)):
        for row in range(rows):
            for column in range(columns):
                far = ((row + 0.5) * 8 * p - y) ** 2 + ((column + 0.5) * 8 * p - x) ** 2
                close(got[f, row, column, word], math.exp(-far / 64 / 2),
                      f"frame {f}, word {word} at {y},{x}, token {row},{column}: expected exp(-d^2/2), d in units of 8")
    close(got[0, ..., 1], torch.zeros(rows, columns), "a word without a place is near to no token")
    wide, _ = token_positions(torch.tensor([[0]]), 1, 140)
    none = sora.nearness(torch.zeros(1, 1, 1).long(), wide, torch.zeros(140).long(), 1)
    close(none, torch.zeros(1, 140, 1), "nor in a wide clip: 0 is no place")


def test_places_are_added_where_they_are():
    """The network adds the word's own embedding of places, as near as the token is; adaLN hears the bare word."""
    dit = DiT(replace(MINI, placed=0.5), 10)
    same(dit.embed_place.weight[0], torch.zeros(48), "no word is nowhere: row 0 of embed_place")
    lively(dit)
    x, t, _, _ = forward_args(1, 2)
    bare = torch.tensor([[[3, 7], [3, 7]]])
    plain, seen = dit(x, t, bare), []
    dit.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    placed = bare.clone()
    placed[0, 1, 1] = at(7, 12, 12)                                 # the middle of the token in row 1, column 1
    assert changed(dit(x, t, placed), plain).all(), "expected a place to change the predictions: is it read at all?"
    dit(x, t, bare)
    near, far = seen[0][0], seen[1][0]                              # (1,L,D), what the first block gets
    same(seen[0][1], seen[1][1], "the condition of adaLN: a word means the same with and without its place")
    moved = (near - far)[0].unflatten(0, (2, *x.shape[3:]))         # (F,h,w,D)
    same(moved[0], torch.zeros_like(moved[0]), "the other latent frame has no places")
    close(moved[1, 1, 1], dit.embed_place.weight[7], "at the place itself, all of the embedding of word 7")
    assert DiT(MINI, 10).embed_place is None, "without places in training there is nothing to learn of them"


def test_sums_are_made_in_float32():
    """With products in bfloat16 (autocast), what is added up block by block does not lose its digits."""
    dit, seen = lively(DiT(MINI, 10)), {}
    block, vae = dit.blocks[0], lively(VideoVAE(MINI))
    block.register_forward_hook(lambda _, inputs, y: seen.update(x=inputs[0], y=y))
    block.modulation.register_forward_hook(lambda _, inputs, y: seen.update(modulation=y))
    block.attention.register_forward_pre_hook(lambda _, inputs: seen.update(attention=inputs[0]))
    dit.modulation.register_forward_hook(lambda _, inputs, y: seen.update(last=y))
    dit.blocks[-1].register_forward_hook(lambda _, inputs, y: seen.update(end=y))
    dit.head.register_forward_pre_hook(lambda _, inputs: seen.update(head=inputs[0]))
    x, t, caption, _ = forward_args(1)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = dit(x, t, caption), *vae.moments(torch.rand(1, 1, 4, 16, 16)), vae.decode(x)
    assert seen["modulation"].dtype == torch.bfloat16, "autocast does not work: the test tests nothing"
    for name, tensor in dict(x=seen["x"], y=seen["y"], out=outputs[0], mean=outputs[1], log_var=outputs[2],
                             video=outputs[3]).items():
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
    ln = lambda y: nnf.layer_norm(y, (48,))
    for got, before, parts in ((seen["attention"], seen["x"], seen["modulation"].chunk(6, -1)),
                               (seen["head"], seen["end"], seen["last"].chunk(2, -1))):
        shift, scale = (part.float().repeat_interleave(8, 1) for part in parts[:2])
        close(got, ln(before) * (1 + scale) + shift, "1 + scale was rounded to bfloat16", 1e-5, 1e-5)


# --- 5. DDPM --------------------------------------------------------------------------------------

def paper_bar(t):
    """alpha_bar at t / N, as the paper has it: f(t) / f(0), f = cos^2((t/N + 0.008) / 1.008 pi/2)."""
    f = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return f(t) / f(0)


def exact_ddpm(N=1000, prediction="v"):
    """A DDPM in float64 whose alpha_bar is the formula above, not what sora.py makes of it."""
    process = DDPM(N, prediction)
    process.alpha_bar = torch.tensor([paper_bar(t / N) for t in range(N + 1)], dtype=torch.float64)
    return process


def pixel(value):
    return torch.full((1, 1, 1, 1, 1), value, dtype=torch.float64)


def level(t):
    return torch.tensor([[t]])


@pytest.mark.parametrize("N", [1000, 50])
def test_alpha_bar_is_that_of_the_paper(N):
    """Improved DDPM, eq. 17, at three levels; level 0 is the data; no beta is above 0.999."""
    bar = DDPM(N).alpha_bar
    assert len(bar) == N + 1 and bar[0] == 1, f"expected levels 0..N with alpha_bar[0] = 1: got {len(bar)} " \
                                              f"levels from {bar[0]} on"
    for t in (1, 2 * N // 5, 9 * N // 10):
        close(bar[t], paper_bar(t / N), f"alpha_bar[{t}]: wrong schedule, no offset of 0.008, or off by one?",
              1e-5, 1e-7)
    close(bar[N] / bar[N - 1], 0.001, "the last beta is clipped at 0.999", 1e-3)


def test_noisy_latents_keep_variance_and_level_0_is_the_data():
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps (DDPM, eq. 4), each frame at its own level."""
    x0, eps = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    t = torch.tensor([[0, 1, 400, 900], [900, 1, 0, 0]])
    x = DDPM().q_sample(x0, t, eps)
    for b in range(2):
        for f in range(4):
            bar = paper_bar(t[b, f].item() / 1000)
            close(x[b, :, f], bar ** 0.5 * x0[b, :, f] + (1 - bar) ** 0.5 * eps[b, :, f], "q_sample, eq. 4")
    clean = (t == 0)[:, None].expand(2, 3, 4)
    same(x[clean], x0[clean], "level 0 is the data itself")


def test_target_is_the_velocity_on_the_circle():
    """x_t = cos(a) x0 + sin(a) eps; v = dx_t / da = cos(a) eps - sin(a) x0 (Salimans & Ho, section 4)."""
    x0, eps, t = torch.randn(1, 2, 1, 2, 2), torch.randn(1, 2, 1, 2, 2), level(300)
    a = math.acos(paper_bar(0.3) ** 0.5)
    close(DDPM().target(x0, eps, t), math.cos(a) * eps - math.sin(a) * x0, "v is alpha eps - sigma x0")
    same(DDPM(1000, "eps").target(x0, eps, t), eps, "prediction eps: the noise")
    same(DDPM(1000, "x0").target(x0, eps, t), x0, "prediction x0: the data")


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_predict_inverts_target(prediction):
    """From a perfect output, (x0, eps). The network is given x, t / N and the caption."""
    process, seen = DDPM(1000, prediction), []
    for t in ([[1, 300]], [[700, 960]]):
        x0, eps, t = torch.rand(1, 3, 2, 2, 2) * 2 - 1, torch.randn(1, 3, 2, 2, 2), torch.tensor(t)
        x, target = process.q_sample(x0, t, eps), process.target(x0, eps, t)
        got_x0, got_eps = process.predict(lambda *args: seen.append(args) or target, x, t, "words")
        close(got_x0, x0, f"{prediction}: x0 from a perfect output", 1e-3, 1e-3)
        close(got_eps, eps, f"{prediction}: eps from a perfect output", 1e-3, 1e-2)
        same(seen[-1][0], x, "the network must be given x_t")
        close(seen[-1][1], t / 1000, "the network must be given t / N, in [0,1]")
        assert seen[-1][2] == "words", f"the network must be given the caption, got {seen[-1][2]}"


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_estimates_fit_the_noisy_latent(prediction):
    """Whatever the network says: x_t = signal x0 + noise eps, and x0 from a wrong eps is not absurd."""
    process, x = DDPM(1000, prediction), torch.randn(1, 4, 3, 4, 4)
    t = torch.tensor([[400, 990, 1000]])
    x0, eps = process.predict(lambda x, t, caption: torch.randn_like(x), x, t, None)
    close(process.q_sample(x0, t, eps), x, f"{prediction}: x0 and eps do not fit x_t: was eps computed "
                                           "before x0 was clamped?", 1e-3, 1e-3)
    if prediction == "eps":
        assert x0.abs().max() <= 5, f"x0 is {x0.abs().max():.0f} deviations large: dividing by the signal " \
                                    "blows up errors of eps, so clamp it"


@pytest.mark.parametrize("shift", [0.0, 1.5, -0.5])
def test_levels_are_logit_normal(shift):
    """P(level <= k) = Phi(logit(k / N) - shift), k = 1..N, for DDPM; for SiT the same in (0,1)."""
    cdf = lambda u: Normal(shift, 1.0).cdf(torch.logit(torch.tensor(u))).item()
    levels = DDPM(4, level_shift=shift).draw_levels((40000, 1))
    values = levels.unique().tolist()
    assert values == [1, 2, 3, 4], f"levels {values}, expected 1..N: level 0 is the data, nothing to learn"
    for k in (1, 2, 3):
        share(levels <= k, cdf(k / 4), f"DDPM, shift {shift}: levels <= {k} of 4")
    for process in (DDPM(1000, level_shift=shift), SiT(shift)):
        u = process.draw_levels((40000, 1)) / process.N
        assert 0 < u.min() and u.max() <= 1, f"levels from {u.min()} to {u.max()} of N"
        for quantile in (0.1, 0.4, 0.8):
            share(u <= quantile, cdf(quantile), f"{type(process).__name__}, shift {shift}: levels <= {quantile} N")


def test_ddpm_schedule_runs_from_n_to_0():
    process = DDPM(1000)
    for steps, strength in ((1, 1.0), (7, 1.0), (50, 1.0), (20, 0.3)):
        levels = process.schedule(steps, strength).tolist()
        exact = [strength * 1000 * (1 - i / steps) for i in range(steps + 1)]
        assert len(levels) == steps + 1 and max(abs(a - b) for a, b in zip(levels, exact)) <= 0.5, \
            f"{steps} steps at strength {strength}: expected about {exact}, got {levels}"
    for steps, strength, expected in ((99, 1.0, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]), (9, 0.01, [1, 0])):
        levels = DDPM(10).schedule(steps, strength).tolist()
        assert levels == expected, f"{steps} steps, 10 levels, strength {strength}: expected {expected}, " \
                                   f"each level once and at least one step, got {levels}"


def bayes(bar_t, bar_s, x0, x_t):
    """q(x_s | x_t, x0), proportional to q(x_t | x_s) q(x_s | x0): two Gaussians, on a fine grid."""
    grid, step = torch.linspace(-8, 8, 200001, dtype=torch.float64), bar_t / bar_s
    log_p = -(x_t - step ** 0.5 * grid) ** 2 / (2 * (1 - step))                 # q(x_t | x_s)
    log_p -= (grid - bar_s ** 0.5 * x0) ** 2 / (2 * (1 - bar_s))                # q(x_s | x0)
    p = (log_p - log_p.max()).exp()
    mean = (p * grid).sum() / p.sum()
    return mean, (p * (grid - mean) ** 2).sum() / p.sum()


@pytest.mark.parametrize("t,s", [(500, 499), (900, 300), (60, 50)])
def test_posterior_follows_from_bayes_rule(t, s):
    process = exact_ddpm()
    expected = bayes(paper_bar(t / 1000), paper_bar(s / 1000), 0.7, -0.4)
    got = process.posterior(pixel(0.7), pixel(-0.4), level(t), level(s))
    for name, one, two in zip(("mean", "variance"), got, expected):
        close(one.squeeze(), two, f"{name} of q(x_{s} | x_{t}, x0): see DDPM eq. 7; the variance is not beta",
              1e-4, 1e-9)


def test_ancestral_draws_from_the_posterior():
    """At the network's estimate of x0, with the noise that `randn` makes; none at the last step."""
    process = exact_ddpm(prediction="x0")
    for noise in (0.0, 1.0, -2.0):
        step = lambda t, s: process.ancestral(lambda x, t, c: pixel(0.7), pixel(-0.4), level(t), level(s),
                                              None, lambda x: pixel(noise)).squeeze()
        mean, variance = bayes(paper_bar(0.9), paper_bar(0.3), 0.7, -0.4)
        close(step(900, 300), mean + noise * variance.sqrt(),
              f"x_300 from x_900 with noise {noise}: expected posterior mean + deviation x noise", 1e-4)
        close(step(20, 0), 0.7, "the last step, to level 0, must give the estimate of x0: is noise added?",
              1e-6)


SIGMA = 0.5  # data ~ N(0, SIGMA^2): all that a perfect network says is linear in x, and known


def perfect(prediction):
    """The best prediction for these data. Its alpha_bar comes from the formula, not from a process."""
    def model(x, t, caption):
        (t,) = t.flatten().tolist()
        signal, noise = 1 - t, t
        if prediction != "velocity":
            signal, noise = paper_bar(t) ** 0.5, (1 - paper_bar(t)) ** 0.5
        total = signal ** 2 * SIGMA ** 2 + noise ** 2
        x0, eps = signal * SIGMA ** 2 / total * x, noise / total * x            # E[x0 | x_t], E[eps | x_t]
        return {"v": signal * eps - noise * x0, "eps": eps, "x0": x0, "velocity": eps - x0}[prediction]
    return model


def sampled(process, sampler, prediction, steps, randn=None):
    """(gain, variance) of the last latents of a sampler that began with one number of variance 1."""
    levels = process.schedule(steps)[:, None, None]
    gain, variance = 1.0, 1.0
    for t, s in zip(levels, levels[1:]):
        step = lambda noise: getattr(process, sampler)(perfect(prediction), pixel(1.0), t, s, None,
                                                       lambda x: pixel(noise)).item()
        factor, added = step(0.0), step(1.0) - step(0.0)
        gain, variance = gain * factor, factor ** 2 * variance + added ** 2
    return gain, variance


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_ancestral_follows_the_gaussian_recursion(prediction):
    """variance' = gain^2 variance + that of the noise, at every step, leads to SIGMA^2 with order 1."""
    process = exact_ddpm(4096, prediction)
    errors = [abs(sampled(process, "ancestral", prediction, steps)[1] - SIGMA ** 2)
              for steps in (32, 64, 128)]
    for coarse, fine in zip(errors, errors[1:]):
        assert 1.6 < coarse / fine < 2.5, f"errors of the variance after 32, 64, 128 steps: {errors}, " \
                                          "expected to halve each time; posterior mean or variance wrong?"


@pytest.mark.parametrize("sampler,prediction,order", [
    ("ddim", "v", 1), ("ddim", "x0", 1), ("euler", "velocity", 1), ("heun", "velocity", 2)])
def test_deterministic_samplers_converge_at_their_order(sampler, prediction, order):
    """The flow takes deviation 1 to SIGMA; twice the steps, an error 2^order times smaller."""
    process = SiT() if prediction == "velocity" else exact_ddpm(4096, prediction)
    runs = [sampled(process, sampler, prediction, steps) for steps in (32, 64, 128)]
    for gain, variance in runs:
        assert gain ** 2 == pytest.approx(variance, rel=1e-9), f"{sampler} adds noise: must be deterministic"
    errors = [abs(gain - SIGMA) for gain, _ in runs]
    for coarse, fine in zip(errors, errors[1:]):
        assert 0.8 * 2 ** order < coarse / fine < 1.25 * 2 ** order, \
            f"{sampler}: errors of the deviation after 32, 64, 128 steps: {errors}, expected to fall " \
            f"{2 ** order}-fold each time; a sign, or a time step of the wrong length?"


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_ddim_keeps_the_estimates(prediction):
    """To the same level: x itself. To any level: the same x0 and eps, mixed anew. No noise is drawn."""
    process, x, output = DDPM(1000, prediction), torch.randn(1, 4, 2, 3, 3), torch.randn(1, 4, 2, 3, 3)
    model, t, s = lambda x, t, c: output, torch.tensor([[400, 800]]), torch.tensor([[100, 0]])

    def refuse(x):
        raise AssertionError("DDIM with eta = 0 is deterministic: it must not draw noise")
    close(process.ddim(model, x, t, t, None, refuse), x, "from t to t nothing changes", 1e-3, 1e-4)
    x0, eps = process.predict(model, x, t, None)
    close(process.ddim(model, x, t, s, None, refuse), process.q_sample(x0, s, eps), "x_s from x0 and eps")
    close(process.ddim(model, x, t, s, None, refuse)[:, :, 1], x0[:, :, 1], "at level 0: the estimate of x0")


# --- 6. SiT ---------------------------------------------------------------------------------------

def test_sit_path_is_a_straight_line_from_data_to_noise():
    x0, eps = torch.randn(2, 2, 3, 2, 4, 4)
    t = torch.tensor([[0.0, 1.0], [0.25, 0.5]])
    x = SiT().q_sample(x0, t, eps)
    same(x[0, :, 0], x0[0, :, 0], "at t = 0 there is the data")
    same(x[0, :, 1], eps[0, :, 1], "at t = 1 there is the noise")
    close(x[1, :, 0], 0.75 * x0[1, :, 0] + 0.25 * eps[1, :, 0], "t = 0.25: a quarter of the way to the noise")


def test_sit_target_is_the_velocity():
    """dx_t / dt, by a finite difference: the path is straight, so it is exact."""
    x0, eps, t = torch.randn(1, 3, 2, 4, 4), torch.randn(1, 3, 2, 4, 4), torch.tensor([[0.3, 0.7]])
    at = lambda t: SiT().q_sample(x0, t, eps)
    close(SiT().target(x0, eps, t), (at(t + 0.25) - at(t - 0.25)) / 0.5, "it points from data to noise")


@pytest.mark.parametrize("sampler", SiT.samplers)
def test_sit_samplers_follow_a_straight_line_exactly(sampler):
    """With the true velocity one step leads from the noise to the data, each frame from its own level."""
    x0, eps, t = torch.randn(1, 3, 2, 4, 4), torch.randn(1, 3, 2, 4, 4), torch.tensor([[0.9, 0.4]])
    x = SiT().q_sample(x0, t, eps)
    for s in (torch.tensor([[0.5, 0.1]]), torch.zeros(1, 2)):
        got = getattr(SiT(), sampler)(lambda x, t, c: eps - x0, x, t, s, None)
        close(got, SiT().q_sample(x0, s, eps), f"{sampler} from t = {t.tolist()} to s = {s.tolist()}")


def test_heun_does_not_ask_for_level_0():
    """It was not trained: what the network says there must not matter."""
    model = lambda x, t, c: torch.where(per_frame(t == 0), math.nan, x)
    x = torch.randn(1, 3, 2, 4, 4)
    got = SiT().heun(model, x, torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 0.2]]), None)
    close(got[:, :, 0], 0.5 * x[:, :, 0], "to level 0: one Euler step, x - 0.5 velocity")
    close(got[:, :, 1], x[:, :, 1] * (1 - 0.3 * (1 + 0.7) / 2), "to level 0.2: the mean of both velocities")


def test_sit_schedule_and_make_process():
    close(SiT().schedule(4, 0.8), [0.8, 0.6, 0.4, 0.2, 0.0], "from strength down to 0, evenly")
    ddpm = make_process(replace(MINI, noise_steps=7, prediction="x0", level_shift=0.5))
    assert isinstance(ddpm, DDPM) and (ddpm.N, ddpm.prediction, ddpm.level_shift) == (7, "x0", 0.5), \
        "config.noise_steps, config.prediction and config.level_shift must reach the DDPM"
    sit = make_process(replace(MINI, process="sit", level_shift=0.5))
    assert isinstance(sit, SiT), "process='sit' must give a SiT"
    assert sit.level_shift == 0.5, "config.level_shift must reach the SiT"


# --- 7. training: windows and noise ---------------------------------------------------------------

def test_training_windows_hold_every_use():
    """The first a frames and the last b are known: a of 0..F-1, then b of 0..F-1-a, all alike often; half
    of the clips are mirrored; a share `known` of them stays, in the others nothing is known."""
    config, B, F = Config(known=0.6), 12000, 4
    known = draw_windows(config, B, F, torch.Generator().manual_seed(0))[0]
    p = {(a, b): 1 / F / (F - a) for a in range(F) for b in range(F - a)}
    for a, b in p:
        expected = 0.6 * (p[a, b] + p[b, a]) / 2 + (0.4 if (a, b) == (0, 0) else 0)
        pattern = torch.tensor([f < a or f >= F - b for f in range(F)])
        share((known == pattern).all(1), expected, f"clips with {a} first and {b} last frames known")
    assert not known.all(1).any(), "a clip is known entirely: there is nothing to learn from it"


def test_anchors_are_told_to_be_reach_away():
    """Half of the known ends, each on its own; shown from 0 to reach / 4 latent frames farther away."""
    known, positions, frames = draw_windows(Config(known=1.0), 12000, 4, torch.Generator().manual_seed(0))
    moved = positions != torch.arange(4)
    assert not (moved & ~known).any() and not moved[:, 1:3].any(), \
        "only a known first or last frame can be an anchor"
    for end, told in ((0, -24), (3, 3 + 24)):
        share(moved[known[:, end], end], 0.5, f"anchors among known frames {end} (config.anchors)")
        same(positions[:, end][moved[:, end]].unique(), [told], "anchors are told to be 24 beyond the end")
    both = moved[known[:, 0] & known[:, 3]]
    share(both[:, 0] & both[:, 3], 0.25, "anchors at both ends: they are drawn one by one")
    source = frames.view(-1, 4, 4)[..., 0] // 4
    same(source[~moved], torch.arange(4).expand(12000, 4)[~moved], "the others are shown where they are told")
    for end, sign in ((0, -1), (3, 1)):
        away = sign * (source[:, end] - end)[moved[:, end]]
        nearest, farthest = away.min().item(), away.max().item()
        assert (nearest, farthest) == (0, 24), f"anchors come from {nearest} to {farthest} latent frames " \
                                               "away, expected 0 to 24 (reach 96 / 4)"
        share(away <= 12, 13 / 25, "anchors from the nearer half of the reach")
    same(frames.view(-1, 4) - 4 * source.view(-1, 1), torch.arange(4).expand(48000, 4),
         "a latent frame is made of 4 video frames in a row, the first a multiple of 4")


def test_windows_without_choice():
    for F, config, name in ((1, Config(known=1.0), "a single frame cannot be known"),
                            (4, Config(known=0), "known=0")):
        known, positions, frames = draw_windows(config, 50, F)
        assert not known.any(), f"{name}: got known frames"
        same(frames, torch.arange(4 * F).expand(50, -1), "plain windows show frames 0, 1, 2, ...")
        same(positions, torch.arange(F).expand(50, -1), "positions of a plain window")
    patterns = {tuple(row) for row in draw_windows(Config(known=1.0), 200, 2)[0].tolist()}
    assert patterns == {(True, False), (False, True), (False, False)}, \
        f"of two frames one is known, or none; got {patterns}"
    for config in (Config(known=1.0, reach=0, anchors=1.0), Config(known=1.0, anchors=0.0)):
        _, positions, frames = draw_windows(config, 200, 4)
        for got, n, name in ((positions, 4, "told"), (frames, 16, "shown")):
            same(got, torch.arange(n).expand(200, -1), f"anchors={config.anchors}, reach={config.reach}: no "
                                                       f"anchors, all frames are {name} where they are")
    one, two = (draw_windows(Config(), 50, 4, torch.Generator().manual_seed(3))[2] for _ in range(2))
    same(one, two, "the same seed, the same windows: is the generator used everywhere?")


def test_one_level_for_the_unknown_frames_of_a_clip():
    """Level 0 exactly where frames are known; the levels are those that the process draws."""
    B, F, process = 20000, 4, DDPM()
    known = draw_windows(Config(), B, F)[0]
    t, eps, _ = draw_noise(process, Config(), (B, 1, F, 1, 1), known, torch.ones(B, 1).long())
    same(t == 0, known, "level 0 for known frames, and for no others")
    level = t.amax(1, keepdim=True)
    same(t, (level * ~known), "all unknown frames of a clip have one level: was one drawn for each frame?")
    assert level.unique().numel() > 500, "all clips have the same level"
    for k in (200, 500, 900):
        share(level <= k, Normal(0.0, 1.0).cdf(torch.logit(torch.tensor(k / 1000))).item(), f"levels <= {k}")
    assert eps.shape == (B, 1, F, 1, 1), f"eps is shaped {tuple(eps.shape)}, not like the latents"
    assert abs(eps.mean()) < 5 / eps.numel() ** 0.5 and abs(eps.var() - 1) < 5 * (2 / eps.numel()) ** 0.5, \
        f"eps must be normal noise: mean {eps.mean():.3f}, variance {eps.var():.3f}"


@pytest.mark.parametrize("shape", [(1,), (4, 2)])
def test_captions_are_dropped_in_their_share(shape):
    """Wholly or not at all; more often with known frames. Captions (B,words) and (B,F,words)."""
    B, config = 20000, Config(caption_drop=0.1, caption_drop_known=0.4)
    known = (torch.arange(B) % 2 == 0)[:, None] & torch.tensor([True, False, False, False])
    caption = torch.randint(1, 9, (B, *shape))
    before = caption.clone()
    got = draw_noise(SiT(), config, (B, 1, 4, 1, 1), known, caption)[2]
    dropped = (got == 0).flatten(1).all(1)
    same(got[~dropped], caption[~dropped], "a caption is dropped as a whole, or kept as it is")
    same(caption, before, "captions are dropped in a copy: the caller's stay")
    share(dropped[1::2], 0.1, "captions dropped, no frame known (config.caption_drop); inverted?")
    share(dropped[::2], 0.4, "captions dropped, frames known (config.caption_drop_known)")


def test_noise_is_that_of_the_generator():
    known, caption = torch.zeros(9, 4).bool(), torch.ones(9, 1).long()
    draw = lambda: draw_noise(DDPM(), Config(), (9, 1, 4, 1, 1), known, caption,
                              torch.Generator().manual_seed(5))
    for one, two in zip(draw(), draw()):
        same(one, two, "the same seed, the same levels, noise and captions")


# --- 7. training: the loss ------------------------------------------------------------------------

# A process that exists in no paper: what the loss does must not depend on which one it is.
ODD = SimpleNamespace(N=8, q_sample=lambda x0, t, eps: x0 + per_frame(t) * eps,
                      target=lambda x0, eps, t: 3 * eps + x0 - per_frame(t))


def training_step(B=5, F=4, h=2, w=3, C=4):
    known = torch.rand(B, F) < 0.4
    known[:, 1] = False
    t = torch.randint(1, 9, (B, 1)).masked_fill(known, 0)
    return dict(x0=torch.randn(B, C, F, h, w), caption=torch.randint(1, 9, (B, 1)), known=known,
                positions=torch.randint(-9, 9, (B, F)), t=t, eps=torch.randn(B, C, F, h, w))


def test_loss_is_what_the_model_was_given():
    """The network gets noisy latents, t / N, captions and positions; a 0 errs by the target squared."""
    spy, step = Spy(), training_step()
    loss, error = diffusion_loss(spy, ODD, **step)
    same(spy.x[0], ODD.q_sample(step["x0"], step["t"], step["eps"]), "the network must be given x_t")
    same(spy.t[0], step["t"] / 8, "the network must be given t / N, in [0,1]")
    same(spy.caption[0], step["caption"], "the network must be given the caption")
    same(spy.positions[0], step["positions"], "the network must be given the positions")
    target = ODD.target(step["x0"], step["eps"], step["t"])
    close(error, target.square().mean((1, 3, 4)), "error of each latent frame: the mean square over C,h,w")
    close(loss, error[~step["known"]].mean(), "loss: the mean error of the unknown frames")


def test_loss_ignores_known_frames():
    """A network that is right about unknown frames and wild about known ones has loss 0."""
    step = training_step()
    target = ODD.target(step["x0"], step["eps"], step["t"])
    model = lambda x, t, caption, positions: target + 1e3 * per_frame(step["known"])
    loss, error = diffusion_loss(model, ODD, **step)
    close(loss, 0.0, "known frames must not count in the loss")
    close(error, 1e6 * step["known"].float(), "error of each frame: 0 where unknown, 1e6 where known")


def test_loss_of_parts_adds_up():
    """`count`: parts of a batch, divided by the unknown frames of all of it, add up to its loss."""
    step = training_step()
    whole = diffusion_loss(Spy(), ODD, **step)[0]
    count = (~step["known"]).sum()
    parts = [diffusion_loss(Spy(), ODD, **{name: value[part] for name, value in step.items()}, count=count)[0]
             for part in (slice(0, 2), slice(2, 5))]
    close(sum(parts), whole, "loss of a batch = the sum over its parts, with count = its unknown frames")


ORDER = ("x0", "caption", "known", "positions", "t", "eps")


def test_packed_loss_counts_every_unknown_pixel_alike():
    """A large clip counts as many times more as it has more latent pixels. The network gets single clips."""
    steps, seen = [training_step(3, 2, 4, 6), training_step(2, 3, 2, 2)], []
    model = lambda clips: seen.extend(clips) or [torch.zeros_like(x) for x, *_ in clips]
    loss, errors = packed_loss(model, ODD, [tuple(step[name] for name in ORDER) for step in steps])
    assert [x.shape[0] for x, *_ in seen] == [1] * 5, f"expected 5 clips with B = 1, got {len(seen)}"
    squares = []
    for step, clips, error in zip(steps, (seen[:3], seen[3:]), errors):
        x_t = ODD.q_sample(step["x0"], step["t"], step["eps"])
        expected = x_t, step["t"] / 8, step["caption"], step["positions"]
        for name, one, two in zip(("x_t", "t / N", "caption", "positions"), zip(*clips), expected):
            same(torch.cat(one), two, f"the network must be given {name}")
        target = ODD.target(step["x0"], step["eps"], step["t"])
        close(error, target.square().mean((1, 3, 4)), "error of each latent frame")
        squares.append(target.square().mean(1)[~step["known"]].flatten())
    close(loss, torch.cat(squares).mean(), "the mean over unknown latent pixels: clips must not count alike")


def test_packed_loss_is_that_of_each_shape():
    """Of one shape it is `diffusion_loss`; of two, each clip's output meets its own target; parts add up."""
    dit, groups = lively(DiT(MINI, 10)), []
    for sizes in ((3, 2, 4, 6), (2, 3, 2, 2)):
        groups.append(tuple(training_step(*sizes)[name] for name in ORDER))
    loss, errors = packed_loss(dit.forward_packed, ODD, groups)
    for error, group in zip(errors, groups):
        alone, each = diffusion_loss(dit, ODD, **dict(zip(ORDER, group)))
        close(error, each, "errors of a shape, packed with another and alone", 2e-6, 2e-6)
        close(packed_loss(dit.forward_packed, ODD, [group])[0], alone, "the loss of one shape", 2e-6)
    count = sum(unknown_pixels(known, x0) for x0, _, known, *_ in groups)
    parts = [packed_loss(dit.forward_packed, ODD, [group], count)[0] for group in groups]
    close(sum(parts), loss, "parts of a batch, with count = its unknown latent pixels, add up", 2e-6)


# --- 7. training: the optimisers ------------------------------------------------------------------

def polynomial(s):
    """What five Newton-Schulz steps of Jordan et al. do to singular values."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
    return s


def orthogonalised(matrix):
    """In float64, by singular value decomposition: U polynomial(S / |matrix|) V^T."""
    U, S, V = torch.linalg.svd(matrix.double(), full_matrices=False)
    return U * polynomial(S / matrix.double().norm()) @ V


@pytest.mark.parametrize("rows,columns", [(12, 30), (30, 12), (16, 16)])
def test_muon_makes_singular_values_alike(rows, columns):
    """Near 1, of random and of ill-conditioned matrices (1 to 0.02); their directions are kept."""
    U, _, V = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    bad = U * torch.logspace(0, -1.7, min(rows, columns)) @ V
    for name, matrix in (("random", torch.randn(rows, columns)), ("ill-conditioned", 1e3 * bad)):
        got = newton_schulz(matrix[None])[0]
        S = torch.linalg.svdvals(got)
        assert 0.6 < S.min() and S.max() < 1.3, f"{name}: singular values from {S.min():.2f} to " \
                                                f"{S.max():.2f}, expected 0.6 to 1.3: coefficients?"
        close(got, orthogonalised(matrix), f"{name}: U p(S) V^T, p the polynomial of Jordan et al., 5 times",
              1e-3, 1e-3)


def test_matrices_of_a_batch_are_orthogonalised_one_by_one():
    batch = torch.randn(3, 6, 9) * torch.tensor([1.0, 1e3, 1e-3]).view(3, 1, 1)
    for matrix, got in zip(batch, newton_schulz(batch)):
        close(got, newton_schulz(matrix[None])[0], "each matrix is divided by its own norm", 1e-3, 1e-4)
    same(newton_schulz(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4), "a gradient of 0 must not become nan")


def test_tall_matrices_are_turned():
    """40 x 10 costs the multiplications of 10 x 40: the products x x^T are the small ones, 10 x 10."""
    flops = []
    for shape in ((1, 10, 40), (1, 40, 10)):
        with FlopCounterMode(display=False) as counter:
            newton_schulz(torch.randn(shape))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1], f"multiplications for wide and tall: {flops}, expected the same; transpose"


def steps_of(optimizer, params, n, seed=0):
    """n steps with gradients that depend on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach().clone() for p in params]


def test_muon_equals_its_formula():
    """Momentum as a running mean, Nesterov's look ahead, orthogonalised, 0.2 lr sqrt(larger side)."""
    shapes = [(6, 10), (10, 6), (5, 3, 2, 2, 2)] + 4 * [(2, 3)]     # four of one shape make a batch
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    expected = [p.detach().double() for p in params]
    got = steps_of(Muon(params, lr=0.1), params, 3)
    generator, averages = torch.Generator().manual_seed(0), [0.0] * len(shapes)
    for _ in range(3):
        for i, shape in enumerate(shapes):
            gradient = torch.randn(shape, generator=generator).double()
            averages[i] = 0.95 * averages[i] + 0.05 * gradient
            update = (0.05 * gradient + 0.95 * averages[i]).flatten(1)
            size = 0.1 * 0.2 * max(update.shape) ** 0.5
            expected[i] = expected[i] - size * orthogonalised(update).view(shape)
    for one, two in zip(got, expected):
        close(one, two.float(), f"3 steps of Muon on {tuple(one.shape)}: momentum, Nesterov, the "
                                "polynomial or the size of the step", 1e-3, 1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_equals_torchs():
    """Torch's computes in bfloat16, so the steps agree to some per cent."""
    start = [torch.randn(24, 40), torch.randn(40, 24)]
    moved = []
    for make in (lambda p: Muon(p, 0.1), lambda p: torch.optim.Muon(p, 0.1, weight_decay=0,
                                                                    adjust_lr_fn="match_rms_adamw")):
        params = [torch.nn.Parameter(x.clone()) for x in start]
        moved.append([p - x for p, x in zip(steps_of(make(params), params, 4), start)])
    for ours, torchs in zip(*moved):
        off = ((ours - torchs).norm() / torchs.norm()).item()
        assert off < 0.05, f"4 steps of Muon differ from torch's by {off:.0%}: momentum, scale, coefficients?"


def test_muon_goes_on_from_a_checkpoint():
    """5 steps = 2 steps, saved and loaded, and 3 steps, bit for bit."""
    whole = [torch.nn.Parameter(torch.randn(6, 10))]
    optimizer = Muon(whole, 0.1)
    steps_of(optimizer, whole, 2, seed=1)
    loaded = [torch.nn.Parameter(whole[0].detach().clone())]
    resumed = Muon(loaded, 0.1)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))       # a file, too, makes a copy
    (one,), (two,) = steps_of(optimizer, whole, 3, seed=2), steps_of(resumed, loaded, 3, seed=2)
    same(two, one, "a resumed run differs: is the momentum in optimizer.state?")


@pytest.mark.parametrize("net,pattern", [
    (DiT(MINI, 10), r"blocks\.\d+\.(attention\.(qkv|out)|mlp\.[02])\.weight"),
    (VideoVAE(MINI), r"(encoder\.\d+|.*conv[12]|to_moments|decoder\.0|to_pixels)\.weight")])
def test_each_parameter_has_one_optimiser(net, pattern):
    """Muon: matrices inside the blocks, and kernels. AdamW: all others, modulations and biases too."""
    adamw, muon = make_optimizers(net, 1e-3, 0.02)
    owner = {id(p): optimizer for optimizer in (adamw, muon) for group in optimizer.param_groups
             for p in group["params"]}
    counts = [len(group["params"]) for optimizer in (adamw, muon) for group in optimizer.param_groups]
    assert sum(counts) == len(owner) == len(list(net.parameters())), "a parameter has no optimiser, or two"
    for name, p in net.named_parameters():
        expected = muon if re.fullmatch(pattern, name) else adamw
        assert owner[id(p)] is expected, f"{name} is trained by {type(owner[id(p)]).__name__}, expected " \
                                         f"{type(expected).__name__}"
    assert adamw.defaults["betas"] == (0.9, 0.99), f"betas of AdamW: {adamw.defaults['betas']}"
    rates = [optimizer.param_groups[0]["lr"] for optimizer in (adamw, muon)]
    assert rates == [1e-3, 0.02], f"learning rates of AdamW and Muon: {rates}, expected 0.001 and 0.02"
    (alone,) = make_optimizers(net, 1e-3, 0)
    assert isinstance(alone, torch.optim.AdamW) and len(alone.param_groups[0]["params"]) == len(owner), \
        "muon_lr 0: AdamW must train all parameters"


def test_without_gradient_nothing_moves():
    """No optimiser decays weights: gradients of 0 leave every parameter where it is."""
    net = lively(DiT(MINI, 10))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in make_optimizers(net, 1e-2, 1e-2):
        optimizer.step()
    for name, p in net.named_parameters():
        same(p, before[name], f"{name} moved without a gradient: weight decay must be 0")


@slow
@pytest.mark.parametrize("process", ["ddpm", "sit"])
def test_one_batch_can_be_overfitted(process):
    """The VAE, then the transformer, on two clips: the loss falls to a part of where it began."""
    data = MovingMNIST(*load_digits("train"), (32, 32), 20, 1, 8)
    video, caption = data.clips(2, torch.Generator().manual_seed(0))
    vae, errors = VideoVAE(replace(MINI, vae_width=16)), []
    optimizers = make_optimizers(vae, 4e-3, 0.01)
    for _ in range(60):
        loss, error, _ = vae_loss(vae, video, torch.randn(2, 4, 2, 4, 4), 1e-4)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        errors.append(error.item())
    assert np.mean(errors[-5:]) < 0.3 * errors[0], \
        f"the VAE's error went from {errors[0]:.3f} to {errors[-1]:.3f}, expected below 30%"
    measure_latents(vae, [video])
    latent = vae.encode(video).detach().repeat(8, 1, 1, 1, 1)
    dit, process, losses = DiT(MINI, 10), make_process(replace(MINI, process=process)), []
    optimizers = make_optimizers(dit, 3e-3, 0.01)
    for _ in range(150):
        known, positions, _ = draw_windows(MINI, 16, 2)
        t, eps, words = draw_noise(process, MINI, latent.shape, known, caption.repeat(8, 1))
        loss, _ = diffusion_loss(dit, process, latent, words, known, positions, t, eps)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:3]), \
        f"the transformer's loss went from {np.mean(losses[:3]):.3f} to {np.mean(losses[-20:]):.3f}"


# --- 8. sampling ----------------------------------------------------------------------------------

def test_guidance_is_linear_and_acts_on_every_channel():
    """without + scale (with - without), where "without" is the empty caption at the same x and t."""
    dit, (x, t, caption, _) = lively(DiT(MINI, 10)), forward_args()
    given, empty = dit(x, t, caption), dit(x, t, 0 * caption)
    for scale in (0.0, 1.0, 3.0):
        close(guided(dit, scale)(x, t, caption), empty + scale * (given - empty),
              f"scale {scale} (it is 1 + w of the paper): 0 is without the caption, 1 is none; all channels",
              1e-3, 1e-4)


def process_of(sampler):
    return DDPM() if sampler in DDPM.samplers else SiT()


MASKS = {"none": "0000", "first": "1000", "suffix": "0011", "both ends": "1001", "middle": "0110",
         "all": "1111"}


@pytest.mark.parametrize("sampler", DDPM.samplers + SiT.samplers)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_known_frames_come_back_bit_equal(sampler, mask):
    """And the others are made anew, whatever stood in their place."""
    known, latent = torch.tensor([c == "1" for c in mask]), torch.randn(2, 4, 4, 2, 2)
    out = generate(lively(DiT(MINI, 10)), process_of(sampler), latent, known, torch.tensor([[1], [2]]),
                   steps=3, guidance=2.0, sampler=sampler)
    same(out[:, :, known], latent[:, :, known], "known frames must come back untouched")
    same(changed(out, latent), ~known, "unknown frames must be generated")
    assert not out.requires_grad, "sampling must not remember how it came about: torch.no_grad()"
    assert torch.isfinite(out).all(), "nan or inf: are the levels of known frames used in a division?"


@pytest.mark.parametrize("sampler", DDPM.samplers + SiT.samplers)
def test_network_sees_known_frames_clean_at_level_0(sampler):
    """In every step; unknown frames have the level of the schedule, which falls from 1."""
    spy, process, known = Spy(), process_of(sampler), torch.tensor([True, False, False, True])
    latent, words = torch.randn(2, 4, 4, 2, 2), torch.tensor([[1], [2]])
    generate(spy, process, latent, known, words, steps=4, sampler=sampler)
    for x, t, caption, positions in zip(spy.x, spy.t, spy.caption, spy.positions):
        same(x[:, :, known], latent[:, :, known], "the network must see known frames as they are, noiseless")
        same(t[:, known], torch.zeros(2, 2), "known frames have level 0")
        same(t[:, ~known], t[:1, 1:2].expand(2, 2), "unknown frames have one level")
        same(caption, words, "the caption")
        same(positions, torch.arange(4).expand(2, 4), "without positions: 0, 1, 2, 3 for each clip")
    levels = [t[0, 1].item() for t in spy.t]
    wanted = [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0] if sampler == "heun" else [1.0, 0.75, 0.5, 0.25]
    close(levels, wanted, f"{sampler}: levels at which the network is asked")


def test_generate_hands_everything_on():
    """The default sampler is the process's first; a named one is used; positions, guidance, randn too."""
    latent, known = torch.randn(1, 4, 4, 2, 2), torch.tensor([True, False, False, False])
    positions, words = torch.tensor([-24, 1, 2, 3]), torch.tensor([[[1], [2], [3], [4]]])
    calls, process = [], DDPM()

    def step(name):
        return lambda model, x, t, s, caption, randn: calls.append((name, model, randn)) or x
    process.ancestral, process.ddim = step("ancestral"), step("ddim")
    spy, noise = Spy(), seeds(0)
    generate(spy, process, latent, known, words, positions, 1, 1.0, None, 1.0, noise)
    generate(spy, process, latent, known, words, positions, 1, 3.0, "ddim", 1.0, noise)
    assert [name for name, *_ in calls] == ["ancestral", "ddim"], f"samplers used: {[c[0] for c in calls]}"
    assert all(randn is noise for *_, randn in calls), "samplers must draw from the randn handed in"
    for (_, model, _), clips in zip(calls, (1, 2)):
        model(latent, torch.zeros(1, 4), words)
        same(spy.positions[-1], positions.expand(clips, 4), "positions must reach the network, guided or not")
        same(spy.caption[-1][:1], words, "a caption for each latent frame must reach the network")


@pytest.mark.parametrize("sampler", DDPM.samplers)
def test_a_network_that_knows_the_answer_leads_there(sampler):
    """If x0 is always predicted as A, any sampler ends with A exactly: the last level is 0."""
    answer = torch.randn(1, 4, 3, 2, 2)
    out = generate(lambda x, t, caption, positions: answer, DDPM(1000, "x0"), torch.zeros_like(answer),
                   torch.zeros(3).bool(), WORDS, steps=5, sampler=sampler)
    close(out, answer, "noise is left: does the schedule end at 0? is noise added at the last step?")


def test_generate_follows_the_gaussian_flow():
    """Many DDIM steps turn the noise z into SIGMA z, for data ~ N(0, SIGMA^2)."""
    model = lambda x, t, caption, positions: perfect("v")(x, t[:1, :1], caption)
    noise = torch.randn(1, 4, 2, 2, 2)
    out = generate(model, DDPM(), torch.zeros_like(noise), torch.zeros(2).bool(), WORDS, steps=250,
                   sampler="ddim", randn=lambda x: noise)
    close(out, SIGMA * noise, "is each step's result the next step's input, at its level?", 0.02, 1e-3)


@pytest.mark.parametrize("sampler", ["ancestral", "euler"])
def test_a_clip_does_not_depend_on_its_neighbours(sampler):
    """With noise of its own for each clip, the third of three is the one that it is alone."""
    def randn(*numbers):
        draws = [seeds(n) for n in numbers]
        return lambda x: torch.cat([draw(x[:1]) for draw in draws])
    dit, nothing = lively(DiT(MINI, 10)), torch.zeros(3, 4, 4, 2, 2)
    run = lambda n, randn: generate(dit, process_of(sampler), nothing[:n], torch.zeros(4).bool(),
                                    torch.ones(n, 1).long(), steps=3, randn=randn)
    close(run(3, randn(0, 1, 2))[2:], run(1, randn(2)), "all noise must come from `randn`", 1e-3, 1e-3)


@pytest.mark.parametrize("process", [DDPM(), SiT()], ids=["ddpm", "sit"])
def test_strength_says_where_sampling_begins(process):
    """With `latent`, noised to strength x N; at 1 with noise alone, whatever `latent` is."""
    latent, noise = torch.randn(2, 1, 4, 3, 2, 2)
    known = torch.tensor([True, False, False])
    for strength in (0.3, 0.8):
        spy = Spy()
        generate(spy, process, latent, known, WORDS, steps=2, strength=strength, randn=lambda x: noise)
        close(spy.t[0], [[0, strength, strength]], "the first level is strength x N")
        begin = strength * process.N * ~known[None]
        begin = begin.long() if process.N > 1 else begin
        close(spy.x[0], process.q_sample(latent, begin, noise), f"strength {strength}: sampling begins with "
              "`latent`, noised to that level")
    spy = Spy()
    generate(spy, process, latent, known, WORDS, steps=2, randn=lambda x: noise)
    same(spy.x[0][:, :, 1:], noise[:, :, 1:], "strength 1: sampling begins with noise alone")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"strength": 0.0}, {"strength": -0.2}, {"strength": 1.1}])
def test_generate_refuses_what_makes_no_sampling(wrong):
    name, value = *wrong, *wrong.values()
    with pytest.raises(InputError, match=f"{name} {value}"):
        generate(Spy(), SiT(), numbered(2), torch.tensor([True, False]), WORDS, **wrong)
    generate(Spy(), SiT(), numbered(2), torch.tensor([True, False]), WORDS, steps=1, strength=1.0)


def test_what_is_handed_in_stays():
    """Sampling writes into nothing that it was given: latents, masks, captions, positions."""
    given = torch.randn(1, 4, 4, 2, 2), torch.arange(4) < 2, torch.tensor([[3]]), torch.tensor([-24, 1, 2, 3])
    before = [value.clone() for value in given]
    generate(Spy(), SiT(), *given, steps=1)
    next(extend(Spy(), SiT(), given[0], given[2], 4, 2, anchor=24, steps=1))
    for one, two in zip(given, before):
        same(one, two, "a tensor that was handed in has changed")


# --- 9. long video --------------------------------------------------------------------------------
# Here the network is a Spy and the sampler one Euler step of SiT: what is generated is the noise that
# was drawn, no two frames of it alike. So it can be recognised when it is seen again.

def numbered(n, first=0):
    """Latent frames (1,2,n,2,2), each filled with its number."""
    return (torch.arange(n) + float(first)).view(1, 1, n, 1, 1).expand(1, 2, n, 2, 2)


@pytest.mark.parametrize("past,context", [(3, 2), (1, 2), (0, 2), (5, 1), (3, 0)])
def test_extension_continues_from_the_newest_frames(past, context):
    """Each window begins with the newest `context` frames, unchanged; what it yields is new, and joins
    the past."""
    spy, video = Spy(), numbered(past)
    windows = extend(spy, SiT(), video, WORDS, window=4, context=context, steps=1)
    for n in range(4):
        seen = min(context, video.shape[2])
        new = next(windows)
        assert new.shape[2] == 4 - seen, f"window {n}: {new.shape[2]} new frames, expected {4 - seen} of 4"
        same(spy.x[n][:, :, :seen], video[:, :, video.shape[2] - seen:], f"window {n}: the newest {seen}")
        same(spy.t[n], [[0.0] * seen + [1.0] * (4 - seen)], f"window {n}: known frames have level 0")
        same(spy.positions[n], [[0, 1, 2, 3]], f"window {n}: positions")
        same(new, spy.x[n][:, :, seen:], f"window {n}: expected what was generated, without the known frames")
        video = torch.cat([video, new], dim=2)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("past", [0, 1, 4])
def test_the_anchor_stays_in_the_window(past, backward):
    """The very first frame, as soon as it is out of sight, at the position -reach (backward: +reach)."""
    spy, video = Spy(), numbered(past)                              # the newest is last, also if backward
    windows = extend(spy, SiT(), video.flip(2) if backward else video, WORDS, 4, 2, anchor=24,
                     backward=backward, steps=1)
    for n in range(4):
        new = next(windows)
        hidden = video.shape[2] > 2                                 # the first frame is not in the context
        known = torch.cat([video[:, :, :1] if hidden else video[:, :, :0], video[:, :, -2:]], dim=2)
        same(spy.x[n][:, :, :known.shape[2]], known, f"window {n}: expected {'the first frame and ' * hidden}"
                                                     "the newest 2")
        expected = torch.tensor([[-24 if hidden else 0, 1, 2, 3]])
        same(spy.positions[n], -expected if backward else expected,
             f"window {n}: positions; anchors are told to be `reach` away, however far they are")
        same(spy.t[n][0] == 0, torch.arange(4) < known.shape[2], f"window {n}: known frames have level 0")
        video = torch.cat([video, new], dim=2)


def test_anchors_seem_as_far_in_sampling_as_in_training():
    config = Config(known=1.0, anchors=1.0, reach=24)
    known, positions, _ = draw_windows(config, 200, 4)
    trained = positions[known[:, 0]][:, :2].unique(dim=0)
    spy = Spy()
    next(extend(spy, SiT(), numbered(9), WORDS, 4, 1, anchor=config.reach // 4, steps=1))
    same(spy.positions[0][:, :2], trained, "positions of an anchor and the frame after it, as in training")


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("anchor", [0, 24])
def test_captions_follow_the_frames(anchor, backward):
    """A caption for each latent frame of the video; the anchor keeps its own, the last one holds on."""
    spy, caption = Spy(), torch.arange(1, 10).view(1, 9, 1)         # frame f has word f + 1
    windows = extend(spy, SiT(), numbered(4), caption, 4, 2, anchor, backward, steps=1)
    for n in range(5):
        next(windows)
    newest = [4 + n * (1 if anchor else 2) for n in range(5)]       # frames before each window
    for n, made in enumerate(newest):
        numbers = [0, made - 2, made - 1, made] if anchor else [made - 2, made - 1, made, made + 1]
        same(spy.caption[n].flatten(), [min(f, 8) + 1 for f in numbers],
             f"window {n}: words of frames {numbers}, where frame f has word f + 1, up to 9")


def test_backward_extension_mirrors_forward():
    """To a network that cannot tell -1 from 1 in time, going backward is going forward in a mirror."""
    past = torch.randn(1, 2, 3, 2, 2)

    def model(x, t, caption, positions):
        return x - (x * positions.abs()[:, None, :, None, None]).mean(dim=2, keepdim=True)
    run = lambda past, backward: extend(model, SiT(), past, WORDS, 4, 2, backward=backward, steps=4,
                                        randn=seeds(0))
    forward, backward = run(past, False), run(past.flip(2), True)
    for n in range(3):
        close(next(backward), next(forward), f"window {n}: is `past` flipped?")
    spy = Spy()
    next(extend(spy, SiT(), numbered(3), WORDS, 4, 2, backward=True, steps=1))
    same(spy.x[0][:, :, :2], numbered(2).flip(2), "backward: the window begins with the two earliest frames")
    same(spy.positions[0], [[0, -1, -2, -3]], "backward: time runs down")


def test_take_joins_windows():
    windows = [numbered(3, first) for first in (0, 3, 6)]
    same(take(iter(windows), 5), numbered(5), "the first 5 frames")
    same(take(iter(windows), 8), numbered(8), "the first 8 frames")
    same(take(iter(windows), 2), numbered(2), "the first 2 frames, a part of a window")
    source = iter(windows)
    take(source, 3)
    same(next(source), windows[1], "no window may be sampled that is not needed")


@pytest.mark.parametrize("gap", [1, 4, 5, 9])
def test_connecting_fills_the_gap(gap):
    """The last window sees the newest frames before the gap, and the first ones after it."""
    spy, before, after = Spy(), numbered(5), numbered(5, 50)
    middle = connect(spy, SiT(), before, after, gap, WORDS, window=8, context=4, anchor=24, steps=1)
    assert middle.shape[2] == gap, f"expected {gap} frames, got {middle.shape[2]}"
    whole = torch.cat([before, middle, after], dim=2)
    n, between = 5 + gap, min(gap, 4)
    same(spy.x[-1], whole[:, :, n - between - 2:n + 2],
         "the last window: 2 frames before the gap, what it fills in, and the first 2 after it")
    same(spy.t[-1] == 0, [[True] * 2 + [False] * between + [True] * 2], "known in the last window")
    same(spy.positions[-1], torch.arange(between + 4)[None], "positions in the last window")
    same(torch.cat(spy.caption), WORDS.expand(len(spy.caption), 1), "every window must be given the caption")
    count = 1 if gap <= 4 else 1 + math.ceil((gap - 4) / 3)         # 3 new ones beside anchor and context
    assert len(spy.x) == count, f"{len(spy.x)} windows for a gap of {gap}, expected {count}"
    for n, (x, positions) in enumerate(zip(spy.x[:-1], spy.positions)):
        same(x[:, :, :5], whole[:, :, [0] + list(range(1 + 3 * n, 5 + 3 * n))],
             f"window {n} of the extension: the anchor, and the newest 4 of what comes before")
        same(positions[:, 0], [-24], f"window {n} of the extension: the anchor's position")


@pytest.mark.parametrize("frames", [5, 10, 12, 20])
def test_a_loop_ends_where_it_began(frames):
    """Its last window leads from its newest frames to its very first ones."""
    spy, empty = Spy(), torch.zeros(1, 2, 0, 2, 2)
    video = loop(spy, SiT(), empty, frames, WORDS, window=8, context=4, anchor=24, steps=1)
    assert video.shape[2] == frames, f"expected {frames} frames, got {video.shape[2]}"
    ring = torch.cat([video, video[:, :, :2]], dim=2)
    seen = spy.x[-1].shape[2]
    if frames == 5:                                                 # there is but one frame before the gap
        ring, seen = video[:, :, [0, 1, 2, 3, 4, 0]], 6
    same(spy.x[-1], ring[:, :, -seen:], "the last window: from the newest frames over the gap to the first")
    assert frames == 5 or seen == 8, f"the last window has {seen} frames, expected 8"
    for n in range(1, len(spy.x) - 1):                              # the way back, when it is long
        same(spy.x[n][:, :, 0], video[:, :, 0], f"window {n}: the first frame stays in sight, as the anchor")
        same(spy.positions[n][:, 0], [-24], f"window {n}: the position of the anchor")
    assert len(spy.x) == {20: 5}.get(frames, 2), f"{len(spy.x)} windows for {frames} frames"
    same(torch.cat(spy.caption), WORDS.expand(len(spy.caption), 1), "every window must be given the caption")
    assert (spy.t[-1][0] == 0).tolist()[-1] and not (spy.t[-1][0] == 0).all(), "it ends with known frames"


@pytest.mark.parametrize("context,side,room", [(0, 1, 6), (1, 1, 6), (3, 1, 6), (4, 2, 4), (5, 2, 4)])
def test_half_of_the_context_is_on_either_side(context, side, room):
    """At least one frame. What is then left of the window is filled at once; a longer gap takes two."""
    spy = Spy()
    connect(spy, SiT(), numbered(3), numbered(3, 50), room, WORDS, window=8, context=context, steps=1)
    same(spy.t[0] == 0, [[True] * side + [False] * room + [True] * side], f"known, with context {context}")
    assert len(spy.t) == 1, f"context {context}, gap {room}: {len(spy.t)} windows, expected 1"
    connect(spy, SiT(), numbered(3), numbered(3, 50), room + 1, WORDS, window=8, context=context, steps=1)
    assert len(spy.t) == 3, f"context {context}, gap {room + 1}: {len(spy.t) - 1} windows, expected 2"


def test_short_clips_can_be_connected():
    """Sides of two frames, but one clip has only one: all of it is known."""
    for before, after, known in ((1, 5, "10011"), (5, 1, "11001")):
        spy, known = Spy(), torch.tensor([c == "1" for c in known])
        middle = connect(spy, SiT(), numbered(before), numbered(after, 50), 2, WORDS, 8, 4, steps=1)
        same(spy.t[0][0] == 0, known, f"known, between {before} frame(s) and {after}")
        same(middle, spy.x[0][:, :, ~known], "expected what was generated between them")


def test_long_video_refuses_windows_without_room():
    empty, one = torch.zeros(1, 2, 0, 2, 2), numbered(1)
    for context, anchor in ((4, 0), (3, 24), (-1, 0)):
        with pytest.raises(InputError, match=f"context of {context} "):
            next(extend(Spy(), SiT(), one, WORDS, window=4, context=context, anchor=anchor, steps=1))
    next(extend(Spy(), SiT(), one, WORDS, window=4, context=3, steps=1))       # just fits
    next(extend(Spy(), SiT(), one, WORDS, window=4, context=2, anchor=24, steps=1))
    with pytest.raises(InputError, match="gap 1, window 4: .* 1 and 5"):
        connect(Spy(), SiT(), one, one, 1, WORDS, window=4, context=4, steps=1)
    for gap in (0, -1):
        with pytest.raises(InputError, match=f"gap {gap}, "):
            connect(Spy(), SiT(), one, one, gap, WORDS, window=8, context=4, steps=1)
    connect(Spy(), SiT(), one, one, 1, WORDS, window=3, context=1, steps=1)
    for context in (0, 1):                                          # one frame on either side, 6 between
        loop(Spy(), SiT(), empty, 7, WORDS, window=8, context=context, steps=1)
        with pytest.raises(InputError, match="loop of 6 .*more than 6, "):
            loop(Spy(), SiT(), empty, 6, WORDS, window=8, context=context, steps=1)
    with pytest.raises(InputError, match="loop of 4 .*more than 4, "):
        loop(Spy(), SiT(), empty, 4, WORDS, window=8, context=4, steps=1)
