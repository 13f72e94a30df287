"""Where the time of a training step goes, and what a few choices are worth.

    python3 -m data.studies.bench                     the preset tiny; takes the flags of train.py
    python3 -m data.studies.bench --compile           also with torch.compile
    python3 -m data.studies.bench --waiting           also what waiting threads cost on a CPU
    python3 -m data.studies.bench --against video-diffusion-pytorch latte
                                                      also against the networks of two other projects

Compare only numbers of one run: what is compared takes turns, and the fastest turn counts. Operations
(FLOP) are counted, those of products and convolutions in the networks: not the optimiser's.
"""
import data  # first of all: it sets how the threads of torch wait

import argparse
import os
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as nnf
from torch.nn.attention import SDPBackend, sdpa_kernel

import train
from data.runtime import machine
from data.runtime.errors import run_script
from data.studies.peers import PEERS, REMEDY, make_peer
from data.training.report import NAMES, count_flops, flop, product_rate, step_flops, wait
from data.training.start import start
from sora import SPACE, TIME, vae_loss

ROUNDS, STEPS = 5, 3        # turns of each that is compared, and steps in a turn
PARTS = ("data", "encoding", "forward", "backward", "optimiser")


class Stopwatch:
    """Adds up the seconds of the parts of a step."""

    def __init__(self, device):
        self.device, self.seconds = device, dict.fromkeys(PARTS, 0.0)
        self.last = time.perf_counter()

    def lap(self, part):
        """Counts the time since the last lap as that of a part."""
        wait(self.device)
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now


def vae_step(run, step, lap):
    """A step of train.train_vae."""
    c = run.config
    video, eps, shift = train.draw_clips(run, step)
    lap("data")
    for i, n in run.parts:
        with machine.autocast(run.device):
            loss, _, _ = vae_loss(run.models["vae"], video[i::n], eps[i::n], c.vae_kl, shift)
        lap("forward")
        (loss / n).backward()
        lap("backward")
    train.update(run, run.vae, 0.5, (c.vae_lr, c.vae_muon))
    lap("optimiser")


def dit_step(run, step, lap):
    """A step of train.train_dit."""
    c, encode = run.config, run.vae.encode
    groups = [train.draw_group(run, step, shape) for shape in range(len(run.mix))]
    lap("data")

    def timed_encode(video):
        lap("forward")
        latent = encode(video)
        lap("encoding")
        return latent
    run.vae.encode = timed_encode
    for i, n in run.parts:
        loss, _ = train.dit_loss(run, run.models["dit"], groups, i, n)
        lap("forward")
        loss.backward()
        lap("backward")
    del run.vae.encode                                              # back to the method
    train.update(run, run.dit, 0.5, (c.lr, c.muon))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.ema.parameters()), list(run.dit.parameters()), 1 - c.ema)
    lap("optimiser")


def step_of(run, stage):
    """A function that takes a training step: (number of the step, lap). Without a lap nothing waits."""
    def step(number, lap=lambda part: None):
        run.stage = stage
        (vae_step if stage == "vae" else dit_step)(run, number, lap)
    return step


def fastest(works, device, rounds=ROUNDS, repeat=STEPS):
    """Seconds of each of {name: work(number)}, called `repeat` times a turn; the first turn warms up."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(rounds + 1):
        for name, work in works.items():
            wait(device)
            begin = time.perf_counter()
            for number in range(repeat):
                work(number)
            wait(device)
            if turn > 0:
                best[name] = min(best[name], (time.perf_counter() - begin) / repeat)
    return best


def stage_table(runs, stage, rate):
    """Prints what a step of a stage costs. runs: {"plain": run, ...}; rate: of a matrix product, FLOP/s."""
    run = runs["plain"]
    c, device = run.config, run.device
    flops = step_flops(c, run.mix, len(run.words))[stage]
    best = fastest({name: step_of(one, stage) for name, one in runs.items()}, device)
    pixels = [source.clips(1, train.rng(run, 0, "clips"))[0][0, 0].numel() for source, _ in run.mix]
    sizes = [n if stage == "dit" else c.vae_batch / len(run.mix) for _, n in run.mix]   # clips of each shape
    clips = sum(sizes)
    tokens = sum(n * size for n, size in zip(sizes, pixels)) / (TIME * (SPACE * c.patch) ** 2)
    for name, seconds in best.items():
        watch = Stopwatch(device)
        for number in range(STEPS):
            step_of(runs[name], stage)(number, watch.lap)
        print(f"{NAMES[stage]}, {name}: {clips / seconds:.1f} clips/s, {tokens / seconds:.0f} tokens/s; "
              f"{flop(flops)} in {1000 * seconds:.0f} ms, {flop(flops / seconds)}/s, "
              f"{100 * flops / seconds / rate:.0f} % of a matrix product's")
        total = sum(watch.seconds.values())
        print("  " + ", ".join(f"{part} {100 * s / total:.0f} %" for part, s in watch.seconds.items()))
    if len(best) > 1:
        print(f"  a plain step takes {best['plain'] / best['compiled']:.2f} times as long as a compiled one")


# --- ratios -------------------------------------------------------------------------------------------

def attention(run):
    """Prints what fused attention is worth, forward and backward."""
    c, device = run.config, run.device
    cell = SPACE * c.patch
    tokens = c.frames // TIME * (c.height // cell) * (c.width // cell)
    x = torch.randn(c.batch, c.heads, tokens, c.dim // c.heads, device=device,
                    dtype=machine.matmul_dtype(device), requires_grad=True)

    def attend(backends):
        with sdpa_kernel(backends):
            nnf.scaled_dot_product_attention(x, x, x).sum().backward()
    fused = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    best = fastest({"fused": lambda _: attend(fused), "plain": lambda _: attend([SDPBackend.MATH])}, device)
    ratio = best["fused"] / best["plain"]
    print(f"fused attention takes {ratio:.2f} times as long as plain products ({tokens} tokens)")


def waiting(flags):
    """Prints how long a step takes if its threads spin while they wait (active), against if they sleep
    (passive): alone, and beside another process that keeps one core busy. OpenMP reads the policy when
    it starts, so each is measured in a process of its own."""
    def seconds(policy):
        env = dict(os.environ, OMP_WAIT_POLICY=policy)
        command = [sys.executable, "-m", "data.studies.bench", "--seconds", *flags]
        return float(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)

    for busy in (False, True):
        rival = subprocess.Popen([sys.executable, "-c", "while True: pass" if busy else ""])
        try:
            ratio = seconds("ACTIVE") / seconds("PASSIVE")
        finally:
            rival.kill()
            rival.wait()
        where = "beside a busy process" if busy else "alone"
        print(f"{where}, a step takes {ratio:.2f} times as long if waiting threads spin as if they sleep")


# --- other projects' networks -------------------------------------------------------------------------

def against(run, name):
    """Prints how our transformer and another project's network compare, forward and backward, at the
    same clip size: a U-Net on pixels against ours with encoding, Latte's blocks against ours alone."""
    c, device, n = run.config, run.device, min(run.config.batch, 8)
    net, on_pixels, call = make_peer(name, c)
    net.to(device).train()
    video = torch.randn(n, c.channels, c.frames, c.height, c.width, device=device)
    latent = torch.randn(train.latent_shape(c, video), device=device)
    t = torch.full((n, c.frames // TIME), 0.5, device=device)
    caption = torch.ones(n, c.digits, dtype=torch.long, device=device)
    words = torch.randn(n, c.digits, c.dim, device=device)          # embedded already

    def ours(number):
        with machine.autocast(device):
            with torch.no_grad():
                x = run.vae.encode(video) if on_pixels else latent
            loss = run.dit(x, t, caption).square().mean()
        loss.backward()

    def theirs(number):
        with machine.autocast(device):
            loss = call(video if on_pixels else latent, (1000 * t[:, 0]).long(), words).square().mean()
        loss.backward()
    works = {"ours": ours, "theirs": theirs}
    with sdpa_kernel(SDPBackend.MATH):                              # fused attention is not always counted
        flops = {who: count_flops(lambda: work(0)) for who, work in works.items()}
    seconds = fastest(works, device, rounds=3, repeat=1)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    print(f"{name}, {type(net).__name__}: {millions:.1f} million parameters, "
          f"{n / seconds['theirs']:.1f} clips/s, {flop(flops['theirs'] / n)} a clip")
    print(f"  ours has {seconds['theirs'] / seconds['ours']:.3g} times its clips/s, "
          f"{flops['ours'] / flops['theirs']:.3g} times its operations a clip, "
          f"{flops['ours'] / seconds['ours'] / flops['theirs'] * seconds['theirs']:.3g} times its FLOP/s")


def main(argv=None):
    """Prints the tables of both stages, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--against", nargs="+", choices=PEERS, default=[], help=f"other projects; {REMEDY}")
    add("--waiting", action="store_true", help="what waiting threads cost on a CPU")
    add("--compile", action="store_true", help="also with torch.compile")
    add("--seconds", action="store_true", help="print the seconds of a transformer step only")
    args, flags = parser.parse_known_args(argv)
    for name in args.against:
        make_peer(name, train.PRESETS["tiny"])                      # fails before anything is measured
    with tempfile.TemporaryDirectory() as folder:
        flags += ["--out", folder]
        runs = {"plain": start(train.parse([*flags, "--no-compile"]), train.PRESETS)}
        if args.compile:
            runs["compiled"] = start(train.parse([*flags, "--compile"]), train.PRESETS)
        run = runs["plain"]
        if args.seconds:
            print(fastest({"step": step_of(run, "dit")}, run.device)["step"])
            return
        rate = product_rate(run.device)
        print(f"{run.device}, {torch.get_num_threads()} threads; a matrix product in "
              f"{machine.matmul_dtype(run.device)}: {flop(rate)}/s")
        for stage in NAMES:
            stage_table(runs, stage, rate)
        attention(run)
        if args.waiting:
            waiting(flags)
        for name in args.against:
            against(run, name)


if __name__ == "__main__":
    run_script(main)
