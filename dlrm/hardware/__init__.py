"""What devices and networks can do, and what others measured on them: data with their sources, and what reads them."""
