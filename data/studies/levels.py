"""At which noise levels does a network learn motion? The preset `tiny`, trained briefly at shifted levels.

    python3 -m data.studies.levels
    python3 -m data.studies.levels --steps 4000 --only "shifted by 2"    longer, beside the recipe

Training draws levels N x sigmoid(normal + shift) (`DDPM.draw_levels` in sora.py). Frames 11 to 20 of held-out clips
are predicted from frames 3 to 10, in `sample_steps` denoising steps, and also in a single one: from nothing but
noise straight to an estimate of the clean frames. (Frames 19 and 20 are in a second window, after the first.) Of a
perfect network the estimate would be the mean of all that may follow, and of many samples that is the mean, too. If the
single step errs much more than their mean, the network was not trained enough near N.
"""
from dataclasses import replace

from data.evaluation.intervals import interval
from data.evaluation.judge import real_clips
from data.evaluation.metrics import squared_error
from data.evaluation.prediction import predictions
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.measure import sample_numbers
from data.studies.study import Study

SHIFTS = {"the recipe, not shifted": 0, "shifted by 1": 1, "shifted by 2": 2}
SAMPLES = 4                                                         # of a clip, for their mean
ONE, MEAN, AT_ONCE = "one sample", f"mean of {SAMPLES}", "a single step"


def errors(models, n):
    """The squared error a frame, summed over pixels, of frames 11 to 20: {metric: (value, low, high)} of n held-out
    clips."""
    clips = real_clips(replace(models.config, frames=22), "heldout", n)
    _, at_once = predictions(models, clips, 1, steps=1)
    truth, guesses = predictions(models, clips, SAMPLES)
    guesses = {ONE: guesses["one sample"], MEAN: guesses[f"mean of {SAMPLES}"], AT_ONCE: at_once["one sample"]}
    pixels = truth[0, :, 0].numel()
    return {name: interval(squared_error(truth, guess) * pixels) for name, guess in guesses.items()}


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("levels", __doc__, argv, steps=400, n=64, runs=SHIFTS)
    n = study.args.n

    def measure(models):
        numbers = sample_numbers(models, study.judge(models.config), n)
        return errors(models, n) | {metric: numbers[metric] for metric in ("legibility", "frechet")}

    for seed in study.args.seeds:
        for label in dict.fromkeys([*SHIFTS][:1] + study.args.only):
            study.run(label, seed, ["--level-shift", SHIFTS[label]], measure)
    study.finish([ONE, MEAN, AT_ONCE, "legibility", "frechet"])
    plots.bars(study, [ONE, AT_ONCE, "legibility"])


if __name__ == "__main__":
    run_script(main)
