"""Makes the weights that come with the project from a checkpoint: what sampling needs, in half precision.

    python -m data.weights.ship out/long/sora.pt --out data/weights/tiny.pt

sample.py takes these if there is no out/sora.pt; `train.py --init data/weights/tiny.pt` goes on from them.
"""
import argparse
from dataclasses import asdict

from data.runtime.cli import run_script
from sora import InputError, load_checkpoint, save_checkpoint


def main(argv=None):
    """Averaged weights only, once, as float16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", help="whose averaged weights to take")
    parser.add_argument("--out", default="out/ship.pt", help="(out/ship.pt)")
    args = parser.parse_args(argv)
    state = load_checkpoint(args.ckpt)
    if state["stage"] == 0:
        raise InputError(f"{args.ckpt}: training stopped before the transformer; go on with `python train.py --resume`")
    vae, ema = ({name: x.half() for name, x in state[net].items()} for net in ("vae", "ema"))
    save_checkpoint(args.out, config=asdict(state["config"]), words=state["words"], command=state["command"], vae=vae,
                    dit=ema, ema=ema, stage=state["stage"], step=state["step"])
    print(f"wrote {args.out}: {sum(x.numel() for net in (vae, ema) for x in net.values()) / 1e6:.1f} million weights")


if __name__ == "__main__":
    run_script(main)
