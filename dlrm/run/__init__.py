"""What a run leaves behind: its folder, its records, what a person sees, the report and the log."""
