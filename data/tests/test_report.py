"""The report of a run: the operations of a step, and when it will be done."""
import copy
import re
from dataclasses import replace

import torch

import train
from data.tests.conftest import MINI, SMALL, call, start
from data.training import report


def test_counted_operations_are_those_of_a_step(tmp_path):
    """Against a count by hand of the transformer's matrix products; nothing is drawn or changed."""
    run = start(*SMALL, "--out", tmp_path, "--vae-width", "1", "--patch", "2")
    random, weights = torch.get_rng_state(), copy.deepcopy(run.dit.state_dict())
    flops = report.step_flops(run.config, run.mix, len(run.words))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), run.dit.state_dict().values()))
    assert all(p.grad is None for p in run.dit.parameters())
    L, F, D, B = 4 * 2 * 2, 4, 48, 4                    # 16 frames of 32x32, patches of 16 pixels, 4 clips
    token = 4 * 2 * 2
    once = B * (L * 2 * (12 * D * D + 2 * L * D) + F * 2 * 6 * D * D) * 2                   # two blocks
    once += B * (F * 2 * (256 * D + D * D + 2 * D * D) + L * 2 * 2 * token * D)             # the ends
    once += L * 2 * 64 * D                                                                  # the walls
    no_gradient = B * (F * 2 * 256 * D + L * 2 * token * D) + L * 2 * 64 * D                # of what comes in
    with torch.no_grad():
        encode = report.count_flops(lambda: run.vae.encode(torch.zeros(B, 1, 16, 32, 32)))
    assert flops["dit"] - encode == 3 * once - no_gradient
    twice = report.step_flops(run.config, [(run.mix[0][0], 8)], len(run.words))
    assert 1.99 < twice["dit"] / flops["dit"] <= 2 and twice["vae"] == flops["vae"]


def test_the_report_says_where_training_stands(tmp_path, capsys, monkeypatch):
    """What it is about to do, when it will be done, and whether something slows it down."""
    run = start(*SMALL, "--out", tmp_path, "--vae-steps", "100", "--steps", "50")
    report.begin(run)
    said = capsys.readouterr().out
    assert "float32, because this CPU" in said or "in bfloat16" in said
    parameters = sum(p.numel() for p in run.dit.parameters()) / 1e6
    assert f"transformer: {parameters:.2f} million parameters, 50 steps of 4 clips" in said
    clock = [1000.0]
    monkeypatch.setattr(report.time, "perf_counter", lambda: clock[0])
    run.report.flops, run.report.rate = {"vae": 1e9, "dit": 3e9}, 1e9           # a step should take 1 s
    for run.step in range(1, 40):
        run.report.after_step(run, 100)
        clock[0] += 90 if run.step == 5 else 3                                  # one of them with a preview
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith("VAE: 3 s a step")
    assert re.search(r"it will be done at .*\(in 5 min\), the transformer about at .*\(in 12 min\), and then .* samples",
                     said[0]), f"got {said[0]!r}"
    assert [report.amount(s) for s in (0.21, 720, 9000)] == ["0.21 s", "12 min", "2.5 h"]
    run.stage, run.args.until = "dit", 30
    for run.step in range(1, 40):
        run.report.after_step(run, 50)
        clock[0] += 18.5
    said = capsys.readouterr().out.splitlines()
    slow = "a step takes 18 s, 6 times what its 3 GFLOP should cost here: is"
    assert len(said) == 2 and said[1].startswith(slow)
    assert "samples" not in said[0], "with --until 30 no samples come"
    remedies = {}
    for threads in (1, 2):
        monkeypatch.setattr(report.torch, "get_num_threads", lambda: threads)
        remedies[threads] = run.report.forecast(run, 50, 18.5)[1]
    assert "OMP_NUM_THREADS=1" in remedies[2] and "OMP_NUM" not in remedies[1], f"with one thread: {remedies[1]}"


def test_a_preset_says_what_to_expect_at_its_start_and_end(tmp_path, capsys, monkeypatch):
    """With any seed; but not if another flag makes it a run of its own."""
    config = replace(MINI, vae_steps=1, steps=1, batch=2, vae_batch=2, sample_steps=1)
    monkeypatch.setattr(train, "PRESETS", {"tiny": config})
    monkeypatch.setattr(train, "EXPECTED", {"tiny": "this much"})
    for flags, expected in ((["--seed", 1], True), (["--seed", 1, "--batch", 4], False)):
        call(train.main, *flags, "--device", "cpu", "--out", tmp_path, "--overwrite")
        said = capsys.readouterr().out
        assert ("at the end expect this much" in said) == expected, f"{flags}, at the start: {said}"
        assert ("expected this much; got" in said) == expected, f"{flags}, at the end: {said}"
