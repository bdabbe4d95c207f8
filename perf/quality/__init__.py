"""How good what is trained is, on real data, in files under `perf/results/quality/`."""
