"""What answers cost on this machine: throughput bounded by latency, and what models that share a machine cost each other.

A *point* is a combination of factors: batch rows, threads, models, rows of a request, how they are given, CPUs. Its runs
are

- *closed*: so many clients, each of which asks again as soon as it was answered: what the machine can do;
- *open*: requests arrive by a Poisson process, whether those before were answered or not. A latency counts from the moment
  at which the request was due, so that nothing is left out while all wait (no coordinated omission).

The *bounded rate* of a point is the highest rate of arrivals of which 99 % are answered within the bound.
"""
