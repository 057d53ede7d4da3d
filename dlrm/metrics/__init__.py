"""What a run is judged by: quality of the predictions, samples per second and memory."""
