"""Write contracts/generated/, or with --check say which file of it is not what the contracts say."""

import argparse
import sys

from contracts.generate.files import DIRECTORY, drifted, write


def main() -> None:
    """0, or with --check one line about the first file that drifted."""
    parser = argparse.ArgumentParser(prog="python -m contracts.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something would be written")
    if not parser.parse_args().check:
        write()
    elif name := drifted():
        sys.exit(f"contracts/{DIRECTORY.name}/{name} is not what the contracts say: run `make contracts`")


if __name__ == "__main__":
    main()
