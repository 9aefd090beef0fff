"""Other job queues beside perdure: the same workloads in one run (`make bench-peers`)."""
