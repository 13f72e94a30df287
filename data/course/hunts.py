"""Mistakes to hunt: each really shipped in a public project, or survived in this one for a while.

A student gets a copy with one of them and is not told which. For the staff: how each shows, and the
measurement (measurements.py) that tells it for certain.
"""
import shutil
from pathlib import Path
from typing import NamedTuple

from data.course.blanks import module_of, without_marks
from data.course.copies import copy_to, new_folder
from data.course.grading import in_process
from data.course.measurements import MEASUREMENTS
from sora import InputError

LIMIT = 120                                                         # seconds a measurement may take


class Hunt(NamedTuple):
    """In `file`, `old`, which stands there once, becomes `new`; measure: the name of what is then off."""
    title: str
    file: str
    old: str
    new: str
    measure: str
    symptom: str


HUNTS = {
    1: Hunt("guidance on some channels only (DiT, and two projects after it)", "sora.py",
            "        return without + scale * (with_caption - without)\n",
            "        mixed = without[:, :3] + scale * (with_caption - without)[:, :3]\n"
            "        return torch.cat([mixed, with_caption[:, 3:]], dim=1)\n",
            "guidance: its least effect on a channel, by the greatest",
            "Training and its log are untouched. Samples obey captions less and hardly improve with "
            "--guidance."),
    2: Hunt("t in [0,1] fed to a sinusoid made for 1000 (SiT)", "sora.py",
            "sinusoid(1000 * t, 256, max_period=10000)", "sinusoid(t, 256, max_period=10000)",
            "levels: how far 0.3 and 0.4 are apart for the network",
            "The loss falls, more slowly, most at the ends of the scale of levels; samples are "
            "blurred or grainy."),
    3: Hunt("noise at the last step (labml)", "sora.py",
            "return mean, (1 - alpha) * share", "return mean, 1 - alpha",
            "ancestral: noise left after the last step",
            "The log is perfect. Samples have grain that --sampler ddim does not have; Frechet "
            "distance suffers."),
    4: Hunt("a level declared, but no noise added", "sora.py",
            "x = process.q_sample(latent, levels[0], x)", "x = latent",
            "strength: noise at the start, by the noise that is declared",
            "Only `sample.py --edit` is wrong: edits are washed out and lose strokes, the more the "
            "higher --strength."),
    5: Hunt("the latent's scale forgotten at decoding", "sora.py",
            "x = (latent * self.std + self.mean)", "x = (latent + self.mean)",
            "VAE: decibels that copies lose by normalised latents",
            "The VAE's log is perfect, for there mean and deviation are still 0 and 1. The verdict's "
            "dB is lower than it promises, and samples have wrong contrast, although the "
            "transformer's loss is good."),
    6: Hunt("alpha_bar off by one", "sora.py",
            "torch.cat([torch.ones(1), (1 - betas).cumprod(0)])",
            "torch.cat([(1 - betas).cumprod(0), torch.zeros(1)])",
            "level 0: how far q_sample moves the data",
            "Hardly a symptom. Known frames are shown with a little noise in training and clean in "
            "sampling; the last step stops short of the data."),
    7: Hunt("averaged weights never used when sampling", "data/runtime/checkpoints.py",
            'load_weights(dit, state["ema"], path)', 'load_weights(dit, state["dit"], path)',
            "sampling: share of weights that are the averaged ones",
            "Pictures of train.py are better than those of sample.py from the same checkpoint, most "
            "early in training."),
    8: Hunt("loss over known frames", "sora.py",
            "return (error * ~known).sum() / count, error", "return error.mean(), error",
            "the loss, by the mean error of unknown frames",
            "In the log `loss` is above the mean of its levels, weighted as drawn. Half of the network's "
            "effort goes to frames that nobody asks for; text to video is hardly worse, continuations are."),
    9: Hunt("training digits in the test set", "data/clips/moving_mnist.py",
            'return shipped[f"{split}_images"], shipped[f"{split}_labels"]',
            'return shipped["train_images"], shipped["train_labels"]',
            "held-out digits that are training digits",
            "Nothing looks wrong. In `--score` the rows `training` and `held out` are suspiciously alike."),
}


def changed(text, hunt):
    """The text of a hunt's file with the mistake. ValueError if it no longer fits."""
    times = text.count(hunt.old)
    if times != 1:
        raise ValueError(f"{hunt.file}: {hunt.old!r} stands {times} times in it, expected once: change "
                         "the hunt along with the file")
    return text.replace(hunt.old, hunt.new)


def make(name, number):
    """Writes a copy with a mistake into a new folder. It has no blanks, and neither graders nor marks:
    with these, `grade` would name the mistake, and end the hunt."""
    if number not in HUNTS:
        raise InputError(f"hunt {number}: expected 1 to {len(HUNTS)}")
    hunt, folder = HUNTS[number], copy_to(new_folder(name))
    path = folder / hunt.file
    path.write_text(changed(path.read_text(encoding="utf-8"), hunt), encoding="utf-8")
    sora = folder / "sora.py"
    sora.write_text(without_marks(sora.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(folder / "data" / "course")


def loader(root, texts=None):
    """load(file): a module from the text of a file below `root`. texts: {file: another text}."""
    def load(file):
        path = Path(root) / file
        text = (texts or {}).get(file) or path.read_text(encoding="utf-8")
        return module_of(text, path.stem, path)
    return load


def measure(name, load):
    """One measurement: (value, what was expected, in words, whether it is that)."""
    function, low, high = MEASUREMENTS[name]
    value = function(load)
    return value, f"{low:g} to {high:g}", low <= value <= high


def expose(name, limit=LIMIT):
    """All measurements of a copy, each in a process of its own, because a student has changed the code:
    (name, value in words, expected, whether it is fine), one after the other."""
    if not (Path(name) / "sora.py").is_file():
        raise InputError(f"{name}/sora.py: no such file; expected a folder that `hunt` wrote")
    for title, (_, low, high) in MEASUREMENTS.items():
        result, problem, _ = in_process(try_to_measure, (title, name), limit)
        value, fine = result or (problem, False)
        yield title, value, f"{low:g} to {high:g}", fine


def try_to_measure(title, folder):
    """In the other process: (the value in words, or what the copy's code raised; whether it is fine)."""
    try:
        value, _, fine = measure(title, loader(folder))
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {str(error)[:80]!r}", False
    return f"{value:.4g}", fine
