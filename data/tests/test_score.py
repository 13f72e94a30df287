"""The score of a checkpoint, and two of them compared."""
import json
from dataclasses import replace

import pytest
import torch

import sora
from data.evaluation import compare, judge, prediction, score
from data.runtime.checkpoints import load_models
from data.tests.conftest import call, close, complaint, near, spy
from sora import InputError


def test_score_writes_its_tables_and_compare_reads_them(ckpt, few_references, tmp_path, capsys):
    models = load_models(ckpt)
    paths = [tmp_path / "a.score.json", tmp_path / "b.score.json"]
    for path, guidance in zip(paths, (3.0, 1.0)):
        score.score(*models, path, n=12, seed=0, steps=2, guidance=guidance, sampler=None)
    printed = capsys.readouterr().out
    table = json.loads(paths[0].read_text())
    for row in ("training", "held out", "held out, VAE's copy", "samples"):
        columns = {"legibility", "frechet", "kernel distance", "speed", "nearest"}
        missing = columns - table["clips"][row].keys()
        assert row in printed and not missing, f"expected row {row!r} with all metrics, {missing} missing"
    assert "variety" in table["clips"]["held out"], (
        "expected the variety of real clips: 12 captions, 10 words")
    assert "1.000 [1.000, 1.000]" not in printed, "a share of 1.000 has an interval: is it made by `share`?"
    assert {"psnr", "ssim"} <= table["clips"]["held out, VAE's copy"].keys(), "copies are held against clips"
    assert len(table["values"]["samples"]["legibility"]) == 12, "expected a value for each clip in the .json"
    got, expected = set(table["prediction"]), {"the model", "the last frame again", "the VAE alone"}
    assert got == expected, f"rows of the prediction: expected {expected}, got {got}"
    assert (tmp_path / "a.score.nearest.png").exists(), "expected a picture of nearest digits"

    call(compare.main, *paths)
    printed = capsys.readouterr().out
    assert "samples: " in printed, "expected differences of samples: they share captions and noise"
    assert "held out: loss" not in printed, "the loss does not depend on guidance: expected no difference"
    rows = compare.paired(*(compare.read(path) for path in paths))
    got = {(name, metric): cell[0] for name, metric, _, _, cell in rows}
    expected = sum(a - b for a, b in zip(*(json.loads(path.read_text())["values"]["samples"]["speed"]
                                           for path in paths))) / 12
    near(got["samples", "speed"], expected, 1e-6, "the mean of the differences, clip by clip, A - B")
    other = json.loads(paths[1].read_text()) | {"seed": 1}
    with pytest.raises(InputError, match="same --n and --seed"):
        compare.paired(compare.read(paths[0]), other)
    other = json.loads(paths[1].read_text())
    other["data"][0] = 64
    with pytest.raises(InputError, match="of different clips"):
        compare.paired(compare.read(paths[0]), other)
    paths[1].write_text("{}")
    with pytest.raises(InputError, match="score the checkpoint again"):
        call(compare.main, *paths)


def test_samples_do_not_depend_on_how_many_there_are(ckpt):
    config, vae, dit, process, _ = load_models(ckpt)
    caption = torch.arange(1, 5)[:, None]
    many = score.sample_clips(dit, vae, process, config, caption, seed=3, steps=2)
    few = score.sample_clips(dit, vae, process, config, caption[:2], seed=3, steps=2)
    many_more = score.sample_clips(dit, vae, process, config, caption[:1].repeat(65, 1), seed=3, steps=1)
    apart = (many_more[0] - many_more[64]).abs().max().item()
    assert apart > 1e-3, (
        f"expected clip 64 to have other noise than clip 0, but they differ by {apart:.2g} only")
    gap = (many[:2] - few).abs().max().item()
    assert gap < 1e-4, (
        f"expected the same two clips, but they differ by {gap:.2g}: has each clip its own seed?")


def test_losses_are_those_of_the_same_noise(ckpt):
    """Asked twice, a clip has the same loss; the loss of an untrained network, which predicts 0, is the mean
    square of its target, near 1."""
    config, vae, dit, process, _ = load_models(ckpt)
    clips = judge.real_clips(config, "heldout", 24, seed=0)
    first, second = (score.clip_losses(dit, vae, process, config, clips) for _ in range(2))
    assert torch.equal(first, second), "expected the same noise and masks in every call"
    torch.nn.init.zeros_(dit.head.weight)
    torch.nn.init.zeros_(dit.head.bias)
    silent = score.clip_losses(dit, vae, process, config, clips).mean().item()
    near(silent, 1, 0.2,
         "v of normalised latents has variance 1: is the mean taken over unknown frames only?")


def test_a_folder_without_a_referee_says_so(ckpt, tmp_path, capsys):
    config, vae, dit, process, words = load_models(ckpt)
    config = replace(config, digits=3)
    score.score(config, vae, dit, process, words, tmp_path / "c.score.json", n=3, steps=1)
    printed = capsys.readouterr().out
    assert "no referee" in printed and "nearest" in printed, (
        f"expected a note and what needs no referee: {printed}")
    assert "legibility" not in (tmp_path / "c.score.json").read_text(), "three digits cannot be read"


def test_the_future_is_predicted_with_the_steps_of_the_config(ckpt, monkeypatch):
    models = load_models(ckpt)
    config = replace(models.config, sample_steps=3)
    calls = spy(monkeypatch, sora, "generate")
    score.predict(config, *models[1:4], n=2)
    steps = {keywords["steps"] for _, keywords, _ in calls}
    assert steps == {3}, f"expected the 3 steps of the config, got {steps}"


def test_the_mean_of_samples_is_nearer_than_one(ckpt, tmp_path, capsys):
    """By squared error it is, whatever the model; and it is the mean of the samples of these seeds."""
    models = load_models(ckpt)
    clips = judge.real_clips(replace(models.config, frames=22), "heldout", 4)
    truth, guesses = prediction.predictions(models, clips, samples=3, seed=5, steps=2)
    one_by_one = [score.predict(*models[:4], 4, seed, clips, steps=2)[1]["the model"] for seed in (5, 6, 7)]
    assert close(guesses["mean of 3"], sum(one_by_one) / 3), "not the mean of the samples with seeds 5, 6, 7"
    assert close(guesses["one sample"], one_by_one[0]), "not the sample with the first seed"
    assert torch.equal(truth, clips[0][:, :, 10:20]), "the truth is not frames 11 to 20 of the clips"
    call(prediction.main, "--ckpt", ckpt, "--n", 4, "--samples", 2, "--steps", 2, "--out", tmp_path / "p.json")
    table = json.loads((tmp_path / "p.json").read_text())["prediction"]
    mean, single = table["mean of 2"]["error"][0], table["one sample"]["error"][0]
    assert mean < single, f"expected the mean of samples to have a smaller squared error: {mean} against {single}"
    assert "VAE alone" in capsys.readouterr().out, "expected the VAE's copy of the truth in the table"
    assert "at least 2" in complaint(capsys, prediction.main, "--samples", 1), "one sample has no mean of several"
