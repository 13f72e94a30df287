"""Where training clips come from, and how clips are read and written."""
