"""Where the time of a training step goes: each part as milliseconds and as a share of the step, measured in one run.

    python -m data.bench                the preset tiny; takes the flags of train.py (--preset small, --batch 64 ...)
"""
import sys
import tempfile
import time

import torch

import train
from sora import autocast, tune_cpu


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


def main():
    """Prints the table of the transformer's stage."""
    tune_cpu()
    with tempfile.TemporaryDirectory() as folder:
        run = train.start(train.parse(sys.argv[1:] + ["--out", folder]))
    run.stage, device, batch = 1, run.args.device, run.config.batch
    video, _ = run.data.clips(batch, train.rng(0))

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
    parts = {"clips (data)": milliseconds(lambda: run.data.clips(batch, train.rng(0)), device),
             "encode (VAE)": milliseconds(encode, device)}
    forward, both = (milliseconds(lambda: step(backward), device) for backward in (False, True))
    parts |= {"forward (transformer)": forward - sum(parts.values()), "backward": both - forward}
    parts["optimizers"] = milliseconds(update, device)
    total = sum(parts.values())
    print(f"{device}, {torch.get_num_threads()} threads, {batch} clips a step: {total:.0f} ms")
    for name, ms in parts.items():
        print(f"  {name:24}{ms:8.1f} ms {100 * ms / total:5.1f} %")


if __name__ == "__main__":
    main()
