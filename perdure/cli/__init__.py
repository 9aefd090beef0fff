"""The command line. Importing this package imports nothing else: `perdure enqueue` is run in shell loops."""
