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
from data.runtime.checkpoints import SHIPPED, load_checkpoint, load_models
from sora import DDPM, Config, DiT, InputError, diffusion_loss, generate


def graded(folder, name):
    """(points, reasons) of an open part. What the student's code raises is a reason."""
    try:
        return {"cache": cache, "forcing": forcing, "recipe": recipe}[name](folder)
    except (Missed, InputError) as error:
        return 0.0, [str(error)]
    except (Exception, SystemExit) as error:
        return 0.0, [f"open/{name}: {type(error).__name__}: {str(error)[:200]}"]


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
    """Levels of their own, 2 points; a staircase, 2; a lower loss at such levels, 6."""
    mine, points, reasons = code(folder, "forcing.py"), 0.0, []
    for check in (check_levels, check_staircase):
        try:
            check(mine)
            points += 2
        except Missed as missed:
            reasons.append(str(missed))
    if not (folder / "forcing.pt").is_file():
        return points, [*reasons, "open/forcing.pt: no checkpoint; expected one trained with your levels"]
    theirs, base = forced_loss(folder / "forcing.pt"), forced_loss(SHIPPED)
    more = in_proportion(6, theirs / base, none=1.0, full=0.97)
    if more < 6:
        reasons.append(f"held-out loss {theirs:.4g}, of the weights that come along {base:.4g}: all "
                       "points at 3 % less")
    return points + more, reasons


def check_levels(mine):
    """One level for each unknown frame."""
    process, known = DDPM(1000), torch.rand(500, 4) < 0.3
    t = mine.draw_levels(process, known, torch.Generator().manual_seed(0))
    require(t.shape == known.shape, f"draw_levels: expected levels (B,F), got {tuple(t.shape)}")
    require(bool((t[known] == 0).all()), "draw_levels: expected level 0 in known frames")
    require(bool(((t >= 1) & (t <= 1000))[~known].all()), "draw_levels: expected 1 to N in unknown frames")
    both = ~known[:, 0] & ~known[:, 1]
    together = torch.corrcoef(t[both][:, :2].T.float())[0, 1].item()
    require(abs(together) < 0.2, "draw_levels: expected frames of a clip to be independent, got a "
                f"correlation of {together:.2f}")


def check_staircase(mine):
    """Levels that fall, early frames first."""
    process = DDPM(1000)
    levels = mine.staircase(process, 10, 4)
    require(levels.ndim == 2 and levels.shape[1] == 4, "staircase: expected (S+1,F), got "
            f"{tuple(levels.shape)}")
    require(bool((levels[0] == 1000).all() and (levels[-1] == 0).all()), "staircase: expected N first "
            "and 0 last")
    require(bool((levels.diff(dim=0) <= 0).all()), "staircase: expected levels that never rise from "
                                               "row to row")
    require(bool((levels.diff(dim=1) >= 0).all()), "staircase: expected early frames never noisier "
                                               "than later ones")
    require(bool((levels.diff(dim=1) > 0).any()), "staircase: expected early frames to be ahead somewhere")


@torch.no_grad()
def forced_loss(path, n=64):
    """The loss of n held-out clips of a checkpoint, every frame at a level of its own."""
    saved, shipped = load_checkpoint(path), load_checkpoint(SHIPPED)
    for name, x in shipped["vae"].items():
        require(torch.equal(saved["vae"][name].half(), x.half()), f"open/{path.name}: its VAE is not "
                "that of data/weights/tiny.pt, so losses cannot be compared: train with --vae "
                "data/weights/tiny.pt, or --init data/weights/tiny.pt --vae-steps 0")
    config, vae, dit, process, _ = load_models(path)
    kind = config.process, config.prediction
    require(kind == ("ddpm", "v"), f"open/{path.name}: expected ddpm with v-prediction, got {' '.join(kind)}")
    video, caption = real_clips(config, "heldout", n)
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
