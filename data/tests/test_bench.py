"""The bench takes the same steps as training."""
import torch

from data.studies import bench
from data.tests.conftest import SMALL, same, start
from train import train_dit, train_vae


def test_the_bench_takes_the_steps_of_training(tmp_path, monkeypatch):
    """Two steps of each stage, timed part by part, move the weights as train.py's do, at rates that are the
    same in every step (the bench takes those of half-way)."""
    monkeypatch.setattr("train.update", steady(bench.train.update))
    for stage, train in (("vae", train_vae), ("dit", train_dit)):
        timed, trained = (start(*SMALL, "--vae-steps", 2, "--steps", 2, "--save-every", 99, "--out", tmp_path / name)
                          for name in (f"timed {stage}", f"trained {stage}"))
        watch = bench.Stopwatch("cpu")
        for number in range(2):
            timed.step = number
            bench.step_of(timed, stage)(number, watch.lap)
        trained.out.mkdir()
        trained.stage, trained.probe, trained.preview = stage, lambda run: torch.zeros(()), lambda run: None
        train(trained)
        assert same(getattr(timed, stage).state_dict(), getattr(trained, stage).state_dict()), (
            f"{stage}: two steps of the bench and two of train.py give other weights: it times something else")
        spent = [part for part in bench.PARTS if watch.seconds[part] > 0]
        expected = [part for part in bench.PARTS if part != "encoding" or stage == "dit"]
        assert spent == expected, f"{stage}: expected time spent in {expected}, got {spent}"


def steady(update):
    """train.update with the progress of half-way, whatever the step."""
    def updated(run, net, progress, peaks):
        update(run, net, 0.5, peaks)
    return updated
