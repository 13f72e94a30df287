"""DDPM or SiT? The same network, VAE and seeds; what differs is the process and what is predicted.

    python3 -m data.studies.process

Measured after a quarter, a half and all of the steps; the learning rate falls to 0 at the last only.
Each is sampled with its first sampler (ancestral, Euler), with the guidance of the config and without.
"""
from data.runtime.errors import run_script
from data.studies import plots
from data.studies.measure import loss_by_level, sample_numbers
from data.studies.study import Study, quarters

RUNS = {"DDPM, v": [],
        "DDPM, eps": ["--prediction", "eps"],
        "DDPM, x0": ["--prediction", "x0"],
        "SiT": ["--process", "sit"]}


def main(argv=None):
    """Trains, measures, draws."""
    study = Study("process", __doc__, argv, steps=600)
    n = study.args.n

    def measure(models):
        judge = study.judge(models.config)
        guided, plain = sample_numbers(models, judge, n), sample_numbers(models, judge, n, guidance=1.0)
        table = loss_by_level(models, 4 * n) | guided
        return table | {f"{metric}, no guidance": cell for metric, cell in plain.items()}

    for seed in study.args.seeds:
        for label, flags in RUNS.items():
            study.run(label, seed, flags, measure, quarters(study.args.steps))
    study.add_held_out(next(iter(RUNS)))
    study.finish(["loss", "legibility", "legibility, no guidance", "frechet", "frechet, no guidance"])
    plots.curves(study, ["loss", "legibility", "legibility, no guidance", "frechet"])


if __name__ == "__main__":
    run_script(main)
