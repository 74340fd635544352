"""The memory of keepupd: tables, the reads, and apply(), the one way a state changes."""
