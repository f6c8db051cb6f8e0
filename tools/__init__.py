"""Scripts that write generated files of this repository; run them from its root with `-m`."""
