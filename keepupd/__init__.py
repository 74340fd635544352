"""keepupd: keep-up processing for high-energy-physics production. Start reading at keepupd/daemon/app.py."""

__version__ = "0.1.0"
