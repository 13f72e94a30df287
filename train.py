"""Trains the video VAE, then the diffusion transformer, on moving MNIST, and ends with pictures of what was learned.

    python train.py                                  the preset `tiny`: minutes on a laptop's CPU
    python train.py --preset small --out out/small   the standard moving MNIST: 64x64, two digits

Writes out/sora.pt (Ctrl-C saves, --resume goes on), out/log.csv, out/preview.gif and, at the end, out/samples.gif.
"""
import argparse
import copy
import csv
import signal
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as nnf
from numpy.random import SeedSequence
from tqdm import tqdm

from data.clips import files as clips
from data.evaluation import score
from data.runtime.cli import autocast, check, load_run, load_weights, run_script, use_device
from data.clips.folder import load_mix
from sora import (PRESETS, TIME, Config, DiT, InputError, VideoVAE, diffusion_loss, draw_windows, load_checkpoint,
                  make_optimizers, make_process, save_checkpoint)

STAGES = ("vae", "dit")
VAE_FIELDS = ("channels", "latent_channels", "vae_width", "vae_depth")        # what a borrowed VAE decides,
TARGET_FIELDS = ("process", "prediction", "noise_steps")                      # and what a resumed run has to keep
COLUMNS = ["loss", "error", "kl", "grad_norm"] + [f"level_{i / 10:.1f}" for i in range(10)]  # _0.3: t in [0.3, 0.4)


def parse(argv=None):
    """The command line: every field of Config is a flag, and its help is the field's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    add = parser.add_argument
    add("--out", default="out", metavar="DIR", help="folder for the checkpoint, the log and the pictures (out)")
    add("--overwrite", action="store_true", help="start anew although DIR has a checkpoint, which is then lost")
    add("--preset", choices=PRESETS, help="which defaults (tiny)")
    add("--until", type=int, default=10 ** 12, metavar="STEP", help="stop after this step of the transformer")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--resume", action="store_true", help="go on from DIR/sora.pt; other flags change its config")
    source.add_argument("--init", metavar="CKPT", help="start from the weights, and the config, of another checkpoint")
    source.add_argument("--vae", metavar="CKPT", help="take the VAE of another checkpoint, train only the transformer")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cpu or mps")
    add("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (left out: on a GPU only)")
    group = parser.add_argument_group("config (in brackets: tiny)")
    for item in fields(Config):
        group.add_argument(f"--{item.name.replace('_', '-')}", type=item.type, metavar=item.type.__name__.upper(),
                           help=f"{item.metadata['help']} ({item.default})")
    return parser.parse_args(argv)


def rng(*numbers, device="cpu"):
    """A generator seeded from (seed, stage, step, purpose): a run can stop anywhere, go on, and draw the same."""
    return torch.Generator(device).manual_seed(int(SeedSequence(numbers).generate_state(1, "uint64")[0] >> 1))


def start(args):
    """A run's state: from the command line and, with --resume, --init or --vae, from a checkpoint."""
    use_device(args.device)
    clips.make_folder(args.out)
    own = Path(args.out) / "sora.pt"
    if own.exists() and not (args.resume or args.overwrite):
        raise InputError(f"{own} exists: go on with --resume, choose another --out, or lose it with --overwrite")
    source = own if args.resume else args.init or args.vae
    saved = (load_run if args.resume else load_checkpoint)(source, args.device) if source else None
    given = {f.name: getattr(args, f.name) for f in fields(Config) if getattr(args, f.name) is not None}
    old = saved["config"] if saved else None
    if args.preset and (args.resume or args.init):
        raise InputError(f"--preset {args.preset}: the config is that of {source}; leave it out")
    for name in VAE_FIELDS if args.vae else TARGET_FIELDS if args.resume else ():
        if given.setdefault(name, value := getattr(old, name)) != value:
            raise InputError(f"--{name.replace('_', '-')} {given[name]}: {source} has {value}; leave it out")
    c = check(replace(old if args.resume or args.init else PRESETS[args.preset or "tiny"], **given))
    if (args.vae or not c.vae_steps) and (not saved or saved["stage"] == 0):
        raise InputError(f"{source or '--vae-steps 0 without --init'}: no VAE trained to the end; train it first")
    mix, words, c = load_mix(c, args.device, saved["words"] if args.resume or args.init else None)
    torch.manual_seed(c.seed)                                                  # the initial weights
    vae, dit = VideoVAE(c).to(args.device), DiT(c, len(words)).to(args.device)
    run = SimpleNamespace(
        args=args, config=c, mix=mix, words=words, out=Path(args.out), step=0, seconds=0.0,
        stage=0 if c.vae_steps and not args.vae else 1,
        vae=vae, dit=dit, model=dit.packed, ema=copy.deepcopy(dit).requires_grad_(False), stop=False,
        process=make_process(c, args.device),
        optimizers=[make_optimizers(vae, c.vae_muon, c.vae_lr), make_optimizers(dit, c.muon, c.lr)],
        sums=torch.zeros(2, len(COLUMNS), device=args.device))                 # sums and counts of the log's next line
    for name in () if not saved else ("vae",) if args.vae else ("vae", "dit", "ema"):
        load_weights(getattr(run, name), saved[name], source)
    if args.resume:
        run.stage, run.step, run.seconds, run.sums = (saved[k] for k in ("stage", "step", "seconds", "sums"))
        for mine, theirs in zip(run.optimizers[run.stage], saved["optimizers"]):
            load_weights(mine, theirs, source)
    if args.compile or args.compile is None and args.device.startswith("cuda"):
        torch._dynamo.config.suppress_errors = True                            # falls back to eager, with a message
        run.model, vae.moments, vae.paint = (torch.compile(f) for f in (dit.packed, vae.moments, vae.paint))
    return run


def save(run):
    """Writes the checkpoint. There is no random state to keep: every step seeds its own generators."""
    save_checkpoint(run.out / "sora.pt", config=asdict(run.config), words=run.words, command=" ".join(sys.argv),
                    vae=run.vae.state_dict(), dit=run.dit.state_dict(), ema=run.ema.state_dict(), stage=run.stage,
                    step=run.step, seconds=run.seconds, sums=run.sums,
                    optimizers=[o.state_dict() for o in run.optimizers[run.stage]])


def vae_loss(run, step):
    """Stage 1, reconstruct clips: the loss and, for the log, numbers of COLUMNS, their values and weights."""
    c, where, data = run.config, (run.config.seed, 0, step), run.mix[step % len(run.mix)][0]      # each shape in turn
    frames = draw_windows(replace(c, anchors=0), c.vae_batch, data.frames // TIME, rng(*where, 2))[2]    # some stills
    video, _ = data.clips(c.vae_batch, rng(*where, 0), frames)
    with autocast(run.args.device):
        loss, error, kl = run.vae.loss(video, c.vae_kl, rng(*where, 1, device=video.device))
    return loss, torch.arange(3, device=loss.device), torch.stack([loss.detach(), error, kl]), loss.new_ones(3)


def dit_loss(run, step):
    """Stage 2, denoise the latents of clips: the same; each latent frame counts in the column of its level."""
    c, device, groups, where = run.config, run.args.device, [], (run.config.seed, 1, step)
    for i, (data, n) in enumerate(run.mix):                                    # streams 0, 2, 3, 5, 6, ...; noise: 1
        known, times, frames = draw_windows(c, n, data.frames // TIME, rng(*where, 3 * i + 2))
        video, caption = data.clips(n, rng(*where, 3 * i), frames)
        with autocast(device), torch.no_grad():
            groups.append((run.vae.encode(video), caption, known.to(device), times.to(device)))
    with autocast(device):
        loss, error, t = diffusion_loss(run.model, run.process, c, groups, rng(*where, 1, device=device))
    columns = nnf.pad((t * 10).long().clamp(max=9) + 4, (1, 0))      # in front: column 0, the loss
    weights = nnf.pad((t > 0).float(), (1, 0), value=1)              # known frames, t = 0, do not count
    return loss, columns, torch.cat([loss.detach()[None], error]), weights


def fit(run, net, loss_of, steps, peaks):
    """The loop of both stages: loss, backward, clip, rate and step, average, log, save."""
    c, optimizers = run.config, run.optimizers[run.stage]
    averages, present = list(run.ema.parameters()), [p.detach() for p in net.parameters()]     # without history
    bar = tqdm(range(run.step, steps), initial=run.step, total=steps, desc=STAGES[run.stage], mininterval=1)
    clock = time.monotonic() - run.seconds
    for step in bar:
        loss, columns, values, weights = loss_of(run, step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        factor = min(1, (step + 1) / 100) * (1 - step / steps)                 # warm up, then straight down to 0
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad()
        if net is run.dit:
            decay = min(c.ema, (step + 1) / (step + 10))              # a young average forgets faster
            torch._foreach_lerp_(averages, present, 1 - decay)
        run.sums.index_add_(1, columns, torch.stack([values * weights, weights]))
        run.sums[:, 3] += torch.stack([norm, torch.ones_like(norm)])
        run.step = step + 1
        log, keep = (run.step % n == 0 or run.step == steps for n in (c.log_every, c.save_every))
        stop = run.stop or run.stage == 1 and run.step >= run.args.until
        if log or keep or stop:                                            # only here does the host wait for a GPU
            run.seconds = time.monotonic() - clock
            if not torch.isfinite(run.sums).all():
                sys.exit(f"{STAGES[run.stage]} step {run.step}: loss or gradient is no longer a number. The checkpoint"
                         " is from before that: --resume it with a lower learning rate")
        if log:
            bar.set_postfix(loss=f"{write_log(run):.4f}")
        if keep or stop:
            save(run)
        if stop:
            print(f"\nstopped at {STAGES[run.stage]} step {run.step} and saved; go on with --resume")
            sys.exit(130 if run.stop else 0)
        if keep:
            with autocast(run.args.device):
                score.pictures(run.out / "preview.gif", c, run.vae, run.process, run.ema if run.stage else None)


def open_log(run):
    """Cuts the log back to the checkpoint that the run starts from."""
    path = run.out / "log.csv"
    lines = list(csv.reader(path.open()))[1:] if run.args.resume and path.exists() else []
    kept = [line for line in lines if len(line) == len(COLUMNS) + 3
            and (STAGES.index(line[0]), int(line[1])) <= (run.stage, run.step)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["stage", "step", "seconds", *COLUMNS], *kept])


def write_log(run):
    """Appends the means since the last line (empty where nothing fell), returns the loss."""
    total, count = run.sums.tolist()
    means = [f"{a / n:.6g}" if n else "" for a, n in zip(total, count)]
    with (run.out / "log.csv").open("a", newline="") as file:
        csv.writer(file).writerow([STAGES[run.stage], run.step, f"{run.seconds:.1f}", *means])
    run.sums.zero_()
    return total[0] / count[0]


def main(argv=None):
    """Both stages, then the pictures and the numbers to hold against the README's."""
    run = start(parse(argv))
    c = run.config

    def stop(number, _):
        run.stop = True                                                        # finishes the step in hand, then saves
        signal.signal(number, signal.SIG_DFL)                                  # asked twice: at once
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    open_log(run)
    if run.stage == 0:
        fit(run, run.vae, vae_loss, c.vae_steps, (c.vae_lr, c.vae_muon))
        run.vae.measure(run.mix[i % len(run.mix)][0].clips(32, rng(c.seed, 3, i))[0] for i in range(16))
        run.stage, run.step, run.seconds = 1, 0, 0.0
        save(run)
    fit(run, run.dit, dit_loss, c.steps, (c.lr, c.muon))
    with autocast(run.args.device):
        samples = score.pictures(run.out / "samples.gif", c, run.vae, run.process, run.ema, n=64)
        expected = "at least 28 dB and 80 %" if replace(c, seed=0) == PRESETS["tiny"] else "what the README says of it"
        print(f"expected {expected}; got {score.verdict(c, run.vae, *samples)}")


if __name__ == "__main__":
    run_script(main)
