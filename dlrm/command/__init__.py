"""What a person calls, and how it answers: commands, the check of the installation, leaving after an error."""
