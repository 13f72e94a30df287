"""A world to play in: a video that goes on as its keys say, and its player in a terminal."""
