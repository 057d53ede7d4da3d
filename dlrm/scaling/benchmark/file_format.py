"""What benchmark.json says that it is, for those who read it without torch."""

FORMAT, VERSION = "dlrm-benchmark", 2
"""Since version 2: hosts, stages and memory by rank, bytes sent by collective, busy time."""
NAME = "benchmark.json"
CONFIG_NAME = "benchmark.yaml"
