"""Frames 11 to 20 from frames 1 to 10: one sample of a clip, and the mean of several.

    python3 -m data.evaluation.prediction --ckpt out/small/sora.pt --n 128 --samples 8

Squared error rewards hedging: the mean of all that may follow is nearer to what does follow than any single
sample, though it is blurred. Networks trained on squared error predict that mean, and their published
errors are to be held against the mean of samples.
"""
from dataclasses import replace

from data.evaluation.intervals import interval
from data.evaluation.judge import published_clips, real_clips
from data.evaluation.metrics import squared_error, ssim
from data.evaluation.score import predict
from data.evaluation.tables import show, write_table
from data.runtime.arguments import Parser
from data.runtime.checkpoints import default_ckpt, load_models
from data.runtime.errors import run_script
from data.runtime.machine import autocast, default_device, use_device
from sora import InputError


def predictions(models, clips, samples, seed=0, **sampling):
    """The 10 -> 10 test with `samples` seeds on clips, a (video (n,channels,22,H,W), caption): the truth and
    {name: a guess}, (n,channels,10,H,W) each."""
    config, vae, dit, process, _ = models
    total = 0
    for i in range(samples):
        truth, guesses, _ = predict(config, vae, dit, process, len(clips[0]), seed + i, clips, **sampling)
        total = total + guesses["the model"]
        if i == 0:
            first = guesses
    return truth, {"one sample": first["the model"], f"mean of {samples}": total / samples,
                   "the VAE alone": first["the VAE alone"], "last frame again": first["the last frame again"]}


def main(argv=None):
    """Predicts, prints the table and writes it."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--ckpt", default=default_ckpt(), help="checkpoint (out/sora.pt, else the weights that come along)")
    add("--n", type=int, default=128, help="clips (128)")
    add("--samples", type=int, default=8, help="samples of each clip, whose mean is taken (8)")
    add("--seed", type=int, default=0, help="of clips and noise (0)")
    add("--steps", type=int, help="denoising steps (as in the config)")
    add("--mnist-test", metavar="FILE", help="mnist_test_seq.npy: these clips instead of held-out ones of our own")
    add("--out", default="out/prediction.json", metavar="FILE", help="table to write")
    add("--device", default=default_device(), help="cuda or cpu")
    args = parser.parse_args(argv)
    if args.n < 2 or args.samples < 2:
        raise InputError(f"--n {args.n} --samples {args.samples}: expected at least 2 of each")
    use_device(args.device)
    models = load_models(args.ckpt, args.device)
    if args.mnist_test:
        clips = published_clips(args.mnist_test, models.config, args.n)
    else:
        clips = real_clips(replace(models.config, frames=22), "heldout", args.n, args.seed)
    sampling = {"steps": args.steps} if args.steps else {}
    with autocast(args.device):
        truth, guesses = predictions(models, clips, args.samples, args.seed, **sampling)
    table = {}
    for name, guess in guesses.items():
        error = squared_error(truth, guess) * truth[0, :, 0].numel()        # summed over a frame
        table[name] = {"error": interval(error), "ssim": interval(ssim(truth, guess))}
    show(f"{args.n} clips", table)
    write_table(args.out, {"ckpt": args.ckpt, "n": args.n, "seed": args.seed, "prediction": table})
    print(f"\nwrote {args.out}")


if __name__ == "__main__":
    run_script(main)
