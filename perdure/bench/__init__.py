"""`perdure bench`: what this machine does, measured with a real daemon, each figure beside a limit of the same run."""

from perdure.bench.command import bench

__all__ = ["bench"]
