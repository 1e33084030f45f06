"""What knows nothing of models: hashes, JSON lines, HTML, windows of ids, settings, ranges, progress, memory errors."""
