"""What surrounds each training step: progress, the log, checkpoints, and a clean end."""
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict

import torch
import torch.distributed as dist
from tqdm import tqdm

from data.runtime.checkpoints import save_checkpoint
from sora import InputError


@torch.no_grad()
def measure_latents(vae, videos):
    """Sets the mean and standard deviation of each latent channel of a VAE from a list of videos."""
    means = [vae.moments(video)[0].transpose(0, 1).flatten(1) for video in videos]
    latents = torch.cat(means, dim=1)                               # (C,values)
    vae.mean.copy_(latents.mean(1).view_as(vae.mean))
    vae.std.copy_(latents.std(1).view_as(vae.std))


def steps_to_do(run, total):
    """Yields the numbers of the steps that are left. After each: progress, log, checkpoint, Ctrl-C."""
    c, begin = run.config, time.monotonic() - run.seconds
    bar = tqdm(range(run.step, total), run.stage, total, initial=run.step, mininterval=1,
               disable=run.rank > 0)
    for step in bar:
        yield step
        run.step = step + 1
        if run.report:
            run.report.after_step(run, total)
        last = run.step == total
        stopped = any_process(run, run.stop)
        stop = stopped or run.stage == "dit" and run.step >= run.args.until and not last
        keep = last or stop or run.step % c.save_every == 0
        if keep or run.step % c.log_every == 0:                     # only here does the host wait for a GPU
            run.seconds = time.monotonic() - begin
            if not run.log.finite():
                raise diverged(run)
        if run.step % c.log_every == 0 or last:
            run.log.write(run.stage, run.step, run.seconds, run.rank == 0)
        if keep:
            save(run)
        if last or run.step % c.save_every == 0:
            if run.rank == 0:
                run.preview(run)
                bar.unpause()                                       # a preview is no step: rates stay true
            stopped = stopped or any_process(run, run.stop)         # Ctrl-C meanwhile: the step is saved
        if stop or stopped:
            if run.rank == 0:
                print(f"\nstopped at {run.stage} step {run.step} and saved; go on with --resume")
            sys.exit(128 + stopped if stopped else 0)               # as a shell says it


@contextmanager
def obeying_signals(run):
    """In this block Ctrl-C, or a request to end, is obeyed after the step in hand; if repeated, at once."""
    def stop(number, _):
        run.stop = number
        signal.signal(number, signal.SIG_DFL)

    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):                    # Windows has no SIGHUP
        number = getattr(signal, name, None)
        ignored = name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN       # by nohup
        if number and not ignored:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def any_process(run, number):
    """The number of a signal that any of the processes got, or 0: they have to stop at the same step."""
    if run.world == 1:
        return number
    numbers = torch.tensor([number])                                # on the CPU: no GPU is waited for
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


def diverged(run):
    """The InputError for a loss that is no longer a number. It says which step is on disk."""
    line = f"{run.stage} step {run.step}: loss or gradient is no longer a number"
    if not run.saved:
        return InputError(f"{line}. Nothing is on disk: start again with a lower learning rate")
    stage, step = run.saved
    return InputError(f"{line}. {run.out / 'sora.pt'} has {stage} step {step}, from before that: --resume "
                      "it with a lower learning rate")


def save(run):
    """Writes the checkpoint, if the loss of its weights is a finite number. There is no random state
    to keep: every step seeds its own generators.

    Of several processes all have to call it; nothing in the file depends on how many they are."""
    if not torch.isfinite(run.probe(run)):                          # the last step was not seen yet
        raise diverged(run)
    sums = run.log.sums.clone()
    if run.world > 1:
        dist.all_reduce(sums)
    if run.rank == 0:
        save_checkpoint(run.out / "sora.pt", config=asdict(run.config), words=run.words,
                        command=run.command, vae=run.vae.state_dict(), dit=run.dit.state_dict(),
                        ema=run.ema.state_dict(), stage=run.stage, step=run.step, seconds=run.seconds,
                        sums=sums, optimizers=[o.state_dict() for o in run.optimizers[run.stage]])
    run.saved = run.stage, run.step
    if run.world > 1:
        dist.barrier()                                              # none leaves before the file is there


@contextmanager
def together():
    """Of several processes: if one ends unexpectedly, those that wait for it end in one line, too."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if "WORLD_SIZE" not in os.environ or not lost:
            raise
        raise InputError(f"process {os.environ['RANK']} lost contact with the others: one of them has ended. "
                         "--resume goes on from the last checkpoint") from None
