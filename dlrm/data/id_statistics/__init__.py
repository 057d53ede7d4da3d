"""How the ids of a feature are spread over its table: what planners and cost models want to know of data.

A *lookup* is one id of one sample. Ids are taken to come in random order, as those of shuffled training do.
"""
