"""What the numbers are: referee, metrics, score, long videos, ends."""
