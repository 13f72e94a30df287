"""Every study in miniature: it runs to its end, goes on where it was, and draws."""
import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

import train
from data.evaluation import judge as judging
from data.runtime.checkpoints import load_checkpoint, load_models, save_checkpoint
from data.studies import (compressor, framing, learning, levels, measure, packing, plots, recipe, scaling, study)
from data.tests.conftest import call
from data.training import start as starting
from sora import DDPM, DiT, InputError

TINY = ("--frames 8 --batch 2 --dim 16 --depth 1 --heads 1 --sample-steps 1 --vae-batch 2 "
        "--vae-steps 1").split()
ANY = dict(dim=192, depth=6, heads=6, patch=1, process="ddpm", prediction="v", latent_channels=8,
           vae_width=64, anchors=0, known=0, caption_drop=0,
           caption_drop_known=0)                                    # a judge does not look at them


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch, quick):
    """Tables and pictures go to a folder of the test; a judge of few clips; runs without pictures."""
    monkeypatch.setattr(study, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(plots, "PICTURES", tmp_path)
    monkeypatch.setattr(judging, "REFERENCES", 64)
    monkeypatch.setattr(study, "Judge", lambda config: framing.judge_of(replace(config, **ANY)))


def short(ckpt, tmp_path, steps=4, seeds=("0",), n=4):
    """The flags of a miniature study."""
    given = ["--out", str(tmp_path / "runs"), "--steps", str(steps), "--n", str(n), "--seeds", *seeds, *TINY]
    return given + (["--ckpt", ckpt] if ckpt else [])


def table(tmp_path, name):
    with (tmp_path / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def runs_of(rows):
    return {row["run"] for row in rows} - {plots.HELD_OUT}


def test_a_study_goes_on_where_it_was(ckpt, tmp_path, monkeypatch):
    """Stopped in the middle of its second run, and at its second measurement."""
    trained, real_train = [], train.main
    stop_training, stop_measuring = [2], [3]

    def train_main(argv):
        trained.append(argv)
        if len(trained) in stop_training:
            with pytest.raises(SystemExit):                         # what a signal does after a step
                real_train([*argv, "--until", "1"])
            raise KeyboardInterrupt
        return real_train(argv)

    measured, real_load = [], study.load_models

    def load(*args):
        measured.append(args)
        if len(measured) in stop_measuring:
            raise KeyboardInterrupt
        return real_load(*args)

    monkeypatch.setattr(train, "main", train_main)
    monkeypatch.setattr(study, "load_models", load)
    flags = [*short(ckpt, tmp_path), "--only", "SiT", "guidance 1"]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            recipe.main(flags)
    assert len(trained) == 3 and "--resume" in trained[2], \
        f"expected 3 trainings, the last one a resumed one, got {trained}: what is trained is not trained again"
    recipe.main(flags)
    first = table(tmp_path, "recipe")
    assert len(trained) == 3 and runs_of(first) == {recipe.RECIPE, "SiT", "guidance 1"}
    recipe.main(flags)
    assert len(trained) == 3 and table(tmp_path, "recipe") == first, "a finished study does nothing again"
    with pytest.raises(InputError, match="begun with other flags"):
        recipe.main([*flags, "--anchors", "0"])
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    recipe.main(flags)
    assert table(tmp_path, "recipe") == first, "stopped or not, the numbers are the same"


def test_scaling_trains_widths_patches_and_two_more_rates(ckpt, tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "WIDTHS", (8, 16))
    monkeypatch.setattr(scaling, "FACTORS", (2,))
    scaling.main(short(ckpt, tmp_path, steps=1))
    rows = table(tmp_path, "scaling")
    assert len(runs_of(rows)) == 2 * 2 + 2, "widths x patches, and other rates at both ends"
    flops = {row["run"]: float(row["value"]) for row in rows if row["metric"] == "flops"}
    folder = next((tmp_path / "runs").glob("width-8-patch-1-s*"))
    clip = measure.flops_of_a_clip(load_models(folder / "sora.pt").config)
    assert flops["width 8, patch 1"] == pytest.approx(clip * 2 * 1, rel=1e-4), "a clip's, x batch x steps"
    assert flops["width 8, patch 1, rates x 2"] == flops["width 8, patch 1"] < flops["width 16, patch 1"]
    assert (tmp_path / "scaling.png").exists() and (tmp_path / "growth.gif").exists()


def test_smoothness_and_noise_of_latents():
    """With a VAE that copies pixels: what is measured can be worked out by hand."""
    class Copy:
        encode = decode = staticmethod(lambda x: x)
    white = torch.randn(64, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    assert compressor.smoothness(Copy, white).mean() == pytest.approx(1, rel=0.02), \
        "neighbours of white noise are independent: a pixel further on, the latent is another one, distance 1"
    rows = torch.arange(16.0)[:, None].expand(64, 1, 8, 16, 16)
    assert compressor.smoothness(Copy, rows).max() == 0, "moved to the right, rows of one value stay what they are"
    assert compressor.lost_to_noise(Copy, white, 0.3).mean() == pytest.approx(0.3 ** 2 / 4, rel=0.02), \
        "noise of deviation 0.3 costs 0.09 in the range [-1,1], a quarter of that in the pixel range 1"


def test_the_compressor_trains_a_vae_for_each_run_the_last_of_single_frames(tmp_path, monkeypatch):
    runs = {label: [*flags, "--vae-width", 8] for label, flags in compressor.RUNS.items()}
    monkeypatch.setattr(compressor, "RUNS", runs)
    compressor.main([*short(None, tmp_path, steps=1)])
    rows = table(tmp_path, "compressor")
    assert runs_of(rows) == set(compressor.RUNS)
    assert {"psnr", "smooth", "noise", "legibility", "frechet"} <= {row["metric"] for row in rows}
    saved = next((tmp_path / "runs").glob("per-frame*")) / "sora.pt"
    with pytest.raises(InputError, match="do not fit"):             # it is another network than VideoVAE
        load_models(saved)
    assert (tmp_path / "compressor.png").exists()


def test_packing_is_timed_in_turns_and_padding_counts_as_useless(ckpt, tmp_path, capsys):
    packing.main(short(ckpt, tmp_path, steps=1, seeds=("0", "1")))
    assert "over 2 seeds" in capsys.readouterr().out, "the spread over seeds is printed"
    assert {row["seed"] for row in table(tmp_path, "packing")} == {"0", "1"}, "a turn for each"
    rows = {(row["run"], row["metric"]): float(row["value"]) for row in table(tmp_path, "packing")}
    assert rows[packing.PACKED, "tokens a step"] == 2208 and rows[packing.EQUAL, "tokens a step"] == 2240
    assert rows[packing.PADDED, "share that is useful"] == pytest.approx(2208 / (44 * 4 * 4 * 6))
    assert rows[packing.PACKED, "share that is useful"] == 1
    assert min(value for (_, metric), value in rows.items() if "second" in metric) > 0
    assert (tmp_path / "packing.png").exists()


def test_framing_trains_both_and_measures_each_shape(ckpt, tmp_path, monkeypatch):
    monkeypatch.setattr(framing, "SEEN", ((8, 32, 32), (8, 32, 48)))
    monkeypatch.setattr(framing, "UNSEEN", ((12, 32, 32),))
    monkeypatch.setitem(framing.SHAPES, framing.PACKED, "8x32x32:1 8x32x48:1 1x32x32:1")
    monkeypatch.setattr(framing, "CROPPED", "8x32x32:1 8x32x48:1 1x32x32:1")
    framing.main(short(ckpt, tmp_path, steps=1))
    rows = table(tmp_path, "framing")
    assert {row["run"] for row in rows} == {framing.NATIVE, framing.SQUARE, plots.HELD_OUT}
    assert {row["metric"] for row in rows} == {f"{shape}, {metric}" for metric in framing.METRICS
                                               for shape in ("8x32x32", "8x32x48", "12x32x32")}
    assert (tmp_path / "framing.png").exists() and (tmp_path / "framing-clips.gif").exists()


def test_the_recipe_changes_one_thing_at_a_time(ckpt, tmp_path):
    recipe.main([*short(ckpt, tmp_path, steps=4), "--lr", "0.1"])  # so that few steps move a gain
    rows = table(tmp_path, "recipe")
    assert runs_of(rows) == set(recipe.CHANGES)
    weights = {}
    for run, change in recipe.CHANGES.items():
        folder = tmp_path / "runs" / f"{run.replace(' ', '-').replace(',', '')}-steps4-seed0"
        assert (folder / "sora.pt").exists() != bool(change.sampling), f"{run}: sampled differently, or trained"
        if not change.sampling:
            weights[run] = torch.load(folder / "sora.pt")["dit"]
    heads = {study.fingerprint({"head": state["head.weight"]}) for state in weights.values()}
    assert len(heads) == len(weights), f"{len(weights)} changes, {len(heads)} results: one changes nothing"
    gain = "blocks.0.attention.gain"
    assert (weights["no gain"][gain] == 1).all(), "without a gain: 1, and not trained"
    assert (weights[recipe.RECIPE][gain] != 2).all(), "the recipe trains it"
    late = {row["run"] for row in rows if row["metric"] == recipe.LATE}
    assert late == {recipe.RECIPE, "no anchors"}, "long clips are for those that differ in what they remember"
    assert (tmp_path / "recipe.png").exists()


def test_without_walls_all_tokens_are_told_the_same():
    config = train.TrainConfig(dim=48, depth=1, heads=2, latent_channels=4)
    model = recipe.NoWalls(config, 10)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    told = []
    model.embed_walls.register_forward_pre_hook(lambda layer, inputs: told.append(inputs[0]))
    model(torch.randn(1, 4, 2, 4, 4), torch.rand(1, 2), torch.ones(1, 1).long())
    assert (told[0] == told[0][0]).all(), "no walls: expected all tokens to be told the same distances"


def test_nothing_of_a_change_is_left_behind(ckpt):
    assert starting.DiT is DiT and DDPM.draw_levels is not recipe.uniform_levels


def test_levels_are_shifted_and_motion_is_measured(ckpt, tmp_path):
    """The error of the single step is that of predictions with one step; of the others, with those of the config."""
    levels.main([*short(ckpt, tmp_path, steps=2), "--only", "shifted by 2"])
    rows = table(tmp_path, "levels")
    assert runs_of(rows) == {"the recipe, not shifted", "shifted by 2"}
    metrics = {row["metric"] for row in rows}
    assert {levels.ONE, levels.MEAN, levels.AT_ONCE, "legibility"} <= metrics, f"missing numbers, got {metrics}"
    for name, shift in (("the-recipe-not-shifted", 0), ("shifted-by-2", 2)):
        models = load_models(tmp_path / "runs" / f"{name}-steps2-seed0" / "sora.pt")
        got = models.process.level_shift
        assert got == shift, f"{name}: expected a process with shift {shift}, got {got}"
    torch.manual_seed(0)
    models.dit.load_state_dict({name: torch.randn_like(x) / 9 for name, x in models.dit.state_dict().items()})
    errors = {}
    for steps in (1, 4):
        errors[steps] = levels.errors(models._replace(config=replace(models.config, sample_steps=steps)), 4)
    assert errors[1][levels.AT_ONCE] == errors[4][levels.AT_ONCE], "a single step, whatever the config says"
    assert errors[4][levels.ONE] != errors[4][levels.AT_ONCE], "one sample takes all steps of the config"
    assert errors[1][levels.ONE] == errors[1][levels.AT_ONCE], "which may be a single one"
    assert errors[4][levels.MEAN] != errors[4][levels.ONE], "the mean of several samples is not one of them"


def test_flags_that_cannot_be_are_refused(tmp_path, ckpt):
    for flags, words in ((["--n", "3"], "4 clips"), (["--steps", "0"], "1 step")):
        with pytest.raises(InputError, match=words):
            recipe.main(["--ckpt", ckpt, *flags])
    with pytest.raises(SystemExit):
        recipe.main(["--ckpt", ckpt, "--no-such-flag"])


def test_checkpoints_of_a_run_are_put_in_order_and_drawn(ckpt, tmp_path, few_references, capsys):
    """FLOPs are counted for a clip, times the clips of a step, times the steps."""
    state = load_checkpoint(ckpt)
    for step in (400, 100, 200):
        save_checkpoint(tmp_path / f"at{step}.pt", **state | {"step": step})
    call(learning.main, *(tmp_path / f"at{step}.pt" for step in (400, 100, 200)), "--n", 4)
    rows = table(tmp_path, "learning")
    steps = [int(row["step"]) for row in rows if row["metric"] == "legibility"]
    assert steps == [100, 200, 400], f"expected checkpoints in the order of their steps, got {steps}"
    flops = 400 * state["config"]["batch"] * measure.flops_of_a_clip(load_models(ckpt).config)
    assert abs(float(rows[-1]["FLOPs"]) / flops - 1) < 1e-3, f"expected {flops:.4g} FLOPs, got {rows[-1]['FLOPs']}"
    assert (tmp_path / "learning.png").stat().st_size > 10_000, "the plot is written"


def test_the_guess_is_a_line_in_log_odds():
    """Points that lie on such a line are met, and so is one that was left out."""
    flops = np.array([1e12, 1e13, 1e14, 1e15])
    legible = 1 / (1 + np.exp(-np.log(flops / 3e13)))
    xs, ys = learning.extrapolated(flops[:3], legible[:3], until=1e15)
    got = ys[-1]
    assert abs(xs[-1] / 1e15 - 1) < 1e-9 and abs(got - legible[-1]) < 1e-6, f"expected {legible[-1]:.4f}, got {got:.4f}"
