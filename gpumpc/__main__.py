"""`python -m gpumpc` is the console command `gpumpc`."""

from gpumpc.cli.main import app

if __name__ == "__main__":
    app(prog_name="gpumpc")
