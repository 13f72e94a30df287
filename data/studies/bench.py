"""Where the time of a training step goes, and what two choices of kernel are worth; all measured in one run.

    python -m data.studies.bench                the preset tiny; takes the flags of train.py (--preset small, --batch 64 ...)
    python -m data.studies.bench --compile      and what compiling is worth
"""
import sys
import tempfile
import time

import torch
import torch.nn.functional as nnf
from tqdm import tqdm

import train
from data.runtime.cli import autocast, run_script, tune_cpu
from sora import SPACE, TIME, draw_windows, generate


def milliseconds(work, device, repeat=20):
    """Mean time of work() after a warm-up."""
    sync = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for i in range(repeat + 3):
        if i == 3:
            sync()
            begin = time.perf_counter()
        work()
    sync()
    return 1000 * (time.perf_counter() - begin) / repeat


def forward_backward(work, *shape):
    """A function that runs work(x) and its backward on a random bfloat16 x."""
    x = torch.randn(*shape, dtype=torch.bfloat16, requires_grad=True)
    return lambda: work(x).sum().backward()


def step_times(runs, stage=1, rounds=4, steps=6, before=lambda name: None):
    """Milliseconds of a training step of each {name: run of train.py}, the best of some rounds in which all take turns;
    stage 0: of the VAE, 1: of the transformer; before(name) is called before each turn."""
    times = {name: [] for name in runs}
    for i in tqdm(range(1 + rounds), "timing"):                                # the first warms up
        for name, run in runs.items():
            before(name)
            begin = time.perf_counter()
            for step in range(steps):
                net = (run.vae, run.dit)[stage]
                (train.vae_loss, train.dit_loss)[stage](run, step)[0].backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                for optimizer in run.optimizers[stage]:
                    optimizer.step()
                    optimizer.zero_grad()
                if stage == 1:
                    averages, present = list(run.ema.parameters()), [p.detach() for p in net.parameters()]
                    torch._foreach_lerp_(averages, present, 0.01)
            next(net.parameters()).sum().item()                                # waits for a GPU
            times[name] += [1000 * (time.perf_counter() - begin) / steps] * (i > 0)
    return {name: min(values) for name, values in times.items()}


def kernels(config):
    """Prints ratios, forward and backward together: fused attention, and the tanh form of GELU, on this CPU."""
    cell = SPACE * config.patch
    tokens = config.frames // TIME * (config.height // cell) * (config.width // cell)
    qkv = config.batch, config.heads, tokens, config.dim // config.heads
    time_of = {}
    for fused in (True, False):
        torch.backends.cuda.enable_flash_sdp(fused)
        attend = forward_backward(lambda x: nnf.scaled_dot_product_attention(x, x, x), *qkv)
        time_of[fused] = milliseconds(attend, "cpu")
    ratio = time_of[True] / time_of[False]
    print(f"fused attention takes {ratio:.1f} times as long as plain products at {tokens} tokens")
    hidden = config.batch * tokens, 4 * config.dim
    times = [milliseconds(forward_backward(lambda x: nnf.gelu(x, approximate=form), *hidden), "cpu")
             for form in ("tanh", "none")]
    print(f"GELU's tanh form takes {times[0] / times[1]:.1f} times as long as the exact one")


def remembering(run):
    """Prints what it is worth to compute keys and values of known frames once a window (`DiT.remember`) in the middle
    of a long video: an anchor and a frame of context, the rest new, 8 steps with history guidance."""
    c, device = run.config, run.args.device
    F, known = c.frames // TIME, torch.arange(c.frames // TIME, device=device) < 2
    latent = torch.randn(c.batch, c.latent_channels, F, c.height // SPACE, c.width // SPACE, device=device)
    words, times = torch.zeros(c.batch, 1, dtype=torch.long, device=device), torch.arange(F, device=device)
    anew = lambda x, t, caption, times: run.dit(x, t, caption, times, known.expand(t.shape))

    def window(model):
        with autocast(device):
            generate(model, run.process, latent, known, words, times, 8, 3.0, 3.0)
    both = [milliseconds(lambda: window(model), device, 5) for model in (anew, run.dit)]
    print(f"a window takes {both[0] / both[1]:.1f} times as long if known frames are computed anew at every step")


def main():
    """Prints the table of the transformer's stage, and on a CPU the ratios."""
    tune_cpu()
    with tempfile.TemporaryDirectory() as folder:
        run = train.start(train.parse(sys.argv[1:] + ["--out", folder]))
        plain = train.start(train.parse(sys.argv[1:] + ["--out", folder, "--no-compile"]))
    run.stage, device, batch = 1, run.args.device, run.config.batch
    data = run.mix[0][0]
    frames = draw_windows(run.config, batch, data.frames // TIME, train.rng(1))[2]             # anchors are far away
    video, _ = data.clips(batch, train.rng(0), frames)

    def encode():
        with torch.no_grad(), autocast(device):
            run.vae.encode(video)

    def step(backward):
        with autocast(device):
            loss = train.dit_loss(run, 0)[0]
        if backward:
            loss.backward()

    def update():
        for optimizer in run.optimizers[1]:
            optimizer.step()
    parts = {"clips (data)": milliseconds(lambda: data.clips(batch, train.rng(0), frames), device),
             "encode (VAE)": milliseconds(encode, device)}
    forward, both = (milliseconds(lambda: step(backward), device) for backward in (False, True))
    parts |= {"forward (transformer)": forward - sum(parts.values()), "backward": both - forward}
    parts["optimizers"] = milliseconds(update, device)
    total = sum(parts.values())
    print(f"{device}, {torch.get_num_threads()} threads, {batch} clips a step: {total:.0f} ms")
    for name, ms in parts.items():
        print(f"  {name:24}{ms:8.1f} ms {100 * ms / total:5.1f} %")
    remembering(run)
    if device == "cpu":
        kernels(run.config)
    for stage, name in enumerate(("VAE", "transformer")) if run.model != run.dit.packed else ():
        times = step_times({"plain": plain, "compiled": run}, stage)
        print(f"a compiled step of the {name}: {times['compiled']:.0f} ms, a plain one {times['plain']:.0f} ms, "
              f"{times['plain'] / times['compiled']:.1f} times as long")


if __name__ == "__main__":
    run_script(main)
