"""Where a run stands: what a step costs, when training will end, and a warning if it is far too slow."""
import statistics
import time

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data.runtime import machine
from data.runtime.checkpoints import make_process
from sora import SPACE, TIME, DiT, VideoVAE, diffusion_loss, draw_noise, vae_loss

NAMES = {"vae": "VAE", "dit": "transformer"}
STEPS, SECONDS = 20, 30     # how long a stage is watched before the report: so many steps, or seconds
SLOW = 5                    # a warning if a step takes so many times what its operations should cost,
OVERHEAD = 0.2              # unless it takes less than these seconds: a small network is mostly overhead


def begin(run):
    """Says what the run is about to do, and lets `steps_to_do` say the rest."""
    run.report = Report(run)
    if run.rank == 0:
        print(run.report.start(run))


class Report:
    """Measures the first steps of a stage, then tells once when they will be done."""

    def __init__(self, run):
        self.flops = step_flops(run.config, run.mix, len(run.words))
        self.rate = product_rate(run.device)
        self.stage, self.times, self.last = None, [], 0.0

    def start(self, run):
        """The lines at the start."""
        c, kind = run.config, torch.device(run.device).type
        where = f"{torch.get_num_threads()} threads" if kind == "cpu" else kind.upper()
        if kind == "cuda":
            where = torch.cuda.get_device_name(run.device)
        lines = [f"{run.out}: {run.device} ({where}), {run.world} process{'es' * (run.world > 1)}, "
                 f"{dtype_and_why(run.device)}; a matrix product runs at {flop(self.rate)}/s"]
        clips = sum(n for _, n in run.mix)
        stages = ("vae", run.vae, c.vae_batch, c.vae_steps), ("dit", run.dit, clips, c.steps)
        for stage, net, size, total in stages:
            parameters = sum(p.numel() for p in net.parameters())
            if (run.stage, stage) == ("dit", "vae"):
                steps = "no steps"
            elif run.stage == stage and run.step:
                steps = f"{total - run.step} of {total} steps"
            else:
                steps = f"{total} steps"
            lines.append(f"  {NAMES[stage]}: {parameters / 1e6:.2f} million parameters, {steps} of {size} "
                         f"clips and {flop(self.flops[stage])}")
        if run.expected:
            lines.append(f"  at the end expect {run.expected} (copies of clips; frames of samples that are read as asked)")
        return "\n".join(lines)

    def after_step(self, run, total):
        """Takes the time of a step; says once in a stage when it will end."""
        if run.stage != self.stage:
            self.stage, self.times, self.last = run.stage, [], time.perf_counter()
            return                                                  # the first step warms up
        if self.times is None:                                      # the report is out
            return
        wait(run.device)
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now
        if len(self.times) < 3 or len(self.times) < STEPS and sum(self.times) < SECONDS:
            return
        seconds = statistics.median(self.times)                     # a preview among them does not count
        self.times = None
        if run.rank == 0:
            tqdm.write("\n".join(self.forecast(run, total, seconds)))

    def forecast(self, run, total, seconds):
        """The lines when a step of the present stage is known to take so many seconds."""
        c, until = run.config, run.args.until
        left = (min(total, until) if run.stage == "dit" else total) - run.step
        line = f"{NAMES[run.stage]}: {amount(seconds)} a step; it will be done {clock(left * seconds)}"
        if run.stage == "vae":
            later = min(c.steps, until) * seconds * self.flops["dit"] / self.flops["vae"]
            line += f", the transformer about {clock(left * seconds + later)}"
        if c.steps <= until:
            line += ", and then come 64 samples"
        flops = self.flops[run.stage] / run.world
        times = seconds * self.rate / flops
        if times <= SLOW or seconds < OVERHEAD:
            return [line]
        remedy = "is something else using the cores?"
        if torch.get_num_threads() > 1:
            remedy += " OMP_NUM_THREADS=1 may be faster then"
        if torch.device(run.device).type != "cpu":
            remedy = "the network may be too small to fill this device; a larger batch then costs little more"
        return [line, f"a step takes {amount(seconds)}, {times:.0f} times what its {flop(flops)} should cost "
                      f"here: {remedy}"]


def step_flops(config, mix, n_words):
    """Operations of a training step, forward and backward, of all processes: {"vae": n, "dit": n}.

    Those of matrix products and convolutions count: one for a multiplication, one for an addition;
    what the optimizer does is left out.
    Of several shapes, the VAE's step has one, in turns, and the transformer's step has all.
    All is done on the device "meta", whose tensors have shapes but no numbers: nothing is computed,
    drawn or changed."""
    with torch.device("meta"):
        vae, dit = VideoVAE(config), DiT(config, n_words)
    process, vae_flops, dit_flops = make_process(config, "meta"), [], []
    for source, n in mix:
        video, caption = source.clips(1, torch.Generator().manual_seed(0))      # only the shapes matter
        _, channels, T, H, W = video.shape
        shape = config.latent_channels, T // TIME, H // SPACE, W // SPACE
        known = torch.empty(n, shape[1], dtype=torch.bool, device="meta")
        positions = torch.empty(n, shape[1], dtype=torch.long, device="meta")
        caption = torch.empty(n, *caption.shape[1:], dtype=torch.long, device="meta")
        t, eps, caption = draw_noise(process, config, (n, *shape), known, caption)

        def vae_step():
            clips = torch.empty(config.vae_batch, channels, T, H, W, device="meta")
            noise = torch.empty(config.vae_batch, *shape, device="meta")
            vae_loss(vae, clips, noise, config.vae_kl)[0].backward()

        def dit_step():
            with torch.no_grad():
                latent = vae.encode(torch.empty(n, channels, T, H, W, device="meta"))
            diffusion_loss(dit, process, latent, caption, known, positions, t, eps)[0].backward()
        vae_flops.append(count_flops(vae_step))
        dit_flops.append(count_flops(dit_step))
    return {"vae": sum(vae_flops) / len(mix), "dit": sum(dit_flops)}


def count_flops(work):
    """Operations of the matrix products and convolutions in work()."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def product_rate(device, dtype=None, seconds=0.1):
    """Operations a second of one matrix product: what this machine does at best, or nearly so."""
    n = 1024 if torch.device(device).type == "cpu" else 8192
    x = torch.ones(n, n, device=device, dtype=dtype or machine.matmul_dtype(device))
    x @ x                                                           # the first warms up
    wait(device)
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        x @ x
        wait(device)
        best = min(best, time.perf_counter() - before)
    return 2 * n ** 3 / best


def wait(device):
    """Waits until a GPU has done what it was asked to."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def dtype_and_why(device):
    """In words: the precision of matrix products."""
    hardware = "CPU" if torch.device(device).type == "cpu" else "device"
    if machine.has_bfloat16(device):
        return f"matrix products in bfloat16, which this {hardware} multiplies itself"
    return f"float32, because this {hardware} does not multiply bfloat16 itself"


def flop(n):
    """Operations in words: 35 GFLOP, 1.5 TFLOP."""
    return f"{n / 1e12:.3g} TFLOP" if n >= 1e12 else f"{n / 1e9:.3g} GFLOP"


def amount(seconds):
    """0.21 s, 45 s, 12 min, 3.5 h"""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def clock(seconds):
    """The time of day in so many seconds, and how long that is: "at 20:41 (in 9 min)"."""
    when = time.localtime(time.time() + seconds)
    return f"at {time.strftime('%H:%M' if seconds < 43200 else '%d %b, %H:%M', when)} (in {amount(seconds)})"
