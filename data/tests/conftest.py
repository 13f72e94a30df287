"""What the tests share: a miniature checkpoint, trained once, a folder of clips, and small helpers."""
import data  # noqa: F401  first of all: it sets how the threads of torch wait

import contextlib
import csv
import io
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import sample
import train
from data.clips import files
from data.clips.moving_mnist import MovingMNIST, load_digits
from data.clips.reading import open_clip, to_channels, to_float
from data.evaluation import judge
from data.runtime.checkpoints import load_checkpoint
from data.runtime.errors import run_script
from data.training import report

ROOT = Path(__file__).parents[2]
MINI = train.TrainConfig(vae_width=8, dim=48, depth=2, heads=2, latent_channels=4)
NETS = "--vae-width 8 --dim 48 --depth 2 --heads 2 --device cpu".split()
RUN = [*NETS, *("--vae-steps 20 --steps 9 --batch 4 --vae-batch 4 --sample-steps 2 --log-every 4 "
                "--save-every 5").split()]
# rates so high that six steps move the weights; steps: one more than are done, so no pictures are made
SMALL = ("--dim 48 --heads 2 --depth 2 --vae-width 8 --latent-channels 4 --batch 4 --vae-batch 4 "
         "--vae-steps 4 --steps 7 --lr 0.05 --muon 0.5 --vae-lr 0.05 --vae-muon 0.2 --log-every 2 "
         "--device cpu").split()


@pytest.fixture(scope="package", autouse=True)
def threads():
    """As many as OMP_NUM_THREADS says, else two."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def signals():
    """Ctrl-C and a lost terminal are obeyed, also if pytest runs in the background, where they are not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def as_found():
    """Each test begins with seed 0, and leaves SIGTERM as it was: run_script takes it over."""
    torch.manual_seed(0)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def call(main, *args):
    """A script's main() with a command line."""
    return main([str(arg) for arg in args])


def start(*args):
    """A run that train.py would begin with, not trained yet."""
    return train.start(train.parse([str(arg) for arg in args]), train.PRESETS)


def spy(monkeypatch, owner, name):
    """From now on owner.name notes its calls: a list of (args, keywords, result)."""
    calls, real = [], getattr(owner, name)

    def noted(*args, **keywords):
        result = real(*args, **keywords)
        calls.append((args, keywords, result))
        return result
    monkeypatch.setattr(owner, name, noted)
    return calls


def complaint(capsys, main, *args):
    """What a script says about bad input: one line, exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: call(main, *args))
    said = capsys.readouterr().err
    assert ended.value.code == 2, f"{args}: expected exit code 2, got {ended.value.code} with {said!r}"
    lines = [line for line in said.splitlines() if line and not re.search(r"\d+%\|", line)]     # no bars
    assert len(lines) == 1, f"{args}: expected one line, got {len(lines)}: {said!r}"
    return lines[0]


def read_log(out):
    """The lines of a log, as dicts."""
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def close(a, b, atol=1e-5):
    """Whether two tensors are equal but for rounding."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=atol)


def same(a, b):
    """Equal, bit for bit, all the way down."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_run(*outs):
    """Bit for bit the same checkpoint and log, but for the clock and the command line."""
    one, two = (load_checkpoint(out / "sora.pt") for out in outs)
    assert one.keys() == two.keys(), f"checkpoints hold different things: {one.keys() ^ two.keys()}"
    for key in one.keys() - {"seconds", "command"}:
        assert same(one[key], two[key]), (
            f"{key!r} is not the same, bit for bit, as in a run that never stopped: is some state not in the "
            "checkpoint, or not restored?")
    one, two = (read_log(out) for out in outs)
    for row in one + two:
        del row["seconds"]
    assert one == two, f"the logs differ: {[(a, b) for a, b in zip(one, two) if a != b] or (len(one), len(two))}"


def near(got, expected, within, mistake):
    """Fails in words."""
    assert abs(got - expected) <= within, f"expected {expected:.4g} +- {within:.2g}, got {got:.4g}: {mistake}"


@pytest.fixture(scope="package")
def trained(tmp_path_factory):
    """A miniature, trained from end to end by train.py: too short to be good, long enough to be whole."""
    out = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        call(train.main, *RUN, "--out", out)
    (out / "printed.txt").write_text(printed.getvalue())
    return out


@pytest.fixture(scope="package")
def ckpt(trained):
    """The checkpoint of the miniature."""
    return str(trained / "sora.pt")


@pytest.fixture(scope="package")
def steered(trained, tmp_path_factory):
    """A checkpoint of a steered world: the miniature, trained on by the preset's own command."""
    out = tmp_path_factory.mktemp("steered")
    with contextlib.redirect_stdout(io.StringIO()):
        call(train.main, "--preset", "steered", "--init", trained / "sora.pt", "--steps", 2, "--batch", 4,
             "--sample-steps", 2, "--device", "cpu", "--out", out)
    return str(out / "sora.pt")


@pytest.fixture
def quick(monkeypatch):
    """Runs without pictures, report and verdict, which take longer than a miniature's training."""
    monkeypatch.setattr(train, "preview", lambda run: None)
    monkeypatch.setattr(train.score, "pictures", lambda *args, **keywords: (torch.zeros(8, 1, 16, 32, 32), None))
    monkeypatch.setattr(train.score, "verdict", lambda *args, **keywords: "nothing: not measured in this test")
    monkeypatch.setattr(report, "begin", lambda run: None)


def read_clip(path):
    """All frames of a clip in grey, (1,T,H,W) in [-1,1]."""
    return to_float(np.stack([to_channels(frame, 1) for frame in open_clip(path).frames]))


def counting(length, height=32, width=40):
    """Frames (T,H,W,3) whose brightness is their number, red only on the left half: uint8."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames[:, :, :width // 2, 0] = 200
    frames[:, :, :, 1:] = np.arange(length, dtype=np.uint8)[:, None, None, None] * 2
    return frames


@pytest.fixture
def folder(tmp_path):
    """One clip of each kind, each with its caption, and things that are no clips."""
    root = tmp_path / "my clips"
    for caption in ("wave", "jump high", "sit", ".hidden"):
        (root / caption).mkdir(parents=True)
    iio.imwrite(root / "wave" / "one.mp4", counting(40), fps=12, macro_block_size=1)
    iio.imwrite(root / "wave" / "two.gif", counting(30), duration=80, loop=0)
    np.save(root / "jump high" / "three.npy", counting(64))
    (root / "sit" / "four").mkdir()
    for i, frame in enumerate(counting(24)):
        iio.imwrite(root / "sit" / "four" / f"{i:03}.png", frame)
    np.save(root / ".hidden" / "five.npy", counting(64))
    (root / "wave" / "two.txt").write_text("Hop  softly\n")
    (root / "notes.pdf").write_text("not a clip")
    return root


@pytest.fixture
def clip(tmp_path):
    """A file with a real clip of 20 frames, 32x32."""
    digits = MovingMNIST(*load_digits("heldout"), (32, 32), 20, 1, 20)
    files.write_clip(tmp_path / "clip.npy", digits.clips(1, torch.Generator().manual_seed(0))[0])
    return tmp_path / "clip.npy"


@pytest.fixture
def make(trained, tmp_path, monkeypatch, capsys):
    """make(flags) runs sample.py. Returns the video (T,H,W,3) of its file, the latents it decoded,
    how many video frames of these it left out, and what it printed."""
    real, seen = sample.write_video, []

    def watched(vae, latents, skip, *rest):
        def noted():
            for latent in latents:
                parts.append(latent)
                yield latent
        parts = []
        real(vae, noted(), skip, *rest)
        seen.append((torch.cat(parts, dim=2), skip))
    monkeypatch.setattr(sample, "write_video", watched)

    def make(*flags):
        call(sample.main, "--ckpt", trained / "sora.pt", "--out", tmp_path / "x.npy", "--device", "cpu",
             "--scale", 1, *flags)
        latent, skip = seen[-1]
        return SimpleNamespace(video=np.load(tmp_path / "x.npy").astype(int), latent=latent, skip=skip,
                               printed=capsys.readouterr().out)
    return make


def assert_near(got, expected, what):
    """Two videos are the same but for rounding to whole grey levels."""
    assert got.shape == expected.shape, f"{what}: expected shape {expected.shape}, got {got.shape}"
    worst = abs(got - expected).max()
    assert worst <= 1, (
        f"{what}: expected the same frames, got frames that differ by {worst} grey levels of 255")


@pytest.fixture
def few_references(monkeypatch):
    """A judge that is ready at once."""
    monkeypatch.setattr(judge, "REFERENCES", 64)
