"""One module for each queue: its settings, its handler, how to enqueue, how its workers are started."""
