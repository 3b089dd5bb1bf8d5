"""What both servers sign of every job that they run together, and the log that keeps it."""
