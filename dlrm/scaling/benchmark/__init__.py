"""How fast a configuration trains on this machine, and where the time of a step goes."""
