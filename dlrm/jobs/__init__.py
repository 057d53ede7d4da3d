"""Jobs that commands start and look after, on this host or through torchx: those of ``scale`` and ``study``."""
