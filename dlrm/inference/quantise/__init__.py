"""From an export to a smaller one: tables and dense part in fewer bits, and what that costs."""
