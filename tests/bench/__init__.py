"""`make bench`: this project and the published way side by side, on one machine, in one run.

Both fetch the same synthetic slides from a stand-in GDC, which is at most as slow as the real one:
100 ms a request, 2.6 MB/s a connection, 0.2 s more for a Deep Zoom tile. At that rate 100 whole
files of a gigabyte take 11 h, as the published sampler reports. It reports 2 h for their tiles,
which would be 4 s a tile. The comparison with tiles therefore favours the published way.

`python -m tests.bench [PART ...]` prints its results. All parts take 25 minutes, and then it writes
RESULTS.md. `--before DIR` also measures another version's source, by its `.venv` if it has one.
`--quick` takes about two minutes on small slides, and only prints.

Slides are kept in .build/bench-slides. The parts `carrying` and `catalogue` need 27 GB in the
directory of temporary files.
"""
