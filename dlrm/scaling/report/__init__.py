"""The table of an experiment as a page: what was measured, beside what was predicted."""
