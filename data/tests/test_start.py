"""How a run begins: new, from another's weights or VAE, and with which optimizers."""
import imageio.v3 as iio
import numpy as np
import pytest

import sample
import sora
import train
from data.runtime.checkpoints import load_checkpoint
from data.runtime.config import check
from data.tests.conftest import NETS, RUN, call, read_log, same, start


def test_vae_is_shared_and_weights_are_taken_over(trained, tmp_path, quick):
    ours = load_checkpoint(trained / "sora.pt")
    call(train.main, *RUN, "--out", tmp_path / "sit", "--vae", trained / "sora.pt", "--process", "sit",
         "--seed", 5)
    theirs = load_checkpoint(tmp_path / "sit" / "sora.pt")
    assert same(ours["vae"], theirs["vae"]), (
        "--vae: the VAE or its statistics are not those of the other checkpoint")
    assert not same(ours["dit"], theirs["dit"]), "--vae: the transformer should be a new one"
    stages = {row["stage"] for row in read_log(tmp_path / "sit")}
    assert stages == {"dit"}, f"--vae: expected only stage 2 to be trained, got {stages}"
    call(sample.main, "--ckpt", tmp_path / "sit" / "sora.pt", "--out", tmp_path / "x.gif",
         "--sampler", "heun", "--steps", 2)
    assert len(iio.imread(tmp_path / "x.gif", index=None)) == 16, "a SiT made with --vae cannot be sampled"
    args = ["--init", trained / "sora.pt", "--vae-steps", 0, "--steps", 2, "--out"]
    run = start(*args, tmp_path / "other")
    assert (run.stage, run.step) == ("dit", 0), (
        f"--init: expected to start at dit 0, got {run.stage} {run.step}")
    for name in ("vae", "dit", "ema"):
        assert same(ours[name], getattr(run, name).state_dict()), f"--init: {name} is not the checkpoint's"
    assert not run.optimizers["dit"][0].state, "--init: the optimizers should be new"
    call(train.main, *args, tmp_path / "more")
    more = load_checkpoint(tmp_path / "more" / "sora.pt")
    assert same(ours["vae"], more["vae"]), "--init --vae-steps 0: the VAE should stay as it is"
    assert not same(ours["dit"], more["dit"]) and more["step"] == 2, "--init: the transformer was not trained"
    run = start("--init", trained / "sora.pt", "--out", tmp_path / "y")
    assert run.stage == "vae", "--init without --vae-steps 0: both stages are trained on"


def test_a_new_run_begins_with_an_empty_log(trained, tmp_path, quick):
    """--overwrite: nothing of the lost run is left, not even with a borrowed VAE."""
    call(train.main, *RUN, "--vae-steps", 2, "--steps", 1, "--out", tmp_path)
    call(train.main, *RUN, "--steps", 1, "--vae", trained / "sora.pt", "--overwrite", "--out", tmp_path)
    lines = [row["stage"] + row["step"] for row in read_log(tmp_path)]
    assert lines == ["dit1"], (
        f"expected a log of the new run only, ['dit1'], got {lines}: lines of stage 1 of the run that was "
        "overwritten are kept, since a new run with --vae begins in stage 2")


@pytest.mark.parametrize("stage,muon,rest", [("vae", "vae_muon", "vae_lr"), ("dit", "muon", "lr")])
def test_every_parameter_has_one_optimizer(tmp_path, stage, muon, rest):
    run = start(*NETS, "--out", tmp_path)
    net, (adam, by_muon) = getattr(run, stage), run.optimizers[stage]
    ids = lambda parameters: sorted(map(id, parameters))
    of = lambda optimizer: [p for group in optimizer.param_groups for p in group["params"]]
    assert isinstance(by_muon, sora.Muon), f"expected AdamW and Muon, got {run.optimizers[stage]}"
    assert ids(of(by_muon)) == ids(net.muon_parameters()), "Muon should own exactly net.muon_parameters()"
    assert ids(of(adam) + of(by_muon)) == ids(net.parameters()), (
        "every parameter should be with one optimizer: some have none, or two")
    decays = {group["weight_decay"] for group in adam.param_groups}
    assert decays == {0.0}, f"AdamW: expected no weight decay, got {decays}"
    assert {group["betas"] for group in adam.param_groups} == {(0.9, 0.99)}, "AdamW: expected betas 0.9, 0.99"
    run = start(*NETS, f"--{muon.replace('_', '-')}", 0, "--out", tmp_path / "without")
    alone, *more = run.optimizers[stage]
    assert not more and ids(of(alone)) == ids(getattr(run, stage).parameters()), (
        f"--{muon.replace('_', '-')} 0: expected AdamW alone, owning everything")


def test_peak_rates_reach_their_optimizers(trained, tmp_path, quick, monkeypatch):
    """Each flag is the peak of its own optimizer: step 1 is at 1/50 of the peak."""
    rates, real = {}, train.update

    def watched(run, *args):
        real(run, *args)
        rates.setdefault(run.stage, [o.param_groups[0]["lr"] for o in run.optimizers[run.stage]])
    monkeypatch.setattr(train, "update", watched)
    call(train.main, *NETS, *"--vae-steps 1 --steps 1 --batch 1 --vae-batch 1 --vae-lr 1 --vae-muon 2 --lr 3 "
         "--muon 4".split(), "--out", tmp_path)
    expected = {"vae": [0.02, 0.04], "dit": [0.06, 0.08]}
    assert rates == expected, f"expected rates {expected} (AdamW, Muon) in step 1, got {rates}"


def test_a_folder_becomes_a_video_in_two_commands(folder, tmp_path, quick):
    out = tmp_path / "out"
    call(train.main, *RUN, "--data", folder, "--heldout", "one", "--channels", 3, "--reach", 48, "--out", out)
    state = load_checkpoint(out / "sora.pt")
    assert state["config"]["reach"] == 4, (
        f"16 frames in a clip of 30 leave 7 on either side: expected reach 4, got {state['config']['reach']}")
    call(sample.main, "--ckpt", out / "sora.pt", "--prompt", "jump high", "--scale", 1, "--out",
         out / "jump.npy")
    shape = np.load(out / "jump.npy").shape
    assert shape == (16, 32, 32, 3), f"expected a clip of 16 frames of 32x32, got {shape}"
    call(sample.main, "--ckpt", out / "sora.pt", "--extend", folder / "wave" / "one.mp4", "--prompt", "wave",
         "--size", "32x32", "--resize", "--frames", 48, "--scale", 1, "--out", out / "more.npy")
    shape = np.load(out / "more.npy").shape
    assert shape == (48, 32, 32, 3), f"expected 48 frames of 32x32, got {shape}"


def test_presets_can_be_made():
    """Each passes the check, and a digit fits on its canvas."""
    for name, preset in train.PRESETS.items():
        check(preset)
        assert preset.digit_size <= min(preset.height, preset.width), f"{name}: digits larger than the canvas"
        assert preset.dim % (2 * preset.heads) == 0, f"{name}: heads do not divide dim"
