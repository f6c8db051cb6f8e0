"""The subcommands of `glide`, one file each; `glide_core.cli` puts them together."""
