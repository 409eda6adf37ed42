"""Counts what a run of nextest says, beside the failures that are known: score.py OUTPUT KNOWN FILE…

Ends with 1 when a test fails that is not known to, or one that is known to does not. A line of KNOWN is `FILE TEST reason`; with a
reason that begins with "network:", a test that needs the Internet: it may do either."""

import re
import sys

LINE = re.compile(r"^\s*(?:TRY \d+ )?(PASS|FAIL|TIMEOUT|ABORT|SIG\w+|LEAK)\s+\[[^\]]*\]\s+(?:\([^)]*\)\s+)?async-nats::(\S+) (\S+)$")


def main(output, known_file, *files):
    with open(output) as f:
        text = f.read()
    ended = {}
    for line in text.splitlines():
        if found := LINE.match(line):
            ended[found[2], found[3]] = found[1] in ("PASS", "LEAK")
    known = {}
    with open(known_file) as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                file, test, reason = line.split(maxsplit=2)
                known[file, test] = reason.strip()
    wrong = []
    passed_in_all = 0
    print(f"{'tests of async-nats':<28}{'passed':>8}{'of':>6}")
    for file in files:
        tests = [test for test in ended if test[0] == file]
        passed = sum(ended[test] for test in tests)
        passed_in_all += passed
        print(f"{file:<28}{passed:>8}{len(tests):>6}")
        if not tests:
            wrong.append(f"{file}: no test ran")
    print(f"{'all':<28}{passed_in_all:>8}{len(ended):>6}")
    for test, passes in sorted(ended.items()):
        reason = known.get(test)
        if not passes and reason is None:
            wrong.append(f"{' '.join(test)} failed")
        elif not passes:
            print(f"known: {' '.join(test)}: {reason}")
        elif reason is not None and not reason.startswith("network:"):
            wrong.append(f"{' '.join(test)} passes: take it out of {known_file}")
    if wrong:
        print(text, *wrong, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
