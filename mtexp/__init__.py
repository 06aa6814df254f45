"""mtexp: what several transformer models do to each other on one GPU, measured so that the answer can be trusted."""

__version__ = "0.1.0"
