"""What every package may use: progress, JSON lines, HTML pages, out-of-memory errors."""
