"""`python -m gpt1` is the same program as `gpt1`."""

from gpt1.cli.main import end

if __name__ == "__main__":
    end()
