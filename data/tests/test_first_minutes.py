"""What a new user meets: notes instead of silence, bars that move, names that are nearly right."""
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import sample
import train
from data.clips import files
from data.runtime import checkpoints, machine
from data.runtime.checkpoints import load_checkpoint, load_models, save_checkpoint
from data.sampling.watch import Progress
from data.tests.conftest import RUN, call, complaint, spy, start
from data.training import growth

train_preview = train.preview                                       # the one that `quick` replaces


# --- where to begin ------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage,step", [("vae", 300), ("dit", 0)])
def test_without_a_transformer_the_shipped_weights_are_taken(trained, tmp_path, monkeypatch, capsys, stage,
                                                             step):
    """Ctrl-C in the first training, then the README's command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    state = load_checkpoint(trained / "sora.pt") | {"stage": stage, "step": step}
    del state["format"]
    save_checkpoint("out/sora.pt", **state)
    got = sample.parse("", []).ckpt
    assert got == str(checkpoints.SHIPPED), f"{stage} {step}: expected the shipped weights, got {got}"
    assert "out/sora.pt has no trained transformer yet" in capsys.readouterr().out
    assert sample.parse("", ["--ckpt", "x.pt"]).ckpt == "x.pt"
    assert not capsys.readouterr().out, "a note about a checkpoint that nobody asked for"
    save_checkpoint("out/sora.pt", **state | {"stage": "dit", "step": 1})
    assert sample.parse("", []).ckpt == "out/sora.pt", "a transformer with steps is the user's own"


def test_the_vae_of_a_run_that_is_not_there_yet(tmp_path, monkeypatch, capsys):
    """--vae out/sora.pt, as in the exercises, before anything was trained. Other names have to exist."""
    monkeypatch.chdir(tmp_path)
    run = start("--vae", "out/sora.pt", "--out", "other", "--device", "cpu")
    assert "no out/sora.pt yet; the VAE that comes along is used" in capsys.readouterr().out
    shipped = load_models(checkpoints.SHIPPED).vae
    assert all(map(torch.equal, run.vae.parameters(), shipped.parameters())), "it is another VAE"
    said = complaint(capsys, train.main, "--vae", "mine.pt", "--out", "other")
    assert "mine.pt: no such checkpoint" in said, f"got {said!r}"


def test_the_last_line_says_what_to_do_next(trained, tmp_path, quick, capsys):
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 1, "--out", tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    ckpt = tmp_path / "sora.pt"
    assert last == (f"wrote {tmp_path / 'samples.gif'} and {ckpt}; try: python3 sample.py --ckpt {ckpt}"), (
        f"got {last!r}")


def test_pictures_and_verdict_have_bars(trained, capsys):
    models = load_models(trained / "sora.pt")
    samples = train.score.pictures(trained / "again.gif", models.config, models.vae, models.process,
                                   models.dit, n=4, progress=True)
    train.score.verdict(models.config, models.vae, *samples, progress=True)
    bars = capsys.readouterr().err
    assert "sampling: 100%" in bars and "copying: 100%" in bars, f"got {bars!r}"


# --- while it trains -----------------------------------------------------------------------------------

def test_previews_do_not_spoil_the_rate(trained, tmp_path, quick, monkeypatch):
    """After each, the clock of the bar goes on from where it was."""
    unpaused = spy(monkeypatch, train.growth.tqdm, "unpause")
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 4, "--save-every", 2, "--out", tmp_path)
    assert len(unpaused) == 2, f"expected one call for each of two previews, got {len(unpaused)}"


def test_previews_are_kept_side_by_side(trained, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(train, "preview", train_preview)
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 6, "--save-every", 2, "--out", tmp_path)
    picture = iio.imread(tmp_path / "growth.png")
    assert picture.shape == (8 * 34, 3 * 34, 3), (
        f"expected a column of 8 clips of 32x32 with gaps for each of three previews, got {picture.shape}")
    call(train.main, "--resume", "--steps", 8, "--out", tmp_path, "--device", "cpu")
    resumed = iio.imread(tmp_path / "growth.png")
    assert resumed.shape == (8 * 34, 4 * 34, 3), f"--resume should add one column, got {resumed.shape}"
    assert np.array_equal(resumed[:, :3 * 34], picture), "--resume changed the previews of before"


def test_many_previews_span_the_whole_run(tmp_path):
    path = tmp_path / "growth.png"
    for i in range(growth.MOST + 1):
        growth.add_preview(path, torch.full((2, 1, 4, 8, 8), i / 50))
    picture = iio.imread(path)
    levels = picture[0, ::10, 0].tolist()
    shown = [*range(0, growth.MOST, 2), growth.MOST]
    expected = [files.to_pixels(torch.full((1, 1, 1, 1), i / 50))[0, 0, 0, 0] for i in shown]
    assert levels == expected, f"expected every second preview and the newest, got {levels}"
    growth.add_preview(path, torch.zeros(2, 1, 4, 16, 16))
    assert iio.imread(path).shape == (36, 18, 3), "a picture of another size should begin anew"


def test_the_losses_are_drawn(trained, tmp_path):
    growth.draw_losses(trained / "log.csv", tmp_path / "log.png")
    assert iio.imread(tmp_path / "log.png").std() > 10, "log.png is empty"
    (tmp_path / "log.csv").write_text((trained / "log.csv").read_text().splitlines()[0] + "\n")
    growth.draw_losses(tmp_path / "log.csv", tmp_path / "log.png")  # of no line: no error


def test_without_matplotlib_there_is_a_note(trained, tmp_path, quick, capsys, monkeypatch):
    def missing(*args):
        raise ImportError("No module named 'matplotlib'")
    monkeypatch.setattr(train, "preview", train_preview)
    monkeypatch.setattr(growth, "draw_losses", missing)
    call(train.main, *RUN, "--vae", trained / "sora.pt", "--steps", 4, "--save-every", 2, "--out", tmp_path)
    said = capsys.readouterr()
    assert (said.out + said.err).count("without matplotlib") == 1, f"expected one note, got {said}"


def test_a_compiler_that_does_not_work_is_one_line(tmp_path, monkeypatch, capsys):
    def broken(model):
        raise RuntimeError("\n".join(["g++: command not found"] * 4000))
    monkeypatch.setattr(torch, "compile", broken)
    run = start(*RUN, "--compile", "--out", tmp_path)
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and "no C++ compiler" in said.out and not said.err, f"got {said}"
    assert run.models["vae"] is run.vae, "expected the networks as they are"
    assert machine.compiles("cpu") is False


def test_a_new_shift_is_not_compiled_anew(tmp_path, monkeypatch):
    """Each step of the VAE may move latents differently. It is compiled before and after that; after it once for
    latents that did not move, and at most once for all others, which may lie in memory in another order."""
    graphs, compiled, after = [], torch.compile, []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward
    monkeypatch.setattr(machine, "compiles", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda f: compiled(f, backend=backend))
    run = start(*RUN, "--compile", "--out", tmp_path)
    video, eps, _ = train.draw_clips(run, 0)
    for shift in ((0, 0), (1, 0), (0, 3), (2, 5), (1, 1), (6, 7)):
        loss, expected = (train.vae_loss(vae, video, eps, 1e-4, shift)[0] for vae in (run.models["vae"], run.vae))
        assert torch.allclose(loss, expected, atol=1e-6), f"shift {shift}: compiled {loss}, as it is {expected}"
        after.append(len(graphs))
    assert after[0] == 2 and after[1] == after[-1] <= 3, f"expected 2 graphs, then 2 or 3 in all, got {after}"
    loss.backward()
    assert run.vae.to_pixels.weight.grad is not None, "what is compiled has to train the weights of run.vae"


# --- while it samples ----------------------------------------------------------------------------------

@pytest.mark.parametrize("sampler,calls", [("ddim", 4), ("heun", 8)])
def test_the_bar_moves_with_denoising_steps(sampler, calls):
    """Of 12 unknown frames, one of four calls finishes 3. It never goes beyond the end, nor back."""
    process = checkpoints.SiT() if sampler == "heun" else checkpoints.DDPM()
    progress = Progress(lambda x, t, caption, positions: x, process, 20, 4, sampler=sampler)
    seen, t = [], torch.tensor([[0.0, 0.5, 0.5, 0.5]])              # the first latent frame is known
    with progress:
        for _ in range(2 * calls):
            progress(torch.zeros(1), t, None, None)
            seen.append(progress.bar.n)
        progress.show(4)
    share = 12 / calls
    expected = [min(share * (i + 1), 20) for i in range(2 * calls)]
    assert seen == pytest.approx(expected), f"expected {expected}, got {seen}"
    assert progress.bar.n == 20, "the bar went back"


@pytest.mark.parametrize("flags,words", [
    (["--size", "48x64"], "48x64 was not trained, only 32x32"),
    (["--prompt", "3 7"], "training clips: 1; in yours: 2"),
    (["--fps", 60, "--out", "x.gif"], "a .gif plays 50 frames a second, not 60"),
    (["--fps", 40, "--out", "x.gif"], "a .gif plays 50 frames a second, not 40"),
    (["--guidance", 2], "--guidance has no effect without --prompt")])
def test_what_is_far_from_training_is_noted(trained, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    call(sample.main, "--ckpt", trained / "sora.pt", "--out", "x.npy", *flags)
    said = capsys.readouterr().out
    assert f"note: " in said and words in said, f"{flags}: expected {words!r}, got {said!r}"
    for usual in (["x.npy", "--fps", 60], ["x.gif", "--fps", 25], ["x.gif"]):
        call(sample.main, "--ckpt", trained / "sora.pt", "--prompt", "3", "--out", *usual)
        assert "note" not in capsys.readouterr().out, f"{usual}: a note where all is as in training"


@pytest.mark.parametrize("N,steps,strength", [(25, 25, 1.0), (25, 40, 1.0), (1000, 2000, 1.0),
                                              (1000, 25, 0.0005)])
def test_more_steps_than_levels(N, steps, strength):
    """No level comes twice: from one to the same, a step is 0/0, and the video black."""
    levels = checkpoints.DDPM(N).schedule(steps, strength).tolist()
    assert levels[0] >= 1 and levels[-1] == 0 and levels == sorted(set(levels), reverse=True), (
        f"{steps} steps of {N} levels from {strength}: expected levels that fall to 0, got {levels}")


# --- the command line ----------------------------------------------------------------------------------

@pytest.mark.parametrize("main,flags,words", [
    ("train", ["--preset", "smal"], "did you mean small?"), ("train", ["--setps", "3"], "mean --steps?"),
    ("train", ["--vae_steps", "3"], "mean --vae-steps?"), ("sample", ["--promt", "3"], "mean --prompt?"),
    ("sample", ["--extnd=a.gif"], "mean --extend?"), ("train", ["--zzzz"], "arguments: --zzzz$"),
    ("train", ["--data", ""], "--data: expected a value, got an empty text"),
    ("train", ["--out", ""], "--out: expected"), ("sample", ["--extend", ""], "--extend: expected a value"),
    ("sample", ["--connect", "a", ""], "--connect: expected"), ("sample", ["--ckpt", ""], "--ckpt: exp"),
    ("sample", ["--device", ""], "--device: expected"), ("sample", ["--size", ""], "--size: expected")])
def test_mistyped_and_empty_flags(capsys, main, flags, words):
    said = complaint(capsys, {"train": train, "sample": sample}[main].main, *flags)
    assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"


@pytest.mark.parametrize("flags,words", [
    ("--dim 8000000", "dim 8000000, depth 2: that would take about .* of memory"),
    ("--depth 1000000000", "depth 1000000000"), ("--vae-width 1000000", "vae_width 1000000"),
    ("--noise-steps 1000000000000", "noise_steps"), ("--batch 1000000000", "batch 1000000000 of 16x32x32"),
    ("--frames 4000000000", "of 4000000000x32x32"), ("--vae-batch 1000000000", "vae_batch 1000000000"),
    (f"--dim {10 ** 400}", "dim 1.*: expected 1 to 1e.08"), ("--lr 1e30", "lr 1e.30: expected 0 to 1e.15"),
    ("--device meta", "device meta: not usable"), ("--device hpu", "device hpu"), ("--device cpu:7", "cpu:7"),
    ("--resume --until 9", "until 9: .* is at step 9 already")])
def test_train_answers_before_memory_is_touched(trained, tmp_path, capsys, quick, flags, words):
    out = trained if "--resume" in flags else tmp_path
    said = complaint(capsys, train.main, *([] if "--resume" in flags else RUN), *flags.split(), "--out", out)
    assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"


@pytest.mark.parametrize("flags,words", [
    ("--scale 10000", "--scale 10000: that would take about .* of memory"), ("--n 100000000", "--n 1000000"),
    ("--steps 1000000000000", "steps 1000000000000"), ("--window 40000000000", "40000000000 frames"),
    ("--size 8000000x8000000", "of 8000000x8000000"), ("--frames 1000000000000", "1000000000000 frames"),
    (f"--frames {10 ** 20} --out x.mp4", f"frames {10 ** 20}: expected .* at most"), (f"--n {10 ** 20}", "at most"),
    ("--loop --frames 10000000000000", "frames of 32x32 at once"), ("--score --n 100000000", "--n 100000000"),
    ("--fps 1e-9", "fps 1e-09: expected 0.01 to 1000"), ("--fps 1e9", "fps"), ("--device meta", "meta")])
def test_sample_answers_before_memory_is_touched(trained, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    said = complaint(capsys, sample.main, "--ckpt", trained / "sora.pt", "--out", "x.gif", *flags.split())
    assert re.search(words, said), f"{flags}: expected {words!r}, got {said!r}"


def test_flags_without_effect_are_named(trained, tmp_path, capsys, monkeypatch):
    for flags, named in (("--process sit --prediction eps", ["--prediction"]), ("--stride 2", ["--stride"]),
                         ("--known 0 --anchors 0.1", ["--anchors"]), ("--process sit", []),
                         ("--anchors 0 --reach 48", ["--reach"]), ("--reach 0 --anchors 0.1", ["--anchors"]),
                         ("--shapes 8x16x16:2 --height 16 --digit-size 12", ["--height"])):
        start("--device", "cpu", *flags.split(), "--out", tmp_path)
        said = re.findall(r"note: (--\S+) has no effect", capsys.readouterr().out)
        assert said == named, f"{flags}: expected notes on {named}, got {said}"
    start("--vae", trained / "sora.pt", "--vae-kl", 1, "--out", tmp_path, "--device", "cpu")
    assert "--vae-kl has no effect: the VAE is another's" in capsys.readouterr().out
    start("--init", trained / "sora.pt", "--vae-steps", 0, "--vae-lr", 1, "--out", tmp_path, "--device", "cpu")
    assert "--vae-lr has no effect: --vae-steps is 0" in capsys.readouterr().out
    args = sample.parse("", ["--score", "--fps", "3", "--prompt", "3", "--no-anchor"])
    assert args.ignored == ["--prompt", "--anchor", "--fps"], f"got {args.ignored}"
    assert sample.parse("", ["--loop", "--fps", "3"]).ignored == []


def test_help_comes_in_groups(capsys):
    for parse, titles in ((train.parse, ["the run", "start from", "networks and noise", "clips and sampling",
                                         "training"]),
                          (lambda argv: sample.parse("", argv), ["what to make", "how"])):
        with pytest.raises(SystemExit):
            parse(["--help"])
        said = capsys.readouterr().out
        for title in titles:
            assert re.search(rf"^{title}.*:$", said, re.M), f"no group {title!r} in {said}"


@pytest.mark.parametrize("name", ["clips/moving_mnist", "evaluation/ends", "studies/packing", "weights/ship"])
def test_modules_run_by_their_path_from_any_folder(tmp_path, name):
    path = Path(train.__file__).parent / "data" / f"{name}.py"
    done = subprocess.run([sys.executable, path, "--help"], cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0 and "usage:" in done.stdout, f"{path} --help from another folder: {done.stderr[-300:]}"
