"""What a model looks up of the ids of a sample: which rows of which tables, and what of that makes a feature's vector.

The data's schema says that a feature has ids 0 .. rows - 1. A *lookup* makes rows of a table of these ids by a *rule*. A
feature has one lookup or two, and several features may share a table. To all that holds tables the lookups are the features
of a schema of their own, :attr:`~dlrm.lookups.plan.Lookups.schema`.
"""
