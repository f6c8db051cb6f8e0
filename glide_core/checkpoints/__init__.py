"""Model files: what exists, what a file is, safe loading and saving, conversion, download."""
