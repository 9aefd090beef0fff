"""What the benchmarks leave in the repository: results, the page that is made of them, and the comparison with peers.

What measures perdure itself is in perdure/bench.
"""
