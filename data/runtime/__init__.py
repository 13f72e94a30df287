"""What the scripts share: configs and their check, the machine, checkpoints, errors in one line."""
