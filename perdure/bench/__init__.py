"""`perdure bench`: what this machine does, measured with a real daemon, each figure beside a limit of the same run.

Nothing is imported here: the handlers of the benchmarks lie in this package, and workers carry all that it imports.
"""
