"""Makes the weights that come along from a checkpoint: what sampling needs, in half precision.

    python3 -m data.weights.ship out/sora.pt --out data/weights/tiny.pt

sample.py takes these if there is no out/sora.pt; `train.py --init data/weights/tiny.pt --vae-steps 0` goes on
from them.
"""
import data  # first of all: it sets how the threads of torch wait

from data.runtime.arguments import Parser
from data.runtime.checkpoints import load_checkpoint, save_checkpoint
from data.runtime.errors import run_script
from sora import InputError


def main(argv=None):
    """Averaged weights only, once: the VAE's as float16, the transformer's, most of the file, as bfloat16, whose
    fewer digits compress better (a repository keeps every copy)."""
    parser = Parser(__doc__)
    parser.add_argument("ckpt", help="whose averaged weights to take")
    parser.add_argument("--out", default="out/ship.pt", help="(out/ship.pt)")
    args = parser.parse_args(argv)
    state = load_checkpoint(args.ckpt)
    if state["stage"] == "vae":
        raise InputError(f"{args.ckpt}: training stopped before the transformer; go on with "
                         "`python3 train.py --resume`")
    vae = {name: x.half() for name, x in state["vae"].items()}
    ema = {name: x.bfloat16() for name, x in state["ema"].items()}
    kept = {name: state[name] for name in ("config", "words", "command", "stage", "step")}
    save_checkpoint(args.out, **kept, vae=vae, dit=ema, ema=ema)
    millions = sum(x.numel() for x in [*vae.values(), *ema.values()]) / 1e6
    print(f"wrote {args.out}: {millions:.1f} million weights")


if __name__ == "__main__":
    run_script(main)
