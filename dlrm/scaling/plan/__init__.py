"""What a configuration takes on a cluster that need not be there: the sharding plan, memory, time, money."""
