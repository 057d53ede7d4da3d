"""Command lines of other trainers as configurations of this one.

What is known of facebookresearch/dlrm's ``torchrec_dlrm/dlrm_main.py`` is as of commit
090956ee2319ddd349a42232958aefccfe3f7b0a (October 2025); of MLPerf's fork of it, mlcommons/training's
``recommendation_v2/torchrec_dlrm/dlrm_main.py``, as of commit aa344c7fb900e82ed19fb94aebfed50c63ab2204 (July 2026).
Defaults and meanings were read there and in torchrec 1.8's data pipes.

Terms: a *flag* is an option of the other trainer; a *setting* is an option here and its value.
"""
