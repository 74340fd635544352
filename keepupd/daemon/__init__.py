"""The daemon: look at the world, decide, record, act. Start reading at app.py, then passes.py."""
