"""What a run leaves on disk and shows: folders, files, seeds, metrics, progress, processes."""
