"""Trains the video VAE, then the diffusion transformer, and ends with pictures and a verdict.

    python3 train.py                                  the preset `tiny`: ten minutes on two CPU cores
    python3 train.py --preset small --out out/small   two digits on 64x64, the standard moving MNIST; on a CPU
    python3 train.py --preset standard --out out/standard                    two digits, on one GPU, larger
    python3 train.py --preset steered --init data/weights/tiny.pt --out out/steered    a world to play in
    python3 train.py --data FOLDER --out out/mine     your own clips (data/clips/README.md)
    torchrun --nproc_per_node=4 train.py ...          the same run on four GPUs

Writes out/sora.pt (Ctrl-C saves, --resume goes on), out/log.csv with a plot log.png (if matplotlib is
there), out/preview.gif, a frame of each preview side by side in growth.png, and at the end out/samples.gif.
"""
import data  # first of all: it sets how the threads of torch wait

import argparse
from dataclasses import replace
from typing import NamedTuple

import torch
from numpy.random import SeedSequence

from data.clips.files import make_folder
from data.clips.places import keep_places
from data.evaluation import score
from data.runtime import machine
from data.runtime.arguments import Parser
from data.runtime.checkpoints import STAGES
from data.runtime.config import ClipConfig
from data.runtime.errors import run_script
from data.runtime.writing import only_one
from data.training import growth
from data.training.kept import replacing_run
from data.training.loop import measure_latents, obeying_signals, save, steps_to_do, together
from data.training.packed import packed_loss, unknown_pixels
from data.training.presets import EXPECTED, PRESETS, TrainConfig
from data.training.start import begin, start
from sora import SPACE, TIME, Config, diffusion_loss, draw_noise, draw_windows, vae_loss


PURPOSES = ("windows", "clips", "noise", "statistics", "shift", "places")     # what random numbers are drawn for


def parse(argv=None):
    """The command line: every field of TrainConfig is a flag, and its help is the field's."""
    parser = Parser(__doc__)
    add = parser.add_argument_group("the run").add_argument
    add("--out", default="out", metavar="DIR", help="folder for checkpoint, log and pictures (out)")
    add("--overwrite", action="store_true", help="start anew although DIR has a run, which is lost")
    add("--preset", choices=PRESETS, help="which defaults (tiny)")
    add("--until", type=int, default=10 ** 12, metavar="STEP", help="stop after this transformer step")
    source = parser.add_argument_group("start from").add_mutually_exclusive_group()
    source.add_argument("--resume", action="store_true", help="go on from DIR/sora.pt")
    source.add_argument("--init", metavar="CKPT", help="start from another checkpoint's weights and, without "
                                                       "--preset, its config")
    source.add_argument("--vae", metavar="CKPT", help="take another's VAE, train only the transformer")
    add("--accumulate", type=int, default=1, metavar="N", help="split each step into N parts, for memory (1)")
    add("--device", default=machine.default_device(), help="cuda, cpu or mps")
    add("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (left out: on a GPU only)")
    parser.add_fields("networks and noise", Config)
    parser.add_fields("clips and sampling", ClipConfig, but=Config)
    parser.add_fields("training", TrainConfig, but=ClipConfig)
    return parser.parse_args(argv)


# --- the two stages -----------------------------------------------------------------------------------
# run.vae and run.dit are the networks, run.ema the averaged dit; run.models are the networks as a training
# step calls them: compiled, split among run.world processes (run.networks: neither). run.mix: for each shape a
# source of clips, and how many a step takes. run.parts: which parts (i, n) of a step this process computes,
# one after the other: every n-th clip from i on. All is made in data/training/start.py.

def rng(run, step, purpose, which=0, device="cpu"):
    """A generator for one purpose in one step, of clips run.mix[which]: a run that stopped draws the same."""
    numbers = (run.config.seed, STAGES.index(run.stage), step, PURPOSES.index(purpose), which)
    seed = int(SeedSequence(numbers).generate_state(1, "uint64")[0]) >> 1       # a signed 64-bit number
    return torch.Generator(device).manual_seed(seed)


def latent_shape(config, video):
    """(B,C,F,h,w) of the latents of a video (B,channels,T,H,W)."""
    B, _, T, H, W = video.shape
    return B, config.latent_channels, T // TIME, H // SPACE, W // SPACE


def train_vae(run):
    """Stage 1: the VAE learns to reconstruct clips. Of several shapes, each takes its turn."""
    c, model = run.config, run.models["vae"]
    for step in steps_to_do(run, c.vae_steps):
        video, eps, shift = draw_clips(run, step)
        for i, n in run.parts:
            with machine.autocast(run.device):
                loss, error, kl = vae_loss(model, video[i::n], eps[i::n], c.vae_kl, shift)
            (loss / run.args.accumulate).backward()                 # DDP divides by the processes
            run.log.add(1 / n, loss=loss, error=error, kl=kl)
        update(run, run.vae, step / c.vae_steps, (c.vae_lr, c.vae_muon))


def draw_clips(run, step):
    """The clips of a step of the VAE, the noise of their latents, and how many pixels these are moved."""
    source, _ = run.mix[step % len(run.mix)]
    video, _ = source.clips(run.config.vae_batch, rng(run, step, "clips"))
    eps = torch.randn(latent_shape(run.config, video), device=run.device,
                      generator=rng(run, step, "noise", device=run.device))
    generator, shift = rng(run, step, "shift"), (0, 0)
    if torch.rand((), generator=generator) < run.config.vae_shift:
        shift = tuple(torch.randint(SPACE, (2,), generator=generator).tolist())
    return video, eps, shift


def train_dit(run):
    """Stage 2: the transformer learns to denoise latents."""
    c, model = run.config, run.models["dit"]
    weights, averages = list(run.dit.parameters()), list(run.ema.parameters())
    for step in steps_to_do(run, c.steps):
        groups = [draw_group(run, step, shape) for shape in range(len(run.mix))]
        for i, n in run.parts:
            loss, levels = dit_loss(run, model, groups, i, n)
            (loss * run.world).backward()                           # it is a share already: undoes DDP's mean
            run.log.add(1 / n, loss=loss * n)
            for level in levels:
                run.log.add_levels(*level)
        update(run, run.dit, step / c.steps, (c.lr, c.muon))
        decay = min(c.ema, (step + 1) / (step + 10))                # rises, so that the first weights fade
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - decay)


class Group(NamedTuple):
    """The clips of one shape in a step, and all that is random about them."""
    video: torch.Tensor         # (B,channels,T,H,W)
    caption: torch.Tensor       # (B,words) or (B,F,words)
    known: torch.Tensor         # (B,F) bool
    positions: torch.Tensor     # (B,F) in time
    t: torch.Tensor             # (B,F)
    eps: torch.Tensor           # (B,C,F,h,w)


def draw_group(run, step, which):
    """Draws the Group of a step that is of the shape run.mix[which]."""
    source, n = run.mix[which]
    windows = rng(run, step, "windows", which)
    known, positions, frames = draw_windows(run.config, n, source.frames // TIME, windows)
    if source.frames == TIME:                                       # a still: one frame, four times
        frames = frames[:, :1].expand(-1, TIME)
    video, caption = source.clips(n, rng(run, step, "clips", which), frames)
    if run.config.placed > 0 and not run.config.data:
        caption = keep_places(caption, run.config.placed, rng(run, step, "places", which))
    known, positions = [machine.moved(x, run.device) for x in (known, positions)]
    t, eps, caption = draw_noise(run.process, run.config, latent_shape(run.config, video), known, caption,
                                 rng(run, step, "noise", which, run.device))
    return Group(video, caption, known, positions, t, eps)


def dit_loss(run, model, groups, i, n):
    """The loss of every n-th clip from the i-th on, as its share of the whole batch's loss. Also, for
    each shape, the errors of the latent frames, their levels t / N and which are known, (B,F) each."""
    parts = [Group(*[x[i::n] for x in group]) for group in groups]
    with machine.autocast(run.device):
        with torch.no_grad():
            latents = [run.vae.encode(part.video) for part in parts]
        clips = [(latent, *part[1:]) for latent, part in zip(latents, parts)]
        if len(clips) == 1:
            count = (~groups[0].known).sum()                        # unknown frames of the whole batch
            loss, error = diffusion_loss(model, run.process, *clips[0], count=count)
            errors = [error]
        else:
            count = sum(unknown_pixels(group.known, group.eps) for group in groups)
            loss, errors = packed_loss(model, run.process, clips, count)
    levels = [(error, part.t / run.process.N, part.known) for error, part in zip(errors, parts)]
    return loss, levels


def update(run, net, progress, rates):
    """Clips the gradient and takes a step of AdamW and, if the run has it, of Muon, in the order of
    `rates`. These fall straight to 0, and in the first 50 steps they are smaller still, to warm up."""
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    run.log.add(1 / run.world, grad_norm=norm)
    factor = min(1, (run.step + 1) / 50) * (1 - progress)
    for optimizer, rate in zip(run.optimizers[run.stage], rates):
        optimizer.param_groups[0]["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def probe(run):
    """The loss of the next step's first part, with the present weights: not finite, they are not saved."""
    n = len(run.parts) * run.world
    if run.stage == "dit":
        groups = [draw_group(run, run.step, shape) for shape in range(len(run.mix))]
        return dit_loss(run, run.networks["dit"], groups, 0, n)[0]
    video, eps, shift = draw_clips(run, run.step)
    with machine.autocast(run.device):
        return vae_loss(run.vae, video[::n], eps[::n], run.config.vae_kl, shift)[0]


def measure(run):
    """Measures the statistics of the latents on 512 clips."""
    sources = [run.mix[i % len(run.mix)][0] for i in range(16)]
    measure_latents(run.vae, [source.clips(32, rng(run, i, "statistics"))[0] for i, source in enumerate(sources)])


def preview(run):
    """Pictures of where the run stands: copies of clips, later samples."""
    with machine.autocast(run.device):
        videos, _ = score.pictures(run.out / "preview.gif", run.config, run.vae, run.process,
                                   run.ema if run.stage == "dit" else None, run.config.seed,
                                   sources=run.sources)
    growth.keep(run, videos)


def main(argv=None):
    """Both stages, then the pictures and the numbers to hold against the README's."""
    args = parse(argv)
    make_folder(args.out)
    with only_one(args.out), together():
        with replacing_run(args):
            run = start(args, PRESETS)
            run.probe, run.preview = probe, preview
            same = [name for name in EXPECTED if PRESETS[name] == replace(run.config, seed=0)]
            run.expected = EXPECTED[same[0]] if same else None
            begin(run)
        with obeying_signals(run):
            if run.stage == "vae":                                  # not with --vae, nor --vae-steps 0
                train_vae(run)                                      # a signal saves, and leaves: SystemExit
                measure(run)
                run.stage, run.step, run.seconds = "dit", 0, 0.0
                save(run)
            train_dit(run)
        if run.rank == 0:
            finish(run)


def finish(run):
    """The pictures, the verdict, and where they are. Ctrl-C ends it at once: the run is saved."""
    c, ckpt = run.config, run.out / "sora.pt"
    print(f"{ckpt} is complete; now 64 samples, and a look at them")
    with machine.autocast(run.device):
        samples = score.pictures(run.out / "samples.gif", c, run.vae, run.process, run.ema, c.seed, n=64,
                                 sources=run.sources, progress=True)
        said = score.verdict(c, run.vae, *samples, c.seed, run.sources, progress=True)
    expected = f"expected {run.expected}; " if run.expected else ""
    print(f"{expected}got {said}")
    print(f"wrote {run.out / 'samples.gif'} and {ckpt}; try: python3 sample.py --ckpt {ckpt}")


if __name__ == "__main__":
    run_script(main)
