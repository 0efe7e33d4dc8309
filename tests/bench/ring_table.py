"""Print the ring's report as a table: python tests/bench/ring_table.py [NODES ...]."""

import sys
import time

from objstore.ring import report


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] or report.NODE_COUNTS
    titles = [title for title, _ in report.COLUMNS]
    print("| " + " | ".join(titles) + " |")
    print("|" + "---|" * len(titles))
    for shape in report.shapes(counts):
        for row in report.measure_shape(time.process_time, shape):
            print(
                "| " + " | ".join(str(row[key]) for _, key in report.COLUMNS) + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
