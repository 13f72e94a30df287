"""How loops, middles and backward extensions are measured."""
import math

import pytest
import torch

from data.evaluation import ends
from data.runtime.checkpoints import load_models
from data.tests.conftest import call, near
from sora import InputError


def dot_in_a_circle():
    """A dot that comes back to where it began: (1,1,32,32,32)."""
    angle, grid = torch.arange(32) / 32 * 2 * math.pi, torch.arange(32.0)
    y, x = (16 + 10 * wave(angle)[:, None, None] for wave in (torch.sin, torch.cos))
    return 2 * torch.exp(-((grid[:, None] - y).square() + (grid - x).square()) / 18)[None, None] - 1


def test_a_seam_is_seen():
    """A dot in a circle has no seam; with a piece of its path missing it has one, there and not elsewhere."""
    dot = dot_in_a_circle()
    whole, cut = ends.seam(dot, torch.tensor([0])), ends.seam(dot[:, :, :28], torch.tensor([0]))
    inside = ends.seam(dot[:, :, :28], torch.tensor([9]))
    for name in ("seam", "seam, velocity"):
        near(whole[name].item(), 1, 0.1, f"{name}: a closed circle has no seam")
        assert cut[name] > 2, f"expected {name} above 2 where a piece is missing, got {cut[name].item():.2f}"
        assert inside[name] < 1.1, f"expected no {name} inside, got {inside[name].item():.2f}: is `at` used?"
    assert whole["largest"] < 1.1, "no change of a circle is larger than the others"


def test_ends_are_measured(ckpt, few_references, capsys):
    call(ends.main, "--ckpt", ckpt, "--n", 4, "--frames", 32, "--steps", 1, "--device", "cpu")
    printed = capsys.readouterr().out
    for word in ("4 loops", "seam, velocity", "middles", "blended ends", "new frames", "backward"):
        assert word in printed, f"expected {word!r} in the tables"
    for wrong in (["--frames", 16], ["--n", 1], ["--window", 8], ["--steps", 0]):
        with pytest.raises(InputError, match=f"{wrong[0]} {wrong[1]}"):
            call(ends.main, "--ckpt", ckpt, "--device", "cpu", *wrong)


def test_new_frames_backward_are_in_the_order_of_time(ckpt, few_references, monkeypatch):
    """The model is replaced by one that counts: what comes before the given clip must be decoded in order."""
    models, decoded = load_models(ckpt), []

    def counting(*args, backward=False, **kwargs):
        yield torch.arange(1.0, 5).view(1, 1, 4, 1, 1).expand(2, models.config.latent_channels, 4, 4, 4)

    def decode(latent):
        decoded.append(latent[0, 0, :, 0, 0])
        return torch.zeros(2, 1, 24, 32, 32)

    monkeypatch.setattr(ends, "extend", counting)
    monkeypatch.setattr(models.vae, "decode", decode)
    ends.extensions(models, 2, 4, 2, 0, 0, {})
    forward, backward = decoded
    assert forward[2:].tolist() == [1, 2, 3, 4], (
        f"forward: expected 1 2 3 4 behind the given, got {forward.tolist()}")
    assert backward[:4].tolist() == [4, 3, 2, 1], (
        f"backward: expected 4 3 2 1 before the given, got {backward.tolist()}: extend yields the newest "
        "last")
