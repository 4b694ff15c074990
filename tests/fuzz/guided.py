"""`make fuzz-parsers MINUTES=2`: each parser for so long, with inputs that atheris finds by the branches they reach.

Each runs in a process of its own, which libFuzzer ends; what broke a parser is printed.
"""

import argparse
import re
import subprocess
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["broker"]):
    from tests.fuzz.parsers import PARSERS, parse


def _fuzz(name: str, seconds: float) -> None:
    flags = [f"-max_total_time={max(1, int(seconds))}", "-timeout=5", "-rss_limit_mb=2048", "-max_len=4096"]
    flags += [f"-artifact_prefix={tempfile.gettempdir()}/"]

    def one(data: bytes) -> None:
        parse(name, data)

    atheris.Setup([sys.argv[0], *flags], one)
    atheris.Fuzz()


def main() -> int:
    """Each parser for so long; 1 where one broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.25, help="for each parser")
    parser.add_argument("--only", choices=PARSERS, help="this one alone, in this process")
    given = parser.parse_args()
    if given.only:
        _fuzz(given.only, given.minutes * 60)
    broken = 0
    for name in PARSERS:
        command = [sys.executable, "-m", "tests.fuzz.guided", "--minutes", str(given.minutes), "--only", name]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        inputs = re.findall(r"Done (\d+) runs", ended.stderr)
        verdict = "ok" if ended.returncode == 0 and inputs else "BROKEN"
        print(f"{name:45}{inputs[-1] if inputs else '?':>14} inputs  {verdict}", flush=True)  # noqa: T201
        if verdict != "ok":
            broken += 1
            print(ended.stderr[-4000:], flush=True)  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
