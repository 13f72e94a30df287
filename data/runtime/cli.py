"""What the scripts have in common: config checked, networks loaded, machine set up, bad input said in one line."""
import ctypes
import math
import sys
from dataclasses import fields
from pathlib import Path

import torch

from sora import SPACE, TIME, DiT, InputError, VideoVAE, load_checkpoint, make_process


SHARES = ("ema", "known", "anchors", "stills", "forcing", "caption_drop", "caption_drop_known")


def check(config):
    """Raises InputError at the first value that cannot work, naming the numbers."""
    for item in fields(config):
        value = getattr(config, item.name)
        least = {"frames": 8, "seed": 0, "reach": 0, "vae_steps": 0}.get(item.name, int(item.type is int))
        most = 2 ** 63 - 1 if item.name == "seed" else 1 if item.name in SHARES else math.inf
        if item.type is not str and not least <= value <= most:
            raise InputError(f"{item.name} {value}: expected {least} {'or more' if most == math.inf else f'to {most}'}")
    grid = SPACE * config.patch
    edge = f"{SPACE} for the VAE x {config.patch} for the patch"
    for name, step, why in (("height", grid, edge), ("width", grid, edge), ("frames", TIME, "frames in a latent frame"),
                            ("reach", TIME, "frames in a latent frame"),
                            ("dim", 2 * config.heads, "2 x heads")):
        if getattr(config, name) % step:
            raise InputError(f"{name} {getattr(config, name)} is not a multiple of {step} ({why})")
    if config.dim < 8 * config.heads:
        raise InputError(f"dim {config.dim} with {config.heads} heads: expected at least 8 a head, RoPE has three axes")
    for name, known in (("process", ("ddpm", "sit")), ("prediction", ("v", "eps", "x0")), ("channels", (1, 3)),
                        ("rule", ("official", "stochastic"))):
        if getattr(config, name) not in known:
            raise InputError(f"{name} {getattr(config, name)!r}: expected one of {', '.join(map(str, known))}")
    return config


def check_words(config, words, known):
    """Raises InputError unless the words of a data set are those of a checkpoint: their numbers must mean the same."""
    if words != known:
        raise InputError(f"--data {config.data}: its words are {', '.join(words)}; the checkpoint's are "
                         f"{', '.join(known)}: train anew, with another --out")


def load_weights(net, weights, path):
    """load_state_dict of a network or optimizer, with an InputError that names the checkpoint if they do not match."""
    try:
        net.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: its weights do not fit ({str(error).splitlines()[-1].strip()[:99]}); use the config "
                         "and the version of sora.py it was trained with") from None


def load_run(path, device="cpu"):
    """A checkpoint to resume: InputError if it can only be sampled from or, with --init, be started from."""
    state = load_checkpoint(path, device)
    if "optimizers" not in state:
        raise InputError(f"{path}: has no optimizers to go on with; start from its weights with --init")
    return state


def load_models(path, device="cpu"):
    """From a checkpoint, ready to sample: (config, vae, dit with averaged weights, process, words)."""
    state = load_checkpoint(path, device)
    if state["stage"] == 0:
        raise InputError(f"{path}: training stopped before the transformer; go on with `python train.py --resume`")
    config = state["config"]
    vae = VideoVAE(config).to(device).eval()
    dit = DiT(config, len(state["words"])).to(device).eval()
    load_weights(vae, state["vae"], path)
    load_weights(dit, state["ema"], path)
    return config, vae, dit, make_process(config, device), state["words"]


def window_of(args, config):
    """--window, --context and --anchor in latent frames, rounded up: (window, context, anchor as in `extend`)."""
    window = -(-(args.window or config.frames) // TIME)
    practised = args.anchor and config.known and config.anchors and config.reach
    usual = min(max((window - 1) // 2 if practised else window // 2, 1), window - 1)
    context = -(-args.context // TIME) if args.context else usual
    if not 0 <= context < window:
        raise InputError(f"--context {context * TIME} of --window {window * TIME} frames: expected at least {TIME}"
                         " new ones")
    return window, context, config.far if practised and context + 1 < window else 0


SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "tiny.pt"                          # made by data/ship.py


def default_ckpt():
    """What to sample from if the user does not say: what train.py made, or the weights that come with the project."""
    return "out/sora.pt" if Path("out/sora.pt").exists() else str(SHIPPED)


def use_device(name):
    """Raises InputError unless tensors can be put on this device; tunes the CPU."""
    tune_cpu()
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error)[:60].partition("\n")[0]
        raise InputError(f"device {name!r} is not usable ({reason}); try --device cpu") from None


def autocast(device):
    """Mixed precision where the hardware multiplies bfloat16 matrices itself; elsewhere, float32."""
    kind = torch.device(device).type
    bf16 = (torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else
            kind == "cpu" and getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False))
    return torch.autocast(kind, torch.bfloat16, enabled=bf16)


def tune_cpu():
    """Settings that make small networks on a CPU up to twice as fast; nothing changes but rounding. GPUs don't mind."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # keep freed memory instead of handing it back at every step and faulting it in again
        mallopt(-3, 1 << 30) or mallopt(-3, 32 << 20)                          # M_MMAP_THRESHOLD; older libcs: 32 MiB
        mallopt(-1, 1 << 30)                                                   # M_TRIM_THRESHOLD
    if not torch.cuda.is_available():  # at a few hundred tokens plain products beat the CPU's fused attention backward
        torch.backends.cuda.enable_flash_sdp(False)                            # despite the name, the CPU obeys it too
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)           # or it would go through float32


def run_script(main):
    """Runs a script. Bad input ends it with exit code 2 and one line that says what to do, instead of a traceback."""
    try:
        main()
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
