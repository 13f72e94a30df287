"""What surrounds sora.py: runtime, clips, evaluation, studies, weights. Import it before torch."""
import os

# Threads that wait for each other spin by default. Where another process wants the core, every step
# then takes several times as long; let them sleep. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
