"""The console command, thin."""
