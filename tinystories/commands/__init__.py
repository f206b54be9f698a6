"""The verbs of the command line, one module each: `add_arguments(parser)` declares the options, `run(options)` calls
the library, prints, and returns the exit status (None for 0), and `EXAMPLES` are the commands that `--help` shows."""
