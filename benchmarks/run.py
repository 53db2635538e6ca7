"""Run every benchmark: one line per measurement, each against a plain reference in the same run."""

import bench_lm
import bench_rl
import bench_world

if __name__ == "__main__":
    for benchmark in (bench_world, bench_lm, bench_rl):
        benchmark.main()
