"""What the studies measure is what they say: operations, losses by level, crops, a VAE of frames."""
from dataclasses import replace

import pytest
import torch

import train
from data.clips import folder as loader
from data.evaluation import judge as judging
from data.runtime.checkpoints import load_models
from data.studies import framing, measure, packing, recipe
from data.studies.frame_vae import FrameVAE, four_to_one, one_to_four
from sora import DDPM, DiT, SiT


@pytest.mark.parametrize("dim", (48, 192))
def test_counted_operations_are_six_a_weight_and_token_plus_attention(dim):
    """Within 5 %: the first layers need no gradient for their input."""
    config = replace(train.PRESETS["tiny"], dim=dim, heads=max(dim // 32, 1))
    frames, tokens = config.frames // 4, config.frames // 4 * (config.height // 8) * (config.width // 8)
    dit = DiT(config, 10)
    weights = dict(of_frames=0, of_tokens=0)
    for name, layer in dit.named_modules():
        if isinstance(layer, torch.nn.Linear):
            kind = "of_frames" if "modulation" in name or "level" in name else "of_tokens"
            weights[kind] += layer.weight.numel()
    attention = 12 * config.depth * tokens ** 2 * dim               # two products, forward and twice backward
    expected = 6 * (weights["of_tokens"] * tokens + weights["of_frames"] * frames) + attention
    counted = measure.flops_of_a_clip(config)
    assert 0.95 < counted / expected <= 1, f"{counted:.4g} counted, {expected:.4g} expected"


def test_operations_of_a_step_of_several_shapes():
    """Each shape's clip, times its clips in a step; an image counts as a latent frame."""
    config = train.PRESETS["tiny"]
    equal, image = [measure.flops_of_a_clip(replace(config, frames=frames)) for frames in (16, 4)]
    assert measure.flops_of_a_step(config, 3) == 3 * equal, "without --shapes: batch equal clips"
    got = measure.flops_of_a_step(replace(config, shapes="16x32x32:2 1x32x32:5"), 3)
    assert got == 2 * equal + 5 * image, f"expected two clips and five images, {2 * equal + 5 * image:.4g}, got {got:.4g}"


def test_a_frame_vae_has_the_shapes_of_the_video_vae_and_sees_one_frame_only():
    torch.manual_seed(0)
    vae = FrameVAE(replace(train.PRESETS["tiny"], vae_width=8, latent_channels=8)).eval()
    video = torch.rand(2, 1, 12, 16, 24) * 2 - 1
    with torch.no_grad():
        latent = vae.encode(video)
        assert latent.shape == (2, 8, 3, 2, 3) and vae.decode(latent).shape == video.shape
        assert vae.decode(1000 * latent).abs().max() <= 1, "pixels beyond [-1,1]: the video VAE ends in a tanh"
        other = video.clone()
        other[:, :, 6] = -other[:, :, 6]                            # frame 6: the third of latent frame 1
        changed = (vae.encode(other) != latent).any(4).any(3).any(0)            # (channels,F)
        assert changed[4:6, 1].all(), "its two channels change"
        changed[4:6, 1] = False
        assert not changed.any(), "nothing else changes"
        noise = latent.clone()
        noise[:, 4:6, 1] += 1
        changed = (vae.decode(noise) != vae.decode(latent)).flatten(3).any(3).any(1).any(0)        # (T,)
        assert changed.tolist() == [i == 6 for i in range(12)], "they are decoded to this frame alone"
    frames = torch.randn(2, 3, 8, 2, 2)
    assert torch.equal(one_to_four(four_to_one(frames)), frames)


def test_padded_are_as_many_clips_as_packed_of_the_largest_shape():
    shapes = [part.split(":") for part in packing.SHAPES[packing.PACKED].split()]
    size, count = packing.SHAPES[packing.PADDED].split(":")
    assert int(count) == sum(int(n) for _, n in shapes)

    def pixels(shape):
        frames, height, width = map(int, shape.split("x"))
        return frames * height * width
    assert pixels(size) == max(pixels(shape) for shape, _ in shapes)


def test_square_crops_are_the_middle_and_cut_digits_off():
    plain = loader.load_data(replace(train.PRESETS["tiny"], width=64), "train")
    seed = torch.Generator
    whole, _ = plain.clips(16, seed().manual_seed(0))
    cut, _ = framing.SquareCrop(plain).clips(16, seed().manual_seed(0))
    assert torch.equal(cut, whole[..., 16:48]), "32 of 64 columns, the middle ones"
    assert framing.framed(whole).mean() > 0.98, "whole clips cut almost nothing off"
    assert framing.framed(cut).mean() < 0.8, "crops do"


def test_uniform_levels_are_uniform():
    levels = recipe.uniform_levels(DDPM(), (20000,), torch.Generator().manual_seed(0))
    assert levels.min() == 1 and levels.max() == 1000
    assert abs(levels.float().mean() - 500.5) < 10 and abs((levels <= 100).float().mean() - 0.1) < 0.01


@pytest.mark.parametrize("kind", (DDPM(), DDPM(100), SiT()))
@pytest.mark.parametrize("level", measure.LEVELS)
def test_the_loss_is_measured_where_all_processes_are_as_noisy(kind, level):
    t, share = measure.level_of(kind, level)
    one = torch.ones(1, 1, 1, 1, 1)
    signal = kind.q_sample(one, torch.full((1, 1), t), 0 * one).item()
    noise = kind.q_sample(0 * one, torch.full((1, 1), t), one).item()
    assert noise ** 2 / (signal ** 2 + noise ** 2) == pytest.approx(share, abs=1e-5), "the share of noise"
    alpha_bar = DDPM().alpha_bar[round(1000 * level)].item()
    assert share == pytest.approx(1 - alpha_bar, abs=0.01), "the same for all"


def test_the_loss_of_v_prediction_is_the_training_loss(ckpt):
    """For DDPM and v the loss by level is the squared error of v itself."""
    config, vae, dit, process, words = load_models(ckpt)
    with torch.no_grad():
        dit.head.bias.normal_(generator=torch.Generator().manual_seed(1))
    found = measure.loss_by_level((config, vae, dit, process, words), 8)["loss at 0.5"][0]
    video, caption = judging.real_clips(config, "heldout", 8)
    with torch.no_grad():
        latent = vae.encode(video)
        eps = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
        t = torch.full(latent[:, 0, :, 0, 0].shape, 500)
        output = dit(process.q_sample(latent, t, eps), t / process.N, caption)
    expected = (output - process.target(latent, eps, t)).square().mean().item()
    assert found == pytest.approx(expected, rel=1e-4), "loss by level, and the error of v"
