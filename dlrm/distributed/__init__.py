"""Process group, rank and device facts, and the few collectives used outside of torchrec."""
