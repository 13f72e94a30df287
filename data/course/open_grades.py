"""How the open parts are measured. Each grader takes the folder `open` and gives (points, reasons)."""
import json
import statistics
from unittest.mock import patch

import torch
import torch.nn.functional as nnf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from data.course.blanks import module_of
from data.course.checks import Missed, expect, require
from data.evaluation.judge import real_clips
from data.runtime.checkpoints import SHIPPED, config_of, load_checkpoint, load_models
from data.runtime.config import ClipConfig
from sora import DDPM, Config, DiT, InputError, diffusion_loss, generate


def graded(folder, name):
    """(points, reasons) of an open part."""
    grader = {"cache": cache, "forcing": forcing, "recipe": recipe}[name]
    return tried(grader, folder, f"open/{name}")


def tried(grader, folder, what):
    """grader(folder), which gives (points, reasons). What it raises is a reason, and gives no points."""
    try:
        return grader(folder)
    except (Missed, InputError) as error:
        return 0.0, [str(error)]
    except (Exception, SystemExit) as error:
        said = str(error).strip().split("\n")[0]
        return 0.0, [f"{what}: {type(error).__name__}: {said[:200]}"]


def in_proportion(most, value, none, full):
    """Points from 0 at `none` to `most` at `full`, in proportion between."""
    return most * min(max((none - value) / (none - full), 0), 1)


def code(folder, name):
    """The module of a student's file."""
    path = folder / name
    return module_of(path.read_text(encoding="utf-8"), path.stem, path)


# --- cached keys and values ---------------------------------------------------------------------------

def cache(folder):
    """Equal to masked attention, 4 points; the multiplications saved, 6."""
    mine = code(folder, "cache.py").generate
    torch.manual_seed(0)
    model, F = DiT(Config(dim=48, depth=2, heads=2, latent_channels=4), 3), 8
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.1)
    latent, start = torch.randn(2, 1, 4, F, 2, 2)
    known = torch.arange(F) < F // 2
    frame = torch.arange(F).repeat_interleave(4)                    # of each token
    mask = ~known[frame][:, None] | known[frame]                    # known ones attend to known ones
    real = nnf.scaled_dot_product_attention

    def masked(q, k, v):
        return real(q, k, v, attn_mask=mask)

    def run(function):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            result = function(model, DDPM(1000), latent, known, torch.ones(1, 1).long(), steps=12,
                              sampler="ddim", randn=lambda like: start)
        return result, counter.get_total_flops()

    with patch.object(nnf, "scaled_dot_product_attention", masked):
        expected, all_work = run(generate)
    plain, _ = run(generate)
    got, work = run(mine)
    expect(got, expected, "open/cache.py, 4 of 8 frames known, 12 steps of DDIM", {
        "known frames see the unknown ones": plain}, atol=1e-3)
    share = work / all_work
    points = 4 + in_proportion(6, share, none=1.0, full=0.6)
    reasons = [f"{100 * share:.0f} % of the multiplications; all points at 60 %"] if points < 10 else []
    return points, reasons


# --- diffusion forcing --------------------------------------------------------------------------------

def forcing(folder):
    """Levels of their own, 2 points; a staircase, 2; a lower loss at such levels, 6. What is wrong with one
    of them costs the points of that one."""
    pieces = {"draw_levels": grade_levels, "staircase": grade_staircase, "the checkpoint": grade_loss}
    points, reasons = 0.0, []
    for name, grader in pieces.items():
        earned, missing = tried(grader, folder, f"open/forcing, {name}")
        points += earned
        reasons += missing
    return points, reasons


def grade_levels(folder):
    """One level for each unknown frame."""
    process, known = DDPM(1000), torch.rand(500, 4) < 0.3
    draw_levels = code(folder, "forcing.py").draw_levels
    t = draw_levels(process, known, torch.Generator().manual_seed(0))
    require(t.shape == known.shape, f"draw_levels: expected levels (B,F), got {tuple(t.shape)}")
    require(bool((t[known] == 0).all()), "draw_levels: expected level 0 in known frames")
    require(bool(((t >= 1) & (t <= 1000))[~known].all()), "draw_levels: expected 1 to N in unknown frames")
    both = ~known[:, 0] & ~known[:, 1]
    together = torch.corrcoef(t[both][:, :2].T.float())[0, 1].item()
    require(abs(together) < 0.2, "draw_levels: expected frames of a clip to be independent, got a "
                f"correlation of {together:.2f}")
    return 2.0, []


def grade_staircase(folder):
    """Levels that fall, early frames first."""
    process = DDPM(1000)
    levels = code(folder, "forcing.py").staircase(process, 10, 4)
    require(levels.ndim == 2 and levels.shape[1] == 4, "staircase: expected (S+1,F), got "
            f"{tuple(levels.shape)}")
    require(bool((levels[0] == 1000).all() and (levels[-1] == 0).all()), "staircase: expected N first "
            "and 0 last")
    require(bool((levels.diff(dim=0) <= 0).all()), "staircase: expected levels that never rise from "
                                               "row to row")
    require(bool((levels.diff(dim=1) >= 0).all()), "staircase: expected early frames never noisier "
                                               "than later ones")
    require(bool((levels.diff(dim=1) > 0).any()), "staircase: expected early frames to be ahead somewhere")
    return 2.0, []


def grade_loss(folder):
    """A lower loss than that of the weights that come along."""
    path = folder / "forcing.pt"
    require(path.is_file(), "open/forcing.pt: no checkpoint; expected one trained with your levels")
    theirs, base = forced_loss(path), forced_loss(SHIPPED)
    points = in_proportion(6, theirs / base, none=1.0, full=0.97)
    if points == 6:
        return points, []
    return points, [f"held-out loss {theirs:.4g}, of the weights that come along {base:.4g}: all points at "
                    "3 % less"]


@torch.no_grad()
def forced_loss(path, n=64):
    """The loss of a checkpoint, every frame at a level of its own, on n held-out clips. These are of the kind
    that the weights that come along were trained on, whatever a student's checkpoint was trained on."""
    saved, shipped = load_checkpoint(path), load_checkpoint(SHIPPED)
    for name, x in shipped["vae"].items():
        require(torch.equal(saved["vae"][name].half(), x.half()), f"open/{path.name}: its VAE is not "
                "that of data/weights/tiny.pt, so losses cannot be compared: train with --vae "
                "data/weights/tiny.pt, or --init data/weights/tiny.pt --vae-steps 0")
    config, vae, dit, process, _ = load_models(path)
    kind = config.process, config.prediction, config.noise_steps
    require(kind == ("ddpm", "v", 1000), f"open/{path.name}: expected ddpm, v-prediction and 1000 levels, got "
            f"{config.process}, {config.prediction} and {config.noise_steps}")
    clips = config_of(shipped, ClipConfig, SHIPPED)
    video, caption = real_clips(clips, "heldout", n)
    rng = torch.Generator().manual_seed(0)
    latent = vae.encode(video)
    t = process.draw_levels((n, latent.shape[2]), rng)              # (B,F)
    eps = torch.randn(latent.shape, generator=rng)
    known = torch.zeros_like(t, dtype=torch.bool)
    return diffusion_loss(dit, process, latent, caption, known, None, t, eps)[0].item()


# --- a better recipe ----------------------------------------------------------------------------------

def recipe(folder):
    """The board's numbers: Frechet distances of the entry and of the baseline, one for each seed."""
    row = json.loads((folder / "recipe.json").read_text())
    mine, base = row["frechet"], row["baseline"]
    require(min(len(mine), len(base)) >= 3, "open/recipe.json: expected three seeds of the entry and "
                               "of the baseline")
    legible = statistics.mean(seed["legibility"] for seed in row["seeds"])
    require(legible >= 0.85, f"open/recipe.json: legibility {legible:.3f}, expected at least 0.85")
    gain = (statistics.mean(base) - statistics.mean(mine)) / statistics.stdev(base)
    points = in_proportion(10, -gain, none=0.0, full=-2.0)
    return points, [] if points == 10 else [f"better by {gain:.2f} standard deviations of the "
            "baseline's seeds, all points at 2"]
