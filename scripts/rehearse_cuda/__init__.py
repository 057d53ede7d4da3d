"""A rehearsal of CUDA training without a GPU; see docs/rehearsal.md."""
