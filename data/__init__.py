"""What surrounds sora.py: clips, training, sampling, evaluation, studies, weights. Import it before torch."""
import os
import sys

# A thread that waits for another spins, by default so long that on shared cores every step takes
# several times as long. To sleep at once costs a quarter to a half on quiet ones. 1,000 turns are a fair middle
# (python3 -m data.studies.bench --waiting). GNU's OpenMP reads this when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def say_stopped(kind, error, trace, usual=sys.excepthook):
    """Ctrl-C while torch is imported, which takes seconds: a line, not a traceback. All else is said as usual."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{os.path.basename(sys.argv[0])}: stopped", file=sys.stderr)
    else:
        usual(kind, error, trace)


sys.excepthook = say_stopped
